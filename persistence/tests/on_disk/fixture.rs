//! An engine on a real data directory and a SQLite store beside it, and what is asked of it.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotstock_engine::checkpoint::{CheckpointStore as _, FilterManifest};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, ServerId, SkuId, WarehouseId};
use hotstock_engine::options::{EngineOptions, Parts, StartError, StoreOptions};
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};
use hotstock_engine::ownership::NotOurs;
use hotstock_engine::restore::restore;
use hotstock_engine::seize::{hand_over, seize};
use hotstock_engine::store::Store;
use hotstock_engine::testing::ManualClock;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use tempfile::TempDir;

pub const SHARDS: u16 = 3;
pub const W1: WarehouseId = WarehouseId(1);

/// What happened takes its time to reach the store, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place with one store and any number of data directories.
pub struct Fixture {
    home: TempDir,
    pub clock: ManualClock,
}

impl Fixture {
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), clock: ManualClock::default() }
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn store(&self) -> SqlStore {
        let url = format!("sqlite:{}", self.home.path().join("store").display());
        SqlStore::open(&SqlOptions::new(url)).unwrap()
    }

    /// Starts the engine of a data directory, which is made when it is not there.
    pub async fn start_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut EngineOptions),
    ) -> Result<Engine, StartError> {
        let data = DataDir::open(&self.dir(name), Some(SHARDS)).unwrap();
        let journal = data.journal(JournalOptions { segment_bytes: 16 << 10, zeros: 0 }).unwrap();
        let store = self.store().checked_by(data.store_check());
        let parts = Parts::new(
            Box::new(journal),
            Arc::new(data.checkpoints()),
            Arc::new(data.filters()),
            Arc::new(data.identity().unwrap()),
            Arc::new(self.clock.clone()),
            Arc::new(store),
        );
        let store = StoreOptions { flush_interval_ms: 5, ..StoreOptions::default() };
        let mut options = EngineOptions { shards: SHARDS, store, ..EngineOptions::default() };
        change(&mut options);
        Engine::start(options, parts).await
    }

    pub async fn start(&self, name: &str) -> Engine {
        self.start_with(name, |_| ()).await.expect("it starts")
    }

    /// Why the engine of a data directory must not start.
    pub async fn refused(&self, name: &str) -> NotOurs {
        match self.start_with(name, |_| ()).await {
            Err(StartError::NotOurs(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{name} must not start"),
        }
    }

    /// As an operator copies it.
    pub fn copy(&self, from: &str, to: &str) {
        let copied = Process::new("cp").arg("-a").arg(self.dir(from)).arg(self.dir(to)).status().unwrap();
        assert!(copied.success());
    }

    /// What `hotstock recover --from-store` does.
    pub async fn recover(&self, to: &str) {
        let store = self.store();
        let seized = seize(&store, ServerId(77), 0, true).await.unwrap();
        let restored = restore(&store, seized.epoch, &seized.owned, Timestamp(1)).await.unwrap();
        let bases: Vec<_> = restored.shards.iter().map(|shard| (shard.mark.lsn, shard.mark.hash)).collect();
        let new = DataDir::restore(&self.dir(to), &bases).unwrap();
        for shard in &restored.shards {
            let mut writer = new.checkpoints().create(shard.mark.shard, shard.mark.lsn).unwrap();
            writer.write(&shard.images).unwrap();
            writer.finish(shard.end, &FilterManifest::default()).unwrap();
        }
        let data = new.finish(seized.epoch).unwrap();
        hand_over(&store, &seized, &data.identity().unwrap()).await.unwrap();
        store.close().await;
    }
}

/// Waits until everything that was logged is in the store.
pub async fn flushed(engine: &Engine) {
    let deadline = Instant::now() + PATIENCE;
    while engine.stats().shards.iter().any(|shard| shard.flushed < shard.durable) {
        assert!(Instant::now() < deadline, "{:?}", engine.stats());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the engine serves no more.
pub async fn fenced(engine: &Engine) {
    let deadline = Instant::now() + PATIENCE;
    while !matches!(reserve(engine, "probe", "nothing", 1).await, Err(Refusal::Fenced { .. })) {
        assert!(Instant::now() < deadline, "{:?}", engine.health());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

fn number(order: &str) -> OrderNo {
    OrderNo::new(order).unwrap()
}

pub async fn create(engine: &Engine, name: &str, quantity: u64) {
    let create = CreateStock { sku_id: sku(name), warehouse_id: W1, quantity, serialized: false };
    engine.submit(Action::CreateStock(create).into()).await.unwrap();
}

pub async fn reserve(engine: &Engine, order: &str, name: &str, quantity: u32) -> Outcome {
    let lines = Lines::new([Line { sku_id: sku(name), warehouse_id: W1, quantity }]).unwrap();
    let (order_no, mode) = (number(order), Mode::AllOrNothing);
    let reserve = Reserve { order_no, lines, ttl_seconds: 900, buyer_id: None, mode, choice: None };
    engine.submit(Action::Reserve(reserve).into()).await
}

pub async fn confirm(engine: &Engine, order: &str) -> Outcome {
    engine.submit(Action::Confirm(Confirm { order_no: number(order), part: None }).into()).await
}

pub async fn release(engine: &Engine, order: &str) -> Outcome {
    let release = Release { order_no: number(order), part: None, reason: None };
    engine.submit(Action::Release(release).into()).await
}

pub fn is_repeat(answer: &Answer) -> bool {
    matches!(answer, Answer::Order { effect: Effect::Replayed, .. })
}

/// Available, reserved, sold.
pub async fn levels(engine: &Engine, name: &str) -> [u64; 3] {
    let views = engine.stock(&sku(name), None).await.unwrap();
    let [view] = &views[..] else { panic!("{views:?}") };
    [view.levels.available, view.levels.reserved, view.levels.sold]
}

/// Everything that a stopped directory has is whole, and follows.
pub fn verify(path: &Path) {
    let data = DataDir::open(path, None).unwrap();
    let journal = data.stopped_journal().unwrap();
    (0..SHARDS).map(hotstock_engine::ids::ShardId).for_each(|shard| journal.check(shard).unwrap());
}
