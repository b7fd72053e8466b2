//! All orders in one table, as if there were one place: what the naive model says to a command, whoever decides it.
//!
//! The rules are those of the naive model of one shard ([`crate::naive`]); the stocks that it sees are given by whoever decides: those of
//! the place for an order that lies there, stocks with plenty for an order whose home decides.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Lines, Mode, Reserve, StockStatus};
use hotstock_engine::home::HeldLine;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::outcome::{Answer, Effect, Outcome};

use crate::naive::order::{Order, What};
use crate::naive::{Naive, Place, Shelf};

/// Every order that was ever made and is on the disk, or is about to be.
pub type Orders = BTreeMap<OrderNo, Order>;

/// More than any order asks for.
pub const PLENTY: (u64, StockStatus) = (1_000_000, StockStatus::OnSale);

/// What the model says to a command about an order.
pub struct Foreseen {
    pub order_no: OrderNo,
    pub outcome: Outcome,
    /// The order after it.
    pub after: Option<Order>,
    /// Its home decides.
    pub at_home: bool,
    /// The units that are held for a late payment.
    pub held_late: Option<BTreeSet<(Place, u32)>>,
}

impl Foreseen {
    fn new(order_no: OrderNo, outcome: Outcome, after: Option<Order>) -> Self {
        Self { order_no, outcome, after, at_home: false, held_late: None }
    }

    /// A home decides it, to which these units are known to be held for a late payment.
    pub fn at_home(self, held_late: Option<BTreeSet<(Place, u32)>>) -> Self {
        Self { at_home: true, held_late, ..self }
    }
}

/// Carries out a command about one order in a model of it and of the stocks that `free` gives: available and status.
pub fn foresee(
    orders: &Orders,
    action: &Action,
    now: Timestamp,
    free: impl Fn(&Place) -> Option<(u64, StockStatus)>,
) -> Foreseen {
    let order_no = Command::from(action.clone()).order_no().expect("it is about an order").clone();
    let (mut naive, _) = model_of(orders, &order_no, action, now, free);
    let outcome = naive.carry_out(action, now);
    let after = naive.orders.remove(&order_no);
    Foreseen::new(order_no, outcome, after)
}

/// The time of an order is over.
pub fn foresee_expiry(orders: &Orders, order_no: &OrderNo, now: Timestamp) -> Foreseen {
    let (mut naive, known) =
        model_of(orders, order_no, &Action::GetOrder(order_no.clone()), now, |_| Some(PLENTY));
    assert!(known, "{order_no} expires and nobody has made it");
    let outcome = naive.expire(order_no, now);
    Foreseen::new(order_no.clone(), outcome, naive.orders.remove(order_no))
}

/// A home makes an order of what its branches hold.
pub fn foresee_made(reserve: &Reserve, held: &[HeldLine], now: Timestamp) -> Foreseen {
    let asked = reserve.lines.as_slice();
    assert_eq!(asked.len(), held.len(), "every line of {reserve:?} once in {held:?}");
    for (line, held) in asked.iter().zip(held) {
        assert_eq!(
            (&line.sku_id, line.warehouse_id, line.quantity),
            (&held.sku_id, held.warehouse_id, held.quantity)
        );
        assert!(held.held <= line.quantity, "{held:?}");
        assert!(reserve.mode == Mode::BestEffort || held.held == line.quantity, "{held:?} of all or nothing");
    }
    assert!(held.iter().any(|line| line.held > 0), "an order of nothing: {held:?}");
    let order = Order {
        buyer_id: reserve.buyer_id.clone(),
        mode: reserve.mode,
        created_at: now,
        expires_at: now.plus_seconds(u64::from(reserve.ttl_seconds)),
        changed_at: now,
        last_event: 0,
        asked: asked.to_vec(),
        wished: None,
        got: held.iter().map(|line| line.held).collect(),
        deeds: Vec::new(),
        requests: Vec::new(),
    };
    let view = order.view(&reserve.order_no);
    let outcome = Ok(Answer::Order { order: view, effect: Effect::Created });
    Foreseen::new(reserve.order_no.clone(), outcome, Some(order))
}

/// The units that the last deed of an order took again after its hold had ended; nothing when it was another deed.
pub fn taken_late(order: Option<&Order>) -> BTreeSet<(Place, u32)> {
    let Some(order) = order else { return BTreeSet::new() };
    let Some(deed) = order.deeds.last().filter(|deed| deed.what == What::SoldLate) else {
        return BTreeSet::new();
    };
    let of_line = |(line, units): &(usize, u32)| {
        let line = &order.asked[*line];
        ((line.sku_id.clone(), line.warehouse_id), *units)
    };
    deed.units.iter().map(of_line).collect()
}

/// Lines as a set.
pub fn as_set(lines: &Lines) -> BTreeSet<(Place, u32)> {
    lines.as_slice().iter().map(|line| ((line.sku_id.clone(), line.warehouse_id), line.quantity)).collect()
}

/// Whether all that was done with an order when `then` was told is still so.
pub fn goes_on_from(order: &Order, then: &Order) -> bool {
    let deeds = |order: &Order| order.deeds.iter().map(|d| (d.what, d.units.clone())).collect::<Vec<_>>();
    order.got == then.got
        && order.asked == then.asked
        && order.created_at == then.created_at
        && deeds(order).starts_with(&deeds(then))
        && order.requests.starts_with(&then.requests)
}

fn model_of(
    orders: &Orders,
    order_no: &OrderNo,
    action: &Action,
    now: Timestamp,
    free: impl Fn(&Place) -> Option<(u64, StockStatus)>,
) -> (Naive, bool) {
    let known = orders.get(order_no);
    let asked = known.map_or(&[][..], |order| &order.asked);
    let named = match action {
        Action::Reserve(c) => c.lines.as_slice(),
        _ => &[],
    };
    let mut naive = Naive { time: now, ..Naive::default() };
    for line in asked.iter().chain(named) {
        let place = (line.sku_id.clone(), line.warehouse_id);
        let Some((available, status)) = free(&place) else { continue };
        let own = known.and_then(|order| order.lines_at(&place));
        let own = own.map_or(0, |line| u64::from(line.held + line.confirmed - line.returned));
        let supplied = i64::try_from(available + own).expect("few units");
        let shelf = Shelf { supplies: vec![supplied], version: 0, status, serialized: false };
        naive.shelves.insert(place, shelf);
    }
    naive.orders.extend(known.map(|order| (order_no.clone(), order.clone())));
    (naive, known.is_some())
}
