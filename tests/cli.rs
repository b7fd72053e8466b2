//! The program from outside: real processes, real files, real sockets.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;

use support::{Client, Server, run};

fn call(server: &Server, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    Client::default().call(&server.address, method, path, body).unwrap()
}

#[test]
fn it_serves_until_it_is_asked_to_stop_and_comes_back_with_its_stock() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = Server::start(&data_dir, &[]);
    assert_eq!(call(&server, "GET", "/readyz", "").0, 200);
    let stock = r#"{"sku_id":"a","quantity":5,"hot":true}"#;
    assert_eq!(call(&server, "POST", "/v1/stock", stock).0, 201);
    let order = r#"{"order_no":"1","lines":[{"sku_id":"a","quantity":2}]}"#;
    assert_eq!(call(&server, "POST", "/v1/reservations", order).0, 201);
    assert_eq!(server.end(Signal::TERM), Some(0));

    let server = Server::start(&data_dir, &[]);
    let (status, levels) = call(&server, "GET", "/v1/stock/a", "");
    assert_eq!(
        (status, &levels["total"]["available"], &levels["total"]["reserved"]),
        (200, &3.into(), &2.into())
    );
    assert_eq!(call(&server, "POST", "/v1/reservations", order).1["replayed"], true);
    assert_eq!(server.end(Signal::INT), Some(0));
}

#[test]
fn a_killed_server_comes_back_with_what_it_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(call(&server, "POST", "/v1/stock", r#"{"sku_id":"a","quantity":5,"hot":true}"#).0, 201);
    assert_eq!(call(&server, "POST", "/v1/stock", r#"{"sku_id":"stored","quantity":6}"#).0, 201);
    server.end(Signal::KILL);
    let server = Server::start(dir.path(), &[]);
    assert_eq!(call(&server, "GET", "/v1/stock/a", "").1["total"]["available"], 5);
    assert_eq!(call(&server, "GET", "/v1/stock/stored", "").1["total"]["available"], 6);
}

#[test]
fn a_second_process_is_told_that_the_data_directory_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let data_dir = dir.path().to_str().unwrap();
    for args in [
        vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir],
        vec!["verify", "--data-dir", data_dir],
    ] {
        let (code, text) = run(&args);
        assert_eq!(code, 3, "{args:?}: {text}");
        assert!(text.contains(data_dir), "{text}");
    }
    assert_eq!(call(&server, "GET", "/readyz", "").0, 200);
}

#[test]
fn a_wrong_configuration_is_exit_code_2_and_names_its_place() {
    let (code, text) = run(&["serve", "--set", "server.lissten=x"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`server.lissten`") && text.contains("`server.listen`"), "{text}");
    let output = Command::new(support::hotstock())
        .arg("serve")
        .env("HOTSTOCK__ENGINE__SHARDS", "none")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HOTSTOCK__ENGINE__SHARDS"));
    assert_eq!(run(&["serve", "--nonsense"]).0, 2);
}

#[test]
fn verify_reads_what_a_server_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(call(&server, "POST", "/v1/stock", r#"{"sku_id":"a","quantity":5,"hot":true}"#).0, 201);
    assert_eq!(call(&server, "POST", "/v1/stock", r#"{"sku_id":"b","quantity":7,"hot":true}"#).0, 201);
    let order = r#"{"order_no":"1","lines":[{"sku_id":"a","quantity":2}]}"#;
    assert_eq!(call(&server, "POST", "/v1/reservations", order).0, 201);
    server.end(Signal::KILL);
    let (code, text) = run(&["verify", "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let row = text.lines().find(|line| line.starts_with("a ")).unwrap_or_default();
    let numbers: Vec<_> = row.split_whitespace().skip(1).collect();
    // Warehouse, available, reserved, sold, supplied, open orders.
    assert_eq!(numbers, ["1", "3", "2", "0", "5", "1"], "{text}");
}

#[test]
fn verify_does_not_make_a_data_directory_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nothing");
    let (code, text) = run(&["verify", "--data-dir", missing.to_str().unwrap()]);
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("nothing"), "{text}");
    assert!(!missing.exists());
}

/// Stock of 10 for every SKU: invoice 2 is refused; its cancellation brings nothing back; the return of 1 frees what 2
/// wanted, and the refusal of the correction 4 must not turn around either.
const ORDERS: &str = "invoice_no,stock_code,quantity,customer_id,country\n\
    1,a,8,7,UK\n1,b/ c,1,7,UK\n2,a,5,8,UK\nnonsense,a,x,,\n4,a,-3,,UK\nC5,a,-8,7,UK\nC6,a,-5,8,UK\nC7,a,-2,9,UK\n8,a,-1,,UK\n\
    C9,b/ c,-4,7,UK\n";

#[test]
fn a_second_replay_changes_nothing_even_where_the_first_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, ORDERS).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let replay = || {
        run(&[
            "replay",
            file.to_str().unwrap(),
            "--url",
            &format!("http://{}", server.address),
            "--stock",
            "10",
        ])
    };

    let (code, first) = replay();
    assert_eq!(code, 0, "{first}");
    assert!(first.contains("left out: line 5: its quantity \"x\""), "{first}");
    // a: 10 - 8 sold + 8 back + 2 restocked - 1 corrected; b: 10 - 1 sold + 1 back + 3 restocked.
    let levels = |sku: &str| call(&server, "GET", &format!("/v1/stock/{sku}"), "").1["total"].clone();
    let after_first = [levels("a"), levels("b%2F%20c")];
    assert_eq!((&after_first[0]["available"], &after_first[0]["sold"]), (&11.into(), &0.into()), "{first}");
    assert_eq!((&after_first[1]["available"], &after_first[1]["sold"]), (&13.into(), &0.into()), "{first}");

    let (code, second) = replay();
    assert_eq!(code, 0, "{second}");
    assert!(second.contains("nothing new"), "{second}");
    assert_eq!([levels("a"), levels("b%2F%20c")], after_first);
    assert_eq!(call(&server, "GET", "/v1/reservations/2", "").1["status"], "cancelled");
}

/// Invoices of one to four lines over eight SKUs, enough of them that SKUs come and go while their orders do;
/// cancellations of a tenth.
fn carts() -> String {
    const SKUS: [&str; 8] = ["a", "b/ c", "d", "e", "f", "g", "h", "i"];
    let mut rows = ORDERS.to_owned();
    for number in 100..400 {
        let sku = |line: usize| SKUS[(number + 3 * line) % 8];
        for line in 0..=number % 4 {
            rows.push_str(&format!("{number},{},{},{},UK\n", sku(line), (number + line) % 7 + 1, number % 9));
        }
        if number % 10 == 0 {
            rows.push_str(&format!("C{number},{},-{},{},UK\n", sku(0), number % 3 + 1, number % 9));
        }
    }
    rows
}

/// Room for two SKUs and one ended order: loading and evicting never stop.
const CRAMPED: [&str; 4] = [
    "engine.max_resident_skus=2",
    "orders.remember_seconds=1",
    "orders.remember_max=1",
    "store.flush_interval_ms=10",
];

/// Replays a file on a server of its own; the line with the final stock, and all that it said.
fn replayed(file: &Path, data_dir: &Path, settings: &[&str], arguments: &[&str]) -> (String, String) {
    let mut all = vec!["replay", file.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    all.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    all.extend(arguments);
    let (code, text) = run(&all);
    assert_eq!(code, 0, "{all:?}: {text}");
    let last = text.lines().find(|line| line.starts_with("final stock ")).unwrap_or_default().to_owned();
    assert!(!last.is_empty(), "{text}");
    (last, text)
}

/// What an order is answered does not depend on what is in memory: the same file ends with the same stock.
#[test]
fn a_replay_ends_with_the_same_stock_whatever_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, carts()).unwrap();
    let database = MariaDb::start();
    let replay = |name: &str, place: &str, shards: u16| {
        let shards = shards.to_string();
        let mut arguments = vec!["--stock", "200", "--place", place, "--shards", &shards];
        let url = name.starts_with("mariadb").then(|| database.url(name));
        arguments.extend(url.iter().flat_map(|url| ["--store", url.as_str()]));
        let settings: &[&str] = if place == "hot" { &[] } else { &CRAMPED };
        replayed(&file, &dir.path().join(name), settings, &arguments)
    };
    let (hot, text) = replay("hot", "hot", 1);
    assert!(text.contains("orders refused (insufficient stock)"), "{text}");
    for (name, place, shards) in [
        ("hot_8", "hot", 8),
        ("stored", "stored", 1),
        ("stored_8", "stored", 8),
        ("mixed_8", "mixed", 8),
        ("mariadb_stored_8", "stored", 8),
    ] {
        assert_eq!(replay(name, place, shards).0, hot, "{name}");
    }
    let again = [
        ("hot", "hot", 1),
        ("hot_8", "stored", 8),
        ("stored", "stored", 1),
        ("stored_8", "hot", 8),
        ("mixed_8", "stored", 8),
        ("mariadb_stored_8", "mixed", 8),
    ];
    for (name, place, shards) in again {
        let (again, text) = replay(name, place, shards);
        assert_eq!(again, hot, "{name}, then {place}");
        assert!(text.contains("nothing new"), "{name}, then {place}: {text}");
    }
}

/// What must be true is told apart from what happened to be: with many callers the orders that are refused are others
/// each time, and each of them, and every level, must still be what it was answered.
#[test]
fn many_callers_over_shards_and_store_are_audited_order_by_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, carts()).unwrap();
    let data_dir = dir.path().join("data");
    let arguments = ["--stock", "150", "--place", "mixed", "--callers", "16", "--shards", "8"];
    let (first, text) = replayed(&file, &data_dir, &CRAMPED, &arguments);
    assert!(text.contains("orders refused (insufficient stock)"), "{text}");
    assert!(text.contains("orders are as they were answered"), "{text}");
    let (again, text) = replayed(&file, &data_dir, &CRAMPED, &arguments);
    assert!(text.contains("nothing new"), "{text}");
    assert_eq!(again, first);
}

#[test]
fn replay_finds_units_that_it_did_not_put_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, ORDERS).unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    assert_eq!(call(&server, "POST", "/v1/stock", r#"{"sku_id":"a","quantity":10}"#).0, 201);
    let change = r#"{"request_id":"x","quantity":1,"reason":"someone else"}"#;
    assert_eq!(call(&server, "POST", "/v1/stock/a/restock", change).0, 200);
    let (code, text) = run(&[
        "replay",
        file.to_str().unwrap(),
        "--url",
        &format!("http://{}", server.address),
        "--stock",
        "10",
    ]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("audit: a: expected"), "{text}");
}

#[test]
fn a_replay_needs_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("orders.csv");
    std::fs::write(&file, "invoice_no,stock_code,customer_id\n1,a,7\n").unwrap();
    let (code, text) = run(&["replay", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("`quantity`"), "{text}");
}

#[test]
fn bench_writes_its_figures_with_their_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let json_arg = json.to_str().unwrap();
    for args in [
        &["--in-process", "--in-flight", "8", "--confirm"][..],
        &["--in-process", "--in-flight", "8", "--stored"],
        &["--connections", "2", "--batch", "3", "--skus", "5", "--confirm", "--echo"],
    ] {
        let (code, text) = run(&[&["bench", "--seconds", "1", "--json", json_arg], args].concat());
        assert_eq!(code, 0, "{text}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        for figure in
            ["/operations_per_second", "/latency_micros/p50", "/latency_micros/p999", "/machine/cores"]
        {
            assert!(
                report.pointer(figure).and_then(serde_json::Value::as_f64).unwrap() > 0.0,
                "{figure}: {report}"
            );
        }
        assert_eq!(report["echo"].is_null(), args[0] == "--in-process");
        let place = if args.contains(&"--stored") { "stored SKUs" } else { "hot SKUs" };
        assert!(report["place"].as_str().unwrap().starts_with(place), "{report}");
    }
}

/// Dashboards and alerts rest on the names, types, units, help texts and labels of the metrics, so they change only on
/// purpose: then in `tests/metrics.txt` as well. Of HTTP's own, only what is there before the first request.
#[test]
fn the_metrics_are_those_that_were_promised() {
    let dir = tempfile::tempdir().unwrap();
    // Neither the order service nor Redis is there; their metrics are.
    let settings = ["orders.check_url=http://127.0.0.1:1/orders", "mirror.redis_url=redis://127.0.0.1:1/0"];
    let server = Server::start(dir.path(), &settings);
    let (status, text) = Client::default().text(&server.address, "GET", "/metrics", "").unwrap();
    assert_eq!(status, 200, "{text}");
    let line = |line: &str| match line.starts_with("# ") {
        true => (line != "# EOF").then(|| line.to_owned()),
        false if ["hotstock_http_", "hotstock_problems"].iter().any(|http| line.starts_with(http)) => None,
        false => line.rsplit_once(' ').map(|(name_and_labels, _)| name_and_labels.to_owned()),
    };
    let served: BTreeSet<String> = text.lines().filter_map(line).collect();
    let promised: BTreeSet<String> = include_str!("metrics.txt").lines().map(str::to_owned).collect();
    let difference = |these: &BTreeSet<String>, those: &BTreeSet<String>| -> Vec<String> {
        these.difference(those).cloned().collect()
    };
    assert_eq!(difference(&promised, &served), Vec::<String>::new(), "promised and not served");
    assert_eq!(difference(&served, &promised), Vec::<String>::new(), "served and not promised");
}
