//! Reconcile over the real store, with rows that somebody broke while the engine runs: what it tells, and what it
//! puts right.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;
mod unreadable;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, StockStatus};
use hotstock_engine::ids::OrderNo;
use hotstock_engine::mirror::{Mirror, Put};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::{Check, Difference, Reconcile, Reconciled, Remedy, Side};
use hotstock_engine::testing::store_suite::{
    W1, W2, confirm, create, give_back, release, reserve, restock, set_status, sku,
};
use hotstock_persistence::testing::{MariaDb, RedisServer};

use fixture::{Server, access, names};

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
                super::$name(&super::fixture::Server::new(format!("sqlite:{}", dir.path().join("store").display())).await).await;
            })+
        }

        mod on_mariadb {
            /// One server for all: it takes seconds to start.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn all() {
                let server = super::MariaDb::start();
                $(
                    println!("{}", stringify!($name));
                    super::$name(&super::fixture::Server::new(server.url(stringify!($name))).await).await;
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
