//! What reconcile needs of the running engine.

use std::sync::Arc;

use async_trait::async_trait;

use crate::checkpoint::StockImage;
use crate::clock::Timestamp;
use crate::ids::{Epoch, Lsn, ShardId, SkuId};
use crate::journal::JournalReader;
use crate::outcome::{Refusal, StockView};

/// See the top of the file.
#[async_trait]
pub(crate) trait Live: Send + Sync {
    /// The number of shards.
    fn shards(&self) -> u16;

    /// The reading side of the journal.
    fn journal(&self) -> Arc<dyn JournalReader>;

    /// The epoch that writes to the store name.
    fn epoch(&self) -> Epoch;

    /// The time.
    fn now(&self) -> Timestamp;

    /// Up to `limit` SKUs (at least one, if there is one) after `after`, by name, that are in memory.
    fn residents(&self, after: Option<&SkuId>, limit: usize) -> Vec<SkuId>;

    /// The stocks of those SKUs of a shard that are in its memory, as they are after its event `Lsn`, which is durable.
    async fn images(&self, shard: ShardId, skus: Vec<SkuId>) -> Result<(Lsn, Vec<StockImage>), Refusal>;

    /// The stocks of a SKU as callers are told.
    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal>;

    /// The rows of a SKU were put right: it is parked no longer, and may be loaded.
    fn repaired(&self, sku_id: &SkuId);
}

/// The running engine.
pub(crate) struct RunningEngine {
    pub reads: Arc<Reads>,
    pub reader: Arc<dyn JournalReader>,
    pub clock: Arc<dyn Clock>,
    pub flushers: Arc<Flushers>,
}

#[async_trait]
impl Live for RunningEngine {
    fn shards(&self) -> u16 {
        // An engine has at most MAX_SHARDS.
        u16::try_from(self.reads.shards.len()).unwrap_or(u16::MAX)
    }

    fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.reader)
    }

    fn epoch(&self) -> Epoch {
        self.reads.fence.epoch()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn residents(&self, after: Option<&SkuId>, limit: usize) -> Vec<SkuId> {
        let page = self.reads.views.page(after, limit);
        page.iter().filter_map(|stocks| stocks.first()).map(|stock| stock.sku_id.clone()).collect()
    }

    async fn images(&self, shard: ShardId, skus: Vec<SkuId>) -> Result<(Lsn, Vec<StockImage>), Refusal> {
        let shared = &self.reads.shards[shard.index()];
        if !shared.gate.enter(1) {
            return Err(Refusal::Overloaded);
        }
        let (to, answer) = oneshot::channel();
        shared.mailbox.push([Envelope::Look { skus, to }]);
        shared.wake();
        answer.await.map_err(|_| Refusal::ShardRestarted)
    }

    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal> {
        self.reads.stock(sku_id, None).await
    }

    fn repaired(&self, sku_id: &SkuId) {
        self.flushers.unpark(sku_id);
    }
}
