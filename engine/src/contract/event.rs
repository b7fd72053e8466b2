//! What is logged: one event per change, with the levels after it, so that a replay that computes another level is
//! found at once. Refusals and repeats are not logged.

mod holds;

use smallvec::SmallVec;

use super::hold::{HoldMove, HoldPurpose};
use super::order::{LineCounts, OrderRequest};
use crate::base::clock::Timestamp;
use crate::base::ids::{
    AttemptId, BuyerId, Epoch, Lsn, OrderNo, Reason, RequestId, ShardId, SkuId, TraceId, WarehouseId,
};
use crate::contract::command::{ChangeKind, Mode, StockStatus, change_fingerprint};
use crate::contract::image::{LineSerials, OrderImage, RequestImage, Span, StockImage};
use crate::contract::order::{OrderStatus, Phase};
use crate::contract::units::{Levels, Serials};

pub use holds::{HeldLine, HoldMovedLine};

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
            Change::Confirmed { lines, after, .. } => lines.len() + after.weight(),
            Change::Released { lines, after, .. }
            | Change::Expired { lines, after, .. }
            | Change::Returned { lines, after, .. } => lines.len() + after.weight(),
            Change::StatusChanged { warehouses, .. } => warehouses.len(),
            Change::Forgotten { sold, .. } => sold.len(),
            Change::StockCreated { .. }
            | Change::StockChanged { .. }
            | Change::Cancelled { .. }
            | Change::Extended { .. }
            | Change::Started { .. } => 1,
            Change::Loaded { stocks, .. } => 3 * stocks.len(),
            Change::OrdersLoaded { orders, requests } => {
                orders.iter().map(OrderImage::weight).sum::<usize>() + 3 * requests.len()
            }
            Change::Evicted { orders, sold, .. } => 1 + orders.len() + sold.len(),
            Change::Pinned { skus, .. } => skus.len(),
            Change::Acknowledged { orders } => {
                orders.iter().map(|order| 1 + order.after.weight() + order.serials.len()).sum()
            }
            Change::Held { lines, .. } => lines.len(),
            Change::HoldChanged { lines, .. } => 1 + lines.len(),
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
        /// Its confirmed units get serial numbers.
        serialized: bool,
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
        /// Where, and the levels after it, of which only the version is new.
        warehouses: Vec<(WarehouseId, Levels)>,
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
        /// Of an order whose warehouses were chosen: what was asked
        /// ([`Reserve::asked`](crate::contract::command::Reserve::asked)).
        asked: Option<u64>,
        /// Of an order over several shards: the attempt whose holds have the units that lie in other shards.
        attempt: Option<AttemptId>,
        /// Every line, also those of `best_effort` that got nothing.
        lines: SmallVec<[ReservedLine; 1]>,
    },
    /// Held units were sold.
    Confirmed {
        /// The order.
        order_no: OrderNo,
        /// The partial request that this answers, if it was one.
        request: Option<OrderRequest>,
        /// Of a late payment of an order over several shards: the attempt whose holds have the units.
        attempt: Option<AttemptId>,
        /// The lines that changed.
        lines: SmallVec<[ConfirmedLine; 1]>,
        /// The order after it.
        after: OrderAfter,
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
        /// The order after it.
        after: OrderAfter,
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
        /// The order after it.
        after: OrderAfter,
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
        /// Of an order over several shards: the attempt whose holds wait for the units.
        attempt: Option<AttemptId>,
        /// The lines that changed.
        lines: SmallVec<[MovedLine; 1]>,
        /// The order after it.
        after: OrderAfter,
    },
    /// Ended orders and request ids whose last change is at or before `through` are remembered no longer.
    Forgotten {
        /// The last change up to which they go.
        through: Lsn,
        /// Stocks with sold units of those orders, with all units sold by forgotten orders so far.
        sold: Vec<ForgottenSold>,
    },
    /// A stored SKU is in memory from here on, with all its warehouses, as the store has it. It was not here before.
    Loaded {
        /// What.
        sku_id: SkuId,
        /// Its stocks, one per warehouse (1 to
        /// [`MAX_WAREHOUSES_PER_SKU`](crate::base::limits::MAX_WAREHOUSES_PER_SKU)). Everything that they sold was sold
        /// by orders that are not here: `forgotten_sold` is `sold`.
        stocks: Vec<StockImage>,
    },
    /// Ended orders that had left memory, and stock requests, are here again. All SKUs of the orders' lines are here.
    OrdersLoaded {
        /// Their net sold units leave `forgotten_sold` of their stocks. None of them holds units.
        orders: Vec<OrderImage>,
        /// Stock requests.
        requests: Vec<RequestImage>,
    },
    /// A SKU leaves memory, with the ended orders that lie on it and its stock requests; the store has all of it.
    Evicted {
        /// What.
        sku_id: SkuId,
        /// The last change of anything that leaves.
        through: Lsn,
        /// The orders, which hold nothing.
        orders: Vec<OrderNo>,
        /// Stocks of other SKUs with sold units of those orders, with all units sold by forgotten orders so far.
        sold: Vec<ForgottenSold>,
    },
    /// SKUs are kept in memory from here on, or no longer.
    Pinned {
        /// Which; all of them are in memory.
        skus: Vec<SkuId>,
        /// Kept.
        hot: bool,
    },
    /// A server began to serve; everything after it was logged in this epoch. It makes the chain of hashes of every
    /// start its own.
    Started {
        /// The epoch that the server took.
        epoch: Epoch,
    },
    /// Participants have carried out what was decided of orders over several shards, and have it durably.
    Acknowledged {
        /// Orders, each as it is after all that is said of it here.
        orders: Vec<Acknowledged>,
    },
    /// This shard holds units of its stocks for an order that another shard decides: it is a participant.
    Held {
        /// The order.
        order_no: OrderNo,
        /// The coordinator's attempt to hold them.
        attempt: AttemptId,
        /// The shard that decides.
        coordinator: ShardId,
        /// For what.
        purpose: HoldPurpose,
        /// Each stock once.
        lines: SmallVec<[HeldLine; 1]>,
    },
    /// A participant carried out what the coordinator of a hold decided.
    HoldChanged {
        /// The order.
        order_no: OrderNo,
        /// The attempt that made the hold.
        attempt: AttemptId,
        /// The last decision that is carried out.
        seq: u32,
        /// What happens to the units.
        kind: HoldMove,
        /// Why, in the caller's words.
        reason: Option<Reason>,
        /// Its lines that change.
        lines: SmallVec<[HoldMovedLine; 1]>,
        /// There is no more to it.
        is_over: bool,
    },
}

/// An order in [`Change::Acknowledged`].
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledged {
    /// Which.
    pub order_no: OrderNo,
    /// Serial numbers that its lines have got.
    pub serials: Vec<LineSerials>,
    /// The order after it.
    pub after: OrderAfter,
}

impl Event {
    /// The stock request that the event, logged at `lsn`, answers, as it is remembered.
    #[must_use]
    pub fn stock_request(&self, lsn: Lsn) -> Option<RequestImage> {
        let Change::StockChanged { sku_id, warehouse_id, kind, delta, request_id, after, .. } = &self.change
        else {
            return None;
        };
        let quantity = if *kind == ChangeKind::Deduct { -delta } else { *delta };
        Some(RequestImage {
            sku_id: sku_id.clone(),
            request_id: request_id.clone(),
            warehouse_id: *warehouse_id,
            fingerprint: change_fingerprint(*kind, *warehouse_id, quantity),
            after: *after,
            at: self.at,
            lsn,
        })
    }
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
    /// The levels after. (Of a line that holds nothing: the levels as they are.) `None`: its stock is in another
    /// shard.
    pub after: Option<Levels>,
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
    /// The levels after. `None`: its stock is in another shard, which gives it its serial numbers too.
    pub after: Option<Levels>,
    /// The counts of the line after.
    pub counts: LineCounts,
    /// Of a SKU that numbers its units: the first of the `held + late` serial numbers.
    pub serial: Option<u64>,
}

impl ConfirmedLine {
    /// The serial numbers that its units get.
    #[must_use]
    pub fn serials(&self) -> Option<Serials> {
        let from = self.serial?;
        let units = u64::from(self.held) + u64::from(self.late);
        Some(Serials { from, to: from.saturating_add(units).saturating_sub(1) })
    }
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
    /// Units moved to available. 0: only the counts of the line changed, because the order ended with this event.
    /// (Given back part by part until nothing was left, all of it can be taken again by a late payment.)
    pub quantity: u32,
    /// The levels after; of a line that moves nothing, the levels as they are. `None`: its stock is in another shard.
    pub after: Option<Levels>,
    /// The counts of the line after.
    pub counts: LineCounts,
}

/// An order after an event, as far as the lines that changed don't tell.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderAfter {
    /// How the units that it did not confirm went back last.
    pub phase: Phase,
    /// Where it stands.
    pub status: OrderStatus,
    /// It still holds units (the status alone does not tell of one that is confirmed or returned in part), or
    /// participants may not know what was decided.
    pub open: bool,
    /// Partial requests that it has answered, this one included.
    pub requests: u32,
    /// Ranges of serial numbers that its lines have got.
    pub serials: u32,
    /// Of an order over several shards: what its coordinator keeps of it beside the counts.
    pub span: Option<Box<Span>>,
}

impl OrderAfter {
    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        self.span.as_ref().map_or(0, |span| span.weight())
    }
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
