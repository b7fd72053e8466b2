//! Random orders while the server is killed and started, its memory is far too small, and the store is away, loses
//! answers and goes back in time: every number is one order for good, and units told and units there make what was
//! put in.

use std::collections::BTreeMap;
use std::time::Duration;

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Release};
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::options::EngineOptions;
use hotstock_engine::outcome::{Answer, Effect, Refusal};
use hotstock_engine::status::Health;
use hotstock_engine::store::{OrderFilter, Store};
use hotstock_engine::testing::MemorySnapshot;
use tokio::task::JoinSet;

use crate::fixture::{Directory, Server, UNITS, World, options, order_no, reserve};

const SKUS: usize = 12;

#[derive(Debug, Clone, PartialEq)]
enum Told {
    /// Reserved, or sold.
    Has(Vec<usize>),
    Released(Vec<usize>),
}

/// A small random number generator: the same seed makes the same story.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

struct Story {
    world: World,
    directory: Directory,
    server: Option<Server>,
    told: BTreeMap<OrderNo, Told>,
    dice: Dice,
    numbers: usize,
    snapshots: Vec<MemorySnapshot>,
    /// SKUs that left memory, loads, what they asked for, and shards that found the store gone back.
    seen: [u64; 4],
}

fn name(sku: usize) -> String {
    format!("s-{sku}")
}

/// Nearly nothing stays in memory.
fn small() -> EngineOptions {
    let mut options = options();
    options.store.flush_events = 7;
    EngineOptions {
        max_resident_skus: 4,
        remember_seconds: 0,
        remember_max: 4,
        checkpoint_events: 40,
        ..options
    }
}

/// The store can't be asked now.
fn is_away(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::StoreUnavailable | Refusal::Overloaded)
}

impl Story {
    async fn new(seed: u64) -> Self {
        let (world, directory) = (World::new(), Directory::new(1));
        let server = world.start_with(&directory, small(), |_| ()).await.unwrap();
        for sku in 0..SKUS {
            let sku_id = SkuId::new(&name(sku)).unwrap();
            let create =
                CreateStock { sku_id, warehouse_id: WarehouseId(1), quantity: UNITS, serialized: false };
            server.engine.submit(Action::CreateStock(create).into()).await.unwrap();
        }
        let (told, snapshots, seen) = (BTreeMap::new(), Vec::new(), [0; 4]);
        Self { world, directory, server: Some(server), told, dice: Dice(seed), numbers: 0, snapshots, seen }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    async fn submit(&mut self, command: Command) -> Result<Effect, Refusal> {
        match self.server().engine.submit(command).await? {
            Answer::Order { effect, .. } => Ok(effect),
            other => panic!("{other:?}"),
        }
    }

    fn some_skus(&mut self) -> Vec<usize> {
        let count = [1, 1, 1, 2, 3][self.dice.below(5)];
        let mut skus: Vec<usize> = (0..count).map(|_| self.dice.below(SKUS)).collect();
        skus.sort_unstable();
        skus.dedup();
        skus
    }

    fn reserve(number: &OrderNo, skus: &[usize]) -> Command {
        let names: Vec<String> = skus.iter().map(|sku| name(*sku)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        reserve(number.as_str(), &names)
    }

    fn some_told(&mut self) -> Option<(OrderNo, Told)> {
        let at = self.dice.below(self.told.len().max(1));
        self.told.iter().nth(at).map(|(number, told)| (number.clone(), told.clone()))
    }

    async fn new_order(&mut self) {
        let (number, skus) = (order_no(&format!("o-{}", self.numbers)), self.some_skus());
        self.numbers += 1;
        match self.submit(Self::reserve(&number, &skus)).await {
            Ok(effect) => {
                assert_eq!(effect, Effect::Created, "{number}");
                self.told.insert(number.clone(), Told::Has(skus));
            }
            Err(refusal) => {
                assert!(is_away(&refusal), "{number}: {refusal:?}");
                return;
            }
        }
        if self.dice.below(3) > 0 {
            let confirm = Action::Confirm(Confirm { order_no: number, part: None });
            self.submit(confirm.into()).await.unwrap();
        }
    }

    /// Several orders at the same time, also of the same SKUs.
    async fn many_orders(&mut self) {
        let mut asked = JoinSet::new();
        for _ in 0..16 {
            let (number, skus) = (order_no(&format!("o-{}", self.numbers)), self.some_skus());
            self.numbers += 1;
            let engine = self.server().engine.clone();
            asked.spawn(async move {
                let reserved = engine.submit(Self::reserve(&number, &skus)).await;
                if reserved.is_ok() {
                    let confirm = Action::Confirm(Confirm { order_no: number.clone(), part: None });
                    engine.submit(confirm.into()).await.unwrap();
                }
                (number, skus, reserved)
            });
        }
        for (number, skus, reserved) in asked.join_all().await {
            match reserved {
                Ok(Answer::Order { effect, .. }) => {
                    assert_eq!(effect, Effect::Created, "{number}");
                    self.told.insert(number, Told::Has(skus));
                }
                Err(refusal) if is_away(&refusal) => {}
                other => panic!("{number}: {other:?}"),
            }
        }
    }

    /// The same request again, and another one under the same number.
    async fn old_order(&mut self) {
        let Some((number, told)) = self.some_told() else { return };
        let (Told::Has(skus) | Told::Released(skus)) = &told;
        let again = self.submit(Self::reserve(&number, skus)).await;
        match (&told, again) {
            (_, Err(refusal)) if is_away(&refusal) => {}
            (Told::Has(_), Ok(Effect::Replayed)) | (Told::Released(_), Ok(Effect::Replayed)) => {}
            (Told::Released(_), Err(Refusal::OrderEnded { .. })) => {}
            (_, again) => panic!("{number} was {told:?}, again it is {again:?}"),
        }
        let others: Vec<usize> = (0..SKUS).filter(|sku| !skus.contains(sku)).take(2).collect();
        let other = self.submit(Self::reserve(&number, &others)).await;
        match other {
            Err(Refusal::OrderMismatch { .. }) => {}
            Err(refusal) if is_away(&refusal) => {}
            other => panic!("{number} with other lines is {other:?}"),
        }
    }

    async fn end_order(&mut self) {
        let Some((number, Told::Has(skus))) = self.some_told() else { return };
        let release = Action::Release(Release { order_no: number.clone(), part: None, reason: None });
        match self.submit(release.into()).await {
            Ok(_) => drop(self.told.insert(number, Told::Released(skus))),
            Err(Refusal::AlreadyConfirmed { .. }) => {}
            Err(refusal) => assert!(is_away(&refusal), "{number}: {refusal:?}"),
        }
    }

    /// What the server has lived through, before it ends.
    fn count(&mut self) {
        let stats = self.server().engine.stats();
        let evicted = stats.shards.iter().map(|shard| shard.evicted).sum();
        let (loads, wanted) = self.server().store.loads();
        let now = [evicted, loads, wanted, stats.store.went_back];
        self.seen.iter_mut().zip(now).for_each(|(seen, now)| *seen += now);
    }

    async fn restart(&mut self) {
        self.count();
        let server = self.server.take().unwrap();
        if self.dice.below(2) == 0 {
            server.kill().await
        } else {
            server.stop().await
        }
        self.server = Some(self.world.start_with(&self.directory, small(), |_| ()).await.unwrap());
    }

    fn trouble(&mut self) {
        let (dice, store) = (self.dice.below(8), self.server().store.clone());
        match dice {
            0 => store.cut(),
            1..=3 => store.mend(),
            4 => store.be_busy(3),
            5 => store.lose_answers(2),
            6 => store.lose_writes(2),
            _ => self.server().engine.checkpoint_now(),
        }
    }

    fn go_back(&mut self) {
        if self.snapshots.is_empty() || self.dice.below(4) > 0 {
            self.snapshots.push(self.world.store.snapshot());
            return;
        }
        let at = self.dice.below(self.snapshots.len());
        self.world.store.restore(&self.snapshots[at]);
        self.snapshots.truncate(at + 1);
    }

    /// All is in the store, and nothing else.
    async fn settles(&mut self) {
        self.server().store.mend();
        let mut left = 1_000;
        while let Err(difference) = self.fits().await {
            left -= 1;
            assert!(left > 0, "{difference}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.server().engine.health(), Health::Ready);
        assert_eq!(self.world.store.anomalies(9).await.unwrap(), (0, Vec::new()));
    }

    async fn fits(&self) -> Result<(), String> {
        let store = &self.world.store;
        let stored = store.list(&OrderFilter::default(), None, usize::MAX).await.unwrap().rows;
        let stored: Vec<OrderNo> = stored.into_iter().map(|order| order.order_no).collect();
        let told: Vec<OrderNo> = self.told.keys().cloned().collect();
        if stored != told {
            return Err(format!("{stored:?} are stored, {told:?} were told"));
        }
        for sku in 0..SKUS {
            let stocks = store.stock(&SkuId::new(&name(sku)).unwrap(), None).await.unwrap().rows;
            let taken =
                self.told.values().filter(|told| matches!(told, Told::Has(skus) if skus.contains(&sku)));
            let left = UNITS - taken.count() as u64;
            if stocks.first().is_none_or(|stock| stock.levels.available != left) {
                return Err(format!("{left} are left of {sku}, {stocks:?} are stored"));
            }
        }
        Ok(())
    }

    async fn run(mut self, steps: usize) -> [u64; 4] {
        for step in 0..steps {
            match self.dice.below(100) {
                0..40 => self.new_order().await,
                40..50 => self.many_orders().await,
                50..70 => self.old_order().await,
                70..82 => self.end_order().await,
                82..90 => self.trouble(),
                90..95 => self.go_back(),
                95..98 => self.restart().await,
                _ => self.settles().await,
            }
            if step % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        self.settles().await;
        self.count();
        self.server.take().unwrap().stop().await;
        self.seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_number_is_one_order_whatever_happens() {
    let seeds: u64 = std::env::var("HOTSTOCK_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    let from: u64 = std::env::var("HOTSTOCK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut all = [0; 4];
    for seed in from..from + seeds {
        let seen = Story::new(seed).await.run(300).await;
        eprintln!("seed {seed}: {seen:?}");
        all.iter_mut().zip(seen).for_each(|(all, seen)| *all += seen);
    }
    assert!(all.iter().all(|seen| *seen > 0), "{all:?}");
}
