//! Starts an engine: the one place where the parts are wired.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ractor::Actor;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::engine::Engine;
use super::options::{EngineOptions, Parts, StartError};
use super::running::{Running, Stoppable};
use crate::base::blocking::{self, Loop, Worker};
use crate::base::failpoints::Failpoints;
use crate::base::ids::ShardId;
use crate::base::limits::{MAX_SHARDS, MAX_WAITING_SLICES, START_STORE_WAIT_MILLIS, TICK_MILLIS};
use crate::base::sync::Inbox;
use crate::contract::counters::CrossShardCounters;
use crate::front::checker;
use crate::front::history::History;
use crate::front::inspect::Inspected;
use crate::front::list::Lists;
use crate::front::options::{flush_options, shard_options};
use crate::front::owner::Owner;
use crate::front::pins::Pins;
use crate::front::reads::Reads;
use crate::front::reconcile::Reconciler;
use crate::front::router::Router;
use crate::services::checkpointer::{CheckpointParts, Checkpointer};
use crate::services::checks::Checks;
use crate::services::directory::Directory;
use crate::services::fence::Fence;
use crate::services::flusher::Flusher;
use crate::services::hot::HotList;
use crate::services::known::{self, Known};
use crate::services::loader::Loader;
use crate::services::replier;
use crate::services::retention::Retention;
use crate::services::shared::ShardShared;
use crate::services::store_link::StoreLink;
use crate::services::views::Views;
use crate::services::writer::{Poison, Writer, WriterCounters, WriterMessage, WriterParts};
use crate::shard::parts::ShardParts;
use crate::shard::recovery::{Recovered, recover_audited};
use crate::shard::supervisor::{Supervisor, SupervisorArguments};

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
