//! Reads of stock: of hot SKUs from the views, of cold ones from the store, of those that are moving when they have arrived.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::hub::{Hub, refusal_of};
use crate::ids::{SkuId, WarehouseId};
use crate::outcome::{Refusal, StockView};
use crate::placement::routes::Look;
use crate::store::StockRow;

impl Hub {
    /// The levels of a SKU. See [`crate::engine::Engine::stock`].
    pub async fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Result<Vec<StockView>, Refusal> {
        let views = &self.context.views;
        let Some(side) = &self.side else { return Ok(views.stock(sku_id, warehouse_id)) };
        let deadline = Instant::now() + Duration::from_millis(self.context.options.store.move_wait_ms);
        loop {
            let moves = side.routes.moves([sku_id]);
            let read = match side.routes.look(sku_id) {
                Look::Hot(_) => views.stock(sku_id, warehouse_id),
                Look::Moving(_) if side.is_down() => return Err(Refusal::StoreUnavailable),
                Look::Moving(mut over) => {
                    if timeout_at(deadline, over.changed()).await.is_err() {
                        return Err(side.late());
                    }
                    continue;
                }
                // Of another server's: as it was flushed last.
                Look::Cold | Look::Lost => {
                    let rows = side.noted(side.store.stock(sku_id, warehouse_id).await).map_err(refusal_of)?;
                    rows.into_iter().map(|row| row.view).collect()
                }
            };
            if side.routes.moves([sku_id]) == moves {
                return Ok(read);
            }
            if Instant::now() >= deadline {
                return Err(side.late());
            }
        }
    }

    /// A page of SKUs. See [`crate::engine::Engine::stock_page`].
    pub async fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        let Some(side) = &self.side else { return Ok(self.context.views.page(after, limit)) };
        let page = side.noted(side.store.stock_page(after, limit).await).map_err(refusal_of)?;
        let mut result = Vec::with_capacity(page.len());
        for rows in page {
            let Some(StockRow { view, owner }) = rows.first() else { continue };
            let sku_id = &view.sku_id;
            // The row of a hot SKU is as old as the last flush.
            let is_ours = owner.is_some_and(|owner| owner.server == side.server);
            if is_ours || !matches!(side.routes.look(sku_id), Look::Cold | Look::Lost) {
                result.push(self.stock(sku_id, None).await?);
            } else {
                result.push(rows.into_iter().map(|row| row.view).collect());
            }
        }
        Ok(result)
    }
}
