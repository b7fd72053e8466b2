//! A database that is stopped, killed, cut off or held by others: every call ends in bounded time, every event is
//! taken in exactly once, and when it is back the store works again by itself.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hotstock_engine::ids::{Epoch, ServerId, TakeId};
use hotstock_engine::store::{Store, StoreError, StoredSku, Take, Wanted};
use hotstock_engine::testing::store_suite::{
    TestShard, W1, confirm, create, order, release, reserve, restock, sku,
};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

/// Orders of one test: a flush of all of them takes long enough to be caught in the middle.
const ORDERS: u64 = 6_000;

const SKUS: [&str; 3] = ["a", "b", "c"];

fn open(url: &str) -> Arc<SqlStore> {
    let second = Duration::from_secs(1);
    let options = SqlOptions {
        connections: 6,
        acquire_timeout: second,
        statement_timeout: second,
        ..SqlOptions::new(url)
    };
    Arc::new(SqlStore::open(&options).unwrap())
}

fn taking(after: u64) -> Take {
    let (after, epoch) = (Epoch(after), Epoch(after + 1));
    let id = TakeId(epoch.0.into());
    Take { id, server: ServerId(1), shards: 1, after, epoch, lease_seconds: 0, over: false, judged: None }
}

async fn taken(url: &str) -> Arc<SqlStore> {
    let store = open(url);
    store.take(&taking(0)).await.unwrap();
    store
}

/// A shard with orders that reserve, confirm and release.
fn busy_shard() -> TestShard {
    let mut shard = TestShard::new(1);
    for name in SKUS {
        shard.must(create(name, W1, 10 * ORDERS));
    }
    for n in 0..ORDERS {
        let number = format!("o-{n}");
        shard.must(reserve(&number, &[(SKUS[n as usize % 3], 1), (SKUS[(n as usize + 1) % 3], 2)]));
        match n % 3 {
            0 => shard.must(confirm(&number, None)),
            1 => shard.must(release(&number, None)),
            _ => {}
        }
    }
    shard
}

/// Waits until so many more rows were written, by a flush that writes many times more in one transaction; or until
/// `over`.
fn wait_for_the_middle(server: &MariaDb, over: &AtomicBool) {
    let written = || {
        let sql = "SELECT VARIABLE_VALUE FROM information_schema.global_status WHERE VARIABLE_NAME = 'HANDLER_WRITE'";
        server.sql(sql).trim().parse::<u64>().unwrap()
    };
    let begun = written();
    while written() < begun + 1_500 && !over.load(Ordering::Relaxed) {}
}

/// The rows are those of the shard, counted in SQL itself.
async fn check(server: &MariaDb, store: &SqlStore, shard: &TestShard) {
    let marks = store.ownership().await.unwrap().watermarks;
    assert_eq!(marks[0].lsn, shard.last());
    let count = |what: &str| server.sql(&format!("SELECT {what}")).trim().to_owned();
    assert_eq!(count("COUNT(*) FROM hotstock.orders WHERE open < 2"), ORDERS.to_string());
    assert_eq!(count("COUNT(*) FROM hotstock.order_lines WHERE order_no < X'FF'"), (2 * ORDERS).to_string());
    let gaps = "COUNT(*) FROM (SELECT sku_id FROM hotstock.stock_journal WHERE version > 0 GROUP BY sku_id \
         HAVING COUNT(*) <> MAX(version) OR MIN(version) <> 1) gaps";
    assert_eq!(count(gaps), "0");
    let wanted = Wanted { skus: SKUS.map(sku).to_vec(), ..Wanted::default() };
    for (sku_id, stored) in store.load(&wanted).await.unwrap().skus {
        let StoredSku::Sound(stocks) = stored else { panic!("{stored:?}") };
        let levels = shard.made.stocks[&(sku_id.clone(), W1)].levels;
        assert_eq!(stocks[0].levels, levels);
        let sums =
            "CONCAT(SUM(held), ' ', CAST(SUM(confirmed - returned) AS SIGNED)) FROM hotstock.order_lines";
        let sums = count(&format!("{sums} WHERE sku_id = '{sku_id}'"));
        assert_eq!(sums, format!("{} {}", levels.reserved, levels.sold));
    }
    let numbers: Vec<_> = (0..ORDERS).step_by(97).map(|n| order(&format!("o-{n}"))).collect();
    for stored in store.load(&Wanted { orders: numbers, ..Wanted::default() }).await.unwrap().orders {
        assert_eq!(Some(&stored.image), shard.made.orders.get(&stored.image.order_no));
    }
    assert_eq!(store.anomalies(1).await.unwrap().0, 0);
}

/// Flushes until everything is in, whatever comes back meanwhile; gives how often it failed.
async fn flush_on(store: &SqlStore, shard: &mut TestShard, size: usize) -> usize {
    let mut failed = 0;
    while !shard.events.is_empty() {
        match shard.flush(store, size).await {
            Ok(_) => {}
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) | StoreError::Busy(_)) => {
                failed += 1;
                // As a flusher does, before it tries again; the store refuses at once while it is down.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    failed
}

/// Until it answers again; the server runs, so it must.
async fn healed(store: &SqlStore) {
    let since = Instant::now();
    while let Err(error) = store.ping().await {
        assert!(since.elapsed() < Duration::from_secs(30), "it does not heal: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut_in_the_middle() {
    let server = Arc::new(MariaDb::start());
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
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
    let failed = flush_on(&store, &mut shard, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    cutter.await.unwrap();
    assert!(failed >= 1, "no flush was caught");
    check(&server, &store, &shard).await;
    // The lock of the owner was cut off too, and comes back.
    let other = open(&server.url("hotstock"));
    store.renew(Epoch(1), 0).await.unwrap();
    assert_eq!(other.take(&taking(1)).await, Err(StoreError::OwnerAlive));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed_in_the_middle() {
    let server = MariaDb::start();
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
    shard.flush(&*store, 100).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let flushed = Arc::clone(&over);
    let killer = tokio::task::spawn_blocking(move || {
        let mut server = server;
        wait_for_the_middle(&server, &flushed);
        server.kill();
        server
    });
    let refused = shard.flush(&*store, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))),
        "{refused:?}"
    );
    let mut server = killer.await.unwrap();
    assert!(shard.flush(&*store, 10).await.is_err());
    server.restart();
    flush_on(&store, &mut shard, 1_000).await;
    check(&server, &store, &shard).await;
    store.renew(Epoch(1), 0).await.unwrap();
    let other = open(&server.url("hotstock"));
    assert_eq!(
        other.take(&taking(1)).await,
        Err(StoreError::OwnerAlive),
        "it holds the lock of the new server"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_stopped_in_the_middle() {
    let server = MariaDb::start();
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
    shard.flush(&*store, 100).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let flushed = Arc::clone(&over);
    let stopper = tokio::task::spawn_blocking(move || {
        wait_for_the_middle(&server, &flushed);
        server.stop_signal();
        server
    });
    // Told within its bounds, though nothing answers.
    let refused = shard.flush(&*store, usize::MAX).await;
    over.store(true, Ordering::Relaxed);
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))),
        "{refused:?}"
    );
    let server = stopper.await.unwrap();
    server.continue_signal();
    flush_on(&store, &mut shard, 1_000).await;
    check(&server, &store, &shard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_stands_still_is_unavailable_until_it_goes_on() {
    let db = MariaDb::start();
    let store = taken(&db.url("hotstock")).await;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 1_000));
    shard.flush_all(&*store).await;
    db.stop_signal();
    // Three rounds: with connections that were open, with those that are refused, with new ones.
    for _ in 0..3 {
        let calls = (0..12).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(
                async move { store.load(&Wanted { skus: vec![sku("a")], ..Wanted::default() }).await },
            )
        });
        for call in calls.collect::<Vec<_>>() {
            // Twice the wait for a connection and once that for a statement; far beyond it something is wrong.
            let answer = tokio::time::timeout(Duration::from_secs(20), call).await.unwrap().unwrap();
            assert!(matches!(answer, Err(StoreError::Unavailable(_) | StoreError::Busy(_))), "{answer:?}");
        }
    }
    let renewed = tokio::time::timeout(Duration::from_secs(20), store.renew(Epoch(1), 0)).await.unwrap();
    assert!(matches!(renewed, Err(StoreError::Unavailable(_) | StoreError::Busy(_))), "{renewed:?}");
    db.continue_signal();
    healed(&store).await;
    shard.must(restock("a", 1, "r"));
    shard.flush_all(&*store).await;
    assert_eq!(store.stock(&sku("a"), None).await.unwrap().rows[0].levels.available, 1_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_flushers_of_one_shard_take_turns() {
    let server = MariaDb::start();
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
    // As after a server was started twice by mistake.
    let mut twin = busy_shard();
    let other = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            flush_on(&store, &mut twin, 170).await;
        })
    };
    flush_on(&store, &mut shard, 130).await;
    other.await.unwrap();
    check(&server, &store, &shard).await;
}

/// A flush is never written by halves with another server's: whoever takes the store waits for it, or it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_in_the_middle_of_flushes_fences_them() {
    let server = MariaDb::start();
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
    let other = open(&server.url("hotstock"));
    let flusher = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                match shard.flush(&*store, 500).await {
                    Ok(_) if !shard.events.is_empty() => {}
                    ended => return (shard, ended),
                }
            }
        })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    other.take(&Take { id: TakeId(99), server: ServerId(2), over: true, ..taking(1) }).await.unwrap();
    let at = other.ownership().await.unwrap().watermarks.first().map(|mark| mark.lsn);
    let (shard, ended) = flusher.await.unwrap();
    let take = Some(TakeId(99));
    assert_eq!(ended, Err(StoreError::Fenced { ours: Epoch(1), newest: Epoch(2), take }));
    assert_eq!(at.unwrap_or_default(), shard.flushed, "nothing came after it was taken");
}

/// A server that takes only small packets gets small statements, and one that takes none of that size at all is no
/// reason to stop.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_as_small_as_the_server_wants_them() {
    let server = MariaDb::start();
    server.sql("SET GLOBAL max_allowed_packet = 16384");
    let store = taken(&server.url("hotstock")).await;
    let mut shard = busy_shard();
    flush_on(&store, &mut shard, 5_000).await;
    check(&server, &store, &shard).await;
}

/// Somebody made a column narrower: the row is left out and its SKU parked, the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_fit_parks_its_sku_alone() {
    let server = MariaDb::start();
    let store = taken(&server.url("hotstock")).await;
    server.sql("ALTER TABLE hotstock.stock ADD CONSTRAINT few CHECK (available < 5000)");
    let mut shard = TestShard::new(1);
    for n in 0..300_u64 {
        let quantity = if n == 77 { 10_000 } else { 10 };
        shard.must(create(&format!("sku-{n}"), W1, quantity));
    }
    let flushed = shard.flush_all(&*store).await;
    assert_eq!((flushed.parked, flushed.anomalies), (vec![sku("sku-77")], 1));
    assert_eq!(server.sql("SELECT COUNT(*) FROM hotstock.stock WHERE version > 0").trim(), "299");
    assert_eq!(server.sql("SELECT COUNT(*) FROM hotstock.stock_journal WHERE version > 0").trim(), "300");
    assert_eq!(store.anomalies(1).await.unwrap().1[0].kind, "row_refused");
    shard.must(restock("sku-5", 9_000, "r"));
    shard.must(restock("sku-6", 9, "r"));
    assert_eq!(shard.flush_all(&*store).await.parked, [sku("sku-5")]);
    assert_eq!(store.stock(&sku("sku-6"), None).await.unwrap().rows[0].levels.available, 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_go_away_leave_nothing_half_done() {
    let db = MariaDb::start();
    let store = taken(&db.url("hotstock")).await;
    let shard = Arc::new(busy_shard());
    for n in 0..100_u64 {
        let (store, shard) = (Arc::clone(&store), Arc::clone(&shard));
        let call = tokio::spawn(async move { store.flush(shard.batch(300)).await });
        tokio::time::sleep(Duration::from_micros(n * 373 % 10_000)).await;
        call.abort();
        let _ = call.await;
    }
    // What they left on their way is rolled back or committed by the server; the next one waits for its locks.
    let mut shard = Arc::into_inner(shard).unwrap();
    flush_on(&store, &mut shard, 2_000).await;
    check(&db, &store, &shard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_that_another_process_holds_is_busy() {
    use sqlx::Connection as _;
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let store = taken(&url).await;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 10));
    shard.flush_all(&*store).await;
    shard.must(restock("a", 5, "r"));
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = shard.flush(&*store, 1).await;
    assert!(matches!(refused, Err(StoreError::Busy(_))), "{refused:?}");
    // Readers are not held up, nor is the heartbeat.
    assert_eq!(store.stock(&sku("a"), None).await.unwrap().rows[0].levels.available, 10);
    store.renew(Epoch(1), 0).await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    shard.flush_all(&*store).await;
    assert_eq!(store.stock(&sku("a"), None).await.unwrap().rows[0].levels.available, 15);
}
