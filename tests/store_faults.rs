//! Faults of the store in the middle of flushes and loads: the server killed, MariaDB killed, stopped, its connections
//! cut, its lag filled. Afterwards the rows in SQL are those of the shards, one by one, and the journal is gapless and
//! unique. What SQL holds is read by the database's own client, not by the code under test. Meanwhile whatever is in
//! memory goes on as if nothing were. All that the callers saw is checked (`hotstock-histories`), and makes the levels.
//!
//! `HOTSTOCK_STALL_SECONDS=60 cargo test --test store_faults -- --nocapture` stops the database for a minute.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_histories::Recorder;
use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{
    Client, Server, StopOnDrop, create, get, lag, levels, metric, number, post, reconciled, recorded, run,
    until, until_within,
};

const WORKERS: u64 = 6;
const HOT: usize = 12;
/// More than there is room for: they are loaded and evicted all the time.
const STORED: usize = 12;
const UNITS: i64 = 100_000;

fn sku(number: usize) -> String {
    format!("{}-{number}", if number < HOT { "hot" } else { "stored" })
}

/// The setting that names the database; asked while it runs.
fn store(database: &MariaDb) -> String {
    format!("store.url={}", database.url("hotstock"))
}

fn start(data: &Path, store: &str, more: &[&str]) -> Server {
    let mut settings = vec![
        "log.level=off",
        "engine.shards=2",
        "engine.max_resident_skus=4",
        "orders.remember_seconds=1",
        "orders.remember_max=10",
        "store.flush_interval_ms=20",
        "store.load_wait_ms=1000",
        "checkpoint.events=2000",
        store,
    ];
    settings.extend(more);
    Server::start(data, &settings)
}

/// What the workers share with the one who makes the faults.
struct Arena {
    address: RwLock<String>,
    stop: AtomicBool,
    answered: AtomicU64,
    history: Recorder,
    /// New orders are made; off while the backlog is at its cap, where only the others go on.
    reserve: AtomicBool,
}

struct Worker<'a> {
    arena: &'a Arena,
    client: Client,
    rng: Rng,
    id: u64,
    made: u64,
}

impl Worker<'_> {
    /// Sends a request until its outcome is known; `None` when the test ends before.
    fn settle(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let began = Instant::now();
        loop {
            let address = self.arena.address.read().unwrap().clone();
            match recorded(&self.arena.history, &mut self.client, &address, method, path, &body) {
                Ok((status, answer)) if status < 500 => {
                    self.arena.answered.fetch_add(1, Ordering::Relaxed);
                    return (status, answer);
                }
                Ok((status, answer)) => {
                    let code = answer["code"].as_str().unwrap_or_default().to_owned();
                    let bearable = [
                        "store_unavailable",
                        "overloaded",
                        "timeout",
                        "journal_full",
                        "journal_unavailable",
                        "shard_restarted",
                    ];
                    assert!(bearable.contains(&code.as_str()), "{method} {path} {body}: {status} {answer}");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            assert!(began.elapsed() < Duration::from_secs(240), "{method} {path} {body} was never answered");
        }
    }

    fn step(&mut self) {
        if !self.arena.reserve.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            return;
        }
        self.made += 1;
        let number = self.rng.usize(0..HOT + STORED);
        let order_no = format!("o{}-{}", self.id, self.made);
        let quantity = self.rng.i64(1..4);
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku(number), "quantity": quantity }], "ttl_seconds": 7200 });
        let (status, answer) = self.settle("POST", "/v1/reservations", &body);
        assert!(matches!(status, 200 | 201), "{answer}");
        let what = ["release", "confirm", "confirm", "keep"][self.rng.usize(0..4)];
        if what != "keep" {
            let path = format!("/v1/reservations/{order_no}/{what}");
            let (status, answer) = self.settle("POST", &path, &json!({}));
            assert_eq!(status, 200, "{answer}");
        }
        if self.rng.u8(0..8) == 0 {
            self.settle("GET", &format!("/v1/stock/{}", sku(number)), &Value::Null);
        }
    }
}

/// Rows of a query, asked of the database by its own client.
fn query(database: &MariaDb, sql: &str) -> Vec<Vec<String>> {
    let text = database.sql(&format!("USE hotstock; {sql}"));
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[test]
fn after_every_fault_sql_is_what_the_shards_are() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut database = MariaDb::start();
    let store = store(&database);
    let server = start(&data, &store, &[]);
    let mut client = Client::default();
    let history = Recorder::default();
    for number in 0..HOT + STORED {
        let body = json!({ "sku_id": sku(number), "quantity": UNITS, "hot": number < HOT }).to_string();
        let made = recorded(&history, &mut client, &server.address, "POST", "/v1/stock", &body);
        let (status, answer) = made.unwrap();
        assert_eq!(status, 201, "{answer}");
    }
    let arena = Arena {
        address: RwLock::new(server.address.clone()),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        history,
        reserve: AtomicBool::new(true),
    };
    let mut rng = Rng::with_seed(11);
    let server = std::thread::scope(|scope| {
        let mut server = server;
        let stop_on_panic = StopOnDrop(&arena.stop);
        let workers: Vec<_> = (0..WORKERS)
            .map(|id| {
                let rng = Rng::with_seed(id);
                let mut worker = Worker { arena: &arena, client: Client::default(), rng, id, made: 0 };
                scope.spawn(move || {
                    while !worker.arena.stop.load(Ordering::Relaxed) {
                        worker.step();
                    }
                })
            })
            .collect();
        let some_work = |more: u64| {
            let until = arena.answered.load(Ordering::Relaxed) + more;
            while arena.answered.load(Ordering::Relaxed) < until {
                assert!(!workers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a worker failed");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for round in 0..10 {
            some_work(rng.u64(100..600));
            match round % 5 {
                0 => drop(database.cut_connections()),
                1 => {
                    let address = server.address.clone();
                    server.end(Signal::KILL);
                    arena.history.ended(&address);
                    server = start(&data, &store, &[]);
                    *arena.address.write().unwrap() = server.address.clone();
                }
                2 => {
                    database.kill();
                    // Hot orders go on without it, and so does a server that starts without it.
                    some_hot_order(&arena.history, &server.address, round);
                    let address = server.address.clone();
                    server.end(Signal::KILL);
                    arena.history.ended(&address);
                    server = start(&data, &store, &[]);
                    *arena.address.write().unwrap() = server.address.clone();
                    some_hot_order(&arena.history, &server.address, round + 100);
                    database.restart();
                }
                3 => {
                    database.stop_signal();
                    some_hot_order(&arena.history, &server.address, round);
                    std::thread::sleep(Duration::from_secs(1));
                    database.continue_signal();
                }
                _ => {
                    database.kill();
                    database.restart();
                }
            }
            println!(
                "round {round}: {} answered, lag {}",
                arena.answered.load(Ordering::Relaxed),
                lag(&server.address)
            );
        }
        some_work(200);
        drop(stop_on_panic);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        server
    });
    until("the store has caught up", || lag(&server.address) == 0);
    let shard = |sku: &str| shard_of(&SkuId::new(sku).unwrap(), 2).0;
    let checked = arena.history.must_be_explained("store-faults", shard);
    let told = (0..HOT + STORED).map(sku).map(|sku| (sku.clone(), checked.sku(&sku))).collect();
    compare(&server, &database, &told);
    compare_lines(&database, &told);
    reconciled(&server.address);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// A hot order is served whatever the store does.
fn some_hot_order(history: &Recorder, address: &str, number: usize) {
    let mut client = Client::default();
    let order_no = format!("single-{number}");
    let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku(0), "quantity": 1 }] }).to_string();
    let made = recorded(history, &mut client, address, "POST", "/v1/reservations", &body);
    let (status, answer) = made.unwrap();
    assert!(matches!(status, 200 | 201), "a hot order must not need the store: {status} {answer}");
    let path = format!("/v1/reservations/{order_no}/confirm");
    let (status, answer) = recorded(history, &mut client, address, "POST", &path, "{}").unwrap();
    assert_eq!(status, 200, "{answer}");
}

/// What the callers were told, what the server says, the rows, and the sums of the journal: all the same.
fn compare(server: &Server, database: &MariaDb, told: &BTreeMap<String, [i64; 3]>) {
    let mut rows = BTreeMap::new();
    for row in
        query(database, "SELECT sku_id, available, reserved, sold, version FROM stock WHERE version > 0")
    {
        let numbers: Vec<i64> = row[1..].iter().map(|text| text.parse().unwrap()).collect();
        rows.insert(row[0].clone(), numbers);
    }
    let mut sums = BTreeMap::new();
    let sum = "SELECT sku_id, SUM(d_available), SUM(d_reserved), SUM(d_sold), MAX(version), COUNT(*) FROM stock_journal WHERE version > 0 GROUP BY sku_id";
    for row in query(database, sum) {
        let numbers: Vec<i64> = row[1..].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(numbers[3], numbers[4], "the journal of {} has gaps", row[0]);
        sums.insert(row[0].clone(), numbers[..4].to_vec());
    }
    for (sku, told) in told {
        let (_, answer) = get(&server.address, &format!("/v1/stock/{sku}"));
        let of = |level: &str| answer["warehouses"][0][level].as_i64().unwrap();
        let says = vec![of("available"), of("reserved"), of("sold"), of("version")];
        assert_eq!(says[..3], told[..], "{sku}: the server (left) and what its callers were told (right)");
        assert_eq!(rows.get(sku), Some(&says), "{sku}: its row (left) and the server (right)");
        assert_eq!(
            sums.get(sku),
            Some(&says),
            "{sku}: the sums of its journal (left) and the server (right)"
        );
    }
    let doubles = query(
        database,
        "SELECT shard, lsn, sku_id FROM stock_journal WHERE version > 0 GROUP BY shard, lsn, sku_id, warehouse_id HAVING COUNT(*) > 1",
    );
    assert!(doubles.is_empty(), "events that were written twice: {doubles:?}");
}

/// The lines of all orders in SQL, each of which is in one place, make the levels that their callers were told.
fn compare_lines(database: &MariaDb, told: &BTreeMap<String, [i64; 3]>) {
    let open = "SELECT l.sku_id, SUM(l.held), SUM(l.confirmed - l.returned) FROM order_lines l WHERE l.order_no < X'FF' GROUP BY l.sku_id";
    for row in query(database, open) {
        let (held, sold): (i64, i64) = (row[1].parse().unwrap(), row[2].parse().unwrap());
        assert_eq!([held, sold], told[&row[0]][1..], "{}: the lines of its orders", row[0]);
    }
}

#[test]
fn a_full_backlog_refuses_new_reservations_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut database = MariaDb::start();
    // A cap of a few segments, which the backlog reaches soon.
    let small = [
        "journal.max_disk_mib=1",
        "journal.segment_bytes=131072",
        "journal.zeros_bytes=0",
        "checkpoint.events=500",
    ];
    let server = start(&dir.path().join("data"), &store(&database), &small);
    let mut client = Client::default();
    let post = |client: &mut Client, path: &str, body: Value| {
        client.call(&server.address, "POST", path, &body.to_string()).unwrap()
    };
    assert_eq!(
        post(&mut client, "/v1/stock", json!({ "sku_id": "hot", "quantity": 1_000_000, "hot": true })).0,
        201
    );
    until("the store has caught up", || lag(&server.address) == 0);
    database.kill();
    let reserve = |number: u32| json!({ "op": "reserve", "order_no": format!("o{number}"), "lines": [{ "sku_id": "hot", "quantity": 1 }] });
    let mut last = 0;
    until("journal_full", || {
        let operations: Vec<_> = (last..last + 500).map(reserve).collect();
        let (status, answer) = post(&mut client, "/v1/batch", json!({ "operations": operations }));
        assert_eq!(status, 200, "{answer}");
        let results = answer["results"].as_array().unwrap();
        let made = results.iter().take_while(|one| one["status"] == 201).count();
        let full = results.iter().skip(made).all(|one| one["body"]["code"] == "journal_full");
        assert!(full, "{answer}");
        last += u32::try_from(made).unwrap();
        made < 500
    });
    let (status, answer) = post(
        &mut client,
        "/v1/reservations",
        json!({ "order_no": "new", "lines": [{ "sku_id": "hot", "quantity": 1 }] }),
    );
    assert_eq!((status, &answer["code"]), (503, &json!("journal_full")));
    // A repeat is known, and what concerns orders that are there goes on.
    let (status, answer) = post(
        &mut client,
        "/v1/reservations",
        json!({ "order_no": "o0", "lines": [{ "sku_id": "hot", "quantity": 1 }] }),
    );
    assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{answer}");
    assert_eq!(post(&mut client, "/v1/reservations/o0/confirm", json!({})).0, 200);
    assert_eq!(post(&mut client, "/v1/reservations/o1/release", json!({})).0, 200);
    // The store comes back: it catches up while orders are served, and then new ones are taken again.
    database.restart();
    until("new reservations are taken again", || {
        assert_eq!(post(&mut client, "/v1/reservations/o2/extend", json!({ "ttl_seconds": 600 })).0, 200);
        let new = json!({ "order_no": "new", "lines": [{ "sku_id": "hot", "quantity": 1 }] });
        matches!(post(&mut client, "/v1/reservations", new).0, 200 | 201)
    });
    until("the store has caught up", || lag(&server.address) == 0);
    let held = i64::from(last) - 2 + 1;
    let told = BTreeMap::from([("hot".to_owned(), [1_000_000 - held - 1, held, 1])]);
    compare(&server, &database, &told);
    compare_lines(&database, &told);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn a_start_without_the_store_serves_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut database = MariaDb::start();
    let store = store(&database);
    // Room for one SKU beside the hot one, and the last that was asked for is it.
    let tight = ["engine.max_resident_skus=2", "engine.shards=1", "log.level=info"];
    let server = start(&data, &store, &tight);
    for sku in ["stored-0", "stored-1", "stored-2"] {
        create(&server.address, sku, 10, false);
    }
    create(&server.address, "hot-0", 10, true);
    until("what is idle left memory", || support::sum_of_shards(&server.address, "resident") <= 2);
    let gone = ["stored-0", "stored-1", "stored-2"];
    assert_eq!(server.end(Signal::TERM), Some(0));
    database.kill();
    let server = start(&data, &store, &tight);
    some_hot_order(&Recorder::default(), &server.address, 1);
    assert_eq!(levels(&server.address, "hot-0"), [9, 0, 1]);
    assert_eq!(get(&server.address, "/readyz").0, 200, "what is in memory is served, so it is ready");
    // At least two of the three are not in memory.
    let order =
        |sku: &str| json!({ "order_no": format!("o-{sku}"), "lines": [{ "sku_id": sku, "quantity": 1 }] });
    let mut refused = 0;
    for sku in gone {
        let (status, head) = with_headers(&server.address, "/v1/reservations", &order(sku).to_string());
        if status == 201 {
            continue;
        }
        refused += 1;
        assert_eq!(status, 503, "{head}");
        assert!(head.contains("store_unavailable"), "{head}");
        assert!(head.to_lowercase().contains("\r\nretry-after: "), "{head}");
        assert_eq!(get(&server.address, &format!("/v1/stock/{sku}")).1["code"], "store_unavailable");
    }
    assert!(refused >= 2, "{refused}");
    database.restart();
    for sku in gone {
        until("stored SKUs are served again", || {
            let (status, answer) = post(&server.address, "/v1/reservations", &order(sku));
            assert!(matches!(status, 200 | 201 | 503), "{status} {answer}");
            status < 300
        });
    }
    until("the store has caught up", || lag(&server.address) == 0);
    let mut told = BTreeMap::from(gone.map(|sku| (sku.to_owned(), [9, 1, 0])));
    told.insert("hot-0".to_owned(), [9, 0, 1]);
    compare(&server, &database, &told);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// MariaDB keeps its connections and answers nothing, for seconds or a minute.
/// Somebody deletes the guards of a table: what is wrong and what there is to do is said wherever an operator looks,
/// for as long as it is so, and done by one command while the server runs.
#[test]
fn guards_that_somebody_deleted_are_told_of_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let database = MariaDb::start();
    let store = store(&database);
    let server = start(&dir.path().join("data"), &store, &["log.level=info", "store.flush_interval_ms=50"]);
    let address = &server.address;
    create(address, "hot-0", 100_000, true);
    create(address, "stored-0", 10, false);
    until("it is flushed", || lag(address) == 0);
    let (code, right) = run(&["migrate", "--set", &store]);
    assert!(code == 0 && right.contains("the tables are right"), "{right}");
    database.sql("DELETE FROM hotstock.order_lines WHERE order_no >= X'FF'");
    let told = "`order_lines` has no guard of shard";
    let ready = || Client::default().text(address, "GET", "/readyz", "").unwrap().1;
    until("the server has noticed", || ready().contains(told));
    let failures = || server.log().matches("the store fails").count();
    let begun = failures();
    // Loads of SKUs alone read other tables, and heartbeats none: they are no sign that all is well.
    let errors = || metric(address, "hotstock_store_errors_total").unwrap();
    let (from, mut n) = (errors(), 0);
    until("some flushes and heartbeats more", || {
        some_hot_order(&Recorder::default(), address, n);
        let _ = get(address, "/v1/stock/stored-0");
        let said = ready();
        assert!(said.contains(told) && said.contains("hotstock migrate --make-guards"), "{said}");
        n += 1;
        errors() >= from + 10.0
    });
    assert!(begun == 1 && failures() == 1 && server.log().contains(told), "told once: {}", server.log());
    let (code, text) = run(&["migrate", "--set", &store]);
    assert!(code == 1 && text.contains(told) && text.contains("--make-guards"), "{text}");
    assert!(!text.contains("the tables are right"), "{text}");
    let (code, text) = run(&["migrate", "--make-guards", "--set", &store]);
    assert!(code == 0 && text.contains("guards were made of: order_lines"), "{text}");
    assert!(text.contains("the tables are right"), "{text}");
    until("the store is used again", || ready() == "ready\n" && lag(address) == 0);
    assert_eq!(run(&["migrate", "--set", &store]), (0, right));
    reconciled(address);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn a_store_that_stands_still_stops_nothing_that_is_in_memory() {
    let stall = Duration::from_secs(number("HOTSTOCK_STALL_SECONDS").unwrap_or(8));
    let dir = tempfile::tempdir().unwrap();
    let database = MariaDb::start();
    let settings = [
        "engine.shards=4",
        "engine.max_resident_skus=1000",
        "orders.remember_seconds=600",
        "store.statement_timeout_ms=1000",
        "store.acquire_timeout_ms=1000",
    ];
    let data = dir.path().join("data");
    let server = start(&data, &store(&database), &settings);
    let address = &server.address;
    let skus: Vec<String> = (0..8).map(|number| format!("kept-{number}")).collect();
    for sku in &skus {
        create(address, sku, 1_000, false);
    }
    until("the store has caught up", || lag(address) == 0);
    database.stop_signal();
    let began = Instant::now();
    let cart = |order_no: &str, ttl: u32| {
        let lines: Vec<_> = skus.iter().map(|sku| json!({ "sku_id": sku, "quantity": 1 })).collect();
        let body = json!({ "order_no": order_no, "lines": lines, "ttl_seconds": ttl });
        let (status, answer) = post(address, "/v1/reservations", &body);
        assert_eq!(status, 201, "{answer}");
    };
    let (mut sold, mut held, mut rounds, mut slowest) = (0, 0, 0, Duration::ZERO);
    while began.elapsed() < stall {
        rounds += 1;
        let asked = Instant::now();
        cart(&format!("pay-{rounds}"), 600);
        assert_eq!(post(address, &format!("/v1/reservations/pay-{rounds}/confirm"), &json!({})).0, 200);
        sold += 1;
        cart(&format!("keep-{rounds}"), 600);
        held += 1;
        slowest = slowest.max(asked.elapsed());
        // A second to live, and at most one more; what the looking takes comes on top.
        let due = format!("/v1/reservations/due-{rounds}");
        cart(&format!("due-{rounds}"), 1);
        until_within(Duration::from_millis(2_300), "the cart has expired in time", || {
            get(address, &due).1["status"] == "expired"
        });
        let (status, answer) = post(
            address,
            "/v1/reservations",
            &json!({ "order_no": format!("lacking-{rounds}"), "lines": [{ "sku_id": "not in memory", "quantity": 1 }] }),
        );
        // Until a statement has waited for its time the store is slow, and no more is known.
        let code = answer["code"].as_str().unwrap_or_default();
        let is_known = began.elapsed() > Duration::from_secs(5);
        assert!(code == "store_unavailable" || code == "overloaded" && !is_known, "{status} {answer}");
    }
    println!("{rounds} rounds, the slowest three requests took {slowest:?}");
    assert!(rounds >= 2 && slowest < Duration::from_secs(3), "{rounds} rounds, {slowest:?}");
    database.continue_signal();
    until("the store has caught up", || lag(address) == 0);
    let told: BTreeMap<_, _> =
        skus.iter().map(|sku| (sku.clone(), [1_000 - held - sold, held, sold])).collect();
    compare(&server, &database, &told);
    reconciled(address);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// Status and the whole answer as text.
fn with_headers(address: &str, path: &str, body: &str) -> (u16, String) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    );
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}
