//! Many carts at the same time: none waits for another for ever, none takes a unit that is not there, and a caller
//! who goes away changes nothing.

use std::collections::BTreeMap;

use hotstock_engine::command::Mode;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::options::EngineOptions;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, Refusal};

use crate::shop::{cart, check_rest, read, skus, until_asked};
use crate::support::{World, create, levels, order, tight, until};

async fn fight(engine: &Engine, names: &[String], least: u32, what: &str) {
    let supplied: BTreeMap<String, u64> = names.iter().map(|name| (name.clone(), 60)).collect();
    for name in names {
        engine.submit(create(name, 60)).await.unwrap();
    }
    let mut carts = tokio::task::JoinSet::new();
    for n in 0..200 {
        // 20 of the 30 SKUs, each time others first; the demand is twice what there is.
        let of: Vec<String> = (0..20).map(|line| names[(n * 7 + line * 11) % names.len()].clone()).collect();
        let engine = engine.clone();
        carts.spawn(async move {
            let of: Vec<(&str, u32)> = of.iter().map(|name| (name.as_str(), 1)).collect();
            let mode = if n % 4 == 0 { Mode::BestEffort } else { Mode::AllOrNothing };
            let name = format!("cart-{n}");
            let outcome = engine.submit(cart(&name, &of, mode, 900)).await;
            if n % 3 == 0 && outcome.is_ok() {
                order(engine.submit(crate::support::confirm(&name)).await);
            }
            outcome
        });
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(outcome) = carts.join_next().await {
        match outcome.unwrap() {
            Ok(_) => made += 1,
            Err(Refusal::InsufficientStock { lines }) => {
                assert!(
                    !lines.is_empty() && lines.iter().all(|line| line.available < line.requested),
                    "{what}: {lines:?}"
                );
                refused += 1;
            }
            Err(refusal) => panic!("{what}: {refusal}"),
        }
    }
    assert_eq!(made + refused, 200, "{what}: all come to an end");
    // Who waits for the store holds up others.
    assert!(made >= least, "{what}: {made} carts got their units");
    let orders: Vec<String> = (0..200).map(|n| format!("cart-{n}")).collect();
    check_rest(engine, &supplied, &orders, what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_carts_fight_over_shards() {
    let engine = World::new().start(EngineOptions { shards: 8, ..EngineOptions::default() }).await;
    fight(&engine, &skus(30, 8), 30, "8 shards").await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_carts_fight_with_little_memory() {
    let engine = World::new().start(tight(3)).await;
    fight(&engine, &skus(30, 3), 20, "little memory").await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_carts_for_the_last_units_both_come_to_an_end() {
    let engine = World::new().start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    let names = skus(40, 4);
    for name in &names {
        engine.submit(create(name, 1)).await.unwrap();
    }
    let forth: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let back: Vec<(&str, u32)> = forth.iter().rev().copied().collect();
    for round in 0..50 {
        let (one, other) = (format!("one-{round}"), format!("other-{round}"));
        let (one_asked, other_asked) = tokio::join!(
            engine.submit(cart(&one, &forth, Mode::AllOrNothing, 900)),
            engine.submit(cart(&other, &back, Mode::AllOrNothing, 900)),
        );
        // Each may be in the other's way; the units of a refused one are there when it is told.
        assert!(!(one_asked.is_ok() && other_asked.is_ok()), "round {round}: both have the last units");
        for (name, asked) in [(one, one_asked), (other, other_asked)] {
            match asked {
                Ok(_) => drop(order(engine.submit(crate::support::release(&name)).await)),
                Err(refusal) => {
                    assert!(matches!(refusal, Refusal::InsufficientStock { .. }), "round {round}: {refusal}")
                }
            }
        }
        let again = format!("again-{round}");
        assert!(engine.submit(cart(&again, &forth, Mode::AllOrNothing, 900)).await.is_ok(), "round {round}");
        order(engine.submit(crate::support::release(&again)).await);
    }
    engine.stop().await;
}

#[tokio::test]
async fn a_caller_who_goes_away_changes_nothing() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    let names = skus(4, 4);
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    let of: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    world.journal.hold();
    let gone = tokio::spawn({
        let (engine, command) = (engine.clone(), cart("gone", &of, Mode::AllOrNothing, 900));
        async move { engine.submit(command).await }
    });
    until(|| world.journal.is_waiting()).await;
    gone.abort();
    drop(gone.await);
    world.journal.let_go();
    until_asked(|| async { read(&engine, "gone").await.is_some() }).await;
    let supplied = names.iter().map(|name| (name.clone(), 10)).collect();
    check_rest(&engine, &supplied, &["gone".into()], "gone").await;
    // The same for a decision.
    world.journal.hold();
    let gone = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(crate::support::confirm("gone")).await }
    });
    until(|| world.journal.is_waiting()).await;
    gone.abort();
    drop(gone.await);
    world.journal.let_go();
    until_asked(|| async {
        read(&engine, "gone").await.is_some_and(|order| order.status == OrderStatus::Confirmed)
    })
    .await;
    engine.stop().await;
    // What nobody carried, the next start does.
    let engine = world.start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    check_rest(&engine, &supplied_of(&names, 10), &["gone".into()], "gone, confirmed").await;
    assert_eq!(levels(&engine, &names[0]).await, (9, 0, 1));
    engine.stop().await;
}

fn supplied_of(names: &[String], units: u64) -> BTreeMap<String, u64> {
    names.iter().map(|name| (name.clone(), units)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_order_from_many_callers_is_made_once() {
    let engine = World::new().start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    let names = skus(4, 4);
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    for round in 0..3 {
        let number = format!("order-{round}");
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..12 {
            let of: Vec<(String, u32)> = names.iter().map(|name| (name.clone(), 1)).collect();
            let (engine, number) = (engine.clone(), number.clone());
            callers.spawn(async move {
                // Some name one place alone: they meet the others, and are refused as another order.
                let of: Vec<(&str, u32)> = of.iter().map(|(name, units)| (name.as_str(), *units)).collect();
                let of = if caller % 4 == 3 { &of[..1] } else { &of[..] };
                engine.submit(cart(&number, of, Mode::AllOrNothing, 900)).await
            });
        }
        let mut created = 0;
        while let Some(outcome) = callers.join_next().await {
            match outcome.unwrap() {
                Ok(Answer::Order { effect, .. }) => {
                    created += u32::from(effect == hotstock_engine::outcome::Effect::Created);
                }
                Err(Refusal::OrderMismatch { order_no }) => {
                    assert_eq!(order_no, OrderNo::new(&number).unwrap())
                }
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!(created, 1, "round {round}");
    }
    let orders: Vec<String> = (0..3).map(|round| format!("order-{round}")).collect();
    check_rest(&engine, &supplied_of(&names, 10), &orders, "the same order").await;
    engine.stop().await;
}
