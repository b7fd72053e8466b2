//! What a failure leaves behind, and how soon it is gone: branches without an order, decisions that nobody carried,
//! expiries, places that are away, shards that panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, Command, Mode};
use hotstock_engine::engine::{Engine, EngineOptions};
use hotstock_engine::home::HomeStep;
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::outcome::{OrderStatus, Refusal};

use crate::shop::{cart, check_rest, is_unknown, read, skus, until_asked};
use crate::support::{World, confirm, create, flushed_soon, levels, order, release, until};

fn supplied(names: &[String], units: u64) -> BTreeMap<String, u64> {
    names.iter().map(|name| (name.clone(), units)).collect()
}

fn of(names: &[String]) -> Vec<(&str, u32)> {
    names.iter().map(|name| (name.as_str(), 1)).collect()
}

/// What a command is, for a fault that is to meet one.
fn kind(command: &InnerCommand) -> &'static str {
    let is_branch = command.order_no().is_some_and(hotstock_engine::ids::OrderNo::is_branch);
    match command {
        InnerCommand::Public(command) => match &command.action {
            Action::Reserve(_) if is_branch => "hold",
            Action::Confirm(_) if is_branch => "carry confirm",
            Action::Release(_) if is_branch => "carry release",
            Action::Confirm(_) => "confirm",
            Action::Release(_) => "release",
            _ => "other",
        },
        InnerCommand::Expire(_) => "expire",
        InnerCommand::Home(step) => match &**step {
            HomeStep::Reserve { .. } => "home",
            HomeStep::Late { .. } => "late",
            HomeStep::Carried { .. } => "carried",
            HomeStep::Ask(_) => "ask",
            HomeStep::Pending(_) => "pending",
        },
    }
}

#[tokio::test]
async fn a_shard_that_panics_at_any_step_leaves_nothing_behind() {
    for step in ["hold", "home", "confirm", "carry confirm", "carried", "release", "carry release", "pending"]
    {
        let world = World::new();
        let left = Arc::new(AtomicU32::new(0));
        let faults = Arc::clone(&left);
        let parts = world.parts().before_decide(move |command| {
            let one_less = |left: u32| left.checked_sub(1);
            let hit = kind(command) == step
                && faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
            assert!(!hit, "a fault on demand");
        });
        let engine =
            Engine::start(EngineOptions { shards: 3, ..EngineOptions::default() }, parts).await.unwrap();
        let names = skus(3, 3);
        for name in &names {
            engine.submit(create(name, 10)).await.unwrap();
        }
        left.store(1, Ordering::SeqCst);
        let mut tries = 0;
        // A caller repeats what it got no answer for.
        let repeat = async |command: Command| {
            let mut outcome = engine.submit(command.clone()).await;
            let mut again = 0;
            while is_unknown(&outcome) && again < 100 {
                again += 1;
                outcome = engine.submit(command.clone()).await;
            }
            outcome
        };
        for command in [
            cart("sold", &of(&names), Mode::AllOrNothing, 900),
            cart("left", &of(&names), Mode::AllOrNothing, 900),
            confirm("sold"),
            release("left"),
        ] {
            let outcome = repeat(command).await;
            assert!(outcome.is_ok(), "{step}: {outcome:?}");
            tries += 1;
        }
        assert_eq!(tries, 4);
        if left.load(Ordering::SeqCst) > 0 {
            assert_eq!(step, "pending", "the fault came");
        }
        left.store(0, Ordering::SeqCst);
        world.clock.advance(Duration::from_secs(4));
        check_rest(&engine, &supplied(&names, 10), &["sold".into(), "left".into()], step).await;
        assert_eq!(levels(&engine, &names[0]).await, (9, 0, 1), "{step}");
        engine.stop().await;
    }
}

#[tokio::test]
async fn branches_without_an_order_are_released_when_they_ask() {
    let world = World::new();
    let names = skus(3, 3);
    // The process ends when the branches hold and before the home logs.
    let journal = world.journal.clone();
    let failpoint = move |step: &'static str| {
        if step == "span.home.before" {
            journal.fail_next();
        }
    };
    let options = EngineOptions { shards: 3, ..EngineOptions::default() };
    let engine = Engine::start(options.clone(), world.parts().failpoint(Arc::new(failpoint))).await.unwrap();
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    let unknown = engine.submit(cart("lost", &of(&names), Mode::AllOrNothing, 900)).await;
    assert_eq!(unknown, Err(Refusal::JournalUnavailable));
    engine.stop().await;

    world.journal.mend();
    let engine = world.start(options).await;
    assert_eq!(levels(&engine, &names[0]).await, (9, 1, 0), "the branch holds");
    world.clock.advance(Duration::from_secs(4));
    until(|| engine.stats().spanning.orphans_released == 3).await;
    check_rest(&engine, &supplied(&names, 10), &["lost".into()], "orphans").await;
    assert_eq!(read(&engine, "lost").await, None);
    engine.stop().await;
}

#[tokio::test]
async fn a_branch_that_asks_is_left_alone_when_its_order_knows_it() {
    let world = World::new();
    let names = skus(3, 3);
    let engine = world.start(EngineOptions { shards: 3, ..EngineOptions::default() }).await;
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    order(engine.submit(cart("kept", &of(&names), Mode::AllOrNothing, 900)).await);
    world.clock.advance(Duration::from_secs(4));
    until(|| engine.stats().spanning.branches_asked == 3).await;
    check_rest(&engine, &supplied(&names, 10), &["kept".into()], "kept").await;
    assert_eq!(levels(&engine, &names[2]).await, (9, 1, 0));
    // Then it expires, in all its places.
    world.clock.advance(Duration::from_secs(900));
    until_asked(|| async { levels(&engine, &names[2]).await == (10, 0, 0) }).await;
    assert_eq!(read(&engine, "kept").await.unwrap().status, OrderStatus::Expired);
    check_rest(&engine, &supplied(&names, 10), &["kept".into()], "expired").await;
    engine.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_holds_up_no_decision() {
    let world = World::new();
    let engine = world.start(flushed_soon(2)).await;
    let names = skus(3, 2);
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    for name in ["sold", "left"] {
        order(engine.submit(cart(name, &of(&names), Mode::AllOrNothing, 900)).await);
    }
    world.session().cut();
    assert_eq!(order(engine.submit(confirm("sold")).await).status, OrderStatus::Confirmed);
    assert_eq!(order(engine.submit(release("left")).await).status, OrderStatus::Released);
    assert_eq!(levels(&engine, &names[0]).await, (9, 0, 1));
    // Nor a new one of SKUs that are in memory.
    order(engine.submit(cart("new", &of(&names), Mode::AllOrNothing, 900)).await);
    let strange = [("stored", 1), (names[0].as_str(), 1), (names[1].as_str(), 1)];
    let refused = engine.submit(cart("other", &strange, Mode::AllOrNothing, 900)).await;
    assert_eq!(refused, Err(Refusal::StoreUnavailable));
    world.session().mend();
    let orders = ["sold", "left", "new", "other"].map(String::from);
    check_rest(&engine, &supplied(&names, 10), &orders, "the store is back").await;
    assert_eq!(levels(&engine, &names[2]).await, (8, 1, 1));
    engine.stop().await;
}
