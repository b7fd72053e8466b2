//! The SKUs that are kept in memory until they are demoted, as it is durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use crate::base::ids::{ShardId, SkuId};
use crate::base::sync::unpoisoned;

/// A SKU that is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSku {
    /// Which.
    pub sku_id: SkuId,
    /// The shard that decides for it.
    pub shard: ShardId,
}

/// The SKUs that are kept in memory, as it is durable.
#[derive(Debug, Default)]
pub(crate) struct HotList(Mutex<BTreeMap<SkuId, ShardId>>);

impl HotList {
    /// SKUs of a shard are kept, or let go.
    pub fn update(&self, shard: ShardId, changes: impl Iterator<Item = (SkuId, bool)>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut list = unpoisoned(self.0.lock());
        for (sku_id, hot) in changes {
            if hot {
                list.insert(sku_id, shard);
            } else {
                list.remove(&sku_id);
            }
        }
    }

    /// Up to `limit` after `after`, by name.
    pub fn list(&self, after: Option<&SkuId>, limit: usize) -> Vec<HotSku> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let list = unpoisoned(self.0.lock());
        let hot = |(sku_id, shard): (&SkuId, &ShardId)| HotSku { sku_id: sku_id.clone(), shard: *shard };
        list.range((from, Bound::Unbounded)).take(limit).map(hot).collect()
    }
}
