//! The state machine of one shard: pure, synchronous, without clock or IO.
//!
//! - [`table`]: tables that grow in steps. [`stock`]: stocks and the arithmetic of their levels. [`order`]: orders and
//!   their [`deadlines`]. [`remembered`]: what is known of ended orders and answered requests, and for how long.
//! - [`State::decide`] (in [`decide_order`], [`decide_choice`] with [`choose`], [`decide_stock`]) answers a command
//!   or makes the event that carries it out; [`State::apply`] (in [`apply`]) lets an event change the state, live and
//!   in recovery alike.
//! - [`needs`]: what a command waits for. [`load`] and [`evict`]: how SKUs, ended orders and requests come from the
//!   store into memory and leave it again.
//! - [`homes`]: orders over several places whose home is this shard ([`Homes`](crate::home::Homes)); they hold
//!   nothing here, their branches do.
//! - [`capture`]: checkpoints in slices, and the state from one. [`audit`]: every invariant, recomputed.
//!
//! Live, an event goes through `decide`, `apply`, `answer`; in recovery through `apply` alone. The levels in the
//! event are computed by `decide` and computed again by `apply`, which refuses an event that differs.

mod apply;
mod audit;
mod capture;
mod choose;
mod deadlines;
mod decide_choice;
mod decide_order;
mod decide_stock;
mod evict;
mod homes;
mod load;
mod needs;
mod order;
mod remembered;
mod stock;
mod table;

pub use audit::{AuditReport, StockAudit, Violation};
pub use capture::Capture;
pub use choose::prefer_for_all;
pub(crate) use deadlines::{Deadlines, NO_DEADLINE, TAKEN};
pub(crate) use decide_choice::too_many_stocks;
pub(crate) use decide_stock::change_fingerprint;
pub use evict::Departed;
pub(crate) use load::check_counts;
pub use needs::{Need, Stored};
pub(crate) use order::Order;
pub use remembered::Forget;
pub use stock::{Delta, LeftStock};
pub(crate) use table::{Keyed, Room, Table};

use crate::clock::Timestamp;
use crate::command::Action;
use crate::event::{Change, Event};
use crate::home::{self, Homes};
use crate::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::inner::{InnerAnswer, InnerCommand, InnerOutcome};
use crate::outcome::{Answer, Effect, OrderView, Refusal, StockView};

use order::Orders;
use remembered::{Item, Remembered, Requests, StockRequest};
use stock::{LineRef, Stock, Stocks};

/// The state of one shard.
#[derive(Debug, Clone)]
pub struct State {
    shard: ShardId,
    /// Shards of the data directory; tells which SKUs are this shard's.
    shards: u16,
    applied: Lsn,
    time: Timestamp,
    /// Entries may know of events up to here before they are replayed (from a fuzzy checkpoint).
    exact_from: Lsn,
    stocks: Stocks,
    orders: Orders,
    homes: Homes,
    requests: Requests,
    remembered: Remembered,
    /// The slot of the order that was changed last, so that the answer need not look for it.
    last_order: u32,
    /// The last change of anything that left memory.
    departed: Lsn,
    /// What left since [`State::take_departed`].
    gone: Vec<Departed>,
}

/// What `decide` says to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It changes something: this is the event, to be applied and logged.
    Log(Event),
    /// It changes nothing: a refusal, a repeat or a read.
    Answer(InnerOutcome),
    /// An order that is not known here, of SKUs that are not this shard's: not for this shard.
    Elsewhere,
}

/// An event that does not fit the state: the journal or the program is wrong, and going on could sell a unit twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {lsn}: {problem}")]
pub struct Corruption {
    /// Which event.
    pub lsn: Lsn,
    /// What does not fit.
    pub problem: String,
}

impl Corruption {
    fn new(lsn: Lsn, problem: impl Into<String>) -> Self {
        Self { lsn, problem: problem.into() }
    }
}

impl State {
    /// A shard without any stock, before the first event.
    #[must_use]
    pub fn new(shard: ShardId, shards: u16) -> Self {
        Self::with_room(shard, shards, Room::Shard)
    }

    /// As [`State::new`], with tables for a few entries, of which a test can make thousands.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_few(shard: ShardId, shards: u16) -> Self {
        Self::with_room(shard, shards, Room::Few)
    }

    fn with_room(shard: ShardId, shards: u16, room: Room) -> Self {
        Self {
            shard,
            shards,
            applied: Lsn::ZERO,
            time: Timestamp::default(),
            exact_from: Lsn::ZERO,
            stocks: Stocks::new(room),
            orders: Orders::new(room),
            homes: Homes::new(room),
            requests: Requests::new(room),
            remembered: Remembered::default(),
            last_order: 0,
            departed: Lsn::ZERO,
            gone: Vec::new(),
        }
    }

    /// Which shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The last event applied.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.applied
    }

    /// The time of the last event; the next can't be before it.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Answers a command, or makes the event that carries it out. Changes nothing. `now` before the last event counts
    /// as its time.
    #[must_use]
    pub fn decide(&self, command: &InnerCommand, now: Timestamp) -> Decision {
        let now = now.max(self.time);
        let decided = match command {
            InnerCommand::Public(command) => match self.home_of(command) {
                None => self.decide_action(&command.action),
                Some(home) => home::decide_order(home, &command.action, now),
            },
            InnerCommand::Expire(order_no) => match self.homes.image(order_no) {
                None => self.decide_expire(order_no, now),
                Some(home) => home::decide_expire(home, now),
            },
            InnerCommand::Home(step) => self.decide_step(step, now),
        };
        match decided {
            Ok(Verdict::Change(change)) => Decision::Log(Event { at: now, trace: command.trace(), change }),
            Ok(Verdict::Nothing(answer)) => Decision::Answer(Ok(answer)),
            Ok(Verdict::Elsewhere) => Decision::Elsewhere,
            Err(refusal) => Decision::Answer(Err(refusal)),
        }
    }

    /// What a caller asks about stocks, or about an order that is not over several places.
    pub(crate) fn decide_action(&self, action: &Action) -> Decided {
        match action {
            Action::CreateStock(c) => self.decide_create(c),
            Action::ChangeStock(c) => self.decide_change(c),
            Action::SetStatus(c) => self.decide_status(c),
            Action::Reserve(c) => self.decide_reserve(c),
            Action::Confirm(c) => self.decide_confirm(c),
            Action::Release(c) => self.decide_release(c),
            Action::Extend(c) => self.decide_extend(c),
            Action::Return(c) => self.decide_return(c),
            Action::GetOrder(order_no) => self.known_order(order_no).map(|(_, order)| self.replay(order)),
        }
    }

    /// What is said of an event that was just applied to the command that it carries out.
    #[must_use]
    pub fn answer(&self, event: &Event) -> InnerAnswer {
        let order = |order_no: &OrderNo, effect| {
            let order = self.orders.get(self.last_order).filter(|order| order.order_no == *order_no);
            let order = order.expect("the event that was just applied is about it");
            InnerAnswer::from(Answer::Order { order: order.view(&self.stocks), effect })
        };
        let stock = |sku_id: &SkuId, warehouse_id: WarehouseId| {
            let number =
                self.stocks.find(sku_id, warehouse_id).expect("the event that was just applied is about it");
            self.stocks.get(number).view()
        };
        match &event.change {
            Change::StockCreated { sku_id, warehouse_id, .. } => {
                Answer::Stock { stock: stock(sku_id, *warehouse_id), effect: Effect::Created }.into()
            }
            Change::StockChanged { sku_id, warehouse_id, .. } => {
                Answer::Stock { stock: stock(sku_id, *warehouse_id), effect: Effect::Changed }.into()
            }
            Change::StatusChanged { sku_id, warehouses, .. } => {
                let stocks =
                    warehouses.iter().map(|(warehouse_id, _)| stock(sku_id, *warehouse_id)).collect();
                Answer::Sku { stocks, effect: Effect::Changed }.into()
            }
            Change::Reserved { order_no, .. } => order(order_no, Effect::Created),
            Change::Confirmed { order_no, .. }
            | Change::Released { order_no, .. }
            | Change::Cancelled { order_no, .. }
            | Change::Expired { order_no, .. }
            | Change::Extended { order_no, .. }
            | Change::Returned { order_no, .. } => order(order_no, Effect::Changed),
            Change::Home(change) => self.homes.answer(change),
            Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Pinned { .. }
            | Change::Started { .. } => unreachable!("no command makes it"),
        }
    }

    /// The event for the next order whose time is over, if there is one. The caller applies it before it asks again.
    #[must_use]
    pub fn next_expiry(&self, now: Timestamp) -> Option<Event> {
        let change = match self.orders.first_due(now) {
            Some(order) => self.expire(order),
            None => self.homes.next_expiry(now)?,
        };
        Some(Event { at: now.max(self.time), trace: None, change })
    }

    /// The latest expiry that [`State::next_expiry`] takes as over at `now`.
    #[must_use]
    pub fn due_through(now: Timestamp) -> Timestamp {
        deadlines::due_through(now)
    }

    /// The last change of an order, and the order; for reads whose durability the caller checks.
    #[must_use]
    pub fn order(&self, order_no: &OrderNo) -> Option<(Lsn, OrderView)> {
        if let Some(found) = self.homes.view(order_no) {
            return Some(found);
        }
        self.orders.find(order_no).map(|(_, order)| (order.lsn, order.view(&self.stocks)))
    }

    /// When an order last changed that holds nothing any more and has nothing pending; not of branches, which are kept
    /// as long as their order.
    #[must_use]
    pub fn ended_at(&self, order_no: &OrderNo) -> Option<Timestamp> {
        if let Some(home) = self.homes.image(order_no) {
            return home.is_done().then_some(home.order.changed_at);
        }
        let (_, order) = self.orders.find(order_no)?;
        (!order.branch && !order.is_open()).then_some(order.changed_at)
    }

    /// Whether there is such an order, or branch.
    #[must_use]
    pub fn knows_order(&self, order_no: &OrderNo) -> bool {
        self.orders.find(order_no).is_some() || self.homes.knows(order_no)
    }

    /// The numbers of all orders whose home is here, not those of branches; to rebuild the directory.
    pub fn order_numbers(&self) -> impl Iterator<Item = &OrderNo> {
        let plain = self.orders.iter().filter(|order| !order.branch).map(|order| &order.order_no);
        plain.chain(self.homes.iter().map(|home| &home.order.order_no))
    }

    /// The numbers of the stocks that changed since the last call. Take what [left](State::take_left) first: their
    /// numbers may be those of other stocks by now.
    pub fn take_touched(&mut self) -> Vec<u32> {
        self.stocks.take_touched()
    }

    /// The stocks that left since the last call.
    pub fn take_left(&mut self) -> Vec<LeftStock> {
        self.stocks.take_left()
    }

    /// A stock by the number that [`State::take_touched`] gave.
    #[must_use]
    pub fn stock_view(&self, number: u32) -> StockView {
        self.stocks.get(number).view()
    }

    /// Sizes, for metrics.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let (orders, open_orders) = self.orders.counts();
        let (homes, open_homes) = self.homes.counts();
        let (orders, open_orders) = (orders + homes, open_orders + open_homes);
        let entries = [
            (self.stocks.skus(), SKU_BYTES),
            (self.stocks.len(), STOCK_BYTES),
            (orders, ORDER_BYTES),
            (self.stocks.attached(), LINE_BYTES),
            (self.requests.len(), REQUEST_BYTES),
            (self.remembered.len(), REMEMBERED_BYTES),
            (homes, HOME_BYTES),
        ];
        Sizes {
            skus: self.stocks.skus(),
            hot_skus: self.stocks.hot_skus().len(),
            stocks: self.stocks.len(),
            orders,
            open_orders,
            remembered: self.remembered.len(),
            bytes: entries.iter().map(|(count, bytes)| count.saturating_mul(*bytes) as u64).sum(),
        }
    }

    /// The order with this number, or why there is none to work on.
    fn known_order(&self, order_no: &OrderNo) -> Result<(u32, &Order), Refusal> {
        self.orders.find(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
    }

    fn replay(&self, order: &Order) -> Verdict {
        Verdict::Nothing(Answer::Order { order: order.view(&self.stocks), effect: Effect::Replayed }.into())
    }

    /// Adds an order with everything that points at it.
    fn put_order(&mut self, order: Order) -> u32 {
        let (lsn, ended) = (order.lsn, !order.is_open());
        let slot = self.orders.insert(order);
        let order = self.orders.get_mut(slot).expect("just inserted");
        for (line, index) in order.lines.iter_mut().zip(0..) {
            line.index = self.stocks.attach(line.stock, LineRef { order: slot, line: index });
        }
        if ended {
            self.remembered.insert((lsn, Item::Order(slot)));
        } else {
            self.orders.arm(slot);
        }
        slot
    }

    /// Takes an order out with everything that points at it.
    fn take_order(&mut self, slot: u32) -> Option<Order> {
        let order = self.orders.remove(slot)?;
        self.remembered.remove(&(order.lsn, Item::Order(slot)));
        for line in &order.lines {
            let moved = self.stocks.detach(line.stock, line.index);
            if let Some(LineRef { order, line: index }) = moved
                && let Some(other) = self.orders.get_mut(order).and_then(|o| o.lines.get_mut(index as usize))
            {
                other.index = line.index;
            }
        }
        Some(order)
    }

    fn put_request(&mut self, request: StockRequest) {
        let lsn = request.lsn;
        let number = self.stocks.number_or_placeholder(&request.key.sku_id, request.warehouse_id);
        let slot = self.requests.insert(request);
        let index = self.stocks.attach_request(number, slot);
        if let Some(request) = self.requests.get_mut(slot) {
            request.stock = (number, index);
        }
        self.remembered.insert((lsn, Item::Request(slot)));
    }

    fn take_request(&mut self, slot: u32) -> Option<StockRequest> {
        let request = self.requests.remove(slot)?;
        self.remembered.remove(&(request.lsn, Item::Request(slot)));
        let (number, index) = request.stock;
        let moved = self.stocks.detach_request(number, index);
        if let Some(other) = moved.and_then(|slot| self.requests.get_mut(slot)) {
            other.stock.1 = index;
        }
        Some(request)
    }

    /// Whether this shard owns the SKU.
    pub(crate) fn owns(&self, sku_id: &SkuId) -> bool {
        shard_of(sku_id, self.shards) == self.shard
    }
}

/// See [`State::sizes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// SKUs in memory.
    pub skus: usize,
    /// Those that are kept there.
    pub hot_skus: usize,
    /// Stocks, one per (sku, warehouse).
    pub stocks: usize,
    /// Orders in memory; of an order over several places, the home and each branch.
    pub orders: usize,
    /// Orders that hold units; an order over several places counts once, at its home.
    pub open_orders: usize,
    /// Ended orders and request ids that are remembered.
    pub remembered: usize,
    /// An estimate of what all of it takes in memory.
    pub bytes: u64,
}

/// What an entry takes with what points at it, give or take a third: measured sizes, tables half full, names of up to
/// 23 bytes.
const SKU_BYTES: usize = 160;
const STOCK_BYTES: usize = size_of::<Stock>() + 32;
/// With the first line.
const ORDER_BYTES: usize = size_of::<Order>() + 40;
/// In its order, and in the list of its stock.
const LINE_BYTES: usize = size_of::<order::OrderLine>() + 12;
const REQUEST_BYTES: usize = size_of::<StockRequest>() + 32;
/// In the order in which it is forgotten.
const REMEMBERED_BYTES: usize = 32;
/// Beside what an order takes.
const HOME_BYTES: usize = 1_024;

/// Inside `decide`: a change to be logged, or an answer that rests on nothing new.
#[derive(Debug)]
pub(crate) enum Verdict {
    Change(Change),
    Nothing(InnerAnswer),
    /// See [`Decision::Elsewhere`].
    Elsewhere,
}

pub(crate) type Decided = Result<Verdict, Refusal>;
