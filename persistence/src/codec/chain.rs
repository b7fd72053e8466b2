//! The chain of hashes over the events of a shard: two journals that have the same hash at an LSN are the same up to
//! there.
//!
//! It is made of the bytes as they are stored, so a later format version changes no hash of what is stored already.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{ChainHash, Lsn};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The hash after one more event: XXH3-64 of the event's body, seeded with the XXH3-64 of the hash before it, its
/// LSN and its time (each eight bytes, little-endian). Two one-shot hashes of short inputs take some nanoseconds;
/// one over all of it would need a copy of the body or the much slower streaming form.
#[must_use]
pub fn link(before: ChainHash, lsn: Lsn, at: Timestamp, body: &[u8]) -> ChainHash {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&before.0.to_le_bytes());
    place[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    place[16..].copy_from_slice(&at.0.to_le_bytes());
    ChainHash(xxh3_64_with_seed(body, xxh3_64(&place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed for ever: stores and journals that exist remember these numbers.
    #[test]
    fn the_chain_is_frozen() {
        let first = link(ChainHash::default(), Lsn(1), Timestamp(1_700_000_000_000), b"an event");
        let second = link(first, Lsn(2), Timestamp(1_700_000_000_001), &[7; 300]);
        assert_eq!([first.to_string(), second.to_string()], ["06a6df8f30ad4479", "fc72a51359e3b58a"]);
    }

    #[test]
    fn every_part_of_an_event_counts() {
        let (before, lsn, at) = (ChainHash(5), Lsn(9), Timestamp(77));
        let whole = link(before, lsn, at, b"body");
        assert_eq!(whole, link(before, lsn, at, b"body"));
        assert_ne!(whole, link(ChainHash(6), lsn, at, b"body"));
        assert_ne!(whole, link(before, Lsn(8), at, b"body"));
        assert_ne!(whole, link(before, lsn, Timestamp(78), b"body"));
        assert_ne!(whole, link(before, lsn, at, b"bodz"));
    }
}
