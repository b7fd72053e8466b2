//! A new order over several shards: its branches are reserved, all at the same time; when all hold, its home logs it;
//! when one is refused, those that hold are released before the caller is told.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::places::Patience;
use super::{Attempt, Claim, Entered, STEP_ABORT, STEP_HOLD, STEP_HOME, is_transient, is_unknown};
use crate::backoff::Backoff;
use crate::command::{Action, Choice, Command, Release, Reserve};
use crate::home::attempt::{Judged, branches_of, judge_reserve};
use crate::home::{Asked, BranchCommand, HomeStep};
use crate::ids::{ShardId, SkuId, shard_of_order};
use crate::inner::{InnerAnswer, InnerCommand, InnerOutcome};
use crate::limits::{ABORT_WAIT_MILLIS, MAX_ABORT_TRIES, MAX_HINT_LOOKS, MAX_LOOK_PAUSE_MILLIS};
use crate::outcome::{Answer, Effect, Refusal};
use crate::router::{Router, one_shard};
use crate::shard::shared::ShardAnswer;
use crate::state::prefer_for_all;
use crate::store_link::add;

/// What a look at an order that is to be made finds.
enum Looked {
    Done(ShardAnswer),
    /// Another request for the same order is under way elsewhere.
    Again,
}

impl Router {
    /// Carries out a reserve whose lines lie in several shards, or that meets one for the same order whose lines do.
    pub async fn span(&self, command: InnerCommand) -> ShardAnswer {
        let permit = match self.spanning.permit() {
            Ok(permit) => permit,
            Err(refusal) => return ShardAnswer::refused(refusal),
        };
        let (to, answer) = oneshot::channel();
        let router = self.arc();
        let began = self.spanning.spawn(async move {
            let _permit = permit;
            router.reserve_over_shards(command, to).await;
        });
        if !began {
            return ShardAnswer::refused(Refusal::Overloaded);
        }
        // Gone without an answer: it was ended by the stop of the engine, or failed.
        answer.await.unwrap_or_else(|_| ShardAnswer::refused(Refusal::ShardRestarted))
    }

    async fn reserve_over_shards(&self, command: InnerCommand, to: oneshot::Sender<ShardAnswer>) {
        let InnerCommand::Public(Command { action: Action::Reserve(c), .. }) = &command else { return };
        let deadline = Instant::now() + self.attempt_wait;
        let order = self.spanning.enter(&c.order_no);
        let _lock = order.lock().await;
        let mut to = Some(to);
        let mut tries = 0_u32;
        let answer = loop {
            match self.look_over_shards(&order, &command, c, deadline, &mut to).await {
                Ok(Looked::Done(answer)) => break answer,
                Err(refusal) => break ShardAnswer::refused(refusal),
                Ok(Looked::Again) if Instant::now() >= deadline => {
                    break ShardAnswer::refused(Refusal::Overloaded);
                }
                Ok(Looked::Again) if tries < 2 => tokio::task::yield_now().await,
                Ok(Looked::Again) => {
                    sleep(Duration::from_millis((1 << tries.min(16)).min(MAX_LOOK_PAUSE_MILLIS))).await
                }
            }
            tries += 1;
        };
        if let Some(to) = to {
            drop(to.send(answer));
        }
    }

    async fn look_over_shards(
        &self,
        order: &Entered<'_>,
        command: &InnerCommand,
        c: &Reserve,
        deadline: Instant,
        to: &mut Option<oneshot::Sender<ShardAnswer>>,
    ) -> Result<Looked, Refusal> {
        let count = self.shard_count();
        // It was to go to its one shard, and met another request for the same order.
        let plain = one_shard(&c.lines, count);
        let wanted = plain.unwrap_or_else(|| shard_of_order(&c.order_no, count));
        // Until this is given back nobody makes the order elsewhere.
        let mut claim = Claim::take(&self.directory, &c.order_no, wanted);
        if !claim.is_there && claim.shard != wanted {
            return Ok(Looked::Again);
        }
        let mut is_known = claim.is_there || plain.is_some();
        if !is_known && self.known.may_have_order(&c.order_no) {
            // The store may have it. A repeat must not try to hold units of its own.
            let read = Action::GetOrder(c.order_no.clone()).into();
            is_known = match self.ask_once(claim.shard, read).await {
                ShardAnswer::Outcome(Ok(_)) => true,
                ShardAnswer::Outcome(Err(Refusal::UnknownOrder { .. })) => false,
                ShardAnswer::Outcome(Err(refusal)) => return Err(refusal),
                ShardAnswer::Elsewhere { shard, .. } => {
                    let command = Box::new(command.clone());
                    return Ok(Looked::Done(ShardAnswer::Elsewhere { shard, command }));
                }
                ShardAnswer::NotHere(_) => return Ok(Looked::Again),
            };
        }
        if is_known {
            self.directory.claim(&c.order_no, claim.shard);
            return Ok(match self.ask_once(claim.shard, command.clone()).await {
                ShardAnswer::NotHere(_) => Looked::Again,
                answer => Looked::Done(answer),
            });
        }
        claim.begin_attempt();
        let outcome = self.attempt(order, claim.shard, c, deadline, to).await;
        let counters = &self.spanning.counters;
        match &outcome {
            Ok(InnerAnswer::Public(Answer::Order { effect: Effect::Created, .. })) => add(&counters.made, 1),
            Err(_) => add(&counters.refused, 1),
            Ok(_) => {}
        }
        drop(claim);
        Ok(Looked::Done(ShardAnswer::Outcome(outcome)))
    }

    /// The order with a hint which warehouses would serve all its open lines: each branch chooses by itself, and so
    /// they choose alike. What the levels are by then decides; without a hint the order may only lie in more
    /// warehouses.
    async fn hinted(&self, c: &Reserve) -> Option<Reserve> {
        let choice = c.choice.as_deref()?;
        let (mut used, mut lines, mut store_looks) = (Vec::new(), Vec::new(), 0);
        for (index, line) in c.lines.as_slice().iter().enumerate() {
            if !choice.is_open(index) {
                used.push(line.warehouse_id);
                continue;
            }
            let stocks = match self.reads.in_memory(&line.sku_id, None) {
                Some(stocks) => stocks,
                None if store_looks < MAX_HINT_LOOKS => {
                    store_looks += 1;
                    self.reads.stock(&line.sku_id, None).await.unwrap_or_default()
                }
                None => Vec::new(),
            };
            lines.push((line.quantity, stocks));
        }
        let choice = Choice { prefer: prefer_for_all(&lines, &used, &choice.prefer), ..choice.clone() };
        Some(Reserve { choice: Some(Box::new(choice)), ..c.clone() })
    }

    /// One attempt. After an answer of the home that leaves its outcome unknown, the caller is told so at once and
    /// the attempt is cleared up behind that.
    async fn attempt(
        &self,
        order: &Entered<'_>,
        home: ShardId,
        c: &Reserve,
        deadline: Instant,
        to: &mut Option<oneshot::Sender<ShardAnswer>>,
    ) -> InnerOutcome {
        let attempt = order.attempt();
        let hinted = self.hinted(c).await;
        let branches = branches_of(hinted.as_ref().unwrap_or(c), attempt.id);
        let answers = self.tell(&branches, STEP_HOLD, Patience::Attempt(deadline)).await;
        let lines = match judge_reserve(c, attempt.id, &answers) {
            Judged::Held(lines) => lines,
            Judged::Refused { refusal, releases } => {
                self.abort(&releases).await;
                return Err(refusal);
            }
        };
        let step = HomeStep::Reserve { reserve: c.clone(), attempt: attempt.id, lines };
        // The step comes with a claim as every command that makes an order.
        self.directory.claim(&c.order_no, home);
        self.before(STEP_HOME);
        let outcome = self.ask(home, step.into()).await;
        self.after(STEP_HOME);
        match &outcome {
            Ok(InnerAnswer::Public(Answer::Order { effect: Effect::Created, .. })) => {}
            Err(refusal) if is_unknown(refusal) => {
                if let Some(to) = to.take() {
                    drop(to.send(ShardAnswer::Outcome(outcome.clone())));
                }
                self.clear_up(home, &attempt, order, &branches).await;
            }
            // Known already (by this attempt or by another), or not taken.
            _ => self.clear_up(home, &attempt, order, &branches).await,
        }
        outcome
    }

    /// Releases branches of an attempt that came to nothing. What can't be told in time asks by itself.
    pub(super) async fn abort(&self, releases: &[BranchCommand]) {
        if releases.is_empty() {
            return;
        }
        let until = Instant::now() + Duration::from_millis(ABORT_WAIT_MILLIS);
        let outcomes = self.tell(releases, STEP_ABORT, Patience::Firm(until)).await;
        let left = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Err(refusal) if is_transient(refusal)))
            .count();
        if left > 0 {
            tracing::warn!(left, "branches of a refused order are not released yet; they will ask");
        }
    }

    /// Releases the branches of an attempt unless its order knows them.
    pub(super) async fn clear_up(
        &self,
        home: ShardId,
        attempt: &Attempt<'_>,
        order: &Entered<'_>,
        branches: &[BranchCommand],
    ) {
        let mut backoff = Backoff::default();
        for _ in 0..MAX_ABORT_TRIES {
            let asked = Asked { order_no: order.order_no.clone(), attempt: attempt.id };
            match self.ask(home, HomeStep::Ask(asked).into()).await {
                Ok(_) => return,
                Err(Refusal::UnknownOrder { .. }) => {
                    let releases: Vec<BranchCommand> = branches.iter().filter_map(release_of).collect();
                    return self.abort(&releases).await;
                }
                Err(Refusal::JournalUnavailable) => return,
                Err(_) if self.spanning.is_stopping() => return,
                Err(_) => sleep(backoff.next()).await,
            }
        }
    }
}

/// What takes back what a branch was asked to hold.
fn release_of(branch: &BranchCommand) -> Option<BranchCommand> {
    let order_no = branch.command.order_no()?.clone();
    let release = Release { order_no, part: None, reason: None };
    Some(BranchCommand { sku_id: branch.sku_id.clone(), command: Action::Release(release).into() })
}

/// The release of a branch that its home does not know.
pub(super) fn release_orphan(order_no: crate::ids::OrderNo, sku_id: SkuId) -> BranchCommand {
    let release = Release { order_no, part: None, reason: None };
    BranchCommand { sku_id, command: Action::Release(release).into() }
}

#[cfg(test)]
mod tests {
    use crate::ids::AttemptId;

    #[test]
    fn attempts_of_one_order_are_told_apart() {
        let spanning = super::super::Spanning::new();
        let order_no = crate::ids::OrderNo::new("o").unwrap();
        let order = spanning.enter(&order_no);
        let first = order.attempt().id;
        assert!(!spanning.is_under_way(&order_no, first), "it has ended");
        let second = order.attempt();
        assert!(second.id != first && second.id != AttemptId(0));
        assert!(spanning.is_under_way(&order_no, second.id) && !spanning.is_under_way(&order_no, first));
        drop(second);
        drop(order);
        assert!(spanning.orders.lock().unwrap().is_empty(), "nothing is left of it");
    }
}
