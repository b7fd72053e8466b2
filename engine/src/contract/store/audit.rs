//! What the store says of its rows when they are counted against each other, and how they are put right.

use std::collections::BTreeSet;

use super::JournalRow;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use crate::contract::image::StockImage;
use crate::contract::units::Levels;

/// See [`Store::books`](super::Store::books).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Books {
    /// By SKU, then warehouse.
    pub stocks: Vec<StockBooks>,
    /// Stocks that have a journal and no row: somebody deleted it.
    pub without_row: BTreeSet<(SkuId, WarehouseId)>,
}

/// A stock of the store, with what can be compared with it cheaply.
#[derive(Debug, Clone, PartialEq)]
pub struct StockBooks {
    /// The row, whole; `forgotten_sold` is `sold`.
    pub row: StockImage,
    /// Why it can't be read; what can't be is 0 in `row` then.
    pub unreadable: Option<String>,
    /// Why the SKU is parked, if it is.
    pub parked: Option<String>,
    /// The newest row of its journal.
    pub newest: Option<JournalRow>,
    /// Sums of what was pruned.
    pub pruned: PrunedSums,
}

/// Sums in a stock row of what was pruned of its orders and its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrunedSums {
    /// Net units sold by orders that are gone.
    pub sold: u64,
    /// The version of the last journal row that is gone; those after it are all there.
    pub version: u64,
    /// The sums of the deltas of those that are gone: available, reserved, sold.
    pub deltas: [i64; 3],
}

/// Where to go on with [`Store::sums`](super::Store::sums).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SumsCursor {
    /// Lines of orders after this one.
    pub order_no: Option<OrderNo>,
    /// Rows of the journal after this version.
    pub version: u64,
}

/// See [`Store::sums`](super::Store::sums).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums {
    /// The lines: order, held, confirmed less returned.
    pub lines: Vec<(OrderNo, u64, u64)>,
    /// The rows of the journal.
    pub journal: Vec<JournalRow>,
    /// Sums of what was pruned by then; of a stock without a row what its journal must begin with.
    pub pruned: PrunedSums,
    /// What these lines and rows name and is not as it should be; some of it, if it is much.
    pub misfits: BTreeSet<Misfit>,
}

/// What lines of orders and rows of a journal name, and what is not there itself, or elsewhere; nothing that was
/// pruned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// An order without a row of its own.
    NoOrder(OrderNo),
    /// A stock request without one.
    NoRequest(RequestId),
    /// An order whose row names another shard than the one that it lies in.
    OtherShard {
        /// Which.
        order_no: OrderNo,
        /// Where it lies.
        right: ShardId,
        /// What its row says.
        found: String,
    },
    /// An order whose rows contradict each other: its status, or whether it is open, is not what its phase and its
    /// lines make of it; or that can't be read.
    Contradiction {
        /// Which.
        order_no: OrderNo,
        /// What is wrong.
        problem: String,
    },
    /// An order that another shard decides, and that has told its participants everything, says something else of the
    /// stock than the rows of what is held for it.
    OtherHold {
        /// Which.
        order_no: OrderNo,
        /// What its lines say, or why they can't tell.
        order: String,
        /// What is held for it.
        held: String,
    },
    /// A row of what is held for an order that another shard decides can't be read.
    UnreadableHold {
        /// What names it, as far as that can be read.
        row: String,
        /// Why: the column first.
        problem: String,
    },
}

/// Units of a stock that an order holds, and has sold less what came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Units {
    /// Held.
    pub held: i64,
    /// Sold.
    pub sold: i64,
}

impl std::fmt::Display for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} held, {} sold", self.held, self.sold)
    }
}

/// See [`Store::repair`](super::Store::repair).
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// The epoch of the server.
    pub epoch: Epoch,
    /// Which.
    pub sku_id: SkuId,
    /// Its stocks as its shard had them at the watermark of the store; `None`: it is not in memory.
    pub stocks: Option<Vec<StockImage>>,
    /// When.
    pub at: Timestamp,
}

/// See [`Store::repair`](super::Store::repair).
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// Where.
    pub warehouse_id: WarehouseId,
    /// As it was; `None`: there was no row.
    pub before: Option<Levels>,
    /// As it is.
    pub after: Levels,
}

/// A SKU whose stock rows are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Which.
    pub sku_id: SkuId,
    /// Since when.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: String,
}

/// A conflict between the journal of a shard and the store, recorded when it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Anomaly {
    /// When it was found.
    pub at: Timestamp,
    /// What kind: `stock_changed`, `order_exists`, `order_missing`, `repaired`, …
    pub kind: String,
    /// The event.
    pub source: Option<(ShardId, Lsn)>,
    /// The order, if it is about one.
    pub order_no: Option<OrderNo>,
    /// The SKU, if it is about one.
    pub sku_id: Option<SkuId>,
    /// In words.
    pub detail: String,
}
