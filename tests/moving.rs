//! A SKU moves between shard and store, again and again, while orders on it go on: units are conserved, no order is refused
//! because of a move, and every instant has one owner. Then the same with the server killed at every step of a move.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, hotstock};

const WORKERS: u64 = 8;
const UNITS: i64 = 5_000;
const SETTINGS: [&str; 3] = ["log.level=error", "store.flush_interval_ms=2", "checkpoint.events=500"];

/// Every step of a move, in its order. (`flush.*` also stand around flushes that have nothing to do with a move.)
const STEPS: [&str; 14] = [
    "promote.before_take",
    "promote.taken",
    "promote.begun",
    "promote.orders",
    "promote.before_finish",
    "promote.finished",
    "demote.before_close",
    "demote.closed",
    "demote.shed",
    "demote.withdrawn",
    "demote.before_flush",
    "flush.before",
    "flush.after",
    "demote.flushed",
];

/// Units by what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Ledger {
    held: i64,
    sold: i64,
    refused: u64,
    made: u64,
}

fn post(client: &mut Client, address: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    client.call(address, "POST", path, &body.to_string())
}

/// One worker's orders, until it is told to stop. Every answer must be one that a caller without moves could get.
fn orders(address: &str, id: u64, stop: &AtomicBool, done: &AtomicU64) -> Ledger {
    let (mut client, mut ledger, mut rng) = (Client::default(), Ledger::default(), Rng::with_seed(id));
    while !stop.load(Ordering::Relaxed) {
        ledger.made += 1;
        let order_no = format!("o{id}-{}", ledger.made);
        let quantity = rng.i64(1..4);
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": "mover", "quantity": quantity }], "ttl_seconds": 3600 });
        let (status, answer) = post(&mut client, address, "/v1/reservations", &body).unwrap();
        done.fetch_add(1, Ordering::Relaxed);
        match (status, answer["code"].as_str()) {
            (201, _) => {}
            (409, Some("insufficient_stock")) => {
                ledger.refused += 1;
                continue;
            }
            _ => panic!("refused because of a move: {status} {answer}"),
        }
        let act = |client: &mut Client, what: &str, body: &Value| {
            let (status, answer) =
                post(client, address, &format!("/v1/reservations/{order_no}/{what}"), body).unwrap();
            assert_eq!(status, 200, "{what} of {order_no}: {answer}");
        };
        match rng.u8(0..10) {
            0..5 => {
                act(&mut client, "release", &json!({}));
                // A repeat is known wherever the order lies by now.
                let (status, answer) = post(&mut client, address, "/v1/reservations", &body).unwrap();
                assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{answer}");
            }
            5..8 => {
                act(&mut client, "confirm", &json!({}));
                act(&mut client, "return", &json!({ "request_id": "r" }));
            }
            8 => {
                act(&mut client, "confirm", &json!({}));
                ledger.sold += quantity;
            }
            _ => ledger.held += quantity,
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    ledger
}

fn levels(client: &mut Client, address: &str) -> [i64; 3] {
    let (status, answer) = client.call(address, "GET", "/v1/stock/mover", "").unwrap();
    assert_eq!(status, 200, "{answer}");
    ["available", "reserved", "sold"].map(|level| answer["total"][level].as_i64().unwrap())
}

/// Nothing differs between shard, rows, journal and orders.
fn reconciled(client: &mut Client, address: &str) {
    let (status, answer) = post(client, address, "/v1/admin/reconcile", &json!({})).unwrap();
    assert_eq!((status, answer["differences"].as_array().map(Vec::len)), (200, Some(0)), "{answer}");
}

/// The whole journal of the SKU: gapless, and each row follows from the one before.
fn journal_is_whole(client: &mut Client, address: &str) -> u64 {
    let (mut after, mut version, mut before) = (String::new(), 0, [0, 0, 0]);
    loop {
        let (status, answer) =
            client.call(address, "GET", &format!("/v1/stock/mover/journal?limit=1000{after}"), "").unwrap();
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap();
        if items.is_empty() {
            return version;
        }
        for item in items {
            version += 1;
            assert_eq!(item["id"], json!(format!("1-{version}")), "a gap or a repeat");
            for (level, name) in ["available", "reserved", "sold"].iter().enumerate() {
                before[level] += item["delta"][*name].as_i64().unwrap();
                assert_eq!(Some(before[level]), item["after"][*name].as_i64(), "{item}");
            }
        }
        after = format!("&after={}", answer["next_after"].as_str().unwrap());
    }
}

#[test]
fn five_hundred_moves_under_concurrent_orders() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &SETTINGS);
    let address = &server.address;
    let mut client = Client::default();
    assert_eq!(
        post(&mut client, address, "/v1/stock", &json!({ "sku_id": "mover", "quantity": UNITS })).unwrap().0,
        201
    );
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let ledgers: Vec<Ledger> = std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&stop);
        let workers: Vec<_> = (0..WORKERS)
            .map(|id| {
                scope.spawn({
                    let (stop, done) = (&stop, &done);
                    move || orders(address, id, stop, done)
                })
            })
            .collect();
        for moved in 0..500 {
            let how = ["promote", "demote"][moved % 2];
            let (status, answer) =
                post(&mut client, address, &format!("/v1/admin/skus/mover/{how}"), &json!({})).unwrap();
            assert_eq!(status, 200, "{how}: {answer}");
            // Between two moves at least one order was served where the SKU lies now.
            let until = done.load(Ordering::Relaxed) + 1;
            while done.load(Ordering::Relaxed) < until {
                assert!(!workers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a worker failed");
                std::thread::yield_now();
            }
        }
        drop(stop_on_panic);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let held: i64 = ledgers.iter().map(|ledger| ledger.held).sum();
    let sold: i64 = ledgers.iter().map(|ledger| ledger.sold).sum();
    assert_eq!(levels(&mut client, address), [UNITS - held - sold, held, sold]);
    reconciled(&mut client, address);
    let changes = journal_is_whole(&mut client, address);
    let made: u64 = ledgers.iter().map(|ledger| ledger.made).sum();
    println!("500 moves, {made} orders, {changes} changes of the stock");
}

/// Repeats a request until it is answered with something that says what happened.
fn settle(
    client: &mut Client,
    server: &mut Server,
    restart: &mut dyn FnMut() -> Server,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    for _ in 0..20_000 {
        match post(client, &server.address, path, body) {
            Ok((status, answer)) if status < 500 => return (status, answer),
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
            // Killed at its failpoint: start it again, without one.
            Err(_) => *server = restart(),
        }
    }
    panic!("{path} {body} was never answered")
}

#[test]
fn killed_at_every_step_it_recovers_to_one_owner() {
    for step in STEPS {
        for hit in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let data = dir.path().join("data");
            kill_at(&data, step, hit);
        }
    }
}

fn kill_at(data: &Path, step: &str, hit: u32) {
    let mut client = Client::default();
    let mut killed = 0;
    let mut restart = || {
        killed += 1;
        Server::start(data, &SETTINGS)
    };
    let mut server = Server::start(data, &SETTINGS);
    let create = json!({ "sku_id": "mover", "quantity": 1_000 });
    assert_eq!(post(&mut client, &server.address, "/v1/stock", &create).unwrap().0, 201);
    // Open and ended orders that have to move along; more than one part of an adoption.
    let mut held = 0;
    for order in 0..300 {
        let order_no = format!("before-{order}");
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": "mover", "quantity": 1 }] });
        assert_eq!(post(&mut client, &server.address, "/v1/reservations", &body).unwrap().0, 201);
        if order % 2 == 0 {
            let path = format!("/v1/reservations/{order_no}/release");
            assert_eq!(post(&mut client, &server.address, &path, &json!({})).unwrap().0, 200);
        } else {
            held += 1;
        }
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
    let mut command = Command::new(hotstock());
    command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    command.env("HOTSTOCK_FAILPOINT", format!("{step}:{hit}"));
    server = Server::spawn(command);
    let mut sold = 0;
    for round in 0..4 {
        let how = ["promote", "demote"][round % 2];
        let (status, answer) = settle(
            &mut client,
            &mut server,
            &mut restart,
            &format!("/v1/admin/skus/mover/{how}"),
            &json!({}),
        );
        assert_eq!(status, 200, "{step}:{hit} {how}: {answer}");
        let order_no = format!("round-{round}");
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": "mover", "quantity": 2 }] });
        let (status, answer) = settle(&mut client, &mut server, &mut restart, "/v1/reservations", &body);
        assert!(matches!(status, 200 | 201), "{step}:{hit}: {answer}");
        let (status, answer) = settle(
            &mut client,
            &mut server,
            &mut restart,
            &format!("/v1/reservations/{order_no}/confirm"),
            &json!({}),
        );
        assert_eq!(status, 200, "{step}:{hit}: {answer}");
        sold += 2;
        // One that was there before the kill: known, wherever it lies.
        let body = json!({ "order_no": "before-0", "lines": [{ "sku_id": "mover", "quantity": 1 }] });
        let (status, answer) = settle(&mut client, &mut server, &mut restart, "/v1/reservations", &body);
        assert_eq!((status, &answer["status"]), (200, &json!("released")), "{step}:{hit}: {answer}");
    }
    assert_eq!(levels(&mut client, &server.address), [1_000 - held - sold, held, sold], "{step}:{hit}");
    reconciled(&mut client, &server.address);
    journal_is_whole(&mut client, &server.address);
    assert_eq!(server.end(Signal::TERM), Some(0), "{step}:{hit}");
    let output = Command::new(hotstock()).args(["verify", "--data-dir"]).arg(data).output().unwrap();
    assert!(output.status.success(), "{step}:{hit}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(killed, 1, "{step}:{hit}: it was to be killed there, once");
}

/// Lets the workers end, also when the test fails in between.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
