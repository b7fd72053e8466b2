//! What the engine asks of a place for checkpoints. `hotstock-persistence` implements it with files.
//!
//! A checkpoint is *fuzzy*: the shard writes it in slices between its batches, so its entries are of different moments
//! between `begin` and `end`. Every entry carries the LSN of its last change; replay starts after `begin` and applies
//! an event to an entry only when the event is newer. After `end` the state is exact.
//!
//! The contract: a checkpoint can be found again only after [`CheckpointWriter::finish`] returned, and then survives
//! power loss; the engine calls it when the journal is durable through `end`, never before. Damage is an error, never a
//! shorter checkpoint. The one before the newest is kept until the newest is complete.

use xxhash_rust::xxh3::xxh3_64;

use super::image::Image;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, ServerId, ShardId, TakeId};

/// Where checkpoints are kept.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Begins a checkpoint of a shard; an earlier one that was not finished is thrown away.
    ///
    /// # Errors
    /// [`CheckpointError`].
    fn create(&self, shard: ShardId, begin: Lsn) -> Result<Box<dyn CheckpointWriter>, CheckpointError>;

    /// The newest complete checkpoint of a shard.
    ///
    /// # Errors
    /// [`CheckpointError`], when there is one that can't be read.
    fn newest(&self, shard: ShardId) -> Result<Option<Box<dyn CheckpointReader>>, CheckpointError>;
}

/// Where the filter of known numbers is kept ([`crate::services::known`]): a file for each of its generations. A file
/// is written once and never changed; which ones count, the checkpoints say.
pub trait FilterStore: Send + Sync + 'static {
    /// Writes a file, durably, and as a whole or not at all.
    ///
    /// # Errors
    /// What went wrong, in words; the other files stay as they are.
    fn save(&self, number: u64, bytes: &[u8]) -> Result<(), String>;

    /// Reads a file; `None` when there is none of this number.
    ///
    /// # Errors
    /// What is damaged, in words: the filter is then filled again from the store.
    fn load(&self, number: u64) -> Result<Option<Vec<u8>>, String>;

    /// Removes all files but these.
    ///
    /// # Errors
    /// What went wrong, in words; what is left over is removed by the next call.
    fn keep_only(&self, numbers: &[u64]) -> Result<(), String>;
}

/// What a checkpoint says of the filter of known numbers: it was saved just before the checkpoint was finished, and
/// has everything that had left memory by then. Of several manifests the one with the highest number counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterManifest {
    /// Above those of all that were finished before.
    pub number: u64,
    /// Its files, at most [`MAX_GENERATIONS`](crate::base::limits::MAX_GENERATIONS). `None`: the filter was not
    /// complete and is filled from the store.
    pub files: Option<Vec<FilterFile>>,
}

/// A file of a [`FilterManifest`], and what tells it from an older one, or another directory's, in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterFile {
    /// Its number.
    pub number: u64,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of its content.
    pub hash: u64,
}

impl FilterFile {
    /// Of this content.
    #[must_use]
    pub fn of(number: u64, content: &[u8]) -> Self {
        Self { number, bytes: content.len() as u64, hash: xxh3_64(content) }
    }
}

/// Who a server is: its data directory. Kept durably.
pub trait Identity: Send + Sync + 'static {
    /// The directory.
    fn server(&self) -> ServerId;

    /// The last epoch that it took; [`Epoch::ZERO`] for a new one.
    fn epoch(&self) -> Epoch;

    /// Takes of the store that this directory did, meant to do, or did after: the newest
    /// [`MAX_TAKES_KNOWN`](crate::base::limits::MAX_TAKES_KNOWN), oldest first. A store whose take is none of them was
    /// taken by somebody else.
    fn takes(&self) -> Vec<TakeId>;

    /// Makes an id for a take of a store whose present one is `after`, and writes both to the directory: before the
    /// store is asked, so that whatever becomes of that is known for this directory's.
    ///
    /// # Errors
    /// What went wrong, in words; the store must not be taken.
    fn intend(&self, after: Option<TakeId>) -> Result<TakeId, String>;

    /// Writes the epoch that was taken to the directory, before the server serves.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn record(&self, epoch: Epoch) -> Result<(), String>;

    /// Whether this is evidently the same directory on the same machine as when the last epoch was recorded (not a
    /// copy, a clone, a restored snapshot).
    ///
    /// # Errors
    /// What is otherwise, in words.
    fn is_same_place(&self) -> Result<(), String>;
}

/// A checkpoint that is being written. Dropped without `finish`, it leaves nothing behind.
pub trait CheckpointWriter: Send {
    /// Adds a slice.
    ///
    /// # Errors
    /// [`CheckpointError`]; the checkpoint is then of no use.
    fn write(&mut self, slice: &[Image]) -> Result<(), CheckpointError>;

    /// Completes it: durable and found by [`CheckpointStore::newest`] from now on; older ones of the shard go. `known`:
    /// what is kept of the filter of known numbers.
    ///
    /// # Errors
    /// [`CheckpointError`]; the one before it still stands.
    fn finish(self: Box<Self>, end: CheckpointEnd, known: &FilterManifest) -> Result<(), CheckpointError>;
}

/// A complete checkpoint.
pub trait CheckpointReader: Send {
    /// Replay starts after this.
    fn begin(&self) -> Lsn;

    /// What was known when it was finished.
    fn end(&self) -> CheckpointEnd;

    /// What was kept of the filter of known numbers then.
    fn known(&self) -> &FilterManifest;

    /// The next slice, `None` after the last.
    ///
    /// # Errors
    /// [`CheckpointError`] when it can't be read or fails its check sum.
    fn next_slice(&mut self) -> Result<Option<Vec<Image>>, CheckpointError>;
}

/// What stands at the end of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// The last event that any entry may know of. Exact from here on.
    pub end: Lsn,
    /// The logged time at that event.
    pub time: Timestamp,
    /// The last change of anything that had left memory by then; what the store says of what is not here counts only
    /// from there on.
    pub departed: Lsn,
}

/// A checkpoint that can't be written or read.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint of shard {shard}: {problem}")]
pub struct CheckpointError {
    /// Whose.
    pub shard: ShardId,
    /// What happened, with the file.
    pub problem: String,
}
