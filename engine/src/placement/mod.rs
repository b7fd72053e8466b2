//! Which SKUs are hot, and how they become so and cold again: [`routes`] know where each is, [`promote`] and [`demote`] move them,
//! [`repair`] finishes what a crash left half done, [`auto`] decides which move by themselves.
//!
//! ```text
//!   cold ──▶ moving (Adopting) ──▶ hot ──▶ moving (Closing) ──▶ cold
//!        begin            arrived     begin               left, by the follower
//! ```

pub(crate) mod auto;
mod demote;
mod promote;
mod repair;
pub(crate) mod routes;

use std::time::Duration;

use crate::checkpoint::Stage;
use crate::limits::{MAX_RETRY_MILLIS, MIN_RETRY_MILLIS};
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

/// Why a SKU moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    ByCaller,
    ByItself,
    Repair,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::ByCaller => "asked",
            Self::ByItself => "rate",
            Self::Repair => "repair",
        }
    }
}

/// Pauses between tries: each twice as long as the one before, within bounds, with a random part so that many
/// that failed together don't come again together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub fn next(&mut self) -> Duration {
        let longest = (MIN_RETRY_MILLIS << self.tries.min(16)).min(MAX_RETRY_MILLIS);
        self.tries = self.tries.saturating_add(1);
        Duration::from_millis(fastrand::u64(longest / 2..=longest))
    }

    pub fn reset(&mut self) {
        self.tries = 0;
    }
}
