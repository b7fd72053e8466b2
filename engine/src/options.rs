//! How the engine is set up and what it is given; why it does not start.

use std::sync::Arc;

use crate::check::{CheckOptions, OrderCheck};
use crate::checkpoint::CheckpointStore;
use crate::clock::Clock;
#[cfg(any(test, feature = "testing"))]
use crate::command::Command;
use crate::context::{BeforeDecide, Failpoint};
use crate::dirty::Dirty;
use crate::ids::{ServerId, ShardId};
use crate::journal::Journal;
use crate::limits::{
    DEFAULT_CHECKPOINT_EVENTS, DEFAULT_COLD_PERMITS, DEFAULT_FLUSH_EVENTS, DEFAULT_FLUSH_INTERVAL_MILLIS,
    DEFAULT_GATE_PERMITS, DEFAULT_JOURNAL_CAP_BYTES, DEFAULT_MAX_AUTO_HOT, DEFAULT_MOVE_WAIT_MILLIS,
    DEFAULT_REMEMBER_MAX, DEFAULT_REMEMBER_SECONDS, DEFAULT_SWEEP_BATCH, DEFAULT_SWEEP_INTERVAL_MILLIS,
};
use crate::store::Store;

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Shards; must be what the data directory was created with.
    pub shards: u16,
    /// Commands that may be under way in one shard.
    pub gate_permits: u32,
    /// How long ended orders and request ids are remembered, in seconds.
    pub remember_seconds: u64,
    /// How many of them one shard remembers at the most.
    pub remember_max: usize,
    /// A checkpoint of a shard begins after this many of its events (or as many as it has entries, if that is more).
    pub checkpoint_events: u64,
    /// How the order service is asked; of no use without one.
    pub check: CheckOptions,
    /// What concerns the SQL store; of no use without one.
    pub store: StoreOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            gate_permits: DEFAULT_GATE_PERMITS,
            remember_seconds: DEFAULT_REMEMBER_SECONDS,
            remember_max: DEFAULT_REMEMBER_MAX,
            checkpoint_events: DEFAULT_CHECKPOINT_EVENTS,
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
    /// How often cold orders whose time is over are looked for, in milliseconds.
    pub sweep_interval_ms: u64,
    /// Cold orders that one transaction expires.
    pub sweep_batch: usize,
    /// Commands that may be under way in the store, waiting ones included.
    pub cold_permits: u32,
    /// How long a request waits for a SKU that is moving, in milliseconds.
    pub move_wait_ms: u64,
    /// Which SKUs become hot by themselves.
    pub promotion: AutoPromotion,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            flush_interval_ms: DEFAULT_FLUSH_INTERVAL_MILLIS,
            flush_events: DEFAULT_FLUSH_EVENTS,
            journal_cap_bytes: DEFAULT_JOURNAL_CAP_BYTES,
            sweep_interval_ms: DEFAULT_SWEEP_INTERVAL_MILLIS,
            sweep_batch: DEFAULT_SWEEP_BATCH,
            cold_permits: DEFAULT_COLD_PERMITS,
            move_wait_ms: DEFAULT_MOVE_WAIT_MILLIS,
            promotion: AutoPromotion::default(),
        }
    }
}

/// When a SKU becomes hot, and cold again, by itself. Rates are requests a second, averaged over some seconds.
#[derive(Debug, Clone)]
pub struct AutoPromotion {
    /// Promote SKUs by themselves.
    pub promote: bool,
    /// Demote SKUs that were promoted by themselves.
    pub demote: bool,
    /// A cold SKU with at least this rate is promoted.
    pub promote_above: f64,
    /// A SKU below this rate is quiet; less than `promote_above`.
    pub demote_below: f64,
    /// It is demoted when it was quiet for this long, in seconds.
    pub quiet_seconds: u64,
    /// It stays hot at least this long, in seconds.
    pub min_hot_seconds: u64,
    /// SKUs that may be hot, however they became so, before none is promoted by itself any more.
    pub max_hot: usize,
}

impl Default for AutoPromotion {
    fn default() -> Self {
        Self {
            promote: false,
            demote: false,
            promote_above: 100.0,
            demote_below: 10.0,
            quiet_seconds: 300,
            min_hot_seconds: 600,
            max_hot: DEFAULT_MAX_AUTO_HOT,
        }
    }
}

/// What the engine needs from outside.
pub struct Parts {
    /// The write-ahead log; the engine's journal writer owns it from here on.
    pub journal: Box<dyn Journal>,
    /// Where checkpoints are kept.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The one source of time.
    pub clock: Arc<dyn Clock>,
    pub(crate) store: Option<(Arc<dyn Store>, ServerId)>,
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
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { journal, checkpoints, clock, store: None, dirty: None, check: None, before_decide: None, failpoint: None }
    }

    /// With a SQL store: SKUs are cold unless they are promoted, and what the shards log is flushed to it. `server` names this
    /// data directory among all that share the store. Without a store every SKU is hot.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>, server: ServerId) -> Self {
        self.store = Some((store, server));
        self
    }

    /// Marks every stock that changes, for a follower of the newest levels.
    #[must_use]
    pub fn with_dirty(mut self, dirty: Arc<Dirty>) -> Self {
        self.dirty = Some(dirty);
        self
    }

    /// Asks an order service before an order expires, see [`check`](crate::check).
    #[must_use]
    pub fn with_order_check(mut self, check: Arc<dyn OrderCheck>) -> Self {
        self.check = Some(check);
        self
    }

    /// Runs when a step of a move, of a flush or of an order over several places is reached, with its name: `promote.{before_take, taken, begun, orders,
    /// before_finish, finished}`, `demote.{before_close, closed, shed, withdrawn, before_flush, flushed}`, `flush.{before, after}`, and those of
    /// [`SPANNING_STEPS`](crate::engine::SPANNING_STEPS).
    /// A test ends the process there. Release builds have no such steps.
    #[cfg(any(debug_assertions, feature = "testing"))]
    #[must_use]
    pub fn failpoint(mut self, failpoint: Arc<dyn Fn(&'static str) + Send + Sync>) -> Self {
        self.failpoint = Some(failpoint);
        self
    }

    /// Runs before a command is decided, in the shard. A test makes a shard panic with it.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn before_decide(mut self, fault: impl Fn(&Command) + Send + Sync + 'static) -> Self {
        self.before_decide = Some(Arc::new(fault));
        self
    }
}

/// The engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal can't be read.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
    /// What was read breaks an invariant of stock.
    #[error("shard {shard}: {problem}")]
    Inconsistent {
        /// Whose.
        shard: ShardId,
        /// What.
        problem: String,
    },
    /// A thread or actor could not be started.
    #[error("can't start {what}: {problem}")]
    Spawn {
        /// Which.
        what: &'static str,
        /// Why.
        problem: String,
    },
}
