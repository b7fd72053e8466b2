//! The stock journal of a SKU.

use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::store::{StoreError, StoredJournal};

use super::SqlStore;
use super::error::broken;

pub(super) async fn stock_journal(
    _: &SqlStore,
    _: &SkuId,
    _: &[(WarehouseId, u64)],
    _: usize,
) -> Result<StoredJournal, StoreError> {
    Err(broken("comes with the next commit"))
}
