//! The process is ended as hard as by a power cut at each step, and started again. Whoever asked repeats the request;
//! all that it saw is checked (`hotstock-histories`).

use std::path::Path;
use std::time::Duration;

use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_histories::Recorder;
use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Server, create, lag, levels, number, reconciled, recorded, until, verify};

/// Room for one SKU and one ended order, small checkpoints and segments: every step is reached within a few requests.
const SETTINGS: [&str; 9] = [
    "log.level=warn",
    "engine.max_resident_skus=1",
    "orders.remember_seconds=1",
    "orders.remember_max=1",
    "store.flush_interval_ms=5",
    "checkpoint.events=20",
    "journal.segment_bytes=131072",
    "journal.zeros_bytes=0",
    "journal.keep_flushed_minutes=0",
];

const SKUS: [&str; 5] = ["a", "b", "c", "d", "e"];
const UNITS: i64 = 1_000;
const ROUNDS: usize = 40;

/// A caller who knows what it was told, and its server, which is started again when it was killed.
struct Story<'a> {
    data: &'a Path,
    settings: Vec<&'a str>,
    server: Option<Server>,
    client: Client,
    starts: usize,
    history: Recorder,
}

impl Story<'_> {
    /// Repeats a request until it is answered with something that says what happened.
    fn settle(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        for _ in 0..20_000 {
            let address = self.server.as_ref().unwrap().address.clone();
            match recorded(&self.history, &mut self.client, &address, method, path, &body) {
                Ok((status, answer)) if status < 500 => return (status, answer),
                Ok(_) => std::thread::sleep(Duration::from_millis(2)),
                // Killed at its step: it is started again, without one.
                Err(_) => {
                    self.server.take().unwrap().until_killed();
                    self.history.ended(&address);
                    self.server = Some(Server::start(self.data, &self.settings));
                    self.starts += 1;
                }
            }
        }
        panic!("{method} {path} {body} was never answered")
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.settle("POST", path, body);
        assert!(matches!(status, 200 | 201), "{path} {body}: {status} {answer}");
        answer
    }

    fn reserve(&mut self, order_no: &str, skus: &[&str]) -> Value {
        let lines: Vec<_> = skus.iter().map(|sku| json!({ "sku_id": sku, "quantity": 2 })).collect();
        self.post("/v1/reservations", &json!({ "order_no": order_no, "lines": lines }))
    }

    fn order(&mut self, order_no: &str, what: &str, body: &Value) -> Value {
        self.post(&format!("/v1/reservations/{order_no}/{what}"), body)
    }
}

/// Every step is reached by orders on SKUs that are seldom in memory, by repeats, and by returns of orders that had
/// left it.
fn kill_at(step: &str, hit: u64, shards: u16) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let about = format!("{step}:{hit}, {shards} shards");
    let shard = |sku: &str| shard_of(&SkuId::new(sku).unwrap(), shards).0;
    let shards = format!("engine.shards={shards}");
    let settings: Vec<&str> = SETTINGS.into_iter().chain([shards.as_str()]).collect();
    let server = Server::start(&data, &settings);
    let history = Recorder::default();
    for sku in SKUS {
        let body = json!({ "sku_id": sku, "quantity": UNITS }).to_string();
        let made = recorded(&history, &mut Client::default(), &server.address, "POST", "/v1/stock", &body);
        assert_eq!(made.unwrap().0, 201);
    }
    assert_eq!(server.end(Signal::TERM), Some(0));
    // A step may be reached by what a start itself flushes, before anybody is told where it listens.
    let failing = Server::start_to_fail(&data, &settings, &format!("{step}:{hit}"));
    let (starts, server) = match failing {
        Some(server) => (0, server),
        None => (1, Server::start(&data, &settings)),
    };
    let (settings, client) = (settings.clone(), Client::default());
    let mut story = Story { data: &data, settings, server: Some(server), client, starts, history };
    for round in 0..ROUNDS {
        let order_no = format!("o{round}");
        let (one, other) = (SKUS[round % SKUS.len()], SKUS[(round + 2) % SKUS.len()]);
        let skus: Vec<&str> = if round % 3 == 0 { vec![one, other] } else { vec![one] };
        story.reserve(&order_no, &skus);
        story.order(&order_no, "confirm", &json!({}));
        story.post(&format!("/v1/stock/{one}/restock"), &json!({ "request_id": order_no, "quantity": 3 }));
        story.settle("GET", &format!("/v1/stock/{other}"), &Value::Null);
        std::thread::sleep(Duration::from_millis(15));
        if round >= 3 {
            // Long gone: it comes back for its return, and for the repeat of everything that it was asked.
            let old = format!("o{}", round - 3);
            let sku = SKUS[(round - 3) % SKUS.len()];
            let part = json!({ "request_id": "R", "lines": [{ "sku_id": sku, "quantity": 1 }] });
            story.order(&old, "return", &part);
            assert_eq!(story.order(&old, "return", &part)["replayed"], true, "{about}: {old}");
            let again = json!({ "request_id": old, "quantity": 3 });
            let answer = story.post(&format!("/v1/stock/{sku}/restock"), &again);
            assert_eq!(answer["replayed"], true, "{about}: {old} {answer}");
        }
    }
    for round in 0..ROUNDS {
        let (status, answer) = story.settle("GET", &format!("/v1/reservations/o{round}"), &Value::Null);
        let returned = round + 3 < ROUNDS;
        let state = if returned { "partially_returned" } else { "confirmed" };
        assert_eq!((status, answer["status"].as_str()), (200, Some(state)), "{about}: o{round}");
    }
    assert_eq!(story.starts, 1, "{about}: it was to be killed there, once");
    let server = story.server.take().unwrap();
    until("everything is flushed", || lag(&server.address) == 0);
    let checked = story.history.must_be_explained(step, shard);
    for sku in SKUS {
        assert_eq!(levels(&server.address, sku), checked.sku(sku), "{about}: {sku}");
    }
    reconciled(&server.address);
    assert_eq!(server.end(Signal::TERM), Some(0), "{about}");
    verify(&data);
}

/// The first times that a step is reached are others than later ones.
fn kill_at_each(step: &str) {
    for (turn, hit) in (1..=number("HOTSTOCK_KILLS").unwrap_or(2)).enumerate() {
        // Not one after the other: what comes later lies in another state.
        kill_at(step, 1 + (hit - 1) * 3, if turn % 2 == 0 { 1 } else { 4 });
    }
}

macro_rules! steps {
    ($($name:ident: $step:literal;)*) => {$(
        #[test]
        fn $name() {
            kill_at_each($step);
        }
    )*};
}

steps! {
    before_the_store_is_read: "load.before";
    after_a_sku_was_loaded: "load.loaded";
    after_orders_and_requests_were_loaded: "load.orders";
    after_a_sku_left: "evict.logged";
    after_orders_were_forgotten: "forget.logged";
    before_a_flush: "flush.before";
    after_a_flush: "flush.after";
    after_the_filter_was_saved: "known.saved";
    after_a_checkpoint_was_finished: "checkpoint.finished";
}

/// Those of pruning have a test of their own.
#[test]
fn every_step_has_a_test() {
    let steps = hotstock_engine::engine::RESIDENCY_STEPS;
    let source = include_str!("kills.rs");
    let missing: Vec<_> = steps.iter().filter(|step| !source.contains(&format!("\"{step}\""))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn before_and_after_a_batch_is_pruned() {
    for step in ["prune.before", "prune.after"] {
        prune_and_kill(step);
    }
}

/// Rows of SQL are made a year older by hand; the server is killed while it prunes them, and goes on after the restart.
fn prune_and_kill(step: &str) {
    let (database, dir) = (MariaDb::start(), tempfile::tempdir().unwrap());
    let data = dir.path().join("data");
    let store = format!("store.url={}", database.url("hotstock"));
    let settings: Vec<&str> = SETTINGS
        .into_iter()
        .chain(["engine.shards=2", "store.keep_days=30", "store.keep_journal_days=60", store.as_str()])
        .collect();
    let server = Server::start(&data, &settings);
    for sku in SKUS {
        create(&server.address, sku, UNITS, false);
    }
    let mut story = Story {
        data: &data,
        settings: settings.clone(),
        server: Some(server),
        client: Client::default(),
        starts: 0,
        history: Recorder::default(),
    };
    for round in 0..50 {
        let (order_no, sku) = (format!("o{round}"), SKUS[round % SKUS.len()]);
        story.reserve(&order_no, &[sku]);
        // Those that still hold units stay, however old they are.
        if round % 5 != 4 {
            story.order(&order_no, "confirm", &json!({}));
        }
    }
    let server = story.server.take().unwrap();
    until("everything is flushed", || lag(&server.address) == 0);
    assert_eq!(server.end(Signal::TERM), Some(0));
    let year = 365 * 24 * 3_600_000_u64;
    let times = [
        ("orders", "changed_at"),
        ("orders", "created_at"),
        ("stock_requests", "at"),
        ("stock_journal", "at"),
    ];
    for (table, column) in times {
        database.sql(&format!("UPDATE hotstock.{table} SET {column} = {column} - {year}"));
    }
    if let Some(server) = Server::start_to_fail(&data, &settings, &format!("{step}:1")) {
        server.until_killed();
    }
    story.server = Some(Server::start(&data, &settings));
    let count = |what: &str| -> u64 {
        database.sql(&format!("SELECT COUNT(*) FROM hotstock.{what}")).trim().parse().unwrap()
    };
    until("what is old is gone", || {
        let left = [count("orders WHERE open = 0"), count("stock_journal WHERE version > 0")];
        println!("{step}: ended orders and journal rows: {left:?}");
        left == [0, 5]
    });
    assert_eq!(count("orders WHERE open < 2"), 10, "{step}: those that hold units are kept");
    let address = story.server.as_ref().unwrap().address.clone();
    for sku in SKUS {
        let kept = if sku == SKUS[4] { 20 } else { 0 };
        assert_eq!(levels(&address, sku), [UNITS - 20, kept, 20 - kept], "{step}: {sku}");
    }
    reconciled(&address);
    // Orders go on, also the old ones that hold units, on SKUs whose history is gone.
    for sku in SKUS {
        story.reserve(&format!("new-{sku}"), &[sku]);
    }
    story.order("o4", "confirm", &json!({}));
    assert_eq!(levels(&address, SKUS[4]), [UNITS - 22, 20, 2], "{step}");
    // A number that was pruned is free again; what it is used for now is counted once.
    let answer = story.reserve("o0", &[SKUS[0]]);
    assert_eq!(answer["replayed"], false, "{step}: {answer}");
    until("everything is flushed", || lag(&address) == 0);
    reconciled(&address);
    assert_eq!(story.server.take().unwrap().end(Signal::TERM), Some(0));
    verify(&data);
}
