//! The durable LSN of a shard: everything up to it survives power loss.

use super::primitives::{AtomicU64, Ordering};

/// Published by the journal writer after the sync and after the views; only ever grows.
#[derive(Debug, Default)]
pub struct Durable(AtomicU64);

impl Durable {
    /// Everything up to `lsn` is durable and shown in the views.
    pub fn publish(&self, lsn: u64) {
        // Release: who sees the LSN sees the views that were stored before it.
        self.0.store(lsn, Ordering::Release);
    }

    /// The last LSN published.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
