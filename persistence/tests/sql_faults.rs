//! A MariaDB that is stopped, killed or cut off: every call ends in bounded time, nothing is done twice or half, and when it is back
//! the store works again by itself.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve};
use hotstock_engine::ids::{AttemptId, Branch, OrderNo, ServerId, SkuId, WarehouseId};
use hotstock_engine::outcome::{Levels, Refusal};
use hotstock_engine::store::{ColdOutcome, Store, StoreError};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn sku() -> SkuId {
    SkuId::new("one").unwrap()
}

fn open(url: &str) -> Arc<SqlStore> {
    let second = Duration::from_secs(1);
    let options = SqlOptions {
        connections: 6,
        acquire_timeout: second,
        statement_timeout: second,
        ..SqlOptions::new(url)
    };
    Arc::new(SqlStore::open(&options, ServerId(1), 1).unwrap())
}

fn reserve(order: &str) -> Command {
    let line = Line { sku_id: sku(), warehouse_id: WarehouseId(1), quantity: 1 };
    Action::Reserve(Reserve {
        order_no: OrderNo::new(order).unwrap(),
        lines: Lines::new([line]).unwrap(),
        ttl_seconds: 3_600,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

async fn fill(store: &SqlStore, quantity: u64) {
    let create = CreateStock { sku_id: sku(), warehouse_id: WarehouseId(1), quantity, serialized: false };
    let created = store.submit(&Action::CreateStock(create).into(), NOW).await.unwrap();
    assert!(matches!(created, ColdOutcome::Done { outcome: Ok(_), .. }));
}

async fn levels(store: &SqlStore) -> Levels {
    store.stock(&sku(), None).await.unwrap()[0].view.levels
}

/// Until it answers again; the server runs, so it must.
async fn healed(store: &SqlStore) {
    let since = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not heal: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_stands_still_is_unavailable_until_it_goes_on() {
    let db = MariaDb::start();
    let store = open(&db.url("hotstock"));
    fill(&store, 1_000).await;
    db.stop_signal();
    // Three rounds: with connections that were open, with those that are refused, with new ones.
    for round in 0..3 {
        let calls = (0..12).map(|call| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.submit(&reserve(&format!("{round} {call}")), NOW).await })
        });
        for call in calls.collect::<Vec<_>>() {
            // Twice the wait for a connection and once that for a statement; far beyond it something is wrong.
            let answer = tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap();
            assert!(matches!(answer, Err(StoreError::Unavailable(_) | StoreError::Busy(_))), "{answer:?}");
        }
    }
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    db.continue_signal();
    healed(&store).await;
    assert_eq!(levels(&store).await.available, 1_000);
    let done = store.submit(&reserve("after"), NOW).await.unwrap();
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn orders_through_kills_and_cuts_are_made_once() {
    let mut db = MariaDb::start();
    let store = open(&db.url("hotstock"));
    fill(&store, 1_000_000).await;
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = (0..8).map(|caller| {
        let (store, stop, tried) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&tried));
        tokio::spawn(async move {
            let mut made = BTreeSet::new();
            for order in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return (made, None);
                }
                let name = format!("{caller} {order}");
                tried.fetch_add(1, Ordering::Relaxed);
                // As a caller does: again with the same number, until there is an answer.
                loop {
                    match store.submit(&reserve(&name), NOW).await {
                        Ok(ColdOutcome::Done { outcome: Ok(_), .. }) => break,
                        Ok(ColdOutcome::Done { outcome: Err(Refusal::InsufficientStock { .. }), .. }) => {
                            return (made, Some(name));
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(StoreError::Inconsistent(problem)) => panic!("{problem}"),
                        Err(_) if stop.load(Ordering::Relaxed) => return (made, Some(name)),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                made.insert(name);
            }
            (made, None)
        })
    });
    let callers: Vec<_> = callers.collect();
    let passed = |more: u64| {
        let (tried, goal) = (Arc::clone(&tried), tried.load(Ordering::Relaxed) + more);
        async move {
            while tried.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    for round in 0..6 {
        passed(100).await;
        if round % 2 == 0 {
            db.cut_connections();
        } else {
            db.kill();
            db.restart();
        }
    }
    passed(100).await;
    stop.store(true, Ordering::Relaxed);
    let mut made = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    for caller in callers {
        let (names, last) = caller.await.unwrap();
        made.extend(names);
        unknown.extend(last);
    }
    healed(&store).await;
    // What was answered is there; what is there was asked for; units, versions and journal fit the orders.
    let stored: BTreeSet<_> =
        db.sql("SELECT order_no FROM hotstock.orders").lines().map(str::to_owned).collect();
    assert!(made.is_subset(&stored));
    assert!(stored.iter().all(|name| made.contains(name) || unknown.contains(name)));
    let orders = stored.len() as u64;
    let levels = levels(&store).await;
    assert_eq!((levels.available, levels.reserved), (1_000_000 - orders, orders));
    let journal = db.sql("SELECT COUNT(*), MAX(version), SUM(d_reserved) FROM hotstock.stock_journal");
    assert_eq!(journal.trim(), format!("{}\t{}\t{orders}", orders + 1, levels.version));
    assert_eq!(levels.version, orders + 1);
}

/// The branches of carts, all of a cart in one transaction, through kills and cuts: told again until there is an answer, as the home of
/// an order does. Nothing is held or sold twice, and none of a cart without the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn branches_through_kills_and_cuts_are_decided_once() {
    const SKUS: [&str; 3] = ["a", "b", "c"];
    let mut db = MariaDb::start();
    let store = open(&db.url("hotstock"));
    for name in SKUS {
        let sku_id = SkuId::new(name).unwrap();
        let create =
            CreateStock { sku_id, warehouse_id: WarehouseId(1), quantity: 1_000_000, serialized: false };
        store.submit(&Action::CreateStock(create).into(), NOW).await.unwrap();
    }
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = (0..6_u64).map(|caller| {
        let (store, stop, tried) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&tried));
        tokio::spawn(async move {
            let (mut sold, mut given_back) = (0_u64, 0_u64);
            for cart in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                tried.fetch_add(1, Ordering::Relaxed);
                let branches = SKUS.map(|name| Branch {
                    order_no: OrderNo::new(&format!("{caller} {cart}")).unwrap(),
                    sku_id: SkuId::new(name).unwrap(),
                    attempt: AttemptId(cart),
                });
                until_answered(&store, &branches.each_ref().map(hold)).await;
                let end = |branch: &Branch| -> Command {
                    let order_no = branch.number();
                    match cart % 3 {
                        0 => Action::Confirm(Confirm { order_no, part: None }).into(),
                        1 => Action::Release(Release { order_no, part: None, reason: None }).into(),
                        _ => Action::Expire(order_no).into(),
                    }
                };
                until_answered(&store, &branches.each_ref().map(end)).await;
                if cart % 3 == 0 { sold += 1 } else { given_back += 1 }
            }
            (sold, given_back)
        })
    });
    let callers: Vec<_> = callers.collect();
    let passed = |more: u64| {
        let (tried, goal) = (Arc::clone(&tried), tried.load(Ordering::Relaxed) + more);
        async move {
            while tried.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    for round in 0..6 {
        passed(40).await;
        if round % 2 == 0 {
            db.cut_connections();
        } else {
            db.kill();
            db.restart();
        }
    }
    passed(40).await;
    stop.store(true, Ordering::Relaxed);
    let (mut sold, mut given_back) = (0, 0);
    for caller in callers {
        let (some, others) = caller.await.unwrap();
        (sold, given_back) = (sold + some, given_back + others);
    }
    healed(&store).await;
    assert!(sold > 0 && given_back > 0);
    for books in store.books(None, 10).await.unwrap() {
        let levels = books.row.view.levels;
        assert_eq!((levels.available, levels.reserved, levels.sold), (1_000_000 - sold, 0, sold));
        assert_eq!(
            (books.held_by_orders, books.sold_by_orders, books.journal_rows),
            (0, sold, levels.version)
        );
        assert_eq!(levels.version, 1 + 2 * (sold + given_back));
    }
    let branches = db.sql("SELECT COUNT(*) FROM hotstock.orders WHERE kind = 2");
    assert_eq!(branches.trim(), (3 * (sold + given_back)).to_string());
}

fn hold(branch: &Branch) -> Command {
    let line = Line { sku_id: branch.sku_id.clone(), warehouse_id: WarehouseId(1), quantity: 1 };
    Action::Reserve(Reserve {
        order_no: branch.number(),
        lines: Lines::new([line]).unwrap(),
        ttl_seconds: 3,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

/// Gives commands again until all are answered; none may be refused.
async fn until_answered(store: &SqlStore, commands: &[Command]) {
    loop {
        match store.submit_all(commands, NOW).await {
            Ok(outcomes) => {
                let done =
                    |outcome: &ColdOutcome| matches!(outcome, ColdOutcome::Done { outcome: Ok(_), .. });
                assert!(outcomes.iter().all(done), "{commands:?}: {outcomes:?}");
                return;
            }
            Err(StoreError::Inconsistent(problem)) => panic!("{problem}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_go_away_leave_nothing_half_done() {
    let db = MariaDb::start();
    let store = open(&db.url("hotstock"));
    fill(&store, 1_000_000).await;
    for order in 0..300_u64 {
        let (store, command) = (Arc::clone(&store), reserve(&format!("{order}")));
        let call = tokio::spawn(async move { store.submit(&command, NOW).await });
        tokio::time::sleep(Duration::from_micros(order * 37 % 5_000)).await;
        call.abort();
        let _ = call.await;
    }
    // What they left on their way is rolled back or committed by the server; the next one waits for its locks.
    let done = store.submit(&reserve("last"), NOW).await.unwrap();
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    let orders: u64 = db.sql("SELECT COUNT(*) FROM hotstock.orders").trim().parse().unwrap();
    let lines: u64 = db.sql("SELECT COUNT(*) FROM hotstock.order_lines").trim().parse().unwrap();
    let levels = levels(&store).await;
    assert_eq!((levels.reserved, levels.version, lines), (orders, orders + 1, orders));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_another_process_holds_is_busy() {
    use sqlx::Connection as _;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let store = open(&url);
    fill(&store, 10).await;
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    // One tries, as many as there are places wait, the others are told at once.
    let places = hotstock_persistence::limits::MAX_WAITING_WRITERS;
    let calls = (0..places + 100).map(|call| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.submit(&reserve(&format!("{call}")), NOW).await })
    });
    let mut at_once = 0;
    for call in calls.collect::<Vec<_>>() {
        let answer = tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap();
        let Err(StoreError::Busy(problem)) = answer else { panic!("{answer:?}") };
        at_once += usize::from(problem.contains("too many"));
    }
    assert!(at_once >= 99, "{at_once}");
    // Readers are not held up.
    assert_eq!(levels(&store).await.available, 10);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let done = store.submit(&reserve("after"), NOW).await.unwrap();
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    assert_eq!(levels(&store).await.reserved, 1);
}
