//! The Redis mirror against a real Redis: it converges whatever happens to Redis, never shows an older level after a
//! newer one, and nobody who changes stock waits for it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::command::StockStatus;
use hotstock_engine::counters::MirrorStats;
use hotstock_engine::dirty::Dirty;
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::mirror::{Mirror, MirrorSource, Mirrored, Put};
use hotstock_engine::outcome::{Refusal, StockView};
use hotstock_engine::units::Levels;
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions, RedisMirror};
use hotstock_persistence::testing::RedisServer;

/// Longer than any of this takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

type Key = (SkuId, WarehouseId);

/// The truth: stocks whose levels follow from their version, so that a reader can tell whether they belong together.
#[derive(Default)]
struct Shop {
    stocks: Mutex<BTreeMap<Key, StockView>>,
    /// So many pages can't be read, the first of them with a panic.
    faults: AtomicU32,
}

fn stock(sku: &str, warehouse: u32, version: u64) -> StockView {
    let levels = Levels { available: version * 3, reserved: version, sold: version / 2, version };
    let status = if version.is_multiple_of(5) { StockStatus::Suspended } else { StockStatus::OnSale };
    StockView {
        sku_id: SkuId::new(sku).unwrap(),
        warehouse_id: WarehouseId(warehouse),
        levels,
        status,
        serialized: false,
    }
}

fn key(stock: &StockView) -> Key {
    (stock.sku_id.clone(), stock.warehouse_id)
}

impl Shop {
    fn with(skus: usize) -> Arc<Self> {
        let shop = Self::default();
        for number in 0..skus {
            shop.put(stock(&format!("sku-{number:05}"), 1, 1));
        }
        Arc::new(shop)
    }

    fn put(&self, stock: StockView) {
        self.stocks.lock().unwrap().insert(key(&stock), stock);
    }

    /// The next version of a stock; published before it is marked, as the journal writer does.
    fn change(&self, sku: &str, warehouse: u32, dirty: &Dirty) {
        let next = {
            let mut stocks = self.stocks.lock().unwrap();
            let entry = stocks.get_mut(&(SkuId::new(sku).unwrap(), WarehouseId(warehouse))).unwrap();
            *entry = stock(sku, warehouse, entry.levels.version + 1);
            entry.clone()
        };
        dirty.mark(next);
    }

    fn all(&self) -> Vec<StockView> {
        self.stocks.lock().unwrap().values().cloned().collect()
    }
}

#[async_trait]
impl MirrorSource for Shop {
    async fn page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        let faults = self.faults.load(Ordering::SeqCst);
        if faults > 0 {
            self.faults.store(faults - 1, Ordering::SeqCst);
            assert!(faults != 3, "a fault on purpose");
            return Err(Refusal::StoreUnavailable);
        }
        let stocks = self.stocks.lock().unwrap();
        let from =
            after.map_or(Bound::Unbounded, |sku| Bound::Excluded((sku.clone(), WarehouseId(u32::MAX))));
        let mut page: Vec<Vec<StockView>> = Vec::new();
        for (_, stock) in stocks.range((from, Bound::Unbounded)) {
            let is_full = page.len() == limit;
            match page.last_mut() {
                Some(last) if last[0].sku_id == stock.sku_id => last.push(stock.clone()),
                _ if is_full => break,
                _ => page.push(vec![stock.clone()]),
            }
        }
        Ok(page)
    }
}

fn options(server: &RedisServer) -> MirrorOptions {
    MirrorOptions { redis_url: server.url(), timeout_ms: 500, ..MirrorOptions::default() }
}

fn start(server: &RedisServer, shop: &Arc<Shop>, dirty: &Arc<Dirty>) -> RedisMirror {
    RedisMirror::start(options(server), Arc::clone(dirty), Arc::clone(shop) as _).unwrap()
}

fn access(server: &RedisServer) -> MirrorAccess {
    MirrorAccess::new(options(server)).unwrap()
}

/// Waits until something is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looked = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    looked.await.unwrap_or_else(|_| panic!("not {what} after {PATIENCE:?}"))
}

async fn until_stats(what: &str, mirror: &RedisMirror, is_so: impl Fn(&MirrorStats) -> bool) -> MirrorStats {
    until(what, async || Some(mirror.stats()).filter(&is_so)).await
}

/// Waits until Redis shows exactly what the shop has.
async fn converged(server: &RedisServer, shop: &Shop) {
    let access = access(server);
    until("converged", async || {
        let all = shop.all();
        let keys: Vec<Key> = all.iter().map(key).collect();
        let shown = access.levels(&keys).await.ok()?;
        shown.iter().zip(&all).all(|(shown, stock)| shown.shows(stock)).then_some(())
    })
    .await;
}

async fn connect(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn say(server: &RedisServer, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.exec_async(&mut connect(server).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_find_both_keys_of_every_stock() {
    let server = RedisServer::start();
    let (shop, dirty) = (Arc::new(Shop::default()), Arc::new(Dirty::new(100)));
    for sku in ["85123A", "BANK CHARGES", "Größe: 5", "a", "a:levels", "a:levels%", "1:a", "{tag}"] {
        shop.put(stock(sku, 1, 4));
        shop.put(stock(sku, 11, 5));
    }
    let mirror = start(&server, &shop, &dirty);
    converged(&server, &shop).await;
    shop.change("BANK CHARGES", 11, &dirty);
    converged(&server, &shop).await;

    let mut connection = connect(&server).await;
    let plain: i64 = redis::cmd("GET").arg("inv:1:85123A").query_async(&mut connection).await.unwrap();
    assert_eq!(plain, 12);
    let hash = redis::cmd("HGETALL").arg("inv:11:BANK CHARGES:levels").to_owned();
    let hash: HashMap<String, String> = hash.query_async(&mut connection).await.unwrap();
    let expected =
        [("available", "18"), ("reserved", "6"), ("sold", "3"), ("version", "6"), ("status", "on_sale")];
    assert_eq!(hash, expected.map(|(field, value)| (field.to_owned(), value.to_owned())).into());
    let keys: Vec<String> = redis::cmd("KEYS").arg("inv:*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys.len(), 2 * 16 + 1, "both of each stock, and the mark: {keys:?}");

    until_stats("quiet", &mirror, |stats| stats.lag == 0 && !stats.resyncing).await;
    mirror.stop().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("inv:*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys.len(), 2 * 16, "the mark goes with the mirror");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_it_has_written_what_was_marked() {
    let server = RedisServer::start();
    let (shop, dirty) = (Shop::with(3_000), Arc::new(Dirty::new(10_000)));
    let mirror = start(&server, &shop, &dirty);
    until_stats("resynced", &mirror, |stats| stats.resyncs == 1).await;
    for number in 0..3_000 {
        shop.change(&format!("sku-{number:05}"), 1, &dirty);
    }
    mirror.stop().await;
    let all = shop.all();
    let keys: Vec<Key> = all.iter().map(key).collect();
    let shown = access(&server).levels(&keys).await.unwrap();
    assert!(shown.iter().zip(&all).all(|(shown, stock)| shown.shows(stock)));
    assert_eq!(mirror.stats().lag, 0);
}

/// Two servers with one Redis: both follow the same changes, the second reads pages that are long out of date, both
/// begin again and again; somebody watches all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_level_never_comes_after_a_newer_one() {
    const STOCKS: usize = 40;
    const CHANGES: usize = 400;
    let server = RedisServer::start();
    let (shop, stale) = (Shop::with(STOCKS), Shop::with(STOCKS));
    // Too small on purpose: changes are dropped, and all stocks are read again.
    let (first_dirty, second_dirty) = (Arc::new(Dirty::new(10)), Arc::new(Dirty::new(15)));
    let first = start(&server, &shop, &first_dirty);
    let second = start(&server, &stale, &second_dirty);
    let is_over = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (access, is_over) = (access(&server), Arc::clone(&is_over));
        let keys: Vec<Key> = shop.all().iter().map(key).collect();
        tokio::spawn(async move {
            let mut seen = vec![0; keys.len()];
            let mut rounds = 0_u64;
            loop {
                let last = is_over.load(Ordering::SeqCst);
                let shown = access.levels(&keys).await.unwrap();
                for (index, shown) in shown.iter().enumerate() {
                    let Some((levels, _)) = shown.levels else {
                        assert!(seen[index] == 0 && shown.available.is_none(), "{:?} went away", keys[index]);
                        continue;
                    };
                    let version = levels.version;
                    assert!(version >= seen[index], "{:?}: {version} after {}", keys[index], seen[index]);
                    let whole = stock(keys[index].0.as_str(), 1, version);
                    assert!(shown.shows(&whole), "not of one version: {shown:?}");
                    seen[index] = version;
                }
                rounds += 1;
                if last {
                    return (seen, rounds);
                }
            }
        })
    };
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (shop, dirty) = (Arc::clone(&shop), [Arc::clone(&first_dirty), Arc::clone(&second_dirty)]);
            tokio::spawn(async move {
                for change in 0..CHANGES * STOCKS / 4 {
                    let sku = format!("sku-{:05}", (change * 4 + writer) % STOCKS);
                    shop.change(&sku, 1, &dirty[change % 2]);
                    if change % 50 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // The second has dropped changes for good: only the first can make it whole.
    shop.all().into_iter().for_each(|stock| first_dirty.mark(stock));
    converged(&server, &shop).await;
    is_over.store(true, Ordering::SeqCst);
    let (seen, rounds) = watcher.await.unwrap();
    assert!(seen.iter().all(|version| *version == 1 + CHANGES as u64), "{seen:?}");
    assert!(rounds > 10, "the watcher looked {rounds} times only");
    assert!(first.stats().resyncs + second.stats().resyncs > 2, "{:?} {:?}", first.stats(), second.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_converges_after_redis_was_emptied() {
    let server = RedisServer::start();
    let (shop, dirty) = (Shop::with(2_500), Arc::new(Dirty::new(10_000)));
    let mirror = start(&server, &shop, &dirty);
    converged(&server, &shop).await;
    until_stats("resynced", &mirror, |stats| stats.resyncs == 1).await;

    say(&server, &["FLUSHALL"]).await;
    shop.change("sku-00007", 1, &dirty);
    until_stats("resynced", &mirror, |stats| stats.resyncs == 2).await;
    converged(&server, &shop).await;

    say(&server, &["SCRIPT", "FLUSH"]).await;
    shop.change("sku-00008", 1, &dirty);
    converged(&server, &shop).await;
    let stats = mirror.stats();
    assert_eq!((stats.errors, stats.resyncs), (0, 2), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_converges_after_redis_was_killed() {
    let mut server = RedisServer::start();
    let (shop, dirty) = (Shop::with(1_200), Arc::new(Dirty::new(100)));
    let mirror = start(&server, &shop, &dirty);
    converged(&server, &shop).await;
    server.kill();
    for round in 0..3 {
        for number in 0..300 {
            shop.change(&format!("sku-{number:05}"), 1, &dirty);
        }
        until_stats("without Redis", &mirror, |stats| stats.errors > round && !stats.connected).await;
    }
    let stats = mirror.stats();
    assert!(stats.lag > 0 && stats.lag <= 100 && stats.resyncing && stats.last_error.is_some(), "{stats:?}");
    server.restart();
    converged(&server, &shop).await;
    until_stats("quiet", &mirror, |stats| stats.connected && stats.lag == 0 && !stats.resyncing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_need_not_be_there_at_the_start() {
    let mut server = RedisServer::start();
    server.kill();
    let (shop, dirty) = (Shop::with(10), Arc::new(Dirty::new(100)));
    let mirror = start(&server, &shop, &dirty);
    until_stats("without Redis", &mirror, |stats| stats.errors > 1).await;
    assert_eq!(mirror.stats().since_success, None);
    server.restart();
    converged(&server, &shop).await;
    until_stats("connected", &mirror, |stats| stats.connected && stats.since_success.is_some()).await;
    // And it ends when Redis is away again.
    server.kill();
    shop.change("sku-00001", 1, &dirty);
    mirror.stop().await;
}

/// A Redis that stands still: whoever changes stock goes on, with a bound on what is kept for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_slow_redis() {
    let server = RedisServer::start();
    let (shop, dirty) = (Shop::with(1_000), Arc::new(Dirty::new(200)));
    let mirror = start(&server, &shop, &dirty);
    converged(&server, &shop).await;
    let errors = mirror.stats().errors;
    server.stop_signal();
    // This ends though Redis stands still: that is what is tested.
    for change in 0..50_000 {
        shop.change(&format!("sku-{:05}", change % 1_000), 1, &dirty);
    }
    let stats = until_stats("timed out", &mirror, |stats| stats.errors > errors + 1).await;
    assert!(stats.lag > 0 && stats.lag <= 200 && !stats.connected, "{stats:?}");
    server.continue_signal();
    converged(&server, &shop).await;
    until_stats("quiet", &mirror, |stats| stats.connected && stats.lag == 0 && !stats.resyncing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_converges_when_stocks_can_be_read_again() {
    let server = RedisServer::start();
    let (shop, dirty) = (Shop::with(1_100), Arc::new(Dirty::new(100)));
    shop.faults.store(4, Ordering::SeqCst);
    let mirror = start(&server, &shop, &dirty);
    shop.change("sku-00001", 1, &dirty);
    converged(&server, &shop).await;
    let stats = until_stats("resynced", &mirror, |stats| stats.resyncs == 1).await;
    assert_eq!((stats.source_errors, stats.errors), (4, 0), "{stats:?}");
}

/// What somebody else left under our keys; and what only a repair may replace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_redis_can_be_put_right() {
    let server = RedisServer::start();
    let shop = Shop::with(5);
    let wrong: [&[&str]; 6] = [
        &["SET", "inv:1:sku-00000:levels", "not a hash"],
        &["HSET", "inv:1:sku-00001:levels", "version", "many"],
        &["RPUSH", "inv:1:sku-00002", "a list"],
        &["HSET", "inv:1:sku-00003:levels", "version", "99999999999999999999"],
        &["HSET", "inv:1:sku-00004:levels", "version", "900", "available", "5", "reserved", "1", "sold", "0"],
        &["HSET", "inv:1:sku-00004:levels", "status", "suspended"],
    ];
    for words in wrong {
        say(&server, words).await;
    }
    let access = access(&server);
    let all = shop.all();
    let keys: Vec<Key> = all.iter().map(key).collect();
    let found = access.levels(&keys).await.unwrap();
    let high = Levels { available: 5, reserved: 1, sold: 0, version: 900 };
    let expected =
        Mirrored { available: None, levels: Some((high, StockStatus::Suspended)), version: Some(900) };
    assert_eq!(found[4], expected);
    assert!(found[..4].iter().all(|shown| *shown == Mirrored::default()), "{found:?}");

    let puts = |over| -> Vec<Put> { all.iter().map(|stock| Put { stock: stock.clone(), over }).collect() };
    access.put(&puts(None)).await.unwrap();
    let shown = access.levels(&keys).await.unwrap();
    assert!(shown[..4].iter().zip(&all).all(|(shown, stock)| shown.shows(stock)), "{shown:?}");
    assert_eq!(shown[4], expected, "it is newer, as far as anybody can tell");
    access.put(&puts(Some(899))).await.unwrap();
    assert_eq!(access.levels(&keys[4..]).await.unwrap(), [expected], "somebody else was there meanwhile");
    access.put(&puts(Some(900))).await.unwrap();
    assert!(access.levels(&keys[4..]).await.unwrap()[0].shows(&all[4]));
}
