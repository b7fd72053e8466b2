//! Orders on stored SKUs beside plain SQL written by hand, on the same SQLite and the same MariaDB, in one run; and
//! what memory, loading and starting cost.
//!
//! `cargo bench --bench stored -- [--seconds 4] [--rounds 3] [--skus 10000] [--memory 1000000] [--known 0] [--only
//! compare|hot|load|memory|start] [--json FILE]`
//!
//! The generator is this process, for all alike: 1, 16 and 64 callers, each sending its next order when it has the
//! answer to its last; an order has one line of one unit, its SKU is taken at random; where few SKUs fit into memory it
//! is confirmed too, since the SKU of an open order stays there. hotstock is asked over HTTP, a
//! server in a process of its own, every answer behind its fdatasync. Plain SQL is one transaction over a connection
//! of the caller's: a conditional update of the stock, an insert of the order and one of its line; SQLite with WAL
//! and full sync and one connection (it has one writer, and several only wait for each other), MariaDB with a sync at
//! each commit. The kinds take turns in rounds, so that what the machine does besides falls on all alike; medians.

#[path = "common/http.rs"]
mod http;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotstock_persistence::testing::MariaDb;
use http::{Http, Round, Server, drive};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use tokio::sync::Mutex;

const CALLERS: [usize; 3] = [1, 16, 64];
/// Units of a stock: more than any run sells.
const PLENTY: u64 = 1_000_000_000;
/// Connections that create SKUs.
const CREATORS: usize = 256;
/// Operations of one batch request of the preparations.
const BATCH: usize = 5_000;
/// Ids of one promotion.
const PROMOTED: usize = 10_000;
/// Looks at a server that still has something to do, and the pause between them: twenty minutes in all, for the
/// largest backlog.
const MAX_LOOKS: usize = 60_000;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

struct Arguments {
    length: Duration,
    rounds: usize,
    skus: usize,
    memory: usize,
    known: usize,
    only: Option<String>,
    json: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut taken = Arguments {
        length: Duration::from_secs(4),
        rounds: 3,
        skus: 10_000,
        memory: 1_000_000,
        known: 0,
        only: None,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut next = || arguments.next().expect("a value follows");
        let number = |text: String| text.parse::<usize>().expect("a number follows");
        match argument.as_str() {
            "--seconds" => taken.length = Duration::from_secs_f64(next().parse().expect("a number follows")),
            "--rounds" => taken.rounds = number(next()),
            "--skus" => taken.skus = number(next()),
            "--memory" => taken.memory = number(next()),
            "--known" => taken.known = number(next()),
            "--only" => taken.only = Some(next()),
            "--json" => taken.json = Some(next().into()),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    taken
}

/// A database of one's own for each kind, and where hotstock has its data.
struct Place {
    name: &'static str,
    dir: tempfile::TempDir,
    mariadb: Option<Arc<MariaDb>>,
}

impl Place {
    fn settings(&self, database: &str) -> Vec<String> {
        self.mariadb.iter().map(|mariadb| format!("store.url={}", mariadb.url(database))).collect()
    }

    fn serve(&self, name: &str, settings: &[&str]) -> Server {
        let own = self.settings(name);
        let settings: Vec<&str> = own.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        Server::start(&self.dir.path().join(name), &settings)
    }
}

fn sku(number: usize) -> String {
    format!("sku-{number}")
}

/// Creates the SKUs `0..skus` through HTTP, over as many connections as share a sync well.
async fn create(address: &str, skus: usize) {
    let creators: Vec<_> = (0..CREATORS)
        .map(|creator| {
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut http = Http::new(&address);
                for number in (creator..skus).step_by(CREATORS) {
                    http.ask("POST", "/v1/stock", &json!({"sku_id": sku(number), "quantity": PLENTY})).await;
                }
            })
        })
        .collect();
    for creator in creators {
        creator.await.expect("all are made");
    }
}

/// What a caller does for one order: both databases alike, one answer after the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// It reserves. The SKU stays in memory, as that of every open order does.
    Reserve,
    /// It reserves and confirms: two transactions of plain SQL. The SKU may leave memory afterwards.
    Sell,
}

/// One order over HTTP; whether it was made.
async fn order(mut http: Http, order: Order, order_no: String, sku_id: &str) -> (Http, bool) {
    let body = format!(
        r#"{{"order_no":"{order_no}","lines":[{{"sku_id":"{sku_id}","quantity":1}}],"ttl_seconds":86400}}"#
    );
    let status = http.call("POST", "/v1/reservations", &body).await;
    let mut made = status == 201;
    if made && order == Order::Sell {
        let path = format!("/v1/reservations/{order_no}/confirm");
        made = http.call("POST", &path, "{}").await == 200;
    }
    (http, made)
}

async fn hotstock(
    address: &str,
    kind: Order,
    callers: usize,
    skus: usize,
    run: &str,
    length: Duration,
) -> Round {
    let run = run.to_owned();
    drive(
        callers,
        length,
        |caller| async move { (Http::new(address), caller) },
        move |(http, caller): (Http, usize), number| {
            let order_no = format!("{run}-{caller}-{number}");
            async move {
                let (http, made) = order(http, kind, order_no, &sku(fastrand::usize(..skus))).await;
                ((http, caller), made)
            }
        },
    )
    .await
}

/// What plain SQL is asked over: one connection of the caller's own, or the one that SQLite has for writing.
enum Plain {
    Sqlite(Arc<Mutex<sqlx::SqliteConnection>>),
    MySql(Box<sqlx::MySqlConnection>),
}

const TABLES: [&str; 3] = [
    "CREATE TABLE stock (sku_id VARCHAR(64) NOT NULL PRIMARY KEY, available BIGINT NOT NULL, reserved BIGINT NOT NULL)",
    "CREATE TABLE orders (order_no VARCHAR(64) NOT NULL PRIMARY KEY, status VARCHAR(16) NOT NULL, expires_at BIGINT NOT NULL)",
    "CREATE TABLE order_lines (order_no VARCHAR(64) NOT NULL, sku_id VARCHAR(64) NOT NULL, quantity BIGINT NOT NULL, PRIMARY KEY (order_no, sku_id))",
];
const TAKE: &str =
    "UPDATE stock SET available = available - 1, reserved = reserved + 1 WHERE sku_id = ? AND available >= 1";
const ORDER: &str = "INSERT INTO orders VALUES (?, 'reserved', 1900000000000)";
const LINE: &str = "INSERT INTO order_lines VALUES (?, ?, 1)";
const SELL: &str = "UPDATE stock SET reserved = reserved - 1 WHERE sku_id = ? AND reserved >= 1";
const SOLD: &str = "UPDATE orders SET status = 'confirmed' WHERE order_no = ? AND status = 'reserved'";

macro_rules! transaction {
    ($connection:expr, $begin:literal, $order:expr, $order_no:expr, $sku_id:expr) => {{
        let connection = $connection;
        connection.execute($begin).await.expect("it begins");
        let statements: [(&str, &[&str]); 3] = match $order {
            Order::Reserve => [(TAKE, &[$sku_id]), (ORDER, &[$order_no]), (LINE, &[$order_no, $sku_id])],
            Order::Sell => [(SOLD, &[$order_no]), (SELL, &[$sku_id]), ("", &[])],
        };
        let mut made = true;
        for (sql, values) in statements.into_iter().filter(|(sql, _)| !sql.is_empty()) {
            let query = values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value));
            made = query.execute(&mut *connection).await.expect("it runs").rows_affected() == 1;
            if !made {
                break;
            }
        }
        connection.execute(if made { "COMMIT" } else { "ROLLBACK" }).await.expect("it ends");
        made
    }};
}

impl Plain {
    async fn prepare(place: &Place, skus: usize) {
        let mut statements: Vec<String> = TABLES.iter().map(|table| (*table).to_owned()).collect();
        let all: Vec<usize> = (0..skus).collect();
        for some in all.chunks(1_000) {
            let rows: Vec<String> = some.iter().map(|n| format!("('{}', {PLENTY}, 0)", sku(*n))).collect();
            statements.push(format!("INSERT INTO stock VALUES {}", rows.join(", ")));
        }
        match &place.mariadb {
            Some(mariadb) => {
                drop(mariadb.url("plain"));
                mariadb.sql(&format!("USE plain; {}", statements.join("; ")));
            }
            None => {
                let mut connection = Self::sqlite(place.dir.path()).await;
                for statement in statements {
                    connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("it is plain SQL");
                }
            }
        }
    }

    async fn sqlite(dir: &Path) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(dir.join("plain.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
            .synchronous(sqlx::sqlite::SqliteSynchronous::Full);
        sqlx::SqliteConnection::connect_with(&options).await.expect("it opens")
    }

    async fn run(
        place: &Place,
        kind: Order,
        callers: usize,
        skus: usize,
        run: &str,
        length: Duration,
    ) -> Round {
        let run = run.to_owned();
        let one = match &place.mariadb {
            None => Some(Arc::new(Mutex::new(Self::sqlite(place.dir.path()).await))),
            Some(_) => None,
        };
        let connect = |caller: usize| {
            let one = one.clone();
            async move {
                let plain = match (one, &place.mariadb) {
                    (Some(one), _) => Self::Sqlite(one),
                    (None, Some(mariadb)) => {
                        let connection = sqlx::MySqlConnection::connect(&mariadb.url("plain")).await;
                        Self::MySql(Box::new(connection.expect("it connects")))
                    }
                    (None, None) => unreachable!("one of them"),
                };
                (plain, caller)
            }
        };
        drive(callers, length, connect, move |(mut plain, caller): (Self, usize), number| {
            let order_no = format!("{run}-{caller}-{number}");
            async move {
                let sku_id = sku(fastrand::usize(..skus));
                let steps = if kind == Order::Sell { &[Order::Reserve, Order::Sell][..] } else { &[kind] };
                let mut made = true;
                for step in steps {
                    made &= match &mut plain {
                        Self::Sqlite(one) => {
                            let mut connection = one.lock().await;
                            transaction!(&mut *connection, "BEGIN IMMEDIATE", step, &order_no, &sku_id)
                        }
                        Self::MySql(connection) => {
                            transaction!(&mut **connection, "BEGIN", step, &order_no, &sku_id)
                        }
                    };
                }
                ((plain, caller), made)
            }
        })
        .await
    }
}

fn median(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = rounds.len() / 2;
    rounds.swap_remove(middle)
}

/// Stored SKUs at random, beside plain SQL.
async fn compare(place: &Place, arguments: &Arguments, figures: &mut Vec<Value>) {
    let Arguments { length, rounds, skus, .. } = *arguments;
    Plain::prepare(place, skus).await;
    let tenth = format!("engine.max_resident_skus={}", (skus / 10).max(1));
    // All of them are in memory soon. And a tenth: nine of ten orders load their SKU.
    let kinds = [
        (Order::Reserve, "reserve, stored at first", Vec::new()),
        (Order::Sell, "reserve + confirm, a tenth in memory", vec![tenth.as_str()]),
    ];
    for callers in CALLERS {
        for (order, kind, settings) in &kinds {
            let (mut plain, mut ours, mut loads) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..rounds {
                let run = format!("{callers}-{round}-{}", settings.len());
                plain.push(Plain::run(place, *order, callers, skus, &run, length).await);
                let name = format!("compare_{}", run.replace('-', "_"));
                create_stored(place, &name, skus).await;
                let server = place.serve(&name, settings);
                let made = hotstock(&server.address, *order, callers, skus, &run, length).await;
                loads.push(of_shards(&server.address, "loads").await / made.made.max(1.0));
                ours.push(made);
                server.stop();
                drop(std::fs::remove_dir_all(place.dir.path().join(&name)));
            }
            let (plain, ours) = (median(plain), median(ours));
            loads.sort_by(f64::total_cmp);
            let (ratio, loads) = (ours.rate / plain.rate, loads[loads.len() / 2]);
            println!(
                "{:8} {callers:3} callers, {skus} SKUs, {kind}: {:8.0} orders/s, p50 {:?}, p99 {:?}, {loads:.2} loads an order; plain SQL {:7.0}, p50 {:?}, p99 {:?}; ratio {ratio:.2}",
                place.name, ours.rate, ours.p50, ours.p99, plain.rate, plain.p50, plain.p99
            );
            figures.push(json!({"store": place.name, "callers": callers, "skus": skus, "kind": kind, "orders_per_second": ours.rate,
                "p50_micros": micros(ours.p50), "p99_micros": micros(ours.p99), "refused": ours.refused, "loads_per_order": loads,
                "plain_orders_per_second": plain.rate, "plain_p50_micros": micros(plain.p50), "plain_p99_micros": micros(plain.p99),
                "plain_refused": plain.refused, "ratio": ratio}));
        }
    }
}

/// A figure that each shard tells of itself, summed up.
async fn of_shards(address: &str, figure: &str) -> f64 {
    let shards = Http::new(address).ask("GET", "/v1/admin/shards", &Value::Null).await;
    shards["shards"].as_array().expect("shards").iter().filter_map(|shard| shard[figure].as_f64()).sum()
}

/// Until all SKUs but the one that may stay have left memory.
async fn until_stored(address: &str) {
    for _ in 0..MAX_LOOKS {
        if of_shards(address, "resident").await <= 1.0 {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    panic!("the SKUs do not leave memory");
}

/// Creates SKUs and stops when none of them (but one) is in memory: what is there at the end is there at the start.
async fn create_stored(place: &Place, name: &str, skus: usize) {
    let server = place.serve(name, &["engine.max_resident_skus=1"]);
    create(&server.address, skus).await;
    until_stored(&server.address).await;
    server.stop();
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One hot SKU, flushed as usual and as good as never.
async fn hot(place: &Place, arguments: &Arguments, figures: &mut Vec<Value>) {
    let never = "store.flush_interval_ms=3600000";
    let often = "store.flush_events=1000000";
    for callers in [16, 64] {
        let mut rounds: [Vec<Round>; 2] = Default::default();
        for round in 0..arguments.rounds {
            for (kind, settings) in [Vec::new(), vec![never, often]].into_iter().enumerate() {
                let name = format!("hot-{callers}-{round}-{kind}");
                let server = place.serve(&name, &settings);
                create(&server.address, 1).await;
                Http::new(&server.address)
                    .ask("POST", "/v1/admin/skus/promote", &json!({"sku_ids": [sku(0)]}))
                    .await;
                rounds[kind].push(
                    hotstock(&server.address, Order::Reserve, callers, 1, &name, arguments.length).await,
                );
                server.kill();
                drop(std::fs::remove_dir_all(place.dir.path().join(&name)));
            }
        }
        let [with, without] = rounds.map(median);
        let ratio = with.rate / without.rate;
        println!(
            "{:8} {callers:3} callers, one hot SKU: {:8.0} orders/s flushed, {:8.0} not; ratio {ratio:.2}",
            place.name, with.rate, without.rate
        );
        figures.push(json!({"store": place.name, "callers": callers, "flushed_orders_per_second": with.rate,
            "unflushed_orders_per_second": without.rate, "ratio": ratio}));
    }
}

/// Loading SKUs by a promotion, which answers when all of them are in memory.
async fn load(place: &Place, arguments: &Arguments, figures: &mut Vec<Value>) {
    let skus = arguments.skus.min(PROMOTED);
    create_stored(place, "loading", skus).await;
    let mut took = Vec::new();
    for _ in 0..arguments.rounds {
        let server = place.serve("loading", &["engine.max_resident_skus=1"]);
        let ids: Vec<String> = (0..skus).map(sku).collect();
        let mut http = Http::new(&server.address);
        let began = Instant::now();
        http.ask("POST", "/v1/admin/skus/promote", &json!({"sku_ids": ids})).await;
        took.push(began.elapsed());
        http.ask("PUT", "/v1/admin/skus/hot", &json!({"sku_ids": []})).await;
        until_stored(&server.address).await;
        server.stop();
    }
    took.sort_unstable();
    let took = took[took.len() / 2];
    println!("{:8} {skus} SKUs loaded and promoted in {took:?}", place.name);
    figures.push(json!({"store": place.name, "skus": skus, "micros": micros(took)}));
}

/// Memory of a resident SKU, an open order, an ended order.
async fn memory(place: &Place, arguments: &Arguments, figures: &mut Vec<Value>) {
    let count = arguments.memory.max(BATCH);
    let server = place.serve(
        "memory",
        &[
            "orders.remember_seconds=86400",
            "orders.remember_max=100000000",
            "engine.max_resident_mib=65536",
            "engine.max_resident_skus=100000000",
        ],
    );
    let mut http = Http::new(&server.address);
    create(&server.address, 1).await;
    let before = server.memory();
    create(&server.address, count).await;
    settle(&mut http).await;
    let with_skus = server.memory();
    for (op, what) in [("reserve", "open order"), ("confirm", "ended order")] {
        let began = server.memory();
        let all: Vec<usize> = (0..count).collect();
        for some in all.chunks(BATCH) {
            let operation = |n: &usize| match op {
                "reserve" => json!({"op": op, "order_no": format!("m-{n}"), "ttl_seconds": 86400,
                    "lines": [{"sku_id": sku(*n % 1000), "quantity": 1}]}),
                _ => json!({"op": op, "order_no": format!("m-{n}")}),
            };
            let operations: Vec<Value> = some.iter().map(operation).collect();
            http.ask("POST", "/v1/batch", &json!({"operations": operations})).await;
        }
        settle(&mut http).await;
        let each = server.memory().saturating_sub(began) / count as u64;
        println!("{count} x {what}: {each} bytes more each");
        figures.push(json!({"what": what, "count": count, "bytes_each": each}));
    }
    let each = with_skus.saturating_sub(before) / count as u64;
    println!("{count} x resident SKU: {each} bytes each");
    figures.push(json!({"what": "resident SKU", "count": count, "bytes_each": each}));
    server.stop();
}

/// Until everything is flushed.
async fn settle(http: &mut Http) {
    for _ in 0..MAX_LOOKS {
        let shards = http.ask("GET", "/v1/admin/shards", &Value::Null).await;
        let is_flushed = |shard: &Value| shard["lag_events"] == 0;
        if shards["shards"].as_array().expect("shards").iter().all(is_flushed) {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    panic!("the flush does not end");
}

/// A start on a store with many SKUs and many known order numbers, with the filter and without it.
async fn start(place: &Place, arguments: &Arguments, figures: &mut Vec<Value>) {
    let (skus, orders) = (arguments.memory, arguments.known);
    let server = place.serve("start", &["orders.remember_seconds=1", "orders.remember_max=1000"]);
    let mut http = Http::new(&server.address);
    create(&server.address, skus).await;
    let all: Vec<usize> = (0..orders).collect();
    for some in all.chunks(BATCH) {
        for op in ["reserve", "confirm"] {
            let operation = |n: &usize| match op {
                "reserve" => json!({"op": op, "order_no": format!("s-{n}"), "ttl_seconds": 86400,
                    "lines": [{"sku_id": sku(*n % skus), "quantity": 1}]}),
                _ => json!({"op": op, "order_no": format!("s-{n}")}),
            };
            let operations: Vec<Value> = some.iter().map(operation).collect();
            http.ask("POST", "/v1/batch", &json!({"operations": operations})).await;
        }
    }
    settle(&mut http).await;
    server.stop();
    for kind in ["with its filter", "without its filter"] {
        if kind.starts_with("without") {
            drop(std::fs::remove_dir_all(place.dir.path().join("start/filters")));
        }
        let began = Instant::now();
        let server = place.serve("start", &[]);
        let mut http = Http::new(&server.address);
        let ready = began.elapsed();
        http.ask(
            "POST",
            "/v1/reservations",
            &json!({"order_no": format!("new {kind}"), "lines": [{"sku_id": sku(0), "quantity": 1}]}),
        )
        .await;
        let first = began.elapsed();
        println!(
            "{:8} start {kind} on {skus} SKUs and {orders} ended orders: listens after {ready:?}, first order after {first:?}",
            place.name
        );
        figures.push(json!({"store": place.name, "kind": kind, "skus": skus, "orders": orders, "ready_micros": micros(ready),
            "first_order_micros": micros(first)}));
        server.stop();
    }
}

#[tokio::main]
async fn main() {
    let arguments = arguments();
    let wanted = |what: &str| arguments.only.as_deref().is_none_or(|only| only == what);
    let mariadb = Arc::new(MariaDb::start());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::fs::create_dir_all(&target).expect("the build's directory can be made");
    let dir = || {
        tempfile::Builder::new().prefix("bench-").tempdir_in(&target).expect("a directory can be made there")
    };
    let sqlite = Place { name: "sqlite", dir: dir(), mariadb: None };
    let both = [&sqlite, &Place { name: "mariadb", dir: dir(), mariadb: Some(mariadb) }];
    let (mut compared, mut hots, mut loads, mut memories, mut starts) = Default::default();
    for place in both {
        if wanted("compare") {
            compare(place, &arguments, &mut compared).await;
        }
        if wanted("load") {
            load(place, &arguments, &mut loads).await;
        }
    }
    if wanted("hot") {
        hot(&sqlite, &arguments, &mut hots).await;
    }
    if wanted("memory") {
        memory(&sqlite, &arguments, &mut memories).await;
    }
    if wanted("start") && arguments.known > 0 {
        start(&sqlite, &arguments, &mut starts).await;
    }
    if let Some(path) = &arguments.json {
        let all = json!({
            "durability": "every answer behind a sync: hotstock's journal, SQLite with WAL and full sync, MariaDB with a sync at each commit",
            "machine_cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "payload": "one line an order, quantity 1", "compare": compared, "hot": hots, "load": loads, "memory": memories, "start": starts
        });
        std::fs::write(path, serde_json::to_vec_pretty(&all).expect("numbers and text"))
            .expect("the file can be written");
    }
}
