//! The one clock of a server: the wall clock at the start, carried on by the monotonic clock. So a wall clock that is set while the
//! server runs, by hand or by a time service, moves the end of no hold.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hotstock_engine::clock::{Clock, Timestamp};

/// See the module.
#[derive(Debug)]
pub struct CarriedClock {
    wall: Timestamp,
    since: Instant,
}

impl CarriedClock {
    /// Begins with what the wall clock shows.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: wall(), since: Instant::now() }
    }
}

impl Clock for CarriedClock {
    fn now(&self) -> Timestamp {
        self.wall.plus_millis(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// What the wall clock shows. One before 1970 is broken; time then begins at 0, which shards bear.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
