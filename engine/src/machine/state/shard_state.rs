//! The state of one shard: what it holds, the dispatch of `decide`, and what can be read of it.

use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::contract::command::Action;
use crate::contract::event::{Acknowledged, Change, Event};
use crate::contract::image::{LineSerials, OrderImage, Span};
use crate::contract::outcome::{Answer, Effect, OrderView, Refusal, StockView};
use crate::contract::units::Levels;
use crate::machine::inner::InnerCommand;

use super::deadlines;
use super::decision::{Decided, Decision, Elsewhere, Verdict};
use super::held::Holds;
use super::order::{self, Order, Orders};
use super::remembered::{Departed, Item, Remembered, Requests, StockRequest};
use super::stock::{LeftStock, LineRef, Stock, Stocks};
use super::table::Room;

/// The state of one shard.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) shard: ShardId,
    /// Shards of the data directory; tells which SKUs are this shard's.
    pub(super) shards: u16,
    pub(super) applied: Lsn,
    pub(super) time: Timestamp,
    /// Entries may know of events up to here before they are replayed (from a fuzzy checkpoint).
    pub(super) exact_from: Lsn,
    pub(super) stocks: Stocks,
    pub(super) orders: Orders,
    pub(super) holds: Holds,
    pub(super) requests: Requests,
    pub(super) remembered: Remembered,
    /// The slot of the order that was changed last, so that the answer need not look for it.
    pub(super) last_order: u32,
    /// The last change of anything that left memory.
    pub(super) departed: Lsn,
    /// What left since [`State::take_departed`].
    pub(super) gone: Vec<Departed>,
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

    pub(super) fn with_room(shard: ShardId, shards: u16, room: Room) -> Self {
        Self {
            shard,
            shards,
            applied: Lsn::ZERO,
            time: Timestamp::default(),
            exact_from: Lsn::ZERO,
            stocks: Stocks::new(room, shard, shards),
            orders: Orders::new(room),
            holds: Holds::default(),
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
        self.decide_with(command, None, now)
    }

    /// As [`State::decide`], with what is held in other shards for it.
    pub(crate) fn decide_with(
        &self,
        command: &InnerCommand,
        elsewhere: Option<&Elsewhere>,
        now: Timestamp,
    ) -> Decision {
        let now = now.max(self.time);
        let decided = match command {
            InnerCommand::Public(command) => self.decide_action(&command.action, elsewhere),
            InnerCommand::Expire(order_no) => self.decide_expire(order_no, now),
        };
        match decided {
            Ok(Verdict::Change(change)) => Decision::Log(Event { at: now, trace: command.trace(), change }),
            Ok(Verdict::Nothing(answer)) => Decision::Answer(Ok(answer)),
            Ok(Verdict::HoldFirst(first)) => Decision::HoldFirst(first),
            Err(refusal) => Decision::Answer(Err(refusal)),
        }
    }

    pub(super) fn decide_action(&self, action: &Action, elsewhere: Option<&Elsewhere>) -> Decided {
        match action {
            Action::CreateStock(c) => self.decide_create(c),
            Action::ChangeStock(c) => self.decide_change(c),
            Action::SetStatus(c) => self.decide_status(c),
            Action::Reserve(c) => self.decide_reserve(c),
            Action::Confirm(c) => self.decide_confirm(c, elsewhere),
            Action::Release(c) => self.decide_release(c),
            Action::Extend(c) => self.decide_extend(c),
            Action::Return(c) => self.decide_return(c, elsewhere),
            Action::GetOrder(order_no) => self.known_order(order_no).map(|(_, order)| self.replay(order)),
        }
    }

    /// What is said of an event that was just applied to the command that it carries out.
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
            Change::Forgotten { .. }
            | Change::Loaded { .. }
            | Change::OrdersLoaded { .. }
            | Change::Evicted { .. }
            | Change::Pinned { .. }
            | Change::Started { .. }
            | Change::Acknowledged { .. }
            | Change::Held { .. }
            | Change::HoldChanged { .. } => unreachable!("no command makes it"),
        }
    }

    /// The event for the next order whose time is over, if there is one. The caller applies it before it asks again.
    #[must_use]
    pub fn next_expiry(&self, now: Timestamp) -> Option<Event> {
        let change = self.expire(self.orders.first_due(now)?);
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
        self.orders.find(order_no).map(|(_, order)| (order.lsn, order.view(&self.stocks)))
    }

    /// When an order last changed that holds nothing any more and has nothing pending.
    #[must_use]
    pub fn ended_at(&self, order_no: &OrderNo) -> Option<Timestamp> {
        let (_, order) = self.orders.find(order_no)?;
        order.is_done().then_some(order.changed_at)
    }

    /// Whether there is such an order.
    #[must_use]
    pub fn knows_order(&self, order_no: &OrderNo) -> bool {
        self.orders.find(order_no).is_some()
    }

    /// The numbers of all orders, and whether each lies in several shards; to rebuild the directory.
    pub fn order_numbers(&self) -> impl Iterator<Item = (&OrderNo, bool)> {
        self.orders.iter().map(|order| (&order.order_no, order.span().is_some()))
    }

    /// All orders, as images.
    pub fn orders(&self) -> impl Iterator<Item = OrderImage> {
        self.orders.iter().map(|order| order.image(&self.stocks))
    }

    /// The shard that has a SKU.
    pub(crate) fn shard_of(&self, sku_id: &SkuId) -> ShardId {
        shard_of(sku_id, self.shards)
    }

    /// The levels of a stock that is here.
    pub(crate) fn levels_of(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<Levels> {
        let stock = self.stocks.get(self.stocks.find(sku_id, warehouse_id)?);
        (!stock.placeholder).then_some(stock.levels)
    }

    /// The stocks of a SKU that are here, as callers see them.
    pub(crate) fn stocks_of_sku(&self, sku_id: &SkuId) -> Vec<StockView> {
        self.stocks.of_sku(sku_id).filter(|stock| !stock.placeholder).map(Stock::view).collect()
    }

    /// What its coordinator keeps of an order over several shards.
    #[must_use]
    pub fn span_of(&self, order_no: &OrderNo) -> Option<&Span> {
        self.orders.find(order_no)?.1.span()
    }

    /// The lines of an order, by their index: what, where, and in which shard.
    pub(crate) fn places_of_lines(&self, order_no: &OrderNo) -> Vec<(SkuId, WarehouseId, ShardId)> {
        let place = |line: &order::OrderLine| {
            let stock = self.stocks.get(line.stock);
            (stock.sku_id.clone(), stock.warehouse_id, self.stocks.shard_of(&stock.sku_id))
        };
        self.orders.find(order_no).map_or(Vec::new(), |(_, order)| order.lines.iter().map(place).collect())
    }

    /// What an acknowledged decision leaves of an order: the participant `shard` has carried out `seq`, and its units
    /// got these serial numbers. `None`: nobody waited for that.
    pub(crate) fn acknowledge(
        &self,
        order_no: &OrderNo,
        told: &[(u32, ShardId)],
        serials: Vec<LineSerials>,
    ) -> Option<Acknowledged> {
        let (_, order) = self.orders.find(order_no)?;
        let mut span = order.span()?.clone();
        let mut changed = false;
        for (seq, shard) in told {
            changed |= order::acknowledge(&mut span, *seq, *shard);
        }
        let known = order.serials();
        // One who is told twice says twice what it did.
        let mut new: Vec<LineSerials> = Vec::new();
        for given in serials {
            if !known.contains(&given) && !new.contains(&given) {
                new.push(given);
            }
        }
        let serials = new;
        if !changed && serials.is_empty() {
            return None;
        }
        let mut after = order.after();
        after.serials = after.serials.saturating_add(u32::try_from(serials.len()).unwrap_or(u32::MAX));
        after.open = order.is_open() || !span.pending.is_empty();
        after.span = Some(Box::new(span));
        Some(Acknowledged { order_no: order_no.clone(), serials, after })
    }

    /// Orders with decisions that participants may not have carried out. After a start all of them are told again.
    pub(crate) fn pending_orders(&self) -> Vec<OrderNo> {
        let pending = |order: &&Order| order.span().is_some_and(|span| !span.pending.is_empty());
        self.orders.iter().filter(pending).map(|order| order.order_no.clone()).collect()
    }

    /// Up to `max` orders whose time is over, instead of their expiry, which somebody else is to be asked about. They
    /// do not come again before the next start, unless their expiry is moved or they are
    /// [given back](State::give_back_due).
    pub fn take_due_orders(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        self.orders.take_due(now, max)
    }

    /// An order that was taken as due and not worked on is due again.
    pub fn give_back_due(&mut self, order_no: &OrderNo) {
        if let Some((slot, _)) = self.orders.find(order_no) {
            self.orders.give_back_due(slot);
            self.orders.arm(slot);
        }
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
        let holds = self.hold_counts();
        let entries = [
            (self.stocks.skus(), SKU_BYTES),
            (self.stocks.len(), STOCK_BYTES),
            (orders, ORDER_BYTES),
            (self.stocks.attached(), LINE_BYTES),
            (self.requests.len(), REQUEST_BYTES),
            (self.remembered.len(), REMEMBERED_BYTES),
            (holds, HOLD_BYTES),
        ];
        Sizes {
            skus: self.stocks.skus(),
            hot_skus: self.stocks.hot_skus().len(),
            stocks: self.stocks.len(),
            orders,
            open_orders,
            holds,
            remembered: self.remembered.len(),
            bytes: entries.iter().map(|(count, bytes)| count.saturating_mul(*bytes) as u64).sum(),
        }
    }

    /// The order with this number, or why there is none to work on.
    pub(super) fn known_order(&self, order_no: &OrderNo) -> Result<(u32, &Order), Refusal> {
        self.orders.find(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
    }

    pub(super) fn replay(&self, order: &Order) -> Verdict {
        Verdict::Nothing(Answer::Order { order: order.view(&self.stocks), effect: Effect::Replayed })
    }

    /// Adds an order with everything that points at it.
    pub(super) fn put_order(&mut self, order: Order) -> u32 {
        let (lsn, open, done) = (order.lsn, order.is_open(), order.is_done());
        let slot = self.orders.insert(order);
        let order = self.orders.get_mut(slot).expect("just inserted");
        for (line, index) in order.lines.iter_mut().zip(0..) {
            line.index = self.stocks.attach(line.stock, LineRef { order: slot, line: index });
        }
        if done {
            self.remembered.insert((lsn, Item::Order(slot)));
        }
        if open {
            self.orders.arm(slot);
        }
        slot
    }

    /// Takes an order out with everything that points at it.
    pub(super) fn take_order(&mut self, slot: u32) -> Option<Order> {
        let order = self.orders.remove(slot)?;
        self.remembered.remove(&(order.lsn, Item::Order(slot)));
        for line in &order.lines {
            let moved = self.stocks.detach(line.stock, line.index);
            if let Some(LineRef { order, line: index }) = moved
                && let Some(other) = self.orders.get_mut(order).and_then(|o| o.lines.get_mut(index as usize))
            {
                other.index = line.index;
            }
            self.stocks.drop_foreign(line.stock);
        }
        Some(order)
    }

    pub(super) fn put_request(&mut self, request: StockRequest) {
        let lsn = request.lsn;
        let number = self.stocks.number_or_placeholder(&request.key.sku_id, request.warehouse_id);
        let slot = self.requests.insert(request);
        let index = self.stocks.attach_request(number, slot);
        if let Some(request) = self.requests.get_mut(slot) {
            request.stock = (number, index);
        }
        self.remembered.insert((lsn, Item::Request(slot)));
    }

    pub(super) fn take_request(&mut self, slot: u32) -> Option<StockRequest> {
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
    /// Orders in memory.
    pub orders: usize,
    /// Orders that hold units.
    pub open_orders: usize,
    /// What is held for orders that other shards decide.
    pub holds: usize,
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
const HOLD_BYTES: usize = 192;
