//! The steps of an attempt, from the look to its end, and the coordinator that has them under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::attempt::{Attempt, Stage, hinted, reserve_of, see};
use super::effects::{Effects, Moment, Surroundings, Tally, Timer};
use super::judge::{
    GroupAnswer, Verdict, first_place, groups, judge_at_sight, judge_more, judge_reserve, short_at_sight,
};
use super::propagate::Propagation;
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, OrderNo, ShardId, SkuId};
use crate::base::limits::{ABANDON_WAIT_MILLIS, MAX_ATTEMPTS};
use crate::contract::event::Event;
use crate::contract::hold::HoldPurpose;
use crate::contract::outcome::{Outcome, Refusal, StockView};
use crate::machine::inner::InnerCommand;
use crate::machine::message::{HoldRequest, Message};
use crate::machine::state::{Decision, Elsewhere, HoldFirst, State};

/// The machine of a coordinator, see [`super`]. `C`: who waits for an answer.
#[derive(Debug)]
pub(crate) struct Coordinator<C> {
    shard: ShardId,
    /// How long units are waited for.
    wait_millis: u64,
    /// Orders whose units are being held. Bounded by [`MAX_ATTEMPTS`].
    attempts: BTreeMap<OrderNo, Attempt<C>>,
    /// SKUs of this shard that those need: they stay in memory meanwhile. How many need each.
    pinned: BTreeMap<SkuId, usize>,
    /// Orders with decisions that participants are told.
    pub(super) propagations: BTreeMap<OrderNo, Propagation<C>>,
    /// Of those, the ones of which something was acknowledged and is not logged yet.
    pub(super) acknowledged: BTreeSet<OrderNo>,
    /// When to look after which of them.
    pub(super) timers: BTreeSet<(Moment, OrderNo, Timer)>,
    pub out: Effects<C>,
    pub tally: Tally,
}

impl<C> Coordinator<C> {
    pub fn new(shard: ShardId, wait_millis: u64) -> Self {
        Self {
            shard,
            wait_millis,
            attempts: BTreeMap::new(),
            pinned: BTreeMap::new(),
            propagations: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            timers: BTreeSet::new(),
            out: Effects::default(),
            tally: Tally::default(),
        }
    }

    /// Whether a command about this order has to wait in its queue. Reads need not.
    pub fn is_busy(&self, order_no: &OrderNo) -> bool {
        !self.attempts.is_empty() && self.attempts.contains_key(order_no)
    }

    /// Whether an attempt needs this SKU to stay in memory.
    pub fn is_pinned(&self, sku_id: &SkuId) -> bool {
        self.pinned.contains_key(sku_id)
    }

    /// Orders under way.
    pub fn under_way(&self) -> usize {
        self.attempts.len() + self.propagations.len()
    }

    /// A command waits behind the one whose units are being held.
    pub fn enqueue(&mut self, order_no: &OrderNo, caller: C, command: InnerCommand) {
        match self.attempts.get_mut(order_no) {
            Some(attempt) => attempt.queue.push_back((caller, command)),
            None => self.out.ready.push_back((caller, command)),
        }
    }

    /// A command needs units of other shards.
    pub fn begin(
        &mut self,
        state: &State,
        around: &impl Surroundings,
        caller: C,
        command: InnerCommand,
        first: HoldFirst,
        now: Moment,
    ) {
        if self.attempts.len() >= MAX_ATTEMPTS {
            self.tally.overloaded += 1;
            self.out.answers.push((caller, Err(Refusal::Overloaded)));
            return;
        }
        let Some(order_no) = command.order_no().cloned() else {
            return self.out.answers.push((caller, Err(Refusal::Overloaded)));
        };
        let is_told = state.span_of(&order_no).is_none_or(|span| span.pending.is_empty());
        let stage = match is_told {
            true => Stage::Looking { waiting: BTreeSet::new(), looked: BTreeMap::new(), is_asked: false },
            false => Stage::Telling,
        };
        let attempt = Attempt {
            caller,
            command,
            first,
            id: AttemptId(0),
            until: now.plus(self.wait_millis),
            groups: Vec::new(),
            nowhere: BTreeMap::new(),
            stage,
            queue: VecDeque::new(),
        };
        self.timers.insert((attempt.until, order_no.clone(), Timer::Attempt));
        for line in attempt.wanted().into_iter().filter(|line| state.owns(&line.sku_id)) {
            *self.pinned.entry(line.sku_id).or_default() += 1;
        }
        self.attempts.insert(order_no.clone(), attempt);
        match is_told {
            true => self.look(state, around, &order_no),
            false => self.propagate(state, &order_no, None, now),
        }
    }

    /// Everything that was decided of an order is told: what waited for that is decided.
    pub(super) fn go_on(&mut self, order_no: &OrderNo) {
        let waits = |attempt: &Attempt<C>| matches!(attempt.stage, Stage::Telling);
        if self.attempts.get(order_no).is_some_and(waits)
            && let Some(attempt) = self.remove(order_no)
        {
            self.out.ready.push_back((attempt.caller, attempt.command));
            self.out.ready.extend(attempt.queue);
        }
    }

    /// Refuses what can be refused at sight, and else has the units held. What can't be seen from here, and may be why
    /// the order is refused, other shards are asked for first.
    fn look(&mut self, state: &State, around: &impl Surroundings, order_no: &OrderNo) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        let Stage::Looking { looked, is_asked, .. } = &attempt.stage else { return };
        let is_asked = *is_asked;
        let see = |sku_id: &SkuId| see(state, around, looked, sku_id);
        let HoldFirst { lines, short, purpose } = &attempt.first;
        let verdict = match attempt.reserve() {
            _ if !around.is_settled() || *purpose == HoldPurpose::Return => Verdict::Hold,
            Some(reserve) => judge_at_sight(reserve, see),
            // Units of the order itself may be on their way back, and are published when they are durable: only their
            // shard can tell, which hears of them first.
            None if !is_asked => Verdict::Unclear(lines.iter().map(|line| line.sku_id.clone()).collect()),
            None => match short_at_sight(lines, short, |sku_id| state.owns(sku_id), see) {
                short if short.is_empty() => Verdict::Hold,
                short => Verdict::Refused(Refusal::LatePaymentNoStock { lines: short }),
            },
        };
        let mut asked: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
        match verdict {
            Verdict::Hold => {}
            Verdict::Refused(refusal) => return self.finish(order_no, Err(refusal)),
            // Once: what is not clear then, whoever is to hold it says.
            Verdict::Unclear(_) if is_asked => {}
            Verdict::Unclear(skus) => {
                for sku_id in skus.into_iter().filter(|sku_id| !state.owns(sku_id)) {
                    let skus = asked.entry(state.shard_of(&sku_id)).or_default();
                    if !skus.contains(&sku_id) {
                        skus.push(sku_id);
                    }
                }
            }
        }
        if asked.is_empty() {
            return self.hold(state, around, order_no);
        }
        let waiting = asked.keys().copied().collect();
        attempt.stage = Stage::Looking { waiting, looked: BTreeMap::new(), is_asked: true };
        for (shard, skus) in asked {
            self.out.sends.push((shard, Message::Look { order_no: order_no.clone(), skus }));
        }
    }

    /// Asks the participants to hold.
    fn hold(&mut self, state: &State, around: &impl Surroundings, order_no: &OrderNo) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        attempt.id = around.new_attempt();
        self.tally.attempts += 1;
        let looked = match &mut attempt.stage {
            Stage::Looking { looked, .. } => std::mem::take(looked),
            Stage::Telling | Stage::Holding { .. } | Stage::Abandoning { .. } => BTreeMap::new(),
        };
        let stocks = |sku_id: &SkuId| see(state, around, &looked, sku_id).stocks();
        let request = match attempt.reserve() {
            Some(reserve) => hinted(reserve, stocks),
            None => attempt.more(order_no, |sku_id| !state.owns(sku_id)),
        };
        attempt.groups = groups(&request, |sku_id| state.shard_of(sku_id));
        if let Some(reserve) = reserve_of(&attempt.command).filter(|reserve| reserve.choice.is_some()) {
            let skus = reserve.lines.as_slice().iter().map(|line| &line.sku_id);
            let foreign = skus.filter(|sku_id| !state.owns(sku_id));
            let place = |sku_id: &SkuId| (sku_id.clone(), first_place(reserve, &stocks(sku_id)));
            attempt.nowhere = foreign.map(place).collect();
        }
        let mut known = vec![attempt.id];
        if let Some(span) = state.span_of(order_no) {
            known.push(span.attempt);
            known.extend(span.pending.iter().map(|decision| decision.attempt));
        }
        let mut waiting = BTreeSet::new();
        for group in attempt.groups.iter().filter(|group| group.shard != self.shard) {
            waiting.insert(group.shard);
            let request = HoldRequest {
                reserve: group.reserve.clone(),
                attempt: attempt.id,
                coordinator: self.shard,
                purpose: attempt.first.purpose,
                known: known.clone(),
            };
            self.out.sends.push((group.shard, Message::Hold(Box::new(request))));
        }
        attempt.stage = Stage::Holding { waiting, answers: BTreeMap::new() };
    }

    /// A message for this coordinator.
    pub fn on(
        &mut self,
        state: &mut State,
        around: &impl Surroundings,
        from: ShardId,
        message: Message,
        time: Timestamp,
        now: Moment,
    ) {
        match message {
            Message::Looked { order_no, found } => self.on_looked(state, around, from, &order_no, found),
            Message::Held { order_no, attempt, outcome } => {
                self.on_held(state, from, &order_no, attempt, outcome, time, now);
            }
            Message::Abandoned { order_no, attempt } => {
                self.on_abandoned(from, &order_no, attempt);
            }
            Message::Done { order_no, seq, attempt, serials } => {
                self.on_done(state, from, order_no, attempt, seq, serials, now);
            }
            Message::Ask { order_no, attempt, seq } => {
                let is_known = self.attempts.get(&order_no).is_some_and(|known| known.is_wanted(attempt))
                    || state.span_of(&order_no).is_some_and(|span| span.knows(attempt));
                let answer = match planted!("attempt-forgotten", false, is_known) {
                    true => Message::Keep { order_no: order_no.clone(), attempt },
                    false => Message::Abandon { order_no: order_no.clone(), attempt },
                };
                self.out.sends.push((from, answer));
                let waits = |span: &crate::contract::image::Span| {
                    let mut pending = span.pending.iter();
                    pending.any(|decision| decision.attempt == attempt && decision.waiting.contains(&from))
                };
                if state.span_of(&order_no).is_some_and(|span| !waits(span)) {
                    self.out.sends.push((from, Message::Heard { order_no, attempt, seq }));
                }
            }
            Message::Look { .. }
            | Message::Hold(_)
            | Message::Abandon { .. }
            | Message::Instruct(_)
            | Message::Heard { .. }
            | Message::Keep { .. } => {}
        }
    }

    fn on_looked(
        &mut self,
        state: &State,
        around: &impl Surroundings,
        from: ShardId,
        order_no: &OrderNo,
        found: Result<Vec<(SkuId, Vec<StockView>)>, Refusal>,
    ) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        let Stage::Looking { waiting, looked, .. } = &mut attempt.stage else { return };
        if !waiting.remove(&from) {
            return;
        }
        match found {
            Ok(stocks) => looked.extend(stocks),
            Err(refusal) => return self.finish(order_no, Err(refusal)),
        }
        if waiting.is_empty() {
            self.look(state, around, order_no);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a message, and all that it is decided with")]
    fn on_held(
        &mut self,
        state: &mut State,
        from: ShardId,
        order_no: &OrderNo,
        id: AttemptId,
        outcome: GroupAnswer,
        time: Timestamp,
        now: Moment,
    ) {
        let attempt = self.attempts.get_mut(order_no).filter(|attempt| attempt.id == id);
        if let Some(Stage::Holding { waiting, answers }) = attempt.map(|attempt| &mut attempt.stage)
            && waiting.remove(&from)
        {
            answers.insert(from, outcome);
            if waiting.is_empty() {
                self.conclude(state, order_no, time, now);
            }
            return;
        }
        // It came too late, or twice.
        let is_wanted = self.attempts.get(order_no).is_some_and(|attempt| attempt.is_wanted(id));
        let is_known = is_wanted || state.span_of(order_no).is_some_and(|span| span.knows(id));
        if outcome.is_ok() && planted!("late-hold-kept", false, !is_known) {
            let order_no = order_no.clone();
            self.out.sends.push((from, Message::Abandon { order_no, attempt: id }));
        }
    }

    /// Every participant has answered, or its time is over.
    fn conclude(&mut self, state: &mut State, order_no: &OrderNo, time: Timestamp, now: Moment) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        let Stage::Holding { answers, .. } = &mut attempt.stage else { return };
        let id = attempt.id;
        if let Some(reserve) = reserve_of(&attempt.command) {
            if let Some(own) = attempt.groups.iter().find(|group| group.shard == self.shard) {
                // What left memory meanwhile is not there for want of stock.
                let skus = || own.reserve.lines.as_slice().iter().map(|line| &line.sku_id);
                let is_here = skus().all(|sku_id| state.is_resident(sku_id));
                let held = if is_here { state.hold_lines(&own.reserve) } else { Err(Refusal::Overloaded) };
                answers.insert(self.shard, held);
            }
            let nowhere = |sku_id: &SkuId| match state.owns(sku_id) {
                true => first_place(reserve, &state.stocks_of_sku(sku_id)),
                false => attempt.nowhere.get(sku_id).copied().unwrap_or(first_place(reserve, &[])),
            };
            let event = match judge_reserve(reserve, &attempt.groups, answers, nowhere) {
                Ok(mut lines) => {
                    // What got nothing here stands with the levels as they are.
                    let here = lines.iter_mut().filter(|line| line.after.is_none());
                    for line in here.filter(|line| state.owns(&line.sku_id)) {
                        line.after = state.levels_of(&line.sku_id, line.warehouse_id);
                    }
                    let change = state.decide_reserved(reserve, id, lines);
                    Event { trace: attempt.command.trace(), ..state.event(change, time) }
                }
                Err(refusal) => {
                    return self.abandon(order_no, Err(refusal), now);
                }
            };
            let answer = apply(state, &mut self.out.events, event);
            self.tally.made += 1;
            return self.finish(order_no, Ok(answer));
        }
        let HoldFirst { lines, short, purpose } = &attempt.first;
        if let Some(refusal) = judge_more(lines, short, &attempt.groups, answers) {
            let refusal = match (purpose, refusal) {
                // What it sold is there, or its rows are not what they were.
                (HoldPurpose::Return, Refusal::LatePaymentNoStock { .. }) => Refusal::Overloaded,
                (_, refusal) => refusal,
            };
            return self.abandon(order_no, Err(refusal), now);
        }
        let lines = lines.iter().filter(|line| !state.owns(&line.sku_id)).cloned().collect();
        let outcome = match state.decide_with(&attempt.command, Some(&Elsewhere { attempt: id, lines }), time)
        {
            Decision::Log(event) => {
                let answer = apply(state, &mut self.out.events, event);
                // Who waits for it, waits for the participants too.
                let Some(attempt) = self.take(order_no) else { return };
                return self.propagate(state, order_no, Some((attempt, Ok(answer))), now);
            }
            // It left memory meanwhile: it has to be asked for again. (That it needs other units than it did can't be:
            // whatever changes the order waits behind this.)
            Decision::Answer(Err(Refusal::UnknownOrder { .. })) | Decision::HoldFirst(_) => {
                Err(Refusal::Overloaded)
            }
            Decision::Answer(outcome) => outcome,
        };
        self.abandon(order_no, outcome, now);
    }

    /// Those that hold something, or may, let go; then the caller is told.
    fn abandon(&mut self, order_no: &OrderNo, outcome: Outcome, now: Moment) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        let mut holding = BTreeSet::new();
        if let Stage::Holding { waiting, answers } = &attempt.stage {
            holding.clone_from(waiting);
            let may_hold = |answer: &GroupAnswer| match answer {
                Ok(_) => true,
                Err(refusal) => matches!(refusal, Refusal::ShardRestarted),
            };
            let holders = answers.iter().filter(|(shard, answer)| **shard != self.shard && may_hold(answer));
            holding.extend(holders.map(|(shard, _)| *shard));
        }
        for shard in &holding {
            let (order_no, attempt) = (order_no.clone(), attempt.id);
            self.out.sends.push((*shard, Message::Abandon { order_no, attempt }));
        }
        self.tally.abandoned += u64::from(!holding.is_empty());
        if holding.is_empty() {
            return self.finish(order_no, outcome);
        }
        attempt.stage = Stage::Abandoning { waiting: holding, outcome };
        self.timers.remove(&(attempt.until, order_no.clone(), Timer::Attempt));
        attempt.until = now.plus(ABANDON_WAIT_MILLIS);
        self.timers.insert((attempt.until, order_no.clone(), Timer::Attempt));
    }

    fn on_abandoned(&mut self, from: ShardId, order_no: &OrderNo, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(order_no).filter(|attempt| attempt.id == id) else {
            return;
        };
        let Stage::Abandoning { waiting, .. } = &mut attempt.stage else { return };
        if waiting.remove(&from) && waiting.is_empty() {
            self.abandoned(order_no);
        }
    }

    /// Nobody holds anything for it any more, or it was waited for long enough: whoever does still is told so when it
    /// answers.
    fn abandoned(&mut self, order_no: &OrderNo) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        if let Stage::Abandoning { outcome, .. } = &mut attempt.stage {
            let outcome = std::mem::replace(outcome, Err(Refusal::Overloaded));
            self.finish(order_no, outcome);
        }
    }

    /// The attempt has come to its end; gives who waits for it. Those that waited behind it come next.
    fn take(&mut self, order_no: &OrderNo) -> Option<C> {
        let attempt = self.remove(order_no)?;
        self.out.ready.extend(attempt.queue);
        Some(attempt.caller)
    }

    fn remove(&mut self, order_no: &OrderNo) -> Option<Attempt<C>> {
        let attempt = self.attempts.remove(order_no)?;
        self.timers.remove(&(attempt.until, order_no.clone(), Timer::Attempt));
        for line in attempt.wanted() {
            if let Some(count) = self.pinned.get_mut(&line.sku_id) {
                *count -= 1;
                if *count == 0 {
                    self.pinned.remove(&line.sku_id);
                }
            }
        }
        Some(attempt)
    }

    fn finish(&mut self, order_no: &OrderNo, outcome: Outcome) {
        self.tally.refused += u64::from(outcome.is_err());
        if let Some(caller) = self.take(order_no) {
            self.out.answers.push((caller, outcome));
        }
    }

    /// What is due: attempts that nobody answered, participants that were not heard of.
    pub fn on_time(&mut self, state: &mut State, time: Timestamp, now: Moment) {
        while let Some((due, order_no, timer)) = self.timers.first().filter(|(due, ..)| *due <= now).cloned()
        {
            self.timers.remove(&(due, order_no.clone(), timer));
            match timer {
                Timer::Attempt => self.give_up(state, &order_no, time, now),
                Timer::Propagation => self.look_after(state, &order_no, now),
            }
        }
    }

    fn give_up(&mut self, state: &mut State, order_no: &OrderNo, time: Timestamp, now: Moment) {
        let Some(attempt) = self.attempts.get_mut(order_no) else { return };
        match &mut attempt.stage {
            Stage::Telling | Stage::Looking { .. } => self.finish(order_no, Err(Refusal::Overloaded)),
            Stage::Holding { waiting, answers } => {
                // Each of them may hold.
                for shard in std::mem::take(waiting) {
                    answers.insert(shard, Err(Refusal::ShardRestarted));
                }
                self.conclude(state, order_no, time, now);
            }
            Stage::Abandoning { .. } => self.abandoned(order_no),
        }
    }

    /// A shard was rebuilt: what it was about to say is lost.
    pub fn on_rebuilt(&mut self, state: &mut State, shard: ShardId, time: Timestamp, now: Moment) {
        let waits = |attempt: &Attempt<C>| match &attempt.stage {
            Stage::Telling => false,
            Stage::Looking { waiting, .. }
            | Stage::Holding { waiting, .. }
            | Stage::Abandoning { waiting, .. } => waiting.contains(&shard),
        };
        let waiting = self.attempts.iter().filter(|(_, attempt)| waits(attempt));
        let orders: Vec<OrderNo> = waiting.map(|(order_no, _)| order_no.clone()).collect();
        for order_no in orders {
            self.give_up(state, &order_no, time, now);
        }
        self.tell_again(state, shard, now);
    }

    /// Nothing can be decided any more: everybody who waits is told so.
    pub fn fail_all(&mut self, undecided: &Refusal, decided: &Refusal) {
        self.timers.clear();
        self.pinned.clear();
        self.acknowledged.clear();
        for (_, attempt) in std::mem::take(&mut self.attempts) {
            let callers = attempt.queue.into_iter().map(|(caller, _)| caller);
            let callers = [attempt.caller].into_iter().chain(callers);
            self.out.answers.extend(callers.map(|caller| (caller, Err(undecided.clone()))));
        }
        let ready = std::mem::take(&mut self.out.ready).into_iter();
        self.out.answers.extend(ready.map(|(caller, _)| (caller, Err(undecided.clone()))));
        for (_, propagation) in std::mem::take(&mut self.propagations) {
            let callers = propagation.into_callers();
            self.out.answers.extend(callers.map(|caller| (caller, Err(decided.clone()))));
        }
    }
}

/// Applies an event that was just decided, and gives what is said of it.
///
/// # Panics
/// When it does not fit: the program is wrong, and the shard must not go on. The supervisor rebuilds it.
fn apply(state: &mut State, events: &mut Vec<Event>, event: Event) -> crate::contract::outcome::Answer {
    if let Err(corruption) = state.apply(state.applied().next(), &event) {
        panic!("shard {}: an event that was just decided does not fit: {corruption}", state.shard());
    }
    let answer = state.answer(&event);
    events.push(event);
    answer
}
