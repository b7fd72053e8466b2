//! Sends answers. A task of the runtime and not the journal writer itself: the writer goes on with the next commit
//! meanwhile, and a caller that is woken from inside the runtime goes straight into a worker's queue, without its
//! lock.

use tokio::sync::mpsc;

use crate::services::shared::{Permits, Reply};

/// Answers between which other tasks run.
const REPLIES_PER_TURN: usize = 512;

/// What may be answered: it is durable, or will never be.
pub(crate) type Answers = Vec<(Permits, Vec<Reply>)>;

/// The way to the replier. Bounded by the gates: every answer in it holds its place in one.
pub(crate) type Replier = mpsc::UnboundedSender<Option<Answers>>;

/// The body of the task: until it gets `None`.
pub(crate) async fn run(mut answers: mpsc::UnboundedReceiver<Option<Answers>>) {
    while let Some(Some(answers)) = answers.recv().await {
        for (permits, replies) in answers {
            // The places first: a caller who has its answer finds the place in the gate that it had.
            drop(permits);
            for (sent, reply) in replies.into_iter().enumerate() {
                reply.send();
                if sent % REPLIES_PER_TURN == REPLIES_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
