//! Reading the events of all shards together, commit by commit. Records lie by shard; which were written together their
//! batch numbers say. A batch has every event that comes before one of its own, of whatever shard (see
//! [`super::pack`]), so between two batches is where a reader may stop. Batches never reach into another segment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::{JournalError, ShardEvents};

use super::reader::{BROKEN_CHAIN, Run, Shared, Stop, damaged_or_io};
use super::record::{self, Header};
use super::store::{Entry, Store};
use super::tip::Tip;

/// The oldest segment with an event that is asked for: where it begins and ends.
struct Place {
    number: u64,
    base: Vec<Tip>,
    end: Vec<Tip>,
    active: Option<Arc<Store>>,
}

/// A shard that is read, up to the end of the segment.
struct Cursor {
    run: Run,
    end: Tip,
    /// The next record; none behind the last.
    ahead: Option<Ahead>,
    /// Its events and the chain hash after them, up to where all shards may stop.
    sure: (usize, ChainHash),
}

struct Ahead {
    header: Header,
    key: Vec<u8>,
    record: Vec<u8>,
}

impl Shared {
    /// See [`JournalReader::read_together`](hotstock_engine::journal::JournalReader::read_together).
    pub fn run_together(
        &self,
        next: &[Lsn],
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ShardEvents>, JournalError> {
        let Some(place) = self.find_together(next)? else { return Ok(Vec::new()) };
        let store = match &place.active {
            Some(store) => Arc::clone(store),
            None => match self.open(place.number) {
                Ok(store) => store,
                Err(error) => {
                    // Trimmed between the two looks? Then that is the answer.
                    self.find_together(next)?;
                    let shard = place.shards(next).next().unwrap_or_default();
                    return Err(damaged_or_io(shard, next[shard.index()], error));
                }
            },
        };
        let mut cursors = Vec::new();
        for shard in place.shards(next) {
            let (base, end) = (place.base[shard.index()], place.end[shard.index()]);
            cursors.push(Cursor::new(&store, shard, next[shard.index()], base, end)?);
        }
        let read = read_batches(&store, &mut cursors, max, max_bytes);
        let sure = cursors.into_iter().filter(|cursor| cursor.sure.0 > 0).map(Cursor::into_events);
        let sure: Vec<ShardEvents> = sure.collect();
        // What was read before the damage is good; asked again from there, the damage itself is the answer.
        if sure.is_empty() { read.map(|()| sure) } else { Ok(sure) }
    }

    fn find_together(&self, next: &[Lsn]) -> Result<Option<Place>, JournalError> {
        let state = self.state();
        for (shard, asked) in (0..).map(ShardId).zip(next) {
            let first = state.bounds(shard).first;
            if *asked < first {
                return Err(JournalError::Trimmed { shard, asked: *asked, first });
            }
        }
        let is_before = |end: &[Tip]| next.iter().zip(end).all(|(next, end)| end.next <= next.0);
        let place = state.sealed.partition_point(|segment| is_before(&segment.range.end));
        if let Some(found) = state.sealed.get(place) {
            let (base, end) = (found.range.base.clone(), found.range.end.clone());
            return Ok(Some(Place { number: found.number, base, end, active: None }));
        }
        let Some(active) = state.active.as_ref().filter(|_| !is_before(&state.tips)) else { return Ok(None) };
        let (base, end, store) = (active.base.clone(), state.tips.clone(), Arc::clone(&active.store));
        Ok(Some(Place { number: active.number, base, end, active: Some(store) }))
    }
}

impl Place {
    /// Shards that have something here.
    fn shards(&self, next: &[Lsn]) -> impl Iterator<Item = ShardId> {
        let all = (0..).map(ShardId).zip(next).zip(&self.end);
        all.filter(|((_, next), end)| next.0 < end.next).map(|((shard, _), _)| shard)
    }
}

/// Reads batch after batch while they are within the bounds; the first in any case.
fn read_batches(
    store: &Store,
    cursors: &mut [Cursor],
    max: usize,
    max_bytes: u64,
) -> Result<(), JournalError> {
    let ahead =
        |(place, cursor): (usize, &Cursor)| Some(Reverse((cursor.ahead.as_ref()?.header.batch, place)));
    let mut heap: BinaryHeap<_> = cursors.iter().enumerate().filter_map(ahead).collect();
    let (mut count, mut bytes) = (0, 0);
    while let Some(Reverse((batch, _))) = heap.peek().copied() {
        let mut of_batch = Vec::new();
        while let Some(Reverse((_, place))) = heap.peek().copied().filter(|Reverse((next, _))| *next == batch)
        {
            heap.pop();
            let cursor = &mut cursors[place];
            cursor.step(store)?;
            heap.extend(ahead((place, cursor)));
            of_batch.push(place);
        }
        of_batch.sort_unstable();
        of_batch.dedup();
        let is_first = count == 0;
        for place in &of_batch {
            let Cursor { run, sure, .. } = &cursors[*place];
            let events = &run.events[sure.0..];
            count += events.len();
            bytes += events.iter().map(|(_, event)| event.weight()).sum::<u64>();
        }
        if !is_first && (count > max || bytes > max_bytes) {
            return Ok(());
        }
        for place in of_batch {
            let Cursor { run, sure, .. } = &mut cursors[place];
            *sure = (run.events.len(), run.chain.unwrap_or_default());
        }
        if count >= max.max(1) || bytes >= max_bytes && count > 0 {
            return Ok(());
        }
    }
    Ok(())
}

impl Cursor {
    fn new(store: &Store, shard: ShardId, from: Lsn, base: Tip, end: Tip) -> Result<Self, JournalError> {
        let run = Run::new(shard, from, usize::MAX, base, end);
        let mut cursor = Self { run, end, ahead: None, sure: (0, ChainHash::default()) };
        let (begin, from_here) = (record::key(shard, Lsn::ZERO, 0), cursor.run.next);
        let mut first = None;
        let found = store.scan(&record::key(shard, from_here, 0), |key, value| -> Result<bool, Stop> {
            if key < &begin[..] {
                return Ok(true);
            }
            let is_it =
                record::parse_value(key, value).is_ok_and(|(header, _)| header.next_lsn() > from_here);
            first = Some((key.to_vec(), value.to_vec()));
            Ok(!is_it && key < &record::key(shard, from_here, 0)[..])
        });
        let found = found.and_then(|()| cursor.look_at(first));
        found.map_err(|stop| cursor.error(stop))?;
        // The event before the first that is asked for, for its hash.
        while cursor.ahead.as_ref().is_some_and(|ahead| ahead.header.next_lsn() <= from) {
            cursor.step(store)?;
        }
        Ok(cursor)
    }

    /// Takes the next record, and looks for the one behind it.
    fn step(&mut self, store: &Store) -> Result<(), JournalError> {
        let Some(Ahead { mut key, record, .. }) = self.ahead.take() else { return Ok(()) };
        let next = self.run.take(&key, &record).and_then(|_| {
            if self.run.next.0 < self.end.next {
                // Behind this key.
                key.push(0);
                let next = store.first(&key)?;
                return self.look_at(next);
            }
            if self.run.chain == Some(self.end.chain) {
                Ok(())
            } else {
                Err(Stop::Damaged(BROKEN_CHAIN.to_owned()))
            }
        });
        next.map_err(|stop| self.error(stop))
    }

    fn look_at(&mut self, entry: Option<Entry>) -> Result<(), Stop> {
        let end = record::key(self.run.shard, Lsn(self.end.next), 0);
        let Some((key, record)) = entry.filter(|(key, _)| key < &end.to_vec()) else {
            return Err(Stop::Damaged("no record holds it".to_owned()));
        };
        let (header, _) =
            record::parse_value(&key, &record).map_err(|what| Stop::Damaged(what.to_string()))?;
        self.ahead = Some(Ahead { header, key, record });
        Ok(())
    }

    fn error(&self, stop: Stop) -> JournalError {
        let (shard, lsn) = (self.run.shard, self.run.next);
        match stop {
            Stop::Damaged(what) => JournalError::Damaged { shard, lsn, what },
            Stop::Failed(error) => damaged_or_io(shard, lsn, error),
        }
    }

    fn into_events(self) -> ShardEvents {
        let Self { run, sure: (count, hash), .. } = self;
        let mut events = run.events;
        events.truncate(count);
        ShardEvents { shard: run.shard, events, hash }
    }
}
