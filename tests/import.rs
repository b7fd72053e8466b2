//! `hotstock import` from a real MariaDB, into a running server and into a data directory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::process::{Command, Stdio};

use hotstock_persistence::testing::MariaDb;
use serde_json::{Value, json};

use support::{Client, Server, hotstock};

fn import(args: &[&str], from: &str) -> (i32, String) {
    let mut command = Command::new(hotstock());
    command.arg("import").args(args).env("HOTSTOCK_IMPORT_FROM", from).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap_or(-1), text)
}

fn available(server: &Server, sku_id: &str) -> Value {
    let path = format!("/v1/stock/{sku_id}");
    Client::default().call(&server.address, "GET", &path, "").unwrap().1["total"]["available"].clone()
}

/// The number that begins the rest of a line of the report.
fn count(text: &str, line: &str) -> u64 {
    let line = text.lines().find(|candidate| candidate.starts_with(line));
    let rest = line.unwrap_or_else(|| panic!("no such line in: {text}")).split_whitespace();
    rest.filter_map(|word| word.parse().ok()).next().unwrap()
}

#[test]
fn an_import_can_be_tried_done_and_repeated() {
    let database = MariaDb::start();
    let from = database.url("shop");
    database.sql(
        "USE shop;
         CREATE TABLE t_inventory (sku_id VARCHAR(80), warehouse_id INT, available_qty INT, reserved_qty INT);
         INSERT INTO t_inventory VALUES ('1001', 1, 98, 2), ('1001', 2, 10, 0), ('1002', 1, 5, 0), ('', 1, 5, 0), ('bad', 1, -4, 0);",
    );
    let dir = tempfile::tempdir().unwrap();
    let into = database.url("hotstock");
    let store = format!("store.url={into}");
    let data_dir = dir.path().join("data");
    let server = Server::start(&data_dir, &[&store]);
    let url = format!("http://{}", server.address);
    let plan = ["--preset", "ymall", "--url", &url];

    let (code, text) = import(&[&plan[..], &["--dry-run"]].concat(), &from);
    assert_eq!(code, 6, "two rows are refused: {text}");
    assert!(text.contains("would be imported from mysql://root@"), "{text}");
    assert_eq!((count(&text, "rows read"), count(&text, "stocks"), count(&text, "created")), (5, 3, 0));
    assert_eq!(available(&server, "1001"), Value::Null);

    let nobody = ["--preset", "ymall", "--url", "http://127.0.0.1:1"];
    let (code, text) = import(&nobody, &from);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("can't connect to http://127.0.0.1:1") && text.contains("goes on from here"),
        "{text}"
    );

    let (code, text) = import(&plan, &from);
    assert_eq!(code, 6, "{text}");
    assert_eq!((count(&text, "created"), count(&text, "there already")), (3, 0));
    assert!(text.contains("available is negative") && text.contains("SKU \"bad\""), "{text}");
    assert_eq!(available(&server, "1001"), json!(108), "a running server sees it");

    database.sql("USE shop; DELETE FROM t_inventory WHERE sku_id IN ('', 'bad'); UPDATE t_inventory SET available_qty = 6 WHERE sku_id = '1002'; INSERT INTO t_inventory VALUES ('1003', 1, 7, 0);");
    let (code, text) = import(&plan, &from);
    assert_eq!(code, 6, "{text}");
    assert_eq!(
        (count(&text, "created"), count(&text, "there already"), count(&text, "conflicts")),
        (1, 2, 1)
    );
    assert!(
        text.contains("SKU 1002 in warehouse 1, 6 units: the stock exists and began with 5 units"),
        "{text}"
    );
    assert_eq!(available(&server, "1002"), json!(5), "it is told, not overwritten");

    let map =
        "table=t_inventory,sku=sku_id,warehouse=warehouse_id,available=available_qty,reserved=reserved_qty";
    database.sql("USE shop; UPDATE t_inventory SET available_qty = 5 WHERE sku_id = '1002';");
    let into = ["--map", map, "--set", &store, "--data-dir", data_dir.to_str().unwrap()];
    let (code, text) = import(&into, &from);
    assert_eq!(code, 3, "a directory has one process: {text}");
    assert!(text.contains("--url"), "{text}");
    drop(server);
    database.sql("USE shop; INSERT INTO t_inventory VALUES ('1004', 1, 8, 0);");
    let (code, text) = import(&into, &from);
    assert_eq!(code, 0, "{text}");
    assert_eq!((count(&text, "created"), count(&text, "there already")), (1, 4));
    let server = Server::start(&data_dir, &[&store]);
    assert_eq!(available(&server, "1004"), json!(8));
}

#[test]
fn what_is_wrong_with_an_import_is_told_without_the_password() {
    for (args, from, expected) in [
        (
            &["--preset", "oracle"][..],
            "mysql://root:s3cret@127.0.0.1:1/db",
            (2, "there is no preset \"oracle\""),
        ),
        (&["--map", "sku=a"], "mysql://root:s3cret@127.0.0.1:1/db", (2, "the map has no table=")),
        (&["--preset", "mall"], "mysql://root:s3cret@127.0.0.1:1/db", (1, "mysql://root:***@127.0.0.1:1/db")),
        (&["--preset", "mall"], "postgres://root:s3cret@127.0.0.1:1/db", (1, "the source must be mysql://")),
        (&[], "mysql://root:s3cret@127.0.0.1:1/db", (2, "--preset")),
    ] {
        let (code, text) = import(args, from);
        assert_eq!(code, expected.0, "{text}");
        assert!(text.contains(expected.1) && !text.contains("s3cret"), "{text}");
    }
}
