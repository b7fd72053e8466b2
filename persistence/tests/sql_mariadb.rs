//! The store on a real MariaDB passes the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use hotstock_engine::ids::ServerId;
use hotstock_engine::store::Store;
use hotstock_engine::testing::store_suite::Subject;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

/// A database of one server. A MariaDB takes two seconds to make and start, so all share it.
struct OnMariaDb {
    url: String,
}

impl Subject for OnMariaDb {
    fn open_as(&self, server: ServerId, shards: u16) -> Arc<dyn Store> {
        Arc::new(SqlStore::open(&SqlOptions::new(&self.url), server, shards).unwrap())
    }
}

hotstock_engine::store_suite!(together {
    let server = MariaDb::start();
    move |name: &str| OnMariaDb { url: server.url(name) }
});
