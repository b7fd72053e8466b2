//! What the mirror says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotstock_engine::dirty::Dirty;

/// Counts of the mirror since its start, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorStats {
    /// Whether Redis answers.
    pub connected: bool,
    /// Stocks that changed and are not in Redis yet.
    pub lag: usize,
    /// How long ago Redis last took something or was found to be as it was left; `None`: never.
    pub since_success: Option<Duration>,
    /// Stocks sent to Redis, also those that it had newer.
    pub written: u64,
    /// Round trips with stocks.
    pub batches: u64,
    /// Time spent in them, in microseconds.
    pub batch_micros: u64,
    /// All stocks are being mirrored again, or will be.
    pub resyncing: bool,
    /// Times that all stocks were mirrored.
    pub resyncs: u64,
    /// Connections that failed or were not to be had.
    pub errors: u64,
    /// Pages of stocks that could not be read.
    pub source_errors: u64,
    /// The last error of a connection.
    pub last_error: Option<String>,
}

/// What the task writes and `stats` reads.
#[derive(Debug)]
pub(super) struct Shared {
    began: Instant,
    pub connected: AtomicBool,
    /// Changed stocks that are on their way.
    pub in_flight: AtomicUsize,
    /// Microseconds after `began`, and one; 0: never.
    success: AtomicU64,
    pub written: AtomicU64,
    pub batches: AtomicU64,
    pub batch_micros: AtomicU64,
    pub resyncing: AtomicBool,
    pub resyncs: AtomicU64,
    pub errors: AtomicU64,
    pub source_errors: AtomicU64,
    pub last_error: Mutex<Option<String>>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            connected: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            success: AtomicU64::new(0),
            written: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            batch_micros: AtomicU64::new(0),
            resyncing: AtomicBool::new(true),
            resyncs: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            source_errors: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    pub fn succeeded(&self) {
        self.success.store(micros(self.began.elapsed()) + 1, Ordering::Relaxed);
    }

    pub fn failed(&self, error: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub fn sent(&self, stocks: usize, took: Duration) {
        self.written.fetch_add(stocks as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_micros.fetch_add(micros(took), Ordering::Relaxed);
        self.succeeded();
    }

    pub fn stats(&self, dirty: &Dirty) -> MirrorStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let success = get(&self.success).checked_sub(1).map(Duration::from_micros);
        MirrorStats {
            connected: self.connected.load(Ordering::Relaxed),
            lag: dirty.len() + self.in_flight.load(Ordering::Relaxed),
            since_success: success.map(|at| self.began.elapsed().saturating_sub(at)),
            written: get(&self.written),
            batches: get(&self.batches),
            batch_micros: get(&self.batch_micros),
            resyncing: self.resyncing.load(Ordering::Relaxed),
            resyncs: get(&self.resyncs),
            errors: get(&self.errors),
            source_errors: get(&self.source_errors),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
