//! What the journal's tests share: a journal in a directory of its own that can be crashed.

#![allow(dead_code, reason = "every test binary uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use hotstock_engine::journal::{Journal, JournalError};
use hotstock_engine::testing::journal_suite::{SHARDS, Subject};
use hotstock_persistence::journal::{Fault, Faults, JournalOptions, SledJournal};
use tempfile::TempDir;

/// Small, so that a test sees several segments; with some zeros, so that recovery meets them.
pub const SMALL: JournalOptions = JournalOptions { segment_bytes: 8 << 10, zeros: 100 << 10 };

/// A journal on sled, through its restarts.
pub struct OnSled {
    home: TempDir,
    options: JournalOptions,
    faults: Option<Faults>,
}

impl OnSled {
    pub fn new(options: JournalOptions) -> Self {
        Self::on(tempfile::tempdir().unwrap(), options)
    }

    /// On what an earlier one left.
    pub fn on(home: TempDir, options: JournalOptions) -> Self {
        Self { home, options, faults: None }
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("journal")
    }

    pub fn open_sled(&mut self) -> Result<SledJournal, JournalError> {
        let journal = SledJournal::open(&self.dir(), SHARDS, self.options)?;
        self.faults = Some(journal.faults());
        Ok(journal)
    }

    /// The next journal finds the directory as it is now, whatever the one before does from here on.
    pub fn freeze(&mut self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&self.dir(), &copy.path().join("journal"));
        std::mem::replace(&mut self.home, copy)
    }

    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().expect("it was opened")
    }

    /// The directories of the segments, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let is_segment = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u64>().is_ok())
        };
        let entries = fs::read_dir(self.dir()).unwrap();
        let mut segments: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(is_segment).collect();
        segments.sort();
        segments
    }
}

impl Subject for OnSled {
    fn open(&mut self) -> Result<Box<dyn Journal>, JournalError> {
        self.open_sled().map(|journal| Box::new(journal) as Box<dyn Journal>)
    }

    fn crash(&mut self, journal: Box<dyn Journal>) {
        let old = self.freeze();
        drop(journal);
        drop(old);
    }

    fn fail_next_write(&mut self) {
        self.faults().fail_next(Fault::Write);
    }

    fn fail_next_sync(&mut self) {
        self.faults().fail_next(Fault::Sync);
    }

    fn events_to_trim(&self) -> u64 {
        // About a hundred bytes each: some segments of the small kind.
        500
    }
}

/// Copies a directory that somebody may be writing to; what vanishes meanwhile was not part of it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.map_while(Result::ok) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
}

/// A journal record found in the raw bytes of a file; the layout is that of `journal::record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord {
    pub at: usize,
    pub end: usize,
    pub shard: u16,
    pub first: u64,
    pub batch: u32,
    pub chain: u64,
}

/// Bytes of a record before its payload.
pub const HEADER: usize = 50;

/// Everything in the raw bytes that begins like a record; sled writes some of them several times.
pub fn raw_records(raw: &[u8]) -> Vec<RawRecord> {
    let number = |at: usize, bytes: usize| {
        raw[at..at + bytes].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    (0..raw.len().saturating_sub(HEADER))
        .filter(|at| raw[*at..].starts_with(b"\xF5HSJ\x01"))
        .map(|at| RawRecord {
            at,
            end: at + HEADER + number(at + 6, 2) as usize,
            shard: number(at + 12, 2) as u16,
            first: number(at + 16, 8),
            batch: number(at + 32, 4) as u32,
            chain: number(at + 42, 8),
        })
        .collect()
}

/// Changes bytes of a file.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Changes the record of these events and puts the check sum that fits: an intact record that is not what was written.
pub fn forge(segment: &Path, shard: u16, first: u64, change: impl FnOnce(&mut [u8])) {
    let db = sled::Config::new().path(segment).segment_size(8 << 20).open().unwrap();
    let key = [&shard.to_be_bytes()[..], &first.to_be_bytes(), &[0, 0]].concat();
    let mut record = db.get(&key).unwrap().expect("there is such a record").to_vec();
    change(&mut record);
    let crc = crc32fast::hash(&[&record[4..8], &record[12..]].concat());
    record[8..12].copy_from_slice(&crc.to_le_bytes());
    db.insert(key, record).unwrap();
    db.flush().unwrap();
}

/// Makes it a record that does not follow on the one before it.
pub fn forge_chain(segment: &Path, shard: u16, first: u64) {
    forge(segment, shard, first, |record| record[42] ^= 1);
}
