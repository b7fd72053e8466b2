//! One segment's sled database, wrapped so that what sled 0.34.7 does not promise is seen to here.
//!
//! Read in its sources, and relied on:
//!
//! - `flush` writes the log buffer and ends in `sync_file_range`, which is no fsync: [`Store::sync`] calls `sync_data`
//!   on an own handle of the file `db`.
//! - Its log is written in the order of the inserts and recovered up to the first tear. So single inserts in the order
//!   of the records are as good as a sled batch, whose hash map would shuffle them; our records themselves
//!   say which belong together. (Small commits are a fifth faster this way.)
//! - An item above a quarter of sled's segment size goes to a blob file without fsync. Leaves hold 16 values of 4
//!   KiB at the most, far below the 2 MiB of an 8 MiB segment.
//! - A snapshot that was being written when the process died makes every later open fail: [`Store::open`] removes it.
//! - Recovery overwrites what it thinks is not needed any more, trusting that what replaced it is on the medium:
//!   [`Store::open`] syncs the file first.
//! - Zeros behind its log are read like the end of the file (no valid segment header, message kind 0 = corrupted),
//!   so the file can be extended by zeros in advance; a sync then needs no change of the file's size. Here that took
//!   a fifth to a third off the time of small commits. The zeros are written once, before the first record.
//! - It asserts more than it returns errors, above all on damaged files: opening, reading and closing catch panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "testing")]
use super::stand_in::Log;
use crate::disk::{self, File};
use crate::files::{At as _, FileError, create_dir, parent, sync_dir};

/// The unit in which sled lays out and frees its file. Large, so that freed parts lag far behind the last sync (see
/// `pack::MAX_BATCH_BYTES`). A segment of the journal has some twenty of them.
pub(crate) const SLED_SEGMENT_BYTES: usize = 8 << 20;

/// Pages that sled keeps in memory per open segment; sequential readers need a few leaves.
const SLED_CACHE_BYTES: u64 = 8 << 20;

/// sled's own threads hold the file for a moment after a database was dropped, so opening it again is tried this
/// often …
const OPEN_TRIES: u32 = 3_000;

/// … with this pause: half a minute, after which somebody else really has it.
const OPEN_PAUSE: Duration = Duration::from_millis(10);

/// What sled's error says then; it has no kind of its own.
const LOCK_REFUSED: &str = "could not acquire lock";

/// Zeros are written and synced in pieces of this size, so that the syncs of the commits next to it don't wait long.
const ZERO_PIECE_BYTES: usize = 4 << 20;

const _: () = assert!(super::pack::MAX_BATCH_BYTES * 6 < SLED_SEGMENT_BYTES, "see MAX_BATCH_BYTES");

/// A key and its record.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// An open database of one segment.
pub(crate) struct Store {
    /// `None` only while it is being dropped.
    db: Option<Db>,
    file: File,
    path: PathBuf,
}

enum Db {
    Sled(sled::Db),
    #[cfg(feature = "testing")]
    StandIn(Log),
}

impl Store {
    /// The file that holds the log of the database in `dir`.
    pub fn file_of(dir: &Path) -> PathBuf {
        dir.join("db")
    }

    /// Creates the database in the new directory `dir`, durable, and extends its file by `zeros` bytes.
    pub fn create(dir: &Path, zeros: u64) -> Result<Self, FileError> {
        create_dir(dir)?;
        let store = Self::open(dir)?;
        store.flush()?;
        store.write_zeros(zeros)?;
        store.file.sync_all().at(&store.path)?;
        if let Some(Db::Sled(_)) = store.db {
            File::open(&dir.join("conf")).and_then(|conf| conf.sync_all()).at(dir)?;
        }
        sync_dir(dir)?;
        sync_dir(&parent(dir))?;
        Ok(store)
    }

    /// Opens the database in `dir`, repairing what a crash left.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        remove_unfinished_snapshots(dir)?;
        let path = Self::file_of(dir);
        let file = File::open_or_create(&path).at(&path)?;
        file.sync_all().at(&path)?;
        #[cfg(feature = "testing")]
        if let File::Simulated(_) = file {
            let log = Log::open(&file, &path, &disk::read(&path).at(&path)?)?;
            return Ok(Self { db: Some(Db::StandIn(log)), file, path });
        }
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(SLED_CACHE_BYTES)
            .segment_size(SLED_SEGMENT_BYTES)
            .flush_every_ms(None);
        let mut tries = 0;
        let db = loop {
            match guarded(&path, || config.open()) {
                Err(error) if error.problem.contains(LOCK_REFUSED) && tries < OPEN_TRIES => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                other => break other?,
            }
        };
        Ok(Self { db: Some(Db::Sled(db)), file, path })
    }

    /// The file, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the database in `dir` takes on disk; 0 when it is not there.
    pub fn disk_bytes(dir: &Path) -> u64 {
        disk::disk_bytes(&Self::file_of(dir))
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is there until drop")
    }

    /// Puts one record behind the others. Not durable yet.
    pub fn insert(&self, key: &[u8], record: Vec<u8>) -> Result<(), FileError> {
        match self.db() {
            Db::Sled(db) => guarded(&self.path, || db.insert(key, record)).map(drop),
            #[cfg(feature = "testing")]
            Db::StandIn(log) => {
                log.insert(key, record);
                Ok(())
            }
        }
    }

    /// Writes what was inserted to the file. Not durable yet.
    pub fn flush(&self) -> Result<(), FileError> {
        match self.db() {
            Db::Sled(db) => guarded(&self.path, || db.flush()).map(drop),
            #[cfg(feature = "testing")]
            Db::StandIn(log) => log.flush(&self.file, &self.path),
        }
    }

    /// Makes what was flushed durable.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().at(&self.path)
    }

    /// Calls `visit` with the records from the last key at or below `from` on, until it answers `false`.
    pub fn scan<E: From<FileError>>(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let db = match self.db() {
            Db::Sled(db) => db,
            #[cfg(feature = "testing")]
            Db::StandIn(log) => {
                for (key, record) in log.from(from) {
                    if !visit(&key, &record)? {
                        break;
                    }
                }
                return Ok(());
            }
        };
        let start = guarded(&self.path, || db.range(..=from).next_back().transpose())?;
        let start = start.map_or_else(|| from.to_vec(), |(key, _)| key.to_vec());
        let mut records = db.range(start..);
        while let Some((key, record)) = guarded(&self.path, || records.next().transpose())? {
            if !visit(&key, &record)? {
                break;
            }
        }
        Ok(())
    }

    /// The first record whose key is `from` or after it.
    pub fn first(&self, from: &[u8]) -> Result<Option<Entry>, FileError> {
        match self.db() {
            Db::Sled(db) => {
                let first = guarded(&self.path, || db.range(from..).next().transpose())?;
                Ok(first.map(|(key, record)| (key.to_vec(), record.to_vec())))
            }
            #[cfg(feature = "testing")]
            Db::StandIn(log) => Ok(log.first(from)),
        }
    }

    fn write_zeros(&self, bytes: u64) -> Result<(), FileError> {
        let mut end = self.file.length().at(&self.path)?;
        let piece = vec![0; ZERO_PIECE_BYTES];
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZERO_PIECE_BYTES);
            let written = self.file.write_all_at(&piece[..now], end);
            written.and_then(|()| self.file.sync_data()).at(&self.path)?;
            (left, end) = (left - now as u64, end + now as u64);
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // sled syncs once more as it closes and panics when that fails. Everything that was acknowledged is durable,
        // so there is nothing to save and nothing to tell.
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

/// Runs a call into sled; a panic in it becomes an error.
fn guarded<T>(path: &Path, call: impl FnOnce() -> sled::Result<T>) -> Result<T, FileError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        // An error number comes from the system, and so does the lock; all else sled found in the file.
        Ok(Err(sled::Error::Io(error)))
            if error.raw_os_error().is_some() || error.to_string().contains(LOCK_REFUSED) =>
        {
            Err(FileError::new(path, error))
        }
        Ok(Err(error)) => Err(FileError::damage(path, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(FileError::damage(path, format!("sled panicked: {text}")))
        }
    }
}

fn remove_unfinished_snapshots(dir: &Path) -> Result<(), FileError> {
    for path in disk::entries(dir).at(dir)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            disk::remove_file(&path).at(&path)?;
        }
    }
    Ok(())
}
