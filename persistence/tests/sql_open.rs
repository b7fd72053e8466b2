//! The SQL store is reached: its tables are made once, whoever comes first, and it keeps its identity.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotstock_engine::ids::ServerId;
use hotstock_engine::store::StoreError;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

fn store(url: &str, server: u128) -> SqlStore {
    SqlStore::open(&SqlOptions::new(url), ServerId(server), 1).unwrap()
}

/// Eight servers at once, twice: all find the same store.
async fn servers_that_start_at_once_find_one_store(url: &str) {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let starts = (1..=8).map(|server| {
            let url = url.to_owned();
            tokio::spawn(async move { store(&url, server).migrate().await.map(str::to_owned) })
        });
        for start in starts.collect::<Vec<_>>() {
            ids.push(start.await.unwrap().unwrap());
        }
    }
    assert_eq!(ids[0].len(), 32);
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_made_by_whoever_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("sqlite:{}", dir.path().join(name).display());
    servers_that_start_at_once_find_one_store(&url("a.sqlite")).await;
    let (one, other) = (store(&url("a.sqlite"), 1), store(&url("b.sqlite"), 1));
    assert_eq!(one.store_id(), None);
    assert_ne!(one.migrate().await.unwrap(), other.migrate().await.unwrap());
    assert!(one.store_id().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_made_by_whoever_comes_first() {
    let mut db = MariaDb::start();
    let url = db.url("hotstock");
    servers_that_start_at_once_find_one_store(&url).await;
    // One that died half way through its migration.
    db.sql("UPDATE hotstock._sqlx_migrations SET success = FALSE; DROP TABLE hotstock.anomalies");
    servers_that_start_at_once_find_one_store(&url).await;
    assert_eq!(db.sql("SELECT COUNT(*) FROM hotstock.anomalies").trim(), "0");

    // Not there when the server starts, there later.
    db.kill();
    let store = store(&url, 1);
    assert!(matches!(store.migrate().await, Err(StoreError::Unavailable(_))));
    db.restart();
    let mut tries = 0;
    while let Err(error) = store.migrate().await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        tries += 1;
        assert!(tries < 1_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_store_that_does_not_belong_here_is_refused_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("s").display());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let check = move |id: &str| {
        count.fetch_add(1, Ordering::Relaxed);
        Err(format!("not {id}"))
    };
    let strict = store(&url, 1).checked_by(Box::new(check));
    let Err(StoreError::Inconsistent(problem)) = strict.migrate().await else { panic!("it is taken") };
    assert_eq!(problem, format!("not {}", store(&url, 1).migrate().await.unwrap()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn addresses_that_cant_be_a_store_are_refused() {
    for url in ["", "postgres://x/y", "sqlite::memory:", "mysql://root@127.0.0.1", "hotstock.sqlite"] {
        let opened = SqlStore::open(&SqlOptions::new(url), ServerId(1), 1);
        assert!(matches!(opened, Err(StoreError::Inconsistent(_))), "{url:?}");
    }
}
