//! What the engine says of itself: whether it can take orders, and its counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::{Lsn, ShardId};
use crate::shard::shared::ShardShared;

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
    /// Orders in the directory; 0 with one shard, which needs none.
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
    /// Checkpoints that could not be written.
    pub checkpoint_failures: u64,
    /// Estimated bytes of events that wait for their sync.
    pub unsynced_bytes: u64,
}

impl ShardStats {
    /// Of a running shard.
    pub(crate) fn of(shard: &ShardShared) -> Self {
    let counters = &shard.counters;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Self {
        in_flight: shard.gate.under_way(),
        applied: Lsn(get(&counters.applied)),
        durable: shard.durable_lsn(),
        checkpoint: Lsn(get(&counters.checkpoint)),
        commands: get(&counters.commands),
        turns: get(&counters.turns),
        refusals: get(&counters.refusals),
        overloaded: get(&counters.overloaded),
        expired: get(&counters.expired),
        forgotten: get(&counters.forgotten),
        forgotten_early: get(&counters.forgotten_early),
        open_orders: get(&counters.open_orders),
        orders: get(&counters.orders),
        stocks: get(&counters.stocks),
        rebuilds: get(&counters.rebuilds),
        checkpoint_failures: get(&counters.checkpoint_failures),
        unsynced_bytes: shard.backlog.bytes(),
    }
}
}
