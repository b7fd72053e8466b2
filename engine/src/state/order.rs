//! Orders: what one holds, where it stands, and the index of their deadlines.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::stock::Stocks;
use super::table::{Keyed, Room, Table};
use crate::checkpoint::{LineImage, LineSerials, OrderImage, Phase};
use crate::clock::Timestamp;
use crate::command::Mode;
use crate::event::OrderRequest;
use crate::ids::{BuyerId, Lsn, OrderNo};
use crate::outcome::{LineView, OrderStatus, OrderView, Serials};

/// Deadlines are kept to this many milliseconds, rounded up: an order is never expired early, and at most this late
/// by the index.
const DEADLINE_STEP_MILLIS: u64 = 100;

/// An order in memory: about 140 bytes with one line.
#[derive(Debug, Clone)]
pub struct Order {
    pub order_no: OrderNo,
    pub buyer_id: Option<BuyerId>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub changed_at: Timestamp,
    /// Its last change.
    pub lsn: Lsn,
    pub lines: SmallVec<[OrderLine; 1]>,
    /// What few orders have: 8 bytes in every order that has none of it.
    pub rare: Option<Box<Rare>>,
    pub mode: Mode,
    pub phase: Phase,
    /// Its index in the list of its deadline, or [`NO_DEADLINE`].
    deadline_index: u32,
}

/// What few orders have.
#[derive(Debug, Clone, Default)]
pub struct Rare {
    /// Partial requests that it answered.
    pub requests: Vec<OrderRequest>,
    /// Serial numbers that its lines got, as they came.
    pub serials: Vec<LineSerials>,
}

/// The order can't expire: it holds nothing, or a stock that it lies on is moving.
const NO_DEADLINE: u32 = u32::MAX;

/// A line of an order. held + confirmed + released = the units that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderLine {
    /// The number of the stock.
    pub stock: u32,
    /// Units asked for.
    pub quantity: u32,
    pub held: u32,
    pub confirmed: u32,
    pub released: u32,
    pub returned: u32,
    /// Those of `released` that went back when the whole order ended; a late payment takes them again.
    pub lapsed: u32,
    /// Its index among the lines that lie on the stock.
    pub index: u32,
}

impl From<&LineImage> for OrderLine {
    /// The stock and the index there are still to be filled in.
    fn from(image: &LineImage) -> Self {
        Self {
            stock: 0,
            quantity: image.quantity,
            held: image.held,
            confirmed: image.confirmed,
            released: image.released,
            returned: image.returned,
            lapsed: image.lapsed,
            index: 0,
        }
    }
}

impl Keyed for Order {
    type Key = OrderNo;

    fn key(&self) -> &OrderNo {
        &self.order_no
    }
}

impl Order {
    pub fn new(order_no: OrderNo, at: Timestamp, lsn: Lsn) -> Self {
        Self {
            order_no,
            buyer_id: None,
            created_at: at,
            expires_at: at,
            changed_at: at,
            lsn,
            lines: SmallVec::new(),
            rare: None,
            mode: Mode::AllOrNothing,
            phase: Phase::Open,
            deadline_index: NO_DEADLINE,
        }
    }

    /// Partial requests that it answered.
    pub fn requests(&self) -> &[OrderRequest] {
        self.rare.as_ref().map_or(&[], |rare| &rare.requests)
    }

    /// Serial numbers that its lines got, as they came.
    pub fn serials(&self) -> &[LineSerials] {
        self.rare.as_ref().map_or(&[], |rare| &rare.serials)
    }

    /// What few orders have, to add to it.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The sum of one count over the lines.
    pub fn sum(&self, count: impl Fn(&OrderLine) -> u32) -> u64 {
        self.lines.iter().map(|line| u64::from(count(line))).sum()
    }

    /// Whether it holds units.
    pub fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }

    pub fn status(&self) -> OrderStatus {
        let [held, confirmed, released, returned] = [
            self.sum(|line| line.held),
            self.sum(|line| line.confirmed),
            self.sum(|line| line.released),
            self.sum(|line| line.returned),
        ];
        match self.phase {
            Phase::Cancelled => OrderStatus::Cancelled,
            _ if returned > 0 && returned == confirmed && held == 0 => OrderStatus::Returned,
            _ if returned > 0 => OrderStatus::PartiallyReturned,
            _ if confirmed > 0 && held == 0 && released == 0 => OrderStatus::Confirmed,
            _ if confirmed > 0 => OrderStatus::PartiallyConfirmed,
            _ if held > 0 => OrderStatus::Reserved,
            Phase::Expired => OrderStatus::Expired,
            Phase::Open | Phase::Released => OrderStatus::Released,
        }
    }

    pub fn view(&self, stocks: &Stocks) -> OrderView {
        let line_view = |line: &OrderLine| {
            let stock = stocks.get(line.stock);
            LineView {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                serials: None,
            }
        };
        let mut view = OrderView {
            order_no: self.order_no.clone(),
            status: self.status(),
            created_at: self.created_at,
            expires_at: self.is_open().then_some(self.expires_at),
            lines: self.lines.iter().map(line_view).collect(),
        };
        if !self.serials().is_empty() {
            show_serials(&mut view.lines, self.serials());
        }
        view
    }

    pub fn image(&self, stocks: &Stocks) -> OrderImage {
        let line_image = |line: &OrderLine| {
            let stock = stocks.get(line.stock);
            LineImage {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                lapsed: line.lapsed,
            }
        };
        OrderImage {
            order_no: self.order_no.clone(),
            buyer_id: self.buyer_id.clone(),
            mode: self.mode,
            phase: self.phase,
            created_at: self.created_at,
            expires_at: self.expires_at,
            changed_at: self.changed_at,
            lsn: self.lsn,
            lines: self.lines.iter().map(line_image).collect(),
            requests: self.requests().to_vec(),
            serials: self.serials().to_vec(),
        }
    }
}

/// Gives the lines the serial numbers that they got.
fn show_serials(lines: &mut [LineView], serials: &[LineSerials]) {
    let mut by_line: Vec<Vec<Serials>> = vec![Vec::new(); lines.len()];
    for given in serials {
        if let Some(list) = by_line.get_mut(usize::from(given.line)) {
            list.push(given.serials);
        }
    }
    for (line, list) in lines.iter_mut().zip(by_line) {
        line.serials = (!list.is_empty()).then(|| list.into_boxed_slice());
    }
}

/// All orders of a shard and the deadlines of those that can expire.
#[derive(Debug, Clone)]
pub struct Orders {
    table: Table<Order>,
    /// Deadline (in steps) → places of the orders that expire then. Holds exactly the open orders none of whose stocks is moving;
    /// who changes an order or a stage sees to that with [`Orders::arm`].
    deadlines: BTreeMap<u64, Vec<u32>>,
    open: usize,
}

impl Orders {
    pub fn new(room: Room) -> Self {
        Self { table: Table::new(room), deadlines: BTreeMap::new(), open: 0 }
    }

    pub fn find(&self, order_no: &OrderNo) -> Option<(u32, &Order)> {
        let place = self.table.find(order_no)?;
        self.table.get(place).map(|order| (place, order))
    }

    pub fn get(&self, place: u32) -> Option<&Order> {
        self.table.get(place)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Order> {
        self.table.iter()
    }

    /// The orders with their places.
    pub fn places_and_entries(&self) -> impl Iterator<Item = (u32, &Order)> {
        self.table.places_and_entries()
    }

    /// One above the highest place that was ever used.
    pub fn places(&self) -> usize {
        self.table.places()
    }

    /// Orders, and how many of them hold units.
    pub fn counts(&self) -> (usize, usize) {
        (self.table.len(), self.open)
    }

    /// Up to `max` images from place `from` on, and the place after them.
    pub fn images(&self, stocks: &Stocks, from: usize, max: usize) -> (Vec<OrderImage>, usize) {
        let to = self.table.places().min(from.saturating_add(max));
        let places = (from..to).filter_map(|place| self.table.get(u32::try_from(place).ok()?));
        (places.map(|order| order.image(stocks)).collect(), to)
    }

    pub fn get_mut(&mut self, place: u32) -> Option<&mut Order> {
        self.table.get_mut(place)
    }

    /// Adds an order, not armed yet.
    pub fn insert(&mut self, order: Order) -> u32 {
        self.open += usize::from(order.is_open());
        self.table.insert(order)
    }

    pub fn remove(&mut self, place: u32) -> Option<Order> {
        self.disarm(place);
        let order = self.table.remove(place)?;
        self.open -= usize::from(order.is_open());
        Some(order)
    }

    /// Changes an order. Its deadline goes when it moves or is over; the caller arms it again.
    pub fn change<R>(&mut self, place: u32, change: impl FnOnce(&mut Order) -> R) -> Option<R> {
        let order = self.table.get_mut(place)?;
        let (was_open, was_at) = (order.is_open(), order.expires_at);
        let result = change(order);
        let (open, at) = (order.is_open(), order.expires_at);
        if !open || at != was_at {
            // It is listed under its old time.
            let index = std::mem::replace(&mut order.deadline_index, NO_DEADLINE);
            self.drop_deadline(was_at, index);
        }
        self.open = self.open - usize::from(was_open) + usize::from(open);
        Some(result)
    }

    /// An open order whose time is over, the earliest first.
    pub fn first_due(&self, now: Timestamp) -> Option<&Order> {
        let (step, places) = self.deadlines.first_key_value()?;
        if step.saturating_mul(DEADLINE_STEP_MILLIS) > now.0 {
            return None;
        }
        self.table.get(*places.last()?)
    }

    /// From now on the order expires when its time is over.
    pub fn arm(&mut self, place: u32) {
        let Some(order) = self.table.get_mut(place).filter(|order| order.deadline_index == NO_DEADLINE) else {
            return;
        };
        let list = self.deadlines.entry(step_of(order.expires_at)).or_default();
        order.deadline_index = u32::try_from(list.len()).expect("no more deadlines than places");
        list.push(place);
    }

    /// From now on the order does not expire.
    pub fn disarm(&mut self, place: u32) {
        if let Some(order) = self.table.get_mut(place) {
            let (at, index) = (order.expires_at, std::mem::replace(&mut order.deadline_index, NO_DEADLINE));
            self.drop_deadline(at, index);
        }
    }

    fn drop_deadline(&mut self, at: Timestamp, index: u32) {
        let step = step_of(at);
        let Some(list) = self.deadlines.get_mut(&step).filter(|_| index != NO_DEADLINE) else { return };
        list.swap_remove(index as usize);
        match list.get(index as usize) {
            Some(moved) => {
                if let Some(order) = self.table.get_mut(*moved) {
                    order.deadline_index = index;
                }
            }
            None if list.is_empty() => {
                self.deadlines.remove(&step);
            }
            None => {}
        }
    }

    /// Checks that the deadlines are those of the open orders that are free to expire. For the audit.
    pub fn check_deadlines(&self, free: impl Fn(&Order) -> bool) -> Result<(), String> {
        let listed: usize = self.deadlines.values().map(Vec::len).sum();
        let open = self.table.iter().filter(|order| order.is_open()).count();
        if self.open != open {
            return Err(format!("{open} orders hold units, {} are counted", self.open));
        }
        let armed = self.table.iter().filter(|order| order.is_open() && free(order)).count();
        if listed != armed {
            return Err(format!("{armed} orders can expire, {listed} deadlines are listed"));
        }
        for (step, list) in &self.deadlines {
            for (index, place) in list.iter().enumerate() {
                let right = |order: &Order| {
                    order.is_open()
                        && free(order)
                        && step_of(order.expires_at) == *step
                        && order.deadline_index as usize == index
                };
                if !self.table.get(*place).is_some_and(right) {
                    return Err(format!("the deadline {step} lists place {place}, which is not due then"));
                }
            }
        }
        Ok(())
    }
}

/// What expires up to here is due at `now`: deadlines are kept in steps.
pub fn due_through(now: Timestamp) -> Timestamp {
    Timestamp(now.0 - now.0 % DEADLINE_STEP_MILLIS)
}

fn step_of(at: Timestamp) -> u64 {
    at.0.div_ceil(DEADLINE_STEP_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are millions of them. Who makes them larger does so on purpose.
    #[test]
    fn an_order_without_anything_rare_is_small() {
        assert_eq!(size_of::<Order>(), 144);
        assert_eq!(size_of::<Option<Box<Rare>>>(), size_of::<usize>());
    }
}
