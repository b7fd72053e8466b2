//! The world of the simulation: shards, the store, messages, time, and the model that watches every decision.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fastrand::Rng;
use hotstock_engine::checkpoint::Stage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Place as Step, StockStatus};
use hotstock_engine::event::{Change, Event};
use hotstock_engine::home::{DecisionKind, HomeChange, HomeStep};
use hotstock_engine::ids::{AttemptId, Lsn, OrderNo, SkuId, shard_of, shard_of_order};
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};
use hotstock_engine::state::{Decision, State};

use crate::messages::{Ask, Message, Reply, Slot, Target, Task};
use crate::naive::order::Order;
use crate::naive::{Place, plain};
use crate::shard::{Shard, Undo};
use crate::sql::{Due, Sql, is_open};
use crate::table::{Foreseen, Orders, PLENTY, as_set, foresee, foresee_expiry, foresee_made, taken_late};

/// How long shards and the store remember ended orders in this world, in milliseconds: longer than any errand takes.
const REMEMBER_MILLIS: u64 = 40_000;

/// See the module.
pub struct World {
    pub rng: Rng,
    pub clock: Timestamp,
    /// Counts what happens.
    pub step: u64,
    pub shards: Vec<Shard>,
    pub sql: Sql,
    pub messages: Vec<Message>,
    /// Tasks that begin now.
    pub spawned: Vec<Task>,
    /// The model: every order, and what every stock was supplied with.
    pub orders: Orders,
    pub supplied: BTreeMap<Place, i64>,
    /// What was available of every stock, and its status, from which step on.
    pub levels: BTreeMap<Place, Vec<(u64, u64, StockStatus)>>,
    /// The server's memory: where commands about an order are on their way to, and how many.
    pub claims: BTreeMap<OrderNo, (Target, usize)>,
    /// Orders that somebody holds the lock of.
    pub locked: BTreeSet<OrderNo>,
    /// Attempts that are not decided.
    pub under_way: BTreeSet<(OrderNo, AttemptId)>,
    /// SKUs that somebody is adopting.
    pub adopting: BTreeSet<SkuId>,
    /// Whether ended orders are forgotten in this run.
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
    At(Target),
    /// To several places.
    Span,
    /// A home or an order has to be fetched from the store first.
    Adopt(usize),
    BringBack(usize),
    Split,
    /// Something is moving.
    Wait,
    /// The store would have to be asked.
    Unavailable,
}

impl World {
    pub fn new(seed: u64, shards: u16) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            clock: Timestamp(1_000_000),
            step: 0,
            shards: (0..shards).map(|id| Shard::new(id, shards)).collect(),
            sql: Sql::new(shards),
            messages: Vec::new(),
            spawned: Vec::new(),
            orders: Orders::new(),
            supplied: BTreeMap::new(),
            levels: BTreeMap::new(),
            claims: BTreeMap::new(),
            locked: BTreeSet::new(),
            under_way: BTreeSet::new(),
            adopting: BTreeSet::new(),
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

    /// The place of a SKU; `None` while it moves. One that there is not is looked for in the store.
    pub fn place_of(&self, sku_id: &SkuId) -> Option<Target> {
        let Some((shard, _)) = self.sql.owners.get(sku_id) else { return Some(Target::Store) };
        let here = &self.shards[*shard];
        (here.stage(sku_id) == Some(Stage::Open)).then_some(Target::Shard(*shard))
    }

    /// The one place of some SKUs: `Err(true)` when there are several, `Err(false)` while one moves.
    fn one_place<'a>(&self, skus: impl Iterator<Item = &'a SkuId>) -> Result<Target, bool> {
        let places: Vec<Option<Target>> = skus.map(|sku_id| self.place_of(sku_id)).collect();
        let places: BTreeSet<Target> = places.into_iter().collect::<Option<_>>().ok_or(false)?;
        let mut places = places.into_iter();
        match (places.next(), places.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(true),
        }
    }

    /// The shard that knows an order.
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
            return self.place_of(sku_id).map_or(Route::Wait, Route::At);
        };
        if let Some(shard) = self.known_at(order_no) {
            return Route::At(Target::Shard(shard));
        }
        if let Some((target, _)) = self.claims.get(order_no) {
            return Route::At(*target);
        }
        self.route_of_unclaimed(order_no, command)
    }

    /// Where a command about an order goes that no shard knows, whoever else is on the way to it.
    fn route_of_unclaimed(&self, order_no: &OrderNo, command: &Command) -> Route {
        if self.shards.iter().any(|shard| shard.shed.contains_key(order_no)) {
            return Route::Wait;
        }
        if let Some(row) = self.sql.homes.get(order_no) {
            return if self.sql.down { Route::Unavailable } else { Route::Adopt(row.shard) };
        }
        if let Some(row) = self.sql.orders.get(order_no) {
            if self.sql.down {
                return Route::Unavailable;
            }
            if row.image.lines.is_empty() {
                return Route::BringBack(self.name_shard(order_no));
            }
            return match self.one_place(row.image.lines.iter().map(|line| &line.sku_id)) {
                Ok(Target::Store) => Route::At(Target::Store),
                Ok(Target::Shard(shard)) => Route::BringBack(shard),
                Err(true) => Route::Split,
                Err(false) => Route::Wait,
            };
        }
        if self.sql.down && self.forgets {
            return Route::Unavailable;
        }
        match &command.action {
            Action::Reserve(c) => match self.one_place(c.lines.as_slice().iter().map(|line| &line.sku_id)) {
                Ok(target) => Route::At(target),
                Err(true) => Route::Span,
                Err(false) => Route::Wait,
            },
            _ => Route::At(Target::Shard(self.name_shard(order_no))),
        }
    }

    /// What a place says to a message that has arrived.
    pub fn deliver(&mut self, to: Target, ask: &Ask) -> Reply {
        self.say(|| format!("{to:?} <- {ask:?}"));
        if to == Target::Store && self.sql.down {
            return vec![(Err(Refusal::StoreUnavailable), None)];
        }
        let reads_store = !matches!(ask, Ask::Commands(_));
        if reads_store && self.sql.down {
            return vec![(Err(Refusal::StoreUnavailable), None)];
        }
        let moved = || vec![(Err(Refusal::Overloaded), None)];
        let placed = || vec![(Ok(Answer::Placed), None)];
        let reply = match (ask, to) {
            (Ask::Commands(commands), _) => {
                let mut replies = Vec::new();
                for command in commands {
                    replies.push(self.take_command(to, command));
                    self.note_levels();
                }
                replies
            }
            (Ask::AdoptHome(order_no), Target::Shard(shard)) => {
                let unflushed = self.known_at(order_no).is_some();
                match self.sql.homes.get(order_no).filter(|row| row.shard == shard && !unflushed) {
                    Some(row) => {
                        let step = HomeStep::Adopt(Box::new(row.image.clone()));
                        self.saw("homes adopted");
                        vec![self.take_command(to, &Action::Home(Box::new(step)).into())]
                    }
                    None => moved(),
                }
            }
            (Ask::BringBack(order_no), Target::Shard(shard)) => match self.bring_back(shard, order_no) {
                Some(outcome) => vec![(outcome, None)],
                None => moved(),
            },
            (Ask::Split(order_no), Target::Store) => {
                let get = Command::from(Action::GetOrder(order_no.clone()));
                if self.known_at(order_no).is_none()
                    && self.route_of_unclaimed(order_no, &get) == Route::Split
                {
                    self.sql.split(order_no);
                    self.saw("ended orders split");
                }
                placed()
            }
            (Ask::Take(skus, shard), Target::Store) => {
                self.sql.take(skus, *shard);
                placed()
            }
            (Ask::Begin(sku_id), Target::Shard(shard)) => match self.sql.owners.get(sku_id) {
                Some((owner, epoch)) if *owner == shard => {
                    let stocks = self.sql.stocks_of(sku_id);
                    self.place_step(shard, Step::Begin { sku_id: sku_id.clone(), epoch: *epoch, stocks })
                }
                _ => moved(),
            },
            (Ask::Orders(sku_id), Target::Shard(shard)) => {
                let mut reply = placed();
                for orders in self.sql.orders_of(sku_id, shard).chunks(2) {
                    let (sku_id, orders) = (Some(sku_id.clone()), orders.to_vec());
                    reply = self.place_step(shard, Step::Orders { sku_id, orders, requests: Vec::new() });
                }
                reply
            }
            (Ask::LeaveToHome(order_no), Target::Store) => {
                if let Some(row) = self.sql.orders.get_mut(order_no) {
                    row.due = None;
                }
                placed()
            }
            (other, _) => unreachable!("{other:?} does not go to {to:?}"),
        };
        self.note_levels();
        self.say(|| format!("    -> {:?}", reply.iter().map(|(outcome, _)| outcome).collect::<Vec<_>>()));
        reply
    }

    fn place_step(&mut self, shard: usize, step: Step) -> Reply {
        vec![(self.decide_at(shard, &Action::Place(Box::new(step)).into(), Foresight::None).0, None)]
    }

    /// An order that the shard has let go of comes back, if it can. `None`: it is not the time for it.
    fn bring_back(&mut self, shard: usize, order_no: &OrderNo) -> Option<Outcome> {
        let image = self.sql.orders.get(order_no)?.image.clone();
        let here = |sku_id| self.place_of(sku_id) == Some(Target::Shard(shard));
        let known =
            self.shards.iter().any(|shard| shard.knows(order_no) || shard.shed.contains_key(order_no));
        if known || is_open(&image) || !image.lines.iter().all(|line| here(&line.sku_id)) {
            return None;
        }
        self.saw("orders brought back");
        let step = Step::Orders { sku_id: None, orders: vec![image], requests: Vec::new() };
        Some(self.place_step(shard, step).remove(0).0)
    }

    fn take_command(&mut self, to: Target, command: &Command) -> (Outcome, Option<Order>) {
        let moved = || (Err(Refusal::Moved(Box::new(command.clone()))), None);
        let foresight = match (&command.action, command.order_no()) {
            (Action::Home(step), Some(order_no)) => {
                let begins = matches!(&**step, HomeStep::Reserve { .. } | HomeStep::Adopt(_));
                let Target::Shard(shard) = to else { unreachable!("{command:?} goes to the store") };
                if !begins && !self.shards[shard].knows(order_no) && self.sql.homes.contains_key(order_no) {
                    // The shard has let go of it: it has to come back first.
                    return moved();
                }
                Foresight::Home
            }
            (Action::Place(_), _) => Foresight::None,
            (_, Some(order_no)) if order_no.is_branch() => {
                let sku_id = order_no.branch().expect("it is the number of one").sku_id;
                if self.place_of(&sku_id) != Some(to) {
                    return moved();
                }
                if let Target::Shard(shard) = to
                    && !self.shards[shard].knows(order_no)
                    && self.sql.orders.contains_key(order_no)
                {
                    if self.sql.down {
                        return (Err(Refusal::StoreUnavailable), None);
                    }
                    self.bring_back(shard, order_no);
                }
                Foresight::None
            }
            (_, Some(order_no)) => {
                // The claim of its sender does not hold it here when its lines have moved.
                let known = self.known_at(order_no);
                let is_reserve = matches!(command.action, Action::Reserve(_));
                if known.is_none() && is_reserve && self.under_way.iter().any(|(busy, _)| busy == order_no) {
                    // It would be made in one place, and might have left it before the attempt comes to its home.
                    return moved();
                }
                let here = match known {
                    Some(shard) => Target::Shard(shard) == to,
                    None => match self.route_of_unclaimed(order_no, command) {
                        Route::At(target) => target == to,
                        _ => false,
                    },
                };
                if !here {
                    return moved();
                }
                Foresight::Order
            }
            (_, None) => {
                let Route::At(target) = self.route(command) else { return moved() };
                if target != to {
                    return moved();
                }
                Foresight::None
            }
        };
        match to {
            Target::Shard(shard) => self.decide_at(shard, command, foresight),
            Target::Store => self.decide_in_store(command, foresight),
        }
    }

    fn decide_in_store(&mut self, command: &Command, foresight: Foresight) -> (Outcome, Option<Order>) {
        let mut state = self.sql.state_for(command, self.clock);
        let foreseen = self.foresee(&state, command, foresight);
        let decision = state.decide(command, self.sql.time);
        let (outcome, logged) = match decision {
            Decision::Answer(outcome) => (outcome, None),
            Decision::Log(event) => {
                state.apply(Lsn(1), &event).expect("what was decided can be applied");
                let answer = state.answer(&event);
                self.sql.write_back(&state, command);
                self.supply(&event, None);
                (Ok(answer), Some(event))
            }
        };
        let then = self.settle(foreseen, &outcome, None, logged.is_some());
        (outcome, then)
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
            Decision::Log(event) => {
                self.say(|| format!("    shard {index} logs {event:?}"));
                self.supply(&event, Some((index, lsn)));
                self.shards[index].log(event.clone());
                (Ok(self.shards[index].state.answer(&event)), true)
            }
        };
        let then = self.settle(foreseen, &outcome, Some((index, lsn)), logged);
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
        logged_at: Option<(usize, usize)>,
        logged: bool,
    ) -> Option<Order> {
        let Foreseen { order_no, outcome: expected, after, at_home, held_late } = foreseen?;
        let outcome = match outcome {
            Err(Refusal::Moved(_)) => return None,
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
            if let Some((index, lsn)) = logged_at {
                self.shards[index].undo.push((lsn, Undo::Order(order_no.clone(), before)));
            }
        }
        self.orders.get(&order_no).cloned()
    }

    /// What an event brings or takes other than by orders.
    fn supply(&mut self, event: &Event, logged_at: Option<(usize, usize)>) {
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
        if let Some((index, lsn)) = logged_at {
            self.shards[index].undo.push((lsn, Undo::Supply(place, units)));
        }
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
        for _ in 0..self.rng.usize(1..4) {
            let Some(event) = self.shards[index].state.next_leaving(now) else { break };
            if let Change::Split { orders } = &event.change {
                *self.seen.entry("open orders split").or_default() += orders.len() as u64;
            }
            self.log(index, event);
        }
        if self.forgets {
            let shard = &self.shards[index];
            let before = now.minus_millis(REMEMBER_MILLIS);
            let flushed = Lsn(shard.flushed as u64);
            if let Some(forget) = shard.state.next_forgotten(before, usize::MAX, now, flushed) {
                self.saw("forgotten");
                self.log(index, forget.event);
            }
        }
        let at_most = self.rng.usize(1..4);
        let state = &mut self.shards[index].state;
        (state.take_due_branches(now, at_most), state.take_unsent(now, at_most))
    }

    fn log(&mut self, index: usize, event: Event) {
        self.say(|| format!("shard {index} logs {event:?}"));
        self.shards[index].log(event);
        self.note_levels();
    }

    /// The store looks at what is due. Gives the branches that are to ask, and the homes that are to be taken in.
    pub fn sweep(&mut self) -> (Vec<OrderNo>, Vec<OrderNo>) {
        let (mut branches, mut homes) = (Vec::new(), Vec::new());
        if self.sql.down {
            return (branches, homes);
        }
        for due in self.sql.due(self.clock, 3) {
            match due {
                Due::Branch(order_no) => {
                    self.sql.put_off(&order_no, self.clock);
                    branches.push(order_no);
                }
                Due::Home(order_no) => {
                    self.sql.put_off(&order_no, self.clock);
                    homes.push(order_no);
                }
                Due::Order(order_no) if !self.sql.is_all_cold(&order_no) => self.sql.not_due(&order_no),
                Due::Order(order_no) => {
                    let command = Command::from(Action::Expire(order_no.clone()));
                    let mut state = self.sql.state_for(&command, self.clock);
                    let event = state.next_expiry(self.sql.time).expect("it is due and open");
                    let foreseen = foresee_expiry(&self.orders, &order_no, event.at);
                    state.apply(Lsn(1), &event).expect("what was decided can be applied");
                    self.sql.write_back(&state, &command);
                    self.orders.insert(order_no, foreseen.after.expect("it is known"));
                    self.saw("orders expired");
                }
            }
        }
        self.note_levels();
        (branches, homes)
    }

    /// The real levels of a stock, wherever it is: in its shard while it is there at all, else in the store.
    pub fn stock(&self, place: &Place) -> Option<(hotstock_engine::outcome::Levels, StockStatus)> {
        let owner = self.sql.owners.get(&place.0);
        let in_shard = owner.and_then(|(shard, _)| {
            // One that has been withdrawn is as it was when it left; the store has not taken that in yet.
            let shard = &self.shards[*shard];
            if shard.withdrawn.contains_key(&place.0) {
                return Some(None);
            }
            shard.state.image_of_stock(&place.0, place.1).map(Some)
        });
        let image = match in_shard {
            Some(image) => image?,
            None => self.sql.stocks.get(place)?.clone(),
        };
        Some((image.levels, image.status))
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
    pub fn send(&mut self, to: Target, ask: Ask) -> Slot {
        let slot: Slot = Rc::new(RefCell::new(None));
        self.messages.push(Message { to, ask, slot: Rc::clone(&slot), orphan: None });
        slot
    }

    /// The shard that a hot SKU is in.
    pub fn shard_of(&self, sku_id: &SkuId) -> usize {
        shard_of(sku_id, self.count()).index()
    }
}

/// What the model has to say to a command.
#[derive(Debug, Clone, Copy)]
enum Foresight {
    /// Nothing: it is about stock, a branch or a move.
    None,
    /// It is a caller's, about an order.
    Order,
    /// It is a step of a home.
    Home,
}
