//! What an attempt to hold the units of an order comes to: which shard is asked for which lines, what their answers
//! mean together, and what can be refused because of what is plain to see, before anything is held.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use crate::base::ids::{ShardId, SkuId, WarehouseId};
use crate::base::limits::MAX_ORDER_LINES;
use crate::contract::command::{Choice, Line, Lines, Mode, Reserve, StockStatus};
use crate::contract::event::ReservedLine;
use crate::contract::outcome::{Refusal, ShortLine, StockView};
use crate::machine::state::too_many_stocks;

/// The lines of an order that lie in one shard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub shard: ShardId,
    /// Their indexes in the request.
    pub indexes: Vec<usize>,
    /// They as a request of their own.
    pub reserve: Reserve,
}

/// What was said to a group.
pub(crate) type GroupAnswer = Result<SmallVec<[ReservedLine; 1]>, Refusal>;

/// The groups of a request, each shard once, in the order in which they come in it.
pub(crate) fn groups(reserve: &Reserve, shard_of: impl Fn(&SkuId) -> ShardId) -> Vec<Group> {
    let mut by_shard: Vec<(ShardId, Vec<usize>)> = Vec::new();
    for (index, line) in reserve.lines.as_slice().iter().enumerate() {
        let shard = shard_of(&line.sku_id);
        match by_shard.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, indexes)) => indexes.push(index),
            None => by_shard.push((shard, vec![index])),
        }
    }
    let group = |(shard, indexes): (ShardId, Vec<usize>)| {
        let lines = indexes.iter().map(|index| reserve.lines.as_slice()[*index].clone());
        let choice = reserve.choice.as_deref().and_then(|choice| choice_of(choice, &indexes));
        let own = Reserve {
            order_no: reserve.order_no.clone(),
            lines: Lines::some_of(lines),
            ttl_seconds: reserve.ttl_seconds,
            buyer_id: None,
            mode: reserve.mode,
            choice: choice.map(Box::new),
        };
        Group { shard, indexes, reserve: own }
    };
    by_shard.into_iter().map(group).collect()
}

/// What is left of a choice for some lines.
fn choice_of(choice: &Choice, indexes: &[usize]) -> Option<Choice> {
    let open = (0..).zip(indexes).filter(|(_, index)| choice.is_open(**index));
    let open: Vec<u16> = open.map(|(own, _)| own).collect();
    (!open.is_empty()).then(|| Choice { open, prefer: choice.prefer.clone() })
}

/// Whether a refusal says nothing about the order itself: the same may be carried out later.
fn is_transient(refusal: &Refusal) -> bool {
    !matches!(
        refusal,
        Refusal::UnknownSku { .. }
            | Refusal::SkuSuspended { .. }
            | Refusal::InsufficientStock { .. }
            | Refusal::InvalidField(_)
    )
}

/// What callers are told when a part of the order could not be asked for. The attempt is given up, so nothing
/// happened.
fn told(refusal: &Refusal) -> Refusal {
    match refusal {
        Refusal::JournalFull
        | Refusal::StoreUnavailable
        | Refusal::Fenced { .. }
        | Refusal::StockInconsistent { .. }
        | Refusal::OrderInconsistent { .. } => refusal.clone(),
        _ => Refusal::Overloaded,
    }
}

/// All lines with what they got; or why the order is refused, as one shard that had all of them would say it.
pub(crate) fn judge_reserve(
    reserve: &Reserve,
    groups: &[Group],
    answers: &BTreeMap<ShardId, GroupAnswer>,
    nowhere: impl Fn(&SkuId) -> WarehouseId,
) -> GroupAnswer {
    let answer = |group: &Group| answers.get(&group.shard).unwrap_or(&Err(Refusal::Overloaded)).as_ref();
    let all: Vec<Answered<'_>> = groups.iter().map(|group| (group, answer(group))).collect();
    if let Some(refusal) = all.iter().find_map(|(_, answer)| answer.err().filter(|r| is_transient(r))) {
        return Err(told(refusal));
    }
    let ends_it = |refusal: &Refusal| match refusal {
        Refusal::UnknownSku { .. } | Refusal::InvalidField(_) => true,
        Refusal::SkuSuspended { .. } => reserve.mode == Mode::AllOrNothing,
        _ => false,
    };
    // Each group names its first line that is refused so; the first of them all counts.
    let first = all.iter().filter_map(|(group, answer)| {
        let refusal = answer.err().filter(|refusal| ends_it(refusal))?;
        Some((line_of(group, reserve, refusal), refusal))
    });
    if let Some((_, refusal)) = first.min_by_key(|(line, _)| *line) {
        return Err(refusal.clone());
    }
    let is_short = all.iter().any(|(_, answer)| answer.is_err());
    let nothing = all.iter().all(|(_, answer)| answer.is_err());
    if nothing || (is_short && reserve.mode == Mode::AllOrNothing) {
        let suspended = |answer: &Result<_, &Refusal>| matches!(answer, Err(Refusal::SkuSuspended { .. }));
        if let Some((_, Err(refusal))) = all.first()
            && all.iter().all(|(_, answer)| suspended(answer))
        {
            return Err((*refusal).clone());
        }
        return Err(Refusal::InsufficientStock { lines: short_lines(reserve, &all) });
    }
    let lines = held_lines(reserve, &all, nowhere);
    // Open lines were cut into pieces, each group by itself.
    if lines.len() <= MAX_ORDER_LINES { Ok(lines) } else { Err(too_many_stocks()) }
}

type Answered<'a> = (&'a Group, Result<&'a SmallVec<[ReservedLine; 1]>, &'a Refusal>);

/// The line of the request that a refusal is about.
fn line_of(group: &Group, reserve: &Reserve, refusal: &Refusal) -> usize {
    let lines = reserve.lines.as_slice();
    let named = match refusal {
        Refusal::UnknownSku { sku_id, warehouse_id } => Some((sku_id, *warehouse_id)),
        Refusal::SkuSuspended { sku_id, warehouse_id } => Some((sku_id, Some(*warehouse_id))),
        _ => None,
    };
    let of_sku = |index: &&usize| named.is_some_and(|(sku_id, _)| lines[**index].sku_id == *sku_id);
    let exact = |index: &&usize| {
        named.is_some_and(|(sku_id, warehouse_id)| {
            lines[**index].sku_id == *sku_id && Some(lines[**index].warehouse_id) == warehouse_id
        })
    };
    let indexes = || group.indexes.iter();
    let found = indexes().find(exact).or_else(|| indexes().find(of_sku)).or_else(|| indexes().next());
    found.copied().unwrap_or(0)
}

/// Where a stock stands in the request: its own line, or the open one of its SKU.
fn index_of(group: &Group, reserve: &Reserve, sku_id: &SkuId, warehouse_id: WarehouseId) -> usize {
    let lines = reserve.lines.as_slice();
    let is_open = |index: usize| reserve.choice.as_deref().is_some_and(|choice| choice.is_open(index));
    let indexes = || group.indexes.iter().copied().filter(|index| lines[*index].sku_id == *sku_id);
    // What was chosen stands together, where the first line of its SKU does.
    if indexes().any(is_open) && warehouse_id != WarehouseId::ANY {
        return indexes().next().unwrap_or(0);
    }
    let exact = indexes().find(|index| lines[*index].warehouse_id == warehouse_id);
    exact.or_else(|| indexes().next()).unwrap_or(0)
}

/// Everything that is short, in the order of the request.
fn short_lines(reserve: &Reserve, all: &[Answered<'_>]) -> Vec<ShortLine> {
    let mut short: BTreeMap<usize, Vec<ShortLine>> = BTreeMap::new();
    for (group, answer) in all {
        match answer {
            Err(Refusal::InsufficientStock { lines }) => {
                for line in lines {
                    let named = group.indexes.iter().find(|index| {
                        let known = &reserve.lines.as_slice()[**index];
                        known.sku_id == line.sku_id && known.warehouse_id == line.warehouse_id
                    });
                    let index = named.copied();
                    let index =
                        index.unwrap_or_else(|| index_of(group, reserve, &line.sku_id, line.warehouse_id));
                    short.entry(index).or_default().push(line.clone());
                }
            }
            // Of a suspended SKU nothing can be held, however much there is.
            Err(_) => {
                for index in &group.indexes {
                    let line = &reserve.lines.as_slice()[*index];
                    short.entry(*index).or_default().push(short_line(line, 0));
                }
            }
            Ok(_) => {}
        }
    }
    short.into_values().flatten().collect()
}

fn short_line(line: &Line, available: u64) -> ShortLine {
    ShortLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        requested: u64::from(line.quantity),
        available,
    }
}

/// What is held, in the order of the request; with the warehouses that were chosen.
/// `nowhere`: where an open line is said to be that got nothing.
fn held_lines(
    reserve: &Reserve,
    all: &[Answered<'_>],
    nowhere: impl Fn(&SkuId) -> WarehouseId,
) -> SmallVec<[ReservedLine; 1]> {
    let mut held: BTreeMap<usize, Vec<ReservedLine>> = BTreeMap::new();
    let place = |line: &Line| match line.warehouse_id {
        WarehouseId::ANY => nowhere(&line.sku_id),
        named => named,
    };
    let nothing = |line: &Line| ReservedLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: place(line),
        quantity: line.quantity,
        held: 0,
        after: None,
    };
    for (group, answer) in all {
        match answer {
            Ok(got) => {
                for line in got.iter() {
                    let index = index_of(group, reserve, &line.sku_id, line.warehouse_id);
                    held.entry(index).or_default().push(line.clone());
                }
            }
            // Best effort that got nothing of this group: of open lines the refusal names where they were looked for.
            Err(Refusal::InsufficientStock { lines }) => {
                for line in lines {
                    let index = index_of(group, reserve, &line.sku_id, line.warehouse_id);
                    held.entry(index).or_default().push(nothing(&Line {
                        sku_id: line.sku_id.clone(),
                        warehouse_id: line.warehouse_id,
                        quantity: u32::try_from(line.requested).unwrap_or(u32::MAX),
                    }));
                }
            }
            Err(_) => {
                for index in &group.indexes {
                    held.entry(*index).or_default().push(nothing(&reserve.lines.as_slice()[*index]));
                }
            }
        }
    }
    let mut lines: SmallVec<[ReservedLine; 1]> = SmallVec::new();
    for line in held.into_values().flatten() {
        let is_it = |known: &&mut ReservedLine| {
            known.sku_id == line.sku_id && known.warehouse_id == line.warehouse_id
        };
        // Each stock stands in it once.
        match lines.iter_mut().find(is_it).filter(|_| line.held == 0) {
            Some(known) => known.quantity = known.quantity.saturating_add(line.quantity),
            None => lines.push(line),
        }
    }
    lines
}

/// What can be seen of a SKU without asking anybody.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// There is none.
    Absent,
    /// It can't be seen.
    Nothing,
    /// Its stocks, all of them.
    Stocks(Vec<StockView>),
    /// Stocks of it that are published. While it comes into memory or leaves it, that need not be all.
    Published(Vec<StockView>),
}

/// Why a reserve is refused, as far as that can be seen: an order that is plainly short, of a SKU that is not there or
/// is suspended, shall change nothing anywhere. `None`: whoever has the stocks has to say.
pub(crate) fn refused_at_sight(reserve: &Reserve, see: impl Fn(&SkuId) -> Seen) -> Option<Refusal> {
    let all_or_nothing = reserve.mode == Mode::AllOrNothing;
    let mut short = Vec::new();
    let (mut is_all_seen, mut suspended, mut is_any_free) = (true, 0, false);
    let lines = reserve.lines.as_slice();
    for (index, line) in lines.iter().enumerate() {
        let is_open = reserve.choice.as_deref().is_some_and(|choice| choice.is_open(index));
        let unknown = |warehouse_id| Refusal::UnknownSku { sku_id: line.sku_id.clone(), warehouse_id };
        let named = Some(line.warehouse_id).filter(|_| !is_open);
        let (stocks, are_all) = match see(&line.sku_id) {
            Seen::Absent => return Some(unknown(named)),
            Seen::Nothing => {
                is_all_seen = false;
                continue;
            }
            Seen::Stocks(stocks) => (stocks, true),
            Seen::Published(stocks) => (stocks, false),
        };
        let mine: Vec<&StockView> =
            stocks.iter().filter(|stock| named.is_none_or(|named| stock.warehouse_id == named)).collect();
        if mine.is_empty() && are_all {
            return Some(unknown(named));
        }
        if mine.is_empty() {
            is_all_seen = false;
            continue;
        }
        let on_sale = || mine.iter().filter(|stock| stock.status == StockStatus::OnSale);
        if on_sale().next().is_none() {
            suspended += 1;
            // Of an open line: whoever has the stocks says where.
            if all_or_nothing && is_open {
                return None;
            }
            if all_or_nothing {
                let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
                return Some(Refusal::SkuSuspended { sku_id, warehouse_id });
            }
        }
        // Named lines of the SKU take theirs first.
        let taken = |stock: &StockView| {
            let same = lines.iter().enumerate().filter(|(other, known)| {
                is_open
                    && *other != index
                    && known.sku_id == line.sku_id
                    && known.warehouse_id == stock.warehouse_id
            });
            same.map(|(_, known)| u64::from(known.quantity)).sum::<u64>().min(stock.levels.available)
        };
        let free: u64 = on_sale().map(|stock| stock.levels.available - taken(stock)).sum();
        is_any_free |= free > 0;
        if free < u64::from(line.quantity) && is_open && !are_all {
            is_all_seen = false;
        } else if free < u64::from(line.quantity) {
            short.push(short_line(line, free));
        }
    }
    if all_or_nothing {
        return (is_all_seen && !short.is_empty()).then_some(Refusal::InsufficientStock { lines: short });
    }
    if is_any_free || !is_all_seen || suspended == lines.len() {
        return None;
    }
    Some(Refusal::InsufficientStock { lines: short })
}

/// The units that a late payment needs and that are short, in their order, when some of this shard are (`here`).
pub(crate) fn short_at_sight(
    lines: &[Line],
    here: &[ShortLine],
    is_here: impl Fn(&SkuId) -> bool,
    see: impl Fn(&SkuId) -> Seen,
) -> Vec<ShortLine> {
    let short = |line: &Line| {
        if is_here(&line.sku_id) {
            let known = here
                .iter()
                .find(|known| known.sku_id == line.sku_id && known.warehouse_id == line.warehouse_id);
            return known.cloned();
        }
        let free = match see(&line.sku_id) {
            Seen::Absent => 0,
            Seen::Nothing => return None,
            Seen::Published(stocks) if stocks.iter().all(|stock| stock.warehouse_id != line.warehouse_id) => {
                return None;
            }
            Seen::Stocks(stocks) | Seen::Published(stocks) => stocks
                .iter()
                .find(|stock| stock.warehouse_id == line.warehouse_id)
                .filter(|stock| stock.status == StockStatus::OnSale)
                .map_or(0, |stock| stock.levels.available),
        };
        (free < u64::from(line.quantity)).then(|| short_line(line, free))
    };
    lines.iter().filter_map(short).collect()
}

/// Why units that have to be held first are not, for a late payment or a return; `None`: all are held. Want of stock is
/// [`Refusal::LatePaymentNoStock`].
pub(crate) fn judge_more(
    lines: &[Line],
    here: &[ShortLine],
    groups: &[Group],
    answers: &BTreeMap<ShardId, GroupAnswer>,
) -> Option<Refusal> {
    let answer = |group: &Group| answers.get(&group.shard).unwrap_or(&Err(Refusal::Overloaded)).as_ref();
    let mut short: BTreeSet<(usize, u64)> = BTreeSet::new();
    let at = |sku_id: &SkuId, warehouse_id: WarehouseId| {
        lines.iter().position(|line| line.sku_id == *sku_id && line.warehouse_id == warehouse_id)
    };
    for group in groups {
        let Err(refusal) = answer(group) else { continue };
        if is_transient(refusal) {
            return Some(told(refusal));
        }
        let of_group = group.reserve.lines.as_slice();
        match refusal {
            Refusal::InsufficientStock { lines: named } => {
                short
                    .extend(named.iter().filter_map(|l| Some((at(&l.sku_id, l.warehouse_id)?, l.available))));
            }
            _ => short.extend(of_group.iter().filter_map(|l| Some((at(&l.sku_id, l.warehouse_id)?, 0)))),
        }
    }
    if short.is_empty() {
        return None;
    }
    short.extend(here.iter().filter_map(|l| Some((at(&l.sku_id, l.warehouse_id)?, l.available))));
    let lines = short.into_iter().map(|(index, available)| short_line(&lines[index], available)).collect();
    Some(Refusal::LatePaymentNoStock { lines })
}
