//! Orders in a shard: what each answer does, and none; what comes meanwhile; restarts; a service that is slow.

use hotstock_engine::check::{CheckOptions, Unanswered};
use hotstock_engine::command::{Action, Extend};
use hotstock_engine::counters::CheckStats;
use hotstock_engine::limits::MAX_WAITING_CHECKS;
use hotstock_engine::order::OrderStatus;

use crate::service::{Say, Shop, levels, read, stats, until, until_idle, until_status};
use crate::support::{confirm, create, order_no, release, reserve};

/// Reservations of the tests are held for this long.
const TTL: u64 = 900;

#[tokio::test]
async fn what_is_paid_is_sold_and_what_is_not_goes_back() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions::default()).await;
    engine.submit(create("a", 100)).await.unwrap();
    for (order, quantity, says) in
        [("paid", 1, Say::Paid), ("unpaid", 10, Say::Unpaid), ("no", 50, Say::Cancelled)]
    {
        engine.submit(reserve(order, "a", quantity)).await.unwrap();
        shop.service.tell(order, &[says]);
    }
    shop.pass(TTL - 1);
    assert_eq!(levels(&engine, "a").await, (39, 61, 0));
    assert_eq!(shop.service.asked().len(), 0, "nobody is asked before the time");
    shop.pass(1);
    until_status(&engine, "paid", OrderStatus::Confirmed).await;
    until_status(&engine, "unpaid", OrderStatus::Expired).await;
    until_status(&engine, "no", OrderStatus::Expired).await;
    until_idle(&engine).await;
    assert_eq!(levels(&engine, "a").await, (99, 0, 1));
    let expected = CheckStats { asked: 3, paid: 1, unpaid: 1, cancelled: 1, ..CheckStats::default() };
    assert_eq!(stats(&engine), expected);
    assert_eq!(engine.stats().shards[0].expired, 2);
    engine.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_is_asked_again() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions::default()).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    shop.service.tell("o", &[Say::Nothing, Say::Panic, Say::Nothing, Say::Paid]);
    shop.pass(TTL);
    until_status(&engine, "o", OrderStatus::Confirmed).await;
    until_idle(&engine).await;
    let expected = CheckStats { asked: 4, failed: 3, paid: 1, ..CheckStats::default() };
    assert_eq!(stats(&engine), expected);
    engine.stop().await;
}

#[tokio::test]
async fn an_order_without_an_answer_expires_when_the_grace_is_over() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions { grace_seconds: 30, ..CheckOptions::default() }).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    shop.service.tell("o", &[Say::Nothing]);
    shop.pass(TTL);
    until(async || stats(&engine).failed >= 2).await;
    shop.pass(29);
    let failed = stats(&engine).failed;
    until(async || stats(&engine).failed > failed).await;
    assert_eq!(read(&engine, "o").await.status, OrderStatus::Reserved, "the grace is not over");
    shop.pass(1);
    until_status(&engine, "o", OrderStatus::Expired).await;
    until_idle(&engine).await;
    assert_eq!((stats(&engine).released, stats(&engine).kept), (1, 0));
    engine.stop().await;
}

#[tokio::test]
async fn or_is_kept_and_asked_about_again_if_that_is_wanted() {
    let shop = Shop::new();
    let check = CheckOptions { grace_seconds: 30, unanswered: Unanswered::Keep, ..CheckOptions::default() };
    let engine = shop.start(1, check).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    let first = read(&engine, "o").await.expires_at.unwrap();
    shop.service.tell("o", &[Say::Nothing]);
    shop.pass(TTL);
    until(async || stats(&engine).failed >= 1).await;
    shop.pass(30);
    until(async || read(&engine, "o").await.expires_at.unwrap() == first.plus_seconds(60)).await;
    until_idle(&engine).await;
    assert_eq!((stats(&engine).released, stats(&engine).kept), (0, 1));
    shop.service.tell("o", &[Say::Unpaid]);
    shop.pass(30);
    until_status(&engine, "o", OrderStatus::Expired).await;
    engine.stop().await;
}

#[tokio::test]
async fn what_the_caller_did_meanwhile_stands() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions::default()).await;
    engine.submit(create("a", 9)).await.unwrap();
    for (order, says) in [("sold", Say::Unpaid), ("back", Say::Paid), ("longer", Say::Unpaid)] {
        engine.submit(reserve(order, "a", 1)).await.unwrap();
        shop.service.tell(order, &[says]);
    }
    shop.service.hold();
    shop.pass(TTL);
    until(async || shop.service.asked().len() == 3).await;
    engine.submit(confirm("sold")).await.unwrap();
    engine.submit(release("back")).await.unwrap();
    engine
        .submit(Action::Extend(Extend { order_no: order_no("longer"), ttl_seconds: 60 }).into())
        .await
        .unwrap();
    shop.service.let_go();
    until_idle(&engine).await;
    assert_eq!(read(&engine, "sold").await.status, OrderStatus::Confirmed);
    assert_eq!(read(&engine, "back").await.status, OrderStatus::Released, "no sale out of a released order");
    assert_eq!(read(&engine, "longer").await.status, OrderStatus::Reserved);
    assert_eq!(levels(&engine, "a").await, (7, 1, 1));
    // The one that was extended is due again later, and is asked about again.
    shop.pass(60);
    until_status(&engine, "longer", OrderStatus::Expired).await;
    let asked = shop.service.asked();
    assert_eq!(asked.iter().filter(|order| *order == "longer").count(), 2, "{asked:?}");
    engine.stop().await;
}

#[tokio::test]
async fn one_that_is_due_again_while_it_is_asked_about_is_asked_about_again() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions { grace_seconds: 3_600, ..CheckOptions::default() }).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 1)).await.unwrap();
    shop.service.tell("o", &[Say::Paid]);
    shop.service.hold();
    shop.pass(TTL);
    until(async || shop.service.asked().len() == 1).await;
    engine.submit(release("o")).await.unwrap();
    // Sold late, and returned: nothing of it is due any more. Another order is due twice.
    engine.submit(reserve("p", "a", 1)).await.unwrap();
    shop.pass(TTL);
    until(async || shop.service.asked().len() == 2).await;
    engine.submit(Action::Extend(Extend { order_no: order_no("p"), ttl_seconds: 60 }).into()).await.unwrap();
    shop.pass(60);
    // The shard names it again; it has its place already.
    let turns = engine.stats().shards[0].turns;
    until(async || engine.stats().shards[0].turns > turns + 2).await;
    assert_eq!((stats(&engine).waiting, shop.service.asked().len()), (2, 2));
    shop.service.tell("p", &[Say::Nothing, Say::Unpaid]);
    shop.service.let_go();
    until_status(&engine, "p", OrderStatus::Expired).await;
    until_idle(&engine).await;
    assert_eq!(levels(&engine, "a").await, (9, 0, 0));
    engine.stop().await;
}

#[tokio::test]
async fn a_restart_in_the_middle_asks_again() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions::default()).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    shop.service.hold();
    shop.pass(TTL);
    until(async || shop.service.asked().len() == 1).await;
    engine.stop().await;

    shop.service.tell("o", &[Say::Paid]);
    shop.service.let_go();
    let engine = shop.start(1, CheckOptions::default()).await;
    until_status(&engine, "o", OrderStatus::Confirmed).await;
    engine.stop().await;
}

#[tokio::test]
async fn questions_are_bounded_and_a_slow_service_keeps_no_order_from_its_end() {
    let shop = Shop::new();
    let check = CheckOptions { grace_seconds: 30, concurrency: 2, ..CheckOptions::default() };
    let engine = shop.start(1, check).await;
    engine.submit(create("a", 9)).await.unwrap();
    for n in 0..6 {
        engine.submit(reserve(&format!("o{n}"), "a", 1)).await.unwrap();
    }
    shop.service.hold();
    shop.pass(TTL);
    until(async || stats(&engine).waiting == 6 && shop.service.asked().len() == 2).await;
    shop.pass(30);
    // The two that are being asked about hold their places; the others end all the same.
    until(async || levels(&engine, "a").await == (7, 2, 0)).await;
    assert_eq!((stats(&engine).released, shop.service.asked().len(), shop.service.most()), (4, 2, 2));
    for order in shop.service.asked() {
        shop.service.tell(&order, &[Say::Paid]);
    }
    shop.service.let_go();
    until(async || levels(&engine, "a").await == (7, 0, 2)).await;
    engine.stop().await;
}

/// More are due than there is room for: the others wait in the shard, which goes on serving.
#[tokio::test]
async fn a_full_queue_hinders_nobody() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions { grace_seconds: 3_600, ..CheckOptions::default() }).await;
    let count = MAX_WAITING_CHECKS + 1_000;
    engine.submit(create("a", count as u64 + 5)).await.unwrap();
    let orders: Vec<_> = (0..count).map(|n| reserve(&format!("o{n}"), "a", 1)).collect();
    for some in orders.chunks(5_000) {
        assert!(engine.submit_batch(some.to_vec()).await.iter().all(Result::is_ok));
    }
    shop.service.hold();
    shop.pass(TTL);
    until(async || stats(&engine).waiting == MAX_WAITING_CHECKS as u64).await;
    assert_eq!(
        levels(&engine, "a").await,
        (5, count as u64, 0),
        "nothing is lost, nothing goes back unasked"
    );
    engine.submit(reserve("new", "a", 5)).await.unwrap();
    assert_eq!(read(&engine, "new").await.status, OrderStatus::Reserved);
    shop.service.let_go();
    until(async || levels(&engine, "a").await == (count as u64, 5, 0)).await;
    until_idle(&engine).await;
    assert_eq!((stats(&engine).unpaid, stats(&engine).asked), (count as u64, count as u64));
    engine.stop().await;
}

/// The journal fails while a paid order is confirmed: after the restart it is asked about again.
#[tokio::test]
async fn a_journal_that_fails_loses_no_answer() {
    let shop = Shop::new();
    let engine = shop.start(1, CheckOptions::default()).await;
    engine.submit(create("a", 9)).await.unwrap();
    engine.submit(reserve("o", "a", 2)).await.unwrap();
    shop.service.tell("o", &[Say::Paid]);
    shop.world.journal.fail_next();
    shop.pass(TTL);
    until(async || stats(&engine).paid == 1).await;
    until(async || matches!(engine.health(), hotstock_engine::status::Health::JournalPoisoned(_))).await;
    engine.stop().await;

    shop.world.journal.mend();
    let engine = shop.start(1, CheckOptions::default()).await;
    until_status(&engine, "o", OrderStatus::Confirmed).await;
    assert_eq!(levels(&engine, "a").await, (7, 0, 2));
    engine.stop().await;
}
