//! The store away, slow, or losing answers: hot SKUs go on, cold ones are refused in so many words, nothing is done twice.

use std::time::Duration;

use hotstock_engine::engine::{EngineOptions, Health, StoreOptions};
use hotstock_engine::ids::{Lsn, ServerId, ShardId};
use hotstock_engine::outcome::{Effect, OrderStatus, Refusal};
use hotstock_engine::store::Owner;

use crate::house::{House, demote, flushed, levels, options, order, promote, until};
use crate::support::{confirm, create, get, release, reserve, sku};

#[tokio::test]
async fn hot_skus_go_on_without_the_store_and_cold_ones_come_back_with_it() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(options(1), &session).await;
    for name in ["hot", "cold"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    promote(&engine, "hot").await.unwrap();
    engine.submit(reserve("c", "cold", 1)).await.unwrap();
    session.cut();
    assert_eq!(order(engine.submit(reserve("h", "hot", 1)).await).status, OrderStatus::Reserved);
    assert_eq!(order(engine.submit(confirm("h")).await).status, OrderStatus::Confirmed);
    assert_eq!(levels(&engine, "hot").await, (8, 0, 1));
    for command in [reserve("c2", "cold", 1), confirm("c"), get("c"), release("never"), create("new", 1)] {
        assert_eq!(engine.submit(command).await, Err(Refusal::StoreUnavailable));
    }
    assert_eq!(engine.stock(&sku("cold"), None).await, Err(Refusal::StoreUnavailable));
    assert_eq!(promote(&engine, "cold").await, Err(Refusal::StoreUnavailable));
    assert_eq!(engine.health(), Health::Ready, "orders are taken");
    until(|| engine.followers()[0].last_error.is_some()).await;
    assert!(engine.stats().store.unwrap().problem.is_some());

    // A demotion begins and waits; so do requests for the SKU, but not for long.
    let demotion = {
        let engine = engine.clone();
        tokio::spawn(async move { demote(&engine, "hot").await })
    };
    until(|| engine.stats().store.unwrap().moving_skus == 1).await;
    assert_eq!(engine.submit(reserve("h2", "hot", 1)).await, Err(Refusal::StoreUnavailable));
    session.mend();
    assert_eq!(demotion.await.unwrap().unwrap().effect, Effect::Changed);
    assert_eq!(order(engine.submit(confirm("c")).await).status, OrderStatus::Confirmed);
    assert_eq!(order(engine.submit(reserve("h2", "hot", 1)).await).status, OrderStatus::Reserved);
    until(|| engine.stats().store.unwrap().problem.is_none()).await;
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn a_start_without_the_store_serves_what_is_hot() {
    let house = House::new();
    let engine = house.start(2).await;
    for name in ["hot", "cold", "closing"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    for name in ["hot", "closing"] {
        promote(&engine, name).await.unwrap();
    }
    engine.submit(reserve("h", "hot", 1)).await.unwrap();
    engine.stop().await;

    let session = house.store.session();
    session.cut();
    let engine = house.start_with(options(2), &session).await;
    assert_eq!(order(engine.submit(confirm("h")).await).status, OrderStatus::Confirmed);
    assert_eq!(engine.submit(reserve("c", "cold", 1)).await, Err(Refusal::StoreUnavailable));
    assert_eq!(engine.submit(confirm("never")).await, Err(Refusal::StoreUnavailable));
    session.mend();
    until(|| engine.stats().store.unwrap().problem.is_none()).await;
    assert_eq!(order(engine.submit(reserve("c", "cold", 1)).await).status, OrderStatus::Reserved);
    assert!(matches!(engine.submit(confirm("never")).await, Err(Refusal::UnknownOrder { .. })));
    flushed(&engine).await;
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn lost_answers_of_the_store_do_no_harm() {
    let house = House::new();
    let session = house.store.session();
    let engine = house.start_with(options(1), &session).await;
    engine.submit(create("a", 100)).await.unwrap();
    for round in 0..20 {
        session.lose_answers(round % 4);
        let name = format!("o{round}");
        // Twice lost is a timeout for the caller, who asks again.
        while engine.submit(reserve(&name, "a", 1)).await.is_err() {}
        session.lose_answers(round % 3);
        while promote(&engine, "a").await.is_err() {}
        assert_eq!(order(engine.submit(confirm(&name)).await).status, OrderStatus::Confirmed);
        session.lose_answers(round % 5);
        while demote(&engine, "a").await.is_err() {}
    }
    session.lose_answers(0);
    assert_eq!(levels(&engine, "a").await, (80, 0, 20));
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn the_last_flush_is_done_at_the_stop_and_a_restart_goes_on_from_there() {
    let house = House::new();
    let slow = EngineOptions {
        store: StoreOptions { flush_interval_ms: 3_600_000, ..StoreOptions::default() },
        ..options(1)
    };
    let engine = house.start_with(slow.clone(), &house.store.session()).await;
    engine.submit(create("a", 9)).await.unwrap();
    promote(&engine, "a").await.unwrap();
    engine.submit(reserve("o", "a", 4)).await.unwrap();
    assert_eq!(house.row("a").await.view.levels.available, 9, "the interval is an hour");
    engine.stop().await;
    assert_eq!(house.row("a").await.view.levels.available, 5);
    let engine = house.start_with(slow, &house.store.session()).await;
    assert_eq!(order(engine.submit(confirm("o")).await).status, OrderStatus::Confirmed);
    assert_eq!(
        demote(&engine, "a").await.unwrap().effect,
        Effect::Changed,
        "it does not wait for the interval"
    );
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn at_the_cap_of_the_journal_only_new_reservations_are_refused() {
    let house = House::new();
    let session = house.store.session();
    let mut options = EngineOptions { checkpoint_events: 20, ..options(1) };
    options.store.journal_cap_bytes = 20_000;
    let engine = house.start_with(options, &session).await;
    for name in ["a", "cold"] {
        engine.submit(create(name, 1_000_000)).await.unwrap();
    }
    promote(&engine, "a").await.unwrap();
    session.cut();
    let mut last = 0;
    for n in 0.. {
        match engine.submit(reserve(&format!("o{n}"), "a", 1)).await {
            Ok(_) => last = n,
            Err(refusal) => {
                assert_eq!(refusal, Refusal::JournalFull);
                break;
            }
        }
    }
    assert!(engine.stats().store.unwrap().journal_full);
    // Repeats, confirms and releases go on.
    assert_eq!(
        order(engine.submit(reserve(&format!("o{last}"), "a", 1)).await).status,
        OrderStatus::Reserved
    );
    assert_eq!(order(engine.submit(confirm(&format!("o{last}"))).await).status, OrderStatus::Confirmed);
    assert_eq!(order(engine.submit(release("o0")).await).status, OrderStatus::Released);
    session.mend();
    flushed(&engine).await;
    // With what is flushed and in a checkpoint the journal gets its room back.
    engine.checkpoint_now();
    while engine.submit(reserve("after", "a", 1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(house.world.journal.first(ShardId(0)) > Lsn(1));
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn a_sku_that_was_stolen_is_given_up() {
    let house = House::new();
    let engine = house.start(1).await;
    for name in ["a", "b"] {
        engine.submit(create(name, 9)).await.unwrap();
        promote(&engine, name).await.unwrap();
    }
    flushed(&engine).await;
    house.store.steal(&sku("a"), Some(Owner { server: ServerId(8), shard: ShardId(0), epoch: 9 }));
    // This one is acknowledged and in the journal of the loser alone.
    engine.submit(reserve("o", "a", 1)).await.unwrap();
    until(|| engine.stats().store.unwrap().fenced == 1).await;
    assert_eq!(engine.submit(reserve("o2", "a", 1)).await, Err(Refusal::OwnedElsewhere { sku_id: sku("a") }));
    assert!(engine.followers()[0].last_error.as_ref().unwrap().contains("does not belong"));
    assert_eq!(order(engine.submit(reserve("o3", "b", 1)).await).status, OrderStatus::Reserved);
    engine.stop().await;
}

#[tokio::test]
async fn requests_for_a_sku_that_moves_for_too_long_are_told_so() {
    let house = House::new();
    let session = house.store.session();
    let mut options = options(1);
    options.store.move_wait_ms = 20;
    let engine = house.start_with(options, &session).await;
    engine.submit(create("a", 9)).await.unwrap();
    session.hold();
    let promotion = {
        let engine = engine.clone();
        tokio::spawn(async move { promote(&engine, "a").await })
    };
    until(|| engine.stats().store.unwrap().moving_skus == 1).await;
    assert_eq!(engine.submit(reserve("o", "a", 1)).await, Err(Refusal::Overloaded));
    assert_eq!(engine.stock(&sku("a"), None).await, Err(Refusal::Overloaded));
    session.let_go();
    promotion.await.unwrap().unwrap();
    assert_eq!(order(engine.submit(reserve("o", "a", 1)).await).status, OrderStatus::Reserved);
    engine.stop().await;
}

#[tokio::test]
async fn the_gate_of_the_store_turns_away_at_once() {
    let house = House::new();
    let session = house.store.session();
    let mut options = options(1);
    options.store.cold_permits = 2;
    let engine = house.start_with(options, &session).await;
    engine.submit(create("a", 9)).await.unwrap();
    session.hold();
    let submit = |name: &str| {
        let (engine, command) = (engine.clone(), reserve(name, "a", 1));
        tokio::spawn(async move { engine.submit(command).await })
    };
    let (one, two) = (submit("o1"), submit("o2"));
    until(|| engine.stats().store.unwrap().cold_in_flight == 2).await;
    assert_eq!(engine.submit(reserve("o3", "a", 1)).await, Err(Refusal::Overloaded));
    session.let_go();
    assert!(one.await.unwrap().is_ok() && two.await.unwrap().is_ok());
    assert!(engine.submit(reserve("o3", "a", 1)).await.is_ok());
    engine.stop().await;
    house.check_books().await;
}
