//! What an order that was found to be in order did to its stocks, and when: the link between the two kinds of parts of
//! a history. What is told of a time here is never narrower than what the answers prove.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::calls::{Call, OrderAsk, Stock, Told};
use crate::linear::{End, Model, Span};
use crate::orders::{Counts, Live, Operation, OrderHistory, State, about, lines_of_view};
use crate::stocks::What;

/// A decision of an order over several shards is carried to all of them before its caller is told, unless that takes
/// longer than three seconds; then it is told before. Nanoseconds, with something to spare.
const CARRIED_WITHIN: u64 = 2_500_000_000;
/// Likewise, what a refused attempt holds is given back before its caller is told, unless that takes a second.
const GIVEN_BACK_WITHIN: u64 = 900_000_000;

/// One effect of an order on one stock.
#[derive(Debug, Clone)]
pub struct Effect {
    /// On which.
    pub stock: Stock,
    /// What.
    pub what: What,
    /// When; `after` and `not_after` are indexes of the order's effects.
    pub span: Span,
    /// The call that says that it did this, and not a repeat of it.
    pub told_by: Option<usize>,
    /// It may as well not have happened.
    pub maybe: bool,
}

/// Units that an attempt may have held while it lasted, and longer if it was cut off.
#[derive(Debug, Clone)]
pub struct Passing {
    /// Of which stock.
    pub stock: Stock,
    /// As many, or, of an attempt that takes what there is, up to as many.
    pub units: i64,
    /// See above.
    pub up_to: bool,
    /// From when.
    pub from: u64,
    /// Until when, if it is known.
    pub to: Option<u64>,
}

/// The kinds of effects that a view of the order can prove.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hold,
    Sell,
    SellLate,
    GiveBack,
    TakeBack,
}

struct Step {
    line: usize,
    kind: Kind,
    units: u64,
    held_before: u64,
    /// The operation that did it.
    by: usize,
    maybe: bool,
}

/// The effects of an order, by the order of operations that was found; `id` is its number among the orders, `spread`:
/// its stocks lie in several shards.
pub fn effects_of(history: &OrderHistory<'_>, found: &[usize], id: u32, spread: bool) -> Vec<Effect> {
    let (mut state, mut steps) = (history.first(), Vec::new());
    for operation in found {
        let Some(after) = history.step(&state, *operation) else { continue };
        steps.extend(steps_between(&state, &after, *operation, false));
        state = after;
    }
    // What nobody has seen and may have happened all the same.
    for operation in (0..history.operations.len()).filter(|operation| !found.contains(operation)) {
        if matches!(history.spans[operation].end, End::Open(_))
            && let Some(after) = history.step(&state, operation)
        {
            steps.extend(steps_between(&state, &after, operation, true));
        }
    }
    let State::Live(live) = state else {
        return steps.iter().filter_map(|step| lonely(history, step, id)).collect();
    };
    Effects { history, live: &live, steps: &steps, id, spread }.all()
}

/// An effect of an order that nobody has ever seen.
fn lonely(history: &OrderHistory<'_>, step: &Step, id: u32) -> Option<Effect> {
    let Operation::Call(call) = history.operations[step.by] else { return None };
    let OrderAsk::Reserve(wish, _) = about(history.calls[call]) else { return None };
    let (stock, _) = wish.lines.iter().nth(step.line)?;
    let span = history.spans[step.by].clone();
    let what = what_of(step, true, id);
    Some(Effect { stock: stock.clone(), what, span, told_by: None, maybe: true })
}

fn steps_between(before: &State, after: &State, by: usize, maybe: bool) -> Vec<Step> {
    let State::Live(after) = after else { return Vec::new() };
    let nothing = vec![Counts::default(); after.lines.len()];
    let (is_new, old) = match before {
        State::Live(live) => (false, &live.lines),
        _ => (true, &nothing),
    };
    let mut steps = Vec::new();
    for (line, (old, new)) in old.iter().zip(&after.lines).enumerate() {
        let mut step = |kind, units| {
            steps.push(Step { line, kind, units, held_before: old.held, by, maybe });
        };
        if is_new {
            step(Kind::Hold, new.held);
            continue;
        }
        let (sold, left) = (new.confirmed - old.confirmed, old.held - new.held);
        match sold {
            0 if left > 0 => step(Kind::GiveBack, left),
            0 => {}
            _ => {
                if left > 0 {
                    step(Kind::Sell, left);
                }
                if sold > left {
                    step(Kind::SellLate, sold - left);
                }
            }
        }
        if new.returned > old.returned {
            step(Kind::TakeBack, new.returned - old.returned);
        }
    }
    steps
}

fn what_of(step: &Step, all: bool, order: u32) -> What {
    let units = signed(step.units);
    match step.kind {
        Kind::Hold => What::Hold { units, all },
        Kind::Sell => What::Sell { units, order },
        Kind::SellLate => What::SellLate { units },
        Kind::GiveBack => What::GiveBack { units, order },
        Kind::TakeBack => What::TakeBack { units },
    }
}

struct Effects<'a> {
    history: &'a OrderHistory<'a>,
    live: &'a Live,
    steps: &'a [Step],
    id: u32,
    spread: bool,
}

impl Effects<'_> {
    fn all(&self) -> Vec<Effect> {
        let (wish, got) = &self.history.wishes[self.live.wish];
        let mut effects: Vec<Effect> = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let Some((stock, asked)) = wish.lines.iter().nth(step.line) else { continue };
            let told_by = self.told_by(step);
            let (proved, possible) = (self.latest(step, got[step.line]), self.possible_until(step));
            let end = match proved.map(|at| at.min(possible.unwrap_or(at))) {
                Some(at) if !step.maybe => End::Answered(at),
                _ => End::Open(possible),
            };
            let mut span = Span::new(self.earliest(step), end);
            span.after = self.earlier(index);
            if step.maybe {
                // One of those that may have happened can rule out another.
                let others = self.steps.iter().enumerate();
                let others = others.filter(|(_, other)| other.maybe && other.line == step.line);
                span.not_after = others.map(|(other, _)| other).filter(|other| *other != index).collect();
            }
            let what = what_of(step, got[step.line] == *asked, self.id);
            effects.push(Effect { stock: stock.clone(), what, span, told_by, maybe: step.maybe });
        }
        for line in 0..wish.lines.len() {
            for call in self.history.calls.iter().filter(|call| call.is_unknown()) {
                let early = self.early(line, call, &effects);
                effects.extend(early);
            }
            let lapse = self.lapse(line, &effects);
            effects.extend(lapse);
        }
        effects
    }

    fn call(&self, step: &Step) -> Option<&Call> {
        match self.history.operations[step.by] {
            Operation::Call(call) => Some(self.history.calls[call]),
            Operation::Expire(_) => None,
        }
    }

    /// The call that says that it did this step.
    fn told_by(&self, step: &Step) -> Option<usize> {
        let Operation::Call(call) = self.history.operations[step.by] else { return None };
        self.history.calls[call].success().map(|_| call)
    }

    /// Those that are surely before a step: the hold, what gave back what a late payment takes, the one sale of what
    /// comes back.
    fn earlier(&self, index: usize) -> Vec<usize> {
        let step = &self.steps[index];
        let before = || self.steps[..index].iter().enumerate().filter(|(_, other)| other.line == step.line);
        let sales = before().filter(|(_, other)| matches!(other.kind, Kind::Sell | Kind::SellLate)).count();
        let comes_first = |(_, other): &(usize, &Step)| match other.kind {
            Kind::Hold => true,
            Kind::GiveBack => step.kind == Kind::SellLate,
            Kind::Sell | Kind::SellLate => step.kind == Kind::TakeBack && sales == 1,
            Kind::TakeBack => false,
        };
        before().filter(comes_first).map(|(other, _)| other).collect()
    }

    fn earliest(&self, step: &Step) -> u64 {
        let from = self.history.spans[step.by].from;
        // Of those that may have set its time, the first counts.
        if let Operation::Expire(timer) = self.history.operations[step.by]
            && let set_by = self.history.calls[timer]
            && set_by.is_unknown()
        {
            let operations = self.history.operations.iter().zip(&self.history.spans);
            let same = operations.filter(|(operation, _)| match operation {
                Operation::Expire(timer) => is_same(set_by, self.history.calls[*timer]),
                Operation::Call(_) => false,
            });
            return same.map(|(_, span)| span.from).min().unwrap_or(from);
        }
        match self.call(step) {
            // Others with the same request may have done it.
            Some(call) if call.is_unknown() => {
                let same = self.history.calls.iter().filter(|other| is_same(call, other));
                same.filter(|other| other.is_unknown()).map(|other| other.sent).min().unwrap_or(from)
            }
            _ => from,
        }
    }

    /// Until when a request that was cut off can have done it. A decision over several shards may reach the stock when
    /// whoever was asked is dead.
    fn possible_until(&self, step: &Step) -> Option<u64> {
        let call = self.call(step).filter(|call| call.is_unknown())?;
        if self.spread && step.kind != Kind::Hold {
            return None;
        }
        let same = self.history.calls.iter().filter(|other| is_same(call, other));
        let ends = same.filter_map(|other| match other.end {
            Told::Unknown(until) => Some(until.unwrap_or(u64::MAX)),
            _ => None,
        });
        ends.max().filter(|until| *until < u64::MAX)
    }

    /// By when it had happened where the stock is.
    fn latest(&self, step: &Step, got: u64) -> Option<u64> {
        let told = self.history.calls.iter().filter_map(|call| Some((call, call.success()?)));
        if self.spread && step.kind != Kind::Hold {
            let own = self.call(step)?;
            let carried =
                told.filter(|(call, (at, ..))| is_same(own, call) && at - call.sent < CARRIED_WITHIN);
            return carried.map(|(_, (at, ..))| at).min();
        }
        let stock = self.history.stocks(self.live).nth(step.line)?;
        let proves = |view: &Value| {
            lines_of_view(view).and_then(|lines| lines.get(stock).copied()).is_some_and(|counts| {
                let [_, held, confirmed, _, returned] = counts;
                match step.kind {
                    Kind::Hold => true,
                    Kind::Sell | Kind::SellLate => self.others(step) < confirmed,
                    Kind::GiveBack => self.others(step) < got.saturating_sub(held),
                    Kind::TakeBack => self.others(step) < returned,
                }
            })
        };
        told.filter(|(_, (_, _, view))| proves(view)).map(|(_, (at, ..))| at).min()
    }

    /// Units that all other steps together add to the count by which a view would prove this one.
    fn others(&self, step: &Step) -> u64 {
        let counts = |other: &&Step| {
            other.line == step.line
                && match step.kind {
                    Kind::Sell | Kind::SellLate => matches!(other.kind, Kind::Sell | Kind::SellLate),
                    Kind::GiveBack => matches!(other.kind, Kind::Sell | Kind::GiveBack),
                    kind => other.kind == kind,
                }
        };
        self.steps.iter().filter(counts).map(|other| other.units).sum::<u64>() - step.units
    }

    /// A request for a part that was cut off may have done a part of what was seen to be done later.
    fn early(&self, line: usize, call: &Call, effects: &[Effect]) -> Option<Effect> {
        let (part, kind) = match about(call) {
            OrderAsk::Confirm(part) => (part, Kind::Sell),
            OrderAsk::Release(part) => (part, Kind::GiveBack),
            _ => return None,
        };
        let stock = self.history.stocks(self.live).nth(line)?;
        let units = *part.lines.as_ref()?.get(stock)?;
        let did = |step: &Step| self.call(step).is_some_and(|by| is_same(by, call));
        let own = || self.steps.iter().enumerate().filter(|(_, step)| step.line == line);
        if own().any(|(_, step)| did(step) && !step.maybe) {
            return None;
        }
        let is_later = |(index, step): &(usize, &Step)| {
            let over = matches!(effects[*index].span.end, End::Answered(at) if at < call.sent);
            step.kind == kind && step.units >= units && !over
        };
        let (target, _) = own().find(is_later)?;
        let until = match call.end {
            Told::Unknown(until) if !self.spread => until,
            _ => None,
        };
        let mut span = Span::new(call.sent, End::Open(until));
        span.after = own().filter(|(_, step)| step.kind == Kind::Hold).map(|(index, _)| index).collect();
        span.not_after = vec![target];
        let what = What::Early { units: signed(units), order: self.id, sale: kind == Kind::Sell };
        Some(Effect { stock: stock.clone(), what, span, told_by: None, maybe: true })
    }

    /// A sale after the hold may have ended unseen may have been a late one: nobody can tell by the order.
    fn lapse(&self, line: usize, effects: &[Effect]) -> Option<Effect> {
        let over = self.history.earliest_end()?;
        let own = || self.steps.iter().enumerate().filter(|(_, step)| step.line == line);
        let may_be_late = |(index, step): &(usize, &Step)| {
            let in_time = matches!(effects[*index].span.end, End::Answered(at) if at < over);
            step.kind == Kind::Sell && !in_time
        };
        let (first, step) = own().find(may_be_late)?;
        // A hold that the caller gave back later was not over.
        if own().any(|(index, step)| index > first && step.kind == Kind::GiveBack) {
            return None;
        }
        let end = match effects[first].span.end {
            End::Answered(at) => End::Open(Some(at)),
            open @ End::Open(_) => open,
        };
        let mut span = Span::new(over, end);
        span.after = own().filter(|(index, _)| *index < first).map(|(index, _)| index).collect();
        span.not_after = own().filter(|(index, _)| *index >= first).map(|(index, _)| index).collect();
        let what = What::Lapse { units: signed(step.held_before), order: self.id };
        Some(Effect { stock: effects[first].stock.clone(), what, span, told_by: None, maybe: true })
    }
}

/// Whether two calls are the same request.
fn is_same(one: &Call, other: &Call) -> bool {
    match (about(one), about(other)) {
        (OrderAsk::Reserve(one, _), OrderAsk::Reserve(other, _)) => one == other,
        (one, other) => one == other,
    }
}

/// What attempts of an order over several shards may have held in passing. `calls`: all of them, also those that did
/// nothing in the end.
pub fn passing_of(calls: &[&Call], history: &OrderHistory<'_>, has_ended: bool) -> Vec<Passing> {
    let mut passing = Vec::new();
    for call in calls {
        let to = match (&call.end, call.code()) {
            (Told::Answer(at, ..), Some(_)) if at - call.sent < GIVEN_BACK_WITHIN => Some(*at),
            (Told::Answer(at, ..), None) => Some(*at),
            _ => None,
        };
        let mut holds = |lines: &BTreeMap<Stock, u64>, up_to: bool| {
            passing.extend(lines.iter().map(|(stock, units)| {
                let (stock, units, from) = (stock.clone(), signed(*units), call.sent);
                Passing { stock, units, up_to, from, to }
            }));
        };
        match about(call) {
            // Also when it was refused because of what its number became meanwhile.
            OrderAsk::Reserve(wish, _) if call.success().is_none() => holds(&wish.lines, wish.best_effort),
            // A late payment, maybe.
            OrderAsk::Confirm(part) if has_ended || history.earliest_end().is_some() => match &part.lines {
                Some(lines) => holds(lines, false),
                None => history.wishes.iter().for_each(|(wish, _)| holds(&wish.lines, true)),
            },
            _ => {}
        }
    }
    passing
}

/// Units are far below what an `i64` holds.
pub fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
