//! What a shard does when it is woken: expire, forget, take the mail, decide and apply, evict, write a slice of a
//! running checkpoint, hand over. Never waits; each part is bounded. Deciding is in [`decide`]; what it says to other
//! shards about orders over several in [`cross_shard`]; its end in [`checkpoint`] and [`hand_over`]. [`work`]: what is
//! on its way.
//!
//! A command about something that is not in memory and may be in the store is put aside ([`waiting`](super::waiting))
//! until the loader ([`crate::services::loader`]) has looked for it; what it found is logged here before the command is
//! decided ([`load`](super::load)).

mod checkpoint;
mod cross_shard;
mod decide;
mod hand_over;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use self::checkpoint::Checkpointing;
use self::cross_shard::Asking;
use self::work::Work;
use super::parts::ShardParts;
use super::waiting::Absent;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, OrderNo, SkuId};
use crate::base::limits::{
    EVICTION_ROUNDS, MAX_EVICTION_LOOKS, MAX_EVICTIONS_PER_TURN, MAX_EXPIRIES_PER_TURN,
    MAX_FORGOTTEN_EVENTS_PER_TURN, MAX_UNSYNCED_BYTES,
};
use crate::base::sync::StockCell;
use crate::contract::command::{Action, Command};
use crate::contract::event::{Change, Event, OrderAfter};
use crate::contract::outcome::{Answer, Effect, Outcome, Refusal};
use crate::machine::coordinator::Coordinator;
use crate::machine::inner::InnerCommand;
use crate::machine::state::{Departed, Need, State};
use crate::services::callers::Caller;
use crate::services::shared::{Envelope, Permits, ShardShared, give_back_claims};
use crate::services::store_link::add;
use crate::services::views::ViewUpdate;

/// The single writer of a shard.
pub(crate) struct Shard {
    pub(super) parts: ShardParts,
    pub(super) shared: Arc<ShardShared>,
    pub(super) state: State,
    /// Orders over several shards that it decides for and that have something under way.
    coordinator: Coordinator<Caller>,
    /// Holds that it asks after.
    asking: Asking,
    /// When it began: what is under way is timed from here.
    since: Instant,
    /// Its time never goes back, whatever the clock does.
    now: Timestamp,
    /// The view of each stock, by the stock's number; `bool`: the views know it.
    cells: Vec<(Arc<StockCell>, bool)>,
    pub(super) work: Work,
    /// Unknown SKUs.
    pub(super) absent: Absent,
    /// Wanted from a store that had not taken in yet what left memory, or that went back in time: asked for again then.
    pub(super) again: Vec<Need>,
    pub(super) again_at: Instant,
    /// The last turn found the server fenced.
    was_fenced: bool,
    /// The epoch in which it logs; `None`: nothing is logged yet.
    epoch: Option<Epoch>,
    checkpoint: Checkpointing,
    /// Bytes logged since it was begun.
    logged_bytes: u64,
    /// The last event in the store and how many SKUs were put right there; how many were looked at since then without
    /// one that can leave.
    looked_at: ((Lsn, u64), usize),
}

impl Shard {
    pub fn new(parts: ShardParts, shared: Arc<ShardShared>, mut state: State) -> Self {
        // Whatever was recovered is durable: the views may show it.
        let mut cells = Vec::new();
        for number in state.take_touched() {
            let stock = state.stock_view(number);
            let known = parts.views.cell(&stock.sku_id, stock.warehouse_id);
            let new = known.is_none();
            let cell = known.unwrap_or_default();
            parts.views.publish(ViewUpdate { cell: Arc::clone(&cell), stock, new });
            let number = number as usize;
            if cells.len() <= number {
                cells.resize_with(number + 1, || (Arc::default(), false));
            }
            cells[number] = (cell, true);
        }
        shared.durable.publish(state.applied().0);
        shared.counters.applied.store(state.applied().0, Ordering::Relaxed);
        let work = Work::new(&parts, &shared);
        let coordinator = Coordinator::new(shared.id, parts.options.load_wait_ms);
        let asking = Asking::of(&state, &shared, &parts);
        let now = state.time().max(shared.decided.get().1);
        let shard = Self {
            parts,
            shared,
            state,
            coordinator,
            asking,
            since: Instant::now(),
            now,
            cells,
            work,
            absent: Absent::default(),
            again: Vec::new(),
            again_at: Instant::now(),
            was_fenced: false,
            epoch: None,
            checkpoint: Checkpointing::None,
            logged_bytes: 0,
            looked_at: ((Lsn::ZERO, 0), 0),
        };
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
        if self.parts.poison.get().is_some() {
            self.answer_poisoned();
            return false;
        }
        if let Err(refusal) = self.parts.fence.check() {
            self.answer_fenced(&refusal);
            self.was_fenced = true;
            return false;
        }
        if std::mem::take(&mut self.was_fenced) {
            self.begin_again();
        }
        if !self.shared.backlog.may_go_on(MAX_UNSYNCED_BYTES) {
            return false;
        }
        let first = self.state.applied().next();
        let now = self.parts.clock.now().max(self.now);
        self.now = now;
        self.log_epoch(now);
        let more_expire = self.expire(now);
        let more_told = self.look_after_cross_shard(now);
        let more_forgotten = self.forget(now);
        self.take_mail();
        self.take_late();
        self.decide(now);
        self.log_acknowledged(now);
        let more_evict = self.evict(now);
        let more_checkpoint = self.checkpoint();
        self.hand_over(first);
        self.shared.decided.publish(self.state.applied(), now);
        let more_mail = !self.work.pending.is_empty() || !self.work.ready.is_empty();
        more_expire || more_told || more_forgotten || more_evict || more_checkpoint || more_mail
    }

    /// The first event of each start, and of each epoch.
    fn log_epoch(&mut self, now: Timestamp) {
        let epoch = self.parts.epoch();
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            let event = self.state.event(self.state.decide_started(epoch), now);
            self.apply(event);
        }
    }

    /// `true`: more are due.
    fn expire(&mut self, now: Timestamp) -> bool {
        if let Some(checks) = &self.parts.checks {
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
            let pending = event.pending_order().cloned();
            self.apply(event);
            if let Some(order_no) = pending {
                self.propagate(&order_no, None, now);
            }
        }
        self.count_expired(MAX_EXPIRIES_PER_TURN);
        true
    }

    fn count_expired(&self, orders: usize) {
        self.shared.counters.expired.fetch_add(orders as u64, Ordering::Relaxed);
    }

    /// Ended orders and requests leave memory: by age, by number, and when all of it takes too much memory. `true`:
    /// more is to be forgotten.
    fn forget(&mut self, now: Timestamp) -> bool {
        let options = &self.parts.options;
        let before = now.minus_millis(options.remember_seconds.saturating_mul(1000));
        // Above the bound in bytes a batch less at a time: they are what is missed least.
        let is_crowded = self.state.sizes().bytes > options.max_bytes;
        let max = if is_crowded { 0 } else { options.remember_max };
        let events = if is_crowded { 1 } else { MAX_FORGOTTEN_EVENTS_PER_TURN };
        for _ in 0..events {
            let is_busy = |order_no: &OrderNo| self.coordinator.is_busy(order_no);
            let flushed = self.shared.flushed_lsn();
            let Some(forget) = self.state.next_forgotten(before, max, now, flushed, is_busy) else {
                return false;
            };
            let counters = &self.shared.counters;
            counters.forgotten.fetch_add(forget.count as u64, Ordering::Relaxed);
            counters.forgotten_early.fetch_add(forget.early as u64, Ordering::Relaxed);
            self.apply(forget.event);
            self.parts.failpoints.reach("forget.logged");
        }
        !is_crowded
    }

    /// SKUs leave memory when there are too many. `true`: more are to leave.
    fn evict(&mut self, now: Timestamp) -> bool {
        let options = &self.parts.options;
        let (max_skus, max_bytes) = (options.max_resident_skus, options.max_bytes);
        let flushed = self.shared.flushed_lsn();
        let since = (flushed, self.parts.flusher.unparked());
        if self.looked_at.0 != since {
            self.looked_at = (since, 0);
        }
        for _ in 0..MAX_EVICTIONS_PER_TURN {
            let sizes = self.state.sizes();
            if sizes.skus <= max_skus && sizes.bytes <= max_bytes {
                return false;
            }
            // None can leave, however often they are looked at, until the store has more of what was logged.
            if self.looked_at.1 >= self.state.eviction_round().saturating_mul(EVICTION_ROUNDS) {
                return false;
            }
            let (waiting, flusher, coordinator) =
                (&self.work.waiting, &self.parts.flusher, &self.coordinator);
            let is_pinned = |sku_id: &SkuId| waiting.is_pinned(sku_id) || coordinator.is_pinned(sku_id);
            let may_leave = |sku_id: &SkuId| !is_pinned(sku_id) && flusher.may_leave(sku_id);
            let is_busy = |order_no: &OrderNo| coordinator.is_busy(order_no);
            let Some(event) = self.state.next_eviction(flushed, may_leave, is_busy, now) else {
                // What is there is in use or not flushed: the next turn that comes looks on.
                self.looked_at.1 += MAX_EVICTION_LOOKS;
                return false;
            };
            self.looked_at.1 = 0;
            self.apply(event);
            add(&self.shared.counters.evicted, 1);
            self.parts.failpoints.reach("evict.logged");
        }
        true
    }

    /// A lease that had ended was renewed. What was under way for orders over several shards, and what others said
    /// meanwhile, was dropped: as after a rebuild, all of it is asked for and told again.
    fn begin_again(&mut self) {
        self.asking = Asking::of(&self.state, &self.shared, &self.parts);
        let others = self.parts.shards.iter().filter(|other| other.id != self.shared.id);
        others.for_each(|other| other.deliver(vec![Envelope::Rebuilt(self.shared.id)]));
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

    /// Those that waited long enough are decided as far as they can be; what has to be asked for again is.
    fn take_late(&mut self) {
        // Also what nobody waits for any more is asked for again: it is noted as asked for, and whoever wants it next
        // would wait for that answer.
        if self.work.waiting.is_empty() && self.again.is_empty() {
            return;
        }
        let now = Instant::now();
        let late = self.work.waiting.take_late(now, || self.parts.loader.late());
        self.work.ready.extend(late);
        if !self.again.is_empty() && now >= self.again_at {
            self.parts.loader.want(self.shared.id, std::mem::take(&mut self.again));
        }
    }

    /// Applies an event that no command asked for.
    pub(super) fn apply(&mut self, event: Event) {
        apply(&mut self.state, &event);
        self.note(&event);
        self.work.events.push(event);
    }

    /// What the others are to know of an event that was applied.
    fn note(&mut self, event: &Event) {
        match &event.change {
            Change::StockCreated { sku_id, .. } => self.absent.remove(sku_id),
            Change::Loaded { sku_id, stocks } => {
                self.absent.remove(sku_id);
                if stocks.iter().any(|stock| stock.hot) {
                    self.work.pinned.push((sku_id.clone(), true));
                }
            }
            Change::OrdersLoaded { orders, .. } => {
                for order in orders {
                    match order.span {
                        Some(_) => self.parts.directory.own_cross_shard(&order.order_no, self.shared.id),
                        None => self.parts.directory.own(&order.order_no, self.shared.id),
                    }
                }
            }
            Change::Reserved { order_no, attempt: Some(_), .. } => {
                self.parts.directory.own_cross_shard(order_no, self.shared.id);
            }
            Change::Pinned { skus, hot } => {
                self.work.pinned.extend(skus.iter().map(|sku_id| (sku_id.clone(), *hot)))
            }
            Change::Forgotten { .. } | Change::Evicted { .. } => self.note_departed(event.at),
            Change::StockChanged { .. }
            | Change::StatusChanged { .. }
            | Change::Reserved { .. }
            | Change::Confirmed { .. }
            | Change::Released { .. }
            | Change::Cancelled { .. }
            | Change::Expired { .. }
            | Change::Extended { .. }
            | Change::Returned { .. }
            | Change::Acknowledged { .. }
            | Change::Held { .. }
            | Change::HoldChanged { .. }
            | Change::Started { .. } => {}
        }
    }

    /// What left memory is known before the directory lets go of it.
    fn note_departed(&mut self, at: Timestamp) {
        self.shared.departed.store(self.state.departed().0, Ordering::Release);
        for departed in self.state.take_departed() {
            match departed {
                Departed::Order(order_no) => {
                    self.parts.known.add_order(&order_no, at);
                    self.work.departed.push(order_no);
                }
                Departed::Request(sku_id, request_id) => {
                    self.parts.known.add_request(&sku_id, &request_id, at)
                }
            }
        }
    }

    /// After a failed write: only what is durable may be read, everything else has an unknown outcome.
    fn answer_poisoned(&mut self) {
        let durable = self.shared.durable_lsn();
        self.answer_all(|state, command| match command {
            Some(InnerCommand::Public(Command { action: Action::GetOrder(order_no), .. })) => match state
                .order(order_no)
            {
                Some((lsn, order)) if lsn <= durable => Ok(Answer::Order { order, effect: Effect::Replayed }),
                _ => Err(Refusal::JournalUnavailable),
            },
            _ => Err(Refusal::JournalUnavailable),
        });
    }

    /// Another server may decide by now: nothing is decided or read here.
    fn answer_fenced(&mut self, refusal: &Refusal) {
        self.answer_all(|_, _| Err(refusal.clone()));
        self.publish_sizes();
    }

    /// Answers everything that is here without deciding it.
    fn answer_all(&mut self, outcome: impl Fn(&State, Option<&InnerCommand>) -> Outcome) {
        self.fail_cross_shard();
        self.take_mail();
        let work = &mut self.work;
        let mut all = work.waiting.take_all();
        all.extend(work.ready.drain(..).map(|held| held.envelope));
        all.extend(work.pending.drain(..));
        for envelope in all {
            let _permits = Permits::new(Arc::clone(&self.shared), envelope.permits());
            give_back_claims(envelope.commands(), &self.parts.directory);
            envelope.answer(|command| outcome(&self.state, command));
        }
    }

    fn publish_sizes(&self) {
        let sizes = self.state.sizes();
        let counters = &self.shared.counters;
        let set = |counter: &AtomicU64, n: usize| counter.store(n as u64, Ordering::Relaxed);
        set(&counters.open_orders, sizes.open_orders);
        set(&counters.orders, sizes.orders);
        set(&counters.stocks, sizes.stocks);
        set(&counters.resident, sizes.skus);
        set(&counters.hot, sizes.hot_skus);
        set(&counters.holds, sizes.holds);
        counters.bytes.store(sizes.bytes, Ordering::Relaxed);
        counters.waiting.store(self.work.waiting.commands(), Ordering::Relaxed);
        counters.cross_shard.store(self.coordinator.under_way() as u64, Ordering::Relaxed);
    }
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

impl Event {
    /// Whether an order expired.
    fn is_expiry(&self) -> bool {
        matches!(self.change, Change::Expired { .. })
    }

    /// The order that the event made.
    fn made_order(&self) -> Option<&OrderNo> {
        match &self.change {
            Change::Reserved { order_no, .. } | Change::Cancelled { order_no, .. } => Some(order_no),
            _ => None,
        }
    }

    /// The order over several shards whose participants are to be told what was decided.
    pub(crate) fn pending_order(&self) -> Option<&OrderNo> {
        let is_pending =
            |after: &OrderAfter| after.span.as_ref().is_some_and(|span| !span.pending.is_empty());
        match &self.change {
            Change::Confirmed { order_no, after, .. }
            | Change::Released { order_no, after, .. }
            | Change::Expired { order_no, after, .. }
            | Change::Returned { order_no, after, .. } => Some(order_no).filter(|_| is_pending(after)),
            _ => None,
        }
    }
}
