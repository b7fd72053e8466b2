//! SKUs that are kept in memory: loaded ahead, never evicted, across restarts and a lost directory of checkpoints.

use hotstock_engine::engine::Engine;
use hotstock_engine::outcome::{Effect, Refusal};

use crate::support::{World, create, demote, promote, sku, tight, until, until_flushed};

fn hot(engine: &Engine) -> Vec<String> {
    engine.hot(None, 99).into_iter().map(|hot| hot.sku_id.to_string()).collect()
}

async fn until_evicted(engine: &Engine, resident: u64) {
    until_flushed(engine).await;
    until(|| engine.stats().shards.iter().map(|shard| shard.resident).sum::<u64>() <= resident).await;
}

#[tokio::test]
async fn what_is_hot_stays_across_restarts() {
    let world = World::new();
    let engine = world.start(tight(2)).await;
    for n in 0..20 {
        engine.submit(create(&format!("s{n}"), 5)).await.unwrap();
    }
    until_evicted(&engine, 2).await;
    for n in 0..6 {
        assert_eq!(promote(&engine, &format!("s{n}")).await.unwrap().effect, Effect::Changed);
        assert_eq!(promote(&engine, &format!("s{n}")).await.unwrap().effect, Effect::Replayed);
    }
    let unknown = promote(&engine, "nobody").await;
    assert!(matches!(unknown, Err(Refusal::UnknownSku { .. })), "{unknown:?}");
    let expected: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    assert_eq!(hot(&engine), expected);
    engine.checkpoint_now();
    engine.stop().await;

    let engine = world.start(tight(2)).await;
    assert_eq!(hot(&engine), expected);
    assert_eq!(demote(&engine, "s0").await.unwrap().effect, Effect::Changed);
    assert_eq!(demote(&engine, "s0").await.unwrap().effect, Effect::Replayed);
    until_evicted(&engine, 7).await;
    assert_eq!(demote(&engine, "s19").await.unwrap().effect, Effect::Replayed, "it is in the store");
    assert!(matches!(demote(&engine, "nobody").await, Err(Refusal::UnknownSku { .. })));
    world.session().cut();
    // They are in memory whatever the store does.
    for n in 1..6 {
        assert_eq!(engine.stock(&sku(&format!("s{n}")), None).await.unwrap()[0].levels.available, 5);
    }
    assert_eq!(promote(&engine, "s18").await, Err(Refusal::StoreUnavailable));
    engine.stop().await;
    let engine = world.start(tight(2)).await;
    assert_eq!(hot(&engine), expected[1..]);
    engine.stop().await;
}

#[tokio::test]
async fn the_hot_list_is_replaced_as_a_whole() {
    let world = World::new();
    let engine = world.start(tight(2)).await;
    for n in 0..6 {
        engine.submit(create(&format!("s{n}"), 5)).await.unwrap();
    }
    let names = |numbers: &[u32]| numbers.iter().map(|n| sku(&format!("s{n}"))).collect::<Vec<_>>();
    let effects = async |numbers: &[u32]| {
        let results = engine.set_hot(names(numbers)).await.unwrap();
        let effect = |(sku_id, result): (hotstock_engine::ids::SkuId, Result<_, Refusal>)| {
            (sku_id.to_string(), result.map(|pinned: hotstock_engine::pins::Pinned| pinned.effect).ok())
        };
        results.into_iter().map(effect).collect::<Vec<_>>()
    };
    let changed = |n: u32| (format!("s{n}"), Some(Effect::Changed));
    let same = |n: u32| (format!("s{n}"), Some(Effect::Replayed));
    assert_eq!(effects(&[1, 2, 3]).await, [changed(1), changed(2), changed(3)]);
    assert_eq!(effects(&[2, 4]).await, [changed(1), same(2), changed(3), changed(4)]);
    assert_eq!(hot(&engine), ["s2", "s4"]);
    assert_eq!(effects(&[2, 9]).await, [same(2), changed(4), ("s9".to_owned(), None)]);
    assert_eq!(effects(&[]).await, [changed(2)]);
    assert_eq!(hot(&engine), [""; 0]);
    let too_many = (0..10_001).map(|n| sku(&format!("t{n}"))).collect();
    assert!(matches!(engine.set_hot(too_many).await, Err(Refusal::InvalidField(_))));
    engine.stop().await;
}

#[tokio::test]
async fn ten_thousand_skus_are_preheated_at_once() {
    let world = World::new();
    let engine = world.start(tight(4)).await;
    let create = |n: u32| create(&format!("s{n}"), 5);
    assert!(engine.submit_batch((0..10_000).map(create).collect()).await.iter().all(Result::is_ok));
    until_evicted(&engine, 4).await;
    let names: Vec<_> = (0..10_000).map(|n| sku(&format!("s{n}"))).collect();
    let (calls, _) = world.session().loads();
    let results = engine.promote(&names).await;
    assert!(results.iter().all(|(_, result)| result.is_ok()));
    assert!(results.iter().zip(&names).all(|((sku_id, _), name)| sku_id == name), "in the order given");
    let calls = world.session().loads().0 - calls;
    assert!(calls < 200, "{calls} calls");
    assert_eq!(engine.stats().shards.iter().map(|shard| shard.hot).sum::<u64>(), 10_000);
    engine.stop().await;
}
