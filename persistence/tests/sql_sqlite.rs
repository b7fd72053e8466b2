//! The store on SQLite passes the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use hotstock_engine::ids::ServerId;
use hotstock_engine::store::Store;
use hotstock_engine::testing::store_suite::Subject;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use tempfile::TempDir;

struct OnSqlite(TempDir);

impl OnSqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Subject for OnSqlite {
    fn open_as(&self, server: ServerId, shards: u16) -> Arc<dyn Store> {
        let url = format!("sqlite:{}", self.0.path().join("store.sqlite").display());
        Arc::new(SqlStore::open(&SqlOptions::new(url), server, shards).unwrap())
    }
}

hotstock_engine::store_suite!(OnSqlite::new());
