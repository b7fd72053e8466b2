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

/// Rows that somebody changed, so that an order that holds units looks like one that does not, or is not there: nobody
/// else may get these units.
#[test]
fn units_whose_order_was_changed_by_hand_are_not_given_away() {
    let database = MariaDb::start();
    let store = format!("store.url={}", database.url("hotstock"));
    let settings = ["log.level=error", "engine.shards=8", "store.flush_interval_ms=20", store.as_str()];
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("old"), &settings);
    let skus = ["q0", "q1", "q2", "q3"];
    skus.iter().for_each(|sku| create(&server.address, sku, 10, false));
    let lines = skus.map(|sku| json!({ "sku_id": sku, "quantity": 9 }));
    let body = json!({ "order_no": "wide", "lines": lines, "ttl_seconds": 3_600 });
    assert_eq!(post(&server.address, "/v1/reservations", &body).0, 201);
    assert_eq!(reserve(&server.address, "single", "q1").0, 201);
    until("everything is flushed", || support::lag(&server.address) == 0);
    reconciled(&server.address);

    let tables = ["orders", "order_lines", "holds"];
    let kept = |table: &str| format!("CREATE TABLE kept.{table} AS SELECT * FROM hotstock.{table};");
    database.sql(&format!("CREATE DATABASE kept; {}", tables.map(kept).concat()));
    let put_back = || {
        let one = |table: &str| {
            format!("DELETE FROM hotstock.{table}; INSERT INTO hotstock.{table} SELECT * FROM kept.{table};")
        };
        database.sql(&format!("START TRANSACTION; {} COMMIT;", tables.map(one).concat()));
    };
    let all_of = |order_no: &str| {
        tables.map(|table| format!("DELETE FROM hotstock.{table} WHERE order_no = '{order_no}';")).concat()
    };
    let ended = "UPDATE hotstock.orders SET open = 0, status = 'released', phase = 'released' WHERE order_no = 'wide';\
                 UPDATE hotstock.order_lines SET held = 0, released = 9 WHERE order_no = 'wide'";
    let edits = [
        ("wide", "UPDATE hotstock.orders SET open = 0 WHERE order_no = 'wide'".to_owned()),
        (
            "wide",
            "UPDATE hotstock.orders SET open = 0, status = 'confirmed' WHERE order_no = 'wide'".to_owned(),
        ),
        ("wide", ended.to_owned()),
        ("wide", "DELETE FROM hotstock.orders WHERE order_no = 'wide'".to_owned()),
        ("single", "UPDATE hotstock.orders SET open = 0 WHERE order_no = 'single'".to_owned()),
        ("q1", all_of("single")),
    ];
    for (named, edit) in &edits {
        database.sql(edit);
        let (status, answer) = post(&server.address, "/v1/admin/reconcile", &json!({}));
        let differences = answer["differences"].to_string();
        assert!(status == 200 && differences.contains(named), "{edit}: {answer}");
        put_back();
        reconciled(&server.address);
    }
    server.end(Signal::KILL);
    for (n, (named, edit)) in edits.iter().enumerate() {
        database.sql(edit);
        let (code, said) = recover(&dir.path().join(format!("new-{n}")), &store);
        let is_named = said.contains(&format!("order {named}")) || said.contains(named) && *named == "q1";
        assert!(code != 0 && is_named, "{edit}: {code} {said}");
        put_back();
    }
    let data = dir.path().join("new");
    let (code, said) = recover(&data, &store);
    assert_eq!(code, 0, "{said}");
    support::verify(&data);
    let server = Server::start(&data, &settings);
    until("it has all units", || skus.iter().all(|sku| support::levels(&server.address, sku)[1] >= 9));
    assert_eq!(post(&server.address, "/v1/reservations/wide/confirm", &json!({})).0, 200);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// Orders over several shards while the server is killed, each time at another moment: the store, which all of them are
/// flushed to a few events at a time, has no order in part, and the new directory goes on with it.
#[test]
fn a_store_that_a_kill_cut_off_is_whole() {
    const UNITS: i64 = 10_000;
    const CALLERS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let store = format!("store.url=sqlite://{}", dir.path().join("store.sqlite").display());
    let settings = [
        "log.level=error",
        "engine.shards=4",
        "engine.max_resident_skus=4",
        "store.flush_interval_ms=1",
        "store.flush_events=3",
        "journal.zeros_bytes=131072",
        store.as_str(),
    ];
    let mut random = fastrand::Rng::with_seed(support::number("HOTSTOCK_SEED").unwrap_or(7));
    let skus: Vec<String> = (0..6).map(|n| format!("sku-{n}")).collect();
    let mut orders: Vec<String> = Vec::new();
    let mut data = dir.path().join("data-0");
    let mut server = Server::start(&data, &settings);
    skus.iter().for_each(|sku| create(&server.address, sku, UNITS, false));
    until("all SKUs are in the store", || support::lag(&server.address) == 0);
    for round in 1..=support::number("HOTSTOCK_KILLS").unwrap_or(5) {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (address, skus, seed) = (server.address.clone(), skus.clone(), random.u64(..));
                std::thread::spawn(move || trade(&address, &skus, &format!("{round}-{caller}"), seed))
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(random.u64(300..900)));
        server.end(Signal::KILL);
        orders.extend(callers.into_iter().flat_map(|caller| caller.join().unwrap()));
        std::fs::remove_dir_all(&data).unwrap();

        data = dir.path().join(format!("data-{round}"));
        let (code, said) = recover(&data, &store);
        assert_eq!(code, 0, "{said}");
        support::verify(&data);
        server = Server::start(&data, &settings);
        let mut last = String::new();
        until("each SKU has what the orders say", || {
            last = differences(&server.address, &skus, &orders, UNITS).join("\n");
            last.is_empty()
        });
        until("everything is flushed", || support::lag(&server.address) == 0);
        reconciled(&server.address);
        assert_eq!(server.end(Signal::TERM), Some(0));
        let (code, said) = run(&["verify", "--data-dir", data.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        server = Server::start(&data, &settings);
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// Asks for orders over some SKUs and what may become of them, until the server is gone; their numbers.
fn trade(address: &str, skus: &[String], mark: &str, seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut client, mut orders) = (support::Client::default(), Vec::new());
    loop {
        let order_no = format!("{mark}-{}", orders.len());
        let mut some = skus.to_vec();
        random.shuffle(&mut some);
        some.truncate(random.usize(2..=4));
        let lines: Vec<Value> =
            some.iter().map(|sku| json!({ "sku_id": sku, "quantity": random.u32(1..4) })).collect();
        let ttl = [1, 3_600][random.usize(..2)];
        let reserve = json!({ "order_no": order_no, "lines": lines, "ttl_seconds": ttl });
        orders.push(order_no.clone());
        let part = json!({ "request_id": "r", "lines": [{ "sku_id": some[0], "quantity": 1 }] });
        let then = match random.u8(..6) {
            0 => Vec::new(),
            1 => vec![("confirm", json!({}))],
            2 => vec![("release", json!({}))],
            3 => vec![("confirm", json!({})), ("return", part)],
            4 => vec![("confirm", part), ("release", json!({}))],
            _ => vec![("release", json!({})), ("confirm", json!({}))],
        };
        let mut ask =
            |path: &str, body: &Value| client.call(address, "POST", path, &body.to_string()).is_ok();
        let answered = ask("/v1/reservations", &reserve)
            && then.iter().all(|(what, body)| ask(&format!("/v1/reservations/{order_no}/{what}"), body));
        if !answered {
            return orders;
        }
    }
}

/// SKUs that don't hold, or have not sold, what the orders say.
fn differences(address: &str, skus: &[String], orders: &[String], units: i64) -> Vec<String> {
    let (mut client, mut of_orders) = (support::Client::default(), std::collections::BTreeMap::new());
    for order_no in orders {
        let path = format!("/v1/reservations/{order_no}");
        let (status, answer) = client.call(address, "GET", &path, "").unwrap();
        assert!(matches!(status, 200 | 404), "{order_no}: {status} {answer}");
        for line in answer["lines"].as_array().into_iter().flatten() {
            let number = |name: &str| line[name].as_i64().unwrap();
            let (held, sold) = of_orders.entry(line["sku_id"].as_str().unwrap().to_owned()).or_insert((0, 0));
            *held += number("held");
            *sold += number("confirmed") - number("returned");
        }
    }
    let wanted = |sku: &String| {
        let (held, sold) = of_orders.get(sku).copied().unwrap_or_default();
        [units - held - sold, held, sold]
    };
    let found = skus.iter().map(|sku| (sku, support::levels(address, sku), wanted(sku)));
    let differ = found.filter(|(_, found, wanted)| found != wanted);
    differ.map(|(sku, found, wanted)| format!("{sku}: {found:?}, the orders say {wanted:?}")).collect()
}
