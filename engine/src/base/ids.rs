//! The names of things: text ids with their bounds, and the small numbers (shard, LSN, warehouse).

use std::fmt;

use smol_str::SmolStr;

/// A text id that is empty, too long or holds a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be 1 to {max} bytes of text without control characters")]
pub struct InvalidId {
    /// The word for the id, as callers know it: `order_no`, `sku_id`, …
    pub what: &'static str,
    /// The longest that is allowed, in bytes.
    pub max: usize,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SmolStr);

        impl $name {
            /// The longest id, in bytes of UTF-8.
            pub const MAX_BYTES: usize = $max;

            /// Takes a text that is within the bounds.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, longer than [`Self::MAX_BYTES`] or holds a control character.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                let in_bounds = !text.is_empty() && text.len() <= Self::MAX_BYTES;
                if in_bounds && !has_control(text) {
                    Ok(Self(SmolStr::new(text)))
                } else {
                    Err(InvalidId { what: $what, max: Self::MAX_BYTES })
                }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// Whether a text holds a control character. Most texts are ASCII, where a look at the bytes is enough.
fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        text.bytes().any(|b| b.is_ascii_control())
    } else {
        text.chars().any(char::is_control)
    }
}

text_id!(
    /// What is sold. A JSON integer is taken as its decimal text by the API.
    SkuId, "sku_id", 64
);
text_id!(
    /// The caller's own order number: the idempotency key of everything that is done for an order.
    OrderNo, "order_no", 64
);
text_id!(
    /// The caller's own id of one change (a restock, a return), unique within its SKU or order.
    RequestId, "request_id", 64
);
text_id!(
    /// Who buys; kept with the order and in the journal.
    BuyerId, "buyer_id", 64
);
text_id!(
    /// Why a change was made, in the caller's words; kept in the journal.
    Reason, "reason", 256
);

/// Where stock lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WarehouseId(pub u32);

impl WarehouseId {
    /// Stands where no warehouse is named: in a line whose warehouse is to be chosen, and in the shortage of such a
    /// line.
    pub const ANY: Self = Self(u32::MAX);
}

/// Tells the tries of coordinators to hold units of an order in other shards apart. A later one is higher, whichever
/// shard's it is, also after a start: so a participant knows which of two came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId(pub u64);

/// Counts the starts and take-overs of the servers of one store. Whoever has an older one is fenced (a fencing token).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first start.
    pub const ZERO: Self = Self(0);

    /// The last that a store can keep: its numbers are signed.
    pub const LAST: Self = Self(i64::MAX as u64);

    /// The one after it; none after [`Epoch::LAST`].
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self < Self::LAST).then(|| Self(self.0 + 1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A hash over all events of a shard up to one: two journals that have the same at an LSN are the same up to there.
/// XXH3-64 over the hash before and the event as it is stored; 0 before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub u64);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Tells data directories apart; random, made with the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u128);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One take of a store by a server: random, so that no other take has it. Whoever has it in its data directory is the
/// one that took the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TakeId(pub u128);

impl fmt::Display for TakeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A partition of all SKUs with one owner, one mailbox and one journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard as an index into the engine's list of shards.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The place of an event in the journal of its shard. The first event has 1; 0 stands before all events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before all events.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The place `n` after this one. A shard that logs a million events a second reaches `u64::MAX` after half a
    /// million years, so this saturates instead of answering an error.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WarehouseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The trace of the caller (the trace-id of W3C `traceparent`), kept with the events it caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The stable hash of a SKU's name: XXH3-64 of its bytes. It decides the shard for the life of a data directory, so it
/// must never change.
#[must_use]
pub fn shard_of(sku_id: &SkuId, shards: u16) -> ShardId {
    hash_to_shard(sku_id.as_str(), shards)
}

/// Where an order without lines (a release that comes before its reserve) is kept: by its own name.
#[must_use]
pub fn shard_of_order(order_no: &OrderNo, shards: u16) -> ShardId {
    hash_to_shard(order_no.as_str(), shards)
}

fn hash_to_shard(text: &str, shards: u16) -> ShardId {
    let hash = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    let index = hash % u64::from(shards.max(1));
    ShardId(u16::try_from(index).expect("a remainder of a u16 fits a u16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_know_their_bounds() {
        assert!(SkuId::new("").is_err());
        for control in ["a\nb", "a\u{7f}", "\u{85}", "ü\0"] {
            assert!(SkuId::new(control).is_err(), "{control:?}");
        }
        assert!(SkuId::new("Größe 5").is_ok());
        assert!(SkuId::new(&"x".repeat(64)).is_ok());
        assert!(SkuId::new(&"x".repeat(65)).is_err());
        assert!(SkuId::new("BANK CHARGES").is_ok());
    }

    /// Fixed for ever: data directories that exist depend on these numbers.
    #[test]
    fn the_hash_of_a_sku_is_frozen() {
        let of = |text: &str| shard_of(&SkuId::new(text).unwrap(), 1000).0;
        assert_eq!([of("1001"), of("85123A"), of("BANK CHARGES")], [256, 329, 178]);
    }
}
