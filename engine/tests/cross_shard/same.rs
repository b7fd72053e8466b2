//! The same requests to an engine with one shard and plenty of memory, and to engines with several and with little:
//! the same answers, the same levels.

use std::time::Duration;

use hotstock_engine::command::{
    Action, ChangeKind, ChangeStock, Choice, Command, CreateStock, Extend, Line, Lines, Mode, Reserve,
    SetStatus, StockStatus,
};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{BuyerId, RequestId, WarehouseId};
use hotstock_engine::options::EngineOptions;
use hotstock_engine::outcome::{Answer, Outcome, Refusal};

use crate::shop::{cart, give_back, skus, until_asked};
use crate::support::{World, confirm, demote, get, order_no, promote, release, sku, tight};

/// What is asked next.
enum Ask {
    One(Command),
    Batch(Vec<Command>),
    /// Time goes on by so many seconds.
    Wait(u64),
    /// A SKU is kept in memory, or no longer; or the engine starts again.
    Pin(String),
}

struct Wishes {
    random: fastrand::Rng,
    skus: Vec<String>,
    count: u32,
}

impl Wishes {
    fn order(&mut self) -> String {
        format!("o{}", self.random.u32(0..12))
    }

    fn lines(&mut self, most: usize) -> Lines {
        let count = self.random.usize(1..=most);
        let random = &mut self.random;
        let skus = &self.skus;
        let line = |_| Line {
            sku_id: sku(&skus[random.usize(..skus.len())]),
            warehouse_id: WarehouseId(random.u32(1..=2)),
            quantity: random.u32(1..=4),
        };
        Lines::new((0..count).map(line)).unwrap()
    }

    fn reserve(&mut self) -> Command {
        let order = self.order();
        // The lines follow from the number most of the time, so that repeats are frequent.
        let mut random = std::mem::replace(&mut self.random, fastrand::Rng::with_seed(7));
        if random.u8(..5) > 0 {
            self.random = fastrand::Rng::with_seed(order.bytes().map(u64::from).sum());
        } else {
            self.random = random.fork();
        }
        let mut lines = self.lines(5);
        let mut choice = None;
        if self.random.u8(..4) == 0 {
            // All of them: where some lines name a warehouse, each shard keeps to those that its own lines name.
            let open_line = |line: &Line| (line.sku_id.clone(), None, line.quantity);
            let (some, open) = Lines::with_open(lines.as_slice().iter().map(open_line)).unwrap();
            let prefer = (0..self.random.u32(..3)).map(|_| WarehouseId(self.random.u32(1..=3))).collect();
            (lines, choice) = (some, Some(Box::new(Choice { open, prefer })));
        }
        let mode = if self.random.bool() { Mode::AllOrNothing } else { Mode::BestEffort };
        let buyer_id = self.random.bool().then(|| BuyerId::new("b").unwrap());
        self.random = random;
        let mode = if self.random.u8(..8) == 0 { Mode::BestEffort } else { mode };
        let ttl_seconds = self.random.u32(1..=9);
        Action::Reserve(Reserve { order_no: order_no(&order), lines, ttl_seconds, buyer_id, mode, choice })
            .into()
    }

    fn part(&mut self) -> hotstock_engine::command::Part {
        let request_id =
            self.random.bool().then(|| RequestId::new(&format!("p{}", self.random.u8(..4))).unwrap());
        hotstock_engine::command::Part { lines: self.lines(2), request_id }
    }

    fn one(&mut self) -> Command {
        let order = self.order();
        match self.random.u32(..20) {
            0..=6 => self.reserve(),
            7..=8 => confirm(&order),
            9..=10 => Action::Confirm(hotstock_engine::command::Confirm {
                order_no: order_no(&order),
                part: Some(self.part()),
            })
            .into(),
            11 => release(&order),
            12 => {
                let part = Some(self.part());
                Action::Release(hotstock_engine::command::Release {
                    order_no: order_no(&order),
                    part,
                    reason: None,
                })
                .into()
            }
            13 => Action::Extend(Extend { order_no: order_no(&order), ttl_seconds: self.random.u32(1..=9) })
                .into(),
            14 => give_back(&order, None, &format!("r{}", self.random.u8(..3))),
            15 => {
                let lines = Some(self.lines(2));
                let request_id = RequestId::new(&format!("r{}", self.random.u8(..3))).unwrap();
                Action::Return(hotstock_engine::command::Return {
                    order_no: order_no(&order),
                    request_id,
                    lines,
                })
                .into()
            }
            16 => get(&order),
            17 => {
                let sku_id = sku(&self.skus[self.random.usize(..self.skus.len())]);
                let warehouse_id = self.random.bool().then(|| WarehouseId(self.random.u32(1..=2)));
                let is_suspended = self.random.u8(..3) == 0;
                let status = if is_suspended { StockStatus::Suspended } else { StockStatus::OnSale };
                Action::SetStatus(SetStatus { sku_id, warehouse_id, status }).into()
            }
            _ => {
                self.count += 1;
                Action::ChangeStock(ChangeStock {
                    sku_id: sku(&self.skus[self.random.usize(..self.skus.len())]),
                    warehouse_id: WarehouseId(self.random.u32(1..=2)),
                    kind: if self.random.u8(..3) > 0 { ChangeKind::Restock } else { ChangeKind::Deduct },
                    quantity: i64::from(self.random.u8(1..4)),
                    request_id: RequestId::new(&format!("c{}", self.count)).unwrap(),
                    reason: None,
                })
                .into()
            }
        }
    }

    fn next(&mut self) -> Ask {
        match self.random.u32(..30) {
            0 => Ask::Wait(self.random.u64(1..6)),
            1 => Ask::Batch((0..self.random.usize(2..8)).map(|_| self.one()).collect()),
            2 => Ask::Pin(self.skus[self.random.usize(..self.skus.len())].clone()),
            _ => Ask::One(self.one()),
        }
    }
}

/// What may differ: a late payment over several places is a hold and a sale, which count as two changes of a stock.
fn plain(outcome: Outcome) -> Outcome {
    let unversioned = |mut stock: hotstock_engine::outcome::StockView| {
        stock.levels.version = 0;
        stock
    };
    match outcome {
        Ok(Answer::Stock { stock, effect }) => Ok(Answer::Stock { stock: unversioned(stock), effect }),
        Ok(Answer::Sku { stocks, effect }) => {
            Ok(Answer::Sku { stocks: stocks.into_iter().map(unversioned).collect(), effect })
        }
        Err(Refusal::StockExists { initial, stock }) => {
            Err(Refusal::StockExists { initial, stock: unversioned(stock) })
        }
        outcome => outcome,
    }
}

/// (available, reserved, sold) of every stock.
async fn all_levels(engine: &Engine, skus: &[String]) -> Vec<(u64, u64, u64)> {
    let mut all = Vec::new();
    for name in skus {
        let stocks = engine.stock(&sku(name), None).await.unwrap();
        all.extend(
            stocks.iter().map(|stock| (stock.levels.available, stock.levels.reserved, stock.levels.sold)),
        );
    }
    all
}

/// Whether every order that held something is as the other engine has it: what is due has expired on both.
async fn is_alike(one: &Engine, other: &Engine, skus: &[String]) -> bool {
    for n in 0..12 {
        let order = get(&format!("o{n}"));
        if one.submit(order.clone()).await != other.submit(order).await {
            return false;
        }
    }
    all_levels(one, skus).await == all_levels(other, skus).await
}

/// What the engines live in.
struct Pair {
    one: (World, Engine),
    other: (World, Engine),
    shards: u16,
    is_tight: bool,
}

impl Pair {
    async fn start_other(world: &World, shards: u16, is_tight: bool) -> Engine {
        let options =
            if is_tight { tight(shards) } else { EngineOptions { shards, ..EngineOptions::default() } };
        world.start(options).await
    }

    async fn restart(&mut self) {
        self.other.1.stop().await;
        self.other.1 = Self::start_other(&self.other.0, self.shards, self.is_tight).await;
    }
}

async fn run(seed: u64, shards: u16, is_tight: bool, steps: u32) {
    let skus = skus(8, shards.max(2));
    let mut wishes = Wishes { random: fastrand::Rng::with_seed(seed), skus: skus.clone(), count: 0 };
    let (world, other_world) = (World::new(), World::new());
    let one = world.start(EngineOptions::default()).await;
    let other = Pair::start_other(&other_world, shards, is_tight).await;
    let mut pair = Pair { one: (world, one), other: (other_world, other), shards, is_tight };
    for name in &skus {
        for warehouse in 1..=2 {
            let (sku_id, warehouse_id) = (sku(name), WarehouseId(warehouse));
            let stock = CreateStock { sku_id, warehouse_id, quantity: 12, serialized: false };
            for engine in [&pair.one.1, &pair.other.1] {
                engine.submit(Action::CreateStock(stock.clone()).into()).await.unwrap();
            }
        }
    }
    for step in 0..steps {
        let what = |at: &str| format!("seed {seed}, {shards} shards, tight {is_tight}, step {step}: {at}");
        match wishes.next() {
            Ask::One(command) => {
                let expected = pair.one.1.submit(command.clone()).await;
                let got = pair.other.1.submit(command.clone()).await;
                assert_eq!(plain(got), plain(expected), "{}", what(&format!("{command:?}")));
            }
            Ask::Batch(commands) => {
                let expected = pair.one.1.submit_batch(commands.clone()).await;
                let got = pair.other.1.submit_batch(commands.clone()).await;
                for ((got, expected), command) in got.into_iter().zip(expected).zip(&commands) {
                    assert_eq!(
                        plain(got),
                        plain(expected),
                        "{}",
                        what(&format!("{command:?} of {commands:?}"))
                    );
                }
            }
            Ask::Wait(seconds) => {
                for clock in [&pair.one.0.clock, &pair.other.0.clock] {
                    clock.advance(Duration::from_secs(seconds));
                }
                if wishes.random.bool() {
                    pair.restart().await;
                }
                // In one shard what is due has expired behind the next turn.
                until_asked(|| async { is_settled(&pair.one.1).await }).await;
                until_asked(|| async { is_alike(&pair.one.1, &pair.other.1, &skus).await }).await;
            }
            Ask::Pin(name) if is_tight => {
                let is_hot = pair.other.1.hot(None, 99).iter().any(|hot| hot.sku_id == sku(&name));
                let pinned = if is_hot {
                    demote(&pair.other.1, &name).await
                } else {
                    promote(&pair.other.1, &name).await
                };
                assert!(pinned.is_ok(), "{}", what(&format!("{name} {pinned:?}")));
            }
            Ask::Pin(_) => pair.restart().await,
        }
        assert_eq!(
            all_levels(&pair.other.1, &skus).await,
            all_levels(&pair.one.1, &skus).await,
            "{}",
            what("levels")
        );
    }
    until_asked(|| async { is_alike(&pair.one.1, &pair.other.1, &skus).await }).await;
    assert_eq!(pair.other.1.stats().cross_shard.misfits, 0);
    if is_tight {
        let stats = pair.other.1.stats();
        let evicted: u64 = stats.shards.iter().map(|shard| shard.evicted).sum();
        assert!(evicted > 0, "seed {seed}: nothing was ever evicted");
    }
    pair.one.1.stop().await;
    pair.other.1.stop().await;
}

/// Whether the shard has looked at its deadlines since the time was set: two turns later it has.
async fn is_settled(engine: &Engine) -> bool {
    engine.submit(get("nobody")).await.unwrap_err();
    engine.submit(get("nobody")).await.unwrap_err();
    true
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("HOTSTOCK_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..6,
    }
}

/// The payment comes when the order is due, or has just expired: the units that it gives back are on their way to
/// their shards, and nobody else wants them.
#[tokio::test]
async fn a_late_payment_is_not_short_of_its_own_units() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 3, ..EngineOptions::default() }).await;
    let skus = skus(3, 3);
    for name in &skus {
        engine.submit(crate::support::create(name, 2)).await.unwrap();
    }
    let all: Vec<(&str, u32)> = skus.iter().map(|name| (name.as_str(), 2)).collect();
    for n in 0..50 {
        let order = format!("late-{n}");
        engine.submit(cart(&order, &all, Mode::AllOrNothing, 5)).await.unwrap();
        world.clock.advance(Duration::from_secs(6));
        let paid = engine.submit(confirm(&order)).await;
        assert!(paid.is_ok(), "{n}: {paid:?}");
        engine.submit(give_back(&order, None, "r")).await.unwrap();
    }
    engine.stop().await;
}

#[tokio::test]
async fn over_shards_it_is_as_in_one() {
    for seed in seeds() {
        for shards in [2, 8] {
            run(seed, shards, false, 250).await;
        }
    }
}

#[tokio::test]
async fn with_little_memory_it_is_as_with_plenty() {
    for seed in seeds() {
        for shards in [1, 3] {
            run(seed, shards, true, 250).await;
        }
    }
}
