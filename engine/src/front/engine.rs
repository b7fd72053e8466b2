//! The engine as the rest of the program sees it: start, submit, read, stop. [`Engine::start`] wires the parts, in
//! the order in which a command meets them:
//!
//! ```text
//!   submit ─▶ router ─▶ shards ─▶ journal writer ─▶ views, directory ─▶ replier ─▶ caller, other shards
//!                         │ ▲            │
//!                      loader, known     └─▶ flusher ─▶ store
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::contract::counters::CrossShardCounters;
pub use crate::contract::counters::{
    CrossShardStats, FlushStats, JournalFull, KnownStats, ShardStats, Stats, StoreStats,
};
pub use crate::front::list::OrderPage;
pub use crate::front::options::{EngineOptions, Parts, StartError, StoreOptions};
use crate::front::options::{flush_options, shard_options};
pub use crate::front::pins::Pinned;
pub use crate::front::status::Health;
pub use crate::services::hot::HotSku;
pub use crate::services::ownership::NotOurs;

use crate::base::blocking::{self, Loop, Worker};
use crate::base::failpoints::Failpoints;
use crate::base::ids::{Epoch, OrderNo, ShardId, SkuId, WarehouseId};
use crate::base::limits::{
    MAX_PAGE_ROWS, MAX_SHARDS, MAX_WAITING_SLICES, START_STORE_WAIT_MILLIS, TICK_MILLIS,
};
use crate::base::sync::{Inbox, unpoisoned};
use crate::contract::command::Command;
use crate::contract::journal::JournalReader;
use crate::contract::outcome::{Outcome, Refusal, StockView};
use crate::contract::store::{Anomaly, JournalRow, OrderFilter, Parked};
use crate::front::checker;
use crate::front::history::History;
use crate::front::inspect::Inspected;
use crate::front::list::Lists;
use crate::front::owner::Owner;
use crate::front::pins::Pins;
use crate::front::reads::Reads;
use crate::front::reconcile::{Reconcile, Reconciled, Reconciler};
use crate::front::router::Router;
use crate::front::status::{cross_shard_stats, shard_stats, store_stats};
use crate::services::checkpointer::{CheckpointMessage, CheckpointParts, Checkpointer};
use crate::services::checks::Checks;
use crate::services::directory::Directory;
use crate::services::dirty::Dirty;
use crate::services::fence::Fence;
use crate::services::flusher::Flusher;
use crate::services::hot::HotList;
use crate::services::known::{self, Known};
use crate::services::loader::Loader;
use crate::services::replier;
use crate::services::retention::Retention;
use crate::services::shared::ShardShared;
use crate::services::store_link::{StoreLink, refusal_of};
use crate::services::views::Views;
use crate::services::writer::{COMMIT_BUCKETS, Poison, Writer, WriterCounters, WriterMessage, WriterParts};
use crate::shard::parts::ShardParts;
use crate::shard::recovery::{Recovered, recover_audited};
use crate::shard::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

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
    running: Arc<Running>,
}

/// What callers reach, and what they are told of.
struct Running {
    router: Arc<Router>,
    reads: Arc<Reads>,
    lists: Lists,
    history: History,
    pins: Arc<Pins>,
    /// All shards.
    shards: Arc<[Arc<ShardShared>]>,
    reader: Arc<dyn JournalReader>,
    inspected: Inspected,
    reconciler: Reconciler,
    poison: Poison,
    fence: Arc<Fence>,
    link: Arc<StoreLink>,
    owner: Arc<Owner>,
    flusher: Arc<Flusher>,
    loader: Arc<Loader>,
    known: Arc<Known>,
    dirty: Option<Arc<Dirty>>,
    checks: Option<Arc<Checks>>,
    counters: Arc<WriterCounters>,
    cross_shard: Arc<CrossShardCounters>,
    stopping: AtomicBool,
    /// Taken by the one that stops the engine.
    parts: Mutex<Option<Stoppable>>,
}

/// Every background task of the engine.
struct Stoppable {
    supervisor: ActorRef<SupervisorMessage>,
    ticker: tokio::task::JoinHandle<()>,
    replier: tokio::task::JoinHandle<()>,
    /// The flusher, which flushes once more at the end.
    flusher: JoinSet<()>,
    /// Heartbeat and retention: they end when they are told to.
    keepers: JoinSet<()>,
    /// Tells them.
    keepers_stop: watch::Sender<bool>,
    /// Checker, what fills the filter and the hot list after a start: ended where they stand.
    loops: JoinSet<()>,
    /// Until no command waits any more.
    loader: tokio::task::JoinHandle<()>,
    writer: Worker,
    checkpointer: Worker,
    inbox: Arc<Inbox<WriterMessage>>,
    to_checkpointer: mpsc::Sender<CheckpointMessage>,
    to_replier: replier::Replier,
}

impl Engine {
    /// Recovers every shard from its checkpoint and journal, takes the store, and starts. A store need not answer
    /// yet, if this is evidently the directory that had it last.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: EngineOptions, parts: Parts) -> Result<Self, StartError> {
        let count = options.shards.clamp(1, MAX_SHARDS);
        let options = EngineOptions { shards: count, ..options };
        let Parts {
            journal,
            checkpoints,
            filters,
            identity,
            clock,
            store,
            dirty,
            check,
            before_decide,
            failpoint,
        } = parts;
        let failpoints = Failpoints::new(failpoint);
        let reader = journal.reader();

        // What was durable, and what of it is known.
        let mut recovered = Vec::new();
        for id in (0..count).map(ShardId) {
            let (reader, checkpoints) = (Arc::clone(&reader), Arc::clone(&checkpoints));
            let recover = move || recover_audited(id, count, reader.as_ref(), checkpoints.as_ref());
            let one = blocking::run(recover).await;
            recovered.push(one.map_err(|error| spawn_error("recovery", &error))??);
        }
        let named: Vec<_> = recovered.iter_mut().filter_map(|one| one.known.take()).collect();
        let known = blocking::run(move || Known::load(filters, named)).await;
        let known = Arc::new(known.map_err(|error| spawn_error("the filter of known numbers", &error))?);
        let (directory, hot) = (Arc::new(Directory::new(count)), Arc::new(HotList::default()));
        let (unsettled, cross_shard) = (Arc::new(AtomicU64::new(0)), Arc::<CrossShardCounters>::default());
        let mut shards = Vec::new();
        let mut states = Vec::new();
        let mut newest_attempt = 0;
        for Recovered { state, checkpoint, replayed, departed, .. } in recovered {
            let id = state.shard();
            let shared = ShardShared::new(id, options.gate_permits);
            shared.recovered(&state, checkpoint);
            known.add_departed(departed, clock.now());
            for (order_no, spans) in state.order_numbers() {
                match spans {
                    true => directory.own_cross_shard(order_no, id),
                    false => directory.own(order_no, id),
                }
            }
            newest_attempt = newest_attempt.max(state.newest_attempt());
            let holds = state.hold_keys().count() as u64;
            shared.asking.store(holds, Ordering::Release);
            unsettled.fetch_add(holds, Ordering::AcqRel);
            hot.update(id, state.hot_skus().iter().map(|sku_id| (sku_id.clone(), true)));
            tracing::info!(shard = %id, lsn = %state.applied(), replayed, "recovered");
            shards.push(Arc::new(shared));
            states.push(state);
        }
        let shards: Arc<[Arc<ShardShared>]> = shards.into();

        // The store, and whether it is ours.
        let fence = Arc::new(Fence::new(options.store.lease_seconds > 0));
        let link = Arc::new(StoreLink::new(store, Arc::clone(&fence)));
        let owner = Arc::new(Owner {
            link: Arc::clone(&link),
            identity: Arc::clone(&identity),
            reader: Arc::clone(&reader),
            clock: Arc::clone(&clock),
            shards: count,
            lease_seconds: options.store.lease_seconds,
            take_over: options.take_over,
            start_wait: Duration::from_millis(START_STORE_WAIT_MILLIS),
        });
        owner.take_at_start().await?;

        // Behind the shards: writer, views, replies, flush, checkpoints.
        let inbox: Arc<Inbox<WriterMessage>> = Arc::default();
        let views: Arc<Views> = Arc::default();
        let poison: Poison = Arc::new(OnceLock::new());
        let counters: Arc<WriterCounters> = Arc::default();
        let (to_replier, for_replier) = mpsc::unbounded_channel();
        let (to_checkpointer, for_checkpointer) = mpsc::channel(MAX_WAITING_SLICES);
        let replier = tokio::spawn(replier::run(for_replier));
        let flusher = {
            let (inbox, failpoints) = (Arc::clone(&inbox), failpoints.clone());
            Arc::new(Flusher::new(
                Arc::clone(&link),
                shards.to_vec(),
                Arc::clone(&reader),
                Arc::clone(&clock),
                flush_options(&options.store),
                Box::new(move |marks| drop(inbox.put(WriterMessage::Trim(marks)))),
                Box::new(move |step| failpoints.reach(step)),
            ))
        };
        let writer = {
            let parts = WriterParts {
                inbox: Arc::clone(&inbox),
                poison: Arc::clone(&poison),
                directory: Arc::clone(&directory),
                views: Arc::clone(&views),
                dirty: dirty.clone(),
                hot: Arc::clone(&hot),
                replier: to_replier.clone(),
                flusher: Arc::clone(&flusher),
                counters: Arc::clone(&counters),
            };
            spawn_worker("journal writer", Writer::new(journal, parts))?
        };
        let checkpointer = {
            let (shards, inbox, store) = (Arc::clone(&shards), Arc::clone(&inbox), Arc::clone(&checkpoints));
            let (flusher, known) = (Arc::clone(&flusher), Arc::clone(&known));
            let failpoints = failpoints.clone();
            let parts = CheckpointParts { shards, inbox, flusher, known, failpoints };
            spawn_worker("checkpointer", Checkpointer::new(store, parts, for_checkpointer))?
        };

        // The shards, and what they wait for.
        let loader = Arc::new(Loader::new(Arc::clone(&link), shards.to_vec(), failpoints.clone()));
        let retention = Retention {
            keep_days: options.store.keep_days,
            keep_journal_days: options.store.keep_journal_days,
        };
        let (checks, due) = check.map(|check| Checks::new(check, options.check.clone())).unzip();
        let checks = checks.map(Arc::new);
        let shard_parts = ShardParts {
            options: shard_options(&options),
            clock: Arc::clone(&clock),
            identity,
            fence: Arc::clone(&fence),
            shards: Arc::clone(&shards),
            directory: Arc::clone(&directory),
            known: Arc::clone(&known),
            loader: Arc::clone(&loader),
            flusher: Arc::clone(&flusher),
            retention,
            views: Arc::clone(&views),
            inbox: Arc::clone(&inbox),
            poison: Arc::clone(&poison),
            checkpointer: to_checkpointer.clone(),
            unsettled,
            attempts: Arc::new(AtomicU64::new(first_attempt(newest_attempt, clock.now()))),
            cross_shard: Arc::clone(&cross_shard),
            checks: checks.clone(),
            before_decide,
            failpoints: failpoints.clone(),
        };
        let arguments =
            SupervisorArguments { parts: shard_parts, states, reader: Arc::clone(&reader), checkpoints };
        let supervisor = Supervisor::spawn(None, Supervisor, arguments).await;
        let (supervisor, _) = supervisor.map_err(|error| spawn_error("supervisor", &error))?;

        // Before the shards: what callers reach.
        let reads = Arc::new(Reads {
            views: Arc::clone(&views),
            shards: Arc::clone(&shards),
            link: Arc::clone(&link),
            fence: Arc::clone(&fence),
        });
        let router = Arc::new_cyclic(|me| Router {
            me: me.clone(),
            shards: Arc::clone(&shards),
            directory: Arc::clone(&directory),
            known: Arc::clone(&known),
            fence: Arc::clone(&fence),
            batches: AtomicU64::new(0),
        });
        let lists =
            Lists { router: Arc::clone(&router), link: Arc::clone(&link), reader: Arc::clone(&reader) };
        let history = History {
            shards: Arc::clone(&shards),
            link: Arc::clone(&link),
            fence: Arc::clone(&fence),
            reader: Arc::clone(&reader),
        };
        let pins =
            Pins::new(Arc::clone(&shards), Arc::clone(&views), Arc::clone(&link), Arc::clone(&fence), hot);
        let pins = Arc::new(pins);

        let inspected = Inspected {
            shards: Arc::clone(&shards),
            reads: Arc::clone(&reads),
            reader: Arc::clone(&reader),
            fence: Arc::clone(&fence),
            flusher: Arc::clone(&flusher),
            clock: Arc::clone(&clock),
        };

        // The background.
        let ticker = tokio::spawn(tick(Arc::clone(&directory), Arc::clone(&shards)));
        let mut flusher_loop = JoinSet::new();
        {
            let flusher = Arc::clone(&flusher);
            flusher_loop.spawn(async move { flusher.run().await });
        }
        let (keepers_stop, stopping) = watch::channel(false);
        let mut keepers = JoinSet::new();
        {
            let (owner, flusher, stopping) = (Arc::clone(&owner), Arc::clone(&flusher), stopping.clone());
            keepers.spawn(async move { owner.keep(&flusher, stopping).await });
        }
        {
            let (link, flusher) = (Arc::clone(&link), Arc::clone(&flusher));
            let (clock, known) = (Arc::clone(&clock), Arc::clone(&known));
            keepers.spawn(async move {
                retention.run(&link, &flusher, &known, clock.as_ref(), &failpoints, stopping).await;
            });
        }
        let mut loops = JoinSet::new();
        {
            let pins = Arc::clone(&pins);
            loops.spawn(async move { pins.load_stored().await });
        }
        if let (Some(due), Some(checks)) = (due, &checks) {
            loops.spawn(checker::run(Arc::clone(&router), Arc::clone(checks), Arc::clone(&clock), due));
        }
        if !known.is_ready() {
            let (known, link, shards) = (Arc::clone(&known), Arc::clone(&link), Arc::clone(&shards));
            loops.spawn(async move {
                let departed = || shards.iter().map(|shard| (shard.id, shard.departed_lsn())).collect();
                known::rebuild(&known, &link, departed).await;
                // The next start finds it complete.
                shards.iter().for_each(|shard| shard.ask_checkpoint());
            });
        }
        let loader_loop = tokio::spawn(Arc::clone(&loader).run());
        let parts = Stoppable {
            supervisor,
            ticker,
            replier,
            flusher: flusher_loop,
            keepers,
            keepers_stop,
            loops,
            loader: loader_loop,
            writer,
            checkpointer,
            inbox,
            to_checkpointer,
            to_replier,
        };
        let running = Running {
            router,
            reads,
            lists,
            history,
            pins,
            shards,
            reader,
            inspected,
            reconciler: Reconciler::default(),
            poison,
            fence,
            link,
            owner,
            flusher,
            loader,
            known,
            dirty,
            checks,
            counters,
            cross_shard,
            stopping: AtomicBool::new(false),
            parts: Mutex::new(Some(parts)),
        };
        Ok(Self { running: Arc::new(running) })
    }

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
        let running = self.running.as_ref();
        running.stopping.store(true, Ordering::Release);
        let parts = unpoisoned(running.parts.lock()).take();
        let Some(parts) = parts else { return };
        let Stoppable {
            supervisor,
            ticker,
            replier,
            mut flusher,
            mut keepers,
            keepers_stop,
            mut loops,
            loader,
            ..
        } = parts;
        loops.shutdown().await;
        for shard in running.shards.iter() {
            shard.drain().await;
        }
        loader.abort();
        ticker.abort();
        // The shards end with their supervisor; a turn under way is finished first.
        for shard in running.shards.iter() {
            shard.stop_actor().await;
        }
        supervisor.stop(None);
        drop(parts.to_checkpointer.send(CheckpointMessage::Stop).await);
        parts.inbox.close();
        let (writer, checkpointer) = (parts.writer, parts.checkpointer);
        for (name, worker) in [("journal writer", writer), ("checkpointer", checkpointer)] {
            if !worker.ended().await {
                tracing::error!(name, "a thread panicked");
            }
        }
        // The writer was the last to send answers.
        drop(parts.to_replier.send(None));
        drop(replier.await);
        // Nothing more will be logged: what is durable now is the last that is flushed. The heartbeat goes on until
        // then.
        running.flusher.stop();
        while flusher.join_next().await.is_some() {}
        keepers_stop.send_replace(true);
        while keepers.join_next().await.is_some() {}
        running.owner.let_go().await;
        running.link.store().close().await;
    }
}

/// Lets every shard look at its deadlines now and then, also when no command comes.
async fn tick(directory: Arc<Directory>, shards: Arc<[Arc<ShardShared>]>) {
    let mut interval = tokio::time::interval(Duration::from_millis(TICK_MILLIS));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        for shard in shards.iter() {
            if shard.failed.load(Ordering::Acquire) {
                // A command that was admitted just before the shard was given up.
                shard.drop_mail(&directory);
            } else {
                shard.wake();
            }
        }
    }
}

fn spawn_worker(what: &'static str, body: impl Loop) -> Result<Worker, StartError> {
    Worker::spawn(what, body).map_err(|error| spawn_error(what, &error))
}

/// The number of the first attempt of this run: above those before it, also when the clock was put back.
fn first_attempt(newest_held: u64, now: crate::base::clock::Timestamp) -> u64 {
    (now.0 << 20).max(newest_held.saturating_add(1))
}

fn spawn_error(what: &'static str, problem: &dyn std::fmt::Display) -> StartError {
    StartError::Spawn { what, problem: problem.to_string() }
}
