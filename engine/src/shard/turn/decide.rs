//! Deciding what waits in a shard: an envelope is decided whole, put aside until what it needs was looked for, or put
//! behind another of its batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::parts::ShardParts;
use super::super::waiting::{Absent, Held, Learned, Lessons, View};
use super::{Shard, apply};
use crate::base::clock::Timestamp;
use crate::base::ids::{OrderNo, SkuId};
use crate::base::limits::{MAX_COMMANDS_PER_TURN, MAX_TURN_BYTES};
use crate::contract::command::{Action, Command};
use crate::contract::event::{Change, Event};
use crate::contract::outcome::{Effect, Outcome, Refusal};
use crate::machine::coordinator::Coordinator;
use crate::machine::inner::InnerCommand;
use crate::machine::state::{Decision, HoldFirst, Need, State, Stored};
use crate::services::callers::{Caller, Slots};
use crate::services::loader::micros;
use crate::services::shared::{Envelope, Permits, PinAnswer, Reply, ShardAnswer, give_back_claims};
use crate::services::store_link::add;

/// What the commands of one turn came to.
#[derive(Default)]
struct Tally {
    commands: usize,
    /// Envelopes that were put aside.
    aside: usize,
    refusals: u64,
    expired: usize,
    bytes: u64,
}

impl Shard {
    /// Decides what waits for nothing, up to the bounds of a turn; always at least one envelope.
    pub(super) fn decide(&mut self, now: Timestamp) {
        let mut tally = Tally::default();
        let has_room = |tally: &Tally| {
            tally.commands + tally.aside < MAX_COMMANDS_PER_TURN && tally.bytes < MAX_TURN_BYTES
        };
        while has_room(&tally) && self.decide_front(now, &mut tally) {}
        let counters = &self.shared.counters;
        counters.commands.fetch_add(tally.commands as u64, Ordering::Relaxed);
        counters.refusals.fetch_add(tally.refusals, Ordering::Relaxed);
        self.count_expired(tally.expired);
    }

    /// Decides the first envelope, or puts it aside. `false`: there is none.
    fn decide_front(&mut self, now: Timestamp, tally: &mut Tally) -> bool {
        if self.work.ready.is_empty() {
            match self.work.pending.front() {
                None => return false,
                Some(Envelope::Loaded(_)) => {
                    let before = self.work.events.len();
                    if let Some(Envelope::Loaded(answer)) = self.work.pending.pop_front() {
                        self.take_loaded(answer, now);
                    }
                    tally.bytes += self.work.events[before..].iter().map(Event::weight).sum::<u64>();
                    return true;
                }
                Some(_) => {}
            }
        }
        if self.put_behind() || self.put_aside() {
            tally.aside += 1;
            return true;
        }
        match self.work.front().map(|(envelope, _)| envelope) {
            Some(Envelope::Pin { .. }) => self.decide_pin(now),
            Some(Envelope::Images { .. }) => self.show_images(),
            Some(Envelope::Message(..)) => {
                let before = self.work.events.len();
                self.take_message(now);
                tally.commands += 1;
                tally.bytes += self.work.events[before..].iter().map(Event::weight).sum::<u64>();
            }
            Some(Envelope::Rebuilt(shard)) => {
                let shard = *shard;
                drop(self.pop_front());
                self.on_rebuilt(shard, now);
            }
            _ => self.decide_commands(now, tally),
        }
        true
    }

    /// Behind an envelope of the same batch that waits.
    fn put_behind(&mut self) -> bool {
        let work = &mut self.work;
        match work.ready.front() {
            Some(held) if held.is_head() || held.envelope.batch().is_none() => false,
            Some(_) => {
                let Some(held) = work.ready.pop_front() else { return false };
                let (since, until) = (held.since, held.until);
                match work.waiting.put_behind(held.envelope) {
                    None => true,
                    Some(envelope) => {
                        work.ready.push_front(Held::new(envelope, since, until));
                        false
                    }
                }
            }
            None if work.pending.front().is_none_or(|envelope| envelope.batch().is_none()) => false,
            None => match work.pending.pop_front().and_then(|envelope| work.waiting.put_behind(envelope)) {
                None => true,
                Some(envelope) => {
                    work.pending.push_front(envelope);
                    false
                }
            },
        }
    }

    /// The first envelope waits, if its commands need something from the store.
    fn put_aside(&mut self) -> bool {
        let Some((envelope, lessons)) = self.work.front() else { return false };
        let mut needs = Vec::new();
        let view = view(&self.parts, &self.state, &self.absent, lessons);
        match envelope {
            Envelope::Pin { skus, hot: true, .. } => {
                let is_needed =
                    |sku_id: &&SkuId| !self.state.is_resident(sku_id) && !Stored::lacks_sku(&view, sku_id);
                needs.extend(skus.iter().filter(is_needed).cloned().map(Need::Sku));
            }
            Envelope::Message(_, message) => {
                message.skus().for_each(|sku_id| self.state.need_sku(sku_id, &view, &mut needs));
            }
            envelope => {
                envelope.commands().iter().for_each(|command| self.state.needs(command, &view, &mut needs))
            }
        }
        if let Some(lessons) = lessons {
            // What was learned of these does not change by asking again.
            needs.retain(|need| {
                !matches!(lessons.get(need), Some(Learned::Elsewhere(_) | Learned::Refused(_)))
            });
        }
        if needs.is_empty() {
            return false;
        }
        let pins = pins_of(envelope);
        let since = Instant::now();
        let wait = Duration::from_millis(self.parts.options.load_wait_ms);
        let work = &mut self.work;
        let held = work.ready.pop_front();
        let held = held
            .or_else(|| work.pending.pop_front().map(|envelope| Held::new(envelope, since, since + wait)));
        let Some(mut held) = held else { return false };
        if work.waiting.has_room(needs.len()) {
            let new = work.waiting.put(held, needs, pins);
            self.parts.loader.want(self.shared.id, new);
            return true;
        }
        held.lessons.extend(needs.into_iter().map(|need| (need, Learned::Refused(Refusal::Overloaded))));
        work.ready.push_front(held);
        false
    }

    fn decide_commands(&mut self, now: Timestamp, tally: &mut Tally) {
        if matches!(self.work.front(), Some((Envelope::One(..), _))) {
            return self.decide_command(now, tally);
        }
        // It stays at the front while it is worked on, so that a panic finds it there.
        let count = self.work.front().map_or(0, |(envelope, _)| envelope.commands().len());
        let mut answers = Vec::with_capacity(count);
        // Of an envelope of which some commands are answered later.
        let mut slots: Option<Arc<Slots>> = None;
        for index in 0..count {
            let Some((envelope, lessons)) = self.work.front() else { break };
            let command = &envelope.commands()[index];
            let ran =
                run(&self.parts, &mut self.state, &self.coordinator, &self.absent, lessons, command, now);
            match ran {
                Ran::Answered(answer, event) => {
                    settle_claim(&self.parts, command, event.as_ref());
                    self.count(&answer, event.as_ref(), tally);
                    self.take_event(event);
                    answers.push((index, answer));
                    self.work.front_decided = index + 1;
                }
                ran => {
                    let command = command.clone();
                    let slots = Arc::clone(slots.get_or_insert_with(|| Slots::new(count)));
                    let caller = Caller::slot(slots, index, self.claim_of(&command));
                    self.work.front_decided = index + 1;
                    self.defer(caller, command, ran, now);
                }
            }
        }
        tally.commands += count;
        self.work.front_decided = 0;
        let Some(Envelope::Many(_, _, to)) = self.pop_front() else { return };
        let reply = match slots {
            None => Reply::Many(to, answers.into_iter().map(|(_, answer)| answer).collect()),
            Some(slots) => {
                slots.set_caller(to, self.take_permits(count as u64));
                Reply::Slots(slots, answers)
            }
        };
        self.work.replies.push(reply);
    }

    /// The usual case: one command, which can be given away if it is answered later.
    fn decide_command(&mut self, now: Timestamp, tally: &mut Tally) {
        let Some((Envelope::One(command, _), lessons)) = self.work.front() else { return };
        let ran = run(&self.parts, &mut self.state, &self.coordinator, &self.absent, lessons, command, now);
        tally.commands += 1;
        match ran {
            Ran::Answered(answer, event) => {
                settle_claim(&self.parts, command, event.as_ref());
                self.count(&answer, event.as_ref(), tally);
                self.take_event(event);
                self.work.front_decided = 1;
                let popped = self.pop_front();
                self.work.front_decided = 0;
                if let Some(Envelope::One(_, to)) = popped {
                    self.work.replies.push(Reply::One(to, answer));
                }
            }
            ran => {
                let Some(Envelope::One(command, to)) = self.pop_front() else { return };
                let caller = Caller::one(to, self.take_permits(1), self.claim_of(&command));
                self.defer(caller, command, ran, now);
            }
        }
    }

    /// Places in the gate that come back with a later answer.
    fn take_permits(&mut self, count: u64) -> Permits {
        self.work.decided -= count;
        Permits::new(Arc::clone(&self.shared), count)
    }

    fn take_event(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.note(&event);
            self.work.events.push(event);
        }
    }

    fn count(&self, answer: &ShardAnswer, event: Option<&Event>, tally: &mut Tally) {
        if let ShardAnswer::Outcome(Err(refusal)) = answer {
            tally.refusals += 1;
            if matches!(refusal, Refusal::UnknownSku { .. }) {
                add(&self.shared.counters.absent_hits, 1);
            }
        }
        if let Some(event) = event {
            tally.bytes += event.weight();
            tally.expired += usize::from(event.is_expiry());
        }
    }

    /// Decides a command that waited for others about its order. What it needs was looked for; if some of that left
    /// memory meanwhile, it has to come again.
    pub(super) fn run_one(&mut self, command: &InnerCommand, now: Timestamp) -> Ran {
        let mut needs = Vec::new();
        let view = view(&self.parts, &self.state, &self.absent, None);
        self.state.needs(command, &view, &mut needs);
        if !needs.is_empty() {
            return Ran::Answered(ShardAnswer::refused(Refusal::Overloaded), None);
        }
        run(&self.parts, &mut self.state, &self.coordinator, &self.absent, None, command, now)
    }

    fn decide_pin(&mut self, now: Timestamp) {
        let Some((Envelope::Pin { skus, hot, .. }, lessons)) = self.work.front() else { return };
        let hot = *hot;
        let (mut answers, mut changed): (Vec<PinAnswer>, Vec<SkuId>) =
            (Vec::with_capacity(skus.len()), Vec::new());
        for sku_id in skus {
            answers.push(match self.state.decide_pinned(std::slice::from_ref(sku_id), hot) {
                Ok(None) => Ok(Effect::Replayed),
                Ok(Some(_)) => {
                    changed.push(sku_id.clone());
                    Ok(Effect::Changed)
                }
                Err(refusal) => match lessons.and_then(|lessons| lessons.get(&Need::Sku(sku_id.clone()))) {
                    Some(Learned::Refused(refusal)) => Err(refusal.clone()),
                    _ => Err(refusal),
                },
            });
        }
        match self.state.decide_pinned(&changed, hot) {
            Ok(None) => {}
            Ok(Some(change)) => {
                let event = self.state.event(change, now);
                self.apply(event);
            }
            Err(refusal) => {
                answers.iter_mut().filter(|answer| **answer == Ok(Effect::Changed)).for_each(|answer| {
                    *answer = Err(refusal.clone());
                })
            }
        }
        if let Some(Envelope::Pin { to, .. }) = self.pop_front() {
            self.work.replies.push(Reply::Pinned(to, answers));
        }
    }

    /// Answered, like everything, when the last event is durable.
    fn show_images(&mut self) {
        let Some((Envelope::Images { skus, .. }, _)) = self.work.front() else { return };
        let images = skus.iter().flat_map(|sku_id| self.state.images_of_sku(sku_id)).collect();
        let images = Ok((self.state.applied(), images));
        if let Some(Envelope::Images { to, .. }) = self.pop_front() {
            self.work.replies.push(Reply::Images(to, images));
        }
    }

    /// The first envelope was decided.
    pub(super) fn pop_front(&mut self) -> Option<Envelope> {
        let work = &mut self.work;
        let Some(held) = work.ready.pop_front() else {
            let envelope = work.pending.pop_front();
            work.decided += envelope.as_ref().map_or(0, Envelope::permits);
            return envelope;
        };
        work.decided += held.envelope.permits();
        let counters = &self.shared.counters;
        add(&counters.waits, 1);
        add(&counters.wait_micros, micros(held.since.elapsed()));
        if let Some(batch) = held.envelope.batch().filter(|_| held.is_head()) {
            let (since, wait) = (Instant::now(), Duration::from_millis(self.parts.options.load_wait_ms));
            for envelope in work.waiting.follow(batch).into_iter().rev() {
                work.ready.push_front(Held::new(envelope, since, since + wait));
            }
        }
        Some(held.envelope)
    }
}

fn view<'a>(
    parts: &'a ShardParts,
    state: &State,
    absent: &'a Absent,
    lessons: Option<&'a Lessons>,
) -> View<'a> {
    View { known: &parts.known, absent, lessons, departed: state.departed() }
}

/// SKUs that have to stay in memory while an envelope waits for others.
fn pins_of(envelope: &Envelope) -> Vec<SkuId> {
    match envelope {
        Envelope::Pin { skus, .. } => skus.clone(),
        Envelope::Message(_, message) => message.skus().cloned().collect(),
        envelope => {
            let mut skus: Vec<SkuId> =
                envelope.commands().iter().flat_map(|command| command.subject().skus()).cloned().collect();
            skus.sort_unstable();
            skus.dedup();
            skus
        }
    }
}

/// What became of a command.
pub(super) enum Ran {
    /// It is answered, when its event (which is applied) is durable.
    Answered(ShardAnswer, Option<Event>),
    /// It is decided, and the participants are to be told before it is answered.
    Decided(Outcome, Option<Event>),
    /// Units are to be held in other shards first.
    HoldFirst(Box<HoldFirst>),
    /// Another command about its order is under way.
    Busy,
}

/// Decides one command and applies its event.
fn run(
    parts: &ShardParts,
    state: &mut State,
    coordinator: &Coordinator<Caller>,
    absent: &Absent,
    lessons: Option<&Lessons>,
    command: &InnerCommand,
    now: Timestamp,
) -> Ran {
    if let Some(fault) = &parts.before_decide {
        fault(command);
    }
    let reads = matches!(command, InnerCommand::Public(Command { action: Action::GetOrder(_), .. }));
    let order_no = command.order_no().filter(|_| !reads && coordinator.under_way() > 0);
    if order_no.is_some_and(|order_no| coordinator.is_busy(order_no)) {
        return Ran::Busy;
    }
    let is_told = order_no.is_some_and(|order_no| coordinator.is_propagating(order_no));
    let refused = |refusal| Ran::Answered(ShardAnswer::refused(refusal), None);
    match undecidable(parts, state, absent, lessons, command) {
        Some(answer) => Ran::Answered(answer, None),
        None => match state.decide(command, now) {
            Decision::Answer(outcome) => {
                // A SKU that is sold out and asked for all the time stays.
                state.note_use(command);
                match is_told && outcome.is_ok() {
                    // A repeat is answered when everything is true that it tells.
                    true => Ran::Decided(outcome, None),
                    false => Ran::Answered(ShardAnswer::Outcome(outcome), None),
                }
            }
            Decision::HoldFirst(_) if is_reserve(command) && parts.flusher.is_journal_full() => {
                refused(Refusal::JournalFull)
            }
            Decision::HoldFirst(first) => match too_old(parts, state, command, now) {
                Some(order_no) => refused(Refusal::OrderTooOld { order_no }),
                None => Ran::HoldFirst(first),
            },
            Decision::Log(Event { change: Change::Reserved { .. }, .. })
                if parts.flusher.is_journal_full() =>
            {
                refused(Refusal::JournalFull)
            }
            Decision::Log(event) => match too_old(parts, state, command, now) {
                Some(order_no) => refused(Refusal::OrderTooOld { order_no }),
                None => {
                    apply(state, &event);
                    let outcome = Ok(state.answer(&event));
                    match event.pending_order() {
                        Some(_) => Ran::Decided(outcome, Some(event)),
                        None => Ran::Answered(ShardAnswer::Outcome(outcome), Some(event)),
                    }
                }
            },
        },
    }
}

/// The claim of a command that is answered: the entry is the order's own from here on, if it made one.
fn settle_claim(parts: &ShardParts, command: &InnerCommand, event: Option<&Event>) {
    match event.and_then(Event::made_order) {
        Some(order_no) => parts.directory.made(order_no),
        None => give_back_claims(std::slice::from_ref(command), &parts.directory),
    }
}

fn is_reserve(command: &InnerCommand) -> bool {
    matches!(command, InnerCommand::Public(Command { action: Action::Reserve(_), .. }))
}

/// The order that a caller's command would change, if its rows may go before the change is flushed.
fn too_old(parts: &ShardParts, state: &State, command: &InnerCommand, now: Timestamp) -> Option<OrderNo> {
    let order_no = command.order_no()?;
    let ended_at = state.ended_at(order_no)?;
    (!parts.retention.may_change(ended_at, now)).then(|| order_no.clone())
}

/// What is answered to a command that can't be decided here.
fn undecidable(
    parts: &ShardParts,
    state: &State,
    absent: &Absent,
    lessons: Option<&Lessons>,
    command: &InnerCommand,
) -> Option<ShardAnswer> {
    if let Some(lessons) = lessons.filter(|lessons| !lessons.is_empty()) {
        let mut needs = Vec::new();
        state.needs(command, &view(parts, state, absent, Some(lessons)), &mut needs);
        if let Some(need) = needs.first() {
            return Some(match (lessons.get(need), need) {
                (Some(Learned::Elsewhere(shard)), _) => {
                    ShardAnswer::Elsewhere { shard: *shard, command: Box::new(command.clone()) }
                }
                (Some(Learned::Refused(refusal)), _) => ShardAnswer::refused(refusal.clone()),
                (Some(Learned::Absent(_)) | None, _) => ShardAnswer::refused(Refusal::Overloaded),
            });
        }
    }
    None
}
