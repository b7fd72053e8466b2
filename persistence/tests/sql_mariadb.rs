//! The store on a real MariaDB passes the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use async_trait::async_trait;
use hotstock_engine::ids::{OrderNo, RequestId, SkuId};
use hotstock_engine::store::Store;
use hotstock_engine::testing::store_suite::Subject;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

/// A database of one server. A MariaDB takes two seconds to make and start, so all share it.
struct OnMariaDb {
    server: Arc<MariaDb>,
    name: String,
}

#[async_trait]
impl Subject for OnMariaDb {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqlStore::open(&SqlOptions::new(self.server.url(&self.name))).unwrap())
    }

    async fn spoil(&self, sku_id: &SkuId, available: u64) {
        let name = &self.name;
        self.server
            .sql(&format!("UPDATE {name}.stock SET available = {available} WHERE sku_id = '{sku_id}'"));
    }

    async fn delete_order(&self, order_no: &OrderNo) {
        let name = &self.name;
        for table in ["order_lines", "orders"] {
            self.server.sql(&format!("DELETE FROM {name}.{table} WHERE order_no = '{order_no}'"));
        }
    }

    async fn delete_request(&self, sku_id: &SkuId, request_id: &RequestId) {
        let rows = format!("sku_id = '{sku_id}' AND request_id = '{request_id}'");
        self.server.sql(&format!("DELETE FROM {}.stock_requests WHERE {rows}", self.name));
    }

    async fn edit_holds(&self, order_no: &OrderNo, units: Option<u32>) {
        let change = match units {
            Some(units) => format!("UPDATE {}.holds SET units = {units}", self.name),
            None => format!("DELETE FROM {}.holds", self.name),
        };
        self.server.sql(&format!("{change} WHERE order_no = '{order_no}'"));
    }
}

hotstock_engine::store_suite!(together {
    let server = Arc::new(MariaDb::start());
    move |name: &str| OnMariaDb { server: Arc::clone(&server), name: name.to_owned() }
});
