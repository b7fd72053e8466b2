//! Whole engines on real data directories and one SQLite store: what a directory is after restarts, as a copy, as an
//! older copy, and made anew of the store.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;

use std::fs;

use fixture::{Fixture, confirm, create, fenced, flushed, is_repeat, levels, release, reserve, verify};
use hotstock_engine::ids::Epoch;
use hotstock_engine::ownership::NotOurs;

const SKUS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Some orders of every SKU, their numbers with `mark`: two units sold, one given back, one held.
async fn some_orders(engine: &hotstock_engine::engine::Engine, mark: &str) {
    for name in SKUS {
        for (end, quantity) in [("sold", 2), ("back", 1), ("held", 1)] {
            let order = format!("{mark}-{name}-{end}");
            reserve(engine, &order, name, quantity).await.unwrap();
            match end {
                "sold" => drop(confirm(engine, &order).await.unwrap()),
                "back" => drop(release(engine, &order).await.unwrap()),
                _ => (),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_goes_on_after_each_restart_with_the_next_epoch() {
    let fixture = Fixture::new();
    for round in 0..4 {
        let engine = fixture.start("data").await;
        assert_eq!(engine.epoch(), Epoch(round + 1));
        for name in SKUS {
            if round == 0 {
                create(&engine, name, 100).await;
            }
            assert_eq!(levels(&engine, name).await, [100 - 3 * round, round, 2 * round]);
        }
        some_orders(&engine, &format!("r{round}")).await;
        // A repeat is one also after a restart.
        let again = reserve(&engine, "r0-a-sold", "a", 2).await.unwrap();
        assert!(is_repeat(&again), "{again:?}");
        if round % 2 == 0 {
            engine.checkpoint_now();
            flushed(&engine).await;
        }
        engine.stop().await;
        drop(engine);
        verify(&fixture.dir("data"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skus_and_orders_that_left_memory_come_back() {
    let fixture = Fixture::new();
    let small = |options: &mut hotstock_engine::options::EngineOptions| {
        (options.max_resident_skus, options.remember_seconds, options.checkpoint_events) = (3, 1, 50);
    };
    for round in 0..3_u64 {
        let engine = fixture.start_with("data", small).await.unwrap();
        for name in SKUS {
            if round == 0 {
                create(&engine, name, 1_000).await;
            }
            assert_eq!(
                levels(&engine, name).await,
                [1_000 - 15 * round, 5 * round, 10 * round],
                "{name} {round}"
            );
        }
        for part in 0..5 {
            some_orders(&engine, &format!("r{round}.{part}")).await;
            flushed(&engine).await;
            fixture.clock.advance(std::time::Duration::from_secs(5));
        }
        for name in SKUS {
            let again = reserve(&engine, &format!("r0.0-{name}-sold"), name, 2).await.unwrap();
            assert!(is_repeat(&again), "{again:?}");
            reserve(&engine, &format!("r0.0-{name}-sold"), name, 3).await.unwrap_err();
        }
        engine.stop().await;
        drop(engine);
        verify(&fixture.dir("data"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_must_not_start_after_the_original_did() {
    let fixture = Fixture::new();
    let engine = fixture.start("data").await;
    create(&engine, "a", 10).await;
    engine.stop().await;
    drop(engine);
    fixture.copy("data", "copy");
    let engine = fixture.start("data").await;
    reserve(&engine, "o", "a", 1).await.unwrap();
    flushed(&engine).await;
    engine.stop().await;
    drop(engine);
    let why = fixture.refused("copy").await;
    assert!(matches!(why, NotOurs::Fenced { .. }), "{why}");
    fixture.start("data").await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_original_must_not_start_after_a_copy_did() {
    let fixture = Fixture::new();
    let engine = fixture.start("data").await;
    create(&engine, "a", 10).await;
    engine.stop().await;
    drop(engine);
    fixture.copy("data", "copy");
    let why = fixture.refused("copy").await;
    assert!(matches!(why, NotOurs::Fenced { .. }), "{why}");
    let engine = fixture.start_with("copy", |options| options.take_over = true).await.unwrap();
    reserve(&engine, "o", "a", 1).await.unwrap();
    flushed(&engine).await;
    engine.stop().await;
    drop(engine);
    let why = fixture.refused("data").await;
    assert!(matches!(why, NotOurs::Fenced { .. }), "{why}");
    let engine = fixture.start("copy").await;
    assert_eq!(levels(&engine, "a").await, [9, 1, 0]);
    engine.stop().await;
}

/// The place is the same, the content is older: nothing on the disk tells, the store does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_of_the_directory_must_not_start() {
    let fixture = Fixture::new();
    let engine = fixture.start("data").await;
    create(&engine, "a", 10).await;
    engine.stop().await;
    drop(engine);
    fixture.copy("data", "backup");
    let engine = fixture.start("data").await;
    reserve(&engine, "o", "a", 1).await.unwrap();
    flushed(&engine).await;
    engine.stop().await;
    drop(engine);
    fs::remove_dir_all(fixture.dir("data/journal")).unwrap();
    fixture.copy("backup/journal", "data/journal");
    let why = fixture.refused("data").await;
    assert!(matches!(why, NotOurs::Fenced { .. }), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_made_anew_of_the_store() {
    let fixture = Fixture::new();
    let engine = fixture.start("data").await;
    for name in SKUS {
        create(&engine, name, 100).await;
    }
    engine.promote(&[fixture::sku("b")]).await.remove(0).1.unwrap();
    some_orders(&engine, "old").await;
    flushed(&engine).await;
    // It runs on, as if its machine were only out of reach.
    fixture.recover("new").await;
    fenced(&engine).await;
    engine.stop().await;
    drop(engine);

    for round in 0..3_u64 {
        let engine = fixture.start("new").await;
        for name in SKUS {
            assert_eq!(levels(&engine, name).await, [97 - 3 * round, 1 + round, 2 + 2 * round], "{name}");
            let again = reserve(&engine, &format!("old-{name}-sold"), name, 2).await.unwrap();
            assert!(is_repeat(&again), "{again:?}");
        }
        assert_eq!(engine.hot(None, 10).len(), 1);
        some_orders(&engine, &format!("new{round}")).await;
        engine.stop().await;
        drop(engine);
        verify(&fixture.dir("new"));
    }
    let why = fixture.refused("data").await;
    assert!(matches!(why, NotOurs::Fenced { .. }), "{why}");
    // The orders of before end where they are now.
    let engine = fixture.start("new").await;
    for name in SKUS {
        confirm(&engine, &format!("old-{name}-held")).await.unwrap();
        assert_eq!(levels(&engine, name).await, [88, 3, 9], "{name}");
    }
    flushed(&engine).await;
    engine.stop().await;
    drop(engine);
    verify(&fixture.dir("new"));
}
