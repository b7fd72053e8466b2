//! What a failure leaves behind, and how soon it is gone: holds without an order, decisions that nobody was told,
//! expiries, a store that is away, shards that panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, Command, Mode, SetStatus, StockStatus};
use hotstock_engine::engine::Engine;
use hotstock_engine::event::Change;
use hotstock_engine::ids::ShardId;
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::journal::Journal as _;
use hotstock_engine::options::EngineOptions;
use hotstock_engine::order::OrderStatus;
use hotstock_engine::outcome::Refusal;
use hotstock_engine::status::Health;

use crate::shop::{cart, check_rest, is_unknown, read, skus, until_asked};
use crate::support::{World, confirm, create, flushed_soon, levels, order, release, sku, until};

fn supplied(names: &[String], units: u64) -> BTreeMap<String, u64> {
    names.iter().map(|name| (name.clone(), units)).collect()
}

fn of(names: &[String]) -> Vec<(&str, u32)> {
    names.iter().map(|name| (name.as_str(), 1)).collect()
}

#[tokio::test]
async fn a_shard_that_panics_at_any_step_leaves_nothing_behind() {
    for step in ["span.hold", "span.held", "span.instruct", "span.done", "span.abandon", "span.abandoned"] {
        let world = World::new();
        let left = Arc::new(AtomicU32::new(0));
        let faults = Arc::clone(&left);
        let failpoint = move |reached: &'static str| {
            let one_less = |left: u32| left.checked_sub(1);
            let hit =
                reached == step && faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
            assert!(!hit, "a fault on demand");
        };
        let options = EngineOptions { shards: 3, ..EngineOptions::default() };
        let engine = Engine::start(options, world.parts().failpoint(Arc::new(failpoint))).await.unwrap();
        let names = skus(3, 3);
        for name in &names {
            engine.submit(create(name, 10)).await.unwrap();
        }
        left.store(1, Ordering::SeqCst);
        // A caller repeats what it got no answer for.
        let repeat = async |command: Command| {
            let mut outcome = engine.submit(command.clone()).await;
            let mut again = 0;
            while (is_unknown(&outcome) || outcome == Err(Refusal::Overloaded)) && again < 100 {
                again += 1;
                outcome = engine.submit(command.clone()).await;
            }
            outcome
        };
        // Two want the same: one of them is refused by a participant.
        let all = [(names[0].as_str(), 1), (names[1].as_str(), 9), (names[2].as_str(), 1)];
        let other = [(names[0].as_str(), 1), (names[1].as_str(), 8), (names[2].as_str(), 1)];
        let two =
            (cart("one", &all, Mode::AllOrNothing, 900), cart("other", &other, Mode::AllOrNothing, 900));
        let two = tokio::join!(repeat(two.0), repeat(two.1));
        for (name, outcome) in [("one", two.0), ("other", two.1)] {
            match outcome {
                Ok(_) => assert!(repeat(release(name)).await.is_ok(), "{step}"),
                Err(refusal) => {
                    assert!(matches!(refusal, Refusal::InsufficientStock { .. }), "{step} {refusal}")
                }
            }
        }
        for command in [
            cart("sold", &of(&names), Mode::AllOrNothing, 900),
            cart("left", &of(&names), Mode::AllOrNothing, 900),
            confirm("sold"),
            release("left"),
        ] {
            let outcome = repeat(command).await;
            assert!(outcome.is_ok(), "{step}: {outcome:?}");
        }
        left.store(0, Ordering::SeqCst);
        let orders = ["sold", "left", "one", "other"].map(String::from);
        check_rest(&engine, &supplied(&names, 10), &orders, step).await;
        assert_eq!(levels(&engine, &names[0]).await, (9, 0, 1), "{step}");
        engine.stop().await;
    }
}

#[tokio::test]
async fn holds_without_an_order_are_released_after_a_start() {
    let world = World::new();
    let names = skus(3, 3);
    // The process ends when what a participant holds is on the disk, and before the order is logged.
    let (journal, reader) = (world.journal.clone(), world.journal.open().reader());
    let holds = move |shard: u16| {
        let (shard, last) = (ShardId(shard), reader.bounds(ShardId(shard)).last);
        let read = reader.read(shard, last, 1).unwrap();
        read.iter().any(|(_, event)| matches!(event.change, Change::Held { .. }))
    };
    let failpoint = move |step: &'static str| {
        if step == "span.held" {
            while !(0..3).any(&holds) {
                std::thread::yield_now();
            }
            journal.fail_next();
        }
    };
    let options = EngineOptions { shards: 3, ..EngineOptions::default() };
    let engine = Engine::start(options.clone(), world.parts().failpoint(Arc::new(failpoint))).await.unwrap();
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    let unknown = engine.submit(cart("lost", &of(&names), Mode::AllOrNothing, 900)).await;
    assert_eq!(unknown, Err(Refusal::JournalUnavailable));
    engine.stop().await;

    world.journal.mend();
    let engine = world.start(options).await;
    until(|| engine.stats().cross_shard.released > 0).await;
    check_rest(&engine, &supplied(&names, 10), &["lost".into()], "left over").await;
    assert_eq!(read(&engine, "lost").await, None);
    engine.stop().await;
}

#[tokio::test]
async fn a_hold_that_is_asked_after_is_left_alone_when_its_order_knows_it() {
    let world = World::new();
    let names = skus(3, 3);
    let options = EngineOptions { shards: 3, ..EngineOptions::default() };
    let engine = world.start(options.clone()).await;
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    order(engine.submit(cart("kept", &of(&names), Mode::AllOrNothing, 900)).await);
    engine.stop().await;
    let engine = world.start(options).await;
    until(|| engine.stats().cross_shard.asked >= 2).await;
    check_rest(&engine, &supplied(&names, 10), &["kept".into()], "kept").await;
    assert_eq!(levels(&engine, &names[2]).await, (9, 1, 0));
    assert_eq!(engine.stats().cross_shard.released, 0);
    // Then it expires, in all its shards.
    world.clock.advance(Duration::from_secs(901));
    until_asked(|| async { levels(&engine, &names[2]).await == (10, 0, 0) }).await;
    assert_eq!(read(&engine, "kept").await.unwrap().status, OrderStatus::Expired);
    check_rest(&engine, &supplied(&names, 10), &["kept".into()], "expired").await;
    engine.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_holds_up_no_decision() {
    let world = World::new();
    let engine = world.start(flushed_soon(2)).await;
    let names = skus(3, 2);
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    for name in ["sold", "left"] {
        order(engine.submit(cart(name, &of(&names), Mode::AllOrNothing, 900)).await);
    }
    world.session().cut();
    assert_eq!(order(engine.submit(confirm("sold")).await).status, OrderStatus::Confirmed);
    assert_eq!(order(engine.submit(release("left")).await).status, OrderStatus::Released);
    assert_eq!(levels(&engine, &names[0]).await, (9, 0, 1));
    // Nor a new one of SKUs that are in memory.
    order(engine.submit(cart("new", &of(&names), Mode::AllOrNothing, 900)).await);
    let strange = [("stored", 1), (names[0].as_str(), 1), (names[1].as_str(), 1)];
    let refused = engine.submit(cart("other", &strange, Mode::AllOrNothing, 900)).await;
    assert_eq!(refused, Err(Refusal::StoreUnavailable));
    world.session().mend();
    let orders = ["sold", "left", "new", "other"].map(String::from);
    check_rest(&engine, &supplied(&names, 10), &orders, "the store is back").await;
    assert_eq!(levels(&engine, &names[2]).await, (8, 1, 1));
    engine.stop().await;
}

/// A lease that ends for a moment: what was decided, and what is held, while its messages were dropped, is told and
/// asked for when the server goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_lease_that_ended_cut_short_goes_on_when_it_is_renewed() {
    let world = World::new();
    let names = skus(2, 2);
    let (held_up, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let stands_still = {
        let (held_up, goes_on) = (Arc::clone(&held_up), Arc::clone(&goes_on));
        move |command: &InnerCommand| {
            let InnerCommand::Public(Command { action: Action::SetStatus(_), .. }) = command else { return };
            held_up.store(true, Ordering::SeqCst);
            while !goes_on.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    };
    let mut options = EngineOptions { shards: 2, ..EngineOptions::default() };
    options.store.lease_seconds = 2;
    let engine = Engine::start(options, world.parts().before_decide(stands_still)).await.unwrap();
    for name in &names {
        engine.submit(create(name, 10)).await.unwrap();
    }
    for order in ["given-back", "sold"] {
        engine.submit(cart(order, &of(&names), Mode::AllOrNothing, 900)).await.unwrap();
    }
    // The shard of the second SKU stands still, and hears of nothing.
    let stop = Action::SetStatus(SetStatus {
        sku_id: sku(&names[1]),
        warehouse_id: None,
        status: StockStatus::OnSale,
    });
    let stopped = tokio::spawn({
        let engine = engine.clone();
        async move { engine.submit(stop.into()).await }
    });
    until(|| held_up.load(Ordering::SeqCst)).await;
    let decided = [release("given-back"), confirm("sold")].map(|command| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.submit(command).await })
    });
    until(|| engine.stats().cross_shard.under_way == 2).await;
    world.session().cut();
    until(|| matches!(engine.health(), Health::Fenced(_))).await;
    for decided in decided {
        let told = decided.await.unwrap();
        assert!(matches!(told, Err(Refusal::ShardRestarted)), "{told:?}");
    }
    goes_on.store(true, Ordering::SeqCst);
    drop(stopped.await.unwrap());
    // Its mailbox is emptied while the lease is over.
    until(|| engine.stats().shards.iter().all(|shard| shard.in_flight == 0)).await;
    world.session().mend();
    until(|| engine.health() == Health::Ready).await;
    let orders = ["given-back".into(), "sold".into()];
    check_rest(&engine, &supplied(&names, 10), &orders, "after the lease").await;
    assert_eq!(read(&engine, "given-back").await.unwrap().status, OrderStatus::Released);
    assert_eq!(read(&engine, "sold").await.unwrap().status, OrderStatus::Confirmed);
    engine.stop().await;
}
