//! What a home answers, or logs.

use super::words::{DecidedLine, DecisionKind, HomeChange, HomeImage, HomeStep};
use super::{Homes, apply, judge, shares};
use crate::clock::Timestamp;
use crate::command::{Action, Confirm, InvalidField, Line, Lines, Reserve};
use crate::event::{Change, ConfirmedLine, MovedLine, OrderRequest};
use crate::ids::{AttemptId, OrderNo};
use crate::inner::InnerAnswer;
use crate::outcome::{Answer, Effect, Refusal};
use crate::state::{Decided, Verdict};

/// What holds the units of a late payment.
struct Late<'a> {
    attempt: AttemptId,
    lines: &'a Lines,
}

impl Homes {
    /// Answers a step, or makes the change that carries it out.
    pub(crate) fn decide_step(&self, step: &HomeStep, now: Timestamp) -> Decided {
        let known = |order_no: &OrderNo| {
            self.image(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
        };
        match step {
            HomeStep::Reserve { reserve, attempt, lines } => {
                if let Some(image) = self.image(&reserve.order_no) {
                    return decide_reserve(image, reserve, now);
                }
                shares::check_held(lines).map_err(|problem| InvalidField::new("lines", problem))?;
                Ok(log(HomeChange::Reserved {
                    order_no: reserve.order_no.clone(),
                    buyer_id: reserve.buyer_id.clone(),
                    mode: reserve.mode,
                    ttl_seconds: reserve.ttl_seconds,
                    asked: reserve.asked(),
                    attempt: *attempt,
                    lines: lines.clone(),
                }))
            }
            HomeStep::Late { confirm, attempt, lines } => {
                let late = Late { attempt: *attempt, lines };
                decide_confirm(known(&confirm.order_no)?, confirm, Some(late), now)
            }
            HomeStep::Pending(order_no) => Ok(Verdict::Nothing(told(known(order_no)?, Effect::Replayed))),
            HomeStep::Carried { order_no, through, serials } => {
                let image = known(order_no)?;
                let new = |given: &&_| !image.order.serials.contains(given);
                let serials: Vec<_> = serials.iter().filter(new).copied().collect();
                if serials.iter().any(|given| usize::from(given.line) >= image.order.lines.len()) {
                    return Err(InvalidField::new("serials", "name a line that the order has not").into());
                }
                let told = image.pending.first().is_some_and(|first| first.number <= *through);
                if !told && serials.is_empty() {
                    return Ok(Verdict::Nothing(order(image, Effect::Replayed)));
                }
                // Told or not, it never counts decisions that are still to come.
                let through = (*through).min(image.decisions);
                Ok(log(HomeChange::Carried { order_no: order_no.clone(), through, serials }))
            }
            HomeStep::Ask(asked) => {
                let image = known(&asked.order_no)?;
                match image.knows_attempt(asked.attempt) {
                    true => Ok(Verdict::Nothing(order(image, Effect::Replayed))),
                    false => Err(Refusal::UnknownOrder { order_no: asked.order_no.clone() }),
                }
            }
        }
    }

    /// An order that had ended and left memory comes back from the store. `None`: it is here.
    pub(crate) fn decide_loaded(&self, image: &HomeImage) -> Result<Option<Change>, Refusal> {
        if self.knows(&image.order.order_no) {
            return Ok(None);
        }
        apply::check_loaded(image).map_err(|problem| InvalidField::new("orders", problem))?;
        Ok(Some(Change::Home(Box::new(HomeChange::Loaded(Box::new(image.clone()))))))
    }

    /// What is said of a change that was just applied.
    pub(crate) fn answer(&self, change: &HomeChange) -> InnerAnswer {
        let image = || self.image(change.order_no()).expect("the change that was just applied is about it");
        match change {
            HomeChange::Reserved { .. } => order(image(), Effect::Created),
            HomeChange::Decided { .. } => told(image(), Effect::Changed),
            HomeChange::Extended { .. } | HomeChange::Carried { .. } | HomeChange::Loaded(_) => {
                order(image(), Effect::Changed)
            }
        }
    }
}

fn log(change: HomeChange) -> Verdict {
    Verdict::Change(Change::Home(Box::new(change)))
}

/// The order alone.
fn order(image: &HomeImage, effect: Effect) -> InnerAnswer {
    Answer::Order { order: image.view(), effect }.into()
}

/// The order, with what its branches are still to be told.
fn told(image: &HomeImage, effect: Effect) -> InnerAnswer {
    match image.pending.is_empty() {
        true => order(image, effect),
        false => InnerAnswer::Decided { order: image.view(), effect, errands: image.errands() },
    }
}

/// Answers what a caller asks about an order, or makes the change that carries it out.
pub(crate) fn decide_order(image: &HomeImage, action: &Action, now: Timestamp) -> Decided {
    match action {
        Action::GetOrder(_) => Ok(Verdict::Nothing(order(image, Effect::Replayed))),
        Action::Reserve(reserve) => decide_reserve(image, reserve, now),
        Action::Confirm(confirm) => decide_confirm(image, confirm, None, now),
        action => {
            judge::one_place(&image.order, now).decide_action(action).map(|verdict| as_home(image, verdict))
        }
    }
}

/// The order expires, if its time is over.
pub(crate) fn decide_expire(image: &HomeImage, now: Timestamp) -> Decided {
    let verdict = judge::one_place(&image.order, now).decide_expire(&image.order.order_no, now)?;
    Ok(as_home(image, verdict))
}

/// It was made: the same again is a repeat. That needs no more than the order.
fn decide_reserve(image: &HomeImage, reserve: &Reserve, now: Timestamp) -> Decided {
    judge::one_place(&image.order, now).decide_reserve(reserve)?;
    Ok(Verdict::Nothing(order(image, Effect::Replayed)))
}

fn decide_confirm(image: &HomeImage, confirm: &Confirm, late: Option<Late<'_>>, now: Timestamp) -> Decided {
    let verdict = judge::one_place(&image.order, now).decide_confirm(confirm)?;
    let Verdict::Change(Change::Confirmed { request, lines, .. }) = verdict else {
        return Ok(as_home(image, verdict));
    };
    let attempt = match (late_lines(&lines), late) {
        (None, _) => None,
        // An attempt that the order knows has sold its units already.
        (Some(needed), Some(late)) if *late.lines == needed && !image.knows_attempt(late.attempt) => {
            Some(late.attempt)
        }
        (Some(lines), _) => {
            let confirm = confirm.clone();
            return Ok(Verdict::Nothing(InnerAnswer::HoldFirst { confirm, lines }));
        }
    };
    let line = |l: &ConfirmedLine| DecidedLine { line: l.line, units: l.held, late: l.late };
    let (kind, lines) = (DecisionKind::Confirm, lines.iter().map(line).collect());
    let order_no = image.order.order_no.clone();
    Ok(log(HomeChange::Decided { order_no, kind, request, reason: None, attempt, lines }))
}

/// What one place says of an order that it knows, as its home says it. A repeat is answered with what the branches may
/// not know yet.
fn as_home(image: &HomeImage, verdict: Verdict) -> Verdict {
    let order_no = || image.order.order_no.clone();
    let decided = |kind, request: Option<OrderRequest>, reason, lines: &[MovedLine]| {
        let lines = moved(lines);
        HomeChange::Decided { order_no: order_no(), kind, request, reason, attempt: None, lines }
    };
    log(match verdict {
        Verdict::Nothing(InnerAnswer::Public(Answer::Order { effect, .. })) => {
            return Verdict::Nothing(told(image, effect));
        }
        Verdict::Change(Change::Extended { ttl_seconds, .. }) => {
            HomeChange::Extended { order_no: order_no(), ttl_seconds }
        }
        Verdict::Change(Change::Expired { .. }) => expiry_of(image),
        Verdict::Change(Change::Released { request, reason, lines, .. }) => {
            decided(DecisionKind::Release, request, reason, &lines)
        }
        Verdict::Change(Change::Returned { request, lines, .. }) => {
            decided(DecisionKind::Return, Some(request), None, &lines)
        }
        other => unreachable!("a command about an order that is known is not decided so: {other:?}"),
    })
}

/// The units that a confirm takes beside those that the order holds.
fn late_lines(lines: &[ConfirmedLine]) -> Option<Lines> {
    let late = lines.iter().filter(|line| line.late > 0).map(|line| Line {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.late,
    });
    Lines::new(late).ok()
}

fn moved(lines: &[MovedLine]) -> Vec<DecidedLine> {
    let moved = lines.iter().filter(|line| line.quantity > 0);
    moved.map(|line| DecidedLine { line: line.line, units: line.quantity, late: 0 }).collect()
}

/// Everything that the order holds goes back, because its time is over.
pub(super) fn expiry_of(image: &HomeImage) -> HomeChange {
    let lines = (0..).zip(&image.order.lines).filter(|(_, line)| line.held > 0);
    let lines = lines.map(|(line, of)| DecidedLine { line, units: of.held, late: 0 }).collect();
    let (order_no, kind) = (image.order.order_no.clone(), DecisionKind::Expire);
    HomeChange::Decided { order_no, kind, request: None, reason: None, attempt: None, lines }
}
