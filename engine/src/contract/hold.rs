//! What a participant holds units for, and what a decision of the coordinator does to them.

use super::units::Delta;

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
}
