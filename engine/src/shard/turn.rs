//! What a shard does when it is woken: expire, name chores, forget, take the mail, decide and apply, let closed SKUs go, write a slice of a running checkpoint,
//! hand over. Never waits; each part is bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shared::{Envelope, Permits, Reply, ShardShared, give_back_claims, has_claim};
use crate::checkpointer::CheckpointMessage;
use crate::checkpoint::CheckpointEnd;
use crate::clock::Timestamp;
use crate::command::{Action, Command, Release};
use crate::context::Context;
use crate::event::{Change, Event};
use crate::home::{DecisionKind, HomeChange};
use crate::ids::Lsn;
use crate::journal::Group;
use crate::limits::{
    CHECKPOINT_ENTRIES_PER_TURN, MAX_CHORES_PER_TURN, MAX_COMMANDS_PER_TURN, MAX_EXPIRIES_PER_TURN, MAX_FORGOTTEN_EVENTS_PER_TURN,
    MAX_LEAVING_EVENTS_PER_TURN, MAX_TURN_BYTES, MAX_UNSYNCED_BYTES,
};
use crate::outcome::{Outcome, Refusal};
use crate::spanning::{Chore, STEP_SPLIT};
use crate::state::{Capture, Decision, State};
use crate::sync::StockCell;
use crate::views::ViewUpdate;
use crate::writer::{HandOver, WriterMessage};

/// The single writer of a shard.
pub(crate) struct Shard {
    context: Arc<Context>,
    shared: Arc<ShardShared>,
    state: State,
    /// The view of each stock, by the stock's number; `bool`: the views know it.
    cells: Vec<(Arc<StockCell>, bool)>,
    work: Work,
    checkpoint: Checkpointing,
}

/// Commands on their way through the shard. When the shard panics its drop tells their callers: replies are
/// dropped (outcome unknown), claims and places in the gate come back.
struct Work {
    context: Arc<Context>,
    shared: Arc<ShardShared>,
    /// Taken from the mailbox, in order.
    pending: VecDeque<Envelope>,
    /// Commands of the first pending envelope that are decided.
    front_decided: usize,
    /// Memory for the next take.
    spare: Vec<Envelope>,
    /// Applied in this turn, not handed over yet.
    events: Vec<Event>,
    replies: Vec<Reply>,
    /// Commands of `replies`.
    decided: u64,
    /// A SKU leaves with these events: the store is to hear of it soon.
    urgent: bool,
}

/// The checkpoint of a shard, as it comes along.
enum Checkpointing {
    None,
    Slices { at: Capture },
    /// All slices are written; it counts when the journal is durable up to its end.
    Written { end: CheckpointEnd },
}

impl Shard {
    pub fn new(context: Arc<Context>, shared: Arc<ShardShared>, mut state: State) -> Self {
        // Whatever was recovered is durable: the views may show it.
        let mut cells = Vec::new();
        for number in state.take_touched() {
            let stock = state.stock_view(number);
            let known = context.views.cell(&stock.sku_id, stock.warehouse_id);
            let new = known.is_none();
            let cell = known.unwrap_or_default();
            context.views.publish(ViewUpdate { cell: Arc::clone(&cell), stock, new });
            let number = number as usize;
            if cells.len() <= number {
                cells.resize_with(number + 1, || (Arc::default(), false));
            }
            cells[number] = (cell, true);
        }
        shared.durable.publish(state.applied().0);
        shared.counters.applied.store(state.applied().0, Ordering::Relaxed);
        let work = Work {
            context: Arc::clone(&context),
            shared: Arc::clone(&shared),
            pending: VecDeque::new(),
            front_decided: 0,
            spare: Vec::new(),
            events: Vec::new(),
            replies: Vec::new(),
            decided: 0,
            urgent: false,
        };
        let shard = Self { context, shared, state, cells, work, checkpoint: Checkpointing::None };
        shard.publish_sizes();
        shard
    }

    /// Makes sure that another turn comes.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// One turn. `true`: there is more to do, another turn is wanted at once.
    pub fn turn(&mut self) -> bool {
        self.shared.mailbox.begin_turn();
        self.shared.counters.turns.fetch_add(1, Ordering::Relaxed);
        if self.context.poison.get().is_some() {
            self.answer_poisoned();
            return false;
        }
        if !self.shared.backlog.may_go_on(MAX_UNSYNCED_BYTES) {
            return false;
        }
        let first = self.state.applied().next();
        let now = self.context.clock.now();
        let more_expire = self.expire(now);
        let more_chores = self.name_chores(now);
        let more_forgotten = self.forget(now);
        self.take_mail();
        self.decide(now);
        // Behind the commands: what they closed begins to leave at once.
        let more_leave = self.leave(now);
        let more_checkpoint = self.checkpoint();
        self.hand_over(first);
        more_expire || more_chores || more_forgotten || more_leave || more_checkpoint || !self.work.pending.is_empty()
    }

    /// `true`: more are due.
    fn expire(&mut self, now: Timestamp) -> bool {
        if let Some(checks) = &self.context.checks {
            // The order service is asked first, as far as there is room; the others stay due.
            let places = checks.places(MAX_EXPIRIES_PER_TURN);
            let due = self.state.take_due_orders(now, places.count());
            let more = due.len() == MAX_EXPIRIES_PER_TURN;
            places.fill(due);
            return more;
        }
        for done in 0..MAX_EXPIRIES_PER_TURN {
            let Some(event) = self.state.next_expiry(now) else {
                self.count_expired(done);
                return false;
            };
            self.apply(event);
        }
        self.count_expired(MAX_EXPIRIES_PER_TURN);
        true
    }

    fn count_expired(&self, orders: usize) {
        self.shared.counters.expired.fetch_add(orders as u64, Ordering::Relaxed);
    }

    /// Names branches that are to ask their home, and orders whose branches are to be told. What finds no room in the queue is named
    /// at the next tick. `true`: there may be more.
    fn name_chores(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_CHORES_PER_TURN {
            let Ok(room) = self.context.chores.try_reserve() else { return false };
            let chore = match self.state.take_due_branches(now, 1).pop() {
                Some(branch) => Some(Chore::Ask(branch)),
                None => self.state.take_unsent(now, 1).pop().map(Chore::Carry),
            };
            let Some(chore) = chore else { return false };
            room.send(chore);
        }
        true
    }

    /// `true`: more is to be forgotten.
    fn forget(&mut self, now: Timestamp) -> bool {
        let options = self.context.options.clone();
        let before = now.minus_millis(options.remember_seconds.saturating_mul(1000));
        for _ in 0..MAX_FORGOTTEN_EVENTS_PER_TURN {
            let forget = self.state.next_forgotten(before, options.remember_max, now, self.shared.flushed_lsn());
            let Some(forget) = forget else { return false };
            let counters = &self.shared.counters;
            counters.forgotten.fetch_add(forget.count as u64, Ordering::Relaxed);
            counters.forgotten_early.fetch_add(forget.early as u64, Ordering::Relaxed);
            self.apply(forget.event);
        }
        true
    }

    /// `true`: more is to leave.
    fn leave(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_LEAVING_EVENTS_PER_TURN {
            let Some(event) = self.state.next_leaving(now) else { return false };
            let step = match &event.change {
                Change::Withdrawn { .. } => {
                    self.work.urgent = true;
                    "demote.withdrawn"
                }
                Change::Split { orders } => {
                    let shard = self.shared.id;
                    orders.iter().for_each(|order_no| self.context.directory.own_spanning(order_no, shard));
                    STEP_SPLIT
                }
                _ => {
                    let lsn = self.state.applied().next();
                    self.shared.shed.store(lsn.0, Ordering::Release);
                    "demote.shed"
                }
            };
            self.apply(event);
            self.context.failpoint(step);
        }
        true
    }

    fn take_mail(&mut self) {
        let work = &mut self.work;
        self.shared.mailbox.take(&mut work.spare);
        if work.pending.is_empty() {
            // The usual case: no envelope is moved, and the memory goes round.
            let mail = VecDeque::from(std::mem::take(&mut work.spare));
            work.spare = Vec::from(std::mem::replace(&mut work.pending, mail));
        } else {
            work.pending.extend(work.spare.drain(..));
        }
    }

    /// Decides what is pending, up to the bounds of a turn; always at least one envelope.
    fn decide(&mut self, now: Timestamp) {
        let (mut commands, mut refusals, mut expired, mut bytes) = (0, 0, 0, 0);
        while commands < MAX_COMMANDS_PER_TURN && bytes < MAX_TURN_BYTES {
            // It stays at the front while it is worked on, so that a panic finds it there.
            let Some(envelope) = self.work.pending.front() else { break };
            let count = envelope.commands().len();
            let mut outcomes = Vec::new();
            let mut one = None;
            for index in 0..count {
                let envelope = &self.work.pending[0];
                let manner = Manner {
                    may_cancel: match envelope {
                        Envelope::Exact { may_cancel, .. } => *may_cancel,
                        Envelope::One(..) | Envelope::Many(..) => !self.context.with_store,
                        Envelope::Branches(..) => true,
                    },
                    may_claim: !matches!(envelope, Envelope::Branches(..)),
                };
                let is_exact = matches!(envelope, Envelope::Exact { .. } | Envelope::Branches(..));
                let command = &envelope.commands()[index];
                let (mut outcome, event) = run(&self.context, &mut self.state, command, manner, now);
                if self.context.with_store && !is_exact {
                    come_back(&mut outcome, command);
                }
                bytes += event.as_ref().map_or(0, Event::weight);
                refusals += u64::from(outcome.is_err());
                expired += usize::from(event.as_ref().is_some_and(Event::is_expiry));
                self.work.events.extend(event);
                self.work.front_decided = index + 1;
                if count == 1 { one = Some(outcome) } else { outcomes.push(outcome) }
            }
            commands += count;
            self.work.decided += count as u64;
            self.work.front_decided = 0;
            let reply = match (self.work.pending.pop_front(), one) {
                (Some(Envelope::One(_, to) | Envelope::Exact { to, .. }), Some(outcome)) => Reply::One(to, outcome),
                (Some(Envelope::Many(_, to) | Envelope::Branches(_, to)), one) => Reply::Many(to, one.map_or(outcomes, |one| vec![one])),
                (Some(Envelope::One(..) | Envelope::Exact { .. }) | None, _) => unreachable!("one command has one outcome"),
            };
            self.work.replies.push(reply);
        }
        let counters = &self.shared.counters;
        counters.commands.fetch_add(commands as u64, Ordering::Relaxed);
        counters.refusals.fetch_add(refusals, Ordering::Relaxed);
        self.count_expired(expired);
    }

    /// Applies an event that no command asked for.
    fn apply(&mut self, event: Event) {
        apply(&mut self.state, &event);
        self.work.events.push(event);
    }

    /// Gives everything that was decided to the journal writer; answers at once what rests on nothing new.
    fn hand_over(&mut self, first: Lsn) {
        let last = self.state.applied();
        self.shared.counters.applied.store(last.0, Ordering::Relaxed);
        self.publish_sizes();
        let permits = Permits::new(Arc::clone(&self.shared), std::mem::take(&mut self.work.decided));
        let replies = std::mem::take(&mut self.work.replies);
        let events = std::mem::take(&mut self.work.events);
        if events.is_empty() && self.shared.durable_lsn() >= last {
            drop(permits);
            replies.into_iter().for_each(|reply| reply.send(&self.context.chores));
            return;
        }
        if events.is_empty() && replies.is_empty() {
            return;
        }
        let bytes = events.iter().map(Event::weight).sum();
        let left = self.state.take_left();
        for stock in &left {
            // Its number may be another stock's by now, which is new to the views.
            if let Some(cell) = self.cells.get_mut(stock.number as usize) {
                *cell = (Arc::default(), false);
            }
        }
        let views = self.view_updates();
        let forgotten = self.state.take_forgotten();
        let group = (!events.is_empty()).then_some(Group { shard: self.shared.id, first, events });
        let shared = Arc::clone(&self.shared);
        shared.backlog.add(bytes);
        let urgent = std::mem::take(&mut self.work.urgent);
        let hand_over = HandOver { shared, group, last, left, views, forgotten, replies, permits, bytes, urgent };
        if let Err(refused) = self.context.inbox.put(WriterMessage::HandOver(hand_over)) {
            // The writer is gone, which happens only behind a panic of its own: nothing more can be made durable.
            refused.fail();
        }
    }

    fn view_updates(&mut self) -> Vec<ViewUpdate> {
        let touched = self.state.take_touched();
        let mut updates = Vec::with_capacity(touched.len());
        for number in touched {
            let index = number as usize;
            if self.cells.len() <= index {
                self.cells.resize_with(index + 1, || (Arc::default(), false));
            }
            let (cell, known) = &mut self.cells[index];
            let stock = self.state.stock_view(number);
            updates.push(ViewUpdate { cell: Arc::clone(cell), stock, new: !*known });
            *known = true;
        }
        updates
    }

    /// A slice of the running checkpoint, or the begin of one that is due. `true`: go on at once.
    fn checkpoint(&mut self) -> bool {
        let messages = &self.context.checkpointer;
        match &mut self.checkpoint {
            Checkpointing::None => {
                let begin = self.state.applied();
                // The place first: what is due or asked for stays so until there is one.
                let Ok(place) = messages.try_reserve() else { return false };
                let Some(asked) = self.checkpoint_due(begin) else { return false };
                place.send(CheckpointMessage::Begin { shard: self.shared.id, begin, asked });
                self.checkpoint = Checkpointing::Slices { at: Capture::default() };
                true
            }
            Checkpointing::Slices { at } => {
                // A full queue: the disk is slower than we are. The next turn looks again; a tick is soon enough.
                let Ok(place) = messages.try_reserve() else { return false };
                match self.state.capture(at, CHECKPOINT_ENTRIES_PER_TURN) {
                    Some(images) => place.send(CheckpointMessage::Slice { shard: self.shared.id, images }),
                    None => {
                        let end = CheckpointEnd { end: self.state.applied(), time: self.state.time() };
                        self.checkpoint = Checkpointing::Written { end };
                    }
                }
                true
            }
            Checkpointing::Written { end } => {
                if self.shared.durable_lsn() < end.end {
                    return false;
                }
                let end = *end;
                if let Ok(place) = messages.try_reserve() {
                    place.send(CheckpointMessage::End { shard: Arc::clone(&self.shared), end });
                    self.checkpoint = Checkpointing::None;
                }
                false
            }
        }
    }

    /// Whether to begin a checkpoint; `Some(true)` when it was asked for.
    fn checkpoint_due(&self, now_at: Lsn) -> Option<bool> {
        let last = self.shared.counters.checkpoint_begun.load(Ordering::Relaxed);
        let events = now_at.0.saturating_sub(last);
        // A large state is written less often, so that checkpoints never write much more than the journal does.
        let sizes = self.state.sizes();
        let due = self.context.options.checkpoint_events.max((sizes.orders + sizes.stocks) as u64);
        let asked = self.shared.checkpoint_asked.swap(false, Ordering::AcqRel);
        let begin = (events >= due || asked) && events > 0;
        if begin {
            self.shared.counters.checkpoint_begun.store(now_at.0, Ordering::Relaxed);
        }
        begin.then_some(events < due)
    }

    /// After a failed write: only what is durable may be read, everything else has an unknown outcome.
    fn answer_poisoned(&mut self) {
        self.take_mail();
        let durable = self.shared.durable_lsn();
        while let Some(envelope) = self.work.pending.pop_front() {
            let count = envelope.commands().len() as u64;
            let _permits = Permits::new(Arc::clone(&self.shared), count);
            give_back_claims(envelope.claiming(), &self.context.directory);
            let outcome = |command: &Command| match &command.action {
                Action::GetOrder(order_no) => match self.state.order(order_no) {
                    Some((lsn, order)) if lsn <= durable => {
                        Ok(crate::outcome::Answer::Order { order, effect: crate::outcome::Effect::Replayed })
                    }
                    _ => Err(Refusal::JournalUnavailable),
                },
                _ => Err(Refusal::JournalUnavailable),
            };
            match envelope {
                Envelope::One(command, to) | Envelope::Exact { command, to, .. } => drop(to.send(outcome(&command))),
                Envelope::Many(commands, to) | Envelope::Branches(commands, to) => {
                    drop(to.send(commands.iter().map(outcome).collect()));
                }
            }
        }
    }

    fn publish_sizes(&self) {
        let sizes = self.state.sizes();
        let counters = &self.shared.counters;
        counters.open_orders.store(sizes.open_orders as u64, Ordering::Relaxed);
        counters.orders.store(sizes.orders as u64, Ordering::Relaxed);
        counters.stocks.store(sizes.stocks as u64, Ordering::Relaxed);
    }
}

/// A reserve of a SKU that is not here may find it elsewhere: it comes back, because its caller kept no copy.
fn come_back(outcome: &mut Outcome, command: &Command) {
    if matches!(outcome, Err(Refusal::UnknownSku { .. })) && matches!(command.action, Action::Reserve(_)) {
        *outcome = Err(Refusal::Moved(Box::new(command.clone())));
    }
}

/// Whether a command would leave a tombstone for an order that the shard does not know.
fn would_cancel(state: &State, command: &Command) -> bool {
    match &command.action {
        Action::Release(Release { order_no, part: None, .. }) => !state.knows_order(order_no),
        _ => false,
    }
}

/// How a command came.
#[derive(Clone, Copy)]
struct Manner {
    /// Otherwise it leaves no tombstone: the store may know the order.
    may_cancel: bool,
    /// A command that can make an order came with a claim in the directory.
    may_claim: bool,
}

/// Decides one command and applies its event.
fn run(
    context: &Context,
    state: &mut State,
    command: &Command,
    Manner { may_cancel, may_claim }: Manner,
    now: Timestamp,
) -> (Outcome, Option<Event>) {
    if let Some(fault) = &context.before_decide {
        fault(command);
    }
    let decision = match command.order_no() {
        Some(order_no) if !may_cancel && would_cancel(state, command) => {
            Decision::Answer(Err(Refusal::UnknownOrder { order_no: order_no.clone() }))
        }
        _ => state.decide(command, now),
    };
    let (outcome, event) = match decision {
        Decision::Answer(outcome) => (outcome, None),
        Decision::Log(Event { change: Change::Reserved { .. }, .. })
            if context.journal_full.load(Ordering::Relaxed) =>
        {
            (Err(Refusal::JournalFull), None)
        }
        Decision::Log(event) => {
            apply(state, &event);
            (Ok(state.answer(&event)), Some(event))
        }
    };
    match event.as_ref().map(|event| &event.change) {
        // Branches have no entry.
        _ if !may_claim => {}
        // The entry is the order's own from here on.
        Some(Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. }) => {
            context.directory.made(order_no);
        }
        Some(Change::OrdersAdopted { orders, .. }) => {
            let orders = orders.iter().map(|order| &order.order_no).filter(|order_no| !order_no.is_branch());
            orders.for_each(|order_no| context.directory.own(order_no, state.shard()));
        }
        Some(Change::Home(change)) => {
            if matches!(**change, HomeChange::Reserved { .. } | HomeChange::Adopted(_)) {
                context.directory.own_spanning(change.order_no(), state.shard());
            }
            if has_claim(command) {
                context.directory.give_back(change.order_no());
            }
        }
        _ if has_claim(command) => {
            if let Some(order_no) = command.order_no() {
                context.directory.give_back(order_no);
            }
        }
        _ => {}
    }
    (outcome, event)
}

/// Applies an event that was just decided.
///
/// # Panics
/// When it does not fit: the program is wrong, and the shard must not go on. The supervisor rebuilds it.
fn apply(state: &mut State, event: &Event) {
    if let Err(corruption) = state.apply(state.applied().next(), event) {
        panic!("shard {}: an event that was just decided does not fit: {corruption}", state.shard());
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let waiting: u64 = self.pending.iter().map(|envelope| envelope.commands().len() as u64).sum();
        // The decided ones of the first envelope gave theirs back, or made an order, whose event is below.
        let mut skip = self.front_decided;
        for envelope in &self.pending {
            let claiming = envelope.claiming().get(std::mem::take(&mut skip)..).unwrap_or_default();
            give_back_claims(claiming, &self.context.directory);
        }
        for event in &self.events {
            if let Some(order_no) = event.made_order() {
                self.context.directory.forget(order_no);
            }
        }
        drop(Permits::new(Arc::clone(&self.shared), waiting + self.decided));
    }
}

impl Event {
    /// Whether an order expired; its branches are no orders of their own.
    fn is_expiry(&self) -> bool {
        match &self.change {
            Change::Expired { order_no, .. } => !order_no.is_branch(),
            Change::Home(change) => {
                matches!(&**change, HomeChange::Decided { kind: DecisionKind::Expire, .. })
            }
            _ => false,
        }
    }

    /// The order that the event made.
    fn made_order(&self) -> Option<&crate::ids::OrderNo> {
        match &self.change {
            Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. } => Some(order_no),
            Change::Home(change) => match &**change {
                HomeChange::Reserved { order_no, .. } => Some(order_no),
                _ => None,
            },
            _ => None,
        }
    }
}
