//! Commands on cold SKUs and on hot ones, from the same caller: nobody can tell them apart but by where they are.

use std::time::Duration;

use hotstock_engine::checkpoint::Stage;
use hotstock_engine::command::{Action, ChangeKind, ChangeStock, Command, SetStatus, StockStatus};
use hotstock_engine::event::MoveKind;
use hotstock_engine::ids::{Lsn, RequestId, WarehouseId};
use hotstock_engine::outcome::{Answer, Effect, OrderStatus, Refusal};
use hotstock_engine::store::{Owner, Store};

use crate::house::{House, SERVER, demote, flushed, levels, options, order, promote, until};
use crate::support::{confirm, create, get, lines, order_no, release, reserve, reserve_lines, sku};

fn restock(name: &str, quantity: i64, request: &str) -> Command {
    Action::ChangeStock(ChangeStock {
        sku_id: sku(name),
        warehouse_id: WarehouseId(1),
        kind: ChangeKind::Restock,
        quantity,
        request_id: RequestId::new(request).unwrap(),
        reason: None,
    })
    .into()
}

#[tokio::test]
async fn an_order_lives_on_while_its_sku_moves_to_and_fro() {
    for shards in [1, 3] {
        let house = House::new();
        let engine = house.start(shards).await;
        engine.submit(create("a", 10)).await.unwrap();
        assert_eq!(house.row("a").await.owner, None, "created cold");
        engine.submit(reserve("o1", "a", 3)).await.unwrap();
        engine.submit(restock("a", 5, "r1")).await.unwrap();
        let moved = promote(&engine, "a").await.unwrap();
        assert_eq!((moved.effect, moved.epoch, moved.orders), (Effect::Changed, 1, 1));
        let owner = Owner { server: SERVER, shard: moved.shard.unwrap(), epoch: 1 };
        assert_eq!(house.row("a").await.owner, Some(owner));
        assert_eq!(promote(&engine, "a").await.unwrap().effect, Effect::Replayed);
        let hot = engine.hot(None, 10);
        assert_eq!((hot.len(), hot[0].stage, hot[0].epoch, hot[0].auto), (1, Stage::Open, 1, false));

        // Everything that was known cold is known hot.
        assert_eq!(levels(&engine, "a").await, (12, 3, 0));
        let again = engine.submit(reserve("o1", "a", 3)).await;
        assert!(matches!(again, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{again:?}");
        let again = engine.submit(restock("a", 5, "r1")).await;
        assert!(matches!(again, Ok(Answer::Stock { effect: Effect::Replayed, .. })), "{again:?}");
        assert_eq!(order(engine.submit(confirm("o1")).await).status, OrderStatus::Confirmed);
        engine.submit(reserve("o2", "a", 2)).await.unwrap();
        engine.submit(restock("a", 1, "r2")).await.unwrap();
        assert_eq!(order(engine.submit(release("o3")).await).status, OrderStatus::Cancelled);

        let moved = demote(&engine, "a").await.unwrap();
        assert_eq!((moved.effect, moved.shard, moved.epoch), (Effect::Changed, None, 1));
        assert_eq!(demote(&engine, "a").await.unwrap().effect, Effect::Replayed);
        assert!(engine.hot(None, 10).is_empty());
        assert_eq!(house.row("a").await.owner, None);
        assert_eq!(levels(&engine, "a").await, (11, 2, 3));
        let again = engine.submit(restock("a", 1, "r2")).await;
        assert!(matches!(again, Ok(Answer::Stock { effect: Effect::Replayed, .. })), "{again:?}");
        assert_eq!(order(engine.submit(get("o1")).await).status, OrderStatus::Confirmed);
        assert_eq!(order(engine.submit(release("o2")).await).status, OrderStatus::Released);
        assert!(matches!(engine.submit(release("o1")).await, Err(Refusal::AlreadyConfirmed { .. })));
        let cancelled = engine.submit(reserve("o3", "a", 1)).await;
        assert!(matches!(cancelled, Err(Refusal::OrderCancelled { .. })), "{cancelled:?}");

        assert_eq!(promote(&engine, "a").await.unwrap().epoch, 2, "each ownership has its own number");
        engine.stop().await;
        house.check_books().await;
    }
}

#[tokio::test]
async fn unknown_things_are_unknown_wherever_they_are_asked_for() {
    let house = House::new();
    let engine = house.start(2).await;
    assert!(matches!(engine.submit(reserve("o1", "none", 1)).await, Err(Refusal::UnknownSku { .. })));
    assert!(matches!(engine.submit(confirm("o1")).await, Err(Refusal::UnknownOrder { .. })));
    assert!(matches!(engine.submit(get("o1")).await, Err(Refusal::UnknownOrder { .. })));
    assert!(matches!(promote(&engine, "none").await, Err(Refusal::UnknownSku { .. })));
    assert!(matches!(demote(&engine, "none").await, Err(Refusal::UnknownSku { .. })));
    engine.submit(create("a", 1)).await.unwrap();
    promote(&engine, "a").await.unwrap();
    assert!(matches!(engine.submit(reserve("o1", "none", 1)).await, Err(Refusal::UnknownSku { .. })));
    let elsewhere = Action::SetStatus(SetStatus {
        sku_id: sku("a"),
        warehouse_id: Some(WarehouseId(9)),
        status: StockStatus::Suspended,
    });
    assert!(matches!(engine.submit(elsewhere.into()).await, Err(Refusal::UnknownSku { .. })));
    assert_eq!(engine.stock(&sku("none"), None).await, Ok(Vec::new()));
    engine.stop().await;
}

#[tokio::test]
async fn an_order_has_one_home_hot_or_cold() {
    for shards in [1, 2] {
        let house = House::new();
        let engine = house.start(shards).await;
        for name in ["hot", "cold"] {
            engine.submit(create(name, 9)).await.unwrap();
        }
        promote(&engine, "hot").await.unwrap();
        let both = |name: &str| reserve_lines(name, lines(&[("hot", 1), ("cold", 1)]));
        assert_eq!(order(engine.submit(both("both")).await).status, OrderStatus::Reserved);
        assert_eq!(order(engine.submit(release("both")).await).status, OrderStatus::Released);
        engine.submit(reserve("h", "hot", 1)).await.unwrap();
        engine.submit(reserve("c", "cold", 1)).await.unwrap();
        for (name, other) in [("h", "cold"), ("c", "cold")] {
            let outcome = engine.submit(reserve(name, other, 2)).await;
            assert!(matches!(outcome, Err(Refusal::OrderMismatch { .. })), "{name}: {outcome:?}");
            let outcome = engine.submit(both(name)).await;
            assert!(matches!(outcome, Err(Refusal::OrderMismatch { .. })), "{name}: {outcome:?}");
        }
        // A tombstone is found from both sides.
        for (name, of) in [("t1", "hot"), ("t2", "cold")] {
            assert_eq!(order(engine.submit(release(name)).await).status, OrderStatus::Cancelled);
            let outcome = engine.submit(reserve(name, of, 1)).await;
            assert!(matches!(outcome, Err(Refusal::OrderCancelled { .. })), "{outcome:?}");
        }
        engine.stop().await;
        house.check_books().await;
        assert_eq!(
            engine.stats().directory_orders,
            if shards == 1 { 1 } else { 4 },
            "the order over both is one"
        );
    }
}

#[tokio::test]
async fn a_batch_keeps_the_order_of_operations_over_cold_and_hot() {
    let house = House::new();
    let engine = house.start(2).await;
    for name in ["hot", "cold"] {
        engine.submit(create(name, 5)).await.unwrap();
    }
    promote(&engine, "hot").await.unwrap();
    let outcomes = engine
        .submit_batch(vec![
            reserve("c1", "cold", 5),
            reserve("h1", "hot", 5),
            confirm("c1"),
            reserve("c2", "cold", 1),
            confirm("h1"),
            release("h1"),
            reserve("h2", "hot", 1),
            get("c1"),
            create("new", 2),
            reserve("n1", "new", 2),
            confirm("n1"),
        ])
        .await;
    let statuses: Vec<_> = [2, 4, 7, 10].iter().map(|at| order(outcomes[*at].clone()).status).collect();
    assert_eq!(statuses, [OrderStatus::Confirmed; 4]);
    assert!(matches!(outcomes[3], Err(Refusal::InsufficientStock { .. })), "{:?}", outcomes[3]);
    assert!(matches!(outcomes[5], Err(Refusal::AlreadyConfirmed { .. })), "{:?}", outcomes[5]);
    assert!(matches!(outcomes[6], Err(Refusal::InsufficientStock { .. })), "{:?}", outcomes[6]);
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn what_is_due_expires_cold_and_hot_and_after_a_move() {
    let house = House::new();
    let engine = house.start(1).await;
    for name in ["cold", "hot", "cooled", "heated"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    for name in ["hot", "cooled"] {
        promote(&engine, name).await.unwrap();
    }
    for name in ["cold", "hot", "cooled", "heated"] {
        engine.submit(reserve(name, name, 4)).await.unwrap();
    }
    demote(&engine, "cooled").await.unwrap();
    promote(&engine, "heated").await.unwrap();
    house.world.clock.advance(Duration::from_secs(901));
    for name in ["cold", "hot", "cooled", "heated"] {
        while levels(&engine, name).await != (9, 0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(order(engine.submit(get(name)).await).status, OrderStatus::Expired, "{name}");
    }
    assert_eq!(engine.stats().store.unwrap().swept, 2);
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn an_order_that_the_shard_let_go_of_is_known_and_comes_back() {
    let house = House::new();
    // A second is remembered; and what is not flushed is not forgotten.
    let options = hotstock_engine::engine::EngineOptions { remember_seconds: 1, ..options(1) };
    let engine = house.start_with(options, &house.store.session()).await;
    engine.submit(create("a", 9)).await.unwrap();
    promote(&engine, "a").await.unwrap();
    for name in ["sold", "late", "other"] {
        engine.submit(reserve(name, "a", 2)).await.unwrap();
    }
    engine.submit(confirm("sold")).await.unwrap();
    engine.submit(release("late")).await.unwrap();
    engine.submit(release("other")).await.unwrap();
    flushed(&engine).await;
    house.world.clock.advance(Duration::from_secs(60));
    until(|| engine.stats().shards[0].orders == 0).await;
    assert_eq!(order(engine.submit(get("sold")).await).status, OrderStatus::Confirmed);
    assert_eq!(engine.stats().shards[0].orders, 0, "a read leaves it where it is");
    let again = engine.submit(confirm("sold")).await;
    assert!(matches!(again, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{again:?}");
    // A late payment takes the stock again.
    assert_eq!(order(engine.submit(confirm("late")).await).status, OrderStatus::Confirmed);
    assert_eq!(levels(&engine, "a").await, (5, 0, 4));
    assert!(engine.stats().store.unwrap().orders_fetched >= 2);
    assert!(matches!(engine.submit(confirm("never")).await, Err(Refusal::UnknownOrder { .. })));
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn the_journal_of_a_sku_has_no_seam() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(options(1), &session).await;
    engine.submit(create("a", 100)).await.unwrap();
    engine.submit(reserve("c", "a", 1)).await.unwrap();
    promote(&engine, "a").await.unwrap();
    for n in 0..20 {
        engine.submit(reserve(&format!("h{n}"), "a", 1)).await.unwrap();
    }
    flushed(&engine).await;
    // From here on nothing is flushed any more, and still it is all there.
    session.hold_flushes();
    let suspend =
        Action::SetStatus(SetStatus { sku_id: sku("a"), warehouse_id: None, status: StockStatus::Suspended });
    engine.submit(suspend.into()).await.unwrap();
    for n in 0..20 {
        engine.submit(confirm(&format!("h{n}"))).await.unwrap();
    }
    let before = engine.followers()[0].flushed;
    let rows = engine.stock_journal(&sku("a"), &[], 1_000).await.unwrap();
    assert_eq!(engine.followers()[0].lag_events, 21);
    let versions: Vec<u64> = rows.iter().map(|row| row.change.after.version).collect();
    assert_eq!(versions, (1..=43).collect::<Vec<_>>());
    assert_eq!(rows[22].change.kind, MoveKind::Suspended);
    assert_eq!(rows[22].change.after.available, 79);
    assert!(rows[2].source.is_some() && rows[1].source.is_none() && before > Lsn::ZERO);
    // In pages, too.
    let mut paged = Vec::new();
    loop {
        let after =
            paged.last().map_or(0, |row: &hotstock_engine::store::JournalRow| row.change.after.version);
        let page = engine.stock_journal(&sku("a"), &[(WarehouseId(1), after)], 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, rows);
    session.let_flushes_go();
    flushed(&engine).await;
    assert_eq!(
        engine.stock_journal(&sku("a"), &[], 1_000).await.unwrap(),
        rows,
        "the same when it is flushed"
    );
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn pages_show_hot_skus_as_they_are_now() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(options(1), &session).await;
    for name in ["a", "b", "c"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    promote(&engine, "b").await.unwrap();
    engine.submit(reserve("o", "b", 4)).await.unwrap();
    let page = engine.stock_page(None, 2).await.unwrap();
    let seen: Vec<_> = page.iter().map(|sku| (sku[0].sku_id.to_string(), sku[0].levels.available)).collect();
    assert_eq!(seen, [("a".to_owned(), 9), ("b".to_owned(), 5)]);
    assert_eq!(engine.stock_page(Some(&sku("b")), 2).await.unwrap().len(), 1);
    engine.stop().await;
}

#[tokio::test]
async fn a_sku_of_another_server_is_not_touched() {
    let house = House::new();
    let engine = house.start(1).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 1)).await.unwrap();
    let other = Owner {
        server: hotstock_engine::ids::ServerId(8),
        shard: hotstock_engine::ids::ShardId(0),
        epoch: 1,
    };
    house.store.steal(&sku("a"), Some(other));
    let refused = Err(Refusal::OwnedElsewhere { sku_id: sku("a") });
    assert_eq!(engine.submit(reserve("o2", "a", 1)).await, refused);
    assert_eq!(engine.submit(confirm("o")).await, refused);
    assert_eq!(promote(&engine, "a").await, Err(Refusal::OwnedElsewhere { sku_id: sku("a") }));
    assert_eq!(demote(&engine, "a").await, Err(Refusal::OwnedElsewhere { sku_id: sku("a") }));
    assert_eq!(house.store.session().order(&order_no("o")).await.unwrap().unwrap().owners, [Some(other)]);
    engine.stop().await;
}
