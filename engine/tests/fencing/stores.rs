//! Stores that went back in time, or are away.

use hotstock_engine::checkpoint::Identity;
use hotstock_engine::ids::Epoch;
use hotstock_engine::options::{EngineOptions, StartError};
use hotstock_engine::ownership::NotOurs;
use hotstock_engine::status::Health;

use crate::fixture::{Directory, Ledger, World, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_the_last_seconds_gets_them_again() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "kept").await;
    server.is_flushed().await;
    let before = world.store.snapshot();
    server.sell_all(&mut ledger, "lost").await;
    server.is_flushed().await;
    // While it runs, idle and selling.
    world.store.restore(&before);
    let mut left = 500;
    while server.engine.stats().store.went_back == 0 {
        left -= 1;
        assert!(left > 0, "found within seconds");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    ledger.fits(&server).await;
    world.store.restore(&before);
    server.sell_all(&mut ledger, "after").await;
    ledger.fits(&server).await;
    assert_eq!(server.engine.health(), Health::Ready);
    // While it is down.
    server.stop().await;
    world.store.restore(&before);
    let server = world.start(&directory).await;
    ledger.fits(&server).await;
    server.sell_all(&mut ledger, "again").await;
    ledger.fits(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_before_this_start_is_taken_again() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "first").await;
    server.stop().await;
    let before = world.store.snapshot();
    let server = world.start(&directory).await;
    server.sell_all(&mut ledger, "second").await;
    server.is_flushed().await;
    world.store.restore(&before);
    server.sell_all(&mut ledger, "third").await;
    ledger.fits(&server).await;
    assert_eq!((server.engine.health(), server.engine.epoch()), (Health::Ready, Epoch(3)));
    server.stop().await;
    assert_eq!(directory.identity.epoch(), Epoch(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_store_is_written_anew_from_a_whole_journal() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let empty = world.store.snapshot();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "first").await;
    server.stop().await;
    world.store.restore(&empty);
    let server = world.start(&directory).await;
    ledger.fits(&server).await;
    assert_eq!(server.engine.epoch(), Epoch(2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_the_same_directory_serves_and_a_copy_does_not() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start(&directory).await;
    server.create_all().await;
    server.sell_all(&mut ledger, "before").await;
    server.kill().await;
    let copy = directory.copy();
    let (forced, fresh) = (EngineOptions { take_over: true, ..options() }, Directory::new(5));
    let refused = tokio::join!(
        world.start_with(&copy, options(), |store| store.cut()),
        world.start_with(&directory, forced, |store| store.cut()),
        world.start_with(&fresh, options(), |store| store.cut()),
    );
    for started in [refused.0, refused.1, refused.2] {
        let refused = matches!(&started, Err(StartError::NotOurs(NotOurs::Unavailable(_))));
        assert!(refused, "{:?}", started.err());
    }

    let server = world.start_with(&directory, options(), |store| store.cut()).await.unwrap();
    assert_eq!((server.engine.health(), server.engine.epoch()), (Health::Ready, Epoch::ZERO));
    server.sell_all(&mut ledger, "alone").await;
    server.store.mend();
    ledger.fits(&server).await;
    assert_eq!(server.engine.epoch(), Epoch(2));
    server.stop().await;
    let server = world.start(&directory).await;
    ledger.fits(&server).await;
    server.stop().await;
}
