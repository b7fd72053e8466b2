//! What operators do from outside: tokens, moves, tables, a lost data directory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, hotstock};

fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(hotstock());
    let output = command.args(args).envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap_or(-1), text)
}

fn call(server: &Server, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Client::default().call(&server.address, method, path, &body).unwrap()
}

fn create(server: &Server, sku_id: &str, quantity: u32, hot: bool) {
    let body = json!({ "sku_id": sku_id, "quantity": quantity, "hot": hot });
    let (status, answer) = call(server, "POST", "/v1/stock", &body);
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["hot"], if hot { json!(true) } else { Value::Null });
}

fn reserve(server: &Server, order_no: &str, sku_id: &str) -> Value {
    let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku_id, "quantity": 1 }] });
    let (status, answer) = call(server, "POST", "/v1/reservations", &body);
    assert!(matches!(status, 200 | 201), "{answer}");
    answer
}

/// A store beside the data directory, so that it outlives it.
fn store_setting(dir: &Path) -> String {
    format!("store.url=sqlite://{}", dir.join("store.db").display())
}

#[test]
fn a_token_is_made_and_asked_for() {
    let (code, text) = run(&["token"], &[]);
    assert_eq!(code, 0, "{text}");
    let token = text.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    let setting = text.lines().find(|line| line.starts_with("admin.token_sha256")).unwrap();
    let hash = setting.split('"').nth(1).unwrap();
    assert!(!text.replace(&format!("token         {token}"), "").contains(&token), "it stands there once");

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[&format!("admin.token_sha256={hash}")]);
    create(&server, "a", 5, false);
    assert_eq!(call(&server, "GET", "/v1/admin/shards", &Value::Null).1["code"], "unauthorized");
    let url = format!("http://{}", server.address);
    let (code, text) = run(&["promote", "a", "--url", &url], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("unauthorized") && text.contains("HOTSTOCK_TOKEN"), "{text}");
    let (code, text) = run(&["promote", "a", "--url", &url], &[("HOTSTOCK_TOKEN", &token)]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("a: hot in shard 0, epoch 1"), "{text}");
    let (code, text) = run(&["demote", "a", "--url", &url], &[("HOTSTOCK_TOKEN", "another")]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn skus_are_moved_and_what_can_not_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    for sku_id in ["a", "b"] {
        create(&server, sku_id, 5, false);
    }
    reserve(&server, "1", "a");
    let url = format!("http://{}", server.address);
    let (code, text) = run(&["promote", "a", "nobody", "b", "--url", &url], &[]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("a: hot in shard 0, epoch 1, 1 orders moved"), "{text}");
    assert!(text.contains("nobody: 404 unknown_sku"), "{text}");
    assert!(text.contains("b: hot in shard 0"), "{text}");
    let names = |page: &Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sku| sku["sku_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&call(&server, "GET", "/v1/admin/skus/hot", &Value::Null).1), ["a", "b"]);
    let (code, text) = run(&["promote", "a", "--url", &url], &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("as it was"), "{text}");
    let (code, text) = run(&["demote", "a", "b", "--url", &url], &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("a: cold, epoch 1, 1 orders moved"), "{text}");
    assert!(names(&call(&server, "GET", "/v1/admin/skus/hot", &Value::Null).1).is_empty());
    assert_eq!(reserve(&server, "1", "a")["replayed"], true);
}

#[test]
fn the_tables_can_be_made_before_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let setting = store_setting(dir.path());
    let (code, text) = run(&["migrate", "--set", &setting], &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(run(&["migrate", "--set", &setting], &[]).1, text, "a second time changes nothing");
    let server = Server::start(&dir.path().join("data"), &[&setting]);
    create(&server, "a", 5, true);
    let (code, text) = run(&["migrate", "--set", "store.url=mysql://root:s3cret@127.0.0.1:1/db"], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("mysql://root:***@127.0.0.1:1/db") && !text.contains("s3cret"), "{text}");
    let (code, text) = run(&["migrate", "--set", "store.url=oracle://root:s3cret@db"], &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`store.url`") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_data_directory_is_not_taken_to_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = Server::start(&data_dir, &[]);
    create(&server, "a", 5, true);
    assert_eq!(server.end(Signal::TERM), Some(0));
    let data_dir = data_dir.to_str().unwrap();
    let setting = store_setting(dir.path());
    let (code, text) =
        run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--set", &setting], &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("another") && text.contains("store"), "{text}");
}

#[test]
fn a_lost_data_directory_comes_back_as_far_as_it_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let setting = store_setting(dir.path());
    let server = Server::start(&old, &[&setting, "store.flush_interval_ms=1"]);
    for sku_id in ["a", "b"] {
        create(&server, sku_id, 5, true);
    }
    create(&server, "cold", 5, false);
    reserve(&server, "1", "a");
    reserve(&server, "2", "b");
    assert_eq!(call(&server, "POST", "/v1/reservations/2/confirm", &Value::Null).0, 200);
    // Stopped in order: everything is flushed.
    assert_eq!(server.end(Signal::TERM), Some(0));

    let recover = |data_dir: &Path| {
        run(&["recover", "--from-store", "--set", &setting, "--data-dir", data_dir.to_str().unwrap()], &[])
    };
    let (code, text) = recover(&new);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("owned 2 SKUs with 1 open orders"), "{text}");
    assert!(text.contains("shard 0: everything up to LSN "), "{text}");
    assert!(text.contains("2 SKUs and 1 open orders are back"), "{text}");
    let (code, again) = recover(&new);
    assert_eq!(code, 0, "a run that broke off can be repeated: {again}");

    let server = Server::start(&new, &[&setting]);
    let level = |sku_id: &str, level: &str| {
        call(&server, "GET", &format!("/v1/stock/{sku_id}"), &Value::Null).1["total"][level].as_i64().unwrap()
    };
    assert_eq!([level("a", "available"), level("a", "reserved"), level("b", "sold")], [4, 1, 1]);
    assert_eq!(reserve(&server, "1", "a")["replayed"], true);
    assert_eq!(reserve(&server, "3", "b")["replayed"], false);
    assert_eq!(reserve(&server, "4", "cold")["replayed"], false);

    // The lost one comes back from the dead: it serves nothing of what it does not own any more.
    let lost = Server::start(&old, &[&setting, "store.flush_interval_ms=1"]);
    let body = json!({ "order_no": "5", "lines": [{ "sku_id": "a", "quantity": 1 }] });
    let mut fenced = false;
    for _ in 0..2_000 {
        let (_, shards) = call(&lost, "GET", "/v1/admin/shards", &Value::Null);
        fenced = shards["store"]["fenced"].as_u64().unwrap_or(0) > 0;
        if fenced {
            break;
        }
        // What it says of this order until it notices is lost with it; its number is of no use to the new one.
        call(&lost, "POST", "/v1/reservations", &body);
    }
    assert!(fenced, "it noticed");
    assert_eq!(call(&server, "GET", "/v1/reservations/5", &Value::Null).0, 404);
    assert_eq!([level("a", "available"), level("a", "reserved")], [4, 1]);
}

#[test]
fn there_is_nothing_to_recover_from_a_store_that_is_lost_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("new");
    let data_dir = data_dir.to_str().unwrap();
    let (code, text) = run(&["recover", "--from-store", "--data-dir", data_dir], &[]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`store.url` is empty"), "{text}");
    let setting = store_setting(dir.path());
    let (code, text) = run(&["recover", "--from-store", "--data-dir", data_dir, "--set", &setting], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no server owns SKUs"), "{text}");
}
