//! What the engine says of itself: whether it can take orders, and its counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::ids::ShardId;
use crate::contract::counters::{CrossShardCounters, CrossShardStats, FlushStats, ShardStats, StoreStats};
use crate::services::flusher::Flusher;
use crate::services::known::Known;
use crate::services::loader::Loader;
use crate::services::shared::ShardShared;
use crate::services::store_link::StoreLink;

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
    /// Another server may have the store, or it has what this one's journal does not: no orders are taken. In words.
    Fenced(String),
    /// The engine is stopping.
    Stopping,
}

/// Of a running shard.
pub(crate) fn shard_stats(shard: &ShardShared, flush: &FlushStats) -> ShardStats {
    ShardStats {
        in_flight: shard.gate.under_way(),
        durable: shard.durable_lsn(),
        flushed: flush.flushed,
        lag_events: flush.lag_events,
        lag_millis: flush.lag_millis,
        flush_error: flush.last_error.clone(),
        unsynced_bytes: shard.backlog.bytes(),
        ..shard.counters.counted()
    }
}

/// Of orders over several shards.
pub(crate) fn cross_shard_stats(
    counters: &CrossShardCounters,
    shards: &[Arc<ShardShared>],
) -> CrossShardStats {
    let of = |shard: &Arc<ShardShared>| shard.counters.cross_shard.load(Ordering::Relaxed);
    CrossShardStats { under_way: shards.iter().map(of).sum(), ..counters.counted() }
}

/// Of the store.
pub(crate) fn store_stats(link: &StoreLink, flusher: &Flusher, loader: &Loader, known: &Known) -> StoreStats {
    StoreStats {
        problem: link.problem(),
        clock_offset_millis: link.clock_offset_millis(),
        epoch: link.fence().epoch().0,
        fenced: link.fence().fenced(),
        journal_full: flusher.why_journal_full(),
        parked: flusher.parked(),
        loads_waiting: loader.waiting(),
        known: known.stats(),
        ..link.counters.counted()
    }
}
