//! An order in one place becomes one over several, because one of its SKUs moves away. No unit moves.

use super::words::HomeImage;
use crate::checkpoint::OrderImage;

/// The order as its home has it, and its branches, one for each SKU, all of attempt 0. The order may be open or ended; not cancelled.
#[must_use]
pub fn split(order: OrderImage) -> (HomeImage, Vec<OrderImage>) {
    todo!("{order:?}")
}
