//! A server of eight shards with SKUs in known shards, requests that are repeated until they are answered, and the
//! audit of all of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hotstock_engine::ids::{SkuId, shard_of};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Server, hotstock, metric, reconciled, verify};

pub const SHARDS: u16 = 8;

/// Short intervals, so that background work does not keep the tests waiting; small checkpoints, so that some lie
/// between kills; small segments, because each start fills one with zeros.
const SETTINGS: [&str; 9] = [
    "log.level=error",
    "engine.shards=8",
    // What is idle and not hot leaves memory, and so does what has ended.
    "engine.max_resident_skus=4",
    "orders.remember_seconds=1",
    "orders.remember_max=100",
    "store.flush_interval_ms=20",
    "checkpoint.events=200",
    "journal.segment_bytes=1048576",
    "journal.zeros_bytes=131072",
];

/// Everything is settled within this: expiries come a second late at the most.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

/// A data directory, its server, and one caller.
pub struct Fixture {
    data: PathBuf,
    pub client: Client,
    pub server: Option<Server>,
    /// SKUs and their units.
    stocked: Vec<(String, i64)>,
    /// Orders that may exist.
    pub orders: Vec<String>,
}

/// A name for a SKU of this shard.
pub fn sku_in(shard: u16, prefix: &str) -> String {
    let lies_there = |name: &String| shard_of(&SkuId::new(name).unwrap(), SHARDS).0 == shard;
    (0..).map(|number| format!("{prefix}{number}")).find(lies_there).unwrap()
}

impl Fixture {
    pub fn open(dir: &Path) -> Self {
        let data = dir.join("data");
        let server = Some(start(&data, None));
        Self { data, client: Client::default(), server, stocked: Vec::new(), orders: Vec::new() }
    }

    pub fn address(&self) -> &str {
        &self.server.as_ref().unwrap().address
    }

    pub fn stock(&mut self, sku_id: &str, units: i64, hot: bool) {
        let body = json!({ "sku_id": sku_id, "quantity": units, "hot": hot });
        let (status, answer) = self.ask("/v1/stock", &body);
        assert_eq!(status, 201, "{answer}");
        self.stocked.push((sku_id.to_owned(), units));
    }

    /// One request to a server that is there.
    pub fn ask(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let address = self.address().to_owned();
        self.client.call(&address, "POST", path, &body.to_string()).unwrap()
    }

    /// Reads until it is answered: what is not in memory may take a while after much was asked for.
    pub fn get(&mut self, path: &str) -> (u16, Value) {
        let address = self.address().to_owned();
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let (status, answer) = self.client.call(&address, "GET", path, "").unwrap();
            if status < 500 {
                return (status, answer);
            }
            println!("{path}: {status} {answer}");
            assert!(Instant::now() < deadline, "{path}: {status} {answer}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Repeats a request until it is answered with something that says what happened.
    pub fn settle(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let (status, answer) = self.ask(path, body);
            if status < 500 {
                return (status, answer);
            }
            assert!(Instant::now() < deadline, "{path} {body}: {status} {answer}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the server again so that it is killed the n-th time that it reaches a step.
    pub fn arm(&mut self, step: &str, hit: u32) {
        self.stop();
        self.server = Some(start(&self.data, Some(format!("{step}:{hit}"))));
    }

    /// As [`Fixture::arm`], with the time that the disk needs for what was on its way to it.
    pub fn arm_late(&mut self, step: &str, hit: u32) {
        self.stop();
        self.server = Some(start(&self.data, Some(format!("{step}:{hit}:100"))));
    }

    /// The server was killed, or will be; starts it again without a step.
    pub fn after_the_kill(&mut self) {
        self.server.take().unwrap().until_killed();
        self.server = Some(start(&self.data, None));
    }

    /// The server was killed, or will be; starts it again so that it is killed at another step, which it reaches by
    /// itself, and then without a step.
    pub fn after_two_kills(&mut self, step: &str, hit: u32) {
        self.server.take().unwrap().until_killed();
        Server::run_until_killed(command(&self.data, Some(format!("{step}:{hit}"))));
        self.server = Some(start(&self.data, None));
    }

    /// Starts the server again so that it is killed at a step that it reaches by itself, and then without a step.
    pub fn killed_at_start(&mut self, step: &str) {
        self.stop();
        Server::run_until_killed(command(&self.data, Some(format!("{step}:1"))));
        self.server = Some(start(&self.data, None));
    }

    /// Asks a server that will be killed on the way. What it may answer before is not known to be true.
    pub fn ask_in_vain(&mut self, path: &str, body: &Value) {
        let address = self.address().to_owned();
        let _ = self.client.call(&address, "POST", path, &body.to_string());
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            assert_eq!(server.end(Signal::TERM), Some(0));
        }
    }

    /// Where an order stands.
    pub fn status_of(&mut self, order_no: &str) -> String {
        let (status, answer) = self.get(&format!("/v1/reservations/{order_no}"));
        assert_eq!(status, 200, "{order_no}: {answer}");
        answer["status"].as_str().unwrap().to_owned()
    }

    pub fn until_status(&mut self, order_no: &str, wanted: &str) {
        let deadline = Instant::now() + SETTLED_WITHIN;
        while self.status_of(order_no) != wanted {
            assert!(Instant::now() < deadline, "{order_no} is never {wanted}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until every shard has what the orders say.
    pub fn until_settled(&mut self) {
        let orders = self.orders.clone();
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let mut wrong = self.differences(&orders);
            let address = self.address().to_owned();
            if metric(&address, "hotstock_cross_shard_under_way") != Some(0.0) {
                wrong.push("something is still on its way between shards".to_owned());
            }
            if wrong.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{wrong:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// In the end every unit that is held or sold is held or sold by an order, in every shard; nothing else is. Then
    /// shards and store agree, and so does `verify`.
    pub fn audit(mut self) {
        self.until_settled();
        reconciled(self.address());
        self.stop();
        verify(&self.data);
    }

    /// Where the levels are not what the orders make them.
    fn differences(&mut self, orders: &[String]) -> Vec<String> {
        let mut units: std::collections::BTreeMap<String, (i64, i64)> = Default::default();
        for order_no in orders {
            let (status, answer) = self.get(&format!("/v1/reservations/{order_no}"));
            if status == 404 {
                continue;
            }
            for line in answer["lines"].as_array().unwrap() {
                let count = |name: &str| line[name].as_i64().unwrap();
                let sum = units.entry(line["sku_id"].as_str().unwrap().to_owned()).or_default();
                sum.0 += count("held");
                sum.1 += count("confirmed") - count("returned");
            }
        }
        let mut wrong = Vec::new();
        for (sku_id, stocked) in self.stocked.clone() {
            let (status, answer) = self.get(&format!("/v1/stock/{sku_id}"));
            assert_eq!(status, 200, "{answer}");
            let level = |name: &str| answer["total"][name].as_i64().unwrap();
            let (held, sold) = units.get(&sku_id).copied().unwrap_or_default();
            let (there, expected) =
                ([level("available"), level("reserved"), level("sold")], [stocked - held - sold, held, sold]);
            if there != expected {
                wrong.push(format!("{sku_id}: {there:?}, but the orders make {expected:?}"));
            }
        }
        wrong
    }
}

fn start(data: &Path, failpoint: Option<String>) -> Server {
    Server::spawn(command(data, failpoint))
}

fn command(data: &Path, failpoint: Option<String>) -> Command {
    let mut command = Command::new(hotstock());
    command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
    for setting in SETTINGS {
        command.args(["--set", setting]);
    }
    if let Some(failpoint) = failpoint {
        command.env("HOTSTOCK_FAILPOINT", failpoint);
    }
    command
}
