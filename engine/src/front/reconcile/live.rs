//! What reconcile needs of the running engine.

use std::sync::Arc;

use async_trait::async_trait;

use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, ShardId, SkuId};
use crate::contract::image::StockImage;
use crate::contract::journal::JournalReader;
use crate::contract::outcome::{Refusal, StockView};

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
