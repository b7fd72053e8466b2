//! Reconcile: counts every stock in several ways and tells where they differ, with the order or anomaly behind it; on
//! demand it puts right what is derived.
//!
//! ```text
//!   shard, as it was at the watermark ── row: levels, version, supplied, initial, status, hot, numbered
//!        │ (of a SKU that is not in                │
//!        ▼  memory its journal stands for it)      ▼
//!   newest row of the stock's journal ── the journal from its first row on ── lines of orders: held, net sold
//!        │                                                   └ the rows of the orders and requests named ┘
//!   Redis ── what callers are told
//! ```
//!
//! Orders go on meanwhile, and what changes meanwhile is no difference, because both sides of each comparison are of
//! one moment:
//!
//! - [`truth`]: a shard is ahead of the store. What it has is brought back to the watermark with which the rows were
//!   read, by the events since, which are in its journal. Nothing waits for the flush.
//! - [`walk`]: a journal and the lines of orders are too long for one query. They are read in pieces; what the
//!   journal tells of orders whose lines were read before is added to their sums. So the sums are those of the last
//!   piece, however long it took.
//! - [`mirror`]: Redis is some milliseconds behind: what it shows must have been told at some time since the look
//!   before.
//!
//! A request does as much as fits into its time, and tells where to go on; a walk that it could not finish is kept
//! for the next one.
//!
//! What `fix` does, and only that:
//!
//! - **rows** that are not what their shard has are written as it had them at the watermark; those of a SKU that is
//!   not in memory as their journal says, if that is sound. This ends the parking of the SKU
//!   ([`Store::repair`](crate::contract::store::Store::repair)). A version goes to where its shard or journal is, and
//!   those are left alone.
//! - **Redis** is written as callers are told.
//!
//! Journals, orders, requests and shards are never touched: they are what the rest is derived from. A difference
//! between two of them is told with the order and what there is to do.

mod compare;
mod live;
mod mirror;
mod page;
mod report;
#[cfg(test)]
mod tests;
mod truth;
mod walk;

pub(crate) use live::Live;
pub(crate) use page::Reconciler;
pub use report::{Check, Difference, GoOn, Reconcile, Reconciled, Remedy, Repair, Side};
