//! What reconcile is asked to look at, and what it tells.

use std::fmt;
use std::sync::Arc;

use crate::base::ids::{SkuId, WarehouseId};
use crate::contract::mirror::Mirror;

/// What to look at.
#[derive(Clone, Default)]
pub struct Reconcile {
    /// Begin after this SKU; `None`: with the first.
    pub after: Option<SkuId>,
    /// SKUs to look at, at most [`MAX_PAGE_ROWS`](crate::base::limits::MAX_PAGE_ROWS).
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
    /// The orders and stock requests that lines and the journal name have their rows, in the right shard, and what is
    /// held for an order that another shard decides is what that order says.
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
