//! What callers ask in a run, and what becomes of what they are told.

use std::collections::BTreeMap;
use std::time::Duration;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Confirm, Line, Lines, Mode, Part, Release, Return};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, RequestId};
use hotstock_engine::outcome::{Outcome, Refusal};
use hotstock_engine::status::Health;
use tokio::time::{Instant, sleep};

use super::{PATIENCE, Run, SETTLED};
use crate::plan::{Call, PartKind, What};
use crate::worlds::{How, Told, Violation, order_of};

impl Run<'_> {
    /// The command that a caller sends.
    fn action(&self, what: &What) -> Option<Action> {
        match what {
            What::Do(action) => Some(action.clone()),
            What::Again(_) if self.sent.is_empty() => None,
            What::Again(index) => Some(self.sent[index % self.sent.len()].clone()),
            What::Part { kind, order_no, picks, request_id } => {
                let asked = self.worlds.any().orders.get(order_no).map_or(&[][..], |order| &order.asked);
                part(*kind, order_no, picks, request_id.as_ref(), asked)
            }
        }
    }

    /// Whether the model can tell what is answered. It can't where orders over several shards may hold units for a
    /// moment (beside others, or of attempts that broke off), of which best effort would get less.
    fn can_tell(&self, action: &Action, alone: bool) -> bool {
        let takes_what_is_there = matches!(action, Action::Reserve(c) if c.mode == Mode::BestEffort);
        let is_clear = !(takes_what_is_there && self.plan.setup.spanning && (self.shaken || !alone));
        is_clear && !self.is_about_old(action)
    }

    /// Whether a command is about something that may have been pruned, so that its number is free again.
    fn is_about_old(&self, action: &Action) -> bool {
        let keep = self.plan.setup.keep_days.saturating_sub(1) * 86_400_000;
        let is_old = |at: Timestamp| self.plan.setup.keep_days > 0 && at.0 + keep < self.now().0;
        self.worlds.iter().any(|world| match action {
            Action::ChangeStock(c) => world
                .changes
                .get(&(c.sku_id.clone(), c.request_id.clone()))
                .is_some_and(|known| is_old(known.at)),
            _ => {
                let order = order_of(action).and_then(|order_no| world.orders.get(order_no));
                order.is_some_and(|order| !order.is_open() && is_old(order.changed_at))
            }
        })
    }

    /// Callers at the same time; with `crash`, the process ends so soon after the first.
    pub(super) async fn burst(
        &mut self,
        engine: &Engine,
        calls: &[Call],
        crash: Option<Duration>,
    ) -> Result<(), Violation> {
        let mut callers = Vec::new();
        for Call { what, delay, patience } in calls {
            let Some(action) = self.action(what).filter(|action| self.can_tell(action, calls.len() == 1))
            else {
                continue;
            };
            let (engine, command, delay) = (engine.clone(), Command::from(action.clone()), *delay);
            let caller = tokio::spawn(async move {
                sleep(Duration::from_micros(delay)).await;
                engine.submit(command).await
            });
            callers.push((action, caller, *patience));
        }
        self.steps += callers.len() as u64;
        let begin = Instant::now();
        let mut told = Vec::new();
        for (action, mut caller, patience) in callers {
            let wait = crash.unwrap_or(PATIENCE).min(patience.map_or(PATIENCE, Duration::from_micros));
            let answer = self.bounded("a caller", tokio::time::timeout_at(begin + wait, &mut caller)).await;
            let answer = match answer.map_err(|problem| format!("{action:?}: {problem}"))? {
                // A process that had ended by then told nobody.
                None => None,
                Some(Ok(Ok(outcome))) => Some(outcome),
                Some(Ok(Err(error))) => return Err(format!("{action:?} panicked: {error}")),
                Some(Err(_)) => {
                    caller.abort();
                    None
                }
            };
            told.push((action, answer));
        }
        self.told(engine, told, false, crash.is_some()).await
    }

    pub(super) async fn batch(&mut self, engine: &Engine, actions: &[Action]) -> Result<(), Violation> {
        let actions: Vec<Action> =
            actions.iter().filter(|action| self.can_tell(action, true)).cloned().collect();
        let commands = actions.iter().cloned().map(Command::from).collect();
        let outcomes = self.bounded("a batch", engine.submit_batch(commands)).await?;
        self.steps += actions.len() as u64;
        let answers: Vec<Option<Outcome>> = match outcomes {
            Some(outcomes) => outcomes.into_iter().map(Some).collect(),
            None => vec![None; actions.len()],
        };
        let told = actions.into_iter().zip(answers).collect();
        self.told(engine, told, true, false).await
    }

    /// What callers were told, or not.
    async fn told(
        &mut self,
        engine: &Engine,
        answers: Vec<(Action, Option<Outcome>)>,
        in_order: bool,
        crashes: bool,
    ) -> Result<(), Violation> {
        let mut told = Vec::new();
        for (action, answer) in answers {
            self.trace.note(format_args!("{action:?} -> {answer:?}"));
            self.sent.push(action.clone());
            match answer {
                // Nothing happened. What a shard held meanwhile that did not answer in time comes back a moment later.
                Some(Err(refusal)) if is_for_now(&refusal) => {
                    self.shaken |= self.worlds.is_spanning(&action);
                }
                Some(Err(Refusal::JournalUnavailable | Refusal::ShardRestarted)) => {
                    told.push(Told { place: told.len(), action, answer: None });
                }
                answer => told.push(Told { place: told.len(), action, answer }),
            }
        }
        if !self.is_alive() || crashes {
            self.doubt(told, in_order);
            return Ok(());
        }
        let mut seen = BTreeMap::new();
        if told.iter().any(|one| one.answer.is_none()) {
            self.shaken = true;
            if engine.health() != Health::Ready {
                // It is known after a restart.
                self.doubt(told, in_order);
                return Ok(());
            }
            sleep(SETTLED).await;
            if !self.is_alive() {
                self.doubt(told, in_order);
                return Ok(());
            }
            seen = self.orders_of(engine, &told).await?;
            if !self.can_be_read(engine) {
                self.doubt(told, in_order);
                return Ok(());
            }
        }
        let lenient = self.plan.setup.spanning && self.shaken;
        self.worlds.take(
            &told,
            &How {
                now: self.now(),
                seen: &seen,
                seen_at: self.now(),
                lenient,
                spanning: self.plan.setup.spanning,
                in_order,
            },
        )?;
        if self.worlds.count() > 4 {
            self.compare(engine).await?;
        }
        Ok(())
    }

    /// What it is with these is known after the next start.
    pub(super) fn doubt(&mut self, told: Vec<Told>, in_order: bool) {
        (self.doubtful, self.doubtful_at, self.in_order) = (told, self.now(), in_order);
    }
}

/// The server could not do it now, and did nothing.
fn is_for_now(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::StoreUnavailable
            | Refusal::Overloaded
            | Refusal::JournalFull
            | Refusal::Fenced { .. }
            | Refusal::OrderTooOld { .. }
    )
}

fn part(
    kind: PartKind,
    order_no: &OrderNo,
    picks: &[(usize, u32)],
    request_id: Option<&RequestId>,
    asked: &[Line],
) -> Option<Action> {
    let pick = |(index, quantity): &(usize, u32)| {
        asked.get(index % asked.len().max(1)).map(|line| Line { quantity: *quantity, ..line.clone() })
    };
    let lines = Lines::new(picks.iter().filter_map(pick)).ok()?;
    let (order_no, request_id) = (order_no.clone(), request_id.cloned());
    Some(match kind {
        PartKind::Confirm => Action::Confirm(Confirm { order_no, part: Some(Part { lines, request_id }) }),
        PartKind::Release => {
            Action::Release(Release { order_no, part: Some(Part { lines, request_id }), reason: None })
        }
        PartKind::Return => {
            let request_id = request_id.unwrap_or_else(|| RequestId::new("R0").expect("a short name"));
            Action::Return(Return { order_no, request_id, lines: Some(lines) })
        }
    })
}
