//! The model of one request id of a SKU: a restock, deduct or adjust is carried out once, its repeats are answered the
//! same levels, and another change under its id is a mismatch. What it does to the levels the model of the stock knows.

use serde_json::Value;

use crate::calls::{Ask, Call, Stock, Told};
use crate::linear::{Model, Span};
use crate::orders::span_of;

/// What was asked under one request id.
pub struct ChangeHistory<'a> {
    /// SKU and request id.
    pub name: (String, String),
    /// Its calls, those left out that surely did nothing.
    pub calls: Vec<&'a Call>,
    /// When.
    pub spans: Vec<Span>,
    /// The different things that were asked under it.
    pub contents: Vec<Content>,
}

/// One thing that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Of which stock.
    pub stock: Stock,
    /// Restock, deduct or adjust.
    pub kind: String,
    /// Units, as asked.
    pub quantity: i64,
}

impl Content {
    /// What it adds to the available units.
    pub fn delta(&self) -> i64 {
        if self.kind == "deduct" { -self.quantity } else { self.quantity }
    }
}

/// Available, reserved, sold and the version, as a body has them.
pub fn levels_of(body: &Value) -> Option<[i64; 4]> {
    let level = |name: &str| body[name].as_i64();
    Some([level("available")?, level("reserved")?, level("sold")?, level("version")?])
}

impl<'a> ChangeHistory<'a> {
    /// Of all calls under one id of a SKU.
    pub fn new(sku: &str, id: &str, all: &[&'a Call]) -> Self {
        let calls: Vec<&Call> =
            all.iter().copied().filter(|call| !matches!(call.end, Told::NotDone(_))).collect();
        let mut contents: Vec<Content> = Vec::new();
        for content in calls.iter().filter_map(|call| content_of(call)) {
            if !contents.contains(&content) {
                contents.push(content);
            }
        }
        let spans = calls.iter().map(|call| span_of(call)).collect();
        Self { name: (sku.to_owned(), id.to_owned()), calls, spans, contents }
    }

    /// The levels that it was answered, by the first answer.
    pub fn levels(&self, content: usize) -> Option<[i64; 4]> {
        let told = self.calls.iter().filter(|call| content_of(call).as_ref() == self.contents.get(content));
        let first = told.filter_map(|call| call.success()).min_by_key(|(at, ..)| *at);
        first.and_then(|(_, _, body)| levels_of(body))
    }
}

/// What a call asks.
pub fn content_of(call: &Call) -> Option<Content> {
    match &call.ask {
        Ask::Change { stock, kind, quantity, .. } => {
            Some(Content { stock: stock.clone(), kind: kind.clone(), quantity: *quantity })
        }
        _ => None,
    }
}

impl Model for ChangeHistory<'_> {
    /// Which of the contents was carried out.
    type State = Option<usize>;

    fn first(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, operation: usize) -> Option<Self::State> {
        let call = self.calls[operation];
        let own = content_of(call).and_then(|own| self.contents.iter().position(|known| *known == own));
        if call.is_unknown() {
            return if state.is_none() { Some(own) } else { None };
        }
        if let Some((_, _, body)) = call.success() {
            let right = levels_of(body) == own.and_then(|own| self.levels(own));
            let carried_out = match state {
                None => body["replayed"] == false,
                Some(_) => *state == own && body["replayed"] == true,
            };
            return (right && carried_out).then_some(own);
        }
        let fits = match call.code() {
            Some("insufficient_stock" | "unknown_sku") => state.is_none(),
            Some("request_mismatch") => state.is_some() && *state != own,
            _ => false,
        };
        fits.then_some(*state)
    }
}
