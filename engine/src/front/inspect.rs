//! The running engine, as reconcile sees it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::base::clock::{Clock, Timestamp};
use crate::base::ids::{Epoch, Lsn, ShardId, SkuId};
use crate::contract::image::StockImage;
use crate::contract::journal::JournalReader;
use crate::contract::outcome::{Refusal, StockView};
use crate::front::reads::Reads;
use crate::front::reconcile::Live;
use crate::services::fence::Fence;
use crate::services::flusher::Flusher;
use crate::services::shared::{Envelope, ShardShared};

/// See the top of the file.
pub(crate) struct Inspected {
    pub shards: Arc<[Arc<ShardShared>]>,
    pub reads: Arc<Reads>,
    pub reader: Arc<dyn JournalReader>,
    pub fence: Arc<Fence>,
    pub flusher: Arc<Flusher>,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Live for Inspected {
    fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap_or(u16::MAX)
    }

    fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.reader)
    }

    fn epoch(&self) -> Epoch {
        self.fence.epoch()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn residents(&self, after: Option<&SkuId>, limit: usize) -> Vec<SkuId> {
        let page = self.reads.views.page(after, limit);
        page.into_iter().filter_map(|sku| sku.into_iter().next()).map(|stock| stock.sku_id).collect()
    }

    async fn images(&self, shard: ShardId, skus: Vec<SkuId>) -> Result<(Lsn, Vec<StockImage>), Refusal> {
        self.fence.check()?;
        let shared = &self.shards[shard.index()];
        if !shared.gate.enter(1) {
            return Err(Refusal::Overloaded);
        }
        let (to, images) = oneshot::channel();
        shared.mailbox.push([Envelope::Images { skus, to }]);
        shared.wake();
        images.await.map_err(|_| Refusal::ShardRestarted)?
    }

    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal> {
        self.reads.stock(sku_id, None).await
    }

    fn repaired(&self, sku_id: &SkuId) {
        self.flusher.unpark(sku_id);
    }
}
