//! Time enters the engine through one clock. The core (`decide`, `apply`) is given times, it never asks for them.

use std::sync::Mutex;
use std::time::Duration;

use crate::base::limits::{CLOCK_FOLLOWS_ONE_IN, MAX_CLOCK_OFF_MILLIS};
use crate::base::sync::unpoisoned;

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time and `seconds` more; saturates far beyond any calendar.
    #[must_use]
    pub fn plus_seconds(self, seconds: u64) -> Self {
        self.plus_millis(seconds.saturating_mul(1000))
    }

    /// This time and `millis` more.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// This time and `millis` less; 1970 at the least.
    #[must_use]
    pub fn minus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }
}

/// The one source of time. May step back; shards never let their own time do so.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// How it stands to the wall clock. The engine asks once a second.
    fn status(&self) -> ClockStatus {
        ClockStatus::default()
    }
}

/// How a clock stands to the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// The wall clock less the clock, in milliseconds.
    pub off_millis: i64,
    /// The wall clock was set by more than [`MAX_CLOCK_OFF_MILLIS`]. It is not followed: a start begins with what it
    /// shows then.
    pub jumped: bool,
}

/// A wall clock, as it was at the start, carried on by a monotonic clock: nobody who sets the wall clock moves the
/// end of a hold. Small differences, as time services make them, are followed slowly, a hundredth of the time that
/// goes by at the most. The engine knows neither clock: whoever has one of these feeds it with what both show.
#[derive(Debug)]
pub struct SteadyClock(Mutex<Steady>);

#[derive(Debug)]
struct Steady {
    /// At this time of the monotonic clock…
    monotonic: Duration,
    /// … it was that late.
    time: Timestamp,
    status: ClockStatus,
}

impl SteadyClock {
    /// Begins with what the two clocks show.
    #[must_use]
    pub fn new(wall: Timestamp, monotonic: Duration) -> Self {
        Self(Mutex::new(Steady { monotonic, time: wall, status: ClockStatus::default() }))
    }

    /// The time when the monotonic clock shows this.
    #[must_use]
    pub fn at(&self, monotonic: Duration) -> Timestamp {
        unpoisoned(self.0.lock()).at(monotonic)
    }

    /// Compares it with the wall clock, from now and then on.
    pub fn look(&self, wall: Timestamp, monotonic: Duration) -> ClockStatus {
        let mut steady = unpoisoned(self.0.lock());
        let time = steady.at(monotonic);
        let off = i128::from(wall.0) - i128::from(time.0);
        let off_millis = i64::try_from(off).unwrap_or(i64::MAX);
        let status = ClockStatus { off_millis, jumped: off_millis.unsigned_abs() > MAX_CLOCK_OFF_MILLIS };
        let time = planted!("jump-followed", wall, time);
        *steady = Steady { monotonic, time, status };
        status
    }
}

impl Steady {
    fn at(&self, monotonic: Duration) -> Timestamp {
        let gone = monotonic.saturating_sub(self.monotonic);
        let gone = u64::try_from(gone.as_millis()).unwrap_or(u64::MAX);
        let time = self.time.plus_millis(gone);
        let ClockStatus { off_millis, jumped } = self.status;
        let followed = if jumped { 0 } else { off_millis.unsigned_abs().min(gone / CLOCK_FOLLOWS_ONE_IN) };
        if off_millis < 0 { time.minus_millis(followed) } else { time.plus_millis(followed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(millis: u64) -> Duration {
        Duration::from_millis(5_000 + millis)
    }

    fn clock() -> SteadyClock {
        SteadyClock::new(Timestamp(1_000_000), after(0))
    }

    #[test]
    fn it_goes_on_by_the_monotonic_clock() {
        let clock = clock();
        assert_eq!(clock.at(after(0)), Timestamp(1_000_000));
        assert_eq!(clock.at(after(2_500)), Timestamp(1_002_500));
        assert_eq!(clock.look(Timestamp(1_003_000), after(3_000)), ClockStatus::default());
    }

    #[test]
    fn a_small_difference_is_followed_slowly_and_never_back() {
        for off in [50_i64, -50] {
            let (clock, mut last) = (clock(), Timestamp(0));
            for second in 0..20 {
                let (gone, wall) =
                    (second * 1_000, (1_000_000_u64 + second * 1_000).saturating_add_signed(off));
                let status = clock.look(Timestamp(wall), after(gone));
                assert!(!status.jumped);
                assert_eq!(status.off_millis.unsigned_abs(), 50_u64.saturating_sub(second * 10), "{second}");
                for millis in [0, 10, 500, 990] {
                    let time = clock.at(after(gone + millis));
                    assert!(time >= last);
                    last = time;
                }
            }
        }
    }

    #[test]
    fn a_jump_is_told_and_not_followed() {
        for off in [3_600_000_i64, -3_600_000, 86_400_000] {
            let clock = clock();
            let wall = |millis: u64| Timestamp((1_000_000_000_u64 + millis).saturating_add_signed(off));
            let start = SteadyClock::new(Timestamp(1_000_000_000), after(0));
            for second in 1..100 {
                let status = start.look(wall(second * 1_000), after(second * 1_000));
                assert_eq!(status, ClockStatus { off_millis: off, jumped: true });
            }
            assert_eq!(start.at(after(100_000)), Timestamp(1_000_100_000));
            // It is set right again.
            assert_eq!(clock.look(Timestamp(1_001_000), after(1_000)), ClockStatus::default());
        }
    }
}
