//! Servers that are given up while they live.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::fixture::{Fixture, HOT, Ledger, STORED, stop};
use crate::proxy::Proxy;
use crate::support::{Server, StopOnDrop, copy_dir, get, lag, post, until, until_fenced};

/// Buys from a server without a pause until it is fenced or the test says stop. When the last was told.
fn buy_until_fenced(address: &str, mut ledger: Ledger, stop: &AtomicBool) -> (Ledger, Instant) {
    let mut last = Instant::now();
    for sku in HOT.into_iter().cycle() {
        if stop.load(Ordering::Relaxed) || !ledger.buy(address, sku) {
            break;
        }
        last = Instant::now();
    }
    (ledger, last)
}

/// The operator gives up a server that is alive: it closes for all SKUs at once, and what it answered meanwhile is
/// known or listed.
#[test]
fn a_living_server_is_given_up() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let old = fixture.open("old", &[]);
    ledger.buy_some(&old.address, 3);
    until("everything is flushed", || lag(&old.address) == 0);
    let never = AtomicBool::new(false);
    let (mut ledger, new) = std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&never);
        let buyer = scope.spawn(|| buy_until_fenced(&old.address, ledger, &never));
        std::thread::sleep(Duration::from_millis(300));
        // It is told that the owner lives, and insists.
        let (code, said) = fixture.recover("new", &[]);
        assert_eq!(code, 3, "it lives: {said}");
        assert!(said.contains("another server") && said.contains("--take-over"), "{said}");
        let (code, said) = fixture.recover("new", &["--take-over"]);
        assert_eq!(code, 0, "{said}");
        let new = fixture.start("new");
        until_fenced(&old.address);
        let (mut ledger, _) = buyer.join().unwrap();
        drop(stop_on_panic);
        ledger.nothing_to_buy(&old.address);
        (ledger, new)
    });
    assert_eq!(
        post(
            &old.address,
            "/v1/reservations/ORDER-00001-hot-a/return",
            &serde_json::json!({ "request_id": "R" })
        )
        .1["code"],
        "fenced"
    );
    let why = get(&old.address, "/readyz").1["detail"].as_str().unwrap().to_owned();
    assert!(why.contains("epoch") || why.contains("taken"), "{why}");
    old.end(Signal::KILL);
    let lost = ledger.lose(&fixture.unflushed("old"));
    println!("{} orders stand, {} were answered and never flushed", ledger.len(), lost.len());
    ledger.repeat_all(&new.address);
    ledger.buy_some(&new.address, 1);
    fixture.audit(&new, &ledger);
    stop(new);
}

/// A server freezes in the middle of a flush, with the row of the owner locked: the database ends its session after a
/// while, and the take-over waits for that.
#[test]
fn a_server_that_freezes_inside_a_flush() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let old = fixture.open("old", &[]);
    until("everything is flushed", || lag(&old.address) == 0);
    let held = fixture.database.held("SELECT * FROM hotstock.stock WHERE sku_id = 'hot-a' FOR UPDATE");
    assert!(ledger.buy(&old.address, "hot-a"));
    // The list of sessions: those of transactions and locks are taken anew only after 100 ms without a reader.
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'UPDATE stock JOIN%'";
    until("its flush waits for a row", || fixture.database.sql(waiting).trim() != "0");
    old.signal(Signal::STOP);
    // The database goes on with the statement, and waits for the next one of that flush.
    drop(held);
    let (code, said) = fixture.recover("new", &["--take-over"]);
    assert_eq!(code, 0, "{said}");
    let new = fixture.start("new");
    old.signal(Signal::CONT);
    until_fenced(&old.address);
    old.end(Signal::KILL);
    // Its flush was rolled back, and the order of it is listed.
    let lost = ledger.lose(&fixture.unflushed("old"));
    assert_eq!(lost.len(), 1, "{lost:?}");
    ledger.buy_some(&new.address, 1);
    fixture.audit(&new, &ledger);
    stop(new);
}

/// A server with a lease that is cut off from the store stops by itself before anybody else may begin.
#[test]
fn a_server_with_a_lease_that_is_cut_off() {
    let fixture = Fixture::new();
    let proxy = Proxy::to(fixture.database.port());
    let through = format!("store.url=mysql://root@127.0.0.1:{}/hotstock", proxy.port);
    let mut ledger = Ledger::default();
    let leased = ["store.lease_seconds=3", through.as_str()];
    let old = fixture.open("old", &leased);
    ledger.buy_some(&old.address, 3);
    until("everything is flushed", || lag(&old.address) == 0);
    let never = AtomicBool::new(false);
    let (mut ledger, new) = std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&never);
        let buyer = scope.spawn(|| buy_until_fenced(&old.address, ledger, &never));
        std::thread::sleep(Duration::from_millis(500));
        proxy.cut();
        let cut = Instant::now();
        let (code, said) = fixture.recover("new", &["--take-over", "--set", "store.lease_seconds=3"]);
        assert_eq!(code, 0, "{said}");
        let new = fixture.start_with("new", &["store.lease_seconds=3"]);
        let began = Instant::now();
        let (ledger, last) = buyer.join().unwrap();
        drop(stop_on_panic);
        assert!(last < began, "it still sold when the other one began");
        assert!(last.duration_since(cut) < Duration::from_secs(4), "{:?}", last.duration_since(cut));
        (ledger, new)
    });
    ledger.nothing_to_buy(&old.address);
    // The line is mended: it is told what became of the store.
    proxy.mend();
    until_fenced(&old.address);
    ledger.nothing_to_buy(&old.address);
    old.end(Signal::KILL);
    let lost = ledger.lose(&fixture.unflushed("old"));
    println!("{} orders stand, {} were answered and never flushed", ledger.len(), lost.len());
    assert!(!lost.is_empty(), "it went on for a while without the store");
    ledger.repeat_all(&new.address);
    ledger.buy_some(&new.address, 1);
    fixture.audit(&new, &ledger);
    stop(new);
}

/// Its line is mended in time: nothing happened.
#[test]
fn a_lease_that_is_renewed_in_time() {
    let fixture = Fixture::new();
    let proxy = Proxy::to(fixture.database.port());
    let through = format!("store.url=mysql://root@127.0.0.1:{}/hotstock", proxy.port);
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &["store.lease_seconds=10", through.as_str()]);
    for _ in 0..3 {
        proxy.cut();
        for _ in 0..20 {
            for sku in HOT {
                assert!(ledger.buy(&server.address, sku));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        proxy.mend();
        until("everything is flushed", || lag(&server.address) == 0);
    }
    assert!(ledger.buy(&server.address, STORED));
    assert_eq!(get(&server.address, "/readyz").0, 200);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// The directory was moved to another machine after a hard end, and the lease still runs: refused, or waited out when
/// it is asked for.
#[test]
fn serve_take_over_waits_out_the_lease() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let leased = ["store.lease_seconds=5"];
    let server = fixture.open("data", &leased);
    ledger.buy_some(&server.address, 3);
    until("everything is flushed", || lag(&server.address) == 0);
    server.end(Signal::KILL);
    let killed = Instant::now();
    copy_dir(&fixture.path("data"), &fixture.path("moved"));
    if let Err((code, said)) =
        Server::try_spawn(crate::support::serve(&fixture.path("moved"), &fixture.settings(&leased)))
    {
        assert!(!matches!(code, Some(0) | None), "{said}");
        assert!(said.contains("--take-over"), "{said}");
    } else {
        panic!("somebody may still be serving");
    }
    let moved = Server::spawn(fixture.take_over("moved", &leased));
    assert!(killed.elapsed() > Duration::from_millis(3_500), "it waited: {:?}", killed.elapsed());
    ledger.repeat_all(&moved.address);
    ledger.buy_some(&moved.address, 2);
    let why = crate::support::refused(&fixture.path("data"), &fixture.settings(&leased));
    assert!(!why.is_empty());
    fixture.audit(&moved, &ledger);
    stop(moved);
    // An orderly stop gives the lease back: the next one need not wait.
    let began = Instant::now();
    let moved = fixture.start_with("moved", &leased);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    stop(moved);
    let sold: BTreeMap<_, _> = ledger.sold();
    assert_eq!(sold[STORED], 5);
}
