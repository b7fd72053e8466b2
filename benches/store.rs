//! The SQL store in figures, one run each: cold orders a second on SQLite and on MariaDB beside the same SKU after
//! promotion; the flush of a burst of orders and the lag that it leaves; the promotion of a SKU with many open
//! reservations; orders while Redis, which mirrors them, is well, emptied, stopped, killed.
//!
//! `cargo bench --bench store -- [--seconds 4] [--rows 10000] [--burst 1000000] [--open 100000] [--only
//! cold|flush|promote|mirror] [--json FILE]`. Everything durable: SQLite with WAL and full sync, MariaDB with a sync
//! at each commit, the journal with its fdatasync. The callers, the engine and MariaDB share the machine.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hotstock_engine::clock::{Clock, Timestamp};
use hotstock_engine::command::{Action, Command, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::dirty::Dirty;
use hotstock_engine::engine::{Engine, EngineOptions, Parts};
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_DIRTY_STOCKS;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;
use hotstock_persistence::mirror::{MirrorOptions, RedisMirror};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::{MariaDb, RedisServer};
use serde_json::{Value, json};

const CALLERS: [usize; 3] = [1, 16, 64];
const BATCH: u64 = 5_000;

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Timestamp(u64::try_from(now.as_millis()).expect("before the year 500 million"))
    }
}

struct Arguments {
    seconds: u64,
    rows: u64,
    burst: u64,
    open: u64,
    only: Option<String>,
    json: Option<String>,
}

fn arguments() -> Arguments {
    let mut taken =
        Arguments { seconds: 4, rows: 10_000, burst: 1_000_000, open: 100_000, only: None, json: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--seconds" => taken.seconds = number(),
            "--rows" => taken.rows = number(),
            "--burst" => taken.burst = number(),
            "--open" => taken.open = number(),
            "--only" => taken.only = arguments.next(),
            "--json" => taken.json = arguments.next(),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    taken
}

fn sku(name: &str) -> SkuId {
    SkuId::new(name).expect("in bounds")
}

fn create(name: &str) -> Command {
    let quantity = 1_000_000_000;
    Action::CreateStock(CreateStock {
        sku_id: sku(name),
        warehouse_id: WarehouseId(1),
        quantity,
        serialized: false,
    })
    .into()
}

fn reserve(order: &str, name: &str) -> Command {
    let line = Line { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity: 1 };
    Action::Reserve(Reserve {
        order_no: OrderNo::new(order).expect("in bounds"),
        lines: Lines::new([line]).expect("in bounds"),
        ttl_seconds: 86_400,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

/// An engine on a data directory and a store of its own.
struct House {
    engine: Engine,
    _home: tempfile::TempDir,
}

async fn house(url: Option<String>) -> House {
    mirrored_house(url, None).await
}

async fn mirrored_house(url: Option<String>, dirty: Option<Arc<Dirty>>) -> House {
    let home = common::on_disk();
    let data_dir = DataDir::open(&home.path().join("data"), Some(1)).expect("it opens");
    let journal = data_dir.journal(JournalOptions::default()).expect("it opens");
    let url = url.unwrap_or_else(|| format!("sqlite://{}", home.path().join("store.db").display()));
    let options = SqlOptions::new(url);
    let server = data_dir.server_id();
    let store = SqlStore::open(&options, server, 1).expect("it opens");
    let mut parts = Parts::new(Box::new(journal), Arc::new(data_dir.checkpoints()), Arc::new(WallClock))
        .with_store(Arc::new(store), server);
    if let Some(dirty) = dirty {
        parts = parts.with_dirty(dirty);
    }
    let engine = Engine::start(EngineOptions::default(), parts).await.expect("it starts");
    House { engine, _home: home }
}

/// Orders a second by `callers`, each sending its next when it has the answer to its last.
async fn rate(
    engine: &Engine,
    callers: usize,
    seconds: u64,
    run: &str,
    name: impl Fn(u64) -> String + Clone + Send + 'static,
) -> (f64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (engine, stop, done, name, run) =
                (engine.clone(), Arc::clone(&stop), Arc::clone(&done), name.clone(), run.to_owned());
            tokio::spawn(async move {
                let (mut made, mut waits) = (0_u64, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    made += 1;
                    let sent = Instant::now();
                    let command = reserve(
                        &format!("{run}-{caller}-{made}"),
                        &name(made * 7_919 + caller as u64 * 104_729),
                    );
                    engine.submit(command).await.expect("there is stock");
                    waits.push(sent.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                waits
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("it ends"));
    }
    let took = began.elapsed().as_secs_f64();
    waits.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let rate = done.load(Ordering::Relaxed) as f64 / took;
    (rate, waits[waits.len() * 99 / 100])
}

async fn cold(store: &str, url: Option<String>, arguments: &Arguments) -> Vec<Value> {
    let house = house(url).await;
    let engine = &house.engine;
    let rows = arguments.rows;
    let mut at = 0;
    while at < rows {
        let batch = (at..rows.min(at + 1_000)).map(|n| create(&format!("row-{n}"))).collect();
        for outcome in engine.submit_batch(batch).await {
            outcome.expect("it is new");
        }
        at += 1_000;
    }
    let mut figures = Vec::new();
    for (place, hot) in [("cold", false), ("hot", true)] {
        if hot {
            let skus: Vec<_> = (0..rows).map(|n| sku(&format!("row-{n}"))).collect();
            let began = Instant::now();
            for some in skus.chunks(1_000) {
                for (sku_id, moved) in engine.promote(some).await {
                    moved.unwrap_or_else(|refusal| panic!("{sku_id}: {refusal}"));
                }
            }
            println!("{store}: {rows} SKUs promoted in {:.2} s", began.elapsed().as_secs_f64());
        }
        for callers in CALLERS {
            for (what, spread) in [("one row", 1), ("all rows", rows)] {
                let run = format!("{place}-{callers}-{spread}");
                let (rate, p99) =
                    rate(engine, callers, arguments.seconds, &run, move |n| format!("row-{}", n % spread))
                        .await;
                println!(
                    "{store:8} {place:4} {callers:3} callers, {what:9}: {rate:9.0} orders/s, p99 {p99:?}"
                );
                figures.push(json!({ "store": store, "place": place, "callers": callers, "rows": spread,
                    "orders_per_second": rate, "p99_micros": p99.as_micros() }));
            }
        }
    }
    engine.stop().await;
    figures
}

async fn burst(engine: &Engine, orders: u64, run: &str, name: &str) {
    let mut at = 0;
    while at < orders {
        let batch = (at..orders.min(at + BATCH)).map(|n| reserve(&format!("{run}-{n}"), name)).collect();
        for outcome in engine.submit_batch(batch).await {
            outcome.expect("there is stock");
        }
        at += BATCH;
    }
}

fn lag(engine: &Engine) -> (u64, u64) {
    let stats = engine.followers();
    (stats.iter().map(|one| one.lag_events).sum(), stats.iter().map(|one| one.lag_millis).max().unwrap_or(0))
}

fn flushed_rows(engine: &Engine) -> u64 {
    engine.stats().store.map_or(0, |store| store.flushed_rows)
}

async fn flush(store: &str, url: Option<String>, arguments: &Arguments) -> Value {
    let house = house(url).await;
    let engine = &house.engine;
    engine.submit(create("burst")).await.expect("it is new");
    engine.promote(&[sku("burst")]).await.remove(0).1.expect("it moves");
    let rows_before = flushed_rows(engine);
    let began = Instant::now();
    burst(engine, arguments.burst, "burst", "burst").await;
    let made = began.elapsed().as_secs_f64();
    let (events, millis) = lag(engine);
    while lag(engine).0 > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed().as_secs_f64();
    let rows = flushed_rows(engine) - rows_before;
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let rate = rows as f64 / took;
    println!(
        "{store}: a burst of {} orders in {made:.1} s left a lag of {events} events ({millis} ms); all flushed after {took:.1} s: {rows} rows, {rate:.0} rows/s",
        arguments.burst
    );
    engine.stop().await;
    json!({ "store": store, "orders": arguments.burst, "burst_seconds": made, "lag_events": events, "lag_millis": millis,
        "flushed_after_seconds": took, "rows": rows, "rows_per_second": rate })
}

async fn promote(store: &str, url: Option<String>, arguments: &Arguments) -> Value {
    let house = house(url).await;
    let engine = &house.engine;
    engine.submit(create("many")).await.expect("it is new");
    // Made hot, where it is quick, and brought back: then they are open reservations of a cold SKU.
    engine.promote(&[sku("many")]).await.remove(0).1.expect("it moves");
    burst(engine, arguments.open, "open", "many").await;
    while lag(engine).0 > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let began = Instant::now();
    engine.demote(&[sku("many")]).await.remove(0).1.expect("it moves");
    let demoted = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let moved = engine.promote(&[sku("many")]).await.remove(0).1.expect("it moves");
    let promoted = began.elapsed().as_secs_f64();
    println!(
        "{store}: {} open reservations demoted in {demoted:.2} s, promoted in {promoted:.2} s",
        moved.orders
    );
    engine.stop().await;
    json!({ "store": store, "orders": moved.orders, "demote_seconds": demoted, "promote_seconds": promoted })
}

/// Orders on hot SKUs, in rounds, so that what the machine does besides falls on all states of Redis alike.
async fn mirror(arguments: &Arguments) -> Vec<Value> {
    const ROUNDS: usize = 3;
    let mut redis = RedisServer::start();
    let dirty = Arc::new(Dirty::new(MAX_DIRTY_STOCKS));
    let house = mirrored_house(None, Some(Arc::clone(&dirty))).await;
    let engine = &house.engine;
    let skus: Vec<_> = (0..100).map(|n| format!("mirrored-{n}")).collect();
    for outcome in engine.submit_batch(skus.iter().map(|name| create(name)).collect()).await {
        outcome.expect("it is new");
    }
    for (_, moved) in engine.promote(&skus.iter().map(|name| sku(name)).collect::<Vec<_>>()).await {
        moved.expect("it moves");
    }
    let options = MirrorOptions { redis_url: redis.url(), ..MirrorOptions::default() };
    let mirror = RedisMirror::start(options, dirty, Arc::new(engine.clone())).expect("its options are right");
    let states = ["well", "emptied again and again", "stopped", "killed"];
    let mut sums = [(0.0, Duration::ZERO); 4];
    for round in 0..ROUNDS {
        for (at, state) in states.into_iter().enumerate() {
            match state {
                "stopped" => redis.stop_signal(),
                "killed" => redis.kill(),
                _ => {}
            }
            let flushing = Arc::new(AtomicBool::new(state.starts_with("emptied")));
            let (again, port) = (Arc::clone(&flushing), redis.port());
            let flusher = std::thread::spawn(move || {
                while again.load(Ordering::Relaxed) {
                    let emptied = std::net::TcpStream::connect(("127.0.0.1", port))
                        .and_then(|mut stream| std::io::Write::write_all(&mut stream, b"FLUSHALL\r\n"));
                    emptied.expect("Redis takes it");
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            let run = format!("mirror-{round}-{at}");
            let (rate, p99) =
                rate(engine, 64, arguments.seconds, &run, |n| format!("mirrored-{}", n % 100)).await;
            flushing.store(false, Ordering::Relaxed);
            flusher.join().expect("it ends");
            match state {
                "stopped" => redis.continue_signal(),
                "killed" => redis.restart(),
                _ => {}
            }
            sums[at].0 += rate;
            sums[at].1 += p99;
        }
    }
    let mut figures = Vec::new();
    for (state, (rate, p99)) in states.into_iter().zip(sums) {
        let ratio = rate / sums[0].0;
        #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
        let (rate, p99) = (rate / ROUNDS as f64, p99 / u32::try_from(ROUNDS).expect("few"));
        println!(
            "Redis {state}: {rate:.0} orders/s ({ratio:.2} of well), p99 {p99:?}, mean of {ROUNDS} rounds"
        );
        figures.push(json!({ "redis": state, "orders_per_second": rate, "of_well": ratio, "p99_micros": p99.as_micros() }));
    }
    mirror.stop().await;
    engine.stop().await;
    figures
}

#[tokio::main]
async fn main() {
    let arguments = arguments();
    let wanted = |what: &str| arguments.only.as_deref().is_none_or(|only| only == what);
    let database = MariaDb::start();
    let (mut colds, mut flushes, mut promotions) = (Vec::new(), Vec::new(), Vec::new());
    for store in ["sqlite", "mariadb"] {
        let url = |name: &str| (store == "mariadb").then(|| database.url(name));
        if wanted("cold") {
            colds.extend(cold(store, url("cold"), &arguments).await);
        }
        if wanted("promote") {
            promotions.push(promote(store, url("promotion"), &arguments).await);
        }
        if wanted("flush") {
            flushes.push(flush(store, url("flush"), &arguments).await);
        }
    }
    let mirrors = if wanted("mirror") { mirror(&arguments).await } else { Vec::new() };
    if let Some(path) = &arguments.json {
        let all = json!({ "durability": "every answer behind a sync", "machine_cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "payload": "one line an order, quantity 1", "cold": colds, "flush": flushes, "promotion": promotions, "mirror": mirrors });
        std::fs::write(path, serde_json::to_vec_pretty(&all).expect("numbers and text"))
            .expect("the file can be written");
    }
}
