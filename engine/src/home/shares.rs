//! Which branch has which units of an order, and what it is told. Of several branches that have units of one line, the oldest gives
//! first.

use std::collections::BTreeSet;

use super::words::{BranchCommand, Decided, DecidedLine, DecisionKind, Errand, HeldLine, HomeImage, Share};
use crate::checkpoint::{LineImage, OrderImage};
use crate::command::{Action, Command, Confirm, Line, Lines, Part, Release, Return};
use crate::ids::{AttemptId, Branch, OrderNo, RequestId};
use crate::state::check_counts;

/// The shares of an order that was just made: each line that holds something has one.
pub(super) fn of_attempt(lines: &[HeldLine], attempt: AttemptId) -> Vec<Share> {
    let lines = (0..).zip(lines).filter(|(_, line)| line.held > 0);
    lines.map(|(line, held)| share(attempt, line, held.held)).collect()
}

fn share(attempt: AttemptId, line: u16, held: u32) -> Share {
    Share { attempt, line, held, confirmed: 0, released: 0, returned: 0 }
}

/// Takes the units of a decision from the shares, and gives what each branch is to be told; `None` when it does not fit. The late units of a
/// confirm lie in shares of `attempt`, which are new.
pub(super) fn take(
    image: &mut HomeImage,
    kind: DecisionKind,
    lines: &[DecidedLine],
    attempt: Option<AttemptId>,
) -> Option<(Vec<(u16, u32)>, bool)> {
    let mut taken = Vec::with_capacity(lines.len());
    for line in lines {
        let mut left = line.units;
        let of_line = (0..).zip(&mut image.shares).filter(|(_, share)| share.line == line.line);
        for (index, share) in of_line {
            let units = left.min(has(share, kind));
            if units > 0 {
                give(share, kind, units);
                taken.push((index, units));
                left -= units;
            }
        }
        (left == 0).then_some(())?;
    }
    for line in lines.iter().filter(|line| line.late > 0) {
        let index = u16::try_from(image.shares.len()).ok()?;
        let mut share = share(attempt?, line.line, line.late);
        give(&mut share, kind, line.late);
        image.shares.push(share);
        taken.push((index, line.late));
    }
    let whole = kind != DecisionKind::Return && taken.iter().all(|(index, _)| is_spent(image, *index));
    Some((taken, whole))
}

/// What a share can give to a decision.
fn has(share: &Share, kind: DecisionKind) -> u32 {
    match kind {
        DecisionKind::Confirm | DecisionKind::Release | DecisionKind::Expire => share.held,
        DecisionKind::Return => share.confirmed.saturating_sub(share.returned),
    }
}

/// Units that it has change their count.
fn give(share: &mut Share, kind: DecisionKind, units: u32) {
    match kind {
        DecisionKind::Confirm => (share.held, share.confirmed) = (share.held - units, share.confirmed + units),
        DecisionKind::Release | DecisionKind::Expire => {
            (share.held, share.released) = (share.held - units, share.released + units);
        }
        DecisionKind::Return => share.returned += units,
    }
}

/// Whether the branch of a share holds nothing any more.
fn is_spent(image: &HomeImage, index: u16) -> bool {
    let branch = |share: &Share| Some((share.attempt, &image.order.lines.get(usize::from(share.line))?.sku_id));
    let Some(of) = image.shares.get(usize::from(index)) else { return false };
    image.shares.iter().filter(|share| branch(share) == branch(of)).all(|share| share.held == 0)
}

/// A decision as commands, one for each branch.
pub(super) fn errand(image: &HomeImage, decided: &Decided) -> Errand {
    let mut branches: Vec<(Branch, Vec<Line>)> = Vec::new();
    for (index, units) in &decided.shares {
        let share = &image.shares[usize::from(*index)];
        let line = &image.order.lines[usize::from(share.line)];
        let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
        let line = Line { sku_id, warehouse_id, quantity: *units };
        match branches.iter_mut().find(|(b, _)| b.attempt == share.attempt && b.sku_id == line.sku_id) {
            Some((_, lines)) => lines.push(line),
            None => {
                let (order_no, sku_id) = (image.order.order_no.clone(), line.sku_id.clone());
                branches.push((Branch { order_no, sku_id, attempt: share.attempt }, vec![line]));
            }
        }
    }
    let command = |(branch, lines): (Branch, Vec<Line>)| {
        let lines = Lines::new(lines).expect("the lines of an order are within the bounds, and so are some of them");
        let action = action_of(decided, branch.number(), lines);
        BranchCommand { sku_id: branch.sku_id, command: Command::from(action) }
    };
    Errand { number: decided.number, commands: branches.into_iter().map(command).collect() }
}

fn action_of(decided: &Decided, order_no: OrderNo, lines: Lines) -> Action {
    let request_id = || RequestId::new(&format!("d{}", decided.number)).expect("a short text");
    let part = |lines| (!decided.whole).then(|| Part { lines, request_id: Some(request_id()) });
    match decided.kind {
        DecisionKind::Confirm => Action::Confirm(Confirm { order_no, part: part(lines) }),
        DecisionKind::Release => {
            Action::Release(Release { order_no, part: part(lines), reason: decided.reason.clone() })
        }
        DecisionKind::Expire => Action::Expire(order_no),
        DecisionKind::Return => Action::Return(Return { order_no, request_id: request_id(), lines: Some(lines) }),
    }
}

/// Whether lines that shall be held make sense: some units, none more than asked for, each stock once.
pub(super) fn check_held(lines: &[HeldLine]) -> Result<(), String> {
    let stocks: BTreeSet<_> = lines.iter().map(|line| (&line.sku_id, line.warehouse_id)).collect();
    let fit = lines.iter().all(|line| line.held <= line.quantity);
    let some = lines.iter().any(|line| line.held > 0);
    let sound = stocks.len() == lines.len() && lines.len() <= crate::limits::MAX_ORDER_LINES && fit && some;
    if sound { Ok(()) } else { Err("that are held make no sense".to_owned()) }
}

/// Whether the counts of an order, of its shares and of what is pending fit each other.
pub(super) fn check(image: &HomeImage) -> Result<(), String> {
    let OrderImage { order_no, lines, .. } = &image.order;
    let wrong = |what: String| Err(format!("order {order_no} over several places: {what}"));
    if order_no.is_branch() || check_counts(&image.order).is_err() {
        return wrong("its counts make no sense".to_owned());
    }
    let mut once = BTreeSet::new();
    for share in &image.shares {
        let known = usize::from(share.line) < lines.len() && once.insert((share.attempt, share.line));
        if !known || share.returned > share.confirmed {
            return wrong(format!("{share:?} makes no sense"));
        }
    }
    for (index, line) in (0..).zip(lines) {
        let sum = |count: fn(&Share) -> u32| {
            image.shares.iter().filter(|share| share.line == index).map(|share| u64::from(count(share))).sum::<u64>()
        };
        let LineImage { held, confirmed, returned, released, .. } = *line;
        let fits = sum(|s| s.held) == u64::from(held)
            && sum(|s| s.confirmed) == u64::from(confirmed)
            && sum(|s| s.returned) == u64::from(returned)
            // What a late payment took was released by another share.
            && sum(|s| s.released) >= u64::from(released);
        if !fits {
            return wrong(format!("its shares are not those of {line:?}"));
        }
    }
    let mut before = 0;
    for decided in &image.pending {
        let shares = decided.shares.iter();
        let known = |(index, units): &(u16, u32)| usize::from(*index) < image.shares.len() && *units > 0;
        if decided.number <= before || decided.number > image.decisions || !shares.clone().all(known) {
            return wrong(format!("{decided:?} makes no sense"));
        }
        before = decided.number;
    }
    Ok(())
}
