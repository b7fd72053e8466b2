//! A journal in memory: the contract without a disk, with commits that can be held back or made to fail.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::base::ids::{ChainHash, Lsn, ShardId};
use crate::base::sync::unpoisoned;
use crate::contract::event::Event;
use crate::contract::journal::{Bounds, Group, Journal, JournalError, JournalReader, ShardEvents};

/// The "disk": shared by its clones, so that an engine can be started again on it with [`MemoryJournal::open`].
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal(Arc<Disk>);

#[derive(Debug, Default)]
struct Disk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    shards: HashMap<ShardId, Kept>,
    /// The last event of each group; from the first on that is not trimmed. A follower may stop behind each, also
    /// where several came in one commit, as with a journal that wrote that commit in pieces.
    groups: VecDeque<(ShardId, Lsn)>,
    held: bool,
    /// Commits that wait to be let go.
    waiting: usize,
    fail_next: bool,
}

/// The events of one shard that were not trimmed.
#[derive(Debug, Clone, Default)]
struct Kept {
    trimmed: u64,
    /// The chain hash after the last event that was trimmed.
    base: ChainHash,
    /// Each with the chain hash after it.
    events: VecDeque<(Event, ChainHash)>,
}

impl Kept {
    fn bounds(&self) -> Bounds {
        Bounds { first: Lsn(self.trimmed + 1), last: Lsn(self.trimmed + self.events.len() as u64) }
    }

    fn push(&mut self, event: &Event) {
        let before = self.events.back().map_or(self.base, |(_, hash)| *hash);
        let mut bytes = before.0.to_le_bytes().to_vec();
        // Stored as it is shown: equal events are shown alike, and others are not.
        bytes.extend_from_slice(format!("{event:?}").as_bytes());
        self.events.push_back((event.clone(), ChainHash(xxhash_rust::xxh3::xxh3_64(&bytes))));
    }
}

/// The journal over a [`MemoryJournal`], until the next `open`.
struct Opened {
    disk: MemoryJournal,
    poison: Option<String>,
}

impl MemoryJournal {
    /// A journal that goes on where the disk ends; what poisoned an earlier one is over.
    #[must_use]
    pub fn open(&self) -> impl Journal + use<> {
        Opened { disk: self.clone(), poison: None }
    }

    /// An empty journal that goes on behind an event of each of these shards, with the chain hash after it.
    #[must_use]
    pub fn behind(bases: &[(ShardId, Lsn, ChainHash)]) -> Self {
        let kept = |(shard, lsn, base): &(ShardId, Lsn, ChainHash)| {
            (*shard, Kept { trimmed: lsn.0, base: *base, events: VecDeque::new() })
        };
        let state = State { shards: bases.iter().map(kept).collect(), ..State::default() };
        Self(Arc::new(Disk { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// A copy as it is now: what is written to one of them is not in the other.
    #[must_use]
    pub fn copy(&self) -> Self {
        let (shards, groups) = {
            let state = self.state();
            (state.shards.clone(), state.groups.clone())
        };
        let state = State { shards, groups, ..State::default() };
        Self(Arc::new(Disk { state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Holds commits back from now on.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Lets commits go on.
    pub fn let_go(&self) {
        self.state().held = false;
        self.0.changed.notify_all();
    }

    /// Whether a commit is held back now.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state().waiting > 0
    }

    /// Makes the next commit fail, and by the contract all after it. Nothing of it is kept.
    pub fn fail_next(&self) {
        self.state().fail_next = true;
    }

    /// Takes back [`MemoryJournal::fail_next`], if no commit came.
    pub fn mend(&self) {
        self.state().fail_next = false;
    }

    /// The first event of a shard that was not trimmed.
    #[must_use]
    pub fn first(&self, shard: ShardId) -> Lsn {
        self.bounds(shard).first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.state.lock())
    }
}

impl Journal for Opened {
    fn commit(&mut self, groups: &[Group]) -> Result<(), JournalError> {
        if let Some(poison) = &self.poison {
            return Err(JournalError::Poisoned(poison.clone()));
        }
        let mut state = self.disk.state();
        state.waiting += 1;
        while state.held {
            state = unpoisoned(self.disk.0.changed.wait(state));
        }
        state.waiting -= 1;
        if std::mem::take(&mut state.fail_next) {
            self.poison = Some("a fault on demand".into());
            return Err(JournalError::Io { path: "memory".into(), problem: "a fault on demand".into() });
        }
        let mut next: HashMap<ShardId, Lsn> = HashMap::new();
        for group in groups {
            let last = state.shards.get(&group.shard).map_or(Lsn::ZERO, |kept| kept.bounds().last);
            let expected = *next.get(&group.shard).unwrap_or(&last.next());
            if group.first != expected {
                return Err(JournalError::OutOfOrder { shard: group.shard, expected, got: group.first });
            }
            next.insert(group.shard, group.last().next());
        }
        for group in groups {
            let kept = state.shards.entry(group.shard).or_default();
            group.events.iter().for_each(|event| kept.push(event));
        }
        let ends = groups.iter().filter(|group| !group.events.is_empty());
        state.groups.extend(ends.map(|group| (group.shard, group.last())));
        Ok(())
    }

    fn trim(&mut self, marks: &[(ShardId, Lsn)]) -> Result<(), JournalError> {
        let mut state = self.disk.state();
        for (shard, mark) in marks {
            let Some(kept) = state.shards.get_mut(shard) else { continue };
            while kept.trimmed + 1 < mark.0 {
                let Some((_, hash)) = kept.events.pop_front() else { break };
                (kept.trimmed, kept.base) = (kept.trimmed + 1, hash);
            }
        }
        let State { shards, groups, .. } = &mut *state;
        while groups.front().is_some_and(|(shard, last)| shards[shard].trimmed >= last.0) {
            groups.pop_front();
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::new(self.disk.clone())
    }
}

impl JournalReader for MemoryJournal {
    fn bounds(&self, shard: ShardId) -> Bounds {
        self.state().shards.get(&shard).map_or(Bounds { first: Lsn(1), last: Lsn::ZERO }, Kept::bounds)
    }

    fn read(&self, shard: ShardId, from: Lsn, max: usize) -> Result<Vec<(Lsn, Event)>, JournalError> {
        let state = self.state();
        let Some(kept) = state.shards.get(&shard) else { return Ok(Vec::new()) };
        let first = kept.bounds().first;
        if from < first {
            return Err(JournalError::Trimmed { shard, asked: from, first });
        }
        let skip = usize::try_from(from.0 - first.0).unwrap_or(usize::MAX);
        let events = kept.events.iter().skip(skip).take(max.max(1));
        Ok(events.zip(from.0..).map(|((event, _), lsn)| (Lsn(lsn), event.clone())).collect())
    }

    fn read_together(
        &self,
        next: &[Lsn],
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ShardEvents>, JournalError> {
        let (mut ends, mut given): (BTreeMap<ShardId, Lsn>, _) = (BTreeMap::new(), (0, 0));
        let state = self.state();
        for (shard, asked) in (0..).map(ShardId).zip(next) {
            let first = state.shards.get(&shard).map_or(Lsn(1), |kept| kept.bounds().first);
            if *asked < first {
                return Err(JournalError::Trimmed { shard, asked: *asked, first });
            }
        }
        let place = |shard: ShardId, lsn: Lsn| {
            let before = lsn.0 - state.shards[&shard].trimmed - 1;
            usize::try_from(before).unwrap_or(usize::MAX)
        };
        let first = |shard: &ShardId| next.get(shard.index()).copied().unwrap_or(Lsn(u64::MAX));
        let is_asked = |(shard, last): &&(ShardId, Lsn)| first(shard) <= *last;
        let behind = state.groups.partition_point(|(shard, last)| *last < first(shard));
        for (shard, last) in state.groups.range(behind..).filter(is_asked) {
            let (mut count, mut bytes) = given;
            let from = ends.get(shard).map_or(first(shard), |end| end.next());
            for lsn in from.0..=last.0 {
                let (event, _) = &state.shards[shard].events[place(*shard, Lsn(lsn))];
                (count, bytes) = (count + 1, bytes + event.weight());
            }
            if !ends.is_empty() && (count > max || bytes > max_bytes) {
                break;
            }
            given = (count, bytes);
            ends.insert(*shard, *last);
        }
        let events = |(shard, last): (ShardId, Lsn)| {
            let (from, kept) = (first(&shard), &state.shards[&shard].events);
            let some = kept.range(place(shard, from)..=place(shard, last));
            let events = (from.0..).map(Lsn).zip(some.map(|(event, _)| event.clone())).collect();
            ShardEvents { shard, events, hash: kept[place(shard, last)].1 }
        };
        Ok(ends.into_iter().map(events).collect())
    }

    fn chain(&self, shard: ShardId, lsn: Lsn) -> Result<ChainHash, JournalError> {
        let state = self.state();
        let none = Kept::default();
        let kept = state.shards.get(&shard).unwrap_or(&none);
        let Bounds { first, last } = kept.bounds();
        if lsn > last {
            let what = format!("the journal ends at {last}");
            return Err(JournalError::Damaged { shard, lsn, what });
        }
        if lsn.next() < first {
            return Err(JournalError::Trimmed { shard, asked: lsn, first });
        }
        let index = usize::try_from(lsn.0 - kept.trimmed).unwrap_or(usize::MAX);
        Ok(index.checked_sub(1).and_then(|index| kept.events.get(index)).map_or(kept.base, |(_, hash)| *hash))
    }

    fn disk_bytes(&self) -> u64 {
        self.state().shards.values().flat_map(|kept| &kept.events).map(|(event, _)| event.weight()).sum()
    }
}
