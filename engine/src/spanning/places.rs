//! Commands for the branches of an order: each goes to the shard of its SKU, all at the same time; those without a
//! final answer are sent again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Step, is_transient, is_unknown};
use crate::backoff::Backoff;
use crate::home::BranchCommand;
use crate::ids::{ShardId, shard_of};
use crate::inner::{InnerCommand, InnerOutcome};
use crate::limits::{MAX_LOOK_PAUSE_MILLIS, MAX_UNKNOWN_TRIES};
use crate::outcome::Refusal;
use crate::router::{Router, next_envelope};
use crate::shard::shared::ShardAnswer;

/// How long branches are told the same.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// A caller waits for units: a shard that can't be asked is a refusal. Unknown outcomes are cleared up within a
    /// bound, until then.
    Attempt(Instant),
    /// It is decided already: told until then, whatever a shard says that is not final.
    Firm(Instant),
}

impl Patience {
    fn deadline(self) -> Instant {
        match self {
            Self::Attempt(deadline) | Self::Firm(deadline) => deadline,
        }
    }
}

/// A command and what became of it.
struct Telling<'a> {
    branch: &'a BranchCommand,
    outcome: Option<InnerOutcome>,
    /// It is to be sent again.
    open: bool,
    /// An earlier try may have taken effect.
    unsure: u32,
}

/// Answers on their way from one shard.
struct Asked {
    which: Vec<usize>,
    answers: Result<oneshot::Receiver<Vec<ShardAnswer>>, Refusal>,
}

impl Router {
    /// Has branches carry out commands. Answers in the same order; one that is not final is the last that was heard.
    pub(super) async fn tell(
        &self,
        commands: &[BranchCommand],
        step: Step,
        patience: Patience,
    ) -> Vec<InnerOutcome> {
        let telling = |branch| Telling { branch, outcome: None, open: true, unsure: 0 };
        let mut all: Vec<Telling<'_>> = commands.iter().map(telling).collect();
        let mut tries = 0_u32;
        let mut backoff = Backoff::default();
        loop {
            self.tell_once(&mut all, step, patience).await;
            let open = all.iter().any(|one| one.open);
            let stops = tries >= 2 && self.spanning.is_stopping();
            if !open || stops || Instant::now() >= patience.deadline() {
                break;
            }
            if tries < 2 {
                tokio::task::yield_now().await;
            } else {
                let pause = match patience {
                    Patience::Attempt(_) => {
                        Duration::from_millis((1 << tries.min(16)).min(MAX_LOOK_PAUSE_MILLIS))
                    }
                    Patience::Firm(_) => backoff.next(),
                };
                drop(timeout_at(patience.deadline(), sleep(pause)).await);
            }
            tries += 1;
        }
        all.into_iter()
            .map(|one| match one.outcome {
                // What says that nothing happened speaks of the last try alone.
                Some(Err(refusal)) if one.unsure > 0 && is_transient(&refusal) && !is_unknown(&refusal) => {
                    Err(Refusal::ShardRestarted)
                }
                Some(outcome) => outcome,
                None => Err(Refusal::Overloaded),
            })
            .collect()
    }

    /// Sends what is open, and takes the answers.
    async fn tell_once(&self, all: &mut [Telling<'_>], step: Step, patience: Patience) {
        let mut by_shard: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (index, one) in all.iter().enumerate().filter(|(_, one)| one.open) {
            by_shard.entry(shard_of(&one.branch.sku_id, self.shard_count())).or_default().push(index);
        }
        let mut asked = Vec::with_capacity(by_shard.len());
        for (shard, which) in by_shard {
            let commands: Vec<InnerCommand> =
                which.iter().map(|index| all[*index].branch.command.clone()).collect();
            let (mut which, mut commands) = (which.into_iter(), commands.into_iter().peekable());
            while commands.peek().is_some() {
                let some = next_envelope(&mut commands);
                some.iter().for_each(|_| self.before(step));
                let which: Vec<usize> = which.by_ref().take(some.len()).collect();
                asked.push(Asked { which, answers: self.post_branches(shard, some) });
            }
        }
        for Asked { which, answers } in asked {
            let answers = match answers {
                Ok(answers) => answers.await.map_err(|_| Refusal::ShardRestarted),
                Err(refusal) => Err(refusal),
            };
            match answers {
                Ok(answers) => {
                    for (index, answer) in which.into_iter().zip(answers) {
                        all[index].heard(outcome_of(answer), patience);
                        self.after(step);
                    }
                }
                Err(refusal) => {
                    which.into_iter().for_each(|index| all[index].heard(Err(refusal.clone()), patience))
                }
            }
        }
    }
}

/// A branch is never elsewhere than its SKU: the store does not fit.
fn outcome_of(answer: ShardAnswer) -> InnerOutcome {
    match answer {
        ShardAnswer::Outcome(outcome) => outcome,
        ShardAnswer::Elsewhere { shard, command } => {
            let order_no = command.order_no().map(crate::ids::OrderNo::of_caller);
            tracing::error!(?order_no, %shard, "the store has a branch of an order in another shard than its SKU");
            Err(Refusal::StoreUnavailable)
        }
        ShardAnswer::NotHere(_) => Err(Refusal::Overloaded),
    }
}

impl Telling<'_> {
    /// Takes note of an answer and of whether it is the last.
    fn heard(&mut self, outcome: InnerOutcome, patience: Patience) {
        self.open = match (&outcome, patience) {
            (Ok(_), _) => false,
            // Nothing is written any more until the process starts again.
            (Err(Refusal::JournalUnavailable), _) => false,
            (Err(refusal), _) if is_unknown(refusal) => {
                self.unsure += 1;
                matches!(patience, Patience::Firm(_)) || self.unsure < MAX_UNKNOWN_TRIES
            }
            (Err(refusal), Patience::Firm(_)) => is_transient(refusal),
            (Err(_), Patience::Attempt(_)) => false,
        };
        self.outcome = Some(outcome);
    }
}
