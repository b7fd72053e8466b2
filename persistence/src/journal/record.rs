//! The journal's record: what one value in a segment's sled database holds. A record can be told from anything else
//! by its own bytes, so that the raw file of a segment can be searched for records that sled no longer finds.
//!
//! ```text
//!   offset  bytes
//!        0      4  magic: F5 48 53 4A
//!        4      1  format version
//!        5      1  kind: 0 events, 1 a part of one event, 2 base of the segment
//!        6      2  length of the payload
//!        8      4  CRC-32 of everything but the magic and itself
//!       12      2  shard (0xFFFF in a base record)
//!       14      2  events: how many begin here; of a part: into how many parts its event is cut
//!       16      8  LSN of the first event (0 in a base record)
//!       24      8  base time in milliseconds: the events keep their distance from it
//!       32      4  batch: the number of the commit within the segment, from 0
//!       36      4  records of that batch; a batch counts only when all of them are there
//!       40      2  part: the number of the part, from 0
//!       42      8  chain hash before the first event (0 in a base record)
//!       50      …  payload
//! ```
//!
//! Numbers are little-endian. The key beside the record, `shard | LSN | part` in big-endian, gives sled's order.
//!
//! A batch is written only after the batch before it was synced. So a record of batch `n` proves that every batch
//! below `n` was durable: if one of those can't be read, that is damage and not a torn tail.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{ChainHash, Lsn, ShardId};

use crate::codec::{FORMAT_VERSION, is_read};

/// No text of an event holds these bytes: F5 never occurs in UTF-8.
pub(crate) const MAGIC: [u8; 4] = [0xF5, b'H', b'S', b'J'];

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 50;

/// The largest record of events, header included. sled keeps up to 16 values in a leaf and rewrites leaves as they
/// fill; with values of 16 or 64 KiB the same journal was written at the same speed with twice the memory.
pub(crate) const MAX_RECORD_BYTES: usize = 4_096;

/// Room for events in a record.
pub(crate) const MAX_PAYLOAD_BYTES: usize = MAX_RECORD_BYTES - HEADER_BYTES;

const CRC_FROM: usize = 4;
const CRC_AT: usize = 8;
const AFTER_CRC: usize = 12;

/// Stands for the shard in the base record, so that it sorts behind all events.
const NO_SHARD: u16 = u16::MAX;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole events.
    Events,
    /// A part of an event that is larger than a record.
    Part,
    /// The next LSN and the chain hash of every shard when the segment began; the first record of every segment.
    Base,
}

/// See the layout above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub shard: ShardId,
    pub count: u16,
    pub first: Lsn,
    pub base_time: Timestamp,
    pub batch: u32,
    pub batch_records: u32,
    pub part: u16,
    pub chain: ChainHash,
}

/// The key of a record.
pub(crate) type Key = [u8; 12];

pub(crate) fn key(shard: ShardId, first: Lsn, part: u16) -> Key {
    let mut key = [0; 12];
    key[..2].copy_from_slice(&shard.0.to_be_bytes());
    key[2..10].copy_from_slice(&first.0.to_be_bytes());
    key[10..].copy_from_slice(&part.to_be_bytes());
    key
}

impl Header {
    /// The header of a segment's first record.
    pub fn base() -> Self {
        Self {
            kind: Kind::Base,
            shard: ShardId(NO_SHARD),
            count: 0,
            first: Lsn::ZERO,
            base_time: Timestamp(0),
            batch: 0,
            batch_records: 0,
            part: 0,
            chain: ChainHash(0),
        }
    }

    pub fn key(&self) -> Key {
        key(self.shard, self.first, self.part)
    }

    /// The LSN after the last event of the record. The parts of one event all answer the LSN after it.
    pub fn next_lsn(&self) -> Lsn {
        match self.kind {
            Kind::Events => self.first.plus(u64::from(self.count)),
            Kind::Part => self.first.next(),
            Kind::Base => self.first,
        }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotARecord {
    #[error("the record is cut short or has no magic")]
    Shape,
    #[error("the check sum of the record does not fit")]
    Crc,
    #[error("the record has format version {0}, this program reads up to {FORMAT_VERSION}")]
    Version(u8),
    #[error("the record's header makes no sense")]
    Header,
}

/// A vector with room for a header before the payload.
pub(crate) fn blank() -> Vec<u8> {
    let mut record = Vec::with_capacity(MAX_RECORD_BYTES);
    record.resize(HEADER_BYTES, 0);
    record
}

/// Fills in the header of a record whose payload is complete.
///
/// # Panics
/// When the payload is longer than the header can say (64 KiB); the packer cuts far below that.
pub(crate) fn finish(record: &mut [u8], header: &Header) {
    let length = u16::try_from(record.len() - HEADER_BYTES).expect("the packer cuts records below 64 KiB");
    record[..4].copy_from_slice(&MAGIC);
    record[4] = FORMAT_VERSION;
    record[5] = match header.kind {
        Kind::Events => 0,
        Kind::Part => 1,
        Kind::Base => 2,
    };
    record[6..8].copy_from_slice(&length.to_le_bytes());
    record[12..14].copy_from_slice(&header.shard.0.to_le_bytes());
    record[14..16].copy_from_slice(&header.count.to_le_bytes());
    record[16..24].copy_from_slice(&header.first.0.to_le_bytes());
    record[24..32].copy_from_slice(&header.base_time.0.to_le_bytes());
    record[32..36].copy_from_slice(&header.batch.to_le_bytes());
    record[36..40].copy_from_slice(&header.batch_records.to_le_bytes());
    record[40..42].copy_from_slice(&header.part.to_le_bytes());
    record[42..50].copy_from_slice(&header.chain.0.to_le_bytes());
    let crc = crc(record);
    record[CRC_AT..AFTER_CRC].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the record at the front of `bytes`, which may go on behind it.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Header, &[u8]), NotARecord> {
    if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
        return Err(NotARecord::Shape);
    }
    let length = usize::from(u16::from_le_bytes(field(bytes, 6)));
    let record = bytes.get(..HEADER_BYTES + length).ok_or(NotARecord::Shape)?;
    if crc(record) != u32::from_le_bytes(field(record, CRC_AT)) {
        return Err(NotARecord::Crc);
    }
    if !is_read(record[4]) {
        return Err(NotARecord::Version(record[4]));
    }
    let kind = match record[5] {
        0 => Kind::Events,
        1 => Kind::Part,
        2 => Kind::Base,
        _ => return Err(NotARecord::Header),
    };
    let header = Header {
        kind,
        shard: ShardId(u16::from_le_bytes(field(record, 12))),
        count: u16::from_le_bytes(field(record, 14)),
        first: Lsn(u64::from_le_bytes(field(record, 16))),
        base_time: Timestamp(u64::from_le_bytes(field(record, 24))),
        batch: u32::from_le_bytes(field(record, 32)),
        batch_records: u32::from_le_bytes(field(record, 36)),
        part: u16::from_le_bytes(field(record, 40)),
        chain: ChainHash(u64::from_le_bytes(field(record, 42))),
    };
    let sound = match kind {
        Kind::Events => header.count > 0 && header.part == 0,
        Kind::Part => header.part < header.count,
        Kind::Base => header.shard.0 == NO_SHARD && header.batch == 0,
    };
    if sound { Ok((header, &record[HEADER_BYTES..])) } else { Err(NotARecord::Header) }
}

/// Reads a record that must fill its value and fit its key.
pub(crate) fn parse_value<'a>(key: &[u8], value: &'a [u8]) -> Result<(Header, &'a [u8]), NotARecord> {
    let (header, payload) = parse(value)?;
    if value.len() != HEADER_BYTES + payload.len() || key != header.key() {
        return Err(NotARecord::Header);
    }
    Ok((header, payload))
}

/// All intact records in raw bytes, wherever they begin. sled writes some of them several times; each is found.
pub(crate) fn find_all(raw: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    memchr::memmem::find_iter(raw, &MAGIC).filter_map(|at| parse(&raw[at..]).ok())
}

fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record[at..at + N].try_into().expect("the slice has the length that was asked for")
}

fn crc(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[CRC_FROM..CRC_AT]);
    hasher.update(&record[AFTER_CRC..]);
    hasher.finalize()
}

const _: () = assert!(MAX_RECORD_BYTES <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Header, Vec<u8>) {
        let header = Header {
            kind: Kind::Events,
            shard: ShardId(3),
            count: 2,
            first: Lsn(41),
            base_time: Timestamp(1_700_000_000_000),
            batch: 7,
            batch_records: 9,
            part: 0,
            chain: ChainHash(0xFEED_0000_0000_0005),
        };
        let mut record = blank();
        record.extend_from_slice(b"two events");
        finish(&mut record, &header);
        (header, record)
    }

    #[test]
    fn a_record_comes_back() {
        let (header, record) = sample();
        assert_eq!(parse(&record), Ok((header, &b"two events"[..])));
        assert_eq!(parse_value(&header.key(), &record), Ok((header, &b"two events"[..])));
        assert_eq!(header.next_lsn(), Lsn(43));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, record) = sample();
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let (_, record) = sample();
        assert!((0..record.len()).all(|length| parse(&record[..length]).is_err()));
    }

    #[test]
    fn records_are_found_among_other_bytes() {
        let (header, record) = sample();
        let mut raw = b"noise \xF5HSJ noise".to_vec();
        raw.extend_from_slice(&record);
        raw.extend_from_slice(&MAGIC);
        raw.extend_from_slice(&record);
        let found: Vec<_> = find_all(&raw).map(|(header, _)| header).collect();
        assert_eq!(found, [header, header]);
    }

    #[test]
    fn a_value_under_another_key_is_refused() {
        let (header, record) = sample();
        assert_eq!(parse_value(&key(header.shard, Lsn(40), 0), &record), Err(NotARecord::Header));
    }
}
