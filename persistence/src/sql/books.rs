//! Counts what the store knows in several ways; puts rows right; shows anomalies.

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::store::{Anomaly, Repaired, StockBooks, StoreError};

use super::SqlStore;
use super::error::broken;

pub(super) async fn books(_: &SqlStore, _: Option<&SkuId>, _: usize) -> Result<Vec<StockBooks>, StoreError> {
    Err(broken("comes with the next commit"))
}

pub(super) async fn repair(
    _: &SqlStore,
    _: &SkuId,
    _: WarehouseId,
    _: Timestamp,
) -> Result<Option<Repaired>, StoreError> {
    Err(broken("comes with the next commit"))
}

pub(super) async fn anomalies(_: &SqlStore, _: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
    Err(broken("comes with the next commit"))
}
