//! What is remembered after the fact: ended orders and answered stock requests, by the event that last changed them.
//! They are forgotten in that order, by a logged event.

use std::collections::BTreeMap;

use super::table::{Keyed, Table};
use super::{State, Stocks};
use crate::checkpoint::RequestImage;
use crate::clock::Timestamp;
use crate::event::{Change, Event, ForgottenSold};
use crate::ids::{Lsn, RequestId, SkuId, WarehouseId};
use crate::limits::{MAX_FORGOTTEN_PER_EVENT, MAX_FORGOTTEN_STOCKS};
use crate::outcome::Levels;

/// The scope and id of a stock request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    pub sku_id: SkuId,
    pub request_id: RequestId,
}

/// A stock request that was answered.
#[derive(Debug, Clone)]
pub struct StockRequest {
    pub key: RequestKey,
    pub warehouse_id: WarehouseId,
    pub fingerprint: u64,
    /// The answer.
    pub after: Levels,
    pub at: Timestamp,
    pub lsn: Lsn,
}

impl Keyed for StockRequest {
    type Key = RequestKey;

    fn key(&self) -> &RequestKey {
        &self.key
    }
}

impl StockRequest {
    pub fn image(&self) -> RequestImage {
        RequestImage {
            sku_id: self.key.sku_id.clone(),
            request_id: self.key.request_id.clone(),
            warehouse_id: self.warehouse_id,
            fingerprint: self.fingerprint,
            after: self.after,
            at: self.at,
            lsn: self.lsn,
        }
    }
}

/// All stock requests that are remembered.
pub type Requests = Table<StockRequest>;

/// Up to `max` images from place `from` on, and the place after them.
pub fn request_images(requests: &Requests, from: usize, max: usize) -> (Vec<RequestImage>, usize) {
    let to = requests.places().min(from.saturating_add(max));
    let places = (from..to).filter_map(|place| requests.get(u32::try_from(place).ok()?));
    (places.map(StockRequest::image).collect(), to)
}

/// What is remembered, by its last change. Every LSN changes at most one order that has ended or answers one request.
pub type Remembered = BTreeMap<Lsn, Item>;

/// Something remembered, by its place in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    Order(u32),
    Request(u32),
}

impl State {
    /// The event that forgets the oldest of what was last changed before `before`, and of what is more than `max`.
    /// `None` when nothing is to be forgotten. At most [`MAX_FORGOTTEN_PER_EVENT`] go at once.
    #[must_use]
    pub fn next_forgotten(&self, before: Timestamp, max: usize, now: Timestamp) -> Option<Forget> {
        let surplus = self.remembered.len().saturating_sub(max);
        let (mut through, mut count, mut early) = (None, 0, 0);
        let mut sold: BTreeMap<u32, u64> = BTreeMap::new();
        for (lsn, item) in self.remembered.iter().take(MAX_FORGOTTEN_PER_EVENT) {
            let old = self.changed_at(*item) < before;
            if !old && count >= surplus {
                break;
            }
            if let Item::Order(place) = item {
                self.add_net_sold(*place, &mut sold);
            }
            through = Some(*lsn);
            count += 1;
            early += usize::from(!old);
            if sold.len() >= MAX_FORGOTTEN_STOCKS {
                break;
            }
        }
        let through = through?;
        let sold =
            sold.into_iter().map(|(number, units)| forgotten_sold(&self.stocks, number, units)).collect();
        let event =
            Event { at: now.max(self.time), trace: None, change: Change::Forgotten { through, sold } };
        Some(Forget { event, count, early })
    }

    fn changed_at(&self, item: Item) -> Timestamp {
        let at = match item {
            Item::Order(place) => self.orders.get(place).map(|order| order.changed_at),
            Item::Request(place) => self.requests.get(place).map(|request| request.at),
        };
        at.expect("what is remembered is there")
    }

    /// Adds the units that an order sold and did not take back, by stock.
    pub(super) fn add_net_sold(&self, place: u32, sold: &mut BTreeMap<u32, u64>) {
        let order = self.orders.get(place).expect("what is remembered is there");
        for line in &order.lines {
            let net = u64::from(line.confirmed.saturating_sub(line.returned));
            if net > 0 {
                *sold.entry(line.stock).or_default() += net;
            }
        }
    }
}

fn forgotten_sold(stocks: &Stocks, number: u32, units: u64) -> ForgottenSold {
    let stock = stocks.get(number);
    // Bounded by the units of the stock, which are far below 2^64.
    let total = stock.forgotten_sold.saturating_add(units);
    ForgottenSold { sku_id: stock.sku_id.clone(), warehouse_id: stock.warehouse_id, total }
}

/// See [`State::next_forgotten`].
#[derive(Debug, Clone, PartialEq)]
pub struct Forget {
    /// To be applied and logged.
    pub event: Event,
    /// What it lets go of.
    pub count: usize,
    /// Of those, what went before its time because there was too much.
    pub early: usize,
}
