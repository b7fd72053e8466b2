//! The HTTP face of hotstock. Knows the engine's face and nothing of how stock is kept.
//!
//! Read in this order:
//!
//! 1. [`limits`], [`codes`]: the bounds, and the closed table of error codes.
//! 2. `routes`: the table of routes and the way of every request; `app`: what a request has at hand.
//! 3. `orders`, `stock`, `batch`, `admin`, `health`: the requests, by subject; `auth`: who may ask what operators ask.
//! 4. `wire`: the JSON; `body`: reading it; `problem`: the one mapping of refusals to codes.
//! 5. [`server`]: connections and how they end.
//! 6. `metrics`, `openapi`, `trace`: what is counted, described, and passed on.

mod admin;
mod app;
pub mod auth;
mod batch;
mod body;
pub mod codes;
mod health;
pub mod limits;
mod metrics;
pub mod openapi;
mod orders;
mod problem;
mod routes;
pub mod server;
mod stock;
mod trace;
mod wire;

pub use limits::Options;
pub use server::{Server, Stopped, serve};
