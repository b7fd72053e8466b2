//! The world of the simulation: shards, the store, messages, time, and the model that watches every decision.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fastrand::Rng;
use hotstock_engine::checkpoint::OrderImage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, StockStatus};
use hotstock_engine::event::{Change, Event};
use hotstock_engine::home::{DecisionKind, HomeChange, HomeImage, HomeStep};
use hotstock_engine::ids::{AttemptId, OrderNo, SkuId, shard_of, shard_of_order};
use hotstock_engine::outcome::{Answer, Effect, Levels, Outcome, Refusal};
use hotstock_engine::state::{Decision, Need, State};

use crate::messages::{Message, Reply, Said, Slot, Task};
use crate::naive::order::Order;
use crate::naive::{Place, plain};
use crate::shard::{Shard, Undo};
use crate::stored::{Known, next_load};
use crate::table::{Foreseen, Orders, PLENTY, as_set, foresee, foresee_expiry, foresee_made, taken_late};

/// How long shards remember ended orders in this world, in milliseconds: shorter than many an errand takes.
const REMEMBER_MILLIS: u64 = 500;

/// See the module.
pub struct World {
    pub rng: Rng,
    pub clock: Timestamp,
    /// Counts what happens.
    pub step: u64,
    pub shards: Vec<Shard>,
    /// The store does not answer.
    pub is_down: bool,
    /// What left memory, as the filter of known numbers has it; and as it was saved with the last checkpoint.
    pub known: Known,
    pub saved: Known,
    pub messages: Vec<Message>,
    /// Tasks that begin now.
    pub spawned: Vec<Task>,
    /// The model: every order, and what every stock was supplied with.
    pub orders: Orders,
    pub supplied: BTreeMap<Place, i64>,
    /// What was available of every stock, and its status, from which step on.
    pub levels: BTreeMap<Place, Vec<(u64, u64, StockStatus)>>,
    /// The server's memory: where commands about an order are on their way to, and how many.
    pub claims: BTreeMap<OrderNo, (usize, usize)>,
    /// Orders that somebody holds the lock of.
    pub locked: BTreeSet<OrderNo>,
    /// Attempts that are not decided.
    pub under_way: BTreeSet<(OrderNo, AttemptId)>,
    /// Whether anything leaves memory in this run.
    pub forgets: bool,
    /// What became of it, to be counted.
    pub seen: BTreeMap<&'static str, u64>,
    /// What happened, when somebody wants to read it.
    pub trace: Option<Vec<String>>,
    attempts: u64,
}

/// Where a command goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    At(usize),
    /// To several shards.
    Span,
}

impl World {
    pub fn new(seed: u64, shards: u16) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            clock: Timestamp(1_000_000),
            step: 0,
            shards: (0..shards).map(|id| Shard::new(id, shards)).collect(),
            is_down: false,
            known: Known::default(),
            saved: Known::default(),
            messages: Vec::new(),
            spawned: Vec::new(),
            orders: Orders::new(),
            supplied: BTreeMap::new(),
            levels: BTreeMap::new(),
            claims: BTreeMap::new(),
            locked: BTreeSet::new(),
            under_way: BTreeSet::new(),
            forgets: false,
            seen: BTreeMap::new(),
            trace: None,
            attempts: 0,
        }
    }

    pub fn count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("few shards")
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        let step = self.step;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{step} {}", what()));
        }
    }

    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn new_attempt(&mut self) -> AttemptId {
        self.attempts += 1;
        AttemptId(self.attempts)
    }

    /// The shard that has an order in memory.
    pub fn known_at(&self, order_no: &OrderNo) -> Option<usize> {
        let mut knowing = (0..self.shards.len()).filter(|i| self.shards[*i].knows(order_no));
        let first = knowing.next();
        assert_eq!(knowing.next(), None, "{order_no} is in two shards, one of them {first:?}");
        first
    }

    /// Where an order without a place of its own is kept.
    pub fn name_shard(&self, order_no: &OrderNo) -> usize {
        shard_of_order(order_no, self.count()).index()
    }

    /// Where a caller's command goes.
    pub fn route(&self, command: &Command) -> Route {
        let Some(order_no) = command.order_no() else {
            let sku_id = match &command.action {
                Action::CreateStock(c) => &c.sku_id,
                Action::ChangeStock(c) => &c.sku_id,
                Action::SetStatus(c) => &c.sku_id,
                other => unreachable!("{other:?} is about no order and no SKU"),
            };
            return Route::At(self.shard_of(sku_id));
        };
        if let Some(shard) = self.known_at(order_no) {
            return Route::At(shard);
        }
        match self.claims.get(order_no) {
            Some((shard, _)) => Route::At(*shard),
            None => self.route_of_unclaimed(order_no, command),
        }
    }

    /// Where a command about an order goes that no shard knows, whoever else is on the way to it.
    fn route_of_unclaimed(&self, order_no: &OrderNo, command: &Command) -> Route {
        let Action::Reserve(c) = &command.action else { return Route::At(self.name_shard(order_no)) };
        let shards: BTreeSet<usize> =
            c.lines.as_slice().iter().map(|line| self.shard_of(&line.sku_id)).collect();
        match (shards.len(), shards.first()) {
            (1, Some(only)) => Route::At(*only),
            _ => Route::Span,
        }
    }

    /// The shard in whose rows an order is, whatever it is.
    fn stored_at(&self, order_no: &OrderNo) -> Option<usize> {
        let has = |shard: &&Shard| {
            shard.rows.orders.contains_key(order_no) || shard.rows.homes.contains_key(order_no)
        };
        let mut having = self.shards.iter().filter(has).map(|shard| shard.id.index());
        let first = having.next();
        assert_eq!(having.next(), None, "{order_no} is stored for two shards, one of them {first:?}");
        first
    }

    /// What a command is about comes into memory, if it is in the store.
    fn bring(&mut self, shard: usize, command: &Command) -> Result<(), Said> {
        let mut known = std::mem::take(&mut self.known);
        let brought = self.bring_with(shard, command, &mut known);
        known.missing.clear();
        self.known = known;
        brought
    }

    fn bring_with(&mut self, shard: usize, command: &Command, known: &mut Known) -> Result<(), Said> {
        loop {
            let mut needs = Vec::new();
            self.shards[shard].state.needs(command, known, &mut needs);
            if needs.is_empty() {
                return Ok(());
            }
            if self.is_down {
                return Err(Said::Outcome(Err(Refusal::StoreUnavailable)));
            }
            for need in &needs {
                let Need::Order(order_no) = need else { continue };
                if let Some(elsewhere) = self.stored_at(order_no).filter(|stored| *stored != shard) {
                    self.saw("orders found in another shard");
                    return Err(Said::Elsewhere(elsewhere));
                }
            }
            let at = &self.shards[shard];
            let Some(change) = next_load(&at.state, &at.rows, known, &needs) else { continue };
            let event = at.state.event(change, self.clock);
            self.saw(match &event.change {
                Change::Loaded { .. } => "SKUs loaded",
                Change::Home(_) => "homes loaded",
                _ => "orders loaded",
            });
            self.say(|| format!("    shard {shard} loads {event:?}"));
            let departed = self.shards[shard].log(event);
            assert_eq!(departed, [], "what comes into memory makes nothing leave");
        }
    }

    /// What a shard says to a command that has arrived.
    pub fn deliver(&mut self, to: usize, command: &Command) -> Reply {
        self.say(|| format!("{to:?} <- {command:?}"));
        let reply = self.take_command(to, command);
        self.note_levels();
        self.say(|| format!("    -> {:?}", reply.0));
        reply
    }

    fn take_command(&mut self, to: usize, command: &Command) -> Reply {
        let foresight = match (&command.action, command.order_no()) {
            (Action::Home(_), _) => Foresight::Home,
            (_, Some(order_no)) if order_no.is_branch() => {
                let sku_id = order_no.branch().expect("it is the number of one").sku_id;
                assert_eq!(self.shard_of(&sku_id), to, "a branch lies where its SKU is");
                Foresight::None
            }
            (_, Some(order_no)) => {
                let known = self.known_at(order_no);
                let is_reserve = matches!(command.action, Action::Reserve(_));
                let is_busy = self.under_way.iter().any(|(busy, _)| busy == order_no);
                // It would be made in one place while an attempt is on its way to its home.
                if known.is_some_and(|shard| shard != to) || (known.is_none() && is_reserve && is_busy) {
                    return (Said::NotHere, None);
                }
                Foresight::Order
            }
            (_, None) => Foresight::None,
        };
        if let Err(said) = self.bring(to, command) {
            return (said, None);
        }
        if let (Foresight::Order, Some(order_no)) = (foresight, command.order_no())
            && self.known_at(order_no).is_none()
            && self.route_of_unclaimed(order_no, command) != Route::At(to)
        {
            // The claim of its sender does not hold it here.
            return (Said::NotHere, None);
        }
        let (outcome, then) = self.decide_at(to, command, foresight);
        (Said::Outcome(outcome), then)
    }

    fn decide_at(
        &mut self,
        index: usize,
        command: &Command,
        foresight: Foresight,
    ) -> (Outcome, Option<Order>) {
        let now = self.clock;
        let foreseen = self.foresee(&self.shards[index].state, command, foresight);
        let lsn = self.shards[index].journal.len() + 1;
        let (outcome, logged) = match self.shards[index].state.decide(command, now) {
            Decision::Answer(outcome) => (outcome, false),
            Decision::Elsewhere => panic!("{command:?} is for another shard than {index}"),
            Decision::Log(event) => {
                self.say(|| format!("    shard {index} logs {event:?}"));
                self.supply(&event, (index, lsn));
                let departed = self.shards[index].log(event.clone());
                assert_eq!(departed, [], "no command makes anything leave");
                (Ok(self.shards[index].state.answer(&event)), true)
            }
        };
        let then = self.settle(foreseen, &outcome, (index, lsn), logged);
        (outcome, then)
    }

    /// What the model says to a command, before it is decided.
    fn foresee(&self, state: &State, command: &Command, foresight: Foresight) -> Option<Foreseen> {
        let now = self.clock.max(state.time());
        let plenty = |_: &Place| Some(PLENTY);
        let order_no = command.order_no()?;
        match (foresight, &command.action) {
            (Foresight::None, _) => None,
            (Foresight::Order, action) => {
                let free = |place: &Place| {
                    let image = state.image_of_stock(&place.0, place.1)?;
                    Some((image.levels.available, image.status))
                };
                if state.image_of_home(order_no).is_some() {
                    return Some(foresee(&self.orders, action, now, plenty).at_home(None));
                }
                Some(foresee(&self.orders, action, now, free))
            }
            (Foresight::Home, Action::Home(step)) => match &**step {
                HomeStep::Reserve { reserve, lines, .. } if !self.orders.contains_key(order_no) => {
                    Some(foresee_made(reserve, lines, now).at_home(None))
                }
                HomeStep::Reserve { reserve, .. } => {
                    Some(foresee(&self.orders, &Action::Reserve(reserve.clone()), now, plenty).at_home(None))
                }
                HomeStep::Late { confirm, lines, .. } => {
                    let foreseen = foresee(&self.orders, &Action::Confirm(confirm.clone()), now, plenty);
                    Some(foreseen.at_home(Some(as_set(lines))))
                }
                _ => None,
            },
            (Foresight::Home, other) => unreachable!("{other:?} is no step of a home"),
        }
    }

    /// Compares what was answered with what the model said, and lets the model go on. Gives the order as it is then.
    fn settle(
        &mut self,
        foreseen: Option<Foreseen>,
        outcome: &Outcome,
        (index, lsn): (usize, usize),
        logged: bool,
    ) -> Option<Order> {
        let Foreseen { order_no, outcome: expected, after, at_home, held_late } = foreseen?;
        let outcome = match outcome {
            Err(Refusal::HoldFirst(lines)) => {
                self.saw("late payments");
                assert!(!logged && at_home, "{order_no}: {lines:?}");
                assert_eq!(taken_late(after.as_ref()), as_set(lines), "{order_no}: what is to be held first");
                return None;
            }
            Ok(Answer::Decided { order, effect, errands }) => {
                assert!(!errands.is_empty(), "{order_no}: a decision that nobody is to be told");
                Ok(Answer::Order { order: order.clone(), effect: *effect })
            }
            other => other.clone(),
        };
        assert_eq!(
            plain(outcome.clone()),
            plain(expected),
            "(left: the engine, right: the model) of {order_no}"
        );
        let changes = matches!(&outcome, Ok(Answer::Order { effect, .. }) if *effect != Effect::Replayed);
        assert_eq!(changes, logged, "{order_no}: what changes it is logged, nothing else: {outcome:?}");
        if changes {
            if at_home {
                let late = taken_late(after.as_ref());
                let held = held_late.unwrap_or_default();
                assert!(
                    late.is_empty() || late == held,
                    "{order_no}: {late:?} is sold late, {held:?} is held for it"
                );
            }
            let after = after.expect("it was changed");
            let before = self.orders.insert(order_no.clone(), after);
            self.shards[index].undo.push((lsn, Undo::Order(order_no.clone(), before)));
        }
        self.orders.get(&order_no).cloned()
    }

    /// What an event brings or takes other than by orders.
    fn supply(&mut self, event: &Event, (index, lsn): (usize, usize)) {
        let (place, units) = match &event.change {
            Change::StockCreated { sku_id, warehouse_id, quantity, .. } => {
                ((sku_id.clone(), *warehouse_id), i64::try_from(*quantity).expect("few units"))
            }
            Change::StockChanged { sku_id, warehouse_id, delta, .. } => {
                ((sku_id.clone(), *warehouse_id), *delta)
            }
            _ => return,
        };
        *self.supplied.entry(place.clone()).or_default() += units;
        self.shards[index].undo.push((lsn, Undo::Supply(place, units)));
    }

    /// Lets the model take back what was lost.
    pub fn take_back(&mut self, undo: Vec<Undo>) {
        for undo in undo {
            match undo {
                Undo::Order(order_no, Some(before)) => drop(self.orders.insert(order_no, before)),
                Undo::Order(order_no, None) => drop(self.orders.remove(&order_no)),
                Undo::Supply(place, units) => *self.supplied.entry(place).or_default() -= units,
            }
        }
    }

    /// What a shard does by itself in a turn. Gives the branches that are to ask and the orders whose branches are to be told.
    pub fn turn(&mut self, index: usize) -> (Vec<OrderNo>, Vec<OrderNo>) {
        let now = self.clock;
        for _ in 0..self.rng.usize(1..4) {
            let Some(event) = self.shards[index].state.next_expiry(now) else { break };
            let order_no = match &event.change {
                Change::Expired { order_no, .. } => order_no.clone(),
                Change::Home(change) => match &**change {
                    HomeChange::Decided { order_no, kind: DecisionKind::Expire, .. } => order_no.clone(),
                    other => panic!("{other:?} instead of an expiry"),
                },
                other => panic!("{other:?} instead of an expiry"),
            };
            assert!(!order_no.is_branch(), "{order_no:?} expires by itself");
            self.saw("orders expired");
            let foreseen = foresee_expiry(&self.orders, &order_no, event.at);
            let lsn = self.shards[index].journal.len() + 1;
            self.log(index, event);
            let before = self.orders.insert(order_no.clone(), foreseen.after.expect("it is known"));
            self.shards[index].undo.push((lsn, Undo::Order(order_no, before)));
        }
        if self.forgets {
            let (before, flushed) = (now.minus_millis(REMEMBER_MILLIS), self.shards[index].rows.flushed);
            if let Some(forget) = self.shards[index].state.next_forgotten(before, usize::MAX, now, flushed) {
                self.saw("forgotten");
                self.log(index, forget.event);
            }
            if self.rng.bool()
                && let Some(event) = self.shards[index].state.next_eviction(flushed, |_| true, now)
            {
                self.saw("evicted");
                self.log(index, event);
            }
        }
        let at_most = self.rng.usize(1..4);
        let state = &mut self.shards[index].state;
        (state.take_due_branches(now, at_most), state.take_unsent(now, at_most))
    }

    fn log(&mut self, index: usize, event: Event) {
        self.say(|| format!("shard {index} logs {event:?}"));
        let departed = self.shards[index].log(event);
        self.known.add(departed);
        self.note_levels();
    }

    /// The real levels of a stock: in its shard while it is there, else in the store.
    pub fn stock(&self, place: &Place) -> Option<(Levels, StockStatus)> {
        let shard = &self.shards[self.shard_of(&place.0)];
        let stored = || shard.rows.stocks.get(&place.0)?.get(&place.1).cloned();
        let image = match shard.state.is_resident(&place.0) {
            true => shard.state.image_of_stock(&place.0, place.1)?,
            false => stored()?,
        };
        Some((image.levels, image.status))
    }

    /// An order or branch of one shard, in memory or in the store.
    pub fn image_of(&self, order_no: &OrderNo) -> Option<OrderImage> {
        let live = self.shards.iter().find_map(|shard| shard.state.image_of_order(order_no));
        live.or_else(|| self.shards.iter().find_map(|shard| shard.rows.orders.get(order_no).cloned()))
    }

    /// An order over several places, likewise.
    pub fn image_of_home(&self, order_no: &OrderNo) -> Option<HomeImage> {
        let live = self.shards.iter().find_map(|shard| shard.state.image_of_home(order_no));
        live.or_else(|| self.shards.iter().find_map(|shard| shard.rows.homes.get(order_no).cloned()))
    }

    /// Remembers what is available now.
    fn note_levels(&mut self) {
        let step = self.step;
        let places: Vec<Place> = self.supplied.keys().cloned().collect();
        for place in places {
            let Some((levels, status)) = self.stock(&place) else { continue };
            let known = self.levels.entry(place).or_default();
            if known.last().is_none_or(|(_, available, was)| (*available, *was) != (levels.available, status))
            {
                known.push((step, levels.available, status));
            }
        }
    }

    /// Whether a stock was like this at some moment since a step.
    pub fn was(&self, place: &Place, since: u64, like: impl Fn(u64, StockStatus) -> bool) -> bool {
        let Some(known) = self.levels.get(place) else { return false };
        let before = known.iter().rposition(|(step, ..)| *step < since).unwrap_or(0);
        known[before..].iter().any(|(_, available, status)| like(*available, *status))
    }

    /// A message on its way.
    pub fn send(&mut self, to: usize, command: Command) -> Slot {
        let slot: Slot = Rc::new(RefCell::new(None));
        self.messages.push(Message { to, command, slot: Rc::clone(&slot) });
        slot
    }

    /// The shard of a SKU.
    pub fn shard_of(&self, sku_id: &SkuId) -> usize {
        shard_of(sku_id, self.count()).index()
    }
}

/// What the model has to say to a command.
#[derive(Debug, Clone, Copy)]
enum Foresight {
    /// Nothing: it is about stock or a branch.
    None,
    /// It is a caller's, about an order.
    Order,
    /// It is a step of a home.
    Home,
}
