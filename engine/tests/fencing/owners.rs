//! Several servers on one store.

use hotstock_engine::checkpoint::Identity;
use hotstock_engine::ids::Epoch;

use crate::fixture::{Directory, Ledger, SKUS, World, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_is_an_epoch_and_nothing_is_lost_between() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    for round in 1..=4 {
        let server = world.start(&directory).await;
        if round == 1 {
            server.create_all().await;
        }
        assert_eq!((server.engine.epoch(), directory.identity.epoch()), (Epoch(round), Epoch(round)));
        server.sell_all(&mut ledger, &format!("r{round}")).await;
        ledger.fits(&server).await;
        if round % 2 == 0 { server.kill().await } else { server.stop().await }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_beside_the_running_original_does_not_start() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "before").await;
    server.is_flushed().await;
    let copy = directory.copy();
    world.refuses(&copy, false, "a copy of another one").await;
    world.refuses(&Directory::new(2), false, "it is new").await;
    server.sell_all(&mut ledger, "after").await;
    server.is_flushed().await;
    world.refuses(&copy, true, "older copy").await;
    ledger.fits(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_started_first_locks_the_original_out() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "before").await;
    server.stop().await;
    let copy = directory.copy();
    let copied = world.take_over(&copy).await.unwrap();
    world.refuses(&directory, false, "a copy of it took the store").await;
    copied.sell_all(&mut ledger, "after").await;
    ledger.fits(&copied).await;
    copied.stop().await;
    world.refuses(&directory, false, "a copy of it took the store").await;
    world.refuses(&directory, true, "the store").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_given_up_and_lives_is_closed_for_all_skus() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let old = world.start(&directory).await;
    old.create_all().await;
    old.sell_all(&mut ledger, "before").await;
    old.is_flushed().await;
    let copy = directory.copy();
    // It goes on for a moment and reaches the store no more.
    old.store.cut();
    old.sell_all(&mut ledger, "unflushed").await;
    let new = world.take_over(&copy).await.unwrap();
    old.store.mend();
    old.is_closed().await;
    new.sell_all(&mut ledger, "after").await;
    new.is_flushed().await;
    let lost: Vec<String> = SKUS.iter().map(|name| format!("unflushed-{name}")).collect();
    let lost = lost.iter().map(|number| crate::fixture::order_no(number));
    let lost = lost.chain([crate::fixture::order_no("unflushed-all")]).collect();
    ledger.without(&lost).fits(&new).await;
    old.kill().await;
    world.refuses(&directory, false, "a copy of it took the store").await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_finds_out_that_it_was_given_up() {
    let (world, directory) = (World::new(), Directory::new(1));
    let old = world.start(&directory).await;
    old.create_all().await;
    old.is_flushed().await;
    let new = world.take_over(&directory.copy()).await.unwrap();
    old.is_closed().await;
    let mut ledger = Ledger::default();
    new.sell_all(&mut ledger, "after").await;
    ledger.fits(&new).await;
    old.kill().await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_directory_is_refused_whatever_it_thinks_its_epoch_is() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.is_flushed().await;
    let old = directory.copy();
    server.sell_all(&mut ledger, "first").await;
    server.stop().await;
    world.refuses(&old, false, "a copy of another one").await;
    world.refuses(&old, true, "older copy").await;
    let server = world.start(&directory).await;
    server.sell_all(&mut ledger, "second").await;
    server.stop().await;
    old.identity.record(directory.identity.epoch()).unwrap();
    world.refuses(&old, false, "a copy of it took the store").await;
    world.refuses(&old, true, "older copy").await;
    let server = world.start(&directory).await;
    ledger.fits(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_went_another_way_is_told_by_its_hash() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.is_flushed().await;
    server.kill().await;
    let copy = directory.copy();
    // Both sell beside each other; one has no store.
    let alone = world.start_with(&directory, options(), |store| store.cut()).await.unwrap();
    alone.sell_all(&mut Ledger::default(), "alone").await;
    let copied = world.take_over(&copy).await.unwrap();
    copied.sell_all(&mut ledger, "copy").await;
    copied.is_flushed().await;
    alone.store.mend();
    alone.is_closed().await;
    alone.kill().await;
    ledger.fits(&copied).await;
    copied.kill().await;
    world.refuses(&directory, true, "another event").await;
}
