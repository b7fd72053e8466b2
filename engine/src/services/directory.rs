//! Which shard decides for an order: claimed by the first request that names it, known until the order leaves memory.
//!
//! An entry counts its claims. Every request that could make the order takes one on its way in; it is given back when
//! the request is decided. When that made the order, the entry becomes the order's own and stays until the order
//! leaves memory. So two requests for one new order, whose lines lie in different shards, meet in one, and a refused
//! order leaves nothing behind.
//!
//! An order that left memory has no entry; its number is in the filter of known numbers ([`crate::services::known`]),
//! where it was put before the entry went. So of a number without entry that the filter does not know it is certain
//! that no order has it.
//!
//! With one shard there is nothing to know, and a second table of all orders would cost a quarter of the time of a
//! reserve: there are no entries at all.
//!
//! The entry of an order over several shards says that it is one. What it holds in them has none.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

use crate::base::ids::{OrderNo, ShardId};

/// Parts of the map, each of which grows alone: at ten million orders a part has ten thousand and grows in some 0.2 ms.
const PARTS: usize = 1024;

/// order_no → shard.
#[derive(Debug)]
pub struct Directory {
    /// `None`: there is one shard.
    entries: Option<DashMap<OrderNo, Known, RandomState>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    shard: ShardId,
    /// Requests under way.
    claims: u32,
    /// The order is there.
    own: bool,
    /// It lies in several shards.
    spans: bool,
}

/// The shard, when there is one.
const ONLY: ShardId = ShardId(0);

impl Directory {
    /// For this many shards.
    pub fn new(shards: u16) -> Self {
        let map = || DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), PARTS);
        Self { entries: (shards > 1).then(map) }
    }

    /// Takes a claim and gives the order's shard: `wanted`, or where it is already.
    pub fn claim(&self, order_no: &OrderNo, wanted: ShardId) -> ShardId {
        let Some(entries) = &self.entries else { return ONLY };
        let new = Known { shard: wanted, claims: 0, own: false, spans: false };
        let mut known = entries.entry(order_no.clone()).or_insert(new);
        known.claims = known.claims.saturating_add(1);
        known.shard
    }

    /// Whether an order is known to lie in several shards.
    pub fn spans(&self, order_no: &OrderNo) -> bool {
        self.entries.as_ref().is_some_and(|entries| entries.get(order_no).is_some_and(|known| known.spans))
    }

    /// The shard of an order that is known to be in memory, and whether it lies in several.
    pub fn there(&self, order_no: &OrderNo) -> Option<(ShardId, bool)> {
        let known = self.entries.as_ref()?.get(order_no)?;
        known.own.then_some((known.shard, known.spans))
    }

    /// The shard of the order, without a claim; `None`: it is not in memory, and no request is under way that could
    /// make it.
    pub fn shard(&self, order_no: &OrderNo) -> Option<ShardId> {
        let Some(entries) = &self.entries else { return Some(ONLY) };
        entries.get(order_no).map(|known| known.shard)
    }

    /// Gives a claim back; the last one closes the entry of an order that was not made.
    pub fn give_back(&self, order_no: &OrderNo) {
        self.change(order_no, |known| known.claims = known.claims.saturating_sub(1));
    }

    /// A claim led to the order: it is given back, and the entry is the order's own.
    pub fn made(&self, order_no: &OrderNo) {
        self.change(order_no, |known| {
            known.claims = known.claims.saturating_sub(1);
            known.own = true;
        });
    }

    /// The order is in this shard, whatever requests under way believe.
    pub fn own(&self, order_no: &OrderNo, shard: ShardId) {
        self.put(order_no, shard, false);
    }

    /// The order lies in several shards and this one decides for it.
    pub fn own_cross_shard(&self, order_no: &OrderNo, shard: ShardId) {
        self.put(order_no, shard, true);
    }

    fn put(&self, order_no: &OrderNo, shard: ShardId, spans: bool) {
        let Some(entries) = &self.entries else { return };
        match entries.entry(order_no.clone()) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                (known.shard, known.own, known.spans) = (shard, true, spans);
            }
            Entry::Vacant(entry) => {
                entry.insert(Known { shard, claims: 0, own: true, spans });
            }
        }
    }

    /// The order left memory, or was not made after all.
    pub fn forget(&self, order_no: &OrderNo) {
        self.change(order_no, |known| (known.own, known.spans) = (false, false));
    }

    fn change(&self, order_no: &OrderNo, change: impl FnOnce(&mut Known)) {
        let Some(entries) = &self.entries else { return };
        entries.remove_if_mut(order_no, |_, known| {
            change(known);
            known.claims == 0 && !known.own
        });
    }

    /// Orders that have an entry.
    pub fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, DashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(shard: u16) -> ShardId {
        ShardId(shard)
    }

    #[test]
    fn the_first_claim_decides_and_the_last_give_back_closes() {
        let directory = Directory::new(8);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.shard(&order), None);
        assert_eq!(directory.claim(&order, at(3)), at(3));
        assert_eq!(directory.claim(&order, at(5)), at(3), "it stays where it is");
        directory.give_back(&order);
        assert_eq!(directory.shard(&order), Some(at(3)), "one claim is left");
        directory.give_back(&order);
        assert_eq!(directory.shard(&order), None);
        assert_eq!(directory.claim(&order, at(5)), at(5));
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn an_order_that_was_made_keeps_its_shard_until_it_leaves_memory() {
        let directory = Directory::new(8);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, at(3)), at(3));
        assert_eq!(directory.claim(&order, at(3)), at(3));
        directory.made(&order);
        directory.give_back(&order);
        assert_eq!(directory.shard(&order), Some(at(3)));
        directory.own(&order, ShardId(4));
        directory.own(&order, ShardId(4));
        assert_eq!(directory.shard(&order), Some(at(4)));
        directory.forget(&order);
        assert_eq!((directory.shard(&order), directory.len()), (None, 0));
    }

    #[test]
    fn one_shard_needs_no_entries() {
        let directory = Directory::new(1);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, at(0)), at(0));
        directory.made(&order);
        assert_eq!(directory.shard(&order), Some(at(0)));
        assert_eq!(directory.len(), 0);
    }

    #[test]
    fn an_order_over_several_shards_is_known_as_one() {
        let directory = Directory::new(2);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, at(0)), at(0));
        assert_eq!(directory.there(&order), None);
        directory.own_cross_shard(&order, at(0));
        directory.give_back(&order);
        assert!(directory.spans(&order));
        assert_eq!(directory.claim(&order, at(1)), at(0));
        assert_eq!(directory.there(&order), Some((at(0), true)));
        directory.forget(&order);
        assert!(!directory.spans(&order));
        directory.give_back(&order);
        assert_eq!(directory.len(), 0);
    }
}
