//! The store on a real MariaDB passes the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use hotstock_engine::ids::ServerId;
use hotstock_engine::store::Store;
use hotstock_engine::testing::store_suite::Subject;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

struct OnMariaDb(MariaDb);

impl Subject for OnMariaDb {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqlStore::open(&SqlOptions::new(self.0.url("hotstock")), ServerId(1), 1).unwrap())
    }
}

hotstock_engine::store_suite!(OnMariaDb(MariaDb::start()));
