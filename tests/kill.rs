//! SIGKILL at random moments under concurrent load. Every worker keeps a ledger of what it was told; an unknown outcome
//! is settled by repeating the same request. Afterwards nothing that was acknowledged may be lost, and nothing applied
//! twice: on hot SKUs, and on SKUs, orders and requests that leave memory as soon as they may and come back from the
//! store.
//!
//! `HOTSTOCK_KILLS=200 HOTSTOCK_SEED=… cargo test --test kill -- --nocapture` runs more, or one run again;
//! `HOTSTOCK_BIN` names another build of the program. (The seed fixes what the workers ask and when the kills come; how
//! the threads interleave stays the machine's.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, StopOnDrop, encoded, number, verify};

const WORKERS: u64 = 8;
const SKUS: [&str; 4] = ["hot", "warm", "85123A", "BANK CHARGES"];
const INITIAL: i64 = 300;

/// Small segments and checkpoints, so that changing over and trimming are among what is killed.
const SETTINGS: [&str; 6] = [
    "engine.shards=2",
    "checkpoint.events=300",
    "journal.segment_bytes=131072",
    "journal.zeros_bytes=131072",
    "store.flush_interval_ms=20",
    "log.level=warn",
];

/// Whatever ended leaves memory at once, and so does a SKU on which nothing lies.
const FORGETFUL: [&str; 3] =
    ["engine.max_resident_skus=1", "orders.remember_seconds=1", "orders.remember_max=1"];

/// What one order has come to, by the answers.
#[derive(Debug, Clone, Default, PartialEq)]
struct Order {
    sku: usize,
    held: i64,
    confirmed: i64,
    released: i64,
    returned: i64,
    /// Reserved for one second and left alone: it must have expired by the end.
    abandoned: bool,
}

/// What a worker knows.
#[derive(Debug, Default)]
struct Ledger {
    orders: BTreeMap<String, Order>,
    /// Units restocked and deducted, by SKU.
    supplied: [i64; SKUS.len()],
    acknowledged: u64,
    repeated: u64,
    replayed: u64,
    refused: u64,
}

/// What the workers share with the one who kills.
struct Arena {
    address: RwLock<String>,
    stop: AtomicBool,
    answered: AtomicU64,
}

struct Worker<'a> {
    arena: &'a Arena,
    id: u64,
    rng: Rng,
    client: Client,
    ledger: Ledger,
    next: u64,
}

fn path_of(sku: usize) -> String {
    encoded(SKUS[sku])
}

impl Worker<'_> {
    /// Sends a request until its outcome is known.
    fn settle(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        for attempt in 0.. {
            let address = self.arena.address.read().unwrap().clone();
            match self.client.call(&address, method, path, &body) {
                Ok((status, answer)) if status < 500 => {
                    self.ledger.acknowledged += 1;
                    self.ledger.replayed += u64::from(answer["replayed"] == true);
                    self.arena.answered.fetch_add(1, Ordering::Relaxed);
                    return (status, answer);
                }
                Ok((500 | 505.., answer)) => panic!("{method} {path} {body}: {answer}"),
                // Refused for now, or unknown: the server is stopped, killed or not there yet.
                Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
            self.ledger.repeated += u64::from(attempt == 0);
            assert!(attempt < 30_000, "{method} {path} was never answered");
        }
        unreachable!()
    }

    fn step(&mut self) {
        match self.rng.u32(0..100) {
            0..45 => self.reserve(),
            45..65 => self.confirm(),
            65..75 => self.release(),
            75..82 => self.give_back(),
            82..90 => self.change_stock(),
            _ => self.check_one(),
        }
    }

    fn reserve(&mut self) {
        self.next += 1;
        let order_no = format!("w{}-{}", self.id, self.next);
        let sku = self.rng.usize(0..SKUS.len());
        let (one, two) = (self.rng.i64(1..4), self.rng.i64(0..2));
        let abandoned = self.rng.u8(0..10) == 0;
        let mut lines = vec![json!({ "sku_id": SKUS[sku], "quantity": one })];
        if two > 0 {
            lines.push(json!({ "sku_id": SKUS[sku], "quantity": two }));
        }
        let ttl = if abandoned { 1 } else { 3_600 };
        let body = json!({ "order_no": order_no, "lines": lines, "ttl_seconds": ttl });
        match self.settle("POST", "/v1/reservations", &body) {
            (200 | 201, answer) => {
                // An abandoned one may have expired before the repeat of its request.
                let order = Order { sku, held: one + two, abandoned, ..Order::default() };
                if !abandoned {
                    check(&order_no, &order, &answer);
                }
                self.ledger.orders.insert(order_no, order);
            }
            (409, answer) => {
                assert_eq!(answer["code"], "insufficient_stock", "{answer}");
                self.ledger.refused += 1;
            }
            other => panic!("{body}: {other:?}"),
        }
    }

    /// A random order of this worker that fits.
    fn pick(&mut self, fits: impl Fn(&Order) -> bool) -> Option<(String, Order)> {
        let fitting: Vec<_> = self.ledger.orders.iter().filter(|(_, o)| !o.abandoned && fits(o)).collect();
        let recent = fitting.len().saturating_sub(20);
        let (order_no, order) = fitting.get(self.rng.usize(recent..fitting.len().max(recent + 1)))?;
        Some(((*order_no).clone(), (*order).clone()))
    }

    fn confirm(&mut self) {
        let Some((order_no, mut order)) = self.pick(|order| order.held > 0) else { return };
        let part = self.rng.bool() && order.held > 1;
        let quantity = if part { 1 } else { order.held };
        let mut body = json!({});
        if part {
            let request_id = self.request_id();
            body =
                json!({ "lines": [{ "sku_id": SKUS[order.sku], "quantity": 1 }], "request_id": request_id });
        }
        let (status, answer) = self.settle("POST", &format!("/v1/reservations/{order_no}/confirm"), &body);
        assert_eq!(status, 200, "{order_no} {body}: {answer}");
        order.held -= quantity;
        order.confirmed += quantity;
        self.changed(order_no, order, &answer);
    }

    fn release(&mut self) {
        let Some((order_no, mut order)) = self.pick(|order| order.held > 0) else {
            return self.cancel();
        };
        let path = format!("/v1/reservations/{order_no}/release");
        let (status, answer) = self.settle("POST", &path, &json!({ "reason": "test" }));
        assert_eq!(status, 200, "{order_no}: {answer}");
        order.released += order.held;
        order.held = 0;
        self.changed(order_no, order, &answer);
    }

    /// A release that comes before its reserve.
    fn cancel(&mut self) {
        self.next += 1;
        let order_no = format!("w{}-{}", self.id, self.next);
        let (status, answer) =
            self.settle("POST", &format!("/v1/reservations/{order_no}/release"), &json!({}));
        assert_eq!((status, &answer["status"]), (200, &json!("cancelled")), "{answer}");
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": SKUS[0], "quantity": 1 }] });
        let (status, answer) = self.settle("POST", "/v1/reservations", &body);
        assert_eq!((status, &answer["code"]), (409, &json!("order_cancelled")), "{answer}");
    }

    fn give_back(&mut self) {
        let Some((order_no, mut order)) = self.pick(|order| order.confirmed > order.returned) else { return };
        let request_id = self.request_id();
        let body =
            json!({ "request_id": request_id, "lines": [{ "sku_id": SKUS[order.sku], "quantity": 1 }] });
        let (status, answer) = self.settle("POST", &format!("/v1/reservations/{order_no}/return"), &body);
        assert_eq!(status, 200, "{order_no}: {answer}");
        order.returned += 1;
        self.changed(order_no, order, &answer);
    }

    fn change_stock(&mut self) {
        let (sku, quantity) = (self.rng.usize(0..SKUS.len()), self.rng.i64(1..9));
        let (kind, sign) = if self.rng.u8(0..3) == 0 { ("deduct", -1) } else { ("restock", 1) };
        let body = json!({ "request_id": self.request_id(), "quantity": quantity, "reason": "test" });
        match self.settle("POST", &format!("/v1/stock/{}/{kind}", path_of(sku)), &body) {
            (200, _) => self.ledger.supplied[sku] += sign * quantity,
            (409, answer) => assert_eq!(answer["code"], "insufficient_stock", "{answer}"),
            other => panic!("{kind} {body}: {other:?}"),
        }
    }

    /// What was acknowledged is still there.
    fn check_one(&mut self) {
        let orders: Vec<_> = self.ledger.orders.iter().filter(|(_, order)| !order.abandoned).collect();
        let Some((order_no, order)) = self.rng.choice(orders).map(|(no, order)| (no.clone(), order.clone()))
        else {
            return;
        };
        let (status, answer) = self.settle("GET", &format!("/v1/reservations/{order_no}"), &Value::Null);
        assert_eq!(status, 200, "{order_no} was acknowledged and is lost: {answer}");
        check(&order_no, &order, &answer);
    }

    fn changed(&mut self, order_no: String, order: Order, answer: &Value) {
        check(&order_no, &order, answer);
        self.ledger.orders.insert(order_no, order);
    }

    fn request_id(&mut self) -> String {
        self.next += 1;
        format!("r{}-{}", self.id, self.next)
    }
}

/// An answer says what the ledger says.
fn check(order_no: &str, order: &Order, answer: &Value) {
    let line = &answer["lines"][0];
    let got = ["held", "confirmed", "released", "returned"].map(|count| line[count].as_i64().unwrap_or(-1));
    let told = [order.held, order.confirmed, order.released, order.returned];
    assert_eq!(got, told, "order {order_no}: the server says {got:?}, the ledger {told:?}: {answer}");
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_applied_twice() {
    kill_again_and_again(true, &SETTINGS);
}

#[test]
fn nor_of_what_leaves_memory_and_comes_back() {
    kill_again_and_again(false, &[&SETTINGS[..], &FORGETFUL].concat());
}

fn kill_again_and_again(hot: bool, settings: &[&str]) {
    let kills = number("HOTSTOCK_KILLS").unwrap_or(15);
    let seed = number("HOTSTOCK_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    println!("{kills} kills, HOTSTOCK_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut server = Server::start(&data_dir, settings);
    let mut client = Client::default();
    for sku in SKUS {
        let body = json!({ "sku_id": sku, "quantity": INITIAL, "hot": hot }).to_string();
        assert_eq!(client.call(&server.address, "POST", "/v1/stock", &body).unwrap().0, 201);
    }
    let arena = Arena {
        address: RwLock::new(server.address.clone()),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
    };
    let mut rng = Rng::with_seed(seed);
    let (ledgers, server): (Vec<Ledger>, Server) = std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&arena.stop);
        let workers: Vec<_> = (0..WORKERS)
            .map(|id| {
                let (rng, client, ledger) =
                    (Rng::with_seed(seed ^ (id + 1)), Client::default(), Ledger::default());
                let mut worker = Worker { arena: &arena, id, rng, client, ledger, next: 0 };
                scope.spawn(move || {
                    while !worker.arena.stop.load(Ordering::Relaxed) {
                        worker.step();
                    }
                    worker.ledger
                })
            })
            .collect();
        for kill in 1..=kills {
            // Not before the restarted server has done some work; then at a random moment.
            let until = arena.answered.load(Ordering::Relaxed) + rng.u64(1..400);
            while arena.answered.load(Ordering::Relaxed) < until {
                assert!(!workers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a worker failed");
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(rng.u64(0..3_000)));
            server.end(Signal::KILL);
            if kill % 10 == 0 {
                verify(&data_dir);
            }
            server = Server::start(&data_dir, settings);
            *arena.address.write().unwrap() = server.address.clone();
        }
        drop(stop_on_panic);
        (workers.into_iter().map(|worker| worker.join().unwrap()).collect(), server)
    });
    // Orders that were left alone expire by themselves; then the levels are those of all ledgers together.
    let address = server.address.clone();
    for (sku, name) in SKUS.iter().enumerate() {
        let orders =
            || ledgers.iter().flat_map(|ledger| ledger.orders.values()).filter(|order| order.sku == sku);
        let held: i64 = orders().filter(|order| !order.abandoned).map(|order| order.held).sum();
        let sold: i64 = orders().map(|order| order.confirmed - order.returned).sum();
        let supplied: i64 = INITIAL + ledgers.iter().map(|ledger| ledger.supplied[sku]).sum::<i64>();
        let told = [supplied - held - sold, held, sold];
        for attempt in 0.. {
            let path = format!("/v1/stock/{}", path_of(sku));
            let (_, answer) = client.call(&address, "GET", &path, "").unwrap();
            let got = ["available", "reserved", "sold"].map(|level| answer["total"][level].as_i64().unwrap());
            if got == told {
                break;
            }
            assert!(attempt < 1_000, "{name}: the server has {got:?}, the ledgers {told:?} (seed {seed})");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
    verify(&data_dir);
    let sum = |count: fn(&Ledger) -> u64| ledgers.iter().map(count).sum::<u64>();
    println!(
        "{} acknowledged, {} of them after an unknown outcome ({} replayed), {} refused",
        sum(|l| l.acknowledged),
        sum(|l| l.repeated),
        sum(|l| l.replayed),
        sum(|l| l.refused),
    );
    assert!(sum(|l| l.repeated) > 0, "no request was ever cut off: the kills came at the wrong moments");
}
