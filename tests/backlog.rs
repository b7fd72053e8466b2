//! A backlog of events that piled up while MariaDB was stopped does not stand before the orders on stored SKUs that
//! come when it is back: none is refused because of it, and they are answered about as quickly as without it.
//!
//! `HOTSTOCK_BACKLOG=1000000 HOTSTOCK_STORED=1000 cargo nextest run --test backlog` makes a larger one.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::json;

use support::{Client, Server, create, lag, levels, number, reconciled, until, until_within};

/// Callers at the same time.
const CALLERS: usize = 16;

/// Orders in a batch while the backlog is made.
const BATCH: usize = 1_000;

#[test]
fn a_backlog_refuses_nobody() {
    let backlog = number("HOTSTOCK_BACKLOG").unwrap_or(60_000);
    let stored = usize::try_from(number("HOTSTOCK_STORED").unwrap_or(1_000)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let database = MariaDb::start();
    let store = format!("store.url={}", database.url("hotstock"));
    let settings = [
        "log.level=warn",
        "engine.shards=2",
        "engine.max_resident_skus=100",
        "store.flush_interval_ms=50",
        "orders.remember_seconds=1",
        store.as_str(),
    ];
    let server = Server::start(&dir.path().join("data"), &settings);
    let address = server.address.as_str();
    create(address, "hot", 100_000_000, true);
    let skus: Vec<String> = (0..2 * stored).map(|number| format!("stored-{number:06}")).collect();
    each(&skus, |sku, _| create(address, sku, 1_000, false));
    until("everything is flushed", || lag(address) == 0);
    let calm = orders(address, &skus[..stored]);

    database.stop_signal();
    let (mut client, mut made) = (Client::default(), 0);
    while lag(address) < backlog {
        let operation = |number: usize| {
            let lines = json!([{ "sku_id": "hot", "quantity": 1 }]);
            json!({ "op": "reserve", "order_no": format!("hot-{number}"), "lines": lines })
        };
        let operations: Vec<_> = (made..made + BATCH).map(operation).collect();
        let body = json!({ "operations": operations }).to_string();
        let (status, answer) = client.call(address, "POST", "/v1/batch", &body).unwrap();
        let all = answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201);
        assert!(status == 200 && all, "{status} {answer}");
        made += BATCH;
    }
    database.continue_signal();
    // Until its connections are found to be alive again a stored SKU may be out of reach; the backlog comes after that.
    until_within(Duration::from_secs(20), "the store answers again", || {
        let lines = json!([{ "sku_id": skus[0], "quantity": 1 }]);
        let body = json!({ "order_no": "first", "lines": lines }).to_string();
        client.call(address, "POST", "/v1/reservations", &body).unwrap().0 < 300
    });
    let before = lag(address);
    let behind = orders(address, &skus[stored..]);
    let after = lag(address);
    println!(
        "{made} orders behind; lag {before} to {after} meanwhile; {stored} orders on stored SKUs: \
         half within {:?}, 99 of 100 within {:?}, all within {:?}; without a backlog {:?}, {:?}, {:?}",
        behind[0], behind[1], behind[2], calm[0], calm[1], calm[2]
    );
    // The flush takes its part of the machine; what must not come is a wait for the backlog.
    let bound = (calm[1] * 10).max(Duration::from_secs(1));
    assert!(behind[1] < bound, "99 of 100 within {:?}, without a backlog within {:?}", behind[1], calm[1]);
    until_within(Duration::from_secs(240), "everything is flushed", || lag(address) == 0);
    let made = i64::try_from(made).unwrap();
    assert_eq!(levels(address, "hot"), [100_000_000 - made, made, 0]);
    reconciled(address);
    assert_eq!(server.end(Signal::TERM), Some(0));
}

/// One order on each of the SKUs, none of which is in memory. Half, 99 of 100, and all of them were answered within
/// these times.
fn orders(address: &str, skus: &[String]) -> [Duration; 3] {
    let mut times = each(skus, |sku, client| {
        let order_no = format!("order-{sku}");
        let body = json!({ "order_no": order_no, "lines": [{ "sku_id": sku, "quantity": 1 }] }).to_string();
        let began = Instant::now();
        let (status, answer) = client.call(address, "POST", "/v1/reservations", &body).unwrap();
        let took = began.elapsed();
        assert_eq!(status, 201, "{answer}");
        let path = format!("/v1/reservations/{order_no}/release");
        assert_eq!(client.call(address, "POST", &path, "{}").unwrap().0, 200);
        took
    });
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at])
}

/// Does something for each, by several callers at once.
fn each<T: Send>(skus: &[String], act: impl Fn(&str, &mut Client) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let caller = || {
            let (mut client, mut done) = (Client::default(), Vec::new());
            while let Some(sku) = skus.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(act(sku, &mut client));
            }
            done
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}
