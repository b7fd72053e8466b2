//! What the engine asks of a write-ahead log. `hotstock-persistence` implements it on sled; [`crate::testing`] in
//! memory; both pass the one suite in [`crate::testing::journal_suite`].
//!
//! ```text
//!   a shard's journal:
//!
//!     LSN   1 … 40 │ 41 ……………… 90 │ 91 ……………… 97 │
//!         trimmed │   readable          │  in commit  │ not yet there
//!                  ▲                      ▲
//!                  bounds().first = 41     bounds().last = 90 = durable LSN
//! ```
//!
//! The contract:
//!
//! - **Order.** The events of one shard have the LSNs 1, 2, 3, … without gap or repeat. A group that does not follow
//!   the last one of its shard is refused with [`JournalError::OutOfOrder`], and nothing of the call is written.
//! - **One sequence.** The events of all shards, group after group and call after call, are one sequence, and a shard
//!   learns of what another one logged only behind it there. What [`JournalReader::read_together`] gives is, with
//!   everything before it, a beginning of that sequence, and so is what a restart finds: never an effect without its
//!   cause.
//! - **Durable.** When [`Journal::commit`] returns `Ok`, every event of every group survives power loss. Readers
//!   see an event only from then on.
//! - **Poison.** After a failed write or sync what reached the medium is unknown, and an fsync that failed must not
//!   be tried again (the kernel may have dropped the pages). Every later `commit` fails with
//!   [`JournalError::Poisoned`]; reading goes on.
//! - **Restart.** Reopening finds every event that was durable, and perhaps some of the group whose commit did not
//!   return; those it makes durable before it shows them. A torn tail is dropped. Damage before the tail is refused
//!   with [`JournalError::Damaged`], which names the first LSN that can't be read.
//! - **Trim.** Events below the mark may go, at the journal's convenience (whole segments at a time); events from
//!   the mark on stay. Space comes back, and the time to reopen does not depend on what was trimmed.

use std::path::PathBuf;
use std::sync::Arc;

use crate::base::ids::{ChainHash, Lsn, ShardId};
use crate::contract::event::Event;

/// Events of one shard that follow each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Whose.
    pub shard: ShardId,
    /// The LSN of the first of them.
    pub first: Lsn,
    /// At least one.
    pub events: Vec<Event>,
}

impl Group {
    /// The LSN of the last event.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn((self.first.0 + self.events.len() as u64).saturating_sub(1))
    }
}

/// The writing side: one owner, the journal writer.
pub trait Journal: Send + 'static {
    /// Writes all groups and makes them durable, in one sync however many there are. Groups of one shard come in the
    /// order of their LSNs.
    ///
    /// # Errors
    /// See the contract above; after [`JournalError::OutOfOrder`] the journal is as before, after any other error it
    /// is poisoned.
    fn commit(&mut self, groups: &[Group]) -> Result<(), JournalError>;

    /// Lets go of events below `marks[shard]`; a shard without a mark keeps everything.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the events may or may not be gone, and trimming can be tried again.
    fn trim(&mut self, marks: &[(ShardId, Lsn)]) -> Result<(), JournalError>;

    /// A reading side that can be used from any thread while this one writes.
    fn reader(&self) -> Arc<dyn JournalReader>;
}

/// The reading side: followers, rebuilt shards, `verify`.
pub trait JournalReader: Send + Sync + 'static {
    /// What can be read of a shard.
    fn bounds(&self, shard: ShardId) -> Bounds;

    /// The events from `from` on, in order: at least one if there is one, at most `max` (≥ 1). An answer that is
    /// shorter than `max` does not mean that the journal ends there; an empty one does.
    ///
    /// # Errors
    /// [`JournalError::Trimmed`] when `from` is below the first that is left, [`JournalError::Damaged`],
    /// [`JournalError::Io`].
    fn read(&self, shard: ShardId, from: Lsn, max: usize) -> Result<Vec<(Lsn, Event)>, JournalError>;

    /// The events of all shards together, `next[shard]` the first of each: where an earlier answer ended, or the
    /// journal begins. As many commits as have at most `max` events (≥ 1) and [weigh](Event::weight) at most
    /// `max_bytes`, and one at the least: with what comes before it a beginning of the sequence. Of a commit that is
    /// written in several pieces, since it is large, a beginning may come alone. By shard; those without an event are
    /// left out, all of them only where the journal ends.
    ///
    /// # Errors
    /// As of [`JournalReader::read`].
    fn read_together(
        &self,
        next: &[Lsn],
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ShardEvents>, JournalError>;

    /// The chain hash after event `lsn`, for every `lsn` from the one before `bounds().first` to `bounds().last`.
    /// Computed from what is on the medium, never remembered from elsewhere.
    ///
    /// # Errors
    /// [`JournalError::Trimmed`] below that, [`JournalError::Damaged`] above the last or when it can't be read,
    /// [`JournalError::Io`].
    fn chain(&self, shard: ShardId, lsn: Lsn) -> Result<ChainHash, JournalError>;

    /// Bytes that the journal takes on disk now.
    fn disk_bytes(&self) -> u64;
}

/// What [`JournalReader::read_together`] gives of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardEvents {
    /// Whose.
    pub shard: ShardId,
    /// In their order; at least one.
    pub events: Vec<(Lsn, Event)>,
    /// The chain hash after the last of them.
    pub hash: ChainHash,
}

/// The events of a shard that can be read: `first..=last`, none when `last` is below `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first that was not trimmed, or the next to come.
    pub first: Lsn,
    /// The last durable one; the one before `first` when there is none.
    pub last: Lsn,
}

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or sync failed before: nothing is written any more.
    #[error("the journal is poisoned by an earlier failure: {0}")]
    Poisoned(String),
    /// The group does not follow the last event of its shard.
    #[error("shard {shard}: event {got} where {expected} had to come")]
    OutOfOrder {
        /// Whose group.
        shard: ShardId,
        /// The LSN that had to come.
        expected: Lsn,
        /// The LSN that came.
        got: Lsn,
    },
    /// An event that was durable can't be read.
    #[error("shard {shard}: the journal is damaged at event {lsn}: {what}")]
    Damaged {
        /// Whose event.
        shard: ShardId,
        /// Which.
        lsn: Lsn,
        /// What was found.
        what: String,
    },
    /// The event was trimmed.
    #[error("shard {shard}: event {asked} was trimmed, the first that is left is {first}")]
    Trimmed {
        /// Whose event.
        shard: ShardId,
        /// Which was asked for.
        asked: Lsn,
        /// The first that is left.
        first: Lsn,
    },
    /// The medium failed.
    #[error("{path}: {problem}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
}
