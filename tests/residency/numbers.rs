//! One order number, one order; one request id, one change. What was answered is answered again and what is something
//! else is a mismatch, at once and after everything that makes a server forget: eviction, other orders, restarts, a new
//! data directory, a filter that is lost or damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Server, create, get, lag, levels, post, reconciled, run, until};

const UNITS: i64 = 100;

/// Nothing is remembered longer than it must be.
const SETTINGS: [&str; 6] = [
    "log.level=warn",
    "engine.max_resident_skus=1",
    "orders.remember_seconds=1",
    "orders.remember_max=1",
    "store.flush_interval_ms=5",
    "checkpoint.events=200",
];

struct Numbers {
    dir: tempfile::TempDir,
    name: &'static str,
    shards: String,
    store: String,
    server: Option<Server>,
    /// Orders that only make the server forget others.
    fillers: usize,
}

impl Numbers {
    fn open(shards: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = format!("store.url=sqlite://{}", dir.path().join("store.db").display());
        let shards = format!("engine.shards={shards}");
        let mut numbers = Self { dir, name: "data", shards, store, server: None, fillers: 0 };
        numbers.start();
        for sku in ["goods", "other", "hot", "filler-0", "filler-1", "filler-2"] {
            create(numbers.address(), sku, UNITS, sku == "hot");
        }
        numbers
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join(self.name)
    }

    fn address(&self) -> &str {
        &self.server.as_ref().unwrap().address
    }

    fn start(&mut self) {
        let settings: Vec<&str> =
            SETTINGS.into_iter().chain([self.shards.as_str(), self.store.as_str()]).collect();
        self.server = Some(Server::start(&self.data(), &settings));
    }

    fn end(&mut self, signal: Signal) {
        let code = self.server.take().unwrap().end(signal);
        assert_eq!(code, if signal == Signal::KILL { None } else { Some(0) });
    }

    fn post(&self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        post(self.address(), path, body)
    }

    /// A day of other orders, in a second and a half.
    fn forget(&mut self) {
        for turn in 0..2 {
            for sku in 0..3 {
                self.fillers += 1;
                let order_no = format!("filler-{}", self.fillers);
                let lines = json!([{ "sku_id": format!("filler-{sku}"), "quantity": 1 }]);
                let body = json!({ "order_no": order_no, "lines": lines });
                assert_eq!(self.post("/v1/reservations", &body).0, 201);
                assert_eq!(self.post(&format!("/v1/reservations/{order_no}/release"), &json!({})).0, 200);
            }
            if turn == 0 {
                std::thread::sleep(Duration::from_millis(1_300));
            }
        }
        until("everything is flushed", || lag(self.address()) == 0);
    }

    /// It is saved with the checkpoints, and what they don't name goes.
    fn filter_is_saved(&self) {
        let shards = |name: &str| -> Vec<u64> {
            let (_, stats) = get(self.address(), "/v1/admin/shards");
            stats["shards"].as_array().unwrap().iter().map(|shard| shard[name].as_u64().unwrap()).collect()
        };
        let applied = shards("applied");
        assert_eq!(self.post("/v1/admin/checkpoint", &json!({})).0, 202);
        until("there are checkpoints", || {
            shards("checkpoint").iter().zip(&applied).all(|(done, until)| done >= until)
        });
    }

    /// One order of each kind of end and one of each kind of stock request, for the first time.
    fn use_numbers(&self) {
        for (order_no, end) in [("paid", "confirm"), ("given-back", "release")] {
            assert_eq!(self.post("/v1/reservations", &order(order_no, "goods", 2)).0, 201);
            assert_eq!(self.post(&format!("/v1/reservations/{order_no}/{end}"), &json!({})).0, 200);
        }
        let cart = json!({ "order_no": "cart", "lines": [{ "sku_id": "goods", "quantity": 1 }, { "sku_id": "hot", "quantity": 1 }] });
        assert_eq!(self.post("/v1/reservations", &cart).0, 201);
        assert_eq!(self.post("/v1/reservations/cart/confirm", &json!({})).0, 200);
        // Cancelled before it came.
        assert_eq!(self.post("/v1/reservations/cancelled/release", &json!({})).0, 200);
        assert_eq!(self.post("/v1/reservations", &order("open", "goods", 3)).0, 201);
        let request = json!({ "request_id": "PO-1", "quantity": 10 });
        assert_eq!(self.post("/v1/stock/goods/restock", &request).0, 200);
    }

    /// Everything again, and everything for other goods.
    fn use_them_again(&self, when: &str) {
        let told = |answer: &serde_json::Value| answer["code"].as_str().unwrap_or("no code").to_owned();
        let before: Vec<_> = ["goods", "other", "hot"].map(|sku| levels(self.address(), sku)).to_vec();
        let (status, answer) = self.post("/v1/reservations", &order("paid", "goods", 2));
        let state = (status, answer["status"].as_str(), answer["replayed"].as_bool());
        assert_eq!(state, (200, Some("confirmed"), Some(true)), "{when}: {answer}");
        let (status, answer) = self.post("/v1/reservations/paid/confirm", &json!({}));
        assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{when}: {answer}");
        let (status, answer) = self.post("/v1/reservations/given-back/release", &json!({}));
        assert_eq!((status, &answer["status"]), (200, &json!("released")), "{when}: {answer}");
        let (status, answer) = self.post("/v1/reservations", &order("open", "goods", 3));
        assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{when}: {answer}");
        let (status, answer) = self.post("/v1/reservations", &order("cancelled", "goods", 1));
        assert_eq!((status, told(&answer).as_str()), (409, "order_cancelled"), "{when}: {answer}");
        // Other goods, in memory or not, in this shard or another, more of them or less.
        for order_no in ["paid", "given-back", "cart", "open"] {
            let others = [("other", 1), ("other", 2), ("hot", 1), ("goods", 9), ("filler-0", 1)];
            for (sku, quantity) in others {
                let (status, answer) = self.post("/v1/reservations", &order(order_no, sku, quantity));
                let about = format!("{when}: {order_no} again for {quantity} {sku}");
                assert_eq!((status, told(&answer).as_str()), (422, "order_mismatch"), "{about}: {answer}");
            }
        }
        let both = json!([{ "sku_id": "other", "quantity": 1 }, { "sku_id": "hot", "quantity": 1 }]);
        let (status, answer) = self.post("/v1/reservations", &json!({ "order_no": "paid", "lines": both }));
        assert_eq!((status, told(&answer).as_str()), (422, "order_mismatch"), "{when}: {answer}");
        // A delivery is counted once; with another content it is another thing under the same id.
        let (status, answer) =
            self.post("/v1/stock/goods/restock", &json!({ "request_id": "PO-1", "quantity": 10 }));
        assert_eq!((status, &answer["replayed"]), (200, &json!(true)), "{when}: {answer}");
        let (status, answer) =
            self.post("/v1/stock/goods/restock", &json!({ "request_id": "PO-1", "quantity": 11 }));
        assert_eq!((status, told(&answer).as_str()), (422, "request_mismatch"), "{when}: {answer}");
        let after: Vec<_> = ["goods", "other", "hot"].map(|sku| levels(self.address(), sku)).to_vec();
        assert_eq!(after, before, "{when}: nothing moved");
        assert_eq!(get(self.address(), "/v1/admin/anomalies").1["count"], 0, "{when}");
    }
}

fn order(order_no: &str, sku_id: &str, quantity: u32) -> serde_json::Value {
    json!({ "order_no": order_no, "lines": [{ "sku_id": sku_id, "quantity": quantity }] })
}

fn a_number_is_one_order_for_good(shards: u16) {
    let mut numbers = Numbers::open(shards);
    numbers.use_numbers();
    numbers.use_them_again("at once");
    numbers.forget();
    numbers.use_them_again("after other orders");
    numbers.end(Signal::TERM);
    numbers.start();
    numbers.use_them_again("after a restart");
    numbers.forget();
    numbers.end(Signal::KILL);
    numbers.start();
    numbers.use_them_again("after a kill");
    numbers.forget();
    numbers.use_them_again("after a kill and other orders");

    // Without the filter, and with one that is not what was written, whatever is not in memory is asked of the store.
    let old = old_filter(shards);
    let harms: [(&str, Harm<'_>); 4] = [
        ("lost", &|filters| std::fs::remove_dir_all(filters).unwrap()),
        ("damaged", &|filters| each_file(filters, |bytes| damage(bytes))),
        ("cut short", &|filters| each_file(filters, |bytes| bytes.truncate(bytes.len() / 3))),
        ("another directory's, without these numbers", &|filters| {
            each_file(filters, |bytes| bytes.clone_from(&old))
        }),
    ];
    for (what, harm) in harms {
        numbers.forget();
        numbers.filter_is_saved();
        numbers.end(Signal::KILL);
        harm(&numbers.data().join("filters"));
        numbers.start();
        numbers.use_them_again(&format!("with a filter that is {what}"));
        numbers.forget();
        numbers.use_them_again(&format!("with a filter that was {what} and is there again"));
    }

    // A new data directory knows what SQL knows.
    numbers.end(Signal::TERM);
    let new = numbers.dir.path().join("new");
    let (code, said) =
        run(&["recover", "--from-store", "--data-dir", new.to_str().unwrap(), "--set", &numbers.store]);
    assert_eq!(code, 0, "{said}");
    numbers.name = "new";
    numbers.start();
    numbers.use_them_again("in a new data directory");
    numbers.forget();
    numbers.use_them_again("in a new data directory, after other orders");

    // What was paid can still be returned, once, and the open order still holds.
    let back = json!({ "request_id": "R-1" });
    assert_eq!(numbers.post("/v1/reservations/paid/return", &back).0, 200);
    numbers.forget();
    assert_eq!(numbers.post("/v1/reservations/paid/return", &back).1["replayed"], true);
    assert_eq!(numbers.post("/v1/reservations/cart/return", &back).0, 200);
    assert_eq!(numbers.post("/v1/reservations/open/confirm", &json!({})).0, 200);
    until("everything has come to rest", || {
        levels(numbers.address(), "goods") == [UNITS + 10 - 3, 0, 3]
            && levels(numbers.address(), "hot") == [UNITS, 0, 0]
    });
    assert_eq!(levels(numbers.address(), "other"), [UNITS, 0, 0]);
    until("everything is flushed", || lag(numbers.address()) == 0);
    reconciled(numbers.address());
    numbers.end(Signal::TERM);
    crate::support::verify(&numbers.data());
}

/// What is done to the files in a directory.
type Harm<'a> = &'a dyn Fn(&Path);

/// Of a directory that was used for nothing yet.
fn old_filter(shards: u16) -> Vec<u8> {
    let numbers = Numbers::open(shards);
    numbers.filter_is_saved();
    let mut found = None;
    each_file(&numbers.data().join("filters"), |bytes| found = Some(bytes.clone()));
    found.unwrap()
}

fn damage(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
}

fn each_file(filters: &Path, mut harm: impl FnMut(&mut Vec<u8>)) {
    let mut files = 0;
    for entry in std::fs::read_dir(filters).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        harm(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        files += 1;
    }
    assert!(files > 0, "there is a filter");
}

#[test]
fn a_number_is_one_order_for_good_in_one_shard() {
    a_number_is_one_order_for_good(1);
}

#[test]
fn a_number_is_one_order_for_good_over_eight_shards() {
    a_number_is_one_order_for_good(8);
}
