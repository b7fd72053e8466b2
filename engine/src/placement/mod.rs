//! Which SKUs are hot, and how they become so and cold again.

use crate::checkpoint::Stage;
use crate::ids::{ShardId, SkuId};
use crate::outcome::Effect;

/// The end of a promotion or demotion of one SKU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// [`Effect::Changed`]: it moved. [`Effect::Replayed`]: it was there already.
    pub effect: Effect,
    /// The shard that decides for it; `None`: the store does.
    pub shard: Option<ShardId>,
    /// The ownership that began or ended; 0 for a cold SKU that was cold already.
    pub epoch: u64,
    /// Orders that moved with it.
    pub orders: u64,
}

/// A SKU that a shard has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSku {
    /// Which.
    pub sku_id: SkuId,
    /// Who decides for it.
    pub shard: ShardId,
    /// Counts its promotions.
    pub epoch: u64,
    /// [`Stage::Open`] unless it is moving.
    pub stage: Stage,
    /// It became hot by itself.
    pub auto: bool,
}
