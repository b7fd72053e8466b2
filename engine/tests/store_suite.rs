//! The store in memory passes the suites that every store must pass.

#![cfg(not(loom))]

use std::sync::Arc;

use hotstock_engine::ids::ServerId;
use hotstock_engine::store::Store;
use hotstock_engine::testing::MemoryStore;
use hotstock_engine::testing::store_suite::Subject;

#[derive(Default)]
struct InMemory(MemoryStore);

impl Subject for InMemory {
    fn open_as(&self, server: ServerId, shards: u16) -> Arc<dyn Store> {
        Arc::new(self.0.session_of(server, shards))
    }
}

hotstock_engine::store_suite!(InMemory::default());

/// See [`hotstock_engine::testing::flush_suite`].
mod flush {
    use hotstock_engine::testing::MemoryStore;

    hotstock_engine::flush_suite!(async { ((), MemoryStore::default()) });
}
