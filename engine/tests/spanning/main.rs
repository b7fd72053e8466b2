//! Orders over several places on the running engine: the same as in one place, whatever moves, fails or stops in the middle.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../placement/house.rs"]
mod house;

mod choice;
mod crash;
mod fights;
mod leftovers;
mod same;
mod shop;
