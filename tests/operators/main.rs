//! What operators do from outside: tokens, the hot list, tables, a lost data directory; and what their commands say
//! when the server that they ask is not there, or is not what it should be.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod connections;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, create, get, levels, post, refused, run, run_with};

fn reserve(server: &Server, order_no: &str, sku_id: &str) -> Value {
    let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku_id, "quantity": 1 }] });
    let (status, answer) = post(&server.address, "/v1/reservations", &body);
    assert!(matches!(status, 200 | 201), "{answer}");
    answer
}

/// A store beside the data directory, so that it outlives it.
fn store_setting(dir: &Path) -> String {
    format!("store.url=sqlite://{}", dir.join("store.db").display())
}

/// All SKUs that are kept in memory.
fn hot_list(client: &mut Client, address: &str) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/admin/skus/hot?limit=1000{cursor}");
        let (status, page) = client.call(address, "GET", &path, "").unwrap();
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|sku| sku["sku_id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return names,
        }
    }
}

#[test]
fn a_token_is_made_and_asked_for() {
    let (code, text) = run(&["token"]);
    assert_eq!(code, 0, "{text}");
    let token = text.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    let setting = text.lines().find(|line| line.starts_with("admin.token_sha256")).unwrap();
    let hash = setting.split('"').nth(1).unwrap();
    assert!(!text.replace(&format!("token         {token}"), "").contains(&token), "it stands there once");

    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[&format!("admin.token_sha256={hash}")]);
    let address = &server.address;
    create(address, "a", 5, false);
    assert_eq!(get(address, "/v1/admin/shards").1["code"], "unauthorized");
    let url = format!("http://{address}");
    let (code, text) = run(&["promote", "a", "--url", &url]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("unauthorized") && text.contains("HOTSTOCK_TOKEN"), "{text}");
    let (code, text) = run_with(&["promote", "a", "--url", &url], &[("HOTSTOCK_TOKEN", &token)]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("a: hot, in shard 0"), "{text}");
    let (code, text) = run_with(&["demote", "a", "--url", &url], &[("HOTSTOCK_TOKEN", "another")]);
    assert_eq!(code, 1, "{text}");

    // Whoever may create stock may not keep it in memory for ever: that is for operators alone.
    let hot = json!({ "sku_id": "b", "quantity": 5, "hot": true }).to_string();
    let ask = |token: Option<&str>| {
        let mut client = token.map_or_else(Client::default, Client::with_token);
        client.call(address, "POST", "/v1/stock", &hot).unwrap()
    };
    assert_eq!(ask(None).0, 401);
    let (status, answer) = ask(Some("another"));
    assert!(matches!(status, 401 | 403), "{answer}");
    assert_eq!(get(address, "/v1/stock/b").0, 404, "nothing of it was done");
    assert_eq!(ask(Some(&token)).0, 201);
    let mut operator = Client::with_token(&token);
    assert_eq!(hot_list(&mut operator, address), ["a", "b"]);
}

#[test]
fn skus_are_kept_in_memory_until_they_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["engine.max_resident_skus=1", "store.flush_interval_ms=20", "orders.remember_seconds=1"];
    let server = Server::start(&dir.path().join("data"), &settings);
    for sku_id in ["a", "b", "c"] {
        create(&server.address, sku_id, 5, false);
    }
    reserve(&server, "1", "a");
    let url = format!("http://{}", server.address);
    let (code, text) = run(&["promote", "a", "nobody", "b", "--url", &url]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("a: hot, in shard 0"), "{text}");
    assert!(text.contains("nobody: 404 unknown_sku"), "{text}");
    assert!(text.contains("b: hot, in shard 0"), "{text}");
    let mut client = Client::default();
    assert_eq!(hot_list(&mut client, &server.address), ["a", "b"]);
    let (code, text) = run(&["promote", "a", "--url", &url]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("as it was"), "{text}");
    // It survives a restart, also a hard one.
    server.end(Signal::KILL);
    let server = Server::start(&dir.path().join("data"), &settings);
    assert_eq!(hot_list(&mut client, &server.address), ["a", "b"]);
    let url = format!("http://{}", server.address);
    let (code, text) = run(&["demote", "a", "b", "c", "--url", &url]);
    assert_eq!(code, 0, "{text}");
    assert!(hot_list(&mut client, &server.address).is_empty());
    assert_eq!(reserve(&server, "1", "a")["replayed"], true);
    assert_eq!(levels(&server.address, "a"), [4, 1, 0]);
}

#[test]
fn the_whole_hot_list_is_replaced_at_once() {
    const MANY: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let settings = ["engine.shards=2", "log.level=warn"];
    let server = Server::start(&dir.path().join("data"), &settings);
    let address = &server.address;
    let mut client = Client::default();
    let names: Vec<String> = (0..MANY).map(|number| format!("sku-{number:05}")).collect();
    for sku_id in names.iter().take(50) {
        create(address, sku_id, 5, false);
    }
    create(address, "before", 5, true);
    let mut put = |skus: &[String]| {
        let body = json!({ "sku_ids": skus }).to_string();
        client.call(address, "PUT", "/v1/admin/skus/hot", &body).unwrap()
    };
    let (status, answer) = put(&names);
    assert_eq!(status, 200, "{answer}");
    // One result for each that was or is on the list; those that nobody created are told apart, the others are kept.
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), MANY + 1);
    let of = |sku: &str| results.iter().find(|one| one["sku_id"] == sku).unwrap()["status"].clone();
    assert_eq!([of("sku-00000"), of("sku-00049"), of("before")], [json!(200), json!(200), json!(200)]);
    assert_eq!([of("sku-00050"), of("sku-09999")], [json!(404), json!(404)]);
    let mut reader = Client::default();
    assert_eq!(hot_list(&mut reader, address), names[..50]);
    // The same again changes nothing; a shorter one lets go of the others; too many are refused as a whole.
    assert_eq!(put(&names[..50]).0, 200);
    assert_eq!(hot_list(&mut reader, address), names[..50]);
    assert_eq!(put(&names[10..20]).0, 200);
    assert_eq!(hot_list(&mut reader, address), names[10..20]);
    let too_many: Vec<String> = names.iter().cloned().chain(["one-more".to_owned()]).collect();
    let (status, answer) = put(&too_many);
    assert_eq!((status, answer["code"].as_str()), (422, Some("invalid_field")), "{answer}");
    assert_eq!(hot_list(&mut reader, address), names[10..20]);
    server.end(Signal::KILL);
    let server = Server::start(&dir.path().join("data"), &settings);
    assert_eq!(hot_list(&mut reader, &server.address), names[10..20]);
    assert_eq!(post(&server.address, "/v1/admin/skus/promote", &json!({ "sku_ids": too_many })).0, 422);
    let (status, answer) = post(&server.address, "/v1/admin/skus/demote", &json!({ "sku_ids": names }));
    assert_eq!((status, answer["results"].as_array().map(Vec::len)), (200, Some(MANY)));
    assert!(hot_list(&mut reader, &server.address).is_empty());
}

#[test]
fn the_tables_can_be_made_before_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let setting = store_setting(dir.path());
    let (code, text) = run(&["migrate", "--set", &setting]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(run(&["migrate", "--set", &setting]).1, text, "a second time changes nothing");
    let server = Server::start(&dir.path().join("data"), &[&setting]);
    create(&server.address, "a", 5, true);
    let (code, text) = run(&["migrate", "--set", "store.url=mysql://root:s3cret@127.0.0.1:1/db"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("mysql://root:***@127.0.0.1:1/db") && !text.contains("s3cret"), "{text}");
    let (code, text) = run(&["migrate", "--set", "store.url=oracle://root:s3cret@db"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`store.url`") && !text.contains("s3cret"), "{text}");
}

#[test]
fn a_data_directory_is_not_taken_to_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let server = Server::start(&data_dir, &[]);
    create(&server.address, "a", 5, true);
    assert_eq!(server.end(Signal::TERM), Some(0));
    let data_dir = data_dir.to_str().unwrap();
    let setting = store_setting(dir.path());
    let (code, text) = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--set", &setting]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("another") && text.contains("store"), "{text}");
}

#[test]
fn a_lost_data_directory_comes_back_as_far_as_it_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let setting = store_setting(dir.path());
    let settings = [setting.as_str(), "store.flush_interval_ms=1"];
    let server = Server::start(&old, &settings);
    for sku_id in ["a", "b"] {
        create(&server.address, sku_id, 5, true);
    }
    create(&server.address, "stored", 5, false);
    reserve(&server, "1", "a");
    reserve(&server, "2", "b");
    assert_eq!(post(&server.address, "/v1/reservations/2/confirm", &json!({})).0, 200);
    // Stopped in order: everything is flushed.
    assert_eq!(server.end(Signal::TERM), Some(0));

    let recover = |data_dir: &Path| {
        run(&["recover", "--from-store", "--set", &setting, "--data-dir", data_dir.to_str().unwrap()])
    };
    let (code, text) = recover(&new);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 open order"), "{text}");
    let (code, again) = recover(&new);
    assert_eq!(code, 2, "not over what is there: {again}");
    assert!(again.contains("nothing to recover"), "{again}");

    let server = Server::start(&new, &settings);
    assert_eq!([levels(&server.address, "a"), levels(&server.address, "b")], [[4, 1, 0], [4, 0, 1]]);
    assert_eq!(reserve(&server, "1", "a")["replayed"], true);
    assert_eq!(reserve(&server, "3", "b")["replayed"], false);
    assert_eq!(reserve(&server, "4", "stored")["replayed"], false);
    assert_eq!(hot_list(&mut Client::default(), &server.address), ["a", "b"], "the list came along");
    assert_eq!(server.end(Signal::TERM), Some(0));

    // The lost one comes back from the dead: it serves nothing any more, of no SKU.
    let why = refused(&old, &settings);
    assert!(why.contains("epoch") || why.contains("taken"), "{why}");
    let server = Server::start(&new, &settings);
    assert_eq!([levels(&server.address, "a"), levels(&server.address, "b")], [[4, 1, 0], [3, 1, 1]]);
}

#[test]
fn there_is_nothing_to_recover_from_a_store_that_is_lost_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("new");
    let data_dir = data_dir.to_str().unwrap();
    let (code, text) = run(&["recover", "--from-store", "--data-dir", data_dir]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("`store.url` is empty"), "{text}");
    let setting = store_setting(dir.path());
    let (code, text) = run(&["recover", "--from-store", "--data-dir", data_dir, "--set", &setting]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nothing to recover"), "{text}");
}
