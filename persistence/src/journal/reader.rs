//! The reading side of the journal, shared by the writer and any number of followers.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use hotstock_engine::event::Event;
use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::{Bounds, JournalError, JournalReader};

use super::record::{self, Header, Kind};
use super::recover::Found;
use super::store::Store;
use super::{io_error, segment_dir};
use crate::codec::{Malformed, decode_event};
use crate::files::FileError;

/// Sealed segments that stay open for their readers, besides the one that is written. Followers read in order and near
/// to each other, so the last and the one before it are enough; an open one costs up to 20 MB.
const MAX_OPEN_SEGMENTS: usize = 2;

/// What writer and readers share.
pub(super) struct Shared {
    pub dir: PathBuf,
    state: RwLock<State>,
    opened: Mutex<Opened>,
}

/// Which events are where.
pub(super) struct State {
    /// Segments that are written no more, oldest first; each begins where the one before it ends.
    pub sealed: VecDeque<Found>,
    /// The segment that is written.
    pub active: Active,
    /// Of every shard, the LSN after the last durable event.
    pub next: Vec<u64>,
}

pub(super) struct Active {
    pub number: u64,
    pub base: Vec<u64>,
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

/// Where the event that is asked for must be: a segment, and the LSN where it ends.
struct Place {
    number: u64,
    end: u64,
    active: Option<Arc<Store>>,
}

impl Shared {
    pub fn new(dir: PathBuf, state: State) -> Self {
        Self { dir, state: RwLock::new(state), opened: Mutex::default() }
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
        drop(closing);
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

    fn open(&self, number: u64) -> Result<Arc<Store>, FileError> {
        let mut opened = self.opened();
        if let Some(store) = opened.alive.get(&number).and_then(Weak::upgrade) {
            let closing = opened.put(number, Arc::clone(&store));
            drop(opened);
            drop(closing);
            return Ok(store);
        }
        let store = Arc::new(Store::open(&segment_dir(&self.dir, number))?);
        let closing = opened.put(number, Arc::clone(&store));
        drop(opened);
        drop(closing);
        Ok(store)
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
        if from.0 >= state.active.base[s] {
            let active = Some(Arc::clone(&state.active.store));
            return Ok(Some(Place { number: state.active.number, end: state.next[s], active }));
        }
        // Not below the first and not in the active one: some sealed segment ends beyond it.
        let place = state.sealed.partition_point(|segment| segment.range.end[s] <= from.0);
        let segment = &state.sealed[place];
        Ok(Some(Place { number: segment.number, end: segment.range.end[s], active: None }))
    }
}

impl State {
    fn bounds(&self, shard: ShardId) -> Bounds {
        let Some(next) = self.next.get(shard.index()) else {
            // A shard that does not exist never had an event.
            return Bounds { first: Lsn(1), last: Lsn::ZERO };
        };
        let oldest = self.sealed.front().map_or(&self.active.base, |segment| &segment.range.base);
        Bounds { first: Lsn(oldest[shard.index()]), last: Lsn(next - 1) }
    }
}

impl Opened {
    /// Puts a store in front; answers the one that has to go, to be dropped without the lock, since closing takes a while.
    #[must_use]
    fn put(&mut self, number: u64, store: Arc<Store>) -> Option<Arc<Store>> {
        self.recent.retain(|(other, _)| *other != number);
        self.alive.retain(|_, store| store.strong_count() > 0);
        self.alive.insert(number, Arc::downgrade(&store));
        self.recent.push_front((number, store));
        if self.recent.len() > MAX_OPEN_SEGMENTS {
            self.recent.pop_back().map(|(_, store)| store)
        } else {
            None
        }
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
        let Some(place) = self.find(shard, from)? else { return Ok(Vec::new()) };
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
        let mut run =
            Run { shard, next: from, end: Lsn(place.end), max, events: Vec::new(), cut: Vec::new() };
        let result = store.scan(&record::key(shard, from, 0), |key, value| run.take(key, value));
        // What was read before the damage is good; asked again from there, the damage itself is the answer.
        match result {
            Err(Stop::Damaged(what)) if run.events.is_empty() => {
                Err(JournalError::Damaged { shard, lsn: run.next, what })
            }
            Err(Stop::Failed(error)) if run.events.is_empty() => Err(damaged_or_io(shard, run.next, error)),
            Ok(()) if run.events.is_empty() => {
                Err(JournalError::Damaged { shard, lsn: from, what: "no record holds it".to_owned() })
            }
            _ => Ok(run.events),
        }
    }

    fn disk_bytes(&self) -> u64 {
        let numbers: Vec<u64> = {
            let state = self.state();
            let sealed = state.sealed.iter().map(|segment| segment.number);
            sealed.chain([state.active.number]).collect()
        };
        // One that was trimmed meanwhile takes nothing.
        numbers.into_iter().map(|number| Store::disk_bytes(&segment_dir(&self.dir, number))).sum()
    }
}

fn damaged_or_io(shard: ShardId, lsn: Lsn, error: FileError) -> JournalError {
    if error.damage { JournalError::Damaged { shard, lsn, what: error.to_string() } } else { io_error(error) }
}

/// Why a run through the records ended early.
enum Stop {
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

/// A run through the records of one shard in one segment.
struct Run {
    shard: ShardId,
    /// The event that must come next.
    next: Lsn,
    /// Where the segment (or what is durable of it) ends.
    end: Lsn,
    max: usize,
    events: Vec<(Lsn, Event)>,
    /// The parts seen so far of an event that is cut.
    cut: Vec<u8>,
}

impl Run {
    /// Takes the next record; answers whether to go on.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Stop> {
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
        match header.kind {
            Kind::Events => self.take_events(&header, payload)?,
            Kind::Part => self.take_part(&header, payload)?,
            Kind::Base => return Err(Stop::Damaged("a base record in its place".to_owned())),
        }
        Ok(self.events.len() < self.max && self.next < self.end)
    }

    fn take_events(&mut self, header: &Header, mut payload: &[u8]) -> Result<(), Stop> {
        for place in 0..u64::from(header.count) {
            let lsn = header.first.plus(place);
            let event = decode_event(&mut payload, header.base_time)?;
            if lsn == self.next && lsn < self.end && self.events.len() < self.max {
                self.push(event);
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
        let event = decode_event(&mut bytes, header.base_time)?;
        if !bytes.is_empty() {
            return Err(Stop::Damaged("bytes behind the event".to_owned()));
        }
        self.push(event);
        Ok(())
    }

    fn push(&mut self, event: Event) {
        self.events.push((self.next, event));
        self.next = self.next.next();
    }
}
