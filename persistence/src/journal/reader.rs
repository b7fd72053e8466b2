//! The reading side of the journal, shared by the writer and any number of followers. Every read checks the chain of
//! hashes, from the event before the first that is asked for on: so whoever reads all events, one call after the
//! other, has checked all of it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use hotstock_engine::event::Event;
use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::{Bounds, JournalError, JournalReader, ShardEvents};

use super::record::{self, Header, Kind};
use super::recover::{Found, copy_segment};
use super::store::Store;
use super::tip::Tip;
use super::{io_error, segment_dir};
use crate::codec::{Malformed, decode_event, link};
use crate::disk;
use crate::files::FileError;

/// Sealed segments that stay open for their readers, besides the one that is written. Followers read in order and near
/// to each other, so the last and the one before it are enough; an open one costs up to 20 MB.
const MAX_OPEN_SEGMENTS: usize = 2;

/// What writer and readers share.
pub(super) struct Shared {
    pub dir: PathBuf,
    state: RwLock<State>,
    opened: Mutex<Opened>,
    /// Of a journal that is only read: where copies of its segments are opened, since opening one writes to it.
    copies: Option<PathBuf>,
}

/// Which events are where.
pub(super) struct State {
    /// Segments that are written no more, oldest first; each begins where the one before it ends.
    pub sealed: VecDeque<Found>,
    /// The segment that is written; none in a journal that is only read.
    pub active: Option<Active>,
    /// Where every shard stands after its last durable event.
    pub tips: Vec<Tip>,
}

pub(super) struct Active {
    pub number: u64,
    pub base: Vec<Tip>,
    pub store: Arc<Store>,
}

/// Sealed segments that are open.
#[derive(Default)]
struct Opened {
    /// Kept open, the last used first; at most [`MAX_OPEN_SEGMENTS`].
    recent: VecDeque<(u64, Arc<Store>)>,
    /// All that somebody still has: sled opens a database only once.
    alive: HashMap<u64, Weak<Store>>,
}

/// Where the event that is asked for must be: a segment, and where it begins and ends.
struct Place {
    number: u64,
    base: Tip,
    end: Tip,
    active: Option<Arc<Store>>,
}

impl Shared {
    pub fn new(dir: PathBuf, state: State, copies: Option<PathBuf>) -> Self {
        Self { dir, state: RwLock::new(state), opened: Mutex::default(), copies }
    }

    // A panic while a lock was held leaves no state half changed, so its mark is ignored.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment that was written a moment ago is where the followers are.
    pub fn keep_open(&self, number: u64, store: Arc<Store>) {
        let closing = self.opened().put(number, store);
        self.close(closing);
    }

    /// Runs `remove` while nobody opens a segment, and forgets the open database of this one.
    pub fn while_closed<T>(&self, number: u64, remove: impl FnOnce() -> T) -> T {
        let mut opened = self.opened();
        let result = remove();
        let closing = opened.forget(number);
        drop(opened);
        drop(closing);
        result
    }

    pub fn open(&self, number: u64) -> Result<Arc<Store>, FileError> {
        let mut opened = self.opened();
        if let Some(store) = opened.alive.get(&number).and_then(Weak::upgrade) {
            let closing = opened.put(number, Arc::clone(&store));
            drop(opened);
            self.close(closing);
            return Ok(store);
        }
        let segment = segment_dir(&self.dir, number);
        let store = match &self.copies {
            None => Store::open(&segment)?,
            Some(copies) => {
                let copy = segment_dir(copies, number);
                copy_segment(&segment, &copy)?;
                Store::open(&copy)?
            }
        };
        let store = Arc::new(store);
        let closing = opened.put(number, Arc::clone(&store));
        drop(opened);
        self.close(closing);
        Ok(store)
    }

    /// Outside of the lock, since closing takes a while. A copy goes with its database; whoever still reads it has
    /// the open file.
    fn close(&self, closing: Option<(u64, Arc<Store>)>) {
        let Some((number, store)) = closing else { return };
        drop(store);
        if let Some(copies) = &self.copies {
            // What can't be removed now goes with all copies.
            let _ = disk::remove_dir_all(&segment_dir(copies, number));
        }
    }

    fn find(&self, shard: ShardId, from: Lsn) -> Result<Option<Place>, JournalError> {
        let state = self.state();
        let Bounds { first, last } = state.bounds(shard);
        if from < first {
            return Err(JournalError::Trimmed { shard, asked: from, first });
        }
        if from > last {
            return Ok(None);
        }
        let s = shard.index();
        if let Some(Active { number, base, store }) =
            state.active.as_ref().filter(|a| from.0 >= a.base[s].next)
        {
            let (base, end, active) = (base[s], state.tips[s], Some(Arc::clone(store)));
            return Ok(Some(Place { number: *number, base, end, active }));
        }
        // Not below the first and not in the active one: some sealed segment ends beyond it.
        let place = state.sealed.partition_point(|segment| segment.range.end[s].next <= from.0);
        let Found { number, range } = &state.sealed[place];
        Ok(Some(Place { number: *number, base: range.base[s], end: range.end[s], active: None }))
    }

    /// Reads events into a run, whose last one is the last that fits.
    fn run(&self, shard: ShardId, from: Lsn, max: usize) -> Result<Option<Run>, JournalError> {
        let Some(place) = self.find(shard, from)? else { return Ok(None) };
        let store = match place.active {
            Some(store) => store,
            None => match self.open(place.number) {
                Ok(store) => store,
                Err(error) => {
                    // Trimmed between the two looks? Then that is the answer.
                    self.find(shard, from)?;
                    return Err(damaged_or_io(shard, from, error));
                }
            },
        };
        let mut run = Run::new(shard, from, max, place.base, place.end);
        let result = store.scan(&record::key(shard, run.next, 0), |key, value| run.take(key, value));
        // What was read before the damage is good; asked again from there, the damage itself is the answer.
        match result {
            Err(Stop::Damaged(what)) if run.events.is_empty() => {
                Err(JournalError::Damaged { shard, lsn: run.next, what })
            }
            Err(Stop::Failed(error)) if run.events.is_empty() => Err(damaged_or_io(shard, run.next, error)),
            Ok(()) if run.events.is_empty() => {
                Err(JournalError::Damaged { shard, lsn: from, what: "no record holds it".to_owned() })
            }
            // Nothing comes behind it that would tell.
            _ if run.next.0 == place.end.next && run.chain != Some(place.end.chain) => {
                Err(JournalError::Damaged {
                    shard,
                    lsn: Lsn(place.end.next - 1),
                    what: BROKEN_CHAIN.to_owned(),
                })
            }
            _ => Ok(Some(run)),
        }
    }
}

impl State {
    /// The segment that is written.
    ///
    /// # Panics
    /// In a journal that is only read, which has no writer that could ask.
    pub fn written(&self) -> &Active {
        self.active.as_ref().expect("a journal that is written has an active segment")
    }

    /// See [`State::written`].
    pub fn written_mut(&mut self) -> &mut Active {
        self.active.as_mut().expect("a journal that is written has an active segment")
    }

    /// Where the first event that is left would follow; `None` of a shard that does not exist.
    fn base(&self, shard: ShardId) -> Option<Tip> {
        let oldest = self.sealed.front().map(|segment| &segment.range.base);
        let oldest = oldest.or_else(|| self.active.as_ref().map(|active| &active.base)).unwrap_or(&self.tips);
        oldest.get(shard.index()).copied()
    }

    pub fn bounds(&self, shard: ShardId) -> Bounds {
        match (self.base(shard), self.tips.get(shard.index())) {
            (Some(base), Some(tip)) => Bounds { first: Lsn(base.next), last: Lsn(tip.next - 1) },
            // It never had an event.
            _ => Bounds { first: Lsn(1), last: Lsn::ZERO },
        }
    }
}

impl Opened {
    /// Puts a store in front; answers the one that has to go, for [`Shared::close`].
    #[must_use]
    fn put(&mut self, number: u64, store: Arc<Store>) -> Option<(u64, Arc<Store>)> {
        self.recent.retain(|(other, _)| *other != number);
        self.alive.retain(|_, store| store.strong_count() > 0);
        self.alive.insert(number, Arc::downgrade(&store));
        self.recent.push_front((number, store));
        if self.recent.len() > MAX_OPEN_SEGMENTS { self.recent.pop_back() } else { None }
    }

    #[must_use]
    fn forget(&mut self, number: u64) -> Option<Arc<Store>> {
        self.alive.remove(&number);
        let place = self.recent.iter().position(|(other, _)| *other == number)?;
        self.recent.remove(place).map(|(_, store)| store)
    }
}

impl JournalReader for Shared {
    fn bounds(&self, shard: ShardId) -> Bounds {
        self.state().bounds(shard)
    }

    fn read(&self, shard: ShardId, from: Lsn, max: usize) -> Result<Vec<(Lsn, Event)>, JournalError> {
        Ok(self.run(shard, from, max)?.map_or_else(Vec::new, |run| run.events))
    }

    fn read_together(
        &self,
        next: &[Lsn],
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ShardEvents>, JournalError> {
        self.run_together(next, max, max_bytes)
    }

    fn chain(&self, shard: ShardId, lsn: Lsn) -> Result<ChainHash, JournalError> {
        let base = self.state().base(shard).unwrap_or(Tip::START);
        if lsn.next().0 == base.next {
            return Ok(base.chain);
        }
        if lsn.0 < base.next {
            return Err(JournalError::Trimmed { shard, asked: lsn, first: Lsn(base.next) });
        }
        let run = self.run(shard, lsn, 1)?;
        run.and_then(|run| run.chain).ok_or_else(|| JournalError::Damaged {
            shard,
            lsn,
            what: "no record holds it".to_owned(),
        })
    }

    fn disk_bytes(&self) -> u64 {
        let numbers: Vec<u64> = {
            let state = self.state();
            let sealed = state.sealed.iter().map(|segment| segment.number);
            sealed.chain(state.active.as_ref().map(|active| active.number)).collect()
        };
        // One that was trimmed meanwhile takes nothing.
        numbers.into_iter().map(|number| Store::disk_bytes(&segment_dir(&self.dir, number))).sum()
    }
}

pub(super) fn damaged_or_io(shard: ShardId, lsn: Lsn, error: FileError) -> JournalError {
    if error.damage { JournalError::Damaged { shard, lsn, what: error.to_string() } } else { io_error(error) }
}

/// Why a run through the records ended early.
pub(super) enum Stop {
    Damaged(String),
    Failed(FileError),
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::Failed(error)
    }
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What is said of events whose chain hash is not that of the record before them.
pub(super) const BROKEN_CHAIN: &str =
    "the chain of hashes is broken: what comes after it was not written after it";

/// A run through the records of one shard in one segment. It begins one event early, unless that is where the
/// segment begins, so that the chain hash before the first event asked for is known.
pub(super) struct Run {
    pub shard: ShardId,
    /// The first event that is asked for.
    from: Lsn,
    /// The event that must come next.
    pub next: Lsn,
    /// Where the segment (or what is durable of it) ends.
    end: Lsn,
    max: usize,
    pub events: Vec<(Lsn, Event)>,
    /// The chain hash before `next`; `None` until the first event was seen.
    pub chain: Option<ChainHash>,
    /// The parts seen so far of an event that is cut.
    cut: Vec<u8>,
}

impl Run {
    pub fn new(shard: ShardId, from: Lsn, max: usize, base: Tip, end: Tip) -> Self {
        let begins = from.0 <= base.next;
        Self {
            shard,
            from,
            next: if begins { from } else { Lsn(from.0 - 1) },
            end: Lsn(end.next),
            max: max.max(1),
            events: Vec::new(),
            chain: begins.then_some(base.chain),
            cut: Vec::new(),
        }
    }

    /// Takes the next record; answers whether to go on.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Stop> {
        if key < &record::key(self.shard, Lsn::ZERO, 0)[..] {
            // The scan begins at the record before, which may be another shard's.
            return Ok(true);
        }
        if key >= &record::key(self.shard, self.end, 0)[..] {
            // Another shard, or the leftovers of a torn tail.
            return Ok(false);
        }
        let (header, payload) =
            record::parse_value(key, value).map_err(|what| Stop::Damaged(what.to_string()))?;
        if header.next_lsn() <= self.next {
            return Ok(true);
        }
        if header.first > self.next {
            return Err(Stop::Damaged("no record holds it".to_owned()));
        }
        if header.first == self.next && self.chain.is_some_and(|known| known != header.chain) {
            return Err(Stop::Damaged(BROKEN_CHAIN.to_owned()));
        }
        match header.kind {
            Kind::Events => self.take_events(&header, payload)?,
            Kind::Part => self.take_part(&header, payload)?,
            Kind::Base => return Err(Stop::Damaged("a base record in its place".to_owned())),
        }
        Ok(self.events.len() < self.max && self.next < self.end)
    }

    fn take_events(&mut self, header: &Header, mut payload: &[u8]) -> Result<(), Stop> {
        let mut chain = header.chain;
        for place in 0..u64::from(header.count) {
            let lsn = header.first.plus(place);
            let (event, body) = decode_event(&mut payload, header.base_time)?;
            chain = link(chain, lsn, event.at, body);
            if lsn == self.next && lsn < self.end && self.events.len() < self.max {
                self.push(event, chain);
            }
        }
        if payload.is_empty() { Ok(()) } else { Err(Stop::Damaged("bytes behind the last event".to_owned())) }
    }

    fn take_part(&mut self, header: &Header, payload: &[u8]) -> Result<(), Stop> {
        if header.part == 0 {
            self.cut.clear();
        }
        self.cut.extend_from_slice(payload);
        if header.part + 1 < header.count {
            return Ok(());
        }
        let cut = std::mem::take(&mut self.cut);
        let mut bytes = &cut[..];
        let (event, body) = decode_event(&mut bytes, header.base_time)?;
        if !bytes.is_empty() {
            return Err(Stop::Damaged("bytes behind the event".to_owned()));
        }
        let chain = link(header.chain, header.first, event.at, body);
        self.push(event, chain);
        Ok(())
    }

    fn push(&mut self, event: Event, chain: ChainHash) {
        if self.next >= self.from {
            self.events.push((self.next, event));
        }
        self.next = self.next.next();
        self.chain = Some(chain);
    }
}
