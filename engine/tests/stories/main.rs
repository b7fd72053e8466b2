//! Stories of single orders, told as tables: what is sent, and what is answered.
//!
//! - [`shop`]: the language of the tables and the shard that they are told to.
//! - [`orders`]: each row of the state diagram, repeats, mismatches. [`parts`]: parts of orders. [`late`]: late
//!   payments. [`expiry`]: at, before and after the time; very many at once. [`stock`]: create, change, suspend, best
//!   effort. [`limits`]: the bounds. [`memory`]: what is forgotten and what is not. [`checkpoints`]: what a restart
//!   finds. [`residency`]: SKUs, orders and requests leave memory and come back. [`serials`]: serial numbers.
//!   [`choice`]: lines that may lie in any warehouse.
//! - [`several`]: several shards and the orders over them. [`cross_shard`]: every command on such orders. [`doubt`]:
//!   messages that come late, twice or not at all.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod checkpoints;
mod choice;
mod cross_shard;
mod doubt;
mod expiry;
mod late;
mod limits;
mod memory;
mod orders;
mod parts;
mod residency;
mod serials;
mod several;
mod shop;
mod stock;
#[path = "../model/stored.rs"]
mod stored;
mod stores;
