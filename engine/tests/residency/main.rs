//! SKUs, orders and requests that come into memory and leave it, on the running engine: whatever lies where, every
//! answer is the same; a store that is away, slow or gone back in time; crashes at every step.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../support/mod.rs"]
mod support;

mod crash;
mod hot;
mod model;
#[allow(dead_code, reason = "the state machine's test asks it for more")]
#[path = "../model/naive/mod.rs"]
mod naive;
mod numbers;
mod outages;
#[allow(dead_code, reason = "the state machine's test has a larger world, too")]
#[path = "../model/wishes.rs"]
mod wishes;
