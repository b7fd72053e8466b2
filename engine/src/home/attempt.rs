//! An attempt to hold the lines of an order in their places: which branches to reserve, what their answers mean, which to release again.
//! No memory of its own and nothing logged: presumed abort.

use std::collections::{BTreeMap, HashMap};

use super::words::{BranchCommand, HeldLine};
use crate::command::{Action, Choice, Command, Line, Lines, Mode, Release, Reserve};
use crate::ids::{AttemptId, Branch, OrderNo, SkuId};
use crate::limits::{BRANCH_ASK_SECONDS, MAX_ORDER_LINES};
use crate::outcome::{Answer, LineView, OrderView, Outcome, Refusal, ShortLine};
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
        BranchCommand { sku_id, command: Command::from(Action::Reserve(branch)) }
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
pub fn judge_reserve(reserve: &Reserve, attempt: AttemptId, answers: &[Outcome]) -> Judged {
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
pub fn judge_late(order_no: &OrderNo, lines: &Lines, attempt: AttemptId, answers: &[Outcome]) -> Judged {
    let reserve = late_reserve(order_no, lines);
    let branches = branches(&reserve, answers);
    let refusal = first_transient(&branches).or_else(|| {
        let short = short_lines(reserve.lines.as_slice(), &branches);
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

fn branches<'a>(reserve: &Reserve, answers: &'a [Outcome]) -> Vec<Tried<'a>> {
    let of_branch = |(index, (sku_id, indexes)): (usize, (SkuId, Vec<usize>))| {
        let end = answers.get(index).map_or(End::Unknown(Refusal::Overloaded), end_of);
        Tried { sku_id, indexes, end }
    };
    by_sku(reserve.lines.as_slice()).into_iter().enumerate().map(of_branch).collect()
}

fn end_of(answer: &Outcome) -> End<'_> {
    match answer {
        Ok(Answer::Order { order, .. }) if holds(order) => End::Held(&order.lines),
        // It asked its home before this attempt had come to its end, and was released; or was released before it was reserved.
        Ok(_) | Err(Refusal::OrderCancelled { .. } | Refusal::OrderMismatch { .. }) => {
            End::NotNow(Refusal::Overloaded)
        }
        Err(refusal) => match refusal {
            Refusal::UnknownSku { .. }
            | Refusal::SkuSuspended { .. }
            | Refusal::InsufficientStock { .. }
            | Refusal::InvalidField(_) => End::No(refusal),
            // The attempt is given up, so nothing happened, and the caller may come again.
            Refusal::OutcomeUnknown => End::Unknown(Refusal::StoreUnavailable),
            Refusal::ShardRestarted | Refusal::JournalUnavailable => End::Unknown(Refusal::Overloaded),
            Refusal::JournalFull | Refusal::StoreUnavailable | Refusal::OwnedElsewhere { .. } => {
                End::NotNow(refusal.clone())
            }
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
        let short = short_lines(lines, branches);
        return (!short.is_empty()).then_some(Refusal::InsufficientStock { lines: short });
    }
    if branches.iter().any(|branch| matches!(branch.end, End::Held(_))) {
        return None;
    }
    let suspended = |branch: &Tried<'_>| matches!(branch.end, End::No(Refusal::SkuSuspended { .. }));
    Some(match branches.first().map(|branch| &branch.end) {
        Some(End::No(refusal)) if branches.iter().all(suspended) => (*refusal).clone(),
        _ => Refusal::InsufficientStock { lines: short_lines(lines, branches) },
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
fn short_lines(lines: &[Line], branches: &[Tried<'_>]) -> Vec<ShortLine> {
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
            // Of a suspended SKU nothing can be held, however much there is.
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
            // Which of its lines came of which of the request can't always be told; those of one SKU stand together then.
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
        let command = Command::from(Action::Release(Release { order_no, part: None, reason: None }));
        BranchCommand { sku_id: branch.sku_id.clone(), command }
    };
    branches.iter().filter(may_hold).map(release).collect()
}
