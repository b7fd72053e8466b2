//! Groups of events become records: as many whole events in each as fit, larger ones cut into parts.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::Event;
use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::Group;

use super::record::{self, Header, Key, Kind, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use super::tip::{Tip, encode_tips};
use crate::codec::{encode_event, link};

/// Bytes of records that go into one batch, that is between two syncs. sled frees a part of its file (8 MiB, see
/// `SLED_SEGMENT_BYTES`) only when at least that much was written after what replaces it; since it writes up to six
/// times the bytes of the records, a batch of this size can't reach so far, and nothing durable is overwritten before
/// its replacement is durable too.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 20;

/// Records that are written and synced together. Headers lack the batch number until it is known.
#[derive(Default)]
pub(crate) struct Batch {
    records: Vec<(Header, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, header: Header, record: Vec<u8>) {
        self.bytes += record.len();
        self.records.push((header, record));
    }

    /// Puts the base record in front.
    pub fn put_base(&mut self, tips: &[Tip]) {
        let mut record = record::blank();
        encode_tips(tips, &mut record);
        self.bytes += record.len();
        self.records.insert(0, (Header::base(), record));
    }

    /// Bytes of the records.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The finished records with their keys, in the order of the groups.
    pub fn into_records(self, number: u32) -> impl Iterator<Item = (Key, Vec<u8>)> {
        let count = u32::try_from(self.records.len()).expect("a batch of 1 MiB has fewer records");
        self.records.into_iter().map(move |(mut header, mut record)| {
            header.batch = number;
            header.batch_records = count;
            record::finish(&mut record, &header);
            (header.key(), record)
        })
    }
}

/// Packs groups into batches: one, unless there is more than [`MAX_BATCH_BYTES`]. The groups follow on `tips`, which
/// go on to what comes after them.
pub(crate) fn pack(groups: &[Group], tips: &mut [Tip]) -> Vec<Batch> {
    let mut batches = Vec::new();
    // The groups of one shard side by side, in their order, so that their events share records.
    let mut order: Vec<&Group> = groups.iter().filter(|group| !group.events.is_empty()).collect();
    order.sort_by_key(|group| group.shard);
    let mut packer: Option<Packer> = None;
    for group in order {
        if let Some(done) = packer.take_if(|packer| packer.shard != group.shard) {
            done.close(&mut batches);
        }
        let tip = &mut tips[group.shard.index()];
        let packer = packer.get_or_insert_with(|| Packer::new(group.shard, tip.chain));
        for (place, event) in group.events.iter().enumerate() {
            packer.add(group.first.plus(place as u64), event, &mut batches);
        }
        *tip = Tip::after(group.last(), packer.chain);
    }
    if let Some(done) = packer {
        done.close(&mut batches);
    }
    batches
}

/// Opens a new batch when `bytes` more would be too many for the last one.
fn make_room(batches: &mut Vec<Batch>, bytes: usize) {
    let full = |batch: &Batch| !batch.records.is_empty() && batch.bytes + bytes > MAX_BATCH_BYTES;
    if batches.last().is_none_or(full) {
        batches.push(Batch::default());
    }
}

fn push(batches: &mut [Batch], header: Header, record: Vec<u8>) {
    batches.last_mut().expect("make_room was called before").push(header, record);
}

/// The record of one shard that is being filled.
struct Packer {
    shard: ShardId,
    first: Lsn,
    count: u16,
    base_time: Timestamp,
    /// The chain hash before the first event of the record, and after its last.
    before: ChainHash,
    chain: ChainHash,
    record: Vec<u8>,
}

impl Packer {
    fn new(shard: ShardId, chain: ChainHash) -> Self {
        let (first, base_time) = (Lsn::ZERO, Timestamp(0));
        Self { shard, first, count: 0, base_time, before: chain, chain, record: record::blank() }
    }

    fn add(&mut self, lsn: Lsn, event: &Event, batches: &mut Vec<Batch>) {
        if self.count == 0 {
            self.first = lsn;
            self.base_time = event.at;
            self.before = self.chain;
        }
        let start = self.record.len();
        let body = encode_event(event, self.base_time, &mut self.record);
        let before = self.chain;
        self.chain = link(before, lsn, event.at, &self.record[body..]);
        if self.record.len() <= MAX_RECORD_BYTES {
            self.count += 1;
            return;
        }
        // It did not fit: what was there before goes as it is, and the event, whose bytes stand already, begins the
        // next.
        let tail = self.record.split_off(start);
        self.flush(batches);
        self.first = lsn;
        self.before = before;
        if tail.len() <= MAX_PAYLOAD_BYTES {
            self.record.extend_from_slice(&tail);
            self.count = 1;
        } else {
            self.cut(&tail, batches);
        }
    }

    /// Writes the events collected so far; the base time stays, for the event that did not fit was encoded with it.
    fn flush(&mut self, batches: &mut Vec<Batch>) {
        if self.count > 0 {
            let record = std::mem::replace(&mut self.record, record::blank());
            make_room(batches, record.len());
            push(batches, self.header(Kind::Events, self.count, 0), record);
            self.count = 0;
        }
    }

    fn cut(&mut self, event: &[u8], batches: &mut Vec<Batch>) {
        // 1,000 lines take well under 200 KB, some fifty parts; what is forgotten at once may take some megabytes.
        let parts = u16::try_from(event.len().div_ceil(MAX_PAYLOAD_BYTES)).expect("an event is below 256 MB");
        for (part, bytes) in (0..parts).zip(event.chunks(MAX_PAYLOAD_BYTES)) {
            let mut record = record::blank();
            record.extend_from_slice(bytes);
            // The parts may fall into several batches: an event of which some are missing does not count.
            make_room(batches, record.len());
            push(batches, self.header(Kind::Part, parts, part), record);
        }
    }

    fn header(&self, kind: Kind, count: u16, part: u16) -> Header {
        Header {
            kind,
            shard: self.shard,
            count,
            first: self.first,
            base_time: self.base_time,
            batch: 0,
            batch_records: 0,
            part,
            chain: self.before,
        }
    }

    fn close(mut self, batches: &mut Vec<Batch>) {
        self.flush(batches);
    }
}
