//! Deciding what waits in a shard: an envelope is decided whole, put aside until what it needs was looked for, or put
//! behind another of its batch.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::parts::ShardParts;
use super::super::shared::{Envelope, PinAnswer, Reply, ShardAnswer, claimed, give_back_claims};
use super::super::waiting::{Absent, Held, Learned, Lessons, View};
use super::{Shard, apply};
use crate::clock::Timestamp;
use crate::event::{Change, Event};
use crate::home::HomeChange;
use crate::ids::{OrderNo, SkuId};
use crate::inner::InnerCommand;
use crate::limits::{MAX_COMMANDS_PER_TURN, MAX_TURN_BYTES};
use crate::loader::micros;
use crate::outcome::{Effect, Refusal};
use crate::state::{Decision, Need, State};
use crate::store_link::add;

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
                let is_needed = |sku_id: &&SkuId| {
                    !self.state.is_resident(sku_id) && !crate::state::Stored::lacks_sku(&view, sku_id)
                };
                needs.extend(skus.iter().filter(is_needed).cloned().map(Need::Sku));
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
        // It stays at the front while it is worked on, so that a panic finds it there.
        let count = self.work.front().map_or(0, |(envelope, _)| envelope.commands().len());
        let mut answers = Vec::new();
        let mut one = None;
        for index in 0..count {
            let Some((envelope, lessons)) = self.work.front() else { break };
            let may_claim = !matches!(envelope, Envelope::Branches(..));
            let command = &envelope.commands()[index];
            let (answer, event) =
                run(&self.parts, &mut self.state, &self.absent, lessons, command, may_claim, now);
            if let ShardAnswer::Outcome(Err(refusal)) = &answer {
                tally.refusals += 1;
                if matches!(refusal, Refusal::UnknownSku { .. }) {
                    add(&self.shared.counters.absent_hits, 1);
                }
            }
            if let Some(event) = event {
                tally.bytes += event.weight();
                tally.expired += usize::from(event.is_expiry());
                self.note(&event);
                self.work.events.push(event);
            }
            self.work.front_decided = index + 1;
            if count == 1 { one = Some(answer) } else { answers.push(answer) }
        }
        tally.commands += count;
        self.work.front_decided = 0;
        let reply = match (self.pop_front(), one) {
            (Some(Envelope::One(_, to)), Some(answer)) => Reply::One(to, answer),
            (Some(Envelope::Many(_, _, to) | Envelope::Branches(_, to)), one) => {
                Reply::Many(to, one.map_or(answers, |one| vec![one]))
            }
            (
                Some(
                    Envelope::One(..) | Envelope::Pin { .. } | Envelope::Images { .. } | Envelope::Loaded(_),
                )
                | None,
                _,
            ) => {
                unreachable!("one command has one answer")
            }
        };
        self.work.replies.push(reply);
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
    fn pop_front(&mut self) -> Option<Envelope> {
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
        envelope => {
            let mut skus: Vec<SkuId> =
                envelope.commands().iter().flat_map(|command| command.subject().skus()).cloned().collect();
            skus.sort_unstable();
            skus.dedup();
            skus
        }
    }
}

/// Decides one command and applies its event.
fn run(
    parts: &ShardParts,
    state: &mut State,
    absent: &Absent,
    lessons: Option<&Lessons>,
    command: &InnerCommand,
    may_claim: bool,
    now: Timestamp,
) -> (ShardAnswer, Option<Event>) {
    if let Some(fault) = &parts.before_decide {
        fault(command);
    }
    let (answer, event) = match undecidable(parts, state, absent, lessons, command) {
        Some(answer) => (answer, None),
        None => match state.decide(command, now) {
            Decision::Answer(outcome) => {
                // A SKU that is sold out and asked for all the time stays.
                state.note_use(command);
                (ShardAnswer::Outcome(outcome), None)
            }
            Decision::Elsewhere => (ShardAnswer::NotHere(Box::new(command.clone())), None),
            Decision::Log(Event { change: Change::Reserved { .. }, .. })
                if parts.flushers.is_journal_full() =>
            {
                (ShardAnswer::refused(Refusal::JournalFull), None)
            }
            Decision::Log(event) => match too_old(parts, state, command, now) {
                Some(order_no) => (ShardAnswer::refused(Refusal::OrderTooOld { order_no }), None),
                None => {
                    apply(state, &event);
                    (ShardAnswer::Outcome(Ok(state.answer(&event))), Some(event))
                }
            },
        },
    };
    // Branches have no entry in the directory.
    if may_claim {
        match event.as_ref().map(|event| &event.change) {
            // The entry is the order's own from here on.
            Some(Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. }) => {
                parts.directory.made(order_no)
            }
            Some(Change::Home(change)) if claimed(command).is_some() => {
                if matches!(**change, HomeChange::Reserved { .. }) {
                    parts.directory.own_spanning(change.order_no(), state.shard());
                }
                parts.directory.give_back(change.order_no());
            }
            _ => give_back_claims(std::slice::from_ref(command), &parts.directory),
        }
    }
    (answer, event)
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
