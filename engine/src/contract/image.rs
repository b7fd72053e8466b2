//! Images: stocks, orders, remembered requests and holds as they are written down, in checkpoints, in events that bring
//! them back into memory, and for the store.

use super::order::Phase;
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, BuyerId, Lsn, OrderNo, Reason, RequestId, ShardId, SkuId, WarehouseId};
use crate::contract::command::{Mode, StockStatus};
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::order::{OrderRequest, OrderStatus};
use crate::contract::outcome::{LineView, OrderView};
use crate::contract::units::{Levels, Serials};

/// One entry of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Image {
    /// A stock.
    Stock(StockImage),
    /// An order.
    Order(OrderImage),
    /// A remembered stock request.
    Request(RequestImage),
    /// What a participant holds for an order that another shard decides.
    Hold(HoldImage),
}

/// A stock in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct StockImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How much.
    pub levels: Levels,
    /// Whether new reservations are taken.
    pub status: StockStatus,
    /// The quantity that it was created with.
    pub initial: u64,
    /// Everything that came less everything that left other than by orders.
    pub supplied: u64,
    /// Units sold (and not returned) by orders that are forgotten.
    pub forgotten_sold: u64,
    /// Its last change.
    pub lsn: Lsn,
    /// Kept in memory until it is demoted. The same for all stocks of a SKU.
    pub hot: bool,
    /// Serial numbers given so far here; `None`: its units get none. The next one is one above the sum over all
    /// warehouses of the SKU.
    pub numbered: Option<u64>,
}

/// An order in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderImage {
    /// The caller's number.
    pub order_no: OrderNo,
    /// Who buys.
    pub buyer_id: Option<BuyerId>,
    /// As it was asked.
    pub mode: Mode,
    /// How it ended, or that it did not.
    pub phase: Phase,
    /// When it was reserved or cancelled.
    pub created_at: Timestamp,
    /// When what it holds expires.
    pub expires_at: Timestamp,
    /// When it last changed.
    pub changed_at: Timestamp,
    /// Its last change.
    pub lsn: Lsn,
    /// Its lines; none for a cancelled one.
    pub lines: Vec<LineImage>,
    /// The partial requests that it answered.
    pub requests: Vec<OrderRequest>,
    /// The serial numbers that its lines got, as they came.
    pub serials: Vec<LineSerials>,
    /// Of an order over several shards: what its coordinator keeps of it beside the counts.
    pub span: Option<Box<Span>>,
}

impl OrderImage {
    /// Whether it holds units.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }

    /// Whether nothing happens any more unless a caller asks for it: it holds nothing, and its participants know.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.is_open() && self.span.as_ref().is_none_or(|span| span.pending.is_empty())
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> OrderStatus {
        let sum = |of: fn(&LineImage) -> u32| self.lines.iter().map(|line| u64::from(of(line))).sum();
        let sums = [
            sum(|line| line.held),
            sum(|line| line.confirmed),
            sum(|line| line.released),
            sum(|line| line.returned),
        ];
        OrderStatus::of(self.phase, sums)
    }

    /// As callers see it.
    #[must_use]
    pub fn view(&self) -> OrderView {
        let line_view = |(index, line): (u16, &LineImage)| {
            let given = self.serials.iter().filter(|given| given.line == index).map(|given| given.serials);
            let serials: Vec<Serials> = given.collect();
            LineView {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                serials: (!serials.is_empty()).then(|| serials.into_boxed_slice()),
            }
        };
        OrderView {
            order_no: self.order_no.clone(),
            status: self.status(),
            created_at: self.created_at,
            expires_at: self.is_open().then_some(self.expires_at),
            lines: (0..).zip(&self.lines).map(line_view).collect(),
        }
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        let span = self.span.as_ref().map_or(0, |span| span.weight());
        4 + 2 * self.lines.len() + self.requests.len() + self.serials.len() + span
    }
}

/// A line of an order in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct LineImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub quantity: u32,
    /// Units held.
    pub held: u32,
    /// Units confirmed so far.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
    /// Those of `released` that went back by the end of the whole order, which a late payment takes again.
    pub lapsed: u32,
}

/// Serial numbers of one line of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineSerials {
    /// The index of the line.
    pub line: u16,
    /// The numbers.
    pub serials: Serials,
}

/// What the coordinator of an order over several shards keeps of it beside its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The attempt whose holds have the units that it holds in other shards.
    pub attempt: AttemptId,
    /// Decisions so far.
    pub decisions: u32,
    /// Those of them that some participants may not have carried out, oldest first.
    pub pending: Vec<Decision>,
}

impl Span {
    /// Of an order that is made with the holds of an attempt.
    #[must_use]
    pub fn new(attempt: AttemptId) -> Self {
        Self { attempt, decisions: 0, pending: Vec::new() }
    }

    /// Whether the order has something to do with the holds of an attempt.
    #[must_use]
    pub fn knows(&self, attempt: AttemptId) -> bool {
        self.attempt == attempt || self.pending.iter().any(|decision| decision.attempt == attempt)
    }

    /// A rough size, in lines of an event.
    pub(crate) fn weight(&self) -> usize {
        1 + self.pending.iter().map(|decision| 1 + decision.lines.len()).sum::<usize>()
    }
}

/// A decision that some participants may not have carried out yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Counts the decisions of the order, from 1.
    pub seq: u32,
    /// The attempt whose holds it is about.
    pub attempt: AttemptId,
    /// What happens to the units.
    pub kind: HoldMove,
    /// Why, in the caller's words.
    pub reason: Option<Reason>,
    /// Units, by the index of the line; lines of participants only.
    pub lines: Vec<(u16, u32)>,
    /// Participants that have not acknowledged it.
    pub waiting: Vec<ShardId>,
}

/// What a participant holds for an order that another shard decides. It has no end of its own: the coordinator says
/// when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldImage {
    /// The order.
    pub order_no: OrderNo,
    /// The attempt that made it.
    pub attempt: AttemptId,
    /// The shard that decides.
    pub coordinator: ShardId,
    /// For what.
    pub purpose: HoldPurpose,
    /// The last decision that was carried out; 0: none.
    pub seq: u32,
    /// Its last change.
    pub lsn: Lsn,
    /// The stocks; a line whose units are all gone stays while the hold does.
    pub lines: Vec<HoldLineImage>,
}

impl HoldImage {
    /// Whether there is no more to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lines.iter().all(|line| line.units == 0 && line.serials.is_empty())
    }
}

/// A line of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLineImage {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units held; of a return, units that are to come back.
    pub units: u32,
    /// Units that were sold of it, less those that came back by it.
    pub sold: i64,
    /// Serial numbers that its units got and that the coordinator may not have logged.
    pub serials: Vec<Serials>,
}

/// A remembered stock request in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestImage {
    /// Its scope.
    pub sku_id: SkuId,
    /// Its id.
    pub request_id: RequestId,
    /// Where it changed the stock.
    pub warehouse_id: WarehouseId,
    /// Its content.
    pub fingerprint: u64,
    /// What it was answered.
    pub after: Levels,
    /// When.
    pub at: Timestamp,
    /// The event that it caused.
    pub lsn: Lsn,
}
