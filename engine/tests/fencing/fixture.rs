//! Directories, servers on them, and the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId, WarehouseId};
use hotstock_engine::journal::JournalReader;
use hotstock_engine::options::{EngineOptions, Parts, StartError, StoreOptions};
use hotstock_engine::outcome::{Outcome, Refusal};
use hotstock_engine::status::Health;
use hotstock_engine::store::{OrderFilter, Store};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal, MemoryStore, recovered,
};

pub const SHARDS: u16 = 2;

/// What each of the SKUs begins with.
pub const UNITS: u64 = 1_000;

/// SKUs, some in each shard.
pub const SKUS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A data directory.
pub struct Directory {
    pub journal: MemoryJournal,
    pub checkpoints: MemoryCheckpoints,
    pub filters: MemoryFilters,
    pub identity: MemoryIdentity,
}

impl Directory {
    pub fn new(server: u128) -> Self {
        Self {
            journal: MemoryJournal::default(),
            checkpoints: MemoryCheckpoints::default(),
            filters: MemoryFilters::default(),
            identity: MemoryIdentity::new(server),
        }
    }

    /// A copy of it as it is now, elsewhere.
    pub fn copy(&self) -> Self {
        Self {
            journal: self.journal.copy(),
            checkpoints: self.checkpoints.copy(),
            filters: self.filters.copy(),
            identity: self.identity.copy(),
        }
    }

    /// A new one from the store, as `hotstock recover --from-store` makes it.
    pub async fn recovered(store: &MemoryStore, server: u128, clock: &ManualClock) -> Self {
        let now = hotstock_engine::clock::Clock::now(clock);
        let (journal, checkpoints, identity) = recovered(store, server, now).await;
        Self { journal, checkpoints, filters: MemoryFilters::default(), identity }
    }

    /// Orders that its journal makes after the watermarks of the store.
    pub async fn unflushed(&self, store: &MemoryStore) -> BTreeSet<OrderNo> {
        let mut orders = BTreeSet::new();
        for (_, event) in self.beyond(store).await {
            if let Change::Reserved { order_no, .. } = event.change {
                orders.insert(order_no);
            }
        }
        orders
    }

    async fn beyond(&self, store: &MemoryStore) -> Vec<(Lsn, Event)> {
        let marks = store.session().ownership().await.unwrap().watermarks;
        let mut beyond = Vec::new();
        for shard in (0..SHARDS).map(ShardId) {
            let mark = marks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn);
            beyond.extend(self.journal.read(shard, mark.next(), usize::MAX).unwrap());
        }
        beyond
    }
}

/// A store and its time.
pub struct World {
    pub store: MemoryStore,
    pub clock: ManualClock,
}

/// A running server.
pub struct Server {
    pub engine: Engine,
    pub store: MemoryStore,
}

pub fn options() -> EngineOptions {
    let store = StoreOptions { flush_interval_ms: 5, load_wait_ms: 1_000, ..StoreOptions::default() };
    EngineOptions { shards: SHARDS, store, ..EngineOptions::default() }
}

impl World {
    pub fn new() -> Self {
        let clock = ManualClock::default();
        Self { store: MemoryStore::with_clock(Arc::new(clock.clone())), clock }
    }

    pub async fn start(&self, directory: &Directory) -> Server {
        self.start_with(directory, options(), |_| ()).await.unwrap()
    }

    /// With a session that is prepared: cut off, for one.
    pub async fn start_with(
        &self,
        directory: &Directory,
        options: EngineOptions,
        prepare: impl FnOnce(&MemoryStore),
    ) -> Result<Server, StartError> {
        let store = self.store.session();
        prepare(&store);
        let Directory { journal, checkpoints, filters, identity } = directory;
        let parts = Parts::new(
            Box::new(journal.open()),
            Arc::new(checkpoints.clone()),
            Arc::new(filters.clone()),
            Arc::new(identity.clone()),
            Arc::new(self.clock.clone()),
            Arc::new(store.clone()),
        );
        let started = Engine::start(options, parts).await;
        if started.is_err() {
            store.die();
        }
        Ok(Server { engine: started?, store })
    }

    pub async fn take_over(&self, directory: &Directory) -> Result<Server, StartError> {
        self.start_with(directory, EngineOptions { take_over: true, ..options() }, |_| ()).await
    }

    /// It does not start, for a reason with these words.
    pub async fn refuses(&self, directory: &Directory, take_over: bool, words: &str) {
        let started = self.start_with(directory, EngineOptions { take_over, ..options() }, |_| ()).await;
        match started.map(|_| ()) {
            Err(StartError::NotOurs(not_ours)) => {
                assert!(not_ours.to_string().contains(words), "{not_ours} does not say {words:?}");
            }
            Err(error) => panic!("{error}"),
            Ok(()) => panic!("it started where {words:?} had to be refused"),
        }
    }
}

impl Server {
    pub async fn create_all(&self) {
        for name in SKUS {
            let create = CreateStock {
                sku_id: SkuId::new(name).unwrap(),
                warehouse_id: WarehouseId(1),
                quantity: UNITS,
                serialized: false,
            };
            self.engine.submit(Action::CreateStock(create).into()).await.unwrap();
        }
    }

    /// Sells one order of some SKUs, one unit each.
    pub async fn sell(&self, ledger: &mut Ledger, number: &str, skus: &[&str]) -> Outcome {
        let reserved = self.engine.submit(reserve(number, skus)).await;
        if reserved.is_ok() {
            ledger.told.insert(order_no(number), skus.iter().map(|name| (*name).to_owned()).collect());
        }
        reserved?;
        self.engine.submit(Action::Confirm(Confirm { order_no: order_no(number), part: None }).into()).await
    }

    /// An order of each SKU, and one over all of them.
    pub async fn sell_all(&self, ledger: &mut Ledger, round: &str) {
        for name in SKUS {
            self.sell(ledger, &format!("{round}-{name}"), &[name]).await.unwrap();
        }
        self.sell(ledger, &format!("{round}-all"), &SKUS).await.unwrap();
    }

    /// Every command is refused as fenced, of every SKU.
    pub async fn is_closed(&self) {
        let mut left = 500;
        while !matches!(self.engine.health(), Health::Fenced(_)) {
            left -= 1;
            assert!(left > 0, "it is fenced within seconds: {:?}", self.engine.health());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for name in SKUS {
            let refused = self.engine.submit(reserve(&format!("late-{name}"), &[name])).await;
            assert!(matches!(refused, Err(Refusal::Fenced { .. })), "{name}: {refused:?}");
        }
        let refused = self.engine.submit(reserve("late-all", &SKUS)).await;
        assert!(matches!(refused, Err(Refusal::Fenced { .. })), "{refused:?}");
    }

    /// Everything that is durable is in the store.
    pub async fn is_flushed(&self) {
        let mut left = 1_000;
        while self.engine.stats().shards.iter().any(|shard| shard.lag_events > 0) {
            left -= 1;
            assert!(left > 0, "{:?}", self.engine.stats().shards);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// As a power failure would end it: nothing more reaches the store.
    pub async fn kill(self) {
        self.store.die();
        self.engine.stop().await;
    }

    pub async fn stop(self) {
        self.engine.stop().await;
        self.store.die();
    }
}

pub fn order_no(number: &str) -> OrderNo {
    OrderNo::new(number).unwrap()
}

pub fn reserve(number: &str, skus: &[&str]) -> Command {
    let line =
        |name: &&str| Line { sku_id: SkuId::new(name).unwrap(), warehouse_id: WarehouseId(1), quantity: 1 };
    Action::Reserve(Reserve {
        order_no: order_no(number),
        lines: Lines::new(skus.iter().map(line)).unwrap(),
        ttl_seconds: 900,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

/// What clients were told.
#[derive(Default)]
pub struct Ledger {
    /// Orders that hold or have units, one of each SKU.
    pub told: BTreeMap<OrderNo, Vec<String>>,
}

impl Ledger {
    /// Those that a fenced server answered and never flushed are not the owner's.
    pub fn without(&self, lost: &BTreeSet<OrderNo>) -> Self {
        let told = self.told.iter().filter(|(number, _)| !lost.contains(*number));
        Self { told: told.map(|(number, skus)| (number.clone(), skus.clone())).collect() }
    }

    fn units_of(&self, name: &str) -> u64 {
        self.told.values().filter(|skus| skus.iter().any(|sku| sku == name)).count() as u64
    }

    /// Units that are there and units told make what was put in, at the server and in the store; the store has every
    /// order and no other.
    pub async fn fits(&self, server: &Server) {
        server.is_flushed().await;
        let store = server.store.session();
        for name in SKUS {
            let sku_id = SkuId::new(name).unwrap();
            let there = server.engine.stock(&sku_id, None).await.unwrap();
            let stored = store.stock(&sku_id, None).await.unwrap().rows;
            assert_eq!(there, stored, "{name}");
            assert_eq!(there[0].levels.available + self.units_of(name), UNITS, "{name}: {:?}", there[0]);
            assert_eq!(there[0].levels.quantity(), UNITS, "{name}");
        }
        let stored = store.list(&OrderFilter::default(), None, usize::MAX).await.unwrap().rows;
        let stored: Vec<OrderNo> = stored.into_iter().map(|order| order.order_no).collect();
        let told: Vec<OrderNo> = self.told.keys().cloned().collect();
        assert_eq!(stored, told);
        assert_eq!(store.anomalies(9).await.unwrap(), (0, Vec::new()));
    }
}
