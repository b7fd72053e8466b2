//! Which shard is the home of an order: claimed by the first request that names it, known until the order is forgotten.
//!
//! An entry counts its claims. Every request that could make the order takes one on its way in; the shard gives it back
//! when the request is decided, unless that made the order: then the claim is the order's own, given back when the order is
//! forgotten. So two requests for one new order, whose lines lie in different shards, meet in one shard, and a
//! refused order leaves nothing behind.
//!
//! With one shard there is nothing to know, and the directory keeps nothing: a second table of all orders would cost
//! a quarter of the time of a reserve.

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::ids::{OrderNo, ShardId};

/// Parts of the map, each of which grows alone: at ten million orders a part has ten thousand and grows in some 0.2 ms.
const PARTS: usize = 1024;

/// order_no → home shard.
#[derive(Debug)]
pub struct Directory {
    /// `None`: there is one shard.
    homes: Option<DashMap<OrderNo, Home, RandomState>>,
}

#[derive(Debug, Clone, Copy)]
struct Home {
    shard: ShardId,
    claims: u32,
}

/// The shard of a directory that needs no entries.
const ONLY: ShardId = ShardId(0);

impl Directory {
    /// For this many shards.
    pub fn new(shards: u16) -> Self {
        let map = || DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), PARTS);
        Self { homes: (shards > 1).then(map) }
    }

    /// Takes a claim and gives the order's home: `wanted`, or where it is already.
    pub fn claim(&self, order_no: &OrderNo, wanted: ShardId) -> ShardId {
        let Some(homes) = &self.homes else { return ONLY };
        let mut home = homes.entry(order_no.clone()).or_insert(Home { shard: wanted, claims: 0 });
        home.claims = home.claims.saturating_add(1);
        home.shard
    }

    /// Takes a claim if the order has a home.
    pub fn claim_known(&self, order_no: &OrderNo) -> Option<ShardId> {
        let Some(homes) = &self.homes else { return Some(ONLY) };
        let mut home = homes.get_mut(order_no)?;
        home.claims = home.claims.saturating_add(1);
        Some(home.shard)
    }

    /// The home of the order, without a claim.
    pub fn home(&self, order_no: &OrderNo) -> Option<ShardId> {
        let Some(homes) = &self.homes else { return Some(ONLY) };
        homes.get(order_no).map(|home| home.shard)
    }

    /// Gives a claim back; the last one closes the entry.
    pub fn give_back(&self, order_no: &OrderNo) {
        let Some(homes) = &self.homes else { return };
        let last = |_: &OrderNo, home: &mut Home| {
            home.claims = home.claims.saturating_sub(1);
            home.claims == 0
        };
        homes.remove_if_mut(order_no, last);
    }

    /// Orders that have an entry.
    pub fn len(&self) -> usize {
        self.homes.as_ref().map_or(0, DashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_decides_and_the_last_give_back_closes() {
        let directory = Directory::new(8);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim_known(&order), None);
        assert_eq!(directory.claim(&order, ShardId(3)), ShardId(3));
        assert_eq!(directory.claim(&order, ShardId(5)), ShardId(3), "the home stays where it is");
        directory.give_back(&order);
        assert_eq!(directory.home(&order), Some(ShardId(3)), "one claim is left");
        directory.give_back(&order);
        assert_eq!(directory.home(&order), None);
        assert_eq!(directory.claim(&order, ShardId(5)), ShardId(5));
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn one_shard_needs_no_entries() {
        let directory = Directory::new(1);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, ShardId(0)), ShardId(0));
        assert_eq!(directory.home(&order), Some(ShardId(0)));
        assert_eq!(directory.len(), 0);
    }
}
