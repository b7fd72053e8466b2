//! What a participant logs of a hold: what it is for, what a decision does to its units.

use crate::base::ids::{SkuId, WarehouseId};
use crate::contract::units::{Levels, Serials};

/// A line of [`Change::Held`](super::Change::Held).
#[derive(Debug, Clone, PartialEq)]
pub struct HeldLine {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units, at least 1.
    pub units: u32,
    /// The levels after; of a return the levels as they are.
    pub after: Levels,
}

/// A line of [`Change::HoldChanged`](super::Change::HoldChanged).
#[derive(Debug, Clone, PartialEq)]
pub struct HoldMovedLine {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Units that move.
    pub units: u32,
    /// The levels after; of a line that moves nothing, the levels as they are.
    pub after: Levels,
    /// Of a SKU that numbers its units, and a sale: the first of the serial numbers.
    pub serial: Option<u64>,
    /// Units that it holds after it.
    pub left: u32,
    /// Units that it has sold after it, less those that it took back.
    pub sold: i64,
    /// Serial numbers that the coordinator may not have logged.
    pub unheard: Vec<Serials>,
}

impl HoldMovedLine {
    /// The serial numbers that its units get.
    #[must_use]
    pub fn serials(&self) -> Option<Serials> {
        let from = self.serial?;
        Some(Serials { from, to: from.saturating_add(u64::from(self.units)).saturating_sub(1) })
    }
}
