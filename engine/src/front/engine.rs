//! The engine as the rest of the program sees it: start, submit, read, stop. The parts that [`Engine::start`] wires,
//! in the order in which a command meets them:
//!
//! ```text
//!   submit ─▶ router ─▶ shards ─▶ journal writer ─▶ views, directory ─▶ replier ─▶ caller, other shards
//!                         │ ▲            │
//!                      loader, known     └─▶ flusher ─▶ store
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::running::Running;
use crate::base::ids::{Epoch, OrderNo, ShardId, SkuId, WarehouseId};
use crate::base::limits::MAX_PAGE_ROWS;
use crate::contract::command::Command;
use crate::contract::counters::Stats;
use crate::contract::journal::JournalReader;
use crate::contract::outcome::{Outcome, Refusal, StockView};
use crate::contract::store::{Anomaly, JournalRow, OrderFilter, Parked};
use crate::front::list::OrderPage;
use crate::front::pins::Pinned;
use crate::front::reconcile::{Reconcile, Reconciled};
use crate::front::status::Health;
use crate::front::status::{cross_shard_stats, shard_stats, store_stats};
use crate::services::dirty::Dirty;
use crate::services::hot::HotSku;
use crate::services::shared::ShardShared;
use crate::services::store_link::refusal_of;
use crate::services::writer::COMMIT_BUCKETS;

/// The steps of orders over several shards at which a test can end the process.
pub const CROSS_SHARD_STEPS: &[&str] = crate::machine::message::Message::STEPS;

/// The steps of loads, evictions, flushes and checkpoints at which a test can end the process.
pub const RESIDENCY_STEPS: &[&str] = &[
    "load.before",
    "load.loaded",
    "load.orders",
    "evict.logged",
    "forget.logged",
    "flush.before",
    "flush.after",
    "known.saved",
    "checkpoint.finished",
    "prune.before",
    "prune.after",
];

/// A running engine; cheap to clone. Dropping it does not stop it: [`Engine::stop`] does.
#[derive(Clone)]
pub struct Engine {
    pub(super) running: Arc<Running>,
}

impl Engine {
    /// Carries out a command. Whatever it answers is durable. A dropped future does not undo the command.
    ///
    /// # Errors
    /// [`Refusal`], which says whether the outcome is unknown.
    pub async fn submit(&self, command: Command) -> Outcome {
        self.running.router.submit(command).await
    }

    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, commands: Vec<Command>) -> Vec<Outcome> {
        self.running.router.submit_batch(commands).await
    }

    /// The durable levels of a SKU, in one warehouse or all, by warehouse. Empty when there are none.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`] for a SKU that is not in memory; [`Refusal::Fenced`].
    pub async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Vec<StockView>, Refusal> {
        self.running.reads.stock(sku_id, warehouse_id).await
    }

    /// Up to `limit` SKUs (at most [`MAX_PAGE_ROWS`]) after `after` in the order of their names, each with all its
    /// warehouses. Fewer than `limit` may come although there are more; none only when there are none.
    ///
    /// # Errors
    /// As [`Engine::stock`].
    pub async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Vec<Vec<StockView>>, Refusal> {
        self.running.reads.stock_page(after, limit.clamp(1, MAX_PAGE_ROWS)).await
    }

    /// The journal of a SKU: of each warehouse the rows with a version above the one in `after` (0 where it is not
    /// named), up to `limit` of them in all, by time; those of one warehouse by version, without gap. What is durable
    /// and not flushed yet is in it.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`], also when so much is not flushed that it would take too long.
    pub async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Vec<JournalRow>, Refusal> {
        self.running.history.stock_journal(sku_id, after, limit).await
    }

    /// Orders after `after`, by number (as bytes), up to `limit` (1 to [`MAX_PAGE_ROWS`]) of those that the filter
    /// takes; also what is durable and not flushed yet. An order that is there, and that the filter takes, from
    /// before the first page to after the last is in exactly one page. A page may be shorter than asked for, or
    /// empty, and still have a next one.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`], also when so much is not flushed that it would take too long.
    /// Those of a read of an order.
    pub async fn list_orders(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<OrderPage, Refusal> {
        self.running.lists.orders(filter, after, limit.clamp(1, MAX_PAGE_ROWS)).await
    }

    /// The newest conflicts that the store has recorded, at most `max`, and how many there are.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`].
    pub async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), Refusal> {
        let link = &self.running.link;
        link.noted(link.store().anomalies(max).await).map_err(refusal_of)
    }

    /// SKUs whose rows in the store are left alone, at most `max`, and how many there are.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`].
    pub async fn parked(&self, max: usize) -> Result<(u64, Vec<Parked>), Refusal> {
        let link = &self.running.link;
        link.noted(link.store().parked(max).await).map_err(refusal_of)
    }

    /// Loads SKUs and keeps them in memory until they are demoted, across restarts. Those above
    /// [`MAX_HOT_LIST`](crate::base::limits::MAX_HOT_LIST) are refused as overload. Can be repeated after any failure.
    pub async fn promote(&self, skus: &[SkuId]) -> Vec<(SkuId, Result<Pinned, Refusal>)> {
        self.running.pins.pin(skus, true).await
    }

    /// Keeps SKUs in memory no longer; they leave when they are idle and there are too many. See [`Engine::promote`].
    pub async fn demote(&self, skus: &[SkuId]) -> Vec<(SkuId, Result<Pinned, Refusal>)> {
        self.running.pins.pin(skus, false).await
    }

    /// Makes these the SKUs that are kept in memory, and no others. A result for each that was or is one of them, by
    /// name.
    ///
    /// # Errors
    /// [`Refusal::InvalidField`] when there are too many.
    pub async fn set_hot(&self, skus: Vec<SkuId>) -> Result<Vec<(SkuId, Result<Pinned, Refusal>)>, Refusal> {
        self.running.pins.replace(&skus).await
    }

    /// Up to `limit` SKUs after `after`, by name, that are kept in memory.
    #[must_use]
    pub fn hot(&self, after: Option<&SkuId>, limit: usize) -> Vec<HotSku> {
        self.running.pins.hot.list(after, limit)
    }

    /// The stocks that changed since they were last taken, when somebody follows them.
    #[must_use]
    pub fn dirty(&self) -> Option<Arc<Dirty>> {
        self.running.dirty.clone()
    }

    /// Compares what shards, store and mirror have of some SKUs, and puts right what is derived if it is asked to.
    /// Orders go on meanwhile.
    ///
    /// # Errors
    /// [`Refusal`] when the store can't be read, or a shard not be asked; what was put right until then stays so.
    pub async fn reconcile(&self, ask: Reconcile) -> Result<Reconciled, Refusal> {
        let running = self.running.as_ref();
        running.reconciler.run(&running.inspected, &running.link, &ask).await
    }

    /// Asks every shard for a checkpoint, whatever the number of events since its last.
    pub fn checkpoint_now(&self) {
        self.running.shards.iter().for_each(|shard| shard.ask_checkpoint());
    }

    /// Whether orders can be taken.
    #[must_use]
    pub fn health(&self) -> Health {
        let with = |flag: fn(&ShardShared) -> &AtomicBool| -> Vec<ShardId> {
            let flagged = self.running.shards.iter().filter(|shard| flag(shard).load(Ordering::Acquire));
            flagged.map(|shard| shard.id).collect()
        };
        if self.running.stopping.load(Ordering::Acquire) {
            return Health::Stopping;
        }
        if let Some(problem) = self.running.poison.get() {
            return Health::JournalPoisoned(problem.clone());
        }
        if let Some(why) = self.running.fence.fenced() {
            return Health::Fenced(why);
        }
        let failed = with(|shard| &shard.failed);
        if !failed.is_empty() {
            return Health::ShardFailed(failed);
        }
        let rebuilding = with(|shard| &shard.rebuilding);
        if rebuilding.is_empty() { Health::Ready } else { Health::Rebuilding(rebuilding) }
    }

    /// The epoch of this server in the store; [`Epoch::ZERO`]: it was not taken yet.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.running.fence.epoch()
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let running = self.running.as_ref();
        let counters = &running.counters;
        let mut commits = 0;
        let histogram = COMMIT_BUCKETS.iter().zip(&counters.histogram).map(|(bound, count)| {
            commits += count.load(Ordering::Relaxed);
            (*bound, commits)
        });
        let flushes = running.flusher.stats();
        Stats {
            shards: running
                .shards
                .iter()
                .zip(&flushes)
                .map(|(shard, flush)| shard_stats(shard, flush))
                .collect(),
            commit_histogram: histogram.collect(),
            journal_disk_bytes: running.reader.disk_bytes(),
            directory_orders: running.router.directory.len() as u64,
            store: store_stats(&running.link, &running.flusher, &running.loader, &running.known),
            checks: running.checks.as_ref().map(|checks| checks.stats()),
            cross_shard: cross_shard_stats(&running.cross_shard, &running.shards),
            clock: running.owner.clock.status(),
            ..counters.journal.counted()
        }
    }

    /// The reading side of the journal, for followers.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.running.reader)
    }

    /// Takes no more commands, lets those under way end (each answered), syncs and stops every task and thread. A
    /// second call returns at once.
    pub async fn stop(&self) {
        self.running.stop().await;
    }
}
