//! Tables that are not of one moment: a dump is loaded into a store in use, or somebody empties or replaces a table.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use hotstock_engine::ids::{Epoch, Lsn, RequestId, ServerId, SkuId, TakeId, WarehouseId};
use hotstock_engine::store::{
    FlushBatch, FlushPart, OrderFilter, Prune, Repair, Store, StoreError, StoredSku, SumsCursor, Take, Wanted,
};
use hotstock_engine::testing::store_suite::{
    TestShard, W1, W2, confirm, create, give_back, hash_at, order, release, reserve, restock, sku,
};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;
use sqlx::Connection as _;

/// Those that something is decided on, in the order of a dump.
const TABLES: [&str; 9] = [
    "holds",
    "order_lines",
    "order_requests",
    "order_serials",
    "orders",
    "stock",
    "stock_journal",
    "stock_requests",
    "watermarks",
];

/// A database that an operator has his hands in.
trait ByHand: Sync {
    fn run(&self, sql: &str) -> impl Future<Output = ()> + Send;
}

struct File(String);

impl ByHand for File {
    async fn run(&self, sql: &str) {
        let mut conn = sqlx::SqliteConnection::connect(&self.0).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }
}

impl ByHand for Arc<MariaDb> {
    async fn run(&self, sql: &str) {
        self.sql(&format!("USE hotstock; {sql}"));
    }
}

fn is_away<T: std::fmt::Debug>(what: &str, answer: Result<T, StoreError>) {
    match answer {
        Err(StoreError::Torn(_)) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// Nothing is read of it and nothing written to it.
async fn nothing_is_decided_on(store: &SqlStore, shard: &TestShard, at: &str) {
    let all = OrderFilter::default();
    let wanted = Wanted {
        skus: vec![sku("a")],
        orders: vec![order("new-1")],
        requests: vec![(sku("a"), RequestId::new("r-2").unwrap())],
    };
    is_away(at, store.ownership().await);
    is_away(at, store.load(&wanted).await);
    is_away(at, store.stock(&sku("a"), None).await);
    is_away(at, store.stock_page(None, 10).await);
    is_away(at, store.list(&all, None, 10).await);
    is_away(at, store.stock_journal(&sku("a"), &[], 10).await);
    is_away(at, store.order_numbers(None, 10).await);
    is_away(at, store.request_ids(None, 10).await);
    is_away(at, store.open_orders(None, 10).await);
    is_away(at, store.holds(None, 10).await);
    is_away(at, store.reserved_skus(None, 10).await);
    is_away(at, store.hot_skus(None, 10).await);
    is_away(at, store.books(None, 10).await);
    is_away(at, store.sums(&sku("a"), W1, &SumsCursor::default(), 10, 10).await);
    is_away(at, store.flush(shard.batch(10)).await);
    let (epoch, now) = (Epoch(1), shard.now);
    let prune =
        Prune { epoch, orders_before: Some(now), journal_before: Some(now), max: 10, ..Prune::default() };
    is_away(at, store.prune(&prune).await);
    let repair = Repair { epoch, sku_id: sku("a"), stocks: None, at: now };
    is_away(at, store.repair(&repair).await);
}

/// What is told page by page, so that a row that is nobody's would show.
async fn all_pages(store: &SqlStore) -> (Vec<String>, Vec<SkuId>, usize, usize) {
    let numbers = store.order_numbers(None, 1_000).await.unwrap();
    let skus = store.stock_page(None, 1_000).await.unwrap().rows;
    let skus = skus.iter().map(|sku| sku[0].sku_id.clone()).collect();
    let listed = store.list(&OrderFilter::default(), None, 1_000).await.unwrap().rows.len();
    let requests = store.request_ids(None, 1_000).await.unwrap().len();
    (numbers.iter().map(|(number, _)| number.to_string()).collect(), skus, listed, requests)
}

/// A store with one shard that epoch 1 took.
async fn taken(url: &str) -> SqlStore {
    let store = SqlStore::open(&SqlOptions::new(url)).unwrap();
    let (id, server, epoch) = (TakeId(1), ServerId(1), Epoch(1));
    let take = Take {
        id,
        server,
        shards: 1,
        after: Epoch::ZERO,
        epoch,
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.unwrap();
    store
}

async fn tables_of_other_moments(url: &str, hand: &impl ByHand) {
    let (store, mut shard) = (taken(url).await, TestShard::new(1));
    let sell = |shard: &mut TestShard, round: &str| {
        for n in 0..5 {
            shard.must(reserve(&format!("{round}-{n}"), &[("a", 1), ("b", 2)]));
            shard.must(confirm(&format!("{round}-{n}"), None));
        }
    };
    shard.must(create("a", W1, 100));
    shard.must(create("b", W1, 100));
    sell(&mut shard, "old");
    shard.must(restock("a", 5, "r-1"));
    shard.flush_all(&store).await;
    let (then, old) = (shard.flushed, all_pages(&store).await);
    assert_eq!((old.0.len(), old.1.len(), old.2, old.3), (5, 2, 5, 1));
    for table in TABLES {
        hand.run(&format!("CREATE TABLE old_{table} AS SELECT * FROM {table}")).await;
    }
    sell(&mut shard, "new");
    shard.must(restock("a", 5, "r-2"));
    let lost = shard.events.clone();
    shard.flush_all(&store).await;
    let new = all_pages(&store).await;
    for table in TABLES {
        hand.run(&format!("CREATE TABLE new_{table} AS SELECT * FROM {table}")).await;
    }
    shard.must(restock("b", 5, "r-3"));

    // One table at a time is emptied, of another time, and itself again.
    let by_name = Wanted { skus: vec![sku("a")], ..Wanted::default() };
    for table in TABLES {
        let of_skus = matches!(table, "stock" | "stock_journal" | "watermarks");
        for (what, then) in [
            ("was emptied", format!("DELETE FROM {table}")),
            ("is older", format!("INSERT INTO {table} SELECT * FROM old_{table}")),
        ] {
            hand.run(&then).await;
            nothing_is_decided_on(&store, &shard, &format!("{table} {what}")).await;
            // A load of SKUs alone reads these tables and no others.
            match store.load(&by_name).await {
                Ok(loaded) => assert!(!of_skus && loaded.skus.len() == 1, "{table} {what}: {loaded:?}"),
                away => is_away(table, away),
            }
        }
        hand.run(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM new_{table}")).await;
        assert_eq!(all_pages(&store).await, new, "{table} is itself again");
    }
    // All of them one after the other, as a dump is loaded.
    for (n, table) in TABLES.into_iter().enumerate() {
        hand.run(&format!("DELETE FROM {table}")).await;
        nothing_is_decided_on(&store, &shard, table).await;
        hand.run(&format!("INSERT INTO {table} SELECT * FROM old_{table}")).await;
        if n + 1 < TABLES.len() {
            nothing_is_decided_on(&store, &shard, table).await;
        }
    }
    // It is of one moment again, and says of which.
    assert_eq!(store.ownership().await.unwrap().watermarks[0].lsn, then);
    assert_eq!(all_pages(&store).await, old);
    assert_eq!(store.flush(shard.batch(10)).await.unwrap().flushed(shard.shard), then, "nothing was written");
    let last = lost.last().unwrap().0;
    let epoch = Epoch(1);
    let part = FlushPart { shard: shard.shard, after: then, hash: hash_at(last), events: &lost };
    let again = FlushBatch { epoch, parts: vec![part] };
    assert_eq!(store.flush(again).await.unwrap().flushed(shard.shard), last);
    shard.flush_all(&store).await;
    assert_eq!(all_pages(&store).await.0, new.0);
    assert_eq!(store.ownership().await.unwrap().watermarks[0].lsn, Lsn(last.0 + 1));
    assert_eq!(store.anomalies(9).await.unwrap().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_other_moments_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    tables_of_other_moments(&url, &File(url.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_other_moments_on_mariadb() {
    let server = Arc::new(MariaDb::start());
    let url = server.url("hotstock");
    tables_of_other_moments(&url, &server).await;
}

/// Guards are made again where nothing but guards is gone, and not where a table was emptied, lost a row, or is of
/// another moment without saying so.
async fn guards_that_were_deleted(url: &str, hand: &impl ByHand) {
    let (store, mut shard) = (taken(url).await, TestShard::new(1));
    let sell = |shard: &mut TestShard, round: &str| {
        for n in 0..5 {
            shard.must(reserve(&format!("{round}-{n}"), &[("a", 1), ("b", 2)]));
        }
        shard.must(confirm(&format!("{round}-0"), None));
        shard.must(release(&format!("{round}-1"), None));
        shard.must(give_back(&format!("{round}-0"), &[("b", 1)], "back"));
        shard.must(restock("a", 5, round));
    };
    shard.must(create("a", W1, 100));
    shard.must(create("b", W1, 100));
    sell(&mut shard, "old");
    // Released before it was reserved: an order without lines.
    shard.must(release("never", None));
    shard.flush_all(&store).await;
    for table in TABLES {
        hand.run(&format!("CREATE TABLE old_{table} AS SELECT * FROM {table}")).await;
    }
    sell(&mut shard, "new");
    shard.must(confirm("old-3", None));
    shard.must(release("old-4", None));
    shard.flush_all(&store).await;
    for table in TABLES {
        hand.run(&format!("CREATE TABLE new_{table} AS SELECT * FROM {table}")).await;
    }
    assert_eq!(store.make_guards(shard.now).await.unwrap(), [""; 0], "none is missing");
    let new = all_pages(&store).await;
    let key = |table: &str| if table.starts_with("stock") { "sku_id" } else { "order_no" };
    let unguarded = |table: &str| format!("DELETE FROM {table} WHERE {} >= X'FF'", key(table));
    for table in TABLES.into_iter().filter(|table| *table != "watermarks") {
        hand.run(&unguarded(table)).await;
        let Err(StoreError::Torn(why)) = store.ownership().await else { panic!("{table}") };
        assert!(why.contains(&format!("`{table}` has no guard")) && why.contains("--make-guards"), "{why}");
        assert_eq!(store.make_guards(shard.now).await.unwrap(), [table]);
        assert_eq!(all_pages(&store).await, new, "{table}");
    }
    assert_eq!(store.anomalies(1).await.unwrap().0, 8, "it stands there who had them made");
    shard.must(restock("b", 1, "r-9"));
    shard.flush_all(&store).await;
    for table in TABLES {
        hand.run(&format!("DROP TABLE new_{table}; CREATE TABLE new_{table} AS SELECT * FROM {table}")).await;
    }

    // To be flushed.
    shard.must(restock("b", 1, "r-10"));

    // Of the first two no other table tells; nothing is in `holds`.
    let silent = ["order_requests", "order_serials", "holds"];
    for table in TABLES {
        let back = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM new_{table}");
        let (of_key, guards) = (key(table), unguarded(table));
        let some = match table {
            "stock" | "stock_journal" => "sku_id = 'b'",
            "stock_requests" => "request_id = 'old'",
            _ => "order_no = 'new-2'",
        };
        for (what, then) in [
            ("was emptied", format!("DELETE FROM {table}")),
            ("lost a row", format!("DELETE FROM {table} WHERE {some}; {guards}")),
            (
                "is older",
                format!(
                    "DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old_{table} WHERE {of_key} < X'FF'"
                ),
            ),
            (
                "is older and says so",
                format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old_{table}"),
            ),
        ] {
            let says_so = what.ends_with("says so");
            if silent.contains(&table) && !says_so
                || table == "watermarks" && !says_so && what != "was emptied"
            {
                continue;
            }
            hand.run(&then).await;
            is_away(&format!("{table} {what}"), store.make_guards(shard.now).await.map(|made| (what, made)));
            nothing_is_decided_on(&store, &shard, &format!("{table} {what}, and no guard was made")).await;
            hand.run(&back).await;
            store.ownership().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_that_were_deleted_are_made_again_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    guards_that_were_deleted(&url, &File(url.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_that_were_deleted_are_made_again_on_mariadb() {
    let server = Arc::new(MariaDb::start());
    guards_that_were_deleted(&server.url("hotstock"), &server).await;
}

/// Somebody wrote another version into the row of a stock: nothing is decided on it, and others load beside it.
async fn a_version_that_was_edited(url: &str, hand: &impl ByHand) {
    let (store, mut shard) = (taken(url).await, TestShard::new(1));
    shard.must(create("a", W1, 100));
    shard.must(create("b", W1, 100));
    shard.must(restock("b", 5, "r-1"));
    shard.flush_all(&store).await;
    let wanted = Wanted { skus: vec![sku("a"), sku("b")], ..Wanted::default() };
    for version in [0, 1, 3, i64::MAX] {
        hand.run(&format!("UPDATE stock SET version = {version} WHERE sku_id = 'b'")).await;
        let skus = store.load(&wanted).await.unwrap().skus;
        assert!(matches!(skus[&sku("a")], StoredSku::Sound(_)), "{version}: {skus:?}");
        let StoredSku::Unsound(why) = &skus[&sku("b")] else { panic!("version {version}: {skus:?}") };
        assert!(why.contains("journal"), "{why}");
    }
    hand.run("UPDATE stock SET version = 2 WHERE sku_id = 'b'").await;
    let skus = store.load(&wanted).await.unwrap().skus;
    assert!(matches!(skus[&sku("b")], StoredSku::Sound(_)), "it was put right: {skus:?}");
    // Set back to what it was, with the row of the journal after that deleted: there are later ones.
    shard.must(restock("b", 5, "r-2"));
    shard.must(restock("b", 5, "r-3"));
    shard.flush_all(&store).await;
    hand.run("UPDATE stock SET version = 2, available = 105, supplied = 105 WHERE sku_id = 'b'").await;
    hand.run("DELETE FROM stock_journal WHERE sku_id = 'b' AND version = 3").await;
    let skus = store.load(&wanted).await.unwrap().skus;
    assert!(matches!(skus[&sku("b")], StoredSku::Unsound(_)), "its journal goes on: {skus:?}");
}

/// Somebody deleted the row of one warehouse of several: it is not one that never was, to be created once more.
async fn a_warehouse_whose_row_was_deleted(url: &str, hand: &impl ByHand) {
    let (store, mut shard) = (taken(url).await, TestShard::new(1));
    for warehouse in [W1, W2, WarehouseId(9)] {
        shard.must(create("a", warehouse, 100));
        shard.must(create("b", warehouse, 100));
    }
    shard.flush_all(&store).await;
    let wanted = Wanted { skus: vec![sku("a"), sku("b")], ..Wanted::default() };
    hand.run("CREATE TABLE kept AS SELECT * FROM stock WHERE sku_id = 'b'").await;
    for warehouse in [1, 2, 9] {
        hand.run(&format!("DELETE FROM stock WHERE sku_id = 'b' AND warehouse_id = {warehouse}")).await;
        let skus = store.load(&wanted).await.unwrap().skus;
        let StoredSku::Sound(stocks) = &skus[&sku("a")] else { panic!("{skus:?}") };
        assert_eq!(stocks.iter().map(|stock| stock.warehouse_id.0).collect::<Vec<_>>(), [1, 2, 9]);
        let StoredSku::Unsound(why) = &skus[&sku("b")] else { panic!("{warehouse}: {skus:?}") };
        assert!(why.contains(&format!("warehouse {warehouse} has a journal")), "{why}");
        hand.run(&format!("INSERT INTO stock SELECT * FROM kept WHERE warehouse_id = {warehouse}")).await;
    }
    let skus = store.load(&wanted).await.unwrap().skus;
    assert!(matches!(skus[&sku("b")], StoredSku::Sound(_)), "{skus:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_rows_that_were_edited_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name| format!("sqlite:{}", dir.path().join(name).display());
    a_version_that_was_edited(&url("one.db"), &File(url("one.db"))).await;
    a_warehouse_whose_row_was_deleted(&url("two.db"), &File(url("two.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_rows_that_were_edited_on_mariadb() {
    let server = Arc::new(MariaDb::start());
    a_version_that_was_edited(&server.url("hotstock"), &server).await;
    server.sql("DROP DATABASE hotstock");
    a_warehouse_whose_row_was_deleted(&server.url("hotstock"), &server).await;
}

/// A row whose keys are right and whose other columns are not, in the tables that are for people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_for_people_leave_out_what_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let (store, hand) = (SqlStore::open(&SqlOptions::new(&url)).unwrap(), File(url.clone()));
    store.migrate().await.unwrap();
    hand.run("INSERT INTO parked VALUES ('k', 'x', X'FF00'), ('', 1, 'of nobody'), ('l', 1, 'fine')").await;
    let (count, parked) = store.parked(9).await.unwrap();
    assert_eq!((count, parked.len(), parked[0].sku_id.as_str(), parked[0].at.0), (2, 2, "k", 0));
    assert_eq!(parked[1].reason, "fine");
    hand.run("INSERT INTO anomalies (at, kind, shard, lsn, sku_id, detail) VALUES (-1, 'k', 70000, 'x', '', 'fine')").await;
    let (count, anomalies) = store.anomalies(9).await.unwrap();
    assert_eq!((count, anomalies[0].kind.as_str(), anomalies[0].detail.as_str()), (1, "k", "fine"));
}

/// Somebody deleted the rows of a SKU: it is not one that never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sku_whose_rows_were_deleted_is_unsound() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store.db").display());
    let (store, hand, mut shard) = (taken(&url).await, File(url.clone()), TestShard::new(1));
    shard.must(create("a", W1, 100));
    shard.must(restock("a", 5, "r-1"));
    shard.flush_all(&store).await;
    hand.run("DELETE FROM stock WHERE sku_id = 'a'").await;
    let by_name = Wanted { skus: vec![sku("a"), sku("none")], ..Wanted::default() };
    let by_request =
        Wanted { requests: vec![(sku("a"), RequestId::new("r-1").unwrap())], ..Wanted::default() };
    for wanted in [by_name, by_request] {
        let loaded = store.load(&wanted).await.unwrap();
        let StoredSku::Unsound(problem) = &loaded.skus[&sku("a")] else { panic!("{loaded:?}") };
        assert!(problem.contains("no row of its stock") && loaded.skus.len() == 1, "{problem}");
    }
}
