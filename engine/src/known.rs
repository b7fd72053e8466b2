//! The filter of known numbers: all order numbers, branch numbers and stock request ids that have *left memory* and
//! may be in the store. It answers "surely new" in some nanoseconds; on "maybe known" the order is read from the
//! store before anything is decided.
//!
//! It never says "surely new" of a number that left memory (no false negatives). About one new number in a thousand
//! per generation is taken for a known one, which costs a look into the store and nothing else.
//!
//! - **Generations.** A filter can't grow, so a full one is followed by another. Each knows the newest time of what
//!   is in it: when the store has pruned everything up to that time, it goes ([`Known::pruned`]). There are at most
//!   [`MAX_GENERATIONS`]; once the last one is full, numbers still go into it, and it says "maybe" ever more often.
//! - **Kept.** Generations that changed are saved before a checkpoint is finished. What leaves memory later is in the
//!   journal behind the checkpoint, and is put in again by the replay.
//! - **Missing or damaged**, it says "maybe" of everything until a scan of the store has filled it again ([`rebuild`]).
//!
//! Keys are XXH3-64 of the id, with one seed for orders and another for requests: frozen, because they are kept. How
//! a generation makes its bits of a key is fastbloom's, whose version is pinned for that reason.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use fastbloom::AtomicBloomFilter;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::backoff::Backoff;
use crate::checkpoint::FilterStore;
use crate::clock::Timestamp;
use crate::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId};
use crate::limits::{
    KNOWN_FALSE_POSITIVES, KNOWN_FIRST_CAPACITY, KNOWN_MAX_CAPACITY, KNOWN_PAGE, MAX_GENERATIONS,
};
use crate::state::Departed;
use crate::store::{StoreError, Watermark};
use crate::store_link::StoreLink;
use crate::sync::unpoisoned;

/// The seeds that keep the kinds of keys apart.
const ORDERS: u64 = 1;
const REQUESTS: u64 = 2;

/// The first byte of a generation that is kept.
const FORMAT: u8 = 1;

/// See the top of the file.
pub(crate) struct Known {
    store: Arc<dyn FilterStore>,
    /// Oldest first; the last takes what is added. Never empty.
    generations: RwLock<Vec<Arc<Generation>>>,
    /// Everything that left memory is in it.
    ready: AtomicBool,
    /// There is no room for another generation.
    full: AtomicBool,
}

struct Generation {
    /// Where it is kept: below [`MAX_GENERATIONS`], unique among those that there are.
    slot: u32,
    /// Counts the generations of a data directory.
    sequence: u64,
    capacity: u64,
    bits: AtomicBloomFilter,
    count: AtomicU64,
    /// The newest time of anything in it.
    newest: AtomicU64,
    /// It changed since it was saved.
    dirty: AtomicBool,
}

/// What the filter says of itself, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownStats {
    /// It knows everything that left memory; otherwise it is being filled from the store, and new numbers are looked
    /// up there.
    pub is_ready: bool,
    /// There is no room for another generation: new numbers are ever more often looked up in the store.
    pub is_full: bool,
    /// Numbers in it.
    pub numbers: u64,
    /// Generations.
    pub generations: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

impl Known {
    /// Takes what is kept. `is_new`: nothing has left memory before what is replayed now, so an empty filter is right.
    pub fn load(store: Arc<dyn FilterStore>, is_new: bool) -> Self {
        let read = store
            .load()
            .and_then(|blobs| blobs.iter().map(|(slot, bytes)| Generation::decode(*slot, bytes)).collect());
        let mut generations: Vec<Arc<Generation>> = match read {
            Ok(generations) => generations,
            Err(problem) => {
                tracing::warn!(
                    problem,
                    "the filter of known numbers is damaged; it is filled again from the store"
                );
                for slot in 0..MAX_GENERATIONS {
                    drop(store.remove(slot));
                }
                Vec::new()
            }
        };
        let ready = !generations.is_empty() || is_new;
        generations.sort_by_key(|generation| generation.sequence);
        if generations.is_empty() {
            generations.push(Arc::new(Generation::new(0, 1, KNOWN_FIRST_CAPACITY)));
        }
        Self {
            store,
            generations: RwLock::new(generations),
            ready: AtomicBool::new(ready),
            full: AtomicBool::new(false),
        }
    }

    /// Whether everything that left memory is in it. Otherwise it has to be [rebuilt](rebuild).
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the store may have this order, or branch.
    pub fn may_have_order(&self, order_no: &OrderNo) -> bool {
        self.may_have(order_key(order_no))
    }

    /// Whether the store may have this request of a SKU.
    pub fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        self.may_have(request_key(sku_id, request_id))
    }

    /// An order, or branch, leaves memory.
    pub fn add_order(&self, order_no: &OrderNo, at: Timestamp) {
        self.add(order_key(order_no), at);
    }

    /// A request of a SKU leaves memory.
    pub fn add_request(&self, sku_id: &SkuId, request_id: &RequestId, at: Timestamp) {
        self.add(request_key(sku_id, request_id), at);
    }

    /// What left memory in a replay: the filter may have been saved before that.
    pub fn add_departed(&self, departed: Vec<Departed>, now: Timestamp) {
        for departed in departed {
            match departed {
                Departed::Order(order_no) => self.add_order(&order_no, now),
                Departed::Request(sku_id, request_id) => self.add_request(&sku_id, &request_id, now),
            }
        }
    }

    fn may_have(&self, key: u64) -> bool {
        !self.is_ready()
            || unpoisoned(self.generations.read()).iter().any(|generation| generation.bits.contains_hash(key))
    }

    fn add(&self, key: u64, at: Timestamp) {
        let is_last_full = {
            let generations = unpoisoned(self.generations.read());
            let Some(last) = generations.last() else { return };
            // Only the last one is looked at: an older one may say so by mistake, and goes earlier.
            if !last.bits.insert_hash(key) {
                last.count.fetch_add(1, Ordering::Relaxed);
            }
            last.newest.fetch_max(at.0, Ordering::Relaxed);
            // Behind the bits: who saves takes the mark first and then the bits.
            last.dirty.store(true, Ordering::Release);
            last.is_full()
        };
        if is_last_full && !self.full.load(Ordering::Relaxed) {
            self.begin_generation();
        }
    }

    fn begin_generation(&self) {
        let mut generations = unpoisoned(self.generations.write());
        let Some(last) = generations.last().filter(|last| last.is_full()) else { return };
        let (sequence, capacity) = (last.sequence + 1, (last.capacity * 4).min(KNOWN_MAX_CAPACITY));
        let is_free = |slot: &u32| generations.iter().all(|generation| generation.slot != *slot);
        match (0..MAX_GENERATIONS).find(is_free) {
            Some(slot) => generations.push(Arc::new(Generation::new(slot, sequence, capacity))),
            None if self.full.swap(true, Ordering::Relaxed) => {}
            None => tracing::warn!(
                "the filter of known numbers is full: new order numbers are looked up in the store ever more often"
            ),
        }
    }

    /// The store has pruned everything that last changed before this: generations without anything newer go.
    pub fn pruned(&self, before: Timestamp) {
        let mut gone = Vec::new();
        {
            let mut generations = unpoisoned(self.generations.write());
            // The last one takes what is added.
            while generations.len() > 1 && generations[0].newest.load(Ordering::Relaxed) < before.0 {
                gone.push(generations.remove(0));
            }
            if !gone.is_empty() {
                self.full.store(false, Ordering::Relaxed);
            }
        }
        for generation in gone {
            if let Err(problem) = self.store.remove(generation.slot) {
                tracing::warn!(
                    problem,
                    "a generation of known numbers that is not needed any more can't be removed"
                );
            }
        }
    }

    /// Saves what changed. Waits for the disk; called by the checkpoint thread before a checkpoint is finished.
    ///
    /// # Errors
    /// What went wrong: the checkpoint must not be finished.
    pub fn save(&self) -> Result<(), String> {
        if !self.is_ready() {
            // What is kept must be complete. Without it the next start fills it again.
            return Ok(());
        }
        let generations: Vec<_> = unpoisoned(self.generations.read()).clone();
        for generation in generations {
            if generation.dirty.swap(false, Ordering::AcqRel)
                && let Err(problem) = self.store.save(generation.slot, &generation.encode())
            {
                generation.dirty.store(true, Ordering::Release);
                return Err(problem);
            }
        }
        Ok(())
    }

    /// For metrics.
    pub fn stats(&self) -> KnownStats {
        let generations = unpoisoned(self.generations.read());
        KnownStats {
            is_ready: self.is_ready(),
            is_full: self.full.load(Ordering::Relaxed),
            numbers: generations.iter().map(|generation| generation.count.load(Ordering::Relaxed)).sum(),
            generations: generations.len() as u64,
            bytes: generations.iter().map(|generation| generation.bits.num_bits() as u64 / 8).sum(),
        }
    }
}

impl Generation {
    /// Empty; kept by the next save even if nothing is added, so that an empty filter is not taken for a missing one.
    fn new(slot: u32, sequence: u64, capacity: u64) -> Self {
        let expected = usize::try_from(capacity).unwrap_or(usize::MAX);
        let bits = AtomicBloomFilter::with_false_pos(KNOWN_FALSE_POSITIVES).seed(&0).expected_items(expected);
        Self {
            slot,
            sequence,
            capacity,
            bits,
            count: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            dirty: AtomicBool::new(true),
        }
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.capacity
    }

    /// Format, then as little-endian numbers: sequence, capacity, count, newest, hashes of each key, the bits; and
    /// XXH3-64 of all that.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.bits.num_bits() / 8);
        bytes.push(FORMAT);
        let (count, newest) = (self.count.load(Ordering::Relaxed), self.newest.load(Ordering::Relaxed));
        for number in [self.sequence, self.capacity, count, newest, u64::from(self.bits.num_hashes())] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for word in self.bits.iter() {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(slot: u32, bytes: &[u8]) -> Result<Arc<Self>, String> {
        let damaged = || format!("generation {slot} is damaged");
        let (bytes, sum) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
        if xxh3_64(bytes) != u64::from_le_bytes(*sum) {
            return Err(damaged());
        }
        let (format, bytes) = bytes.split_first().ok_or_else(damaged)?;
        if *format != FORMAT {
            return Err(format!("generation {slot} is of format {format}, this program reads {FORMAT}"));
        }
        let (words, []) = bytes.as_chunks::<8>() else { return Err(damaged()) };
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut number = || words.next().ok_or_else(damaged);
        let [sequence, capacity, count, newest, hashes] =
            [number()?, number()?, number()?, number()?, number()?];
        let bits: Vec<u64> = words.collect();
        let hashes = u32::try_from(hashes)
            .ok()
            .filter(|hashes| *hashes > 0 && !bits.is_empty())
            .ok_or_else(damaged)?;
        Ok(Arc::new(Self {
            slot,
            sequence,
            capacity,
            bits: AtomicBloomFilter::from_vec(bits).seed(&0).hashes(hashes),
            count: AtomicU64::new(count),
            newest: AtomicU64::new(newest),
            dirty: AtomicBool::new(false),
        }))
    }
}

fn order_key(order_no: &OrderNo) -> u64 {
    xxh3_64_with_seed(order_no.as_str().as_bytes(), ORDERS)
}

fn request_key(sku_id: &SkuId, request_id: &RequestId) -> u64 {
    // Two ids and the mark between them.
    let mut bytes: SmallVec<[u8; 256]> = SmallVec::from_slice(sku_id.as_str().as_bytes());
    // Stands between the two because neither has control characters.
    bytes.push(0x1f);
    bytes.extend_from_slice(request_id.as_str().as_bytes());
    xxh3_64_with_seed(&bytes, REQUESTS)
}

/// Fills a filter that is missing or damaged from the store; tries again for as long as it takes. `departed`: the
/// last change of anything that left the memory of each shard. What leaves meanwhile is added by its shard.
pub(crate) async fn rebuild(
    known: &Arc<Known>,
    link: &StoreLink,
    departed: impl Fn() -> Vec<(ShardId, Lsn)>,
) {
    let mut backoff = Backoff::default();
    loop {
        match scan(known, link, &departed()).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "known numbers can't be read from the store yet"),
        }
        tokio::time::sleep(backoff.next()).await;
    }
    known.ready.store(true, Ordering::Release);
    let numbers = known.stats().numbers;
    tracing::info!(numbers, "the filter of known numbers was filled from the store");
    let saver = Arc::clone(known);
    match tokio::task::spawn_blocking(move || saver.save()).await {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => tracing::warn!(
            problem,
            "the filter of known numbers can't be saved; the next checkpoint tries again"
        ),
        Err(error) => {
            tracing::warn!(%error, "the filter of known numbers can't be saved; the next checkpoint tries again")
        }
    }
}

/// Adds everything that the store has. `false`: the store does not have everything yet that left memory, or went back
/// in time meanwhile.
async fn scan(known: &Known, link: &StoreLink, departed: &[(ShardId, Lsn)]) -> Result<bool, StoreError> {
    let store = link.store();
    let before = link.noted(store.ownership().await)?.watermarks;
    if !reaches(&before, departed) {
        return Ok(false);
    }
    let mut after: Option<OrderNo> = None;
    loop {
        let page = link.noted(store.order_numbers(after.as_ref(), KNOWN_PAGE).await)?;
        page.iter().for_each(|(order_no, at)| known.add_order(order_no, *at));
        if page.len() < KNOWN_PAGE {
            break;
        }
        after = page.into_iter().next_back().map(|(order_no, _)| order_no);
    }
    let mut after: Option<(SkuId, RequestId)> = None;
    loop {
        let page = link.noted(store.request_ids(after.as_ref(), KNOWN_PAGE).await)?;
        page.iter().for_each(|(sku_id, request_id, at)| known.add_request(sku_id, request_id, *at));
        if page.len() < KNOWN_PAGE {
            break;
        }
        after = page.into_iter().next_back().map(|(sku_id, request_id, _)| (sku_id, request_id));
    }
    let since: Vec<_> = before.iter().map(|mark| (mark.shard, mark.lsn)).collect();
    Ok(reaches(&link.noted(store.ownership().await)?.watermarks, &since))
}

fn reaches(watermarks: &[Watermark], marks: &[(ShardId, Lsn)]) -> bool {
    let flushed =
        |shard| watermarks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn);
    marks.iter().all(|(shard, lsn)| flushed(*shard) >= *lsn)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Blobs {
        blobs: Mutex<BTreeMap<u32, Vec<u8>>>,
        fails: AtomicBool,
    }

    impl FilterStore for Blobs {
        fn save(&self, generation: u32, bytes: &[u8]) -> Result<(), String> {
            if self.fails.load(Ordering::Relaxed) {
                return Err("no room".to_owned());
            }
            self.blobs.lock().unwrap().insert(generation, bytes.to_vec());
            Ok(())
        }

        fn load(&self) -> Result<Vec<(u32, Vec<u8>)>, String> {
            Ok(self.blobs.lock().unwrap().clone().into_iter().collect())
        }

        fn remove(&self, generation: u32) -> Result<(), String> {
            self.blobs.lock().unwrap().remove(&generation);
            Ok(())
        }
    }

    fn order(n: u64) -> OrderNo {
        OrderNo::new(&format!("ORD-{n}")).unwrap()
    }

    fn request(n: u64) -> (SkuId, RequestId) {
        (SkuId::new(&format!("S{}", n % 7)).unwrap(), RequestId::new(&format!("R-{n}")).unwrap())
    }

    fn fill(known: &Known, from: u64, to: u64) {
        for n in from..to {
            known.add_order(&order(n), Timestamp(n));
            let (sku_id, request_id) = request(n);
            known.add_request(&sku_id, &request_id, Timestamp(n));
        }
    }

    fn knows_all(known: &Known, from: u64, to: u64) -> bool {
        (from..to).all(|n| {
            let (sku_id, request_id) = request(n);
            known.may_have_order(&order(n)) && known.may_have_request(&sku_id, &request_id)
        })
    }

    #[test]
    fn what_left_is_known_over_generations_and_reloads_and_little_else() {
        let blobs = Arc::new(Blobs::default());
        let count = KNOWN_FIRST_CAPACITY * 2;
        let known = Known::load(Arc::clone(&blobs) as _, true);
        fill(&known, 0, count);
        assert!(known.stats().generations > 1 && knows_all(&known, 0, count));
        known.save().unwrap();
        let known = Known::load(Arc::clone(&blobs) as _, false);
        assert!(known.is_ready() && knows_all(&known, 0, count), "no false negatives after a reload");
        let wrong = (count..count * 3).filter(|n| known.may_have_order(&order(*n))).count();
        assert!(
            (wrong as u64) < count / 100,
            "{wrong} of {} new numbers are taken for known ones",
            count * 2
        );
        // It goes on where it was.
        fill(&known, count, count + 100);
        known.save().unwrap();
        assert!(knows_all(&Known::load(blobs, false), 0, count + 100));
    }

    #[test]
    fn kinds_of_keys_are_kept_apart() {
        let known = Known::load(Arc::new(Blobs::default()), true);
        known.add_order(&OrderNo::new("x").unwrap(), Timestamp(1));
        let id = |text: &str| RequestId::new(text).unwrap();
        let sku = |text: &str| SkuId::new(text).unwrap();
        known.add_request(&sku("ab"), &id("c"), Timestamp(1));
        assert!(
            !known.may_have_request(&sku("a"), &id("bc"))
                && !known.may_have_order(&OrderNo::new("abc").unwrap())
        );
    }

    #[test]
    fn what_is_missing_or_damaged_is_maybe_known() {
        let blobs = Arc::new(Blobs::default());
        assert!(!Known::load(Arc::clone(&blobs) as _, true).may_have_order(&order(1)), "a new directory");
        let known = Known::load(Arc::clone(&blobs) as _, false);
        assert!(!known.is_ready() && known.may_have_order(&order(1)), "missing");
        known.save().unwrap();
        assert!(blobs.blobs.lock().unwrap().is_empty(), "what is not complete is not kept");
        // An empty one that was kept is not missing.
        Known::load(Arc::clone(&blobs) as _, true).save().unwrap();
        assert!(Known::load(Arc::clone(&blobs) as _, false).is_ready());
        blobs.blobs.lock().unwrap().get_mut(&0).unwrap()[100] ^= 1;
        let known = Known::load(Arc::clone(&blobs) as _, false);
        assert!(!known.is_ready() && known.may_have_order(&order(1)), "damaged");
        assert!(blobs.blobs.lock().unwrap().is_empty(), "what is damaged goes");
    }

    #[test]
    fn a_save_that_fails_is_done_again() {
        let blobs = Arc::new(Blobs::default());
        let known = Known::load(Arc::clone(&blobs) as _, true);
        fill(&known, 0, 10);
        blobs.fails.store(true, Ordering::Relaxed);
        assert!(known.save().is_err());
        blobs.fails.store(false, Ordering::Relaxed);
        known.save().unwrap();
        assert!(knows_all(&Known::load(blobs, false), 0, 10));
    }

    #[test]
    fn generations_go_when_everything_in_them_was_pruned() {
        let blobs = Arc::new(Blobs::default());
        let known = Known::load(Arc::clone(&blobs) as _, true);
        let count = KNOWN_FIRST_CAPACITY;
        fill(&known, 0, count);
        known.save().unwrap();
        let before = known.stats().generations;
        assert!(before > 1);
        known.pruned(Timestamp(0));
        assert_eq!(known.stats().generations, before);
        known.pruned(Timestamp(count));
        assert_eq!((known.stats().generations, blobs.blobs.lock().unwrap().len()), (1, 1));
        // Its slot is free again.
        fill(&known, count, count * 4);
        assert!(knows_all(&known, count, count * 4));
    }
}
