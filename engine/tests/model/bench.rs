//! A shard and the model side by side: every step is taken by both, and everything that can be seen is compared.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::CheckpointEnd;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Line};
use hotstock_engine::event::{Change, Event, ReservedLine};
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use hotstock_engine::image::{Image, StockImage};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::limits::MAX_FORGOTTEN_PER_EVENT;
use hotstock_engine::outcome::{Refusal, StockView};
use hotstock_engine::state::{Capture, Decision, Departed, Need, State};
use hotstock_engine::units::Levels;

use crate::naive::{Naive, Place, plain};
use crate::steps::Step;
use crate::stored::{Known, Rows, next_load};

/// Deadlines are kept in steps of this many milliseconds: an order expires at most so late, and never early.
const DEADLINE_STEP: u64 = 100;

/// See the module.
pub struct Bench {
    pub state: State,
    pub naive: Naive,
    pub rows: Rows,
    /// What left memory, as the filter of known numbers has it.
    known: Known,
    pub clock: Timestamp,
    /// The journal: the event with LSN `n` is at `n - 1`.
    log: Vec<Event>,
    /// The model after each LSN, for torn tails.
    moments: Vec<Naive>,
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
    /// The filter, which is saved before the checkpoint is finished.
    known: Known,
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
            rows: Rows::default(),
            known: Known::default(),
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
            Step::Forget { window_millis, max } => self.forget(window_millis, max),
            Step::Restart => self.restart(self.log.len()),
            Step::TornTail { events } => self.restart(self.log.len().saturating_sub(events)),
            Step::Checkpoint { places } => self.go_on_with_checkpoint(places),
            Step::Recover { torn } => self.recover(torn),
            Step::Flush { events } => self.flush(events),
            Step::Evict { at_most } => self.evict(at_most),
            Step::Pin { sku, hot } => self.pin(&sku, hot),
        }
    }

    fn send(&mut self, action: Action) {
        self.submit(&action);
        self.sent.push(action);
    }

    fn submit(&mut self, action: &Action) {
        let command = Command::from(action.clone());
        command.validate().expect("only valid commands are drawn");
        let command = InnerCommand::from(command);
        self.bring(&command);
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
            Decision::HoldFirst(_) => panic!("there is one shard"),
        };
        assert_eq!(plain(got), plain(expected), "(engine left, model right) at {action:?}");
    }

    /// What a command is about comes into memory, as the loader does it: the store takes in everything that left
    /// memory first.
    fn bring(&mut self, command: &InnerCommand) {
        self.known.missing.clear();
        loop {
            let mut needs = Vec::new();
            self.state.needs(command, &self.known, &mut needs);
            if needs.is_empty() {
                return;
            }
            self.load(&needs);
        }
    }

    fn load(&mut self, needs: &[Need]) {
        self.flush(length(self.state.departed()).saturating_sub(length(self.rows.flushed)));
        while let Some(change) = next_load(&self.state, &self.rows, &mut self.known, needs) {
            self.log_own(change);
        }
    }

    /// Logs what the shard does by itself, of which callers see nothing.
    fn log_own(&mut self, change: Change) {
        let event = self.state.event(change, self.clock);
        self.naive.log(event.at);
        self.log(event);
    }

    fn flush(&mut self, events: usize) {
        let from = length(self.rows.flushed);
        for event in self.log.iter().skip(from).take(events) {
            self.rows.flush(self.rows.flushed.next(), event);
        }
    }

    fn evict(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let (may_leave, clock) = (|sku_id: &SkuId| *sku_id != sku_named("S1"), self.clock);
            let Some(event) = self.state.next_eviction(self.rows.flushed, may_leave, |_| false, clock) else {
                return;
            };
            let Change::Evicted { sku_id, through, orders, .. } = &event.change else {
                panic!("{event:?} instead of an eviction")
            };
            assert!(may_leave(sku_id) && !self.state.hot_skus().contains(sku_id), "{sku_id} may not leave");
            assert!(*through <= self.rows.flushed, "{event:?} leaves and is not flushed");
            let holds = |line: &Line| line.sku_id == *sku_id;
            let mut on_it = self.naive.orders.values().filter(|order| order.asked.iter().any(holds));
            assert!(on_it.all(|order| !order.is_open()), "an open order lies on {sku_id}");
            let sku_id = sku_id.clone();
            let mut expected: BTreeSet<_> = orders.iter().cloned().map(Departed::Order).collect();
            let requests = self.naive.changes.keys().filter(|key| key.0 == sku_id);
            let here = requests.filter(|key| self.state.image_of_request(&key.0, &key.1).is_some());
            expected.extend(here.map(|key| Departed::Request(key.0.clone(), key.1.clone())));
            self.naive.log(event.at);
            self.log(event);
            assert!(!self.state.is_resident(&sku_id));
            let departed = self.state.take_departed();
            assert_eq!(departed.iter().cloned().collect::<BTreeSet<_>>(), expected);
            self.known.add(departed);
        }
    }

    fn pin(&mut self, sku_id: &SkuId, hot: bool) {
        if !self.state.is_resident(sku_id) {
            self.known.missing.clear();
            self.load(&[Need::Sku(sku_id.clone())]);
        }
        let known = self.naive.shelves.keys().any(|place| place.0 == *sku_id);
        match self.state.decide_pinned(std::slice::from_ref(sku_id), hot) {
            Ok(Some(change)) => self.log_own(change),
            Ok(None) => assert_eq!(self.state.hot_skus().contains(sku_id), hot),
            Err(refusal) => assert!(!known && matches!(refusal, Refusal::UnknownSku { .. }), "{refusal}"),
        }
        assert_eq!(self.state.hot_skus().contains(sku_id), hot && known);
    }

    /// Applies an event to the state; the model has taken it already.
    pub fn log(&mut self, event: Event) {
        assert_eq!(event.at, self.naive.time, "the time of {event:?}");
        self.check_moves(&event);
        let lsn = self.state.applied().next();
        self.state.apply(lsn, &event).expect("what was decided can be applied");
        self.log.push(event);
        self.moments.push(self.naive.clone());
    }

    fn expire(&mut self, at_most: usize) {
        for _ in 0..at_most {
            let Some(event) = self.state.next_expiry(self.clock) else {
                let mut late = self.naive.due(self.clock.minus_millis(DEADLINE_STEP));
                let late = late.next();
                assert!(late.is_none(), "nothing expires at {:?}, but {late:?} is due", self.clock);
                return;
            };
            let Change::Expired { order_no, .. } = &event.change else {
                panic!("{event:?} instead of an expiry")
            };
            let at = self.naive.orders[order_no].expires_at;
            {
                let mut earlier = self.naive.due(at.minus_millis(DEADLINE_STEP));
                let earlier = earlier.next();
                assert!(earlier.is_none(), "{order_no} expires before {earlier:?}");
            }
            self.naive.expire(order_no, self.clock).expect("the model lets it expire");
            self.log(event);
        }
    }

    /// What is remembered here, oldest first: by the event that last changed it or brought it, when each last changed.
    fn remembered(&self) -> BTreeMap<u64, Vec<(Timestamp, Departed)>> {
        let mut remembered = BTreeMap::<u64, Vec<_>>::new();
        for order_no in self.naive.orders.keys() {
            if let Some(image) = self.state.image_of_order(order_no).filter(|image| !image.is_open()) {
                let entry = (image.changed_at, Departed::Order(order_no.clone()));
                remembered.entry(image.lsn.0).or_default().push(entry);
            }
        }
        for (sku_id, request_id) in self.naive.changes.keys() {
            if let Some(image) = self.state.image_of_request(sku_id, request_id) {
                let entry = (image.at, Departed::Request(sku_id.clone(), request_id.clone()));
                remembered.entry(image.lsn.0).or_default().push(entry);
            }
        }
        remembered
    }

    fn forget(&mut self, window_millis: u64, max: usize) {
        let before = self.clock.minus_millis(window_millis);
        let remembered = self.remembered();
        let surplus = remembered.values().map(Vec::len).sum::<usize>().saturating_sub(max);
        let (mut through, mut early, mut goes) = (None, 0, BTreeSet::new());
        for (event, entries) in remembered.into_iter().take_while(|(event, _)| *event <= self.rows.flushed.0)
        {
            let young = entries.iter().filter(|(at, _)| *at >= before).count();
            if goes.len() >= MAX_FORGOTTEN_PER_EVENT || (young > 0 && goes.len() >= surplus) {
                break;
            }
            (through, early) = (Some(event), early + young);
            goes.extend(entries.into_iter().map(|(_, entry)| entry));
        }
        let Some(forget) = self.state.next_forgotten(before, max, self.clock, self.rows.flushed, |_| false)
        else {
            assert_eq!(through, None);
            return;
        };
        let Change::Forgotten { through: last, .. } = &forget.event.change else {
            panic!("{:?} instead of a Forgotten", forget.event)
        };
        assert_eq!((Some(last.0), forget.count, forget.early), (through, goes.len(), early));
        self.naive.log(forget.event.at);
        self.log(forget.event);
        let departed = self.state.take_departed();
        assert_eq!(departed.iter().cloned().collect::<BTreeSet<_>>(), goes);
        self.known.add(departed);
    }

    /// Stops, and starts from the first `keep` events.
    fn restart(&mut self, keep: usize) {
        // A checkpoint is complete only when the journal is durable through its end.
        let durable = self.newest.as_ref().map_or(0, |saved| length(saved.end.end));
        self.crash(keep.max(durable));
        let mut state = empty_state();
        self.replay(&mut state, 0, self.log.len());
        self.go_on_with(state, Known::default());
    }

    fn go_on_with_checkpoint(&mut self, places: usize) {
        let begin = self.state.applied();
        let running =
            self.running.get_or_insert_with(|| Running { at: Capture::default(), begin, slices: Vec::new() });
        if let Some(slice) = self.state.capture(&mut running.at, places) {
            running.slices.push(slice);
            return;
        }
        let (end, time, departed) = (self.state.applied(), self.state.time(), self.state.departed());
        let (end, known) = (CheckpointEnd { end, time, departed }, self.known.clone());
        let saved = |done: Running| Saved { begin: done.begin, end, slices: done.slices, known };
        self.newest = self.running.take().map(saved);
        self.check_newest();
    }

    /// Completes a checkpoint that is under way, and flushes everything: the store is then what the model is.
    pub fn finish(&mut self) {
        while self.running.is_some() {
            self.go_on_with_checkpoint(2);
        }
        self.flush(usize::MAX);
        let stocks = self.rows.stocks.values().flat_map(BTreeMap::values).map(stock_view);
        let expected = self.naive.shelves.keys().map(|place| self.naive.stock_view(place));
        assert!(stocks.eq(expected), "stocks as the store has them");
        for (order_no, order) in &self.naive.orders {
            self.check_stored_order(order_no, order.last_event);
        }
        let requests: Vec<_> =
            self.rows.requests.iter().map(|(key, image)| (key, (image.at, image.lsn.0))).collect();
        let expected: Vec<_> = self.naive.changes.iter().map(|(key, c)| (key, (c.at, c.event))).collect();
        assert_eq!(requests, expected);
    }

    fn check_stored_order(&self, order_no: &OrderNo, last_event: u64) {
        let image = self.rows.orders.get(order_no).expect("the store has the order");
        let order = &self.naive.orders[order_no];
        assert_eq!(image.view(), order.view(order_no), "as the store has it");
        assert_eq!((image.lsn.0, image.changed_at), (last_event, order.changed_at));
    }

    /// A start from the newest checkpoint would find what is here.
    fn check_newest(&self) {
        let Some(saved) = &self.newest else { return };
        let mut state = saved.restored();
        self.replay(&mut state, length(saved.begin), self.log.len());
        state.check_exact().expect("the journal reaches to the end of the checkpoint");
        assert_eq!(state.audit(), self.state.audit());
        assert_eq!(state.sizes(), self.state.sizes());
        assert_eq!((state.departed(), state.hot_skus()), (self.state.departed(), self.state.hot_skus()));
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
        self.go_on_with(state, saved.known);
    }

    fn crash(&mut self, keep: usize) {
        // What was flushed was durable.
        let keep = keep.max(length(self.rows.flushed));
        self.log.truncate(keep);
        self.moments.truncate(keep + 1);
        self.naive = self.moments[self.log.len()].clone();
        self.running = None;
    }

    fn replay(&self, state: &mut State, from: usize, to: usize) {
        for event in &self.log[from..to] {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
    }

    fn go_on_with(&mut self, mut state: State, mut saved: Known) {
        // What left after the filter was saved is found by the replay.
        saved.add(state.take_departed());
        self.known = saved;
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
            self.naive.shelves.keys().partition(|place| self.state.is_resident(&place.0));
        let views: Vec<_> = here.into_iter().map(|place| self.naive.stock_view(place)).collect();
        for place in away {
            let image = self.rows.stocks[&place.0].get(&place.1);
            assert_eq!(image.map(stock_view), Some(self.naive.stock_view(place)), "it left and was flushed");
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

        let mut order_numbers: Vec<_> = self.state.order_numbers().map(|(order_no, _)| order_no).collect();
        order_numbers.sort();
        let here: Vec<_> =
            self.naive.orders.keys().filter(|order_no| self.state.knows_order(order_no)).collect();
        assert_eq!(order_numbers, here);
        for (order_no, order) in &self.naive.orders {
            if let Some((lsn, view)) = self.state.order(order_no) {
                assert_eq!(view, order.view(order_no));
                assert!(lsn >= Lsn(order.last_event), "loaded after it changed");
                continue;
            }
            assert!(
                self.known.orders.contains(order_no) && !order.is_open(),
                "{order_no} left and is not known"
            );
            self.check_stored_order(order_no, order.last_event);
        }
        for key in self.naive.changes.keys() {
            let is_here = self.state.image_of_request(&key.0, &key.1).is_some();
            assert!(is_here || self.known.requests.contains(key), "{key:?} left and is not known");
        }

        let sizes = self.state.sizes();
        let open = self.naive.orders.values().filter(|order| order.is_open()).count();
        let remembered = self.remembered().values().map(Vec::len).sum();
        let expected = (views.len(), order_numbers.len(), open, remembered);
        assert_eq!((sizes.stocks, sizes.orders, sizes.open_orders, sizes.remembered), expected);
        let skus: BTreeSet<_> = views.iter().map(|view| &view.sku_id).collect();
        assert_eq!(sizes.skus, skus.len());
        assert_eq!((self.state.applied(), self.state.time()), (Lsn(self.naive.events), self.naive.time));
        assert!(self.state.departed() <= self.rows.flushed, "what left was flushed");
    }

    /// What an event says of units and levels (the followers live on it) is what happened in the model.
    fn check_moves(&self, event: &Event) {
        let before = self.moments.last().expect("there is one per LSN and one before");
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

fn stock_view(image: &StockImage) -> StockView {
    StockView {
        sku_id: image.sku_id.clone(),
        warehouse_id: image.warehouse_id,
        levels: image.levels,
        status: image.status,
        serialized: image.numbered.is_some(),
    }
}

fn sku_named(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
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
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, hold(l.held), l.after)).collect()
        }
        Change::Confirmed { lines, .. } => {
            let sell = |held: u32, late: u32| {
                let (held, late) = (i128::from(held), i128::from(late));
                [-late, -held, held + late]
            };
            let moves = lines.iter().map(|l| (l, sell(l.held, l.late)));
            moves.map(|(l, units)| to(&l.sku_id, l.warehouse_id, units, l.after)).collect()
        }
        Change::Released { lines, .. } | Change::Expired { lines, .. } => {
            let free = |n: u32| [i128::from(n), -i128::from(n), 0];
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, free(l.quantity), l.after)).collect()
        }
        Change::Returned { lines, .. } => {
            let back = |n: u32| [i128::from(n), 0, -i128::from(n)];
            lines.iter().map(|l| to(&l.sku_id, l.warehouse_id, back(l.quantity), l.after)).collect()
        }
        Change::StatusChanged { sku_id, warehouses, .. } => {
            let none = |(warehouse_id, after): &(WarehouseId, Levels)| {
                to(sku_id, *warehouse_id, [0; 3], Some(*after))
            };
            warehouses.iter().map(none).collect()
        }
        Change::Cancelled { .. }
        | Change::Extended { .. }
        | Change::Forgotten { .. }
        | Change::Loaded { .. }
        | Change::OrdersLoaded { .. }
        | Change::Evicted { .. }
        | Change::Pinned { .. }
        | Change::Started { .. }
        | Change::Acknowledged { .. }
        | Change::Held { .. }
        | Change::HoldChanged { .. } => Vec::new(),
    }
}
