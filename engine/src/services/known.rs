//! The filter of known numbers: all order numbers and stock request ids that have *left memory* and
//! may be in the store. It answers "surely new" in some nanoseconds; on "maybe known" the order is read from the
//! store before anything is decided.
//!
//! It never says "surely new" of a number that left memory (no false negatives). About one new number in a thousand
//! per generation is taken for a known one, which costs a look into the store and nothing else.
//!
//! - **Generations.** A filter can't grow, so a full one is followed by another. Each knows the newest time of what
//!   is in it: when the store has pruned everything up to that time, it goes ([`Known::pruned`]). There are at most
//!   [`MAX_GENERATIONS`]; once the last one is full, numbers still go into it, and it says "maybe" ever more often.
//! - **Kept.** Generations that changed are saved, each in a new file, before a checkpoint is finished, and the
//!   checkpoint names the files and what is in them ([`FilterManifest`]). What leaves memory later is in the journal
//!   behind the checkpoint, and is put in again by the replay. A file goes once a checkpoint is finished that does not
//!   name it, so those that the newest one names are always there, whenever a crash comes.
//! - **Not exactly what the newest checkpoint names** (a file is missing, damaged, an older one, another directory's),
//!   it says "maybe" of everything until a scan of the store has filled it again ([`rebuild`]).
//!
//! Keys are XXH3-64 of the id, with one seed for orders and another for requests: frozen, because they are kept. How
//! a generation makes its bits of a key is fastbloom's, whose version is pinned for that reason.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use fastbloom::AtomicBloomFilter;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::backoff::Backoff;
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use crate::base::limits::{
    KNOWN_FALSE_POSITIVES, KNOWN_FIRST_CAPACITY, KNOWN_MAX_CAPACITY, KNOWN_PAGE, KNOWN_STOCKS,
    MAX_GENERATIONS,
};
use crate::base::sync::unpoisoned;
use crate::contract::checkpoint::{FilterFile, FilterManifest, FilterStore};
use crate::contract::counters::KnownStats;
use crate::contract::store::{StoreError, Watermark};
use crate::machine::state::Departed;
use crate::services::store_link::StoreLink;

/// The seeds that keep the kinds of keys apart.
const ORDERS: u64 = 1;
const REQUESTS: u64 = 2;

/// See the top of the file.
pub(crate) struct Known {
    store: Arc<dyn FilterStore>,
    /// Oldest first; the last takes what is added. Never empty.
    generations: RwLock<Vec<Arc<Generation>>>,
    /// Everything that left memory is in it.
    ready: AtomicBool,
    /// There is no room for another generation.
    full: AtomicBool,
    /// The last number that was given to a file or to a manifest: above all that a checkpoint names. Held while the
    /// filter is saved.
    last_number: Mutex<u64>,
}

struct Generation {
    /// Counts the generations of a data directory.
    sequence: u64,
    capacity: u64,
    bits: AtomicBloomFilter,
    count: AtomicU64,
    /// The newest time of anything in it.
    newest: AtomicU64,
    /// It changed since it was saved.
    dirty: AtomicBool,
    /// Where it was saved last.
    saved: Mutex<Option<FilterFile>>,
}

impl Known {
    /// Takes what is kept. `named`: what the newest checkpoint of each shard names; nothing for a shard without one, of
    /// which everything that ever left memory is replayed now.
    ///
    /// The one that was saved last speaks for all: it has what had left the memory of any shard by then.
    pub fn load(store: Arc<dyn FilterStore>, named: impl IntoIterator<Item = FilterManifest>) -> Self {
        let newest = named.into_iter().max_by_key(|manifest| manifest.number);
        let last_number = newest.as_ref().map_or(0, |manifest| manifest.number);
        let read = match newest {
            Some(manifest) => read_all(store.as_ref(), &manifest),
            None => Ok(Vec::new()),
        };
        let (mut generations, ready) = match read {
            Ok(generations) => (generations, true),
            Err(problem) => {
                tracing::warn!(
                    problem,
                    "the filter of known numbers is not what the last checkpoint left; it is filled again from the \
                     store, and until then new numbers are looked up there"
                );
                (Vec::new(), false)
            }
        };
        generations.sort_by_key(|generation| generation.sequence);
        if generations.is_empty() {
            generations.push(Arc::new(Generation::new(1, KNOWN_FIRST_CAPACITY)));
        }
        Self {
            store,
            generations: RwLock::new(generations),
            ready: AtomicBool::new(ready),
            full: AtomicBool::new(false),
            last_number: Mutex::new(last_number),
        }
    }

    /// Whether everything that left memory is in it. Otherwise it has to be [rebuilt](rebuild).
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the store may have this order.
    pub fn may_have_order(&self, order_no: &OrderNo) -> bool {
        let key = order_key(order_no);
        planted!("filter-forgets", !key.is_multiple_of(8) && self.may_have(key), self.may_have(key))
    }

    /// Whether the store may have this request of a SKU.
    pub fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        self.may_have(request_key(sku_id, request_id))
    }

    /// An order leaves memory.
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
        if generations.len() < MAX_GENERATIONS {
            generations.push(Arc::new(Generation::new(sequence, capacity)));
        } else if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the filter of known numbers is full: new order numbers are looked up in the store ever more often"
            );
        }
    }

    /// The store has pruned everything that last changed before this: generations without anything newer go. Their
    /// files go with the next checkpoint.
    pub fn pruned(&self, before: Timestamp) {
        let mut generations = unpoisoned(self.generations.write());
        // The last one takes what is added.
        while generations.len() > 1 && generations[0].newest.load(Ordering::Relaxed) < before.0 {
            generations.remove(0);
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Saves what changed, and says what the checkpoint is to name that is finished next. Waits for the disk; called by
    /// the checkpoint thread.
    ///
    /// # Errors
    /// What went wrong: the checkpoint must not be finished.
    pub fn save(&self) -> Result<FilterManifest, String> {
        let mut last_number = unpoisoned(self.last_number.lock());
        let mut next_number = || {
            *last_number += 1;
            *last_number
        };
        if !self.is_ready() {
            // What is kept must be complete. Without it the next start fills it again.
            return Ok(FilterManifest { number: next_number(), files: None });
        }
        let generations: Vec<_> = unpoisoned(self.generations.read()).clone();
        let mut files = Vec::with_capacity(generations.len());
        for generation in generations {
            let mut saved = unpoisoned(generation.saved.lock());
            let is_dirty = generation.dirty.swap(false, Ordering::AcqRel);
            let file = match *saved {
                Some(file) if !is_dirty => file,
                _ => {
                    let bytes = generation.encode();
                    let file = FilterFile::of(next_number(), &bytes);
                    if let Err(problem) = self.store.save(file.number, &bytes) {
                        generation.dirty.store(true, Ordering::Release);
                        return Err(problem);
                    }
                    file
                }
            };
            *saved = Some(file);
            files.push(file);
        }
        Ok(FilterManifest { number: next_number(), files: Some(files) })
    }

    /// A checkpoint that names this is finished, so nobody asks for other files any more.
    pub fn named(&self, manifest: &FilterManifest) {
        let files: Vec<u64> = manifest.files.iter().flatten().map(|file| file.number).collect();
        if let Err(problem) = self.store.keep_only(&files) {
            tracing::warn!(problem, "files of known numbers that are not needed any more can't be removed");
        }
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
    /// An empty one.
    fn new(sequence: u64, capacity: u64) -> Self {
        let expected = usize::try_from(capacity).unwrap_or(usize::MAX);
        let bits = AtomicBloomFilter::with_false_pos(KNOWN_FALSE_POSITIVES).seed(&0).expected_items(expected);
        Self {
            sequence,
            capacity,
            bits,
            count: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            dirty: AtomicBool::new(true),
            saved: Mutex::new(None),
        }
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.capacity
    }

    /// As little-endian numbers: sequence, capacity, count, newest, hashes of each key, and the bits.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.bits.num_bits() / 8);
        let (count, newest) = (self.count.load(Ordering::Relaxed), self.newest.load(Ordering::Relaxed));
        for number in [self.sequence, self.capacity, count, newest, u64::from(self.bits.num_hashes())] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for word in self.bits.iter() {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(file: FilterFile, bytes: &[u8]) -> Result<Arc<Self>, String> {
        let damaged = || format!("file {} makes no sense", file.number);
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
            sequence,
            capacity,
            bits: AtomicBloomFilter::from_vec(bits).seed(&0).hashes(hashes),
            count: AtomicU64::new(count),
            newest: AtomicU64::new(newest),
            dirty: AtomicBool::new(false),
            saved: Mutex::new(Some(file)),
        }))
    }
}

/// Everything that a checkpoint names, exactly as it was saved.
fn read_all(store: &dyn FilterStore, manifest: &FilterManifest) -> Result<Vec<Arc<Generation>>, String> {
    let Some(files) = &manifest.files else {
        return Err("it was not complete when the checkpoint was written".to_owned());
    };
    let read = |file: &FilterFile| {
        let Some(bytes) = store.load(file.number)? else {
            return Err(format!("file {} is missing", file.number));
        };
        if FilterFile::of(file.number, &bytes) != *file {
            return Err(format!("file {} is not the one that was saved", file.number));
        }
        Generation::decode(*file, &bytes)
    };
    files.iter().map(read).collect()
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

/// Fills a filter that is not complete from the store; tries again for as long as it takes. `departed`: the last change
/// of anything that left the memory of each shard. What leaves meanwhile is added by its shard. It is saved with the
/// next checkpoint.
pub(crate) async fn rebuild(known: &Known, link: &StoreLink, departed: impl Fn() -> Vec<(ShardId, Lsn)>) {
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
}

/// Adds everything that the store has. `false`: the store does not have everything yet that left memory, or went back
/// in time meanwhile.
async fn scan(known: &Known, link: &StoreLink, departed: &[(ShardId, Lsn)]) -> Result<bool, StoreError> {
    let store = link.store();
    let before = link.noted_whole(store.ownership().await)?.watermarks;
    if !reaches(&before, departed) {
        return Ok(false);
    }
    let mut after: Option<OrderNo> = None;
    loop {
        let page = link.noted(store.order_numbers(after.as_ref(), KNOWN_PAGE).await)?;
        page.iter().for_each(|(order_no, at)| known.add_order(order_no, *at));
        let Some((last, _)) = page.into_iter().next_back() else { break };
        after = Some(last);
    }
    let mut after: Option<(SkuId, RequestId)> = None;
    loop {
        let page = link.noted(store.request_ids(after.as_ref(), KNOWN_PAGE).await)?;
        page.iter().for_each(|(sku_id, request_id, at)| known.add_request(sku_id, request_id, *at));
        let Some((sku_id, request_id, _)) = page.into_iter().next_back() else { break };
        after = Some((sku_id, request_id));
    }
    let mut after: Option<(SkuId, WarehouseId)> = None;
    loop {
        let page = link.noted(store.requests_without_row(after.as_ref(), KNOWN_STOCKS).await)?;
        page.ids.iter().for_each(|(sku_id, request_id, at)| known.add_request(sku_id, request_id, *at));
        let Some(last) = page.last else { break };
        after = Some(last);
    }
    let since: Vec<_> = before.iter().map(|mark| (mark.shard, mark.lsn)).collect();
    Ok(reaches(&link.noted_whole(store.ownership().await)?.watermarks, &since))
}

fn reaches(watermarks: &[Watermark], marks: &[(ShardId, Lsn)]) -> bool {
    let flushed =
        |shard| watermarks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn);
    marks.iter().all(|(shard, lsn)| flushed(*shard) >= *lsn)
}

#[cfg(test)]
mod tests;
