//! What is remembered after the fact: ended orders and answered stock requests, by the event that last changed them.
//! They are forgotten in that order, by a logged event.

use std::collections::BTreeSet;

use super::table::{Keyed, Table};
use crate::base::clock::Timestamp;
use crate::base::ids::{Lsn, OrderNo, RequestId, SkuId, WarehouseId};
use crate::contract::image::RequestImage;
use crate::contract::units::Levels;

/// The scope and id of a stock request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    pub sku_id: SkuId,
    pub request_id: RequestId,
}

/// A stock request that was answered.
#[derive(Debug, Clone)]
pub struct StockRequest {
    pub key: RequestKey,
    pub warehouse_id: WarehouseId,
    pub fingerprint: u64,
    /// The answer.
    pub after: Levels,
    pub at: Timestamp,
    pub lsn: Lsn,
    /// The number of the stock, and its index among the requests that lie on it: filled in when it is put.
    pub stock: (u32, u32),
}

impl Keyed for StockRequest {
    type Key = RequestKey;

    fn key(&self) -> &RequestKey {
        &self.key
    }
}

impl From<RequestImage> for StockRequest {
    fn from(image: RequestImage) -> Self {
        Self {
            key: RequestKey { sku_id: image.sku_id, request_id: image.request_id },
            warehouse_id: image.warehouse_id,
            fingerprint: image.fingerprint,
            after: image.after,
            at: image.at,
            lsn: image.lsn,
            stock: (0, 0),
        }
    }
}

impl StockRequest {
    pub fn image(&self) -> RequestImage {
        RequestImage {
            sku_id: self.key.sku_id.clone(),
            request_id: self.key.request_id.clone(),
            warehouse_id: self.warehouse_id,
            fingerprint: self.fingerprint,
            after: self.after,
            at: self.at,
            lsn: self.lsn,
        }
    }
}

/// All stock requests that are remembered.
pub type Requests = Table<StockRequest>;

/// Up to `max` images from slot `from` on, and the slot after them.
pub fn request_images(requests: &Requests, from: usize, max: usize) -> (Vec<RequestImage>, usize) {
    let to = requests.slots().min(from.saturating_add(max));
    let slots = (from..to).filter_map(|slot| requests.get(u32::try_from(slot).ok()?));
    (slots.map(StockRequest::image).collect(), to)
}

/// What is remembered, by its last change. Most events change one order or answer one request; a load brings many.
pub type Remembered = BTreeSet<(Lsn, Item)>;

/// Something remembered, by its slot in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Order(u32),
    Request(u32),
}

/// Something that left memory and that the store has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Departed {
    /// An order.
    Order(OrderNo),
    /// A stock request.
    Request(SkuId, RequestId),
}
