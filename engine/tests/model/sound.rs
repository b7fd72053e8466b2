//! Whatever the store hands over, also what somebody changed by hand, is refused or can be applied: a shard that
//! could not read its own journal would be lost.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::Change;
use hotstock_engine::ids::{Lsn, ShardId, WarehouseId};
use hotstock_engine::image::{OrderImage, StockImage};
use hotstock_engine::order::Phase;
use hotstock_engine::state::State;
use hotstock_engine::units::Serials;
use proptest::prelude::*;

use crate::bench::Bench;
use crate::steps::{Step, steps};
use crate::wishes::World;

/// A field that is not what it was.
#[derive(Debug, Clone, Copy)]
struct Change1 {
    row: usize,
    field: usize,
    value: u64,
}

fn change() -> impl Strategy<Value = Change1> {
    let value =
        prop_oneof![4 => 0..6_u64, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(1_000_000_000_000_000)];
    (0..1000_usize, 0..12_usize, value).prop_map(|(row, field, value)| Change1 { row, field, value })
}

fn change_stock(stock: &mut StockImage, Change1 { field, value, .. }: Change1) {
    match field {
        0 => stock.levels.available = value,
        1 => stock.levels.reserved = value,
        2 => stock.levels.sold = value,
        3 => stock.levels.version = value,
        4 => stock.supplied = value,
        5 => stock.initial = value,
        6 => stock.numbered = Some(value),
        7 => stock.numbered = None,
        8 => stock.warehouse_id = WarehouseId(u32::try_from(value % 3).unwrap()),
        9 => stock.forgotten_sold = value,
        // A sound one.
        10 => {
            let units = value % 100;
            stock.levels.available = stock.levels.available.saturating_add(units);
            stock.supplied = stock.supplied.saturating_add(units);
        }
        _ => stock.hot = !stock.hot,
    }
}

fn change_order(order: &mut OrderImage, Change1 { row, field, value }: Change1) {
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let (small, lines) = (value as u32, order.lines.len().max(1));
    let Some(line) = order.lines.get_mut(row % lines) else {
        order.phase = Phase::Open;
        return;
    };
    match field {
        0 => line.held = small,
        1 => line.confirmed = small,
        2 => line.released = small,
        3 => line.returned = small,
        4 => line.lapsed = small,
        5 => line.quantity = small,
        6 => line.warehouse_id = WarehouseId(small % 3),
        7 => order.lines.clear(),
        8 => {
            order.phase =
                [Phase::Open, Phase::Released, Phase::Expired, Phase::Cancelled][(value % 4) as usize]
        }
        9 => order.serials.clear(),
        10 => order.serials.iter_mut().for_each(|given| given.serials = Serials { from: 1, to: value }),
        _ => order.serials.iter_mut().for_each(|given| given.line = u16::try_from(small % 70).unwrap()),
    }
}

fn apply(state: &mut State, change: Change) {
    let event = state.event(change, Timestamp(1));
    state.apply(state.applied().next(), &event).expect("what was decided can be applied");
    assert_eq!(state.audit().violations, []);
}

fn hand_over(steps: Vec<Step>, changes: &[Change1]) {
    let mut bench = Bench::default();
    steps.into_iter().for_each(|step| bench.take(step));
    bench.finish();
    let mut stocks: Vec<StockImage> =
        bench.rows.stocks.values().flat_map(|rows| rows.values().cloned()).collect();
    let is_open = |order: &&OrderImage| !order.is_open();
    let mut orders: Vec<OrderImage> = bench.rows.orders.values().filter(is_open).cloned().collect();
    for change in changes {
        let (stocks_len, orders_len) = (stocks.len().max(1), orders.len().max(1));
        match change.row % 2 {
            0 => stocks
                .get_mut(change.row % stocks_len)
                .into_iter()
                .for_each(|stock| change_stock(stock, *change)),
            _ => orders
                .get_mut(change.row % orders_len)
                .into_iter()
                .for_each(|order| change_order(order, *change)),
        }
    }
    let mut state = State::with_few(ShardId(0), 1);
    for sku_id in bench.rows.stocks.keys() {
        let of_sku: Vec<_> = stocks.iter().filter(|stock| stock.sku_id == *sku_id).cloned().collect();
        if let Ok(Some(change)) = state.decide_loaded(sku_id, &of_sku) {
            apply(&mut state, change);
            assert!(matches!(state.decide_loaded(sku_id, &of_sku), Ok(None)), "it is here");
        }
    }
    for order in &orders {
        if let Ok(Some(change)) = state.decide_orders_loaded(std::slice::from_ref(order), &[]) {
            apply(&mut state, change);
        }
    }
    for request in bench.rows.requests.values() {
        if let Ok(Some(change)) = state.decide_orders_loaded(&[], std::slice::from_ref(request)) {
            apply(&mut state, change);
        }
    }
    // And it goes again.
    while let Some(event) = state.next_eviction(Lsn(u64::MAX), |_| true, |_| false, Timestamp(1)) {
        state.apply(state.applied().next(), &event).expect("what was decided can be applied");
        assert_eq!(state.audit().violations, []);
    }
    assert_eq!(state.sizes().skus, state.hot_skus().len(), "only what is hot stays");
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn what_the_store_hands_over_is_refused_or_can_be_applied(
        steps in steps(World::SMALL, 1..60),
        changes in prop::collection::vec(change(), 0..4),
    ) {
        hand_over(steps, &changes);
    }
}
