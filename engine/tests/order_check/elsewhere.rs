//! Orders over several shards, and a store that is away.

use hotstock_engine::check::CheckOptions;
use hotstock_engine::ids::{ShardId, shard_of};
use hotstock_engine::order::OrderStatus;

use crate::service::{Say, Shop, levels, stats, until, until_idle, until_status};
use crate::support::{create, lines, reserve, reserve_lines, sku};

const TTL: u64 = 900;

/// Whatever holds units is in memory: what the service says is carried out without the store.
#[tokio::test]
async fn a_store_that_is_away_keeps_no_order_from_ending() {
    let shop = Shop::new();
    let engine = shop.start(2, CheckOptions::default()).await;
    engine.submit(create("a", 9)).await.unwrap();
    for (order, says) in [("paid", Say::Paid), ("unpaid", Say::Unpaid)] {
        engine.submit(reserve(order, "a", 2)).await.unwrap();
        shop.service.tell(order, &[says]);
    }
    shop.world.session().cut();
    shop.pass(TTL);
    until_status(&engine, "paid", OrderStatus::Confirmed).await;
    until_status(&engine, "unpaid", OrderStatus::Expired).await;
    until_idle(&engine).await;
    assert_eq!(levels(&engine, "a").await, (7, 0, 2));
    assert_eq!(stats(&engine).asked, 2);
    engine.stop().await;
}

/// A name whose SKU lies in the wanted shard.
fn sku_in(shard: u16) -> String {
    let name = |n: u32| format!("sku-{n}");
    (0..).map(name).find(|name| shard_of(&sku(name), 2) == ShardId(shard)).unwrap()
}

#[tokio::test]
async fn orders_over_two_shards_are_asked_about_once_at_their_home() {
    let shop = Shop::new();
    let engine = shop.start(2, CheckOptions::default()).await;
    let (a, b) = (sku_in(0), sku_in(1));
    for name in [&a, &b] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    for (order, says) in [("paid", Say::Paid), ("unpaid", Say::Unpaid)] {
        engine.submit(reserve_lines(order, lines(&[(&a, 1), (&b, 2)]))).await.unwrap();
        shop.service.tell(order, &[says]);
    }
    shop.pass(TTL);
    until_status(&engine, "paid", OrderStatus::Confirmed).await;
    until_status(&engine, "unpaid", OrderStatus::Expired).await;
    until(async || levels(&engine, &a).await == (8, 0, 1) && levels(&engine, &b).await == (7, 0, 2)).await;
    until_idle(&engine).await;
    let mut asked = shop.service.asked();
    asked.sort();
    assert_eq!(asked, ["paid", "unpaid"], "branches are nobody's orders");
    engine.stop().await;
}
