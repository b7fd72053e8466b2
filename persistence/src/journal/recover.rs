//! What a start finds: the segments in order, what each holds, and whether anything that was durable is missing.
//!
//! Sealed segments are taken at their word. One without a seal (the last before a crash, and the one before it
//! when it was just being sealed) is looked through: what sled recovered, and, because sled silently ends its
//! recovery at the first bad page, the raw bytes of its file. By the batch numbers:
//!
//! - the last batch that left any trace is not complete: a torn tail; the whole batch is dropped;
//! - an earlier one is not complete: damage, for its commit was answered before the next began.
//!
//! Every segment begins with a base record, the next LSN of every shard. So each segment proves what the ones
//! before it must hold, and no shard forgets its place when all its events are trimmed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::JournalError;

use super::record::{self, Header, Kind};
use super::seal::{self, Range};
use super::store::{SLED_SEGMENT_BYTES, Store};
use super::{io_error, segment_dir};
use crate::codec::decode_numbers;
use crate::files::{At as _, FileError, sync_dir};

const TRASH: &str = "trash-";

/// A segment that holds something.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub number: u64,
    pub range: Range,
}

/// What a start found.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// All sealed, in order; each begins where the one before it ends.
    pub segments: Vec<Found>,
    /// No segment has had this number or a higher one.
    pub next_number: u64,
}

/// Looks through the journal in `dir` and seals every segment that a crash left open.
pub(crate) fn recover(dir: &Path, shards: u16) -> Result<Recovered, JournalError> {
    empty_trash(dir).map_err(io_error)?;
    let mut next_number = 1;
    let mut segments: Vec<Found> = Vec::new();
    let mut before_sealed = true;
    for number in numbers(dir).map_err(io_error)? {
        next_number = number + 1;
        let segment = segment_dir(dir, number);
        let sealed = seal::read(&segment, shards).map_err(io_error)?;
        let is_sealed = sealed.is_some();
        let found = match sealed {
            Some(range) => Some(range),
            None => look_through(&segment, shards)?,
        };
        let Some(range) = found else {
            // Prepared ahead and never written to.
            discard(dir, number).map_err(io_error)?;
            continue;
        };
        if let Some(before) = segments.last_mut() {
            connect(before, before_sealed, &range, number)?;
        }
        before_sealed = is_sealed;
        segments.push(Found { number, range });
    }
    for Found { number, range } in &segments {
        let segment = segment_dir(dir, *number);
        if seal::read(&segment, shards).map_err(io_error)?.as_ref() != Some(range) {
            seal::write(&segment, range).map_err(io_error)?;
        }
    }
    Ok(Recovered { segments, next_number })
}

/// Checks that a segment goes on where the one before it ends. What an unsealed one holds beyond that are the leftovers
/// of a torn tail that was dropped before the newer one was begun.
fn connect(before: &mut Found, sealed: bool, after: &Range, number: u64) -> Result<(), JournalError> {
    for (shard, (end, base)) in (0..).map(ShardId).zip(before.range.end.iter_mut().zip(&after.base)) {
        if *end < *base {
            let what = format!("segment {} ends before it, segment {number} begins at {base}", before.number);
            return Err(JournalError::Damaged { shard, lsn: Lsn(*end), what });
        }
        if *end > *base && sealed {
            let what = format!("segments {} and {number} both hold it", before.number);
            return Err(JournalError::Damaged { shard, lsn: Lsn(*base), what });
        }
        *end = *base;
    }
    Ok(())
}

/// The events of a segment without a seal; `None` when nothing was ever committed to it.
fn look_through(segment: &Path, shards: u16) -> Result<Option<Range>, JournalError> {
    let raw = Traces::of_file(&Store::file_of(segment), shards).map_err(io_error)?;
    let Some(last_batch) = raw.last_batch else { return Ok(None) };
    let mut view = View::new(raw);
    match view.read(segment) {
        Err(error) if error.damage => return Err(view.damaged(shards, error.to_string())),
        other => other.map_err(io_error)?,
    }
    view.conclude(shards, last_batch, segment)
}

/// What the raw bytes of a segment's file tell.
struct Traces {
    /// The highest batch of any intact record.
    last_batch: Option<u32>,
    /// The LSN after the last of every shard that has a trace.
    next: BTreeMap<ShardId, Lsn>,
    base: Option<Vec<u64>>,
}

impl Traces {
    fn of_file(path: &Path, shards: u16) -> Result<Self, FileError> {
        let mut traces = Self { last_batch: None, next: BTreeMap::new(), base: None };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(traces),
            other => other.at(path)?,
        };
        // sled never lays a record across the border of two of its segments, so each can be searched alone.
        let mut piece = Vec::with_capacity(SLED_SEGMENT_BYTES);
        loop {
            piece.clear();
            (&mut file).take(SLED_SEGMENT_BYTES as u64).read_to_end(&mut piece).at(path)?;
            if piece.is_empty() {
                return Ok(traces);
            }
            for (header, payload) in record::find_all(&piece) {
                traces.add(&header, payload, shards);
            }
        }
    }

    fn add(&mut self, header: &Header, payload: &[u8], shards: u16) {
        self.last_batch = self.last_batch.max(Some(header.batch));
        if header.kind == Kind::Base {
            self.base = decode_numbers(payload).ok().filter(|base| base.len() == usize::from(shards));
        } else if header.shard.0 < shards {
            let next = self.next.entry(header.shard).or_default();
            *next = header.next_lsn().max(*next);
        }
    }
}

/// What sled recovered of a segment, beside the traces in its raw bytes.
struct View {
    raw: Traces,
    /// Records in the order of their keys: by shard and LSN.
    records: Vec<Header>,
    /// Of every batch, by its number: records it must have, and has.
    batches: BTreeMap<u32, (u32, u32)>,
    /// The first record that is not intact.
    broken: Option<String>,
}

impl View {
    fn new(raw: Traces) -> Self {
        Self { raw, records: Vec::new(), batches: BTreeMap::new(), broken: None }
    }

    fn read(&mut self, segment: &Path) -> Result<(), FileError> {
        let store = Store::open(segment)?;
        store.scan(&[], |key, value| -> Result<bool, FileError> {
            match record::parse_value(key, value) {
                Ok((header, _)) => self.add(header),
                Err(what) => self.broken = self.broken.take().or_else(|| Some(what.to_string())),
            }
            Ok(true)
        })?;
        // What sled changed as it opened must be as durable as what is going to be shown.
        store.flush()?;
        store.sync()?;
        sync_dir(segment)
    }

    fn add(&mut self, header: Header) {
        let (must, has) = self.batches.entry(header.batch).or_default();
        *must = header.batch_records;
        *has += 1;
        if header.kind != Kind::Base {
            self.records.push(header);
        }
    }

    /// The first batch that is not there as a whole.
    fn incomplete(&self) -> u32 {
        let whole = |number: &u32| self.batches.get(number).is_some_and(|(must, has)| must == has);
        (0..u32::MAX).find(|number| !whole(number)).unwrap_or(u32::MAX)
    }

    fn conclude(
        mut self,
        shards: u16,
        last_trace: u32,
        segment: &Path,
    ) -> Result<Option<Range>, JournalError> {
        let torn = self.incomplete();
        if torn < last_trace {
            let what = self.broken.take().unwrap_or_else(|| "records are missing".to_owned());
            let what = format!("{what}, in batch {torn} of {} ({})", last_trace + 1, segment.display());
            return Err(self.damaged(shards, what));
        }
        if torn == 0 {
            // The very first commit did not come through.
            return Ok(None);
        }
        let Some(base) = self.raw.base.clone() else {
            return Err(self.damaged(shards, format!("{} has no base record", segment.display())));
        };
        let mut end = base.clone();
        self.records.retain(|header| header.batch < torn);
        for (shard, next) in contiguous(&self.records, &base) {
            match next {
                Ok(next) => end[shard.index()] = next.0,
                Err(lsn) => {
                    let what = format!("no record holds it ({})", segment.display());
                    return Err(JournalError::Damaged { shard, lsn, what });
                }
            }
        }
        Ok(Some(Range { base, end }))
    }

    /// Names the first LSN that can't be read: of a shard that has traces beyond it, if there is one.
    fn damaged(&self, shards: u16, what: String) -> JournalError {
        let base = self.raw.base.clone().unwrap_or_else(|| vec![1; usize::from(shards)]);
        let readable: BTreeMap<ShardId, Lsn> = contiguous(&self.records, &base)
            .into_iter()
            .map(|(shard, next)| (shard, next.unwrap_or_else(|lsn| lsn)))
            .collect();
        let readable = |shard: &ShardId| {
            let base = base.get(shard.index()).copied().unwrap_or(1);
            readable.get(shard).copied().unwrap_or(Lsn(base))
        };
        let lost = self.raw.next.iter().find(|(shard, next)| readable(shard) < **next);
        let any = self.raw.next.keys().next().copied().unwrap_or(ShardId(0));
        let shard = lost.map_or(any, |(shard, _)| *shard);
        JournalError::Damaged { shard, lsn: readable(&shard), what }
    }
}

/// For every shard with records, sorted by key: the LSN after its last event, or where the first gap is.
fn contiguous(records: &[Header], base: &[u64]) -> BTreeMap<ShardId, Result<Lsn, Lsn>> {
    let mut ends: BTreeMap<ShardId, Result<Lsn, Lsn>> = BTreeMap::new();
    // Parts of the event in hand that were seen, and its shard.
    let (mut parts, mut current) = (0, ShardId(0));
    for header in records {
        if header.shard != current {
            (parts, current) = (0, header.shard);
        }
        let start = base.get(header.shard.index()).copied().unwrap_or(u64::MAX);
        let end = ends.entry(header.shard).or_insert(Ok(Lsn(start)));
        let Ok(expected) = *end else { continue };
        let follows = header.first == expected && header.part == parts;
        parts = if follows && header.kind == Kind::Part { parts + 1 } else { 0 };
        *end = match (follows, header.kind) {
            (false, _) => Err(expected),
            (true, Kind::Part) if parts < header.count => Ok(expected),
            (true, _) => {
                parts = 0;
                Ok(header.next_lsn())
            }
        };
    }
    ends
}

/// The numbers of the segments in `dir`, in order.
fn numbers(dir: &Path) -> Result<Vec<u64>, FileError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let name = entry.at(dir)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Takes a segment out of the journal in one step; what is left of it can be deleted at leisure, or at the next start.
/// Durable once `dir` is synced.
pub(crate) fn to_trash(dir: &Path, number: u64) -> Result<PathBuf, FileError> {
    let from = segment_dir(dir, number);
    let trash = dir.join(format!("{TRASH}{number}"));
    fs::rename(&from, &trash).at(&from)?;
    Ok(trash)
}

pub(crate) fn discard(dir: &Path, number: u64) -> Result<(), FileError> {
    let trash = to_trash(dir, number)?;
    sync_dir(dir)?;
    fs::remove_dir_all(&trash).at(&trash)
}

fn empty_trash(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(TRASH)) {
            fs::remove_dir_all(entry.path()).at(&entry.path())?;
        }
    }
    Ok(())
}
