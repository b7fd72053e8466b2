//! The store on SQLite, in a file and in memory, passes the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use async_trait::async_trait;
use hotstock_engine::ids::{Lsn, OrderNo, RequestId, SkuId};
use hotstock_engine::store::{FlushBatch, FlushPart, Store, StoreError};
use hotstock_engine::testing::store_suite::{
    Shards, Subject, TestShard, W1, confirm, create, hash_at, order, reserve, restock, sku,
};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use sqlx::Connection as _;
use tempfile::TempDir;

struct OnSqlite(TempDir);

impl OnSqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.path().join("store.sqlite").display())
    }

    async fn by_hand(&self, sql: &'static str, values: &[&str]) {
        let mut conn = sqlx::SqliteConnection::connect(&self.url()).await.unwrap();
        let mut query = sqlx::query(sql);
        for value in values {
            query = query.bind((*value).to_owned());
        }
        query.execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }
}

#[async_trait]
impl Subject for OnSqlite {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqlStore::open(&SqlOptions::new(self.url())).unwrap())
    }

    async fn spoil(&self, sku_id: &SkuId, available: u64) {
        let values = [&available.to_string(), sku_id.as_str()];
        self.by_hand("UPDATE stock SET available = CAST(? AS INTEGER) WHERE sku_id = ?", &values).await;
    }

    async fn delete_order(&self, order_no: &OrderNo) {
        self.by_hand("DELETE FROM order_lines WHERE order_no = ?", &[order_no.as_str()]).await;
        self.by_hand("DELETE FROM orders WHERE order_no = ?", &[order_no.as_str()]).await;
    }

    async fn delete_request(&self, sku_id: &SkuId, request_id: &RequestId) {
        let values = [sku_id.as_str(), request_id.as_str()];
        self.by_hand("DELETE FROM stock_requests WHERE sku_id = ? AND request_id = ?", &values).await;
    }

    async fn edit_holds(&self, order_no: &OrderNo, units: Option<u32>) {
        let order_no = order_no.as_str();
        match units.map(|units| units.to_string()) {
            Some(units) => {
                let sql = "UPDATE holds SET units = CAST(? AS INTEGER) WHERE order_no = ?";
                self.by_hand(sql, &[&units, order_no]).await;
            }
            None => self.by_hand("DELETE FROM holds WHERE order_no = ?", &[order_no]).await,
        }
    }
}

hotstock_engine::store_suite!(OnSqlite::new());

/// Rows of holds that somebody deleted or made by hand.
#[tokio::test]
async fn a_hold_that_is_there_or_missing_is_noted() {
    let subject = OnSqlite::new();
    let store = &*subject.open();
    let take = hotstock_engine::store::Take {
        id: hotstock_engine::ids::TakeId(1),
        server: hotstock_engine::ids::ServerId(1),
        shards: 2,
        after: hotstock_engine::ids::Epoch(0),
        epoch: hotstock_engine::ids::Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.unwrap();
    let mut shards = Shards::new(2);
    let name = shards.names("sku", 1).concat().remove(1);
    shards.all[1].must(create(&name, W1, 100));
    let gone = shards.hold_only(store, 0, "gone", &[(&name, 1)]).await.unwrap();
    shards.flush_all(store).await;
    subject.by_hand("DELETE FROM holds WHERE order_no = ?", &["gone"]).await;
    shards.let_go("gone", gone);
    assert_eq!(shards.flush_all(store).await, 1);
    let there = shards.hold_only(store, 0, "there", &[(&name, 2)]).await.unwrap();
    let row = "INSERT INTO holds (order_no, attempt, sku_id, warehouse_id, shard, coordinator, purpose, seq, units, sold, lsn) \
               VALUES (?, ?, ?, 1, 1, 0, 'units', 0, 7, 7, 1)";
    subject.by_hand(row, &["there", &format!("{:016x}", there.0), &name]).await;
    assert_eq!(shards.flush_all(store).await, 1);
    let kinds: Vec<_> =
        store.anomalies(10).await.unwrap().1.into_iter().map(|one| (one.kind, one.order_no)).collect();
    let expected = [("hold_exists", "there"), ("hold_missing", "gone")];
    assert_eq!(kinds, expected.map(|(kind, number)| (kind.to_owned(), Some(order(number)))));
    assert_eq!(store.holds(None, 10).await.unwrap(), shards.all[1].holds());
    assert_eq!(store.parked(10).await.unwrap().0, 0);
}

#[tokio::test]
async fn one_in_memory_lives_as_long_as_it_is_open() {
    let open = || SqlStore::open(&SqlOptions::new("sqlite::memory:")).unwrap();
    let (one, other) = (open(), open());
    let take = hotstock_engine::store::Take {
        id: hotstock_engine::ids::TakeId(1),
        server: hotstock_engine::ids::ServerId(1),
        shards: 1,
        after: hotstock_engine::ids::Epoch(0),
        epoch: hotstock_engine::ids::Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    one.take(&take).await.unwrap();
    other.take(&take).await.unwrap();
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 10));
    shard.flush_all(&one).await;
    assert_eq!(one.stock(&sku("a"), None).await.unwrap().rows.len(), 1);
    assert!(other.stock(&sku("a"), None).await.unwrap().rows.is_empty());
}

/// A store that lost what was flushed, while an order's number was asked for, lets it be made once more. All of that
/// in one batch, when it is flushed again, is taken in all the same.
#[tokio::test]
async fn an_order_that_is_made_twice_in_a_batch_stops_no_flush() {
    let open = || SqlStore::open(&SqlOptions::new("sqlite::memory:")).unwrap();
    let (one, other) = (open(), open());
    let take = hotstock_engine::store::Take {
        id: hotstock_engine::ids::TakeId(1),
        server: hotstock_engine::ids::ServerId(1),
        shards: 1,
        after: hotstock_engine::ids::Epoch(0),
        epoch: hotstock_engine::ids::Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    one.take(&take).await.unwrap();
    other.take(&take).await.unwrap();
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 10));
    shard.must(reserve("o", &[("a", 2)]));
    shard.must(confirm("o", None));
    let mut events = shard.events.clone();
    shard.flush_all(&one).await;
    assert_eq!(shard.evict(1), 1);
    shard.load_for(&one, &restock("a", 1, "r").into()).await;
    shard.must(reserve("o", &[("a", 3)]));
    shard.must(confirm("o", None));
    events.extend(shard.events.clone());
    let last = shard.last();
    let part = FlushPart { shard: shard.shard, after: Lsn::ZERO, events: &events, hash: hash_at(last) };
    let batch = FlushBatch { epoch: shard.epoch, parts: vec![part] };
    let flushed = other.flush(batch).await.unwrap();
    assert_eq!((flushed.flushed(shard.shard), flushed.anomalies), (last, 1));
    let anomalies = other.anomalies(9).await.unwrap().1;
    assert_eq!(anomalies[0].kind, "order_exists");
    let levels = other.stock(&sku("a"), None).await.unwrap().rows[0].levels;
    assert_eq!((levels.available, levels.sold), (5, 5));
}

/// The file is renamed away, or another one put in its place: the next heartbeat finds out.
#[tokio::test]
async fn a_file_that_is_replaced_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, away) = (dir.path().join("store.db"), dir.path().join("away.db"));
    let store = SqlStore::open(&SqlOptions::new(format!("sqlite:{}", file.display()))).unwrap();
    let take = hotstock_engine::store::Take {
        id: hotstock_engine::ids::TakeId(1),
        server: hotstock_engine::ids::ServerId(1),
        shards: 1,
        after: hotstock_engine::ids::Epoch(0),
        epoch: hotstock_engine::ids::Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.unwrap();
    store.renew(take.epoch, 0).await.unwrap();
    std::fs::rename(&file, &away).unwrap();
    let is_told = |told: Result<_, StoreError>| matches!(told, Err(StoreError::Foreign(why)) if why.contains("store.db"));
    assert!(is_told(store.renew(take.epoch, 0).await));
    std::fs::copy(&away, &file).unwrap();
    assert!(is_told(store.renew(take.epoch, 0).await));
    std::fs::rename(&away, &file).unwrap();
    store.renew(take.epoch, 0).await.unwrap();
}

/// A row of `server` that somebody spoilt is told as that, and is no store that is away.
#[tokio::test]
async fn a_spoilt_row_of_the_server_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let store = SqlStore::open(&SqlOptions::new(&url)).unwrap();
    store.migrate().await.unwrap();
    let by_hand = sqlx::SqlitePool::connect(&url).await.unwrap();
    for (edit, word) in [
        ("UPDATE server SET epoch = -1", "column 4 is -1"),
        ("UPDATE server SET epoch = 0, shards = 70000", "column 3 is 70000"),
        ("UPDATE server SET shards = 1, server_id = 'x'", "invalid digit"),
        ("DELETE FROM server", "is missing"),
    ] {
        sqlx::query(edit).execute(&by_hand).await.unwrap();
        let told = store.ownership().await.unwrap_err();
        let StoreError::Inconsistent(what) = &told else { panic!("{edit}: {told}") };
        assert!(what.contains(word) && what.contains("`server`"), "{edit}: {what}");
    }
}
