//! A new directory from the store.

use hotstock_engine::command::{Action, Confirm, Release};
use hotstock_engine::ids::SkuId;

use crate::fixture::{Directory, Ledger, SKUS, World, order_no, reserve};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_directory_goes_on_and_the_old_server_is_closed() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let old = world.start(&directory).await;
    old.create_all().await;
    let hot: Vec<SkuId> = SKUS[..3].iter().map(|name| SkuId::new(name).unwrap()).collect();
    assert!(old.engine.promote(&hot).await.iter().all(|(_, pinned)| pinned.is_ok()));
    old.sell_all(&mut ledger, "before").await;
    for (number, skus) in [("open-one", &["d"][..]), ("open-all", &SKUS[..])] {
        old.engine.submit(reserve(number, skus)).await.unwrap();
        let skus = skus.iter().map(|name| (*name).to_owned()).collect();
        ledger.told.insert(order_no(number), skus);
    }
    old.is_flushed().await;
    old.store.cut();
    old.sell_all(&mut ledger, "lost").await;
    let lost = directory.unflushed(&world.store).await;
    assert_eq!(lost.len(), SKUS.len() + 1);

    let recovered = Directory::recovered(&world.store, 2, &world.clock).await;
    let new = world.start(&recovered).await;
    old.store.mend();
    old.is_closed().await;
    let ledger = ledger.without(&lost);
    ledger.fits(&new).await;
    let is_hot: Vec<SkuId> = new.engine.hot(None, 99).into_iter().map(|hot| hot.sku_id).collect();
    assert_eq!(is_hot, hot);

    // What was open goes on, also over several shards.
    for number in ["open-one", "open-all"] {
        let confirm = Action::Confirm(Confirm { order_no: order_no(number), part: None });
        new.engine.submit(confirm.into()).await.unwrap();
    }
    // What was sold is known.
    let release = Action::Release(Release { order_no: order_no("before-a"), part: None, reason: None });
    new.engine.submit(release.into()).await.unwrap_err();
    let mut ledger = ledger;
    new.sell_all(&mut ledger, "after").await;
    ledger.fits(&new).await;
    old.kill().await;
    world.refuses(&directory, false, "took the store after it").await;
    new.stop().await;
    let new = world.start(&recovered).await;
    ledger.fits(&new).await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_server_that_comes_back_after_recover_is_refused() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let old = world.start(&directory).await;
    old.create_all().await;
    old.sell_all(&mut ledger, "before").await;
    old.is_flushed().await;
    old.kill().await;
    let recovered = Directory::recovered(&world.store, 2, &world.clock).await;
    world.refuses(&directory, false, "took the store after it").await;
    let new = world.start(&recovered).await;
    new.sell_all(&mut ledger, "after").await;
    ledger.fits(&new).await;
    world.refuses(&directory, false, "took the store after it").await;
    world.refuses(&directory, true, "the store").await;
    new.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_fit_are_put_right_by_their_journal() {
    let (world, directory) = (World::new(), Directory::new(1));
    let mut ledger = Ledger::default();
    let old = world.start(&directory).await;
    old.create_all().await;
    old.engine.submit(reserve("open", &["a"])).await.unwrap();
    ledger.told.insert(order_no("open"), vec!["a".to_owned()]);
    old.is_flushed().await;
    old.kill().await;
    world.store.spoil(&SkuId::new("a").unwrap(), 7);
    let recovered = Directory::recovered(&world.store, 2, &world.clock).await;
    let new = world.start(&recovered).await;
    new.is_flushed().await;
    let there = new.engine.stock(&SkuId::new("a").unwrap(), None).await.unwrap();
    assert_eq!((there[0].levels.available, there[0].levels.reserved), (999, 1));
    new.sell(&mut ledger, "more", &["a"]).await.unwrap();
    new.stop().await;
}
