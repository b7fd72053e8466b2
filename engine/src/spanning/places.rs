//! Commands for the branches of an order: each goes to where its SKU is just now, all at the same time; those that met a move
//! are sent again to where the SKU went.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Step, is_transient, is_unknown};
use crate::checkpoint::OrderImage;
use crate::command::{Action, Command, Place};
use crate::home::BranchCommand;
use crate::hub::{How, Hub, Side, add, next_envelope, refusal_of};
use crate::ids::{ShardId, shard_of};
use crate::limits::{MAX_LOOK_PAUSE_MILLIS, MAX_UNKNOWN_TRIES};
use crate::outcome::{Outcome, Refusal};
use crate::placement::Backoff;
use crate::placement::routes::{Look, Over};
use crate::store::ColdOutcome;

/// How long branches are told the same.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// A caller waits for units: a place that can't be asked is a refusal. Moves are waited for until then, and unknown outcomes are cleared
    /// up within a bound.
    Attempt(Instant),
    /// It is decided already: told until then, whatever a place says that is not final.
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
    outcome: Option<Outcome>,
    /// It is to be sent again.
    open: bool,
    /// An earlier try may have taken effect.
    unsure: u32,
}

/// Answers on their way from one place.
struct Asked {
    which: Vec<usize>,
    /// Moves of the SKUs when they were looked up.
    moves: Vec<u64>,
    shard: ShardId,
    answers: Result<oneshot::Receiver<Vec<Outcome>>, Refusal>,
}

impl Hub {
    /// Has branches carry out commands. Answers in the same order; one that is not final is the last that was heard.
    pub(super) async fn tell(&self, commands: &[BranchCommand], step: Step, patience: Patience) -> Vec<Outcome> {
        let telling = |branch| Telling { branch, outcome: None, open: true, unsure: 0 };
        let mut all: Vec<Telling<'_>> = commands.iter().map(telling).collect();
        let mut tries = 0_u32;
        let mut backoff = Backoff::default();
        loop {
            let over = self.tell_once(&mut all, step, patience).await;
            let open = all.iter().any(|one| one.open);
            let stops = tries >= 2 && self.spanning.is_stopping();
            if !open || stops || Instant::now() >= patience.deadline() {
                break;
            }
            match over {
                // The move goes on only when the store is back: a caller is not to wait for that.
                Some(_) if matches!(patience, Patience::Attempt(_)) && self.side.as_ref().is_some_and(Side::is_down) => {
                    all.iter_mut().filter(|one| one.open).for_each(|one| one.give_up(Refusal::StoreUnavailable));
                    break;
                }
                Some(mut over) => drop(timeout_at(patience.deadline(), over.changed()).await),
                None if tries < 2 => tokio::task::yield_now().await,
                None => {
                    let pause = match patience {
                        Patience::Attempt(_) => Duration::from_millis((1 << tries.min(16)).min(MAX_LOOK_PAUSE_MILLIS)),
                        Patience::Firm(_) => backoff.next(),
                    };
                    drop(timeout_at(patience.deadline(), sleep(pause)).await);
                }
            }
            tries += 1;
        }
        let late = || self.side.as_ref().map_or(Refusal::Overloaded, Side::late);
        all.into_iter()
            .map(|one| match one.outcome {
                Some(Err(Refusal::Moved(_))) | None => Err(if one.unsure > 0 { Refusal::OutcomeUnknown } else { late() }),
                // What says that nothing happened speaks of the last try alone.
                Some(Err(refusal)) if one.unsure > 0 && is_transient(&refusal) && !is_unknown(&refusal) => {
                    Err(Refusal::OutcomeUnknown)
                }
                Some(outcome) => outcome,
            })
            .collect()
    }

    /// Sends what is open, and takes the answers. The end of a move, if something waits for one.
    async fn tell_once(&self, all: &mut [Telling<'_>], step: Step, patience: Patience) -> Option<Over> {
        let (mut hot, mut cold, mut over) = (BTreeMap::<ShardId, (Vec<usize>, Vec<u64>)>::new(), Vec::new(), None);
        for (index, one) in all.iter_mut().enumerate().filter(|(_, one)| one.open) {
            let sku_id = &one.branch.sku_id;
            let (shard, moves) = match &self.side {
                None => (shard_of(sku_id, self.context.options.shards), 0),
                Some(side) => {
                    // The count first: who sees an old place sees an old count.
                    let moves = side.routes.moves([sku_id]);
                    match side.routes.look(sku_id) {
                        Look::Hot(shard) => (shard, moves),
                        Look::Cold => {
                            cold.push(index);
                            continue;
                        }
                        Look::Moving(moving) => {
                            over = Some(moving);
                            continue;
                        }
                        Look::Lost => {
                            one.heard(Err(Refusal::OwnedElsewhere { sku_id: sku_id.clone() }), patience);
                            continue;
                        }
                    }
                }
            };
            let (which, counts) = hot.entry(shard).or_default();
            which.push(index);
            counts.push(moves);
        }
        let mut asked = Vec::with_capacity(hot.len());
        for (shard, (which, moves)) in hot {
            let commands: Vec<Command> = which.iter().map(|index| all[*index].branch.command.clone()).collect();
            let (mut which, mut moves) = (which.into_iter(), moves.into_iter());
            let mut commands = commands.into_iter().peekable();
            while commands.peek().is_some() {
                let some = next_envelope(&mut commands);
                some.iter().for_each(|_| self.before(step));
                let which: Vec<usize> = which.by_ref().take(some.len()).collect();
                let moves = moves.by_ref().take(some.len()).collect();
                asked.push(Asked { which, moves, shard, answers: self.post_branches(shard, some) });
            }
        }
        let of_shards = async {
            let mut heard = Vec::with_capacity(asked.len());
            for Asked { which, moves, shard, answers } in asked {
                let answers = match answers {
                    Ok(answers) => answers.await.map_err(|_| Refusal::ShardRestarted),
                    Err(refusal) => Err(refusal),
                };
                heard.push((which, moves, shard, answers));
            }
            heard
        };
        let of_store = async {
            let Some(side) = self.side.as_ref().filter(|_| !cold.is_empty()) else { return Ok(Vec::new()) };
            let commands: Vec<Command> = cold.iter().map(|index| all[*index].branch.command.clone()).collect();
            if !commands.iter().all(|command| matches!(command.action, Action::Reserve(_))) {
                // What is asked of a branch names no SKU: that one has left its shard and is not here yet, the store would not see.
                self.until_shed(side, patience.deadline()).await?;
            }
            commands.iter().for_each(|_| self.before(step));
            self.ask_store_all(side, &commands).await
        };
        let (heard, stored) = tokio::join!(of_shards, of_store);
        for (which, moves, shard, answers) in heard {
            match answers {
                Ok(answers) => {
                    for ((index, moves), outcome) in which.into_iter().zip(moves).zip(answers) {
                        let outcome = self.unless_away(shard, all[index].branch, moves, outcome).await;
                        all[index].heard(outcome, patience);
                        self.after(step);
                    }
                }
                Err(refusal) => which.into_iter().for_each(|index| all[index].heard(Err(refusal.clone()), patience)),
            }
        }
        match stored {
            Ok(answers) => {
                for (index, answer) in cold.into_iter().zip(answers) {
                    let outcome = self.stored_outcome(all[index].branch, answer);
                    all[index].heard(outcome, patience);
                    self.after(step);
                }
            }
            Err(refusal) => cold.into_iter().for_each(|index| all[index].heard(Err(refusal.clone()), patience)),
        }
        over
    }

    /// What a shard says, unless the SKU moved since it was looked up, or the branch has ended so long ago that it is in the store alone:
    /// then the shard takes it back and is asked again.
    async fn unless_away(&self, shard: ShardId, branch: &BranchCommand, moves: u64, outcome: Outcome) -> Outcome {
        let Some(side) = &self.side else { return outcome };
        let again = || Err(Refusal::Moved(Box::new(branch.command.clone())));
        match &outcome {
            Err(Refusal::UnknownSku { .. } | Refusal::UnknownOrder { .. }) if side.routes.moves([&branch.sku_id]) != moves => again(),
            Err(Refusal::UnknownOrder { order_no }) => {
                let _lock = side.lock_of(order_no).lock().await;
                match side.noted(side.store.order(order_no).await) {
                    Ok(None) => outcome,
                    Ok(Some(stored)) => match self.take_back_branch(shard, stored.image).await {
                        Ok(()) => again(),
                        Err(refusal) => Err(refusal),
                    },
                    Err(error) => Err(refusal_of(error)),
                }
            }
            _ => outcome,
        }
    }

    async fn take_back_branch(&self, shard: ShardId, order: OrderImage) -> Result<(), Refusal> {
        let place = Place::Orders { sku_id: None, orders: vec![order], requests: Vec::new() };
        match self.ask(shard, Action::Place(Box::new(place)).into(), How::Exact).await {
            Ok(_) | Err(Refusal::Moved(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// What the store says.
    fn stored_outcome(&self, branch: &BranchCommand, answer: ColdOutcome) -> Outcome {
        let sku_id = &branch.sku_id;
        match answer {
            ColdOutcome::Done { outcome, .. } => outcome,
            ColdOutcome::Elsewhere(owner) if self.side().server != owner.server => {
                Err(Refusal::OwnedElsewhere { sku_id: sku_id.clone() })
            }
            ColdOutcome::Elsewhere(_) => {
                if matches!(self.side().routes.look(sku_id), Look::Cold) {
                    self.reclaim(sku_id);
                }
                Err(Refusal::Moved(Box::new(branch.command.clone())))
            }
            ColdOutcome::Home(_) => {
                tracing::error!(%sku_id, "the store takes a branch of an order for an order over several places");
                Err(Refusal::StoreUnavailable)
            }
        }
    }

    /// Has the store carry out commands of branches of one order, if there is room.
    async fn ask_store_all(&self, side: &Side, commands: &[Command]) -> Result<Vec<ColdOutcome>, Refusal> {
        let Ok(_permit) = side.gate.try_acquire() else {
            add(&side.counters.cold_overloaded, 1);
            return Err(Refusal::Overloaded);
        };
        add(&side.counters.cold_commands, commands.len() as u64);
        if self.context.options.store.promotion.promote {
            commands.iter().for_each(|command| side.auto.note(command));
        }
        let answers = side.noted(side.store.submit_all(commands, self.context.clock.now()).await).map_err(refusal_of)?;
        if let Some(dirty) = &self.context.dirty {
            for answer in &answers {
                if let ColdOutcome::Done { changed, .. } = answer {
                    changed.iter().for_each(|stock| dirty.mark(stock.clone()));
                }
            }
        }
        Ok(answers)
    }
}

impl Telling<'_> {
    /// Takes note of an answer and of whether it is the last.
    fn heard(&mut self, outcome: Outcome, patience: Patience) {
        self.open = match (&outcome, patience) {
            (Ok(_), _) => false,
            (Err(Refusal::Moved(_)), _) => true,
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

    fn give_up(&mut self, refusal: Refusal) {
        self.open = false;
        self.outcome = Some(Err(refusal));
    }
}
