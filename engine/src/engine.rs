//! The engine as the rest of the program sees it: start, submit, read, stop.

use std::sync::Arc;

use crate::checkpoint::CheckpointStore;
use crate::clock::Clock;
use crate::command::Command;
use crate::ids::{Lsn, ShardId, SkuId, WarehouseId};
use crate::journal::Journal;
use crate::outcome::{Outcome, StockView};

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
    /// A checkpoint of a shard begins after this many of its events.
    pub checkpoint_events: u64,
}

/// What the engine needs from outside.
pub struct Parts {
    /// The write-ahead log; the engine's journal writer owns it from here on.
    pub journal: Box<dyn Journal>,
    /// Where checkpoints are kept.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The one source of time.
    pub clock: Arc<dyn Clock>,
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

/// Whether orders can be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Ready,
    /// A shard is being rebuilt; its orders wait.
    Rebuilding(Vec<ShardId>),
    /// The journal is poisoned; reads go on, the process must be restarted.
    JournalPoisoned(String),
    /// A shard was given up.
    ShardFailed(Vec<ShardId>),
    /// The engine is stopping.
    Stopping,
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// One entry per shard.
    pub shards: Vec<ShardStats>,
    /// Group commits.
    pub commits: u64,
    /// Events in them.
    pub committed_events: u64,
    /// Time spent in commits (write and sync), in microseconds.
    pub commit_micros: u64,
    /// Commits by duration: `(upper bound in microseconds, commits at or below it)`, cumulative.
    pub commit_histogram: Vec<(u64, u64)>,
    /// Bytes of the journal on disk.
    pub journal_disk_bytes: u64,
    /// Orders that the directory knows.
    pub directory_orders: u64,
}

/// See [`Stats::shards`].
#[derive(Debug, Clone, Default)]
pub struct ShardStats {
    /// Commands under way.
    pub in_flight: u64,
    /// The last event applied.
    pub applied: Lsn,
    /// The last durable event.
    pub durable: Lsn,
    /// The last checkpoint.
    pub checkpoint: Lsn,
    /// Commands decided.
    pub commands: u64,
    /// Turns of the actor.
    pub turns: u64,
    /// Refusals, of all kinds.
    pub refusals: u64,
    /// Commands turned away at the gate.
    pub overloaded: u64,
    /// Orders that expired.
    pub expired: u64,
    /// Ended orders and request ids forgotten.
    pub forgotten: u64,
    /// Of those, forgotten before their time because there were too many.
    pub forgotten_early: u64,
    /// Orders with units held.
    pub open_orders: u64,
    /// Orders in memory.
    pub orders: u64,
    /// Stocks.
    pub stocks: u64,
    /// Times that the shard was rebuilt after a panic.
    pub rebuilds: u64,
}

/// A running engine; cheap to clone. Dropping it does not stop it: [`Engine::stop`] does.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Recovers every shard from its checkpoint and journal and starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(_options: EngineOptions, _parts: Parts) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// Carries out a command. Whatever it answers is durable. A dropped future does not undo the command.
    pub async fn submit(&self, _command: Command) -> Outcome {
        unimplemented!()
    }

    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, _commands: Vec<Command>) -> Vec<Outcome> {
        unimplemented!()
    }

    /// The durable levels of a SKU, in one warehouse or all, by warehouse. Empty when there are none.
    #[must_use]
    pub fn stock(&self, _sku_id: &SkuId, _warehouse_id: Option<WarehouseId>) -> Vec<StockView> {
        unimplemented!()
    }

    /// Up to `limit` SKUs after `after` in the order of their names, each with all its warehouses.
    #[must_use]
    pub fn stock_page(&self, _after: Option<&SkuId>, _limit: usize) -> Vec<Vec<StockView>> {
        unimplemented!()
    }

    /// Whether orders can be taken.
    #[must_use]
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Takes no more commands, lets those under way end (each answered), syncs and stops every task and thread.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
