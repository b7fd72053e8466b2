//! The writing side of the journal.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::{Group, Journal, JournalError, JournalReader};
use hotstock_engine::planted;

use super::background::{Background, Fresh, Job};
use super::faults::{Fault, Faults};
use super::pack::{Batch, pack};
use super::reader::{Active, Shared, State};
use super::recover::{Found, Recovered, discard, recover, to_trash};
use super::seal::{self, Range};
use super::store::Store;
use super::tip::Tip;
use super::{JournalOptions, io_error, segment_dir};
use crate::disk;
use crate::files::{At as _, FileError, create_dir, parent, sync_dir};

/// The journal of one data directory. Dropping it closes it cleanly; a process that dies instead loses nothing but the
/// seal of the last segment, which the next start makes up for.
pub struct SledJournal {
    shared: Arc<Shared>,
    options: JournalOptions,
    background: Background,
    faults: Faults,
    /// Bytes of records in the active segment, and the number of its next batch. Batch 0 begins with the base record.
    written: u64,
    batch: u32,
    /// Where each shard stands.
    tips: Vec<Tip>,
    /// Why nothing is written any more.
    poison: Option<String>,
    /// The lock of the data directory, so that it is held as long as something may be written.
    lock: Option<Arc<File>>,
}

impl SledJournal {
    /// Opens the journal in the directory `dir`, which is created when it is not there. Writing begins in a new
    /// segment; what earlier runs wrote is never appended to.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when events that were durable can't be read, [`JournalError::Io`].
    pub fn open(dir: &Path, shards: u16, options: JournalOptions) -> Result<Self, JournalError> {
        Self::open_at(dir, &vec![Tip::START; usize::from(shards)], options)
    }

    /// Makes a journal that goes on behind events that it does not have: of every shard the last of them and the
    /// chain hash after it. It is there for good when this returns.
    ///
    /// # Errors
    /// [`JournalError::Io`], also when `dir` is there already.
    pub(crate) fn create_behind(dir: &Path, bases: &[(Lsn, ChainHash)]) -> Result<(), JournalError> {
        disk::create_dir(dir).at(dir).map_err(io_error)?;
        sync_dir(&parent(dir)).map_err(io_error)?;
        let tips: Vec<Tip> = bases.iter().map(|(lsn, chain)| Tip::after(*lsn, *chain)).collect();
        // The base record of its first segment holds them.
        let options = JournalOptions { zeros: 0, ..JournalOptions::default() };
        Self::open_at(dir, &tips, options).map(drop)
    }

    /// `start`: where the shards of a new journal stand.
    fn open_at(dir: &Path, start: &[Tip], options: JournalOptions) -> Result<Self, JournalError> {
        create_dir(dir).map_err(io_error)?;
        let shards = u16::try_from(start.len()).expect("at most MAX_SHARDS");
        let Recovered { segments, next_number, .. } = recover(dir, shards)?;
        let tips = segments.last().map_or_else(|| start.to_vec(), |last| last.range.end.clone());
        let store = Store::create(&segment_dir(dir, next_number), options.zeros).map_err(io_error)?;
        let active = Active { number: next_number, base: tips.clone(), store: Arc::new(store) };
        let state = State { sealed: VecDeque::from(segments), active: Some(active), tips: tips.clone() };
        let mut journal = Self {
            shared: Arc::new(Shared::new(dir.to_owned(), state, None)),
            background: Background::start(dir.to_owned(), options.zeros).map_err(io_error)?,
            options,
            faults: Faults::default(),
            written: 0,
            batch: 0,
            tips,
            poison: None,
            lock: None,
        };
        // Only with the base record on the medium the older segments may go: it remembers every shard's place.
        journal.write(Batch::default()).map_err(io_error)?;
        journal.drop_empty_segments().map_err(io_error)?;
        Ok(journal)
    }

    pub(crate) fn keep(&mut self, lock: Arc<File>) {
        self.lock = Some(lock);
    }

    /// The faults to come, for tests.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Starts without a commit leave segments without an event; they would pile up.
    fn drop_empty_segments(&mut self) -> Result<(), FileError> {
        let (empty, kept): (VecDeque<Found>, VecDeque<Found>) =
            self.shared.state_mut().sealed.drain(..).partition(|segment| segment.range.is_empty());
        self.shared.state_mut().sealed = kept;
        empty.iter().try_for_each(|segment| discard(&self.shared.dir, segment.number))
    }

    /// Refuses groups that don't follow the last event of their shard; answers whether there is any event.
    fn check_order(&self, groups: &[Group]) -> Result<bool, JournalError> {
        let mut next: Vec<u64> = self.tips.iter().map(|tip| tip.next).collect();
        for Group { shard, first, events } in groups {
            // Nothing can follow in a shard that does not exist.
            let expected = next.get_mut(shard.index());
            let must = expected.as_deref().copied().unwrap_or(0);
            match expected {
                Some(expected) if must == first.0 => *expected += events.len() as u64,
                _ => {
                    return Err(JournalError::OutOfOrder { shard: *shard, expected: Lsn(must), got: *first });
                }
            }
        }
        Ok(groups.iter().any(|group| !group.events.is_empty()))
    }

    /// Answers where the shards stand after it.
    fn write_all(&mut self, groups: &[Group]) -> Result<Vec<Tip>, FileError> {
        self.change_segment_if_full()?;
        let mut tips = self.tips.clone();
        pack(groups, &mut tips).into_iter().try_for_each(|batch| self.write(batch))?;
        Ok(tips)
    }

    /// Writes one batch and syncs it.
    fn write(&mut self, mut batch: Batch) -> Result<(), FileError> {
        if self.batch == 0 {
            batch.put_base(&self.tips);
        }
        let store = Arc::clone(&self.shared.state().written().store);
        self.faults.check(Fault::Write, store.path())?;
        self.written += batch.bytes() as u64;
        for (key, record) in batch.into_records(self.batch) {
            store.insert(&key, record)?;
        }
        self.batch += 1;
        store.flush()?;
        self.faults.check(Fault::Sync, store.path())?;
        planted!("sync-skipped", (), store.sync()?);
        if self.batch == 1 {
            // Not before the base record is durable: a start takes a blank segment for damage unless it is the last.
            self.background.submit(Job::Prepare(self.shared.state().written().number + 1));
        }
        Ok(())
    }

    /// Goes over to the next segment when the active one is full. While the next is not ready yet, the active one may
    /// grow to twice its size before the writer waits.
    fn change_segment_if_full(&mut self) -> Result<(), FileError> {
        if self.written < self.options.segment_bytes {
            return Ok(());
        }
        let must = self.written >= self.options.segment_bytes.saturating_mul(2);
        let fresh = if must { self.background.wait() } else { self.background.ready() };
        let Fresh { number, store } = match fresh {
            Some(Ok(fresh)) => fresh,
            None if !must => return Ok(()),
            // The helper could not do it, or is gone; what stopped it may be over, and if it is not, this tells.
            failed => {
                if let Some(Err(error)) = failed {
                    tracing::warn!(%error, "the next journal segment was not made ready in advance");
                }
                let number = self.shared.state().written().number + 1;
                let store = Store::create(&segment_dir(&self.shared.dir, number), self.options.zeros)?;
                Fresh { number, store }
            }
        };
        // Before readers find it among the sealed ones: sled opens a database only once, and who tried to in between
        // would wait for a lock that nobody gives back.
        let (old_number, old_store) = {
            let state = self.shared.state();
            (state.written().number, Arc::clone(&state.written().store))
        };
        self.shared.keep_open(old_number, old_store);
        let (old, range) = {
            let mut state = self.shared.state_mut();
            let active = Active { number, base: self.tips.clone(), store: Arc::new(store) };
            let old = std::mem::replace(state.written_mut(), active);
            let range = Range { base: old.base.clone(), end: self.tips.clone() };
            state.sealed.push_back(Found { number: old.number, range: range.clone() });
            (old, range)
        };
        self.written = 0;
        self.batch = 0;
        self.background.submit(Job::Seal(old.number, range));
        Ok(())
    }

    fn trim_below(&self, marks: &[(ShardId, Lsn)]) -> Result<(), FileError> {
        let mut mark = vec![0; self.tips.len()];
        for (shard, lsn) in marks {
            if let Some(mark) = mark.get_mut(shard.index()) {
                *mark = lsn.0;
            }
        }
        let gone = |Range { base, end }: &Range| {
            (0..mark.len()).all(|shard| base[shard] == end[shard] || end[shard].next <= mark[shard])
        };
        let mut trash = Vec::new();
        // From the oldest on, so that what is left has no hole.
        let result = loop {
            let oldest =
                self.shared.state().sealed.front().filter(|oldest| gone(&oldest.range)).map(|f| f.number);
            let Some(number) = oldest else { break Ok(()) };
            match self.shared.while_closed(number, || to_trash(&self.shared.dir, number)) {
                Ok(path) => trash.push(path),
                Err(error) => break Err(error),
            }
            self.shared.state_mut().sealed.pop_front();
        };
        if trash.is_empty() {
            return result;
        }
        sync_dir(&self.shared.dir)?;
        self.background.submit(Job::Delete(trash));
        result
    }

    /// Ends the helper thread and seals the active segment, so that the next start need not look through it.
    fn close(&mut self) -> Result<(), FileError> {
        let unused = self.background.stop();
        if let Some(Fresh { number, store }) = unused {
            drop(store);
            discard(&self.shared.dir, number)?;
        }
        if self.poison.is_some() {
            // What of the last batch reached the medium is not known here; the next start looks.
            return Ok(());
        }
        let state = self.shared.state();
        let active = state.written();
        let range = Range { base: active.base.clone(), end: state.tips.clone() };
        seal::write(&segment_dir(&self.shared.dir, active.number), &range)
    }
}

impl Journal for SledJournal {
    fn commit(&mut self, groups: &[Group]) -> Result<(), JournalError> {
        if let Some(why) = &self.poison {
            return Err(JournalError::Poisoned(why.clone()));
        }
        if !self.check_order(groups)? {
            return Ok(());
        }
        match self.write_all(groups) {
            Ok(tips) => {
                self.shared.state_mut().tips.clone_from(&tips);
                self.tips = tips;
                Ok(())
            }
            Err(error) => {
                self.poison = Some(error.to_string());
                Err(io_error(error))
            }
        }
    }

    fn trim(&mut self, marks: &[(ShardId, Lsn)]) -> Result<(), JournalError> {
        self.trim_below(marks).map_err(io_error)
    }

    fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.shared) as Arc<dyn JournalReader>
    }
}

impl Drop for SledJournal {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the journal was not closed cleanly; the next start takes longer and loses nothing");
        }
    }
}

impl std::fmt::Debug for SledJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledJournal").field("dir", &self.shared.dir).field("poison", &self.poison).finish()
    }
}
