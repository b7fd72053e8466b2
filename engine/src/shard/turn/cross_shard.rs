//! Orders over several shards in the turn of a shard: runs the [`Coordinator`] of those that are decided here, and does
//! what the coordinators of others ask ([`Message`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::parts::ShardParts;
use super::super::waiting::{Learned, Lessons};
use super::Shard;
use super::decide::Ran;
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, OrderNo, ShardId, SkuId};
use crate::base::limits::{ASK_AGAIN_MILLIS, MAX_ASKS_PER_TURN};
use crate::contract::outcome::{Outcome, Refusal, StockView};
use crate::machine::coordinator::{Effects, Moment, Surroundings, Tally};
use crate::machine::inner::InnerCommand;
use crate::machine::message::{HoldRequest, Instruction, Message};
use crate::machine::state::{Need, State};
use crate::services::callers::{Caller, Claim};
use crate::services::shared::{Envelope, Reply, ShardShared, claimed};
use crate::services::store_link::add;

/// Holds whose coordinators are asked whether they know them, because one of the two shards began anew; and orders
/// whose participants are told again for that reason.
pub(super) struct Asking {
    holds: BTreeMap<(OrderNo, AttemptId), ShardId>,
    /// When those that were not heard of are asked again.
    again: Moment,
    /// The last that was asked in this round.
    asked: Option<(OrderNo, AttemptId)>,
    pending: Vec<OrderNo>,
}

impl Asking {
    /// After a start or a rebuild: everything.
    pub fn of(state: &State, shared: &ShardShared, parts: &ShardParts) -> Self {
        let keys = state.hold_keys().map(|(key, shard)| (key.clone(), shard));
        let holds: BTreeMap<_, _> = planted!("holds-not-asked", BTreeMap::new(), keys.collect());
        publish(&holds, shared, parts);
        let pending = planted!("decisions-not-repeated", Vec::new(), state.pending_orders());
        Self { holds, again: Moment::default(), asked: None, pending }
    }
}

/// Tells everybody how many holds were not heard of.
fn publish(holds: &BTreeMap<(OrderNo, AttemptId), ShardId>, shared: &ShardShared, parts: &ShardParts) {
    let now = holds.len() as u64;
    let before = shared.asking.swap(now, Ordering::AcqRel);
    parts.unsettled.fetch_add(now, Ordering::AcqRel);
    parts.unsettled.fetch_sub(before, Ordering::AcqRel);
}

/// What the coordinator sees of the other shards.
struct Around<'a>(&'a ShardParts);

impl Surroundings for Around<'_> {
    fn stocks(&self, sku_id: &SkuId) -> Vec<StockView> {
        self.0.views.stock(sku_id, None)
    }

    fn is_settled(&self) -> bool {
        self.0.unsettled.load(Ordering::Acquire) == 0
    }

    fn new_attempt(&self) -> AttemptId {
        AttemptId(self.0.attempts.fetch_add(1, Ordering::Relaxed))
    }
}

impl Shard {
    fn moment(&self) -> Moment {
        Moment(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// What is due, after a start too. `true`: there is more.
    pub(super) fn look_after_cross_shard(&mut self, now: Timestamp) -> bool {
        let more = self.ask_after_holds() | self.tell_pending(now);
        if self.coordinator.under_way() > 0 {
            let moment = self.moment();
            self.coordinator.on_time(&mut self.state, now, moment);
            self.take_effects(now);
        }
        more
    }

    fn ask_after_holds(&mut self) -> bool {
        if self.asking.holds.is_empty() {
            return false;
        }
        let moment = self.moment();
        if self.asking.asked.is_none() && moment < self.asking.again {
            return false;
        }
        let from = match self.asking.asked.take() {
            Some(last) => std::ops::Bound::Excluded(last),
            None => std::ops::Bound::Unbounded,
        };
        let some = self.asking.holds.range((from, std::ops::Bound::Unbounded)).take(MAX_ASKS_PER_TURN);
        let some: Vec<_> = some.map(|(key, shard)| (key.clone(), *shard)).collect();
        add(&self.parts.cross_shard.asked, some.len() as u64);
        let more = some.len() == MAX_ASKS_PER_TURN;
        self.asking.asked = some.last().filter(|_| more).map(|(key, _)| key.clone());
        self.asking.again = Moment(moment.0.saturating_add(ASK_AGAIN_MILLIS));
        for ((order_no, attempt), coordinator) in some {
            let seq = self.state.seq_of_hold(&order_no, attempt);
            self.work.sends.push((coordinator, Message::Ask { order_no, attempt, seq }));
        }
        more
    }

    /// Decisions from before the start are told again.
    fn tell_pending(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_ASKS_PER_TURN {
            let Some(order_no) = self.asking.pending.pop() else { return false };
            self.propagate(&order_no, None, now);
        }
        true
    }

    /// A participant heard of a hold.
    fn is_heard_of(&mut self, order_no: &OrderNo, attempt: AttemptId) {
        if !self.asking.holds.is_empty() && self.asking.holds.remove(&(order_no.clone(), attempt)).is_some() {
            publish(&self.asking.holds, &self.shared, &self.parts);
        }
    }

    /// Another shard was rebuilt: whatever it coordinated is asked after, what it was asked is asked again.
    pub(super) fn on_rebuilt(&mut self, shard: ShardId, now: Timestamp) {
        let of_it = self.state.hold_keys().filter(|(_, coordinator)| *coordinator == shard);
        self.asking.holds.extend(of_it.map(|(key, coordinator)| (key.clone(), coordinator)));
        self.asking.again = Moment::default();
        publish(&self.asking.holds, &self.shared, &self.parts);
        let moment = self.moment();
        self.coordinator.on_rebuilt(&mut self.state, shard, now, moment);
        self.take_effects(now);
    }

    /// A command needs units of other shards, or waits for others about its order.
    pub(super) fn defer(&mut self, caller: Caller, command: InnerCommand, ran: Ran, now: Timestamp) {
        let moment = self.moment();
        match ran {
            Ran::Busy => {
                if let Some(order_no) = command.order_no().cloned() {
                    self.coordinator.enqueue(&order_no, caller, command);
                }
            }
            Ran::HoldFirst(first) => {
                let around = Around(&self.parts);
                self.coordinator.begin(&self.state, &around, caller, command, *first, moment);
            }
            Ran::Decided(outcome, event) => {
                if let Some(event) = event {
                    self.note(&event);
                    self.work.events.push(event);
                }
                match command.order_no() {
                    Some(order_no) => {
                        self.coordinator.propagate(&self.state, order_no, Some((caller, outcome)), moment);
                    }
                    None => {
                        self.work.rests_on_others = true;
                        self.work.replies.push(Reply::Caller(caller, outcome));
                    }
                }
            }
            Ran::Answered(answer, event) => {
                if let Some(event) = event {
                    if let Some(order_no) = event.made_order() {
                        self.parts.directory.own(order_no, self.shared.id);
                    }
                    self.note(&event);
                    self.work.events.push(event);
                }
                self.work.rests_on_others = true;
                self.work.replies.push(Reply::Deferred(caller, answer));
            }
        }
        self.take_effects(now);
    }

    pub(super) fn propagate(
        &mut self,
        order_no: &OrderNo,
        answer: Option<(Caller, Outcome)>,
        now: Timestamp,
    ) {
        let moment = self.moment();
        self.coordinator.propagate(&self.state, order_no, answer, moment);
        self.take_effects(now);
    }

    /// At the end of a turn: what participants acknowledged in it is one event.
    pub(super) fn log_acknowledged(&mut self, now: Timestamp) {
        if self.coordinator.under_way() > 0 {
            let moment = self.moment();
            self.coordinator.log_acknowledged(&mut self.state, now, moment);
            self.take_effects(now);
        }
    }

    /// Does what the coordinator wants done.
    fn take_effects(&mut self, now: Timestamp) {
        loop {
            let Effects { events, sends, answers, ready } = std::mem::take(&mut self.coordinator.out);
            for event in events {
                self.note(&event);
                self.work.events.push(event);
            }
            self.work.sends.extend(sends);
            self.work.rests_on_others |= !answers.is_empty();
            let reply = |(caller, outcome)| Reply::Caller(caller, outcome);
            self.work.replies.extend(answers.into_iter().map(reply));
            if ready.is_empty() {
                break;
            }
            for (caller, command) in ready {
                let ran = self.run_one(&command, now);
                self.defer(caller, command, ran, now);
            }
        }
        self.publish_tally();
    }

    fn publish_tally(&mut self) {
        let tally = std::mem::take(&mut self.coordinator.tally);
        let counters = &self.parts.cross_shard;
        let Tally { made, refused, overloaded, attempts, abandoned, instructions, repeated } = tally;
        let counted: [(&AtomicU64, u64); 7] = [
            (&counters.made, made),
            (&counters.refused, refused),
            (&counters.overloaded, overloaded),
            (&counters.attempts, attempts),
            (&counters.abandoned, abandoned),
            (&counters.instructions, instructions),
            (&counters.repeated, repeated),
        ];
        for (counter, count) in counted.into_iter().filter(|(_, count)| *count > 0) {
            add(counter, count);
        }
    }

    /// Nothing is decided any more.
    pub(super) fn fail_cross_shard(&mut self) {
        let (undecided, decided) = match self.parts.fence.check() {
            Err(fenced) if self.parts.poison.get().is_none() => (fenced, Refusal::ShardRestarted),
            _ => (Refusal::JournalUnavailable, Refusal::JournalUnavailable),
        };
        self.coordinator.fail_all(&undecided, &decided);
        let Effects { answers, .. } = std::mem::take(&mut self.coordinator.out);
        answers.into_iter().for_each(|(caller, outcome)| caller.answer(outcome));
    }

    /// The claim that a command came with.
    pub(super) fn claim_of(&self, command: &InnerCommand) -> Option<Claim> {
        let order_no = claimed(command)?.clone();
        Some(Claim::new(std::sync::Arc::clone(&self.parts.directory), order_no))
    }

    /// Gives back what is held for an attempt that came to nothing.
    fn let_go(&mut self, order_no: &OrderNo, attempt: AttemptId, now: Timestamp) {
        let Some(change) = self.state.decide_abandoned(order_no, attempt) else { return };
        self.apply(self.state.event(change, now));
        if self.asking.holds.contains_key(&(order_no.clone(), attempt)) {
            add(&self.parts.cross_shard.released, 1);
            tracing::info!(?order_no, "units that were held for an order that was not made are released");
        }
    }

    /// The first envelope is a message of another shard.
    pub(super) fn take_message(&mut self, now: Timestamp) {
        let refused = self.work.front().and_then(|(envelope, lessons)| match envelope {
            Envelope::Message(_, message) => refused_load(message, lessons),
            _ => None,
        });
        let Some(Envelope::Message(from, message)) = self.pop_front() else { return };
        self.parts.failpoints.reach(message.step());
        match message {
            Message::Look { order_no, skus } => {
                let stocks = |sku_id: SkuId| {
                    let stocks = self.state.stocks_of_sku(&sku_id);
                    (sku_id, stocks)
                };
                let found = skus.into_iter().map(stocks).collect();
                let found = refused.map_or(Ok(found), Err);
                self.work.sends.push((from, Message::Looked { order_no, found }));
            }
            Message::Hold(request) => self.take_hold(from, &request, refused, now),
            Message::Abandon { order_no, attempt } => {
                self.let_go(&order_no, attempt, now);
                self.is_heard_of(&order_no, attempt);
                self.work.sends.push((from, Message::Abandoned { order_no, attempt }));
            }
            Message::Instruct(instruction) => self.obey(from, *instruction, now),
            Message::Heard { order_no, attempt, seq } => {
                if let Some(change) = self.state.decide_heard(&order_no, attempt, seq) {
                    self.apply(self.state.event(change, now));
                }
            }
            Message::Keep { order_no, attempt } => {
                planted!("kept-hold-let-go", self.let_go(&order_no, attempt, now), ());
                self.is_heard_of(&order_no, attempt);
            }
            Message::Looked { .. }
            | Message::Held { .. }
            | Message::Abandoned { .. }
            | Message::Done { .. }
            | Message::Ask { .. } => {
                let moment = self.moment();
                self.coordinator.on(&mut self.state, &Around(&self.parts), from, message, now, moment);
                self.take_effects(now);
            }
        }
    }

    fn take_hold(&mut self, from: ShardId, request: &HoldRequest, refused: Option<Refusal>, now: Timestamp) {
        let HoldRequest { reserve, attempt, known, .. } = request;
        let order_no = &reserve.order_no;
        let leftovers = self.state.leftovers(request);
        let refused = leftovers.as_ref().err().cloned().or(refused);
        // The order must not be short of its own units.
        for other in leftovers.unwrap_or_default() {
            if let Some(change) = self.state.decide_abandoned(order_no, other) {
                self.apply(self.state.event(change, now));
                add(&self.parts.cross_shard.released, 1);
            }
            self.is_heard_of(order_no, other);
        }
        if self.state.has_hold(order_no, *attempt) {
            return;
        }
        let is_new = known.len() <= 1;
        let decided = match refused {
            Some(refusal) => Err(refusal),
            None if is_new && self.parts.flusher.is_journal_full() => Err(Refusal::JournalFull),
            None => self.state.decide_hold(request),
        };
        let outcome = decided.map(|(change, lines)| {
            self.apply(self.state.event(change, now));
            lines
        });
        if outcome.is_err() {
            // SKUs that are sold out and asked for all the time stay.
            self.state.note_uses(reserve.lines.as_slice().iter().map(|line| &line.sku_id));
        }
        let held = Message::Held { order_no: order_no.clone(), attempt: *attempt, outcome };
        self.work.sends.push((from, held));
    }

    fn obey(&mut self, from: ShardId, instruction: Instruction, now: Timestamp) {
        match self.state.decide_instructed(&instruction) {
            Ok(None) => {}
            Ok(Some(change)) => self.apply(self.state.event(change, now)),
            Err(problem) => {
                // It can't be while nobody changes what is stored; going on with the others is the best that can be
                // done.
                add(&self.parts.cross_shard.misfits, 1);
                let order_no = &instruction.order_no;
                tracing::error!(?order_no, problem, "what was decided of an order can't be carried out");
            }
        }
        let Instruction { order_no, attempt, seq, .. } = instruction;
        self.is_heard_of(&order_no, attempt);
        let serials = self.state.serials_of_hold(&order_no, attempt);
        self.work.sends.push((from, Message::Done { order_no, attempt, seq, serials }));
    }
}

/// Why something that a message is about could not be looked for.
fn refused_load(message: &Message, lessons: Option<&Lessons>) -> Option<Refusal> {
    let lessons = lessons.filter(|lessons| !lessons.is_empty())?;
    message.skus().find_map(|sku_id| match lessons.get(&Need::Sku(sku_id.clone())) {
        Some(Learned::Refused(refusal)) => Some(refusal.clone()),
        _ => None,
    })
}
