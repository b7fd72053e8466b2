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
//!   ([`Store::repair`](crate::store::Store::repair)). A version goes to where its shard or journal is, and those are
//!   left alone.
//! - **Redis** is written as callers are told.
//!
//! Journals, orders, requests and shards are never touched: they are what the rest is derived from. A difference
//! between two of them is told with the order and what there is to do.

mod compare;
mod live;
mod mirror;
mod page;
#[cfg(test)]
mod tests;
mod truth;
mod walk;

use std::fmt;
use std::sync::Arc;

use crate::ids::{SkuId, WarehouseId};
use crate::mirror::Mirror;

pub(crate) use self::live::Live;
pub(crate) use self::page::Reconciler;

/// What to look at.
#[derive(Clone, Default)]
pub struct Reconcile {
    /// Begin after this SKU; `None`: with the first.
    pub after: Option<SkuId>,
    /// SKUs to look at, at most [`MAX_PAGE_ROWS`](crate::limits::MAX_PAGE_ROWS).
    pub limit: usize,
    /// Put right what is derived. Without it, the answer is the same but for `repaired`.
    pub fix: bool,
    /// The mirror to compare with, if there is one.
    pub mirror: Option<Arc<dyn Mirror>>,
}

impl fmt::Debug for Reconcile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconcile")
            .field("after", &self.after)
            .field("limit", &self.limit)
            .field("fix", &self.fix)
            .field("mirror", &self.mirror.is_some())
            .finish()
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reconciled {
    /// SKUs looked at, to the end.
    pub skus: u64,
    /// By SKU, then warehouse.
    pub differences: Vec<Difference>,
    /// What was put right.
    pub repaired: Vec<Repair>,
    /// SKUs whose shard could not be compared with the store, because the store is too far behind.
    pub unsettled: Vec<SkuId>,
    /// Why the mirror was not looked at.
    pub mirror_error: Option<String>,
    /// Where to go on; `None`: that was all.
    pub next: Option<GoOn>,
}

/// Where a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoOn {
    /// After this SKU; `None`: at the first, which took longer than a request.
    pub after: Option<SkuId>,
}

/// Two sides that should agree on a stock and don't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which SKU.
    pub sku_id: SkuId,
    /// In which warehouse.
    pub warehouse_id: WarehouseId,
    /// What was compared.
    pub check: Check,
    /// The side that counts, and what it has of what differs, in words.
    pub expected: (Side, String),
    /// The side that differs, and what it has.
    pub found: (Side, String),
    /// What is behind it, as far as it can be told, and what to do where `fix` does nothing.
    pub causes: Vec<String>,
    /// Who can put it right.
    pub remedy: Remedy,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// The row has what its shard has, or its journal, in every column.
    Row,
    /// The SKU is flushed, not parked.
    Parked,
    /// The rows of the journal follow each other without gap and add up, and the last is what the shard has.
    Journal,
    /// What is reserved is held by orders.
    Held,
    /// What is sold was bought by orders.
    Sold,
    /// The orders and stock requests that lines and the journal name have their rows, in the right shard.
    Orders,
    /// Redis shows what callers are told.
    Mirror,
}

impl Check {
    /// Its name, which is part of the HTTP contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Parked => "parked",
            Self::Journal => "journal",
            Self::Held => "held",
            Self::Sold => "sold",
            Self::Orders => "orders",
            Self::Mirror => "mirror",
        }
    }
}

/// Where a stock is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The shard that decides for it.
    Shard,
    /// Its row in SQL.
    Row,
    /// Its journal in SQL.
    Journal,
    /// The lines of orders in SQL.
    Orders,
    /// Redis.
    Mirror,
}

impl Side {
    /// Its name, which is part of the HTTP contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shard => "shard",
            Self::Row => "row",
            Self::Journal => "journal",
            Self::Orders => "orders",
            Self::Mirror => "mirror",
        }
    }
}

/// Who can put a difference right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// `fix`: the row is written as the shard has it.
    RowFromShard,
    /// `fix`: the row is written as its journal says.
    RowFromJournal,
    /// `fix`: Redis is written as callers are told.
    MirrorFromStock,
    /// Somebody who decides which side is right.
    ByHand,
}

impl Remedy {
    /// Its name, which is part of the HTTP contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RowFromShard => "row_from_shard",
            Self::RowFromJournal => "row_from_journal",
            Self::MirrorFromStock => "mirror_from_stock",
            Self::ByHand => "by_hand",
        }
    }
}

/// A stock that was put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Which SKU.
    pub sku_id: SkuId,
    /// In which warehouse.
    pub warehouse_id: WarehouseId,
    /// Where.
    pub side: Side,
    /// As it was, in words.
    pub before: String,
    /// As it is.
    pub after: String,
}
