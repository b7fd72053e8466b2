//! Orders over several shards on the running engine: the same as in one, whatever leaves memory, fails or stops in
//! the middle.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../support/mod.rs"]
mod support;

mod choice;
mod crash;
mod cut_off;
mod fights;
mod leftovers;
mod same;
mod shop;
