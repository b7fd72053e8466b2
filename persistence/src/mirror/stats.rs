//! What the mirror says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotstock_engine::counters::{MirrorCounters, MirrorStats};
use hotstock_engine::dirty::Dirty;

/// What the task writes and `stats` reads.
#[derive(Debug)]
pub(super) struct Shared {
    began: Instant,
    pub counters: MirrorCounters,
    pub connected: AtomicBool,
    /// Changed stocks that are on their way.
    pub in_flight: AtomicUsize,
    /// When Redis last took something: microseconds after `began`, and one; 0: never.
    success: AtomicU64,
    pub resyncing: AtomicBool,
    pub last_error: Mutex<Option<String>>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            counters: MirrorCounters::default(),
            connected: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            success: AtomicU64::new(0),
            resyncing: AtomicBool::new(true),
            last_error: Mutex::default(),
        }
    }

    pub fn succeeded(&self) {
        self.success.store(micros(self.began.elapsed()) + 1, Ordering::Relaxed);
    }

    pub fn failed(&self, error: String) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub fn sent(&self, stocks: usize) {
        self.counters.written.fetch_add(stocks as u64, Ordering::Relaxed);
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.succeeded();
    }

    pub fn stats(&self, dirty: &Dirty) -> MirrorStats {
        let success = self.success.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros);
        MirrorStats {
            connected: self.connected.load(Ordering::Relaxed),
            lag: (dirty.len() + self.in_flight.load(Ordering::Relaxed)) as u64,
            since_success: success.map(|at| self.began.elapsed().saturating_sub(at)),
            resyncing: self.resyncing.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..self.counters.counted()
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
