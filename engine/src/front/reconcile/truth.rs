//! What the shards had at the watermarks of the store: what they have now, less the events since. The row of the
//! store must be that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::live::Live;

use crate::base::blocking;
use crate::base::ids::{Lsn, ShardId, SkuId, WarehouseId, shard_of};
use crate::base::limits::MAX_RECONCILE_UNFLUSHED;
use crate::contract::event::{Change, Event};
use crate::contract::image::StockImage;
use crate::contract::journal::{JournalError, JournalReader};
use crate::contract::outcome::Refusal;
use crate::contract::store::Watermark;
use crate::contract::units::{Delta, Levels};

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

/// A stock of a shard at the watermark.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Truth {
    pub image: StockImage,
    /// It was created after the watermark: the store has no row of it.
    pub is_new: bool,
    /// Its status changed after the watermark, so the image's is a later one.
    pub later_status: bool,
    /// Likewise whether it is hot.
    pub later_hot: bool,
    /// The levels are those at the watermark.
    is_unwound: bool,
}

impl Truth {
    pub fn new(image: StockImage) -> Self {
        Self { image, is_new: false, later_status: false, later_hot: false, is_unwound: false }
    }
}

/// The SKUs that are in memory, with their stocks at the watermark; `None`: the store is too far behind to tell.
pub(super) type Truths = BTreeMap<SkuId, Option<Vec<Truth>>>;

/// See the top of the file.
pub(super) async fn truths(live: &dyn Live, skus: &[SkuId], marks: &[Watermark]) -> Result<Truths, Refusal> {
    let mut by_shard: BTreeMap<ShardId, Vec<SkuId>> = BTreeMap::new();
    for sku_id in skus {
        by_shard.entry(shard_of(sku_id, live.shards())).or_default().push(sku_id.clone());
    }
    let mut all = Truths::new();
    for (shard, skus) in by_shard {
        let flushed = marks.iter().find(|mark| mark.shard == shard).map_or(Lsn::ZERO, |mark| mark.lsn);
        let (applied, images) = live.images(shard, skus).await?;
        let mut stocks = Stocks::new();
        for image in images {
            stocks.entry(image.sku_id.clone()).or_default().push(Truth::new(image));
        }
        // A SKU goes as a whole: one event may change several of its stocks.
        let is_later = |stocks: &[Truth]| stocks.iter().any(|stock| stock.image.lsn > flushed);
        let (later, same): (Stocks, Stocks) = stocks.into_iter().partition(|(_, stocks)| is_later(stocks));
        all.extend(same.into_iter().map(|(sku_id, stocks)| (sku_id, Some(stocks))));
        if later.is_empty() {
            continue;
        }
        let names: Vec<SkuId> = later.keys().cloned().collect();
        let is_far = applied.0.saturating_sub(flushed.0) > MAX_RECONCILE_UNFLUSHED;
        let unwound =
            if is_far { None } else { unwind_all(live.journal(), shard, flushed, applied, later).await? };
        match unwound {
            Some(unwound) => all.extend(unwound.into_iter().map(|(sku_id, stocks)| (sku_id, Some(stocks)))),
            None => all.extend(names.into_iter().map(|sku_id| (sku_id, None))),
        }
    }
    Ok(all)
}

type Stocks = BTreeMap<SkuId, Vec<Truth>>;

/// Takes back the events of a shard after `flushed` through `applied`; `None` when the journal does not have them any
/// more.
async fn unwind_all(
    reader: Arc<dyn JournalReader>,
    shard: ShardId,
    flushed: Lsn,
    applied: Lsn,
    mut stocks: Stocks,
) -> Result<Option<Stocks>, Refusal> {
    let scan = move || {
        let mut next = flushed.next();
        while next <= applied {
            let events = match reader.read(shard, next, EVENTS_PER_READ) {
                Ok(events) if events.is_empty() => return Ok(None),
                Ok(events) => events,
                Err(JournalError::Trimmed { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            for (lsn, event) in events.iter().take_while(|(lsn, _)| *lsn <= applied) {
                unwind(&mut stocks, event);
                next = lsn.next();
            }
        }
        Ok(Some(stocks))
    };
    let problem = match blocking::run(scan).await {
        Ok(Ok(stocks)) => return Ok(stocks),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(problem, "reconcile can't read the journal");
    Err(Refusal::JournalUnavailable)
}

/// Takes back one event. Events come in their order, so the first one of a stock tells its levels before.
fn unwind(stocks: &mut Stocks, event: &Event) {
    match &event.change {
        Change::StockCreated { sku_id, warehouse_id, .. } => {
            if let Some(stock) = find(stocks, sku_id, *warehouse_id) {
                stock.is_new = true;
            }
        }
        Change::StatusChanged { sku_id, warehouses, .. } => {
            for (warehouse_id, _) in warehouses {
                if let Some(stock) = find(stocks, sku_id, *warehouse_id) {
                    stock.later_status = true;
                }
            }
        }
        Change::Pinned { skus, .. } => {
            for sku_id in skus {
                stocks.get_mut(sku_id).into_iter().flatten().for_each(|stock| stock.later_hot = true);
            }
        }
        Change::StockChanged { .. }
        | Change::Reserved { .. }
        | Change::Confirmed { .. }
        | Change::Released { .. }
        | Change::Cancelled { .. }
        | Change::Expired { .. }
        | Change::Extended { .. }
        | Change::Returned { .. }
        | Change::Forgotten { .. }
        | Change::Loaded { .. }
        | Change::OrdersLoaded { .. }
        | Change::Evicted { .. }
        | Change::Started { .. }
        | Change::Acknowledged { .. }
        | Change::Held { .. }
        | Change::HoldChanged { .. } => {}
    }
    for change in event.stock_moves() {
        let Some(stock) = find(stocks, &change.sku_id, change.warehouse_id) else { continue };
        if !std::mem::replace(&mut stock.is_unwound, true) {
            stock.image.levels = before(change.after, change.delta);
        }
        let Delta { available, reserved, sold } = change.delta;
        stock.image.supplied = stock.image.supplied.saturating_add_signed(-(available + reserved + sold));
        if let (Some(numbered), Some(serials)) = (&mut stock.image.numbered, change.serials) {
            *numbered = numbered.saturating_sub(serials.count());
        }
    }
}

fn find<'a>(stocks: &'a mut Stocks, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<&'a mut Truth> {
    stocks.get_mut(sku_id)?.iter_mut().find(|stock| stock.image.warehouse_id == warehouse_id)
}

/// The levels before a change. Events fit, so nothing saturates.
fn before(after: Levels, delta: Delta) -> Levels {
    Levels {
        available: after.available.saturating_add_signed(-delta.available),
        reserved: after.reserved.saturating_add_signed(-delta.reserved),
        sold: after.sold.saturating_add_signed(-delta.sold),
        version: after.version.saturating_sub(1),
    }
}
