//! How far a shard may decide ahead of the sync.

use super::primitives::{AtomicBool, AtomicU64, Ordering};

/// Bytes that a shard has handed over and that are not synced yet. The shard pauses at a bound and is woken when
/// the journal writer is done with some of it.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicU64,
    paused: AtomicBool,
}

impl Backlog {
    /// Handed over. By the shard.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Done with. By the journal writer, which must wake the shard on `true`.
    #[must_use]
    pub fn remove(&self, bytes: u64) -> bool {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        assert!(before >= bytes, "more was synced than handed over");
        self.paused.swap(false, Ordering::AcqRel)
    }

    /// Whether the shard may go on. After `false` it does nothing until it is woken.
    #[must_use]
    pub fn may_go_on(&self, bound: u64) -> bool {
        if self.bytes.load(Ordering::Acquire) < bound {
            return true;
        }
        // Swaps on both sides: either the writer sees the flag, or we see what it removed.
        self.paused.swap(true, Ordering::AcqRel);
        self.bytes.load(Ordering::Acquire) < bound
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}
