//! Orders that the store decides, and orders over several places.

use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::check::{CheckOptions, OrderCheck};
use hotstock_engine::engine::{Engine, EngineOptions, StoreOptions};
use hotstock_engine::ids::{ServerId, ShardId, shard_of};
use hotstock_engine::outcome::OrderStatus;
use hotstock_engine::testing::MemoryStore;

use crate::service::{Say, Service, Shop, levels, stats, until, until_idle, until_status};
use crate::support::{World, create, lines, reserve, reserve_lines, sku};

const TTL: u64 = 900;
const SERVER: ServerId = ServerId(7);

/// A world with a store.
struct House {
    world: World,
    store: MemoryStore,
    service: Arc<Service>,
}

impl House {
    fn new() -> Self {
        Self {
            world: World::new(),
            store: MemoryStore::default().session_of(SERVER, 2),
            service: Arc::default(),
        }
    }

    async fn start(&self) -> Engine {
        let store = StoreOptions { flush_interval_ms: 5, sweep_interval_ms: 2, ..StoreOptions::default() };
        let check = CheckOptions { grace_seconds: 30, ..CheckOptions::default() };
        let options = EngineOptions { shards: 2, store, check, ..EngineOptions::default() };
        let session = Arc::new(self.store.session_of(SERVER, 2));
        let service = Arc::clone(&self.service) as Arc<dyn OrderCheck>;
        let parts = self.world.parts().with_store(session, SERVER).with_order_check(service);
        Engine::start(options, parts).await.unwrap()
    }
}

#[tokio::test]
async fn cold_orders_are_asked_about_too() {
    let house = House::new();
    let engine = house.start().await;
    engine.submit(create("a", 100)).await.unwrap();
    for (order, quantity, says) in
        [("paid", 1, Say::Paid), ("unpaid", 10, Say::Unpaid), ("silent", 50, Say::Nothing)]
    {
        engine.submit(reserve(order, "a", quantity)).await.unwrap();
        house.service.tell(order, &[says]);
    }
    house.world.clock.advance(Duration::from_secs(TTL));
    until_status(&engine, "paid", OrderStatus::Confirmed).await;
    until_status(&engine, "unpaid", OrderStatus::Expired).await;
    assert_eq!(levels(&engine, "a").await, (49, 50, 1));
    house.world.clock.advance(Duration::from_secs(30));
    until_status(&engine, "silent", OrderStatus::Expired).await;
    until_idle(&engine).await;
    assert_eq!(levels(&engine, "a").await, (99, 0, 1));
    assert_eq!(stats(&engine).released, 1);
    engine.stop().await;
}

/// A store that is away when the answer comes: it is carried out when the store is back.
#[tokio::test]
async fn an_answer_waits_for_the_store() {
    let house = House::new();
    let engine = house.start().await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    house.service.tell("o", &[Say::Paid]);
    house.service.hold();
    house.world.clock.advance(Duration::from_secs(TTL));
    until(async || house.service.asked().len() == 1).await;
    house.store.cut();
    house.service.let_go();
    until(async || stats(&engine).paid == 1).await;
    house.store.mend();
    until_status(&engine, "o", OrderStatus::Confirmed).await;
    until_idle(&engine).await;
    assert_eq!(levels(&engine, "a").await, (7, 0, 2));
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

#[tokio::test]
async fn orders_partly_in_the_store_are_asked_about_once() {
    let house = House::new();
    let engine = house.start().await;
    for name in ["a", "b"] {
        engine.submit(create(name, 9)).await.unwrap();
    }
    engine.promote(&[sku("a")]).await.remove(0).1.unwrap();
    for (order, says) in [("paid", Say::Paid), ("unpaid", Say::Unpaid)] {
        engine.submit(reserve_lines(order, lines(&[("a", 1), ("b", 2)]))).await.unwrap();
        house.service.tell(order, &[says]);
    }
    house.world.clock.advance(Duration::from_secs(TTL));
    until_status(&engine, "paid", OrderStatus::Confirmed).await;
    until_status(&engine, "unpaid", OrderStatus::Expired).await;
    until(async || levels(&engine, "a").await == (8, 0, 1) && levels(&engine, "b").await == (7, 0, 2)).await;
    until_idle(&engine).await;
    let mut asked = house.service.asked();
    asked.sort();
    assert_eq!(asked, ["paid", "unpaid"]);
    engine.stop().await;
}
