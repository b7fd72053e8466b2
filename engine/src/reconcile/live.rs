//! The running engine, as reconcile sees it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::look::Live;
use crate::clock::Timestamp;
use crate::hub::Hub;
use crate::ids::{SkuId, WarehouseId};
use crate::limits::RECONCILE_FLUSH_WAIT_MILLIS;
use crate::outcome::{Refusal, StockView};

#[async_trait]
impl Live for Hub {
    fn views(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockView>> {
        self.context.views.page(after, limit)
    }

    fn view(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockView> {
        self.context.views.stock(sku_id, Some(warehouse_id)).pop()
    }

    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal> {
        Hub::stock(self, sku_id, None).await
    }

    async fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        Hub::stock_page(self, after, limit).await
    }

    async fn flushed(&self) -> bool {
        let Some(side) = &self.side else { return true };
        let deadline = Instant::now() + Duration::from_millis(RECONCILE_FLUSH_WAIT_MILLIS);
        let durable: Vec<_> = self.shards.iter().map(|shard| (shard.id, shard.durable_lsn())).collect();
        for (shard, lsn) in durable {
            if !side.flushed(shard, lsn, deadline).await {
                return false;
            }
        }
        true
    }

    fn mark(&self, stock: StockView) {
        if let Some(dirty) = &self.context.dirty {
            dirty.mark(stock);
        }
    }

    fn now(&self) -> Timestamp {
        self.context.clock.now()
    }
}
