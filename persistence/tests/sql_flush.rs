//! Both databases take in the events of shards as the contract says.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use hotstock_engine::ids::ServerId;
use hotstock_persistence::sql::{SqlOptions, SqlStore};

fn store(url: &str) -> SqlStore {
    SqlStore::open(&SqlOptions::new(url), ServerId(1), 1).unwrap()
}

mod on_sqlite {
    use hotstock_persistence::sql::SqlStore;
    use tempfile::TempDir;

    async fn fresh() -> (TempDir, SqlStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = super::store(&format!("sqlite:{}", dir.path().join("store").display()));
        (dir, store)
    }

    hotstock_engine::flush_suite!(fresh());
}

mod on_mariadb {
    use hotstock_persistence::sql::SqlStore;
    use hotstock_persistence::testing::MariaDb;

    async fn fresh() -> (MariaDb, SqlStore) {
        let server = MariaDb::start();
        let store = super::store(&server.url("hotstock"));
        (server, store)
    }

    hotstock_engine::flush_suite!(fresh());
}
