//! The write-ahead log on sled, in segments.
//!
//! ```text
//!   data-dir/journal/
//!     000000000007/   sealed: never written again; removed whole when every event in it is trimmed
//!     000000000008/   active: every commit ends here
//!       db, conf, …   a small sled database
//!       seal          written when the segment is full (or at a clean end, or by the next start)
//!     000000000009/   made ready in advance by the helper thread
//!     trash-6/        out of the journal, being deleted
//! ```
//!
//! Why segments: sled keeps everything that was written in its cache, reads all of it when it is opened, and gives
//! back little of the disk when keys are deleted. Small databases that are removed whole bound all three.
//!
//! A commit packs its events into records ([`record`], [`pack`]), inserts them into the active database, flushes, and
//! syncs once. [`store`] says what sled 0.34.7 does and does not promise, [`recover`] how a start tells a torn tail
//! from damage, [`reader`] how followers read a shard and [`together`] how all, [`stopped`] how a journal is read that
//! nobody writes.
//!
//! Every record carries the *chain hash* before its first event ([`crate::codec::link`]): a hash over all events of
//! the shard up to there. So the hash at any LSN is found by reading one record, also when everything before it was
//! trimmed, and a record that does not follow on the one before it is found by whoever reads both.

mod background;
mod faults;
mod pack;
mod reader;
mod record;
mod recover;
mod seal;
#[cfg(feature = "testing")]
mod stand_in;
mod stopped;
mod store;
mod tip;
mod together;
mod writer;

pub use faults::{Fault, Faults};
pub use stopped::{StoppedJournal, events};
pub use writer::SledJournal;

use std::path::{Path, PathBuf};

use hotstock_engine::journal::JournalError;

use crate::files::FileError;

/// How the journal uses the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes of records after which the next segment is begun. On disk a segment takes about twice that. Smaller ones
    /// give space back sooner and are looked through faster after a crash; larger ones change less often.
    pub segment_bytes: u64,
    /// Zeros that are written to a new segment's file in advance, in bytes: a sync into a file that need not grow is
    /// faster by a fifth to a third when commits are small.
    pub zeros: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, zeros: 64 << 20 }
    }
}

fn segment_dir(dir: &Path, number: u64) -> PathBuf {
    // Padded, so that a listing shows them in order.
    dir.join(format!("{number:012}"))
}

fn io_error(error: FileError) -> JournalError {
    JournalError::Io { path: error.path, problem: error.problem }
}
