//! Orders over several shards, as a store has them whose shards were flushed at different moments: an order may count
//! on units that its participant has not held by then, or a participant holds what the order has given up. Neither may
//! be sold twice, nor be held for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::Torn;
use crate::base::ids::{AttemptId, OrderNo, ShardId, shard_of};
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::image::{Decision, HoldImage, OrderImage, Span};
use crate::contract::order::Phase;
use crate::contract::store::{StoredHold, StoredOrder};

type Holds<'a> = BTreeMap<(&'a OrderNo, AttemptId, ShardId), &'a HoldImage>;

/// Makes orders and holds fit each other. What is not held for an order it does not have any more (if that is all, it
/// counts as released, so that a late payment asks for it again); what is held beyond that its participant is told to
/// let go. Gives what was found; what does not come back by this is said there as well.
pub(super) fn make_whole(orders: &mut [StoredOrder], holds: &[StoredHold], shards: u16) -> Vec<Torn> {
    let units = holds.iter().filter(|hold| hold.image.purpose == HoldPurpose::Units);
    let holds: Holds<'_> =
        units.map(|hold| ((&hold.image.order_no, hold.image.attempt, hold.shard), &hold.image)).collect();
    let mut torn = Vec::new();
    for StoredOrder { shard, image } in orders {
        if let Some(mut span) = image.span.take() {
            make_order_whole(image, &mut span, *shard, &holds, shards, &mut torn);
            image.span = Some(span);
        }
    }
    torn
}

fn make_order_whole(
    order: &mut OrderImage,
    span: &mut Span,
    coordinator: ShardId,
    holds: &Holds<'_>,
    shards: u16,
    torn: &mut Vec<Torn>,
) {
    let order_no = order.order_no.clone();
    let mut attempts: BTreeSet<AttemptId> = span.pending.iter().map(|decision| decision.attempt).collect();
    attempts.insert(span.attempt);
    let mut beyond: BTreeMap<(AttemptId, ShardId), Vec<(u16, u32)>> = BTreeMap::new();
    let mut gone = false;
    // What a participant was told has a number; a coordinator of an earlier moment must not use it again.
    let mut last = span.decisions;
    for (index, line) in (0_u16..).zip(&mut order.lines) {
        let participant = shard_of(&line.sku_id, shards);
        if participant == coordinator {
            continue;
        }
        for attempt in &attempts {
            let hold = holds.get(&(&order_no, *attempt, participant)).copied();
            let seq = hold.map_or(0, |hold| hold.seq);
            last = last.max(seq);
            let same = |known: &&crate::contract::image::HoldLineImage| {
                known.sku_id == line.sku_id && known.warehouse_id == line.warehouse_id
            };
            let there = hold.and_then(|hold| hold.lines.iter().find(same)).map_or(0, |known| known.units);
            let kept = if *attempt == span.attempt { line.held } else { 0 };
            let due: u32 = span
                .pending
                .iter()
                .filter(|decision| decision.attempt == *attempt && decision.kind != HoldMove::Returned)
                .filter(|decision| decision.seq > seq && decision.waiting.contains(&participant))
                .flat_map(|decision| decision.lines.iter().filter(|(of, _)| *of == index))
                .fold(0, |sum, (_, units)| sum.saturating_add(*units));
            let wanted = kept.saturating_add(due);
            if there == wanted {
                continue;
            }
            let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
            torn.push(Torn { order_no: order_no.clone(), sku_id, warehouse_id, wanted, there });
            if let Some(more) = there.checked_sub(wanted) {
                beyond.entry((*attempt, participant)).or_default().push((index, more));
            } else {
                let missing = (wanted - there).min(kept);
                line.held -= missing;
                line.released = line.released.saturating_add(missing);
                gone |= missing > 0;
            }
        }
    }
    if gone && order.phase == Phase::Open && order.lines.iter().all(|line| line.held == 0) {
        order.phase = Phase::Released;
        order.lines.iter_mut().for_each(|line| line.lapsed = line.released);
    }
    span.decisions = last;
    for ((attempt, participant), lines) in beyond {
        span.decisions = span.decisions.saturating_add(1);
        let (seq, kind) = (span.decisions, HoldMove::Released);
        span.pending.push(Decision { seq, attempt, kind, reason: None, lines, waiting: vec![participant] });
    }
}
