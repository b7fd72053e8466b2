//! What stands in for sled on a simulated disk: a log of records, recovered up to the first tear. It keeps to what
//! [`super::store`] relies on of sled and no more: inserts are written in their order, `flush` is no sync, and what is
//! not recovered is wiped.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::store::Entry;
use crate::disk::File;
use crate::files::{At as _, FileError};

/// Length of key and record, their CRC-32.
const FRONT_BYTES: usize = 12;

pub(super) struct Log {
    state: Mutex<State>,
}

struct State {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Inserted and not written yet.
    unwritten: Vec<u8>,
    /// Where the file's log ends.
    end: u64,
}

impl Log {
    pub fn open(file: &File, path: &Path, content: &[u8]) -> Result<Self, FileError> {
        let (mut records, mut left) = (BTreeMap::new(), content);
        while let Some((key, record, rest)) = first(left) {
            records.insert(key.to_vec(), record.to_vec());
            left = rest;
        }
        let end = (content.len() - left.len()) as u64;
        if left.iter().any(|byte| *byte != 0) {
            file.write_all_at(&vec![0; left.len()], end).at(path)?;
        }
        Ok(Self { state: Mutex::new(State { records, unwritten: Vec::new(), end }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn insert(&self, key: &[u8], record: Vec<u8>) {
        let mut state = self.state();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("records are short").to_le_bytes();
        let mut crc = crc32fast::Hasher::new();
        [&length(key)[..], &length(&record), key, &record].iter().for_each(|bytes| crc.update(bytes));
        let crc = crc.finalize().to_le_bytes();
        for bytes in [&length(key)[..], &length(&record), &crc, key, &record] {
            state.unwritten.extend_from_slice(bytes);
        }
        state.records.insert(key.to_vec(), record);
    }

    pub fn flush(&self, file: &File, path: &Path) -> Result<(), FileError> {
        let mut state = self.state();
        let State { unwritten, end, .. } = &mut *state;
        file.write_all_at(unwritten, *end).at(path)?;
        *end += unwritten.len() as u64;
        unwritten.clear();
        Ok(())
    }

    /// The first record whose key is `from` or after it.
    pub fn first(&self, from: &[u8]) -> Option<Entry> {
        let state = self.state();
        let mut rest = state.records.range(from.to_vec()..);
        rest.next().map(|(key, record)| (key.clone(), record.clone()))
    }

    /// The records from the last key at or below `from` on.
    pub fn from(&self, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state();
        let start = state.records.range(..=from.to_vec()).next_back().map_or(from, |(key, _)| key);
        let rest = state.records.range(start.to_vec()..);
        rest.map(|(key, record)| (key.clone(), record.clone())).collect()
    }
}

/// The first record of a log, and what comes behind it.
fn first(log: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (front, rest) = log.split_first_chunk::<FRONT_BYTES>()?;
    let number = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
    let (key_bytes, record_bytes) = (usize::try_from(number(0)).ok()?, usize::try_from(number(4)).ok()?);
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (record, rest) = rest.split_at_checked(record_bytes)?;
    let mut crc = crc32fast::Hasher::new();
    [&front[..8], key, record].iter().for_each(|bytes| crc.update(bytes));
    (key_bytes > 0 && crc.finalize() == number(8)).then_some((key, record, rest))
}
