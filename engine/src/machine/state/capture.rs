//! Checkpoints: the state as images, slice by slice between batches, and the state from images.

use super::corruption::Corruption;
use super::held::HoldKey;
use super::remembered::{RequestKey, StockRequest, request_images};
use super::shard_state::State;
use super::stock::Stock;
use crate::base::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use crate::contract::checkpoint::CheckpointEnd;
use crate::contract::image::{Image, OrderImage, RequestImage, StockImage};

/// How far a checkpoint has come. Places of the tables are walked in order; what changes behind is repaired by the
/// replay, because its event is after the checkpoint's begin.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    stage: Stage,
    slot: usize,
    /// The last hold.
    hold: Option<HoldKey>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stage {
    /// First, so that (but for the newest) every stock is there before an order names it.
    #[default]
    Stocks,
    Orders,
    Holds,
    Requests,
    Done,
}

impl State {
    /// The next slice of a checkpoint, looking at up to `max` slots; `None` when it is complete.
    pub fn capture(&self, at: &mut Capture, max: usize) -> Option<Vec<Image>> {
        let (slice, slot, slots, next): (Vec<Image>, _, _, _) = match at.stage {
            Stage::Stocks => {
                let (images, to) = self.stocks.images(at.slot, max);
                (images.into_iter().map(Image::Stock).collect(), to, self.stocks.slots(), Stage::Orders)
            }
            Stage::Orders => {
                let (images, to) = self.orders.images(&self.stocks, at.slot, max);
                (images.into_iter().map(Image::Order).collect(), to, self.orders.slots(), Stage::Holds)
            }
            Stage::Holds => {
                // By key and not by slot: what comes in behind is told by events after the begin.
                let (images, last) = self.hold_images(at.hold.as_ref(), max);
                let is_last = images.len() < max;
                at.hold = last;
                let slots = if is_last { 0 } else { usize::MAX };
                (images.into_iter().map(Image::Hold).collect(), 0, slots, Stage::Requests)
            }
            Stage::Requests => {
                let (images, to) = request_images(&self.requests, at.slot, max);
                (images.into_iter().map(Image::Request).collect(), to, self.requests.slots(), Stage::Done)
            }
            Stage::Done => return None,
        };
        (at.stage, at.slot) = if slot >= slots { (next, 0) } else { (at.stage, slot) };
        Some(slice)
    }

    /// The state that a checkpoint tells of, ready to replay the events after `begin`. It is exact only when those up
    /// to `end` are applied; see [`State::check_exact`].
    #[must_use]
    pub fn restoring(shard: ShardId, shards: u16, begin: Lsn, end: CheckpointEnd) -> Self {
        let mut state = Self::new(shard, shards);
        state.applied = begin;
        state.exact_from = end.end;
        state.departed = end.departed;
        if begin == end.end {
            // No event to be replayed will bring the time of the last one.
            state.time = end.time;
        }
        state
    }

    /// A stock, as an image.
    #[must_use]
    pub fn image_of_stock(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockImage> {
        let number = self.stocks.find(sku_id, warehouse_id)?;
        Some(self.stocks.get(number)).filter(|stock| !stock.placeholder).map(Stock::image)
    }

    /// All stocks of a SKU, as images; none when it is not in memory.
    #[must_use]
    pub fn images_of_sku(&self, sku_id: &SkuId) -> Vec<StockImage> {
        self.stocks.of_sku(sku_id).filter(|stock| !stock.placeholder).map(Stock::image).collect()
    }

    /// An order, as an image.
    #[must_use]
    pub fn image_of_order(&self, order_no: &OrderNo) -> Option<OrderImage> {
        self.orders.find(order_no).map(|(_, order)| order.image(&self.stocks))
    }

    /// A remembered stock request, as an image.
    #[must_use]
    pub fn image_of_request(&self, sku_id: &SkuId, request_id: &RequestId) -> Option<RequestImage> {
        let key = RequestKey { sku_id: sku_id.clone(), request_id: request_id.clone() };
        self.requests.by_key(&key).map(StockRequest::image)
    }

    /// Adds a slice of the checkpoint.
    ///
    /// # Errors
    /// [`Corruption`] when an entry stands in it twice.
    pub fn restore(&mut self, slice: Vec<Image>) -> Result<(), Corruption> {
        for image in slice {
            match image {
                Image::Stock(image) => self.restore_stock(&image)?,
                Image::Order(image) => self.restore_order(image)?,
                Image::Request(image) => self.restore_request(image)?,
                Image::Hold(image) => self.restore_hold(image)?,
            }
        }
        Ok(())
    }

    /// After the replay: whether it reached the end of the checkpoint.
    ///
    /// # Errors
    /// [`Corruption`] when the journal ends before the checkpoint does.
    pub fn check_exact(&self) -> Result<(), Corruption> {
        if self.applied >= self.exact_from {
            return Ok(());
        }
        let problem =
            format!("the journal ends at {}, before the checkpoint that it belongs to", self.applied);
        Err(Corruption::new(self.exact_from, problem))
    }

    fn restore_stock(&mut self, image: &StockImage) -> Result<(), Corruption> {
        let number = self.stocks.number_or_placeholder(&image.sku_id, image.warehouse_id);
        let known = self.stocks.get(number);
        // A stock that was captured, left, came back in a later slot and was captured there: the newer one counts.
        if !known.placeholder && known.lsn >= image.lsn {
            let (sku_id, warehouse_id) = (&image.sku_id, image.warehouse_id);
            let problem = format!("SKU {sku_id} in warehouse {warehouse_id} stands twice in it");
            return Err(Corruption::new(image.lsn, problem));
        }
        self.stocks.put(number, image, image.lsn);
        Ok(())
    }

    fn restore_order(&mut self, image: OrderImage) -> Result<(), Corruption> {
        // An order that was captured, forgotten, reserved again under its number in a later slot and captured there:
        // what the first one was is told by the events after `begin`, the last of which forgets it.
        if let Some((slot, known)) = self.orders.find(&image.order_no) {
            if known.lsn >= image.lsn {
                return Err(Corruption::new(
                    image.lsn,
                    format!("order {} stands twice in it", image.order_no),
                ));
            }
            self.take_order(slot);
        }
        let lsn = image.lsn;
        let order = self.order_of(image, lsn);
        self.put_order(order);
        Ok(())
    }

    fn restore_request(&mut self, image: RequestImage) -> Result<(), Corruption> {
        let request = StockRequest::from(image);
        let key = &request.key;
        // As with orders: forgotten and made again while the checkpoint ran.
        if let Some((slot, known)) = self.requests.find(key).and_then(|p| Some((p, self.requests.get(p)?))) {
            if known.lsn >= request.lsn {
                let problem = format!("request {} stands twice in it", key.request_id);
                return Err(Corruption::new(request.lsn, problem));
            }
            self.take_request(slot);
        }
        self.put_request(request);
        Ok(())
    }
}
