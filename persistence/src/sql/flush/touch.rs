//! What events are about: which rows a flush has to load before it can apply them.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use hotstock_engine::event::{Change, Event};
use hotstock_engine::home::HomeChange;
use hotstock_engine::ids::{Lsn, OrderNo, RequestId, SkuId};

/// Events that can be applied to one small state, and what they touch.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Which events of the batch.
    pub events: Range<usize>,
    /// Orders that are there before.
    pub orders: BTreeSet<OrderNo>,
    /// Orders that they make.
    pub made: HashSet<OrderNo>,
    /// Of `orders`, those that are extended or split: all their SKUs are touched.
    pub whole: BTreeSet<OrderNo>,
    /// Orders over several places that come back from the store in them.
    pub adopted: HashSet<OrderNo>,
    /// SKUs that the shard must own for them.
    pub skus: BTreeSet<SkuId>,
    /// SKUs that get a stock.
    pub created: HashSet<SkuId>,
    requests: HashSet<(SkuId, RequestId)>,
}

/// Cuts a batch where a number is used again: by an order that is forgotten by then, or a request that is. Rare: both are remembered
/// for a day.
pub(super) fn parts(events: &[(Lsn, Event)]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut part = Part::default();
    for (place, (_, event)) in events.iter().enumerate() {
        if part.repeats(&event.change) {
            let next = Part { events: place..place, ..Part::default() };
            parts.push(std::mem::replace(&mut part, next));
        }
        part.add(&event.change);
        part.events.end = place + 1;
    }
    parts.push(part);
    parts
}

impl Part {
    fn repeats(&self, change: &Change) -> bool {
        match change {
            Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. } => self.knows(order_no),
            Change::Home(change) => {
                // One that comes back from the store was forgotten by then, too.
                let begins = matches!(**change, HomeChange::Reserved { .. } | HomeChange::Adopted(_));
                begins && self.knows(change.order_no())
            }
            Change::StockChanged { sku_id, request_id, .. } => {
                self.requests.contains(&(sku_id.clone(), request_id.clone()))
            }
            _ => false,
        }
    }

    fn add(&mut self, change: &Change) {
        match change {
            Change::StockCreated { sku_id, .. } => {
                self.created.insert(sku_id.clone());
                self.skus.insert(sku_id.clone());
            }
            Change::StockChanged { sku_id, request_id, .. } => {
                self.requests.insert((sku_id.clone(), request_id.clone()));
                self.skus.insert(sku_id.clone());
            }
            Change::StatusChanged { sku_id, .. }
            | Change::Shed { sku_id, .. }
            | Change::Withdrawn { sku_id, .. } => {
                self.skus.insert(sku_id.clone());
            }
            Change::Reserved { order_no, lines, .. } => {
                self.made.insert(order_no.clone());
                self.lines(lines.iter().map(|line| &line.sku_id));
            }
            Change::Cancelled { order_no, .. } => {
                self.made.insert(order_no.clone());
            }
            Change::Confirmed { order_no, lines, .. } => {
                self.order(order_no);
                self.lines(lines.iter().map(|line| &line.sku_id));
            }
            Change::Released { order_no, lines, .. }
            | Change::Expired { order_no, lines }
            | Change::Returned { order_no, lines, .. } => {
                self.order(order_no);
                self.lines(lines.iter().map(|line| &line.sku_id));
            }
            Change::Extended { order_no, .. } => self.whole_order(order_no),
            Change::Split { orders } => orders.iter().for_each(|order_no| self.whole_order(order_no)),
            Change::Home(change) => match &**change {
                HomeChange::Reserved { order_no, .. } => {
                    self.made.insert(order_no.clone());
                }
                HomeChange::Decided { order_no, .. }
                | HomeChange::Extended { order_no, .. }
                | HomeChange::Carried { order_no, .. } => self.order(order_no),
                // The store has it; what is there is written over.
                HomeChange::Adopted(image) => {
                    self.adopted.insert(image.order.order_no.clone());
                }
            },
            // The store has what these tell of.
            Change::Forgotten { .. }
            | Change::AdoptionBegun { .. }
            | Change::OrdersAdopted { .. }
            | Change::Adopted { .. }
            | Change::Closed { .. } => {}
        }
    }

    fn knows(&self, order_no: &OrderNo) -> bool {
        self.made.contains(order_no) || self.orders.contains(order_no) || self.adopted.contains(order_no)
    }

    fn order(&mut self, order_no: &OrderNo) {
        if !self.made.contains(order_no) && !self.adopted.contains(order_no) {
            self.orders.insert(order_no.clone());
        }
    }

    fn whole_order(&mut self, order_no: &OrderNo) {
        self.order(order_no);
        if self.orders.contains(order_no) {
            self.whole.insert(order_no.clone());
        }
    }

    fn lines<'a>(&mut self, skus: impl Iterator<Item = &'a SkuId>) {
        for sku_id in skus {
            // Most orders of a batch are about the same few.
            if !self.skus.contains(sku_id) {
                self.skus.insert(sku_id.clone());
            }
        }
    }
}
