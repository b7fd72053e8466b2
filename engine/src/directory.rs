//! Which place is the home of an order: claimed by the first request that names it, known until the order is forgotten.
//!
//! An entry counts its claims. Every request that could make the order takes one on its way in; it is given back when the
//! request is decided. When that made the order, the entry becomes the order's own and stays until the order is
//! forgotten. So two requests for one new order, whose lines lie in different places, meet in one, and a refused order leaves
//! nothing behind.
//!
//! With one shard the shard itself knows which orders there are, and a second table of all orders would cost a quarter of
//! the time of a reserve: there are entries only while a request is under way, and without a store none at all.
//!
//! An order over several places has an entry for as long as its home knows it, which says that it is one: also with one shard
//! and a store. Its branches have none: each is where its SKU is.

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;

use crate::ids::{OrderNo, ShardId};

/// Parts of the map, each of which grows alone: at ten million orders a part has ten thousand and grows in some 0.2 ms.
const PARTS: usize = 1024;

/// order_no → home.
#[derive(Debug)]
pub struct Directory {
    /// `None`: there is one shard and no store.
    homes: Option<DashMap<OrderNo, Known, RandomState>>,
    /// Orders keep an entry of their own: there are several shards.
    keeps: bool,
}

/// Where an order is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In a shard.
    Shard(ShardId),
    /// In the store; only while a request is under way that could make the order there.
    Cold,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    home: Home,
    /// Requests under way.
    claims: u32,
    /// The order is there.
    own: bool,
    /// It lies in several places.
    spans: bool,
    /// Units of it are just being held in several places.
    attempted: bool,
}

/// What [`Directory::claim`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// The order's home.
    pub home: Home,
    /// The order is known to be there; otherwise only requests that are under way say so.
    pub is_there: bool,
    /// Its units are just being held in several places: whether it is made is not decided yet.
    pub is_attempted: bool,
}

/// The home of an order that needs no entry.
const ONLY: Home = Home::Shard(ShardId(0));

impl Directory {
    /// For this many shards, with a store or without.
    pub fn new(shards: u16, store: bool) -> Self {
        let map = || DashMap::with_capacity_and_hasher_and_shard_amount(0, RandomState::default(), PARTS);
        Self { homes: (shards > 1 || store).then(map), keeps: shards > 1 }
    }

    /// Takes a claim and gives the order's home: `wanted`, or where it is already.
    pub fn claim(&self, order_no: &OrderNo, wanted: Home) -> Home {
        self.look_and_claim(order_no, wanted).home
    }

    /// As [`Directory::claim`]; tells also whether the order is there.
    pub fn look_and_claim(&self, order_no: &OrderNo, wanted: Home) -> Claimed {
        let Some(homes) = &self.homes else { return Claimed { home: ONLY, is_there: false, is_attempted: false } };
        let new = Known { home: wanted, claims: 0, own: false, spans: false, attempted: false };
        let mut known = homes.entry(order_no.clone()).or_insert(new);
        known.claims = known.claims.saturating_add(1);
        Claimed { home: known.home, is_there: known.own, is_attempted: known.attempted }
    }

    /// Whoever holds a claim begins to hold units of the order in several places, or has ended it.
    pub fn set_attempted(&self, order_no: &OrderNo, attempted: bool) {
        self.change(order_no, |known| known.attempted = attempted);
    }

    /// Whether an order that has no entry may be in a shard all the same.
    pub fn is_silent(&self) -> bool {
        !self.keeps
    }

    /// Whether an order is known to lie in several places.
    pub fn spans(&self, order_no: &OrderNo) -> bool {
        self.homes.as_ref().is_some_and(|homes| homes.get(order_no).is_some_and(|known| known.spans))
    }

    /// The home of the order, without a claim. With one shard that is it, unless a request says otherwise just now.
    pub fn home(&self, order_no: &OrderNo) -> Option<Home> {
        let Some(homes) = &self.homes else { return Some(ONLY) };
        homes.get(order_no).map(|known| known.home).or((!self.keeps).then_some(ONLY))
    }

    /// Gives a claim back; the last one closes the entry of an order that was not made.
    pub fn give_back(&self, order_no: &OrderNo) {
        self.change(order_no, |known| known.claims = known.claims.saturating_sub(1));
    }

    /// A claim led to the order: it is given back, and the entry is the order's own.
    pub fn made(&self, order_no: &OrderNo) {
        self.change(order_no, |known| {
            known.claims = known.claims.saturating_sub(1);
            known.own = self.keeps;
        });
    }

    /// The order is in this shard, whatever requests under way believe.
    pub fn own(&self, order_no: &OrderNo, shard: ShardId) {
        if self.keeps {
            self.put(order_no, shard, false);
        }
    }

    /// The order lies in several places and this shard is its home.
    pub fn own_spanning(&self, order_no: &OrderNo, shard: ShardId) {
        self.put(order_no, shard, true);
    }

    fn put(&self, order_no: &OrderNo, shard: ShardId, spans: bool) {
        let Some(homes) = &self.homes else { return };
        let home = Home::Shard(shard);
        match homes.entry(order_no.clone()) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                (known.home, known.own, known.spans) = (home, true, spans);
            }
            Entry::Vacant(entry) => {
                entry.insert(Known { home, claims: 0, own: true, spans, attempted: false });
            }
        }
    }

    /// The order is not in its shard any more, or was not made after all.
    pub fn forget(&self, order_no: &OrderNo) {
        self.change(order_no, |known| (known.own, known.spans) = (false, false));
    }

    fn change(&self, order_no: &OrderNo, change: impl FnOnce(&mut Known)) {
        let Some(homes) = &self.homes else { return };
        homes.remove_if_mut(order_no, |_, known| {
            change(known);
            known.claims == 0 && !known.own
        });
    }

    /// Orders that have an entry.
    pub fn len(&self) -> usize {
        self.homes.as_ref().map_or(0, DashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(shard: u16) -> Home {
        Home::Shard(ShardId(shard))
    }

    #[test]
    fn the_first_claim_decides_and_the_last_give_back_closes() {
        let directory = Directory::new(8, false);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.home(&order), None);
        assert_eq!(directory.claim(&order, at(3)), at(3));
        assert_eq!(directory.claim(&order, at(5)), at(3), "the home stays where it is");
        directory.give_back(&order);
        assert_eq!(directory.home(&order), Some(at(3)), "one claim is left");
        directory.give_back(&order);
        assert_eq!(directory.home(&order), None);
        assert_eq!(directory.claim(&order, Home::Cold), Home::Cold);
        assert_eq!(directory.claim(&order, at(5)), Home::Cold);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn an_order_that_was_made_keeps_its_home_until_it_is_forgotten() {
        let directory = Directory::new(8, true);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, at(3)), at(3));
        assert_eq!(directory.claim(&order, at(3)), at(3));
        directory.made(&order);
        directory.give_back(&order);
        assert_eq!(directory.home(&order), Some(at(3)));
        directory.own(&order, ShardId(4));
        directory.own(&order, ShardId(4));
        assert_eq!(directory.home(&order), Some(at(4)));
        directory.forget(&order);
        assert_eq!((directory.home(&order), directory.len()), (None, 0));
    }

    #[test]
    fn one_shard_needs_no_entries() {
        let directory = Directory::new(1, false);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.claim(&order, at(0)), at(0));
        assert_eq!(directory.home(&order), Some(at(0)));
        assert_eq!(directory.len(), 0);
    }

    #[test]
    fn one_shard_with_a_store_has_entries_for_requests_under_way_only() {
        let directory = Directory::new(1, true);
        let order = OrderNo::new("o").unwrap();
        assert_eq!(directory.home(&order), Some(at(0)));
        assert_eq!(directory.claim(&order, Home::Cold), Home::Cold);
        assert_eq!(directory.home(&order), Some(Home::Cold));
        directory.own(&order, ShardId(0));
        directory.forget(&order);
        assert_eq!(directory.len(), 1, "the claim of the request is still there");
        directory.made(&order);
        assert_eq!((directory.home(&order), directory.len()), (Some(at(0)), 0));
    }

    #[test]
    fn an_order_over_several_places_has_an_entry_also_with_one_shard() {
        let directory = Directory::new(1, true);
        let order = OrderNo::new("o").unwrap();
        let claimed = directory.look_and_claim(&order, at(0));
        assert_eq!(claimed, Claimed { home: at(0), is_there: false, is_attempted: false });
        directory.own_spanning(&order, ShardId(0));
        directory.give_back(&order);
        assert!(directory.spans(&order));
        assert_eq!(directory.look_and_claim(&order, Home::Cold), Claimed { home: at(0), is_there: true, is_attempted: false });
        directory.forget(&order);
        assert!(!directory.spans(&order));
        directory.give_back(&order);
        assert_eq!(directory.len(), 0);
    }
}
