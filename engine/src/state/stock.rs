//! Stocks: one per (sku, warehouse), and the only arithmetic that changes their levels.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::Corruption;
use super::table::{Chunked, Keyed, Room, Slab, Table};
use crate::checkpoint::{Stage, StockImage};
use crate::command::StockStatus;
use crate::ids::{Lsn, SkuId, WarehouseId};
use crate::limits::MAX_STOCK_UNITS;
use crate::outcome::{Levels, Serials, StockView};

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
    /// Its last change.
    pub lsn: Lsn,
    /// Counts the promotions of its SKU.
    pub epoch: u64,
    /// Serial numbers given to units that were confirmed here; `None`: they get none. All stocks of a SKU agree.
    pub numbered: Option<u64>,
    /// Whether the shard decides for it. Changed by [`Stocks::set_stage`] alone.
    pub stage: Stage,
    /// Only a name so far: an event that is still to be replayed brings the stock, or lets it leave before it was captured.
    pub awaited: bool,
    /// The lines of orders that lie on it, in no order. Not part of its image.
    pub orders: Chunked<Lying>,
    /// Changed since the views were last told.
    touched: bool,
}

/// A line of an order, by the place of the order and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lying {
    pub order: u32,
    pub line: u32,
}

/// A stock that left the shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftStock {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Its number, which is free for another stock.
    pub number: u32,
}

impl Stock {
    /// As callers see it.
    pub fn view(&self) -> StockView {
        StockView {
            sku_id: self.sku_id.clone(),
            warehouse_id: self.warehouse_id,
            levels: self.levels,
            status: self.status,
            serialized: self.numbered.is_some(),
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
            numbered: self.numbered,
        }
    }

    /// Units of an event move. Gives the levels after, `None` when it does not fit.
    pub fn moved(&mut self, delta: Delta) -> Option<Levels> {
        let outside = delta.available.checked_add(delta.reserved)?.checked_add(delta.sold)?;
        self.supplied = self.supplied.checked_add_signed(outside)?;
        self.levels.after(delta)
    }

    /// Units that are confirmed got these numbers. `None` when that does not fit.
    pub fn give(&mut self, serials: Option<Serials>) -> Option<()> {
        match (&mut self.numbered, serials) {
            (None, None) => Some(()),
            (Some(numbered), Some(serials)) => {
                *numbered = numbered.checked_add(serials.count())?;
                Some(())
            }
            _ => None,
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
#[derive(Debug, Clone)]
pub struct Stocks {
    skus: Table<Sku>,
    stocks: Slab<Stock>,
    /// Changed since [`Stocks::take_touched`].
    touched: Vec<u32>,
    /// Left since [`Stocks::take_left`].
    left: Vec<LeftStock>,
    /// Stocks that are not open.
    moving: usize,
    /// Those of them that are about to leave.
    closing: BTreeSet<u32>,
}

impl Stocks {
    pub fn new(room: Room) -> Self {
        Self {
            skus: Table::new(room),
            stocks: Slab::new(room),
            touched: Vec::new(),
            left: Vec::new(),
            moving: 0,
            closing: BTreeSet::new(),
        }
    }

    pub fn find(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<u32> {
        let sku = self.skus.by_key(sku_id)?;
        sku.stocks.iter().find(|(w, _)| *w == warehouse_id).map(|(_, number)| *number)
    }

    /// The stocks of a SKU, in the order of their creation.
    pub fn of_sku(&self, sku_id: &SkuId) -> impl Iterator<Item = &Stock> {
        let sku = self.skus.by_key(sku_id);
        sku.into_iter().flat_map(|sku| &sku.stocks).map(|(_, number)| self.get(*number))
    }

    /// The numbers of the stocks of a SKU.
    pub fn numbers(&self, sku_id: &SkuId) -> SmallVec<[u32; 4]> {
        let sku = self.skus.by_key(sku_id);
        sku.into_iter().flat_map(|sku| &sku.stocks).map(|(_, number)| *number).collect()
    }

    /// The serial number that the next confirmed unit of a SKU gets: above all that its warehouses have given.
    pub fn next_serial(&self, sku_id: &SkuId) -> u64 {
        // One for each unit ever sold: 2^64 is out of reach.
        self.of_sku(sku_id).filter_map(|stock| stock.numbered).fold(1, u64::saturating_add)
    }

    /// Where a SKU is on its way; `None` when the shard has no stock of it.
    pub fn stage(&self, sku_id: &SkuId) -> Option<Stage> {
        // Stocks of one SKU move together.
        self.of_sku(sku_id).next().map(|stock| stock.stage)
    }

    /// A stock by its number.
    ///
    /// # Panics
    /// Never for the number of a stock that is there, as every line of an order has it: a stock leaves after its orders.
    pub fn get(&self, number: u32) -> &Stock {
        self.stocks.get(number).expect("a stock leaves after the orders that lie on it")
    }

    fn get_mut(&mut self, number: u32) -> &mut Stock {
        self.stocks.get_mut(number).expect("a stock leaves after the orders that lie on it")
    }

    /// The stocks with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Stock)> {
        self.stocks.places_and_entries()
    }

    pub fn len(&self) -> usize {
        self.stocks.len()
    }

    /// One above the highest number that was ever used.
    pub fn places(&self) -> usize {
        self.stocks.places()
    }

    /// How many stocks are not open.
    pub fn moving(&self) -> usize {
        self.moving
    }

    /// A stock that is about to leave.
    pub fn first_closing(&self) -> Option<&Stock> {
        self.closing.first().map(|number| self.get(*number))
    }

    /// Changes the stage of a stock; the deadlines of its orders are the caller's concern.
    pub fn set_stage(&mut self, number: u32, stage: Stage) {
        let was = std::mem::replace(&mut self.get_mut(number).stage, stage);
        self.moving -= usize::from(was != Stage::Open);
        self.moving += usize::from(stage != Stage::Open);
        if was == Stage::Closing {
            self.closing.remove(&number);
        }
        if stage == Stage::Closing {
            self.closing.insert(number);
        }
    }

    /// A line comes to lie on a stock; gives its index there.
    pub fn lay(&mut self, number: u32, lying: Lying) -> u32 {
        self.get_mut(number).orders.push(lying)
    }

    /// A line leaves a stock; gives the one that has its index now.
    pub fn lift(&mut self, number: u32, index: u32) -> Option<Lying> {
        let orders = &mut self.get_mut(number).orders;
        orders.swap_remove(index);
        orders.get(index).copied()
    }

    /// A stock leaves the shard. No order lies on it.
    pub fn remove(&mut self, number: u32) {
        self.set_stage(number, Stage::Open);
        let Some(stock) = self.stocks.remove(number) else { return };
        if stock.touched {
            self.touched.retain(|touched| *touched != number);
        }
        if let Some(place) = self.skus.find(&stock.sku_id)
            && let Some(sku) = self.skus.get_mut(place)
        {
            sku.stocks.retain(|(_, known)| *known != number);
            if sku.stocks.is_empty() {
                self.skus.remove(place);
            }
        }
        let Stock { sku_id, warehouse_id, .. } = stock;
        self.left.push(LeftStock { sku_id, warehouse_id, number });
    }

    /// A stock left, but orders of the time after it came back lie on it already: its name stays.
    pub fn await_again(&mut self, number: u32) {
        self.set_stage(number, Stage::Open);
        let stock = self.get_mut(number);
        (stock.awaited, stock.levels, stock.supplied) = (true, Levels::default(), 0);
    }

    /// The stocks that left since the last call.
    pub fn take_left(&mut self) -> Vec<LeftStock> {
        std::mem::take(&mut self.left)
    }

    /// Up to `max` images from place `from` on, and the place after them.
    pub fn images(&self, from: usize, max: usize) -> (Vec<StockImage>, usize) {
        let to = self.stocks.places().min(from.saturating_add(max));
        let places = (from..to).filter_map(|place| self.stocks.get(u32::try_from(place).ok()?));
        (places.filter(|stock| !stock.awaited).map(Stock::image).collect(), to)
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
            numbered: None,
            stage: Stage::Open,
            awaited: true,
            orders: Chunked::default(),
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

    /// Makes a stock what its image says, except for its stage.
    pub fn put(&mut self, number: u32, image: &StockImage, lsn: Lsn) {
        let stock = self.get_mut(number);
        stock.levels = image.levels;
        stock.status = image.status;
        stock.initial = image.initial;
        stock.supplied = image.supplied;
        stock.forgotten_sold = image.forgotten_sold;
        stock.lsn = lsn;
        stock.epoch = image.epoch;
        stock.numbered = image.numbered;
        stock.awaited = false;
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
        let stock = self.get_mut(number);
        if stock.lsn >= lsn && !stock.awaited {
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
        stock.awaited = false;
        self.touch(number);
        Ok(())
    }

    fn touch(&mut self, number: u32) {
        let stock = self.get_mut(number);
        if !std::mem::replace(&mut stock.touched, true) {
            self.touched.push(number);
        }
    }
}
