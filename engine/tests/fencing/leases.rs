//! Stores with a lease.

use std::time::Duration;

use hotstock_engine::options::EngineOptions;
use hotstock_engine::status::Health;

use crate::fixture::{Directory, Ledger, World, options};

fn leased(seconds: u32) -> EngineOptions {
    let mut options = options();
    options.store.lease_seconds = seconds;
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_not_renew_its_lease_is_closed_until_it_can() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start_with(&directory, leased(4), |_| ()).await.unwrap();
    server.create_all().await;
    server.sell_all(&mut ledger, "before").await;
    server.store.cut();
    server.is_closed().await;
    server.store.mend();
    let mut left = 500;
    while server.engine.health() != Health::Ready {
        left -= 1;
        assert!(left > 0, "{:?}", server.engine.health());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.sell_all(&mut ledger, "after").await;
    ledger.fits(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_runs_is_respected_and_waited_out() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let server = world.start_with(&directory, leased(2), |_| ()).await.unwrap();
    server.create_all().await;
    server.sell_all(&mut ledger, "before").await;
    server.is_flushed().await;
    server.kill().await;
    let copy = directory.copy();
    world.refuses(&copy, false, "a copy of another one").await;
    let began = std::time::Instant::now();
    let copied = world.take_over(&copy).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
    copied.sell_all(&mut ledger, "after").await;
    ledger.fits(&copied).await;
    copied.stop().await;
}
