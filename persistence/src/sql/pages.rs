//! Reads: a stock, pages of stocks, an order.

use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::store::{Owner, StockRow, StoredOrder};

use super::Work;
use super::dialect::{Access, Tx};
use super::error::SqlError;
use super::rows::{self, Lock, StockEntry};

/// See [`Store::stock`](hotstock_engine::store::Store::stock).
pub(super) struct Stock<'a> {
    pub sku_id: &'a SkuId,
    pub warehouse_id: Option<WarehouseId>,
}

impl Work for Stock<'_> {
    type Done = Vec<StockRow>;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<StockRow>, SqlError> {
        let stocks = match self.warehouse_id {
            Some(warehouse_id) => {
                rows::load_stocks(tx, &[(self.sku_id.clone(), warehouse_id)], Lock::No).await?
            }
            None => rows::load_sku(tx, self.sku_id, Lock::No).await?,
        };
        Ok(stocks.iter().map(StockEntry::stock_row).collect())
    }
}

/// See [`Store::stock_page`](hotstock_engine::store::Store::stock_page).
pub(super) struct StockPage<'a> {
    pub after: Option<&'a SkuId>,
    pub limit: usize,
}

impl Work for StockPage<'_> {
    type Done = Vec<Vec<StockRow>>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let skus = skus_after(tx, self.after, self.limit).await?;
        let mut page: Vec<Vec<StockRow>> = Vec::with_capacity(skus.len());
        for entry in rows::load_skus(tx, &skus, Lock::No).await? {
            let row = entry.stock_row();
            match page.last_mut().filter(|stocks| stocks[0].view.sku_id == row.view.sku_id) {
                Some(stocks) => stocks.push(row),
                None => page.push(vec![row]),
            }
        }
        Ok(page)
    }
}

/// Up to `limit` SKUs after `after`, by name.
pub(super) async fn skus_after(
    tx: &mut dyn Tx,
    after: Option<&SkuId>,
    limit: usize,
) -> Result<Vec<SkuId>, SqlError> {
    // No SKU is named "", so everything is above it.
    let sql = "SELECT sku_id FROM stock WHERE sku_id > ? GROUP BY sku_id ORDER BY sku_id LIMIT ?";
    let args = vec![after.map_or("", SkuId::as_str).into(), limit.into()];
    let rows = tx.rows(sql, args).await?;
    Ok(rows.iter().map(|row| row.fields().id(SkuId::new)).collect::<Result<_, _>>()?)
}

/// See [`Store::order`](hotstock_engine::store::Store::order).
pub(super) struct Order<'a> {
    pub order_no: &'a OrderNo,
}

impl Work for Order<'_> {
    type Done = Option<StoredOrder>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let mut found = rows::load_orders(tx, std::slice::from_ref(self.order_no), Lock::No).await?;
        let Some(image) = found.pop().map(|order| order.image) else { return Ok(None) };
        let stocks = rows::load_stocks(tx, &rows::stocks_of([&image]), Lock::No).await?;
        let mut owners: Vec<Option<Owner>> = Vec::new();
        for stock in stocks {
            if !owners.contains(&stock.owner) {
                owners.push(stock.owner);
            }
        }
        Ok(Some(StoredOrder { image, owners }))
    }
}

/// See [`Store::ping`](hotstock_engine::store::Store::ping).
pub(super) struct Ping;

impl Work for Ping {
    type Done = ();

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        tx.rows("SELECT 1", Vec::new()).await.map(drop)
    }
}
