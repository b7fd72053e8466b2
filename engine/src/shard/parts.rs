//! What a running shard holds of the rest of the engine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;

use crate::base::clock::Clock;
use crate::base::failpoints::Failpoints;
use crate::base::ids::Epoch;
use crate::base::sync::Inbox;
use crate::contract::checkpoint::Identity;
use crate::contract::counters::CrossShardCounters;
use crate::machine::inner::InnerCommand;
use crate::services::checkpointer::CheckpointMessage;
use crate::services::checks::Checks;
use crate::services::directory::Directory;
use crate::services::fence::Fence;
use crate::services::flusher::Flusher;
use crate::services::known::Known;
use crate::services::loader::Loader;
use crate::services::retention::Retention;
use crate::services::shared::ShardShared;
use crate::services::views::Views;
use crate::services::writer::{Poison, WriterMessage};

/// Runs before a command is decided; tests use it to make a shard panic.
pub(crate) type BeforeDecide = Arc<dyn Fn(&InnerCommand) + Send + Sync>;

/// How a shard works; bounds of the whole engine are divided by its shards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardOptions {
    /// Shards of the engine.
    pub shards: u16,
    pub remember_seconds: u64,
    pub remember_max: usize,
    pub max_resident_skus: usize,
    pub max_bytes: u64,
    pub checkpoint_events: u64,
    /// Bytes logged after which a checkpoint is due, whatever the events.
    pub checkpoint_bytes: u64,
    pub load_wait_ms: u64,
}

/// See the top of the file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ShardParts {
    pub options: ShardOptions,
    pub clock: Arc<dyn Clock>,
    pub identity: Arc<dyn Identity>,
    pub fence: Arc<Fence>,
    /// All shards: how far each has let go.
    pub shards: Arc<[Arc<ShardShared>]>,
    pub directory: Arc<Directory>,
    pub known: Arc<Known>,
    pub loader: Arc<Loader>,
    pub flusher: Arc<Flusher>,
    pub retention: Retention,
    /// Only what was recovered is published by a shard itself.
    pub views: Arc<Views>,
    /// The queue of the journal writer.
    pub inbox: Arc<Inbox<WriterMessage>>,
    pub poison: Poison,
    /// The queue of the checkpoint thread; bounded by `MAX_WAITING_SLICES`.
    pub checkpointer: mpsc::Sender<CheckpointMessage>,
    /// Holds of all shards of which they have not heard since a start.
    pub unsettled: Arc<AtomicU64>,
    /// The number of the next attempt to hold units, of whichever shard.
    pub attempts: Arc<AtomicU64>,
    /// Counts of orders over several shards.
    pub cross_shard: Arc<CrossShardCounters>,
    /// With an order service: what is due is asked about before it expires.
    pub checks: Option<Arc<Checks>>,
    pub before_decide: Option<BeforeDecide>,
    pub failpoints: Failpoints,
}

impl ShardParts {
    /// The epoch in which events are logged: that of the store, or, while it was not taken yet, the last one of the
    /// directory.
    pub fn epoch(&self) -> Epoch {
        match self.fence.epoch() {
            Epoch::ZERO => self.identity.epoch(),
            epoch => epoch,
        }
    }
}
