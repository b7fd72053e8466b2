//! Pauses between tries.

use std::time::Duration;

use crate::base::limits::{MAX_RETRY_MILLIS, MIN_RETRY_MILLIS};

/// Pauses between tries: each twice as long as the one before, within bounds, with a random part so that many
/// that failed together don't come again together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next pause.
    pub fn next(&mut self) -> Duration {
        let longest = (MIN_RETRY_MILLIS << self.tries.min(16)).min(MAX_RETRY_MILLIS);
        self.tries = self.tries.saturating_add(1);
        Duration::from_millis(fastrand::u64(longest / 2..=longest))
    }

    /// The next pause is short again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}
