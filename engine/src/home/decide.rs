//! What a home answers, or logs.

use super::words::{DecidedLine, DecisionKind, HomeChange, HomeImage, HomeStep};
use super::{Homes, apply, judge, shares};
use crate::clock::Timestamp;
use crate::command::{Action, Command, InvalidField, Line, Lines};
use crate::event::{Change, ConfirmedLine, Event, MovedLine};
use crate::ids::{AttemptId, OrderNo};
use crate::outcome::{Answer, Effect, Outcome, Refusal};
use crate::state::Decision;

/// What holds the units of a late payment.
struct Late<'a> {
    attempt: AttemptId,
    lines: &'a Lines,
}

impl Homes {
    /// Answers a command about an order that is here, or a step, or makes the event that carries it out.
    pub(crate) fn decide(&self, command: &Command, now: Timestamp) -> Decision {
        let log = |change| {
            Decision::Log(Event { at: now, trace: command.trace, change: Change::Home(Box::new(change)) })
        };
        let decided = match &command.action {
            Action::Home(step) => self.decide_step(step, now),
            action => {
                let image = command.order_no().and_then(|order_no| self.image(order_no));
                decide_order(image.expect("the caller has looked"), action, None, now)
            }
        };
        match decided {
            Ok(Told::Log(change)) => log(change),
            Ok(Told::Answer(answer)) => Decision::Answer(Ok(answer)),
            Err(refusal) => Decision::Answer(Err(refusal)),
        }
    }

    fn decide_step(&self, step: &HomeStep, now: Timestamp) -> Result<Told, Refusal> {
        let known = |order_no: &OrderNo| {
            self.image(order_no).ok_or_else(|| Refusal::UnknownOrder { order_no: order_no.clone() })
        };
        let placed = Ok(Told::Answer(Answer::Placed));
        match step {
            HomeStep::Reserve { reserve, attempt, lines } => {
                if let Some(image) = self.image(&reserve.order_no) {
                    return decide_order(image, &Action::Reserve(reserve.clone()), None, now);
                }
                shares::check_held(lines).map_err(|problem| InvalidField::new("lines", problem))?;
                Ok(Told::Log(HomeChange::Reserved {
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
                let image = known(&confirm.order_no)?;
                decide_order(
                    image,
                    &Action::Confirm(confirm.clone()),
                    Some(Late { attempt: *attempt, lines }),
                    now,
                )
            }
            HomeStep::Pending(order_no) => Ok(Told::Answer(Answer::Pending(known(order_no)?.errands()))),
            HomeStep::Carried { order_no, through, serials } => {
                let image = known(order_no)?;
                let new = |given: &&_| !image.order.serials.contains(given);
                let serials: Vec<_> = serials.iter().filter(new).copied().collect();
                if serials.iter().any(|given| usize::from(given.line) >= image.order.lines.len()) {
                    return Err(InvalidField::new("serials", "name a line that the order has not").into());
                }
                let told = image.pending.first().is_some_and(|first| first.number <= *through);
                if !told && serials.is_empty() {
                    return placed;
                }
                // Told or not, it never counts decisions that are still to come.
                let through = (*through).min(image.decisions);
                Ok(Told::Log(HomeChange::Carried { order_no: order_no.clone(), through, serials }))
            }
            HomeStep::Load(image) => {
                if self.knows(&image.order.order_no) {
                    return placed;
                }
                apply::check_loaded(image).map_err(|problem| InvalidField::new("orders", problem))?;
                Ok(Told::Log(HomeChange::Loaded(image.clone())))
            }
            HomeStep::Ask(asked) => match known(&asked.order_no)?.knows_attempt(asked.attempt) {
                true => placed,
                false => Err(Refusal::UnknownOrder { order_no: asked.order_no.clone() }),
            },
        }
    }

    /// What the caller is told of a change that was just applied.
    pub(crate) fn answer(&self, change: &HomeChange) -> Answer {
        let image = || self.image(change.order_no()).expect("the change that was just applied is about it");
        match change {
            HomeChange::Reserved { .. } => Answer::Order { order: image().view(), effect: Effect::Created },
            HomeChange::Extended { .. } => Answer::Order { order: image().view(), effect: Effect::Changed },
            HomeChange::Decided { .. } => told(image(), Effect::Changed),
            HomeChange::Carried { .. } | HomeChange::Loaded(_) => Answer::Placed,
        }
    }
}

enum Told {
    Log(HomeChange),
    Answer(Answer),
}

/// The order, with what its branches are still to be told.
fn told(image: &HomeImage, effect: Effect) -> Answer {
    let order = image.view();
    match image.pending.is_empty() {
        true => Answer::Order { order, effect },
        false => Answer::Decided { order, effect, errands: image.errands() },
    }
}

fn decide_order(
    image: &HomeImage,
    action: &Action,
    late: Option<Late<'_>>,
    now: Timestamp,
) -> Result<Told, Refusal> {
    let order_no = || image.order.order_no.clone();
    let event = match judge::decide(&image.order, action, now) {
        Decision::Log(event) => event,
        Decision::Answer(outcome) => return answer_again(image, action, outcome),
        Decision::Elsewhere => unreachable!("the order is known"),
    };
    let (kind, request, reason, lines, attempt) = match event.change {
        Change::Extended { ttl_seconds, .. } => {
            return Ok(Told::Log(HomeChange::Extended { order_no: order_no(), ttl_seconds }));
        }
        Change::Expired { .. } => return Ok(Told::Log(expiry_of(image))),
        Change::Confirmed { request, lines, .. } => {
            let attempt = held_for(image, &lines, late)?;
            let line = |l: &ConfirmedLine| DecidedLine { line: l.line, units: l.held, late: l.late };
            (DecisionKind::Confirm, request, None, lines.iter().map(line).collect(), attempt)
        }
        Change::Released { request, reason, lines, .. } => {
            (DecisionKind::Release, request, reason, moved(&lines), None)
        }
        Change::Returned { request, lines, .. } => {
            (DecisionKind::Return, Some(request), None, moved(&lines), None)
        }
        other => unreachable!("a command about an order that is known does not make {other:?}"),
    };
    Ok(Told::Log(HomeChange::Decided { order_no: order_no(), kind, request, reason, attempt, lines }))
}

/// A repeat is answered with what the branches may not know yet; a read and a repeated reserve need no more than the
/// order.
fn answer_again(image: &HomeImage, action: &Action, outcome: Outcome) -> Result<Told, Refusal> {
    match (outcome?, action) {
        (Answer::Order { effect, .. }, Action::GetOrder(_) | Action::Reserve(_)) => {
            Ok(Told::Answer(Answer::Order { order: image.view(), effect }))
        }
        (Answer::Order { effect, .. }, _) => Ok(Told::Answer(told(image, effect))),
        (other, _) => unreachable!("a command about an order is not answered {other:?}"),
    }
}

/// Which attempt holds the units that a confirm takes beside those that the order holds; refused when none holds
/// exactly them.
fn held_for(
    image: &HomeImage,
    lines: &[ConfirmedLine],
    late: Option<Late<'_>>,
) -> Result<Option<AttemptId>, Refusal> {
    let needed = lines.iter().filter(|line| line.late > 0).map(|line| Line {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.late,
    });
    let Ok(needed) = Lines::new(needed) else { return Ok(None) };
    match late {
        // An attempt that the order knows has sold its units already.
        Some(late) if *late.lines == needed && !image.knows_attempt(late.attempt) => Ok(Some(late.attempt)),
        _ => Err(Refusal::HoldFirst(needed)),
    }
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
