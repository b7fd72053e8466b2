//! Units of a stock: its levels, how many move between them, and the serial numbers that sold ones get.

use crate::base::limits::MAX_STOCK_UNITS;

/// The levels of one stock after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Levels {
    /// Can be reserved now.
    pub available: u64,
    /// Held by orders that are not paid.
    pub reserved: u64,
    /// Of confirmed orders.
    pub sold: u64,
    /// Counts the changes of this stock.
    pub version: u64,
}

impl Levels {
    /// available + reserved: what lies in the warehouse and is not sold.
    #[must_use]
    pub fn on_hand(&self) -> u64 {
        // Both are at most MAX_STOCK_UNITS, far from overflow.
        self.available + self.reserved
    }

    /// available + reserved + sold.
    #[must_use]
    pub fn quantity(&self) -> u64 {
        self.on_hand() + self.sold
    }
}

/// Units that move between the levels of one stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta {
    /// Change of available.
    pub available: i64,
    /// Change of reserved.
    pub reserved: i64,
    /// Change of sold.
    pub sold: i64,
}

impl Delta {
    /// available → reserved.
    pub fn hold(n: u32) -> Self {
        Self { available: -i64::from(n), reserved: i64::from(n), sold: 0 }
    }

    /// reserved → sold, and (late payment) available → sold.
    pub fn sell(held: u32, late: u32) -> Self {
        let (held, late) = (i64::from(held), i64::from(late));
        Self { available: -late, reserved: -held, sold: held + late }
    }

    /// reserved → available.
    pub fn unhold(n: u32) -> Self {
        Self { available: i64::from(n), reserved: -i64::from(n), sold: 0 }
    }

    /// sold → available.
    pub fn give_back(n: u32) -> Self {
        Self { available: i64::from(n), reserved: 0, sold: -i64::from(n) }
    }

    /// Units that come from or go to outside.
    pub fn supply(units: i64) -> Self {
        Self { available: units, reserved: 0, sold: 0 }
    }
}

impl Levels {
    /// The levels after units moved, one version on; `None` when a level would be negative or the sum above
    /// [`MAX_STOCK_UNITS`].
    #[must_use]
    pub fn after(self, delta: Delta) -> Option<Self> {
        let available = self.available.checked_add_signed(delta.available)?;
        let reserved = self.reserved.checked_add_signed(delta.reserved)?;
        let sold = self.sold.checked_add_signed(delta.sold)?;
        let sum = available.checked_add(reserved)?.checked_add(sold)?;
        let version = self.version.checked_add(1)?;
        (sum <= MAX_STOCK_UNITS).then_some(Self { available, reserved, sold, version })
    }
}

/// Serial numbers that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serials {
    /// The first, at least 1.
    pub from: u64,
    /// The last, at least `from`.
    pub to: u64,
}

impl Serials {
    /// How many.
    #[must_use]
    pub fn count(self) -> u64 {
        self.to.saturating_add(1).saturating_sub(self.from)
    }
}
