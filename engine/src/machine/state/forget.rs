//! How ended orders and answered stock requests leave memory, oldest first, by a logged event.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::remembered::Item;
use super::shard_state::State;
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo};
use crate::base::limits::{MAX_FORGOTTEN_PER_EVENT, MAX_FORGOTTEN_STOCKS};
use crate::contract::event::{Change, Event, ForgottenSold};

impl State {
    /// The event that forgets the oldest of what was last changed before `before`, and of what is more than `max`.
    /// `None` when nothing is to be forgotten. Nothing goes that changed after `at_most`, nor an order that is `busy`.
    /// About [`MAX_FORGOTTEN_PER_EVENT`] go at once: what one event brought goes together, when its youngest goes.
    #[must_use]
    pub fn next_forgotten(
        &self,
        before: Timestamp,
        max: usize,
        now: Timestamp,
        at_most: Lsn,
        is_busy: impl Fn(&OrderNo) -> bool,
    ) -> Option<Forget> {
        let surplus = self.remembered.len().saturating_sub(max);
        let (mut through, mut count, mut early) = (None, 0, 0);
        let mut sold: BTreeMap<u32, u64> = BTreeMap::new();
        let mut rest = self.remembered.iter().peekable();
        while count < MAX_FORGOTTEN_PER_EVENT && sold.len() < MAX_FORGOTTEN_STOCKS {
            let Some(lsn) = rest.peek().map(|(lsn, _)| *lsn).filter(|lsn| *lsn <= at_most) else { break };
            let together = std::iter::from_fn(|| rest.next_if(|(at, _)| *at == lsn));
            let together: SmallVec<[Item; 1]> = together.map(|(_, item)| *item).collect();
            let busy = together.iter().any(|item| self.order_at(*item).is_some_and(&is_busy));
            if busy {
                break;
            }
            let young = together.iter().filter(|item| self.changed_at(**item) >= before).count();
            if young > 0 && count >= surplus {
                break;
            }
            for item in &together {
                if let Item::Order(slot) = item {
                    self.add_net_sold(*slot, &mut sold);
                }
            }
            through = Some(lsn);
            count += together.len();
            early += young;
        }
        let through = through?;
        let sold = self.forgotten_totals(sold);
        let event = self.event(Change::Forgotten { through, sold }, now);
        Some(Forget { event, count, early })
    }

    fn order_at(&self, item: Item) -> Option<&OrderNo> {
        match item {
            Item::Order(slot) => self.orders.get(slot).map(|order| &order.order_no),
            Item::Request(_) => None,
        }
    }

    fn changed_at(&self, item: Item) -> Timestamp {
        let at = match item {
            Item::Order(slot) => self.orders.get(slot).map(|order| order.changed_at),
            Item::Request(slot) => self.requests.get(slot).map(|request| request.at),
        };
        at.expect("what is remembered is there")
    }

    /// Adds the units that an order sold and did not take back, by stock.
    pub(super) fn add_net_sold(&self, slot: u32, sold: &mut BTreeMap<u32, u64>) {
        let order = self.orders.get(slot).expect("what is forgotten is still there");
        for line in &order.lines {
            // What lies elsewhere was sold there.
            if line.net_sold() > 0 && !self.stocks.get(line.stock).foreign {
                *sold.entry(line.stock).or_default() += line.net_sold();
            }
        }
    }

    /// The totals of stocks after orders with these sold units were forgotten.
    pub(super) fn forgotten_totals(&self, sold: BTreeMap<u32, u64>) -> Vec<ForgottenSold> {
        let total = |(number, units)| {
            let stock = self.stocks.get(number);
            // Bounded by the units of the stock, which are far below 2^64.
            let total = stock.forgotten_sold.saturating_add(units);
            ForgottenSold { sku_id: stock.sku_id.clone(), warehouse_id: stock.warehouse_id, total }
        };
        sold.into_iter().map(total).collect()
    }
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
