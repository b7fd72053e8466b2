//! One order number, one order, for good: the second use of a number that left memory, whatever SKU it names, before
//! and after eviction, a restart, and a filter that was lost. And what made-up names cost.

use std::collections::BTreeMap;
use std::time::Duration;

use hotstock_engine::clock::Clock as _;
use hotstock_engine::command::{Action, ChangeKind, ChangeStock, Command, Return};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{RequestId, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::options::{EngineOptions, StoreOptions};
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};
use hotstock_engine::reconcile::Reconcile;
use hotstock_engine::store::{Prune, Store as _};

use crate::support::{
    World, confirm, create, flushed_soon, get, levels, order, order_no, release, reserve, sku, tight, until,
    until_flushed, until_gone,
};

/// A name whose SKU lies in the wanted shard; another one for each `nth`.
fn sku_in(shard: u16, shards: u16, nth: usize) -> String {
    let name = |n: u32| format!("sku-{n}");
    (0..).map(name).filter(|name| shard_of(&sku(name), shards) == ShardId(shard)).nth(nth).unwrap()
}

fn restock(name: &str, request: &str, quantity: i64) -> Command {
    Action::ChangeStock(ChangeStock {
        sku_id: sku(name),
        warehouse_id: WarehouseId(1),
        kind: ChangeKind::Restock,
        quantity,
        request_id: RequestId::new(request).unwrap(),
        reason: None,
    })
    .into()
}

fn give_back(order: &str) -> Command {
    let request_id = RequestId::new("back").unwrap();
    Action::Return(Return { order_no: order_no(order), request_id, lines: None }).into()
}

fn is_replayed(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Ok(Answer::Order { effect: Effect::Replayed, .. } | Answer::Stock { effect: Effect::Replayed, .. })
    )
}

/// What a caller may ask about numbers that were used before.
async fn check_second_uses(engine: &Engine, a: &str, b: &str, what: &str) {
    let again = engine.submit(reserve("sold", a, 2)).await;
    assert!(is_replayed(&again), "{what}: {again:?}");
    assert_eq!(order(again).status, OrderStatus::Confirmed, "{what}");
    for command in [reserve("sold", a, 3), reserve("sold", b, 2), reserve("sold", "unknown", 2)] {
        let other = engine.submit(command).await;
        assert_eq!(other, Err(Refusal::OrderMismatch { order_no: order_no("sold") }), "{what}");
    }
    let both = crate::support::reserve_lines("sold", crate::support::lines(&[(a, 1), (b, 1)]));
    assert_eq!(
        engine.submit(both).await,
        Err(Refusal::OrderMismatch { order_no: order_no("sold") }),
        "{what}"
    );
    assert!(is_replayed(&engine.submit(confirm("sold")).await), "{what}");
    assert!(matches!(engine.submit(release("sold")).await, Err(Refusal::AlreadyConfirmed { .. })), "{what}");
    // Released before it was reserved.
    for name in [a, b] {
        let cancelled = engine.submit(reserve("never", name, 1)).await;
        assert!(matches!(cancelled, Err(Refusal::OrderCancelled { .. })), "{what}: {cancelled:?}");
    }
    assert!(is_replayed(&engine.submit(restock(a, "R1", 5)).await), "{what}");
    assert_eq!(engine.submit(restock(a, "R1", 6)).await, Err(Refusal::RequestMismatch), "{what}");
    assert!(matches!(engine.submit(get("nobody")).await, Err(Refusal::UnknownOrder { .. })), "{what}");
    // In a batch, too.
    let batch = vec![get("sold"), reserve("sold", b, 1), confirm("sold"), get("never")];
    let outcomes = engine.submit_batch(batch).await;
    assert!(
        is_replayed(&outcomes[0]) && is_replayed(&outcomes[2]) && is_replayed(&outcomes[3]),
        "{what}: {outcomes:?}"
    );
    assert!(matches!(outcomes[1], Err(Refusal::OrderMismatch { .. })), "{what}: {outcomes:?}");
}

/// Until every shard has a checkpoint of everything so far.
async fn checkpointed(engine: &Engine) {
    let applied = || engine.stats().shards.iter().map(|shard| shard.applied).collect::<Vec<_>>();
    let until_then = applied();
    engine.checkpoint_now();
    until(|| engine.stats().shards.iter().zip(&until_then).all(|(shard, lsn)| shard.checkpoint >= *lsn))
        .await;
}

async fn second_uses(shards: u16) {
    let world = World::new();
    let (a, b) = (sku_in(0, shards, 0), sku_in(shards - 1, shards, 1));
    let plenty = flushed_soon(shards);
    let engine = world.start(plenty.clone()).await;
    for name in [&a, &b] {
        engine.submit(create(name, 10)).await.unwrap();
    }
    engine.submit(reserve("sold", &a, 2)).await.unwrap();
    engine.submit(confirm("sold")).await.unwrap();
    engine.submit(release("never")).await.unwrap();
    engine.submit(restock(&a, "R1", 5)).await.unwrap();
    check_second_uses(&engine, &a, &b, "in memory").await;
    checkpointed(&engine).await;
    engine.stop().await;
    let old = world.filters.files();

    let engine = world.start(tight(shards)).await;
    for round in 0..3 {
        until_gone(&world, &engine).await;
        check_second_uses(&engine, &a, &b, &format!("{shards} shards, gone {round}")).await;
    }
    until_gone(&world, &engine).await;
    checkpointed(&engine).await;
    engine.stop().await;

    let engine = world.start(tight(shards)).await;
    check_second_uses(&engine, &a, &b, "behind a restart").await;
    engine.stop().await;

    // Each of the files that the checkpoints name as it was before anything left memory.
    let put_back: BTreeMap<u64, Vec<u8>> = world.filters.files().into_keys().zip(old.into_values()).collect();
    assert!(put_back != world.filters.files(), "it changed since");
    world.filters.put(put_back);
    let engine = world.start(tight(shards)).await;
    check_second_uses(&engine, &a, &b, "with an older filter").await;
    until(|| engine.stats().store.known.is_ready).await;
    engine.stop().await;

    world.filters.lose();
    let engine = world.start(tight(shards)).await;
    check_second_uses(&engine, &a, &b, "without a filter").await;
    until(|| engine.stats().store.known.is_ready).await;
    check_second_uses(&engine, &a, &b, "with a filter that was filled from the store").await;
    // What comes back can still change.
    until_gone(&world, &engine).await;
    assert_eq!(order(engine.submit(give_back("sold")).await).status, OrderStatus::Returned);
    until_gone(&world, &engine).await;
    assert!(is_replayed(&engine.submit(give_back("sold")).await));
    assert_eq!(levels(&engine, &a).await, (15, 0, 0));
    assert_eq!(levels(&engine, &b).await, (10, 0, 0));
    engine.stop().await;
}

/// A request whose row somebody deleted is not carried out once more, also with a filter that is made from the store.
#[tokio::test]
async fn the_id_of_a_request_whose_row_is_deleted_stays_known() {
    let world = World::new();
    let engine = world.start(tight(2)).await;
    let names = [sku_in(0, 2, 0), sku_in(1, 2, 0)];
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
        engine.submit(restock(name, "R1", 5)).await.unwrap();
    }
    // Nothing but the store tells of it any more.
    until_gone(&world, &engine).await;
    checkpointed(&engine).await;
    engine.stop().await;
    let request_id = RequestId::new("R1").unwrap();
    world.store.delete_request(&sku(&names[1]), &request_id);
    world.filters.lose();
    let engine = world.start(tight(2)).await;
    until(|| engine.stats().store.known.is_ready).await;
    for round in 0..2 {
        until_gone(&world, &engine).await;
        assert!(is_replayed(&engine.submit(restock(&names[0], "R1", 5)).await), "round {round}");
        let refused = engine.submit(restock(&names[1], "R1", 5)).await;
        let is_it = |sku_id: &SkuId, problem: &str| {
            *sku_id == sku(&names[1]) && problem.starts_with("its request R1: its row was deleted by hand")
        };
        assert!(
            matches!(&refused, Err(Refusal::StockInconsistent { sku_id, problem }) if is_it(sku_id, problem)),
            "round {round}: {refused:?}"
        );
    }
    engine.submit(restock(&names[1], "R2", 1)).await.unwrap();
    assert_eq!(levels(&engine, &names[0]).await, (15, 0, 0));
    assert_eq!(levels(&engine, &names[1]).await, (16, 0, 0));
    engine.stop().await;
}

#[tokio::test]
async fn a_number_is_used_once_with_one_shard() {
    second_uses(1).await;
}

#[tokio::test]
async fn a_number_is_used_once_with_eight_shards() {
    second_uses(8).await;
}

#[tokio::test]
async fn a_late_payment_finds_an_order_that_left() {
    let world = World::new();
    let engine = world.start(tight(2)).await;
    engine.submit(create("a", 3)).await.unwrap();
    engine.submit(reserve("late", "a", 2)).await.unwrap();
    world.clock.advance(Duration::from_secs(901));
    until_gone(&world, &engine).await;
    assert_eq!(order(engine.submit(confirm("late")).await).status, OrderStatus::Confirmed);
    until_gone(&world, &engine).await;
    assert_eq!(levels(&engine, "a").await, (1, 0, 2));
    engine.stop().await;
}

#[tokio::test]
async fn made_up_names_cost_few_looks_into_the_store() {
    let world = World::new();
    let engine = world.start(flushed_soon(2)).await;
    engine.submit(create("a", 1_000_000)).await.unwrap();
    let session = world.session();
    let (calls, _) = session.loads();
    // The same unknown SKUs again and again: a look or two each.
    for round in 0..20 {
        let some: Vec<Command> =
            (0..100).map(|n| reserve(&format!("o{round}-{n}"), &format!("no-{n}"), 1)).collect();
        let outcomes = engine.submit_batch(some).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Refusal::UnknownSku { .. }))));
    }
    let (calls_then, wanted) = session.loads();
    assert!(wanted <= 1 + 100 * 3, "{wanted} things were looked for");
    assert!(calls_then - calls <= 20, "{} calls", calls_then - calls);
    // Unknown orders: the filter knows.
    for n in 0..2_000 {
        let unknown = engine.submit(get(&format!("made-up-{n}"))).await;
        assert!(matches!(unknown, Err(Refusal::UnknownOrder { .. })));
    }
    let (_, wanted_then) = session.loads();
    assert!(wanted_then - wanted <= 20, "{} orders were looked for", wanted_then - wanted);
    // A SKU that was looked for in vain can be created at once.
    engine.submit(create("no-1", 5)).await.unwrap();
    engine.submit(reserve("yes", "no-1", 1)).await.unwrap();
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_on_many_skus_with_room_for_few() {
    let world = World::new();
    let options = EngineOptions { max_resident_skus: 8, ..tight(2) };
    let engine = world.start(options.clone()).await;
    let names: Vec<String> = (0..100).map(|n| format!("sku-{n}")).collect();
    for name in &names {
        engine.submit(create(name, 20)).await.unwrap();
    }
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16_u32 {
        let (engine, names) = (engine.clone(), names.clone());
        callers.spawn(async move {
            let mut sold = 0;
            for n in 0..100_u32 {
                let name = &names[(caller * 37 + n * 61) as usize % names.len()];
                let order_no = format!("{caller}-{n}");
                match engine.submit(reserve(&order_no, name, 1)).await {
                    Ok(_) if n % 2 == 0 => {
                        engine.submit(confirm(&order_no)).await.unwrap();
                        sold += 1;
                    }
                    Ok(_) => drop(engine.submit(release(&order_no)).await.unwrap()),
                    Err(refusal) => {
                        assert!(matches!(refusal, Refusal::InsufficientStock { .. }), "{refusal}")
                    }
                }
            }
            sold
        });
    }
    let mut sold = 0;
    while let Some(some) = callers.join_next().await {
        sold += some.unwrap();
    }
    let total = async |engine: &Engine| {
        let mut total = (0, 0, 0);
        for name in &names {
            let (available, reserved, sold) = levels(engine, name).await;
            total = (total.0 + available, total.1 + reserved, total.2 + sold);
        }
        total
    };
    assert_eq!(total(&engine).await, (2_000 - sold, 0, sold));
    until_flushed(&engine).await;
    until(|| engine.stats().shards.iter().map(|shard| shard.resident).sum::<u64>() <= 8).await;
    assert!(engine.stats().shards.iter().map(|shard| shard.evicted).sum::<u64>() > 80);
    engine.stop().await;
    let engine = world.start(options).await;
    assert_eq!(total(&engine).await, (2_000 - sold, 0, sold));
    engine.stop().await;
}

/// Orders are kept for a day.
fn kept_for_a_day(shards: u16) -> EngineOptions {
    let options = tight(shards);
    EngineOptions { store: StoreOptions { keep_days: 1, ..options.store }, ..options }
}

const DAY: Duration = Duration::from_secs(86_400);

async fn until_its_rows_go(shards: u16) {
    let world = World::new();
    let options = kept_for_a_day(shards);
    let engine = world.start(options).await;
    let names = [sku_in(0, shards, 0), sku_in(shards - 1, shards, 1)];
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    let cart =
        crate::support::reserve_lines("cart", crate::support::lines(&[(&names[0], 3), (&names[1], 2)]));
    for command in [reserve("sold", &names[0], 2), cart] {
        engine.submit(command).await.unwrap();
    }
    for order_no in ["sold", "cart"] {
        engine.submit(confirm(order_no)).await.unwrap();
    }
    engine.submit(restock(&names[0], "R1", 5)).await.unwrap();
    until_gone(&world, &engine).await;
    // To the last moment everything is as ever, also after the time at which it used to be about to go.
    world.clock.advance(DAY - Duration::from_secs(60));
    assert_eq!(order(engine.submit(get("sold")).await).status, OrderStatus::Confirmed);
    let part = crate::support::lines(&[(&names[1], 1)]);
    let request_id = RequestId::new("part").unwrap();
    let part = Action::Return(Return { order_no: order_no("cart"), request_id, lines: Some(part) });
    assert_eq!(order(engine.submit(part.into()).await).status, OrderStatus::PartiallyReturned);
    until_gone(&world, &engine).await;
    // Then it is answered as it is, and does not change.
    world.clock.advance(Duration::from_secs(120));
    for _ in 0..2 {
        assert_eq!(order(engine.submit(get("sold")).await).status, OrderStatus::Confirmed);
        assert!(is_replayed(&engine.submit(reserve("sold", &names[0], 2)).await));
        let other = engine.submit(reserve("sold", &names[1], 1)).await;
        assert_eq!(other, Err(Refusal::OrderMismatch { order_no: order_no("sold") }));
        assert!(is_replayed(&engine.submit(confirm("sold")).await));
        assert!(matches!(engine.submit(release("sold")).await, Err(Refusal::AlreadyConfirmed { .. })));
        let back = engine.submit(give_back("sold")).await;
        assert_eq!(back, Err(Refusal::OrderTooOld { order_no: order_no("sold") }));
        assert!(is_replayed(&engine.submit(restock(&names[0], "R1", 5)).await));
        until_gone(&world, &engine).await;
    }
    // What changed later is kept longer, all of it: the cart lay a part of it in a place that had no change since.
    assert_eq!(order(engine.submit(give_back("cart")).await).status, OrderStatus::Returned);
    assert_eq!(levels(&engine, &names[0]).await, (13, 0, 2));
    assert_eq!(levels(&engine, &names[1]).await, (10, 0, 0));
    engine.stop().await;
}

#[tokio::test]
async fn an_order_is_answered_until_its_rows_go_with_one_shard() {
    until_its_rows_go(1).await;
}

#[tokio::test]
async fn an_order_is_answered_until_its_rows_go_with_eight_shards() {
    until_its_rows_go(8).await;
}

/// Read from the store just before it is pruned there, and still in memory when somebody wants to return it.
#[tokio::test]
async fn no_unit_is_lost_when_an_order_in_memory_is_pruned() {
    let world = World::new();
    let options = EngineOptions { remember_seconds: 604_800, ..kept_for_a_day(1) };
    let engine = world.start(options).await;
    engine.submit(create("a", 10)).await.unwrap();
    engine.submit(reserve("sold", "a", 2)).await.unwrap();
    engine.submit(confirm("sold")).await.unwrap();
    until_flushed(&engine).await;
    world.clock.advance(DAY * 2);
    let prune = Prune {
        epoch: engine.epoch(),
        orders_before: Some(world.clock.now()),
        journal_before: None,
        max: 10,
        ..Prune::default()
    };
    assert_eq!(world.session().prune(&prune).await.unwrap().orders, 1);
    let back = engine.submit(give_back("sold")).await;
    assert_eq!(back, Err(Refusal::OrderTooOld { order_no: order_no("sold") }));
    engine.submit(reserve("new", "a", 8)).await.unwrap();
    until_flushed(&engine).await;
    assert_eq!(levels(&engine, "a").await, (0, 8, 2));
    let told = engine.reconcile(Reconcile { limit: 10, ..Reconcile::default() }).await.unwrap();
    assert_eq!((told.skus, told.differences), (1, Vec::new()));
    assert_eq!(engine.anomalies(1).await.unwrap().0, 0);
    engine.stop().await;
}

/// What is logged makes checkpoints due by its bytes: nothing is refused that the store has long taken in.
#[tokio::test]
async fn checkpoints_are_due_by_bytes_too() {
    let world = World::new();
    let cap = 200_000;
    let with = |journal_cap_bytes| {
        let options = flushed_soon(2);
        let store = StoreOptions { journal_cap_bytes, ..options.store };
        EngineOptions { checkpoint_events: 1_000_000_000, store, ..options }
    };
    let engine = world.start(with(cap)).await;
    engine.submit(create("a", 1_000_000)).await.unwrap();
    let mut events = 0_u32;
    while engine.stats().shards.iter().all(|shard| shard.checkpoint.0 == 0) {
        engine.submit(reserve(&format!("o{events}"), "a", 1)).await.unwrap();
        events += 1;
    }
    assert!(events > 10 && engine.stats().store.journal_full.is_none());
    engine.stop().await;

    // A journal that is full from the beginning, with nothing in it that the store does not have.
    let world = World::new();
    let engine = world.start(with(u64::MAX)).await;
    engine.submit(create("a", 1_000_000)).await.unwrap();
    for n in 0..100 {
        engine.submit(reserve(&format!("o{n}"), "a", 1)).await.unwrap();
    }
    until_flushed(&engine).await;
    let bytes = engine.stats().journal_disk_bytes;
    engine.stop().await;
    let engine = world.start(with(bytes / 2)).await;
    until(|| engine.stats().shards.iter().all(|shard| shard.checkpoint.0 > 0)).await;
    until(|| engine.stats().store.journal_full.is_none()).await;
    engine.submit(reserve("new", "a", 1)).await.unwrap();
    engine.stop().await;
}
