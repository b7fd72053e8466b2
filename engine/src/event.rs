//! What is logged: one event per change, with the levels after it, so that a replay that computes another level is
//! found at once. Refusals and repeats are not logged.

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::command::{ChangeKind, Mode, StockStatus};
use crate::ids::{BuyerId, Lsn, OrderNo, Reason, RequestId, SkuId, TraceId, WarehouseId};
use crate::outcome::Levels;

/// One entry of the journal of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The logged time: never steps back within a shard.
    pub at: Timestamp,
    /// The trace of the caller whose command caused it.
    pub trace: Option<TraceId>,
    /// What changed.
    pub change: Change,
}

impl Event {
    /// A rough size in bytes, for the bounds of queues.
    #[must_use]
    pub fn weight(&self) -> u64 {
        rough_bytes(match &self.change {
            Change::Reserved { lines, .. } => lines.len(),
            Change::Confirmed { lines, .. } => lines.len(),
            Change::Released { lines, .. } | Change::Expired { lines, .. } | Change::Returned { lines, .. } => {
                lines.len()
            }
            Change::StatusChanged { warehouses, .. } => warehouses.len(),
            Change::Forgotten { sold, .. } => sold.len(),
            Change::StockCreated { .. }
            | Change::StockChanged { .. }
            | Change::Cancelled { .. }
            | Change::Extended { .. } => 1,
        })
    }
}

/// The size of an event with this many lines, give or take a half.
pub(crate) fn rough_bytes(lines: usize) -> u64 {
    64 + 48 * lines as u64
}

/// The changes that events tell of.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A stock was created.
    StockCreated {
        /// What.
        sku_id: SkuId,
        /// Where.
        warehouse_id: WarehouseId,
        /// Its first quantity.
        quantity: u64,
    },
    /// Units came or went other than by an order.
    StockChanged {
        /// What.
        sku_id: SkuId,
        /// Where.
        warehouse_id: WarehouseId,
        /// How it was meant.
        kind: ChangeKind,
        /// Units added to available (negative: taken).
        delta: i64,
        /// The caller's id of the change.
        request_id: RequestId,
        /// Why.
        reason: Option<Reason>,
        /// The levels after.
        after: Levels,
    },
    /// New reservations are taken, or not.
    StatusChanged {
        /// What.
        sku_id: SkuId,
        /// Where, and the version of the stock after it.
        warehouses: Vec<(WarehouseId, u64)>,
        /// The status from now on.
        status: StockStatus,
    },
    /// An order holds units.
    Reserved {
        /// The order.
        order_no: OrderNo,
        /// Who buys.
        buyer_id: Option<BuyerId>,
        /// As it was asked.
        mode: Mode,
        /// It expires this long after [`Event::at`].
        ttl_seconds: u32,
        /// Every line, also those of `best_effort` that got nothing.
        lines: SmallVec<[ReservedLine; 1]>,
    },
    /// Held units were sold.
    Confirmed {
        /// The order.
        order_no: OrderNo,
        /// The partial request that this answers, if it was one.
        request: Option<OrderRequest>,
        /// The lines that changed.
        lines: SmallVec<[ConfirmedLine; 1]>,
    },
    /// Held units were given back by the caller.
    Released {
        /// The order.
        order_no: OrderNo,
        /// The partial request that this answers; `None`: all that was held.
        request: Option<OrderRequest>,
        /// Why.
        reason: Option<Reason>,
        /// The lines that changed.
        lines: SmallVec<[MovedLine; 1]>,
    },
    /// An order was released before it was reserved.
    Cancelled {
        /// The order.
        order_no: OrderNo,
        /// Why.
        reason: Option<Reason>,
    },
    /// Held units were given back because the order's time was over.
    Expired {
        /// The order.
        order_no: OrderNo,
        /// The lines that changed.
        lines: SmallVec<[MovedLine; 1]>,
    },
    /// The expiry was moved.
    Extended {
        /// The order.
        order_no: OrderNo,
        /// It expires this long after [`Event::at`].
        ttl_seconds: u32,
    },
    /// Sold units came back.
    Returned {
        /// The order.
        order_no: OrderNo,
        /// The request that this answers.
        request: OrderRequest,
        /// The lines that changed.
        lines: SmallVec<[MovedLine; 1]>,
    },
    /// Ended orders and request ids whose last change is at or before `through` are remembered no longer.
    Forgotten {
        /// The last change up to which they go.
        through: Lsn,
        /// Stocks with sold units of those orders, with all units sold by forgotten orders so far.
        sold: Vec<ForgottenSold>,
    },
}

/// A line of [`Change::Reserved`].
#[derive(Debug, Clone, PartialEq)]
pub struct ReservedLine {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub quantity: u32,
    /// Units that it holds: available → reserved.
    pub held: u32,
    /// The levels after. (Of a line that holds nothing: the levels as they are.)
    pub after: Levels,
}

/// A line of [`Change::Confirmed`].
#[derive(Debug, Clone, PartialEq)]
pub struct ConfirmedLine {
    /// The place of the line in its order.
    pub line: u16,
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units from the hold: reserved → sold.
    pub held: u32,
    /// Units whose hold had ended, taken again: available → sold (a late payment).
    pub late: u32,
    /// The levels after.
    pub after: Levels,
}

/// A line of a release, an expiry or a return.
#[derive(Debug, Clone, PartialEq)]
pub struct MovedLine {
    /// The place of the line in its order.
    pub line: u16,
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units moved to available.
    pub quantity: u32,
    /// The levels after.
    pub after: Levels,
}

/// The identity of a partial request within its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRequest {
    /// The caller's id; without one, the content is the identity.
    pub request_id: Option<RequestId>,
    /// The content: what was asked and the lines.
    pub fingerprint: u64,
}

/// A stock in [`Change::Forgotten`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgottenSold {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units sold (and not returned) by all orders forgotten so far.
    pub total: u64,
}
