//! Reconcile of a running engine: it tells nothing of what only changes, is loaded or evicted meanwhile, and puts
//! right what somebody broke.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "shared by tests that use different parts")]
mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hotstock_engine::engine::Engine;
use hotstock_engine::options::{EngineOptions, StoreOptions};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::{Check, Reconcile, Reconciled, Remedy};
use hotstock_engine::store::Store;
use support::{World, confirm, create, release, reserve, reserve_lines, sku, until_flushed};

const SKUS: usize = 40;

/// Few SKUs may be in memory, so that loading and evicting never stop.
fn options(shards: u16) -> EngineOptions {
    let store = StoreOptions { flush_interval_ms: 10, ..StoreOptions::default() };
    EngineOptions { shards, max_resident_skus: 8, store, ..EngineOptions::default() }
}

async fn look(engine: &Engine, fix: bool) -> Reconciled {
    engine.reconcile(Reconcile { limit: 1_000, fix, ..Reconcile::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_meanwhile_is_no_difference() {
    let world = World::new();
    let engine = world.start(options(4)).await;
    for n in 0..SKUS {
        engine.submit(create(&format!("s-{n}"), 1_000_000)).await.unwrap();
    }
    let (is_over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let orders = async |caller: usize| {
        for n in 0_usize.. {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let number = format!("o-{caller}-{n}");
            let skus = [(n * 7 + caller) % SKUS, (n * 3) % SKUS].map(|n| format!("s-{n}"));
            // Every third lies in two shards, as a rule.
            let order = match n % 3 {
                0 => reserve_lines(&number, support::lines(&[(&skus[0], 1), (&skus[1], 2)])),
                _ => reserve(&number, &skus[0], 1),
            };
            engine.submit(order).await.unwrap();
            let end = if n % 2 == 0 { confirm(&number) } else { release(&number) };
            engine.submit(end).await.unwrap();
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    let looks = async {
        let mut looks = 0;
        while looks < 30 || done.load(Ordering::SeqCst) < 500 {
            looks += 1;
            let found = look(&engine, true).await;
            assert_eq!(
                (found.skus, &found.differences[..], &found.repaired[..]),
                (SKUS as u64, &[][..], &[][..])
            );
            assert!(found.unsettled.is_empty() && found.next.is_none(), "{found:?}");
        }
        is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(orders(0), orders(1), orders(2), looks);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_broken_are_put_right() {
    let world = World::new();
    let engine = world.start(EngineOptions { max_resident_skus: 1, ..options(1) }).await;
    engine.submit(create("stored", 100)).await.unwrap();
    engine.submit(create("open", 100)).await.unwrap();
    engine.submit(reserve("o-1", "open", 30)).await.unwrap();
    // The one that has an open order stays.
    let mut left = 1_000;
    while engine.stats().shards.iter().map(|shard| shard.resident).sum::<u64>() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "an idle SKU leaves");
    }
    until_flushed(&engine).await;
    for name in ["stored", "open"] {
        world.store.spoil(&sku(name), 99);
    }
    let refused = engine.submit(reserve("o-2", "stored", 1)).await;
    assert!(matches!(refused, Err(Refusal::StockInconsistent { .. })), "{refused:?}");
    engine.submit(reserve("o-3", "open", 1)).await.unwrap();
    let told = look(&engine, false).await.differences;
    let what: Vec<_> = told.iter().map(|d| (d.sku_id.as_str(), d.check, d.remedy)).collect();
    assert_eq!(
        what,
        [("open", Check::Row, Remedy::RowFromShard), ("stored", Check::Row, Remedy::RowFromJournal)]
    );
    let fixed = look(&engine, true).await;
    assert_eq!(fixed.repaired.len(), 2, "{fixed:?}");
    assert_eq!(look(&engine, true).await.differences, []);
    engine.submit(reserve("o-4", "stored", 1)).await.unwrap();
    engine.submit(reserve("o-5", "open", 1)).await.unwrap();
    engine.stop().await;
    assert_eq!(world.store.session().parked(1).await.unwrap().0, 0);
    assert_eq!(world.store.session().stock(&sku("open"), None).await.unwrap().rows[0].levels.available, 68);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_it_says_so() {
    let world = World::new();
    let engine = world.start(options(1)).await;
    engine.submit(create("a", 100)).await.unwrap();
    world.session().cut();
    let away = engine.reconcile(Reconcile { limit: 1, ..Reconcile::default() }).await;
    assert_eq!(away, Err(Refusal::StoreUnavailable));
    world.session().mend();
    assert_eq!(look(&engine, false).await.differences, []);
    engine.stop().await;
}
