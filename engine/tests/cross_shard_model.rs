//! Orders over several shards at random: commands, messages that are late, twice or lost with a shard, rebuilds,
//! starts that lose what was not durable, checkpoints, SKUs and orders that leave memory.
//!
//! One at a time, the commands must come out as one shard with everything would have them. At once, nothing may be
//! sold twice, lost, held for nobody or forgotten once it was told.
//!
//! `HOTSTOCK_SEEDS` asks for more than the usual number, `HOTSTOCK_SEED` for one of them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

#[path = "model/stored.rs"]
mod stored;
#[path = "stories/stores.rs"]
mod stores;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Choice, Confirm, CreateStock, Extend, Line, Lines, Mode, Part, Release,
    Reserve, Return, SetStatus, StockStatus,
};
use hotstock_engine::ids::{OrderNo, RequestId, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::outcome::{Answer, OrderView, Outcome, Refusal};
use hotstock_engine::state::{Decision, State};
use hotstock_engine::testing::{Fate, PureShards, Ticket};

use stores::Stores;

/// Some seconds in a debug build.
const CASES: u64 = 500;

#[test]
fn one_at_a_time() {
    all_seeds("one_at_a_time", |seed| Case::new(seed).one_at_a_time());
}

#[test]
fn all_at_once() {
    all_seeds("all_at_once", |seed| Case::new(seed).all_at_once());
}

fn all_seeds(name: &str, case: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, count) = match number("HOTSTOCK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("HOTSTOCK_SEEDS").unwrap_or(CASES)),
    };
    for seed in first..first + count {
        if let Err(panic) = std::panic::catch_unwind(|| case(seed)) {
            eprintln!("HOTSTOCK_SEED={seed} cargo test -p hotstock-engine --test cross_shard_model {name}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A small world and what happens in it.
struct Case {
    rng: Rng,
    shards: PureShards<Stores>,
    skus: Vec<SkuId>,
    /// Those whose units get serial numbers.
    numbered: BTreeSet<SkuId>,
    /// Everything in one shard.
    one: State,
    time: Timestamp,
    requests: u64,
    /// Some lines may lie in any warehouse. (Each shard chooses by itself, not as one with everything would.)
    chooses: bool,
    /// This one gets its mail late.
    slow: Option<ShardId>,
    /// All have begun anew while the command under way was carried out.
    restarted: bool,
    /// Orders as they were told last.
    told: BTreeMap<OrderNo, OrderView>,
    started: BTreeSet<Ticket>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.u16(2..=4);
        let mut shards = PureShards::with_store(count, Stores::new(count));
        let mut skus: Vec<SkuId> =
            (0..rng.usize(4..=6)).map(|n| SkuId::new(&format!("S{n}")).unwrap()).collect();
        let there =
            |skus: &[SkuId]| skus.iter().map(|sku| shard_of(sku, count)).collect::<BTreeSet<_>>().len();
        for n in 6.. {
            if there(&skus) > 1 {
                break;
            }
            *skus.last_mut().unwrap() = SkuId::new(&format!("S{n}")).unwrap();
        }
        let time = shards.time;
        shards.tells = std::env::var_os("HOTSTOCK_SEED").is_some();
        let mut case = Self {
            rng,
            shards,
            skus,
            numbered: BTreeSet::new(),
            one: State::with_few(ShardId(0), 1),
            time,
            requests: 0,
            chooses: false,
            slow: None,
            restarted: false,
            told: BTreeMap::new(),
            started: BTreeSet::new(),
        };
        if case.rng.bool() {
            case.slow = Some(case.shard());
        }
        for sku_id in case.skus.clone() {
            let serialized = case.rng.u8(0..3) == 0;
            if serialized {
                case.numbered.insert(sku_id.clone());
            }
            for warehouse_id in [WarehouseId(1), WarehouseId(2)] {
                let (sku_id, quantity) = (sku_id.clone(), case.rng.u64(2..9));
                let create = Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity, serialized });
                let one = case.ask_one(&create);
                let ticket = case.shards.send(create);
                case.shards.settle();
                assert!(one.is_ok() && matches!(case.shards.fate(ticket), Fate::Answered(Ok(_))));
            }
        }
        case
    }

    /// What one shard with everything says.
    fn ask_one(&mut self, action: &Action) -> Outcome {
        let command = InnerCommand::from(action.clone());
        if let InnerCommand::Public(command) = &command {
            command.validate()?;
        }
        match self.one.decide(&command, self.time) {
            Decision::Answer(outcome) => outcome,
            Decision::Log(event) => {
                self.one.apply(self.one.applied().next(), &event).unwrap();
                Ok(self.one.answer(&event))
            }
            Decision::HoldFirst(_) => unreachable!("everything is there"),
        }
    }

    fn order_no(&mut self) -> OrderNo {
        OrderNo::new(&format!("O{}", self.rng.u8(0..6))).unwrap()
    }

    fn lines(&mut self, most: usize) -> Vec<Line> {
        let line = |rng: &mut Rng, skus: &[SkuId]| Line {
            sku_id: skus[rng.usize(0..skus.len())].clone(),
            warehouse_id: WarehouseId(rng.u32(1..=2)),
            quantity: rng.u32(1..4),
        };
        (0..self.rng.usize(1..=most)).map(|_| line(&mut self.rng, &self.skus)).collect()
    }

    fn part(&mut self) -> Option<Part> {
        if self.rng.u8(0..3) == 0 {
            return None;
        }
        let id = self.rng.u8(0..6);
        let request_id = (id < 3).then(|| RequestId::new(&format!("R{id}")).unwrap());
        Some(Part { lines: Lines::new(self.lines(2)).unwrap(), request_id })
    }

    fn reserve(&mut self) -> Action {
        let lines = self.lines(4);
        let is_open: Vec<bool> = lines.iter().map(|_| self.chooses && self.rng.u8(0..6) == 0).collect();
        let named = lines
            .into_iter()
            .zip(is_open)
            .map(|(line, is_open)| (line.sku_id, (!is_open).then_some(line.warehouse_id), line.quantity));
        let (lines, open) = Lines::with_open(named).unwrap();
        let prefer = if self.rng.bool() { vec![WarehouseId(2)] } else { Vec::new() };
        Action::Reserve(Reserve {
            order_no: self.order_no(),
            lines,
            ttl_seconds: if self.rng.bool() { 2 } else { 60 },
            buyer_id: None,
            mode: if self.rng.u8(0..4) == 0 { Mode::BestEffort } else { Mode::AllOrNothing },
            choice: (!open.is_empty()).then(|| Box::new(Choice { open, prefer })),
        })
    }

    fn action(&mut self) -> Action {
        match self.rng.u8(0..20) {
            0..=6 => self.reserve(),
            7..=10 => Action::Confirm(Confirm { order_no: self.order_no(), part: self.part() }),
            11..=13 => {
                Action::Release(Release { order_no: self.order_no(), part: self.part(), reason: None })
            }
            14..=15 => {
                let request_id = RequestId::new(&format!("B{}", self.rng.u8(0..4))).unwrap();
                let lines = self.rng.bool().then(|| Lines::new(self.lines(2)).unwrap());
                Action::Return(Return { order_no: self.order_no(), request_id, lines })
            }
            16 => Action::Extend(Extend { order_no: self.order_no(), ttl_seconds: 5 }),
            17 => Action::GetOrder(self.order_no()),
            18 => {
                self.requests += 1;
                Action::ChangeStock(ChangeStock {
                    sku_id: self.skus[self.rng.usize(0..self.skus.len())].clone(),
                    warehouse_id: WarehouseId(self.rng.u32(1..=2)),
                    kind: if self.rng.bool() { ChangeKind::Restock } else { ChangeKind::Deduct },
                    quantity: self.rng.i64(1..4),
                    request_id: RequestId::new(&format!("C{}", self.requests)).unwrap(),
                    reason: None,
                })
            }
            _ => Action::SetStatus(SetStatus {
                sku_id: self.skus[self.rng.usize(0..self.skus.len())].clone(),
                warehouse_id: Some(WarehouseId(self.rng.u32(1..=2))).filter(|_| self.rng.bool()),
                status: if self.rng.u8(0..4) == 0 { StockStatus::Suspended } else { StockStatus::OnSale },
            }),
        }
    }

    fn shard(&mut self) -> ShardId {
        let ids: Vec<_> = self.shards.ids().collect();
        ids[self.rng.usize(0..ids.len())]
    }

    fn letter(&mut self) -> Option<usize> {
        let count = self.shards.mail().len();
        // Mostly the oldest, as it is where nothing goes wrong. One shard is slow.
        let index = (count > 0).then(|| if self.rng.bool() { 0 } else { self.rng.usize(0..count) })?;
        let is_late = Some(self.shards.mail()[index].to) == self.slow && self.rng.u8(0..6) > 0;
        (!is_late).then_some(index)
    }

    /// Something happens to what is under way.
    fn happen(&mut self, faults: bool) {
        match self.rng.u8(0..60) {
            0..=39 => {
                if let Some(index) = self.letter() {
                    self.shards.deliver(index);
                }
            }
            40..=43 => {
                if let Some(index) = self.letter() {
                    let to = self.shards.mail()[index].to;
                    let same = (0..self.shards.mail().len()).filter(|n| self.shards.mail()[*n].to == to);
                    let same: Vec<_> = same.collect();
                    let some = same.into_iter().filter(|_| self.rng.bool()).collect();
                    self.shards.deliver_together(some);
                }
            }
            44..=46 => {
                if let Some(index) = self.letter() {
                    self.shards.duplicate(index);
                }
            }
            47..=50 => {
                let shard = self.shard();
                self.shards.sync(shard);
            }
            51..=54 => self.shards.linger([1, 500, 1_000, 5_000][self.rng.usize(0..4)]),
            55 => {
                let shard = self.shard();
                let entries = self.rng.usize(1..12);
                self.shards.checkpoint(shard, entries);
            }
            56 => {
                let sku_id = self.skus[self.rng.usize(0..self.skus.len())].clone();
                self.shards.evict(&sku_id);
            }
            57 => {
                let max = self.rng.usize(0..3);
                self.shards.forget(Timestamp(0), max);
            }
            58 if faults => {
                let shard = self.shard();
                let lost = (0..self.shards.mail().len()).filter(|_| self.rng.u8(0..4) == 0).collect();
                self.shards.rebuild(shard, lost);
            }
            59 if faults && self.rng.bool() => {
                self.shards.restart();
                self.restarted = true;
                self.check_told();
            }
            _ => {}
        }
        // Not each time: it takes longer than all the rest.
        match self.rng.u8(0..32) {
            0 if self.shards.is_quiet() => self.shards.check(),
            0..=7 => self.shards.audit(),
            _ => {}
        }
    }

    fn one_at_a_time(mut self) {
        self.shards.syncs_at_once = self.rng.bool();
        self.shards.told_per_turn = self.rng.usize(1..4);
        for _ in 0..40 {
            if self.rng.u8(0..8) == 0 {
                let millis = [100, 2_000, 6_000][self.rng.usize(0..3)];
                self.pass(millis);
            }
            let action = self.action();
            let suspended = self.has_suspended();
            let of_one = self.ask_one(&action);
            let is_stock = matches!(action, Action::ChangeStock(_) | Action::SetStatus(_));
            let (of_several, again) = self.ask_several(&action, !is_stock);
            let (a, b) = (comparable(&of_several, suspended, again), comparable(&of_one, suspended, again));
            assert_eq!(a, b, "{action:?}");
            self.compare();
        }
    }

    /// The answer of several shards, whatever happens on the way; and whether it was asked again.
    fn ask_several(&mut self, action: &Action, faults: bool) -> (Outcome, bool) {
        for again in 0.. {
            let ticket = self.shards.send(action.clone());
            self.restarted = false;
            let faults = faults && again < 5;
            let mut outcome = None;
            for _ in 0..1_000 {
                match self.shards.fate(ticket) {
                    Fate::Waiting => self.happen(faults),
                    Fate::Lost => break,
                    Fate::Answered(answer) => {
                        outcome = Some(answer.clone());
                        break;
                    }
                }
            }
            // After a start what is left of the attempt must not make the order short of its own units.
            if matches!(self.shards.fate(ticket), Fate::Lost) && self.restarted && self.rng.bool() {
                continue;
            }
            self.shards.settle();
            let outcome = outcome.or_else(|| match self.shards.fate(ticket) {
                Fate::Answered(answer) => Some(answer.clone()),
                Fate::Lost => None,
                Fate::Waiting => panic!("it is never answered: {action:?}"),
            });
            if self.rng.u8(0..8) == 0 {
                self.shards.check();
            }
            match outcome {
                None | Some(Err(Refusal::Overloaded)) => assert!(again < 20, "it never comes to an end"),
                Some(outcome) => return (outcome, again > 0),
            }
        }
        unreachable!()
    }

    fn has_suspended(&self) -> bool {
        self.one.audit().stocks.iter().any(|stock| stock.status == StockStatus::Suspended)
    }

    /// Time goes by for orders.
    fn pass(&mut self, millis: u64) {
        self.time = self.time.plus_millis(millis);
        self.shards.time = self.time;
        let mut expired = self.shards.expire();
        let mut of_one = Vec::new();
        while let Some(event) = self.one.next_expiry(self.time) {
            if let hotstock_engine::event::Change::Expired { order_no, .. } = &event.change {
                of_one.push(order_no.clone());
            }
            self.one.apply(self.one.applied().next(), &event).unwrap();
        }
        expired.sort();
        of_one.sort();
        assert_eq!(expired, of_one);
        self.shards.settle();
    }

    /// Everything is where it would be in one shard.
    fn compare(&mut self) {
        let audit = self.one.audit();
        for stock in &audit.stocks {
            let shard = shard_of(&stock.sku_id, u16::try_from(self.shards.ids().count()).unwrap());
            let image = self.shards.state(shard).image_of_stock(&stock.sku_id, stock.warehouse_id);
            let Some(image) = image else { continue };
            let levels = |l: hotstock_engine::units::Levels| (l.available, l.reserved, l.sold);
            assert_eq!(levels(image.levels), levels(stock.levels), "{} {}", stock.sku_id, stock.warehouse_id);
        }
        for shard in self.shards.ids() {
            for image in self.shards.state(shard).orders() {
                let view = self.shards.state(shard).order(&image.order_no).unwrap().1;
                let of_one = self.one.order(&image.order_no).unwrap().1;
                assert_eq!(
                    view,
                    OrderView { created_at: view.created_at, expires_at: view.expires_at, ..of_one }
                );
            }
        }
    }

    fn all_at_once(mut self) {
        self.chooses = true;
        self.shards.syncs_at_once = self.rng.u8(0..3) == 0;
        self.shards.told_per_turn = self.rng.usize(1..4);
        for _ in 0..150 {
            match self.rng.u8(0..8) {
                0 => {
                    let action = self.action();
                    let ticket = self.shards.send(action);
                    self.started.insert(ticket);
                }
                1 if self.rng.u8(0..4) == 0 => self.shards.tick([100, 2_000][self.rng.usize(0..2)]),
                _ => self.happen(true),
            }
            self.hear();
        }
        self.shards.settle();
        self.hear();
        assert_eq!(self.started, BTreeSet::new(), "everybody is answered");
        self.shards.check();
        self.check_told();
        self.check_sums();
        self.shards.restart();
        self.shards.settle();
        self.shards.check();
        self.check_told();
    }

    /// What was answered.
    fn hear(&mut self) {
        let ended: Vec<_> = self
            .started
            .iter()
            .copied()
            .filter(|ticket| *self.shards.fate(*ticket) != Fate::Waiting)
            .collect();
        for ticket in ended {
            self.started.remove(&ticket);
            if let Fate::Answered(Ok(Answer::Order { order, .. })) = self.shards.fate(ticket) {
                let known = self.told.entry(order.order_no.clone()).or_insert_with(|| order.clone());
                let newer = sum(order) >= sum(known);
                if newer {
                    *known = order.clone();
                }
            }
        }
    }

    /// The store takes in everything, which is durable.
    fn flush(&mut self) {
        for shard in self.shards.ids() {
            let log = self.shards.log(shard).to_vec();
            self.shards.store.flush(shard, &log);
        }
    }

    /// What was told is true for good: sales and returns are not taken back, nor is an order.
    fn check_told(&mut self) {
        self.flush();
        for (order_no, told) in &self.told {
            let known = self.shards.ids().find_map(|shard| {
                let state = self.shards.state(shard);
                let stored = || self.shards.store.rows[shard.index()].orders.get(order_no).cloned();
                state.image_of_order(order_no).or_else(stored)
            });
            let known = known.unwrap_or_else(|| panic!("{order_no} was told and is not there"));
            for (line, told) in known.lines.iter().zip(&told.lines) {
                let is_so = line.confirmed >= told.confirmed && line.returned >= told.returned;
                let held = line.held <= told.held + told.released;
                assert!(is_so && held, "{told:?} was told and is {line:?}");
            }
        }
    }

    /// Over all orders, wherever they are: every unit once, every serial number once.
    fn check_sums(&self) {
        let mut orders = BTreeMap::new();
        for shard in self.shards.ids() {
            let rows = &self.shards.store.rows[shard.index()].orders;
            let stored = rows.values().filter(|order| order.is_done()).cloned();
            for order in stored.chain(self.shards.state(shard).orders()) {
                orders.insert(order.order_no.clone(), order);
            }
        }
        let mut units: BTreeMap<(SkuId, WarehouseId), (u64, u64)> = BTreeMap::new();
        let mut serials: BTreeMap<SkuId, BTreeSet<u64>> = BTreeMap::new();
        for order in orders.values() {
            for (index, line) in order.lines.iter().enumerate() {
                let sums = units.entry((line.sku_id.clone(), line.warehouse_id)).or_default();
                sums.0 += u64::from(line.held);
                sums.1 += u64::from(line.confirmed - line.returned);
                let given = order.serials.iter().filter(|given| usize::from(given.line) == index);
                let given: Vec<u64> = given.flat_map(|given| given.serials.from..=given.serials.to).collect();
                let must = if self.numbered.contains(&line.sku_id) { line.confirmed as usize } else { 0 };
                assert_eq!(given.len(), must, "serial numbers of {order:?}");
                let known = serials.entry(line.sku_id.clone()).or_default();
                assert!(given.into_iter().all(|serial| known.insert(serial)), "given twice: {order:?}");
            }
        }
        for shard in self.shards.ids() {
            for stock in self.shards.state(shard).audit().stocks {
                let sums =
                    units.get(&(stock.sku_id.clone(), stock.warehouse_id)).copied().unwrap_or_default();
                assert_eq!((stock.levels.reserved, stock.levels.sold), sums, "{stock:?}");
            }
            let over =
                self.shards.state(shard).holds().find(|hold| hold.lines.iter().all(|line| line.units == 0));
            assert_eq!(over, None, "it is over");
        }
    }
}

/// Units that were sold and came back: an order is never told with fewer later.
fn sum(order: &OrderView) -> u32 {
    order.lines.iter().map(|line| line.confirmed + line.returned).sum()
}

/// An answer, without what several shards may say otherwise: versions, and how short exactly a suspended SKU is.
fn comparable(outcome: &Outcome, suspended: bool, again: bool) -> String {
    match outcome {
        Ok(Answer::Order { order, effect }) => {
            // Serial numbers may come after the answer.
            let lines = order.lines.iter().map(|l| {
                format!(
                    "{}@{}:{} {}/{}/{}/{}",
                    l.sku_id, l.warehouse_id, l.quantity, l.held, l.confirmed, l.released, l.returned
                )
            });
            let lines: Vec<_> = lines.collect();
            let effect = if again { String::new() } else { format!("{effect:?}") };
            format!("{effect} {:?} {lines:?}", order.status)
        }
        Ok(other) => format!("{:?}", std::mem::discriminant(other)),
        Err(refusal) if suspended => format!("{:?}", std::mem::discriminant(refusal)),
        Err(refusal) => format!("{refusal:?}"),
    }
}
