//! Many short histories of a server that is killed: a few callers who share everything (SKUs of which there is too
//! little, order numbers, request ids) reserve, pay, pay late, give back, repeat each other's requests at the same
//! time, and read. All that they saw, cut off requests included, is checked for linearizability: see
//! `hotstock-histories` for what that proves. When all histories of a data directory are done, its levels are those
//! that the orders make, and nothing differs.
//!
//! `HOTSTOCK_HISTORIES=250 HOTSTOCK_SEED=… cargo nextest run --test histories` makes more of each kind, or some again.
//! (The seed fixes what is asked and when the kills come; how the threads interleave stays the machine's.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_histories::{Checked, Recorder};
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, number, reconciled, recorded, until_within, verify};

/// Threads that ask.
const CALLERS: u64 = 6;
/// Requests of each, repeats aside.
const STEPS: usize = 14;
/// Histories in one data directory.
const IN_ONE_DIRECTORY: u64 = 10;
/// The holds that are to end while somebody looks.
const SHORT_TTL: u64 = 1;

const SETTINGS: [&str; 5] = [
    "log.level=error",
    "store.flush_interval_ms=20",
    "checkpoint.events=200",
    "journal.segment_bytes=131072",
    "journal.zeros_bytes=131072",
];

/// What is idle leaves memory, and so does what has ended.
const CRAMPED: [&str; 3] =
    ["engine.max_resident_skus=1", "orders.remember_seconds=1", "orders.remember_max=4"];

/// What is meant in all requests.
struct Kind {
    shards: u16,
    cramped: bool,
    /// Of how many SKUs each second is hot.
    hot: bool,
    /// Requests out of a hundred that are batches.
    batches: u32,
}

#[test]
fn in_one_shard() {
    make_histories(&Kind { shards: 1, cramped: false, hot: true, batches: 6 });
}

#[test]
fn stored_in_one_shard() {
    make_histories(&Kind { shards: 1, cramped: true, hot: false, batches: 6 });
}

#[test]
fn over_eight_shards() {
    make_histories(&Kind { shards: 8, cramped: true, hot: true, batches: 0 });
}

#[test]
fn batches_over_eight_shards() {
    make_histories(&Kind { shards: 8, cramped: false, hot: true, batches: 25 });
}

/// An order as everybody knows it.
#[derive(Clone)]
struct Order {
    number: String,
    reserve: Value,
    short: bool,
}

/// What the callers of one history share.
struct Scene<'a> {
    kind: &'a Kind,
    history: Recorder,
    name: String,
    /// SKU and warehouse.
    stocks: Vec<(String, u64)>,
    address: RwLock<String>,
    orders: Mutex<Vec<Order>>,
    made: AtomicU64,
    answered: AtomicU64,
    working: AtomicUsize,
    /// How often what was answered.
    told: Mutex<BTreeMap<String, u64>>,
}

impl Scene<'_> {
    /// Sends a request until it is answered with something that says what happened; each time is an operation of the
    /// history.
    fn settle(&self, client: &mut Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < Duration::from_secs(120) {
            let address = self.address.read().unwrap().clone();
            match recorded(&self.history, client, &address, method, path, &body) {
                Ok((status, answer)) if status < 500 && status != 429 => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    let what = answer["code"].as_str().unwrap_or("done").to_owned();
                    *self.told.lock().unwrap().entry(what).or_default() += 1;
                    let again = answer["results"].as_array().into_iter().flatten();
                    if !again.clone().any(|one| one["status"].as_u64().is_some_and(|status| status >= 500)) {
                        return (status, answer);
                    }
                }
                Ok((status, answer)) => last = format!("{status} {answer}"),
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        panic!("{method} {path} {body} was never answered; the last: {last}")
    }
}

struct Caller<'a> {
    scene: &'a Scene<'a>,
    rng: Rng,
    client: Client,
}

impl Caller<'_> {
    fn step(&mut self) {
        if self.rng.u32(0..100) < self.scene.kind.batches {
            let count = self.rng.usize(2..6);
            let operations: Vec<Value> = std::iter::repeat_with(|| self.operation()).take(count).collect();
            let body = json!({ "operations": operations });
            self.scene.settle(&mut self.client, "POST", "/v1/batch", &body);
            return;
        }
        match self.rng.u32(0..100) {
            0..14 => {
                let (sku, warehouse) = self.stock();
                let one = if self.rng.bool() { format!("?warehouse_id={warehouse}") } else { String::new() };
                self.get(&format!("/v1/stock/{sku}{one}"));
            }
            14..24 => {
                if let Some(order) = self.known() {
                    self.get(&format!("/v1/reservations/{}", order.number));
                }
            }
            _ => {
                let mut body = self.operation();
                let fields = body.as_object_mut().unwrap();
                let op = fields.remove("op").unwrap();
                let op = op.as_str().unwrap();
                let path = match (op, fields.get("sku_id"), fields.get("order_no")) {
                    ("reserve", ..) => "/v1/reservations".to_owned(),
                    (_, Some(sku), _) => format!("/v1/stock/{}/{op}", sku.as_str().unwrap()),
                    (_, _, order) => format!("/v1/reservations/{}/{op}", order.unwrap().as_str().unwrap()),
                };
                if op != "reserve" {
                    fields.retain(|field, _| field != "sku_id" && field != "order_no");
                }
                self.scene.settle(&mut self.client, "POST", &path, &body);
            }
        }
    }

    fn get(&mut self, path: &str) -> Value {
        self.scene.settle(&mut self.client, "GET", path, &Value::Null).1
    }

    fn stock(&mut self) -> (String, u64) {
        self.rng.choice(&self.scene.stocks).unwrap().clone()
    }

    /// One of the newest orders, whoever made it.
    fn known(&mut self) -> Option<Order> {
        let orders = self.scene.orders.lock().unwrap();
        let newest = orders.len().saturating_sub(8);
        self.rng.choice(&orders[newest..]).cloned()
    }

    /// An operation as a batch has it.
    fn operation(&mut self) -> Value {
        let kind = self.rng.u32(0..100);
        if kind < 12 {
            let (sku, warehouse) = self.stock();
            let what = ["restock", "restock", "deduct", "adjust"][self.rng.usize(0..4)];
            let sign = if what == "adjust" && self.rng.bool() { -1 } else { 1 };
            // Few ids, so that the same is asked again, and something else under the same id.
            let (id, units) = (self.rng.u32(0..6), sign * self.rng.i64(1..3));
            return json!({ "op": what, "sku_id": sku, "warehouse_id": warehouse, "quantity": units,
                "request_id": format!("{what}-{id}") });
        }
        let order = if kind < 50 { None } else { self.known() };
        let Some(Order { number, mut reserve, short }) = order else { return self.reserve() };
        let lines = reserve["lines"].as_array().unwrap();
        let mut one = self.rng.choice(lines).unwrap().clone();
        one["quantity"] = json!(1);
        let part = |id: u32| json!({ "lines": [one], "request_id": format!("part-{id}") });
        let (op, mut body) = match kind {
            50..60 => {
                if self.rng.u8(0..6) == 0 {
                    reserve["lines"][0]["quantity"] = json!(self.rng.u64(1..5));
                }
                ("reserve", reserve)
            }
            60..72 => ("confirm", json!({})),
            // A part of what may be over at any time could be late in part.
            72..79 if !short => ("confirm", part(self.rng.u32(0..3))),
            79..83 if !short => ("release", part(self.rng.u32(0..3))),
            72..90 => ("release", json!({})),
            90..96 => ("return", json!({ "request_id": "all" })),
            _ => ("extend", json!({ "ttl_seconds": 3_600 })),
        };
        body["op"] = json!(op);
        body["order_no"] = json!(number);
        body
    }

    fn reserve(&mut self) -> Value {
        let number = self.scene.made.fetch_add(1, Ordering::Relaxed);
        let number = format!("{}-{number}", self.scene.name);
        let count = self.rng.usize(1..4);
        let lines: Vec<Value> = self
            .rng
            .choose_multiple(self.scene.stocks.iter(), count)
            .into_iter()
            .map(|(sku, warehouse)| json!({ "sku_id": sku, "warehouse_id": warehouse, "quantity": 1 }))
            .collect();
        let lines: Vec<Value> = lines
            .into_iter()
            .map(|mut line| {
                line["quantity"] = json!(self.rng.u64(1..4));
                line
            })
            .collect();
        let short = self.rng.u8(0..4) == 0;
        let mode = if self.rng.u8(0..5) == 0 { "best_effort" } else { "all_or_nothing" };
        let ttl = if short { SHORT_TTL } else { 3_600 };
        let reserve = json!({ "order_no": number, "lines": lines, "ttl_seconds": ttl, "mode": mode });
        // Before it is asked for, so that others meet it on its way.
        self.scene.orders.lock().unwrap().push(Order { number, reserve: reserve.clone(), short });
        let mut operation = reserve;
        operation["op"] = json!("reserve");
        operation
    }

    /// Pays some of the orders whose time is over, and looks at the others.
    fn pay_late(&mut self) {
        let orders = self.scene.orders.lock().unwrap().clone();
        for order in orders.iter().filter(|order| order.short) {
            match self.rng.u8(0..3) {
                0 => {
                    let path = format!("/v1/reservations/{}/confirm", order.number);
                    self.scene.settle(&mut self.client, "POST", &path, &json!({}));
                }
                1 => drop(self.get(&format!("/v1/reservations/{}", order.number))),
                _ => {
                    let (sku, _) = self.stock();
                    self.get(&format!("/v1/stock/{sku}"));
                }
            }
        }
    }
}

/// Names for the SKUs of a history: over several shards two lie in one, the others elsewhere.
fn names(prefix: &str, shards: u16) -> [String; 4] {
    let wanted = [0, 0, 1, 2].map(|shard: u16| shard % shards);
    let mut number = 0;
    wanted.map(|shard| {
        loop {
            number += 1;
            let name = format!("{prefix}-{number}");
            if shard_in(shards)(&name) == shard {
                return name;
            }
        }
    })
}

fn shard_in(shards: u16) -> impl Fn(&str) -> u16 {
    move |sku: &str| shard_of(&SkuId::new(sku).unwrap(), shards).0
}

/// A data directory and its server.
struct House<'a> {
    data: &'a Path,
    settings: Vec<String>,
    server: Option<Server>,
    kills: u64,
}

impl House<'_> {
    fn start(&mut self) -> String {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let server = Server::start(self.data, &settings);
        let address = server.address.clone();
        self.server = Some(server);
        address
    }

    fn kill(&mut self, scene: &Scene<'_>) {
        let server = self.server.take().unwrap();
        let address = server.address.clone();
        server.end(Signal::KILL);
        scene.history.ended(&address);
        self.kills += 1;
        let address = self.start();
        *scene.address.write().unwrap() = address;
    }
}

fn make_history(
    house: &mut House<'_>,
    kind: &Kind,
    name: &str,
    rng: &mut Rng,
) -> (Checked, BTreeMap<String, u64>) {
    let address = house.server.as_ref().unwrap().address.clone();
    let skus = names(name, kind.shards);
    let mut stocks: Vec<(String, u64)> = skus.iter().map(|sku| (sku.clone(), 1)).collect();
    stocks.push((skus[1].clone(), 2));
    let scene = Scene {
        kind,
        history: Recorder::default(),
        name: name.to_owned(),
        stocks,
        address: RwLock::new(address),
        orders: Mutex::default(),
        made: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        working: AtomicUsize::new(0),
        told: Mutex::default(),
    };
    for (index, (sku, warehouse)) in scene.stocks.iter().enumerate() {
        let body = json!({ "sku_id": sku, "warehouse_id": warehouse, "quantity": rng.u64(4..24),
            "hot": kind.hot && index % 2 == 0 });
        assert_eq!(scene.settle(&mut Client::default(), "POST", "/v1/stock", &body).0, 201);
    }
    let callers = |rng: &mut Rng| -> Vec<Caller<'_>> {
        let caller = |_| Caller { scene: &scene, rng: rng.fork(), client: Client::default() };
        (0..CALLERS).map(caller).collect()
    };
    let kills = rng.u64(1..3);
    let first = callers(rng);
    work(house, &scene, first, rng, kills, |caller| (0..STEPS).for_each(|_| caller.step()));
    // The holds that were to end do, and those who pay late do so at that time.
    std::thread::sleep(Duration::from_millis(rng.u64(700..1_100)));
    let (late, kills) = (callers(rng), u64::from(rng.u8(0..3) == 0));
    work(house, &scene, late, rng, kills, Caller::pay_late);
    rest(&scene);
    let checked = scene.history.must_be_explained(name, shard_in(kind.shards));
    (checked, scene.told.into_inner().unwrap())
}

/// Lets callers work, and kills the server meanwhile.
fn work<'a>(
    house: &mut House<'_>,
    scene: &'a Scene<'a>,
    callers: Vec<Caller<'a>>,
    rng: &mut Rng,
    kills: u64,
    job: impl Fn(&mut Caller<'a>) + Sync,
) {
    scene.working.store(callers.len(), Ordering::Relaxed);
    std::thread::scope(|scope| {
        for mut caller in callers {
            let job = &job;
            scope.spawn(move || {
                let _working = Working(&scene.working);
                job(&mut caller);
            });
        }
        let is_working = || scene.working.load(Ordering::Relaxed) > 0;
        for _ in 0..kills {
            let until = scene.answered.load(Ordering::Relaxed) + rng.u64(1..50);
            while is_working() && scene.answered.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_micros(100));
            }
            std::thread::sleep(Duration::from_micros(rng.u64(0..2_000)));
            if is_working() {
                house.kill(scene);
            }
        }
    });
}

/// Counts a caller as gone, also when it fails.
struct Working<'a>(&'a AtomicUsize);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at every order until none is left whose time is about to be over, and at every stock.
fn rest(scene: &Scene<'_>) {
    let mut client = Client::default();
    for order in scene.orders.lock().unwrap().iter() {
        until_within(Duration::from_secs(60), "what was held for a second is not any more", || {
            let path = format!("/v1/reservations/{}", order.number);
            let (_, answer) = scene.settle(&mut client, "GET", &path, &Value::Null);
            answer["expires_at"].as_str().is_none_or(|at| {
                humantime::parse_rfc3339(at).unwrap() > SystemTime::now() + Duration::from_secs(60)
            })
        });
    }
    for (sku, _) in &scene.stocks {
        scene.settle(&mut client, "GET", &format!("/v1/stock/{sku}"), &Value::Null);
    }
}

fn make_histories(kind: &Kind) {
    let histories = number("HOTSTOCK_HISTORIES").unwrap_or(10);
    let seed = number("HOTSTOCK_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    println!("{histories} histories, HOTSTOCK_SEED={seed}");
    let (mut sum, mut told, mut kills, mut made) = (Checked::default(), BTreeMap::new(), 0, 0);
    while made < histories {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut settings: Vec<String> = SETTINGS.map(str::to_owned).to_vec();
        settings.push(format!("engine.shards={}", kind.shards));
        settings.extend(CRAMPED.iter().filter(|_| kind.cramped).map(|setting| (*setting).to_owned()));
        let mut house = House { data: &data, settings, server: None, kills: 0 };
        house.start();
        let mut levels = BTreeMap::new();
        for _ in 0..IN_ONE_DIRECTORY.min(histories - made) {
            // Each has a seed of its own, so that one can be made again alone.
            let seed = seed + made;
            let (checked, codes) =
                make_history(&mut house, kind, &format!("s{seed}"), &mut Rng::with_seed(seed));
            made += 1;
            sum.operations += checked.operations;
            sum.unknown += checked.unknown;
            sum.parts += checked.parts;
            sum.steps += checked.steps;
            sum.took += checked.took;
            sum.longest = sum.longest.max(checked.longest);
            levels.extend(checked.levels);
            codes.into_iter().for_each(|(code, count)| *told.entry(code).or_insert(0) += count);
        }
        let server = house.server.take().unwrap();
        kills += house.kills;
        let mut client = Client::default();
        for (stock, levels) in levels {
            let path = format!("/v1/stock/{}?warehouse_id={}", stock.sku, stock.warehouse);
            let mut got = [0; 3];
            until_within(
                Duration::from_secs(60),
                &format!("{stock} has {levels:?}, HOTSTOCK_SEED={seed}"),
                || {
                    let (_, answer) = client.call(&server.address, "GET", &path, "").unwrap();
                    let level = |name: &str| answer["warehouses"][0][name].as_i64().unwrap_or(-1);
                    let now = [level("available"), level("reserved"), level("sold")];
                    if now != got {
                        println!("{stock}: {now:?}, the orders make {levels:?}");
                    }
                    got = now;
                    got == levels
                },
            );
        }
        reconciled(&server.address);
        assert_eq!(server.end(Signal::TERM), Some(0));
        verify(&data);
    }
    println!(
        "{made} histories, {kills} kills, {} operations ({} of unknown outcome)",
        sum.operations, sum.unknown
    );
    println!("{} parts, {} steps, in {:?}, the longest in {:?}", sum.parts, sum.steps, sum.took, sum.longest);
    println!("{told:?}");
}
