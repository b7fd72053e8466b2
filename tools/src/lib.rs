//! The tools that try hotstock out from outside, as a shop would use it: `hotstock replay`, `demo` and `bench`.
//!
//! Read in this order:
//!
//! 1. [`failure`], [`terminal`]: how a tool fails, and what it prints.
//! 2. [`host`]: what a tool asks of the program that it is a part of, which can start servers.
//! 3. [`client`]: the HTTP client, made for load. [`wire`]: the JSON that goes over it.
//! 4. [`replay`]: a file of real orders, then an audit of every unit and order. [`demo`]: a flash sale with a kill in
//!    its middle. [`bench`](mod@bench): throughput and latency.
//!
//! No server depends on this crate: it knows the HTTP contract and, for what runs in the same process, the engine.

pub mod bench;
pub mod client;
pub mod demo;
pub mod failure;
pub mod host;
pub mod replay;
pub mod terminal;
pub mod wire;

pub use failure::Failure;
