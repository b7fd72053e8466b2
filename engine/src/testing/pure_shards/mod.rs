//! Several shards without threads, clock or disk: their states and coordinators, and the messages between them in a
//! list. A test delivers them in whatever order, twice, or not at all where a shard fails; and moves the time. It does
//! what the driver (`shard/turn`) does, in the same order, one letter a turn or several.
//!
//! What a shard logs is durable when [`sync`](PureShards::sync) says so, or at the end of each turn
//! ([`syncs_at_once`](PureShards::syncs_at_once)). Answers and messages that rest on it wait for that.

mod faults;
mod turn;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::pure_store::{NoStore, PureStore};
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, Lsn, OrderNo, ShardId, SkuId, shard_of, shard_of_order};
use crate::base::limits::ASK_AGAIN_MILLIS;
use crate::contract::checkpoint::CheckpointEnd;
use crate::contract::event::{Change, Event};
use crate::contract::image::Image;
use crate::contract::outcome::{Outcome, StockView};
use crate::contract::subject::Subject;
use crate::machine::coordinator::{Coordinator, Moment, Surroundings};
use crate::machine::inner::InnerCommand;
use crate::machine::message::Message;
use crate::machine::state::{Capture, HoldKey, LeftStock, State};

/// How long units are waited for.
pub const WAIT_MILLIS: u64 = 5_000;

/// Who waits for an answer.
pub type Ticket = usize;

/// What became of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It was not answered yet.
    Waiting,
    /// It was answered.
    Answered(Outcome),
    /// The shard failed that worked on it: what became of it is unknown.
    Lost,
}

/// Something on its way to a shard.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Who gets it.
    pub to: ShardId,
    /// The shard that sent it; `None`: a caller.
    pub from: Option<ShardId>,
    /// What is in it.
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Command(Ticket, InnerCommand),
    Message(Message),
    Rebuilt(ShardId),
}

impl Letter {
    /// In words, for a test that fails.
    #[must_use]
    pub fn describe(&self) -> String {
        let to = self.to;
        match &self.content {
            Content::Command(ticket, command) => format!("to {to}: command {ticket} {command:?}"),
            Content::Message(message) => format!("to {to}: {message:?}"),
            Content::Rebuilt(shard) => format!("to {to}: {shard} was rebuilt"),
        }
    }

    /// The step of an order over several shards that it is (`hold`, `held`, …); of a command, `command`.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match &self.content {
            Content::Command(..) => "command",
            Content::Message(message) => message.step().trim_start_matches("span."),
            Content::Rebuilt(_) => "rebuilt",
        }
    }
}

/// What a shard handed over to the one journal of all, and what waits until that is durable.
#[derive(Debug)]
struct HandOver {
    shard: ShardId,
    /// Events of its log up to here.
    logged: usize,
    left: Vec<LeftStock>,
    views: Vec<StockView>,
    answers: Vec<(Ticket, Outcome)>,
}

struct OneShard {
    state: State,
    coordinator: Coordinator<Ticket>,
    asking: BTreeMap<HoldKey, ShardId>,
    again: Moment,
    pending: Vec<OrderNo>,
    log: Vec<Event>,
    /// Events of `log` that survive a crash.
    durable: usize,
    /// Events of `log` that were handed over.
    handed: usize,
    /// Answers of this turn, and messages to other shards.
    answers: Vec<(Ticket, Outcome)>,
    sends: Vec<(ShardId, Message)>,
    /// As everybody sees them: durable stocks.
    views: BTreeMap<SkuId, Vec<StockView>>,
    /// A checkpoint that is being written, and the newest one that is complete.
    writing: Option<(Capture, Lsn, Vec<Image>)>,
    checkpoint: Option<(Lsn, CheckpointEnd, Vec<Image>)>,
}

/// See the top of the file.
pub struct PureShards<S = NoStore> {
    shards: Vec<OneShard>,
    /// Requests under way for orders that are not there, as in the directory.
    claims: BTreeMap<OrderNo, (ShardId, BTreeSet<Ticket>)>,
    mail: Vec<Letter>,
    /// What was handed over and is not durable, in its order.
    journal: VecDeque<HandOver>,
    /// The wall clock, by which orders expire.
    pub time: Timestamp,
    /// By which things that are under way are timed.
    now: Moment,
    fates: Vec<Fate>,
    attempts: u64,
    /// Everything is durable at the end of each turn.
    pub syncs_at_once: bool,
    /// Orders that are told again in one turn after a start.
    pub told_per_turn: usize,
    /// Writes what happens to the standard error.
    pub tells: bool,
    /// What left memory is in it, and comes from it.
    pub store: S,
}

/// What a coordinator sees of the others.
struct Around {
    views: BTreeMap<SkuId, Vec<StockView>>,
    is_settled: bool,
    attempts: std::cell::Cell<u64>,
}

impl Surroundings for Around {
    fn stocks(&self, sku_id: &SkuId) -> Vec<StockView> {
        self.views.get(sku_id).cloned().unwrap_or_default()
    }

    fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn new_attempt(&self) -> AttemptId {
        self.attempts.set(self.attempts.get() + 1);
        AttemptId(self.attempts.get())
    }
}

impl PureShards {
    /// So many shards that have nothing.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self::with_store(shards, NoStore)
    }
}

impl<S: PureStore> PureShards<S> {
    /// As [`PureShards::new`], with a store.
    #[must_use]
    pub fn with_store(shards: u16, store: S) -> Self {
        let shard = |id| OneShard {
            state: State::with_few(ShardId(id), shards),
            coordinator: Coordinator::new(ShardId(id), WAIT_MILLIS),
            asking: BTreeMap::new(),
            again: Moment::default(),
            pending: Vec::new(),
            log: Vec::new(),
            durable: 0,
            handed: 0,
            answers: Vec::new(),
            sends: Vec::new(),
            views: BTreeMap::new(),
            writing: None,
            checkpoint: None,
        };
        Self {
            shards: (0..shards).map(shard).collect(),
            claims: BTreeMap::new(),
            mail: Vec::new(),
            journal: VecDeque::new(),
            time: Timestamp(1_000_000),
            now: Moment(1),
            fates: Vec::new(),
            attempts: 0,
            syncs_at_once: true,
            told_per_turn: usize::MAX,
            tells: false,
            store,
        }
    }

    fn count(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{}", what());
        }
    }

    /// All shards.
    pub fn ids(&self) -> impl Iterator<Item = ShardId> + use<S> {
        (0..self.count()).map(ShardId)
    }

    /// The state of a shard.
    #[must_use]
    pub fn state(&self, shard: ShardId) -> &State {
        &self.shards[shard.index()].state
    }

    /// Events that a shard logged.
    #[must_use]
    pub fn log(&self, shard: ShardId) -> &[Event] {
        &self.shards[shard.index()].log
    }

    /// What is on its way, oldest first.
    #[must_use]
    pub fn mail(&self) -> &[Letter] {
        &self.mail
    }

    /// Orders that a shard has under way.
    #[must_use]
    pub fn under_way(&self, shard: ShardId) -> usize {
        self.shards[shard.index()].coordinator.under_way()
    }

    /// Holds that a shard has not heard of since it, or their coordinator, began anew.
    #[must_use]
    pub fn asking(&self, shard: ShardId) -> usize {
        self.shards[shard.index()].asking.len()
    }

    /// What became of a command.
    #[must_use]
    pub fn fate(&self, ticket: Ticket) -> &Fate {
        &self.fates[ticket]
    }

    /// The shard that decides for an order, if it is in memory or about to be made.
    #[must_use]
    pub fn coordinator_of(&self, order_no: &OrderNo) -> Option<ShardId> {
        let there = self.shards.iter().map(|shard| &shard.state).find(|state| state.knows_order(order_no));
        there.map(State::shard).or_else(|| Some(self.claims.get(order_no)?.0))
    }

    /// Sends a command to the shard where it is asked first.
    pub fn send(&mut self, command: impl Into<InnerCommand>) -> Ticket {
        let command = command.into();
        let ticket = self.fates.len();
        self.fates.push(Fate::Waiting);
        if let InnerCommand::Public(public) = &command
            && let Err(invalid) = public.validate()
        {
            self.fates[ticket] = Fate::Answered(Err(invalid.into()));
            return ticket;
        }
        let at_first = match command.subject() {
            Subject::Sku { sku_id, .. } => shard_of(sku_id, self.count()),
            Subject::NewOrder { lines, .. } => shard_of(&lines.first().sku_id, self.count()),
            Subject::AnyOrder(order_no) | Subject::Order(order_no) => shard_of_order(order_no, self.count()),
        };
        let known = command.order_no().and_then(|order_no| {
            self.coordinator_of(order_no).or_else(|| self.store.shard_of_order(order_no))
        });
        let to = known.unwrap_or(at_first);
        if let Some(order_no) = command.subject().may_make() {
            self.claims.entry(order_no.clone()).or_insert((to, BTreeSet::new())).1.insert(ticket);
        }
        self.mail.push(Letter { to, from: None, content: Content::Command(ticket, command) });
        ticket
    }

    /// Delivers one letter, in a turn of its own.
    pub fn deliver(&mut self, index: usize) {
        let letter = self.mail.remove(index);
        self.turn(letter.to, vec![letter]);
    }

    /// Delivers letters for one shard in one turn.
    ///
    /// # Panics
    /// When they are for several.
    pub fn deliver_together(&mut self, mut indexes: Vec<usize>) {
        indexes.sort_unstable();
        let mut letters: Vec<_> = indexes.into_iter().rev().map(|index| self.mail.remove(index)).collect();
        letters.reverse();
        let Some(to) = letters.first().map(|letter| letter.to) else { return };
        assert!(letters.iter().all(|letter| letter.to == to), "letters for one shard");
        self.turn(to, letters);
    }

    /// Delivers everything, oldest first, until nothing is on its way.
    pub fn deliver_all(&mut self) {
        while !self.mail.is_empty() {
            self.deliver(0);
        }
    }

    /// A message of a shard comes twice, as those can that are sent again: no coordinator asks twice for the units of
    /// one attempt.
    pub fn duplicate(&mut self, index: usize) {
        if matches!(&self.mail[index].content, Content::Message(message) if !matches!(message, Message::Hold(_)))
        {
            let copy = self.mail[index].clone();
            self.mail.push(copy);
        }
    }

    /// What a shard logged is durable, with everything that was handed over before that; and what waited for it is
    /// answered.
    pub fn sync(&mut self, shard: ShardId) {
        self.hand_over(shard);
        while self.journal.iter().any(|waiting| waiting.shard == shard) {
            let Some(first) = self.journal.pop_front() else { return };
            let HandOver { shard, logged, left, views, answers } = first;
            let one = &mut self.shards[shard.index()];
            one.durable = logged;
            for left in left {
                if let Some(views) = one.views.get_mut(&left.sku_id) {
                    views.retain(|view| view.warehouse_id != left.warehouse_id);
                }
            }
            for view in views {
                let views = one.views.entry(view.sku_id.clone()).or_default();
                views.retain(|known| known.warehouse_id != view.warehouse_id);
                views.push(view);
                views.sort_by_key(|view| view.warehouse_id);
            }
            for (ticket, outcome) in answers {
                self.answer(ticket, outcome);
            }
        }
    }

    /// Gives what a shard has logged, and what it answers, to the journal.
    fn hand_over(&mut self, shard: ShardId) {
        let one = &mut self.shards[shard.index()];
        if one.handed == one.log.len() && one.answers.is_empty() {
            return;
        }
        one.handed = one.log.len();
        let left = one.state.take_left();
        let touched = one.state.take_touched();
        let views = touched.into_iter().map(|number| one.state.stock_view(number)).collect();
        let answers = std::mem::take(&mut one.answers);
        self.journal.push_back(HandOver { shard, logged: one.handed, left, views, answers });
    }

    /// Time goes by: everything that is due is done, in every shard.
    pub fn tick(&mut self, millis: u64) {
        self.time = self.time.plus_millis(millis);
        self.linger(millis);
        self.expire();
    }

    /// Time goes by for what is under way alone.
    pub fn linger(&mut self, millis: u64) {
        self.now = Moment(self.now.0.saturating_add(millis));
        for shard in self.ids() {
            self.look_after(shard);
        }
    }

    /// Orders whose time is over expire; gives them.
    pub fn expire(&mut self) -> Vec<OrderNo> {
        let mut expired = Vec::new();
        for shard in self.ids() {
            while let Some(event) = self.state(shard).next_expiry(self.time) {
                if let Change::Expired { order_no, .. } = &event.change {
                    expired.push(order_no.clone());
                }
                let pending = event.pending_order().cloned();
                let one = &mut self.shards[shard.index()];
                apply(&mut one.state, &mut one.log, event);
                if let Some(order_no) = pending {
                    self.propagate(shard, &order_no);
                }
            }
            self.end_turn(shard);
        }
        expired
    }

    fn propagate(&mut self, shard: ShardId, order_no: &OrderNo) {
        let around = self.around(shard);
        let now = self.now;
        let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
        coordinator.propagate(state, order_no, None, now);
        self.take_effects(shard, around);
    }

    fn look_after(&mut self, shard: ShardId) {
        let (time, now) = (self.time, self.now);
        let one = &mut self.shards[shard.index()];
        if one.again <= now && !one.asking.is_empty() {
            one.again = Moment(now.0.saturating_add(ASK_AGAIN_MILLIS));
            for ((order_no, attempt), to) in one.asking.clone() {
                let seq = one.state.seq_of_hold(&order_no, attempt);
                let content = Content::Message(Message::Ask { order_no, attempt, seq });
                self.mail.push(Letter { to, from: Some(shard), content });
            }
        }
        for _ in 0..self.told_per_turn {
            let Some(order_no) = self.shards[shard.index()].pending.pop() else { break };
            self.propagate(shard, &order_no);
        }
        let around = self.around(shard);
        let OneShard { state, coordinator, .. } = &mut self.shards[shard.index()];
        coordinator.on_time(state, time, now);
        self.take_effects(shard, around);
        self.end_turn(shard);
    }

    fn on_rebuilt(&mut self, shard: ShardId, other: ShardId) {
        let around = self.around(shard);
        let (time, now) = (self.time, self.now);
        let OneShard { state, coordinator, asking, again, .. } = &mut self.shards[shard.index()];
        let of_it = state.hold_keys().filter(|(_, coordinator)| *coordinator == other);
        asking.extend(of_it.map(|(key, coordinator)| (key.clone(), coordinator)));
        *again = Moment::default();
        let around = Around { is_settled: around.is_settled && asking.is_empty(), ..around };
        coordinator.on_rebuilt(state, other, time, now);
        self.take_effects(shard, around);
    }
}

fn apply(state: &mut State, log: &mut Vec<Event>, event: Event) {
    state.apply(state.applied().next(), &event).expect("what was just decided can be applied");
    log.push(event);
}

fn replay(state: &mut State, event: &Event) {
    state.apply(state.applied().next(), event).expect("what was applied can be replayed");
}
