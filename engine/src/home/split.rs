//! An order in one place becomes one over several, because one of its SKUs moves away. No unit moves.

use std::collections::HashMap;

use super::words::{HomeImage, Share};
use crate::checkpoint::{LineImage, LineSerials, OrderImage, Phase};
use crate::ids::{AttemptId, Branch, SkuId};

/// What an order that lay in one place gets.
const FIRST: AttemptId = AttemptId(0);

/// The order as its home has it, and its branches, one for each SKU of which it ever got units, all of attempt 0. The order may be open
/// or ended; not cancelled.
#[must_use]
pub fn split(order: OrderImage) -> (HomeImage, Vec<OrderImage>) {
    let got = |line: &LineImage| line.held > 0 || line.confirmed > 0 || line.released > 0;
    let mut places: HashMap<&SkuId, usize> = HashMap::new();
    let mut skus: Vec<(&SkuId, Vec<u16>)> = Vec::new();
    let mut shares = Vec::with_capacity(order.lines.len());
    for (index, line) in (0..).zip(&order.lines).filter(|(_, line)| got(line)) {
        let LineImage { held, confirmed, released, returned, .. } = *line;
        shares.push(Share { attempt: FIRST, line: index, held, confirmed, released, returned });
        let place = *places.entry(&line.sku_id).or_insert(skus.len());
        match skus.get_mut(place) {
            Some((_, lines)) => lines.push(index),
            None => skus.push((&line.sku_id, vec![index])),
        }
    }
    let branches = skus.into_iter().map(|(sku_id, lines)| branch_of(&order, sku_id, &lines)).collect();
    (HomeImage { order, shares, decisions: 0, pending: Vec::new() }, branches)
}

fn branch_of(order: &OrderImage, sku_id: &SkuId, indexes: &[u16]) -> OrderImage {
    let lines: Vec<_> = indexes.iter().map(|index| order.lines[usize::from(*index)].clone()).collect();
    let (held, released) = (|line: &LineImage| line.held > 0, |line: &LineImage| line.released > 0);
    let ended = match order.phase {
        Phase::Expired => Phase::Expired,
        _ => Phase::Released,
    };
    // As if it had always been alone: open, or all sold, or ended as the order has.
    let phase = if !lines.iter().any(held) && lines.iter().any(released) { ended } else { Phase::Open };
    let place = |line: u16| (0..).zip(indexes).find(|(_, index)| **index == line).map(|(place, _)| place);
    let serials = order.serials.iter();
    let serials = serials.filter_map(|given| Some(LineSerials { line: place(given.line)?, ..*given })).collect();
    let branch = Branch { order_no: order.order_no.clone(), sku_id: sku_id.clone(), attempt: FIRST };
    OrderImage {
        order_no: branch.number(),
        buyer_id: order.buyer_id.clone(),
        mode: order.mode,
        phase,
        created_at: order.created_at,
        expires_at: order.expires_at,
        changed_at: order.changed_at,
        lsn: order.lsn,
        lines,
        // Those of the order stay at its home; a branch is told decisions by their number.
        requests: Vec::new(),
        serials,
    }
}
