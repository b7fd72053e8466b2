//! The SQL store is reached: its tables are made once, whoever comes first, and it keeps its identity.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotstock_engine::store::StoreError;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

fn store(url: &str) -> SqlStore {
    SqlStore::open(&SqlOptions::new(url)).unwrap()
}

/// Eight servers at once, twice: all find the same store.
async fn servers_that_start_at_once_find_one_store(url: &str) {
    let mut ids = Vec::new();
    for _ in 0..2 {
        let starts = (1..=8).map(|_| {
            let url = url.to_owned();
            tokio::spawn(async move { store(&url).migrate().await.map(str::to_owned) })
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
    let (one, other) = (store(&url("a.sqlite")), store(&url("b.sqlite")));
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
    let store = store(&url);
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
    let strict = store(&url).checked_by(Box::new(check));
    let Err(StoreError::Foreign(problem)) = strict.migrate().await else { panic!("it is taken") };
    assert_eq!(problem, format!("not {}", store(&url).migrate().await.unwrap()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// What is in a database of another program, or of a version before the first release, is not touched.
#[tokio::test]
async fn a_database_of_others_is_refused() {
    use sqlx::Connection as _;
    let dir = tempfile::tempdir().unwrap();
    for (name, made) in [
        ("other", "CREATE TABLE stock (sku_id TEXT)"),
        (
            "older",
            "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
             execution_time BIGINT NOT NULL); \
             INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (1, 'first', TRUE, x'00', 1), (2, 'several places', TRUE, x'00', 1); CREATE TABLE servers (server_id TEXT)",
        ),
    ] {
        let path = dir.path().join(name);
        let url = format!("sqlite:{}", path.display());
        let mut conn = sqlx::SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
        sqlx::raw_sql(made).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let before = std::fs::read(&path).unwrap();
        let Err(StoreError::Foreign(problem)) = store(&url).migrate().await else { panic!("it is taken") };
        assert!(
            problem.contains("version of the program") || problem.contains("not this program's"),
            "{problem}"
        );
        let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = 'watermarks'")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!((tables, before.is_empty()), (0, false));
    }
}

#[test]
fn addresses_that_cant_be_a_store_are_refused() {
    for url in ["", "postgres://x/y", "mysql://root@127.0.0.1", "hotstock.sqlite"] {
        let opened = SqlStore::open(&SqlOptions::new(url));
        assert!(matches!(opened, Err(StoreError::Inconsistent(_))), "{url:?}");
    }
}
