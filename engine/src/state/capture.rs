//! Checkpoints: the state as images, slice by slice between batches, and the state from images.

use smallvec::SmallVec;

use super::order::{Order, OrderLine};
use super::remembered::{Item, RequestKey, StockRequest, request_images};
use super::{Corruption, State};
use crate::checkpoint::{CheckpointEnd, Image, OrderImage, RequestImage, StockImage};
use crate::clock::Timestamp;
use crate::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};

/// How far a checkpoint has come. Places of the tables are walked in order; what changes behind is repaired by the
/// replay, because its event is after the checkpoint's begin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capture {
    stage: Stage,
    place: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum Stage {
    /// First, so that (but for the newest) every stock is there before an order names it.
    #[default]
    Stocks,
    Orders,
    Requests,
    Done,
}

impl State {
    /// The next slice of a checkpoint, looking at up to `max` places; `None` when it is complete.
    pub fn capture(&self, at: &mut Capture, max: usize) -> Option<Vec<Image>> {
        let (slice, place, places, next): (Vec<Image>, _, _, _) = match at.stage {
            Stage::Stocks => {
                let (images, to) = self.stocks.images(at.place, max);
                (images.into_iter().map(Image::Stock).collect(), to, self.stocks.len(), Stage::Orders)
            }
            Stage::Orders => {
                let (images, to) = self.orders.images(&self.stocks, at.place, max);
                (images.into_iter().map(Image::Order).collect(), to, self.orders.places(), Stage::Requests)
            }
            Stage::Requests => {
                let (images, to) = request_images(&self.requests, at.place, max);
                (images.into_iter().map(Image::Request).collect(), to, self.requests.places(), Stage::Done)
            }
            Stage::Done => return None,
        };
        *at = if place >= places { Capture { stage: next, place: 0 } } else { Capture { place, ..*at } };
        Some(slice)
    }

    /// The state that a checkpoint tells of, ready to replay the events after `begin`. It is exact only when those up
    /// to `end` are applied; see [`State::check_exact`].
    #[must_use]
    pub fn restoring(shard: ShardId, shards: u16, begin: Lsn, end: CheckpointEnd) -> Self {
        let mut state = Self::new(shard, shards);
        state.applied = begin;
        state.exact_from = end.end;
        if begin == end.end {
            // No event to be replayed will bring the time of the last one.
            state.time = end.time;
        }
        state
    }

    /// A small state of some stocks, orders and requests, to decide or apply what is about them alone: the store does so in its
    /// transactions. It stands at `applied`; its time is at least `time`. Orders that it does not hold are taken as forgotten.
    ///
    /// # Errors
    /// [`Corruption`] when an entry stands in it twice.
    pub fn of_images(applied: Lsn, time: Timestamp, images: Vec<Image>) -> Result<Self, Corruption> {
        let mut state = Self::new(ShardId(0), 1);
        state.applied = applied;
        state.exact_from = Lsn(u64::MAX);
        state.time = time;
        state.restore(images)?;
        Ok(state)
    }

    /// Steps over an event that is not about what a small state holds; the next to apply is the one after `lsn`.
    pub fn skip(&mut self, lsn: Lsn) {
        self.applied = lsn;
    }

    /// A stock, as an image.
    #[must_use]
    pub fn image_of_stock(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockImage> {
        let number = self.stocks.find(sku_id, warehouse_id)?;
        Some(self.stocks.get(number).image())
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
                Image::Stock(image) => self.stocks.restore(image),
                Image::Order(image) => self.restore_order(image)?,
                Image::Request(image) => self.restore_request(image)?,
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

    fn restore_order(&mut self, image: OrderImage) -> Result<(), Corruption> {
        // An order that was captured, forgotten, reserved again under its number in a later place and captured there: what
        // the first one was is told by the events after `begin`, the last of which forgets it.
        if let Some((place, known)) = self.orders.find(&image.order_no) {
            if known.lsn >= image.lsn {
                return Err(Corruption::new(image.lsn, format!("order {} stands twice in it", image.order_no)));
            }
            self.remembered.remove(&known.lsn);
            self.orders.remove(place);
        }
        let mut lines = SmallVec::with_capacity(image.lines.len());
        for line in image.lines {
            // A stock that was created while the checkpoint ran gets its place now and its levels from the replay.
            let stock = self.stocks.place(&line.sku_id, line.warehouse_id);
            lines.push(OrderLine {
                stock,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                lapsed: line.lapsed,
            });
        }
        let mut order = Order::new(image.order_no, image.created_at, image.lsn);
        order.buyer_id = image.buyer_id;
        order.mode = image.mode;
        order.phase = image.phase;
        order.expires_at = image.expires_at;
        order.changed_at = image.changed_at;
        order.lines = lines;
        order.requests = (!image.requests.is_empty()).then(|| Box::new(image.requests));
        let (lsn, ended) = (order.lsn, !order.is_open());
        let place = self.orders.insert(order);
        if ended {
            self.remembered.insert(lsn, Item::Order(place));
        }
        Ok(())
    }

    fn restore_request(&mut self, image: RequestImage) -> Result<(), Corruption> {
        let key = RequestKey { sku_id: image.sku_id, request_id: image.request_id };
        // As with orders: forgotten and made again while the checkpoint ran.
        if let Some((place, known)) = self.requests.find(&key).and_then(|p| Some((p, self.requests.get(p)?))) {
            if known.lsn >= image.lsn {
                return Err(Corruption::new(image.lsn, format!("request {} stands twice in it", key.request_id)));
            }
            self.remembered.remove(&known.lsn);
            self.requests.remove(place);
        }
        let request = StockRequest {
            key,
            warehouse_id: image.warehouse_id,
            fingerprint: image.fingerprint,
            after: image.after,
            at: image.at,
            lsn: image.lsn,
        };
        let place = self.requests.insert(request);
        self.remembered.insert(image.lsn, Item::Request(place));
        Ok(())
    }
}
