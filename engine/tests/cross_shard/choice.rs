//! Orders over several shards that leave their warehouses open.

use hotstock_engine::command::{Action, Choice, Command, CreateStock, Lines, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::options::EngineOptions;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};

use crate::shop::sku_in;
use crate::support::{World, order, order_no, sku, tight, until_gone};

async fn create(engine: &Engine, name: &str, levels: [(u32, u64); 2]) {
    for (warehouse, quantity) in levels {
        let warehouse_id = WarehouseId(warehouse);
        let create = CreateStock { sku_id: sku(name), warehouse_id, quantity, serialized: false };
        engine.submit(Action::CreateStock(create).into()).await.unwrap();
    }
}

fn any(name: &str, of: &[(&str, u32)], mode: Mode, prefer: &[u32]) -> Command {
    let lines = of.iter().map(|(name, quantity)| (sku(name), None, *quantity));
    let (lines, open) = Lines::with_open(lines).unwrap();
    let choice = Some(Box::new(Choice { open, prefer: prefer.iter().copied().map(WarehouseId).collect() }));
    let reserve = Reserve { order_no: order_no(name), lines, ttl_seconds: 900, buyer_id: None, mode, choice };
    Action::Reserve(reserve).into()
}

/// Warehouse and units held, line by line.
fn places(outcome: Outcome) -> Vec<(u32, u32)> {
    order(outcome).lines.iter().map(|line| (line.warehouse_id.0, line.held)).collect()
}

#[tokio::test]
async fn one_warehouse_that_can_serve_all_shards_comes_first() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 2, ..EngineOptions::default() }).await;
    let (a, b) = (sku_in(0, 2, 0), sku_in(1, 2, 0));
    // Each SKU by itself would be taken where there is most of it.
    create(&engine, &a, [(1, 9), (2, 5)]).await;
    create(&engine, &b, [(1, 0), (2, 5)]).await;
    let all = Mode::AllOrNothing;
    let cart = [(a.as_str(), 2), (b.as_str(), 1)];
    assert_eq!(places(engine.submit(any("O1", &cart, all, &[])).await), [(2, 2), (2, 1)]);
    assert_eq!(
        places(engine.submit(any("O2", &cart, all, &[1])).await),
        [(2, 2), (2, 1)],
        "one before preferred ones"
    );
    let again = engine.submit(any("O1", &cart, all, &[1])).await;
    assert!(matches!(again, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{again:?}");
    assert_eq!(places(again), [(2, 2), (2, 1)]);
    let other = engine.submit(any("O1", &[(a.as_str(), 2), (b.as_str(), 2)], all, &[])).await;
    assert!(matches!(other, Err(Refusal::OrderMismatch { .. })), "{other:?}");
    // Enough in all is never refused: in pieces where it must be.
    assert_eq!(
        places(engine.submit(any("O3", &[(a.as_str(), 10), (b.as_str(), 3)], all, &[])).await),
        [(1, 9), (2, 1), (2, 3)]
    );
    let refused = engine.submit(any("O4", &cart, all, &[])).await;
    let Err(Refusal::InsufficientStock { lines }) = &refused else { panic!("{refused:?}") };
    let short: Vec<_> =
        lines.iter().map(|line| (line.sku_id.as_str(), line.warehouse_id, line.available)).collect();
    assert_eq!(short, [(a.as_str(), WarehouseId::ANY, 0), (b.as_str(), WarehouseId::ANY, 0)]);
    engine.stop().await;
}

/// A line that gets nothing is said to lie where it could have been served, as one shard says it: in the first
/// warehouse that is preferred and has the SKU, else in the first that has it, whether it is in memory or not.
#[tokio::test]
async fn a_line_that_gets_nothing_is_said_to_lie_where_its_sku_is() {
    let (in_one, in_two) = (World::new(), World::new());
    let one = in_one.start(EngineOptions::default()).await;
    let two = in_two.start(tight(2)).await;
    let (a, b, c) = (sku_in(0, 2, 0), sku_in(1, 2, 0), sku_in(1, 2, 1));
    for engine in [&one, &two] {
        create(engine, &a, [(1, 90), (2, 90)]).await;
        create(engine, &b, [(2, 0), (7, 0)]).await;
        create(engine, &c, [(4, 0), (5, 0)]).await;
    }
    until_gone(&in_two, &two).await;
    for (n, prefer) in [&[][..], &[7], &[3, 7], &[4, 2], &[5, 7, 2], &[1]].into_iter().enumerate() {
        let cart = [(b.as_str(), 1), (a.as_str(), 1), (c.as_str(), 2)];
        let order = any(&format!("O{n}"), &cart, Mode::BestEffort, prefer);
        let expected = places(one.submit(order.clone()).await);
        assert!(expected[0].1 == 0 && expected[1].1 == 1 && expected[2].1 == 0, "{expected:?}");
        assert_eq!(places(two.submit(order).await), expected, "{prefer:?}");
    }
    one.stop().await;
    two.stop().await;
}
