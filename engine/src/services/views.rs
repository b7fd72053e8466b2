//! The read side: stock levels as they are durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::MAX_PAGE_STOCKS;
use crate::base::sync::{CellValue, StockCell, unpoisoned};
use crate::contract::command::StockStatus;
use crate::contract::outcome::StockView;
use crate::contract::units::Levels;

type Key = (SkuId, WarehouseId);

/// All stocks by name. The map is locked for writing only when a stock is created; levels change in their cells.
#[derive(Debug, Default)]
pub struct Views {
    cells: RwLock<BTreeMap<Key, Arc<StockCell>>>,
}

/// New levels of a stock, to be published when they are durable.
#[derive(Debug)]
pub struct ViewUpdate {
    /// Where they are published.
    pub cell: Arc<StockCell>,
    /// What is published.
    pub stock: StockView,
    /// The stock is new to the views.
    pub new: bool,
}

impl Views {
    /// Publishes levels. By the journal writer, or by whoever recovers a shard that is not running.
    pub fn publish(&self, update: ViewUpdate) {
        let ViewUpdate { cell, stock, new } = update;
        cell.store(to_cell(&stock));
        if new {
            unpoisoned(self.cells.write()).insert((stock.sku_id, stock.warehouse_id), cell);
        }
    }

    /// A stock left its shard: its levels are not known here any more.
    pub fn remove(&self, sku_id: SkuId, warehouse_id: WarehouseId) {
        unpoisoned(self.cells.write()).remove(&(sku_id, warehouse_id));
    }

    /// The cell of a stock that was published before.
    pub fn cell(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<Arc<StockCell>> {
        unpoisoned(self.cells.read()).get(&(sku_id.clone(), warehouse_id)).cloned()
    }

    /// The stocks of a SKU, by warehouse.
    pub fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Vec<StockView> {
        let first = warehouse_id.unwrap_or(WarehouseId(0));
        let last = warehouse_id.unwrap_or(WarehouseId(u32::MAX));
        let cells = unpoisoned(self.cells.read());
        cells.range((sku_id.clone(), first)..=(sku_id.clone(), last)).map(view).collect()
    }

    /// Up to `limit` SKUs after `after`, by name, each with its stocks; fewer when they have very many stocks.
    pub fn page(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockView>> {
        let from =
            after.map_or(Bound::Unbounded, |sku| Bound::Excluded((sku.clone(), WarehouseId(u32::MAX))));
        let cells = unpoisoned(self.cells.read());
        let mut page: Vec<Vec<StockView>> = Vec::new();
        for (rows, stock) in cells.range((from, Bound::Unbounded)).map(view).enumerate() {
            let full = page.len() == limit || rows >= MAX_PAGE_STOCKS;
            match page.last_mut() {
                Some(last) if last[0].sku_id == stock.sku_id => last.push(stock),
                _ if full => break,
                _ => page.push(vec![stock]),
            }
        }
        page
    }
}

fn view(((sku_id, warehouse_id), cell): (&Key, &Arc<StockCell>)) -> StockView {
    let [available, reserved, sold, version, flags] = cell.load();
    let status = if flags & SUSPENDED == 0 { StockStatus::OnSale } else { StockStatus::Suspended };
    StockView {
        sku_id: sku_id.clone(),
        warehouse_id: *warehouse_id,
        levels: Levels { available, reserved, sold, version },
        status,
        serialized: flags & SERIALIZED != 0,
    }
}

/// The bits of the last number in a cell.
const SUSPENDED: u64 = 1;
const SERIALIZED: u64 = 2;

fn to_cell(stock: &StockView) -> CellValue {
    let StockView { levels, status, serialized, .. } = stock;
    let suspended = if *status == StockStatus::Suspended { SUSPENDED } else { 0 };
    let serialized = if *serialized { SERIALIZED } else { 0 };
    [levels.available, levels.reserved, levels.sold, levels.version, suspended | serialized]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(views: &Views, sku: &str, warehouse: u32, available: u64) {
        let levels = Levels { available, reserved: 0, sold: 0, version: 1 };
        let (sku_id, warehouse_id) = (SkuId::new(sku).unwrap(), WarehouseId(warehouse));
        let stock =
            StockView { sku_id, warehouse_id, levels, status: StockStatus::OnSale, serialized: false };
        views.publish(ViewUpdate { cell: Arc::default(), stock, new: true });
    }

    #[test]
    fn a_stock_is_shown_as_it_was_published() {
        let views = Views::default();
        let levels = Levels { available: 1, reserved: 2, sold: 3, version: 4 };
        for status in [StockStatus::OnSale, StockStatus::Suspended] {
            for serialized in [false, true] {
                let (sku_id, warehouse_id) = (SkuId::new("a").unwrap(), WarehouseId(1));
                let stock = StockView { sku_id, warehouse_id, levels, status, serialized };
                views.publish(ViewUpdate { cell: Arc::default(), stock: stock.clone(), new: true });
                assert_eq!(views.stock(&stock.sku_id, None), [stock]);
            }
        }
    }

    #[test]
    fn pages_go_by_sku_and_keep_warehouses_together() {
        let views = Views::default();
        for (sku, warehouse) in [("b", 2), ("a", 1), ("b", 1), ("c", 7)] {
            publish(&views, sku, warehouse, 5);
        }
        let names = |page: Vec<Vec<StockView>>| -> Vec<(String, usize)> {
            page.iter().map(|sku| (sku[0].sku_id.to_string(), sku.len())).collect()
        };
        assert_eq!(names(views.page(None, 2)), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(names(views.page(Some(&SkuId::new("b").unwrap()), 2)), [("c".into(), 1)]);
        assert_eq!(views.stock(&SkuId::new("b").unwrap(), Some(WarehouseId(2))).len(), 1);
        assert_eq!(views.stock(&SkuId::new("b").unwrap(), None).len(), 2);
        assert!(views.stock(&SkuId::new("bb").unwrap(), None).is_empty());
    }
}
