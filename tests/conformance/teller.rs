//! The language of the tables: `what is sent -> what is answered`, one row a line, over HTTP.
//!
//! ```text
//! create A 10                      -> 201 A 10/0/0
//! reserve O1 A:2 B@7:1 ttl=60      -> 201 reserved A:2[held 2] B@7:1[held 1]
//! confirm O1 A:1 id=R1             -> 200 partially_confirmed A:2[held 1 confirmed 1] …
//! stock A                          -> 200 A 7/1/1
//! create S 5 serialized            -> 201 S 5/0/0 serialized
//! ```
//!
//! `A@7` is the SKU A in warehouse 7 (1 where nothing is said); levels are available/reserved/sold; `#1-3` in an order
//! are the serial numbers 1 to 3. Names are unique on the server: the teller puts a prefix of its own before them, and
//! takes it off what it prints.

use serde_json::{Value, json};

use crate::support::Client;

/// Who may stand between two rows: pins SKUs, waits, or does nothing.
pub type Between<'a> = &'a mut dyn FnMut(&mut Client, &[String]);

/// Tells tables to one server.
pub struct Teller<'a> {
    pub address: String,
    pub client: Client,
    prefix: String,
    /// The SKUs that were created, with the prefix.
    pub skus: Vec<String>,
    between: Option<Between<'a>>,
    place: Place,
}

/// How SKUs are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Kept in memory.
    Hot,
    /// In memory as long as they are in use and there is room.
    Stored,
    /// B, D and Z like that, the others kept.
    Mixed,
}

impl<'a> Teller<'a> {
    pub fn new(address: &str, prefix: &str, place: Place) -> Self {
        Self {
            address: address.to_owned(),
            client: Client::default(),
            prefix: prefix.to_owned(),
            skus: Vec::new(),
            between: None,
            place,
        }
    }

    /// Lets `between` act before each row.
    pub fn interrupted(mut self, between: Between<'a>) -> Self {
        self.between = Some(between);
        self
    }

    /// Goes through a table and stops at the first row that is answered otherwise.
    pub fn tell(&mut self, table: &str) {
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let (sent, expected) = row.split_once("->").expect("a row is `sent -> answered`");
            let got = self.say(sent.trim());
            assert_eq!(
                got,
                expected.trim(),
                "{}: (answered left, expected right) in the row: {row}",
                self.prefix
            );
        }
    }

    /// Carries out one row and gives the answer as text.
    pub fn say(&mut self, sent: &str) -> String {
        if let Some(between) = &mut self.between {
            between(&mut self.client, &self.skus);
        }
        let words: Vec<_> = sent.split_whitespace().collect();
        if let ["expired", order] = words[..] {
            return self.until_expired(order);
        }
        let (method, path, body) = self.request(&words);
        let (status, answer) = self.call(method, &path, &body);
        if words[0] == "create" && status == 201 {
            let sku = answer["sku_id"].as_str().unwrap_or_default().to_owned();
            if !self.skus.contains(&sku) {
                self.skus.push(sku);
            }
        }
        format!("{status} {}", self.print(&answer)).trim().to_owned()
    }

    /// One request; an unknown or refused-for-now outcome fails the test.
    pub fn call(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.client.call(&self.address, method, path, &body).unwrap();
        assert!(status < 500, "{method} {path} {body}: {status} {answer}");
        (status, answer)
    }

    /// Waits until an order has expired by itself.
    fn until_expired(&mut self, order: &str) -> String {
        let path = format!("/v1/reservations/{}", self.name(order));
        for _ in 0..3_000 {
            let (_, answer) = self.call("GET", &path, &Value::Null);
            if answer["expires_at"].is_null() {
                return self.print(&answer);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{order} never expired")
    }

    fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    fn place(&self, text: &str) -> (String, u32) {
        let (sku, warehouse) = text.split_once('@').unwrap_or((text, "1"));
        (self.name(sku), warehouse.parse().unwrap())
    }

    fn lines(&self, words: &[&str]) -> Vec<Value> {
        let line = |(place, quantity): (&str, &str)| {
            let (sku_id, warehouse_id) = self.place(place);
            json!({ "sku_id": sku_id, "warehouse_id": warehouse_id, "quantity": quantity.parse::<i64>().unwrap() })
        };
        words
            .iter()
            .filter(|word| !word.contains('='))
            .filter_map(|word| word.split_once(':'))
            .map(line)
            .collect()
    }

    fn request(&self, words: &[&str]) -> (&'static str, String, Value) {
        let option = |name: &str| {
            words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let order = |action: &str| format!("/v1/reservations/{}{action}", self.name(words[1]));
        let mut body = json!({});
        let mut put = |name: &str, value: Value| body[name] = value;
        let lines = self.lines(words.get(2..).unwrap_or_default());
        let part = (!lines.is_empty()).then_some(Value::from(lines.clone()));
        match words[0] {
            "create" => {
                let (sku_id, warehouse_id) = self.place(words[1]);
                put("sku_id", sku_id.into());
                put("warehouse_id", warehouse_id.into());
                put("quantity", words[2].parse::<i64>().unwrap().into());
                if words.contains(&"serialized") {
                    put("serialized", true.into());
                }
                let stored = ["B", "D", "Z"].iter().any(|stored| words[1].starts_with(stored));
                if self.place == Place::Hot || self.place == Place::Mixed && !stored {
                    put("hot", true.into());
                }
                ("POST", "/v1/stock".into(), body)
            }
            "restock" | "deduct" | "adjust" => {
                let (sku_id, warehouse_id) = self.place(words[1]);
                put("warehouse_id", warehouse_id.into());
                put("quantity", words[2].parse::<i64>().unwrap().into());
                put("request_id", option("id").unwrap().into());
                ("POST", format!("/v1/stock/{sku_id}/{}", words[0]), body)
            }
            "suspend" | "resume" => {
                let (sku_id, warehouse_id) = self.place(words[1]);
                if words[1].contains('@') {
                    put("warehouse_id", warehouse_id.into());
                }
                ("POST", format!("/v1/stock/{sku_id}/{}", words[0]), body)
            }
            "stock" => ("GET", format!("/v1/stock/{}", self.name(words[1])), Value::Null),
            "reserve" => {
                put("order_no", self.name(words[1]).into());
                put("lines", lines.into());
                if let Some(ttl) = option("ttl") {
                    put("ttl_seconds", ttl.parse::<i64>().unwrap().into());
                }
                if let Some(buyer) = option("buyer") {
                    put("buyer_id", buyer.into());
                }
                if words.contains(&"best_effort") {
                    put("mode", "best_effort".into());
                }
                ("POST", "/v1/reservations".into(), body)
            }
            "get" => ("GET", order(""), Value::Null),
            "extend" => {
                put("ttl_seconds", words[2].parse::<i64>().unwrap().into());
                ("POST", order("/extend"), body)
            }
            "confirm" | "release" | "return" => {
                if let Some(part) = part {
                    put("lines", part);
                }
                if let Some(id) = option("id") {
                    put("request_id", id.into());
                }
                if let Some(reason) = option("reason") {
                    put("reason", reason.into());
                }
                let action = ["/confirm", "/release", "/return"][match words[0] {
                    "confirm" => 0,
                    "release" => 1,
                    _ => 2,
                }];
                ("POST", order(action), body)
            }
            other => panic!("no such row: {other}"),
        }
    }

    fn short(&self, name: &Value, warehouse: &Value) -> String {
        let name = name.as_str().unwrap_or_default();
        let name = name.strip_prefix(&self.prefix).and_then(|name| name.strip_prefix('-')).unwrap_or(name);
        match warehouse.as_u64() {
            None | Some(1) => name.to_owned(),
            Some(other) => format!("{name}@{other}"),
        }
    }

    /// An answer as text: what a caller relies on, without times.
    pub fn print(&self, answer: &Value) -> String {
        let replayed = if answer["replayed"] == true { " replayed" } else { "" };
        if let Some(code) = answer["code"].as_str() {
            let short = |line: &Value| {
                let place = self.short(&line["sku_id"], &line["warehouse_id"]);
                format!(" {place}:{}/{}", line["requested"], line["available"])
            };
            let lines: String = answer["lines"].as_array().into_iter().flatten().map(short).collect();
            let field = answer["field"].as_str().map(|field| format!(" {field}")).unwrap_or_default();
            return format!("{code}{field}{lines}");
        }
        let levels = |of: &Value| {
            let suspended = if of["status"] == "suspended" { " suspended" } else { "" };
            let serialized = if of["serialized"] == true { " serialized" } else { "" };
            format!("{}/{}/{}{serialized}{suspended}", of["available"], of["reserved"], of["sold"])
        };
        if let Some(status) = answer["status"].as_str().filter(|_| answer["order_no"].is_string()) {
            let line = |line: &Value| {
                let place = self.short(&line["sku_id"], &line["warehouse_id"]);
                let counts =
                    ["held", "confirmed", "released", "returned"].map(|name| (name, line[name].as_u64()));
                let counts = counts.iter().filter(|(_, count)| *count != Some(0));
                let counts = counts.map(|(name, count)| format!("{name} {}", count.unwrap_or(9)));
                let serials = line["serials"].as_array().into_iter().flatten();
                let serials = serials.map(|serials| format!("#{}-{}", serials["from"], serials["to"]));
                let counts: Vec<_> = counts.chain(serials).collect();
                format!(" {place}:{}[{}]", line["quantity"], counts.join(" "))
            };
            let lines: String = answer["lines"].as_array().into_iter().flatten().map(line).collect();
            return format!("{status}{replayed}{lines}");
        }
        if let Some(warehouses) = answer["warehouses"].as_array() {
            let one = |stock: &Value| {
                format!("{} {}", self.short(&answer["sku_id"], &stock["warehouse_id"]), levels(stock))
            };
            let all: Vec<_> = warehouses.iter().map(one).collect();
            return format!("{}{replayed}", all.join(" "));
        }
        format!("{} {}{replayed}", self.short(&answer["sku_id"], &answer["warehouse_id"]), levels(answer))
    }
}
