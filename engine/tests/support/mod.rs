//! What the tests of the running engine share: short ways to make commands, and an engine on a journal and a store in
//! memory.

use std::sync::{Arc, Mutex};

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::outcome::{Answer, OrderView, Outcome, Refusal, StockView};
use hotstock_engine::pins::Pinned;
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal, MemoryStore, recovered,
};

/// What outlives an engine: its "disk", its store and its clock.
pub struct World {
    pub journal: MemoryJournal,
    pub checkpoints: MemoryCheckpoints,
    pub filters: MemoryFilters,
    pub identity: MemoryIdentity,
    pub store: MemoryStore,
    pub clock: ManualClock,
    /// The session of the engine that was started last.
    session: Mutex<Option<MemoryStore>>,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::default();
        Self {
            journal: MemoryJournal::default(),
            checkpoints: MemoryCheckpoints::default(),
            filters: MemoryFilters::default(),
            identity: MemoryIdentity::default(),
            store: MemoryStore::with_clock(Arc::new(clock.clone())),
            clock,
            session: Mutex::default(),
        }
    }

    /// With nothing left but this store, as `hotstock recover --from-store` goes on.
    pub async fn recovered(store: MemoryStore, clock: ManualClock) -> Self {
        let now = hotstock_engine::clock::Clock::now(&clock);
        let (journal, checkpoints, identity) = recovered(&store, 2, now).await;
        let (filters, session) = (MemoryFilters::default(), Mutex::default());
        Self { journal, checkpoints, filters, identity, store, clock, session }
    }

    /// For a new process: the one before is gone.
    pub fn parts(&self) -> Parts {
        let (journal, checkpoints) = (self.journal.open(), Arc::new(self.checkpoints.clone()));
        let session = self.store.session();
        if let Some(before) = self.session.lock().unwrap().replace(session.clone()) {
            before.die();
        }
        Parts::new(
            Box::new(journal),
            checkpoints,
            Arc::new(self.filters.clone()),
            Arc::new(self.identity.clone()),
            Arc::new(self.clock.clone()),
            Arc::new(session),
        )
    }

    /// The connection of the engine to its store, for faults.
    pub fn session(&self) -> MemoryStore {
        self.session.lock().unwrap().clone().expect("an engine was started")
    }

    pub async fn start(&self, options: EngineOptions) -> Engine {
        Engine::start(options, self.parts()).await.unwrap()
    }
}

/// What is logged is in the store some milliseconds later.
pub fn flushed_soon(shards: u16) -> EngineOptions {
    let store = StoreOptions { flush_interval_ms: 2, keep_flushed_minutes: 0, ..StoreOptions::default() };
    EngineOptions { shards, store, ..EngineOptions::default() }
}

/// Nothing stays in memory that need not: SKUs and ended orders come and go all the time.
pub fn tight(shards: u16) -> EngineOptions {
    EngineOptions { remember_seconds: 0, max_resident_skus: usize::from(shards), ..flushed_soon(shards) }
}

/// Waits until a condition holds; the test harness bounds the time.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Waits until everything that is durable is in the store.
pub async fn until_flushed(engine: &Engine) {
    until(|| {
        engine.stats().shards.iter().all(|shard| shard.applied == shard.durable && shard.lag_events == 0)
    })
    .await;
}

/// Until nothing is in memory but one SKU of each shard, perhaps.
pub async fn until_gone(world: &World, engine: &Engine) {
    until_flushed(engine).await;
    // Orders are remembered for no time at all, which has to go on for that.
    until(|| {
        world.clock.advance(std::time::Duration::from_millis(1));
        engine.stats().shards.iter().all(|shard| shard.orders == 0 && shard.resident <= 1)
    })
    .await;
}

pub async fn stock(engine: &Engine, name: &str) -> StockView {
    engine.stock(&sku(name), None).await.unwrap().remove(0)
}

/// (available, reserved, sold)
pub async fn levels(engine: &Engine, name: &str) -> (u64, u64, u64) {
    let levels = stock(engine, name).await.levels;
    (levels.available, levels.reserved, levels.sold)
}

pub fn order(outcome: Outcome) -> OrderView {
    match outcome {
        Ok(Answer::Order { order, .. }) => order,
        other => panic!("expected an order, got {other:?}"),
    }
}

pub async fn promote(engine: &Engine, name: &str) -> Result<Pinned, Refusal> {
    engine.promote(&[sku(name)]).await.remove(0).1
}

pub async fn demote(engine: &Engine, name: &str) -> Result<Pinned, Refusal> {
    engine.demote(&[sku(name)]).await.remove(0).1
}

pub fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

pub fn order_no(name: &str) -> OrderNo {
    OrderNo::new(name).unwrap()
}

pub fn lines(lines: &[(&str, u32)]) -> Lines {
    let line =
        |&(name, quantity): &(&str, u32)| Line { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity };
    Lines::new(lines.iter().map(line)).unwrap()
}

pub fn create(name: &str, quantity: u64) -> Command {
    Action::CreateStock(CreateStock {
        sku_id: sku(name),
        warehouse_id: WarehouseId(1),
        quantity,
        serialized: false,
    })
    .into()
}

pub fn reserve(order: &str, name: &str, quantity: u32) -> Command {
    reserve_lines(order, lines(&[(name, quantity)]))
}

/// Held for 900 seconds.
pub fn reserve_lines(order: &str, lines: Lines) -> Command {
    let order_no = order_no(order);
    Action::Reserve(Reserve {
        order_no,
        lines,
        ttl_seconds: 900,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

pub fn confirm(order: &str) -> Command {
    Action::Confirm(Confirm { order_no: order_no(order), part: None }).into()
}

pub fn release(order: &str) -> Command {
    Action::Release(Release { order_no: order_no(order), part: None, reason: None }).into()
}

pub fn get(order: &str) -> Command {
    Action::GetOrder(order_no(order)).into()
}
