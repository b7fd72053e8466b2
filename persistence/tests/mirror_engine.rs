//! A whole engine with a store and a Redis beside it: orders and moves go on whatever happens to Redis, and in the end
//! Redis shows what callers are told.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hotstock_engine::dirty::Dirty;
use hotstock_engine::engine::{Engine, EngineOptions, Parts, StoreOptions};
use hotstock_engine::ids::ServerId;
use hotstock_engine::limits::MAX_DIRTY_STOCKS;
use hotstock_engine::mirror::Mirror;
use hotstock_engine::reconcile::{Reconcile, Reconciled};
use hotstock_engine::testing::flush_suite::{W1, confirm, create, release, reserve, sku};
use hotstock_engine::testing::{ManualClock, MemoryCheckpoints, MemoryJournal};
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions, RedisMirror};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::RedisServer;

const SKUS: [&str; 4] = ["a", "b", "c: d", "e:levels"];
const SERVER: ServerId = ServerId(7);

async fn engine(url: &str, dirty: &Arc<Dirty>) -> Engine {
    let store = SqlStore::open(&SqlOptions::new(url), SERVER, 1).unwrap();
    let journal = MemoryJournal::default().open();
    let clock = Arc::new(ManualClock::default());
    let parts = Parts::new(Box::new(journal), Arc::new(MemoryCheckpoints::default()), clock)
        .with_store(Arc::new(store), SERVER)
        .with_dirty(Arc::clone(dirty));
    let store = StoreOptions { flush_interval_ms: 20, ..StoreOptions::default() };
    Engine::start(EngineOptions { store, ..EngineOptions::default() }, parts).await.unwrap()
}

async fn look(engine: &Engine, options: &MirrorOptions) -> Reconciled {
    let mirror: Arc<dyn Mirror> = Arc::new(MirrorAccess::new(options.clone()).unwrap());
    let ask = Reconcile { limit: 100, mirror: Some(mirror), ..Reconcile::default() };
    engine.reconcile(ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_moves_go_on_whatever_happens_to_redis() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    let dirty = Arc::new(Dirty::new(MAX_DIRTY_STOCKS));
    let engine = engine(&format!("sqlite:{}", dir.path().join("store").display()), &dirty).await;
    let options = MirrorOptions { redis_url: redis.url(), timeout_ms: 300, ..MirrorOptions::default() };
    let mirror = RedisMirror::start(options.clone(), dirty, Arc::new(engine.clone())).unwrap();
    for name in SKUS {
        engine.submit(create(name, W1, 1_000_000).into()).await.unwrap();
    }
    engine.promote(&[sku("b")]).await.remove(0).1.unwrap();

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let orders = {
        let (engine, stop, done) = (engine.clone(), Arc::clone(&stop), Arc::clone(&done));
        tokio::spawn(async move {
            for n in 0_usize.. {
                let number = format!("o-{n}");
                engine.submit(reserve(&number, &[(SKUS[n % SKUS.len()], 1)]).into()).await.unwrap();
                let end = if n % 3 == 0 { confirm(&number, None) } else { release(&number, None) };
                engine.submit(end.into()).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    };
    let moves = {
        let (engine, stop) = (engine.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                engine.promote(&[sku("a")]).await.remove(0).1.unwrap();
                engine.demote(&[sku("a")]).await.remove(0).1.unwrap();
            }
        })
    };
    // So many more orders, each answered.
    let some_orders = async || {
        let aim = done.load(Ordering::SeqCst) + 40;
        while done.load(Ordering::SeqCst) < aim {
            assert!(!orders.is_finished(), "an order was refused");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mirrored = async || {
        while !mirror.stats().connected || mirror.stats().resyncing {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };

    mirrored().await;
    some_orders().await;
    // While everything moves, nothing is told.
    let found = look(&engine, &options).await;
    assert_eq!((found.skus, &found.differences[..], found.mirror_error), (4, &[][..], None));
    redis.kill();
    some_orders().await;
    redis.restart();
    mirrored().await;
    redis.stop_signal();
    some_orders().await;
    while mirror.stats().connected {
        some_orders().await;
    }
    redis.continue_signal();
    mirrored().await;
    let resyncs = mirror.stats().resyncs;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    while mirror.stats().resyncs == resyncs {
        some_orders().await;
    }
    stop.store(true, Ordering::SeqCst);
    orders.await.unwrap();
    moves.await.unwrap();

    let found = look(&engine, &options).await;
    assert_eq!((found.skus, &found.differences[..], found.mirror_error), (4, &[][..], None));
    mirror.stop().await;
    // Over the mirror's end, too: the last levels are there.
    assert_eq!(look(&engine, &options).await.differences, []);
    engine.stop().await;
}
