//! The way to the SQL store: whether it answers, what was asked of it and how that went. Everything that calls the
//! store passes its result through [`StoreLink::noted`], so that one place knows whether the store is there and
//! whether it is still ours.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::base::clock::Timestamp;
use crate::base::sync::unpoisoned;
pub(crate) use crate::contract::counters::StoreCounters;
use crate::contract::outcome::Refusal;
use crate::contract::store::{Store, StoreError};
use crate::services::fence::Fence;

/// See the top of the file.
pub(crate) struct StoreLink {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    pub counters: StoreCounters,
    /// Why the store could not do what it was last asked.
    problem: Mutex<Option<String>>,
    down: AtomicBool,
    /// Its tables are not of one moment. A call that reads only some of them does not show that this is over.
    torn: AtomicBool,
    /// The store's clock less ours, in milliseconds, when it was last asked.
    clock_offset: AtomicI64,
}

/// Adds to a count that only metrics read.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl StoreLink {
    pub fn new(store: Arc<dyn Store>, fence: Arc<Fence>) -> Self {
        Self {
            store,
            fence,
            counters: StoreCounters::default(),
            problem: Mutex::default(),
            down: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            clock_offset: AtomicI64::new(0),
        }
    }

    /// The store itself; what it answers goes through [`StoreLink::noted`].
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Whether this server may still write.
    pub fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    /// Notes whether the store could do it. That another server has taken the store fences this one.
    ///
    /// # Errors
    /// The one that came.
    pub fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if !self.down.load(Ordering::Relaxed) || self.torn.load(Ordering::Relaxed) => {}
            Ok(_) => {
                self.down.store(false, Ordering::Relaxed);
                *unpoisoned(self.problem.lock()) = None;
                tracing::info!("the store answers again");
            }
            Err(StoreError::Fenced { newest, take, .. }) => {
                add(&self.counters.store_errors, 1);
                self.fence.found_newest(*newest, *take);
            }
            // The store answers: contention is no sign of one that is away, nor is a row that does not fit.
            Err(StoreError::Busy(_) | StoreError::OwnerAlive | StoreError::Inconsistent(_)) => {
                add(&self.counters.store_errors, 1);
            }
            Err(
                error @ (StoreError::Unavailable(_)
                | StoreError::OutcomeUnknown(_)
                | StoreError::Foreign(_)
                | StoreError::Torn(_)),
            ) => {
                add(&self.counters.store_errors, 1);
                let is_torn = matches!(error, StoreError::Torn(_));
                let was_torn = self.torn.swap(is_torn, Ordering::Relaxed);
                if !self.down.swap(true, Ordering::Relaxed) || is_torn && !was_torn {
                    tracing::warn!(%error, "the store fails");
                }
                *unpoisoned(self.problem.lock()) = Some(error.to_string());
            }
        }
        result
    }

    /// Likewise, of a call that compares all tables: they are of one moment if it could do it.
    ///
    /// # Errors
    /// The one that came.
    pub fn noted_whole<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_ok() {
            self.torn.store(false, Ordering::Relaxed);
        }
        self.noted(result)
    }

    /// Whether the last call of the store failed.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Why it did.
    pub fn problem(&self) -> Option<String> {
        unpoisoned(self.problem.lock()).clone()
    }

    /// What a request is told that could not be served in time.
    pub fn late(&self) -> Refusal {
        if self.is_down() { Refusal::StoreUnavailable } else { Refusal::Overloaded }
    }

    /// Takes note of the store's clock.
    pub fn note_time(&self, store: Timestamp, ours: Timestamp) {
        let offset = i128::from(store.0) - i128::from(ours.0);
        self.clock_offset.store(i64::try_from(offset).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The store's clock less ours, in milliseconds.
    pub fn clock_offset_millis(&self) -> i64 {
        self.clock_offset.load(Ordering::Relaxed)
    }
}

/// What a caller is told of an error of the store that a read or a load met.
pub(crate) fn refusal_of(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) | StoreError::Torn(_) | StoreError::OutcomeUnknown(_) => {
            Refusal::StoreUnavailable
        }
        StoreError::Busy(_) => Refusal::Overloaded,
        StoreError::Fenced { .. } | StoreError::OwnerAlive => Refusal::Fenced { why: error.to_string() },
        StoreError::Foreign(problem) | StoreError::Inconsistent(problem) => {
            tracing::error!(problem, "the store does not fit");
            Refusal::StoreUnavailable
        }
    }
}
