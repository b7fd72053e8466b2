//! The language of the tests: requests with their times in milliseconds and what they were answered.

use serde_json::{Value, json};

use crate::{Checked, Recorder, Request, check};

/// The server that is asked.
pub const SERVER: &str = "server";

/// A recording that is written down.
#[derive(Default)]
pub struct Script {
    requests: Vec<Request>,
    dead: Vec<(String, u64)>,
    shards: u16,
    ttl: u64,
}

/// Held, sold, given back, returned.
pub type Counts = [u64; 4];

impl Script {
    /// One SKU `a` with so many units.
    pub fn with(units: i64) -> Self {
        Self { shards: 1, ttl: 1, ..Self::default() }.stock("a", units)
    }

    pub fn stock(self, sku: &str, units: i64) -> Self {
        let body = json!({ "sku_id": sku, "quantity": units });
        self.told([0, 0], "POST", "/v1/stock", body, 201, json!({}))
    }

    /// Each SKU lies in a shard of its own.
    pub fn over_shards(mut self) -> Self {
        self.shards = 2;
        self
    }

    /// Holds are for an hour instead of a second.
    pub fn patient(mut self) -> Self {
        self.ttl = 3_600;
        self
    }

    pub fn died(mut self, at: u64) -> Self {
        self.dead.push((SERVER.to_owned(), at * 1_000_000));
        self
    }

    fn push(
        mut self,
        [sent, ended]: [u64; 2],
        ask: (&str, &str, Value),
        answer: Option<(u16, Value)>,
    ) -> Self {
        let (method, path, body) = ask;
        self.requests.push(Request {
            address: SERVER.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            body: body.to_string(),
            sent: sent * 1_000_000,
            ended: Some(ended * 1_000_000),
            answer,
            never_sent: false,
        });
        self
    }

    pub fn told(
        self,
        times: [u64; 2],
        method: &str,
        path: &str,
        body: Value,
        status: u16,
        answer: Value,
    ) -> Self {
        self.push(times, (method, path, body), Some((status, answer)))
    }

    pub fn reserve(self, times: [u64; 2], order: &str, units: u64, status: u16, counts: Counts) -> Self {
        let answer = view(order, status == 200, units, counts);
        let ask = self.ask(order, units);
        self.told(times, "POST", "/v1/reservations", ask, status, answer)
    }

    /// Refused for want of stock.
    pub fn short(self, times: [u64; 2], order: &str, units: u64, available: i64) -> Self {
        let line = json!({ "sku_id": "a", "warehouse_id": 1, "requested": units, "available": available });
        let answer = json!({ "code": "insufficient_stock", "lines": [line] });
        let ask = self.ask(order, units);
        self.told(times, "POST", "/v1/reservations", ask, 409, answer)
    }

    /// A reserve that was cut off.
    pub fn reserve_cut_off(self, times: [u64; 2], order: &str, units: u64) -> Self {
        let ask = self.ask(order, units);
        self.push(times, ("POST", "/v1/reservations", ask), None)
    }

    /// Confirm, release or return of all of an order of so many units.
    pub fn order(self, times: [u64; 2], what: &str, order: &str, replayed: bool, counts: Counts) -> Self {
        let units = counts[..3].iter().sum();
        let answer = view(order, replayed, units, counts);
        let body = if what == "return" { json!({ "request_id": "R" }) } else { json!({}) };
        self.told(times, "POST", &format!("/v1/reservations/{order}/{what}"), body, 200, answer)
    }

    pub fn cut_off(self, times: [u64; 2], what: &str, order: &str) -> Self {
        self.push(times, ("POST", &format!("/v1/reservations/{order}/{what}"), json!({})), None)
    }

    pub fn refused(self, times: [u64; 2], what: &str, order: &str, status: u16, code: &str) -> Self {
        let path = format!("/v1/reservations/{order}/{what}");
        self.told(times, "POST", &path, json!({}), status, json!({ "code": code }))
    }

    pub fn get(self, times: [u64; 2], order: &str, counts: Counts) -> Self {
        let answer = view(order, true, counts[..3].iter().sum(), counts);
        self.told(times, "GET", &format!("/v1/reservations/{order}"), Value::Null, 200, answer)
    }

    /// Available, reserved, sold and the version.
    pub fn read(self, times: [u64; 2], levels: [i64; 4]) -> Self {
        self.read_of(times, "a", levels)
    }

    pub fn read_of(self, times: [u64; 2], sku: &str, levels: [i64; 4]) -> Self {
        let answer = json!({ "sku_id": sku, "warehouses": [body_of(levels)] });
        self.told(times, "GET", &format!("/v1/stock/{sku}"), Value::Null, 200, answer)
    }

    pub fn restock(self, times: [u64; 2], id: &str, units: i64, replayed: bool, levels: [i64; 4]) -> Self {
        let mut answer = body_of(levels);
        answer["replayed"] = json!(replayed);
        let body = json!({ "request_id": id, "quantity": units });
        self.told(times, "POST", "/v1/stock/a/restock", body, 200, answer)
    }

    pub fn restock_cut_off(self, times: [u64; 2], id: &str, units: i64) -> Self {
        self.push(
            times,
            ("POST", "/v1/stock/a/restock", json!({ "request_id": id, "quantity": units })),
            None,
        )
    }

    fn ask(&self, order: &str, units: u64) -> Value {
        json!({ "order_no": order, "lines": [{ "sku_id": "a", "quantity": units }], "ttl_seconds": self.ttl })
    }

    /// Whether it can be explained.
    pub fn can_be_explained(self) -> bool {
        self.check().is_ok()
    }

    fn check(self) -> Result<Checked, crate::Failure> {
        let (recorder, shards) = (Recorder::of(self.requests, self.dead), self.shards);
        // Long after everything.
        check(&recorder, |sku| if shards == 1 { 0 } else { u16::from(sku.as_bytes()[0]) })
    }

    /// It can be explained; the levels of `a` in the end.
    #[track_caller]
    pub fn explained(self) -> [i64; 3] {
        self.check().unwrap_or_else(|failure| panic!("{}", failure.report)).sku("a")
    }

    /// It can't be, and this part is to blame.
    #[track_caller]
    pub fn refused_for(self, part: &str) {
        let failure = self.check().expect_err("it can't be explained");
        assert!(failure.report.starts_with(part), "{}", failure.report);
        assert!(failure.report.contains("Not explained:\n"), "{}", failure.report);
    }
}

/// An order of one line as it is answered.
pub fn view(order: &str, replayed: bool, units: u64, counts: Counts) -> Value {
    view_of(order, replayed, &[("a", units, counts)])
}

pub fn view_of(order: &str, replayed: bool, lines: &[(&str, u64, Counts)]) -> Value {
    let sum = |of: usize| lines.iter().map(|(.., counts)| counts[of]).sum::<u64>();
    let status = match (sum(0), sum(1), sum(2), sum(3)) {
        (0, sold, _, returned) if returned > 0 && returned == sold => "returned",
        (0, 1.., 0, 0) => "confirmed",
        (1.., 0, _, 0) => "reserved",
        (0, 0, ..) => "expired",
        _ => "partially_confirmed",
    };
    let expires = if sum(0) > 0 { json!("some day") } else { Value::Null };
    let line = |(sku, quantity, [held, sold, back, returned]): &(&str, u64, Counts)| {
        json!({ "sku_id": sku, "warehouse_id": 1, "quantity": quantity, "held": held, "confirmed": sold,
            "released": back, "returned": returned })
    };
    json!({ "order_no": order, "status": status, "replayed": replayed, "created_at": "then",
        "expires_at": expires, "lines": lines.iter().map(line).collect::<Vec<_>>() })
}

fn body_of([available, reserved, sold, version]: [i64; 4]) -> Value {
    json!({ "warehouse_id": 1, "available": available, "reserved": reserved, "sold": sold, "version": version })
}
