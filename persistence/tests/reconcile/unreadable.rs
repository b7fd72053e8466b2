//! Rows that can't be read, or make no sense together.

use hotstock_engine::command::Action;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::Check;
use hotstock_engine::store::{OrderFilter, Store};
use hotstock_engine::testing::store_suite::{confirm, give_back, reserve, restock, sku};
use hotstock_persistence::sql::{SqlOptions, SqlStore};

use super::fixture::Server;

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
