//! The running engine, as reconcile sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::look::Live;
use crate::clock::Timestamp;
use crate::hub::Hub;
use crate::ids::{Lsn, SkuId, WarehouseId};
use crate::limits::RECONCILE_FLUSH_WAIT_MILLIS;
use crate::outcome::{Refusal, StockView};
use crate::shard::shared::ShardShared;

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
        // Not the durable LSN: the views are published before it, so what they showed may be one commit ahead of it.
        let applied = |shard: &Arc<ShardShared>| (shard.id, Lsn(shard.counters.applied.load(Ordering::Acquire)));
        let applied: Vec<_> = self.shards.iter().map(applied).collect();
        for (shard, lsn) in applied {
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
