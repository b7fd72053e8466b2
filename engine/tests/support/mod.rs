//! What the tests of the running engine share: short ways to make commands, and an engine on a journal in memory.

use std::sync::Arc;

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
use hotstock_engine::engine::{Engine, EngineOptions, Parts};
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal, MemoryStore,
};

/// What outlives an engine: its "disk", its store and its clock.
pub struct World {
    pub journal: MemoryJournal,
    pub checkpoints: MemoryCheckpoints,
    pub filters: MemoryFilters,
    pub identity: MemoryIdentity,
    pub store: MemoryStore,
    pub clock: ManualClock,
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::default();
        Self {
            journal: MemoryJournal::default(),
            checkpoints: MemoryCheckpoints::default(),
            filters: MemoryFilters::default(),
            identity: MemoryIdentity::new(1),
            store: MemoryStore::with_clock(Arc::new(clock.clone())),
            clock,
        }
    }

    pub fn parts(&self) -> Parts {
        let (journal, checkpoints) = (self.journal.open(), Arc::new(self.checkpoints.clone()));
        let (filters, identity) = (Arc::new(self.filters.clone()), Arc::new(self.identity.clone()));
        let (clock, store) = (Arc::new(self.clock.clone()), Arc::new(self.store.clone()));
        Parts::new(Box::new(journal), checkpoints, filters, identity, clock, store)
    }

    pub async fn start(&self, options: EngineOptions) -> Engine {
        Engine::start(options, self.parts()).await.unwrap()
    }
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
