//! What a shard holds for orders that other shards decide.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::base::ids::{AttemptId, Lsn, OrderNo, ShardId};
use crate::contract::event::HoldMovedLine;
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::units::Serials;

/// Which hold: the order and the attempt that made it.
pub type HoldKey = (OrderNo, AttemptId);

/// Everything that this shard holds for orders of other shards. A tree and not a table: it never stops to grow, and
/// the holds of an order stand together.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    pub(super) entries: BTreeMap<HoldKey, Hold>,
}

/// See [`HoldImage`].
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) coordinator: ShardId,
    pub(super) purpose: HoldPurpose,
    pub(super) seq: u32,
    pub(super) lsn: Lsn,
    pub(super) lines: SmallVec<[HoldLine; 1]>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct HoldLine {
    /// The number of the stock.
    pub(super) stock: u32,
    pub(super) units: u32,
    pub(super) sold: i64,
    pub(super) serials: Vec<Serials>,
}

impl Hold {
    pub(super) fn has_units(&self) -> bool {
        self.lines.iter().any(|line| line.units > 0)
    }
}

impl HoldLine {
    /// What a change makes of it; `None` when it has not so much.
    pub(super) fn after(&self, purpose: HoldPurpose, kind: HoldMove, moved: &HoldMovedLine) -> Option<Self> {
        let mut after = self.clone();
        let units = i64::from(moved.units);
        after.units = after.units.checked_sub(moved.units)?;
        match kind {
            HoldMove::Sold => {
                after.sold = after.sold.checked_add(units)?;
                after.serials.extend(moved.serials());
            }
            HoldMove::Returned => after.sold = after.sold.checked_sub(units)?,
            HoldMove::Released | HoldMove::Expired => {}
            HoldMove::Over => {
                after.serials.clear();
                if purpose == HoldPurpose::Return {
                    after.units = 0;
                }
            }
        }
        Some(after)
    }
}
