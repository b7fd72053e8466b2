//! Reconcile over the real store, with rows that somebody broke while the engine runs: what it tells, and what it
//! puts right.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, StockStatus};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, WarehouseId};
use hotstock_engine::mirror::{Mirror, Put};
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::{Check, Difference, Reconcile, Reconciled, Remedy, Side};
use hotstock_engine::store::{OrderFilter, Store};
use hotstock_engine::testing::store_suite::{
    W1, W2, confirm, create, give_back, release, reserve, restock, set_status, sku,
};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal,
};
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::{MariaDb, RedisServer};
use sqlx::Connection;

/// A running engine, its store, perhaps a mirror.
struct Server {
    url: String,
    engine: Engine,
    redis: Option<RedisServer>,
}

impl Server {
    /// With two stored SKUs and a resident one, each with orders of every kind that it can have.
    async fn new(url: String) -> Self {
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
    async fn trade(&self, name: &str, prefix: &str) {
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

    async fn must(&self, action: Action) {
        self.engine.submit(action.into()).await.unwrap();
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..1_000 {
            if is_so(self) {
                return;
            }
            // Evictions wait for a turn of the shard, which comes with the next command or tick.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in time: {what}");
    }

    async fn flushed(&self) {
        let durable = self.engine.stats().shards[0].durable;
        self.until("flushed", |server| server.engine.stats().shards[0].flushed >= durable).await;
    }

    /// What somebody does with a database client.
    async fn tamper(&self, sql: &str) {
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

    async fn reconcile(&self, fix: bool) -> Reconciled {
        let mirror = self.redis.as_ref().map(|redis| -> Arc<dyn Mirror> { Arc::new(access(redis)) });
        self.engine.reconcile(Reconcile { after: None, limit: 100, fix, mirror }).await.unwrap()
    }

    /// The one difference that is told; twice, because telling changes nothing.
    async fn only(&self) -> Difference {
        let found = self.reconcile(false).await;
        assert_eq!(found.differences.len(), 1, "{:#?}", found.differences);
        assert!(found.repaired.is_empty());
        assert_eq!(self.reconcile(false).await, found);
        found.differences.into_iter().next().unwrap()
    }

    async fn is_right(&self) {
        let found = self.reconcile(false).await;
        assert_eq!((found.skus, &found.differences[..]), (3, &[][..]));
        assert!(found.unsettled.is_empty() && found.next.is_none() && found.mirror_error.is_none());
    }

    /// `fix` finds it as `only` did, and puts it right.
    async fn is_fixed(&self) {
        let before = self.only().await;
        let fixed = self.reconcile(true).await;
        assert_eq!(fixed.differences, [before]);
        assert_eq!(fixed.repaired.len(), 1, "{:#?}", fixed.repaired);
        self.is_right().await;
    }

    /// `fix` finds it as `only` did, and does nothing about it.
    async fn is_not_fixed(&self) {
        let before = self.only().await;
        let fixed = self.reconcile(true).await;
        assert_eq!((&fixed.differences[..], fixed.repaired.len()), (&[before.clone()][..], 0));
        assert_eq!(self.only().await, before);
    }
}

fn access(redis: &RedisServer) -> MirrorAccess {
    MirrorAccess::new(MirrorOptions { redis_url: redis.url(), ..MirrorOptions::default() }).unwrap()
}

fn names(difference: &Difference) -> (&str, WarehouseId, Check, Remedy) {
    (difference.sku_id.as_str(), difference.warehouse_id, difference.check, difference.remedy)
}

const COLUMNS: [(&str, &str); 8] = [
    ("available = 1000", "available 1000"),
    ("reserved = 77", "reserved 77"),
    ("sold = 50", "sold 50"),
    ("version = 99", "version 99"),
    ("supplied = 1", "supplied 1"),
    ("initial = 1", "initial 1"),
    ("status = 'suspended'", "suspended"),
    ("numbered = 4", "4 serial numbers"),
];

async fn every_column_of_a_stored_sku_is_put_right_by_its_journal(server: &Server) {
    server.is_right().await;
    for (set, found) in COLUMNS {
        server.tamper(&format!("UPDATE stock SET {set} WHERE sku_id = 'cold' AND warehouse_id = 1")).await;
        let told = server.only().await;
        assert_eq!(names(&told), ("cold", W1, Check::Row, Remedy::RowFromJournal));
        assert_eq!((told.expected.0, told.found), (Side::Journal, (Side::Row, found.to_owned())));
        server.is_fixed().await;
    }
    server.must(reserve("c-9", &[("cold", 1)])).await;
    server.flushed().await;
    server.is_right().await;
}

async fn every_column_of_a_resident_sku_is_put_right_by_its_shard(server: &Server) {
    for (set, found) in COLUMNS.into_iter().chain([("hot = 1", "hot")]) {
        server.tamper(&format!("UPDATE stock SET {set} WHERE sku_id = 'hot' AND warehouse_id = 1")).await;
        let told = server.only().await;
        assert_eq!(names(&told), ("hot", W1, Check::Row, Remedy::RowFromShard));
        assert_eq!((told.expected.0, told.found), (Side::Shard, (Side::Row, found.to_owned())));
        server.is_fixed().await;
    }
    server.tamper("DELETE FROM stock WHERE sku_id = 'hot' AND warehouse_id = 2").await;
    assert_eq!(server.only().await.found.1, "missing");
    server.is_fixed().await;
    server.must(reserve("h-10", &[("hot", 1)])).await;
    server.flushed().await;
    server.is_right().await;
    let (_, anomalies) = server.engine.anomalies(100).await.unwrap();
    assert!(
        anomalies.iter().all(|anomaly| anomaly.kind == "repaired"),
        "the flush goes on as if nothing had been"
    );
}

/// A write from outside under a running sale: the SKU is parked, orders go on, and so does the flush after the repair.
async fn a_parked_sku_is_flushed_again(server: &Server) {
    server
        .tamper("UPDATE stock SET available = available + 5 WHERE sku_id = 'hot' AND warehouse_id = 1")
        .await;
    server.must(reserve("h-10", &[("hot", 1)])).await;
    server.flushed().await;
    let told = server.only().await;
    assert_eq!(names(&told), ("hot", W1, Check::Row, Remedy::RowFromShard));
    assert!(told.causes.iter().any(|cause| cause.starts_with("it is parked")), "{told:?}");
    server.must(confirm("h-10", None)).await;
    let fixed = server.reconcile(true).await;
    assert_eq!(fixed.repaired.len(), 1, "{fixed:?}");
    server.flushed().await;
    server.is_right().await;
    assert_eq!(server.engine.parked(10).await.unwrap().0, 0);
    server.must(reserve("h-11", &[("hot", 1)])).await;
    server.flushed().await;
    server.is_right().await;
}

/// A write from outside to a SKU that is not in memory: it is not loaded before it is put right.
async fn a_stored_sku_is_loaded_after_its_repair(server: &Server) {
    server
        .tamper("UPDATE stock SET available = available + 5 WHERE sku_id = 'cold' AND warehouse_id = 1")
        .await;
    let refused = server.engine.submit(reserve("c-9", &[("cold", 1)]).into()).await;
    assert!(matches!(refused, Err(Refusal::StockInconsistent { .. })), "{refused:?}");
    server.flushed().await;
    let fixed = server.reconcile(true).await;
    assert_eq!(
        fixed.differences.iter().map(names).collect::<Vec<_>>(),
        [("cold", W1, Check::Row, Remedy::RowFromJournal)]
    );
    server.must(reserve("c-9", &[("cold", 1)])).await;
    server.flushed().await;
    server.is_right().await;
}

async fn a_journal_without_a_row_repairs_nothing(server: &Server) {
    server.tamper("DELETE FROM stock_journal WHERE sku_id = 'cold' AND warehouse_id = 2").await;
    assert_eq!(names(&server.only().await), ("cold", W2, Check::Row, Remedy::ByHand));
    server.is_not_fixed().await;
}

async fn a_journal_says_where_it_breaks(server: &Server) {
    server
        .tamper("DELETE FROM stock_journal WHERE sku_id = 'hot' AND warehouse_id = 1 AND version = 3")
        .await;
    let told = server.only().await;
    assert_eq!(names(&told), ("hot", W1, Check::Journal, Remedy::ByHand));
    assert_eq!((told.expected.1.as_str(), told.found.1.as_str()), ("version 3", "version 4"));
    server.is_not_fixed().await;
}

async fn a_journal_says_where_it_does_not_add_up(server: &Server) {
    server.tamper("UPDATE stock_journal SET available = 104 WHERE sku_id = 'cold' AND warehouse_id = 1 AND version = 2").await;
    let told = server.only().await;
    assert_eq!(names(&told), ("cold", W1, Check::Journal, Remedy::ByHand));
    assert_eq!(told.expected.1, "available 105, reserved 0, sold 0, version 2");
    assert_eq!(told.found.1, "available 104, reserved 0, sold 0, version 2");
    server.is_not_fixed().await;
}

async fn the_end_of_a_journal_is_compared_with_the_shard(server: &Server) {
    server.tamper("UPDATE stock_journal SET d_available = 51, available = 51 WHERE sku_id = 'hot' AND warehouse_id = 2").await;
    let told = server.only().await;
    assert_eq!((names(&told), told.expected.0), (("hot", W2, Check::Journal, Remedy::ByHand), Side::Shard));
    server.is_not_fixed().await;
}

async fn the_order_behind_it_is_named(server: &Server) {
    server.tamper("UPDATE order_lines SET held = 4 WHERE order_no = 'h-8'").await;
    let told = server.only().await;
    assert_eq!(names(&told), ("hot", W1, Check::Held, Remedy::ByHand));
    assert_eq!(told.expected, (Side::Journal, "10 units".to_owned()));
    assert_eq!(told.found, (Side::Orders, "9 units".to_owned()));
    assert!(
        told.causes[0].starts_with("order h-8 holds 4 units in its line and 5 by the journal"),
        "{told:?}"
    );
    assert_eq!(told.causes.len(), 1);
    server.is_not_fixed().await;
    server.tamper("UPDATE order_lines SET held = 5 WHERE order_no = 'h-8'").await;
    server.is_right().await;

    server.tamper("DELETE FROM order_lines WHERE order_no = 'c-3'").await;
    let told = server.only().await;
    assert_eq!(names(&told), ("cold", W1, Check::Sold, Remedy::ByHand));
    assert!(
        told.causes[0].starts_with("order c-3 has sold 4 units by the journal and has no line"),
        "{told:?}"
    );
}

/// A row of an order or of a request that somebody deleted makes no number free, and is named.
async fn an_order_or_a_request_that_was_deleted_is_named(server: &Server) {
    server.tamper("DELETE FROM orders WHERE order_no = 'c-3'").await;
    let told = server.only().await;
    assert_eq!(names(&told), ("cold", W1, Check::Orders, Remedy::ByHand));
    assert_eq!(told.found, (Side::Orders, "1 do not".to_owned()));
    assert!(told.causes[0].starts_with("order c-3 has no row, though it was not pruned"), "{told:?}");
    let order = OrderNo::new("c-3").unwrap();
    for action in [Action::GetOrder(order.clone()), reserve("c-3", &[("other", 1)]), confirm("c-3", None)] {
        let refused = server.engine.submit(action.into()).await;
        let is_told =
            matches!(&refused, Err(Refusal::OrderInconsistent { order_no, .. }) if *order_no == order);
        assert!(is_told, "{refused:?}");
    }
    server.is_not_fixed().await;
    // With its lines nothing tells of it but the journal.
    server.tamper("DELETE FROM order_lines WHERE order_no = 'c-4'").await;
    server.tamper("DELETE FROM orders WHERE order_no = 'c-4'").await;
    let told = server.only().await;
    assert_eq!(told.found.1, "2 do not");
    assert!(told.causes[1].starts_with("order c-4 has no row"), "{told:?}");

    server.tamper("DELETE FROM stock_requests WHERE sku_id = 'cold' AND request_id = 'r-1'").await;
    let told = server.only().await;
    assert_eq!(told.found.1, "3 do not");
    assert!(told.causes[2].starts_with("request r-1 has no row"), "{told:?}");
    let refused = server.engine.submit(restock("cold", 5, "r-1").into()).await;
    let is_told = |problem: &str| problem.contains("its request r-1: its row was deleted by hand");
    assert!(
        matches!(&refused, Err(Refusal::StockInconsistent { problem, .. }) if is_told(problem)),
        "{refused:?}"
    );
}

async fn an_order_of_the_wrong_shard_is_named(server: &Server) {
    server.tamper("UPDATE orders SET shard = 7 WHERE order_no = 'h-8'").await;
    let told = server.only().await;
    assert_eq!(names(&told), ("hot", W1, Check::Orders, Remedy::ByHand));
    let todo = "the row of order h-8 names shard 7: its column `shard` has to be set by hand to 0";
    assert_eq!(told.causes, [todo]);
    server.tamper("UPDATE orders SET shard = 0 WHERE order_no = 'h-8'").await;
    server.is_right().await;
}

/// Rows of stocks that are not in memory, one of several and all of them.
async fn stocks_that_were_deleted_are_found_by_their_journal(server: &Server) {
    for warehouse in [W1, W2] {
        let delete = format!("DELETE FROM stock WHERE sku_id = 'cold' AND warehouse_id = {warehouse}");
        server.tamper(&delete).await;
        let told = server.only().await;
        assert_eq!(names(&told), ("cold", warehouse, Check::Row, Remedy::RowFromJournal));
        assert_eq!((told.expected.0, told.found.1.as_str()), (Side::Journal, "missing"));
        server.is_fixed().await;
    }
    for (name, warehouse) in [("cold", W1), ("cold", W2), ("other", W1)] {
        let delete = format!("DELETE FROM stock WHERE sku_id = '{name}' AND warehouse_id = {warehouse}");
        server.tamper(&delete).await;
    }
    let refused = server.engine.submit(reserve("c-9", &[("cold", 1)]).into()).await;
    assert!(matches!(refused, Err(Refusal::StockInconsistent { .. })), "{refused:?}");
    let (mut after, mut told) = (None, Vec::new());
    loop {
        let ask = Reconcile { after, limit: 1, ..Reconcile::default() };
        let found = server.engine.reconcile(ask).await.unwrap();
        told.extend(found.differences.iter().map(|one| (one.sku_id.to_string(), one.warehouse_id)));
        let Some(next) = found.next else { break };
        after = next.after;
    }
    assert_eq!(told, [("cold".to_owned(), W1), ("cold".to_owned(), W2), ("other".to_owned(), W1)]);
    assert_eq!(server.reconcile(true).await.repaired.len(), 3);
    server.is_right().await;
    server.must(reserve("c-9", &[("cold", 1)])).await;
    server.must(give_back("c-3", &[("cold", 1)], "again")).await;
    server.flushed().await;
    server.is_right().await;
}

async fn pages_go_through_all_skus(server: &Server) {
    server.must(create("later", W1, 3)).await;
    server.tamper("UPDATE stock SET available = 8, supplied = 8 WHERE sku_id = 'other'").await;
    let mut ask = Reconcile { limit: 1, ..Reconcile::default() };
    let mut pages = Vec::new();
    loop {
        let found = server.engine.reconcile(ask.clone()).await.unwrap();
        pages.push((found.skus, found.differences.len()));
        let Some(next) = found.next else { break };
        ask.after = next.after;
    }
    assert_eq!(pages.iter().map(|(_, differences)| differences).sum::<usize>(), 1, "{pages:?}");
    assert_eq!(pages.iter().map(|(skus, _)| skus).sum::<u64>(), 4, "{pages:?}");
}

/// Nothing is told of stocks that are right, however fast they change, are suspended, loaded and evicted meanwhile.
async fn orders_go_on_meanwhile(server: &Server) {
    let is_over = AtomicBool::new(false);
    let orders = async {
        let mut count = 0_u32;
        while !is_over.load(Ordering::SeqCst) {
            let name = ["hot", "cold", "other"][(count % 3) as usize];
            server.must(reserve(&format!("m-{count}"), &[(name, 1)])).await;
            if count.is_multiple_of(2) {
                server.must(confirm(&format!("m-{count}"), None)).await;
                server.must(give_back(&format!("m-{count}"), &[(name, 1)], "all")).await;
            } else {
                server.must(release(&format!("m-{count}"), None)).await;
            }
            if count.is_multiple_of(50) {
                server.must(set_status("cold", StockStatus::Suspended)).await;
                server.must(set_status("cold", StockStatus::OnSale)).await;
            }
            count += 1;
        }
        count
    };
    let looks = async {
        for _ in 0..40 {
            server.is_right().await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(orders, looks);
    assert!(count > 0);
    server.flushed().await;
    server.is_right().await;
}

/// A repair in the middle of a sale of the same SKU.
async fn a_row_is_put_right_under_load(server: &Server) {
    let is_over = AtomicBool::new(false);
    let orders = async {
        for count in 0_u32.. {
            server.must(reserve(&format!("m-{count}"), &[("hot", 1)])).await;
            server.must(release(&format!("m-{count}"), None)).await;
            if is_over.load(Ordering::SeqCst) {
                break;
            }
        }
    };
    let repairs = async {
        for _ in 0..4 {
            server
                .tamper(
                    "UPDATE stock SET available = available + 5 WHERE sku_id = 'hot' AND warehouse_id = 1",
                )
                .await;
            tokio::time::sleep(Duration::from_millis(15)).await;
            let mut repaired = 0;
            while repaired == 0 {
                repaired = server.reconcile(true).await.repaired.len();
            }
            server.is_right().await;
        }
        is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(orders, repairs);
    server.flushed().await;
    server.is_right().await;
    assert_eq!(server.engine.parked(10).await.unwrap().0, 0);
}

macro_rules! on_both {
    ($($name:ident)+) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&super::Server::new(format!("sqlite:{}", dir.path().join("store").display())).await).await;
            })+
        }

        mod on_mariadb {
            /// One server for all: it takes seconds to start.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn all() {
                let server = super::MariaDb::start();
                $(
                    println!("{}", stringify!($name));
                    super::$name(&super::Server::new(server.url(stringify!($name))).await).await;
                )+
            }
        }
    };
}

on_both! {
    every_column_of_a_stored_sku_is_put_right_by_its_journal
    every_column_of_a_resident_sku_is_put_right_by_its_shard
    a_parked_sku_is_flushed_again
    a_stored_sku_is_loaded_after_its_repair
    a_journal_without_a_row_repairs_nothing
    a_journal_says_where_it_breaks
    a_journal_says_where_it_does_not_add_up
    the_end_of_a_journal_is_compared_with_the_shard
    the_order_behind_it_is_named
    an_order_or_a_request_that_was_deleted_is_named
    an_order_of_the_wrong_shard_is_named
    stocks_that_were_deleted_are_found_by_their_journal
    pages_go_through_all_skus
    orders_go_on_meanwhile
    a_row_is_put_right_under_load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cant_be_read_stops_no_flush() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    let anomaly = async |kind: &str| {
        let (_, anomalies) = server.engine.anomalies(10).await.unwrap();
        assert!(anomalies.iter().any(|anomaly| anomaly.kind == kind), "{anomalies:?}");
    };
    server.tamper("UPDATE order_lines SET line = 1099511627776 WHERE order_no = 'h-8'").await;
    server.must(confirm("h-8", None)).await;
    server.must(reserve("h-10", &[("hot", 1)])).await;
    server.flushed().await;
    anomaly("order_missing").await;

    server.tamper("UPDATE stock SET available = 'x' WHERE sku_id = 'hot' AND warehouse_id = 1").await;
    server.must(reserve("h-11", &[("hot", 1)])).await;
    server.must(restock("other", 1, "r-2")).await;
    server.flushed().await;
    anomaly("stock_changed").await;
    assert_eq!(server.engine.parked(10).await.unwrap().0, 1);
    let rows = async || {
        let found = server.reconcile(true).await;
        found.differences.into_iter().filter(|difference| difference.check == Check::Row).count()
    };
    assert_eq!((rows().await, rows().await), (1, 0));
    assert_eq!(server.engine.parked(10).await.unwrap().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cant_be_read_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    server.tamper("UPDATE stock SET changed_at = -1 WHERE sku_id = 'cold' AND warehouse_id = 1").await;
    let names = async |limit| {
        let page = server.engine.stock_page(None, limit).await.unwrap();
        page.iter().map(|stocks| stocks[0].sku_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((names(1).await, names(9).await), (vec!["hot".into()], vec!["hot".into(), "other".into()]));
    let refused = server.engine.stock(&sku("cold"), None).await;
    assert!(matches!(refused, Err(Refusal::StockInconsistent { .. })), "{refused:?}");
    let some = [reserve("x", &[("cold", 1)]), reserve("y", &[("other", 1)])];
    let answers = server.engine.submit_batch(some.map(Into::into).to_vec()).await;
    assert!(matches!(answers[..], [Err(Refusal::StockInconsistent { .. }), Ok(_)]), "{answers:?}");
    server.flushed().await;
    server.is_fixed().await;

    let row = "WHERE sku_id = 'cold' AND warehouse_id = 1 AND version = 2";
    server.tamper(&format!("UPDATE stock_journal SET lsn = -lsn {row}")).await;
    let refused = server.engine.stock_journal(&sku("cold"), &[], 100).await;
    let told = "the row of its journal of warehouse 1, version 2, can't be read";
    assert!(
        matches!(&refused, Err(Refusal::StockInconsistent { problem, .. }) if problem.contains(told)),
        "{refused:?}"
    );
    server.engine.stock_journal(&sku("other"), &[], 100).await.unwrap();
    server.tamper(&format!("UPDATE stock_journal SET lsn = -lsn {row}")).await;
    server.engine.stock_journal(&sku("cold"), &[], 100).await.unwrap();

    server.tamper("UPDATE order_lines SET quantity = -1 WHERE order_no = 'c-3'").await;
    let order = OrderNo::new("c-3").unwrap();
    // Its number is not free.
    for action in [Action::GetOrder(order.clone()), reserve("c-3", &[("cold", 6)]), confirm("c-3", None)] {
        let refused = server.engine.submit(action.into()).await;
        assert!(
            matches!(&refused, Err(Refusal::OrderInconsistent { order_no, .. }) if *order_no == order),
            "{refused:?}"
        );
    }
    let page = server.engine.list_orders(&OrderFilter::default(), None, 1).await.unwrap();
    assert_eq!(page.orders[0].order_no.as_str(), "c-4");
    assert!(page.next.is_some());
    server.is_right().await;
}

/// Rows that can be read and make no sense together: the caller is not to blame, and asking again does not help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_whose_rows_do_not_fit_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    for (order_no, tampering) in [
        ("c-3", "UPDATE orders SET shard = 7 WHERE order_no = 'c-3'"),
        (
            "c-3",
            "UPDATE orders SET shard = 0, status = 'released', phase = 'released' WHERE order_no = 'c-3'",
        ),
        ("c-3", "DELETE FROM order_lines WHERE order_no = 'c-3'"),
        ("c-4", "DELETE FROM order_lines WHERE order_no = 'c-4'"),
    ] {
        server.tamper(tampering).await;
        let order = OrderNo::new(order_no).unwrap();
        let other = [("other", 1)];
        for action in
            [Action::GetOrder(order.clone()), reserve(order_no, &other), give_back(order_no, &other, "new")]
        {
            let refused = server.engine.submit(action.into()).await;
            let is_told =
                matches!(&refused, Err(Refusal::OrderInconsistent { order_no, .. }) if *order_no == order);
            assert!(is_told, "{tampering}: {refused:?}");
        }
    }
}

/// What no caller can give is no reason not to know the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_are_none_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let server = Server::new(url.clone()).await;
    let store = SqlStore::open(&SqlOptions::new(url)).unwrap();
    let read = async |max| {
        let (mut orders, mut ids) = (Vec::new(), Vec::new());
        loop {
            let page = store.order_numbers(orders.last(), max).await.unwrap();
            let end = page.is_empty();
            orders.extend(page.into_iter().map(|(order_no, _)| order_no));
            if end {
                break;
            }
        }
        loop {
            let page = store.request_ids(ids.last(), max).await.unwrap();
            let end = page.is_empty();
            ids.extend(page.into_iter().map(|(sku_id, request_id, _)| (sku_id, request_id)));
            if end {
                return (orders, ids);
            }
        }
    };
    let right = read(100).await;
    let rest = "shard, mode, phase, status, open, created_at, expires_at, changed_at, lsn";
    let columns = format!("order_no, {rest}");
    for name in ["char(1) || order_no", "x'ff' || order_no", "'b' || char(7) || order_no"] {
        server
            .tamper(&format!(
                "INSERT INTO orders ({columns}) SELECT {name}, {rest} FROM orders WHERE order_no = 'c-3'"
            ))
            .await;
    }
    server.tamper("UPDATE orders SET changed_at = 'x', shard = -1 WHERE order_no = 'c-4'").await;
    for max in [1, 2, 3, 100] {
        assert_eq!(read(max).await, right, "pages of {max}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_put_right_as_callers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    server.redis = Some(RedisServer::start());
    let redis = access(server.redis.as_ref().unwrap());
    let put = async |name: &str, warehouse_id, change: fn(&mut hotstock_engine::units::Levels)| {
        let mut stock = server.engine.stock(&sku(name), Some(warehouse_id)).await.unwrap().remove(0);
        change(&mut stock.levels);
        redis.put(&[Put { stock, over: None }]).await.unwrap();
    };
    put("cold", W1, |levels| levels.available += 1).await;
    put("cold", W2, |levels| (levels.version, levels.sold) = (900, 3)).await;
    put("hot", W1, |levels| levels.version -= 1).await;
    put("hot", W2, |levels| (levels.version, levels.sold) = (900, 3)).await;
    let found = server.reconcile(false).await;
    let told = |found: &Reconciled| -> Vec<(String, u32, Check, Side, Remedy)> {
        let one = |d: &Difference| (d.sku_id.to_string(), d.warehouse_id.0, d.check, d.expected.0, d.remedy);
        found.differences.iter().map(one).collect()
    };
    let mirror = |name: &str, warehouse, side| {
        (name.to_owned(), warehouse, Check::Mirror, side, Remedy::MirrorFromStock)
    };
    let expected = [
        mirror("cold", 1, Side::Row),
        mirror("cold", 2, Side::Row),
        mirror("hot", 1, Side::Shard),
        mirror("hot", 2, Side::Shard),
        mirror("other", 1, Side::Row),
    ];
    assert_eq!(told(&found), expected);
    assert_eq!(found.differences[4].found, (Side::Mirror, "missing".to_owned()));
    let fixed = server.reconcile(true).await;
    assert_eq!((fixed.differences, fixed.repaired.len()), (found.differences, 5));
    server.is_right().await;

    // A row that is wrong, and the mirror with it: the row is put right first, the mirror then as it is.
    server.tamper("UPDATE stock SET available = 1000 WHERE sku_id = 'cold' AND warehouse_id = 1").await;
    put("cold", W1, |_| {}).await;
    assert_eq!(server.only().await.check, Check::Row);
    let fixed = server.reconcile(true).await;
    assert_eq!(fixed.repaired.iter().map(|r| r.side).collect::<Vec<_>>(), [Side::Row, Side::Mirror]);
    server.is_right().await;

    server.redis.as_mut().unwrap().kill();
    let found = server.reconcile(false).await;
    assert!(found.mirror_error.is_some() && found.differences.is_empty(), "{found:?}");
}
