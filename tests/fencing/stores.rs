//! A store that was restored, that lost its last seconds, or that is not there at the start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::fixture::{Fixture, HOT, Ledger, stop};
use serde_json::json;

use crate::support::{
    Server, StopOnDrop, copy_dir, create, get, lag, levels, post, reconciled, refused, sum_of_shards, until,
    until_fenced,
};

/// Somebody restores last night's backup while the server runs: what the backup lacks is flushed again from the
/// journal.
#[test]
fn a_store_that_is_restored_under_a_running_server() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 5);
    until("everything is flushed", || lag(&server.address) == 0);
    let backup = fixture.database.backup();
    ledger.buy_some(&server.address, 5);
    until("everything is flushed", || lag(&server.address) == 0);
    fixture.database.restore(&backup);
    for sku in HOT {
        assert!(ledger.buy(&server.address, sku));
    }
    until("the store has what it lost", || rows_are(&fixture, &server.address));
    assert_eq!(get(&server.address, "/readyz").0, 200);
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// Somebody loads last night's dump while the server runs: the tables are replaced one after the other, and those that
/// say how far all is flushed come last. No number seems free meanwhile.
#[test]
fn a_dump_that_is_loaded_under_a_running_server() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    // What is ended leaves memory at once.
    let small = ["engine.max_resident_skus=4", "orders.remember_seconds=1", "orders.remember_max=1"];
    let server = fixture.open("data", &small);
    ledger.buy_some(&server.address, 10);
    until("everything is flushed", || lag(&server.address) == 0);
    let dump = fixture.database.dump("hotstock");
    ledger.buy_some(&server.address, 20);
    until("everything is flushed", || lag(&server.address) == 0);
    until("what is ended left", || sum_of_shards(&server.address, "orders") <= 2);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop_on_panic = StopOnDrop(&over);
        for start in 0..3 {
            let (numbers, address, over) = (ledger.numbers(), &server.address, &over);
            scope.spawn(move || {
                for number in numbers.iter().cycle().skip(start * 17) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let other = json!({ "order_no": number, "lines": [{ "sku_id": HOT[0], "quantity": 9 }] });
                    let (status, answer) = post(address, "/v1/reservations", &other);
                    let code = answer["code"].as_str().unwrap_or_default();
                    let is_right = (status == 422 && code == "order_mismatch") || status == 503;
                    assert!(is_right, "{number} for other goods: {status} {answer}");
                }
            });
        }
        for _ in 0..3 {
            fixture.database.load("hotstock", &dump);
            until("the store has what it lost", || rows_are(&fixture, &server.address));
        }
        drop(stop_on_panic);
    });
    assert_eq!(get(&server.address, "/readyz").0, 200);
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    fixture.audit(&server, &ledger);
    stop(server);
}

#[test]
fn a_store_that_was_restored_before_the_start() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 5);
    until("everything is flushed", || lag(&server.address) == 0);
    let backup = fixture.database.backup();
    ledger.buy_some(&server.address, 5);
    stop(server);
    fixture.database.restore(&backup);
    let server = fixture.start("data");
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    until("the store has what it lost", || rows_are(&fixture, &server.address));
    fixture.audit(&server, &ledger);
    stop(server);
}

/// Further back than the journal reaches: nothing can be made good, so it stops and says what to do.
#[test]
fn a_store_that_went_back_further_than_the_journal() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let short = [
        "journal.keep_flushed_minutes=0",
        "journal.segment_bytes=131072",
        "journal.zeros_bytes=0",
        "checkpoint.events=100",
    ];
    let server = fixture.open("data", &short);
    ledger.buy_some(&server.address, 2);
    until("everything is flushed", || lag(&server.address) == 0);
    let backup = fixture.database.backup();
    for _ in 0..400 {
        ledger.buy_some(&server.address, 1);
    }
    until("everything is flushed", || lag(&server.address) == 0);
    let trimmed = || std::fs::read_dir(fixture.path("data").join("journal")).unwrap().count();
    println!("{} files in the journal", trimmed());
    fixture.database.restore(&backup);
    let why = until_fenced(&server.address);
    assert!(why.contains("journal") && why.contains("recover"), "the reason and the way out: {why}");
    ledger.nothing_to_buy(&server.address);
}

/// As with `innodb_flush_log_at_trx_commit=0`, or a replica that took over: commits that were answered are gone.
#[test]
fn a_store_that_lost_its_last_seconds() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    for _ in 0..3 {
        fixture.database.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 0");
        ledger.buy_some(&server.address, 8);
        until("everything is flushed", || lag(&server.address) == 0);
        fixture.database.kill();
        fixture.database.restart();
        assert!(ledger.buy(&server.address, HOT[0]));
        until("the store is there again", || lag(&server.address) == 0);
    }
    until("the store has what it lost", || rows_are(&fixture, &server.address));
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// The file of a SQLite store is replaced by an older one under a running server, which would go on with the old file
/// until its end. It is fenced, and started again it flushes anew what the older file lacks.
#[test]
fn a_sqlite_file_that_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backup) = (dir.path().join("data"), dir.path().join("backup.db"));
    let settings = ["log.level=warn", "store.flush_interval_ms=20"];
    let server = Server::start(&data, &settings);
    create(&server.address, "a", 5, true);
    stop(server);
    std::fs::copy(data.join("store.db"), &backup).unwrap();
    let server = Server::start(&data, &settings);
    create(&server.address, "b", 5, true);
    until("everything is flushed", || lag(&server.address) == 0);
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("store.db{suffix}");
        std::fs::rename(data.join(&name), dir.path().join(&name)).unwrap();
    }
    std::fs::copy(&backup, data.join("store.db")).unwrap();
    let why = until_fenced(&server.address);
    assert!(why.contains("store.db") && why.contains("replaced"), "{why}");
    server.end(Signal::KILL);
    for suffix in ["-wal", "-shm"] {
        drop(std::fs::remove_file(data.join(format!("store.db{suffix}"))));
    }
    let server = Server::start(&data, &settings);
    until("everything is flushed", || lag(&server.address) == 0);
    assert_eq!(levels(&server.address, "b"), [5, 0, 0]);
    reconciled(&server.address);
    stop(server);
}

/// The same directory on the same machine may go on without being asked; a copy may not.
#[test]
fn a_start_without_the_store() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    stop(server);
    copy_dir(&fixture.path("data"), &fixture.path("copy"));
    fixture.database.kill();

    let server = fixture.start("data");
    for sku in HOT {
        assert!(ledger.buy(&server.address, sku));
    }
    let why = refused(&fixture.path("copy"), &fixture.settings(&[]));
    assert!(why.contains("store"), "{why}");
    for sku in HOT {
        assert!(ledger.buy(&server.address, sku));
    }
    fixture.database.restart();
    until("everything is flushed", || lag(&server.address) == 0);
    // The other one had its chance.
    refused(&fixture.path("copy"), &fixture.settings(&[]));
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// The original sells while the store is away, and dies before it is back: nothing in the store tells of that. The
/// copy is refused whether the original has been there again or not.
#[test]
fn a_copy_after_the_original_sold_without_the_store() {
    for original_comes_first in [false, true] {
        let mut fixture = Fixture::new();
        let mut ledger = Ledger::default();
        let server = fixture.open("data", &[]);
        ledger.buy_some(&server.address, 3);
        stop(server);
        copy_dir(&fixture.path("data"), &fixture.path("copy"));
        fixture.database.kill();
        let server = fixture.start("data");
        for sku in HOT {
            assert!(ledger.buy(&server.address, sku));
        }
        server.end(Signal::KILL);
        fixture.database.restart();
        if original_comes_first {
            let server = fixture.start("data");
            ledger.buy_some(&server.address, 1);
            server.end(Signal::KILL);
        }
        let why = refused(&fixture.path("copy"), &fixture.settings(&[]));
        assert!(why.contains("--take-over"), "{why}");
        let server = fixture.start("data");
        ledger.repeat_all(&server.address);
        ledger.buy_some(&server.address, 1);
        fixture.audit(&server, &ledger);
        stop(server);
    }
}

/// As before, but the operator gives the original up: it does not come back, also when the copy has flushed nothing.
#[test]
fn an_original_that_sold_without_the_store_after_its_copy() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    stop(server);
    copy_dir(&fixture.path("data"), &fixture.path("copy"));
    fixture.database.kill();
    let mut given_up = Ledger::starting_at(10_000);
    let server = fixture.start("data");
    for sku in HOT {
        assert!(given_up.buy(&server.address, sku));
    }
    server.end(Signal::KILL);
    fixture.database.restart();
    let server = Server::spawn(fixture.take_over("copy", &["store.flush_interval_ms=600000"]));
    ledger.buy_some(&server.address, 1);
    server.end(Signal::KILL);
    let why = refused(&fixture.path("data"), &fixture.settings(&[]));
    assert!(why.contains("a copy of it took the store"), "{why}");
    assert_eq!(given_up.lose(&fixture.unflushed("data")).len(), HOT.len(), "they are listed");
    let server = fixture.start("copy");
    ledger.repeat_all(&server.address);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// It went on without the store; meanwhile the store was given to another one. When it is back, everything is closed.
#[test]
fn a_start_without_the_store_that_somebody_else_took() {
    let mut fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    until("everything is flushed", || lag(&server.address) == 0);
    server.end(Signal::KILL);
    let (code, said) = fixture.recover("new", &[]);
    assert_eq!(code, 0, "{said}");
    let server = fixture.start("new");
    ledger.buy_some(&server.address, 2);
    stop(server);
    fixture.database.kill();
    let mut blind = Ledger::starting_at(10_000);
    let server = fixture.start("data");
    for sku in HOT {
        assert!(blind.buy(&server.address, sku), "it can't know");
    }
    fixture.database.restart();
    until_fenced(&server.address);
    blind.nothing_to_buy(&server.address);
    server.end(Signal::KILL);
    assert_eq!(blind.lose(&fixture.unflushed("data")).len(), HOT.len(), "they are listed");
    assert_eq!(blind.len(), 0);
    let server = fixture.start("new");
    ledger.repeat_all(&server.address);
    fixture.audit(&server, &ledger);
    stop(server);
}

/// Whether the rows of the hot SKUs are what the server says, that is, flushed again.
fn rows_are(fixture: &Fixture, address: &str) -> bool {
    std::thread::sleep(Duration::from_millis(50));
    HOT.iter().all(|sku| {
        let row = format!("SELECT available, reserved, sold FROM hotstock.stock WHERE sku_id = '{sku}'");
        let row: Vec<i64> =
            fixture.database.sql(&row).split_whitespace().filter_map(|word| word.parse().ok()).collect();
        row == crate::support::levels(address, sku)
    })
}
