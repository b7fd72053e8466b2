//! SIGKILL at random moments under concurrent load; an unknown outcome is settled by repeating the same request. All
//! that the workers saw is checked for linearizability (`hotstock-histories`): nothing that was acknowledged is lost,
//! and nothing applied twice: on hot SKUs, and on SKUs, orders and requests that leave memory as soon as they may and
//! come back from the store.
//!
//! `HOTSTOCK_KILLS=200 HOTSTOCK_SEED=… cargo test --test kill -- --nocapture` runs more, or one run again;
//! `HOTSTOCK_BIN` names another build of the program. (The seed fixes what the workers ask and when the kills come; how
//! the threads interleave stays the machine's.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_histories::Recorder;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, StopOnDrop, encoded, levels, number, recorded, until, verify};

const WORKERS: u64 = 8;
const SKUS: [&str; 4] = ["hot", "warm", "85123A", "BANK CHARGES"];
const INITIAL: i64 = 300;
const SHARDS: u16 = 2;

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

/// What can still be done with an order.
#[derive(Debug, Clone, Default)]
struct Order {
    sku: usize,
    held: i64,
    /// Sold and not returned.
    sold: i64,
}

/// What a worker has done.
#[derive(Debug, Default)]
struct Ledger {
    orders: BTreeMap<String, Order>,
    /// Reserved for one second and left alone, with the time from which they may have expired.
    abandoned: VecDeque<(String, Instant)>,
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
    history: Recorder,
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
            match recorded(&self.arena.history, &mut self.client, &address, method, path, &body) {
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
            _ => self.look(),
        }
        self.look_after_abandoned();
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
            (200 | 201, _) if abandoned => {
                self.ledger.abandoned.push_back((order_no, Instant::now() + Duration::from_secs(1)));
            }
            (200 | 201, _) => {
                self.ledger.orders.insert(order_no, Order { sku, held: one + two, sold: 0 });
            }
            (409, _) => self.ledger.refused += 1,
            other => panic!("{body}: {other:?}"),
        }
    }

    /// A random order of this worker that fits.
    fn pick(&mut self, fits: impl Fn(&Order) -> bool) -> Option<(String, Order)> {
        let fitting: Vec<_> = self.ledger.orders.iter().filter(|(_, order)| fits(order)).collect();
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
        self.done(&format!("/v1/reservations/{order_no}/confirm"), &body);
        order.held -= quantity;
        order.sold += quantity;
        self.ledger.orders.insert(order_no, order);
    }

    fn release(&mut self) {
        let Some((order_no, mut order)) = self.pick(|order| order.held > 0) else {
            return self.cancel();
        };
        self.done(&format!("/v1/reservations/{order_no}/release"), &json!({ "reason": "test" }));
        order.held = 0;
        self.ledger.orders.insert(order_no, order);
    }

    /// A release that comes before its reserve.
    fn cancel(&mut self) {
        self.next += 1;
        let order_no = format!("w{}-{}", self.id, self.next);
        self.done(&format!("/v1/reservations/{order_no}/release"), &json!({}));
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": SKUS[0], "quantity": 1 }] });
        assert_eq!(self.settle("POST", "/v1/reservations", &body).0, 409);
    }

    fn give_back(&mut self) {
        let Some((order_no, mut order)) = self.pick(|order| order.sold > 0) else { return };
        let request_id = self.request_id();
        let body =
            json!({ "request_id": request_id, "lines": [{ "sku_id": SKUS[order.sku], "quantity": 1 }] });
        self.done(&format!("/v1/reservations/{order_no}/return"), &body);
        order.sold -= 1;
        self.ledger.orders.insert(order_no, order);
    }

    fn change_stock(&mut self) {
        let (sku, quantity) = (self.rng.usize(0..SKUS.len()), self.rng.i64(1..9));
        let kind = if self.rng.u8(0..3) == 0 { "deduct" } else { "restock" };
        let body = json!({ "request_id": self.request_id(), "quantity": quantity, "reason": "test" });
        let (status, answer) = self.settle("POST", &format!("/v1/stock/{}/{kind}", path_of(sku)), &body);
        assert!(matches!(status, 200 | 409), "{kind} {body}: {answer}");
    }

    /// What was acknowledged is still there; the history knows what that is.
    fn look(&mut self) {
        let path = match self.rng.choice(self.ledger.orders.keys()) {
            Some(order_no) if self.rng.bool() => format!("/v1/reservations/{order_no}"),
            _ => format!("/v1/stock/{}", path_of(self.rng.usize(0..SKUS.len()))),
        };
        assert_eq!(self.settle("GET", &path, &Value::Null).0, 200, "{path}");
    }

    /// Looks at the oldest of the orders that expire by themselves. The sooner somebody sees that, the less the history
    /// leaves open.
    fn look_after_abandoned(&mut self) {
        let due = |(order_no, at): &(String, Instant)| (Instant::now() > *at).then(|| order_no.clone());
        let Some(order_no) = self.ledger.abandoned.front().and_then(due) else { return };
        let (_, answer) = self.settle("GET", &format!("/v1/reservations/{order_no}"), &Value::Null);
        if answer["expires_at"].is_null() {
            self.ledger.abandoned.pop_front();
        }
    }

    /// A request that can't be refused.
    fn done(&mut self, path: &str, body: &Value) {
        let (status, answer) = self.settle("POST", path, body);
        assert_eq!(status, 200, "{path} {body}: {answer}");
    }

    fn request_id(&mut self) -> String {
        self.next += 1;
        format!("r{}-{}", self.id, self.next)
    }
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
    let arena = Arena {
        address: RwLock::new(server.address.clone()),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        history: Recorder::default(),
    };
    for sku in SKUS {
        let body = json!({ "sku_id": sku, "quantity": INITIAL, "hot": hot }).to_string();
        let created = recorded(&arena.history, &mut client, &server.address, "POST", "/v1/stock", &body);
        assert_eq!(created.unwrap().0, 201);
    }
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
                    // Those that are left expire now.
                    while !worker.ledger.abandoned.is_empty() {
                        worker.look_after_abandoned();
                        std::thread::sleep(Duration::from_millis(5));
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
            let address = server.address.clone();
            server.end(Signal::KILL);
            arena.history.ended(&address);
            if kill % 10 == 0 {
                verify(&data_dir);
            }
            server = Server::start(&data_dir, settings);
            *arena.address.write().unwrap() = server.address.clone();
        }
        drop(stop_on_panic);
        (workers.into_iter().map(|worker| worker.join().unwrap()).collect(), server)
    });
    let shard = |sku: &str| shard_of(&SkuId::new(sku).unwrap(), SHARDS).0;
    let checked = arena.history.must_be_explained(&format!("kill-{seed}"), shard);
    for name in SKUS {
        let told = checked.sku(name);
        until(&format!("{name} has {told:?} (seed {seed})"), || levels(&server.address, name) == told);
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
    verify(&data_dir);
    let sum = |count: fn(&Ledger) -> u64| ledgers.iter().map(count).sum::<u64>();
    println!("{checked:?}");
    println!(
        "{} acknowledged, {} of them after an unknown outcome ({} replayed), {} refused",
        sum(|l| l.acknowledged),
        sum(|l| l.repeated),
        sum(|l| l.replayed),
        sum(|l| l.refused),
    );
    assert!(sum(|l| l.repeated) > 0, "no request was ever cut off: the kills came at the wrong moments");
}
