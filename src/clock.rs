//! The one clock of a server: the wall clock at the start, carried on by the monotonic clock. So a wall clock that is
//! set while the server runs, by hand or by a time service, moves the end of no hold.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hotstock_engine::clock::{Clock, ClockStatus, SteadyClock, Timestamp};

/// See the module.
#[derive(Debug)]
pub struct CarriedClock {
    steady: SteadyClock,
    since: Instant,
}

impl CarriedClock {
    /// Begins with what the wall clock shows.
    #[must_use]
    pub fn start() -> Self {
        Self { steady: SteadyClock::new(wall(), Duration::ZERO), since: Instant::now() }
    }
}

impl Clock for CarriedClock {
    fn now(&self) -> Timestamp {
        self.steady.at(self.since.elapsed())
    }

    fn status(&self) -> ClockStatus {
        self.steady.look(wall(), self.since.elapsed())
    }
}

/// What the wall clock shows. One before 1970 is broken; time then begins at 0, which shards bear.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
