//! The data directory is lost: `recover --from-store` rebuilds the hot shards from SQL, says up to which event, and the old server, should
//! it come back, can't write any more.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, hotstock};

fn post(address: &str, path: &str, body: &Value) -> (u16, Value) {
    Client::default().call(address, "POST", path, &body.to_string()).unwrap()
}

fn reserve(address: &str, order_no: &str, sku: &str) -> (u16, Value) {
    post(
        address,
        "/v1/reservations",
        &json!({ "order_no": order_no, "lines": [{ "sku_id": sku, "quantity": 1 }] }),
    )
}

fn levels(address: &str, sku: &str) -> Value {
    let (status, answer) = Client::default().call(address, "GET", &format!("/v1/stock/{sku}"), "").unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["warehouses"].clone()
}

/// Flushed and durable events of all shards.
fn lsns(address: &str) -> (u64, u64) {
    let (_, answer) = Client::default().call(address, "GET", "/v1/admin/shards", "").unwrap();
    let sum = |name: &str| {
        answer["shards"].as_array().unwrap().iter().map(|shard| shard[name].as_u64().unwrap()).sum()
    };
    (sum("flushed"), sum("durable"))
}

/// Waits for what the server does by itself; far longer than it can take.
fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("it never came")
}

fn recover(data: &Path, store: &str) -> Output {
    let mut command = Command::new(hotstock());
    command.args(["recover", "--from-store", "--set", store, "--data-dir"]).arg(data).output().unwrap()
}

#[test]
fn a_lost_data_directory_is_rebuilt_from_the_store() {
    let database = MariaDb::start();
    let store = format!("store.url={}", database.url("hotstock"));
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    // It flushes only when it is told to end, or every ten minutes: what comes after the first part is not flushed.
    let quick = ["log.level=warn", "engine.shards=2", "store.flush_interval_ms=20", &store];
    let slow = ["log.level=warn", "engine.shards=2", "store.flush_interval_ms=600000", &store];
    let server = Server::start(&old, &quick);
    for sku in ["a", "b", "c"] {
        let body = json!({ "sku_id": sku, "quantity": 100, "hot": sku != "c" });
        assert_eq!(post(&server.address, "/v1/stock", &body).0, 201);
    }
    for number in 0..30 {
        let order_no = format!("o{number}");
        assert_eq!(reserve(&server.address, &order_no, ["a", "b", "c"][number % 3]).0, 201);
        let what = ["confirm", "release", "extend"][number / 3 % 3];
        let body = if what == "extend" { json!({ "ttl_seconds": 9_000 }) } else { json!({}) };
        assert_eq!(post(&server.address, &format!("/v1/reservations/{order_no}/{what}"), &body).0, 200);
    }
    let before: Vec<Value> = ["a", "b", "c"].iter().map(|sku| levels(&server.address, sku)).collect();
    assert_eq!(server.end(Signal::TERM), Some(0));
    let server = Server::start(&old, &slow);
    // It asks the store how far it is.
    let (flushed, durable) = until(|| Some(lsns(&server.address)).filter(|(flushed, _)| *flushed > 0));
    assert_eq!(flushed, durable, "a clean end flushes everything");
    assert_eq!(reserve(&server.address, "lost", "a").0, 201);
    assert_eq!(lsns(&server.address), (flushed, durable + 1), "this one is not in the store");
    server.end(Signal::KILL);
    let away = dir.path().join("away");
    std::fs::rename(&old, &away).unwrap();

    let output = recover(&new, &store);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let lsns_said: u64 = said
        .lines()
        .filter(|line| line.contains("shard"))
        .filter_map(|line| {
            line.split(|c: char| !c.is_ascii_digit())
                .filter(|word| !word.is_empty())
                .nth(1)?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(lsns_said, flushed, "it says up to which event of each shard:\n{said}");

    let server = Server::start(&new, &quick);
    let after: Vec<Value> = ["a", "b", "c"].iter().map(|sku| levels(&server.address, sku)).collect();
    assert_eq!(after, before);
    // What was there is known and can go on; what was lost is not known.
    let (status, answer) = reserve(&server.address, "o0", "a");
    assert_eq!((status, &answer["status"], &answer["replayed"]), (200, &json!("confirmed"), &json!(true)));
    assert_eq!(post(&server.address, "/v1/reservations/o6/confirm", &json!({})).0, 200);
    assert_eq!(post(&server.address, "/v1/reservations/o0/return", &json!({ "request_id": "r" })).0, 200);
    assert_eq!(Client::default().call(&server.address, "GET", "/v1/reservations/lost", "").unwrap().0, 404);
    let (status, answer) = Client::default().call(&server.address, "GET", "/v1/admin/skus/hot", "").unwrap();
    assert_eq!((status, answer["items"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    let (status, answer) = post(&server.address, "/v1/admin/reconcile", &json!({}));
    assert_eq!((status, answer["differences"].as_array().map(Vec::len)), (200, Some(0)), "{answer}");

    // The old one turns up again: it is fenced, and what it still had to flush does not reach the rows.
    let rows = || {
        database.sql("SELECT sku_id, available, reserved, sold, version FROM hotstock.stock ORDER BY sku_id")
    };
    let mine = rows();
    let ghost = Server::start(&away, &quick);
    let fenced =
        || database.sql("SELECT COUNT(*) FROM hotstock.anomalies WHERE kind = 'fenced'").trim() != "0";
    // It tries to write and is told that it may not.
    until(|| fenced().then_some(()));
    ghost.end(Signal::KILL);
    assert_eq!(rows(), mine);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn without_anything_to_recover_it_says_so() {
    let database = MariaDb::start();
    let store = format!("store.url={}", database.url("hotstock"));
    let dir = tempfile::tempdir().unwrap();
    let output = recover(&dir.path().join("new"), &store);
    assert!(!output.status.success());
    // Nor over a directory that is there.
    let data = dir.path().join("data");
    let server = Server::start(&data, &["log.level=warn", &store]);
    assert_eq!(server.end(Signal::TERM), Some(0));
    assert!(!recover(&data, &store).status.success());
}
