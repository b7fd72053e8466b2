//! A turn of one of the shards: as the driver's (`shard/turn`), without what that does for callers.

use super::super::pure_store::{PureStore, StoredBy};
use super::{Around, Content, Fate, Letter, OneShard, PureShards, Ticket, apply};
use crate::base::ids::{AttemptId, OrderNo, ShardId};
use crate::contract::command::{Action, Command};
use crate::contract::event::Change;
use crate::contract::outcome::{Outcome, Refusal};
use crate::machine::coordinator::Effects;
use crate::machine::inner::InnerCommand;
use crate::machine::message::{HoldRequest, Instruction, Message};
use crate::machine::state::{Decision, HoldFirst, Need};

/// As in the driver.
pub(super) enum Ran {
    Answered(Outcome),
    Decided(Outcome),
    HoldFirst(Box<HoldFirst>),
    Busy,
}

impl<S: PureStore> PureShards<S> {
    /// One turn of a shard.
    pub(super) fn turn(&mut self, shard: ShardId, letters: Vec<Letter>) {
        for letter in letters {
            self.tell(|| letter.describe());
            match letter.content {
                Content::Command(ticket, command) => self.take_command(shard, ticket, command),
                Content::Message(message) => {
                    let Some(from) = letter.from else { continue };
                    let mut needs = Vec::new();
                    let state = &self.shards[shard.index()].state;
                    let stored = StoredBy(&self.store, shard);
                    message.skus().for_each(|sku_id| state.need_sku(sku_id, &stored, &mut needs));
                    self.bring(shard, needs);
                    self.take_message(shard, from, message);
                }
                Content::Rebuilt(other) => self.on_rebuilt(shard, other),
            }
        }
        self.end_turn(shard);
    }

    /// What is needed comes into memory. (The driver puts the letter aside meanwhile, which here is one of the orders
    /// in which letters can be delivered.)
    pub(super) fn bring(&mut self, shard: ShardId, mut needs: Vec<Need>) {
        self.store.begin(shard);
        while !needs.is_empty() {
            // The store has what is durable.
            if needs.iter().any(|need| self.store.has(shard, need)) {
                self.sync(shard);
            }
            let one = &self.shards[shard.index()];
            match self.store.next_load(shard, &one.state, &one.log[..one.durable], &needs) {
                Some(change) => self.log_change(shard, change),
                None => return,
            }
            let state = &self.shards[shard.index()].state;
            needs.retain(|need| match need {
                Need::Sku(sku_id) => !state.is_resident(sku_id),
                Need::Order(order_no) => !state.knows_order(order_no),
                Need::Request(..) => true,
            });
        }
    }

    pub(super) fn needs_of(&self, shard: ShardId, command: &InnerCommand) -> Vec<Need> {
        let mut needs = Vec::new();
        self.shards[shard.index()].state.needs(command, &StoredBy(&self.store, shard), &mut needs);
        needs
    }

    pub(super) fn take_command(&mut self, shard: ShardId, ticket: Ticket, command: InnerCommand) {
        let needs = self.needs_of(shard, &command);
        self.bring(shard, needs);
        let ran = self.run(shard, &command);
        self.defer(shard, ticket, command, ran);
    }

    pub(super) fn run(&mut self, shard: ShardId, command: &InnerCommand) -> Ran {
        let time = self.time;
        let OneShard { state, coordinator, log, .. } = &mut self.shards[shard.index()];
        let reads = matches!(command, InnerCommand::Public(Command { action: Action::GetOrder(_), .. }));
        let order_no = command.order_no().filter(|_| !reads);
        if order_no.is_some_and(|order_no| coordinator.is_busy(order_no)) {
            return Ran::Busy;
        }
        let is_told = order_no.is_some_and(|order_no| coordinator.is_propagating(order_no));
        match state.decide(command, time) {
            Decision::Answer(outcome) if is_told && outcome.is_ok() => Ran::Decided(outcome),
            Decision::Answer(outcome) => Ran::Answered(outcome),
            Decision::HoldFirst(first) => Ran::HoldFirst(first),
            Decision::Log(event) => {
                apply(state, log, event.clone());
                let outcome = Ok(state.answer(&event));
                match event.pending_order() {
                    Some(_) => Ran::Decided(outcome),
                    None => Ran::Answered(outcome),
                }
            }
        }
    }

    pub(super) fn defer(&mut self, shard: ShardId, ticket: Ticket, command: InnerCommand, ran: Ran) {
        let around = self.around(shard);
        let now = self.now;
        let OneShard { state, coordinator, answers, .. } = &mut self.shards[shard.index()];
        match (ran, command.order_no().cloned()) {
            (Ran::Busy, Some(order_no)) => coordinator.enqueue(&order_no, ticket, command),
            (Ran::HoldFirst(first), _) => coordinator.begin(state, &around, ticket, command, *first, now),
            (Ran::Decided(outcome), Some(order_no)) => {
                coordinator.propagate(state, &order_no, Some((ticket, outcome)), now);
            }
            (Ran::Answered(outcome) | Ran::Decided(outcome), _) => {
                answers.push((ticket, outcome));
            }
            (Ran::Busy, None) => unreachable!("only orders are busy"),
        }
        self.take_effects(shard, around);
    }

    pub(super) fn around(&self, shard: ShardId) -> Around {
        let others = self.shards.iter().filter(|other| other.state.shard() != shard);
        Around {
            views: others.flat_map(|other| other.views.clone()).collect(),
            is_settled: self.shards.iter().all(|shard| shard.asking.is_empty()),
            attempts: self.attempts.into(),
        }
    }

    pub(super) fn take_effects(&mut self, shard: ShardId, around: Around) {
        self.attempts = around.attempts.get();
        loop {
            let Effects { events, sends, answers, ready } =
                std::mem::take(&mut self.shards[shard.index()].coordinator.out);
            let one = &mut self.shards[shard.index()];
            one.log.extend(events);
            one.answers.extend(answers);
            one.sends.extend(sends);
            if ready.is_empty() {
                return;
            }
            for (ticket, command) in ready {
                let ran = match self.needs_of(shard, &command).is_empty() {
                    true => self.run(shard, &command),
                    false => Ran::Answered(Err(Refusal::Overloaded)),
                };
                self.defer(shard, ticket, command, ran);
            }
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        assert_eq!(self.fates[ticket], Fate::Waiting, "a caller is answered once; then {outcome:?}");
        self.end(ticket, Fate::Answered(outcome));
    }

    pub(super) fn end(&mut self, ticket: Ticket, fate: Fate) {
        self.fates[ticket] = fate;
        self.claims.retain(|_, (_, tickets)| {
            tickets.remove(&ticket);
            !tickets.is_empty()
        });
    }

    pub(super) fn take_message(&mut self, shard: ShardId, from: ShardId, message: Message) {
        let (time, now) = (self.time, self.now);
        match message {
            Message::Look { order_no, skus } => {
                let state = &self.shards[shard.index()].state;
                let stocks = |sku_id| {
                    let stocks = state.stocks_of_sku(&sku_id);
                    (sku_id, stocks)
                };
                let found = skus.into_iter().map(stocks).collect();
                self.send_message(shard, from, Message::Looked { order_no, found: Ok(found) });
            }
            Message::Hold(request) => self.take_hold(shard, from, &request),
            Message::Abandon { order_no, attempt } => {
                if let Some(change) = self.state(shard).decide_abandoned(&order_no, attempt) {
                    self.log_change(shard, change);
                }
                self.is_heard_of(shard, &order_no, attempt);
                self.send_message(shard, from, Message::Abandoned { order_no, attempt });
            }
            Message::Instruct(instruction) => self.obey(shard, from, *instruction),
            Message::Heard { order_no, attempt, seq } => {
                if let Some(change) = self.state(shard).decide_heard(&order_no, attempt, seq) {
                    self.log_change(shard, change);
                }
            }
            Message::Keep { order_no, attempt } => self.is_heard_of(shard, &order_no, attempt),
            Message::Looked { .. }
            | Message::Held { .. }
            | Message::Abandoned { .. }
            | Message::Done { .. }
            | Message::Ask { .. } => {
                let around = self.around(shard);
                let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
                coordinator.on(state, &around, from, message, time, now);
                self.take_effects(shard, around);
            }
        }
    }

    pub(super) fn send_message(&mut self, shard: ShardId, to: ShardId, message: Message) {
        self.shards[shard.index()].sends.push((to, message));
    }

    pub(super) fn is_heard_of(&mut self, shard: ShardId, order_no: &OrderNo, attempt: AttemptId) {
        self.shards[shard.index()].asking.remove(&(order_no.clone(), attempt));
    }

    pub(super) fn take_hold(&mut self, shard: ShardId, from: ShardId, request: &HoldRequest) {
        let HoldRequest { reserve, attempt, .. } = request;
        let order_no = &reserve.order_no;
        let leftovers = self.state(shard).leftovers(request);
        let refused = leftovers.as_ref().err().cloned();
        for other in leftovers.unwrap_or_default() {
            if let Some(change) = self.state(shard).decide_abandoned(order_no, other) {
                self.log_change(shard, change);
            }
            self.is_heard_of(shard, order_no, other);
        }
        if self.state(shard).has_hold(order_no, *attempt) {
            return;
        }
        let decided = refused.map_or_else(|| self.state(shard).decide_hold(request), Err);
        let outcome = decided.map(|(change, lines)| {
            self.log_change(shard, change);
            lines
        });
        let held = Message::Held { order_no: order_no.clone(), attempt: *attempt, outcome };
        self.send_message(shard, from, held);
    }

    pub(super) fn obey(&mut self, shard: ShardId, from: ShardId, instruction: Instruction) {
        match self.state(shard).decide_instructed(&instruction) {
            Ok(None) => {}
            Ok(Some(change)) => self.log_change(shard, change),
            Err(problem) => panic!("{instruction:?} can't be carried out: {problem}"),
        }
        let Instruction { order_no, attempt, seq, .. } = instruction;
        self.is_heard_of(shard, &order_no, attempt);
        let serials = self.state(shard).serials_of_hold(&order_no, attempt);
        self.send_message(shard, from, Message::Done { order_no, attempt, seq, serials });
    }

    /// Logs something that no command asked for.
    pub fn log_change(&mut self, shard: ShardId, change: Change) {
        let time = self.time;
        let OneShard { state, log, .. } = &mut self.shards[shard.index()];
        let event = state.event(change, time);
        apply(state, log, event);
    }

    pub(super) fn end_turn(&mut self, shard: ShardId) {
        let around = self.around(shard);
        let (time, now) = (self.time, self.now);
        let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
        coordinator.log_acknowledged(state, time, now);
        self.take_effects(shard, around);
        let departed = self.shards[shard.index()].state.take_departed();
        self.store.departed(shard, departed);
        let one = &self.shards[shard.index()];
        let rests_on_nothing_new = one.durable == one.log.len() && self.journal.is_empty();
        self.hand_over(shard);
        // Behind that: what they cause is handed over later.
        for (to, message) in std::mem::take(&mut self.shards[shard.index()].sends) {
            self.mail.push(Letter { to, from: Some(shard), content: Content::Message(message) });
        }
        if self.syncs_at_once || rests_on_nothing_new {
            self.sync(shard);
        }
    }
}
