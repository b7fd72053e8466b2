//! A store that is away, slow, busy, or goes back in time, while commands wait for it.

use std::time::{Duration, Instant};

use hotstock_engine::engine::Engine;
use hotstock_engine::options::{EngineOptions, StoreOptions};
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::Refusal;

use crate::support::{
    World, confirm, create, flushed_soon, get, levels, order, release, reserve, tight, until, until_gone,
};

/// Twenty SKUs of which none is in memory but the last, perhaps; `s0` has sold two.
async fn stored(world: &World, options: EngineOptions) -> Engine {
    let engine = world.start(options).await;
    for n in 0..20 {
        engine.submit(create(&format!("s{n}"), 10)).await.unwrap();
    }
    engine.submit(reserve("sold", "s0", 2)).await.unwrap();
    engine.submit(confirm("sold")).await.unwrap();
    until_gone(world, &engine).await;
    engine
}

#[tokio::test]
async fn what_is_in_memory_goes_on_without_the_store() {
    let world = World::new();
    let engine = stored(&world, tight(1)).await;
    engine.submit(reserve("open", "s5", 1)).await.unwrap();
    world.session().cut();
    // Open orders are always in memory, with their SKUs.
    order(engine.submit(reserve("more", "s5", 1)).await);
    assert_eq!(order(engine.submit(confirm("open")).await).status, OrderStatus::Confirmed);
    assert_eq!(order(engine.submit(release("more")).await).status, OrderStatus::Released);
    // What is not is refused at once, and nothing happened.
    let began = Instant::now();
    for n in 6..16 {
        assert_eq!(engine.submit(reserve("new", &format!("s{n}"), 1)).await, Err(Refusal::StoreUnavailable));
    }
    assert_eq!(engine.submit(get("sold")).await, Err(Refusal::StoreUnavailable));
    assert_eq!(engine.stock(&crate::support::sku("s7"), None).await, Err(Refusal::StoreUnavailable));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // In a batch each command by itself.
    let batch = vec![reserve("b1", "s5", 1), reserve("b2", "s7", 1), reserve("b3", "s5", 1)];
    let outcomes = engine.submit_batch(batch).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1], Err(Refusal::StoreUnavailable));
    world.clock.advance(Duration::from_secs(901));
    until(|| engine.stats().shards[0].expired == 2).await;
    world.session().mend();
    order(engine.submit(reserve("new", "s7", 1)).await);
    assert_eq!(order(engine.submit(get("sold")).await).status, OrderStatus::Confirmed);
    assert_eq!(levels(&engine, "s5").await, (9, 0, 1));
    engine.stop().await;
}

#[tokio::test]
async fn who_waits_survives_a_load_that_fails_and_one_that_is_slow() {
    let world = World::new();
    let engine = stored(&world, tight(2)).await;
    let session = world.session();
    // Some calls are turned away; the loader asks again.
    session.be_busy(2);
    order(engine.submit(reserve("busy", "s1", 1)).await);
    // A call that takes its time holds nobody else up.
    engine.submit(reserve("here", "s2", 1)).await.unwrap();
    session.hold();
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(reserve("slow", "s3", 1)).await }
    });
    until(|| session.waiting() > 0 && engine.stats().shards.iter().any(|shard| shard.waiting == 1)).await;
    assert_eq!(order(engine.submit(confirm("here")).await).status, OrderStatus::Confirmed);
    assert!(!waiting.is_finished());
    session.let_calls_go();
    order(waiting.await.unwrap());
    assert!(engine.stats().shards.iter().all(|shard| shard.waiting == 0 && shard.in_flight == 0));
    engine.stop().await;
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_may_come_again() {
    let world = World::new();
    let store = StoreOptions { load_wait_ms: 300, ..tight(1).store };
    let engine = stored(&world, EngineOptions { store, ..tight(1) }).await;
    let session = world.session();
    session.hold();
    let began = Instant::now();
    let batch = engine.submit_batch(vec![reserve("a", "s3", 1), reserve("b", "s4", 1), confirm("a")]).await;
    assert_eq!(batch[..2], [Err(Refusal::Overloaded), Err(Refusal::Overloaded)]);
    assert!(matches!(batch[2], Err(Refusal::UnknownOrder { .. })), "{batch:?}");
    assert!((300..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    // A caller that goes away leaves nothing behind.
    let gone = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(reserve("gone", "s5", 1)).await }
    });
    until(|| engine.stats().shards[0].waiting == 1).await;
    gone.abort();
    session.let_calls_go();
    until(|| engine.stats().shards[0].in_flight == 0).await;
    order(engine.submit(reserve("a", "s3", 1)).await);
    engine.stop().await;
}

#[tokio::test]
async fn what_waits_when_a_shard_panics_is_told_that_its_outcome_is_unknown() {
    let world = World::new();
    stored(&world, tight(2)).await.stop().await;
    let parts = world.parts().before_decide(|command| {
        assert!(command.order_no().is_none_or(|order_no| order_no.as_str() != "poison"), "a fault on demand");
    });
    let engine = Engine::start(flushed_soon(2), parts).await.unwrap();
    let session = world.session();
    let names: Vec<String> = (0..10).map(|n| format!("s{n}")).collect();
    session.hold();
    let waiting: Vec<_> = names
        .iter()
        .map(|name| {
            let (engine, command) = (engine.clone(), reserve(&format!("w-{name}"), name, 1));
            tokio::spawn(async move { engine.submit(command).await })
        })
        .collect();
    // All but those of the SKUs that were in memory at the end.
    until(|| engine.stats().shards.iter().map(|shard| shard.waiting).sum::<u64>() >= 8).await;
    for n in 0..8 {
        // A release that comes before its reserve needs nothing of the store: it is decided at once, in the shard of
        // its name.
        drop(engine.submit(release(&format!("x{n}"))).await);
    }
    assert_eq!(engine.submit(release("poison")).await, Err(Refusal::ShardRestarted));
    session.let_calls_go();
    let mut unknown = 0;
    for (waiting, name) in waiting.into_iter().zip(&names) {
        match waiting.await.unwrap() {
            Ok(_) => {}
            Err(Refusal::ShardRestarted) => {
                unknown += 1;
                order(engine.submit(reserve(&format!("w-{name}"), name, 1)).await);
            }
            Err(refusal) => panic!("{name}: {refusal}"),
        }
    }
    assert!(unknown > 0);
    assert!(engine.stats().shards.iter().all(|shard| shard.in_flight == 0));
    // Claims came back: what was refused leaves nothing in the directory.
    assert_eq!(engine.stats().directory_orders, 18);
    engine.stop().await;
}

/// The store loses its last seconds while the engine runs: what was flushed is flushed again, and nothing is decided
/// on what it has meanwhile.
#[tokio::test]
async fn a_store_that_goes_back_in_time_is_not_believed() {
    for shards in [1, 2] {
        let world = World::new();
        let mut options = tight(shards);
        options.store.keep_flushed_minutes = 15;
        let engine = stored(&world, options.clone()).await;
        let snapshot = world.store.snapshot();
        engine.submit(reserve("lost", "s3", 4)).await.unwrap();
        engine.submit(confirm("lost")).await.unwrap();
        engine.submit(create("lost-sku", 7)).await.unwrap();
        // Others push them out of memory.
        until_gone(&world, &engine).await;
        for n in 5..15 {
            engine.submit(reserve(&format!("push-{n}"), &format!("s{n}"), 1)).await.unwrap();
            engine.submit(release(&format!("push-{n}"))).await.unwrap();
        }
        until_gone(&world, &engine).await;
        world.store.restore(&snapshot);
        // Nothing of it is believed; the answers are right as soon as there are any.
        let mut tries = 0;
        let mismatch = loop {
            match engine.submit(reserve("lost", "s4", 1)).await {
                Err(Refusal::Overloaded | Refusal::StoreUnavailable) if tries < 20 => tries += 1,
                outcome => break outcome,
            }
        };
        assert!(matches!(mismatch, Err(Refusal::OrderMismatch { .. })), "{shards}: {mismatch:?}");
        assert_eq!(order(engine.submit(get("lost")).await).status, OrderStatus::Confirmed);
        assert_eq!(levels(&engine, "s3").await, (6, 0, 4));
        order(engine.submit(reserve("new", "lost-sku", 7)).await);
        assert!(matches!(
            engine.submit(reserve("over", "s3", 7)).await,
            Err(Refusal::InsufficientStock { .. })
        ));
        assert_eq!(engine.health(), hotstock_engine::status::Health::Ready);
        engine.stop().await;
        assert_eq!(hotstock_engine::store::Store::anomalies(&world.store.session(), 9).await.unwrap().0, 0);
    }
}

/// Whoever waits for an order that the store can't tell of gives up while others keep the shard busy; afterwards it is
/// asked for anew.
#[tokio::test]
async fn what_nobody_waits_for_any_more_is_asked_for_again() {
    let world = World::new();
    let mut options = tight(1);
    (options.store.keep_flushed_minutes, options.store.load_wait_ms) = (15, 10);
    let engine = stored(&world, options).await;
    let before = world.store.snapshot();
    engine.submit(reserve("late", "s3", 4)).await.unwrap();
    engine.submit(confirm("late")).await.unwrap();
    until_gone(&world, &engine).await;
    let after = world.store.snapshot();
    let wait_in_vain = async {
        loop {
            // Where the flusher was faster it is put back once more.
            world.store.restore(&before);
            if engine.submit(get("late")).await == Err(Refusal::Overloaded) {
                break;
            }
        }
    };
    let others = async {
        loop {
            drop(engine.submit(release("others")).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = wait_in_vain => {}
        () = others => {}
    }
    drop(engine.submit(release("others")).await);
    world.store.restore(&after);
    loop {
        match engine.submit(get("late")).await {
            Err(Refusal::Overloaded) => {}
            told => break assert_eq!(order(told).status, OrderStatus::Confirmed),
        }
    }
    engine.stop().await;
}
