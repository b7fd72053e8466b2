//! What these tests share: a world with a store, and what must be true of it at rest.

use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::engine::{Engine, EngineOptions, Moved, StoreOptions};
use hotstock_engine::ids::{Lsn, ServerId, ShardId};
use hotstock_engine::outcome::{Answer, OrderView, Outcome, Refusal, StockView};
use hotstock_engine::store::{StockRow, Store};
use hotstock_engine::testing::MemoryStore;

use crate::support::{World, sku};

pub const SERVER: ServerId = ServerId(7);

/// A world with a store, which outlives its engines like the journal does.
pub struct House {
    pub world: World,
    pub store: MemoryStore,
}

impl House {
    pub fn new() -> Self {
        Self { world: World::new(), store: MemoryStore::default().session_of(SERVER, 1) }
    }

    /// An engine with so many shards; everything in the background as quick as it can be.
    pub async fn start(&self, shards: u16) -> Engine {
        self.start_with(options(shards), &self.store.session_of(SERVER, shards)).await
    }

    pub async fn start_with(&self, options: EngineOptions, session: &MemoryStore) -> Engine {
        self.world.journal.mend();
        let parts = self.world.parts().with_store(Arc::new(session.clone()), SERVER);
        Engine::start(options, parts).await.unwrap()
    }

    /// What the store has of a SKU's stock in the one warehouse.
    pub async fn row(&self, name: &str) -> StockRow {
        self.store.session().stock(&sku(name), None).await.unwrap().remove(0)
    }

    /// Store and views agree with their own books: sums, versions, held and sold units by orders. Only with everything flushed.
    pub async fn check_books(&self) {
        for books in self.store.session().books(None, usize::MAX).await.unwrap() {
            let levels = books.row.view.levels;
            let what = format!("{books:#?}");
            assert_eq!(levels.quantity(), books.supplied, "{what}");
            let [available, reserved, sold] = books.journal.map(|sum| u64::try_from(sum).unwrap());
            assert_eq!(
                (levels.available, levels.reserved, levels.sold),
                (available, reserved, sold),
                "{what}"
            );
            assert_eq!(books.journal_rows, levels.version, "gapless: {what}");
            assert_eq!(books.journal_version, levels.version, "{what}");
            assert_eq!(books.journal_after, Some(levels), "{what}");
            assert_eq!(books.held_by_orders, levels.reserved, "{what}");
            assert_eq!(books.sold_by_orders, levels.sold, "{what}");
        }
        assert_eq!(self.store.session().anomalies(9).await.unwrap().0, 0);
    }
}

pub fn options(shards: u16) -> EngineOptions {
    let store = StoreOptions { flush_interval_ms: 5, sweep_interval_ms: 2, ..StoreOptions::default() };
    EngineOptions { shards, store, ..EngineOptions::default() }
}

pub async fn promote(engine: &Engine, name: &str) -> Result<Moved, Refusal> {
    engine.promote(&[sku(name)]).await.remove(0).1
}

pub async fn demote(engine: &Engine, name: &str) -> Result<Moved, Refusal> {
    engine.demote(&[sku(name)]).await.remove(0).1
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

/// Waits until `condition` holds, looking each time the runtime is idle; the test harness bounds the time.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the store has everything that is durable now.
pub async fn flushed(engine: &Engine) {
    let durable: Vec<(ShardId, Lsn)> = engine.followers().iter().map(|f| (f.shard, f.durable)).collect();
    until(|| engine.followers().iter().zip(&durable).all(|(follower, (_, lsn))| follower.flushed >= *lsn))
        .await;
}
