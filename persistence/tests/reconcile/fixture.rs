//! A running engine with its store, whose rows can be broken.

use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::command::Action;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::mirror::Mirror;
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::reconcile::{Check, Difference, Reconcile, Reconciled, Remedy};
use hotstock_engine::store::Store;
use hotstock_engine::testing::store_suite::{W1, W2, confirm, create, give_back, release, reserve, restock};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal,
};
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::RedisServer;
use sqlx::Connection;

/// A running engine, its store, perhaps a mirror.
pub struct Server {
    pub url: String,
    pub engine: Engine,
    pub redis: Option<RedisServer>,
}

impl Server {
    /// With two stored SKUs and a resident one, each with orders of every kind that it can have.
    pub async fn new(url: String) -> Self {
        let store = Arc::new(SqlStore::open(&SqlOptions::new(url.clone())).unwrap());
        let journal = Box::new(MemoryJournal::default().open());
        let (checkpoints, filters) =
            (Arc::new(MemoryCheckpoints::default()), Arc::new(MemoryFilters::default()));
        let (identity, clock) = (Arc::new(MemoryIdentity::new(1)), Arc::new(ManualClock::default()));
        let parts =
            Parts::new(journal, checkpoints, filters, identity, clock, Arc::clone(&store) as Arc<dyn Store>);
        let store_options = StoreOptions { flush_interval_ms: 10, ..StoreOptions::default() };
        let options =
            EngineOptions { max_resident_skus: 1, store: store_options, ..EngineOptions::default() };
        let engine = Engine::start(options, parts).await.unwrap();
        let server = Self { url, engine, redis: None };
        server.trade("hot", "h").await;
        for number in ["h-8", "h-9"] {
            server.must(reserve(number, &[("hot", 5)])).await;
        }
        server.trade("cold", "c").await;
        server.must(create("other", W1, 7)).await;
        server
            .until("only the SKU with open orders is in memory", |server| {
                server.engine.stats().shards[0].resident == 1
            })
            .await;
        server.flushed().await;
        server
    }

    /// 100 units and 5 more, 6 sold and 2 of those returned, 3 released.
    pub async fn trade(&self, name: &str, prefix: &str) {
        let number = |n: u32| format!("{prefix}-{n}");
        for action in [
            create(name, W1, 100),
            create(name, W2, 50),
            restock(name, 5, "r-1"),
            reserve(&number(3), &[(name, 6)]),
            confirm(&number(3), None),
            give_back(&number(3), &[(name, 2)], "back"),
            reserve(&number(4), &[(name, 3)]),
            release(&number(4), None),
        ] {
            self.must(action).await;
        }
    }

    pub async fn must(&self, action: Action) {
        self.engine.submit(action.into()).await.unwrap();
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..1_000 {
            if is_so(self) {
                return;
            }
            // Evictions wait for a turn of the shard, which comes with the next command or tick.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in time: {what}");
    }

    pub async fn flushed(&self) {
        let durable = self.engine.stats().shards[0].durable;
        self.until("flushed", |server| server.engine.stats().shards[0].flushed >= durable).await;
    }

    /// What somebody does with a database client.
    pub async fn tamper(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let changed = if self.url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap().rows_affected()
        } else {
            let mut connection = sqlx::MySqlConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap().rows_affected()
        };
        assert_eq!(changed, 1);
    }

    pub async fn reconcile(&self, fix: bool) -> Reconciled {
        let mirror = self.redis.as_ref().map(|redis| -> Arc<dyn Mirror> { Arc::new(access(redis)) });
        self.engine.reconcile(Reconcile { after: None, limit: 100, fix, mirror }).await.unwrap()
    }

    /// The one difference that is told; twice, because telling changes nothing.
    pub async fn only(&self) -> Difference {
        let found = self.reconcile(false).await;
        assert_eq!(found.differences.len(), 1, "{:#?}", found.differences);
        assert!(found.repaired.is_empty());
        assert_eq!(self.reconcile(false).await, found);
        found.differences.into_iter().next().unwrap()
    }

    pub async fn is_right(&self) {
        let found = self.reconcile(false).await;
        assert_eq!((found.skus, &found.differences[..]), (3, &[][..]));
        assert!(found.unsettled.is_empty() && found.next.is_none() && found.mirror_error.is_none());
    }

    /// `fix` finds it as `only` did, and puts it right.
    pub async fn is_fixed(&self) {
        let before = self.only().await;
        let fixed = self.reconcile(true).await;
        assert_eq!(fixed.differences, [before]);
        assert_eq!(fixed.repaired.len(), 1, "{:#?}", fixed.repaired);
        self.is_right().await;
    }

    /// `fix` finds it as `only` did, and does nothing about it.
    pub async fn is_not_fixed(&self) {
        let before = self.only().await;
        let fixed = self.reconcile(true).await;
        assert_eq!((&fixed.differences[..], fixed.repaired.len()), (&[before.clone()][..], 0));
        assert_eq!(self.only().await, before);
    }
}

pub fn access(redis: &RedisServer) -> MirrorAccess {
    MirrorAccess::new(MirrorOptions { redis_url: redis.url(), ..MirrorOptions::default() }).unwrap()
}

pub fn names(difference: &Difference) -> (&str, WarehouseId, Check, Remedy) {
    (difference.sku_id.as_str(), difference.warehouse_id, difference.check, difference.remedy)
}
