//! The journal of a server that does not run, to be read. Nothing of it is changed: no segment is begun, none is
//! sealed, and each is opened as a copy, since sled writes to what it opens. The copies lie in the journal's trash,
//! which every start empties.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotstock_engine::event::Event;
use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::{Bounds, JournalError, JournalReader, ShardEvents};

use super::reader::{Shared, State};
use super::recover::{Recovered, TRASH, look};
use super::tip::Tip;
use crate::disk;

/// Events that are read at once.
const EVENTS_PER_READ: usize = 1_024;

/// See the file's header.
pub struct StoppedJournal {
    // In this order: the open copies are closed before they are removed.
    shared: Shared,
    _copies: Copies,
    _lock: Arc<File>,
}

/// The directory of the copies; goes with its owner.
struct Copies(PathBuf);

impl Drop for Copies {
    fn drop(&mut self) {
        // What can't be removed now, the next start removes.
        let _ = disk::remove_dir_all(&self.0);
    }
}

impl StoppedJournal {
    /// Looks through the journal in `dir`. `lock` keeps the data directory from being opened by others for as long
    /// as this lives.
    pub(crate) fn open(dir: &Path, shards: u16, lock: Arc<File>) -> Result<Self, JournalError> {
        let segments = if disk::exists(dir) {
            let Recovered { segments, .. } = look(dir, shards)?;
            segments
        } else {
            Vec::new()
        };
        let start = || vec![Tip::START; usize::from(shards)];
        let tips = segments.last().map_or_else(start, |last| last.range.end.clone());
        let copies = Copies(dir.join(format!("{TRASH}copies")));
        let state = State { sealed: segments.into(), active: None, tips };
        Ok(Self {
            shared: Shared::new(dir.to_owned(), state, Some(copies.0.clone())),
            _copies: copies,
            _lock: lock,
        })
    }

    /// Reads everything of a shard that is there, and so checks its whole chain of hashes.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] with the first event that can't be read or does not follow, [`JournalError::Io`].
    pub fn check(&self, shard: ShardId) -> Result<(), JournalError> {
        self.events(shard, self.bounds(shard).first).try_for_each(|event| event.map(drop))
    }

    /// The events of a shard from `from` on, in order; ends at the first error.
    pub fn events(
        &self,
        shard: ShardId,
        from: Lsn,
    ) -> impl Iterator<Item = Result<(Lsn, Event), JournalError>> {
        events(self, shard, from)
    }
}

/// The events of a shard from `from` on, in order; ends at the first error.
pub fn events<R: JournalReader + ?Sized>(
    reader: &R,
    shard: ShardId,
    from: Lsn,
) -> impl Iterator<Item = Result<(Lsn, Event), JournalError>> {
    let mut next = Some(from);
    let pieces = std::iter::from_fn(move || {
        let read = reader.read(shard, next?, EVENTS_PER_READ);
        next = read.as_ref().ok().and_then(|events| events.last()).map(|(lsn, _)| lsn.next());
        Some(read)
    });
    pieces.flat_map(|piece| match piece {
        Ok(events) => events.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    })
}

impl JournalReader for StoppedJournal {
    fn bounds(&self, shard: ShardId) -> Bounds {
        self.shared.bounds(shard)
    }

    fn read(&self, shard: ShardId, from: Lsn, max: usize) -> Result<Vec<(Lsn, Event)>, JournalError> {
        self.shared.read(shard, from, max)
    }

    fn read_together(
        &self,
        next: &[Lsn],
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ShardEvents>, JournalError> {
        self.shared.read_together(next, max, max_bytes)
    }

    fn chain(&self, shard: ShardId, lsn: Lsn) -> Result<ChainHash, JournalError> {
        self.shared.chain(shard, lsn)
    }

    fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes()
    }
}

impl std::fmt::Debug for StoppedJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoppedJournal").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}
