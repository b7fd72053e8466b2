//! A shard's state from the newest checkpoint and the journal after it. Used at start, by the supervisor when a shard
//! panicked, and by `verify`.

use crate::checkpoint::CheckpointStore;
use crate::engine::StartError;
use crate::event::Change;
use crate::ids::{Lsn, ShardId};
use crate::journal::JournalReader;
use crate::state::State;

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

/// See [`recover`].
#[derive(Debug)]
pub struct Recovered {
    /// The state at the end of the journal, audited by nobody yet.
    pub state: State,
    /// The event after which the replay began.
    pub checkpoint: Lsn,
    /// Events replayed.
    pub replayed: u64,
    /// The last event with which orders left with their SKU; or, when none was replayed, the checkpoint, before which there may
    /// have been some.
    pub shed: Lsn,
}

/// Reads a shard back.
///
/// # Errors
/// [`StartError`], with the LSN where something does not fit.
pub fn recover(
    shard: ShardId,
    shards: u16,
    journal: &dyn JournalReader,
    checkpoints: &dyn CheckpointStore,
) -> Result<Recovered, StartError> {
    let broken = |problem: String| StartError::Inconsistent { shard, problem };
    let mut state = State::new(shard, shards);
    if let Some(mut checkpoint) = checkpoints.newest(shard)? {
        state = State::restoring(shard, shards, checkpoint.begin(), checkpoint.end());
        while let Some(slice) = checkpoint.next_slice()? {
            state.restore(slice).map_err(|corruption| broken(format!("the checkpoint: {corruption}")))?;
        }
    }
    let checkpoint = state.applied();
    let mut shed = checkpoint;
    loop {
        let events = journal.read(shard, state.applied().next(), EVENTS_PER_READ)?;
        if events.is_empty() {
            break;
        }
        for (lsn, event) in &events {
            state.apply(*lsn, event).map_err(|corruption| broken(corruption.to_string()))?;
            if matches!(event.change, Change::Shed { .. }) {
                shed = *lsn;
            }
        }
    }
    state.check_exact().map_err(|corruption| broken(corruption.to_string()))?;
    let last = journal.bounds(shard).last;
    if state.applied() != last {
        // Only a journal whose newest part is gone: checkpoints are finished after their events are durable.
        return Err(broken(format!("the checkpoint goes to event {}, the journal to {last}", state.applied())));
    }
    // Nobody was told of these orders; the directory is built from what is left.
    drop(state.take_forgotten());
    // Nor are there views of these.
    drop(state.take_left());
    let replayed = state.applied().0 - checkpoint.0;
    Ok(Recovered { state, checkpoint, replayed, shed })
}

/// Recovers and audits: what the engine starts with.
///
/// # Errors
/// [`StartError`]; the first broken invariant is named.
pub fn recover_audited(
    shard: ShardId,
    shards: u16,
    journal: &dyn JournalReader,
    checkpoints: &dyn CheckpointStore,
) -> Result<Recovered, StartError> {
    let recovered = recover(shard, shards, journal, checkpoints)?;
    match recovered.state.audit().violations.first() {
        Some(violation) => Err(StartError::Inconsistent { shard, problem: violation.to_string() }),
        None => Ok(recovered),
    }
}
