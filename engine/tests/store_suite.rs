//! The store in memory passes the suite that every store must pass.

#![cfg(not(loom))]

use std::sync::Arc;

use async_trait::async_trait;

use hotstock_engine::ids::{OrderNo, RequestId, SkuId};
use hotstock_engine::store::Store;
use hotstock_engine::testing::MemoryStore;
use hotstock_engine::testing::store_suite::Subject;

#[derive(Default)]
struct InMemory(MemoryStore);

#[async_trait]
impl Subject for InMemory {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.session())
    }

    async fn spoil(&self, sku_id: &SkuId, available: u64) {
        self.0.spoil(sku_id, available);
    }

    async fn delete_order(&self, order_no: &OrderNo) {
        self.0.delete_order(order_no);
    }

    async fn delete_request(&self, sku_id: &SkuId, request_id: &RequestId) {
        self.0.delete_request(sku_id, request_id);
    }

    async fn edit_holds(&self, order_no: &OrderNo, units: Option<u32>) {
        self.0.edit_holds(order_no, units);
    }
}

hotstock_engine::store_suite!(InMemory::default());
