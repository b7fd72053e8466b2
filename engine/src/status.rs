//! What the engine says of itself: whether it can take orders, and its counts.

use std::sync::Arc;

use crate::check::CheckStats;
use crate::clock::ClockStatus;
use crate::flusher::{FlushStats, Flushers, JournalFull};
use crate::ids::{Lsn, ShardId};
use crate::known::{Known, KnownStats};
use crate::loader::{Loader, get};
use crate::shard::parts::CrossShardCounters;
use crate::shard::shared::ShardShared;
use crate::store_link::StoreLink;

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
    /// Orders in the directory; with one shard, only those that a request is about to make.
    pub directory_orders: u64,
    /// What concerns the store.
    pub store: StoreStats,
    /// What became of orders that the order service was asked about; `None` without one.
    pub checks: Option<CheckStats>,
    /// Orders over several shards.
    pub cross_shard: CrossShardStats,
    /// How the clock stands to the wall clock.
    pub clock: ClockStatus,
}

/// See [`Stats::cross_shard`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrossShardStats {
    /// Orders made.
    pub made: u64,
    /// Commands that needed units of other shards and were refused, for whatever reason.
    pub refused: u64,
    /// Commands turned away because too many were under way.
    pub overloaded: u64,
    /// Orders with something under way.
    pub under_way: u64,
    /// Attempts to hold the units of an order, a late payment or a return.
    pub attempts: u64,
    /// Of those, the ones that were given up after something was held.
    pub abandoned: u64,
    /// Decisions that participants were told.
    pub instructions: u64,
    /// Orders whose participants were told again, because they were not heard of.
    pub repeated: u64,
    /// Holds whose coordinators were asked, after a start or a rebuild.
    pub asked: u64,
    /// Of those, the ones that no order knew and that were released.
    pub released: u64,
    /// Decisions that a participant could not carry out, which can't be while nobody changes what is stored.
    pub misfits: u64,
}

/// See [`Stats::store`].
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Why the store could not do what it was last asked; `None`: it could. What is in memory goes on either way.
    pub problem: Option<String>,
    /// The store's clock less ours, in milliseconds, when it was last asked.
    pub clock_offset_millis: i64,
    /// The epoch of this server in the store; 0: it was not taken yet.
    pub epoch: u64,
    /// Why this server takes no orders, if it is fenced.
    pub fenced: Option<String>,
    /// Why no new reservations are taken, while the journal is at its cap.
    pub journal_full: Option<JournalFull>,
    /// SKUs whose rows in the store are left alone.
    pub parked: u64,
    /// Calls that read SKUs, orders and requests which commands waited for.
    pub loads: u64,
    /// Time spent in them, in microseconds.
    pub load_micros: u64,
    /// Things that are wanted and that no call looks for yet.
    pub loads_waiting: u64,
    /// SKUs that they found.
    pub loaded_skus: u64,
    /// Orders that they found.
    pub loaded_orders: u64,
    /// Requests that they found.
    pub loaded_requests: u64,
    /// Orders and requests that they did not find: the filter took them for known ones.
    pub not_found: u64,
    /// Flush transactions.
    pub flushes: u64,
    /// Events in them.
    pub flushed_events: u64,
    /// Rows that they wrote.
    pub flushed_rows: u64,
    /// Time spent in them, in microseconds.
    pub flush_micros: u64,
    /// Conflicts that they found and recorded since the start.
    pub anomalies: u64,
    /// Times that a shard found the store further back than it had been flushed.
    pub went_back: u64,
    /// Calls of the store that failed.
    pub store_errors: u64,
    /// Ended orders that were pruned.
    pub pruned_orders: u64,
    /// Stock requests that were pruned.
    pub pruned_requests: u64,
    /// Rows of the stock journal that were pruned.
    pub pruned_journal: u64,
    /// The filter of known numbers.
    pub known: KnownStats,
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
    /// The last event in the store.
    pub flushed: Lsn,
    /// Durable events that the store does not have yet.
    pub lag_events: u64,
    /// Age of the oldest of them, in milliseconds; 0 when there is none.
    pub lag_millis: u64,
    /// Why the last flush failed; `None`: it did not.
    pub flush_error: Option<String>,
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
    /// Stocks in memory.
    pub stocks: u64,
    /// SKUs in memory.
    pub resident: u64,
    /// Those that are kept there.
    pub hot: u64,
    /// An estimate of what all of it takes in memory.
    pub bytes: u64,
    /// SKUs that left memory because there were too many.
    pub evicted: u64,
    /// SKUs that came from the store.
    pub loaded_skus: u64,
    /// Orders that came back from the store.
    pub loaded_orders: u64,
    /// Stock requests that came back from the store.
    pub loaded_requests: u64,
    /// Commands about SKUs that there are not.
    pub absent_hits: u64,
    /// Commands that wait for something from the store.
    pub waiting: u64,
    /// Messages that waited for the store.
    pub waits: u64,
    /// How long they did in all, in microseconds.
    pub wait_micros: u64,
    /// Times that the shard was rebuilt after a panic.
    pub rebuilds: u64,
    /// Checkpoints that could not be written.
    pub checkpoint_failures: u64,
    /// Estimated bytes of events that wait for their sync.
    pub unsynced_bytes: u64,
}

impl ShardStats {
    /// Of a running shard.
    pub(crate) fn of(shard: &ShardShared, flush: &FlushStats) -> Self {
        let counters = &shard.counters;
        Self {
            in_flight: shard.gate.under_way(),
            applied: Lsn(get(&counters.applied)),
            durable: shard.durable_lsn(),
            checkpoint: Lsn(get(&counters.checkpoint)),
            flushed: flush.flushed,
            lag_events: flush.lag_events,
            lag_millis: flush.lag_millis,
            flush_error: flush.last_error.clone(),
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
            resident: get(&counters.resident),
            hot: get(&counters.hot),
            bytes: get(&counters.bytes),
            evicted: get(&counters.evicted),
            loaded_skus: get(&counters.loaded_skus),
            loaded_orders: get(&counters.loaded_orders),
            loaded_requests: get(&counters.loaded_requests),
            absent_hits: get(&counters.absent_hits),
            waiting: get(&counters.waiting),
            waits: get(&counters.waits),
            wait_micros: get(&counters.wait_micros),
            rebuilds: get(&counters.rebuilds),
            checkpoint_failures: get(&counters.checkpoint_failures),
            unsynced_bytes: shard.backlog.bytes(),
        }
    }
}

/// Counts of orders over several shards.
pub(crate) fn cross_shard_stats(
    counters: &CrossShardCounters,
    shards: &[Arc<ShardShared>],
) -> CrossShardStats {
    CrossShardStats {
        made: get(&counters.made),
        refused: get(&counters.refused),
        overloaded: get(&counters.overloaded),
        under_way: shards.iter().map(|shard| get(&shard.counters.cross_shard)).sum(),
        attempts: get(&counters.attempts),
        abandoned: get(&counters.abandoned),
        instructions: get(&counters.instructions),
        repeated: get(&counters.repeated),
        asked: get(&counters.asked),
        released: get(&counters.released),
        misfits: get(&counters.misfits),
    }
}

/// What concerns the store.
pub(crate) fn store_stats(
    link: &StoreLink,
    flushers: &Flushers,
    loader: &Loader,
    known: &Known,
) -> StoreStats {
    let counters = &link.counters;
    StoreStats {
        problem: link.problem(),
        clock_offset_millis: link.clock_offset_millis(),
        epoch: link.fence().epoch().0,
        fenced: link.fence().fenced(),
        journal_full: flushers.why_journal_full(),
        parked: flushers.parked(),
        loads: get(&counters.loads),
        load_micros: get(&counters.load_micros),
        loads_waiting: loader.waiting(),
        loaded_skus: get(&counters.loaded_skus),
        loaded_orders: get(&counters.loaded_orders),
        loaded_requests: get(&counters.loaded_requests),
        not_found: get(&loader.not_found),
        flushes: get(&counters.flushes),
        flushed_events: get(&counters.flushed_events),
        flushed_rows: get(&counters.flushed_rows),
        flush_micros: get(&counters.flush_micros),
        anomalies: get(&counters.anomalies),
        went_back: get(&counters.went_back),
        store_errors: get(&counters.store_errors),
        pruned_orders: get(&counters.pruned_orders),
        pruned_requests: get(&counters.pruned_requests),
        pruned_journal: get(&counters.pruned_journal),
        known: known.stats(),
    }
}
