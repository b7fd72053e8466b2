//! An attempt to hold the lines of an order in their places: which branches to reserve, what their answers mean,
//! which to release again. No memory of its own and nothing logged: presumed abort.

use std::collections::{BTreeMap, HashMap};

use super::words::{BranchCommand, HeldLine};
use crate::command::{Action, Choice, Line, Lines, Mode, Release, Reserve};
use crate::ids::{AttemptId, Branch, OrderNo, SkuId};
use crate::inner::{InnerAnswer, InnerOutcome};
use crate::limits::{BRANCH_ASK_SECONDS, MAX_ORDER_LINES};
use crate::outcome::{Answer, LineView, OrderView, Refusal, ShortLine};
use crate::state::too_many_stocks;

/// What the answers to an attempt mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    /// Every branch holds what it must: for the home to log.
    Held(Vec<HeldLine>),
    /// The order is refused; those branches that hold, or may hold, are to be released first.
    Refused {
        /// What the caller is told: as one place that had all the lines would say it.
        refusal: Refusal,
        /// To be given, as often as it takes; a tombstone where the branch is not known.
        releases: Vec<BranchCommand>,
    },
}

/// The branches that a reserve needs: one for each SKU, in the order of the request.
#[must_use]
pub fn branches_of(reserve: &Reserve, attempt: AttemptId) -> Vec<BranchCommand> {
    let lines = reserve.lines.as_slice();
    let of_branch = |(sku_id, indexes): (SkuId, Vec<usize>)| {
        let own = indexes.iter().map(|index| lines[*index].clone());
        let choice = reserve.choice.as_deref().and_then(|choice| choice_of(choice, &indexes));
        let branch = Reserve {
            order_no: number_of(&reserve.order_no, &sku_id, attempt),
            lines: Lines::new(own).expect("some lines of an order are within the bounds"),
            ttl_seconds: BRANCH_ASK_SECONDS,
            buyer_id: reserve.buyer_id.clone(),
            mode: reserve.mode,
            choice: choice.map(Box::new),
        };
        BranchCommand { sku_id, command: Action::Reserve(branch).into() }
    };
    by_sku(lines).into_iter().map(of_branch).collect()
}

/// The branches that a late payment needs: all or nothing.
#[must_use]
pub fn branches_of_late(order_no: &OrderNo, lines: &Lines, attempt: AttemptId) -> Vec<BranchCommand> {
    branches_of(&late_reserve(order_no, lines), attempt)
}

/// What the answers to [`branches_of`] mean; `answers` in the same order, every one final or given up as unknown.
#[must_use]
pub fn judge_reserve(reserve: &Reserve, attempt: AttemptId, answers: &[InnerOutcome]) -> Judged {
    let branches = branches(reserve, answers);
    let refusal = match first_transient(&branches) {
        Some(refusal) => refusal,
        None => match refused(reserve, &branches) {
            None => {
                let lines = held_lines(reserve, &branches);
                if lines.len() <= MAX_ORDER_LINES {
                    return Judged::Held(lines);
                }
                // Open lines were cut into pieces, each SKU by itself.
                too_many_stocks()
            }
            Some(refusal) => refusal,
        },
    };
    Judged::Refused { refusal, releases: releases(&reserve.order_no, attempt, &branches) }
}

/// What the answers to [`branches_of_late`] mean. Want of stock is
/// [`Refusal::LatePaymentNoStock`](crate::outcome::Refusal::LatePaymentNoStock).
#[must_use]
pub fn judge_late(order_no: &OrderNo, lines: &Lines, attempt: AttemptId, answers: &[InnerOutcome]) -> Judged {
    let reserve = late_reserve(order_no, lines);
    let branches = branches(&reserve, answers);
    let refusal = first_transient(&branches).or_else(|| {
        let short = short_lines(&reserve, &branches);
        (!short.is_empty()).then_some(Refusal::LatePaymentNoStock { lines: short })
    });
    match refusal {
        None => Judged::Held(held_lines(&reserve, &branches)),
        Some(refusal) => Judged::Refused { refusal, releases: releases(order_no, attempt, &branches) },
    }
}

fn late_reserve(order_no: &OrderNo, lines: &Lines) -> Reserve {
    Reserve {
        order_no: order_no.clone(),
        lines: lines.clone(),
        ttl_seconds: BRANCH_ASK_SECONDS,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    }
}

fn number_of(order_no: &OrderNo, sku_id: &SkuId, attempt: AttemptId) -> OrderNo {
    Branch { order_no: order_no.clone(), sku_id: sku_id.clone(), attempt }.number()
}

/// The SKUs in the order of the request, each with the indexes of its lines.
fn by_sku(lines: &[Line]) -> Vec<(SkuId, Vec<usize>)> {
    let mut places: HashMap<&SkuId, usize> = HashMap::new();
    let mut skus: Vec<(SkuId, Vec<usize>)> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let place = *places.entry(&line.sku_id).or_insert(skus.len());
        match skus.get_mut(place) {
            Some((_, indexes)) => indexes.push(index),
            None => skus.push((line.sku_id.clone(), vec![index])),
        }
    }
    skus
}

/// What is left of a choice for the lines of one SKU.
fn choice_of(choice: &Choice, indexes: &[usize]) -> Option<Choice> {
    let is_open = |index: usize| choice.open.iter().any(|open| usize::from(*open) == index);
    let open: Vec<u16> =
        (0..).zip(indexes).filter(|(_, index)| is_open(**index)).map(|(place, _)| place).collect();
    (!open.is_empty()).then(|| Choice { open, prefer: choice.prefer.clone() })
}

/// What became of the branch of one SKU.
struct Tried<'a> {
    sku_id: SkuId,
    /// Its lines, as indexes of the request's.
    indexes: Vec<usize>,
    end: End<'a>,
}

enum End<'a> {
    /// It holds these lines.
    Held(&'a [LineView]),
    /// It is refused for good.
    No(&'a Refusal),
    /// It is refused for now; nothing happened there.
    NotNow(Refusal),
    /// It may hold.
    Unknown(Refusal),
}

fn branches<'a>(reserve: &Reserve, answers: &'a [InnerOutcome]) -> Vec<Tried<'a>> {
    let of_branch = |(index, (sku_id, indexes)): (usize, (SkuId, Vec<usize>))| {
        let end = answers.get(index).map_or(End::Unknown(Refusal::Overloaded), end_of);
        Tried { sku_id, indexes, end }
    };
    by_sku(reserve.lines.as_slice()).into_iter().enumerate().map(of_branch).collect()
}

fn end_of(answer: &InnerOutcome) -> End<'_> {
    match answer {
        Ok(InnerAnswer::Public(Answer::Order { order, .. })) if holds(order) => End::Held(&order.lines),
        // It asked its home before this attempt had come to its end, and was released; or was released before it was
        // reserved.
        Ok(_) | Err(Refusal::OrderCancelled { .. } | Refusal::OrderMismatch { .. }) => {
            End::NotNow(Refusal::Overloaded)
        }
        Err(refusal) => match refusal {
            Refusal::UnknownSku { .. }
            | Refusal::SkuSuspended { .. }
            | Refusal::InsufficientStock { .. }
            | Refusal::InvalidField(_) => End::No(refusal),
            // The attempt is given up, so nothing happened, and the caller may come again.
            Refusal::ShardRestarted | Refusal::JournalUnavailable => End::Unknown(Refusal::Overloaded),
            Refusal::JournalFull
            | Refusal::StoreUnavailable
            | Refusal::Fenced { .. }
            | Refusal::StockInconsistent { .. }
            | Refusal::OrderInconsistent { .. } => End::NotNow(refusal.clone()),
            _ => End::NotNow(Refusal::Overloaded),
        },
    }
}

/// Whether everything that a branch got is still held.
fn holds(order: &OrderView) -> bool {
    let untouched = |line: &LineView| line.confirmed == 0 && line.released == 0;
    order.lines.iter().any(|line| line.held > 0) && order.lines.iter().all(untouched)
}

fn first_transient(branches: &[Tried<'_>]) -> Option<Refusal> {
    branches.iter().find_map(|branch| match &branch.end {
        End::NotNow(refusal) | End::Unknown(refusal) => Some(refusal.clone()),
        End::Held(_) | End::No(_) => None,
    })
}

/// Why the order is refused, when every branch has answered for good.
fn refused(reserve: &Reserve, branches: &[Tried<'_>]) -> Option<Refusal> {
    let lines = reserve.lines.as_slice();
    let ends_it = |refusal: &Refusal| match refusal {
        Refusal::UnknownSku { .. } | Refusal::InvalidField(_) => true,
        Refusal::SkuSuspended { .. } => reserve.mode == Mode::AllOrNothing,
        _ => false,
    };
    // Each branch names its first line that is refused so; the first of them all counts.
    let first = branches.iter().filter_map(|branch| match &branch.end {
        End::No(refusal) if ends_it(refusal) => Some((line_of(branch, lines, refusal), *refusal)),
        _ => None,
    });
    if let Some((_, refusal)) = first.min_by_key(|(line, _)| *line) {
        return Some(refusal.clone());
    }
    if reserve.mode == Mode::AllOrNothing {
        let short = short_lines(reserve, branches);
        return (!short.is_empty()).then_some(Refusal::InsufficientStock { lines: short });
    }
    if branches.iter().any(|branch| matches!(branch.end, End::Held(_))) {
        return None;
    }
    let suspended = |branch: &Tried<'_>| matches!(branch.end, End::No(Refusal::SkuSuspended { .. }));
    Some(match branches.first().map(|branch| &branch.end) {
        Some(End::No(refusal)) if branches.iter().all(suspended) => (*refusal).clone(),
        _ => Refusal::InsufficientStock { lines: short_lines(reserve, branches) },
    })
}

/// The line of the request that a refusal is about.
fn line_of(branch: &Tried<'_>, lines: &[Line], refusal: &Refusal) -> usize {
    let place = match refusal {
        Refusal::UnknownSku { warehouse_id, .. } => *warehouse_id,
        Refusal::SkuSuspended { warehouse_id, .. } => Some(*warehouse_id),
        _ => None,
    };
    let mut indexes = branch.indexes.iter().copied();
    let named = indexes.find(|index| Some(lines[*index].warehouse_id) == place);
    named.or_else(|| branch.indexes.first().copied()).unwrap_or(0)
}

/// Everything that is short, in the order of the request.
fn short_lines(reserve: &Reserve, branches: &[Tried<'_>]) -> Vec<ShortLine> {
    let (lines, all_or_nothing) = (reserve.lines.as_slice(), reserve.mode == Mode::AllOrNothing);
    let mut short: BTreeMap<usize, Vec<ShortLine>> = BTreeMap::new();
    for branch in branches {
        match &branch.end {
            End::No(Refusal::InsufficientStock { lines: of_branch }) => {
                for line in of_branch {
                    let mut indexes = branch.indexes.iter().copied();
                    let index = indexes.find(|index| lines[*index].warehouse_id == line.warehouse_id);
                    let index = index.or_else(|| branch.indexes.first().copied()).unwrap_or(0);
                    short.entry(index).or_default().push(line.clone());
                }
            }
            // Of a suspended SKU nothing can be held, however much there is: best effort is refused so only when all
            // its lines are, all or nothing (a late payment) names the first.
            End::No(refusal) if all_or_nothing => {
                let index = line_of(branch, lines, refusal);
                short.entry(index).or_default().push(short_line(&lines[index]));
            }
            End::No(_) => {
                for index in &branch.indexes {
                    short.entry(*index).or_default().push(short_line(&lines[*index]));
                }
            }
            End::Held(_) | End::NotNow(_) | End::Unknown(_) => {}
        }
    }
    short.into_values().flatten().collect()
}

fn short_line(line: &Line) -> ShortLine {
    ShortLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        requested: u64::from(line.quantity),
        available: 0,
    }
}

/// What is held, in the order of the request; with the warehouses that were chosen.
fn held_lines(reserve: &Reserve, branches: &[Tried<'_>]) -> Vec<HeldLine> {
    let lines = reserve.lines.as_slice();
    let chosen = |index: usize| {
        let choice = reserve.choice.as_deref();
        choice.is_some_and(|choice| choice.open.iter().any(|open| usize::from(*open) == index))
    };
    let mut held: BTreeMap<usize, Vec<HeldLine>> = BTreeMap::new();
    for branch in branches {
        match &branch.end {
            // Which of its lines came of which of the request can't always be told; those of one SKU stand together
            // then.
            End::Held(got) if branch.indexes.iter().any(|index| chosen(*index)) => {
                held.entry(branch.indexes[0]).or_default().extend(got.iter().map(held_line));
            }
            End::Held(got) => {
                for (index, line) in branch.indexes.iter().zip(got.iter()) {
                    held.entry(*index).or_default().push(held_line(line));
                }
            }
            // Best effort that got nothing of this SKU.
            End::No(Refusal::InsufficientStock { lines: short })
                if branch.indexes.iter().any(|i| chosen(*i)) =>
            {
                let quantity = |line: &ShortLine| u32::try_from(line.requested).unwrap_or(u32::MAX);
                let nothing = short.iter().map(|line| HeldLine {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    quantity: quantity(line),
                    held: 0,
                });
                held.entry(branch.indexes[0]).or_default().extend(nothing);
            }
            End::No(_) | End::NotNow(_) | End::Unknown(_) => {
                for index in &branch.indexes {
                    let Line { sku_id, warehouse_id, quantity } = lines[*index].clone();
                    held.entry(*index).or_default().push(HeldLine {
                        sku_id,
                        warehouse_id,
                        quantity,
                        held: 0,
                    });
                }
            }
        }
    }
    held.into_values().flatten().collect()
}

fn held_line(line: &LineView) -> HeldLine {
    let LineView { sku_id, warehouse_id, quantity, held, .. } = line;
    HeldLine { sku_id: sku_id.clone(), warehouse_id: *warehouse_id, quantity: *quantity, held: *held }
}

/// Releases of those branches that hold, or may hold.
fn releases(order_no: &OrderNo, attempt: AttemptId, branches: &[Tried<'_>]) -> Vec<BranchCommand> {
    let may_hold = |branch: &&Tried<'_>| matches!(branch.end, End::Held(_) | End::Unknown(_));
    let release = |branch: &Tried<'_>| {
        let order_no = number_of(order_no, &branch.sku_id, attempt);
        let command = Action::Release(Release { order_no, part: None, reason: None }).into();
        BranchCommand { sku_id: branch.sku_id.clone(), command }
    };
    branches.iter().filter(may_hold).map(release).collect()
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::WarehouseId;
    use crate::inner::InnerCommand;
    use crate::outcome::{Effect, OrderStatus};

    const ATTEMPT: AttemptId = AttemptId(7);

    fn sku(name: &str) -> SkuId {
        SkuId::new(name).unwrap()
    }

    /// `A1:3`: three of A in warehouse 1.
    fn line(text: &str) -> Line {
        let (place, quantity) = text.split_once(':').unwrap();
        let (name, warehouse) = place.split_at(1);
        let warehouse_id = WarehouseId(warehouse.parse().unwrap());
        Line { sku_id: sku(name), warehouse_id, quantity: quantity.parse().unwrap() }
    }

    fn reserve(lines: &str, mode: Mode) -> Reserve {
        Reserve {
            order_no: OrderNo::new("O1").unwrap(),
            lines: Lines::new(lines.split(' ').map(line)).unwrap(),
            ttl_seconds: 600,
            buyer_id: None,
            mode,
            choice: None,
        }
    }

    /// A branch that holds `A1:3=2` (two of three) and so on.
    fn holds(lines: &str) -> InnerOutcome {
        let line_view = |text: &str| {
            let (asked, held) = text.split_once('=').unwrap();
            let Line { sku_id, warehouse_id, quantity } = line(asked);
            let held = held.parse().unwrap();
            let (confirmed, released, returned, serials) = (0, 0, 0, None);
            LineView { sku_id, warehouse_id, quantity, held, confirmed, released, returned, serials }
        };
        let lines: SmallVec<[LineView; 1]> = lines.split(' ').map(line_view).collect();
        let order = OrderView {
            order_no: OrderNo::new("B").unwrap(),
            status: OrderStatus::Reserved,
            created_at: Timestamp(0),
            expires_at: None,
            lines,
        };
        Ok(Answer::Order { order, effect: Effect::Created }.into())
    }

    fn short(lines: &str) -> InnerOutcome {
        let short = |text: &str| {
            let (asked, available) = text.split_once('=').unwrap();
            ShortLine { available: available.parse().unwrap(), ..short_line(&line(asked)) }
        };
        Err(Refusal::InsufficientStock { lines: lines.split(' ').map(short).collect() })
    }

    fn suspended(place: &str) -> InnerOutcome {
        let Line { sku_id, warehouse_id, .. } = line(&format!("{place}:1"));
        Err(Refusal::SkuSuspended { sku_id, warehouse_id })
    }

    fn unknown(place: &str) -> InnerOutcome {
        let Line { sku_id, warehouse_id, .. } = line(&format!("{place}:1"));
        Err(Refusal::UnknownSku { sku_id, warehouse_id: Some(warehouse_id) })
    }

    /// What was judged, as text: the held lines, or the refusal and whose branches are released.
    fn text(judged: Judged) -> String {
        match judged {
            Judged::Held(lines) => {
                let line = |l: &HeldLine| format!("{}{}:{}={}", l.sku_id, l.warehouse_id, l.quantity, l.held);
                format!("held {}", lines.iter().map(line).collect::<Vec<_>>().join(" "))
            }
            Judged::Refused { refusal, releases } => {
                for release in &releases {
                    let branch = release.command.order_no().and_then(OrderNo::branch).unwrap();
                    assert_eq!((branch.attempt, &branch.sku_id), (ATTEMPT, &release.sku_id));
                    let InnerCommand::Public(command) = &release.command else { panic!("{release:?}") };
                    assert!(matches!(&command.action, Action::Release(Release { part: None, .. })));
                }
                let line = |l: &ShortLine| {
                    format!(" {}{}:{}={}", l.sku_id, l.warehouse_id, l.requested, l.available)
                };
                let lines = |lines: &[ShortLine]| lines.iter().map(line).collect::<String>();
                let refusal = match refusal {
                    Refusal::InsufficientStock { lines: short } => format!("short{}", lines(&short)),
                    Refusal::LatePaymentNoStock { lines: short } => format!("late{}", lines(&short)),
                    Refusal::SkuSuspended { sku_id, warehouse_id } => {
                        format!("suspended {sku_id}{warehouse_id}")
                    }
                    Refusal::UnknownSku { sku_id, .. } => format!("unknown {sku_id}"),
                    other => format!("{other:?}"),
                };
                let released: String =
                    releases.iter().map(|release| format!(" {}", release.sku_id)).collect();
                format!("{refusal}; release{released}")
            }
        }
    }

    #[test]
    fn each_sku_has_one_branch() {
        let reserve = Reserve {
            choice: Some(Box::new(Choice { open: vec![2, 3], prefer: vec![WarehouseId(2)] })),
            ..reserve("B1:1 A2:2 B2:3 C1:4 A1:5", Mode::BestEffort)
        };
        let branches = branches_of(&reserve, ATTEMPT);
        let text = branches.iter().map(|branch| {
            let InnerCommand::Public(command) = &branch.command else { panic!("{branch:?}") };
            let Action::Reserve(c) = &command.action else { panic!("{branch:?}") };
            let of = c.order_no.branch().unwrap();
            assert_eq!((of.order_no.as_str(), of.attempt, &of.sku_id), ("O1", ATTEMPT, &branch.sku_id));
            assert_eq!((c.mode, c.ttl_seconds), (Mode::BestEffort, BRANCH_ASK_SECONDS));
            let line = |l: &Line| format!("{}{}:{}", l.sku_id, l.warehouse_id, l.quantity);
            let lines = c.lines.as_slice().iter().map(line).collect::<Vec<_>>().join(" ");
            format!("{lines} {:?}", c.choice.as_ref().map(|choice| &choice.open))
        });
        assert_eq!(text.collect::<Vec<_>>(), ["B1:1 B2:3 Some([1])", "A2:2 A1:5 None", "C1:4 Some([0])"]);
    }

    /// (the request, the answers of its branches, what they mean)
    #[test]
    fn all_or_nothing_is_judged_as_one_place_would() {
        let all = |lines: &str, answers: &[InnerOutcome]| {
            text(judge_reserve(&reserve(lines, Mode::AllOrNothing), ATTEMPT, answers))
        };
        let lost = || Err(Refusal::ShardRestarted);
        let rows: [(&str, Vec<InnerOutcome>, &str); 14] = [
            ("B1:1 A1:2 B2:3", vec![holds("B1:1=1 B2:3=3"), holds("A1:2=2")], "held B1:1=1 A1:2=2 B2:3=3"),
            ("B1:1 A1:2 B2:3", vec![holds("B1:1=1 B2:3=3"), short("A1:2=0")], "short A1:2=0; release B"),
            (
                "B1:1 A1:2 B2:3",
                vec![short("B1:1=0 B2:3=2"), short("A1:2=1")],
                "short B1:1=0 A1:2=1 B2:3=2; release",
            ),
            ("B1:1 A1:2", vec![short("B1:1=0"), unknown("A1")], "unknown A; release"),
            ("B1:1 A1:2", vec![suspended("B1"), unknown("A1")], "suspended B1; release"),
            ("A1:2 B1:1", vec![unknown("A1"), suspended("B1")], "unknown A; release"),
            ("A1:1 B1:1 A2:1", vec![unknown("A2"), suspended("B1")], "suspended B1; release"),
            ("A1:1 B1:1", vec![short("A1:1=0"), suspended("B1")], "suspended B1; release"),
            ("A1:1 B1:1", vec![lost(), suspended("B1")], "Overloaded; release A"),
            ("A1:1 B1:1", vec![holds("A1:1=1"), Err(Refusal::JournalFull)], "JournalFull; release A"),
            ("A1:1 B1:1", vec![Err(Refusal::JournalUnavailable), holds("B1:1=1")], "Overloaded; release A B"),
            (
                "A1:1 B1:1",
                vec![holds("A1:1=1"), Err(Refusal::StoreUnavailable)],
                "StoreUnavailable; release A",
            ),
            // Released behind the back of this attempt, as a home that did not know it had said.
            ("A1:1 B1:1", vec![holds("A1:1=0"), holds("B1:1=1")], "Overloaded; release B"),
            ("A1:1 B1:1", vec![holds("A1:1=1")], "Overloaded; release A B"),
        ];
        for (lines, answers, expected) in rows {
            assert_eq!(all(lines, &answers), expected, "{lines} {answers:?}");
        }
    }

    #[test]
    fn best_effort_is_judged_as_one_place_would() {
        let best = |lines: &str, answers: &[InnerOutcome]| {
            text(judge_reserve(&reserve(lines, Mode::BestEffort), ATTEMPT, answers))
        };
        let rows: [(&str, Vec<InnerOutcome>, &str); 6] = [
            ("B1:1 A1:2 B2:3", vec![holds("B1:1=1 B2:3=0"), holds("A1:2=1")], "held B1:1=1 A1:2=1 B2:3=0"),
            ("B1:1 A1:2 B2:3", vec![short("B1:1=0 B2:3=0"), holds("A1:2=1")], "held B1:1=0 A1:2=1 B2:3=0"),
            ("B1:1 A1:2", vec![suspended("B1"), holds("A1:2=1")], "held B1:1=0 A1:2=1"),
            ("B1:1 A1:2", vec![suspended("B1"), suspended("A1")], "suspended B1; release"),
            ("B1:1 A1:2", vec![suspended("B1"), short("A1:2=0")], "short B1:1=0 A1:2=0; release"),
            ("B1:1 A1:2", vec![holds("B1:1=1"), unknown("A1")], "unknown A; release B"),
        ];
        for (lines, answers, expected) in rows {
            assert_eq!(best(lines, &answers), expected, "{lines} {answers:?}");
        }
    }

    #[test]
    fn a_late_payment_says_that_there_is_no_stock() {
        let late = |lines: &str, answers: &[InnerOutcome]| {
            let Reserve { order_no, lines, .. } = reserve(lines, Mode::AllOrNothing);
            text(judge_late(&order_no, &lines, ATTEMPT, answers))
        };
        let rows: [(&str, Vec<InnerOutcome>, &str); 4] = [
            ("B1:1 A1:2", vec![holds("B1:1=1"), holds("A1:2=2")], "held B1:1=1 A1:2=2"),
            ("B1:1 A1:2", vec![holds("B1:1=1"), short("A1:2=1")], "late A1:2=1; release B"),
            ("B1:1 A1:2 B2:1", vec![suspended("B2"), unknown("A1")], "late A1:2=0 B2:1=0; release"),
            ("B1:1 A1:2", vec![Err(Refusal::JournalUnavailable), short("A1:2=1")], "Overloaded; release B"),
        ];
        for (lines, answers, expected) in rows {
            assert_eq!(late(lines, &answers), expected, "{lines} {answers:?}");
        }
    }

    /// Warehouses that were chosen stand where their line stood.
    #[test]
    fn chosen_warehouses_are_named() {
        let asked = |mode| Reserve {
            choice: Some(Box::new(Choice { open: vec![1], prefer: Vec::new() })),
            ..reserve("B1:1 A1:5 C1:1", mode)
        };
        let answers = [holds("B1:1=1"), holds("A3:4=4 A7:1=1"), holds("C1:1=1")];
        let judged = judge_reserve(&asked(Mode::AllOrNothing), ATTEMPT, &answers);
        assert_eq!(text(judged), "held B1:1=1 A3:4=4 A7:1=1 C1:1=1");
        let answers = [holds("B1:1=1"), short("A3:5=0"), holds("C1:1=1")];
        let judged = judge_reserve(&asked(Mode::BestEffort), ATTEMPT, &answers);
        assert_eq!(text(judged), "held B1:1=1 A3:5=0 C1:1=1");
    }
}
