//! How the engine is set up and what it is given; why it does not start.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::failpoints::Failpoint;
use crate::base::ids::ShardId;
use crate::base::limits::{
    CHECKPOINT_SHARE_OF_CAP, DEFAULT_CHECKPOINT_EVENTS, DEFAULT_FLUSH_EVENTS, DEFAULT_FLUSH_INTERVAL_MILLIS,
    DEFAULT_GATE_PERMITS, DEFAULT_JOURNAL_CAP_BYTES, DEFAULT_KEEP_DAYS, DEFAULT_KEEP_FLUSHED_MINUTES,
    DEFAULT_KEEP_JOURNAL_DAYS, DEFAULT_LOAD_WAIT_MILLIS, DEFAULT_MAX_RESIDENT_BYTES,
    DEFAULT_MAX_RESIDENT_SKUS, DEFAULT_REMEMBER_MAX, DEFAULT_REMEMBER_SECONDS,
};
use crate::contract::check::{CheckOptions, OrderCheck};
use crate::contract::checkpoint::{CheckpointError, CheckpointStore, FilterStore, Identity};
use crate::contract::journal::{Journal, JournalError};
use crate::contract::store::Store;
#[cfg(any(test, feature = "testing"))]
use crate::machine::inner::InnerCommand;
use crate::services::dirty::Dirty;
use crate::services::flusher::FlushOptions;
use crate::services::ownership::NotOurs;
use crate::shard::parts::{BeforeDecide, ShardOptions};
use crate::shard::recovery::RecoveryError;

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Shards; must be what the data directory was created with.
    pub shards: u16,
    /// Commands that may be under way in one shard.
    pub gate_permits: u32,
    /// How long ended orders and request ids stay in memory, in seconds. Later they come back from the store when
    /// they are asked for.
    pub remember_seconds: u64,
    /// How many of them stay in the memory of one shard at the most.
    pub remember_max: usize,
    /// SKUs in memory, of all shards; those that are used least leave when there are more.
    pub max_resident_skus: usize,
    /// What SKUs and orders may take in memory, of all shards, in bytes; an estimate.
    pub max_resident_bytes: u64,
    /// A checkpoint of a shard begins after this many of its events (or as many as it has entries, if that is more),
    /// and when its share of the journal's cap was logged.
    pub checkpoint_events: u64,
    /// The store is taken from the server that has it, which is given up.
    pub take_over: bool,
    /// How the order service is asked; of no use without one.
    pub check: CheckOptions,
    /// What concerns the SQL store.
    pub store: StoreOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            gate_permits: DEFAULT_GATE_PERMITS,
            remember_seconds: DEFAULT_REMEMBER_SECONDS,
            remember_max: DEFAULT_REMEMBER_MAX,
            max_resident_skus: DEFAULT_MAX_RESIDENT_SKUS,
            max_resident_bytes: DEFAULT_MAX_RESIDENT_BYTES,
            checkpoint_events: DEFAULT_CHECKPOINT_EVENTS,
            take_over: false,
            check: CheckOptions::default(),
            store: StoreOptions::default(),
        }
    }
}

/// How the engine works with the SQL store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// How often what the shards logged is flushed, in milliseconds.
    pub flush_interval_ms: u64,
    /// Events of one flush transaction at the most; as many that wait cause a flush before the interval is over.
    pub flush_events: usize,
    /// Above this many bytes of journal on disk no new reservations are taken; below nine tenths of it they are again.
    pub journal_cap_bytes: u64,
    /// How long a command waits for what it needs from the store, in milliseconds.
    pub load_wait_ms: u64,
    /// For how long the store is this server's without a renewal, in seconds; 0: no lease.
    pub lease_seconds: u32,
    /// How long the store keeps ended orders and stock requests, in days; 0: for ever.
    pub keep_days: u64,
    /// How long it keeps the stock journal, in days; 0: for ever.
    pub keep_journal_days: u64,
    /// How long the journal on the disk keeps what was flushed, in minutes: what a store that goes back in time can
    /// lose.
    pub keep_flushed_minutes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            flush_interval_ms: DEFAULT_FLUSH_INTERVAL_MILLIS,
            flush_events: DEFAULT_FLUSH_EVENTS,
            journal_cap_bytes: DEFAULT_JOURNAL_CAP_BYTES,
            load_wait_ms: DEFAULT_LOAD_WAIT_MILLIS,
            lease_seconds: 0,
            keep_days: DEFAULT_KEEP_DAYS,
            keep_journal_days: DEFAULT_KEEP_JOURNAL_DAYS,
            keep_flushed_minutes: DEFAULT_KEEP_FLUSHED_MINUTES,
        }
    }
}

/// How often and how much is flushed.
pub(crate) fn flush_options(options: &StoreOptions) -> FlushOptions {
    FlushOptions {
        interval: Duration::from_millis(options.flush_interval_ms.max(1)),
        events: options.flush_events.max(1),
        journal_cap_bytes: options.journal_cap_bytes,
        keep_flushed: Duration::from_secs(options.keep_flushed_minutes.saturating_mul(60)),
    }
}

/// A share of the bounds of the engine.
pub(crate) fn shard_options(options: &EngineOptions) -> ShardOptions {
    let shards = usize::from(options.shards);
    ShardOptions {
        shards: options.shards,
        remember_seconds: options.remember_seconds,
        remember_max: options.remember_max,
        max_resident_skus: options.max_resident_skus.div_ceil(shards).max(1),
        max_bytes: options.max_resident_bytes.div_ceil(u64::from(options.shards)).max(1),
        checkpoint_events: options.checkpoint_events,
        checkpoint_bytes: (options.store.journal_cap_bytes
            / (CHECKPOINT_SHARE_OF_CAP * u64::from(options.shards)))
        .max(1),
        load_wait_ms: options.store.load_wait_ms,
    }
}

/// What the engine needs from outside.
pub struct Parts {
    /// The write-ahead log; the engine's journal writer owns it from here on.
    pub journal: Box<dyn Journal>,
    /// Where checkpoints are kept.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Where the filter of known numbers is kept.
    pub filters: Arc<dyn FilterStore>,
    /// The data directory.
    pub identity: Arc<dyn Identity>,
    /// The one source of time.
    pub clock: Arc<dyn Clock>,
    /// The SQL store. It need not answer yet.
    pub store: Arc<dyn Store>,
    pub(crate) dirty: Option<Arc<Dirty>>,
    pub(crate) check: Option<Arc<dyn OrderCheck>>,
    pub(crate) before_decide: Option<BeforeDecide>,
    pub(crate) failpoint: Option<Failpoint>,
}

impl Parts {
    /// The parts.
    #[must_use]
    pub fn new(
        journal: Box<dyn Journal>,
        checkpoints: Arc<dyn CheckpointStore>,
        filters: Arc<dyn FilterStore>,
        identity: Arc<dyn Identity>,
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
    ) -> Self {
        let (dirty, check, before_decide, failpoint) = (None, None, None, None);
        Self { journal, checkpoints, filters, identity, clock, store, dirty, check, before_decide, failpoint }
    }

    /// Marks every stock that changes, for a follower of the newest levels.
    #[must_use]
    pub fn with_dirty(mut self, dirty: Arc<Dirty>) -> Self {
        self.dirty = Some(dirty);
        self
    }

    /// Asks an order service before an order expires, see [`check`](crate::contract::check).
    #[must_use]
    pub fn with_order_check(mut self, check: Arc<dyn OrderCheck>) -> Self {
        self.check = Some(check);
        self
    }

    /// Runs when a step of a load, of a flush or of an order over several shards is reached, with its name:
    /// [`RESIDENCY_STEPS`](crate::front::engine::RESIDENCY_STEPS) and
    /// [`CROSS_SHARD_STEPS`](crate::front::engine::CROSS_SHARD_STEPS). A test ends the process there. Release builds
    /// have no such steps.
    #[cfg(any(debug_assertions, feature = "testing"))]
    #[must_use]
    pub fn failpoint(mut self, failpoint: Arc<dyn Fn(&'static str) + Send + Sync>) -> Self {
        self.failpoint = Some(failpoint);
        self
    }

    /// Runs before a command is decided, in the shard. A test makes a shard panic with it.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn before_decide(mut self, fault: impl Fn(&InnerCommand) + Send + Sync + 'static) -> Self {
        self.before_decide = Some(Arc::new(fault));
        self
    }
}

/// The engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What was read breaks an invariant of stock.
    #[error("shard {shard}: {problem}")]
    Inconsistent {
        /// Whose.
        shard: ShardId,
        /// What.
        problem: String,
    },
    /// This server may not write to the store: another one does, or has since it last ran.
    #[error(transparent)]
    NotOurs(#[from] NotOurs),
    /// A thread or actor could not be started.
    #[error("can't start {what}: {problem}")]
    Spawn {
        /// Which.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

impl From<RecoveryError> for StartError {
    fn from(error: RecoveryError) -> Self {
        match error {
            RecoveryError::Journal(error) => Self::Journal(error),
            RecoveryError::Checkpoint(error) => Self::Checkpoint(error),
            RecoveryError::Inconsistent { shard, problem } => Self::Inconsistent { shard, problem },
        }
    }
}
