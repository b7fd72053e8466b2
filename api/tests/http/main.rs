//! Black-box tests: a real server on a real socket over the real engine; only the disk is in memory.

#![allow(clippy::unwrap_used, reason = "all of it is test code, also what has no #[test] above it")]

mod admin;
mod batch;
mod codes;
mod connections;
mod list;
mod operators;
mod orders;
mod stock;
mod support;
