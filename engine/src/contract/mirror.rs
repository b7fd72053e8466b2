//! What the engine and the mirror of its stock levels (Redis) ask of each other. The mirror follows and is never on
//! the path of an order: who reads it may see levels that are milliseconds old, and no older ones after newer ones.
//!
//! Levels are compared by `version`, which counts the changes of a stock for ever, in memory or not. LSNs don't
//! compare: those of a new data directory begin anew.

use async_trait::async_trait;

use crate::base::ids::{SkuId, WarehouseId};
use crate::contract::command::StockStatus;
use crate::contract::outcome::{Refusal, StockView};
use crate::contract::units::Levels;

/// Where the mirror reads all stocks, to begin with or when it may have missed something.
#[async_trait]
pub trait MirrorSource: Send + Sync + 'static {
    /// Up to `limit` SKUs after `after`, by name, each with all its stocks: as durable as what callers are told, and
    /// at least as new as everything that was marked dirty before the call.
    ///
    /// # Errors
    /// [`Refusal`]; it can be asked again.
    async fn page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal>;
}

/// The mirror, as reconcile looks at it.
#[async_trait]
pub trait Mirror: Send + Sync + 'static {
    /// What the mirror shows of stocks, in their order.
    ///
    /// # Errors
    /// [`MirrorError`].
    async fn levels(&self, stocks: &[(SkuId, WarehouseId)]) -> Result<Vec<Mirrored>, MirrorError>;

    /// Puts stocks right. Something newer that came meanwhile stays.
    ///
    /// # Errors
    /// [`MirrorError`]; some may be written.
    async fn put(&self, stocks: &[Put]) -> Result<(), MirrorError>;
}

/// What the mirror shows of a stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mirrored {
    /// The plain number that simple readers take; `None` when it is missing or no number.
    pub available: Option<u64>,
    /// All levels and the status; `None` when one is missing or does not parse.
    pub levels: Option<(Levels, StockStatus)>,
    /// The version that writers compare with, also when the rest does not parse.
    pub version: Option<u64>,
}

impl Mirrored {
    /// Whether it shows exactly this.
    #[must_use]
    pub fn shows(&self, stock: &StockView) -> bool {
        self.available == Some(stock.levels.available) && self.levels == Some((stock.levels, stock.status))
    }
}

/// A stock to be put right in the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// As it is.
    pub stock: StockView,
    /// The version that was found there: it is replaced even if it is higher, because it is known to be wrong.
    pub over: Option<u64>,
}

/// The mirror could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// It can't be reached or does not answer in time.
    #[error("the mirror is not available: {0}")]
    Unavailable(String),
    /// The options don't fit.
    #[error("the mirror can't be set up: {0}")]
    Options(String),
}
