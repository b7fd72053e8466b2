//! A MariaDB, data directories beside each other, and clients with a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use hotstock_persistence::testing::MariaDb;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Client, Server, create, lag, levels, post, reconciled, run, serve, until};

/// Units of each SKU, more than any test sells.
pub const UNITS: i64 = 1_000;

/// Kept in memory, over two shards.
pub const HOT: [&str; 3] = ["hot-a", "hot-b", "hot-c"];

/// Loaded when somebody asks for it.
pub const STORED: &str = "stored-d";

/// See the module.
pub struct Fixture {
    pub database: MariaDb,
    dir: TempDir,
    /// The setting that names the store.
    pub store: String,
}

impl Fixture {
    pub fn new() -> Self {
        let (database, dir) = (MariaDb::start(), tempfile::tempdir().unwrap());
        let store = format!("store.url={}", database.url("hotstock"));
        Self { database, dir, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Two shards, and what is durable is flushed at once.
    pub fn settings<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let usual = ["log.level=warn", "engine.shards=2", "store.flush_interval_ms=20", self.store.as_str()];
        usual.into_iter().chain(more.iter().copied()).collect()
    }

    pub fn start(&self, name: &str) -> Server {
        self.start_with(name, &[])
    }

    pub fn start_with(&self, name: &str, more: &[&str]) -> Server {
        Server::start(&self.path(name), &self.settings(more))
    }

    /// `serve --take-over`.
    pub fn take_over(&self, name: &str, more: &[&str]) -> Command {
        let mut command = serve(&self.path(name), &self.settings(more));
        command.arg("--take-over");
        command
    }

    /// A first server with its SKUs in a new directory.
    pub fn open(&self, name: &str, more: &[&str]) -> Server {
        let server = self.start_with(name, more);
        for sku in HOT {
            create(&server.address, sku, UNITS, true);
        }
        create(&server.address, STORED, UNITS, false);
        server
    }

    /// `hotstock recover --from-store` into a new directory.
    pub fn recover(&self, name: &str, more: &[&str]) -> (i32, String) {
        let data_dir = self.path(name);
        let mut args = vec!["recover", "--from-store", "--data-dir", data_dir.to_str().unwrap()];
        args.extend(["--set", &self.store]);
        args.extend(more);
        run(&args)
    }

    /// What `hotstock unflushed` lists of a directory.
    pub fn unflushed(&self, name: &str) -> String {
        let data_dir = self.path(name);
        let args = ["unflushed", "--data-dir", data_dir.to_str().unwrap(), "--set", &self.store];
        let (code, text) = run(&args);
        assert_eq!(code, 0, "{text}");
        text
    }

    /// In the end: the server says what the ledger says, SQL has it row by row, and nothing differs.
    pub fn audit(&self, server: &Server, ledger: &Ledger) {
        let address = &server.address;
        for order_no in &ledger.half {
            assert_eq!(post(address, &format!("/v1/reservations/{order_no}/release"), &json!({})).0, 200);
        }
        until("everything is flushed", || lag(address) == 0);
        let sold = ledger.sold();
        for sku in HOT.into_iter().chain([STORED]) {
            let sold = sold.get(sku).copied().unwrap_or(0);
            let told = [UNITS - sold, 0, sold];
            assert_eq!(levels(address, sku), told, "{sku}: the server (left), the ledger (right)");
            let row = format!("SELECT available, reserved, sold FROM hotstock.stock WHERE sku_id = '{sku}'");
            let row: Vec<i64> =
                self.database.sql(&row).split_whitespace().map(|word| word.parse().unwrap()).collect();
            assert_eq!(row, told, "{sku}: its row (left), the ledger (right)");
        }
        reconciled(address);
    }
}

/// What the clients were told: every order that was reserved and confirmed, with its SKU.
#[derive(Debug, Default)]
pub struct Ledger {
    orders: BTreeMap<String, &'static str>,
    /// Reserved, and fenced before they were confirmed: they hold a unit where they are known.
    half: Vec<String>,
    made: u32,
}

impl Ledger {
    /// Its numbers begin there, so that they are not those of another ledger.
    pub fn starting_at(made: u32) -> Self {
        Self { made, ..Self::default() }
    }

    /// One client buys one unit. Whether it was told that it has it; the only other answer is that the server is
    /// fenced.
    pub fn buy(&mut self, address: &str, sku: &'static str) -> bool {
        self.made += 1;
        let order_no = format!("ORDER-{:05}-{sku}", self.made);
        match buy(address, &order_no, sku) {
            Bought::Whole => drop(self.orders.insert(order_no, sku)),
            Bought::Half => {
                self.half.push(order_no);
                return false;
            }
            Bought::Nothing => return false,
        }
        true
    }

    /// So many of each SKU.
    pub fn buy_some(&mut self, address: &str, rounds: usize) {
        for _ in 0..rounds {
            for sku in HOT.into_iter().chain([STORED]) {
                assert!(self.buy(address, sku), "{sku}: fenced");
            }
        }
    }

    /// A server that may not write sells none of the SKUs.
    pub fn nothing_to_buy(&mut self, address: &str) {
        for sku in HOT.into_iter().chain([STORED]) {
            assert!(!self.buy(address, sku), "{sku} was sold by a server that is fenced");
        }
    }

    /// The numbers of the orders told so far.
    pub fn numbers(&self) -> Vec<String> {
        self.orders.keys().cloned().collect()
    }

    /// Orders told so far.
    pub fn len(&self) -> usize {
        self.orders.len()
    }

    /// The orders that a directory answered and never flushed, by its list. They leave the ledger, as operators who
    /// read the list would have it; of some the reservation was flushed and the payment was not, so they are
    /// released like those that were never paid.
    pub fn lose(&mut self, list: &str) -> BTreeSet<String> {
        let words: BTreeSet<&str> = list.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
        let is_lost = |order_no: &&String| words.contains(order_no.as_str());
        let lost: BTreeSet<String> = self.orders.keys().filter(is_lost).cloned().collect();
        self.orders.retain(|order_no, _| !lost.contains(order_no));
        self.half.extend(lost.iter().cloned());
        lost
    }

    /// Every client repeats its request: it is known and not sold again.
    pub fn repeat_all(&self, address: &str) {
        let mut client = Client::default();
        for (order_no, sku) in &self.orders {
            let body = reserve(order_no, sku).to_string();
            let (status, answer) = client.call(address, "POST", "/v1/reservations", &body).unwrap();
            let state = (status, answer["status"].as_str(), answer["replayed"].as_bool());
            assert_eq!(state, (200, Some("confirmed"), Some(true)), "{order_no}: {answer}");
        }
    }

    /// Takes in another one.
    pub fn join(&mut self, other: Self) {
        self.orders.extend(other.orders);
        self.half.extend(other.half);
    }

    /// Units sold, by SKU.
    pub fn sold(&self) -> BTreeMap<&'static str, i64> {
        let mut sold = BTreeMap::new();
        self.orders.values().for_each(|sku| *sold.entry(*sku).or_default() += 1);
        sold
    }
}

fn reserve(order_no: &str, sku: &str) -> serde_json::Value {
    json!({ "order_no": order_no, "lines": [{ "sku_id": sku, "quantity": 1 }] })
}

/// How far a client came.
enum Bought {
    Nothing,
    Half,
    Whole,
}

fn buy(address: &str, order_no: &str, sku: &str) -> Bought {
    let told = |path: &str, body: &serde_json::Value| {
        let (status, answer) = post(address, path, body);
        match status {
            200 | 201 => true,
            503 if answer["code"] == "fenced" => false,
            _ => panic!("{order_no} {path}: {status} {answer}"),
        }
    };
    if !told("/v1/reservations", &reserve(order_no, sku)) {
        return Bought::Nothing;
    }
    let confirmed = told(&format!("/v1/reservations/{order_no}/confirm"), &json!({}));
    if confirmed { Bought::Whole } else { Bought::Half }
}

/// A clean end.
pub fn stop(server: Server) {
    assert_eq!(server.end(Signal::TERM), Some(0));
}
