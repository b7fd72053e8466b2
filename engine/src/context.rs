//! What every part of the running engine shares.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::check::Checks;
use crate::checkpointer::CheckpointMessage;
use crate::clock::Clock;
use crate::command::Command;
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::engine::EngineOptions;
use crate::replier::Replier;
use crate::spanning::Chore;
use crate::sync::Inbox;
use crate::views::Views;
use crate::writer::WriterMessage;

/// Runs before a command is decided; tests use it to make a shard panic.
pub(crate) type BeforeDecide = Arc<dyn Fn(&Command) + Send + Sync>;

/// Runs when a step of a move, of a flush or of an order over several places is reached; tests make a crash of it.
pub(crate) type Failpoint = Arc<dyn Fn(&'static str) + Send + Sync>;

pub(crate) struct Context {
    pub options: EngineOptions,
    pub clock: Arc<dyn Clock>,
    pub directory: Directory,
    pub views: Views,
    /// The queue of the journal writer.
    pub inbox: Inbox<WriterMessage>,
    /// The queue of the checkpoint thread; bounded by `MAX_WAITING_SLICES`.
    pub checkpointer: mpsc::Sender<CheckpointMessage>,
    /// The way of all answers that had to wait for the journal.
    pub replier: Replier,
    /// The queue of the keeper; bounded by `MAX_WAITING_CHORES`.
    pub chores: mpsc::Sender<Chore>,
    /// Why the journal can't be written any more. Set once, by the writer.
    pub poison: OnceLock<String>,
    /// The backlog on the disk has reached its cap: no new reservations.
    pub journal_full: AtomicBool,
    /// There is a store behind the shards: what a shard does not know may be there.
    pub with_store: bool,
    /// For those who follow with the newest levels.
    pub dirty: Option<Arc<Dirty>>,
    /// With an order service: what is due is asked about before it expires.
    pub checks: Option<Checks>,
    pub before_decide: Option<BeforeDecide>,
    pub failpoint: Option<Failpoint>,
}

impl Context {
    /// A step is reached that a crash must not harm.
    pub fn failpoint(&self, step: &'static str) {
        if let Some(failpoint) = &self.failpoint {
            failpoint(step);
        }
    }
}
