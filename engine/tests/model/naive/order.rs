//! One order of the naive model: what it asked for, what it got, and everything that was done with it since.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Line, Lines, Mode};
use hotstock_engine::ids::{BuyerId, OrderNo, RequestId, SkuId, WarehouseId};
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{LineView, OrderView};
use hotstock_engine::units::Serials;

use super::Place;

/// A line as a caller gives it: SKU, warehouse (`None`: any), units.
pub type Wished = (SkuId, Option<WarehouseId>, u32);

/// An order, or (without lines) the tombstone of one that was released before it was reserved.
#[derive(Debug, Clone)]
pub struct Order {
    pub buyer_id: Option<BuyerId>,
    pub mode: Mode,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub changed_at: Timestamp,
    pub last_event: u64,
    /// What was asked; of lines whose warehouse was chosen, where they came to lie.
    pub asked: Vec<Line>,
    /// The lines as the caller gave them, where some of them named no warehouse.
    pub wished: Option<Vec<Wished>>,
    /// How much of each line it got.
    pub got: Vec<u32>,
    pub deeds: Vec<Deed>,
    /// The partial requests and returns that were carried out.
    pub requests: Vec<(Option<RequestId>, Content)>,
}

/// Units of some lines (by their index) to which something was done.
#[derive(Debug, Clone)]
pub struct Deed {
    pub what: What,
    pub units: Vec<(usize, u32)>,
    /// The serial numbers that the units of a line got.
    pub numbers: Vec<(usize, Serials)>,
}

impl Deed {
    pub fn new(what: What, units: Vec<(usize, u32)>) -> Self {
        Self { what, units, numbers: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Held units were confirmed.
    Sold,
    /// Units that had gone back were taken again and confirmed.
    SoldLate,
    /// A part was given back by the caller.
    PartReleased,
    /// All that was held was given back by the caller.
    Released,
    /// All that was held went back because the time was over.
    Expired,
    /// Confirmed units came back.
    Returned,
}

/// What a partial request asked for; the lines are `None` for a return of everything.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Confirm(Lines),
    Release(Lines),
    Return(Option<Lines>),
}

impl Order {
    pub fn done(&self, line: usize, what: What) -> u32 {
        let deeds = self.deeds.iter().filter(|deed| deed.what == what).flat_map(|deed| &deed.units);
        deeds.filter(|(index, _)| *index == line).map(|(_, units)| units).sum()
    }

    pub fn held(&self, line: usize) -> u32 {
        let gone = [What::Sold, What::PartReleased, What::Released, What::Expired];
        self.got[line] - gone.iter().map(|what| self.done(line, *what)).sum::<u32>()
    }

    pub fn confirmed(&self, line: usize) -> u32 {
        self.done(line, What::Sold) + self.done(line, What::SoldLate)
    }

    pub fn returned(&self, line: usize) -> u32 {
        self.done(line, What::Returned)
    }

    /// Units given back and not taken again by a late payment.
    pub fn released(&self, line: usize) -> u32 {
        self.got[line] - self.held(line) - self.confirmed(line)
    }

    /// Units that a late payment may take again: those that went back when the hold of the whole order ended. Parts
    /// that the caller gave back before were given up for good, unless it gave back everything that way.
    pub fn late(&self, line: usize) -> u32 {
        let with_the_whole = self.done(line, What::Released) + self.done(line, What::Expired);
        let part_by_part =
            self.ended_by() == Some(What::PartReleased) && self.sum(|i| self.done(i, What::Sold)) == 0;
        let back = if part_by_part { self.done(line, What::PartReleased) } else { with_the_whole };
        back - self.done(line, What::SoldLate)
    }

    pub fn is_open(&self) -> bool {
        self.sum(|line| self.held(line)) > 0
    }

    /// A tombstone.
    pub fn is_cancelled(&self) -> bool {
        self.asked.is_empty()
    }

    /// The deed after which nothing was held any more.
    pub fn ended_by(&self) -> Option<What> {
        let mut until_then = Order { deeds: Vec::new(), ..self.clone() };
        self.deeds.iter().find_map(|deed| {
            until_then.deeds.push(deed.clone());
            (!until_then.is_open()).then_some(deed.what)
        })
    }

    pub fn status(&self) -> OrderStatus {
        let held = self.sum(|line| self.held(line));
        let confirmed = self.sum(|line| self.confirmed(line));
        let released = self.sum(|line| self.released(line));
        let returned = self.sum(|line| self.returned(line));
        if self.is_cancelled() {
            OrderStatus::Cancelled
        } else if returned > 0 {
            let all = held == 0 && returned == confirmed;
            if all { OrderStatus::Returned } else { OrderStatus::PartiallyReturned }
        } else if confirmed > 0 {
            let all = held == 0 && released == 0;
            if all { OrderStatus::Confirmed } else { OrderStatus::PartiallyConfirmed }
        } else if held > 0 {
            OrderStatus::Reserved
        } else if self.ended_by() == Some(What::Expired) {
            OrderStatus::Expired
        } else {
            OrderStatus::Released
        }
    }

    pub fn sum(&self, of: impl Fn(usize) -> u32) -> u64 {
        (0..self.asked.len()).map(|line| u64::from(of(line))).sum()
    }

    /// The index of the line of a stock.
    pub fn line_at(&self, place: &Place) -> Option<usize> {
        self.asked.iter().position(|line| line.sku_id == place.0 && line.warehouse_id == place.1)
    }

    pub fn lines_at(&self, place: &Place) -> Option<LineView> {
        self.line_at(place).map(|line| self.line_view(line))
    }

    pub fn view_lines(&self) -> impl Iterator<Item = LineView> {
        (0..self.asked.len()).map(|line| self.line_view(line))
    }

    fn line_view(&self, line: usize) -> LineView {
        let numbers = self.deeds.iter().flat_map(|deed| &deed.numbers);
        let numbers: Vec<_> =
            numbers.filter(|(index, _)| *index == line).map(|(_, serials)| *serials).collect();
        LineView {
            sku_id: self.asked[line].sku_id.clone(),
            warehouse_id: self.asked[line].warehouse_id,
            quantity: self.asked[line].quantity,
            held: self.held(line),
            confirmed: self.confirmed(line),
            released: self.released(line),
            returned: self.returned(line),
            serials: (!numbers.is_empty()).then(|| numbers.into()),
        }
    }

    pub fn view(&self, order_no: &OrderNo) -> OrderView {
        OrderView {
            order_no: order_no.clone(),
            status: self.status(),
            created_at: self.created_at,
            expires_at: self.is_open().then_some(self.expires_at),
            lines: self.view_lines().collect(),
        }
    }
}
