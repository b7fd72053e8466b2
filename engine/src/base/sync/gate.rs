//! The bounded gate of a shard: commands enter while there is room, or are turned away at once.

use super::primitives::{AtomicU64, Ordering};

/// Set in the count when the gate is closed, so that closing and entering are decided by one atomic.
const CLOSED: u64 = 1 << 63;

/// Counts the commands under way. Once it is closed and empty, no command is in the shard and none will be.
#[derive(Debug)]
pub struct Gate {
    /// Commands under way, and [`CLOSED`].
    state: AtomicU64,
    permits: u64,
}

impl Gate {
    /// An open gate for up to `permits` commands.
    #[must_use]
    pub fn new(permits: u32) -> Self {
        Self { state: AtomicU64::new(0), permits: u64::from(permits) }
    }

    /// Lets `n` commands in, all or none. Whoever enters must [`Gate::leave`].
    #[must_use]
    pub fn enter(&self, n: u64) -> bool {
        // Acquire: who enters sees what those did who left before.
        let room = |state: u64| (state & CLOSED == 0 && state + n <= self.permits).then_some(state + n);
        self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, room).is_ok()
    }

    /// `n` commands are answered. `true`: the gate is closed and these were the last, so who waits for that must be
    /// told.
    #[must_use]
    pub fn leave(&self, n: u64) -> bool {
        // Release: who finds the gate empty, or enters later, sees what the leaving ones did.
        let before = self.state.fetch_sub(n, Ordering::Release);
        assert!(before & !CLOSED >= n, "more commands left the gate than entered");
        before == CLOSED | n
    }

    /// Lets nobody in from now on.
    pub fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Commands under way.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !CLOSED
    }
}
