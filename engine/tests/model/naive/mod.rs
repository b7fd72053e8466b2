//! A naive model of the order protocol: obviously correct, slow, and written from the docs alone.
//!
//! It keeps what happened (supplies, and the deeds of every order) and nothing that can be computed from it: levels,
//! counts and statuses are summed anew each time they are asked for. It shares the engine's words (commands,
//! outcomes), and none of its state machine.
//!
//! - this file: stocks, levels, time. [`order`]: one order and its deeds. [`protocol`]: the commands of orders.
//!   [`choice`]: those that leave warehouses open.

pub mod choice;
pub mod order;
mod protocol;

use std::collections::BTreeMap;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, CreateStock, InvalidField, SetStatus, StockStatus,
};
use hotstock_engine::ids::{OrderNo, RequestId, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_STOCK_UNITS;
use hotstock_engine::outcome::{Answer, Effect, OrderView, Outcome, Refusal, ShortLine, StockView};
use hotstock_engine::units::Levels;

use order::Order;

/// A SKU in a warehouse.
pub type Place = (SkuId, WarehouseId);

/// Everything that ever happened. It forgets nothing: nobody can tell what is in memory.
#[derive(Debug, Clone, Default)]
pub struct Naive {
    pub shelves: BTreeMap<Place, Shelf>,
    pub orders: BTreeMap<OrderNo, Order>,
    pub changes: BTreeMap<(SkuId, RequestId), AnsweredChange>,
    /// The highest serial number that a unit of a SKU ever got.
    pub highest: BTreeMap<SkuId, u64>,
    /// The time of the last event.
    pub time: Timestamp,
    /// How many events there were.
    pub events: u64,
}

/// What is known of one stock, apart from orders.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Units that came (or, negative, left) other than by orders; the first is what it was created with.
    pub supplies: Vec<i64>,
    /// How often anything of it changed.
    pub version: u64,
    pub status: StockStatus,
    /// Each unit that is sold gets a number.
    pub serialized: bool,
}

/// A restock, deduct or adjust that was carried out.
#[derive(Debug, Clone)]
pub struct AnsweredChange {
    content: (ChangeKind, WarehouseId, i64),
    pub answer: Levels,
    pub event: u64,
    pub at: Timestamp,
}

impl Naive {
    /// Carries out a command and says what the caller is told. `now` before the last event counts as its time.
    pub fn carry_out(&mut self, action: &Action, now: Timestamp) -> Outcome {
        let now = now.max(self.time);
        match action {
            Action::CreateStock(c) => self.create(c, now),
            Action::ChangeStock(c) => self.change(c, now),
            Action::SetStatus(c) => self.set_status(c, now),
            Action::Reserve(c) => self.reserve(c, now),
            Action::Confirm(c) => self.confirm(c, now),
            Action::Release(c) => self.release(c, now),
            Action::Extend(c) => self.extend(c, now),
            Action::Return(c) => self.take_back(c, now),
            Action::GetOrder(order_no) => {
                self.known(order_no)?;
                self.order_answer(order_no, Effect::Replayed)
            }
        }
    }

    /// The levels of a stock, all summed anew.
    pub fn levels(&self, place: &Place) -> Levels {
        let shelf = &self.shelves[place];
        let lines = || self.orders.values().flat_map(|order| order.lines_at(place));
        let supplied: i64 = shelf.supplies.iter().sum();
        let reserved: u64 = lines().map(|line| u64::from(line.held)).sum();
        let confirmed: u64 = lines().map(|line| u64::from(line.confirmed)).sum();
        let returned: u64 = lines().map(|line| u64::from(line.returned)).sum();
        let sold = confirmed - returned;
        let supplied = u64::try_from(supplied).expect("no more was taken than there was");
        let available = supplied.checked_sub(reserved + sold).expect("no unit is promised twice");
        Levels { available, reserved, sold, version: shelf.version }
    }

    pub fn stock_view(&self, place: &Place) -> StockView {
        let (sku_id, warehouse_id) = place.clone();
        StockView {
            sku_id,
            warehouse_id,
            levels: self.levels(place),
            status: self.shelves[place].status,
            serialized: self.shelves[place].serialized,
        }
    }

    pub fn order_view(&self, order_no: &OrderNo) -> Option<OrderView> {
        self.orders.get(order_no).map(|order| order.view(order_no))
    }

    /// The orders whose time is over.
    pub fn due(&self, now: Timestamp) -> impl Iterator<Item = (&OrderNo, &Order)> {
        self.orders.iter().filter(move |(_, order)| order.is_open() && order.expires_at <= now)
    }

    fn create(&mut self, c: &CreateStock, now: Timestamp) -> Outcome {
        let place = (c.sku_id.clone(), c.warehouse_id);
        let quantity = i64::try_from(c.quantity).expect("validated");
        let effect = match self.shelves.get(&place) {
            Some(shelf) if shelf.supplies[0] != quantity => {
                let initial = u64::try_from(shelf.supplies[0]).expect("not negative");
                return Err(Refusal::StockExists { initial, stock: self.stock_view(&place) });
            }
            _ if self.shelves.iter().any(|(p, s)| p.0 == place.0 && s.serialized != c.serialized) => {
                return Err(InvalidField::new("serialized", "").into());
            }
            Some(_) => Effect::Replayed,
            None => {
                self.log(now);
                let (status, serialized) = (StockStatus::OnSale, c.serialized);
                let shelf = Shelf { supplies: vec![quantity], version: 1, status, serialized };
                self.shelves.insert(place.clone(), shelf);
                Effect::Created
            }
        };
        Ok(Answer::Stock { stock: self.stock_view(&place), effect })
    }

    fn change(&mut self, c: &ChangeStock, now: Timestamp) -> Outcome {
        let place = (c.sku_id.clone(), c.warehouse_id);
        let content = (c.kind, c.warehouse_id, c.quantity);
        let key = (c.sku_id.clone(), c.request_id.clone());
        if let Some(change) = self.changes.get(&key) {
            if change.content != content {
                return Err(Refusal::RequestMismatch);
            }
            let stock = StockView { levels: change.answer, ..self.stock_view(&place) };
            return Ok(Answer::Stock { stock, effect: Effect::Replayed });
        }
        self.shelf(&c.sku_id, c.warehouse_id)?;
        let levels = self.levels(&place);
        let delta = if c.kind == ChangeKind::Deduct { -c.quantity } else { c.quantity };
        if delta < 0 && delta.unsigned_abs() > levels.available {
            let lines = vec![short(&place, c.quantity.unsigned_abs(), levels.available)];
            return Err(Refusal::InsufficientStock { lines });
        }
        if delta > 0 && levels.quantity() + delta.unsigned_abs() > MAX_STOCK_UNITS {
            return Err(InvalidField::new("quantity", "").into());
        }
        let event = self.log(now);
        self.touch(&place).supplies.push(delta);
        let answer = self.levels(&place);
        self.changes.insert(key, AnsweredChange { content, answer, event, at: now });
        Ok(Answer::Stock { stock: self.stock_view(&place), effect: Effect::Changed })
    }

    fn set_status(&mut self, c: &SetStatus, now: Timestamp) -> Outcome {
        let meant = |place: &Place| place.0 == c.sku_id && c.warehouse_id.is_none_or(|only| only == place.1);
        let places: Vec<_> = self.shelves.keys().filter(|place| meant(place)).cloned().collect();
        if places.is_empty() {
            return Err(Refusal::UnknownSku { sku_id: c.sku_id.clone(), warehouse_id: c.warehouse_id });
        }
        let mut effect = Effect::Replayed;
        if places.iter().any(|place| self.shelves[place].status != c.status) {
            self.log(now);
            for place in &places {
                self.touch(place).status = c.status;
            }
            effect = Effect::Changed;
        }
        Ok(Answer::Sku { stocks: places.iter().map(|place| self.stock_view(place)).collect(), effect })
    }

    fn shelf(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Result<&Shelf, Refusal> {
        let unknown = || Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: Some(warehouse_id) };
        self.shelves.get(&(sku_id.clone(), warehouse_id)).ok_or_else(unknown)
    }

    /// A stock that is about to change: one version on.
    fn touch(&mut self, place: &Place) -> &mut Shelf {
        let shelf = self.shelves.get_mut(place).expect("the caller has looked");
        shelf.version += 1;
        shelf
    }

    /// Notes one more event and gives its number.
    pub fn log(&mut self, now: Timestamp) -> u64 {
        assert!(now >= self.time, "time never steps back in the log");
        self.time = now;
        self.events += 1;
        self.events
    }
}

fn short(place: &Place, requested: u64, available: u64) -> ShortLine {
    ShortLine { sku_id: place.0.clone(), warehouse_id: place.1, requested, available }
}

/// An outcome without what the docs leave open: the words of a problem, the order of a SKU's warehouses.
pub fn plain(outcome: Outcome) -> Outcome {
    match outcome {
        Err(Refusal::InvalidField(problem)) => Err(InvalidField::new(problem.field, "").into()),
        Ok(Answer::Sku { mut stocks, effect }) => {
            stocks.sort_by_key(|stock| stock.warehouse_id);
            Ok(Answer::Sku { stocks, effect })
        }
        other => other,
    }
}
