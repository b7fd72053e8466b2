//! The checkpoint of a shard: a slice a turn, beside its commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shard;
use crate::base::ids::Lsn;
use crate::base::limits::CHECKPOINT_ENTRIES_PER_TURN;
use crate::contract::checkpoint::CheckpointEnd;
use crate::machine::state::Capture;
use crate::services::checkpointer::CheckpointMessage;

/// The checkpoint of a shard, as it comes along.
pub(super) enum Checkpointing {
    None,
    Slices {
        at: Capture,
    },
    /// All slices are written; it counts when the journal is durable up to its end.
    Written {
        end: CheckpointEnd,
    },
}

impl Shard {
    /// A slice of the running checkpoint, or the begin of one that is due. `true`: go on at once.
    pub(super) fn checkpoint(&mut self) -> bool {
        let messages = &self.parts.checkpointer;
        match &mut self.checkpoint {
            Checkpointing::None => {
                let begin = self.state.applied();
                // The place first: what is due or asked for stays so until there is one.
                let Ok(place) = messages.try_reserve() else { return false };
                let Some(asked) = self.checkpoint_due(begin) else { return false };
                place.send(CheckpointMessage::Begin { shard: self.shared.id, begin, asked });
                self.logged_bytes = 0;
                self.checkpoint = Checkpointing::Slices { at: Capture::default() };
                true
            }
            Checkpointing::Slices { at } => {
                // A full queue: the disk is slower than we are. The next turn looks again; a tick is soon enough.
                let Ok(place) = messages.try_reserve() else { return false };
                match self.state.capture(at, CHECKPOINT_ENTRIES_PER_TURN) {
                    Some(images) => place.send(CheckpointMessage::Slice { shard: self.shared.id, images }),
                    None => {
                        let end = CheckpointEnd {
                            end: self.state.applied(),
                            time: self.state.time(),
                            departed: self.state.departed(),
                        };
                        self.checkpoint = Checkpointing::Written { end };
                    }
                }
                true
            }
            Checkpointing::Written { end } => {
                if self.shared.durable_lsn() < end.end {
                    return false;
                }
                let end = *end;
                if let Ok(place) = messages.try_reserve() {
                    place.send(CheckpointMessage::End { shard: Arc::clone(&self.shared), end });
                    self.checkpoint = Checkpointing::None;
                }
                false
            }
        }
    }

    /// Whether to begin a checkpoint; `Some(true)` when it was asked for.
    fn checkpoint_due(&self, now_at: Lsn) -> Option<bool> {
        let counters = &self.shared.counters;
        let events = now_at.0.saturating_sub(self.shared.checkpoint_begun.load(Ordering::Relaxed));
        // A large state is written less often, so that checkpoints never write much more than the journal does.
        let sizes = self.state.sizes();
        let due = self.parts.options.checkpoint_events.max((sizes.orders + sizes.stocks) as u64);
        let is_due =
            events > 0 && (events >= due || self.logged_bytes >= self.parts.options.checkpoint_bytes);
        // One that was begun and failed can be asked for again.
        let asked =
            self.shared.take_asked_checkpoint() && now_at.0 > counters.checkpoint.load(Ordering::Relaxed);
        if !is_due && !asked {
            return None;
        }
        self.shared.checkpoint_begun.store(now_at.0, Ordering::Relaxed);
        Some(!is_due)
    }
}
