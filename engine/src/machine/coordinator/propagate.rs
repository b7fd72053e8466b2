//! Decisions on their way to the participants: told until each has carried it out, one decision after the other; then
//! that is logged, and whoever waited for it is answered.

use std::collections::{BTreeMap, BTreeSet};

use super::effects::{Moment, Timer};
use super::protocol::Coordinator;
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, OrderNo, ShardId};
use crate::base::limits::{
    MAX_ACKNOWLEDGED_PER_EVENT, MAX_RETRY_MILLIS, PROPAGATE_AGAIN_MILLIS, PROPAGATE_WAIT_MILLIS,
};
use crate::contract::command::Line;
use crate::contract::event::Change;
use crate::contract::image::{Decision, LineSerials, Span};
use crate::contract::outcome::{Answer, Outcome};
use crate::machine::message::{GivenSerials, Instruction, Message};
use crate::machine::state::State;

/// What is told of one order, and who waits for it.
#[derive(Debug)]
pub(super) struct Propagation<C> {
    waiters: Vec<Waiter<C>>,
    /// What was sent and not acknowledged: at most one decision to a participant at a time.
    sent: BTreeSet<(u32, ShardId)>,
    /// What was acknowledged and is not logged yet, with the attempt that it was about.
    acknowledged: Vec<(u32, ShardId, AttemptId)>,
    serials: Vec<LineSerials>,
    /// When everything that was sent is sent again, and how long after that.
    again: Moment,
    pause: u64,
    /// When it is looked after.
    timer: Moment,
}

#[derive(Debug)]
struct Waiter<C> {
    caller: C,
    outcome: Outcome,
    /// The last decision that its answer tells of.
    seq: u32,
    /// It is answered then, whoever has not been heard of.
    until: Moment,
}

impl<C> Propagation<C> {
    pub fn into_callers(self) -> impl Iterator<Item = C> {
        self.waiters.into_iter().map(|waiter| waiter.caller)
    }

    fn next_timer(&self) -> Moment {
        self.waiters.iter().map(|waiter| waiter.until).fold(self.again, Moment::min)
    }
}

impl<C> Coordinator<C> {
    /// Whether decisions of an order are being told.
    pub fn is_propagating(&self, order_no: &OrderNo) -> bool {
        !self.propagations.is_empty() && self.propagations.contains_key(order_no)
    }

    /// An order has decisions that its participants are to be told. `answer`: of whoever waits for that.
    pub fn propagate(
        &mut self,
        state: &State,
        order_no: &OrderNo,
        answer: Option<(C, Outcome)>,
        now: Moment,
    ) {
        let span = state.span_of(order_no).filter(|span| !span.pending.is_empty());
        let Some(span) = span else {
            self.out.answers.extend(answer);
            return;
        };
        let again = now.plus(PROPAGATE_AGAIN_MILLIS);
        let timers = &mut self.timers;
        let propagation = self.propagations.entry(order_no.clone()).or_insert_with(|| {
            timers.insert((again, order_no.clone(), Timer::Propagation));
            Propagation {
                waiters: Vec::new(),
                sent: BTreeSet::new(),
                acknowledged: Vec::new(),
                serials: Vec::new(),
                again,
                pause: PROPAGATE_AGAIN_MILLIS,
                timer: again,
            }
        });
        let waiter = |(caller, outcome)| Waiter {
            caller,
            outcome,
            seq: span.decisions,
            until: now.plus(PROPAGATE_WAIT_MILLIS),
        };
        propagation.waiters.extend(answer.map(waiter));
        self.instruct(state, order_no);
        self.set_timer(order_no);
    }

    fn set_timer(&mut self, order_no: &OrderNo) {
        let Some(propagation) = self.propagations.get_mut(order_no) else { return };
        let next = propagation.next_timer();
        if next != propagation.timer {
            self.timers.remove(&(propagation.timer, order_no.clone(), Timer::Propagation));
            propagation.timer = next;
        }
        self.timers.insert((next, order_no.clone(), Timer::Propagation));
    }

    /// Tells each participant the oldest decision that it has not carried out.
    fn instruct(&mut self, state: &State, order_no: &OrderNo) {
        let Some(propagation) = self.propagations.get_mut(order_no) else { return };
        let Some(span) = state.span_of(order_no) else { return };
        let is_acknowledged = |acknowledged: &[(u32, ShardId, AttemptId)], seq, shard| {
            acknowledged.iter().any(|(s, p, _)| (*s, *p) == (seq, shard))
        };
        let mut told: BTreeSet<ShardId> = BTreeSet::new();
        let mut places = None;
        for decision in &span.pending {
            for shard in &decision.waiting {
                if is_acknowledged(&propagation.acknowledged, decision.seq, *shard) || !told.insert(*shard) {
                    continue;
                }
                if !propagation.sent.insert((decision.seq, *shard)) {
                    continue;
                }
                let places = places.get_or_insert_with(|| state.places_of_lines(order_no));
                let Decision { seq, attempt, kind, reason, lines, .. } = decision;
                let of_shard = lines.iter().filter_map(|(line, units)| {
                    let (sku_id, warehouse_id, at) = places.get(usize::from(*line))?;
                    let (sku_id, warehouse_id) = (sku_id.clone(), *warehouse_id);
                    (at == shard).then_some(Line { sku_id, warehouse_id, quantity: *units })
                });
                let instruction = Instruction {
                    order_no: order_no.clone(),
                    attempt: *attempt,
                    seq: *seq,
                    kind: *kind,
                    reason: reason.clone(),
                    lines: of_shard.collect(),
                };
                self.tally.instructions += 1;
                self.out.sends.push((*shard, Message::Instruct(Box::new(instruction))));
            }
        }
    }

    /// A participant has carried out a decision.
    #[expect(clippy::too_many_arguments, reason = "a message, and all that it is decided with")]
    pub(super) fn on_done(
        &mut self,
        state: &State,
        from: ShardId,
        order_no: OrderNo,
        attempt: AttemptId,
        seq: u32,
        serials: Vec<GivenSerials>,
        now: Moment,
    ) {
        let is_waited_for = |span: &Span| {
            span.pending.iter().any(|decision| decision.seq == seq && decision.waiting.contains(&from))
        };
        if !self.is_propagating(&order_no) && state.span_of(&order_no).is_some_and(is_waited_for) {
            // From before a rebuild, and what was decided then is not told again yet.
            self.propagate(state, &order_no, None, now);
        }
        let Some(propagation) = self.propagations.get_mut(&order_no) else {
            // It is logged already, with the numbers.
            if !serials.is_empty() {
                self.out.sends.push((from, Message::Heard { order_no, attempt, seq }));
            }
            return;
        };
        self.acknowledged.insert(order_no.clone());
        propagation.sent.remove(&(seq, from));
        propagation.acknowledged.push((seq, from, attempt));
        if !serials.is_empty() {
            let places = state.places_of_lines(&order_no);
            propagation.serials.extend(serials.into_iter().filter_map(|(sku_id, warehouse_id, serials)| {
                let line = places.iter().position(|(sku, w, _)| *sku == sku_id && *w == warehouse_id)?;
                Some(LineSerials { line: u16::try_from(line).ok()?, serials })
            }));
        }
    }

    /// Logs what was acknowledged in this turn, one event for all of it, and goes on from there.
    pub fn log_acknowledged(&mut self, state: &mut State, time: Timestamp, now: Moment) {
        loop {
            let next = std::iter::from_fn(|| self.acknowledged.pop_first());
            let some: Vec<OrderNo> = next.take(MAX_ACKNOWLEDGED_PER_EVENT).collect();
            if some.is_empty() {
                return;
            }
            let mut orders = Vec::with_capacity(some.len());
            let mut told: BTreeMap<OrderNo, Told> = BTreeMap::new();
            for order_no in some {
                let Some(propagation) = self.propagations.get_mut(&order_no) else { continue };
                let acknowledged = std::mem::take(&mut propagation.acknowledged);
                let serials = std::mem::take(&mut propagation.serials);
                let what: Vec<_> = acknowledged.iter().map(|(seq, shard, _)| (*seq, *shard)).collect();
                let has_serials = !serials.is_empty();
                orders.extend(state.acknowledge(&order_no, &what, serials));
                told.insert(order_no, Told { acknowledged, has_serials });
            }
            if !orders.is_empty() {
                let event = state.event(Change::Acknowledged { orders }, time);
                if let Err(corruption) = state.apply(state.applied().next(), &event) {
                    panic!("shard {}: what was acknowledged does not fit: {corruption}", state.shard());
                }
                self.out.events.push(event);
            }
            for (order_no, told) in told {
                self.acknowledged(state, &order_no, told, now);
            }
        }
    }

    fn acknowledged(&mut self, state: &State, order_no: &OrderNo, told: Told, now: Moment) {
        let Told { acknowledged, has_serials } = told;
        if has_serials {
            for (seq, shard, attempt) in acknowledged {
                let heard = Message::Heard { order_no: order_no.clone(), attempt, seq };
                self.out.sends.push((shard, heard));
            }
        }
        let Some(propagation) = self.propagations.get_mut(order_no) else { return };
        propagation.pause = PROPAGATE_AGAIN_MILLIS;
        propagation.again = now.plus(PROPAGATE_AGAIN_MILLIS);
        let first = state.span_of(order_no).and_then(|span| span.pending.first()).map(|first| first.seq);
        let is_told = |waiter: &mut Waiter<C>| first.is_none_or(|first| waiter.seq < first);
        for mut waiter in propagation.waiters.extract_if(.., is_told) {
            show_serials(state, order_no, &mut waiter.outcome);
            self.out.answers.push((waiter.caller, waiter.outcome));
        }
        if first.is_none() {
            if let Some(propagation) = self.propagations.remove(order_no) {
                self.timers.remove(&(propagation.timer, order_no.clone(), Timer::Propagation));
            }
            self.go_on(order_no);
            return;
        }
        self.instruct(state, order_no);
        self.set_timer(order_no);
    }

    /// A timer of an order: whoever waited long enough is answered, and what nobody acknowledged is sent again.
    pub(super) fn look_after(&mut self, state: &State, order_no: &OrderNo, now: Moment) {
        let Some(propagation) = self.propagations.get_mut(order_no) else { return };
        for waiter in propagation.waiters.extract_if(.., |waiter| waiter.until <= now) {
            self.out.answers.push((waiter.caller, waiter.outcome));
        }
        if propagation.again <= now {
            self.tally.repeated += 1;
            propagation.pause = propagation.pause.saturating_mul(2).min(MAX_RETRY_MILLIS);
            propagation.again = now.plus(propagation.pause);
            propagation.sent.clear();
            self.instruct(state, order_no);
        }
        self.set_timer(order_no);
    }

    /// What a shard that was rebuilt was told may be lost.
    pub(super) fn tell_again(&mut self, state: &State, shard: ShardId, now: Moment) {
        let orders: Vec<OrderNo> = self.propagations.keys().cloned().collect();
        for order_no in orders {
            if let Some(propagation) = self.propagations.get_mut(&order_no) {
                propagation.sent.retain(|(_, to)| *to != shard);
                propagation.again = now.plus(PROPAGATE_AGAIN_MILLIS);
            }
            self.instruct(state, &order_no);
            self.set_timer(&order_no);
        }
    }
}

/// What participants acknowledged of one order.
struct Told {
    acknowledged: Vec<(u32, ShardId, AttemptId)>,
    has_serials: bool,
}

/// Gives an answer the serial numbers that its lines have got meanwhile.
fn show_serials(state: &State, order_no: &OrderNo, outcome: &mut Outcome) {
    let Ok(Answer::Order { order, .. }) = outcome else { return };
    let Some((_, known)) = state.order(order_no) else { return };
    for (line, known) in order.lines.iter_mut().zip(known.lines) {
        if known.serials.is_some() {
            line.serials = known.serials;
        }
    }
}
