//! Reads of stock: of SKUs in memory from the views, of others from the store, without loading them.
//!
//! The views are looked at first: a SKU that is not there left memory before the store is asked, or never was there;
//! and what the store says counts only if it has taken in everything that left memory ([`ShardShared::departed`]).
//! Afterwards they are looked at again, for a SKU that came into memory meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::ids::{ShardId, SkuId, WarehouseId, shard_of};
use crate::base::limits::{MAX_PAGE_STOCKS, MAX_READ_TRIES, MAX_READ_WAIT_MILLIS};
use crate::contract::outcome::{Refusal, StockView};
use crate::contract::store::StoreError;
use crate::services::fence::Fence;
use crate::services::shared::ShardShared;
use crate::services::store_link::{StoreLink, refusal_of};
use crate::services::views::Views;

/// SKUs by name, each with its stocks.
type Page = Vec<Vec<StockView>>;

/// A flush takes as long, about.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// See the top of the file.
pub(crate) struct Reads {
    pub views: Arc<Views>,
    pub shards: Arc<[Arc<ShardShared>]>,
    pub link: Arc<StoreLink>,
    pub fence: Arc<Fence>,
}

impl Reads {
    /// The levels of a SKU. See [`crate::front::engine::Engine::stock`].
    pub async fn stock(
        &self,
        sku_id: &SkuId,
        warehouse_id: Option<WarehouseId>,
    ) -> Result<Vec<StockView>, Refusal> {
        self.fence.check()?;
        let shard = &self.shards[self.shard(sku_id).index()];
        for _ in 0..MAX_READ_TRIES {
            if let Some(stocks) = self.in_memory(sku_id, warehouse_id) {
                return Ok(stocks);
            }
            let stored = match self.link.noted(self.link.store().stock(sku_id, warehouse_id).await) {
                // Its row can't be read, now or later.
                Err(StoreError::Inconsistent(problem)) if self.in_memory(sku_id, None).is_none() => {
                    return Err(Refusal::StockInconsistent { sku_id: sku_id.clone(), problem });
                }
                stored => stored.map_err(refusal_of)?,
            };
            if let Some(stocks) = self.in_memory(sku_id, warehouse_id) {
                return Ok(stocks);
            }
            if stored.flushed(shard.id) >= shard.departed_lsn() {
                return Ok(stored.rows);
            }
        }
        Err(Refusal::StoreUnavailable)
    }

    /// `None`: the SKU is not in memory.
    pub fn in_memory(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Option<Vec<StockView>> {
        let mut stocks = self.views.stock(sku_id, None);
        if stocks.is_empty() {
            return None;
        }
        stocks.retain(|stock| warehouse_id.is_none_or(|warehouse_id| stock.warehouse_id == warehouse_id));
        Some(stocks)
    }

    /// A page of SKUs. See [`crate::front::engine::Engine::stock_page`].
    pub async fn stock_page(
        &self,
        after: Option<&SkuId>,
        limit: usize,
    ) -> Result<Vec<Vec<StockView>>, Refusal> {
        self.fence.check()?;
        let (here, stored) = self.page(after, limit).await?;
        let rows = here.iter().map(Vec::len).sum::<usize>();
        let last = |page: &[Vec<StockView>]| {
            page.last().and_then(|sku| sku.first()).map(|stock| stock.sku_id.clone())
        };
        // What lies behind the end of a full page is not known yet.
        let end_here = if here.len() >= limit || rows >= MAX_PAGE_STOCKS { last(&here) } else { None };
        let end_stored = if stored.len() >= limit { last(&stored) } else { None };
        let end = match (end_here, end_stored) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let mut all = std::collections::BTreeMap::new();
        for sku in stored.into_iter().chain(here) {
            // In memory comes later, and is newer.
            if let Some(first) = sku.first() {
                all.insert(first.sku_id.clone(), sku);
            }
        }
        let is_within = |(sku_id, _): &(SkuId, Vec<StockView>)| end.as_ref().is_none_or(|end| sku_id <= end);
        Ok(all.into_iter().take_while(is_within).take(limit).map(|(_, sku)| sku).collect())
    }

    /// A page of what is in memory, and one of the store that has everything that left memory before. It always has,
    /// but for the first moment after a start, and after it went back in time.
    async fn page(&self, after: Option<&SkuId>, limit: usize) -> Result<(Page, Page), Refusal> {
        let deadline = Instant::now() + Duration::from_millis(MAX_READ_WAIT_MILLIS);
        loop {
            let here = self.views.page(after, limit);
            let departed: Vec<_> = self.shards.iter().map(|shard| (shard.id, shard.departed_lsn())).collect();
            let stored = self.link.store().stock_page(after, limit).await;
            let stored = self.link.noted(stored).map_err(refusal_of)?;
            if departed.iter().all(|(shard, departed)| stored.flushed(*shard) >= *departed) {
                return Ok((here, stored.rows));
            }
            if Instant::now() >= deadline {
                return Err(Refusal::StoreUnavailable);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn shard(&self, sku_id: &SkuId) -> ShardId {
        shard_of(sku_id, u16::try_from(self.shards.len()).unwrap_or(u16::MAX))
    }
}
