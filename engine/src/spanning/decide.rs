//! What the home of an order answers: decisions, which are carried to the branches before the caller is told, and
//! late payments, whose units are held first.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::carry::with_serials;
use super::places::Patience;
use super::{Entered, STEP_DECIDE, STEP_LATE, STEP_LATE_HOLD, is_unknown};
use crate::command::{Action, Confirm, Line, Lines};
use crate::home::attempt::{Judged, branches_of_late, judge_late};
use crate::home::{Errand, HeldLine, HomeStep};
use crate::ids::{OrderNo, ShardId};
use crate::inner::{InnerAnswer, InnerCommand, InnerOutcome};
use crate::limits::{CARRY_WAIT_MILLIS, MAX_LATE_TRIES};
use crate::outcome::{Answer, Effect, OrderView, Outcome, Refusal};
use crate::router::Router;

impl Router {
    /// A command of an order that is known to lie in several places is about to be sent to its home.
    pub fn before_decision(&self, command: &InnerCommand) {
        if self.failpoints.is_armed()
            && command.order_no().is_some_and(|order_no| self.directory.spans(order_no))
        {
            self.before(STEP_DECIDE);
        }
    }

    /// Makes of what a place answered what the caller is told.
    pub async fn conclude(&self, outcome: InnerOutcome) -> Outcome {
        match outcome? {
            InnerAnswer::Public(answer) => Ok(answer),
            InnerAnswer::Decided { order, effect, errands } => {
                self.after(STEP_DECIDE);
                self.carry_decision(order, effect, errands).await
            }
            InnerAnswer::HoldFirst { confirm, lines } => self.confirm_late(confirm, lines).await,
        }
    }

    /// Where the home of an order is.
    pub(super) fn home_of(&self, order_no: &OrderNo) -> ShardId {
        self.shard_of_order(order_no)
    }

    /// Carries a decision to the branches and tells the caller, who waits for a while.
    async fn carry_decision(&self, order: OrderView, effect: Effect, errands: Vec<Errand>) -> Outcome {
        let decided = Answer::Order { order: order.clone(), effect };
        let (to, answer) = oneshot::channel();
        // It is decided: no place is no reason to refuse. Then the keeper does it, if it has room.
        let permit = self.spanning.permit().ok();
        if permit.is_none() && self.chores.try_send(super::Chore::Carry(order.order_no.clone())).is_ok() {
            return Ok(decided);
        }
        let router = self.arc();
        let began = self.spanning.spawn(async move {
            let _permit = permit;
            let entered = router.spanning.enter(&order.order_no);
            let mut through = entered.lock().await;
            router.carry_and_tell(&entered, order, effect, &errands, &mut through, to).await;
        });
        if !began {
            // The engine stops: the home has it in its journal, and the next start goes on with it.
            return Ok(decided);
        }
        match timeout(Duration::from_millis(CARRY_WAIT_MILLIS), answer).await {
            Ok(Ok(outcome)) => outcome,
            _ => Ok(decided),
        }
    }

    /// The lock of the order is held.
    async fn carry_and_tell(
        &self,
        entered: &Entered<'_>,
        order: OrderView,
        effect: Effect,
        errands: &[Errand],
        through: &mut u64,
        to: oneshot::Sender<Outcome>,
    ) {
        let home = self.home_of(&order.order_no);
        let carried = self.carry(errands, through).await;
        // Into the home's queue before the caller is told, so that a caller reads there what it was told.
        let reported = self.report_carried(home, entered, &carried, &order.lines);
        let order = if carried.skipped { self.with_known_serials(home, order).await } else { order };
        drop(to.send(Ok(Answer::Order { order: with_serials(order, &carried.serials), effect })));
        let is_reported = self.is_reported(reported).await;
        if !(is_reported && carried.all) {
            self.leave_to_keeper(entered).await;
        }
    }

    /// Somebody else carried the decision meanwhile: the home knows what the branches gave.
    async fn with_known_serials(&self, home: ShardId, order: OrderView) -> OrderView {
        let read = self.ask(home, Action::GetOrder(order.order_no.clone()).into()).await;
        let Ok(InnerAnswer::Public(Answer::Order { order: known, .. })) = read else { return order };
        let mut order = order;
        for (line, known) in order.lines.iter_mut().zip(known.lines) {
            line.serials = known.serials;
        }
        order
    }

    async fn confirm_late(&self, confirm: Confirm, lines: Lines) -> Outcome {
        let permit = self.spanning.permit()?;
        let (to, answer) = oneshot::channel();
        let router = self.arc();
        let began = self.spanning.spawn(async move {
            let _permit = permit;
            router.hold_and_confirm(confirm, lines, to).await;
        });
        if !began {
            return Err(Refusal::Overloaded);
        }
        answer.await.unwrap_or(Err(Refusal::ShardRestarted))
    }

    /// Holds the units that a late payment needs and confirms with them.
    async fn hold_and_confirm(&self, confirm: Confirm, mut lines: Lines, to: oneshot::Sender<Outcome>) {
        let deadline = Instant::now() + self.attempt_wait;
        let order_no = confirm.order_no.clone();
        let entered = self.spanning.enter(&order_no);
        let mut through = entered.lock().await;
        // Units that an expiry or release just gives back may be the ones that are needed.
        let home = self.home_of(&order_no);
        if let Ok(errands) = self.pending(home, &order_no).await
            && !errands.is_empty()
        {
            self.carry_in_background(home, &entered, &errands, &mut through).await;
        }
        for _ in 0..MAX_LATE_TRIES {
            let attempt = entered.attempt();
            let branches = branches_of_late(&order_no, &lines, attempt.id);
            let answers = self.tell(&branches, STEP_LATE_HOLD, Patience::Attempt(deadline)).await;
            let held = match judge_late(&order_no, &lines, attempt.id, &answers) {
                Judged::Held(held) => held,
                Judged::Refused { refusal, releases } => {
                    self.abort(&releases).await;
                    drop(to.send(Err(refusal)));
                    return;
                }
            };
            let step = HomeStep::Late {
                confirm: confirm.clone(),
                attempt: attempt.id,
                lines: as_lines(&held, &lines),
            };
            self.before(STEP_LATE);
            let outcome = self.ask(home, step.into()).await;
            self.after(STEP_LATE);
            match outcome {
                Ok(InnerAnswer::Decided { order, effect, errands }) => {
                    if effect == Effect::Replayed {
                        self.clear_up(home, &attempt, &entered, &branches).await;
                    }
                    return self.carry_and_tell(&entered, order, effect, &errands, &mut through, to).await;
                }
                // By now it needs other units.
                Ok(InnerAnswer::HoldFirst { lines: other, .. }) => {
                    self.clear_up(home, &attempt, &entered, &branches).await;
                    lines = other;
                }
                Err(refusal) if is_unknown(&refusal) => {
                    drop(to.send(Err(refusal)));
                    return self.clear_up(home, &attempt, &entered, &branches).await;
                }
                Ok(InnerAnswer::Public(answer)) => {
                    self.clear_up(home, &attempt, &entered, &branches).await;
                    drop(to.send(Ok(answer)));
                    return;
                }
                Err(refusal) => {
                    self.clear_up(home, &attempt, &entered, &branches).await;
                    drop(to.send(Err(refusal)));
                    return;
                }
            }
        }
        drop(to.send(Err(Refusal::Overloaded)));
    }
}

/// What is held, as lines.
fn as_lines(held: &[HeldLine], wanted: &Lines) -> Lines {
    let line = |held: &HeldLine| Line {
        sku_id: held.sku_id.clone(),
        warehouse_id: held.warehouse_id,
        quantity: held.held,
    };
    Lines::new(held.iter().filter(|held| held.held > 0).map(line)).unwrap_or_else(|_| wanted.clone())
}
