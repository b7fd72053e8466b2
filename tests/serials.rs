//! Serial numbers under concurrency and SIGKILL: eight shards, SKUs that number their units in two warehouses each,
//! hot, stored and pinned and let go of again and again, and sixteen callers who confirm carts of them whole, in parts
//! and late. A request whose outcome is unknown is repeated. At the end each unit that was ever sold has one number,
//! the numbers of a SKU have no gap, and every repeat, read and journal tells the same.
//!
//! `HOTSTOCK_KILLS=50 HOTSTOCK_SEED=… cargo test --test serials -- --nocapture` runs more, or one run again.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, StopOnDrop, number, reconciled, verify};

const WORKERS: u64 = 16;

/// Hot SKUs, stored ones, and some that are pinned and let go of; the last of each kind has no numbers.
const KINDS: [&str; 3] = ["hot", "stored", "pinned"];
const SKUS_OF_A_KIND: usize = 4;
const WAREHOUSES: [u32; 2] = [1, 2];

/// Units of each SKU in each warehouse: some run out.
const UNITS: u64 = 300;

const SETTINGS: [&str; 9] = [
    "engine.shards=8",
    "engine.max_resident_skus=2",
    "orders.remember_seconds=1",
    "orders.remember_max=8",
    "checkpoint.events=300",
    "store.flush_interval_ms=20",
    "journal.segment_bytes=131072",
    "journal.zeros_bytes=131072",
    "log.level=error",
];

/// What is waited for at the end comes within this or the test fails; far above anything that is not a hang.
const PATIENCE: Duration = Duration::from_secs(120);

fn skus() -> Vec<String> {
    let of_kind = |kind| (0..SKUS_OF_A_KIND).map(move |number| format!("{kind}-{number}"));
    KINDS.into_iter().flat_map(of_kind).collect()
}

fn is_numbered(sku: &str) -> bool {
    !sku.ends_with(&format!("-{}", SKUS_OF_A_KIND - 1))
}

/// Numbers from and to.
type Range = (u64, u64);

/// What a worker knows of an order.
struct Order {
    /// The request that made it.
    reserve: Value,
    /// SKU, warehouse and units, as asked.
    lines: Vec<(String, u32, u64)>,
    /// Its time is soon over: its payment may come late.
    short: bool,
    /// Units that may be confirmed by a part, by line.
    held: Vec<u64>,
    /// Units that may be returned, by line.
    sold: Vec<u64>,
    /// The numbers that some answer told, by line.
    told: Vec<BTreeSet<Range>>,
    /// Parts that were answered, to be repeated: path and body.
    parts: Vec<(String, Value)>,
}

impl Order {
    /// Takes note of the numbers in an answer. One that was told is in every later answer.
    fn note(&mut self, answer: &Value) {
        for (line, told) in self.told.iter_mut().enumerate() {
            let (units, ranges) = (counts(answer, line)[1], ranges(answer, line));
            let numbers: u64 = ranges.iter().map(|(from, to)| to - from + 1).sum();
            assert!(numbers <= units, "more numbers than units: {answer}");
            assert!(ranges.is_empty() || is_numbered(&self.lines[line].0), "{answer}");
            assert!(told.iter().all(|known| ranges.contains(known)), "{told:?} were told before: {answer}");
            told.extend(ranges);
        }
    }
}

/// Held, confirmed, released, returned.
fn counts(answer: &Value, line: usize) -> [u64; 4] {
    ["held", "confirmed", "released", "returned"].map(|count| {
        answer["lines"][line][count]
            .as_u64()
            .unwrap_or_else(|| panic!("no {count} in line {line} of {answer}"))
    })
}

fn ranges(answer: &Value, line: usize) -> Vec<Range> {
    let list = answer["lines"][line]["serials"].as_array().into_iter().flatten();
    list.map(|range| (range["from"].as_u64().unwrap(), range["to"].as_u64().unwrap())).collect()
}

/// What the workers share with the ones who kill and pin.
struct Arena {
    address: RwLock<String>,
    stop: AtomicBool,
    answered: AtomicU64,
    cut_off: AtomicU64,
}

impl Arena {
    /// Sends a request until its outcome is known.
    fn settle(&self, client: &mut Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            let address = self.address.read().unwrap().clone();
            match client.call(&address, method, path, &body) {
                Ok((status, answer)) if status < 500 && status != 429 => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return (status, answer);
                }
                Ok((status, answer)) => last = format!("{status} {answer}"),
                Err(error) => {
                    // The server was killed and may have carried it out, unless it is not there yet.
                    let sent = error.kind() != std::io::ErrorKind::ConnectionRefused;
                    self.cut_off.fetch_add(u64::from(sent), Ordering::Relaxed);
                    last = error.to_string();
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{method} {path} {body} was never answered; the last: {last}")
    }
}

struct Worker<'a> {
    arena: &'a Arena,
    id: u64,
    rng: Rng,
    client: Client,
    orders: BTreeMap<String, Order>,
    made: u64,
    late: u64,
}

impl Worker<'_> {
    fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.arena.settle(&mut self.client, "POST", path, body)
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..40 => self.reserve(),
            40..60 => self.confirm(),
            60..80 => self.confirm_part(),
            80..88 => self.release_and_pay_late(),
            88..96 => self.give_back(),
            _ => self.read(),
        }
    }

    fn reserve(&mut self) {
        self.made += 1;
        let order_no = format!("w{}-{}", self.id, self.made);
        let (skus, mut places) = (skus(), BTreeMap::new());
        for _ in 0..self.rng.usize(1..5) {
            let place = (self.rng.choice(&skus).unwrap().clone(), WAREHOUSES[self.rng.usize(0..2)]);
            places.insert(place, self.rng.u64(1..4));
        }
        let lines: Vec<_> =
            places.into_iter().map(|((sku, warehouse), units)| (sku, warehouse, units)).collect();
        let short = self.rng.u8(0..5) == 0;
        let body: Vec<Value> = lines.iter().map(line).collect();
        let reserve =
            json!({ "order_no": order_no, "lines": body, "ttl_seconds": if short { 1 } else { 3_600 } });
        match self.post("/v1/reservations", &reserve) {
            (200 | 201, _) => {
                let held = lines.iter().map(|(_, _, units)| *units).collect();
                let (sold, told) = (vec![0; lines.len()], vec![BTreeSet::new(); lines.len()]);
                let order = Order { reserve, lines, short, held, sold, told, parts: Vec::new() };
                self.orders.insert(order_no, order);
            }
            (409, answer) => assert_eq!(answer["code"], "insufficient_stock", "{reserve}: {answer}"),
            other => panic!("{reserve}: {other:?}"),
        }
    }

    /// A random one of this worker's recent orders that fits.
    fn pick(&mut self, fits: impl Fn(&Order) -> bool) -> Option<String> {
        let fitting: Vec<_> = self.orders.iter().filter(|(_, order)| fits(order)).map(|(no, _)| no).collect();
        self.rng.choice(&fitting[fitting.len().saturating_sub(30)..]).map(|order_no| (*order_no).clone())
    }

    fn confirm(&mut self) {
        if let Some(order_no) = self.pick(|order| order.held.iter().any(|units| *units > 0)) {
            self.pay(&order_no);
        }
    }

    /// Confirms all that an order holds, or that it held when its time was over.
    fn pay(&mut self, order_no: &str) {
        let (status, answer) = self.post(&format!("/v1/reservations/{order_no}/confirm"), &json!({}));
        let order = self.orders.get_mut(order_no).unwrap();
        if status == 409 {
            assert_eq!(answer["code"], "late_payment_no_stock", "{order_no}: {answer}");
        } else {
            assert_eq!(status, 200, "{order_no}: {answer}");
            order.note(&answer);
            for line in 0..order.lines.len() {
                let [held, confirmed, _, returned] = counts(&answer, line);
                assert_eq!(held, 0, "{answer}");
                order.sold[line] = confirmed - returned;
            }
        }
        order.held.fill(0);
    }

    fn confirm_part(&mut self) {
        let fits = |order: &Order| !order.short && order.held.iter().any(|units| *units > 0);
        let Some(order_no) = self.pick(fits) else { return };
        let request_id = self.request_id();
        let order = &self.orders[&order_no];
        let mut part = vec![0; order.held.len()];
        for (line, held) in order.held.iter().enumerate() {
            part[line] = self.rng.u64(0..=*held);
        }
        if part.iter().all(|units| *units == 0) {
            return;
        }
        let lines = part_of(order, &part);
        let (path, body) = (
            format!("/v1/reservations/{order_no}/confirm"),
            json!({ "lines": lines, "request_id": request_id }),
        );
        let (status, answer) = self.post(&path, &body);
        assert_eq!(status, 200, "{order_no} {body}: {answer}");
        let order = self.orders.get_mut(&order_no).unwrap();
        order.note(&answer);
        for (line, units) in part.iter().enumerate() {
            order.held[line] -= units;
            order.sold[line] += units;
        }
        order.parts.push((path, body));
    }

    fn release_and_pay_late(&mut self) {
        let Some(order_no) = self.pick(|order| order.held.iter().any(|units| *units > 0)) else { return };
        let (status, answer) = self.post(&format!("/v1/reservations/{order_no}/release"), &json!({}));
        // Its time may have been over before.
        assert_eq!(status, 200, "{order_no}: {answer}");
        self.late += 1;
        self.pay(&order_no);
    }

    fn give_back(&mut self) {
        let Some(order_no) = self.pick(|order| order.sold.iter().any(|units| *units > 0)) else { return };
        let request_id = self.request_id();
        let order = &self.orders[&order_no];
        let mut part = vec![0; order.sold.len()];
        for (line, sold) in order.sold.iter().enumerate() {
            part[line] = self.rng.u64(0..=*sold);
        }
        if part.iter().all(|units| *units == 0) {
            return;
        }
        let body = json!({ "request_id": request_id, "lines": part_of(order, &part) });
        let (status, answer) = self.post(&format!("/v1/reservations/{order_no}/return"), &body);
        assert_eq!(status, 200, "{order_no} {body}: {answer}");
        let order = self.orders.get_mut(&order_no).unwrap();
        order.note(&answer);
        order.sold.iter_mut().zip(part).for_each(|(sold, units)| *sold -= units);
    }

    fn read(&mut self) {
        let Some(order_no) = self.pick(|_| true) else { return };
        let path = format!("/v1/reservations/{order_no}");
        let (status, answer) = self.arena.settle(&mut self.client, "GET", &path, &Value::Null);
        assert_eq!(status, 200, "{order_no} was acknowledged and is lost: {answer}");
        self.orders.get_mut(&order_no).unwrap().note(&answer);
    }

    fn request_id(&mut self) -> String {
        self.made += 1;
        format!("r{}-{}", self.id, self.made)
    }
}

fn line((sku, warehouse, units): &(String, u32, u64)) -> Value {
    json!({ "sku_id": sku, "warehouse_id": warehouse, "quantity": units })
}

/// So many units of each line of an order.
fn part_of(order: &Order, units: &[u64]) -> Vec<Value> {
    let lines = order.lines.iter().zip(units).filter(|(_, units)| **units > 0);
    lines.map(|((sku, warehouse, _), units)| line(&(sku.clone(), *warehouse, *units))).collect()
}

/// Pins SKUs and lets go of them.
fn keep_pinning(arena: &Arena, mut rng: Rng) -> u64 {
    let (mut client, mut pins) = (Client::default(), 0);
    while !arena.stop.load(Ordering::Relaxed) {
        let sku = format!("pinned-{}", rng.usize(0..SKUS_OF_A_KIND));
        let how = if rng.bool() { "promote" } else { "demote" };
        let path = format!("/v1/admin/skus/{sku}/{how}");
        let (status, answer) = arena.settle(&mut client, "POST", &path, &json!({}));
        assert_eq!(status, 200, "{path}: {answer}");
        pins += 1;
    }
    pins
}

/// Asks until it is answered as it should be.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(found) => return found,
            Err(problem) => assert!(began.elapsed() < PATIENCE, "{what}: {problem}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_unit_gets_one_number() {
    let kills = number("HOTSTOCK_KILLS").unwrap_or(10);
    let seed = number("HOTSTOCK_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    println!("{kills} kills, HOTSTOCK_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut server = Server::start(&data_dir, &SETTINGS);
    let mut client = Client::default();
    for sku in skus() {
        for warehouse in WAREHOUSES {
            let body = json!({ "sku_id": sku, "warehouse_id": warehouse, "quantity": UNITS,
                "serialized": is_numbered(&sku), "hot": sku.starts_with("hot") });
            let (status, answer) =
                client.call(&server.address, "POST", "/v1/stock", &body.to_string()).unwrap();
            assert_eq!(status, 201, "{answer}");
        }
    }
    let arena = Arena {
        address: RwLock::new(server.address.clone()),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        cut_off: AtomicU64::new(0),
    };
    let mut rng = Rng::with_seed(seed);
    let (workers, pins, mut server) = std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&arena.stop);
        let workers: Vec<_> = (0..WORKERS)
            .map(|id| {
                let (rng, client) = (Rng::with_seed(seed ^ (id + 1)), Client::default());
                let orders = BTreeMap::new();
                let mut worker = Worker { arena: &arena, id, rng, client, orders, made: 0, late: 0 };
                scope.spawn(move || {
                    while !worker.arena.stop.load(Ordering::Relaxed) {
                        worker.step();
                    }
                    worker
                })
            })
            .collect();
        let pinner = scope.spawn(|| keep_pinning(&arena, Rng::with_seed(seed ^ 77)));
        for kill in 0..=kills {
            // Not before the restarted server has done some work; then at a random moment.
            let until = arena.answered.load(Ordering::Relaxed) + rng.u64(100..500);
            while arena.answered.load(Ordering::Relaxed) < until {
                let failed = workers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                assert!(!failed && !pinner.is_finished(), "a worker failed");
                std::thread::sleep(Duration::from_micros(200));
            }
            if kill < kills {
                std::thread::sleep(Duration::from_micros(rng.u64(0..3_000)));
                server.end(Signal::KILL);
                server = Server::start(&data_dir, &SETTINGS);
                arena.address.write().unwrap().clone_from(&server.address);
            }
        }
        drop(stop_on_panic);
        let workers: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        (workers, pinner.join().unwrap(), server)
    });
    let late: u64 = workers.iter().map(|worker| worker.late).sum();
    let orders: BTreeMap<String, Order> = workers.into_iter().flat_map(|worker| worker.orders).collect();

    let first = check_everything(&mut client, &server.address, &orders, seed);
    assert_eq!(server.end(Signal::TERM), Some(0));
    verify(&data_dir);
    server = Server::start(&data_dir, &SETTINGS);
    let again = check_everything(&mut client, &server.address, &orders, seed);
    assert_eq!(again, first, "a restart changes no number (seed {seed})");

    let numbers: u64 = first.values().flatten().map(|ranges| count(ranges)).sum();
    let cut_off = arena.cut_off.load(Ordering::Relaxed);
    println!(
        "{} orders, {numbers} serial numbers, {late} late payments, {pins} times pinned or let go, {cut_off} requests cut off",
        orders.len()
    );
    assert!(cut_off > 0 || kills == 0, "no request was ever cut off: the kills came at the wrong moments");
    assert!(numbers > 0 && late > 0 && pins > 0);
}

fn count(ranges: &[Range]) -> u64 {
    ranges.iter().map(|(from, to)| to - from + 1).sum()
}

/// Compares orders, repeats, stock and journal once everything has come to rest. Gives the numbers of each line of each
/// order.
fn check_everything(
    client: &mut Client,
    address: &str,
    orders: &BTreeMap<String, Order>,
    seed: u64,
) -> BTreeMap<String, Vec<Vec<Range>>> {
    let mut numbers = BTreeMap::new();
    let mut by_sku: BTreeMap<&str, Vec<(Range, &str)>> = BTreeMap::new();
    let (mut sold, mut gone) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    for (order_no, order) in orders {
        let answer = until(order_no, || settled(client, address, order_no, order));
        let of_lines: Vec<_> = (0..order.lines.len()).map(|line| ranges(&answer, line)).collect();
        for (line, (sku, ..)) in order.lines.iter().enumerate() {
            let told = &order.told[line];
            let all_there = told.iter().all(|range| of_lines[line].contains(range));
            assert!(all_there, "{told:?} was told, now it is {answer} (seed {seed})");
            let [_, confirmed, _, returned] = counts(&answer, line);
            *sold.entry(sku).or_default() += confirmed - returned;
            *gone.entry(sku).or_default() += confirmed;
            by_sku
                .entry(sku)
                .or_default()
                .extend(of_lines[line].iter().map(|range| (*range, order_no.as_str())));
        }
        let again = std::iter::once(("/v1/reservations".to_owned(), order.reserve.clone()));
        for (path, body) in again.chain(order.parts.iter().cloned()) {
            let (status, repeat) = client.call(address, "POST", &path, &body.to_string()).unwrap();
            assert_eq!((status, &repeat["replayed"]), (200, &json!(true)), "{path} {body}: {repeat}");
            assert_eq!(repeat["lines"], answer["lines"], "{path} {body} (seed {seed})");
        }
        numbers.insert(order_no.clone(), of_lines);
    }
    for sku in skus() {
        let units = gone.get(sku.as_str()).copied().unwrap_or(0);
        let sold = sold.get(sku.as_str()).copied().unwrap_or(0);
        until(&sku, || {
            let (_, answer) = client.call(address, "GET", &format!("/v1/stock/{sku}"), "").unwrap();
            let got = answer["total"]["sold"].as_u64();
            if got == Some(sold) {
                Ok(())
            } else {
                Err(format!("{sold} units of the orders are sold: {answer}"))
            }
        });
        let mut of_orders = by_sku.remove(sku.as_str()).unwrap_or_default();
        of_orders.sort_unstable();
        let mut of_journal = journal(client, address, &sku);
        of_journal.sort_unstable();
        let of_journal: Vec<_> =
            of_journal.iter().map(|(range, order_no)| (*range, order_no.as_str())).collect();
        assert_eq!(of_orders, of_journal, "{sku}: orders (left) and journal (right), seed {seed}");
        let mut next = 1;
        for ((from, to), order_no) in of_orders {
            assert_eq!(from, next, "{sku}: a gap, or a number given twice, at {order_no} (seed {seed})");
            next = to + 1;
        }
        let must = if is_numbered(&sku) { units } else { 0 };
        assert_eq!(next - 1, must, "{sku}: each unit has one number (seed {seed})");
    }
    reconciled(address);
    numbers
}

/// An order that holds nothing that will still expire, and all of whose units have their numbers.
fn settled(client: &mut Client, address: &str, order_no: &str, order: &Order) -> Result<Value, String> {
    let (status, answer) = client.call(address, "GET", &format!("/v1/reservations/{order_no}"), "").unwrap();
    assert_eq!(status, 200, "{order_no} was acknowledged and is lost: {answer}");
    let whole = |(line, (sku, ..)): (usize, &(String, u32, u64))| {
        let [held, confirmed, ..] = counts(&answer, line);
        let must = if is_numbered(sku) { confirmed } else { 0 };
        count(&ranges(&answer, line)) == must && (held == 0 || !order.short)
    };
    if order.lines.iter().enumerate().all(whole) { Ok(answer) } else { Err(answer.to_string()) }
}

/// The numbers in the journal of a SKU, each range with its order.
fn journal(client: &mut Client, address: &str, sku: &str) -> Vec<(Range, String)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/stock/{sku}/journal?limit=1000{after}");
        let (status, answer) = client.call(address, "GET", &path, "").unwrap();
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap();
        if items.is_empty() {
            return all;
        }
        for item in items {
            for range in item["serials"].as_array().into_iter().flatten() {
                assert_eq!(item["kind"], "confirmed", "{item}");
                let range = (range["from"].as_u64().unwrap(), range["to"].as_u64().unwrap());
                assert_eq!(Some(range.1 - range.0 + 1), item["delta"]["sold"].as_u64(), "{item}");
                all.push((range, item["order_no"].as_str().unwrap().to_owned()));
            }
        }
        after = format!("&after={}", answer["next_after"].as_str().unwrap());
    }
}
