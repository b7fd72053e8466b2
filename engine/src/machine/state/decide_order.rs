//! Decisions about orders: reserve, confirm, release, extend, expire, return. The rules of orders are about counts;
//! those of stocks ([`super::holds`]) check what is asked of this shard. What an order needs of other shards has to be
//! held there first ([`HoldFirst`]): then the same is decided again, with it.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::deadlines::due_through;
use super::decision::{Decided, Elsewhere, HoldFirst, Verdict};
use super::holds::sellable;
use super::order::{Foreseen, Order, OrderLine};
use super::shard_state::State;
use super::stock::Stock;
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, OrderNo, RequestId, ShardId, SkuId};
use crate::base::limits::{MAX_REQUESTS_PER_ORDER, MAX_WHOLE_RETURNS};
use crate::contract::command::{Confirm, Extend, Line, Lines, Part, Release, Reserve, Return};
use crate::contract::event::{Change, ConfirmedLine, MovedLine, ReservedLine};
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::order::{LineCounts, OrderRequest, Phase};
use crate::contract::outcome::{Refusal, ShortLine};
use crate::contract::units::{Delta, Levels};

/// What a partial request asks for; keeps the fingerprints of a confirm and a release of the same lines apart.
#[derive(Clone, Copy)]
enum Asked {
    Confirm = 1,
    Release = 2,
    Return = 3,
}

impl State {
    pub(crate) fn decide_reserve(&self, c: &Reserve) -> Decided {
        if let Some((_, order)) = self.orders.find(&c.order_no) {
            return match order.phase {
                Phase::Cancelled => Err(Refusal::OrderCancelled { order_no: c.order_no.clone() }),
                _ if self.is_same(order, c) => Ok(self.replay(order)),
                _ => Err(Refusal::OrderMismatch { order_no: c.order_no.clone() }),
            };
        }
        if !c.lines.as_slice().iter().all(|line| self.owns(&line.sku_id)) {
            let (purpose, lines, short) = (HoldPurpose::Units, Vec::new(), Vec::new());
            return Ok(Verdict::HoldFirst(Box::new(HoldFirst { purpose, lines, short })));
        }
        Ok(Verdict::Change(reserved(c, None, self.hold_lines(c)?)))
    }

    /// The order that a reserve makes when everything is held, here and in other shards by `attempt`.
    pub(crate) fn decide_reserved(
        &self,
        reserve: &Reserve,
        attempt: AttemptId,
        lines: SmallVec<[ReservedLine; 1]>,
    ) -> Change {
        reserved(reserve, Some(attempt), lines)
    }

    /// Whether a reserve asks for what the order was made from. The ttl does not count: who repeats a request may
    /// well send the time that is left.
    fn is_same(&self, order: &Order, c: &Reserve) -> bool {
        let lines = c.lines.as_slice();
        if order.mode != c.mode || order.buyer_id != c.buyer_id {
            return false;
        }
        if let Some(asked) = c.asked() {
            let is_it = |request: &OrderRequest| request.request_id.is_none() && request.fingerprint == asked;
            return order.requests().iter().any(is_it);
        }
        if order.lines.len() != lines.len() {
            return false;
        }
        let asked = lines
            .iter()
            .map(|line| Some((self.stocks.find(&line.sku_id, line.warehouse_id)?, line.quantity)));
        let Some(mut asked) = asked.collect::<Option<Vec<_>>>() else { return false };
        let mut known: Vec<_> = order.lines.iter().map(|line| (line.stock, line.quantity)).collect();
        asked.sort_unstable();
        known.sort_unstable();
        asked == known
    }

    pub(crate) fn decide_confirm(&self, c: &Confirm, elsewhere: Option<&Elsewhere>) -> Decided {
        let order = self.live_order(&c.order_no)?;
        let request = match self.part_request(order, c.part.as_ref(), Asked::Confirm)? {
            Identity::Known => return Ok(self.replay(order)),
            Identity::New(request) => request,
        };
        let mut lines = Vec::new();
        let mut short = Vec::new();
        for wanted in self.wanted(order, c.part.as_ref().map(|part| &part.lines), |line| {
            // All of it: what is held, or if nothing is, what a late payment may take again.
            if order.is_open() { line.held } else { line.lapsed }
        })? {
            let line = &order.lines[wanted.index()];
            let held = wanted.quantity.min(line.held);
            let late = wanted.quantity - held;
            if late > line.lapsed {
                short.push(self.short(line, wanted.quantity, line.held));
                continue;
            }
            lines.push((wanted, held, late));
        }
        if !short.is_empty() {
            return Err(Refusal::ExceedsHold { lines: short });
        }
        if lines.is_empty() {
            return Ok(self.replay(order));
        }
        let late = lines.iter().filter(|(_, _, late)| *late > 0);
        let late: Vec<_> = late.map(|(wanted, _, late)| (wanted.line, *late)).collect();
        let attempt = match self.needed_elsewhere(order, &late, elsewhere) {
            Needed::Nothing => None,
            Needed::Held(attempt) => Some(attempt),
            Needed::First(lines) => {
                let late = late.iter().map(|(line, late)| (&order.lines[usize::from(*line)], *late));
                let short = self.short_of_late(late);
                let purpose = HoldPurpose::Units;
                return Ok(Verdict::HoldFirst(Box::new(HoldFirst { purpose, lines, short })));
            }
        };
        let mut foreseen = order.foresee();
        let sold = lines.iter().map(|(wanted, held, late)| (wanted.line, *held, *late));
        foreseen.counts_mut().sell(sold).expect("the lines were looked at");
        let sold = lines.iter().map(|(wanted, held, late)| (wanted.line, held + late));
        foreseen.decide_elsewhere(attempt, HoldMove::Sold, None, self.elsewhere_of(order, sold));
        let lines = self.sell(order, &lines, &foreseen)?;
        let serials = lines.iter().filter(|line| line.serial.is_some()).count();
        let after = foreseen.after(order, usize::from(request.is_some()), serials);
        let order_no = c.order_no.clone();
        Ok(Verdict::Change(Change::Confirmed { order_no, request, attempt, lines, after }))
    }

    /// Units of an order that lie in other shards, with the shard of each.
    fn elsewhere_of(
        &self,
        order: &Order,
        lines: impl Iterator<Item = (u16, u32)>,
    ) -> Vec<(u16, u32, ShardId)> {
        if order.span().is_none() {
            return Vec::new();
        }
        let of_line = |(line, units): (u16, u32)| {
            let stock = self.stocks.get(order.lines[usize::from(line)].stock);
            (stock.foreign && units > 0).then(|| (line, units, self.stocks.shard_of(&stock.sku_id)))
        };
        lines.filter_map(of_line).collect()
    }

    /// Whether units that a command needs of other shards are held there.
    fn needed_elsewhere(
        &self,
        order: &Order,
        needed: &[(u16, u32)],
        elsewhere: Option<&Elsewhere>,
    ) -> Needed {
        if self.elsewhere_of(order, needed.iter().copied()).is_empty() {
            return Needed::Nothing;
        }
        let line = |(line, units): &(u16, u32)| {
            let stock = self.stocks.get(order.lines[usize::from(*line)].stock);
            let (sku_id, warehouse_id) = (stock.sku_id.clone(), stock.warehouse_id);
            (stock.foreign, Line { sku_id, warehouse_id, quantity: *units })
        };
        let lines: Vec<(bool, Line)> = needed.iter().map(line).collect();
        let is_held = |elsewhere: &&Elsewhere| {
            elsewhere.lines.iter().eq(lines.iter().filter(|(foreign, _)| *foreign).map(|(_, line)| line))
        };
        match elsewhere.filter(is_held) {
            Some(elsewhere) => Needed::Held(elsewhere.attempt),
            None => Needed::First(lines.into_iter().map(|(_, line)| line).collect()),
        }
    }

    /// Lines of a late payment whose stocks are here and have not enough.
    fn short_of_late<'a>(&self, late: impl Iterator<Item = (&'a OrderLine, u32)>) -> Vec<ShortLine> {
        let short = |(line, late): (&OrderLine, u32)| {
            let stock = self.stocks.get(line.stock);
            // A suspended SKU takes no new holds, and a late payment is one.
            let free = sellable(stock).unwrap_or(0);
            let is_short = !stock.foreign && u64::from(late) > free;
            is_short.then(|| ShortLine { available: free, ..self.short(line, late, 0) })
        };
        late.filter_map(short).collect()
    }

    /// The confirmed lines with their levels, or that a late payment finds no stock.
    fn sell(
        &self,
        order: &Order,
        lines: &[(Wanted, u32, u32)],
        foreseen: &Foreseen,
    ) -> Result<SmallVec<[ConfirmedLine; 1]>, Refusal> {
        let late = lines.iter().map(|(wanted, _, late)| (&order.lines[wanted.index()], *late));
        let short = self.short_of_late(late);
        if !short.is_empty() {
            return Err(Refusal::LatePaymentNoStock { lines: short });
        }
        // Of SKUs that number their units: the number of the next.
        let mut serials = BTreeMap::<&SkuId, u64>::new();
        let mut sell = |(wanted, held, late): &(Wanted, u32, u32)| {
            let stock = self.stocks.get(order.lines[wanted.index()].stock);
            let serial = stock.numbered.map(|_| {
                let next =
                    serials.entry(&stock.sku_id).or_insert_with(|| self.stocks.next_serial(&stock.sku_id));
                let after = next.saturating_add(u64::from(*held)).saturating_add(u64::from(*late));
                std::mem::replace(next, after)
            });
            ConfirmedLine {
                line: wanted.line,
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                held: *held,
                late: *late,
                after: levels_after(stock, Delta::sell(*held, *late)),
                counts: foreseen.line(wanted.line),
                serial,
            }
        };
        Ok(lines.iter().map(&mut sell).collect())
    }

    pub(super) fn decide_release(&self, c: &Release) -> Decided {
        let Some((_, order)) = self.orders.find(&c.order_no) else {
            // A part of an order that is not known can't be a tombstone for the whole of it.
            if c.part.is_some() {
                return Err(Refusal::UnknownOrder { order_no: c.order_no.clone() });
            }
            let reason = c.reason.clone();
            return Ok(Verdict::Change(Change::Cancelled { order_no: c.order_no.clone(), reason }));
        };
        if order.phase == Phase::Cancelled {
            return Ok(self.replay(order));
        }
        let request = match self.part_request(order, c.part.as_ref(), Asked::Release)? {
            Identity::Known => return Ok(self.replay(order)),
            Identity::New(request) => request,
        };
        if !order.is_open() {
            // Everything is given back or sold; only a sale is something that a release can't mean.
            return match order.phase {
                Phase::Open => Err(Refusal::AlreadyConfirmed { order_no: c.order_no.clone() }),
                _ => Ok(self.replay(order)),
            };
        }
        let wanted = self.wanted(order, c.part.as_ref().map(|part| &part.lines), |line| line.held)?;
        let mut foreseen = order.foresee();
        let lines = self.moved(order, &wanted, |line| line.held, Delta::unhold);
        let mut lines = lines.map_err(|lines| Refusal::ExceedsHold { lines })?;
        foreseen.counts_mut().release(quantities(&lines), request.is_none()).expect("it holds that much");
        let elsewhere = self.elsewhere_of(order, quantities(&lines));
        foreseen.decide_elsewhere(None, HoldMove::Released, c.reason.as_ref(), elsewhere);
        count(&mut lines, &foreseen);
        if request.is_some() {
            lines.extend(self.recounted(order, &foreseen, &wanted));
        }
        let after = foreseen.after(order, usize::from(request.is_some()), 0);
        Ok(Verdict::Change(Change::Released {
            order_no: c.order_no.clone(),
            request,
            reason: c.reason.clone(),
            lines,
            after,
        }))
    }

    pub(super) fn decide_extend(&self, c: &Extend) -> Decided {
        let order = self.live_order(&c.order_no)?;
        if !order.is_open() {
            return Err(Refusal::OrderEnded { order_no: c.order_no.clone() });
        }
        Ok(Verdict::Change(Change::Extended { order_no: c.order_no.clone(), ttl_seconds: c.ttl_seconds }))
    }

    pub(super) fn decide_return(&self, c: &Return, elsewhere: Option<&Elsewhere>) -> Decided {
        let order = self.live_order(&c.order_no)?;
        let returnable = |line: &OrderLine| line.confirmed - line.returned;
        let request = match identify(order, Some(&c.request_id), c.lines.as_ref(), Asked::Return)? {
            Identity::Known => return Ok(self.replay(order)),
            Identity::New(request) => request.expect("a return has an id"),
        };
        let wanted = self.wanted(order, c.lines.as_ref(), returnable);
        let wanted = wanted.map_err(|refusal| match refusal {
            Refusal::ExceedsHold { lines } => Refusal::NothingToReturn { lines },
            other => other,
        })?;
        if wanted.is_empty() {
            let lines = order.lines.iter().map(|line| self.short(line, line.quantity, 0)).collect();
            return Err(Refusal::NothingToReturn { lines });
        }
        let lines = self.moved(order, &wanted, returnable, Delta::give_back);
        let mut lines = lines.map_err(|lines| Refusal::NothingToReturn { lines })?;
        let needed: Vec<_> = quantities(&lines).collect();
        let attempt = match self.needed_elsewhere(order, &needed, elsewhere) {
            Needed::Nothing => None,
            Needed::Held(attempt) => Some(attempt),
            Needed::First(lines) => {
                let (purpose, short) = (HoldPurpose::Return, Vec::new());
                return Ok(Verdict::HoldFirst(Box::new(HoldFirst { purpose, lines, short })));
            }
        };
        let mut foreseen = order.foresee();
        foreseen.counts_mut().take_back(quantities(&lines)).expect("it was sold that much");
        let elsewhere = self.elsewhere_of(order, quantities(&lines));
        foreseen.decide_elsewhere(attempt, HoldMove::Returned, None, elsewhere);
        count(&mut lines, &foreseen);
        let after = foreseen.after(order, 1, 0);
        let order_no = c.order_no.clone();
        Ok(Verdict::Change(Change::Returned { order_no, request, attempt, lines, after }))
    }

    pub(super) fn expire(&self, order: &Order) -> Change {
        let all = every(order, |line| line.held);
        let lines = self.moved(order, &all, |line| line.held, Delta::unhold);
        let mut lines = lines.expect("an order holds what it holds");
        let mut foreseen = order.foresee();
        foreseen.counts_mut().expire(quantities(&lines)).expect("all that it holds goes");
        let elsewhere = self.elsewhere_of(order, quantities(&lines));
        foreseen.decide_elsewhere(None, HoldMove::Expired, None, elsewhere);
        count(&mut lines, &foreseen);
        let after = foreseen.after(order, 0, 0);
        Change::Expired { order_no: order.order_no.clone(), lines, after }
    }

    /// An order whose time is not over is left as it is.
    pub(crate) fn decide_expire(&self, order_no: &OrderNo, now: Timestamp) -> Decided {
        let (_, order) = self.known_order(order_no)?;
        let over = order.expires_at <= due_through(now);
        Ok(if order.is_open() && over { Verdict::Change(self.expire(order)) } else { self.replay(order) })
    }

    /// An order that was really reserved once.
    fn live_order(&self, order_no: &OrderNo) -> Result<&Order, Refusal> {
        let (_, order) = self.known_order(order_no)?;
        match order.phase {
            Phase::Cancelled => Err(Refusal::OrderCancelled { order_no: order_no.clone() }),
            _ => Ok(order),
        }
    }

    fn part_request(&self, order: &Order, part: Option<&Part>, asked: Asked) -> Result<Identity, Refusal> {
        match part {
            None => Ok(Identity::New(None)),
            Some(part) => identify(order, part.request_id.as_ref(), Some(&part.lines), asked),
        }
    }

    /// The lines of the order that a request means, with quantities: the named ones, or `all` of each.
    fn wanted(
        &self,
        order: &Order,
        lines: Option<&Lines>,
        all: impl Fn(&OrderLine) -> u32,
    ) -> Result<Vec<Wanted>, Refusal> {
        let Some(lines) = lines else { return Ok(every(order, all)) };
        let mut wanted = Vec::with_capacity(lines.as_slice().len());
        let mut short = Vec::new();
        for line in lines.as_slice() {
            let stock = self.stocks.find(&line.sku_id, line.warehouse_id);
            match order.lines.iter().position(|known| Some(known.stock) == stock) {
                Some(index) => wanted.push(Wanted::new(index, line.quantity)),
                None => short.push(ShortLine {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    requested: u64::from(line.quantity),
                    available: 0,
                }),
            }
        }
        if short.is_empty() { Ok(wanted) } else { Err(Refusal::ExceedsHold { lines: short }) }
    }

    /// The lines with the levels after units moved back to available (their counts are still to be filled in), or
    /// those that ask for more than there is.
    fn moved(
        &self,
        order: &Order,
        wanted: &[Wanted],
        there_is: impl Fn(&OrderLine) -> u32,
        delta: impl Fn(u32) -> Delta,
    ) -> Result<SmallVec<[MovedLine; 1]>, Vec<ShortLine>> {
        let mut short = Vec::new();
        let mut moved = SmallVec::with_capacity(wanted.len());
        for wanted in wanted {
            let line = &order.lines[wanted.index()];
            let stock = self.stocks.get(line.stock);
            if wanted.quantity > there_is(line) {
                short.push(self.short(line, wanted.quantity, there_is(line)));
                continue;
            }
            moved.push(MovedLine {
                line: wanted.line,
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: wanted.quantity,
                after: levels_after(stock, delta(wanted.quantity)),
                counts: LineCounts::default(),
            });
        }
        if short.is_empty() { Ok(moved) } else { Err(short) }
    }

    /// Lines that move nothing and are counted otherwise afterwards. An event names them too, because the rows of the
    /// store follow from it.
    fn recounted(&self, order: &Order, foreseen: &Foreseen, wanted: &[Wanted]) -> Vec<MovedLine> {
        let lines = (0..).zip(&order.lines);
        let changed = lines.filter(|(index, line)| foreseen.line(*index) != line.counts());
        // The usual order has one line, which moves.
        let moves = |index: u16| wanted.iter().any(|wanted| wanted.line == index);
        let as_it_is = |(index, line): (u16, &OrderLine)| {
            let stock = self.stocks.get(line.stock);
            MovedLine {
                line: index,
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: 0,
                after: (!stock.foreign).then_some(stock.levels),
                counts: foreseen.line(index),
            }
        };
        changed.filter(|(index, _)| !moves(*index)).map(as_it_is).collect()
    }

    fn short(&self, line: &OrderLine, requested: u32, available: u32) -> ShortLine {
        let stock = self.stocks.get(line.stock);
        ShortLine {
            sku_id: stock.sku_id.clone(),
            warehouse_id: stock.warehouse_id,
            requested: u64::from(requested),
            available: u64::from(available),
        }
    }
}

/// See [`State::needed_elsewhere`].
enum Needed {
    /// No units of other shards are needed.
    Nothing,
    /// All of them are held.
    Held(AttemptId),
    /// They are to be held first; with those of this shard.
    First(Vec<Line>),
}

/// The order that a reserve makes; `attempt`: what holds its units in other shards.
pub(super) fn reserved(
    c: &Reserve,
    attempt: Option<AttemptId>,
    lines: SmallVec<[ReservedLine; 1]>,
) -> Change {
    Change::Reserved {
        order_no: c.order_no.clone(),
        buyer_id: c.buyer_id.clone(),
        mode: c.mode,
        ttl_seconds: c.ttl_seconds,
        asked: c.asked(),
        attempt,
        lines,
    }
}

/// The levels of a stock after units of an order moved; `None`: it is in another shard.
fn levels_after(stock: &Stock, delta: Delta) -> Option<Levels> {
    let after = || stock.levels.after(delta).expect("units of an order are in its stock");
    (!stock.foreign).then(after)
}

/// A line of an order and how much of it a request means.
#[derive(Clone, Copy)]
struct Wanted {
    line: u16,
    quantity: u32,
}

impl Wanted {
    fn new(index: usize, quantity: u32) -> Self {
        Self { line: u16::try_from(index).expect("an order has at most 1,000 lines"), quantity }
    }

    fn index(self) -> usize {
        usize::from(self.line)
    }
}

/// The lines that move, with their units.
fn quantities(lines: &[MovedLine]) -> impl Iterator<Item = (u16, u32)> {
    lines.iter().map(|line| (line.line, line.quantity))
}

/// Fills in the counts of the lines after they moved.
fn count(lines: &mut [MovedLine], foreseen: &Foreseen) {
    lines.iter_mut().for_each(|line| line.counts = foreseen.line(line.line));
}

/// Every line of which `count` is not 0.
fn every(order: &Order, count: impl Fn(&OrderLine) -> u32) -> Vec<Wanted> {
    let lines = order.lines.iter().enumerate();
    lines.map(|(index, line)| Wanted::new(index, count(line))).filter(|wanted| wanted.quantity > 0).collect()
}

/// Whether an order has seen a partial request before.
enum Identity {
    Known,
    /// How it is remembered; `None` for a whole one, which the state of the order makes repeatable.
    New(Option<OrderRequest>),
}

fn identify(
    order: &Order,
    request_id: Option<&RequestId>,
    lines: Option<&Lines>,
    asked: Asked,
) -> Result<Identity, Refusal> {
    let content = lines.map_or(0, Lines::fingerprint);
    let fingerprint = xxhash_rust::xxh3::xxh3_64_with_seed(&content.to_le_bytes(), asked as u64);
    let known = order.requests();
    // What returns all that is left is never one too many.
    let is_beyond = matches!(asked, Asked::Return) && lines.is_none();
    let most = MAX_REQUESTS_PER_ORDER + if is_beyond { MAX_WHOLE_RETURNS } else { 0 };
    let same_id = |request: &&OrderRequest| match request_id {
        Some(_) => request.request_id.as_ref() == request_id,
        None => request.request_id.is_none() && request.fingerprint == fingerprint,
    };
    match known.iter().find(same_id) {
        Some(request) if request.fingerprint == fingerprint => Ok(Identity::Known),
        Some(_) => Err(Refusal::RequestMismatch),
        None if known.len() >= most => Err(Refusal::TooManyRequests { order_no: order.order_no.clone() }),
        None => Ok(Identity::New(Some(OrderRequest { request_id: request_id.cloned(), fingerprint }))),
    }
}
