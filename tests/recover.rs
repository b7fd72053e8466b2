//! The data directory is lost: `recover --from-store` rebuilds it from SQL, says up to which event, and the old server,
//! should it come back, can't write any more.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::path::Path;

use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Server, create, get, post, reconciled, refused, run, sum_of_shards, until};

fn reserve(address: &str, order_no: &str, sku: &str) -> (u16, Value) {
    let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku, "quantity": 1 }] });
    post(address, "/v1/reservations", &body)
}

fn warehouses(address: &str, sku: &str) -> Value {
    let (status, answer) = get(address, &format!("/v1/stock/{sku}"));
    assert_eq!(status, 200, "{answer}");
    answer["warehouses"].clone()
}

/// Flushed and durable events of all shards.
fn lsns(address: &str) -> (u64, u64) {
    (sum_of_shards(address, "flushed"), sum_of_shards(address, "durable"))
}

fn recover(data: &Path, store: &str) -> (i32, String) {
    run(&["recover", "--from-store", "--set", store, "--data-dir", data.to_str().unwrap()])
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
        create(&server.address, sku, 100, sku != "c");
    }
    for number in 0..30 {
        let order_no = format!("o{number}");
        assert_eq!(reserve(&server.address, &order_no, ["a", "b", "c"][number % 3]).0, 201);
        let what = ["confirm", "release", "extend"][number / 3 % 3];
        let body = if what == "extend" { json!({ "ttl_seconds": 9_000 }) } else { json!({}) };
        assert_eq!(post(&server.address, &format!("/v1/reservations/{order_no}/{what}"), &body).0, 200);
    }
    let before: Vec<Value> = ["a", "b", "c"].iter().map(|sku| warehouses(&server.address, sku)).collect();
    let (_, all) = lsns(&server.address);
    assert_eq!(server.end(Signal::TERM), Some(0));
    let server = Server::start(&old, &slow);
    // At its start it asks the store, flushes once, and then no more for ten minutes.
    until("it asked the store how far it is", || lsns(&server.address).0 >= all);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (flushed, _) = lsns(&server.address);
    assert_eq!(reserve(&server.address, "lost", "a").0, 201);
    let (still, durable) = lsns(&server.address);
    assert!(still == flushed && durable > flushed, "this one is not in the store: {still} {durable}");
    server.end(Signal::KILL);
    let away = dir.path().join("away");
    std::fs::rename(&old, &away).unwrap();

    let (code, said) = recover(&new, &store);
    assert_eq!(code, 0, "{said}");
    let last_lsn = |line: &str| {
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        numbers.map(|word| word.parse::<u64>().unwrap()).nth(1)
    };
    let said_lsns: u64 = said.lines().filter(|line| line.contains("shard")).filter_map(last_lsn).sum();
    assert_eq!(said_lsns, flushed, "it says up to which event of each shard:\n{said}");

    let server = Server::start(&new, &quick);
    let after: Vec<Value> = ["a", "b", "c"].iter().map(|sku| warehouses(&server.address, sku)).collect();
    assert_eq!(after, before);
    // What was there is known and can go on; what was lost is not known.
    let (status, answer) = reserve(&server.address, "o0", "a");
    assert_eq!((status, &answer["status"], &answer["replayed"]), (200, &json!("confirmed"), &json!(true)));
    assert_eq!(post(&server.address, "/v1/reservations/o6/confirm", &json!({})).0, 200);
    assert_eq!(post(&server.address, "/v1/reservations/o0/return", &json!({ "request_id": "r" })).0, 200);
    assert_eq!(get(&server.address, "/v1/reservations/lost").0, 404);
    let (status, answer) = get(&server.address, "/v1/admin/skus/hot");
    assert_eq!((status, answer["items"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    until("everything is flushed", || support::lag(&server.address) == 0);
    reconciled(&server.address);

    // The old one turns up again, moved back: it is fenced, and what it still had to flush does not reach the rows.
    let rows = || {
        database.sql("SELECT sku_id, available, reserved, sold, version FROM hotstock.stock WHERE version > 0 ORDER BY sku_id")
    };
    let mine = rows();
    refused(&away, &quick);
    assert_eq!(rows(), mine);
    let (code, said) = run(&["unflushed", "--data-dir", away.to_str().unwrap(), "--set", &store]);
    assert!(code == 0 && said.contains("lost"), "the order that was answered and never flushed: {said}");
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn without_anything_to_recover_it_says_so() {
    let database = MariaDb::start();
    let store = format!("store.url={}", database.url("hotstock"));
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = recover(&dir.path().join("new"), &store);
    assert_ne!(code, 0, "{said}");
    // Nor over a directory that is there.
    let data = dir.path().join("data");
    let server = Server::start(&data, &["log.level=warn", &store]);
    assert_eq!(server.end(Signal::TERM), Some(0));
    let (code, said) = recover(&data, &store);
    assert_ne!(code, 0, "{said}");
}
