//! A new data directory's shards, from the store alone: what `hotstock recover --from-store` writes as their first
//! checkpoints. In memory is what has to be there: hot SKUs, open orders with their SKUs, orders whose participants
//! have not carried out everything, and what participants hold. Everything else stays stored. Each shard begins at the
//! watermark that the store has of it; what it had logged after that is lost. The watermarks of all shards are of one
//! moment: there is nothing of an order in one shard that rests on what is lost of another. What its coordinator had
//! decided and a participant not done is told again after the start; what a participant holds and no order knows is let
//! go.
//!
//! The store is taken first ([`seize`](crate::front::seize::seize)), so that nothing changes while it is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::base::limits::MAX_LOADED_AT_ONCE;
use crate::contract::checkpoint::CheckpointEnd;
use crate::contract::image::{Image, LineImage, OrderImage, StockImage};
use crate::contract::store::{
    Loaded, Ownership, Repair, Repaired, Store, StoreError, StoredHold, StoredOrder, StoredSku, Wanted,
    Watermark,
};
use crate::machine::state::State;
use crate::shard::recovery::check_holds;

/// What the shards begin with.
#[derive(Debug)]
pub struct Restored {
    /// By shard; each once.
    pub shards: Vec<RestoredShard>,
    /// SKUs whose stock rows did not fit and were put right by their journal, with what was there.
    pub repaired: Vec<(SkuId, Vec<Repaired>)>,
}

/// What a shard begins with.
#[derive(Debug)]
pub struct RestoredShard {
    /// Where its journal goes on: its last event that the store has, and the chain hash after it.
    pub mark: Watermark,
    /// All entries of its checkpoint, which begins and ends at the watermark.
    pub images: Vec<Image>,
    /// What stands at the end of it.
    pub end: CheckpointEnd,
    /// SKUs in memory.
    pub skus: usize,
    /// Orders that hold units, or whose participants may not have carried out everything.
    pub open_orders: usize,
    /// What it holds for orders that other shards decide.
    pub holds: usize,
}

/// The store has no sound beginning.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An order says something else than what is held for it. All rows are of one moment, so somebody changed them.
    #[error(
        "{0}: its rows in `orders`, `order_lines` or `holds` were changed by hand and have to be put back"
    )]
    Changed(String),
    /// What is in it makes no sense.
    #[error("shard {shard}: {problem}")]
    Inconsistent {
        /// Whose.
        shard: ShardId,
        /// What.
        problem: String,
    },
}

/// Reads what the shards begin with, from a store that was taken with `epoch`. `owned` is what it said then.
///
/// # Errors
/// [`RestoreError`].
pub async fn restore(
    store: &dyn Store,
    epoch: Epoch,
    owned: &Ownership,
    now: Timestamp,
) -> Result<Restored, RestoreError> {
    let mut orders = open_orders(store).await?;
    let mut skus: BTreeSet<SkuId> = hot_skus(store).await?;
    // What they reserve is counted against what orders hold, whether these are there or not.
    skus.extend(reserved_skus(store).await?);
    let holds = holds(store).await?;
    let ended = ended_orders(store, &orders, &holds).await?;
    orders.extend(ended);
    for order in &orders {
        skus.extend(order.image.lines.iter().map(|line| line.sku_id.clone()));
    }
    for hold in &holds {
        skus.extend(hold.image.lines.iter().map(|line| line.sku_id.clone()));
    }
    let (stocks, repaired) = load(store, epoch, skus, now).await?;
    let mut shards = Vec::new();
    for shard in (0..owned.shards).map(ShardId) {
        let mark = owned.watermarks.iter().find(|mark| mark.shard == shard);
        let mark = mark.copied().unwrap_or(Watermark { shard, ..Watermark::default() });
        let stocks = stocks.iter().filter(|(sku_id, _)| shard_of(sku_id, owned.shards) == shard);
        let stocks: Vec<&StockImage> = stocks.flat_map(|(_, stocks)| stocks).collect();
        let orders: Vec<&StoredOrder> = orders.iter().filter(|order| order.shard == shard).collect();
        let holds: Vec<&StoredHold> = holds.iter().filter(|hold| hold.shard == shard).collect();
        shards.push(shard_from(mark, owned.shards, stocks, &orders, &holds, now)?);
    }
    check(&shards, owned.shards)?;
    Ok(Restored { shards, repaired })
}

async fn open_orders(store: &dyn Store) -> Result<Vec<StoredOrder>, StoreError> {
    let mut orders: Vec<StoredOrder> = Vec::new();
    let mut after = None;
    loop {
        let (page, last) = store.open_orders(after.as_ref(), MAX_LOADED_AT_ONCE).await?;
        orders.extend(page);
        if last.is_none() {
            return Ok(orders);
        }
        after = last;
    }
}

async fn reserved_skus(store: &dyn Store) -> Result<Vec<SkuId>, StoreError> {
    let (mut skus, mut after) = (Vec::new(), None);
    loop {
        let (page, last) = store.reserved_skus(after.as_ref(), MAX_LOADED_AT_ONCE).await?;
        skus.extend(page);
        if last.is_none() {
            return Ok(skus);
        }
        after = last;
    }
}

/// Orders that are not open and that something is held for. That is right for an attempt to take units for a late
/// payment, or for a return, which came to nothing; whether it is one of these tells the order itself.
async fn ended_orders(
    store: &dyn Store,
    open: &[StoredOrder],
    holds: &[StoredHold],
) -> Result<Vec<StoredOrder>, RestoreError> {
    let open: BTreeSet<&OrderNo> = open.iter().map(|order| &order.image.order_no).collect();
    let of_holds: BTreeSet<&OrderNo> = holds.iter().map(|hold| &hold.image.order_no).collect();
    let others: Vec<OrderNo> = of_holds.difference(&open).copied().cloned().collect();
    let mut ended = Vec::new();
    for some in others.chunks(MAX_LOADED_AT_ONCE) {
        let loaded = store.load(&Wanted { orders: some.to_vec(), ..Wanted::default() }).await?;
        if let Some((order_no, problem)) = loaded.unreadable_orders.first() {
            return Err(RestoreError::Changed(format!(
                "order {order_no}: units are held for it, and it can't be read: {problem}"
            )));
        }
        ended.extend(loaded.orders);
    }
    Ok(ended)
}

async fn holds(store: &dyn Store) -> Result<Vec<StoredHold>, StoreError> {
    let mut holds: Vec<StoredHold> = Vec::new();
    loop {
        let key = |hold: &StoredHold| (hold.image.order_no.clone(), hold.image.attempt, hold.shard);
        let after = holds.last().map(key);
        let page = store.holds(after.as_ref(), MAX_LOADED_AT_ONCE).await?;
        if page.is_empty() {
            return Ok(holds);
        }
        holds.extend(page);
    }
}

async fn hot_skus(store: &dyn Store) -> Result<BTreeSet<SkuId>, StoreError> {
    let mut skus: BTreeSet<SkuId> = BTreeSet::new();
    loop {
        let page = store.hot_skus(skus.last(), MAX_LOADED_AT_ONCE).await?;
        if page.is_empty() {
            return Ok(skus);
        }
        skus.extend(page);
    }
}

type Stocks = BTreeMap<SkuId, Vec<StockImage>>;

/// Loads SKUs; rows that don't fit are put right by their journal, which nobody but flushes writes.
async fn load(
    store: &dyn Store,
    epoch: Epoch,
    skus: BTreeSet<SkuId>,
    at: Timestamp,
) -> Result<(Stocks, Vec<(SkuId, Vec<Repaired>)>), RestoreError> {
    let (mut stocks, mut repaired) = (Stocks::new(), Vec::new());
    let skus: Vec<SkuId> = skus.into_iter().collect();
    for some in skus.chunks(MAX_LOADED_AT_ONCE) {
        let wanted = Wanted { skus: some.to_vec(), ..Wanted::default() };
        let Loaded { skus: found, .. } = store.load(&wanted).await?;
        for (sku_id, stored) in found {
            match stored {
                StoredSku::Sound(images) => drop(stocks.insert(sku_id, images)),
                StoredSku::Unsound(_) => {
                    let repair = Repair { epoch, sku_id: sku_id.clone(), stocks: None, at };
                    repaired.push((sku_id.clone(), store.repair(&repair).await?));
                    let wanted = Wanted { skus: vec![sku_id.clone()], ..Wanted::default() };
                    let again = store.load(&wanted).await?.skus.remove(&sku_id);
                    let Some(StoredSku::Sound(images)) = again else {
                        let problem = format!("the rows of SKU {sku_id} can't be put right: {again:?}");
                        return Err(StoreError::Inconsistent(problem).into());
                    };
                    stocks.insert(sku_id, images);
                }
            }
        }
    }
    Ok((stocks, repaired))
}

fn shard_from(
    mark: Watermark,
    shards: u16,
    stocks: Vec<&StockImage>,
    orders: &[&StoredOrder],
    holds: &[&StoredHold],
    now: Timestamp,
) -> Result<RestoredShard, RestoreError> {
    let Watermark { shard, lsn: base, .. } = mark;
    let wrong = |problem: String| RestoreError::Inconsistent { shard, problem };
    // What orders sold that are in memory was not sold by forgotten ones.
    let mut sold: BTreeMap<(&SkuId, WarehouseId), u64> = BTreeMap::new();
    let mut time = now;
    let mut images = Vec::new();
    for order in orders {
        let image = &order.image;
        if image.lsn > base {
            return Err(wrong(format!("order {} has an event after the watermark", image.order_no)));
        }
        time = time.max(image.changed_at);
        // What of it lies elsewhere was sold there.
        let here = image.lines.iter().filter(|line| shard_of(&line.sku_id, shards) == shard);
        for LineImage { sku_id, warehouse_id, confirmed, returned, .. } in here {
            let net = u64::from(confirmed.saturating_sub(*returned));
            *sold.entry((sku_id, *warehouse_id)).or_default() += net;
        }
        images.push(Image::Order(OrderImage::clone(image)));
    }
    for hold in holds {
        if hold.image.lsn > base {
            let order_no = &hold.image.order_no;
            return Err(wrong(format!("a hold of order {order_no} has an event after the watermark")));
        }
        images.push(Image::Hold(hold.image.clone()));
    }
    let open_orders = orders.iter().filter(|order| !order.image.is_done()).count();
    let holds = holds.len();
    let skus: BTreeSet<&SkuId> = stocks.iter().map(|stock| &stock.sku_id).collect();
    let skus = skus.len();
    let mut all = Vec::with_capacity(stocks.len() + images.len());
    for stock in stocks {
        let in_memory = sold.get(&(&stock.sku_id, stock.warehouse_id)).copied().unwrap_or(0);
        let Some(forgotten_sold) = stock.levels.sold.checked_sub(in_memory) else {
            return Err(wrong(format!("open orders sold more of SKU {} than was sold", stock.sku_id)));
        };
        // A stock knows of no event after the watermark, or the store would.
        all.push(Image::Stock(StockImage { forgotten_sold, lsn: stock.lsn.min(base), ..stock.clone() }));
    }
    all.extend(images);
    let end = CheckpointEnd { end: base, time, departed: base };
    Ok(RestoredShard { mark, images: all, end, skus, open_orders, holds })
}

/// Builds the shards as a start would, and audits them.
fn check(restored: &[RestoredShard], shards: u16) -> Result<(), RestoreError> {
    let mut states = Vec::with_capacity(restored.len());
    for RestoredShard { mark, images, end, .. } in restored {
        let mut state = State::restoring(mark.shard, shards, mark.lsn, *end);
        let wrong = |problem: String| RestoreError::Inconsistent { shard: mark.shard, problem };
        state.restore(images.clone()).map_err(|corruption| wrong(corruption.to_string()))?;
        states.push(state);
    }
    if let Some(violation) = check_holds(&states).violations.first() {
        return Err(RestoreError::Changed(violation.clone()));
    }
    for state in &states {
        if let Some(violation) = state.audit().violations.first() {
            return Err(RestoreError::Inconsistent { shard: state.shard(), problem: violation.to_string() });
        }
    }
    Ok(())
}
