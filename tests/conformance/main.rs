//! One suite of order behaviour, over HTTP, whatever is in memory: hot SKUs, SKUs that stay in memory because there is
//! room, SKUs that leave it as soon as they may and are loaded again, some of both, and SKUs that are pinned and let go
//! of before every single request; in one shard and over eight, on SQLite and on MariaDB. A caller can't tell them
//! apart but by speed.
//!
//! - [`teller`]: the language of the tables. [`tables`]: the behaviour. [`random`]: random requests, answered alike
//!   everywhere.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod random;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod teller;

use std::time::Duration;

use fastrand::Rng;
use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_persistence::testing::MariaDb;
use serde_json::{Value, json};
use tempfile::TempDir;

use support::{Client, Server, create, get, number, sum_of_shards};
use teller::{Place, Teller};

/// Room for everything.
const ROOMY: [&str; 2] = ["log.level=warn", "store.flush_interval_ms=20"];

/// Room for one SKU and one ended order in each shard: what may leave memory does so as soon as it was flushed.
const CRAMPED: [&str; 5] = [
    "log.level=warn",
    "store.flush_interval_ms=5",
    "engine.max_resident_skus=1",
    "orders.remember_seconds=1",
    "orders.remember_max=1",
];

/// In one shard an order is always in one place; over eight its SKUs seldom lie in the same.
const ONE: &str = "engine.shards=1";
const EIGHT: &str = "engine.shards=8";

/// A server on SQLite in its data directory.
fn on_sqlite(settings: &[&str], shards: &str) -> (TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[settings, &[shards]].concat());
    (dir, server)
}

/// A server on MariaDB.
fn on_mariadb(database: &MariaDb, name: &str, settings: &[&str], shards: &str) -> (TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("store.url={}", database.url(name));
    let server = Server::start(&dir.path().join("data"), &[settings, &[shards, url.as_str()]].concat());
    (dir, server)
}

/// Every table, at once.
fn tell_all(server: &Server, prefix: &str, place: Place) {
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("{prefix}-{name}"), place).tell(table);
    }
}

/// Every table; before some rows the server gets the time to flush, and then somebody asks for other SKUs, one in
/// each shard: there is no room for those of the table then.
fn tell_slowly(server: &Server, prefix: &str, place: Place) {
    let mut rng = Rng::with_seed(3);
    let shards = server_shards(&server.address);
    let others: Vec<String> = (0..shards).map(|shard| sku_in(shard, shards)).collect();
    for sku_id in &others {
        create(&server.address, sku_id, 0, false);
    }
    let mut times = 0;
    for (name, table) in tables::TABLES {
        let mut between = |client: &mut Client, _: &[String]| {
            if !breathe(&mut rng) {
                return;
            }
            for sku_id in &others {
                times += 1;
                let body = json!({ "request_id": format!("{times}"), "quantity": 1 }).to_string();
                let path = format!("/v1/stock/{sku_id}/restock");
                assert_eq!(client.call(&server.address, "POST", &path, &body).unwrap().0, 200);
            }
        };
        Teller::new(&server.address, &format!("{prefix}-{name}"), place)
            .interrupted(&mut between)
            .tell(table);
    }
    let (loads, evictions) =
        (sum_of_shards(&server.address, "loads"), sum_of_shards(&server.address, "evictions"));
    assert!(loads > 10 && evictions > 10, "SKUs come and go: {loads} loads, {evictions} evictions");
}

/// Some flushes long, now and then.
fn breathe(rng: &mut Rng) -> bool {
    let stays = rng.u8(0..3) == 0;
    if stays {
        std::thread::sleep(Duration::from_millis(30));
    }
    stays
}

fn server_shards(address: &str) -> u16 {
    let (_, answer) = get(address, "/v1/admin/shards");
    u16::try_from(answer["shards"].as_array().unwrap().len()).unwrap()
}

/// A name for a SKU of this shard.
fn sku_in(shard: u16, shards: u16) -> String {
    let lies_there = |name: &String| shard_of(&SkuId::new(name).unwrap(), shards).0 == shard;
    (0..).map(|number| format!("other-{number}")).find(lies_there).unwrap()
}

#[test]
fn hot() {
    let (_dir, server) = on_sqlite(&ROOMY, ONE);
    tell_all(&server, "hot", Place::Hot);
}

#[test]
fn hot_over_eight_shards() {
    let (_dir, server) = on_sqlite(&ROOMY, EIGHT);
    tell_all(&server, "hot", Place::Hot);
}

#[test]
fn resident() {
    let (_dir, server) = on_sqlite(&ROOMY, ONE);
    tell_all(&server, "resident", Place::Stored);
}

#[test]
fn resident_over_eight_shards_on_mariadb() {
    let database = MariaDb::start();
    let (_dir, server) = on_mariadb(&database, "resident", &ROOMY, EIGHT);
    tell_all(&server, "resident", Place::Stored);
}

#[test]
fn stored() {
    let (_dir, server) = on_sqlite(&CRAMPED, ONE);
    tell_slowly(&server, "stored", Place::Stored);
}

#[test]
fn stored_over_eight_shards() {
    let (_dir, server) = on_sqlite(&CRAMPED, EIGHT);
    tell_slowly(&server, "stored", Place::Stored);
}

#[test]
fn stored_on_mariadb() {
    let database = MariaDb::start();
    let (_dir, server) = on_mariadb(&database, "one", &CRAMPED, ONE);
    tell_slowly(&server, "stored", Place::Stored);
}

#[test]
fn stored_over_eight_shards_on_mariadb() {
    let database = MariaDb::start();
    let (_dir, server) = on_mariadb(&database, "eight", &CRAMPED, EIGHT);
    tell_slowly(&server, "stored", Place::Stored);
}

#[test]
fn some_hot_and_some_stored() {
    let (_dir, server) = on_sqlite(&CRAMPED, EIGHT);
    tell_slowly(&server, "mixed", Place::Mixed);
}

#[test]
fn some_hot_and_some_stored_on_mariadb() {
    let database = MariaDb::start();
    let (_dir, server) = on_mariadb(&database, "mixed", &CRAMPED, EIGHT);
    tell_slowly(&server, "mixed", Place::Mixed);
}

/// Before every row some SKUs of the table are pinned or let go of, whatever orders hold them.
#[test]
fn pinned_and_let_go() {
    let (_dir, server) = on_sqlite(&CRAMPED, EIGHT);
    let mut rng = Rng::with_seed(7);
    for (name, table) in tables::TABLES {
        let address = server.address.clone();
        let mut between = |client: &mut Client, skus: &[String]| pin_some(&mut rng, client, &address, skus);
        Teller::new(&server.address, &format!("pinned-{name}"), Place::Stored)
            .interrupted(&mut between)
            .tell(table);
    }
}

/// Promotes some SKUs, demotes others, and leaves the rest as they are.
fn pin_some(rng: &mut Rng, client: &mut Client, address: &str, skus: &[String]) {
    for how in ["promote", "demote"] {
        let some: Vec<String> = skus.iter().filter(|_| rng.u8(0..3) == 0).cloned().collect();
        if some.is_empty() {
            continue;
        }
        let body = json!({ "sku_ids": some }).to_string();
        let (status, answer) = client.call(address, "POST", &format!("/v1/admin/skus/{how}"), &body).unwrap();
        let each = answer["results"].as_array().map(|results| results.iter().all(|one| one["status"] == 200));
        assert_eq!((status, each), (200, Some(true)), "{how} {some:?}: {answer}");
    }
}

#[test]
fn random_requests_are_answered_alike_everywhere() {
    let database = MariaDb::start();
    let (_a, roomy) = on_sqlite(&ROOMY, ONE);
    let (_b, cramped) = on_sqlite(&CRAMPED, ONE);
    let (_c, mariadb) = on_mariadb(&database, "one", &CRAMPED, ONE);
    let (_d, spread) = on_sqlite(&CRAMPED, EIGHT);
    let (_e, spread_mariadb) = on_mariadb(&database, "eight", &CRAMPED, EIGHT);
    let seed = number("HOTSTOCK_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    println!("HOTSTOCK_SEED={seed}");
    let (mut rng, mut breaths) = (Rng::with_seed(seed ^ 1), Rng::with_seed(seed ^ 2));
    let address = spread.address.clone();
    let mut between = |client: &mut Client, skus: &[String]| {
        if rng.u8(0..4) == 0 {
            pin_some(&mut rng, client, &address, skus);
        }
    };
    let mut tellers = [
        ("hot", Teller::new(&roomy.address, "h", Place::Hot)),
        ("stored, on SQLite", Teller::new(&cramped.address, "c", Place::Stored)),
        ("stored, on MariaDB", Teller::new(&mariadb.address, "c", Place::Stored)),
        ("hot over eight shards", Teller::new(&spread.address, "h", Place::Hot)),
        ("stored over eight shards", Teller::new(&spread_mariadb.address, "c", Place::Stored)),
        ("some stored over eight shards", Teller::new(&spread_mariadb.address, "x", Place::Mixed)),
        ("pinned and let go", Teller::new(&spread.address, "p", Place::Stored).interrupted(&mut between)),
    ];
    let mut requests = random::Requests::new(seed);
    for _ in 0..600 {
        let _ = breathe(&mut breaths);
        let sent = requests.next();
        let answers: Vec<_> = tellers.iter_mut().map(|(place, teller)| (*place, teller.say(&sent))).collect();
        for (place, answer) in &answers[1..] {
            assert_eq!(*answer, answers[0].1, "{sent}: {place} (left), hot (right), HOTSTOCK_SEED={seed}");
        }
        requests.learn(&sent, &answers[0].1);
    }
    // The journals are gapless. They tell the same story where every order was in one shard; over several an order that
    // is refused has held something for a moment.
    for sku in random::SKUS {
        let stories: Vec<Vec<Value>> = tellers.iter_mut().map(|(_, teller)| journal(teller, sku)).collect();
        for story in &stories[..3] {
            assert_eq!(*story, stories[0], "the journal of {sku}, HOTSTOCK_SEED={seed}");
        }
        let last = |story: &Vec<Value>| {
            let of_warehouse = |warehouse: &str| {
                let mut items = story.iter().rev();
                let last = items.find(|item| item["id"].as_str().is_some_and(|id| id.starts_with(warehouse)));
                last.map(|item| ["available", "reserved", "sold"].map(|level| item["after"][level].clone()))
            };
            [of_warehouse("1-"), of_warehouse("2-")]
        };
        for story in &stories {
            assert_eq!(last(story), last(&stories[0]), "the last levels of {sku}, HOTSTOCK_SEED={seed}");
        }
    }
}

/// The journal of a SKU in small pages, without what may differ (times, traces).
fn journal(teller: &mut Teller<'_>, sku: &str) -> Vec<Value> {
    let prefix = teller.skus.first().and_then(|sku| sku.split('-').next()).unwrap_or_default().to_owned();
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/stock/{prefix}-{sku}/journal?limit=7{after}");
        let (status, answer) = teller.call("GET", &path, &Value::Null);
        if status == 404 {
            return all;
        }
        let items = answer["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        after = format!("&after={}", answer["next_after"].as_str().unwrap());
        all.extend(items.iter().map(|item| {
            json!({ "id": item["id"], "kind": item["kind"], "delta": item["delta"], "after": item["after"],
                "serials": item["serials"] })
        }));
    }
    // By warehouse: how two warehouses interleave is a matter of times.
    all.sort_by_key(|item| {
        let (warehouse, version) = item["id"].as_str().unwrap().split_once('-').unwrap();
        (warehouse.parse::<u64>().unwrap(), version.parse::<u64>().unwrap())
    });
    let mut versions = std::collections::BTreeMap::new();
    for item in &all {
        let (warehouse, version) = item["id"].as_str().unwrap().split_once('-').unwrap();
        let last = versions.entry(warehouse.to_owned()).or_insert(0);
        assert_eq!(version.parse::<u64>().unwrap(), *last + 1, "a gap or a repeat in {sku}: {item}");
        *last += 1;
    }
    all
}
