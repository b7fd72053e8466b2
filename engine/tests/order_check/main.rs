//! Orders whose time is over, with an order service that is asked before their units go back.
//!
//! - [`service`]: a service that says what a test tells it to. [`hot`]: what each answer does, and none; what comes
//!   meanwhile; crashes. [`elsewhere`]: orders in the store, and orders over several places.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
#[path = "../support/mod.rs"]
mod support;

mod elsewhere;
mod hot;
mod service;
