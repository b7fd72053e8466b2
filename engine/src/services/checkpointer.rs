//! The checkpoint thread: writes the slices that shards send, and lets the journal be trimmed when a checkpoint is
//! complete.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use crate::base::blocking::Loop;
use crate::base::failpoints::Failpoints;
use crate::base::ids::{Lsn, ShardId};
use crate::base::sync::Inbox;
use crate::contract::checkpoint::{CheckpointEnd, CheckpointError, CheckpointStore, CheckpointWriter};
use crate::contract::image::Image;
use crate::services::flusher::Flusher;
use crate::services::known::Known;
use crate::services::shared::ShardShared;
use crate::services::writer::WriterMessage;

/// What a shard sends.
pub(crate) enum CheckpointMessage {
    /// A new checkpoint; `asked`: on request, not because of the number of events.
    Begin {
        shard: ShardId,
        begin: Lsn,
        asked: bool,
    },
    Slice {
        shard: ShardId,
        images: Vec<Image>,
    },
    /// All slices are sent and the journal is durable up to `end`.
    End {
        shard: Arc<ShardShared>,
        end: CheckpointEnd,
    },
    /// The engine stops; what is not finished is thrown away.
    Stop,
}

/// What the thread holds of the rest of the engine.
pub(crate) struct CheckpointParts {
    pub shards: Arc<[Arc<ShardShared>]>,
    pub inbox: Arc<Inbox<WriterMessage>>,
    /// Tells how far the journal may be trimmed.
    pub flusher: Arc<Flusher>,
    /// Saved before a checkpoint is finished, so that what left memory before it is known after it.
    pub known: Arc<Known>,
    pub failpoints: Failpoints,
}

/// A checkpoint under way. `None` once it failed: the shard goes on sending, and its next one may do better.
struct UnderWay {
    writer: Option<Box<dyn CheckpointWriter>>,
    begin: Lsn,
    asked: bool,
}

/// The loop of the thread: until it is told to stop.
pub(crate) struct Checkpointer {
    store: Arc<dyn CheckpointStore>,
    parts: CheckpointParts,
    messages: mpsc::Receiver<CheckpointMessage>,
    /// What came last and is not carried out yet.
    message: Option<CheckpointMessage>,
    under_way: HashMap<ShardId, UnderWay>,
}

impl Checkpointer {
    pub fn new(
        store: Arc<dyn CheckpointStore>,
        parts: CheckpointParts,
        messages: mpsc::Receiver<CheckpointMessage>,
    ) -> Self {
        Self { store, parts, messages, message: None, under_way: HashMap::new() }
    }

    fn came(&mut self, message: Option<CheckpointMessage>) -> bool {
        self.message = message.filter(|message| !matches!(message, CheckpointMessage::Stop));
        self.message.is_some()
    }
}

impl Loop for Checkpointer {
    fn wait(&mut self) -> bool {
        let message = self.messages.blocking_recv();
        self.came(message)
    }

    #[cfg(feature = "testing")]
    fn poll_wait(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        self.messages.poll_recv(context).map(|message| self.came(message))
    }

    fn step(&mut self) {
        let Self { store, parts, under_way, message, .. } = self;
        let shards = &parts.shards;
        let Some(message) = message.take() else { return };
        match message {
            CheckpointMessage::Stop => {}
            CheckpointMessage::Begin { shard, begin, asked } => {
                let writer =
                    store.create(shard, begin).map_err(|error| note_failure(shards, shard, &error)).ok();
                under_way.insert(shard, UnderWay { writer, begin, asked });
            }
            CheckpointMessage::Slice { shard, images } => {
                let Some(entry) = under_way.get_mut(&shard) else { return };
                let written = entry.writer.as_mut().map_or(Ok(()), |writer| writer.write(&images));
                if let Err(error) = written {
                    note_failure(shards, shard, &error);
                    entry.writer = None;
                }
            }
            CheckpointMessage::End { shard, end } => {
                let Some(UnderWay { writer: Some(writer), begin, asked }) = under_way.remove(&shard.id)
                else {
                    return;
                };
                let failed = |problem| CheckpointError { shard: shard.id, problem };
                let finish = || {
                    let known = parts.known.save().map_err(failed)?;
                    parts.failpoints.reach("known.saved");
                    writer.finish(end, &known)?;
                    Ok(known)
                };
                match finish() {
                    Ok(known) => {
                        parts.failpoints.reach("checkpoint.finished");
                        parts.known.named(&known);
                        shard.counters.checkpoint.store(begin.0, Ordering::Relaxed);
                        finished(parts, asked);
                    }
                    Err(error) => note_failure(shards, shard.id, &error),
                }
            }
        }
    }
}

/// The journal before the checkpoints is not needed any more, as far as the store has it. A quiet shard with an old
/// checkpoint would keep whole segments from being trimmed, so a checkpoint that was due by its number of events asks
/// the others for one.
fn finished(parts: &CheckpointParts, asked: bool) {
    drop(parts.inbox.put(WriterMessage::Trim(parts.flusher.trim_marks())));
    if asked {
        return;
    }
    for shard in parts.shards.iter() {
        let counters = &shard.counters;
        if counters.applied.load(Ordering::Relaxed) > shard.checkpoint_begun.load(Ordering::Relaxed) {
            shard.ask_checkpoint();
        }
    }
}

fn note_failure(shards: &[Arc<ShardShared>], shard: ShardId, error: &CheckpointError) {
    // Not fatal: the one before still stands, and the journal keeps everything since.
    tracing::error!(%error, "a checkpoint failed");
    if let Some(shared) = shards.get(shard.index()) {
        shared.counters.checkpoint_failures.fetch_add(1, Ordering::Relaxed);
    }
}
