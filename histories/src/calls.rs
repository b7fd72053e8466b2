//! Requests as calls of the contract: who is meant, what is asked, what was told.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::recorder::{Recorder, Request};

/// The warehouse of a line that names none, as the default configuration has it.
const DEFAULT_WAREHOUSE: u64 = 1;
/// The time of a reservation that names none, likewise, in seconds.
const DEFAULT_TTL_SECONDS: u64 = 1_800;

/// Refusals after which it is certain that nothing happened: by status, or by code.
const NOT_DONE_STATUS: [u16; 3] = [408, 413, 429];
const NOT_DONE: [&str; 5] = ["overloaded", "journal_full", "store_unavailable", "fenced", "not_ready"];

/// A SKU in a warehouse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stock {
    /// What.
    pub sku: String,
    /// Where.
    pub warehouse: u64,
}

impl fmt::Display for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.sku, self.warehouse)
    }
}

/// Units by stock; lines of one stock are summed.
pub type Lines = BTreeMap<Stock, u64>;

/// One operation: a request, or one of a batch.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which request of the recording.
    pub request: usize,
    /// Which operation of a batch.
    pub part: Option<usize>,
    /// Before it was sent.
    pub sent: u64,
    /// What it asks.
    pub ask: Ask,
    /// How it ended.
    pub end: Told,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It was answered, at this time at the latest.
    Answer(u64, u16, Value),
    /// It may have taken effect, before this time if there is one.
    Unknown(Option<u64>),
    /// It took no effect; known since.
    NotDone(u64),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// About an order.
    Order(String, OrderAsk),
    /// A restock, deduct or adjust.
    Change {
        /// Of what.
        stock: Stock,
        /// The path's last word.
        kind: String,
        /// Units, as asked.
        quantity: i64,
        /// Its identity within the SKU.
        request_id: String,
    },
    /// A new stock.
    Create(Stock, i64),
    /// Reads the levels, of one warehouse or all.
    Read(String, Option<u64>),
}

/// What is asked about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderAsk {
    /// To hold units.
    Reserve(Wish, u64),
    /// To sell what is held.
    Confirm(Part),
    /// To give back what is held.
    Release(Part),
    /// To move the end of the hold to so many nanoseconds from now.
    Extend(u64),
    /// To take back what was sold.
    Return(Part),
    /// How it stands.
    Get,
}

/// What makes two reserves the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Units.
    pub lines: Lines,
    /// Hold what there is, rather than all or nothing.
    pub best_effort: bool,
    /// Who buys.
    pub buyer: Option<String>,
}

/// What makes two requests about a part of an order the same; without both: the whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Part {
    /// The id, if it has one.
    pub request_id: Option<String>,
    /// Units, if not all.
    pub lines: Option<Lines>,
}

impl Call {
    /// The name of a refusal.
    pub fn code(&self) -> Option<&str> {
        match &self.end {
            Told::Answer(_, status, body) if *status >= 400 => body["code"].as_str(),
            _ => None,
        }
    }

    /// The body of an answer that is no refusal.
    pub fn success(&self) -> Option<(u64, u16, &Value)> {
        match &self.end {
            Told::Answer(at, status, body) if *status < 300 => Some((*at, *status, body)),
            _ => None,
        }
    }

    /// Whether nobody was told what became of it.
    pub fn is_unknown(&self) -> bool {
        matches!(self.end, Told::Unknown(_))
    }
}

/// All calls of a recording that the models know; others (operators', lists, journals) are left out.
///
/// # Errors
/// A request that the models would have to know and don't.
pub fn calls_of(recorder: &Recorder) -> Result<Vec<Call>, String> {
    let mut calls = Vec::new();
    for (index, request) in recorder.requests().iter().enumerate() {
        let body = serde_json::from_str(&request.body).unwrap_or(Value::Null);
        let wrong = |what: &str| format!("{} {} {}: {what}", request.method, request.path, request.body);
        // It surely did nothing.
        if request.never_sent {
            continue;
        }
        let whole = end_of(recorder, request);
        if request.path == "/v1/batch" {
            let operations = body["operations"].as_array().ok_or_else(|| wrong("no operations"))?;
            for (part, operation) in operations.iter().enumerate() {
                let kind = operation["op"].as_str().ok_or_else(|| wrong("no op"))?;
                let ask = ask_of(kind, &text(&operation["order_no"]), &text(&operation["sku_id"]), operation)
                    .map_err(|what| wrong(&what))?;
                let end = match &whole {
                    Told::Answer(at, 200, answer) => {
                        let result = &answer["results"][part];
                        let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok());
                        told(recorder, request, *at, status.unwrap_or(500), result["body"].clone())
                    }
                    other => other.clone(),
                };
                calls.push(Call { request: index, part: Some(part), sent: request.sent, ask, end });
            }
            continue;
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let words: Vec<String> = path.split('/').skip(1).map(unescaped).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ask = match (request.method.as_str(), words.as_slice()) {
            ("POST", ["v1", "reservations"]) => ask_of("reserve", &text(&body["order_no"]), "", &body),
            ("POST", ["v1", "reservations", order, kind]) => ask_of(kind, order, "", &body),
            ("GET", ["v1", "reservations", order]) => Ok(Ask::Order((*order).to_owned(), OrderAsk::Get)),
            ("POST", ["v1", "stock"]) => ask_of("create", "", &text(&body["sku_id"]), &body),
            ("POST", ["v1", "stock", sku, kind]) => ask_of(kind, "", sku, &body),
            ("GET", ["v1", "stock", sku]) => {
                let one = query.split('&').find_map(|pair| pair.strip_prefix("warehouse_id="));
                Ok(Ask::Read((*sku).to_owned(), one.and_then(|text| text.parse().ok())))
            }
            _ => continue,
        };
        let ask = ask.map_err(|what| wrong(&what))?;
        calls.push(Call { request: index, part: None, sent: request.sent, ask, end: whole });
    }
    Ok(calls)
}

fn end_of(recorder: &Recorder, request: &Request) -> Told {
    match (request.ended, &request.answer) {
        (Some(at), Some((status, body))) => told(recorder, request, at, *status, body.clone()),
        _ => Told::Unknown(recorder.end_of(&request.address, request.sent)),
    }
}

fn told(recorder: &Recorder, request: &Request, at: u64, status: u16, body: Value) -> Told {
    let not_done = || body["code"].as_str().is_some_and(|code| NOT_DONE.contains(&code));
    if status < 500 && !NOT_DONE_STATUS.contains(&status) {
        Told::Answer(at, status, body)
    } else if status < 500 || not_done() {
        Told::NotDone(at)
    } else {
        Told::Unknown(recorder.end_of(&request.address, request.sent))
    }
}

fn ask_of(kind: &str, order: &str, sku: &str, body: &Value) -> Result<Ask, String> {
    let lines = || lines_of(&body["lines"]);
    let part = || {
        let lines = if body["lines"].is_null() { None } else { Some(lines()?) };
        Ok::<_, String>(Part { request_id: body["request_id"].as_str().map(str::to_owned), lines })
    };
    let ttl = body["ttl_seconds"].as_u64().unwrap_or(DEFAULT_TTL_SECONDS) * 1_000_000_000;
    let stock = || Stock { sku: sku.to_owned(), warehouse: warehouse_of(body) };
    let about = match kind {
        "reserve" if !body["warehouses"].is_null() => return Err("chosen warehouses are not modelled".into()),
        "reserve" => {
            let best_effort = body["mode"] == "best_effort";
            let buyer = body["buyer_id"].as_str().map(str::to_owned);
            OrderAsk::Reserve(Wish { lines: lines()?, best_effort, buyer }, ttl)
        }
        "confirm" => OrderAsk::Confirm(part()?),
        "release" => OrderAsk::Release(part()?),
        "extend" => OrderAsk::Extend(ttl),
        "return" => OrderAsk::Return(part()?),
        "create" => return Ok(Ask::Create(stock(), body["quantity"].as_i64().unwrap_or(0))),
        "restock" | "deduct" | "adjust" => {
            return Ok(Ask::Change {
                stock: stock(),
                kind: kind.to_owned(),
                quantity: body["quantity"].as_i64().unwrap_or(0),
                request_id: text(&body["request_id"]),
            });
        }
        other => return Err(format!("{other} is not modelled")),
    };
    Ok(Ask::Order(order.to_owned(), about))
}

/// Lines by stock, of a request, an order or a refusal.
pub fn lines_of(lines: &Value) -> Result<Lines, String> {
    let mut sums = Lines::new();
    for line in lines.as_array().ok_or("no lines")? {
        let stock = Stock { sku: text(&line["sku_id"]), warehouse: warehouse_of(line) };
        *sums.entry(stock).or_default() += line["quantity"].as_u64().unwrap_or(0);
    }
    Ok(sums)
}

/// The stock that a line is about.
pub fn stock_of(line: &Value) -> Stock {
    Stock { sku: text(&line["sku_id"]), warehouse: warehouse_of(line) }
}

fn warehouse_of(value: &Value) -> u64 {
    value["warehouse_id"].as_u64().unwrap_or(DEFAULT_WAREHOUSE)
}

/// A SKU may be given as an integer.
fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
}

fn unescaped(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = behind.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
