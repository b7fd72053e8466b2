//! Data directories that are old, copied, lost or back from the dead.

use rustix::process::Signal;

use crate::fixture::{Fixture, Ledger, stop};
use crate::support::{Server, copy_dir, get, lag, post, refused, serve, until, until_fenced};

/// It takes the epoch of whoever owned the store last, and says that it is not its.
fn names_the_epoch(why: &str) {
    assert!(why.contains("epoch"), "{why}");
}

#[test]
fn a_server_that_was_given_up_comes_back() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("old", &[]);
    ledger.buy_some(&server.address, 5);
    stop(server);
    // What comes now stays in the directory: it flushes every ten minutes.
    let server = fixture.start_with("old", &["store.flush_interval_ms=600000"]);
    // But once at its start, which is over by then.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let flushed = ledger.len();
    ledger.buy_some(&server.address, 3);
    server.end(Signal::KILL);

    let (code, said) = fixture.recover("new", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("shard 0") && said.contains("shard 1") && said.contains("LSN"), "{said}");
    let server = fixture.start("new");
    let mut after = Ledger::starting_at(10_000);
    after.buy_some(&server.address, 1);

    // It is back, and closed for all three hot SKUs and the stored one; nothing of it reaches the rows.
    names_the_epoch(&refused(&fixture.path("old"), &fixture.settings(&[])));
    let lost = ledger.lose(&fixture.unflushed("old"));
    assert_eq!(ledger.len(), flushed, "what was flushed is not listed as lost: {lost:?}");
    assert_eq!(lost.len(), 12, "{lost:?}");
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 2);
    ledger.join(after);
    fixture.audit(&server, &ledger);
    // Nor does it get anything by asking again.
    names_the_epoch(&refused(&fixture.path("old"), &fixture.settings(&[])));
    fixture.audit(&server, &ledger);
    stop(server);
}

#[test]
fn an_older_copy_of_the_directory() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    stop(server);
    copy_dir(&fixture.path("data"), &fixture.path("backup"));
    let server = fixture.start("data");
    ledger.buy_some(&server.address, 3);
    stop(server);

    names_the_epoch(&refused(&fixture.path("backup"), &fixture.settings(&[])));
    // Its journal does not contain what the store has: nobody can ask for that.
    let over = Server::try_spawn(fixture.take_over("backup", &[]));
    match over {
        Err((code, said)) => assert!(!matches!(code, Some(0) | None), "{said}"),
        Ok(server) => {
            until_fenced(&server.address);
            ledger.nothing_to_buy(&server.address);
        }
    }
    let server = fixture.start("data");
    ledger.repeat_all(&server.address);
    ledger.buy_some(&server.address, 1);
    fixture.audit(&server, &ledger);
    stop(server);
}

#[test]
fn a_copy_beside_the_original_that_runs() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    stop(server);
    copy_dir(&fixture.path("data"), &fixture.path("copy"));
    let server = fixture.start("data");
    let why = refused(&fixture.path("copy"), &fixture.settings(&[]));
    assert!(why.contains("server") || why.contains("epoch"), "{why}");
    // The one that runs does not notice.
    assert_eq!(get(&server.address, "/readyz").0, 200);
    ledger.buy_some(&server.address, 3);
    // Nor a copy that was made while it ran.
    copy_dir(&fixture.path("data"), &fixture.path("live copy"));
    refused(&fixture.path("live copy"), &fixture.settings(&[]));
    ledger.buy_some(&server.address, 1);
    until("everything is flushed", || lag(&server.address) == 0);
    server.end(Signal::KILL);
    // Dead or not: what it flushed after it was copied is not in the copies.
    let server = fixture.start("data");
    ledger.buy_some(&server.address, 1);
    stop(server);
    refused(&fixture.path("copy"), &fixture.settings(&[]));
    refused(&fixture.path("live copy"), &fixture.settings(&[]));
    let server = fixture.start("data");
    ledger.repeat_all(&server.address);
    fixture.audit(&server, &ledger);
    stop(server);
}

#[test]
fn the_original_beside_a_copy_that_runs() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    ledger.buy_some(&server.address, 3);
    stop(server);
    copy_dir(&fixture.path("data"), &fixture.path("copy"));
    // As after a move to another machine: nobody but the operator knows that the original is given up.
    let why = refused(&fixture.path("copy"), &fixture.settings(&[]));
    assert!(why.contains("--take-over"), "it says how, when that is what is meant: {why}");
    let server = Server::spawn(fixture.take_over("copy", &[]));
    ledger.buy_some(&server.address, 3);
    refused(&fixture.path("data"), &fixture.settings(&[]));
    assert_eq!(get(&server.address, "/readyz").0, 200);
    ledger.buy_some(&server.address, 1);
    stop(server);
    // From now on the original is the older copy.
    names_the_epoch(&refused(&fixture.path("data"), &fixture.settings(&[])));
    let server = fixture.start("copy");
    ledger.repeat_all(&server.address);
    fixture.audit(&server, &ledger);
    stop(server);
}

#[test]
fn another_directory_on_a_store_that_is_owned() {
    let fixture = Fixture::new();
    let mut ledger = Ledger::default();
    let server = fixture.open("data", &[]);
    let why = refused(&fixture.path("new"), &fixture.settings(&[]));
    assert!(why.contains("another"), "a clear word: {why}");
    ledger.buy_some(&server.address, 2);
    stop(server);
    // Nor when nobody uses it: that is what recover is for.
    refused(&fixture.path("new"), &fixture.settings(&[]));
    let server = fixture.start("data");
    fixture.audit(&server, &ledger);
    stop(server);
}

/// The store of a server with defaults lies in its directory, so a copy of it has a store of its own.
#[test]
fn a_copy_of_a_directory_with_its_own_store() {
    let dir = tempfile::tempdir().unwrap();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let settings = ["log.level=warn"];
    let server = Server::start(&data, &settings);
    crate::support::create(&server.address, "a", 5, true);
    stop(server);
    copy_dir(&data, &copy);
    let why = refused(&copy, &settings);
    assert!(why.contains("--take-over"), "it says how, when that is what is meant: {why}");
    let server = Server::start(&data, &settings);
    let order = serde_json::json!({ "order_no": "1", "lines": [{ "sku_id": "a", "quantity": 1 }] });
    assert_eq!(post(&server.address, "/v1/reservations", &order).0, 201);
    stop(server);
    let mut command = serve(&copy, &settings);
    command.arg("--take-over");
    let server = Server::spawn(command);
    assert_eq!(crate::support::levels(&server.address, "a"), [5, 0, 0]);
    stop(server);
    // It is at home there from now on.
    stop(Server::start(&copy, &settings));
}
