//! A crash at every step of loads, evictions and flushes: from that moment on nothing reaches the disk or the store.
//! What was answered is there after the next start, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hotstock_engine::engine::{Engine, RESIDENCY_STEPS};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::status::Health;

use crate::support::{World, confirm, create, get, levels, release, reserve, tight, until_flushed};

const SKUS: usize = 12;
const SUPPLY: u64 = 50;

fn name(n: usize) -> String {
    format!("s{}", n % SKUS)
}

/// How many times the step was passed.
async fn crash_at(step: &'static str, nth: u32, shards: u16) -> u32 {
    let what = format!("{step} {nth}, {shards} shards");
    let world = World::new();
    let engine = world.start(tight(shards)).await;
    for n in 0..SKUS {
        engine.submit(create(&name(n), SUPPLY)).await.unwrap();
    }
    until_flushed(&engine).await;
    engine.stop().await;

    let parts = world.parts();
    let (session, journal, passed) = (world.session(), world.journal.clone(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&passed);
    let failpoint = move |reached: &'static str| {
        if reached == step && count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            journal.fail_next();
            session.cut();
        }
    };
    let engine = Engine::start(tight(shards), parts.failpoint(Arc::new(failpoint))).await.unwrap();
    let mut taken: Vec<(String, usize, bool)> = Vec::new();
    for n in 0..60 {
        if engine.health() != Health::Ready {
            break;
        }
        let order = format!("o{n}");
        let is_held = engine.submit(reserve(&order, &name(n), 1)).await.is_ok();
        let is_sold = is_held && n % 3 > 0 && engine.submit(confirm(&order)).await.is_ok();
        if is_held {
            taken.push((order, n, is_sold));
        }
        if n % 3 == 0 {
            drop(engine.submit(release(&format!("o{n}"))).await);
        }
        // What was sold comes back for this.
        drop(engine.submit(get(&format!("o{}", n / 2))).await);
        // Orders are remembered for no time at all, which has to go on for that.
        world.clock.advance(Duration::from_millis(1));
        if n % 10 == 0 {
            engine.checkpoint_now();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    engine.stop().await;

    world.journal.mend();
    let engine = world.start(tight(shards)).await;
    assert_eq!(engine.health(), Health::Ready, "{what}");
    for (order, n, is_sold) in &taken {
        let again = engine.submit(reserve(order, &name(*n), 1)).await;
        assert!(again.is_ok(), "{what}: {order} was taken, and now {again:?}");
        let other = engine.submit(reserve(order, &name(n + 1), 1)).await;
        assert!(matches!(other, Err(Refusal::OrderMismatch { .. })), "{what}: {order} {other:?}");
        if *is_sold {
            let sold = engine.submit(confirm(order)).await;
            assert!(sold.is_ok(), "{what}: {order} was sold, and now {sold:?}");
        }
    }
    // Everything that is neither sold nor free is held by somebody.
    let (mut expected, mut got) = (vec![(0, 0); SKUS], Vec::new());
    for n in 0..60 {
        if let Ok(hotstock_engine::outcome::Answer::Order { order, .. }) =
            engine.submit(get(&format!("o{n}"))).await
        {
            for line in order.lines {
                expected[n % SKUS].0 += u64::from(line.held);
                expected[n % SKUS].1 += u64::from(line.confirmed - line.returned);
            }
        }
    }
    for n in 0..SKUS {
        let (available, reserved, sold) = levels(&engine, &name(n)).await;
        assert_eq!(available + reserved + sold, SUPPLY, "{what}: {}", name(n));
        got.push((reserved, sold));
    }
    assert_eq!(got, expected, "{what}");
    until_flushed(&engine).await;
    assert_eq!(engine.anomalies(9).await.unwrap().0, 0, "{what}");
    assert_eq!(engine.parked(9).await.unwrap().0, 0, "{what}");
    engine.stop().await;
    passed.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_crash_at_every_step() {
    let most = std::env::var("HOTSTOCK_CRASHES").ok().and_then(|most| most.parse().ok()).unwrap_or(4);
    // Nothing is old enough to be pruned.
    for step in RESIDENCY_STEPS.iter().filter(|step| !step.starts_with("prune.")) {
        for shards in [1, 2] {
            let mut passed = 0;
            for nth in 1..=most {
                passed = crash_at(step, nth * nth, shards).await;
                if passed < nth * nth {
                    break;
                }
            }
            assert!(passed > 0, "{step} is a step of it");
        }
    }
}
