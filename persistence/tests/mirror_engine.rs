//! A whole engine with a store and a Redis beside it: orders, loads and evictions go on whatever happens to Redis,
//! and in the end Redis shows what callers are told.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
use hotstock_engine::dirty::Dirty;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_DIRTY_STOCKS;
use hotstock_engine::mirror::Mirror;
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::reconcile::{Reconcile, Reconciled};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal,
};
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions, RedisMirror};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::RedisServer;

const SKUS: [&str; 4] = ["a", "b", "c: d", "e:levels"];

async fn engine(url: &str, dirty: &Arc<Dirty>) -> Engine {
    let parts = Parts::new(
        Box::new(MemoryJournal::default().open()),
        Arc::new(MemoryCheckpoints::default()),
        Arc::new(MemoryFilters::default()),
        Arc::new(MemoryIdentity::default()),
        Arc::new(ManualClock::default()),
        Arc::new(SqlStore::open(&SqlOptions::new(url)).unwrap()),
    );
    let store = StoreOptions { flush_interval_ms: 20, ..StoreOptions::default() };
    // Two of the four SKUs fit: loading and evicting never stop.
    let options =
        EngineOptions { store, max_resident_skus: 2, remember_seconds: 1, ..EngineOptions::default() };
    Engine::start(options, parts.with_dirty(Arc::clone(dirty))).await.unwrap()
}

fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

/// A reserve of one unit, then a confirm or a release.
async fn order(engine: &Engine, n: usize) {
    let order_no = OrderNo::new(&format!("o-{n}")).unwrap();
    let line = Line { sku_id: sku(SKUS[n % SKUS.len()]), warehouse_id: WarehouseId(1), quantity: 1 };
    let reserve = Reserve {
        order_no: order_no.clone(),
        lines: Lines::new([line]).unwrap(),
        ttl_seconds: 900,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    };
    engine.submit(Action::Reserve(reserve).into()).await.unwrap();
    let end = match n % 3 {
        0 => Action::Confirm(Confirm { order_no, part: None }),
        _ => Action::Release(Release { order_no, part: None, reason: None }),
    };
    engine.submit(end.into()).await.unwrap();
}

async fn look(engine: &Engine, options: &MirrorOptions) -> Reconciled {
    let mirror: Arc<dyn Mirror> = Arc::new(MirrorAccess::new(options.clone()).unwrap());
    let ask = Reconcile { limit: 100, mirror: Some(mirror), ..Reconcile::default() };
    engine.reconcile(ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_loads_go_on_whatever_happens_to_redis() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    let dirty = Arc::new(Dirty::new(MAX_DIRTY_STOCKS));
    let engine = engine(&format!("sqlite:{}", dir.path().join("store").display()), &dirty).await;
    let options = MirrorOptions { redis_url: redis.url(), timeout_ms: 300, ..MirrorOptions::default() };
    let mirror = RedisMirror::start(options.clone(), dirty, Arc::new(engine.clone())).unwrap();
    for name in SKUS {
        let (sku_id, warehouse_id) = (sku(name), WarehouseId(1));
        let create = CreateStock { sku_id, warehouse_id, quantity: 1_000_000, serialized: false };
        engine.submit(Action::CreateStock(create).into()).await.unwrap();
    }
    engine.promote(&[sku("b")]).await.remove(0).1.unwrap();

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let orders = {
        let (engine, stop, done) = (engine.clone(), Arc::clone(&stop), Arc::clone(&done));
        tokio::spawn(async move {
            for n in 0_usize.. {
                order(&engine, n).await;
                done.fetch_add(1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    };
    let pins = {
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
    pins.await.unwrap();

    let found = look(&engine, &options).await;
    assert_eq!((found.skus, &found.differences[..], found.mirror_error), (4, &[][..], None));
    mirror.stop().await;
    // Over the mirror's end, too: the last levels are there.
    assert_eq!(look(&engine, &options).await.differences, []);
    engine.stop().await;
}
