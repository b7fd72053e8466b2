//! Which branch has which units of an order, and what it is told. Of several branches that have units of one line,
//! the oldest gives first.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::words::{BranchCommand, Decided, DecidedLine, DecisionKind, Errand, HeldLine, HomeImage, Share};
use crate::checkpoint::{LineImage, OrderImage};
use crate::command::{Action, Confirm, Line, Lines, Part, Release, Return};
use crate::ids::{AttemptId, Branch, OrderNo, RequestId, SkuId};
use crate::inner::InnerCommand;
use crate::state::check_counts;

/// The shares of an order that was just made: each line that holds something has one.
pub(super) fn of_attempt(lines: &[HeldLine], attempt: AttemptId) -> Vec<Share> {
    let lines = (0..).zip(lines).filter(|(_, line)| line.held > 0);
    lines.map(|(line, held)| share(attempt, line, held.held)).collect()
}

fn share(attempt: AttemptId, line: u16, held: u32) -> Share {
    Share { attempt, line, held, confirmed: 0, released: 0, returned: 0 }
}

/// Takes the units of a decision from the shares, and gives what each branch is to be told; `None` when it does not
/// fit. The late units of a confirm lie in shares of `attempt`, which are new.
pub(super) fn take(
    image: &mut HomeImage,
    kind: DecisionKind,
    lines: &[DecidedLine],
    attempt: Option<AttemptId>,
) -> Option<(Vec<(u16, u32)>, bool)> {
    let by_line = by_line(image);
    let mut taken = Vec::with_capacity(lines.len());
    for line in lines {
        let mut left = line.units;
        // Oldest first: new shares come behind the others.
        for index in by_line.get(usize::from(line.line))? {
            let share = &mut image.shares[usize::from(*index)];
            let units = left.min(has(share, kind));
            if units > 0 {
                give(share, kind, units);
                taken.push((*index, units));
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
    let whole = kind != DecisionKind::Return && {
        let holding = holding_branches(image);
        !taken.iter().any(|(index, _)| holding.contains(&branch_key(image, *index)))
    };
    Some((taken, whole))
}

/// The shares of each line, by their index.
fn by_line(image: &HomeImage) -> Vec<Vec<u16>> {
    let mut by_line = vec![Vec::new(); image.order.lines.len()];
    for (index, share) in (0..).zip(&image.shares) {
        by_line[usize::from(share.line)].push(index);
    }
    by_line
}

/// The branch that a share lies in.
fn branch_key(image: &HomeImage, index: u16) -> (AttemptId, &SkuId) {
    let share = &image.shares[usize::from(index)];
    (share.attempt, &image.order.lines[usize::from(share.line)].sku_id)
}

/// The branches that hold units.
fn holding_branches(image: &HomeImage) -> HashSet<(AttemptId, &SkuId)> {
    let holding = (0..).zip(&image.shares).filter(|(_, share)| share.held > 0);
    holding.map(|(index, _)| branch_key(image, index)).collect()
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
        DecisionKind::Confirm => {
            (share.held, share.confirmed) = (share.held - units, share.confirmed + units)
        }
        DecisionKind::Release | DecisionKind::Expire => {
            (share.held, share.released) = (share.held - units, share.released + units);
        }
        DecisionKind::Return => share.returned += units,
    }
}

/// A decision as commands, one for each branch.
pub(super) fn errand(image: &HomeImage, decided: &Decided) -> Errand {
    let mut places: HashMap<(AttemptId, &SkuId), usize> = HashMap::new();
    let mut branches: Vec<((AttemptId, &SkuId), Vec<Line>)> = Vec::new();
    for (index, units) in &decided.shares {
        let share = &image.shares[usize::from(*index)];
        let line = &image.order.lines[usize::from(share.line)];
        let key = branch_key(image, *index);
        let place = *places.entry(key).or_insert(branches.len());
        let line = Line { sku_id: line.sku_id.clone(), warehouse_id: line.warehouse_id, quantity: *units };
        match branches.get_mut(place) {
            Some((_, lines)) => lines.push(line),
            None => branches.push((key, vec![line])),
        }
    }
    let command = |((attempt, sku_id), lines): ((AttemptId, &SkuId), Vec<Line>)| {
        let (order_no, sku_id) = (image.order.order_no.clone(), sku_id.clone());
        let number = Branch { order_no, sku_id: sku_id.clone(), attempt }.number();
        let lines =
            Lines::new(lines).expect("the lines of an order are within the bounds, and so are some of them");
        BranchCommand { sku_id, command: command_of(decided, number, lines) }
    };
    Errand { number: decided.number, commands: branches.into_iter().map(command).collect() }
}

fn command_of(decided: &Decided, order_no: OrderNo, lines: Lines) -> InnerCommand {
    let request_id = || RequestId::new(&format!("d{}", decided.number)).expect("a short text");
    let part = |lines| (!decided.whole).then(|| Part { lines, request_id: Some(request_id()) });
    match decided.kind {
        DecisionKind::Confirm => Action::Confirm(Confirm { order_no, part: part(lines) }).into(),
        DecisionKind::Release => {
            Action::Release(Release { order_no, part: part(lines), reason: decided.reason.clone() }).into()
        }
        DecisionKind::Expire => InnerCommand::Expire(order_no),
        DecisionKind::Return => {
            Action::Return(Return { order_no, request_id: request_id(), lines: Some(lines) }).into()
        }
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
    let mut sums = vec![[0_u64; 4]; lines.len()];
    for share in &image.shares {
        let Share { attempt, line, held, confirmed, released, returned } = *share;
        let known =
            sums.get_mut(usize::from(line)).filter(|_| once.insert((attempt, line)) && returned <= confirmed);
        let Some(sums) = known else { return wrong(format!("{share:?} makes no sense")) };
        for (sum, units) in sums.iter_mut().zip([held, confirmed, returned, released]) {
            *sum += u64::from(units);
        }
    }
    for (line, sums) in lines.iter().zip(sums) {
        let LineImage { held, confirmed, returned, released, .. } = *line;
        let [of_line @ .., released] = [held, confirmed, returned, released].map(u64::from);
        // What a late payment took was released by another share.
        if sums[..3] != of_line || sums[3] < released {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Phase;
    use crate::clock::Timestamp;
    use crate::command::Mode;
    use crate::ids::{Lsn, WarehouseId};

    const OLD: AttemptId = AttemptId(1);
    const NEW: AttemptId = AttemptId(2);

    /// Three lines, two of them of A; what is held of each.
    fn image(held: [u32; 3]) -> HomeImage {
        let line = |(name, warehouse, held): (&str, u32, u32)| LineImage {
            sku_id: SkuId::new(name).unwrap(),
            warehouse_id: WarehouseId(warehouse),
            quantity: held,
            held,
            confirmed: 0,
            released: 0,
            returned: 0,
            lapsed: 0,
        };
        let order = OrderImage {
            order_no: OrderNo::new("O1").unwrap(),
            buyer_id: None,
            mode: Mode::AllOrNothing,
            phase: Phase::Open,
            created_at: Timestamp(0),
            expires_at: Timestamp(0),
            changed_at: Timestamp(0),
            lsn: Lsn(1),
            lines: [("A", 1, held[0]), ("B", 1, held[1]), ("A", 2, held[2])].map(line).to_vec(),
            requests: Vec::new(),
            serials: Vec::new(),
        };
        let shares = (0..).zip(held).map(|(line, held)| share(OLD, line, held)).collect();
        HomeImage { order, shares, decisions: 0, pending: Vec::new() }
    }

    fn decide(
        image: &mut HomeImage,
        kind: DecisionKind,
        lines: &[(u16, u32, u32)],
    ) -> Option<(Vec<(u16, u32)>, bool)> {
        let lines: Vec<_> =
            lines.iter().map(|&(line, units, late)| DecidedLine { line, units, late }).collect();
        take(image, kind, &lines, Some(NEW))
    }

    /// The commands of a decision, as text.
    fn told(image: &HomeImage, kind: DecisionKind, (shares, whole): (Vec<(u16, u32)>, bool)) -> Vec<String> {
        let errand = errand(image, &Decided { number: 3, kind, reason: None, shares, whole });
        let lines = |lines: &Lines| {
            let line = |line: &Line| format!(" {}{}:{}", line.sku_id, line.warehouse_id, line.quantity);
            lines.as_slice().iter().map(line).collect::<String>()
        };
        let part = |part: &Option<Part>| match part {
            Some(Part { lines: of, request_id }) => format!("{} {}", lines(of), request_id.as_ref().unwrap()),
            None => " all".to_owned(),
        };
        let command = |command: &BranchCommand| {
            let branch = command.command.order_no().and_then(OrderNo::branch).unwrap();
            assert_eq!(branch.sku_id, command.sku_id);
            let public = match &command.command {
                InnerCommand::Public(command) => Some(&command.action),
                InnerCommand::Expire(_) => None,
                InnerCommand::Home(step) => panic!("{step:?}"),
            };
            let what = match public {
                Some(Action::Confirm(c)) => format!("confirm{}", part(&c.part)),
                Some(Action::Release(c)) => format!("release{}", part(&c.part)),
                Some(Action::Return(c)) => {
                    format!("return{} {}", lines(c.lines.as_ref().unwrap()), c.request_id)
                }
                Some(other) => panic!("{other:?}"),
                None => "expire".to_owned(),
            };
            format!("{}#{} {what}", branch.sku_id, branch.attempt.0)
        };
        errand.commands.iter().map(command).collect()
    }

    #[test]
    fn a_branch_that_is_taken_whole_is_told_so() {
        let mut image = image([2, 1, 3]);
        let taken = decide(&mut image, DecisionKind::Confirm, &[(0, 2, 0)]).unwrap();
        assert_eq!(taken, (vec![(0, 2)], false), "the branch of A holds another line");
        assert_eq!(told(&image, DecisionKind::Confirm, taken), ["A#1 confirm A1:2 d3"]);
        let taken = decide(&mut image, DecisionKind::Release, &[(2, 3, 0)]).unwrap();
        assert_eq!(taken, (vec![(2, 3)], true), "what is left of it");
        assert_eq!(told(&image, DecisionKind::Release, taken), ["A#1 release all"]);
        let taken = decide(&mut image, DecisionKind::Expire, &[(1, 1, 0)]).unwrap();
        assert_eq!(told(&image, DecisionKind::Expire, taken), ["B#1 expire"]);
        assert_eq!(decide(&mut image, DecisionKind::Confirm, &[(1, 1, 0)]), None, "nothing is held");
        let taken = decide(&mut image, DecisionKind::Return, &[(0, 2, 0)]).unwrap();
        assert_eq!(told(&image, DecisionKind::Return, taken), ["A#1 return A1:2 d3"]);
        assert_eq!(decide(&mut image, DecisionKind::Return, &[(0, 1, 0)]), None, "nothing is sold");
    }

    #[test]
    fn one_branch_that_is_not_taken_whole_makes_parts_of_all() {
        let mut image = image([2, 1, 3]);
        let taken = decide(&mut image, DecisionKind::Release, &[(0, 2, 0), (1, 1, 0), (2, 2, 0)]).unwrap();
        assert_eq!(
            told(&image, DecisionKind::Release, taken),
            ["A#1 release A1:2 A2:2 d3", "B#1 release B1:1 d3"]
        );
        assert_eq!(image.shares[2], Share { released: 2, ..share(OLD, 2, 1) });
    }

    /// Late units lie in a branch of their own, behind the others; what comes back leaves the oldest first.
    #[test]
    fn the_oldest_share_gives_first() {
        let mut image = image([2, 1, 3]);
        decide(&mut image, DecisionKind::Confirm, &[(0, 1, 0)]).unwrap();
        decide(&mut image, DecisionKind::Release, &[(0, 1, 0), (1, 1, 0), (2, 3, 0)]).unwrap();
        let taken = decide(&mut image, DecisionKind::Confirm, &[(0, 0, 1), (2, 0, 2)]).unwrap();
        assert_eq!(taken, (vec![(3, 1), (4, 2)], true));
        assert_eq!(told(&image, DecisionKind::Confirm, taken), ["A#2 confirm all"]);
        let taken = decide(&mut image, DecisionKind::Return, &[(0, 2, 0)]).unwrap();
        assert_eq!(taken, (vec![(0, 1), (3, 1)], false));
        assert_eq!(told(&image, DecisionKind::Return, taken), ["A#1 return A1:1 d3", "A#2 return A1:1 d3"]);
    }
}
