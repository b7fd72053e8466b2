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
    // Where lines are open, it is looked first whether the stocks are there that the others name.
    let is_named = |refusal: &Refusal| {
        reserve.choice.is_some() && matches!(refusal, Refusal::UnknownSku { warehouse_id: Some(_), .. })
    };
    if let Some((_, refusal)) = first.min_by_key(|(line, refusal)| (!is_named(refusal), *line)) {
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

/// What can be seen of a SKU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// Nobody said anything of it yet.
    Nothing,
    /// Its stocks, all of them; none when there is no such SKU.
    Stocks(Vec<StockView>),
    /// Stocks of it that are published. While it comes into memory or leaves it, that need not be all.
    Published(Vec<StockView>),
}

impl Seen {
    /// As many of its stocks as were seen.
    pub(super) fn stocks(self) -> Vec<StockView> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Stocks(stocks) | Self::Published(stocks) => stocks,
        }
    }
}

/// A line of a reserve, with the stocks that it may be of.
struct Sight<'a> {
    line: &'a Line,
    is_open: bool,
    stocks: Vec<StockView>,
    /// There are no others.
    is_all: bool,
    /// What it can have of them. Lines of its SKU that name a warehouse take theirs first.
    free: u64,
}

impl Sight<'_> {
    fn of<'a>(reserve: &'a Reserve, see: &impl Fn(&SkuId) -> Seen) -> Vec<Sight<'a>> {
        let lines = reserve.lines.as_slice();
        let is_open = |index: usize| reserve.choice.as_deref().is_some_and(|choice| choice.is_open(index));
        let named = |stock: &StockView| {
            let lines = lines.iter().enumerate().filter(|(index, line)| {
                !is_open(*index) && line.sku_id == stock.sku_id && line.warehouse_id == stock.warehouse_id
            });
            lines.map(|(_, line)| u64::from(line.quantity)).sum::<u64>()
        };
        let sight = |(index, line): (usize, &'a Line)| {
            let is_open = is_open(index);
            let (mut stocks, is_all) = match see(&line.sku_id) {
                Seen::Nothing => (Vec::new(), false),
                Seen::Stocks(stocks) => (stocks, true),
                Seen::Published(stocks) => (stocks, false),
            };
            stocks.retain(|stock| is_open || stock.warehouse_id == line.warehouse_id);
            let on_sale = stocks.iter().filter(|stock| stock.status == StockStatus::OnSale);
            let taken = |stock: &StockView| if is_open { named(stock) } else { 0 };
            let free = on_sale.map(|stock| stock.levels.available.saturating_sub(taken(stock))).sum();
            Sight { line, is_open, stocks, is_all, free }
        };
        lines.iter().enumerate().map(sight).collect()
    }

    /// Whether there is nothing to be said against it, or nothing more to be seen.
    fn is_clear(&self) -> bool {
        self.is_all || !(self.stocks.is_empty() || self.is_open && self.is_short())
    }

    fn unknown(&self) -> Refusal {
        let warehouse_id = (!self.is_open).then_some(self.line.warehouse_id);
        Refusal::UnknownSku { sku_id: self.line.sku_id.clone(), warehouse_id }
    }

    fn is_suspended(&self) -> bool {
        self.stocks.iter().all(|stock| stock.status == StockStatus::Suspended)
    }

    fn suspended(&self, reserve: &Reserve) -> Refusal {
        let place = first_place(reserve, &self.stocks);
        let warehouse_id = if self.is_open { place } else { self.line.warehouse_id };
        Refusal::SkuSuspended { sku_id: self.line.sku_id.clone(), warehouse_id }
    }

    fn is_short(&self) -> bool {
        self.free < u64::from(self.line.quantity)
    }

    fn short(&self) -> ShortLine {
        short_line(self.line, self.free)
    }
}

/// What can be said of a reserve before anything is held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Nothing stands against it.
    Hold,
    /// As one shard that had all lines would say it.
    Refused(Refusal),
    /// It may be refused for what can't be seen of these SKUs. Where they can't be asked for, whoever is to hold them
    /// has to say.
    Unclear(Vec<SkuId>),
}

/// Judges a reserve at sight: an order that is plainly short, of a SKU that is not there or is suspended, shall change
/// nothing anywhere.
pub(crate) fn judge_at_sight(reserve: &Reserve, see: impl Fn(&SkuId) -> Seen) -> Verdict {
    let lines = Sight::of(reserve, &see);
    if !lines.iter().all(Sight::is_clear) {
        let unclear = lines.iter().filter(|line| !line.is_clear());
        return Verdict::Unclear(unclear.map(|line| line.line.sku_id.clone()).collect());
    }
    refused_at_sight(reserve, &lines).map_or(Verdict::Hold, Verdict::Refused)
}

fn refused_at_sight(reserve: &Reserve, lines: &[Sight<'_>]) -> Option<Refusal> {
    // Where lines are open, it is looked first whether the stocks are there that the others name.
    let has_choice = reserve.choice.is_some();
    if let Some(line) = lines.iter().find(|line| has_choice && line.stocks.is_empty() && !line.is_open) {
        return Some(line.unknown());
    }
    let all_or_nothing = reserve.mode == Mode::AllOrNothing;
    for line in lines {
        if line.stocks.is_empty() {
            return Some(line.unknown());
        }
        if all_or_nothing && line.is_suspended() {
            return Some(line.suspended(reserve));
        }
    }
    let is_refused = match all_or_nothing {
        true => lines.iter().any(Sight::is_short),
        false => lines.iter().all(|line| line.free == 0),
    };
    match lines.first() {
        _ if !is_refused => None,
        Some(first) if lines.iter().all(Sight::is_suspended) => Some(first.suspended(reserve)),
        _ => {
            let short = lines.iter().filter(|line| line.is_short()).map(Sight::short);
            Some(Refusal::InsufficientStock { lines: short.collect() })
        }
    }
}

/// Where an open line is said to be that got nothing: as one shard says it, the first that is preferred, or the first.
pub(super) fn first_place(reserve: &Reserve, stocks: &[StockView]) -> WarehouseId {
    let prefer = reserve.choice.as_deref().map_or(&[][..], |choice| &choice.prefer);
    let rank = |id: &WarehouseId| (prefer.iter().position(|known| known == id).unwrap_or(usize::MAX), *id);
    let first = stocks.iter().map(|stock| stock.warehouse_id).min_by_key(rank);
    first.or(prefer.first().copied()).unwrap_or(WarehouseId(1))
}

/// Likewise of the units that a late payment needs: all that are short, in their order. `here`: those of this shard.
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
