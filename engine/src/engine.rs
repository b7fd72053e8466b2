//! The engine as the rest of the program sees it: start, submit, read, stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use crate::list::OrderPage;
pub use crate::options::{AutoPromotion, EngineOptions, Parts, StartError, StoreOptions};
pub use crate::placement::{HotSku, Moved};
pub use crate::spanning::SPANNING_STEPS;
pub use crate::status::{FollowerStats, Health, ShardStats, SpanningStats, Stats, StoreStats};

use crate::check::Checks;
use crate::checkpointer;
use crate::command::Command;
use crate::context::Context;
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::hub::{Hub, Side, refusal_of};
use crate::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::journal::JournalReader;
use crate::limits::{
    MAX_PAGE_ROWS, MAX_SHARDS, MAX_SKUS_PER_MOVE, MAX_WAITING_CHORES, MAX_WAITING_SLICES, TICK_MILLIS,
};
use crate::outcome::{Effect, Outcome, Refusal, StockView};
use crate::placement::Asked;
use crate::reconcile::{Reconcile, Reconciled, reconcile};
use crate::recovery::recover_audited;
use crate::replier;
use crate::shard::shared::ShardShared;
use crate::spanning::{Chore, Spanning};
use crate::shard::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};
use crate::state::State;
use crate::store::{Anomaly, JournalRow, OrderFilter};
use crate::sync::{Inbox, unpoisoned};
use crate::views::Views;
use crate::writer::{self, COMMIT_BUCKETS, WriterCounters};

/// A running engine; cheap to clone. Dropping it does not stop it: [`Engine::stop`] does.
#[derive(Clone)]
pub struct Engine {
    running: Arc<Running>,
}

struct Running {
    hub: Arc<Hub>,
    counters: Arc<WriterCounters>,
    stopping: AtomicBool,
    /// Taken by the one that stops the engine.
    parts: Mutex<Option<Stoppable>>,
}

/// Every background task of the engine.
struct Stoppable {
    supervisor: ActorRef<SupervisorMessage>,
    ticker: tokio::task::JoinHandle<()>,
    replier: tokio::task::JoinHandle<()>,
    /// Followers, which flush once more at the end.
    followers: JoinSet<()>,
    /// Keeper, sweeper, repair, moves by rate, checker: ended where they stand.
    loops: JoinSet<()>,
    writer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
}

impl Engine {
    /// Recovers every shard from its checkpoint and journal and starts. A store need not answer yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: EngineOptions, parts: Parts) -> Result<Self, StartError> {
        let count = options.shards.clamp(1, MAX_SHARDS);
        let options = EngineOptions { shards: count, ..options };
        let Parts { journal, checkpoints, clock, store, dirty, check, before_decide, failpoint } = parts;
        let reader = journal.reader();
        let (to_checkpointer, for_checkpointer) = mpsc::channel(MAX_WAITING_SLICES);
        let (to_keeper, for_keeper) = mpsc::channel(MAX_WAITING_CHORES);
        let (to_replier, for_replier) = mpsc::unbounded_channel();
        let (checks, due) = check.map(|check| Checks::new(check, options.check.clone())).unzip();
        let context = Arc::new(Context {
            options,
            clock,
            directory: Directory::new(count, store.is_some()),
            views: Views::default(),
            inbox: Inbox::default(),
            checkpointer: to_checkpointer,
            replier: to_replier,
            chores: to_keeper,
            poison: OnceLock::new(),
            journal_full: AtomicBool::new(false),
            with_store: store.is_some(),
            dirty,
            checks,
            before_decide,
            failpoint,
        });
        let mut shards = Vec::new();
        let mut states = Vec::new();
        for id in (0..count).map(ShardId) {
            let (reader, checkpoints) = (Arc::clone(&reader), Arc::clone(&checkpoints));
            let recover = move || recover_audited(id, count, reader.as_ref(), checkpoints.as_ref());
            let recovered = tokio::task::spawn_blocking(recover).await;
            let recovered = recovered.map_err(|error| spawn_error("recovery", &error))??;
            let shared = ShardShared::new(id, context.options.gate_permits);
            shared.counters.checkpoint.store(recovered.checkpoint.0, Ordering::Relaxed);
            shared.counters.checkpoint_begun.store(recovered.checkpoint.0, Ordering::Relaxed);
            if context.with_store {
                shared.flushed.store(0, Ordering::Release);
                shared.shed.store(recovered.shed.0, Ordering::Release);
            }
            for order_no in recovered.state.order_numbers() {
                match recovered.state.image_of_home(order_no) {
                    Some(_) => context.directory.own_spanning(order_no, id),
                    None => context.directory.own(order_no, id),
                }
            }
            tracing::info!(shard = %id, lsn = %recovered.state.applied(), replayed = recovered.replayed, "recovered");
            shards.push(Arc::new(shared));
            states.push(recovered.state);
        }
        let starts: Vec<Lsn> = states.iter().map(State::applied).collect();
        let side = store.map(|(store, server)| {
            let side = Side::new(store, server, &context.options, &starts);
            for state in &states {
                for (sku_id, (stage, epoch)) in state.places() {
                    side.routes.recovered(&sku_id, state.shard(), epoch, stage, context.clock.now());
                }
            }
            side
        });
        let hub = Arc::new_cyclic(|me| Hub {
            me: me.clone(),
            context: Arc::clone(&context),
            shards: shards.clone(),
            reader: Arc::clone(&reader),
            side,
            spanning: Spanning::new(),
        });
        let counters = Arc::new(WriterCounters::default());
        let writer = {
            let (context, counters) = (Arc::clone(&context), Arc::clone(&counters));
            spawn_thread("journal writer", move || writer::run(journal, &context, &counters))?
        };
        let checkpointer = {
            let (context, shards, store) = (Arc::clone(&context), shards.clone(), Arc::clone(&checkpoints));
            let body = move || checkpointer::run(store.as_ref(), &context, &shards, for_checkpointer);
            spawn_thread("checkpointer", body)?
        };
        let arguments =
            SupervisorArguments { context: Arc::clone(&context), shards: shards.clone(), states, reader, checkpoints };
        let supervisor = Supervisor::spawn(None, Supervisor, arguments).await;
        let (supervisor, _) = supervisor.map_err(|error| spawn_error("supervisor", &error))?;
        let replier = tokio::spawn(replier::run(for_replier, context.chores.clone()));
        let ticker = tokio::spawn(tick(context, shards));
        let (followers, loops) = start_loops(&hub, for_keeper, due);
        let parts = Stoppable { supervisor, ticker, replier, followers, loops, writer, checkpointer };
        let parts = Mutex::new(Some(parts));
        Ok(Self { running: Arc::new(Running { hub, counters, stopping: AtomicBool::new(false), parts }) })
    }

    /// Carries out a command. Whatever it answers is durable. A dropped future does not undo the command.
    ///
    /// # Errors
    /// [`Refusal`], which says whether the outcome is unknown.
    pub async fn submit(&self, command: Command) -> Outcome {
        self.running.hub.submit(command).await
    }

    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, commands: Vec<Command>) -> Vec<Outcome> {
        self.running.hub.submit_batch(commands).await
    }

    /// The durable levels of a SKU, in one warehouse or all, by warehouse. Empty when there are none.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`] for a cold SKU; [`Refusal::Overloaded`] when a move of it takes too long.
    pub async fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Result<Vec<StockView>, Refusal> {
        self.running.hub.stock(sku_id, warehouse_id).await
    }

    /// Up to `limit` SKUs (at most [`MAX_PAGE_ROWS`]) after `after` in the order of their names, each with all its
    /// warehouses.
    ///
    /// # Errors
    /// As [`Engine::stock`].
    pub async fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        self.running.hub.stock_page(after, limit.min(MAX_PAGE_ROWS)).await
    }

    /// The journal of a SKU: of each warehouse the rows with a version above the one in `after` (0 where it is not named), up to
    /// `limit` of them in all, by time; those of one warehouse by version, without gap. What is durable and not flushed yet is in it.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`], also without a store, and when so much is not flushed that it would take too long.
    pub async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Vec<JournalRow>, Refusal> {
        self.running.hub.stock_journal(sku_id, after, limit).await
    }

    /// Orders after `after`, by number (as bytes), up to `limit` (1 to [`MAX_PAGE_ROWS`]) of those that the filter takes, hot and
    /// cold; also what is durable and not flushed yet. An order that is there, and that the filter takes, from before the first page to
    /// after the last is in exactly one page. A page may be shorter than asked for, or empty, and still have a next one.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`], also without a store, and when so much is not flushed that it would take too long. Those of a
    /// read of an order.
    pub async fn list_orders(
        &self,
        filter: &OrderFilter,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<OrderPage, Refusal> {
        self.running.hub.list_orders(filter, after, limit.clamp(1, MAX_PAGE_ROWS)).await
    }

    /// The newest conflicts that the store has recorded, at most `max`, and how many there are. Without a store: none.
    ///
    /// # Errors
    /// [`Refusal::StoreUnavailable`].
    pub async fn anomalies(&self, max: usize) -> Result<(u64, Vec<Anomaly>), Refusal> {
        let Some(side) = &self.running.hub.side else { return Ok((0, Vec::new())) };
        let (count, mut newest) = side.noted(side.store.anomalies(max).await).map_err(refusal_of)?;
        newest.iter_mut().for_each(Anomaly::tell_caller);
        Ok((count, newest))
    }

    /// Makes SKUs hot, each with its open orders; at most [`MAX_SKUS_PER_MOVE`], the others are refused as overload. One that is
    /// hot is answered with [`Effect::Replayed`](crate::outcome::Effect). Requests for them wait meanwhile. Can be repeated after any
    /// failure. Linked SKUs (an open order holds both) have to be asked for together.
    pub async fn promote(&self, skus: &[SkuId]) -> Vec<(SkuId, Result<Moved, Refusal>)> {
        let hub = &self.running.hub;
        let (some, rest) = skus.split_at(skus.len().min(MAX_SKUS_PER_MOVE));
        let mut results = match &hub.side {
            Some(_) => hub.promote(some, Asked::ByCaller).await,
            None => some.iter().map(|sku_id| (sku_id.clone(), self.hot_for_ever(sku_id))).collect(),
        };
        results.extend(rest.iter().map(|sku_id| (sku_id.clone(), Err(Refusal::Overloaded))));
        results
    }

    /// Makes SKUs cold; see [`Engine::promote`].
    pub async fn demote(&self, skus: &[SkuId]) -> Vec<(SkuId, Result<Moved, Refusal>)> {
        let hub = &self.running.hub;
        let (some, rest) = skus.split_at(skus.len().min(MAX_SKUS_PER_MOVE));
        let mut results = match &hub.side {
            Some(_) => hub.demote(some, Asked::ByCaller).await,
            None => some.iter().map(|sku_id| (sku_id.clone(), Err(Refusal::StoreUnavailable))).collect(),
        };
        results.extend(rest.iter().map(|sku_id| (sku_id.clone(), Err(Refusal::Overloaded))));
        results
    }

    /// A promotion without a store: every SKU is hot.
    fn hot_for_ever(&self, sku_id: &SkuId) -> Result<Moved, Refusal> {
        let context = &self.running.hub.context;
        if context.views.stock(sku_id, None).is_empty() {
            return Err(Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: None });
        }
        let shard = Some(shard_of(sku_id, context.options.shards));
        Ok(Moved { effect: Effect::Replayed, shard, epoch: 0, orders: 0 })
    }

    /// Up to `limit` SKUs after `after`, by name, that shards have. Without a store: none are listed.
    #[must_use]
    pub fn hot(&self, after: Option<&SkuId>, limit: usize) -> Vec<HotSku> {
        self.running.hub.side.as_ref().map_or_else(Vec::new, |side| side.routes.list(after, limit))
    }

    /// How far the store has taken in what the shards logged. Empty without a store.
    #[must_use]
    pub fn followers(&self) -> Vec<FollowerStats> {
        self.running.hub.follower_stats()
    }

    /// The stocks that changed since they were last taken, when somebody follows them.
    #[must_use]
    pub fn dirty(&self) -> Option<Arc<Dirty>> {
        self.running.hub.context.dirty.clone()
    }

    /// Compares what shards, store and mirror have of some SKUs, and puts right what is derived if it is asked to. Orders go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`Refusal`] when the store can't be read, or a SKU is moving for too long; what was put right until then stays so.
    pub async fn reconcile(&self, ask: Reconcile) -> Result<Reconciled, Refusal> {
        let hub = self.running.hub.as_ref();
        let store = hub.side.as_ref().map(|side| side.store.as_ref());
        reconcile(hub, store, &ask).await
    }

    /// Asks every shard for a checkpoint, whatever the number of events since its last.
    pub fn checkpoint_now(&self) {
        for shard in &self.running.hub.shards {
            shard.checkpoint_asked.store(true, Ordering::Release);
            shard.wake();
        }
    }

    /// Whether orders can be taken.
    #[must_use]
    pub fn health(&self) -> Health {
        let with = |flag: fn(&ShardShared) -> &AtomicBool| -> Vec<ShardId> {
            let flagged = self.running.hub.shards.iter().filter(|shard| flag(shard).load(Ordering::Acquire));
            flagged.map(|shard| shard.id).collect()
        };
        if self.running.stopping.load(Ordering::Acquire) {
            return Health::Stopping;
        }
        if let Some(problem) = self.running.hub.context.poison.get() {
            return Health::JournalPoisoned(problem.clone());
        }
        let failed = with(|shard| &shard.failed);
        if !failed.is_empty() {
            return Health::ShardFailed(failed);
        }
        let rebuilding = with(|shard| &shard.rebuilding);
        if rebuilding.is_empty() { Health::Ready } else { Health::Rebuilding(rebuilding) }
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Running { hub, counters, .. } = self.running.as_ref();
        let Hub { context, reader, shards, .. } = hub.as_ref();
        let mut commits = 0;
        let histogram = COMMIT_BUCKETS.iter().zip(&counters.histogram).map(|(bound, count)| {
            commits += count.load(Ordering::Relaxed);
            (*bound, commits)
        });
        Stats {
            shards: shards.iter().map(|shard| ShardStats::of(shard)).collect(),
            commits: counters.commits.load(Ordering::Relaxed),
            committed_events: counters.events.load(Ordering::Relaxed),
            commit_micros: counters.micros.load(Ordering::Relaxed),
            commit_histogram: histogram.collect(),
            journal_disk_bytes: reader.disk_bytes(),
            directory_orders: context.directory.len() as u64,
            store: hub.store_stats(),
            checks: context.checks.as_ref().map(Checks::stats),
            spanning: hub.spanning_stats(),
        }
    }

    /// The reading side of the journal, for followers.
    #[must_use]
    pub fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.running.hub.reader)
    }

    /// Takes no more commands, lets those under way end (each answered), syncs and stops every task and thread. A second
    /// call returns at once.
    pub async fn stop(&self) {
        self.running.stopping.store(true, Ordering::Release);
        let parts = unpoisoned(self.running.parts.lock()).take();
        let Some(parts) = parts else { return };
        let Stoppable { supervisor, ticker, replier, mut followers, mut loops, writer, checkpointer } = parts;
        self.running.hub.spanning.stop().await;
        loops.shutdown().await;
        if let Some(side) = &self.running.hub.side {
            side.stop_tasks().await;
        }
        for shard in &self.running.hub.shards {
            shard.drain().await;
        }
        ticker.abort();
        // The shards end with their supervisor; a turn under way is finished first.
        for shard in &self.running.hub.shards {
            shard.stop_actor().await;
        }
        supervisor.stop(None);
        let context = Arc::clone(&self.running.hub.context);
        drop(context.checkpointer.send(checkpointer::CheckpointMessage::Stop).await);
        context.inbox.close();
        let joined = tokio::task::spawn_blocking(move || {
            for (name, thread) in [("journal writer", writer), ("checkpointer", checkpointer)] {
                if thread.join().is_err() {
                    tracing::error!(name, "a thread panicked");
                }
            }
        });
        drop(joined.await);
        // The writer was the last to send answers.
        drop(self.running.hub.context.replier.send(None));
        drop(replier.await);
        // Nothing more will be logged: what is durable now is the last that is flushed.
        if let Some(side) = &self.running.hub.side {
            side.stop();
            while followers.join_next().await.is_some() {}
            side.store.close().await;
        }
    }
}

/// The background: followers of an engine with a store, and what may end anywhere.
fn start_loops(
    hub: &Arc<Hub>,
    chores: mpsc::Receiver<Chore>,
    due: Option<mpsc::UnboundedReceiver<OrderNo>>,
) -> (JoinSet<()>, JoinSet<()>) {
    let (mut followers, mut loops) = (JoinSet::new(), JoinSet::new());
    let keeper = Arc::clone(hub);
    loops.spawn(async move { keeper.keep(chores).await });
    if let Some(due) = due {
        loops.spawn(Arc::clone(hub).check_orders(due));
    }
    if hub.side.is_none() {
        return (followers, loops);
    }
    for id in hub.shards.iter().map(|shard| shard.id) {
        let hub = Arc::clone(hub);
        followers.spawn(async move { hub.follow(id).await });
    }
    let [sweeper, repair, mover] = std::array::from_fn(|_| Arc::clone(hub));
    loops.spawn(async move { sweeper.sweep().await });
    loops.spawn(async move { repair.repair().await });
    let by_rate = &hub.context.options.store.promotion;
    if by_rate.promote || by_rate.demote {
        loops.spawn(async move { mover.move_by_rate().await });
    }
    (followers, loops)
}

/// Lets every shard look at its deadlines now and then, also when no command comes.
async fn tick(context: Arc<Context>, shards: Vec<Arc<ShardShared>>) {
    let mut interval = tokio::time::interval(Duration::from_millis(TICK_MILLIS));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        for shard in &shards {
            if shard.failed.load(Ordering::Acquire) {
                // A command that was admitted just before the shard was given up.
                shard.drop_mail(&context.directory);
            } else {
                shard.wake();
            }
        }
    }
}

fn spawn_thread(
    what: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(what.into()).spawn(body);
    thread.map_err(|error| spawn_error(what, &error))
}

fn spawn_error(what: &'static str, problem: &dyn std::fmt::Display) -> StartError {
    StartError::Spawn { what, problem: problem.to_string() }
}
