//! Puts right what a stop or a crash left half done: SKUs that a shard has begun to adopt, and SKUs that the store has given to this server
//! and whose shard never heard of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::routes::{Begun, Look};
use super::{Asked, Backoff};
use crate::checkpoint::Stage;
use crate::hub::Hub;
use crate::ids::{ShardId, SkuId, shard_of};
use crate::limits::{MAX_MOVE_SECONDS, MAX_SKUS_PER_MOVE};

impl Hub {
    /// At start, in the background: what the shards have begun to adopt, and what the store says is ours and no shard knows. Both
    /// together, because orders may link them.
    pub async fn repair(&self) {
        let side = self.side();
        let mut by_shard: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
        for hot in side.routes.list(None, usize::MAX) {
            if hot.stage == Stage::Adopting {
                by_shard.entry(hot.shard).or_default().push(hot.sku_id);
            }
        }
        let mut backoff = Backoff::default();
        let mut after: Option<SkuId> = None;
        while !side.is_stopping() {
            // The store must know of every SKU that has left.
            if !self.all_flushed().await {
                sleep(backoff.next()).await;
                continue;
            }
            let page = side.noted(side.store.owned(side.server, after.as_ref(), MAX_SKUS_PER_MOVE).await);
            let Ok(page) = page else {
                sleep(backoff.next()).await;
                continue;
            };
            let full = page.len() >= MAX_SKUS_PER_MOVE;
            after = page.last().map(|(sku_id, _)| sku_id.clone());
            for (sku_id, owner) in page {
                let unknown = matches!(side.routes.look(&sku_id), Look::Cold);
                // A promotion that is asked for just now will do it.
                if unknown && matches!(side.routes.begin(&sku_id, Stage::Adopting, owner.shard, false), Begun::Started) {
                    by_shard.entry(owner.shard).or_default().push(sku_id);
                }
            }
            if !full {
                side.settled.send_replace(true);
                break;
            }
        }
        for (shard, skus) in by_shard {
            if shard.index() < self.shards.len() {
                tracing::info!(%shard, skus = skus.len(), "SKUs were on their way into the shard");
                let hub = self.arc();
                side.spawn(async move { hub.carry_on(shard, skus, Asked::Repair, &mut None).await });
            } else {
                tracing::error!(%shard, skus = skus.len(), "the store has given SKUs to a shard that there is not");
            }
        }
    }

    /// A command met a SKU without route of which the store says that it is ours.
    pub fn reclaim(&self, sku_id: &SkuId) {
        let (hub, sku_id) = (self.arc(), sku_id.clone());
        self.side().spawn(async move { hub.take_back(vec![sku_id]).await });
    }

    /// Adopts SKUs without route that the store says are ours, once everything is flushed that could say otherwise.
    async fn take_back(&self, skus: Vec<SkuId>) {
        let side = self.side();
        let mut by_shard: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
        for sku_id in skus {
            let shard = shard_of(&sku_id, self.context.options.shards);
            // Whoever is at it already will do it.
            if matches!(side.routes.begin(&sku_id, Stage::Adopting, shard, false), Begun::Started) {
                by_shard.entry(shard).or_default().push(sku_id);
            }
        }
        for (shard, skus) in by_shard {
            let mut backoff = Backoff::default();
            let mut ours = Vec::new();
            for sku_id in skus {
                // From here on nobody else moves it, so what the store says stays true.
                let owner = loop {
                    if side.is_stopping() {
                        return;
                    }
                    if self.all_flushed().await
                        && let Ok(rows) = side.noted(side.store.stock(&sku_id, None).await)
                    {
                        break rows.first().and_then(|row| row.owner);
                    }
                    sleep(backoff.next()).await;
                };
                if owner.is_some_and(|owner| owner.server == side.server && owner.shard == shard) {
                    tracing::info!(%sku_id, %shard, "the store has given this SKU to a shard that never heard of it");
                    ours.push(sku_id);
                } else {
                    side.routes.cold(&sku_id);
                }
            }
            self.carry_on(shard, ours, Asked::Repair, &mut None).await;
        }
    }

    /// Whether the store knows everything that was durable when the engine started; waits for it for a while.
    async fn all_flushed(&self) -> bool {
        let side = self.side();
        let deadline = Instant::now() + Duration::from_secs(MAX_MOVE_SECONDS);
        for shard in &self.shards {
            let start = side.follows[shard.id.index()].start;
            if !side.flushed(shard.id, start, deadline).await {
                return false;
            }
        }
        true
    }
}
