//! Reading stock out of another system's MySQL, row by row, to be created here.
//!
//! - [`source`]: which table and columns: presets of known systems, or a map.
//! - [`read`]: the rows in key order, in bounded memory. [`check`]: which of them are stock, and why the others are
//!   not.
//! - [`report`]: what became of them.
//!
//! What old columns become: `available` units are imported as the first quantity of a new stock. Units that the old
//! system holds for orders (reserved, locked) stay out, because their orders are not here to confirm or release them;
//! they are counted in [`Row::locked`], and with [`ReadOptions::include_reserved`] added to what is imported. Sold
//! units belong to buyers and are never imported.
//!
//! The reader changes nothing on either side. Who imports sends one `CreateStock` per [`Row`]: the same row again is
//! a repeat, another quantity is refused as `stock_exists`, so that an import can be repeated after it was broken
//! off.

mod check;
mod read;
mod report;
mod source;

use hotstock_engine::ids::{SkuId, WarehouseId};

pub use read::{ImportError, ReadOptions, Reader};
pub use report::Report;
pub use source::{BadSource, PRESETS, Source};

/// What stands in a row of the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A stock.
    Row(Row),
    /// Something else.
    Refused(Refused),
}

/// A stock to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// The first quantity: 0 to [`MAX_STOCK_UNITS`](hotstock_engine::limits::MAX_STOCK_UNITS).
    pub available: u64,
    /// Units that the old system holds for orders. Part of `available` with [`ReadOptions::include_reserved`], left
    /// out without.
    pub locked: u64,
    /// Units that the old system has sold, where it says so; never imported.
    pub sold: u64,
}

/// A row that is not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its SKU as it was read, bytes that are no text replaced; empty for NULL.
    pub sku: String,
    /// Its warehouse likewise.
    pub warehouse: String,
    /// Why.
    pub why: Why,
}

/// Why a row is not imported.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Why {
    /// The SKU is empty, too long or no text.
    #[error("the SKU must be 1 to 64 bytes of text without control characters")]
    BadSku,
    /// The warehouse is no number of 32 bits.
    #[error("the warehouse must be a number from 0 to 4294967295")]
    BadWarehouse,
    /// A quantity is missing or no whole number.
    #[error("{0} must be a whole number")]
    NotANumber(&'static str),
    /// A quantity is below 0.
    #[error("{0} is negative")]
    Negative(&'static str),
    /// A quantity is above what a stock can have.
    #[error("{0} is above 1000000000000000")]
    TooLarge(&'static str),
    /// The quantities contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The SKU has other rows for this warehouse; none of them is imported, because nobody knows which one counts.
    #[error("there are several rows for this SKU and warehouse")]
    Duplicate,
    /// The SKU has more warehouses than are allowed.
    #[error("the SKU has more than 1000 rows")]
    TooManyRows,
    /// The old system marked the row as deleted.
    #[error("the row is marked as deleted")]
    Deleted,
}
