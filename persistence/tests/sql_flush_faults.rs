//! Flushes to a MariaDB that loses its connections, is killed or stopped in the middle of them, or was changed by hand: afterwards every
//! event was taken in exactly once.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hotstock_engine::command::{Action, Line, Reserve};
use hotstock_engine::event::Change;
use hotstock_engine::home::attempt::branches_of;
use hotstock_engine::home::{HeldLine, HomeStep};
use hotstock_engine::ids::{AttemptId, Lsn, ServerId};
use hotstock_engine::outcome::Levels;
use hotstock_engine::store::{Store, StoreError};
use hotstock_engine::testing::flush_suite::{Hot, W1, confirm, create, order, release, reserve, sku};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

/// Orders of one test: a flush of all of them takes long enough to be caught in the middle.
const ORDERS: u64 = 3_000;

const SKUS: [&str; 3] = ["a", "b", "c"];

fn store(server: &MariaDb) -> SqlStore {
    let mut options = SqlOptions::new(server.url("hotstock"));
    options.acquire_timeout = Duration::from_secs(1);
    options.statement_timeout = Duration::from_secs(1);
    SqlStore::open(&options, ServerId(1), 1).unwrap()
}

/// A shard with orders that reserve, confirm and release; every fifth is over several places, and the shard has its home and its
/// branches.
fn busy_shard() -> Hot {
    let mut hot = Hot::new(1);
    for name in SKUS {
        hot.must(create(name, W1, 10 * ORDERS));
    }
    for n in 0..ORDERS {
        let number = format!("o-{n}");
        let of = [(SKUS[n as usize % 3], 1), (SKUS[(n as usize + 1) % 3], 2)];
        if is_spanning(n) {
            let attempt = AttemptId(n + 1);
            let home = reserved(&number, &of);
            for branch in branches_of(&home, attempt) {
                hot.must(branch.command.action);
            }
            let held = |line: &Line| HeldLine {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
                held: line.quantity,
            };
            let lines = home.lines.as_slice().iter().map(held).collect();
            hot.must(Action::Home(Box::new(HomeStep::Reserve { reserve: home, attempt, lines })));
        } else {
            hot.must(reserve(&number, &of));
        }
        match n % 3 {
            0 => hot.must(confirm(&number, None)),
            1 => hot.must(release(&number, None)),
            _ => continue,
        }
        let Some(home) = hot.state.image_of_home(&order(&number)) else { continue };
        for branch in home.errands().into_iter().flat_map(|errand| errand.commands) {
            hot.must(branch.command.action);
        }
        // Some are still to be told when the database goes away.
        if n % 2 == 0 {
            let carried =
                HomeStep::Carried { order_no: order(&number), through: home.decisions, serials: Vec::new() };
            hot.must(Action::Home(Box::new(carried)));
        }
    }
    hot
}

fn is_spanning(n: u64) -> bool {
    n % 5 == 4
}

fn reserved(number: &str, of: &[(&str, u32)]) -> Reserve {
    match reserve(number, of) {
        Action::Reserve(reserve) => reserve,
        other => unreachable!("{other:?}"),
    }
}

/// Waits until so many more rows were written, by a flush that writes many times more in one transaction; or until `over`.
fn wait_for_the_middle(server: &MariaDb, over: &AtomicBool) {
    let written = || {
        let sql = "SELECT VARIABLE_VALUE FROM information_schema.global_status WHERE VARIABLE_NAME = 'HANDLER_WRITE'";
        server.sql(sql).trim().parse::<u64>().unwrap()
    };
    let begun = written();
    while written() < begun + 1_500 && !over.load(Ordering::Relaxed) {}
}

/// The rows are those of the shard, counted in SQL itself.
async fn check(server: &MariaDb, store: &SqlStore, hot: &Hot) {
    assert_eq!(store.watermark(hot.server, hot.shard).await.unwrap(), hot.last());
    let count = |what: &str| server.sql(&format!("SELECT {what}")).trim().to_owned();
    assert_eq!(count("COUNT(*) FROM hotstock.orders WHERE kind = 0"), (ORDERS / 5 * 4).to_string());
    assert_eq!(count("COUNT(*) FROM hotstock.orders WHERE kind = 1"), (ORDERS / 5).to_string());
    assert_eq!(count("COUNT(*) FROM hotstock.orders WHERE kind = 2"), (ORDERS / 5 * 2).to_string());
    let gaps = "COUNT(*) FROM (SELECT sku_id FROM hotstock.stock_journal GROUP BY sku_id \
         HAVING COUNT(*) <> MAX(version) OR MIN(version) <> 1) gaps";
    assert_eq!(count(gaps), "0");
    let levels: Vec<Levels> =
        SKUS.iter().map(|name| hot.state.image_of_stock(&sku(name), W1).unwrap().levels).collect();
    let versions: u64 = levels.iter().map(|levels| levels.version).sum();
    assert_eq!(count("COUNT(*) FROM hotstock.stock_journal"), versions.to_string());
    for books in store.books(None, 100).await.unwrap() {
        let place = SKUS.iter().position(|name| sku(name) == books.row.view.sku_id).unwrap();
        assert_eq!(books.row.view.levels, levels[place]);
        assert_eq!(books.journal_after, Some(levels[place]));
        assert_eq!(books.held_by_orders, levels[place].reserved);
        assert_eq!(books.sold_by_orders, levels[place].sold);
    }
    for n in (0..ORDERS).step_by(97) {
        let number = order(&format!("o-{n}"));
        if is_spanning(n) {
            let mut image = hot.state.image_of_home(&number).unwrap();
            image.order.lsn = Lsn::ZERO;
            assert_eq!(store.home(&number).await.unwrap().unwrap().image, image);
            continue;
        }
        let mut image = hot.state.image_of_order(&number).unwrap();
        image.lsn = Lsn::ZERO;
        assert_eq!(store.order(&number).await.unwrap().unwrap().image, image);
    }
    assert_eq!(store.anomalies(1).await.unwrap().0, 0);
}

/// Flushes until everything is in, whatever comes back meanwhile; gives how often it failed.
async fn flush_on(store: &SqlStore, hot: &mut Hot, size: usize) -> usize {
    let mut failed = 0;
    while !hot.events.is_empty() {
        match hot.flush(store, size).await {
            Ok(_) => {}
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) | StoreError::Busy(_)) => {
                failed += 1;
                // As a follower does, before it tries again; the store refuses at once while it is down.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut_in_the_middle() {
    let server = Arc::new(MariaDb::start());
    let store = store(&server);
    let mut hot = busy_shard();
    store.watermark(hot.server, hot.shard).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let cutter = {
        let (server, over) = (Arc::clone(&server), Arc::clone(&over));
        tokio::task::spawn_blocking(move || {
            for _ in 0..3 {
                wait_for_the_middle(&server, &over);
                server.cut_connections();
            }
        })
    };
    let failed = flush_on(&store, &mut hot, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    cutter.await.unwrap();
    assert!(failed >= 1, "no flush was caught");
    check(&server, &store, &hot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed_in_the_middle() {
    let server = MariaDb::start();
    let store = Arc::new(store(&server));
    let mut hot = busy_shard();
    hot.flush(&*store, 100).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let flushed = Arc::clone(&over);
    let killer = tokio::task::spawn_blocking(move || {
        let mut server = server;
        wait_for_the_middle(&server, &flushed);
        server.kill();
        server
    });
    let refused = hot.flush(&*store, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))),
        "{refused:?}"
    );
    let mut server = killer.await.unwrap();
    assert!(hot.flush(&*store, 10).await.is_err());
    server.restart();
    flush_on(&store, &mut hot, 1_000).await;
    check(&server, &store, &hot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_stopped_in_the_middle() {
    let server = MariaDb::start();
    let store = Arc::new(store(&server));
    let mut hot = busy_shard();
    hot.flush(&*store, 100).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let flushed = Arc::clone(&over);
    let stopper = tokio::task::spawn_blocking(move || {
        wait_for_the_middle(&server, &flushed);
        server.stop_signal();
        server
    });
    // Told within its bounds, though nothing answers.
    let refused = hot.flush(&*store, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))),
        "{refused:?}"
    );
    let server = stopper.await.unwrap();
    server.continue_signal();
    flush_on(&store, &mut hot, 1_000).await;
    check(&server, &store, &hot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_followers_of_one_shard_take_turns() {
    let server = MariaDb::start();
    let store = Arc::new(store(&server));
    let mut hot = busy_shard();
    // As after a server was started twice by mistake.
    let mut twin = busy_shard();
    let other = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            flush_on(&store, &mut twin, 170).await;
        })
    };
    flush_on(&store, &mut hot, 130).await;
    other.await.unwrap();
    check(&server, &store, &hot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_changed_are_found_and_put_right() {
    let server = MariaDb::start();
    let store = store(&server);
    let mut hot = Hot::new(1);
    hot.must(create("a", W1, 100));
    hot.must(reserve("o-1", &[("a", 2)]));
    hot.must(reserve("o-2", &[("a", 3)]));
    hot.flush_all(&store).await;

    // Of a hot stock and its orders, the shard knows better.
    server.sql(
        "USE hotstock; UPDATE stock SET available = 7; UPDATE order_lines SET held = 1 WHERE order_no = 'o-1'; \
         DELETE FROM order_lines WHERE order_no = 'o-2'; DELETE FROM orders WHERE order_no = 'o-2'",
    );
    hot.must(confirm("o-1", None));
    hot.must(confirm("o-2", None));
    assert_eq!(hot.flush_all(&store).await.anomalies, 3);
    let kinds: Vec<_> =
        store.anomalies(10).await.unwrap().1.into_iter().rev().map(|anomaly| anomaly.kind).collect();
    assert_eq!(kinds, ["stock_differs", "order_differs", "order_missing"]);
    let truth = hot.state.image_of_stock(&sku("a"), W1).unwrap().levels;
    assert_eq!(store.stock(&sku("a"), None).await.unwrap()[0].view.levels, truth);
    assert_eq!(
        store.stock_journal(&sku("a"), &[], 10).await.unwrap().rows.last().unwrap().change.after,
        truth
    );

    // A version that nobody made.
    server.sql("UPDATE hotstock.stock SET version = 9");
    hot.must(reserve("o-3", &[("a", 1)]));
    let refused = hot.flush(&store, 10).await;
    assert!(
        matches!(&refused, Err(StoreError::Inconsistent(problem)) if problem.contains("version 9")),
        "{refused:?}"
    );
    assert_eq!(store.order(&order("o-3")).await.unwrap(), None);
    server.sql("UPDATE hotstock.stock SET version = 5");
    hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: 0 });
    hot.flush_all(&store).await;

    // Of a cold stock, its journal does.
    server.sql("UPDATE hotstock.stock SET available = 50, sold = 1, supplied = 51, version = 2");
    let books = &store.books(None, 10).await.unwrap()[0];
    assert_ne!(books.journal_after, Some(books.row.view.levels));
    let before = Levels { available: 50, sold: 1, version: 2, ..books.row.view.levels };
    let truth = hot.state.image_of_stock(&sku("a"), W1).unwrap().levels;
    let after = Levels { version: truth.version + 1, ..truth };
    let repaired = store.repair(&sku("a"), W1, hot.now).await.unwrap().unwrap();
    assert_eq!((repaired.before, repaired.after), (before, after));
    assert_eq!(store.repair(&sku("a"), W1, hot.now).await.unwrap(), None);
    let row = store.stock_journal(&sku("a"), &[], 100).await.unwrap().rows.pop().unwrap();
    assert_eq!((row.change.kind.name(), row.change.after, row.source), ("repaired", after, None));
    assert!(row.change.reason.unwrap().as_str().contains("was 50 available"));
    let books = &store.books(None, 10).await.unwrap()[0];
    let units = |units: u64| i64::try_from(units).unwrap();
    assert_eq!(books.journal, [units(after.available), units(after.reserved), units(after.sold)]);
    assert_eq!(books.journal_after, Some(books.row.view.levels));
}
