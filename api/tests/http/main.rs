//! Black-box tests: a real server on a real socket over the real engine; only the disk is in memory.

mod batch;
mod codes;
mod connections;
mod operators;
mod orders;
mod stock;
mod support;
