//! One suite of order behaviour, over HTTP, wherever the SKUs lie: hot in one shard, hot over eight, cold in SQLite, cold in MariaDB, some hot
//! and some cold, and moving between shards and store, each for itself, before every single request. A caller can't tell them apart
//! but by speed.
//!
//! - [`teller`]: the language of the tables. [`tables`]: the behaviour. [`random`]: random requests, answered alike everywhere.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod random;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod teller;

use fastrand::Rng;
use hotstock_persistence::testing::MariaDb;
use serde_json::{Value, json};

use support::{Client, Server};
use teller::{Place, Teller};

/// The sweeper looks often, so that expiries don't keep the suite waiting.
pub const SETTINGS: [&str; 3] =
    ["log.level=warn", "store.sweep_interval_ms=50", "store.flush_interval_ms=20"];

/// A server of one shard on SQLite: here an order is in one place when its SKUs are all hot.
pub fn on_sqlite(dir: &tempfile::TempDir) -> Server {
    let settings: Vec<&str> = SETTINGS.into_iter().chain(["engine.shards=1"]).collect();
    Server::start(&dir.path().join("data"), &settings)
}

/// Eight shards: the SKUs of one order seldom lie in the same.
const SPREAD: &str = "engine.shards=8";

/// A server of eight shards on SQLite.
pub fn spread_on_sqlite(dir: &tempfile::TempDir) -> Server {
    let settings: Vec<&str> = SETTINGS.into_iter().chain([SPREAD]).collect();
    Server::start(&dir.path().join("data"), &settings)
}

/// A server of eight shards on MariaDB.
pub fn on_mariadb(dir: &tempfile::TempDir, database: &MariaDb) -> Server {
    let url = format!("store.url={}", database.url("hotstock"));
    let settings: Vec<&str> = SETTINGS.into_iter().chain([url.as_str(), SPREAD]).collect();
    Server::start(&dir.path().join("data"), &settings)
}

/// Promotes or demotes SKUs; each is moved.
pub fn move_all(client: &mut Client, address: &str, skus: &[String], how: &str) {
    if skus.is_empty() {
        return;
    }
    let body = json!({ "sku_ids": skus }).to_string();
    let (status, answer) = client.call(address, "POST", &format!("/v1/admin/skus/{how}"), &body).unwrap();
    let all_moved =
        answer["results"].as_array().is_some_and(|results| results.iter().all(|one| one["status"] == 200));
    assert!(status == 200 && all_moved, "{how} {skus:?}: {status} {answer}");
}

#[test]
fn hot() {
    let dir = tempfile::tempdir().unwrap();
    let server = on_sqlite(&dir);
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("hot-{name}"), Place::Hot).tell(table);
    }
}

#[test]
fn hot_over_eight_shards() {
    let dir = tempfile::tempdir().unwrap();
    let server = spread_on_sqlite(&dir);
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("spread-{name}"), Place::Hot).tell(table);
    }
}

#[test]
fn some_hot_and_some_cold_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    some_hot_and_some_cold(&spread_on_sqlite(&dir));
}

#[test]
fn some_hot_and_some_cold_on_mariadb() {
    let (dir, database) = (tempfile::tempdir().unwrap(), MariaDb::start());
    some_hot_and_some_cold(&on_mariadb(&dir, &database));
}

fn some_hot_and_some_cold(server: &Server) {
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("mixed-{name}"), Place::Mixed).tell(table);
    }
}

#[test]
fn cold_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let server = on_sqlite(&dir);
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("cold-{name}"), Place::Cold).tell(table);
    }
    assert_eq!(hot_skus(&server), 0, "nothing was promoted");
}

#[test]
fn cold_on_mariadb() {
    let (dir, database) = (tempfile::tempdir().unwrap(), MariaDb::start());
    let server = on_mariadb(&dir, &database);
    for (name, table) in tables::TABLES {
        Teller::new(&server.address, &format!("cold-{name}"), Place::Cold).tell(table);
    }
    assert_eq!(hot_skus(&server), 0, "nothing was promoted");
}

#[test]
fn moving_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    moving(&spread_on_sqlite(&dir));
}

#[test]
fn moving_on_mariadb() {
    let (dir, database) = (tempfile::tempdir().unwrap(), MariaDb::start());
    moving(&on_mariadb(&dir, &database));
}

/// Before every row some SKUs of the table are promoted or demoted, whatever orders hold them.
fn moving(server: &Server) {
    let mut rng = Rng::with_seed(7);
    for (name, table) in tables::TABLES {
        let address = server.address.clone();
        let mut between = |client: &mut Client, skus: &[String]| move_some(&mut rng, client, &address, skus);
        Teller::new(&server.address, &format!("moving-{name}"), Place::Cold)
            .interrupted(&mut between)
            .tell(table);
    }
}

/// Promotes some SKUs, demotes others, and leaves the rest where they are.
fn move_some(rng: &mut Rng, client: &mut Client, address: &str, skus: &[String]) {
    for how in ["promote", "demote"] {
        let some: Vec<String> = skus.iter().filter(|_| rng.u8(0..3) == 0).cloned().collect();
        move_all(client, address, &some, how);
    }
}

fn hot_skus(server: &Server) -> usize {
    let (status, answer) = Client::default().call(&server.address, "GET", "/v1/admin/skus/hot", "").unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["items"].as_array().map_or(0, Vec::len)
}

#[test]
fn random_requests_are_answered_alike_everywhere() {
    let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let database = MariaDb::start();
    let (sqlite, mariadb) = (on_sqlite(&dirs[0]), on_mariadb(&dirs[1], &database));
    let (spread, other) = (spread_on_sqlite(&dirs[2]), spread_on_sqlite(&dirs[3]));
    let seed = std::env::var("HOTSTOCK_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    println!("HOTSTOCK_SEED={seed}");
    let mut rng = Rng::with_seed(seed ^ 1);
    let address = other.address.clone();
    let mut between = |client: &mut Client, skus: &[String]| {
        if rng.u8(0..4) == 0 {
            move_some(&mut rng, client, &address, skus);
        }
    };
    let mut tellers = [
        ("hot", Teller::new(&sqlite.address, "h", Place::Hot)),
        ("cold on SQLite", Teller::new(&sqlite.address, "c", Place::Cold)),
        ("cold on MariaDB", Teller::new(&mariadb.address, "c", Place::Cold)),
        ("hot over eight shards", Teller::new(&spread.address, "h", Place::Hot)),
        ("some cold, on SQLite", Teller::new(&spread.address, "x", Place::Mixed)),
        ("some cold, on MariaDB", Teller::new(&mariadb.address, "x", Place::Mixed)),
        ("moving", Teller::new(&other.address, "m", Place::Cold).interrupted(&mut between)),
    ];
    let mut requests = random::Requests::new(seed);
    for _ in 0..600 {
        let sent = requests.next();
        let answers: Vec<_> = tellers.iter_mut().map(|(place, teller)| (*place, teller.say(&sent))).collect();
        for (place, answer) in &answers[1..] {
            assert_eq!(*answer, answers[0].1, "{sent}: {place} (left), hot (right), HOTSTOCK_SEED={seed}");
        }
        requests.learn(&sent, &answers[0].1);
    }
    // The journals are gapless. They tell the same story where every order was in one place; over several an order that is refused
    // has held something for a moment.
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
