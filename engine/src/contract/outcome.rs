//! What callers are told: an answer or a refusal, each a closed set. One place in `hotstock-api` maps them to HTTP.

use smallvec::SmallVec;

use super::order::OrderStatus;
use super::units::{Levels, Serials};
use crate::base::clock::Timestamp;
use crate::base::ids::{OrderNo, SkuId, WarehouseId};
use crate::contract::command::{InvalidField, StockStatus};

/// The end of a command.
pub type Outcome = Result<Answer, Refusal>;

/// The command was carried out, or was carried out before.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The order after the command.
    Order {
        /// What it holds now.
        order: OrderView,
        /// Made, changed or repeated.
        effect: Effect,
    },
    /// The stock after the command.
    Stock {
        /// Its levels; of a repeated request, the levels that it was answered the first time.
        stock: StockView,
        /// Made, changed or repeated.
        effect: Effect,
    },
    /// The stock of a SKU in the warehouses that the command touched.
    Sku {
        /// One entry per warehouse.
        stocks: Vec<StockView>,
        /// Changed or repeated.
        effect: Effect,
    },
}

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Made something new.
    Created,
    /// Changed something.
    Changed,
    /// Nothing: it had been done before, or it only reads.
    Replayed,
}

/// An order, as callers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderView {
    /// The caller's number.
    pub order_no: OrderNo,
    /// Where it stands.
    pub status: OrderStatus,
    /// When it was reserved (or cancelled before it was).
    pub created_at: Timestamp,
    /// When what it holds expires; `None` when it holds nothing.
    pub expires_at: Option<Timestamp>,
    /// What it asked for and what became of it; empty for a cancelled order.
    pub lines: SmallVec<[LineView; 1]>,
}

/// One line of an order. held + confirmed + released = the units that it got when it was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineView {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub quantity: u32,
    /// Units held now.
    pub held: u32,
    /// Units confirmed so far, including those returned since.
    pub confirmed: u32,
    /// Units given back without being sold.
    pub released: u32,
    /// Units sold and returned.
    pub returned: u32,
    /// The serial numbers of its confirmed units, in the order in which they were given; `None` where there are none.
    pub serials: Option<Box<[Serials]>>,
}

/// One stock, as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockView {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// How much.
    pub levels: Levels,
    /// Whether new reservations are taken.
    pub status: StockStatus,
    /// Its confirmed units get serial numbers.
    pub serialized: bool,
}

/// A line that could not be served in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortLine {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units asked for.
    pub requested: u64,
    /// Units there were (available, held or returnable, as the refusal says).
    pub available: u64,
}

/// The command was not carried out. Where nothing else is said, nothing happened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A field is out of bounds.
    #[error(transparent)]
    InvalidField(#[from] InvalidField),
    /// The order_no is known with other content.
    #[error("order {order_no} exists with other lines, mode or buyer")]
    OrderMismatch {
        /// The order.
        order_no: OrderNo,
    },
    /// The request_id is known with other content.
    #[error("this request_id was used before with other content")]
    RequestMismatch,
    /// No stock of this SKU (in this warehouse).
    #[error("there is no stock of SKU {sku_id}{}", match warehouse_id { Some(w) => format!(" in warehouse {w}"), None => String::new() })]
    UnknownSku {
        /// What.
        sku_id: SkuId,
        /// Where, if one warehouse was asked for.
        warehouse_id: Option<WarehouseId>,
    },
    /// No such order, or it ended longer ago than orders are remembered.
    #[error("order {order_no} is not known")]
    UnknownOrder {
        /// The order.
        order_no: OrderNo,
    },
    /// Not enough is available.
    #[error("not enough stock")]
    InsufficientStock {
        /// Each line that is short.
        lines: Vec<ShortLine>,
    },
    /// It was released before it was reserved.
    #[error("order {order_no} was released before it was reserved")]
    OrderCancelled {
        /// The order.
        order_no: OrderNo,
    },
    /// A release of what is confirmed already.
    #[error("order {order_no} is confirmed: return it instead")]
    AlreadyConfirmed {
        /// The order.
        order_no: OrderNo,
    },
    /// An extension of an order that holds nothing any more.
    #[error("order {order_no} holds nothing any more")]
    OrderEnded {
        /// The order.
        order_no: OrderNo,
    },
    /// A part that is larger than what the order holds.
    #[error("the order does not hold that much")]
    ExceedsHold {
        /// Each line that asks for more than is held (`available` = held).
        lines: Vec<ShortLine>,
    },
    /// The payment came after expiry or release and the stock is gone: refund.
    #[error("the payment came after the hold ended and the stock is gone")]
    LatePaymentNoStock {
        /// Each line that is short.
        lines: Vec<ShortLine>,
    },
    /// More is returned than was confirmed.
    #[error("more is returned than was confirmed")]
    NothingToReturn {
        /// Each line that asks for more than can be returned (`available` = confirmed - returned).
        lines: Vec<ShortLine>,
    },
    /// No new reservations for this SKU.
    #[error("SKU {sku_id} is suspended")]
    SkuSuspended {
        /// What.
        sku_id: SkuId,
        /// Where.
        warehouse_id: WarehouseId,
    },
    /// The stock exists and was created with another quantity.
    #[error("the stock exists and began with {initial} units")]
    StockExists {
        /// What it was created with.
        initial: u64,
        /// The stock as it is.
        stock: StockView,
    },
    /// The order last changed longer ago than orders are kept: its rows may go at any time.
    #[error("order {order_no} last changed longer ago than orders are kept: it can't be changed any more")]
    OrderTooOld {
        /// The order.
        order_no: OrderNo,
    },
    /// The order has had too many partial requests to remember one more.
    #[error("order {order_no} has had too many partial requests")]
    TooManyRequests {
        /// The order.
        order_no: OrderNo,
    },
    /// The gate of the shard is full, or the engine is stopping: nothing happened, come again.
    #[error("too many requests are under way")]
    Overloaded,
    /// The backlog of the journal has reached its cap on the disk: no new reservations, nothing happened, come again.
    #[error("the journal is at its cap on the disk: no new reservations until it has room")]
    JournalFull,
    /// The SQL store does not answer, and what this is about is not in memory; nothing happened, come again.
    #[error("the store, which has this SKU or order, is not available")]
    StoreUnavailable,
    /// The stored rows of a SKU are not what its journal says: somebody changed them by hand. Nothing is decided on
    /// them.
    #[error("the stored rows of SKU {sku_id} are not sound: {problem}")]
    StockInconsistent {
        /// Which.
        sku_id: SkuId,
        /// What is wrong, in words.
        problem: String,
    },
    /// The stored rows of an order can't be read: somebody changed them by hand. Nothing is decided on them.
    #[error("the stored rows of order {order_no} are not sound: {problem}")]
    OrderInconsistent {
        /// Which, as its caller knows it.
        order_no: OrderNo,
        /// What is wrong, in words.
        problem: String,
    },
    /// Another server took the store over, or it has what this server's journal does not: this one takes no order any
    /// more. Nothing happened.
    #[error("this server is fenced: {why}")]
    Fenced {
        /// Why, in words.
        why: String,
    },
    /// A write failed; outcome unknown.
    #[error("the journal can't be written: whether this took effect is unknown")]
    JournalUnavailable,
    /// The shard failed while it held this command; outcome unknown.
    #[error("the shard was restarted: whether this took effect is unknown")]
    ShardRestarted,
}
