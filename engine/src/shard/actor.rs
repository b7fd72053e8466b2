//! The ractor actor around a shard. Its only message is the wake-up; all work is in [`super::turn`].

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::parts::ShardParts;
use super::turn::Shard;
#[cfg(feature = "testing")]
use crate::base::blocking::simulation;
use crate::machine::state::State;
use crate::services::shared::{ShardMessage, ShardShared};

pub(crate) struct ShardActor;

/// What a shard actor is started with.
pub(crate) struct ShardArguments {
    pub parts: ShardParts,
    pub shared: Arc<ShardShared>,
    pub state: State,
}

impl Actor for ShardActor {
    type Msg = ShardMessage;
    type State = Shard;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<ShardMessage>,
        ShardArguments { parts, shared, state }: ShardArguments,
    ) -> Result<Shard, ActorProcessingErr> {
        Ok(Shard::new(parts, shared, state))
    }

    async fn handle(
        &self,
        _myself: ActorRef<ShardMessage>,
        ShardMessage::Wake: ShardMessage,
        shard: &mut Shard,
    ) -> Result<(), ActorProcessingErr> {
        // To the end of the runtime's queue: tasks that are ready to run put their commands into the mailbox first.
        // (The runtime runs a task that was just woken before all others, which would make turns of one command.)
        // When nothing else is ready this returns at once, so nobody waits for a batch to fill.
        tokio::task::yield_now().await;
        #[cfg(feature = "testing")]
        simulation::pause(simulation::TURN).await;
        if shard.turn() {
            shard.wake();
        }
        Ok(())
    }
}
