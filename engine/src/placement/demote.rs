//! Takes SKUs out of their shards: the shard closes them and lets their orders go in its following turns; the flush that takes in the
//! last of it clears the owner in the store, and only then their route is gone. Nothing has to be carried on here: the journal
//! has it, the shard and the follower go on by themselves, after a crash too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::promote::{Results, place};
use super::routes::Look;
use super::{Asked, Backoff, Moved};
use crate::checkpoint::Stage;
use crate::command::Place;
use crate::hub::{How, Hub, add, refusal_of};
use crate::ids::{ShardId, SkuId, shard_of};
use crate::limits::MAX_MOVE_SECONDS;
use crate::outcome::{Effect, Refusal};
use crate::sync::unpoisoned;

impl Hub {
    /// Makes SKUs cold. See [`crate::engine::Engine::demote`].
    pub async fn demote(&self, skus: &[SkuId], asked: Asked) -> Results {
        let mut by_shard: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
        for sku_id in skus {
            by_shard.entry(shard_of(sku_id, self.context.options.shards)).or_default().push(sku_id.clone());
        }
        let run = |hub: Arc<Self>, shard, skus, report| async move { hub.demote_in(shard, skus, asked, report).await };
        self.move_groups(skus, by_shard, run).await
    }

    async fn demote_in(&self, shard: ShardId, skus: Vec<SkuId>, asked: Asked, report: oneshot::Sender<Results>) {
        if skus.iter().any(|sku_id| matches!(self.side().routes.look(sku_id), Look::Cold)) && !self.side().is_down() {
            // Shortly after a start, one that is ours may not be known as such yet.
            let mut settled = self.side().settled.subscribe();
            let settled = settled.wait_for(|settled| *settled);
            drop(timeout(Duration::from_secs(MAX_MOVE_SECONDS), settled).await);
        }
        let (begun, moving) = self.begin(skus, Stage::Closing, shard, asked).await;
        let mut results = Vec::new();
        for (sku_id, result) in begun {
            let result = match result {
                // No route: whether there is such a SKU, the store knows.
                Ok(Moved { shard: None, .. }) => self.is_cold(&sku_id).await,
                result => result,
            };
            results.push((sku_id, result));
        }
        let epochs: HashMap<SkuId, u64> = moving.iter().map(|sku_id| (sku_id.clone(), self.side().routes.epoch(sku_id))).collect();
        self.context.failpoint("demote.before_close");
        let closing = self.close(shard, moving, &mut results).await;
        if !closing.is_empty() {
            self.context.failpoint("demote.closed");
        }
        let side = self.side();
        // (sku, epoch, the end of its move)
        let mut waiting = Vec::new();
        for sku_id in closing {
            let over = match side.routes.look(&sku_id) {
                Look::Moving(over) => Some(over),
                _ => None,
            };
            let epoch = epochs.get(&sku_id).copied().unwrap_or(0);
            waiting.push((sku_id, epoch, over));
        }
        let deadline = Instant::now() + Duration::from_secs(MAX_MOVE_SECONDS);
        side.follows[shard.index()].wake.notify_one();
        for (sku_id, epoch, over) in waiting {
            let in_time = match over {
                Some(mut over) => timeout_at(deadline, over.changed()).await.is_ok(),
                None => true,
            };
            if !in_time {
                // It is under way all the same, and the same request again waits for it.
                results.push((sku_id, Err(side.late())));
                continue;
            }
            let orders = unpoisoned(side.follows[shard.index()].gone.lock()).remove(&sku_id).unwrap_or(0);
            match asked {
                Asked::ByItself => add(&side.counters.demotions_auto, 1),
                Asked::ByCaller | Asked::Repair => add(&side.counters.demotions_asked, 1),
            }
            tracing::info!(%sku_id, %shard, epoch, orders, why = asked.name(), "the SKU is cold");
            results.push((sku_id, Ok(Moved { effect: Effect::Changed, shard: None, epoch, orders })));
        }
        drop(report.send(results));
    }

    /// Closes SKUs whose routes say that they move; gives those that are closed.
    async fn close(&self, shard: ShardId, mut moving: Vec<SkuId>, results: &mut Results) -> Vec<SkuId> {
        let side = self.side();
        let mut backoff = Backoff::default();
        while !moving.is_empty() && !side.is_stopping() {
            let refusal = match self.ask(shard, place(Place::Close { skus: moving.clone() }), How::Exact).await {
                Ok(_) => return moving,
                Err(refusal) => refusal,
            };
            match &refusal {
                // Nothing happened, or nobody knows: it is asked again.
                Refusal::Overloaded | Refusal::ShardRestarted | Refusal::Moved(_) => sleep(backoff.next()).await,
                _ => {
                    for sku_id in std::mem::take(&mut moving) {
                        side.routes.stays(&sku_id, self.context.clock.now());
                        results.push((sku_id, Err(refusal.clone())));
                    }
                }
            }
        }
        moving
    }

    /// What a demotion of a SKU without route is told.
    async fn is_cold(&self, sku_id: &SkuId) -> Result<Moved, Refusal> {
        let side = self.side();
        let rows = side.noted(side.store.stock(sku_id, None).await).map_err(refusal_of)?;
        let Some(row) = rows.first() else {
            return Err(Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: None });
        };
        let there = Moved { effect: Effect::Replayed, shard: None, epoch: 0, orders: 0 };
        match row.owner {
            None => Ok(there),
            Some(owner) if owner.server != side.server => Err(Refusal::OwnedElsewhere { sku_id: sku_id.clone() }),
            // It was cold when this was asked, and somebody promotes it just now.
            Some(_) if !matches!(side.routes.look(sku_id), Look::Cold) => Ok(there),
            // The store has given it to us before the last stop, and the repair has not come to it yet.
            Some(_) => {
                self.reclaim(sku_id);
                Err(Refusal::Overloaded)
            }
        }
    }
}
