//! Lets changes take effect at a home: live right after they were decided, in recovery from the journal.

use super::words::{Decided, DecisionKind, HeldLine, HomeChange, HomeImage};
use super::{HomeOrder, Homes, judge, shares};
use crate::checkpoint::{LineImage, OrderImage, Phase};
use crate::clock::Timestamp;
use crate::event::OrderRequest;
use crate::ids::{Lsn, OrderNo};
use crate::limits::TRUSTED_TO_CARRY_MILLIS;
use crate::state::NO_DEADLINE;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The order at this place was made.
    Made(u32),
    /// The order at this place was changed; its last change before.
    Changed(u32, Lsn),
    /// The order knows of it (it came from a checkpoint that was taken later).
    Known,
    /// There is no such order.
    Unknown,
}

impl Homes {
    /// Lets a change take effect, unless the order knows of it already.
    ///
    /// # Errors
    /// What does not fit; nothing is of use then.
    pub(crate) fn apply(&mut self, lsn: Lsn, at: Timestamp, change: &HomeChange) -> Result<Applied, String> {
        let order_no = change.order_no();
        let known = self.image(order_no).map(|image| image.order.lsn);
        let makes = matches!(change, HomeChange::Reserved { .. } | HomeChange::Adopted(_));
        match known {
            Some(known) if known >= lsn => return Ok(Applied::Known),
            Some(_) if makes => return Err(format!("it makes order {order_no} again")),
            None if !makes => return Ok(Applied::Unknown),
            _ => {}
        }
        let misfit = || format!("it does not fit order {order_no}");
        match change {
            HomeChange::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
                let order = OrderImage {
                    order_no: order_no.clone(),
                    buyer_id: buyer_id.clone(),
                    mode: *mode,
                    phase: Phase::Open,
                    created_at: at,
                    expires_at: at.plus_seconds(u64::from(*ttl_seconds)),
                    changed_at: at,
                    lsn,
                    lines: lines.iter().map(line_image).collect(),
                    requests: asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint }).into_iter().collect(),
                    serials: Vec::new(),
                };
                let shares = shares::of_attempt(lines, *attempt);
                Ok(Applied::Made(self.insert(HomeImage { order, shares, decisions: 0, pending: Vec::new() })))
            }
            HomeChange::Adopted(image) => {
                let mut image = (**image).clone();
                shares::check(&image)?;
                image.order.lsn = lsn;
                Ok(Applied::Made(self.insert(image)))
            }
            HomeChange::Extended { order_no, ttl_seconds } => self
                .change(order_no, lsn, at, |image| {
                    image.order.expires_at = at.plus_seconds(u64::from(*ttl_seconds));
                    Some(())
                })
                .ok_or_else(misfit),
            HomeChange::Decided { order_no, kind, request, reason, attempt, lines } => {
                let changed = self.change(order_no, lsn, at, |image| {
                    judge::apply(&mut image.order, *kind, lines, request.as_ref())?;
                    let (taken, whole) = shares::take(image, *kind, lines, *attempt)?;
                    image.decisions += 1;
                    let (number, kind, reason) = (image.decisions, *kind, reason.clone());
                    image.pending.push(Decided { number, kind, reason, shares: taken, whole });
                    Some(())
                });
                let changed = changed.ok_or_else(misfit)?;
                if let Applied::Changed(place, _) = changed {
                    if *kind == DecisionKind::Expire {
                        // Nobody asked for it.
                        self.trust(place, None);
                        self.unsent.insert(place);
                    } else if !self.unsent.contains(&place) {
                        self.trust(place, Some(at.plus_millis(TRUSTED_TO_CARRY_MILLIS)));
                    }
                }
                Ok(changed)
            }
            HomeChange::Carried { order_no, through, serials } => {
                let changed = self.change(order_no, lsn, at, |image| {
                    image.pending.retain(|decided| decided.number > *through);
                    let lines = image.order.lines.len();
                    image.order.serials.extend(serials);
                    serials.iter().all(|given| usize::from(given.line) < lines).then_some(())
                });
                let changed = changed.ok_or_else(misfit)?;
                if let Applied::Changed(place, _) = changed
                    && self.at_place(place).is_some_and(|image| image.pending.is_empty())
                {
                    self.unsent.remove(&place);
                    self.trust(place, None);
                }
                Ok(changed)
            }
        }
    }

    /// Changes an order that is here; its deadline goes with its time. `None` when the change does not fit.
    fn change(
        &mut self,
        order_no: &OrderNo,
        lsn: Lsn,
        at: Timestamp,
        change: impl FnOnce(&mut HomeImage) -> Option<()>,
    ) -> Option<Applied> {
        let place = self.place_of(order_no)?;
        let HomeOrder { image, deadline_index, .. } = self.table.get_mut(place)?;
        let (was_open, was_at, was_lsn) = (image.is_open(), image.order.expires_at, image.order.lsn);
        change(image)?;
        image.order.lsn = lsn;
        image.order.changed_at = at;
        let open = image.is_open();
        if !open || image.order.expires_at != was_at {
            // It is listed under its old time.
            let index = std::mem::replace(deadline_index, NO_DEADLINE);
            let moved = self.deadlines.remove(was_at, index);
            if let Some(home) = moved.and_then(|moved| self.table.get_mut(moved)) {
                home.deadline_index = index;
            }
        }
        self.open = self.open - usize::from(was_open) + usize::from(open);
        self.arm(place);
        Some(Applied::Changed(place, was_lsn))
    }
}

fn line_image(line: &HeldLine) -> LineImage {
    LineImage {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.quantity,
        held: line.held,
        confirmed: 0,
        released: 0,
        returned: 0,
        lapsed: 0,
    }
}
