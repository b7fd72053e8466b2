//! Stocks that changed since they were last taken: what stands between those who change stock and those who follow
//! with the newest levels (the Redis mirror). One entry per stock, however often it changes: whoever follows may be
//! slow or away, nobody waits for it, and memory has a bound.
//!
//! Why no change is lost: whoever marks puts the entry in under the lock of its part and only then notifies, which
//! leaves a permit when nobody waits. Whoever follows consumes the permit first and then goes through all parts, so
//! it meets every entry that a consumed permit stood for. An update of an entry that is still there needs no permit
//! of its own: the one of the entry is either not consumed yet or its consumer has not come to the entry. A `take`
//! that fills up may leave entries behind: it is called again until it gives fewer than it was asked for.

use std::hash::BuildHasher;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tokio::sync::Notify;

use crate::base::ids::{SkuId, WarehouseId};
use crate::base::sync::unpoisoned;
use crate::contract::outcome::StockView;

/// Parts with a lock each: the journal writer and the cold path seldom meet the follower in the same one.
const PARTS: usize = 64;

const _: () = assert!(PARTS.is_power_of_two());

/// See the top of the file.
#[derive(Debug)]
pub struct Dirty {
    max: usize,
    len: AtomicUsize,
    overflow: AtomicBool,
    changed: Notify,
    hasher: foldhash::fast::RandomState,
    parts: Box<[Mutex<HashTable<StockView>>]>,
    leaving: Mutex<Leaving>,
}

/// What was taken out of a part and not handed on yet.
#[derive(Debug, Default)]
struct Leaving {
    left: Vec<StockView>,
    /// The part that is emptied next: they take turns, so that stocks which change all the time don't keep others
    /// waiting.
    next: usize,
    /// Empty; swapped with a part, which is all that happens under its lock.
    spare: HashTable<StockView>,
}

impl Dirty {
    /// Empty; keeps at most `max` stocks (about 100 bytes each).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            len: AtomicUsize::new(0),
            overflow: AtomicBool::new(false),
            changed: Notify::new(),
            hasher: foldhash::fast::RandomState::default(),
            parts: (0..PARTS).map(|_| Mutex::new(HashTable::new())).collect(),
            leaving: Mutex::default(),
        }
    }

    /// Notes a change. Of two changes of one stock the one with the higher version stays. When there is no room for
    /// another stock, the change is dropped and [`Self::take_overflow`] will say so. Never waits for those who take,
    /// but for the swap of two pointers.
    pub fn mark(&self, stock: StockView) {
        let hash = self.hash(&stock.sku_id, stock.warehouse_id);
        let is_same =
            |other: &StockView| other.warehouse_id == stock.warehouse_id && other.sku_id == stock.sku_id;
        let rehash = |other: &StockView| self.hash(&other.sku_id, other.warehouse_id);
        let mut part = unpoisoned(self.parts[part_of(hash)].lock());
        match part.entry(hash, is_same, rehash) {
            Entry::Occupied(mut entry) => {
                if entry.get().levels.version < stock.levels.version {
                    *entry.get_mut() = stock;
                }
                return;
            }
            // Counted before it is there, so that the bound holds with any number of callers.
            Entry::Vacant(entry) if self.len.fetch_add(1, Ordering::Relaxed) < self.max => {
                entry.insert(stock);
            }
            Entry::Vacant(_) => {
                self.len.fetch_sub(1, Ordering::Relaxed);
                // Release: whoever sees the flag looks at the stocks as they were changed before.
                self.overflow.store(true, Ordering::Release);
            }
        }
        drop(part);
        self.changed.notify_one();
    }

    /// Takes up to `max` stocks. When it gives `max`, there may be more; when it gives fewer, all that was marked
    /// before the call is taken. A stock that changes meanwhile may be named twice, the newer one later.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<StockView> {
        let mut leaving = unpoisoned(self.leaving.lock());
        let Leaving { left, next, spare } = &mut *leaving;
        let mut taken = Vec::new();
        let mut emptied = 0;
        loop {
            let count = left.len().min(max - taken.len());
            taken.extend(left.drain(left.len() - count..));
            if taken.len() == max || emptied == PARTS {
                break;
            }
            std::mem::swap(&mut *unpoisoned(self.parts[*next].lock()), spare);
            left.extend(spare.drain());
            *next = (*next + 1) % PARTS;
            emptied += 1;
        }
        self.len.fetch_sub(taken.len(), Ordering::Relaxed);
        taken
    }

    /// Whether a change was dropped since this was last asked. Then every stock must be looked at again, from a
    /// moment after this call.
    #[must_use]
    pub fn take_overflow(&self) -> bool {
        self.overflow.swap(false, Ordering::AcqRel)
    }

    /// Stocks that wait to be taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until a stock was added or dropped since the last wait of this kind ended. For one who waits; it may end
    /// without need.
    pub async fn notified(&self) {
        self.changed.notified().await;
    }

    fn hash(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> u64 {
        self.hasher.hash_one((sku_id, warehouse_id))
    }
}

/// The tables use the lowest and the highest bits of the hash, this some between.
fn part_of(hash: u64) -> usize {
    usize::try_from((hash >> 40) % PARTS as u64).expect("below PARTS")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::contract::command::StockStatus;
    use crate::contract::units::Levels;

    fn stock(sku: &str, warehouse: u32, version: u64) -> StockView {
        let levels = Levels { available: version * 10, reserved: 0, sold: 0, version };
        let (sku_id, warehouse_id) = (SkuId::new(sku).unwrap(), WarehouseId(warehouse));
        StockView { sku_id, warehouse_id, levels, status: StockStatus::OnSale, serialized: false }
    }

    fn versions(taken: &[StockView]) -> Vec<(String, u32, u64)> {
        let mut all: Vec<_> =
            taken.iter().map(|s| (s.sku_id.to_string(), s.warehouse_id.0, s.levels.version)).collect();
        all.sort();
        all
    }

    #[test]
    fn the_newest_version_of_each_stock_is_taken_once() {
        let dirty = Dirty::new(10);
        for (sku, warehouse, version) in [("a", 1, 1), ("a", 1, 3), ("a", 1, 2), ("a", 2, 1), ("b", 1, 7)] {
            dirty.mark(stock(sku, warehouse, version));
        }
        assert_eq!(dirty.len(), 3);
        let expected = [("a".to_owned(), 1, 3), ("a".to_owned(), 2, 1), ("b".to_owned(), 1, 7)];
        assert_eq!(versions(&dirty.take(10)), expected);
        assert!(dirty.take(10).is_empty() && dirty.is_empty());
        // What failed on its way is marked again and does not replace what came meanwhile.
        dirty.mark(stock("a", 1, 5));
        dirty.mark(stock("a", 1, 3));
        assert_eq!(versions(&dirty.take(10)), [("a".to_owned(), 1, 5)]);
    }

    #[test]
    fn over_its_bound_it_says_that_something_was_dropped() {
        let dirty = Dirty::new(3);
        for number in 0..5 {
            dirty.mark(stock(&format!("s{number}"), 1, 1));
        }
        assert_eq!(dirty.len(), 3);
        assert!(dirty.take_overflow());
        assert!(!dirty.take_overflow());
        // One that is there is still kept up to date.
        dirty.mark(stock("s0", 1, 2));
        assert!(!dirty.take_overflow());
        let taken = dirty.take(10);
        assert_eq!(taken.len(), 3);
        assert!(taken.contains(&stock("s0", 1, 2)));
        dirty.mark(stock("s9", 1, 1));
        assert!(!dirty.take_overflow());
    }

    #[test]
    fn stocks_that_change_all_the_time_do_not_keep_others_waiting() {
        let dirty = Dirty::new(1_000);
        let names: Vec<String> = (0..500).map(|number| format!("s{number}")).collect();
        let mut taken = HashMap::new();
        for version in 1..=200 {
            for name in &names {
                dirty.mark(stock(name, 1, version));
            }
            for stock in dirty.take(10) {
                *taken.entry(stock.sku_id.to_string()).or_insert(0) += 1;
            }
        }
        assert_eq!(taken.len(), names.len(), "each had its turn");
    }

    /// Several mark, one follows on the notifications alone: in the end it has the last version of each.
    #[test]
    fn no_wake_up_is_lost() {
        const WRITERS: usize = 3;
        const VERSIONS: u64 = 3_000;
        let dirty = Arc::new(Dirty::new(100));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let dirty = Arc::clone(&dirty);
                std::thread::spawn(move || {
                    for version in 1..=VERSIONS {
                        dirty.mark(stock(&format!("w{writer}-{}", version % 7), 1, version));
                        if version % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            let mut newest: HashMap<(String, u32), u64> = HashMap::new();
            // Ends when the last version of every stock was seen; a lost wake-up would hang here.
            while newest.values().filter(|version| **version > VERSIONS - 7).count() < 7 * WRITERS {
                dirty.notified().await;
                loop {
                    let taken = dirty.take(4);
                    for stock in &taken {
                        let seen =
                            newest.entry((stock.sku_id.to_string(), stock.warehouse_id.0)).or_default();
                        assert!(stock.levels.version > *seen, "an older one came after a newer one");
                        *seen = stock.levels.version;
                    }
                    if taken.len() < 4 {
                        break;
                    }
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(dirty.take(100).is_empty() && dirty.is_empty());
    }
}
