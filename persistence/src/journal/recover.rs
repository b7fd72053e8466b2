//! What a start finds: the segments in order, what each holds, and whether anything that was durable is missing.
//!
//! Sealed segments are taken at their word. One without a seal (the last before a crash, and the one before it
//! when it was just being sealed) is looked through: what sled recovers, and, because sled silently ends its
//! recovery at the first bad page, the raw bytes of its file. sled also *wipes* what it does not recover, so it is
//! given a copy: a segment that is refused stays as it was found. By the batch numbers:
//!
//! - the last batch that left any trace is not complete: a torn tail; the whole batch is dropped;
//! - an earlier one is not complete: damage, for its commit was answered before the next began.
//!
//! Every segment begins with a base record, the next LSN and the chain hash of every shard. So each segment proves
//! what the ones before it must hold, and no shard forgets its place when all its events are trimmed. The chain of
//! hashes is checked from record to record of a segment that is looked through, and from segment to segment of all;
//! within sealed ones whoever reads them checks it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::JournalError;
use hotstock_engine::planted;

use super::reader::BROKEN_CHAIN;
use super::record::{self, Header, Kind};
use super::seal::{self, Range};
use super::store::{SLED_SEGMENT_BYTES, Store};
use super::tip::{Tip, decode_tips};
use super::{io_error, segment_dir};
use crate::codec::{decode_event, link};
use crate::disk::{self, File};
use crate::files::{At as _, FileError, parent, sync_dir};

pub(super) const TRASH: &str = "trash-";

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
    /// No segment that was ever written to has this number or a higher one.
    pub next_number: u64,
    /// The number of a segment that was made ready and never written to.
    blank: Option<u64>,
}

/// Looks through the journal in `dir` and seals every segment that a crash left open. What was written there and not
/// yet synced when the process died is going to be shown, so it is made durable before.
pub(crate) fn recover(dir: &Path, shards: u16) -> Result<Recovered, JournalError> {
    let recovered = look(dir, shards)?;
    if let Some(number) = recovered.blank {
        discard(dir, number).map_err(io_error)?;
    }
    for Found { number, range } in &recovered.segments {
        let segment = segment_dir(dir, *number);
        if seal::read(&segment, shards).map_err(io_error)?.as_ref() != Some(range) {
            write_again(&Store::file_of(&segment)).map_err(io_error)?;
            seal::write(&segment, range).map_err(io_error)?;
        }
    }
    Ok(recovered)
}

/// Writes a file once more as it is, and syncs it. A sync that failed may have left pages marked as written that are
/// not: they are still there to be read, also by the next process, and another sync alone would write nothing of them.
fn write_again(path: &Path) -> Result<(), FileError> {
    let mut file = File::open_or_create(path).at(path)?;
    let mut piece = Vec::with_capacity(SLED_SEGMENT_BYTES);
    let mut offset = 0;
    loop {
        piece.clear();
        (&mut file).take(SLED_SEGMENT_BYTES as u64).read_to_end(&mut piece).at(path)?;
        if piece.is_empty() {
            break;
        }
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece, offset).at(path)?;
        }
        offset += piece.len() as u64;
    }
    file.sync_all().at(path)?;
    sync_dir(&parent(path))
}

/// Looks through the journal in `dir` and leaves it as it is, but for its trash.
pub(crate) fn look(dir: &Path, shards: u16) -> Result<Recovered, JournalError> {
    empty_trash(dir).map_err(io_error)?;
    let (mut next_number, mut blank) = (1, None);
    let mut segments: Vec<Found> = Vec::new();
    let mut before_sealed = true;
    let numbers = numbers(dir).map_err(io_error)?;
    for &number in &numbers {
        let segment = segment_dir(dir, number);
        let sealed = seal::read(&segment, shards).map_err(io_error)?;
        let is_sealed = sealed.is_some();
        let found = match sealed {
            Some(range) => Some(range),
            None => look_through(dir, number, shards)?,
        };
        let Some(range) = found else {
            // Made ready and never written to, which only the last can be: the next one is asked for when the base
            // record of this one is durable.
            if numbers.last() != Some(&number) {
                let lsn = segments.last().map_or(1, |before| before.range.end[0].next);
                let what = format!("segment {number} is blank, though there is one after it");
                return Err(JournalError::Damaged { shard: ShardId(0), lsn: Lsn(lsn), what });
            }
            blank = Some(number);
            continue;
        };
        next_number = number + 1;
        if let Some(before) = segments.last_mut() {
            connect(before, before_sealed, &range, number)?;
        }
        before_sealed = is_sealed;
        segments.push(Found { number, range });
    }
    Ok(Recovered { segments, next_number, blank })
}

/// Checks that a segment goes on where the one before it ends. What an unsealed one holds beyond that are the leftovers
/// of a torn tail that was dropped before the newer one was begun.
fn connect(before: &mut Found, sealed: bool, after: &Range, number: u64) -> Result<(), JournalError> {
    for (shard, (end, base)) in (0..).map(ShardId).zip(before.range.end.iter_mut().zip(&after.base)) {
        if end.next < base.next {
            let what =
                format!("segment {} ends before it, segment {number} begins at {}", before.number, base.next);
            return Err(JournalError::Damaged { shard, lsn: Lsn(end.next), what });
        }
        if end.next > base.next && sealed {
            let what = format!("segments {} and {number} both hold it", before.number);
            return Err(JournalError::Damaged { shard, lsn: Lsn(base.next), what });
        }
        if end.next == base.next && end.chain != base.chain {
            let what = format!("{BROKEN_CHAIN} (segments {} and {number})", before.number);
            return Err(JournalError::Damaged { shard, lsn: Lsn(base.next), what });
        }
        *end = *base;
    }
    Ok(())
}

/// The events of a segment without a seal; `None` when nothing was ever committed to it.
fn look_through(dir: &Path, number: u64, shards: u16) -> Result<Option<Range>, JournalError> {
    // In the trash from the first moment on, so that a crash leaves nothing.
    let copy = dir.join(format!("{TRASH}look-{number}"));
    disk::create_dir(&copy).at(&copy).map_err(io_error)?;
    let range = look_at_copy(&segment_dir(dir, number), &copy, shards);
    disk::remove_dir_all(&copy).at(&copy).map_err(io_error)?;
    range
}

fn look_at_copy(segment: &Path, copy: &Path, shards: u16) -> Result<Option<Range>, JournalError> {
    let raw = copy_and_trace(&Store::file_of(segment), &Store::file_of(copy), shards).map_err(io_error)?;
    let Some(last_batch) = raw.last_batch else { return Ok(None) };
    let mut view = View::new(raw);
    match view.read(copy) {
        Err(error) if error.damage => Err(view.damaged(segment, shards, &error.problem)),
        Err(error) => Err(io_error(error)),
        Ok(()) => view.conclude(shards, last_batch, segment),
    }
}

/// Copies the file of a segment for sled, and collects its traces on the way.
fn copy_and_trace(from: &Path, to: &Path, shards: u16) -> Result<Traces, FileError> {
    let mut traces = Traces { last_batch: None, next: BTreeMap::new(), base: None };
    let file = match File::open(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(traces),
        other => other.at(from)?,
    };
    // sled never lays a record across the border of two of its segments, so each can be searched alone.
    copy_file(file, from, to, |piece| {
        for (header, payload) in record::find_all(piece) {
            traces.add(&header, payload, shards);
        }
    })?;
    Ok(traces)
}

/// Copies the file of a segment, and has each of sled's own segments of it looked at.
fn copy_file(mut file: File, from: &Path, to: &Path, mut look: impl FnMut(&[u8])) -> Result<(), FileError> {
    let copy = File::create(to).at(to)?;
    let mut piece = Vec::with_capacity(SLED_SEGMENT_BYTES);
    let mut offset = 0;
    loop {
        piece.clear();
        (&mut file).take(SLED_SEGMENT_BYTES as u64).read_to_end(&mut piece).at(from)?;
        if piece.is_empty() {
            return Ok(());
        }
        // The zeros behind the log need no copy.
        if piece.iter().any(|byte| *byte != 0) {
            copy.write_all_at(&piece, offset).at(to)?;
        }
        offset += piece.len() as u64;
        look(&piece);
    }
}

/// What the raw bytes of a segment's file tell.
struct Traces {
    /// The highest batch of any intact record.
    last_batch: Option<u32>,
    /// The LSN after the last of every shard that has a trace.
    next: BTreeMap<ShardId, Lsn>,
    base: Option<Vec<Tip>>,
}

impl Traces {
    fn add(&mut self, header: &Header, payload: &[u8], shards: u16) {
        self.last_batch = self.last_batch.max(Some(header.batch));
        if header.kind == Kind::Base {
            self.base = decode_tips(payload).ok().filter(|base| base.len() == usize::from(shards));
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
    records: Vec<Seen>,
    /// The parts seen so far of an event that is cut.
    cut: Vec<u8>,
    /// Of every batch, by its number: records it must have, and has.
    batches: BTreeMap<u32, (u32, u32)>,
    /// The first record that is not intact.
    broken: Option<String>,
    /// The first record that is intact and holds something that is no event, with what was found.
    unreadable: Option<(record::Key, String)>,
}

/// A record that sled recovered. There may be a million.
struct Seen {
    header: Header,
    /// The chain hash after its last event; `None` when that can't be read. Of parts that are not the last, the one
    /// before.
    after: Option<ChainHash>,
}

impl View {
    fn new(raw: Traces) -> Self {
        let (records, cut, batches) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { raw, records, cut, batches, broken: None, unreadable: None }
    }

    fn read(&mut self, copy: &Path) -> Result<(), FileError> {
        Store::open(copy)?.scan(&[], |key, value| {
            match record::parse_value(key, value) {
                Ok((header, payload)) => self.add(header, payload),
                Err(what) => self.broken = self.broken.take().or_else(|| Some(what.to_string())),
            }
            Ok(true)
        })
    }

    fn add(&mut self, header: Header, payload: &[u8]) {
        let (must, has) = self.batches.entry(header.batch).or_default();
        *must = header.batch_records;
        *has += 1;
        let after = match header.kind {
            Kind::Base => return,
            Kind::Events => fold(&header, payload, header.count),
            Kind::Part => {
                if header.part == 0 {
                    self.cut.clear();
                }
                self.cut.extend_from_slice(payload);
                // Where parts are missing this makes no sense, and the gap is found by its own.
                if header.part + 1 == header.count { fold(&header, &self.cut, 1) } else { Ok(header.chain) }
            }
        };
        let after = after.map_err(|what| self.unreadable.get_or_insert((header.key(), what))).ok();
        self.records.push(Seen { header, after });
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
        if planted!("damage-taken-for-a-tear", false, torn < last_trace) {
            let what = self.broken.take().unwrap_or_else(|| "records are missing".to_owned());
            let what = format!("{what}, in batch {torn} of {}", last_trace + 1);
            return Err(self.damaged(segment, shards, &what));
        }
        if torn == 0 {
            // The very first commit did not come through.
            return Ok(None);
        }
        let Some(base) = self.raw.base.clone() else {
            return Err(self.damaged(segment, shards, "there is no base record"));
        };
        let mut end = base.clone();
        self.records.retain(|seen| seen.header.batch < torn);
        let nexts: Vec<u64> = base.iter().map(|tip| tip.next).collect();
        for (shard, next) in contiguous(self.records.iter().map(|seen| &seen.header), &nexts) {
            match next {
                Ok(next) => end[shard.index()] = Tip { next: next.0, ..end[shard.index()] },
                Err(lsn) => {
                    let what = format!("no record holds it ({})", segment.display());
                    return Err(JournalError::Damaged { shard, lsn, what });
                }
            }
        }
        self.follow_chain(&mut end).map_err(|(shard, lsn, what)| {
            let what = format!("{what} ({})", segment.display());
            JournalError::Damaged { shard, lsn, what }
        })?;
        Ok(Some(Range { base, end }))
    }

    /// Follows the chain of hashes through the records, which lie one behind the other, from the hashes of the base
    /// record on; answers the first event that is not what was written there.
    fn follow_chain(&self, tips: &mut [Tip]) -> Result<(), (ShardId, Lsn, String)> {
        for Seen { header, after } in &self.records {
            let tip = &mut tips[header.shard.index()];
            if header.first.0 >= tip.next {
                // Parts of an event whose commit did not come through.
                continue;
            }
            if header.chain != tip.chain {
                return Err((header.shard, header.first, BROKEN_CHAIN.to_owned()));
            }
            if header.part + 1 == header.count || header.kind == Kind::Events {
                let what = || match &self.unreadable {
                    Some((key, what)) if *key == header.key() => what.clone(),
                    _ => "it can't be read".to_owned(),
                };
                tip.chain = after.ok_or_else(|| (header.shard, header.first, what()))?;
            }
        }
        Ok(())
    }

    /// Names the first LSN that can't be read. Best where intact records in the raw bytes leave a gap: that is the
    /// damaged one, all after it were only cut off by sled. Else of a shard that has traces beyond what sled recovered.
    fn damaged(&self, segment: &Path, shards: u16, what: &str) -> JournalError {
        let base: Vec<u64> = match &self.raw.base {
            Some(base) => base.iter().map(|tip| tip.next).collect(),
            None => vec![1; usize::from(shards)],
        };
        let what = format!("{what} ({})", segment.display());
        let intact = intact_records(&Store::file_of(segment));
        let gap =
            contiguous(intact.iter(), &base).into_iter().find_map(|(shard, end)| Some((shard, end.err()?)));
        if let Some((shard, lsn)) = gap {
            return JournalError::Damaged { shard, lsn, what };
        }
        let ends = contiguous(self.records.iter().map(|seen| &seen.header), &base);
        let readable = |shard: &ShardId| match ends.get(shard) {
            Some(Ok(lsn) | Err(lsn)) => *lsn,
            None => Lsn(base.get(shard.index()).copied().unwrap_or(1)),
        };
        let lost = self.raw.next.iter().find(|(shard, next)| readable(shard) < **next);
        let any = self.raw.next.keys().next().copied().unwrap_or(ShardId(0));
        let shard = lost.map_or(any, |(shard, _)| *shard);
        JournalError::Damaged { shard, lsn: readable(&shard), what }
    }
}

/// The chain hash after the events of a record, or why they can't be read.
fn fold(header: &Header, mut payload: &[u8], count: u16) -> Result<ChainHash, String> {
    let mut chain = header.chain;
    for place in 0..u64::from(count) {
        let (event, body) = decode_event(&mut payload, header.base_time).map_err(|what| what.to_string())?;
        chain = link(chain, header.first.plus(place), event.at, body);
    }
    if payload.is_empty() { Ok(chain) } else { Err("bytes behind the last event".to_owned()) }
}

/// The intact records of events in the raw bytes of a file, in the order of their keys, each once. Only to name
/// the place of damage: what can't be read here is left out.
fn intact_records(path: &Path) -> Vec<Header> {
    let mut records = BTreeMap::new();
    let Ok(mut file) = File::open(path) else { return Vec::new() };
    let mut piece = Vec::with_capacity(SLED_SEGMENT_BYTES);
    while (&mut file).take(SLED_SEGMENT_BYTES as u64).read_to_end(&mut piece).is_ok_and(|bytes| bytes > 0) {
        let headers = record::find_all(&piece).map(|(header, _)| header);
        records
            .extend(headers.filter(|header| header.kind != Kind::Base).map(|header| (header.key(), header)));
        piece.clear();
    }
    records.into_values().collect()
}

/// For every shard with records, sorted by key: the LSN after its last event, or where the first gap is. An event that
/// is last and lacks parts does not count: the commit that wrote them did not come through.
fn contiguous<'a>(
    records: impl Iterator<Item = &'a Header>,
    base: &[u64],
) -> BTreeMap<ShardId, Result<Lsn, Lsn>> {
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
    for path in disk::entries(dir).at(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        numbers.extend(name.and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Copies a sealed segment, so that it can be opened without a change to it.
pub(crate) fn copy_segment(from: &Path, to: &Path) -> Result<(), FileError> {
    if disk::exists(to) {
        disk::remove_dir_all(to).at(to)?;
    }
    disk::create_dir_all(to).at(to)?;
    let (from, to) = (Store::file_of(from), Store::file_of(to));
    let file = File::open(&from).at(&from)?;
    copy_file(file, &from, &to, |_| ())
}

/// Takes a segment out of the journal in one step; what is left of it can be deleted at leisure, or at the next start.
/// Durable once `dir` is synced.
pub(crate) fn to_trash(dir: &Path, number: u64) -> Result<PathBuf, FileError> {
    let from = segment_dir(dir, number);
    let trash = dir.join(format!("{TRASH}{number}"));
    disk::rename(&from, &trash).at(&from)?;
    Ok(trash)
}

pub(crate) fn discard(dir: &Path, number: u64) -> Result<(), FileError> {
    let trash = to_trash(dir, number)?;
    sync_dir(dir)?;
    disk::remove_dir_all(&trash).at(&trash)
}

fn empty_trash(dir: &Path) -> Result<(), FileError> {
    for path in disk::entries(dir).at(dir)? {
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TRASH)) {
            disk::remove_dir_all(&path).at(&path)?;
        }
    }
    Ok(())
}
