//! A part of a history that no order explains, for people to read.

use std::fmt::{Debug, Write};

use serde_json::Value;

use crate::calls::{Ask, Call, Lines, OrderAsk, Part, Told};
use crate::linear::{End, Model, Span, Stuck};
use crate::orders::lines_of_view;

/// Of what the model took before it was stuck, the last are shown with the state after each.
const LAST_TAKEN: usize = 25;

/// The part up to the answer that can't be explained: what comes later has nothing to do with it.
pub fn report<M: Model>(
    name: &str,
    model: &M,
    spans: &[Span],
    stuck: &Stuck,
    line: impl Fn(usize) -> String,
) -> String
where
    M::State: Debug,
{
    let mut text = String::new();
    let problem = match stuck.gave_up {
        true => "the search was given up, so this proves nothing; it stood here",
        false => "no order of its operations explains their answers",
    };
    let _ = writeln!(text, "{name}: {problem}.\n");
    let until = match spans.get(stuck.unexplained).map(|span| span.end) {
        Some(End::Answered(at)) => at,
        _ => u64::MAX,
    };
    if let Some(span) = spans.get(stuck.unexplained) {
        let _ = writeln!(text, "Not explained:\n{}\n", timed(span, &line(stuck.unexplained)));
    }
    let mut by_time: Vec<usize> = (0..spans.len()).filter(|index| spans[*index].from <= until).collect();
    by_time.sort_by_key(|index| spans[*index].from);
    let _ = writeln!(text, "Its operations until then, by their begin (milliseconds; .. open: if at all):");
    for index in by_time {
        let _ = writeln!(text, "{}", timed(&spans[index], &line(index)));
    }
    let _ = writeln!(text, "\nThe longest beginning that can be explained ends so:");
    let mut state = model.first();
    for (place, index) in stuck.longest.iter().enumerate() {
        let Some(after) = model.step(&state, *index) else { break };
        if place + LAST_TAKEN >= stuck.longest.len() {
            let _ = writeln!(text, "{}\n    -> {after:?}", line(*index));
        }
        state = after;
    }
    text
}

/// A line with its time before it.
pub fn timed(span: &Span, line: &str) -> String {
    format!("{} {line}", times(span))
}

fn times(span: &Span) -> String {
    let millis = |at: u64| format!("{}.{:03}", at / 1_000_000, at / 1_000 % 1_000);
    let end = match span.end {
        End::Answered(at) => millis(at),
        End::Open(Some(at)) => format!("{} if at all", millis(at)),
        End::Open(None) => "open".to_owned(),
    };
    format!("[{:>11} .. {end:>11}]", millis(span.from))
}

/// A call with its answer, in a line.
pub fn call(call: &Call) -> String {
    let part = call.part.map(|part| format!(" ({part} of a batch)")).unwrap_or_default();
    let ask = match &call.ask {
        Ask::Order(number, ask) => format!("{number}: {}", order_ask(ask)),
        Ask::Change { stock, kind, quantity, request_id } => {
            format!("{stock}: {kind} {quantity} as {request_id}")
        }
        Ask::Create(stock, quantity) => format!("{stock}: create {quantity}"),
        Ask::Read(sku, warehouse) => format!("{sku}: read {warehouse:?}"),
    };
    let told = match &call.end {
        Told::Answer(_, status, body) => answer(*status, body),
        Told::Unknown(_) => "unknown".to_owned(),
        Told::NotDone(_) => "not done".to_owned(),
    };
    format!("{ask}{part} -> {told}")
}

fn order_ask(ask: &OrderAsk) -> String {
    match ask {
        OrderAsk::Reserve(wish, ttl) => {
            let mode = if wish.best_effort { " best effort" } else { "" };
            format!("reserve{}{mode} for {} s", lines(&wish.lines), ttl / 1_000_000_000)
        }
        OrderAsk::Confirm(part) => format!("confirm{}", part_of(part)),
        OrderAsk::Release(part) => format!("release{}", part_of(part)),
        OrderAsk::Return(part) => format!("return{}", part_of(part)),
        OrderAsk::Extend(ttl) => format!("extend by {} s", ttl / 1_000_000_000),
        OrderAsk::Get => "get".to_owned(),
    }
}

fn part_of(part: &Part) -> String {
    let of = part.lines.as_ref().map(lines).unwrap_or_default();
    let id = part.request_id.as_ref().map(|id| format!(" as {id}")).unwrap_or_default();
    of + &id
}

fn lines(lines: &Lines) -> String {
    lines.iter().map(|(stock, units)| format!(" {}@{}:{units}", stock.sku, stock.warehouse)).collect()
}

fn answer(status: u16, body: &Value) -> String {
    if let Some(code) = body["code"].as_str() {
        let lines = body["lines"].as_array().into_iter().flatten();
        let short = lines.map(|line| {
            format!(
                " {}@{}:{}/{}",
                line["sku_id"], line["warehouse_id"], line["requested"], line["available"]
            )
        });
        return format!("{status} {code}{}", short.collect::<String>());
    }
    let replayed = if body["replayed"] == true { " replayed" } else { "" };
    if let Some(lines) = lines_of_view(body) {
        let line = |(stock, [_, held, sold, back, returned]): (&crate::Stock, &[u64; 5])| {
            format!(
                " {}@{}[held {held} sold {sold} back {back} returned {returned}]",
                stock.sku, stock.warehouse
            )
        };
        let lines: String = lines.iter().map(line).collect();
        let until = body["expires_at"].as_str().map(|at| format!(" until {at}")).unwrap_or_default();
        let state = body["status"].as_str().unwrap_or_default();
        return format!("{status} {state}{replayed}{lines} made {}{until}", body["created_at"]);
    }
    format!("{status}{replayed} {body}")
}
