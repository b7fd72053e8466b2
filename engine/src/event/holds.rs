//! What a participant logs of a hold: what it is for, what a decision does to its units.

use super::MoveKind;
use crate::ids::{SkuId, WarehouseId};
use crate::outcome::{Levels, Serials};
use crate::state::Delta;

/// What a hold is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldPurpose {
    /// Units are reserved: of a new order, or for a late payment.
    Units,
    /// Units that were sold are to come back. Nothing moves until that is decided; the SKU stays in memory.
    Return,
}

/// What a decision does to the units of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoldMove {
    /// reserved → sold.
    Sold,
    /// reserved → available, by the caller, or because the order was not made.
    Released,
    /// reserved → available, because the time was over.
    Expired,
    /// sold → available.
    Returned,
    /// Nothing moves: the coordinator has the serial numbers, or gave a return up.
    Over,
}

impl HoldMove {
    /// What it does to the levels of a stock.
    #[must_use]
    pub fn delta(self, units: u32) -> Delta {
        match self {
            Self::Sold => Delta::sell(units, 0),
            Self::Released | Self::Expired => Delta::unhold(units),
            Self::Returned => Delta::give_back(units),
            Self::Over => Delta::default(),
        }
    }

    /// As what it stands in the stock journal, if stock moves.
    pub(super) fn move_kind(self) -> Option<MoveKind> {
        match self {
            Self::Sold => Some(MoveKind::Confirmed),
            Self::Released => Some(MoveKind::Released),
            Self::Expired => Some(MoveKind::Expired),
            Self::Returned => Some(MoveKind::Returned),
            Self::Over => None,
        }
    }
}

/// A line of [`Change::Held`].
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

/// A line of [`Change::HoldChanged`].
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
