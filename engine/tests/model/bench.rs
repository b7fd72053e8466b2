//! A shard and the model side by side: every step is taken by both, and everything that can be seen is compared.

use std::collections::BTreeMap;

use hotstock_engine::checkpoint::{CheckpointEnd, Image};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Line};
use hotstock_engine::event::{Change, Event, ReservedLine};
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::{Levels, StockView};
use hotstock_engine::state::{Capture, Decision, State};

use crate::moves::Store;
use crate::naive::{Naive, Place, plain};
use crate::steps::Step;

/// Deadlines are kept in steps of this many milliseconds: an order expires at most so late, and never early.
const DEADLINE_STEP: u64 = 100;

/// See the module.
pub struct Bench {
    pub state: State,
    pub naive: Naive,
    pub store: Store,
    pub clock: Timestamp,
    /// The journal: the event with LSN `n` is at `n - 1`.
    log: Vec<Event>,
    /// The model and the store after each LSN, for torn tails.
    moments: Vec<(Naive, Store)>,
    /// Commands that were sent.
    sent: Vec<Action>,
    /// Stock levels as the views of the read side would show them: updated by what was touched only.
    views: BTreeMap<Place, StockView>,
    running: Option<Running>,
    newest: Option<Saved>,
}

/// A checkpoint under way.
struct Running {
    at: Capture,
    begin: Lsn,
    slices: Vec<Vec<Image>>,
}

/// A complete checkpoint.
#[derive(Clone)]
struct Saved {
    begin: Lsn,
    end: CheckpointEnd,
    slices: Vec<Vec<Image>>,
}

impl Saved {
    fn restored(&self) -> State {
        let mut state = State::restoring(ShardId(0), 1, self.begin, self.end);
        for slice in &self.slices {
            state.restore(slice.clone()).expect("a checkpoint can be restored");
        }
        state
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            state: empty_state(),
            naive: Naive::default(),
            store: Store::default(),
            clock: Timestamp(1_000_000),
            log: Vec::new(),
            moments: vec![Default::default()],
            sent: Vec::new(),
            views: BTreeMap::new(),
            running: None,
            newest: None,
        }
    }
}

fn empty_state() -> State {
    State::new(ShardId(0), 1)
}

impl Bench {
    pub fn take(&mut self, step: Step) {
        match step {
            Step::Do(action) => self.send(action),
            Step::DoPart(wish) => {
                let order = self.naive.orders.get(&wish.order_no);
                let action = wish.action(order.map_or(&[], |order| &order.asked));
                self.send(action);
            }
            Step::Again(_) if self.sent.is_empty() => {}
            Step::Again(index) => self.submit(&self.sent[index % self.sent.len()].clone()),
            Step::Pass { millis } => self.clock = self.clock.plus_millis(millis),
            Step::ClockBack { millis } => self.clock = self.clock.minus_millis(millis),
            Step::Expire { at_most } => self.expire(at_most),
            Step::Forget { window_millis, max, unflushed } => self.forget(window_millis, max, unflushed),
            Step::Restart => self.restart(self.log.len()),
            Step::TornTail { events } => self.restart(self.log.len().saturating_sub(events)),
            Step::Checkpoint { places } => self.go_on_with_checkpoint(places),
            Step::Recover { torn } => self.recover(torn),
            Step::Close { skus } => self.close(skus),
            Step::Leave { events } => {
                self.leave(events);
            }
            Step::Arrive { sku, how } => self.arrive(sku, how),
        }
    }

    fn send(&mut self, action: Action) {
        self.submit(&action);
        self.sent.push(action);
    }

    fn submit(&mut self, action: &Action) {
        let command = Command::from(action.clone());
        command.validate().expect("only valid commands are drawn");
        self.bring(action);
        let decision = self.state.decide(&command, self.clock);
        let chosen = match &decision {
            Decision::Log(Event { change: Change::Reserved { lines, .. }, .. }) => {
                let line = |l: &ReservedLine| Line {
                    sku_id: l.sku_id.clone(),
                    warehouse_id: l.warehouse_id,
                    quantity: l.quantity,
                };
                Some(lines.iter().map(line).collect::<Vec<_>>())
            }
            _ => None,
        };
        let expected = self.naive.carry_out_where(action, chosen.as_deref(), self.clock);
        let got = match decision {
            Decision::Answer(outcome) => outcome,
            Decision::Log(event) => {
                self.log(event.clone());
                Ok(self.state.answer(&event))
            }
        };
        assert_eq!(plain(got), plain(expected), "(engine left, model right) at {action:?}");
    }

    /// Applies an event to the state; the model has taken it already.
    pub fn log(&mut self, event: Event) {
        assert_eq!(event.at, self.naive.time, "the time of {event:?}");
        self.check_moves(&event);
        self.follow(&event);
        let lsn = self.state.applied().next();
        self.state.apply(lsn, &event).expect("what was decided can be applied");
        self.log.push(event);
        self.moments.push((self.naive.clone(), self.store.clone()));
    }

    fn expire(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let Some(event) = self.state.next_expiry(self.clock) else {
                let mut late = self.naive.due(self.clock.minus_millis(DEADLINE_STEP));
                let late = late.find(|(order_no, _)| self.is_free(order_no));
                assert!(late.is_none(), "nothing expires at {:?}, but {late:?} is due", self.clock);
                return;
            };
            let Change::Expired { order_no, .. } = &event.change else {
                panic!("{event:?} instead of an expiry")
            };
            let at = self.naive.orders[order_no].expires_at;
            assert!(self.is_free(order_no), "{order_no} expires while it moves");
            {
                let mut earlier = self.naive.due(at.minus_millis(DEADLINE_STEP));
                let earlier = earlier.find(|(order_no, _)| self.is_free(order_no));
                assert!(earlier.is_none(), "{order_no} expires before {earlier:?}");
            }
            self.naive.expire(order_no, self.clock).expect("the model lets it expire");
            self.log(event);
        }
    }

    fn forget(&mut self, window_millis: u64, max: usize, unflushed: u64) {
        let before = self.clock.minus_millis(window_millis);
        let flushed = Lsn(self.state.applied().0.saturating_sub(unflushed));
        let expected = self.naive.forget(before, max, self.clock, flushed.0);
        let Some(forget) = self.state.next_forgotten(before, max, self.clock, flushed) else {
            assert_eq!(expected, None);
            return;
        };
        let expected = expected.expect("the model forgets too");
        let Change::Forgotten { through, sold } = &forget.event.change else {
            panic!("{:?} instead of a Forgotten", forget.event)
        };
        assert_eq!(
            (through.0, forget.count, forget.early),
            (expected.through, expected.count, expected.early)
        );
        for entry in sold {
            let place = (entry.sku_id.clone(), entry.warehouse_id);
            // Orders elsewhere are as good as forgotten here.
            let elsewhere = self.naive.elsewhere.iter().map(|order_no| &self.naive.orders[order_no]);
            let lines = elsewhere.filter_map(|order| order.lines_at(&place));
            let elsewhere: u64 = lines.map(|line| u64::from(line.confirmed - line.returned)).sum();
            let forgotten: u64 = self.naive.shelves[&place].sold_by_forgotten.iter().sum();
            assert_eq!(entry.total, forgotten + elsewhere, "{entry:?}");
        }
        self.log(forget.event);
        let mut forgotten = self.state.take_forgotten();
        forgotten.sort();
        assert_eq!(forgotten, expected.orders, "these order numbers are free again");
    }

    /// Stops, and starts from the first `keep` events.
    fn restart(&mut self, keep: usize) {
        // A checkpoint is complete only when the journal is durable through its end.
        let durable = self.newest.as_ref().map_or(0, |saved| length(saved.end.end));
        self.crash(keep.max(durable));
        let mut state = empty_state();
        self.replay(&mut state, 0, self.log.len());
        self.go_on_with(state);
    }

    fn go_on_with_checkpoint(&mut self, places: usize) {
        let begin = self.state.applied();
        let running =
            self.running.get_or_insert_with(|| Running { at: Capture::default(), begin, slices: Vec::new() });
        if let Some(slice) = self.state.capture(&mut running.at, places) {
            running.slices.push(slice);
            return;
        }
        let end = CheckpointEnd { end: self.state.applied(), time: self.state.time() };
        self.newest = self.running.take().map(|done| Saved { begin: done.begin, end, slices: done.slices });
        self.check_newest();
    }

    /// Completes a checkpoint that is under way.
    pub fn finish_checkpoint(&mut self) {
        while self.running.is_some() {
            self.go_on_with_checkpoint(2);
        }
    }

    /// A start from the newest checkpoint would find what is here.
    fn check_newest(&self) {
        let Some(saved) = &self.newest else { return };
        let mut state = saved.restored();
        self.replay(&mut state, length(saved.begin), self.log.len());
        state.check_exact().expect("the journal reaches to the end of the checkpoint");
        assert_eq!(state.audit(), self.state.audit());
        assert_eq!(state.sizes(), self.state.sizes());
        for (sku_id, warehouse_id) in self.naive.shelves.keys() {
            let image = |state: &State| state.image_of_stock(sku_id, *warehouse_id);
            assert_eq!(image(&state), image(&self.state));
        }
        for order_no in self.naive.orders.keys() {
            assert_eq!(state.image_of_order(order_no), self.state.image_of_order(order_no));
        }
        for (sku_id, request_id) in self.naive.changes.keys() {
            let image = |state: &State| state.image_of_request(sku_id, request_id);
            assert_eq!(image(&state), image(&self.state));
        }
    }

    /// Stops without the last `torn` events, and starts from the newest checkpoint.
    fn recover(&mut self, torn: usize) {
        let Some(saved) = self.newest.clone() else { return };
        let (begin, end) = (length(saved.begin), length(saved.end.end));
        self.crash(self.log.len().saturating_sub(torn).max(end));
        if begin < end {
            let mut too_short = saved.restored();
            self.replay(&mut too_short, begin, end - 1);
            too_short.check_exact().expect_err("the journal ends before the checkpoint");
        }
        let mut state = saved.restored();
        self.replay(&mut state, begin, self.log.len());
        state.check_exact().expect("the journal reaches beyond the end of the checkpoint");
        self.go_on_with(state);
    }

    fn crash(&mut self, keep: usize) {
        self.log.truncate(keep);
        self.moments.truncate(keep + 1);
        (self.naive, self.store) = self.moments[self.log.len()].clone();
        self.running = None;
    }

    fn replay(&self, state: &mut State, from: usize, to: usize) {
        for event in &self.log[from..to] {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
    }

    fn go_on_with(&mut self, mut state: State) {
        // A shard that starts asks for all orders instead.
        state.take_forgotten();
        state.take_left();
        self.state = state;
        self.views.clear();
    }

    /// Compares everything that can be seen.
    pub fn check(&mut self) {
        for left in self.state.take_left() {
            self.views.remove(&(left.sku_id, left.warehouse_id));
        }
        for number in self.state.take_touched() {
            let view = self.state.stock_view(number);
            self.views.insert((view.sku_id.clone(), view.warehouse_id), view);
        }
        let (here, away): (Vec<_>, Vec<_>) =
            self.naive.shelves.keys().partition(|place| self.stage(&place.0).is_some());
        let views: Vec<_> = here.into_iter().map(|place| self.naive.stock_view(place)).collect();
        for place in away {
            let mut images = self.store.stocks[&place.0].iter();
            let image = images.find(|image| image.warehouse_id == place.1);
            assert_eq!(image.map(Store::stock_view), Some(self.naive.stock_view(place)));
        }
        assert_eq!(self.views.values().cloned().collect::<Vec<_>>(), views, "stocks as the views show them");

        let audit = self.state.audit();
        assert_eq!(audit.violations, []);
        let mut numbered = BTreeMap::<SkuId, u64>::new();
        for stock in &audit.stocks {
            *numbered.entry(stock.sku_id.clone()).or_default() += stock.numbered.unwrap_or(0);
        }
        for (sku_id, numbered) in numbered {
            let highest = self.naive.highest.get(&sku_id).copied().unwrap_or(0);
            assert_eq!(numbered, highest, "serial numbers of {sku_id}");
        }
        let audited = audit.stocks.into_iter().map(|stock| StockView {
            sku_id: stock.sku_id,
            warehouse_id: stock.warehouse_id,
            levels: stock.levels,
            status: stock.status,
            serialized: stock.numbered.is_some(),
        });
        assert_eq!(audited.collect::<Vec<_>>(), views, "stocks as they are");

        let mut order_numbers: Vec<_> = self.state.order_numbers().collect();
        order_numbers.sort();
        let here = |order_no: &&OrderNo| !self.naive.elsewhere.contains(*order_no);
        assert_eq!(order_numbers, self.naive.orders.keys().filter(here).collect::<Vec<_>>());
        for (order_no, order) in &self.naive.orders {
            if !here(&order_no) {
                assert_eq!(self.store.order_view(order_no), Some(order.view(order_no)));
                continue;
            }
            let expected = Some((Lsn(order.last_event), order.view(order_no)));
            assert_eq!(self.state.order(order_no), expected);
        }

        let sizes = self.state.sizes();
        let open =
            self.naive.orders.iter().filter(|(order_no, order)| here(order_no) && order.is_open()).count();
        let remembered = self.naive.remembered().values().map(Vec::len).sum();
        let expected = (views.len(), order_numbers.len(), open, remembered);
        assert_eq!((sizes.stocks, sizes.orders, sizes.open_orders, sizes.remembered), expected);
        assert_eq!((self.state.applied(), self.state.time()), (Lsn(self.naive.events), self.naive.time));
    }

    /// What an event says of units and levels (the followers live on it) is what happened in the model.
    fn check_moves(&self, event: &Event) {
        let (before, _) = self.moments.last().expect("there is one per LSN and one before");
        let mut moved: BTreeMap<Place, [i128; 3]> = BTreeMap::new();
        for Move { place, units, after } in moves(&event.change) {
            if let Some(after) = after {
                assert_eq!(after, self.naive.levels(&place), "the levels after {event:?}");
            }
            let sum = moved.entry(place).or_default();
            (0..3).for_each(|level| sum[level] += units[level]);
        }
        for place in self.naive.shelves.keys() {
            let known = before.shelves.contains_key(place);
            let was = if known { before.levels(place) } else { Levels::default() };
            let is = self.naive.levels(place);
            let difference = |of: fn(&Levels) -> u64| i128::from(of(&is)) - i128::from(of(&was));
            let expected = [difference(|l| l.available), difference(|l| l.reserved), difference(|l| l.sold)];
            assert_eq!(moved.remove(place).unwrap_or_default(), expected, "{place:?} after {event:?}");
        }
        assert!(moved.is_empty(), "{event:?} moves units of unknown stocks");
    }
}

fn length(lsn: Lsn) -> usize {
    usize::try_from(lsn.0).expect("few events")
}

/// What an event says of one stock: units that went to available, reserved and sold, and the levels after.
struct Move {
    place: Place,
    units: [i128; 3],
    after: Option<Levels>,
}

fn moves(change: &Change) -> Vec<Move> {
    let to = |sku_id: &SkuId, warehouse_id: WarehouseId, units, after| {
        let place = (sku_id.clone(), warehouse_id);
        Move { place, units, after }
    };
    match change {
        Change::StockCreated { sku_id, warehouse_id, quantity, .. } => {
            vec![to(sku_id, *warehouse_id, [i128::from(*quantity), 0, 0], None)]
        }
        Change::StockChanged { sku_id, warehouse_id, delta, after, .. } => {
            vec![to(sku_id, *warehouse_id, [i128::from(*delta), 0, 0], Some(*after))]
        }
        Change::Reserved { lines, .. } => {
            let hold = |n: u32| [-i128::from(n), i128::from(n), 0];
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, hold(l.held), Some(l.after))).collect()
        }
        Change::Confirmed { lines, .. } => {
            let sell = |held: u32, late: u32| {
                let (held, late) = (i128::from(held), i128::from(late));
                [-late, -held, held + late]
            };
            let moves = lines.iter().map(|l| (l, sell(l.held, l.late)));
            moves.map(|(l, units)| to(&l.sku_id, l.warehouse_id, units, Some(l.after))).collect()
        }
        Change::Released { lines, .. } | Change::Expired { lines, .. } => {
            let free = |n: u32| [i128::from(n), -i128::from(n), 0];
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, free(l.quantity), Some(l.after))).collect()
        }
        Change::Returned { lines, .. } => {
            let back = |n: u32| [i128::from(n), 0, -i128::from(n)];
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, back(l.quantity), Some(l.after))).collect()
        }
        Change::StatusChanged { .. }
        | Change::Cancelled { .. }
        | Change::Extended { .. }
        | Change::Forgotten { .. }
        | Change::AdoptionBegun { .. }
        | Change::OrdersAdopted { .. }
        | Change::Adopted { .. }
        | Change::Closed { .. }
        | Change::Shed { .. }
        | Change::Split { .. }
        | Change::Home(_)
        | Change::Withdrawn { .. } => Vec::new(),
    }
}
