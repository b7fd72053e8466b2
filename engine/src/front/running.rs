//! Everything that runs in an engine: what callers reach, every background task, and how they end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ractor::ActorRef;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::base::blocking::Worker;
use crate::base::sync::{Inbox, unpoisoned};
use crate::contract::counters::CrossShardCounters;
use crate::contract::journal::JournalReader;
use crate::front::history::History;
use crate::front::inspect::Inspected;
use crate::front::list::Lists;
use crate::front::owner::Owner;
use crate::front::pins::Pins;
use crate::front::reads::Reads;
use crate::front::reconcile::Reconciler;
use crate::front::router::Router;
use crate::services::checkpointer::CheckpointMessage;
use crate::services::checks::Checks;
use crate::services::dirty::Dirty;
use crate::services::fence::Fence;
use crate::services::flusher::Flusher;
use crate::services::known::Known;
use crate::services::loader::Loader;
use crate::services::replier;
use crate::services::shared::ShardShared;
use crate::services::store_link::StoreLink;
use crate::services::writer::{Poison, WriterCounters, WriterMessage};
use crate::shard::supervisor::SupervisorMessage;

/// What callers reach, and what they are told of.
pub(super) struct Running {
    pub(super) router: Arc<Router>,
    pub(super) reads: Arc<Reads>,
    pub(super) lists: Lists,
    pub(super) history: History,
    pub(super) pins: Arc<Pins>,
    /// All shards.
    pub(super) shards: Arc<[Arc<ShardShared>]>,
    pub(super) reader: Arc<dyn JournalReader>,
    pub(super) inspected: Inspected,
    pub(super) reconciler: Reconciler,
    pub(super) poison: Poison,
    pub(super) fence: Arc<Fence>,
    pub(super) link: Arc<StoreLink>,
    pub(super) owner: Arc<Owner>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) loader: Arc<Loader>,
    pub(super) known: Arc<Known>,
    pub(super) dirty: Option<Arc<Dirty>>,
    pub(super) checks: Option<Arc<Checks>>,
    pub(super) counters: Arc<WriterCounters>,
    pub(super) cross_shard: Arc<CrossShardCounters>,
    pub(super) stopping: AtomicBool,
    /// Taken by the one that stops the engine.
    pub(super) parts: Mutex<Option<Stoppable>>,
}

/// Every background task of the engine.
pub(super) struct Stoppable {
    pub(super) supervisor: ActorRef<SupervisorMessage>,
    pub(super) ticker: tokio::task::JoinHandle<()>,
    pub(super) replier: tokio::task::JoinHandle<()>,
    /// The flusher, which flushes once more at the end.
    pub(super) flusher: JoinSet<()>,
    /// Heartbeat and retention: they end when they are told to.
    pub(super) keepers: JoinSet<()>,
    /// Tells them.
    pub(super) keepers_stop: watch::Sender<bool>,
    /// Checker, what fills the filter and the hot list after a start: ended where they stand.
    pub(super) loops: JoinSet<()>,
    /// Until no command waits any more.
    pub(super) loader: tokio::task::JoinHandle<()>,
    pub(super) writer: Worker,
    pub(super) checkpointer: Worker,
    pub(super) inbox: Arc<Inbox<WriterMessage>>,
    pub(super) to_checkpointer: mpsc::Sender<CheckpointMessage>,
    pub(super) to_replier: replier::Replier,
}

impl Running {
    /// See [`Engine::stop`](super::engine::Engine::stop).
    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let parts = unpoisoned(self.parts.lock()).take();
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
        for shard in self.shards.iter() {
            shard.drain().await;
        }
        loader.abort();
        ticker.abort();
        // The shards end with their supervisor; a turn under way is finished first.
        for shard in self.shards.iter() {
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
        self.flusher.stop();
        while flusher.join_next().await.is_some() {}
        keepers_stop.send_replace(true);
        while keepers.join_next().await.is_some() {}
        self.owner.let_go().await;
        self.link.store().close().await;
    }
}
