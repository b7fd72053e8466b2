//! The engine with a store: cold and hot SKUs, moves between them under load, crashes at every step of a move, the store away.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../support/mod.rs"]
mod support;

mod cold;
mod crash;
mod house;
mod list;
mod model;
mod moves;
#[allow(dead_code, reason = "the state machine's test asks it for more")]
#[path = "../model/naive/mod.rs"]
mod naive;
mod outages;
#[allow(dead_code, reason = "the state machine's test has a larger world, too")]
#[path = "../model/wishes.rs"]
mod wishes;
