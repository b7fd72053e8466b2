//! A new order over several places: its branches are reserved, all at the same time; when all hold, its home logs it; when one is
//! refused, those that hold are released before the caller is told.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::places::Patience;
use super::{Attempt, Entered, STEP_ABORT, STEP_HOLD, STEP_HOME, is_transient, is_unknown};
use crate::command::{Action, Choice, Command, Release, Reserve};
use crate::directory::Home;
use crate::home::attempt::{Judged, branches_of, judge_reserve};
use crate::home::{Asked, BranchCommand, HomeStep};
use crate::hub::{How, Hub, Side, add};
use crate::ids::{ShardId, SkuId, shard_of, shard_of_order};
use crate::limits::{ABORT_WAIT_MILLIS, MAX_ABORT_TRIES, MAX_HINT_LOOKS, MAX_LOOK_PAUSE_MILLIS};
use crate::outcome::{Answer, Effect, Outcome, Refusal};
use crate::placement::Backoff;
use crate::placement::routes::Where;
use crate::router::{Claim, Stored, is_known};
use crate::state::prefer_for_all;

/// What a look at an order that is to be made finds.
enum Looked {
    Done(Outcome),
    /// Something had moved, or another request for the same order is under way elsewhere.
    Again,
    /// It does not lie in several places (any more).
    Elsewhere,
}

impl Hub {
    /// Carries out a reserve whose lines lie in several places. `None`: they do not any more, or the order is somewhere else; it has to
    /// be looked for.
    pub async fn span(&self, command: Command) -> Option<Outcome> {
        let permit = match self.spanning.permit() {
            Ok(permit) => permit,
            Err(refusal) => return Some(Err(refusal)),
        };
        let (to, answer) = oneshot::channel();
        let hub = self.arc();
        let began = self.spanning.spawn(async move {
            let _permit = permit;
            hub.reserve_over_places(command, to).await;
        });
        if !began {
            return Some(Err(Refusal::Overloaded));
        }
        // Gone without an answer: it was ended by the stop of the engine, or failed.
        answer.await.unwrap_or(Some(Err(Refusal::ShardRestarted)))
    }

    async fn reserve_over_places(&self, command: Command, to: oneshot::Sender<Option<Outcome>>) {
        let Action::Reserve(c) = &command.action else { return };
        let deadline = Instant::now() + Duration::from_millis(self.context.options.store.move_wait_ms);
        let order = self.spanning.enter(&c.order_no);
        let _lock = order.lock().await;
        let mut to = Some(to);
        let mut tries = 0_u32;
        let answer = loop {
            match self.look_over_places(&order, &command, c, deadline, &mut to).await {
                Ok(Looked::Done(outcome)) => break Some(outcome),
                Err(refusal) => break Some(Err(refusal)),
                Ok(Looked::Elsewhere) => break None,
                Ok(Looked::Again) if Instant::now() >= deadline => {
                    break Some(Err(self.side.as_ref().map_or(Refusal::Overloaded, Side::late)));
                }
                Ok(Looked::Again) if tries < 2 => tokio::task::yield_now().await,
                Ok(Looked::Again) => sleep(Duration::from_millis((1 << tries.min(16)).min(MAX_LOOK_PAUSE_MILLIS))).await,
            }
            tries += 1;
        };
        if let Some(to) = to {
            drop(to.send(answer));
        }
    }

    async fn look_over_places(
        &self,
        order: &Entered<'_>,
        command: &Command,
        c: &Reserve,
        deadline: Instant,
        to: &mut Option<oneshot::Sender<Option<Outcome>>>,
    ) -> Result<Looked, Refusal> {
        let directory = &self.context.directory;
        let count = self.context.options.shards;
        let wanted = match &self.side {
            // It was to go to its one shard, and met another request for the same order.
            None => one_shard(c, count).unwrap_or_else(|| shard_of_order(&c.order_no, count)),
            Some(_) => shard_of_order(&c.order_no, count),
        };
        // Until this is given back nobody makes the order elsewhere.
        let mut claim = Claim::take(self, &c.order_no, Home::Shard(wanted));
        let home = match claim.home {
            Home::Shard(home) if claim.is_there || home == wanted => home,
            _ => return Ok(Looked::Again),
        };
        let is_plain = self.side.is_none() && one_shard(c, count).is_some();
        if claim.is_there || directory.is_silent() || is_plain {
            // Known, or nobody but the shard can say so. A repeat must not try to hold units of its own.
            if claim.is_there || is_plain || self.knows(home, c).await? {
                directory.claim(&c.order_no, claim.home);
                let outcome = self.ask(home, command.clone(), How::Exact).await;
                let is_final = is_plain && !matches!(outcome, Err(Refusal::Moved(_)));
                return Ok(if is_final || is_known(&outcome) { Looked::Done(outcome) } else { Looked::Again });
            }
        }
        if let Some(side) = &self.side {
            let skus = || c.lines.as_slice().iter().map(|line| &line.sku_id);
            match side.routes.place(skus()) {
                Where::Moving(_) if side.is_down() => return Err(Refusal::StoreUnavailable),
                Where::Moving(mut over) => {
                    drop(timeout_at(deadline, over.changed()).await);
                    return Ok(Looked::Again);
                }
                Where::Lost(sku_id) => return Err(Refusal::OwnedElsewhere { sku_id }),
                Where::Hot(_) | Where::Cold => return Ok(Looked::Elsewhere),
                Where::Mixed => {}
            }
            // Orders of SKUs that became hot before they had any are where their SKUs are.
            let now = self.context.clock.now();
            let is_hot = skus().all(|sku_id| side.routes.hot_one(sku_id).is_some());
            let asks = skus().any(|sku_id| side.routes.may_have_left_orders(sku_id, now));
            if asks && !(is_hot && side.is_down()) {
                match self.stored_before(side, &c.order_no, deadline).await {
                    Ok(Stored::Unknown) => {}
                    Ok(Stored::Known | Stored::Home(_)) => return Ok(Looked::Elsewhere),
                    // Hot SKUs go on without the store.
                    Err(_) if is_hot => {}
                    Err(refusal) => return Err(refusal),
                }
            }
        }
        claim.begin_attempt();
        let outcome = self.attempt(order, home, c, deadline, to).await;
        let counters = &self.spanning.counters;
        match &outcome {
            Ok(Answer::Order { effect: Effect::Created, .. }) => add(&counters.made, 1),
            Err(_) => add(&counters.refused, 1),
            Ok(_) => {}
        }
        drop(claim);
        Ok(Looked::Done(outcome))
    }

    async fn knows(&self, home: ShardId, c: &Reserve) -> Result<bool, Refusal> {
        match self.ask(home, Action::GetOrder(c.order_no.clone()).into(), How::Exact).await {
            Ok(_) => Ok(true),
            Err(Refusal::UnknownOrder { .. }) => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// The order with a hint which warehouses would serve all its open lines: each branch chooses by itself, and so they choose alike.
    /// What the levels are by then decides; without a hint the order may only lie in more warehouses.
    async fn hinted(&self, c: &Reserve) -> Option<Reserve> {
        let choice = c.choice.as_deref()?;
        let (mut used, mut lines, mut store_looks) = (Vec::new(), Vec::new(), 0);
        for (index, line) in c.lines.as_slice().iter().enumerate() {
            if !choice.is_open(index) {
                used.push(line.warehouse_id);
                continue;
            }
            let mut stocks = self.context.views.stock(&line.sku_id, None);
            if stocks.is_empty() && self.side.is_some() && store_looks < MAX_HINT_LOOKS {
                store_looks += 1;
                stocks = self.stock(&line.sku_id, None).await.unwrap_or_default();
            }
            lines.push((line.quantity, stocks));
        }
        let choice = Choice { prefer: prefer_for_all(&lines, &used, &choice.prefer), ..choice.clone() };
        Some(Reserve { choice: Some(Box::new(choice)), ..c.clone() })
    }

    /// One attempt. After an answer of the home that leaves its outcome unknown, the caller is told so at once and the attempt is cleared
    /// up behind that.
    async fn attempt(
        &self,
        order: &Entered<'_>,
        home: ShardId,
        c: &Reserve,
        deadline: Instant,
        to: &mut Option<oneshot::Sender<Option<Outcome>>>,
    ) -> Outcome {
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
        self.context.directory.claim(&c.order_no, Home::Shard(home));
        self.before(STEP_HOME);
        let outcome = self.ask(home, Action::Home(Box::new(step)).into(), How::Exact).await;
        self.after(STEP_HOME);
        match &outcome {
            Ok(Answer::Order { effect: Effect::Created, .. }) => {}
            Err(refusal) if is_unknown(refusal) => {
                if let Some(to) = to.take() {
                    drop(to.send(Some(outcome.clone())));
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
        let left = outcomes.iter().filter(|outcome| matches!(outcome, Err(refusal) if is_transient(refusal))).count();
        if left > 0 {
            tracing::warn!(left, "branches of a refused order are not released yet; they will ask");
        }
    }

    /// Releases the branches of an attempt unless its order knows them.
    pub(super) async fn clear_up(&self, home: ShardId, attempt: &Attempt<'_>, order: &Entered<'_>, branches: &[BranchCommand]) {
        let mut backoff = Backoff::default();
        for _ in 0..MAX_ABORT_TRIES {
            let asked = Asked { order_no: order.order_no.clone(), attempt: attempt.id };
            match self.ask(home, Action::Home(Box::new(HomeStep::Ask(asked))).into(), How::Exact).await {
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

/// The one shard that has all lines without a store.
fn one_shard(c: &Reserve, count: u16) -> Option<ShardId> {
    let shard = |sku_id: &SkuId| shard_of(sku_id, count);
    let first = shard(&c.lines.first().sku_id);
    c.lines.as_slice().iter().all(|line| shard(&line.sku_id) == first).then_some(first)
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
