//! What the engine says of itself: whether it can take orders, and its counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::CheckStats;
use crate::hub::Hub;
use crate::ids::{Lsn, ShardId};
use crate::shard::shared::ShardShared;
use crate::sync::unpoisoned;

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
    /// Orders in the directory; with one shard, only those that a request is about to make.
    pub directory_orders: u64,
    /// What concerns the store; `None` without one.
    pub store: Option<StoreStats>,
    /// What became of orders that the order service was asked about; `None` without one.
    pub checks: Option<CheckStats>,
    /// Orders over several places.
    pub spanning: SpanningStats,
}

/// See [`Stats::spanning`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanningStats {
    /// Orders made.
    pub made: u64,
    /// Reserves refused, for whatever reason.
    pub refused: u64,
    /// Commands turned away because too many were under way.
    pub overloaded: u64,
    /// Commands under way.
    pub under_way: u64,
    /// Attempts to hold the units of an order, or of a late payment.
    pub attempts: u64,
    /// Branches whose home was asked after them.
    pub branches_asked: u64,
    /// Of those, the ones that no order knew and that were released.
    pub orphans_released: u64,
    /// Times that the branches of an order were told what was decided.
    pub carries: u64,
    /// Of those in the background, the ones that have to be repeated.
    pub carries_retried: u64,
    /// Orders and branches that the background has before it.
    pub chores_waiting: u64,
    /// Decisions that a branch did not take, which can't be while nobody changes rows by hand.
    pub errands_refused: u64,
    /// Orders that came back to their home from the store.
    pub homes_adopted: u64,
}

/// See [`Stats::store`].
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Why the store could not do what it was last asked; `None`: it could. Hot SKUs go on either way.
    pub problem: Option<String>,
    /// No new reservations on hot SKUs: the backlog of the journal has reached its cap.
    pub journal_full: bool,
    /// SKUs that a shard decides for.
    pub hot_skus: u64,
    /// SKUs on the way from one to the other.
    pub moving_skus: u64,
    /// SKUs promoted because someone asked.
    pub promotions_asked: u64,
    /// SKUs promoted by themselves.
    pub promotions_auto: u64,
    /// SKUs demoted because someone asked.
    pub demotions_asked: u64,
    /// SKUs demoted by themselves.
    pub demotions_auto: u64,
    /// SKUs whose move was finished after a restart.
    pub moves_repaired: u64,
    /// SKUs that another server or shard owned when this one wanted to write them.
    pub fenced: u64,
    /// Commands given to the store.
    pub cold_commands: u64,
    /// Commands under way in the store, or waiting for it.
    pub cold_in_flight: u64,
    /// Commands turned away because too many were under way there.
    pub cold_overloaded: u64,
    /// Commands that had to look again where to go, because a SKU or order had moved.
    pub route_retries: u64,
    /// Commands that waited for a move.
    pub move_waits: u64,
    /// Orders that shards took back from the store because a command needed them.
    pub orders_fetched: u64,
    /// Cold orders that this server expired.
    pub swept: u64,
    /// Calls of the store that failed.
    pub store_errors: u64,
    /// Conflicts that flushes found and recorded since the start.
    pub anomalies: u64,
    /// Flush transactions.
    pub flushes: u64,
    /// Events in them.
    pub flushed_events: u64,
    /// Rows that they wrote.
    pub flushed_rows: u64,
    /// Time spent in them, in microseconds.
    pub flush_micros: u64,
}

/// How far the store has taken in what a shard logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FollowerStats {
    /// Whose.
    pub shard: ShardId,
    /// The last event in the store.
    pub flushed: Lsn,
    /// The last durable event.
    pub durable: Lsn,
    /// Events between the two.
    pub lag_events: u64,
    /// Age of the oldest of them, in milliseconds; 0 when there is none.
    pub lag_millis: u64,
    /// Why the last flush failed; `None`: it did not.
    pub last_error: Option<String>,
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

impl Hub {
    /// Counts of orders over several places.
    pub(crate) fn spanning_stats(&self) -> SpanningStats {
        let counters = &self.spanning.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpanningStats {
            made: get(&counters.made),
            refused: get(&counters.refused),
            overloaded: get(&counters.overloaded),
            under_way: self.spanning.under_way(),
            attempts: get(&counters.attempts),
            branches_asked: get(&counters.asked),
            orphans_released: get(&counters.orphans_released),
            carries: get(&counters.carries),
            carries_retried: get(&counters.carries_retried),
            chores_waiting: get(&counters.chores),
            errands_refused: get(&counters.errands_refused),
            homes_adopted: get(&counters.adopted),
        }
    }

    /// Counts of the side that faces the store.
    pub(crate) fn store_stats(&self) -> Option<StoreStats> {
        let side = self.side.as_ref()?;
        let counters = &side.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hot_skus, moving_skus) = side.routes.counts();
        let permits = u64::from(self.context.options.store.cold_permits.max(1));
        Some(StoreStats {
            problem: side.problem(),
            journal_full: self.context.journal_full.load(Ordering::Relaxed),
            hot_skus,
            moving_skus,
            promotions_asked: get(&counters.promotions_asked),
            promotions_auto: get(&counters.promotions_auto),
            demotions_asked: get(&counters.demotions_asked),
            demotions_auto: get(&counters.demotions_auto),
            moves_repaired: get(&counters.moves_repaired),
            fenced: get(&counters.fenced),
            cold_commands: get(&counters.cold_commands),
            cold_in_flight: permits.saturating_sub(side.gate.available_permits() as u64),
            cold_overloaded: get(&counters.cold_overloaded),
            route_retries: get(&counters.route_retries),
            move_waits: get(&counters.move_waits),
            orders_fetched: get(&counters.orders_fetched),
            swept: get(&counters.swept),
            store_errors: get(&counters.store_errors),
            anomalies: get(&counters.anomalies),
            flushes: get(&counters.flushes),
            flushed_events: get(&counters.flushed_events),
            flushed_rows: get(&counters.flushed_rows),
            flush_micros: get(&counters.flush_micros),
        })
    }

    /// How far each shard is flushed.
    pub(crate) fn follower_stats(&self) -> Vec<FollowerStats> {
        let Some(side) = &self.side else { return Vec::new() };
        let now = self.context.clock.now();
        let of = |shard: &std::sync::Arc<ShardShared>| {
            let follow = &side.follows[shard.id.index()];
            // The flushed one first: it never passes the durable one.
            let flushed = *follow.flushed.borrow();
            let durable = shard.durable_lsn();
            let lag_events = durable.0.saturating_sub(flushed.0);
            let oldest = follow.oldest.load(Ordering::Relaxed);
            let lag_millis = if lag_events == 0 || oldest == 0 { 0 } else { now.0.saturating_sub(oldest) };
            let last_error = unpoisoned(follow.error.lock()).clone();
            FollowerStats { shard: shard.id, flushed, durable, lag_events, lag_millis, last_error }
        };
        self.shards.iter().map(of).collect()
    }
}
