//! Stocks: one per (sku, warehouse), and the only arithmetic that changes their levels.

use smallvec::SmallVec;

use super::Corruption;
use super::table::{Keyed, Slab, Table};
use crate::checkpoint::{Stage, StockImage};
use crate::command::StockStatus;
use crate::ids::{Lsn, SkuId, WarehouseId};
use crate::limits::MAX_STOCK_UNITS;
use crate::outcome::{Levels, StockView};

/// Units that move between the levels of one stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta {
    /// Change of available.
    pub available: i64,
    /// Change of reserved.
    pub reserved: i64,
    /// Change of sold.
    pub sold: i64,
}

impl Delta {
    /// available → reserved.
    pub fn hold(n: u32) -> Self {
        Self { available: -i64::from(n), reserved: i64::from(n), sold: 0 }
    }

    /// reserved → sold, and (late payment) available → sold.
    pub fn sell(held: u32, late: u32) -> Self {
        let (held, late) = (i64::from(held), i64::from(late));
        Self { available: -late, reserved: -held, sold: held + late }
    }

    /// reserved → available.
    pub fn unhold(n: u32) -> Self {
        Self { available: i64::from(n), reserved: -i64::from(n), sold: 0 }
    }

    /// sold → available.
    pub fn give_back(n: u32) -> Self {
        Self { available: i64::from(n), reserved: 0, sold: -i64::from(n) }
    }

    /// Units that come from or go to outside.
    pub fn supply(units: i64) -> Self {
        Self { available: units, reserved: 0, sold: 0 }
    }
}

impl Levels {
    /// The levels after units moved, one version on; `None` when a level would be negative or the sum above
    /// [`MAX_STOCK_UNITS`].
    #[must_use]
    pub fn after(self, delta: Delta) -> Option<Self> {
        let available = self.available.checked_add_signed(delta.available)?;
        let reserved = self.reserved.checked_add_signed(delta.reserved)?;
        let sold = self.sold.checked_add_signed(delta.sold)?;
        let sum = available.checked_add(reserved)?.checked_add(sold)?;
        let version = self.version.checked_add(1)?;
        (sum <= MAX_STOCK_UNITS).then_some(Self { available, reserved, sold, version })
    }
}

/// The stock of a SKU in one warehouse.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub sku_id: SkuId,
    pub warehouse_id: WarehouseId,
    pub levels: Levels,
    pub status: StockStatus,
    /// The quantity that it was created with.
    pub initial: u64,
    /// What came less what left, other than by orders; always = available + reserved + sold.
    pub supplied: u64,
    /// Units sold (and not returned) by orders that are forgotten.
    pub forgotten_sold: u64,
    /// Its last change; [`Lsn::ZERO`] for a place held for a stock whose creation is still to be replayed.
    pub lsn: Lsn,
    /// Counts the promotions of its SKU.
    pub epoch: u64,
    /// Whether it can be used.
    pub stage: Stage,
    /// Changed since the views were last told.
    touched: bool,
}

impl Stock {
    /// As callers see it.
    pub fn view(&self) -> StockView {
        StockView {
            sku_id: self.sku_id.clone(),
            warehouse_id: self.warehouse_id,
            levels: self.levels,
            status: self.status,
        }
    }

    pub fn image(&self) -> StockImage {
        StockImage {
            sku_id: self.sku_id.clone(),
            warehouse_id: self.warehouse_id,
            levels: self.levels,
            status: self.status,
            initial: self.initial,
            supplied: self.supplied,
            forgotten_sold: self.forgotten_sold,
            lsn: self.lsn,
            epoch: self.epoch,
            stage: self.stage,
        }
    }
}

/// A SKU and its stocks, by warehouse.
#[derive(Debug, Clone)]
struct Sku {
    sku_id: SkuId,
    stocks: SmallVec<[(WarehouseId, u32); 1]>,
}

impl Keyed for Sku {
    type Key = SkuId;

    fn key(&self) -> &SkuId {
        &self.sku_id
    }
}

/// All stocks of a shard. They are found by name once and by number from then on.
#[derive(Debug, Clone, Default)]
pub struct Stocks {
    skus: Table<Sku>,
    stocks: Slab<Stock>,
    /// Changed since [`Stocks::take_touched`].
    touched: Vec<u32>,
}

impl Stocks {
    pub fn find(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<u32> {
        let sku = self.skus.by_key(sku_id)?;
        sku.stocks.iter().find(|(w, _)| *w == warehouse_id).map(|(_, number)| *number)
    }

    /// The stocks of a SKU, in the order of their creation.
    pub fn of_sku(&self, sku_id: &SkuId) -> impl Iterator<Item = &Stock> {
        let sku = self.skus.by_key(sku_id);
        sku.into_iter().flat_map(|sku| &sku.stocks).map(|(_, number)| self.get(*number))
    }

    /// A stock by its number.
    ///
    /// # Panics
    /// Never for a number that [`Stocks::find`] gave: stocks are not removed.
    pub fn get(&self, number: u32) -> &Stock {
        self.stocks.get(number).expect("a stock is never removed")
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stock> {
        self.stocks.iter()
    }

    pub fn len(&self) -> usize {
        self.stocks.len()
    }

    /// Up to `max` images from place `from` on, and the place after them.
    pub fn images(&self, from: usize, max: usize) -> (Vec<StockImage>, usize) {
        let to = self.stocks.places().min(from.saturating_add(max));
        let places = (from..to).filter_map(|place| self.stocks.get(u32::try_from(place).ok()?));
        (places.map(Stock::image).collect(), to)
    }

    /// The numbers of the stocks that changed since the last call.
    pub fn take_touched(&mut self) -> Vec<u32> {
        let touched = std::mem::take(&mut self.touched);
        for number in &touched {
            if let Some(stock) = self.stocks.get_mut(*number) {
                stock.touched = false;
            }
        }
        touched
    }

    /// The number of a stock; a place is made for one that is not there.
    pub fn place(&mut self, sku_id: &SkuId, warehouse_id: WarehouseId) -> u32 {
        if let Some(number) = self.find(sku_id, warehouse_id) {
            return number;
        }
        let number = self.stocks.insert(Stock {
            sku_id: sku_id.clone(),
            warehouse_id,
            levels: Levels::default(),
            status: StockStatus::OnSale,
            initial: 0,
            supplied: 0,
            forgotten_sold: 0,
            lsn: Lsn::ZERO,
            epoch: 0,
            stage: Stage::Open,
            touched: false,
        });
        match self.skus.find(sku_id).and_then(|place| self.skus.get_mut(place)) {
            Some(sku) => sku.stocks.push((warehouse_id, number)),
            None => {
                let stocks = SmallVec::from_elem((warehouse_id, number), 1);
                self.skus.insert(Sku { sku_id: sku_id.clone(), stocks });
            }
        }
        number
    }

    pub fn restore(&mut self, image: StockImage) {
        let number = self.place(&image.sku_id, image.warehouse_id);
        let stock = self.stocks.get_mut(number).expect("just placed");
        stock.levels = image.levels;
        stock.status = image.status;
        stock.initial = image.initial;
        stock.supplied = image.supplied;
        stock.forgotten_sold = image.forgotten_sold;
        stock.lsn = image.lsn;
        stock.epoch = image.epoch;
        stock.stage = image.stage;
        self.touch(number);
    }

    /// Lets an event change a stock, unless the stock knows of it already (it came from a checkpoint that was taken
    /// later). Afterwards the levels must be those of the event, and their sum what was supplied.
    pub fn change(
        &mut self,
        number: u32,
        lsn: Lsn,
        after: Levels,
        change: impl FnOnce(&mut Stock) -> Option<Levels>,
    ) -> Result<(), Corruption> {
        let stock = self.stocks.get_mut(number).expect("a stock is never removed");
        if stock.lsn >= lsn {
            return Ok(());
        }
        let before = stock.levels;
        let computed = change(stock);
        let (sku_id, warehouse_id, supplied) = (&stock.sku_id, stock.warehouse_id, stock.supplied);
        if computed != Some(after) {
            return Err(Corruption::new(
                lsn,
                format!(
                    "SKU {sku_id} in warehouse {warehouse_id}: {before:?} became {computed:?}, the event says {after:?}"
                ),
            ));
        }
        if after.quantity() != supplied {
            return Err(Corruption::new(
                lsn,
                format!("SKU {sku_id} in warehouse {warehouse_id}: {after:?} is not the {supplied} supplied"),
            ));
        }
        stock.levels = after;
        stock.lsn = lsn;
        self.touch(number);
        Ok(())
    }

    fn touch(&mut self, number: u32) {
        let stock = self.stocks.get_mut(number).expect("a stock is never removed");
        if !std::mem::replace(&mut stock.touched, true) {
            self.touched.push(number);
        }
    }
}
