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
/// go on to what comes after them. A batch never has an event and lacks one that came before it, of whatever shard: so
/// what is left when the last batches did not come through is a beginning of what was committed.
pub(crate) fn pack(groups: &[Group], tips: &mut [Tip]) -> Vec<Batch> {
    let mut packing = Packing { done: Vec::new(), batch: Batch::default(), open: Vec::new(), waiting: 0 };
    packing.open.resize_with(tips.len(), || None);
    for group in groups.iter().filter(|group| !group.events.is_empty()) {
        let tip = &mut tips[group.shard.index()];
        for (place, event) in group.events.iter().enumerate() {
            tip.chain = packing.add(group.shard, group.first.plus(place as u64), event, tip.chain);
        }
        tip.next = group.last().next().0;
    }
    packing.close_batch();
    packing.done
}

/// Batches in the making.
struct Packing {
    done: Vec<Batch>,
    /// The last, which takes more.
    batch: Batch,
    /// Of each shard the record that is being filled, for this batch.
    open: Vec<Option<Packer>>,
    /// Bytes of those records.
    waiting: usize,
}

impl Packing {
    /// Adds the next event of a shard, after what has the chain hash `chain`; answers the one after it.
    fn add(&mut self, shard: ShardId, lsn: Lsn, event: &Event, chain: ChainHash) -> ChainHash {
        self.make_room();
        let packer = self.open[shard.index()].get_or_insert_with(|| Packer::new(shard));
        let before = packer.bytes();
        let (tail, chain) = packer.add(lsn, event, chain);
        self.waiting += packer.bytes() - before;
        if let Some(tail) = tail {
            self.full(shard, lsn, tail, chain);
        }
        chain.after
    }

    /// The event did not fit: what was there before goes as it is, and the event, whose bytes stand already, begins the
    /// next record.
    fn full(&mut self, shard: ShardId, lsn: Lsn, tail: Vec<u8>, chain: Chain) {
        let Some(packer) = &mut self.open[shard.index()] else { return };
        self.waiting -= packer.bytes();
        packer.flush(&mut self.batch);
        if tail.len() <= MAX_PAYLOAD_BYTES {
            packer.begin(lsn, packer.base_time, chain.before);
            packer.record.extend_from_slice(&tail);
            packer.count = 1;
            self.waiting += packer.bytes();
            return;
        }
        // 1,000 lines take well under 200 KB, some fifty parts; what is forgotten at once may take some megabytes.
        let parts = u16::try_from(tail.len().div_ceil(MAX_PAYLOAD_BYTES)).expect("an event is below 256 MB");
        packer.begin(lsn, packer.base_time, chain.before);
        let header = packer.header(Kind::Part, parts);
        for (part, bytes) in (0..parts).zip(tail.chunks(MAX_PAYLOAD_BYTES)) {
            let mut record = record::blank();
            record.extend_from_slice(bytes);
            // The parts may fall into several batches: an event of which some are missing does not count.
            self.make_room();
            self.batch.push(Header { part, ..header }, record);
        }
    }

    /// Begins a new batch when one more record would be too much for this one.
    fn make_room(&mut self) {
        if self.batch.bytes + self.waiting + MAX_RECORD_BYTES > MAX_BATCH_BYTES {
            self.close_batch();
        }
    }

    fn close_batch(&mut self) {
        self.open.iter_mut().flatten().for_each(|packer| packer.flush(&mut self.batch));
        self.waiting = 0;
        if !self.batch.records.is_empty() {
            self.done.push(std::mem::take(&mut self.batch));
        }
    }
}

/// The chain hash before an event and after it.
#[derive(Clone, Copy)]
struct Chain {
    before: ChainHash,
    after: ChainHash,
}

/// The record of one shard that is being filled.
struct Packer {
    shard: ShardId,
    first: Lsn,
    count: u16,
    base_time: Timestamp,
    /// The chain hash before the first event of the record.
    before: ChainHash,
    record: Vec<u8>,
}

impl Packer {
    fn new(shard: ShardId) -> Self {
        let (first, base_time) = (Lsn::ZERO, Timestamp(0));
        Self { shard, first, count: 0, base_time, before: ChainHash(0), record: record::blank() }
    }

    fn begin(&mut self, first: Lsn, base_time: Timestamp, before: ChainHash) {
        (self.first, self.base_time, self.before) = (first, base_time, before);
    }

    /// Bytes of the record so far; 0 while there is no event in it.
    fn bytes(&self) -> usize {
        if self.count == 0 { 0 } else { self.record.len() }
    }

    /// Adds an event, or gives it back in bytes when it does not fit.
    fn add(&mut self, lsn: Lsn, event: &Event, before: ChainHash) -> (Option<Vec<u8>>, Chain) {
        if self.count == 0 {
            self.begin(lsn, event.at, before);
        }
        let start = self.record.len();
        let body = encode_event(event, self.base_time, &mut self.record);
        let chain = Chain { before, after: link(before, lsn, event.at, &self.record[body..]) };
        if self.record.len() <= MAX_RECORD_BYTES {
            self.count += 1;
            return (None, chain);
        }
        (Some(self.record.split_off(start)), chain)
    }

    /// Gives the events collected so far to a batch; the base time stays, for the event that did not fit was encoded
    /// with it.
    fn flush(&mut self, batch: &mut Batch) {
        if self.count > 0 {
            let record = std::mem::replace(&mut self.record, record::blank());
            batch.push(self.header(Kind::Events, self.count), record);
            self.count = 0;
        }
    }

    fn header(&self, kind: Kind, count: u16) -> Header {
        Header {
            kind,
            shard: self.shard,
            count,
            first: self.first,
            base_time: self.base_time,
            batch: 0,
            batch_records: 0,
            part: 0,
            chain: self.before,
        }
    }
}
