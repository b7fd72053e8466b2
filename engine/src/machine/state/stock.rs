//! Stocks: one per (sku, warehouse), and the only arithmetic that changes their levels.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::corruption::Corruption;
use super::table::{Chunked, Keyed, Room, Slab, Table};
use crate::base::ids::{Lsn, ShardId, SkuId, WarehouseId, shard_of};
use crate::contract::command::StockStatus;
use crate::contract::image::StockImage;
use crate::contract::outcome::StockView;
use crate::contract::units::{Delta, Levels, Serials};

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
    /// Units sold (and not returned) by orders that are not here: forgotten, or decided by another shard.
    pub forgotten_sold: u64,
    /// Its last change.
    pub lsn: Lsn,
    /// Kept in memory until it is demoted. All stocks of a SKU agree. Changed by [`Stocks::set_hot`] alone.
    pub hot: bool,
    /// Serial numbers given to units that were confirmed here; `None`: they get none. All stocks of a SKU agree.
    pub numbered: Option<u64>,
    /// Only a name: an event that is still to be replayed brings the stock, or lets it leave before it was captured;
    /// or it is [foreign](Stock::foreign).
    pub placeholder: bool,
    /// The stock is another shard's. It stands here for the lines of orders that are decided here and lie there, and
    /// goes with the last of them.
    pub foreign: bool,
    /// Lines of holds for orders that other shards decide. Not part of its image.
    pub holds: u32,
    /// The lines of orders that lie on it, in no order. Not part of its image.
    pub lines: Chunked<LineRef>,
    /// The slots of the remembered requests that changed it, in no order. Not part of its image.
    pub requests: Chunked<u32>,
    /// How much it was used of late: events that changed it since the clock hand last passed, up to [`MAX_USES`]. Not
    /// part of its image.
    pub uses: u8,
    /// Changed since the views were last told.
    touched: bool,
}

/// The most uses that are counted: a SKU that was in use stays for so many rounds of the clock hand.
const MAX_USES: u8 = 3;

/// A line of an order, by the slot of the order and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRef {
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
            hot: self.hot,
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
    /// SKUs that are kept in memory.
    hot: BTreeSet<SkuId>,
    /// The slot of the SKU that is looked at next when one is to leave.
    hand: u32,
    /// Lines that lie on stocks.
    attached: usize,
    /// SKUs that are another shard's.
    foreign_skus: usize,
    /// Whose these stocks are: a SKU of another shard is foreign here.
    shard: ShardId,
    shards: u16,
}

impl Stocks {
    pub fn new(room: Room, shard: ShardId, shards: u16) -> Self {
        Self {
            foreign_skus: 0,
            shard,
            shards,
            skus: Table::new(room),
            stocks: Slab::new(room),
            touched: Vec::new(),
            left: Vec::new(),
            hot: BTreeSet::new(),
            hand: 0,
            attached: 0,
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

    /// Whether a SKU is in memory. (A name that a replay still waits for does not count.)
    pub fn is_resident(&self, sku_id: &SkuId) -> bool {
        self.of_sku(sku_id).any(|stock| !stock.placeholder)
    }

    /// SKUs in memory, without those of other shards.
    pub fn skus(&self) -> usize {
        self.skus.len() - self.foreign_skus
    }

    /// The shard that has a SKU.
    pub fn shard_of(&self, sku_id: &SkuId) -> ShardId {
        shard_of(sku_id, self.shards)
    }

    /// SKUs that are kept in memory, by name.
    pub fn hot_skus(&self) -> &BTreeSet<SkuId> {
        &self.hot
    }

    /// Lines that lie on stocks.
    pub fn attached(&self) -> usize {
        self.attached
    }

    /// The next SKU under the clock hand, which moves on by one; with how much it was used since the hand last
    /// passed, which now counts one less. `None` at a slot that is free.
    pub fn pass_hand(&mut self) -> Option<(SkuId, bool)> {
        let slots = u32::try_from(self.skus.slots()).unwrap_or(u32::MAX).max(1);
        let at = self.hand % slots;
        self.hand = (at + 1) % slots;
        let (sku_id, numbers) = self.skus.get(at).map(|sku| (sku.sku_id.clone(), sku.stocks.clone()))?;
        let mut used = false;
        for (_, number) in numbers {
            let stock = self.get_mut(number);
            used |= stock.uses > 0;
            stock.uses = stock.uses.saturating_sub(1);
        }
        Some((sku_id, used))
    }

    /// Slots of SKUs: a round of the clock hand.
    pub fn hand_round(&self) -> usize {
        self.skus.slots()
    }

    /// A stock was used without being changed.
    pub fn note_use(&mut self, number: u32) {
        if let Some(stock) = self.stocks.get_mut(number) {
            stock.uses = stock.uses.saturating_add(1).min(MAX_USES);
        }
    }

    /// A stock by its number.
    ///
    /// # Panics
    /// Never for the number of a stock that is there, as every line of an order has it: a stock leaves after its
    /// orders.
    pub fn get(&self, number: u32) -> &Stock {
        self.stocks.get(number).expect("a stock leaves after the orders that lie on it")
    }

    fn get_mut(&mut self, number: u32) -> &mut Stock {
        self.stocks.get_mut(number).expect("a stock leaves after the orders that lie on it")
    }

    /// The stocks with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Stock)> {
        self.stocks.slots_and_entries()
    }

    pub fn len(&self) -> usize {
        self.stocks.len()
    }

    /// One above the highest number that was ever used.
    pub fn slots(&self) -> usize {
        self.stocks.slots()
    }

    /// Keeps a stock in memory, or no longer; all stocks of a SKU get the same.
    pub fn set_hot(&mut self, number: u32, hot: bool) {
        let stock = self.get_mut(number);
        stock.hot = hot;
        let sku_id = stock.sku_id.clone();
        if hot {
            self.hot.insert(sku_id)
        } else {
            self.hot.remove(&sku_id)
        };
    }

    /// A line comes to lie on a stock; gives its index there.
    pub fn attach(&mut self, number: u32, line: LineRef) -> u32 {
        self.attached += 1;
        self.get_mut(number).lines.push(line)
    }

    /// A line leaves a stock; gives the one that has its index now.
    pub fn detach(&mut self, number: u32, index: u32) -> Option<LineRef> {
        self.attached -= 1;
        let lines = &mut self.get_mut(number).lines;
        lines.swap_remove(index);
        lines.get(index).copied()
    }

    /// A foreign stock on which nothing lies any more goes.
    pub fn drop_foreign(&mut self, number: u32) {
        if self.stocks.get(number).is_some_and(|stock| stock.foreign && stock.lines.is_empty()) {
            self.remove(number);
        }
    }

    /// A line of a hold comes to lie on a stock.
    pub fn attach_hold(&mut self, number: u32) {
        self.get_mut(number).holds += 1;
    }

    /// A line of a hold leaves a stock.
    pub fn detach_hold(&mut self, number: u32) {
        self.get_mut(number).holds -= 1;
    }

    /// A remembered request comes to a stock; gives its index there.
    pub fn attach_request(&mut self, number: u32, request: u32) -> u32 {
        self.get_mut(number).requests.push(request)
    }

    /// A remembered request leaves a stock; gives the one that has its index now.
    pub fn detach_request(&mut self, number: u32, index: u32) -> Option<u32> {
        let requests = &mut self.get_mut(number).requests;
        requests.swap_remove(index);
        requests.get(index).copied()
    }

    /// A stock leaves the shard. No order and no request lies on it.
    pub fn remove(&mut self, number: u32) {
        let Some(stock) = self.stocks.remove(number) else { return };
        if let Some(slot) = self.skus.find(&stock.sku_id)
            && let Some(sku) = self.skus.get_mut(slot)
        {
            sku.stocks.retain(|(_, known)| *known != number);
            if sku.stocks.is_empty() {
                self.skus.remove(slot);
                self.hot.remove(&stock.sku_id);
                self.foreign_skus -= usize::from(stock.foreign);
            }
        }
        let Stock { sku_id, warehouse_id, foreign, .. } = stock;
        if !foreign {
            self.left.push(LeftStock { sku_id, warehouse_id, number });
        }
    }

    /// A stock left, but orders or requests of the time after it came back lie on it already: its name stays.
    pub fn make_placeholder(&mut self, number: u32) {
        self.set_hot(number, false);
        let stock = self.get_mut(number);
        (stock.placeholder, stock.levels, stock.supplied) = (true, Levels::default(), 0);
    }

    /// The stocks that left since the last call.
    pub fn take_left(&mut self) -> Vec<LeftStock> {
        std::mem::take(&mut self.left)
    }

    /// Up to `max` images from slot `from` on, and the slot after them.
    pub fn images(&self, from: usize, max: usize) -> (Vec<StockImage>, usize) {
        let to = self.stocks.slots().min(from.saturating_add(max));
        let slots = (from..to).filter_map(|slot| self.stocks.get(u32::try_from(slot).ok()?));
        (slots.filter(|stock| !stock.placeholder).map(Stock::image).collect(), to)
    }

    /// The numbers of the stocks that changed since the last call and are still here. Take what
    /// [left](Stocks::take_left) first: their numbers may be those of other stocks by now.
    pub fn take_touched(&mut self) -> Vec<u32> {
        let mut touched = std::mem::take(&mut self.touched);
        // One that left is named still; and twice, when its number was given again.
        let is_touched = |number: &u32| {
            self.stocks.get_mut(*number).is_some_and(|stock| std::mem::take(&mut stock.touched))
        };
        touched.retain(is_touched);
        touched
    }

    /// The number of a stock; of one that is not there, that of a placeholder.
    pub fn number_or_placeholder(&mut self, sku_id: &SkuId, warehouse_id: WarehouseId) -> u32 {
        if let Some(number) = self.find(sku_id, warehouse_id) {
            return number;
        }
        let foreign = self.shards > 1 && self.shard_of(sku_id) != self.shard;
        let number = self.stocks.insert(Stock {
            sku_id: sku_id.clone(),
            warehouse_id,
            levels: Levels::default(),
            status: StockStatus::OnSale,
            initial: 0,
            supplied: 0,
            forgotten_sold: 0,
            lsn: Lsn::ZERO,
            hot: false,
            numbered: None,
            placeholder: true,
            foreign,
            holds: 0,
            lines: Chunked::default(),
            requests: Chunked::default(),
            uses: 0,
            touched: false,
        });
        match self.skus.find(sku_id).and_then(|slot| self.skus.get_mut(slot)) {
            Some(sku) => sku.stocks.push((warehouse_id, number)),
            None => {
                let stocks = SmallVec::from_elem((warehouse_id, number), 1);
                self.skus.insert(Sku { sku_id: sku_id.clone(), stocks });
                self.foreign_skus += usize::from(foreign);
            }
        }
        number
    }

    /// Makes a stock what its image says.
    pub fn put(&mut self, number: u32, image: &StockImage, lsn: Lsn) {
        let stock = self.get_mut(number);
        stock.levels = image.levels;
        stock.status = image.status;
        stock.initial = image.initial;
        stock.supplied = image.supplied;
        stock.forgotten_sold = image.forgotten_sold;
        stock.lsn = lsn;
        stock.numbered = image.numbered;
        stock.placeholder = false;
        self.set_hot(number, image.hot);
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
        if stock.lsn >= lsn && !stock.placeholder {
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
        stock.placeholder = false;
        self.touch(number);
        Ok(())
    }

    fn touch(&mut self, number: u32) {
        let stock = self.get_mut(number);
        stock.uses = stock.uses.saturating_add(1).min(MAX_USES);
        if !std::mem::replace(&mut stock.touched, true) {
            self.touched.push(number);
        }
    }
}
