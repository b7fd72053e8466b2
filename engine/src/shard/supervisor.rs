//! Starts the shards and rebuilds one that panicked: its state is read back from checkpoint and journal, its mailbox
//! and gate stay. The other shards don't notice.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use super::actor::{ShardActor, ShardArguments};
use super::parts::ShardParts;
use crate::base::blocking;
use crate::base::ids::ShardId;
use crate::base::limits::{MAX_SHARD_REBUILDS, SHARD_REBUILD_WINDOW_SECONDS};
use crate::contract::checkpoint::CheckpointStore;
use crate::contract::journal::JournalReader;
use crate::machine::state::State;
use crate::services::shared::Envelope;
use crate::shard::recovery::recover_audited;

/// How often a rebuild looks whether everything that the dead shard handed over is durable.
const BACKLOG_POLL: Duration = Duration::from_millis(1);

pub(crate) struct Supervisor;

pub(crate) struct SupervisorArguments {
    pub parts: ShardParts,
    /// The recovered state of each shard.
    pub states: Vec<State>,
    pub reader: Arc<dyn JournalReader>,
    pub checkpoints: Arc<dyn CheckpointStore>,
}

pub(crate) struct Supervised {
    parts: ShardParts,
    reader: Arc<dyn JournalReader>,
    checkpoints: Arc<dyn CheckpointStore>,
    actors: HashMap<ActorId, ShardId>,
    /// Times of the last rebuilds of each shard.
    rebuilds: Vec<VecDeque<Instant>>,
}

pub(crate) enum SupervisorMessage {
    /// The state of a shard was read back, or can't be.
    Rebuilt(ShardId, Box<Result<State, String>>),
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = Supervised;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        arguments: SupervisorArguments,
    ) -> Result<Supervised, ActorProcessingErr> {
        let SupervisorArguments { parts, states, reader, checkpoints } = arguments;
        let rebuilds = parts.shards.iter().map(|_| VecDeque::new()).collect();
        let mut supervised = Supervised { parts, reader, checkpoints, actors: HashMap::new(), rebuilds };
        for state in states {
            supervised.start(&myself, state).await?;
        }
        Ok(supervised)
    }

    async fn handle(
        &self,
        myself: ActorRef<SupervisorMessage>,
        SupervisorMessage::Rebuilt(shard, rebuilt): SupervisorMessage,
        supervised: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        match *rebuilt {
            Ok(state) => {
                supervised.start(&myself, state).await?;
                let shared = &supervised.parts.shards[shard.index()];
                shared.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
                shared.rebuilding.store(false, Ordering::Release);
                // What it was about to do or to say for the others is lost.
                let others = supervised.parts.shards.iter().filter(|other| other.id != shard);
                others.for_each(|other| other.deliver(vec![Envelope::Rebuilt(shard)]));
                tracing::warn!(%shard, "the shard is rebuilt and goes on");
            }
            Err(problem) => supervised.give_up(shard, &problem),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        supervised: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(cell, error) = event
            && let Some(shard) = supervised.actors.remove(&cell.get_id())
        {
            tracing::error!(%shard, %error, "a shard failed; it is rebuilt from its journal");
            supervised.rebuild(&myself, shard);
        }
        Ok(())
    }
}

impl Supervised {
    async fn start(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        state: State,
    ) -> Result<(), ActorProcessingErr> {
        let shard = state.shard();
        let shared = Arc::clone(&self.parts.shards[shard.index()]);
        let arguments = ShardArguments { parts: self.parts.clone(), shared: Arc::clone(&shared), state };
        let (actor, _) = ShardActor::spawn_linked(None, ShardActor, arguments, myself.get_cell()).await?;
        self.actors.insert(actor.get_id(), shard);
        shared.set_actor(Some(actor));
        Ok(())
    }

    fn rebuild(&mut self, myself: &ActorRef<SupervisorMessage>, shard: ShardId) {
        let shared = Arc::clone(&self.parts.shards[shard.index()]);
        shared.rebuilding.store(true, Ordering::Release);
        shared.set_actor(None);
        let recent = &mut self.rebuilds[shard.index()];
        let window = Duration::from_secs(SHARD_REBUILD_WINDOW_SECONDS);
        recent.retain(|at| at.elapsed() < window);
        if recent.len() >= MAX_SHARD_REBUILDS {
            let problem = format!("it failed {MAX_SHARD_REBUILDS} times within {window:?}");
            return self.give_up(shard, &problem);
        }
        recent.push_back(Instant::now());
        let (reader, checkpoints) = (Arc::clone(&self.reader), Arc::clone(&self.checkpoints));
        let (shards, myself) = (self.parts.options.shards, myself.clone());
        let (poison, known, clock) =
            (Arc::clone(&self.parts.poison), Arc::clone(&self.parts.known), Arc::clone(&self.parts.clock));
        tokio::spawn(async move {
            // What it handed over before it failed is in the hands of the writer, whose callers get their answers.
            // The writer always comes to it, or the journal is poisoned and no more than what is durable counts.
            while shared.backlog.bytes() > 0 && poison.get().is_none() {
                tokio::time::sleep(BACKLOG_POLL).await;
            }
            let recovered = blocking::run(move || {
                let recovered = recover_audited(shard, shards, reader.as_ref(), checkpoints.as_ref());
                let recovered = recovered.map_err(|error| error.to_string())?;
                known.add_departed(recovered.departed, clock.now());
                Ok(recovered.state)
            });
            let rebuilt = recovered.await.unwrap_or_else(|error| Err(error.to_string()));
            drop(myself.cast(SupervisorMessage::Rebuilt(shard, Box::new(rebuilt))));
        });
    }

    /// A shard that can't be rebuilt takes no more commands; its callers learn that the outcome is unknown.
    fn give_up(&self, shard: ShardId, problem: &str) {
        tracing::error!(%shard, problem, "the shard can't be rebuilt; restart the server");
        let shared = &self.parts.shards[shard.index()];
        shared.failed.store(true, Ordering::Release);
        shared.rebuilding.store(false, Ordering::Release);
        shared.gate.close();
        shared.drop_mail(&self.parts.directory);
    }
}
