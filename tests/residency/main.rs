//! SKUs, orders and requests leave memory and come back: killed at every logged step of it nothing is lost or done
//! twice, and a number stays the number of one order for good, whatever is asked, wherever it lies by then.
//!
//! - [`kills`]: load, evict, forget, flush, checkpoint and prune, each cut short. [`numbers`]: order numbers and
//!   request ids used again.
//!
//! `HOTSTOCK_KILLS=10 cargo nextest run --test residency` kills at the first ten times that each step is reached.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod kills;
mod numbers;
#[path = "../support/mod.rs"]
mod support;
