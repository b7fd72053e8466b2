//! The state machine of one shard: pure, synchronous, without clock or IO.
//!
//! - [`table`]: tables that grow in steps. [`stock`]: stocks and the arithmetic of their levels. [`order`]: orders and
//!   their [`deadlines`]. [`remembered`]: what is known of ended orders and answered requests, and for how long.
//! - [`State::decide`] (in [`decide_order`], [`decide_choice`] with [`choose`], [`decide_stock`], [`decide_place`]) answers a command
//!   or makes the event that carries it out; [`State::apply`] (in [`apply`], [`moves`]) lets an event change the state, live and in
//!   recovery alike.
//! - [`homes`]: orders over several places whose home is this shard ([`Homes`](crate::home::Homes)); they hold nothing here, their branches do.
//! - [`capture`]: checkpoints in slices, and the state from one. [`audit`]: every invariant, recomputed.
//!
//! Live, an event goes through `decide`, `apply`, `answer`; in recovery through `apply` alone. The levels in the event are
//! computed by `decide` and computed again by `apply`, which refuses an event that differs.

mod apply;
mod audit;
mod capture;
mod choose;
mod deadlines;
mod decide_choice;
mod decide_order;
mod decide_place;
mod decide_stock;
mod homes;
mod moves;
mod order;
mod remembered;
mod stock;
mod table;

pub use audit::{AuditReport, StockAudit, Violation};
pub use capture::Capture;
pub use choose::prefer_for_all;
pub(crate) use deadlines::{Deadlines, NO_DEADLINE, TAKEN};
pub(crate) use decide_choice::too_many_stocks;
pub(crate) use decide_place::check_counts;
pub(crate) use order::Order;
pub use stock::{Delta, LeftStock};
pub(crate) use table::{Keyed, Room, Table};

use std::collections::BTreeMap;

use crate::checkpoint::Stage;
use crate::clock::Timestamp;
use crate::command::{Action, Command};
use crate::event::{Change, Event};
use crate::home::Homes;
use crate::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::outcome::{Answer, Effect, OrderView, Outcome, Refusal, StockView};

use order::Orders;
use remembered::{Item, Remembered, Requests, StockRequest};
use stock::{Lying, Stock, Stocks};

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
    /// The place of the order that was changed last, so that the answer need not look for it.
    last_order: u32,
    /// Orders forgotten since [`State::take_forgotten`].
    forgotten: Vec<OrderNo>,
}

/// What `decide` says to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It changes something: this is the event, to be applied and logged.
    Log(Event),
    /// It changes nothing: a refusal, a repeat or a read.
    Answer(Outcome),
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
            forgotten: Vec::new(),
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
    pub fn decide(&self, command: &Command, now: Timestamp) -> Decision {
        let now = now.max(self.time);
        if let Some(decision) = self.decide_at_home(command, now) {
            return decision;
        }
        let decided = match &command.action {
            Action::CreateStock(c) => self.decide_create(c),
            Action::ChangeStock(c) => self.decide_change(c),
            Action::SetStatus(c) => self.decide_status(c),
            Action::Reserve(c) => self.decide_reserve(c, command),
            Action::Confirm(c) => self.decide_confirm(c),
            Action::Release(c) => self.decide_release(c),
            Action::Extend(c) => self.decide_extend(c),
            Action::Return(c) => self.decide_return(c),
            Action::Place(place) => self.decide_place(place, command),
            Action::GetOrder(order_no) => self.known_order(order_no).map(|(_, order)| self.replay(order)),
            Action::Expire(order_no) => self.decide_expire(order_no, now),
            Action::Home(_) => unreachable!("decided above"),
        };
        let decided = match decided {
            Ok(Verdict::Change(_)) | Err(_) if self.is_moving(&command.action) => {
                Err(Refusal::Moved(Box::new(command.clone())))
            }
            decided => decided,
        };
        match decided {
            Ok(Verdict::Change(change)) => Decision::Log(Event { at: now, trace: command.trace, change }),
            Ok(Verdict::Nothing(answer)) => Decision::Answer(Ok(answer)),
            Err(refusal) => Decision::Answer(Err(refusal)),
        }
    }

    /// What the caller is told of an event that was just applied.
    #[must_use]
    pub fn answer(&self, event: &Event) -> Answer {
        let order = |order_no: &OrderNo, effect| {
            let order = self.orders.get(self.last_order).filter(|order| order.order_no == *order_no);
            let order = order.expect("the event that was just applied is about it");
            Answer::Order { order: order.view(&self.stocks), effect }
        };
        let stock = |sku_id: &SkuId, warehouse_id: WarehouseId| {
            let number =
                self.stocks.find(sku_id, warehouse_id).expect("the event that was just applied is about it");
            self.stocks.get(number).view()
        };
        match &event.change {
            Change::StockCreated { sku_id, warehouse_id, .. } => {
                Answer::Stock { stock: stock(sku_id, *warehouse_id), effect: Effect::Created }
            }
            Change::StockChanged { sku_id, warehouse_id, .. } => {
                Answer::Stock { stock: stock(sku_id, *warehouse_id), effect: Effect::Changed }
            }
            Change::StatusChanged { sku_id, warehouses, .. } => {
                let stocks =
                    warehouses.iter().map(|(warehouse_id, _)| stock(sku_id, *warehouse_id)).collect();
                Answer::Sku { stocks, effect: Effect::Changed }
            }
            Change::Reserved { order_no, .. } => order(order_no, Effect::Created),
            Change::Confirmed { order_no, .. }
            | Change::Released { order_no, .. }
            | Change::Cancelled { order_no, .. }
            | Change::Expired { order_no, .. }
            | Change::Extended { order_no, .. }
            | Change::Returned { order_no, .. } => order(order_no, Effect::Changed),
            Change::AdoptionBegun { .. }
            | Change::OrdersAdopted { .. }
            | Change::Adopted { .. }
            | Change::Closed { .. } => Answer::Placed,
            Change::Home(change) => self.homes.answer(change),
            Change::Forgotten { .. }
            | Change::Split { .. }
            | Change::Shed { .. }
            | Change::Withdrawn { .. } => {
                unreachable!("no command makes the shard forget")
            }
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

    /// Whether there is such an order, or branch.
    #[must_use]
    pub fn knows_order(&self, order_no: &OrderNo) -> bool {
        self.orders.find(order_no).is_some() || self.homes.knows(order_no)
    }

    /// The SKUs that are here, each with where it is on its way and its epoch.
    #[must_use]
    pub fn places(&self) -> BTreeMap<SkuId, (Stage, u64)> {
        let stocks = self.stocks.iter().filter(|(_, stock)| !stock.awaited);
        stocks.map(|(_, stock)| (stock.sku_id.clone(), (stock.stage, stock.epoch))).collect()
    }

    /// The numbers of all orders whose home is here, not those of branches; to rebuild the directory.
    pub fn order_numbers(&self) -> impl Iterator<Item = &OrderNo> {
        let plain = self.orders.iter().filter(|order| !order.branch).map(|order| &order.order_no);
        plain.chain(self.homes.iter().map(|home| &home.order.order_no))
    }

    /// The numbers of the stocks that changed since the last call.
    pub fn take_touched(&mut self) -> Vec<u32> {
        self.stocks.take_touched()
    }

    /// The orders that were forgotten since the last call; their numbers are free again.
    pub fn take_forgotten(&mut self) -> Vec<OrderNo> {
        std::mem::take(&mut self.forgotten)
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
        Sizes { stocks: self.stocks.len(), orders, open_orders, remembered: self.remembered.len() }
    }

    /// The order with this number, or why there is none to work on.
    fn known_order(&self, order_no: &OrderNo) -> Result<(u32, &Order), Refusal> {
        self.orders.find(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
    }

    fn replay(&self, order: &Order) -> Verdict {
        Verdict::Nothing(Answer::Order { order: order.view(&self.stocks), effect: Effect::Replayed })
    }

    /// Adds an order with everything that points at it; `behind` as for [`Orders::insert`].
    fn put_order(&mut self, order: Order, behind: bool) -> u32 {
        let (lsn, ended) = (order.lsn, !order.is_open());
        let place = self.orders.insert(order, behind);
        let order = self.orders.get_mut(place).expect("just inserted");
        for (line, index) in order.lines.iter_mut().zip(0..) {
            line.index = self.stocks.lay(line.stock, Lying { order: place, line: index });
        }
        if ended {
            self.remembered.insert((lsn, Item::Order(place)));
        }
        self.settle(place);
        place
    }

    /// Takes an order out with everything that points at it.
    fn take_order(&mut self, place: u32) -> Option<Order> {
        let order = self.orders.remove(place)?;
        self.remembered.remove(&(order.lsn, Item::Order(place)));
        for line in &order.lines {
            let moved = self.stocks.lift(line.stock, line.index);
            if let Some(Lying { order, line: index }) = moved
                && let Some(other) = self.orders.get_mut(order).and_then(|o| o.lines.get_mut(index as usize))
            {
                other.index = line.index;
            }
        }
        Some(order)
    }

    fn put_request(&mut self, request: StockRequest) {
        let lsn = request.lsn;
        let place = self.requests.insert(request);
        self.remembered.insert((lsn, Item::Request(place)));
    }

    fn take_request(&mut self, place: u32) {
        if let Some(request) = self.requests.remove(place) {
            self.remembered.remove(&(request.lsn, Item::Request(place)));
        }
    }

    /// Changes the stage of a stock, and whether its orders can expire.
    fn set_stage(&mut self, number: u32, stage: Stage) {
        self.stocks.set_stage(number, stage);
        let mut index = 0;
        while let Some(Lying { order, .. }) = self.stocks.get(number).orders.get(index).copied() {
            self.settle(order);
            index += 1;
        }
    }

    /// Sees to it that the order expires if and only if it can.
    fn settle(&mut self, place: u32) {
        let Some(order) = self.orders.get(place) else { return };
        // A branch asks wherever it is.
        if order.is_open() && (order.branch || self.is_free(order)) {
            self.orders.arm(place);
        } else {
            self.orders.disarm(place);
        }
    }

    /// Whether none of the stocks that an order lies on is moving.
    fn is_free(&self, order: &Order) -> bool {
        let open = |stock: u32| self.stocks.get(stock).stage == Stage::Open;
        self.stocks.moving() == 0 || order.lines.iter().all(|line| open(line.stock))
    }

    /// Whether a command is about a stock that is on its way into the shard or out of it.
    fn is_moving(&self, action: &Action) -> bool {
        if self.stocks.moving() == 0 {
            return false;
        }
        let sku = |sku_id| self.stocks.stage(sku_id).is_some_and(|stage| stage != Stage::Open);
        let order = |order_no| self.orders.find(order_no).map(|(_, order)| !self.is_free(order));
        match action {
            Action::CreateStock(c) => sku(&c.sku_id),
            Action::ChangeStock(c) => sku(&c.sku_id),
            Action::SetStatus(c) => sku(&c.sku_id),
            Action::Reserve(c) => {
                let lines = || c.lines.as_slice().iter().any(|line| sku(&line.sku_id));
                order(&c.order_no).unwrap_or_else(lines)
            }
            Action::Confirm(c) => order(&c.order_no).unwrap_or(false),
            Action::Release(c) => order(&c.order_no).unwrap_or(false),
            Action::Extend(c) => order(&c.order_no).unwrap_or(false),
            Action::Return(c) => order(&c.order_no).unwrap_or(false),
            Action::Expire(order_no) => order(order_no).unwrap_or(false),
            Action::GetOrder(_) | Action::Place(_) | Action::Home(_) => false,
        }
    }

    /// Whether this shard owns the SKU.
    fn owns(&self, sku_id: &SkuId) -> bool {
        shard_of(sku_id, self.shards) == self.shard
    }
}

/// See [`State::sizes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Stocks, one per (sku, warehouse).
    pub stocks: usize,
    /// Orders in memory; of an order over several places, the home and each branch.
    pub orders: usize,
    /// Orders that hold units; an order over several places counts once, at its home.
    pub open_orders: usize,
    /// Ended orders and request ids that are remembered.
    pub remembered: usize,
}

/// Inside `decide`: a change to be logged, or an answer that rests on nothing new.
enum Verdict {
    Change(Change),
    Nothing(Answer),
}

type Decided = Result<Verdict, Refusal>;
