//! The running engine: durability before answers, poison, a shard that panics, expiry, checkpoints, routing over
//! shards.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(not(loom))]

#[allow(dead_code, reason = "shared by tests that use different parts")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, Return};
use hotstock_engine::engine::Engine;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, RequestId, ShardId, shard_of};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::journal::{Group, Journal, JournalError, JournalReader};
use hotstock_engine::options::EngineOptions;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::{Answer, Effect, OrderView, Outcome, Refusal};
use hotstock_engine::status::Health;

use support::{
    World, confirm, create, flushed_soon, get, lines, order_no, release, reserve, reserve_lines, sku, tight,
    until, until_gone,
};

fn order(outcome: Outcome) -> OrderView {
    match outcome {
        Ok(Answer::Order { order, .. }) => order,
        other => panic!("expected an order, got {other:?}"),
    }
}

async fn available(engine: &Engine, name: &str) -> u64 {
    engine.stock(&sku(name), None).await.unwrap().iter().map(|stock| stock.levels.available).sum()
}

/// A name whose SKU lies in the wanted shard.
fn sku_in(shard: u16, shards: u16) -> String {
    let name = |n: u32| format!("sku-{n}");
    (0..).map(name).find(|name| shard_of(&sku(name), shards) == ShardId(shard)).unwrap()
}

#[tokio::test]
async fn orders_run_through_and_survive_a_restart() {
    let world = World::new();
    let engine = world.start(EngineOptions::default()).await;
    engine.submit(create("a", 10)).await.unwrap();
    assert_eq!(order(engine.submit(reserve("o1", "a", 3)).await).status, OrderStatus::Reserved);
    assert_eq!(order(engine.submit(confirm("o1")).await).status, OrderStatus::Confirmed);
    engine.submit(reserve("o2", "a", 2)).await.unwrap();
    assert_eq!(available(&engine, "a").await, 5);
    engine.stop().await;

    let engine = world.start(EngineOptions::default()).await;
    let stock = engine.stock(&sku("a"), None).await.unwrap()[0].levels;
    assert_eq!((stock.available, stock.reserved, stock.sold), (5, 2, 3));
    let again = engine.submit(reserve("o1", "a", 3)).await;
    assert!(matches!(again, Ok(Answer::Order { effect: Effect::Replayed, .. })), "{again:?}");
    assert_eq!(order(engine.submit(release("o2")).await).status, OrderStatus::Released);
    assert_eq!(available(&engine, "a").await, 7);
    engine.stop().await;
}

#[tokio::test]
async fn nothing_is_answered_or_shown_before_the_sync() {
    let world = World::new();
    let engine = world.start(EngineOptions::default()).await;
    engine.submit(create("a", 1)).await.unwrap();
    world.journal.hold();
    let first = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(reserve("o1", "a", 1)).await }
    });
    until(|| world.journal.is_waiting()).await;
    // A refusal rests on the reservation that is not durable yet; so does a read.
    let refused = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(reserve("o2", "a", 1)).await }
    });
    let read = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(get("o1")).await }
    });
    until(|| engine.stats().shards[0].commands == 4).await;
    assert!(!first.is_finished() && !refused.is_finished() && !read.is_finished());
    assert_eq!(available(&engine, "a").await, 1, "the view shows durable levels only");
    world.journal.let_go();
    assert_eq!(order(first.await.unwrap()).status, OrderStatus::Reserved);
    assert_eq!(available(&engine, "a").await, 0, "a caller reads its own write");
    assert!(matches!(refused.await.unwrap(), Err(Refusal::InsufficientStock { .. })));
    assert_eq!(order(read.await.unwrap()).status, OrderStatus::Reserved);
    engine.stop().await;
}

#[tokio::test]
async fn a_failed_write_poisons_and_reads_go_on() {
    let world = World::new();
    let engine = world.start(EngineOptions::default()).await;
    engine.submit(create("a", 5)).await.unwrap();
    engine.submit(reserve("durable", "a", 1)).await.unwrap();
    world.journal.fail_next();
    assert_eq!(engine.submit(reserve("lost", "a", 1)).await, Err(Refusal::JournalUnavailable));
    assert_eq!(engine.submit(reserve("later", "a", 1)).await, Err(Refusal::JournalUnavailable));
    assert_eq!(
        engine.submit(get("lost")).await,
        Err(Refusal::JournalUnavailable),
        "it may or may not be there"
    );
    assert_eq!(order(engine.submit(get("durable")).await).status, OrderStatus::Reserved);
    assert_eq!(available(&engine, "a").await, 4);
    assert!(matches!(engine.health(), Health::JournalPoisoned(_)));
    engine.stop().await;

    let engine = world.start(EngineOptions::default()).await;
    assert_eq!(engine.health(), Health::Ready);
    let repeated = order(engine.submit(reserve("lost", "a", 1)).await);
    assert_eq!(repeated.status, OrderStatus::Reserved, "repeating settles an unknown outcome");
    assert_eq!(available(&engine, "a").await, 3);
    engine.stop().await;
}

#[tokio::test]
async fn a_shard_that_panics_is_rebuilt_and_the_others_do_not_notice() {
    let world = World::new();
    let options = EngineOptions { shards: 2, ..EngineOptions::default() };
    let armed = Arc::new(AtomicBool::new(false));
    let fault = Arc::clone(&armed);
    let is_poison = |command: &InnerCommand| command.order_no().is_some_and(|o| o.as_str() == "poison");
    let parts = world.parts().before_decide(move |command| {
        assert!(!(is_poison(command) && fault.load(Ordering::SeqCst)), "a fault on demand");
    });
    let engine = Engine::start(options, parts).await.unwrap();
    let (a, b) = (sku_in(0, 2), sku_in(1, 2));
    engine.submit(create(&a, 5)).await.unwrap();
    engine.submit(create(&b, 5)).await.unwrap();
    engine.submit(reserve("before", &a, 1)).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let batch =
        vec![reserve("with", &a, 1), reserve("poison", &a, 1), reserve("other", &b, 1), reserve("p2", &a, 1)];
    let outcomes = engine.submit_batch(batch).await;
    armed.store(false, Ordering::SeqCst);
    for place in [0, 1, 3] {
        assert_eq!(outcomes[place], Err(Refusal::ShardRestarted), "the outcome of {place} is unknown");
    }
    assert_eq!(order(outcomes[2].clone()).status, OrderStatus::Reserved, "the other shard does not notice");
    // Repeating settles it; commands wait while the shard is rebuilt.
    for name in ["with", "poison", "p2"] {
        assert_eq!(order(engine.submit(reserve(name, &a, 1)).await).status, OrderStatus::Reserved);
    }
    assert_eq!(available(&engine, &a).await, 1);
    assert_eq!(engine.stats().shards[0].rebuilds, 1);
    assert_eq!(engine.stats().shards[1].rebuilds, 0);
    assert_eq!(engine.stats().shards[0].in_flight, 0, "no place in the gate is lost");
    until(|| engine.health() == Health::Ready).await;
    // The claims of what was lost are given back: a refused order may go to another shard.
    assert_eq!(engine.stats().directory_orders, 5);
    engine.stop().await;
}

#[tokio::test]
async fn a_shard_that_panics_for_ever_is_given_up() {
    let world = World::new();
    let options = EngineOptions { shards: 2, ..EngineOptions::default() };
    let parts = world.parts().before_decide(|command| {
        assert!(command.order_no().is_none_or(|o| !o.as_str().starts_with("bad")), "a fault on demand");
    });
    let engine = Engine::start(options, parts).await.unwrap();
    let (a, b) = (sku_in(0, 2), sku_in(1, 2));
    engine.submit(create(&a, 5)).await.unwrap();
    engine.submit(create(&b, 5)).await.unwrap();
    let mut last = Err(Refusal::ShardRestarted);
    for n in 0.. {
        last = engine.submit(reserve(&format!("bad{n}"), &a, 1)).await;
        if last == Err(Refusal::Overloaded) {
            break;
        }
    }
    assert_eq!(last, Err(Refusal::Overloaded), "it takes nothing any more");
    assert_eq!(engine.health(), Health::ShardFailed(vec![ShardId(0)]));
    assert_eq!(order(engine.submit(reserve("good", &b, 1)).await).status, OrderStatus::Reserved);
    engine.stop().await;
}

#[tokio::test]
async fn what_is_due_expires_without_any_command() {
    let world = World::new();
    let engine = world.start(EngineOptions::default()).await;
    engine.submit(create("a", 100_000)).await.unwrap();
    let many = (0..5_000).map(|n| reserve(&format!("o{n}"), "a", 2)).collect();
    assert!(engine.submit_batch(many).await.iter().all(Result::is_ok));
    assert_eq!(available(&engine, "a").await, 90_000);
    world.clock.advance(Duration::from_secs(899));
    engine.submit(get("o1")).await.unwrap();
    assert_eq!(available(&engine, "a").await, 90_000, "not a second early");
    world.clock.advance(Duration::from_millis(1_100));
    while available(&engine, "a").await != 100_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(engine.stats().shards[0].expired, 5_000);
    assert_eq!(order(engine.submit(get("o77")).await).status, OrderStatus::Expired);
    engine.stop().await;
}

#[tokio::test]
async fn the_gate_turns_away_at_once_and_loses_nothing() {
    let world = World::new();
    let engine = world.start(EngineOptions { gate_permits: 2, ..EngineOptions::default() }).await;
    engine.submit(create("a", 10)).await.unwrap();
    world.journal.hold();
    let submit = |name: &str| {
        let (engine, command) = (engine.clone(), reserve(name, "a", 1));
        tokio::spawn(async move { engine.submit(command).await })
    };
    let (one, two) = (submit("o1"), submit("o2"));
    until(|| engine.stats().shards[0].in_flight == 2).await;
    assert_eq!(engine.submit(reserve("o3", "a", 1)).await, Err(Refusal::Overloaded));
    let batch = engine.submit_batch(vec![reserve("o4", "a", 1)]).await;
    assert_eq!(batch, [Err(Refusal::Overloaded)]);
    world.journal.let_go();
    assert!(one.await.unwrap().is_ok() && two.await.unwrap().is_ok());
    assert!(engine.submit(reserve("o3", "a", 1)).await.is_ok());
    assert_eq!(available(&engine, "a").await, 7);
    engine.stop().await;
}

#[tokio::test]
async fn an_order_has_one_coordinator() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    let (a, b) = (sku_in(0, 4), sku_in(3, 4));
    engine.submit(create(&a, 1)).await.unwrap();
    engine.submit(create(&b, 9)).await.unwrap();
    let both = reserve_lines("both", lines(&[(&a, 1), (&b, 1)]));
    assert_eq!(order(engine.submit(both.clone()).await).status, OrderStatus::Reserved);
    assert_eq!(order(engine.submit(release("both")).await).status, OrderStatus::Released);
    assert_eq!(available(&engine, &a).await, 1, "the participants were told before the answer");
    engine.submit(reserve("o1", &a, 1)).await.unwrap();
    let elsewhere = engine.submit(reserve("o1", &b, 1)).await;
    assert!(matches!(elsewhere, Err(Refusal::OrderMismatch { .. })), "{elsewhere:?}");
    // A refused order leaves nothing behind; the same number may hold other lines.
    assert!(matches!(engine.submit(reserve("o2", &a, 1)).await, Err(Refusal::InsufficientStock { .. })));
    assert!(engine.submit(reserve("o2", &b, 1)).await.is_ok());
    // A tombstone is found wherever the order goes.
    assert_eq!(order(engine.submit(release("o3")).await).status, OrderStatus::Cancelled);
    assert!(matches!(engine.submit(reserve("o3", &b, 1)).await, Err(Refusal::OrderCancelled { .. })));
    // In a batch, operations of one order keep their order, also when another shard decides for it in the middle.
    let outcomes = engine
        .submit_batch(vec![
            reserve("o4", &a, 1),
            reserve("o4", &b, 2),
            confirm("o4"),
            both,
            reserve("o4", &b, 2),
        ])
        .await;
    assert!(matches!(outcomes[0], Err(Refusal::InsufficientStock { .. })));
    assert!(outcomes[1].is_ok(), "{:?}", outcomes[1]);
    assert_eq!(order(outcomes[2].clone()).status, OrderStatus::Confirmed);
    assert!(matches!(outcomes[3], Ok(Answer::Order { effect: Effect::Replayed, .. })), "{:?}", outcomes[3]);
    assert!(matches!(outcomes[4], Ok(Answer::Order { effect: Effect::Replayed, .. })), "{:?}", outcomes[4]);
    assert!(matches!(engine.submit(get("unknown")).await, Err(Refusal::UnknownOrder { .. })));
    assert!(matches!(engine.submit(confirm("unknown")).await, Err(Refusal::UnknownOrder { .. })));
    engine.stop().await;
}

/// A number that another shard has takes a batch longer: what comes after it must not overtake it, also where the batch
/// names an order and not its SKU.
#[tokio::test]
async fn what_another_shard_answers_is_not_overtaken_in_a_batch() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 4, ..EngineOptions::default() }).await;
    let names: Vec<String> = (0..4).map(|shard| sku_in(shard, 4)).collect();
    for name in &names {
        engine.submit(create(name, 4)).await.unwrap();
        engine.submit(reserve(&format!("sold-{name}"), name, 1)).await.unwrap();
        engine.submit(confirm(&format!("sold-{name}"))).await.unwrap();
    }
    assert_eq!(order(engine.submit(release("gone")).await).status, OrderStatus::Cancelled);
    // Of all shards but one the tombstone is in another one.
    for name in &names {
        let give_back = Action::Return(Return {
            order_no: order_no(&format!("sold-{name}")),
            request_id: RequestId::new("r1").unwrap(),
            lines: None,
        });
        let batch = vec![reserve("gone", name, 1), create(name, 9), give_back.into(), create(name, 9)];
        let outcomes = engine.submit_batch(batch).await;
        assert!(matches!(outcomes[0], Err(Refusal::OrderCancelled { .. })), "{:?}", outcomes[0]);
        assert_eq!(order(outcomes[2].clone()).status, OrderStatus::Returned);
        let sold = |outcome: &Outcome| match outcome {
            Err(Refusal::StockExists { stock, .. }) => stock.levels.sold,
            other => panic!("{other:?}"),
        };
        assert_eq!((sold(&outcomes[1]), sold(&outcomes[3])), (1, 0), "the order of the batch, {name}");
    }
    engine.stop().await;
}

/// Nor is an order overtaken of which nobody could say where it is when the batch came.
#[tokio::test]
async fn an_order_that_could_not_be_looked_for_is_not_overtaken_in_a_batch() {
    let world = World::new();
    let armed = Arc::new(AtomicBool::new(false));
    let parts = world.parts().before_decide({
        let armed = Arc::clone(&armed);
        move |command| {
            let is_asked =
                matches!(command, InnerCommand::Public(asked) if matches!(asked.action, Action::GetOrder(_)));
            assert!(!is_asked || !armed.swap(false, Ordering::SeqCst), "a fault on demand");
        }
    });
    let engine = Engine::start(tight(4), parts).await.unwrap();
    // Of all shards but one the number is looked for in another one.
    let names: Vec<String> = (0..4).map(|shard| sku_in(shard, 4)).collect();
    for name in &names {
        engine.submit(create(name, 4)).await.unwrap();
        engine.submit(reserve(&format!("late-{name}"), name, 4)).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(901));
    until(|| engine.stats().shards.iter().all(|shard| shard.expired == 1)).await;
    until_gone(&world, &engine).await;
    for name in &names {
        armed.store(true, Ordering::SeqCst);
        let batch = vec![confirm(&format!("late-{name}")), reserve(&format!("new-{name}"), name, 1)];
        let outcomes = engine.submit_batch(batch).await;
        assert!(!armed.load(Ordering::SeqCst), "nobody looked for it");
        assert_eq!(order(outcomes[0].clone()).status, OrderStatus::Confirmed, "{name}");
        assert!(matches!(outcomes[1], Err(Refusal::InsufficientStock { .. })), "{name}: {:?}", outcomes[1]);
    }
    engine.stop().await;
}

#[tokio::test]
async fn checkpoints_are_taken_while_orders_run_and_the_journal_is_trimmed() {
    let world = World::new();
    let options = EngineOptions { checkpoint_events: 500, remember_seconds: 1, ..flushed_soon(1) };
    let engine = world.start(options.clone()).await;
    engine.submit(create("a", 1_000_000)).await.unwrap();
    for round in 0..40 {
        let name = |n: u32| format!("r{round}-{n}");
        let batch = (0..100).flat_map(|n| [reserve(&name(n), "a", 1), confirm(&name(n))]).collect();
        assert!(engine.submit_batch(batch).await.iter().all(Result::is_ok));
        world.clock.advance(Duration::from_millis(100));
    }
    until(|| engine.stats().shards[0].checkpoint > Lsn(4_000)).await;
    until(|| world.journal.first(ShardId(0)) > Lsn(4_000)).await;
    until(|| engine.stats().shards[0].forgotten > 0).await;
    // It left memory, and comes back.
    assert_eq!(order(engine.submit(get("r0-0")).await).status, OrderStatus::Confirmed);
    engine.stop().await;

    let engine = world.start(options).await;
    let levels = engine.stock(&sku("a"), None).await.unwrap()[0].levels;
    assert_eq!((levels.available, levels.reserved, levels.sold), (996_000, 0, 4_000));
    assert_eq!(order(engine.submit(get("r39-99")).await).status, OrderStatus::Confirmed);
    engine.stop().await;
}

#[tokio::test]
async fn many_callers_never_oversell() {
    let world = World::new();
    let engine = world.start(EngineOptions { shards: 3, ..EngineOptions::default() }).await;
    engine.submit(create("hot", 500)).await.unwrap();
    let mut callers = Vec::new();
    for caller in 0..20 {
        let engine = engine.clone();
        callers.push(tokio::spawn(async move {
            let mut held = 0;
            for n in 0..50 {
                held += u32::from(engine.submit(reserve(&format!("{caller}-{n}"), "hot", 1)).await.is_ok());
            }
            held
        }));
    }
    let mut held = 0;
    for caller in callers {
        held += caller.await.unwrap();
    }
    assert_eq!(held, 500);
    assert_eq!(available(&engine, "hot").await, 0);
    engine.stop().await;
    assert_eq!(engine.submit(reserve("late", "hot", 1)).await, Err(Refusal::Overloaded), "it has stopped");
}

#[tokio::test]
async fn bad_commands_are_named() {
    let world = World::new();
    let engine = world.start(EngineOptions::default()).await;
    let bad = Action::Extend(hotstock_engine::command::Extend { order_no: order_no("o"), ttl_seconds: 0 });
    let refused = engine.submit(bad.into()).await;
    assert!(
        matches!(refused, Err(Refusal::InvalidField(ref field)) if field.field == "ttl_seconds"),
        "{refused:?}"
    );
    engine.stop().await;
}

/// A journal whose code is wrong.
struct Panicking(hotstock_engine::testing::MemoryJournal);

impl Journal for Panicking {
    fn commit(&mut self, groups: &[Group]) -> Result<(), JournalError> {
        let is_start = |event: &Event| matches!(event.change, Change::Started { .. });
        assert!(groups.iter().flat_map(|group| &group.events).all(is_start), "a fault on demand");
        Ok(())
    }

    fn trim(&mut self, _: &[(ShardId, Lsn)]) -> Result<(), JournalError> {
        Ok(())
    }

    fn reader(&self) -> Arc<dyn JournalReader> {
        Arc::new(self.0.clone())
    }
}

#[tokio::test]
async fn a_writer_that_panics_poisons_and_nobody_waits_for_ever() {
    let world = World::new();
    let journal = Box::new(Panicking(world.journal.clone()));
    let mut parts = world.parts();
    parts.journal = journal;
    let engine = Engine::start(EngineOptions::default(), parts).await.unwrap();
    assert_eq!(engine.submit(create("a", 5)).await, Err(Refusal::ShardRestarted), "its outcome is unknown");
    until(|| matches!(engine.health(), Health::JournalPoisoned(_))).await;
    assert_eq!(engine.submit(create("b", 5)).await, Err(Refusal::JournalUnavailable));
    engine.stop().await;
}
