//! Moves under load: no unit is lost, no order refused because of a move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hotstock_engine::engine::{Engine, EngineOptions};
use hotstock_engine::outcome::{Answer, Effect, OrderStatus, Refusal};

use crate::house::{House, demote, levels, options, order, promote};
use crate::support::{confirm, create, get, lines, release, reserve, reserve_lines, sku};

/// What one caller did.
#[derive(Default)]
struct Tally {
    sold: u64,
    held: u64,
}

/// Makes orders of one unit until it is told to stop: some are confirmed, some released, some stay. Each step is repeated, and the
/// repeat answered the same.
async fn shop(engine: Engine, caller: u32, names: &[&str], stop: &AtomicBool, done: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    for n in 0_usize.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (name, of) = (format!("{caller}-{n}"), names[n % names.len()]);
        let made = order(engine.submit(reserve(&name, of, 1)).await);
        assert_eq!(made.status, OrderStatus::Reserved);
        match n % 4 {
            0 => {
                assert_eq!(order(engine.submit(confirm(&name)).await).status, OrderStatus::Confirmed);
                assert_eq!(order(engine.submit(confirm(&name)).await).status, OrderStatus::Confirmed);
                tally.sold += 1;
            }
            1 => assert_eq!(order(engine.submit(release(&name)).await).status, OrderStatus::Released),
            2 => {
                assert_eq!(order(engine.submit(get(&name)).await).status, OrderStatus::Reserved);
                let outcomes = engine.submit_batch(vec![confirm(&name), release(&name), get(&name)]).await;
                assert!(matches!(outcomes[1], Err(Refusal::AlreadyConfirmed { .. })), "{:?}", outcomes[1]);
                assert_eq!(order(outcomes[2].clone()).status, OrderStatus::Confirmed);
                tally.sold += 1;
            }
            _ => {
                assert_eq!(
                    engine.submit(reserve(&name, of, 1)).await.map(order_effect),
                    Ok(Effect::Replayed)
                );
                tally.held += 1;
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    tally
}

fn order_effect(answer: hotstock_engine::outcome::Answer) -> Effect {
    match answer {
        hotstock_engine::outcome::Answer::Order { effect, .. } => effect,
        other => panic!("expected an order, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_moves_under_orders() {
    let house = House::new();
    // Ended orders don't move for ever with the SKU, or the moves would become longer and longer.
    let options = EngineOptions { remember_seconds: 2, ..options(2) };
    let engine = house.start_with(options, &house.store.session()).await;
    engine.submit(create("a", 1_000_000)).await.unwrap();
    engine.submit(create("b", 1_000_000)).await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..6)
        .map(|caller| {
            let (engine, stop, done) = (engine.clone(), Arc::clone(&stop), Arc::clone(&done));
            let names: &[&str] = if caller % 2 == 0 { &["a"] } else { &["a", "b"] };
            tokio::spawn(async move { shop(engine, caller, names, &stop, &done).await })
        })
        .collect();
    for round in 0..250 {
        let before = done.load(Ordering::SeqCst);
        assert_eq!(promote(&engine, "a").await.unwrap().epoch, round + 1);
        while done.load(Ordering::SeqCst) < before + 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(demote(&engine, "a").await.unwrap().effect, Effect::Changed);
        while done.load(Ordering::SeqCst) < before + 6 {
            tokio::task::yield_now().await;
        }
        house.world.clock.advance(Duration::from_millis(200));
    }
    stop.store(true, Ordering::SeqCst);
    let mut all = Tally::default();
    for caller in callers {
        let tally = caller.await.unwrap();
        all.sold += tally.sold;
        all.held += tally.held;
    }
    let (a, b) = (levels(&engine, "a").await, levels(&engine, "b").await);
    assert_eq!((a.1 + b.1, a.2 + b.2), (all.held, all.sold));
    assert_eq!(a.0 + b.0, 2_000_000 - all.held - all.sold);
    let stats = engine.stats().store.unwrap();
    assert_eq!((stats.promotions_asked, stats.demotions_asked), (250, 250));
    assert!(stats.move_waits > 0, "requests met moves");
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn movers_of_one_sku_take_turns() {
    let house = House::new();
    let engine = house.start(1).await;
    for name in ["a", "b", "c"] {
        engine.submit(create(name, 100)).await.unwrap();
    }
    let movers: Vec<_> = (0..8)
        .map(|mover: usize| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let names = [["a", "b"], ["c", "a"], ["b", "c"]][mover % 3].map(sku);
                for _ in 0..20 {
                    let results = if mover.is_multiple_of(2) {
                        engine.promote(&names).await
                    } else {
                        engine.demote(&names).await
                    };
                    assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
                }
            })
        })
        .collect();
    for mover in movers {
        mover.await.unwrap();
    }
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn a_sku_moves_whatever_orders_hold_it_with_others() {
    let house = House::new();
    let engine = house.start(1).await;
    for name in ["a", "b", "c"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    engine.submit(reserve_lines("ab", lines(&[("a", 1), ("b", 1)]))).await.unwrap();
    engine.submit(reserve_lines("sold", lines(&[("a", 1), ("b", 1)]))).await.unwrap();
    order(engine.submit(confirm("sold")).await);
    assert!(promote(&engine, "a").await.is_ok());
    engine.submit(reserve("o", "a", 1)).await.unwrap();
    assert_eq!(order(engine.submit(get("ab")).await).status, OrderStatus::Reserved);
    let results = engine.promote(&[sku("c"), sku("a"), sku("none"), sku("b"), sku("a")]).await;
    let came: Vec<bool> = results.iter().map(|(_, result)| result.is_ok()).collect();
    assert_eq!(came, [true, true, false, true, true], "{results:?}");
    engine.submit(reserve_lines("bc", lines(&[("b", 1), ("c", 1)]))).await.unwrap();
    assert!(demote(&engine, "b").await.is_ok());
    assert_eq!(engine.hot(None, 10).len(), 2);
    engine.submit(reserve("o2", "b", 1)).await.unwrap();
    assert_eq!(order(engine.submit(confirm("bc")).await).status, OrderStatus::Confirmed);
    assert!(demote(&engine, "a").await.is_ok() && demote(&engine, "c").await.is_ok());
    assert_eq!(order(engine.submit(release("ab")).await).status, OrderStatus::Released);
    // It takes its units again, wherever they are.
    assert!(promote(&engine, "b").await.is_ok());
    assert_eq!(order(engine.submit(confirm("ab")).await).status, OrderStatus::Confirmed);
    // Its SKUs have come apart since it ended.
    let again = engine.submit(reserve_lines("sold", lines(&[("a", 1), ("b", 1)]))).await;
    assert!(matches!(again, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{again:?}");
    assert_eq!(levels(&engine, "a").await, (6, 1, 2));
    assert_eq!(levels(&engine, "b").await, (5, 1, 3));
    engine.stop().await;
    house.check_books().await;
}

#[tokio::test]
async fn a_sku_with_many_orders_moves_in_parts() {
    let house = House::new();
    let engine = house.start(1).await;
    engine.submit(create("a", 100_000)).await.unwrap();
    promote(&engine, "a").await.unwrap();
    let orders = 3_000;
    let many = (0..orders).map(|n| reserve(&format!("o{n}"), "a", 2)).collect();
    assert!(engine.submit_batch(many).await.iter().all(Result::is_ok));
    let some = (0..1_000).map(|n| confirm(&format!("o{n}"))).collect();
    assert!(engine.submit_batch(some).await.iter().all(Result::is_ok));
    assert_eq!(demote(&engine, "a").await.unwrap().orders, 3_000);
    assert_eq!(levels(&engine, "a").await, (94_000, 4_000, 2_000));
    assert_eq!(engine.stats().shards[0].orders, 0);
    assert_eq!(promote(&engine, "a").await.unwrap().orders, 3_000);
    assert_eq!(engine.stats().shards[0].orders, 3_000);
    let rest = (1_000..orders).map(|n| release(&format!("o{n}"))).collect();
    assert!(engine.submit_batch(rest).await.iter().all(Result::is_ok));
    assert_eq!(levels(&engine, "a").await, (98_000, 0, 2_000));
    engine.stop().await;
    house.check_books().await;
}
