//! Orders over several shards, over HTTP: killed at every step of the protocol they recover to the decision that was
//! logged, and a thousand large carts that fight for the same SKUs all come to an end.
//!
//! - [`fixture`]: a server whose SKUs lie in different shards, and what must be true of it in the end. [`kills`]: the
//!   steps. [`carts`]: the fight.
//!
//! `HOTSTOCK_KILLS=50 cargo nextest run --test cross_shard` kills fifty times at each step instead of three times.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod carts;
mod fixture;
mod kills;
#[path = "../support/mod.rs"]
mod support;
