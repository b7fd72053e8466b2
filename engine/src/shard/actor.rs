//! The ractor actor around a shard. Its only message is the wake-up; all work is in [`super::turn`].

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::shared::{ShardMessage, ShardShared};
use super::turn::Shard;
use crate::context::Context;
use crate::state::State;

pub(crate) struct ShardActor;

/// What a shard actor is started with.
pub(crate) struct ShardArguments {
    pub context: Arc<Context>,
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
        ShardArguments { context, shared, state }: ShardArguments,
    ) -> Result<Shard, ActorProcessingErr> {
        Ok(Shard::new(context, shared, state))
    }

    async fn handle(
        &self,
        _myself: ActorRef<ShardMessage>,
        ShardMessage::Wake: ShardMessage,
        shard: &mut Shard,
    ) -> Result<(), ActorProcessingErr> {
        if shard.turn() {
            // Back to the end of the runtime's queue: other tasks run between two turns.
            tokio::task::yield_now().await;
            shard.wake();
        }
        Ok(())
    }
}
