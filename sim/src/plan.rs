//! What happens in a run, as data made from a seed: so it can be cut, and what is left still runs.

use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Choice, Command, Confirm, CreateStock, Extend, Line, Lines, Mode,
    Release, Reserve, Return, SetStatus, StockStatus,
};
use hotstock_engine::ids::{BuyerId, OrderNo, RequestId, SkuId, WarehouseId, shard_of};
use hotstock_persistence::testing::DiskFault;

/// In seeds from here on shards may stall. Those before were looked through, and some kept, when they could not.
const STALLS_FROM: u64 = 5_000;

/// Likewise, there may be a mirror.
const MIRROR_FROM: u64 = 9_000;

/// Likewise, units of an order that was settled long ago may be held late.
const LATE_HOLDS_FROM: u64 = 30_000;

/// A run: how the server is set up, and what happens then.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
    pub(crate) ops: Vec<Op>,
}

/// How the server is set up, and how large its world is.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub shards: u16,
    pub skus: u32,
    pub warehouses: u32,
    pub orders: u32,
    /// Orders over several shards are asked for.
    pub spanning: bool,
    /// The store may be put back to an earlier moment.
    pub goes_back: bool,
    pub gate_permits: u32,
    pub remember_seconds: u64,
    pub max_resident_skus: usize,
    pub checkpoint_events: u64,
    pub flush_interval_ms: u64,
    pub flush_events: usize,
    pub load_wait_ms: u64,
    pub keep_flushed_minutes: u64,
    pub keep_days: u64,
    pub segment_bytes: u64,
    /// With a lease another server takes over now and then.
    pub lease_seconds: u32,
    /// A Redis mirrors the levels.
    pub mirror: bool,
    /// Changed stocks that are kept for it.
    pub dirty: usize,
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Callers come at about the same time.
    Burst(Vec<Call>),
    /// One caller sends several commands at once.
    Batch(Vec<Action>),
    Pin(Vec<SkuId>, bool),
    Checkpoint,
    /// Milliseconds go by.
    Pass(u64),
    /// Hours go by, in which nobody asks for anything.
    Leap(u64),
    /// The wall clock is set, by milliseconds.
    Jump(i64),
    Restart,
    /// The process ends so many microseconds into the next burst; the machine goes on, or loses power with it.
    Crash {
        after_micros: u64,
        power: bool,
    },
    Disk(DiskFault),
    /// The process ends when it asks the disk for so many more changes and syncs; the machine goes on, or loses power
    /// with it.
    CrashAtWrite {
        operations: u64,
        power: bool,
    },
    /// The process ends when it reaches a step that has this number among those named.
    CrashAtStep(usize),
    /// The shard that decides the next command panics.
    Panic,
    LoseFilter,
    /// A bit of a file flips while the server is down: of the file at this share of all, at this share of it.
    /// The server was stopped before, or crashed.
    Flip {
        file: f64,
        place: f64,
        crash: bool,
    },
    CutStore,
    MendStore,
    /// The store takes up to so many milliseconds for a call.
    SlowStore(u64),
    /// The journal's writes take up to so many milliseconds.
    SlowDisk(u64),
    /// In the next burst or batch the turns of shards begin up to so many milliseconds late: their thread gets no time.
    Stall(u64),
    BusyStore(u32),
    Redis(RedisFault),
    /// The store does so many writes whose answers are lost.
    LoseAnswers(u32),
    /// The store loses so many writes, and says that it does not know.
    LoseWrites(u32),
    Snapshot,
    GoBack,
    /// Another server takes over, on a copy of the disk, while this one is cut off from the store; then the first is
    /// back.
    TakeOver,
}

/// What happens to the Redis that mirrors the levels.
#[derive(Debug, Clone)]
pub(crate) enum RedisFault {
    Away,
    Back,
    Slow(u64),
    /// It does what it is told so many times, and nobody gets the answer.
    LoseAnswers(u32),
    Empty,
    Note,
    /// It starts again with what it had at the last note.
    GoBack,
}

/// A caller.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub what: What,
    /// Comes so many microseconds after the first.
    pub delay: u64,
    /// Goes away after so many microseconds.
    pub patience: Option<u64>,
}

/// What a caller asks.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Do(Action),
    /// A part of an order, whose lines are known when it is asked: (which line, units).
    Part {
        kind: PartKind,
        order_no: OrderNo,
        picks: Vec<(usize, u32)>,
        request_id: Option<RequestId>,
    },
    /// What was asked before, again.
    Again(usize),
}

/// See [`What::Part`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum PartKind {
    Confirm,
    Release,
    Return,
}

pub(crate) fn sku(number: u32) -> SkuId {
    SkuId::new(&format!("S{number}")).expect("a short name")
}

fn order_no(number: u32) -> OrderNo {
    OrderNo::new(&format!("O{number}")).expect("a short name")
}

fn request_id(number: u32) -> RequestId {
    RequestId::new(&format!("R{number}")).expect("a short name")
}

impl Plan {
    /// The plan of a seed, with about so many commands.
    #[must_use]
    pub fn of(seed: u64, commands: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut setup = Setup::random(&mut random);
        if seed >= MIRROR_FROM {
            (setup.mirror, setup.dirty) = (random.bool(), random.choice([1, 3, 1_000]).unwrap_or(3));
        }
        let holds_late = seed >= LATE_HOLDS_FROM && setup.spanning && random.u8(..3) == 0;
        if holds_late {
            // What is not used leaves memory at once.
            setup.skus = random.u32(2..=4) * u32::from(setup.shards);
            (setup.max_resident_skus, setup.remember_seconds) = (1, random.u64(..2));
        }
        let mut maker = Maker { random, setup: &setup, order_no: 0 };
        let mut ops = maker.first();
        let mut count = 0;
        let calm = maker.random.u8(..6) == 0;
        let stalls = seed >= STALLS_FROM && maker.setup.spanning && maker.random.bool();
        while count < commands {
            if stalls && maker.one_in(12) {
                ops.extend(maker.stall());
            }
            if holds_late && maker.one_in(12) {
                ops.extend(maker.late_hold());
            }
            if setup.mirror && !calm && maker.one_in(15) {
                ops.push(Op::Redis(maker.redis_fault()));
            }
            let op = maker.op(calm);
            // What a crash does depends on what is under way.
            if matches!(op, Op::Crash { .. } | Op::CrashAtWrite { .. }) {
                if maker.one_in(3) {
                    ops.push(Op::SlowDisk(maker.random.u64(2..100)));
                }
                if maker.one_in(3) {
                    ops.push(Op::Checkpoint);
                }
            }
            count += op.steps();
            ops.push(op);
        }
        Self { seed, ops, setup: setup.clone() }
    }

    /// What it was made from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.setup)?;
        self.ops.iter().try_for_each(|op| write!(f, "\n  {op:?}"))
    }
}

impl Op {
    fn steps(&self) -> usize {
        match self {
            Self::Burst(calls) => calls.len(),
            Self::Batch(actions) => actions.len(),
            _ => 1,
        }
    }
}

impl Setup {
    fn random(random: &mut fastrand::Rng) -> Self {
        let shards = random.choice([1, 1, 2, 2, 3, 4]).unwrap_or(1);
        let goes_back = random.u8(..4) == 0;
        let lease_seconds = if !goes_back && random.u8(..5) == 0 { 4 } else { 0 };
        Self {
            shards,
            skus: random.u32(2..=5),
            warehouses: random.u32(1..=3),
            orders: random.u32(4..=24),
            spanning: shards > 1 && random.bool(),
            goes_back,
            gate_permits: random.choice([2, 16, 1_024]).unwrap_or(16),
            remember_seconds: random.choice([0, 0, 1, 5, 600]).unwrap_or(0),
            max_resident_skus: random.choice([1, 1, 2, 3, 100]).unwrap_or(1),
            checkpoint_events: random.choice([10, 40, 150, 100_000]).unwrap_or(40),
            flush_interval_ms: random.choice([50, 200, 1_000]).unwrap_or(50),
            flush_events: random.choice([1, 3, 20, 20_000]).unwrap_or(20),
            load_wait_ms: random.choice([300, 1_000, 3_000]).unwrap_or(1_000),
            keep_flushed_minutes: if goes_back { 1_000_000 } else { random.choice([0, 0, 1]).unwrap_or(0) },
            keep_days: random.choice([0, 0, 2]).unwrap_or(0),
            // Of a journal that is never trimmed every segment is looked at now and then.
            segment_bytes: if goes_back { 30_000 } else { random.choice([2_000, 8_000]).unwrap_or(8_000) },
            lease_seconds,
            mirror: false,
            dirty: 0,
        }
    }
}

struct Maker<'a> {
    random: fastrand::Rng,
    setup: &'a Setup,
    /// Counts order numbers that are used once.
    order_no: u32,
}

impl Maker<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        self.random.u32(..bound.max(1))
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// Nearly all stocks, to begin with.
    fn first(&mut self) -> Vec<Op> {
        let places = (0..self.setup.skus).flat_map(|s| (0..self.setup.warehouses).map(move |w| (s, w)));
        let mut ops = Vec::new();
        for (s, w) in places.collect::<Vec<_>>() {
            if !self.one_in(12) {
                let create = self.create(s, w);
                ops.push(Op::Burst(vec![Call { what: What::Do(create), delay: 0, patience: None }]));
            }
        }
        ops
    }

    fn op(&mut self, calm: bool) -> Op {
        if self.setup.goes_back && !calm && self.one_in(30) {
            return if self.random.bool() { Op::Snapshot } else { Op::GoBack };
        }
        let kind = self.below(1_000);
        if calm || kind < 780 {
            return match self.below(100) {
                0..80 => self.burst(),
                80..90 => {
                    let count = self.random.usize(2..7);
                    Op::Batch((0..count).map(|_| self.action(true)).collect())
                }
                90..97 => Op::Pass(self.random.u64(50..4_000)),
                97..99 => Op::Checkpoint,
                _ => Op::Restart,
            };
        }
        match kind {
            780..800 => {
                let skus = (0..=self.setup.skus).filter(|_| self.random.bool()).map(sku).collect();
                Op::Pin(skus, self.random.bool())
            }
            800..810 => Op::Checkpoint,
            810..825 => Op::Leap(self.random.u64(1..60)),
            825..840 => {
                let millis = self.random.i64(2_000..200_000_000);
                Op::Jump(if self.random.bool() { millis } else { -millis })
            }
            840..850 => Op::Restart,
            850..875 => {
                let longest = self.random.choice([600, 2_000, 20_000]).unwrap_or(2_000);
                Op::Crash { after_micros: self.random.u64(..longest), power: self.random.u8(..3) > 0 }
            }
            875..895 => {
                let power = self.random.u8(..3) > 0;
                Op::CrashAtWrite { operations: self.random.u64(..14), power }
            }
            895..903 => Op::Disk(match self.below(3) {
                0 => DiskFault::Write,
                1 => DiskFault::Sync,
                _ => DiskFault::Full(self.random.u64(..4_000)),
            }),
            903..913 => Op::CrashAtStep(self.random.usize(..1_000)),
            913..921 => Op::Panic,
            921..926 => Op::LoseFilter,
            926..932 => {
                Op::Flip { file: self.random.f64(), place: self.random.f64(), crash: self.random.bool() }
            }
            932..942 => Op::CutStore,
            942..958 => Op::MendStore,
            958..966 => Op::SlowStore(self.random.choice([0, 0, 5, 50, 2_000]).unwrap_or(0)),
            966..974 => Op::SlowDisk(self.random.choice([0, 0, 0, 20, 300]).unwrap_or(0)),
            974..980 => Op::BusyStore(self.random.u32(1..4)),
            980..985 => Op::LoseAnswers(self.random.u32(1..3)),
            985..990 => Op::LoseWrites(self.random.u32(1..3)),
            990..1_000 if self.setup.lease_seconds > 0 => Op::TakeOver,
            _ => Op::MendStore,
        }
    }

    /// Messages between shards are late, so that whoever waits for them gives up, or says again what it had said.
    fn stall(&mut self) -> Vec<Op> {
        let wait = self.setup.load_wait_ms;
        match self.below(3) {
            // A load that is begun late ends after the coordinator has given up.
            0 => {
                let slow = Op::SlowStore(self.random.u64(wait / 4..wait));
                vec![slow, Op::Stall(self.random.u64(wait / 2..wait * 2)), self.burst(), Op::SlowStore(0)]
            }
            1 => vec![Op::Stall(self.random.u64(1_000..3_000)), self.burst()],
            _ => {
                let crash =
                    Op::Crash { after_micros: self.random.u64(..6_000_000), power: self.random.bool() };
                vec![Op::Stall(self.random.u64(200..3_000)), crash, self.burst()]
            }
        }
    }

    /// An order over several shards is settled and leaves memory. Then it is paid late, or given back: what that needs
    /// of other shards has to be loaded there, so late that the coordinator has given up.
    fn late_hold(&mut self) -> Vec<Op> {
        let alone = |what| Op::Burst(vec![Call { what, delay: 0, patience: None }]);
        let number = self.some_order();
        let mut reserve = self.reserve(true);
        if let Action::Reserve(reserve) = &mut reserve {
            reserve.order_no = number.clone();
        }
        let confirm = || What::Do(Action::Confirm(Confirm { order_no: number.clone(), part: None }));
        let give_back = Action::Return(Return {
            order_no: number.clone(),
            request_id: request_id(self.below(3)),
            lines: None,
        });
        let release = Action::Release(Release { order_no: number.clone(), part: None, reason: None });
        let (settled, late) = match self.random.bool() {
            true => (confirm(), What::Do(give_back)),
            false => (What::Do(release), confirm()),
        };
        let wait = self.setup.load_wait_ms;
        let on_sale = |s| {
            let set = SetStatus { sku_id: sku(s), warehouse_id: None, status: StockStatus::OnSale };
            Call { what: What::Do(Action::SetStatus(set)), delay: u64::from(s) * 1_000, patience: None }
        };
        let mut skus: Vec<u32> = (0..self.setup.skus).collect();
        self.random.shuffle(&mut skus);
        vec![
            alone(What::Do(reserve)),
            alone(settled),
            // Flushed and forgotten; and others are used.
            Op::Pass(self.random.u64(1_000..8_000)),
            Op::Burst(skus.into_iter().map(on_sale).collect()),
            Op::Pass(self.random.u64(100..2_000)),
            Op::SlowStore(self.random.u64(wait / 2..wait)),
            Op::Stall(self.random.u64(wait / 2..wait * 2)),
            alone(late),
            Op::SlowStore(0),
        ]
    }

    fn redis_fault(&mut self) -> RedisFault {
        match self.below(12) {
            0..2 => RedisFault::Away,
            2..5 => RedisFault::Back,
            5..6 => RedisFault::Slow(self.random.choice([0, 10, 400]).unwrap_or(0)),
            6..8 => RedisFault::LoseAnswers(self.random.u32(1..4)),
            8..9 => RedisFault::Empty,
            9..11 => RedisFault::Note,
            _ => RedisFault::GoBack,
        }
    }

    fn burst(&mut self) -> Op {
        let count = match self.below(10) {
            0..5 => 1,
            5..8 => 2,
            8 => 3,
            _ => 5,
        };
        // Orders over several shards that meet others may hold for a moment what then comes back; best effort would
        // tell.
        let alone = count == 1;
        let calls = (0..count).map(|_| {
            let what = match self.below(20) {
                0..4 => self.part(),
                4..6 => What::Again(self.random.usize(..1_000)),
                _ => What::Do(self.action(alone)),
            };
            let longest = self.random.choice([1, 400, 3_000]).unwrap_or(1);
            let delay = self.random.u64(..longest);
            let patience = self.one_in(25).then(|| self.random.u64(..6_000));
            Call { what, delay, patience }
        });
        Op::Burst(calls.collect())
    }

    fn create(&mut self, s: u32, w: u32) -> Action {
        let quantity = if self.one_in(8) { 0 } else { self.random.u64(1..12) };
        // Every third SKU numbers its units.
        let serialized = s.is_multiple_of(3) != self.one_in(200);
        Action::CreateStock(CreateStock {
            sku_id: sku(s),
            warehouse_id: WarehouseId(w),
            quantity,
            serialized,
        })
    }

    fn some_sku(&mut self) -> u32 {
        // One more than there are, now and then.
        if self.one_in(40) { self.setup.skus } else { self.below(self.setup.skus) }
    }

    fn some_warehouse(&mut self) -> WarehouseId {
        WarehouseId(self.below(self.setup.warehouses))
    }

    fn some_order(&mut self) -> OrderNo {
        // Some numbers are used again and again, others once.
        if self.one_in(3) {
            self.order_no += 1;
            return order_no(1_000 + self.order_no);
        }
        order_no(self.below(self.setup.orders))
    }

    fn known_order(&mut self) -> OrderNo {
        if self.order_no > 0 && self.one_in(3) {
            return order_no(1_000 + 1 + self.below(self.order_no));
        }
        order_no(self.below(self.setup.orders))
    }

    fn ttl(&mut self) -> u32 {
        match self.below(10) {
            0..7 => self.random.u32(1..6),
            7..9 => 900,
            _ => 600_000,
        }
    }

    fn action(&mut self, alone: bool) -> Action {
        match self.below(100) {
            0..3 => {
                let (s, w) = (self.some_sku(), self.below(self.setup.warehouses));
                self.create(s, w)
            }
            3..15 => {
                let kind = self
                    .random
                    .choice([
                        ChangeKind::Restock,
                        ChangeKind::Restock,
                        ChangeKind::Deduct,
                        ChangeKind::Adjust,
                    ])
                    .unwrap_or(ChangeKind::Restock);
                let size = self.random.i64(1..6);
                let quantity = if kind == ChangeKind::Adjust && self.random.bool() { -size } else { size };
                Action::ChangeStock(ChangeStock {
                    sku_id: sku(self.some_sku()),
                    warehouse_id: self.some_warehouse(),
                    kind,
                    quantity,
                    request_id: request_id(self.below(8)),
                    reason: None,
                })
            }
            15..18 => {
                let warehouse_id = if self.random.bool() { Some(self.some_warehouse()) } else { None };
                let status = if self.one_in(3) { StockStatus::Suspended } else { StockStatus::OnSale };
                Action::SetStatus(SetStatus { sku_id: sku(self.some_sku()), warehouse_id, status })
            }
            18..60 => self.reserve(alone),
            60..72 => Action::Confirm(Confirm { order_no: self.known_order(), part: None }),
            72..84 => Action::Release(Release { order_no: self.known_order(), part: None, reason: None }),
            84..90 => Action::Extend(Extend { order_no: self.known_order(), ttl_seconds: self.ttl() }),
            90..94 => Action::Return(Return {
                order_no: self.known_order(),
                request_id: request_id(self.below(3)),
                lines: None,
            }),
            _ => Action::GetOrder(self.known_order()),
        }
    }

    fn reserve(&mut self, alone: bool) -> Action {
        loop {
            let count = if self.random.bool() { 1 } else { self.random.usize(1..5) };
            let with_choice = alone && self.one_in(5);
            // Over several shards a line that gets nothing names no warehouse.
            let must_be_whole = self.setup.spanning && with_choice;
            let lines: Vec<(SkuId, Option<WarehouseId>, u32)> = (0..count)
                .map(|_| {
                    let is_open = with_choice && self.random.bool();
                    let warehouse_id = if is_open { None } else { Some(self.some_warehouse()) };
                    (sku(self.some_sku()), warehouse_id, self.random.u32(1..4))
                })
                .collect();
            let shard = |sku_id: &SkuId| shard_of(sku_id, self.setup.shards);
            let spans = lines.iter().any(|(sku_id, ..)| shard(sku_id) != shard(&lines[0].0));
            if spans && !self.setup.spanning {
                continue;
            }
            let mode = if (alone || !self.setup.spanning) && !must_be_whole && self.one_in(3) {
                Mode::BestEffort
            } else {
                Mode::AllOrNothing
            };
            let buyer_id = self.one_in(6).then(|| BuyerId::new("u1").expect("a short name"));
            let (order_no, ttl_seconds) = (self.some_order(), self.ttl());
            let reserve = if lines.iter().any(|(_, warehouse_id, _)| warehouse_id.is_none()) {
                let Ok((lines, open)) = Lines::with_open(lines) else { continue };
                let prefer = (0..self.below(2)).map(|_| self.some_warehouse()).collect();
                let choice = Some(Box::new(Choice { open, prefer }));
                Reserve { order_no, lines, ttl_seconds, buyer_id, mode, choice }
            } else {
                let line = |(sku_id, warehouse_id, quantity): (SkuId, Option<WarehouseId>, u32)| {
                    warehouse_id.map(|warehouse_id| Line { sku_id, warehouse_id, quantity })
                };
                let Ok(lines) = Lines::new(lines.into_iter().filter_map(line)) else { continue };
                Reserve { order_no, lines, ttl_seconds, buyer_id, mode, choice: None }
            };
            let action = Action::Reserve(reserve);
            if Command::from(action.clone()).validate().is_ok() {
                return action;
            }
        }
    }

    fn part(&mut self) -> What {
        let kind = self
            .random
            .choice([PartKind::Confirm, PartKind::Release, PartKind::Return])
            .unwrap_or(PartKind::Confirm);
        let picks = (0..self.random.usize(1..3)).map(|_| (self.random.usize(..4), self.random.u32(1..3)));
        let picks = picks.collect();
        let request_id = self.random.bool().then(|| request_id(self.random.u32(..3)));
        What::Part { kind, order_no: self.known_order(), picks, request_id }
    }
}
