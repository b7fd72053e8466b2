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
    /// The order at this slot was made.
    Made(u32),
    /// The order at this slot was changed; its last change before.
    Changed(u32, Lsn),
    /// The order knows of it (it came from a checkpoint that was taken later).
    Known,
    /// There is no such order.
    Unknown,
}

/// An order as an image after a change at `lsn`, for whoever keeps images and no [`Homes`]: the flush to the store.
/// `image` is the order before it, if there is one. A change is given once.
///
/// # Errors
/// What does not fit, in words.
pub fn apply_to_image(
    image: Option<&HomeImage>,
    lsn: Lsn,
    at: Timestamp,
    change: &HomeChange,
) -> Result<HomeImage, String> {
    let order_no = change.order_no();
    if let Some(made) = made_by(lsn, at, change)? {
        return Ok(made);
    }
    let mut image =
        image.cloned().ok_or_else(|| format!("there is no order {order_no} over several places"))?;
    change_image(&mut image, at, change).ok_or_else(|| format!("it does not fit order {order_no}"))?;
    image.order.lsn = lsn;
    image.order.changed_at = at;
    Ok(image)
}

/// Whether an order can come back into memory: its counts fit, and it had left when nothing could happen to it any
/// more by itself.
pub(super) fn check_loaded(image: &HomeImage) -> Result<(), String> {
    shares::check(image)?;
    match image.is_done() {
        true => Ok(()),
        false => Err(format!("order {} has not come to its end and was not in memory", image.order.order_no)),
    }
}

/// The order that a change makes; `None`: it changes one.
fn made_by(lsn: Lsn, at: Timestamp, change: &HomeChange) -> Result<Option<HomeImage>, String> {
    match change {
        HomeChange::Reserved { order_no, buyer_id, mode, ttl_seconds, asked, attempt, lines } => {
            let asked = asked.map(|fingerprint| OrderRequest { request_id: None, fingerprint });
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
                requests: asked.into_iter().collect(),
                serials: Vec::new(),
            };
            let shares = shares::of_attempt(lines, *attempt);
            Ok(Some(HomeImage { order, shares, decisions: 0, pending: Vec::new() }))
        }
        HomeChange::Loaded(image) => {
            check_loaded(image)?;
            let mut image = (**image).clone();
            image.order.lsn = lsn;
            Ok(Some(image))
        }
        HomeChange::Extended { .. } | HomeChange::Decided { .. } | HomeChange::Carried { .. } => Ok(None),
    }
}

/// What a change makes of an order that is there; `None`: it does not fit.
fn change_image(image: &mut HomeImage, at: Timestamp, change: &HomeChange) -> Option<()> {
    match change {
        HomeChange::Reserved { .. } | HomeChange::Loaded(_) => None,
        HomeChange::Extended { ttl_seconds, .. } => {
            image.order.expires_at = at.plus_seconds(u64::from(*ttl_seconds));
            Some(())
        }
        HomeChange::Decided { kind, request, reason, attempt, lines, .. } => {
            judge::apply(&mut image.order, *kind, lines, request.as_ref())?;
            let (taken, whole) = shares::take(image, *kind, lines, *attempt)?;
            image.decisions += 1;
            let (number, kind, reason) = (image.decisions, *kind, reason.clone());
            image.pending.push(Decided { number, kind, reason, shares: taken, whole });
            Some(())
        }
        HomeChange::Carried { through, serials, .. } => {
            image.pending.retain(|decided| decided.number > *through);
            let lines = image.order.lines.len();
            image.order.serials.extend(serials);
            serials.iter().all(|given| usize::from(given.line) < lines).then_some(())
        }
    }
}

impl Homes {
    /// Lets a change take effect, unless the order knows of it already.
    ///
    /// # Errors
    /// What does not fit; nothing is of use then.
    pub(crate) fn apply(&mut self, lsn: Lsn, at: Timestamp, change: &HomeChange) -> Result<Applied, String> {
        let order_no = change.order_no();
        let known = self.image(order_no).map(|image| image.order.lsn);
        let made = match known {
            Some(known) if known >= lsn => return Ok(Applied::Known),
            known => (known, made_by(lsn, at, change)?),
        };
        match made {
            (Some(_), Some(_)) => return Err(format!("it makes order {order_no} again")),
            (None, Some(image)) => return Ok(Applied::Made(self.insert(image))),
            (None, None) => return Ok(Applied::Unknown),
            (Some(_), None) => {}
        }
        let changed = self.change(order_no, lsn, at, |image| change_image(image, at, change));
        let changed = changed.ok_or_else(|| format!("it does not fit order {order_no}"))?;
        let Applied::Changed(slot, _) = changed else { return Ok(changed) };
        match change {
            HomeChange::Decided { kind: DecisionKind::Expire, .. } => {
                // Nobody asked for it.
                self.trust(slot, None);
                self.unsent.insert(slot);
            }
            HomeChange::Decided { .. } if !self.unsent.contains(&slot) => {
                self.trust(slot, Some(at.plus_millis(TRUSTED_TO_CARRY_MILLIS)));
            }
            HomeChange::Carried { .. }
                if self.at_slot(slot).is_some_and(|image| image.pending.is_empty()) =>
            {
                self.unsent.remove(&slot);
                self.trust(slot, None);
            }
            HomeChange::Decided { .. }
            | HomeChange::Carried { .. }
            | HomeChange::Reserved { .. }
            | HomeChange::Extended { .. }
            | HomeChange::Loaded(_) => {}
        }
        Ok(changed)
    }

    /// Changes an order that is here; its deadline goes with its time. `None` when the change does not fit.
    fn change(
        &mut self,
        order_no: &OrderNo,
        lsn: Lsn,
        at: Timestamp,
        change: impl FnOnce(&mut HomeImage) -> Option<()>,
    ) -> Option<Applied> {
        let slot = self.slot_of(order_no)?;
        let HomeOrder { image, deadline_index, .. } = self.table.get_mut(slot)?;
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
        self.arm(slot);
        Some(Applied::Changed(slot, was_lsn))
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
