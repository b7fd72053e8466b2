//! The rules of orders, applied to an order over several places: a small state of it and of stocks that have plenty
//! decides. They are not written a second time.

use super::words::{DecidedLine, DecisionKind};
use crate::checkpoint::{Image, LineImage, OrderImage, StockImage};
use crate::clock::Timestamp;
use crate::command::StockStatus;
use crate::event::OrderRequest;
use crate::ids::Lsn;
use crate::limits::MAX_STOCK_UNITS;
use crate::outcome::Levels;
use crate::state::{Order, State};

/// One place that has all the lines, and enough of everything.
pub(super) fn one_place(order: &OrderImage, now: Timestamp) -> State {
    let mut images: Vec<Image> = order.lines.iter().map(|line| Image::Stock(plenty(line))).collect();
    images.push(Image::Order(order.clone()));
    State::of_images(Lsn::ZERO, now, images).expect("each stock stands in an order once")
}

/// A stock with the units of a line, and as many others as there can be.
fn plenty(line: &LineImage) -> StockImage {
    let (reserved, sold) = (u64::from(line.held), u64::from(line.confirmed.saturating_sub(line.returned)));
    let available = MAX_STOCK_UNITS.saturating_sub(reserved).saturating_sub(sold);
    StockImage {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        levels: Levels { available, reserved, sold, version: 0 },
        status: StockStatus::OnSale,
        initial: 0,
        supplied: MAX_STOCK_UNITS,
        forgotten_sold: 0,
        lsn: Lsn::ZERO,
        hot: false,
        // Serial numbers are given where the units are.
        numbered: None,
    }
}

/// Lets a decision change the counts of an order; `None` when it does not fit them.
pub(super) fn apply(
    order: &mut OrderImage,
    kind: DecisionKind,
    lines: &[DecidedLine],
    request: Option<&OrderRequest>,
) -> Option<()> {
    let mut counted = Order::counting(order);
    let moved = lines.iter().map(|line| (line.line, line.units));
    match kind {
        DecisionKind::Confirm => {
            counted.counts_mut().sell(lines.iter().map(|l| (l.line, l.units, l.late)))?
        }
        DecisionKind::Release => counted.counts_mut().release(moved, request.is_none())?,
        DecisionKind::Expire => counted.counts_mut().expire(moved)?,
        DecisionKind::Return => counted.counts_mut().take_back(moved)?,
    }
    counted.count_into(order);
    order.requests.extend(request.cloned());
    Some(())
}
