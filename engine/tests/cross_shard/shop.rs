//! What these tests share: SKUs by shard, carts, and what must be true at rest.

use std::collections::BTreeMap;

use hotstock_engine::command::{Action, Command, Confirm, Mode, Part, Reserve, Return};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{RequestId, ShardId, shard_of};
use hotstock_engine::outcome::{Answer, OrderView, Outcome, Refusal};

use crate::support::{get, levels, lines, order_no, sku, until};

/// A name whose SKU lies in the wanted shard; another one for each `nth`.
pub fn sku_in(shard: u16, shards: u16, nth: usize) -> String {
    let name = |n: u32| format!("sku-{n}");
    (0..).map(name).filter(|name| shard_of(&sku(name), shards) == ShardId(shard)).nth(nth).unwrap()
}

/// As many SKUs, in all shards in turn.
pub fn skus(count: usize, shards: u16) -> Vec<String> {
    let shard = |n: usize| u16::try_from(n % usize::from(shards)).unwrap();
    (0..count).map(|n| sku_in(shard(n), shards, n / usize::from(shards))).collect()
}

pub fn cart(order: &str, of: &[(&str, u32)], mode: Mode, ttl_seconds: u32) -> Command {
    let (order_no, lines) = (order_no(order), lines(of));
    Action::Reserve(Reserve { order_no, lines, ttl_seconds, buyer_id: None, mode, choice: None }).into()
}

fn part(of: &[(&str, u32)], request: Option<&str>) -> Part {
    Part { lines: lines(of), request_id: request.map(|id| RequestId::new(id).unwrap()) }
}

pub fn confirm_part(order: &str, of: &[(&str, u32)], request: Option<&str>) -> Command {
    Action::Confirm(Confirm { order_no: order_no(order), part: Some(part(of, request)) }).into()
}

pub fn give_back(order: &str, of: Option<&[(&str, u32)]>, request: &str) -> Command {
    let request_id = RequestId::new(request).unwrap();
    Action::Return(Return { order_no: order_no(order), request_id, lines: of.map(lines) }).into()
}

pub fn is_unknown(outcome: &Outcome) -> bool {
    let unknown =
        |refusal: &Refusal| matches!(refusal, Refusal::JournalUnavailable | Refusal::ShardRestarted);
    outcome.as_ref().is_err_and(unknown)
}

/// Waits until a condition that has to be asked for holds; the test harness bounds the time.
pub async fn until_asked<F: Future<Output = bool>>(ask: impl Fn() -> F) {
    while !ask().await {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// The order with this number, if there is one.
pub async fn read(engine: &Engine, order: &str) -> Option<OrderView> {
    match engine.submit(get(order)).await {
        Ok(Answer::Order { order, .. }) => Some(order),
        Err(Refusal::UnknownOrder { .. }) => None,
        other => panic!("{order}: {other:?}"),
    }
}

/// Waits until nothing is on its way, and checks that each SKU holds and has sold what the orders say, no more and no
/// less, and that units are where they were: `supplied` of each.
pub async fn check_rest(engine: &Engine, supplied: &BTreeMap<String, u64>, orders: &[String], what: &str) {
    let mut expected: BTreeMap<String, (u64, u64)> =
        supplied.keys().map(|name| (name.clone(), (0, 0))).collect();
    for name in orders {
        let Some(order) = read(engine, name).await else { continue };
        for line in order.lines {
            let (held, sold) = expected.get_mut(line.sku_id.as_str()).unwrap();
            *held += u64::from(line.held);
            *sold += u64::from(line.confirmed - line.returned);
        }
    }
    let mut tries = 0_u32;
    loop {
        let mut wrong = Vec::new();
        for (name, (held, sold)) in &expected {
            let want = (supplied[name] - held - sold, *held, *sold);
            let got = levels(engine, name).await;
            if got != want {
                wrong.push(format!("{name}: {got:?}, the orders say {want:?}"));
            }
        }
        if wrong.is_empty() {
            break;
        }
        tries += 1;
        assert!(tries < 20_000, "{what}: {wrong:?}\n{:#?}", engine.stats().cross_shard);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    until(|| engine.stats().cross_shard.under_way == 0).await;
    assert_eq!(engine.stats().cross_shard.misfits, 0, "{what}");
}
