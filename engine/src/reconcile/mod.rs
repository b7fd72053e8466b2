//! Reconcile: counts every stock in several ways and tells where they differ, with the order, event or anomaly behind it; on
//! demand it puts right what is derived.
//!
//! ```text
//!   shard ──same version──┐                        ┌── row: levels, version, what was supplied
//!                         ├── the stock's journal ──┤
//!   itself: without gap ──┘        in SQL           └── orders: what they hold, what they bought
//!                                    │
//!   Redis ── the levels that callers are told
//! ```
//!
//! The journal in SQL is the middle: every change of every stock has one row there, hot or cold, so that one version of a stock can be
//! compared however fast it changes. Orders go on meanwhile. What is late is no difference: a journal that lacks what a
//! shard logged is looked at again after the flush, a mirror that is behind some milliseconds later, and what was found is looked at a
//! second time before it is told.
//!
//! What `fix` does, and only that:
//!
//! - **rows** of stocks that are not what their journal sums up to are written as it sums up, if the journal is sound in itself
//!   ([`Store::repair`](crate::store::Store::repair)): of a cold stock with a journal row of the kind `repaired`, of a hot one with an
//!   anomaly of that kind, because the versions of a hot stock are its shard's;
//! - **Redis** is written as callers are told.
//!
//! The journal's past, orders and shards are never touched: they are what the rest is derived from. A difference between two of them is
//! told, for somebody to decide.

mod cause;
mod compare;
mod live;
mod look;

use std::fmt;
use std::sync::Arc;

use crate::command::StockStatus;
use crate::ids::{OrderNo, SkuId, WarehouseId};
use crate::mirror::{Mirror, Mirrored};
use crate::outcome::{Levels, StockView};
use crate::store::Anomaly;

pub use self::look::{Live, reconcile};

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
    /// SKUs looked at.
    pub skus: u64,
    /// By SKU, then warehouse.
    pub differences: Vec<Difference>,
    /// What was put right.
    pub repaired: Vec<Repair>,
    /// Hot SKUs whose last changes the store does not have yet, and has not got within the time that reconcile waits.
    pub unsettled: Vec<SkuId>,
    /// Why the mirror was not looked at.
    pub mirror_error: Option<String>,
    /// Go on after this SKU; `None`: that was all.
    pub next: Option<SkuId>,
}

/// Two sides that should agree on a stock and don't.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Which SKU.
    pub sku_id: SkuId,
    /// In which warehouse.
    pub warehouse_id: WarehouseId,
    /// What was compared.
    pub check: Check,
    /// The side that counts.
    pub expected: (Side, Value),
    /// The side that differs.
    pub found: (Side, Value),
    /// What is behind it, as far as it can be told.
    pub causes: Vec<Cause>,
    /// Who can put it right.
    pub remedy: Remedy,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// The versions in the journal go from 1 without gap.
    JournalGap,
    /// The levels in its last row are the sum of its rows.
    JournalSum,
    /// The row has the levels and the version of its journal.
    Row,
    /// The row's levels add up to what was supplied.
    Supplied,
    /// What is reserved is held by orders.
    Held,
    /// What is sold was bought by orders.
    Sold,
    /// A shard's stock has the levels that the journal has at its version; and the row its status.
    Shard,
    /// Redis shows what callers are told.
    Mirror,
}

impl Check {
    /// Its name, which is part of the HTTP contract.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::JournalGap => "journal_gap",
            Self::JournalSum => "journal_sum",
            Self::Row => "row",
            Self::Supplied => "supplied",
            Self::Held => "held",
            Self::Sold => "sold",
            Self::Shard => "shard",
            Self::Mirror => "mirror",
        }
    }
}

/// Where a stock is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The shard that decides for it, as its durable view.
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

/// What a side has.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Levels.
    Levels(Levels),
    /// Levels and status.
    Stock(Levels, StockStatus),
    /// Sums of deltas: available, reserved, sold.
    Sums([i64; 3]),
    /// Units.
    Units(u64),
    /// Rows of the journal, or the highest version in it.
    Count(u64),
    /// What Redis shows.
    Shown(Mirrored),
    /// Nothing is there.
    Missing,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = |f: &mut fmt::Formatter<'_>, levels: &Levels| {
            let Levels { available, reserved, sold, version } = levels;
            write!(f, "available {available}, reserved {reserved}, sold {sold}, version {version}")
        };
        let status = |status: &StockStatus| match status {
            StockStatus::OnSale => "on sale",
            StockStatus::Suspended => "suspended",
        };
        match self {
            Self::Levels(of) => levels(f, of),
            Self::Stock(of, on) => {
                levels(f, of)?;
                write!(f, ", {}", status(on))
            }
            Self::Sums([available, reserved, sold]) => {
                write!(f, "available {available}, reserved {reserved}, sold {sold}")
            }
            Self::Units(units) => write!(f, "{units} units"),
            Self::Count(count) => count.fmt(f),
            Self::Shown(Mirrored { available, levels: all, version }) => {
                match available {
                    Some(available) => write!(f, "plain {available}; ")?,
                    None => f.write_str("plain missing; ")?,
                }
                match (all, version) {
                    (Some((of, on)), _) => {
                        levels(f, of)?;
                        write!(f, ", {}", status(on))
                    }
                    (None, Some(version)) => write!(f, "levels broken, version {version}"),
                    (None, None) => f.write_str("levels missing"),
                }
            }
            Self::Missing => f.write_str("missing"),
        }
    }
}

/// What is behind a difference.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// The journal has no row of this version.
    NoVersion(u64),
    /// From this version on the journal's levels are not what its rows sum up to.
    Parts(u64),
    /// The row is as the stock was at this version: what came later is missing in it.
    Behind(u64),
    /// What an order holds or bought is not what the journal says of it.
    Order {
        /// Which.
        order_no: OrderNo,
        /// Units that its line has, and units that it moved in the journal.
        line: u64,
        /// See `line`.
        journal: i64,
    },
    /// This was recorded when a shard was flushed.
    Anomaly(Anomaly),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVersion(version) => write!(f, "the journal has no version {version}"),
            Self::Parts(version) => write!(f, "the journal does not add up from version {version} on"),
            Self::Behind(version) => write!(f, "the row is as the stock was at version {version}"),
            Self::Order { order_no, line, journal } => {
                write!(f, "order {order_no} has {line} units in its line and {journal} in the journal")
            }
            Self::Anomaly(Anomaly { kind, detail, order_no, .. }) => match order_no {
                Some(order_no) => write!(f, "anomaly {kind}, order {order_no}: {detail}"),
                None => write!(f, "anomaly {kind}: {detail}"),
            },
        }
    }
}

/// Who can put a difference right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// `fix`: the row is written as the journal sums up.
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
            Self::RowFromJournal => "row_from_journal",
            Self::MirrorFromStock => "mirror_from_stock",
            Self::ByHand => "by_hand",
        }
    }
}

/// A stock that was put right.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Which SKU.
    pub sku_id: SkuId,
    /// In which warehouse.
    pub warehouse_id: WarehouseId,
    /// Where.
    pub side: Side,
    /// As it was.
    pub before: Value,
    /// As it is.
    pub after: Value,
}

/// A stock as its name.
type Key = (SkuId, WarehouseId);

fn key_of(stock: &StockView) -> Key {
    (stock.sku_id.clone(), stock.warehouse_id)
}
