//! The Redis mirror from outside: Redis killed, flushed, slow. Orders don't notice, the mirror converges, and nobody
//! who reads it ever sees an older level after a newer one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use hotstock_persistence::testing::RedisServer;
use rustix::process::Signal;
use serde_json::{Value, json};

use support::{Client, Server, StopOnDrop, encoded, post, until};

const SKUS: [&str; 4] = ["hot-a", "hot-b", "stored-a", "stored b:Größe"];

/// A client whose reads fail after a while, so that a Redis that is stopped does not stop the test.
fn connect(url: &str) -> Option<redis::Connection> {
    let connection =
        redis::Client::open(url).unwrap().get_connection_with_timeout(Duration::from_secs(1)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    Some(connection)
}

/// What the mirror says of a SKU: the plain key, and the hash.
fn mirrored(
    connection: &mut redis::Connection,
    sku: &str,
) -> redis::RedisResult<(Option<u64>, HashMap<String, String>)> {
    let mut both = redis::pipe();
    both.atomic().get(format!("inv:1:{sku}")).hgetall(format!("inv:1:{sku}:levels"));
    both.query(connection)
}

/// Whether the mirror says what the server says.
fn agrees(connection: &mut redis::Connection, address: &str, sku: &str) -> bool {
    let (_, answer) =
        Client::default().call(address, "GET", &format!("/v1/stock/{}", encoded(sku)), "").unwrap();
    let stock = &answer["warehouses"][0];
    let Ok((available, hash)) = mirrored(connection, sku) else { return false };
    let same = |name: &str| hash.get(name).and_then(|text| text.parse().ok()) == stock[name].as_u64();
    available == stock["available"].as_u64()
        && ["available", "reserved", "sold", "version"].iter().all(|name| same(name))
}

#[test]
fn redis_may_do_what_it_likes() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = RedisServer::start();
    let url = cache.url();
    let mirror = format!("mirror.redis_url={url}");
    let server =
        Server::start(&dir.path().join("data"), &["log.level=off", "engine.max_resident_skus=1", &mirror]);
    let address = server.address.as_str();
    let mut client = Client::default();
    for sku in SKUS {
        let body = json!({ "sku_id": sku, "quantity": 1_000_000, "hot": sku.starts_with("hot") }).to_string();
        assert_eq!(client.call(address, "POST", "/v1/stock", &body).unwrap().0, 201);
    }
    let (stop, made, seen) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&stop);
        let workers: Vec<_> = (0..4_u64)
            .map(|id| {
                scope.spawn({
                    let (stop, made) = (&stop, &made);
                    move || orders(address, id, stop, made)
                })
            })
            .collect();
        let watcher = scope.spawn(|| watch(&url, &stop, &seen));
        let some_orders = |more: u64| {
            let until = made.load(Ordering::Relaxed) + more;
            while made.load(Ordering::Relaxed) < until {
                assert!(!workers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a worker failed");
                assert!(!watcher.is_finished(), "the watcher failed");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let some_reads = || {
            let before = seen.load(Ordering::Relaxed);
            until("the mirror is read", || {
                seen.load(Ordering::Relaxed) > before + 20 || watcher.is_finished()
            });
        };
        some_orders(300);
        some_reads();
        for _ in 0..2 {
            flush_all(&url);
            some_orders(200);
            some_reads();
            cache.kill();
            some_orders(200);
            cache.restart();
            some_orders(200);
            some_reads();
            cache.stop_signal();
            some_orders(500);
            cache.continue_signal();
            some_orders(200);
            some_reads();
        }
        drop(stop_on_panic);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        watcher.join().unwrap();
    });
    let mut connection = connect(&url).unwrap();
    for sku in SKUS {
        until("the mirror agrees", || agrees(&mut connection, address, sku));
    }
    // A SKU that is pinned and let go of goes on with its versions, and so does one that leaves memory and comes back.
    for (number, how) in ["promote", "demote", "promote", "demote"].into_iter().enumerate() {
        let path = format!("/v1/admin/skus/stored-a/{how}");
        assert_eq!(post(address, &path, &json!({})).0, 200);
        reserve(&mut client, address, "stored-a", &format!("pinned-{number}"));
        until("the mirror agrees after it", || agrees(&mut connection, address, "stored-a"));
    }
    // Somebody wrote nonsense into it: found and put right.
    let () = redis::cmd("SET").arg("inv:1:hot-a").arg(7).query(&mut connection).unwrap();
    let (status, answer) = client.call(address, "POST", "/v1/admin/reconcile", "{}").unwrap();
    assert_eq!((status, answer["differences"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
    let (status, answer) = client.call(address, "POST", "/v1/admin/reconcile", r#"{"fix":true}"#).unwrap();
    assert_eq!(status, 200, "{answer}");
    until("it was put right", || agrees(&mut connection, address, "hot-a"));
    assert_eq!(server.end(Signal::TERM), Some(0));
}

fn flush_all(url: &str) {
    let mut connection = connect(url).unwrap();
    let () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
}

fn reserve(client: &mut Client, address: &str, sku: &str, order_no: &str) {
    let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku, "quantity": 1 }] }).to_string();
    let (status, answer) = client.call(address, "POST", "/v1/reservations", &body).unwrap();
    assert_eq!(status, 201, "{answer}");
}

/// Orders, each of which must be served, whatever Redis does.
fn orders(address: &str, id: u64, stop: &AtomicBool, made: &AtomicU64) {
    let (mut client, mut rng) = (Client::default(), Rng::with_seed(id));
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let order_no = format!("o{id}-{number}");
        reserve(&mut client, address, SKUS[rng.usize(0..SKUS.len())], &order_no);
        if rng.bool() {
            let path = format!("/v1/reservations/{order_no}/release");
            assert_eq!(client.call(address, "POST", &path, "{}").unwrap().0, 200);
        }
        made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads all the time and remembers the newest version of each SKU. Only an empty Redis (flushed, or begun anew)
/// forgets.
fn watch(url: &str, stop: &AtomicBool, seen: &AtomicU64) {
    let mut newest: HashMap<&str, u64> = HashMap::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(open) = &mut connection else {
            connection = connect(url);
            continue;
        };
        for sku in SKUS {
            let Ok((available, hash)) = mirrored(open, sku) else {
                // Killed: what comes after may have begun from nothing.
                connection = None;
                newest.clear();
                break;
            };
            let Some(version) = hash.get("version").and_then(|text| text.parse::<u64>().ok()) else {
                newest.remove(sku);
                continue;
            };
            assert_eq!(
                hash.get("available").and_then(|text| text.parse().ok()),
                available,
                "{sku}: key and hash part"
            );
            let before = newest.insert(sku, version).unwrap_or(0);
            // Between two reads it may have been flushed and filled again, but then from the levels of that moment,
            // which are newer.
            assert!(version >= before, "{sku}: version {version} after {before}");
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn without_a_url_nothing_is_mirrored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["log.level=off"]);
    let (status, answer) = Client::default().call(&server.address, "GET", "/metrics", "").unwrap();
    assert_eq!((status, answer), (200, Value::Null));
    assert_eq!(server.end(Signal::TERM), Some(0));
}
