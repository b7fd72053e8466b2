//! Who may write: an old server that comes back, copies of a data directory, a store that was restored or lost its last
//! seconds, a start without the store, a server that is taken over. In each case a ledger of what clients were told is
//! compared in the end with the server that serves and with the rows of MariaDB: what was sold is there once, and what
//! a fenced server answered and never flushed is what it lists.
//!
//! - [`fixture`]: a MariaDB, servers on it, the ledger. [`directories`]: copies and comebacks. [`stores`]: what becomes
//!   of the store. [`take_over`]: servers that are given up while they live. [`proxy`]: a line to the store that can be
//!   cut.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod directories;
mod fixture;
mod proxy;
mod stores;
#[path = "../support/mod.rs"]
mod support;
mod take_over;
