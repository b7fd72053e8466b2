//! The list of orders: what is flushed and what is not, page by page, while orders go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hotstock_engine::engine::Engine;
use hotstock_engine::limits::MAX_LIST_LOOKS;
use hotstock_engine::outcome::{OrderStatus, OrderView};
use hotstock_engine::reconcile::Reconcile;
use hotstock_engine::store::OrderFilter;

use crate::house::{House, demote, flushed, order, promote};
use crate::support::{confirm, create, get, lines, order_no, release, reserve, reserve_lines, sku};

async fn list(engine: &Engine, filter: &OrderFilter, limit: usize) -> Vec<OrderView> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = engine.list_orders(filter, after.as_ref(), limit).await.unwrap();
        assert!(page.orders.len() <= limit);
        let behind = |order: &OrderView| after.as_ref().is_none_or(|after| order.order_no > *after);
        assert!(page.orders.iter().all(behind));
        all.extend(page.orders);
        assert!(all.is_sorted_by(|a: &OrderView, b| a.order_no < b.order_no));
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn of(status: &[OrderStatus], name: Option<&str>) -> OrderFilter {
    OrderFilter { status: status.to_vec(), sku_id: name.map(sku) }
}

fn numbers(orders: &[OrderView]) -> Vec<&str> {
    orders.iter().map(|order| order.order_no.as_str()).collect()
}

/// Rows that are old, rows that are not there, and rows that are right.
#[tokio::test]
async fn what_is_not_flushed_is_listed_as_it_is() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(crate::house::options(4), &session).await;
    for name in ["hot", "warm", "cold"] {
        engine.submit(create(name, 100)).await.unwrap();
    }
    for name in ["hot", "warm"] {
        promote(&engine, name).await.unwrap();
    }
    engine.submit(reserve("a", "hot", 1)).await.unwrap();
    engine.submit(reserve("b", "warm", 1)).await.unwrap();
    engine.submit(reserve("c", "cold", 1)).await.unwrap();
    flushed(&engine).await;
    session.hold_flushes();
    engine.submit(confirm("a")).await.unwrap();
    engine.submit(reserve("d", "hot", 1)).await.unwrap();
    engine.submit(confirm("c")).await.unwrap();
    engine.submit(release("e")).await.unwrap();

    let all = list(&engine, &OrderFilter::default(), 2).await;
    assert_eq!(numbers(&all), ["a", "b", "c", "d", "e"]);
    for listed in &all {
        let read = order(engine.submit(get(listed.order_no.as_str())).await);
        assert_eq!(*listed, read);
    }
    for (filter, expected) in [
        (of(&[OrderStatus::Reserved], None), &["b", "d"][..]),
        (of(&[OrderStatus::Confirmed], None), &["a", "c"]),
        (of(&[OrderStatus::Confirmed, OrderStatus::Cancelled], None), &["a", "c", "e"]),
        (of(&[OrderStatus::Expired], None), &[]),
        (of(&[], Some("hot")), &["a", "d"]),
        (of(&[OrderStatus::Reserved], Some("hot")), &["d"]),
    ] {
        for limit in [1, 2, 9] {
            assert_eq!(numbers(&list(&engine, &filter, limit).await), expected, "{filter:?} by {limit}");
        }
    }
    session.let_flushes_go();
    flushed(&engine).await;
    assert_eq!(list(&engine, &OrderFilter::default(), 3).await, all, "flushed, it is the same");
    engine.stop().await;
    // After a start the follower has not asked the store how far it is; the list does.
    let engine = house.start(4).await;
    assert_eq!(list(&engine, &OrderFilter::default(), 3).await, all);
    session.cut();
    engine.stop().await;
}

/// More orders wait for the flush than one page asks for.
#[tokio::test]
async fn pages_end_where_they_would_ask_for_too_many() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(crate::house::options(2), &session).await;
    engine.submit(create("hot", 10_000)).await.unwrap();
    promote(&engine, "hot").await.unwrap();
    flushed(&engine).await;
    session.hold_flushes();
    let count = 2 * MAX_LIST_LOOKS + 7;
    let expected: Vec<String> = (0..count).map(|n| format!("{n:06}")).collect();
    let orders = expected.iter().map(|number| reserve(number, "hot", 1)).collect();
    assert!(engine.submit_batch(orders).await.iter().all(Result::is_ok));
    engine.submit(confirm("004000")).await.unwrap();
    let first = engine.list_orders(&of(&[OrderStatus::Confirmed], None), None, 10).await.unwrap();
    assert_eq!((first.orders.len(), first.next), (0, Some(order_no(&expected[MAX_LIST_LOOKS - 1]))));
    assert_eq!(numbers(&list(&engine, &of(&[OrderStatus::Confirmed], None), 10).await), ["004000"]);
    assert_eq!(numbers(&list(&engine, &OrderFilter::default(), 900).await), expected);
    session.let_flushes_go();
    engine.stop().await;
}

/// Orders change, and SKUs move, while pages are read: what is there all the time is in exactly one page, and as it was at some moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pages_are_complete_while_orders_go_on() {
    let house = Arc::new(House::new());
    let engine = house.start(3).await;
    for name in ["hot", "cold", "moving"] {
        engine.submit(create(name, 100_000)).await.unwrap();
    }
    promote(&engine, "hot").await.unwrap();
    let names = ["hot", "cold", "moving"];
    let standing: Vec<String> = (0..150).map(|n| format!("{n:04}-stands")).collect();
    for (n, number) in standing.iter().enumerate() {
        engine.submit(reserve(number, names[n % 3], 1)).await.unwrap();
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..3_usize {
        let (engine, is_over) = (engine.clone(), Arc::clone(&is_over));
        tasks.spawn(async move {
            for n in (0..usize::MAX).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                // Between those that stand.
                let number = format!("{:04}-{task}-{n}", n % 150);
                engine.submit(reserve(&number, names[(n + task) % 3], 1)).await.unwrap();
                let end = if n % 2 == 0 { confirm(&number) } else { release(&number) };
                engine.submit(end).await.unwrap();
            }
        });
    }
    let (mover, stop) = (engine.clone(), Arc::clone(&is_over));
    tasks.spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            promote(&mover, "moving").await.unwrap();
            demote(&mover, "moving").await.unwrap();
        }
    });
    for round in 0..12 {
        // Some of those that stand end on the way; from then on they are listed as that.
        let ended = &standing[round * 10..round * 10 + 5];
        for number in ended {
            engine.submit(confirm(number)).await.unwrap();
        }
        let listed = list(&engine, &OrderFilter::default(), 40).await;
        let seen: BTreeMap<&str, OrderStatus> =
            listed.iter().map(|order| (order.order_no.as_str(), order.status)).collect();
        assert_eq!(seen.len(), listed.len(), "none twice");
        for (n, number) in standing.iter().enumerate() {
            let is_ended = n < round * 10 + 5 && n % 10 < 5;
            let expected = if is_ended { OrderStatus::Confirmed } else { OrderStatus::Reserved };
            assert_eq!(seen.get(number.as_str()), Some(&expected), "{number} in round {round}");
        }
        let open = list(&engine, &of(&[OrderStatus::Reserved], Some("moving")), 7).await;
        for (n, number) in standing.iter().enumerate().filter(|(n, _)| n % 3 == 2) {
            let is_ended = n < round * 10 + 5 && n % 10 < 5;
            let is_listed = open.iter().any(|order| order.order_no == order_no(number));
            assert_eq!(is_listed, !is_ended, "{number} in round {round}");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    engine.stop().await;
}

/// Callers see one order under their own number: in the list, in the journals of its SKUs; and reconcile finds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_over_several_places_is_one_order() {
    let house = House::new();
    let session = house.store.session_of(crate::house::SERVER, 4);
    let engine = house.start_with(crate::house::options(4), &session).await;
    for name in ["a", "b", "c", "cold"] {
        engine.submit(create(name, 10)).await.unwrap();
    }
    for name in ["a", "b", "c"] {
        promote(&engine, name).await.unwrap();
    }
    let of = lines(&[("a", 1), ("b", 1), ("c", 1), ("cold", 1)]);
    engine.submit(reserve_lines("wide", of)).await.unwrap();
    flushed(&engine).await;
    session.hold_flushes();
    engine.submit(confirm("wide")).await.unwrap();
    let listed = list(&engine, &of_status(OrderStatus::Confirmed), 10).await;
    assert_eq!(numbers(&listed), ["wide"]);
    assert_eq!(listed, [order(engine.submit(get("wide")).await)]);
    assert_eq!(numbers(&list(&engine, &OrderFilter::default(), 1).await), ["wide"]);
    for name in ["a", "b", "c", "cold"] {
        let rows = engine.stock_journal(&sku(name), &[], 10).await.unwrap();
        let told: Vec<_> =
            rows.iter().map(|row| (row.change.kind.name(), row.change.order_no.clone())).collect();
        let wide = Some(order_no("wide"));
        assert_eq!(told, [("created", None), ("reserved", wide.clone()), ("confirmed", wide)], "SKU {name}");
        assert!(rows.iter().all(|row| row.change.request_id.is_none()));
    }
    session.let_flushes_go();
    flushed(&engine).await;
    let found = engine.reconcile(Reconcile { limit: 100, ..Reconcile::default() }).await.unwrap();
    assert_eq!(found.differences, []);
    house.check_books().await;
    engine.stop().await;
}

fn of_status(status: OrderStatus) -> OrderFilter {
    of(&[status], None)
}
