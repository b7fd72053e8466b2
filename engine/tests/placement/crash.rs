//! A crash at every step of a move and of a flush: from that moment on nothing reaches the disk or the store. After the next start there
//! is one owner, nothing is lost, and the move can be asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hotstock_engine::engine::{Engine, Health};
use hotstock_engine::outcome::{Effect, OrderStatus};

use crate::house::{House, SERVER, demote, flushed, levels, options, order, promote, until};
use crate::support::{confirm, create, get, reserve, sku};

const PROMOTE: [&str; 6] = [
    "promote.before_take",
    "promote.taken",
    "promote.begun",
    "promote.orders",
    "promote.before_finish",
    "promote.finished",
];

const DEMOTE: [&str; 8] = [
    "demote.before_close",
    "demote.closed",
    "demote.shed",
    "demote.withdrawn",
    "demote.before_flush",
    "demote.flushed",
    "flush.before",
    "flush.after",
];

/// An engine that is cut off from journal and store when it comes to the `nth` passing of a step.
async fn fragile(house: &House, shards: u16, step: &'static str, nth: u32) -> (Engine, Arc<AtomicU32>) {
    let session = house.store.session();
    let passed = Arc::new(AtomicU32::new(0));
    let (journal, cut, count) = (house.world.journal.clone(), session.clone(), Arc::clone(&passed));
    let failpoint = move |reached: &'static str| {
        if reached == step && count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            journal.fail_next();
            cut.cut();
        }
    };
    let parts = house.world.parts().with_store(Arc::new(session), SERVER).failpoint(Arc::new(failpoint));
    (Engine::start(options(shards), parts).await.unwrap(), passed)
}

/// Open, confirmed and cold-made orders on SKU `a`; `b` beside it.
async fn furnish(house: &House, shards: u16, hot: bool) {
    let engine = house.start(shards).await;
    for name in ["a", "b"] {
        engine.submit(create(name, 1_000)).await.unwrap();
    }
    for n in 0..300 {
        engine.submit(reserve(&format!("c{n}"), "a", 1)).await.unwrap();
    }
    engine.submit(confirm("c0")).await.unwrap();
    if hot {
        promote(&engine, "a").await.unwrap();
        engine.submit(reserve("h0", "a", 1)).await.unwrap();
        engine.submit(confirm("c1")).await.unwrap();
    }
    engine.stop().await;
}

async fn check(house: &House, shards: u16, hot: bool, what: &str) {
    let engine = house.start(shards).await;
    assert_eq!(engine.health(), Health::Ready, "{what}");
    let expected = if hot { (699, 299, 2) } else { (700, 299, 1) };
    assert_eq!(levels(&engine, "a").await, expected, "{what}");
    assert_eq!(order(engine.submit(get("c0")).await).status, OrderStatus::Confirmed, "{what}");
    assert_eq!(order(engine.submit(get("c299")).await).status, OrderStatus::Reserved, "{what}");
    // It takes orders, and moves.
    assert_eq!(order(engine.submit(confirm("c299")).await).status, OrderStatus::Confirmed, "{what}");
    promote(&engine, "a").await.unwrap();
    assert_eq!(engine.hot(None, 9).len(), 1, "{what}");
    assert_eq!(order(engine.submit(confirm("c298")).await).status, OrderStatus::Confirmed, "{what}");
    assert_eq!(demote(&engine, "a").await.unwrap().effect, Effect::Changed, "{what}");
    flushed(&engine).await;
    assert_eq!(house.row("a").await.owner, None, "{what}");
    assert_eq!(levels(&engine, "a").await, (expected.0, expected.1 - 2, expected.2 + 2), "{what}");
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_promotion() {
    for shards in [1, 2] {
        for step in PROMOTE {
            for nth in 1..=2 {
                let house = House::new();
                furnish(&house, shards, false).await;
                let (engine, passed) = fragile(&house, shards, step, nth).await;
                drop(promote(&engine, "a").await);
                assert!(passed.load(Ordering::SeqCst) >= 1, "{step} is a step of it");
                engine.stop().await;
                check(&house, shards, false, &format!("{step} {nth}, {shards} shards")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_demotion() {
    for shards in [1, 2] {
        for step in DEMOTE {
            for nth in 1..=2 {
                let house = House::new();
                furnish(&house, shards, true).await;
                let (engine, passed) = fragile(&house, shards, step, nth).await;
                let demotion = {
                    let engine = engine.clone();
                    tokio::spawn(async move { demote(&engine, "a").await })
                };
                // It may wait for a store that it will never see again.
                until(|| {
                    let count = passed.load(Ordering::SeqCst);
                    count >= nth || demotion.is_finished()
                })
                .await;
                assert!(passed.load(Ordering::SeqCst) >= 1, "{step} is a step of it");
                engine.stop().await;
                check(&house, shards, true, &format!("{step} {nth}, {shards} shards")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_linked_skus() {
    use crate::support::{lines, reserve_lines};
    for step in PROMOTE {
        let house = House::new();
        let engine = house.start(1).await;
        for name in ["a", "b"] {
            engine.submit(create(name, 10)).await.unwrap();
        }
        engine.submit(reserve_lines("ab", lines(&[("a", 1), ("b", 2)]))).await.unwrap();
        engine.stop().await;
        let (engine, _) = fragile(&house, 1, step, 1).await;
        drop(engine.promote(&[sku("a"), sku("b")]).await);
        engine.stop().await;
        let engine = house.start(1).await;
        let results = engine.promote(&[sku("a"), sku("b")]).await;
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{step}: {results:?}");
        assert_eq!(order(engine.submit(confirm("ab")).await).status, OrderStatus::Confirmed, "{step}");
        engine.stop().await;
        house.check_books().await;
    }
}
