//! Where the journal of a shard stands.

use hotstock_engine::ids::{ChainHash, Lsn};

use crate::codec::{Malformed, decode_numbers, encode_numbers};

/// A point in the journal of one shard: the LSN that comes next, and the chain hash of everything before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub next: u64,
    pub chain: ChainHash,
}

impl Tip {
    /// Before the first event.
    pub const START: Self = Self { next: 1, chain: ChainHash(0) };

    /// After an event.
    pub fn after(lsn: Lsn, chain: ChainHash) -> Self {
        Self { next: lsn.next().0, chain }
    }
}

/// Appends the points of all shards: first all LSNs, then all hashes.
pub(crate) fn encode_tips(tips: &[Tip], out: &mut Vec<u8>) {
    let nexts = tips.iter().map(|tip| tip.next);
    let numbers: Vec<u64> = nexts.chain(tips.iter().map(|tip| tip.chain.0)).collect();
    encode_numbers(&numbers, out);
}

/// Reads what [`encode_tips`] wrote.
pub(crate) fn decode_tips(bytes: &[u8]) -> Result<Vec<Tip>, Malformed> {
    let numbers = decode_numbers(bytes)?;
    let (nexts, chains) = numbers.split_at(numbers.len() / 2);
    if nexts.len() != chains.len() {
        return Err(Malformed::new("as many hashes as LSNs had to be there"));
    }
    Ok(nexts.iter().zip(chains).map(|(next, chain)| Tip { next: *next, chain: ChainHash(*chain) }).collect())
}
