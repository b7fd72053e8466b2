//! Orders: what one holds, where it stands, and when each expires. One order may have units in several shards: its
//! counts are here, what lies elsewhere is held there for it ([`Span`]).

use smallvec::SmallVec;

use super::deadlines::{Deadlines, NO_DEADLINE, TAKEN};
use super::stock::Stocks;
use super::table::{Keyed, Room, Table};
use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, BuyerId, Lsn, OrderNo, Reason, ShardId};
use crate::contract::command::Mode;
use crate::contract::event::OrderAfter;
use crate::contract::hold::HoldMove;
use crate::contract::image::{Decision, LineImage, LineSerials, OrderImage, Span};
use crate::contract::order::{LineCounts, OrderRequest, OrderStatus, Phase};
use crate::contract::outcome::{LineView, OrderView};
use crate::contract::units::Serials;

/// An order in memory: about 140 bytes with one line.
#[derive(Debug, Clone)]
pub struct Order {
    pub order_no: OrderNo,
    pub buyer_id: Option<BuyerId>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub changed_at: Timestamp,
    /// Its last change.
    pub lsn: Lsn,
    pub lines: SmallVec<[OrderLine; 1]>,
    /// What few orders have: 8 bytes in every order that has none of it.
    pub extras: Option<Box<Extras>>,
    pub mode: Mode,
    pub phase: Phase,
    /// Its index in the list of its deadline; [`NO_DEADLINE`]: it holds nothing; or [`TAKEN`].
    deadline_index: u32,
}

/// What few orders have.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Partial requests that it answered.
    pub requests: Vec<OrderRequest>,
    /// Serial numbers that its lines got, as they came.
    pub serials: Vec<LineSerials>,
    /// Of an order over several shards.
    pub span: Option<Box<Span>>,
}

/// A line of an order. held + confirmed + released = the units that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderLine {
    /// The number of the stock.
    pub stock: u32,
    /// Units asked for.
    pub quantity: u32,
    pub held: u32,
    pub confirmed: u32,
    pub released: u32,
    pub returned: u32,
    /// Those of `released` that went back when the whole order ended; a late payment takes them again.
    pub lapsed: u32,
    /// Its index among the lines that lie on the stock.
    pub index: u32,
}

impl From<&LineImage> for OrderLine {
    /// The stock and the index there are still to be filled in.
    fn from(image: &LineImage) -> Self {
        Self {
            stock: 0,
            quantity: image.quantity,
            held: image.held,
            confirmed: image.confirmed,
            released: image.released,
            returned: image.returned,
            lapsed: image.lapsed,
            index: 0,
        }
    }
}

impl OrderLine {
    /// What became of its units.
    pub fn counts(&self) -> LineCounts {
        let Self { held, confirmed, released, returned, lapsed, .. } = *self;
        LineCounts { held, confirmed, released, returned, lapsed }
    }

    /// Units sold and not returned.
    pub fn net_sold(&self) -> u64 {
        u64::from(self.confirmed.saturating_sub(self.returned))
    }
}

impl Keyed for Order {
    type Key = OrderNo;

    fn key(&self) -> &OrderNo {
        &self.order_no
    }
}

impl Order {
    pub fn new(order_no: OrderNo, at: Timestamp, lsn: Lsn) -> Self {
        Self {
            order_no,
            buyer_id: None,
            created_at: at,
            expires_at: at,
            changed_at: at,
            lsn,
            lines: SmallVec::new(),
            extras: None,
            mode: Mode::AllOrNothing,
            phase: Phase::Open,
            deadline_index: NO_DEADLINE,
        }
    }

    /// The order of an image, as if an event at `lsn` had made it; `stocks` are the numbers of the stocks of its lines.
    pub fn of_image(image: OrderImage, lsn: Lsn, stocks: &[u32]) -> Self {
        let mut order = Self::new(image.order_no, image.created_at, lsn);
        order.buyer_id = image.buyer_id;
        order.mode = image.mode;
        order.phase = image.phase;
        order.expires_at = image.expires_at;
        order.changed_at = image.changed_at;
        let lines = image.lines.iter().zip(stocks);
        order.lines =
            lines.map(|(line, stock)| OrderLine { stock: *stock, ..OrderLine::from(line) }).collect();
        let extras = Extras { requests: image.requests, serials: image.serials, span: image.span };
        let is_plain = extras.requests.is_empty() && extras.serials.is_empty() && extras.span.is_none();
        order.extras = (!is_plain).then(|| Box::new(extras));
        order
    }

    /// Its counts, to be changed.
    pub fn counts_mut(&mut self) -> Counts<'_> {
        Counts { phase: &mut self.phase, lines: &mut self.lines }
    }

    /// A copy of its counts, to see what a change would make of them.
    pub fn foresee(&self) -> Foreseen {
        Foreseen { phase: self.phase, lines: self.lines.clone(), span: self.span().cloned() }
    }

    /// What events tell of it beside the lines that change, after them.
    pub fn after(&self) -> OrderAfter {
        let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (requests, serials) = (many(self.requests().len()), many(self.serials().len()));
        let (open, span) = (!self.is_done(), self.span().cloned().map(Box::new));
        OrderAfter { phase: self.phase, status: self.status(), open, requests, serials, span }
    }

    /// What is kept of it beside the counts, if it lies in several shards.
    pub fn span(&self) -> Option<&Span> {
        self.extras.as_ref()?.span.as_deref()
    }

    /// Whether nothing happens any more unless a caller asks for it: it holds nothing, and its participants know.
    pub fn is_done(&self) -> bool {
        !self.is_open() && self.span().is_none_or(|span| span.pending.is_empty())
    }

    /// A decision about units that lie elsewhere is noted, until the participants have carried it out. `None`: the
    /// order does not lie in several shards.
    pub fn decide_elsewhere(
        &mut self,
        attempt: Option<AttemptId>,
        kind: HoldMove,
        reason: Option<&Reason>,
        lines: Vec<(u16, u32, ShardId)>,
    ) -> Option<()> {
        if lines.is_empty() {
            return Some(());
        }
        let span = self.extras.as_mut()?.span.as_deref_mut()?;
        decide(span, attempt, kind, reason, lines);
        Some(())
    }

    /// Partial requests that it answered.
    pub fn requests(&self) -> &[OrderRequest] {
        self.extras.as_ref().map_or(&[], |extras| &extras.requests)
    }

    /// Serial numbers that its lines got, as they came.
    pub fn serials(&self) -> &[LineSerials] {
        self.extras.as_ref().map_or(&[], |extras| &extras.serials)
    }

    /// What few orders have, to add to it.
    pub fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Whether it holds units.
    pub fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }

    pub fn status(&self) -> OrderStatus {
        status_of(self.phase, &self.lines)
    }

    pub fn view(&self, stocks: &Stocks) -> OrderView {
        let line_view = |line: &OrderLine| {
            let stock = stocks.get(line.stock);
            LineView {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                serials: None,
            }
        };
        let mut view = OrderView {
            order_no: self.order_no.clone(),
            status: self.status(),
            created_at: self.created_at,
            expires_at: self.is_open().then_some(self.expires_at),
            lines: self.lines.iter().map(line_view).collect(),
        };
        if !self.serials().is_empty() {
            show_serials(&mut view.lines, self.serials());
        }
        view
    }

    pub fn image(&self, stocks: &Stocks) -> OrderImage {
        let line_image = |line: &OrderLine| {
            let stock = stocks.get(line.stock);
            LineImage {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                quantity: line.quantity,
                held: line.held,
                confirmed: line.confirmed,
                released: line.released,
                returned: line.returned,
                lapsed: line.lapsed,
            }
        };
        OrderImage {
            order_no: self.order_no.clone(),
            buyer_id: self.buyer_id.clone(),
            mode: self.mode,
            phase: self.phase,
            created_at: self.created_at,
            expires_at: self.expires_at,
            changed_at: self.changed_at,
            lsn: self.lsn,
            lines: self.lines.iter().map(line_image).collect(),
            requests: self.requests().to_vec(),
            serials: self.serials().to_vec(),
            span: self.span().cloned().map(Box::new),
        }
    }
}

/// Adds a decision about some lines, each with the shard where its units lie.
fn decide(
    span: &mut Span,
    attempt: Option<AttemptId>,
    kind: HoldMove,
    reason: Option<&Reason>,
    lines: Vec<(u16, u32, ShardId)>,
) {
    let mut waiting: Vec<ShardId> = lines.iter().map(|(_, _, shard)| *shard).collect();
    waiting.sort_unstable();
    waiting.dedup();
    let lines = lines.into_iter().map(|(line, units, _)| (line, units)).collect();
    // An order has a bounded number of requests, and each decides once.
    span.decisions = span.decisions.saturating_add(1);
    let (seq, attempt) = (span.decisions, attempt.unwrap_or(span.attempt));
    span.pending.push(Decision { seq, attempt, kind, reason: reason.cloned(), lines, waiting });
}

/// A participant has carried out a decision. `false`: nobody waited for that.
pub fn acknowledge(span: &mut Span, seq: u32, shard: ShardId) -> bool {
    let Some(index) = span.pending.iter().position(|decision| decision.seq == seq) else { return false };
    let waiting = &mut span.pending[index].waiting;
    let before = waiting.len();
    waiting.retain(|known| *known != shard);
    let changed = waiting.len() < before;
    if waiting.is_empty() {
        span.pending.remove(index);
    }
    changed
}

/// The counts of an order while they change: the one arithmetic of orders, by which `decide` foresees what `apply`
/// does.
pub struct Counts<'a> {
    phase: &'a mut Phase,
    lines: &'a mut [OrderLine],
}

impl Counts<'_> {
    /// Held units are sold, and (`late`) units whose hold had ended. `None`, here and below: it has not that many.
    pub fn sell(&mut self, lines: impl Iterator<Item = (u16, u32, u32)>) -> Option<()> {
        for (index, held, late) in lines {
            let line = self.lines.get_mut(usize::from(index))?;
            line.held = line.held.checked_sub(held)?;
            line.released = line.released.checked_sub(late)?;
            line.lapsed = line.lapsed.checked_sub(late)?;
            line.confirmed = line.confirmed.checked_add(held)?.checked_add(late)?;
        }
        if self.lines.iter().all(|line| line.released == 0) {
            *self.phase = Phase::Open;
        }
        Some(())
    }

    /// The caller gives held units back; `whole`: all of them.
    pub fn release(&mut self, lines: impl Iterator<Item = (u16, u32)>, whole: bool) -> Option<()> {
        self.give_back(lines, whole)?;
        if !self.is_open() {
            *self.phase = Phase::Released;
            // Given back part by part until nothing was left, nothing sold: the whole order ended.
            if !whole && self.lines.iter().all(|line| line.confirmed == 0) {
                self.lines.iter_mut().for_each(|line| line.lapsed = line.released);
            }
        }
        Some(())
    }

    /// All held units go back because the time is over.
    pub fn expire(&mut self, lines: impl Iterator<Item = (u16, u32)>) -> Option<()> {
        self.give_back(lines, true)?;
        *self.phase = Phase::Expired;
        (!self.is_open()).then_some(())
    }

    /// Sold units come back.
    pub fn take_back(&mut self, lines: impl Iterator<Item = (u16, u32)>) -> Option<()> {
        for (index, quantity) in lines {
            let line = self.lines.get_mut(usize::from(index))?;
            line.returned = line.returned.checked_add(quantity)?;
            (line.returned <= line.confirmed).then_some(())?;
        }
        Some(())
    }

    /// Held units go back; by the end of the whole order, a late payment can take them again.
    fn give_back(&mut self, lines: impl Iterator<Item = (u16, u32)>, whole: bool) -> Option<()> {
        for (index, quantity) in lines {
            let line = self.lines.get_mut(usize::from(index))?;
            line.held = line.held.checked_sub(quantity)?;
            line.released = line.released.checked_add(quantity)?;
            if whole {
                line.lapsed = line.lapsed.checked_add(quantity)?;
            }
        }
        Some(())
    }

    fn is_open(&self) -> bool {
        self.lines.iter().any(|line| line.held > 0)
    }
}

/// What would become of the counts of an order. See [`Order::foresee`].
pub struct Foreseen {
    phase: Phase,
    lines: SmallVec<[OrderLine; 1]>,
    span: Option<Span>,
}

impl Foreseen {
    pub fn counts_mut(&mut self) -> Counts<'_> {
        Counts { phase: &mut self.phase, lines: &mut self.lines }
    }

    /// As [`Order::decide_elsewhere`], of an order over several shards.
    pub fn decide_elsewhere(
        &mut self,
        attempt: Option<AttemptId>,
        kind: HoldMove,
        reason: Option<&Reason>,
        lines: Vec<(u16, u32, ShardId)>,
    ) {
        if let Some(span) = self.span.as_mut().filter(|_| !lines.is_empty()) {
            decide(span, attempt, kind, reason, lines);
        }
    }

    /// The counts of a line.
    pub fn line(&self, index: u16) -> LineCounts {
        self.lines.get(usize::from(index)).map_or_else(LineCounts::default, OrderLine::counts)
    }

    /// What the event tells of `order` beside its lines, when it adds so many requests and ranges of serial numbers.
    pub fn after(self, order: &Order, requests: usize, serials: usize) -> OrderAfter {
        let many = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let requests = many(order.requests().len() + requests);
        let serials = many(order.serials().len() + serials);
        let is_pending = self.span.as_ref().is_some_and(|span| !span.pending.is_empty());
        let open = is_pending || self.lines.iter().any(|line| line.held > 0);
        let (status, span) = (status_of(self.phase, &self.lines), self.span.map(Box::new));
        OrderAfter { phase: self.phase, status, open, requests, serials, span }
    }
}

fn status_of(phase: Phase, lines: &[OrderLine]) -> OrderStatus {
    let mut units = [0_u64; 4];
    for line in lines {
        let counts = [line.held, line.confirmed, line.released, line.returned];
        units.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
    }
    OrderStatus::of(phase, units)
}

/// Gives the lines the serial numbers that they got.
fn show_serials(lines: &mut [LineView], serials: &[LineSerials]) {
    let mut by_line: Vec<Vec<Serials>> = vec![Vec::new(); lines.len()];
    for given in serials {
        if let Some(list) = by_line.get_mut(usize::from(given.line)) {
            list.push(given.serials);
        }
    }
    for (line, list) in lines.iter_mut().zip(by_line) {
        line.serials = (!list.is_empty()).then(|| list.into_boxed_slice());
    }
}

/// All orders of a shard and the deadlines of those that can expire.
#[derive(Debug, Clone)]
pub struct Orders {
    table: Table<Order>,
    /// Of the open orders; who changes an order sees to that with [`Orders::arm`].
    deadlines: Deadlines,
    open: usize,
}

impl Orders {
    pub fn new(room: Room) -> Self {
        Self { table: Table::new(room), deadlines: Deadlines::default(), open: 0 }
    }

    pub fn find(&self, order_no: &OrderNo) -> Option<(u32, &Order)> {
        let slot = self.table.find(order_no)?;
        self.table.get(slot).map(|order| (slot, order))
    }

    pub fn get(&self, slot: u32) -> Option<&Order> {
        self.table.get(slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Order> {
        self.table.iter()
    }

    /// The orders with their slots.
    pub fn slots_and_entries(&self) -> impl Iterator<Item = (u32, &Order)> {
        self.table.slots_and_entries()
    }

    /// One above the highest slot that was ever used.
    pub fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Orders, and how many of them hold units.
    pub fn counts(&self) -> (usize, usize) {
        (self.table.len(), self.open)
    }

    /// Up to `max` images from slot `from` on, and the slot after them.
    pub fn images(&self, stocks: &Stocks, from: usize, max: usize) -> (Vec<OrderImage>, usize) {
        let to = self.table.slots().min(from.saturating_add(max));
        let slots = (from..to).filter_map(|slot| self.table.get(u32::try_from(slot).ok()?));
        (slots.map(|order| order.image(stocks)).collect(), to)
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Order> {
        self.table.get_mut(slot)
    }

    /// Adds an order, not armed yet.
    pub fn insert(&mut self, order: Order) -> u32 {
        self.open += usize::from(order.is_open());
        self.table.insert(order)
    }

    pub fn remove(&mut self, slot: u32) -> Option<Order> {
        self.disarm(slot);
        let order = self.table.remove(slot)?;
        self.open -= usize::from(order.is_open());
        Some(order)
    }

    /// Changes an order. Its deadline goes when it moves or is over; the caller arms it again.
    pub fn change<R>(&mut self, slot: u32, change: impl FnOnce(&mut Order) -> R) -> Option<R> {
        let order = self.table.get_mut(slot)?;
        let (was_open, was_at) = (order.is_open(), order.expires_at);
        let result = change(order);
        let (open, at) = (order.is_open(), order.expires_at);
        if !open || at != was_at {
            // It is listed under its old time.
            let index = std::mem::replace(&mut order.deadline_index, NO_DEADLINE);
            self.drop_deadline(was_at, index);
        }
        self.open = self.open - usize::from(was_open) + usize::from(open);
        Some(result)
    }

    /// An open order whose time is over, the earliest first.
    pub fn first_due(&self, now: Timestamp) -> Option<&Order> {
        self.table.get(self.deadlines.first_due(now)?)
    }

    /// Names up to `max` orders that are due and takes them out of the index.
    pub fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<OrderNo> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(slot) = self.deadlines.first_due(now) else { break };
            self.disarm(slot);
            let order = self.table.get_mut(slot).expect("an order leaves after its deadline");
            order.deadline_index = TAKEN;
            taken.push(order.order_no.clone());
        }
        taken
    }

    /// An order that was taken is in no index again; the caller arms it.
    pub fn give_back_due(&mut self, slot: u32) {
        if let Some(order) = self.table.get_mut(slot).filter(|order| order.deadline_index == TAKEN) {
            order.deadline_index = NO_DEADLINE;
        }
    }

    /// From now on the order expires when its time is over.
    pub fn arm(&mut self, slot: u32) {
        if let Some(order) = self.table.get_mut(slot).filter(|order| order.deadline_index == NO_DEADLINE) {
            order.deadline_index = self.deadlines.add(order.expires_at, slot);
        }
    }

    /// From now on the order does not expire.
    pub fn disarm(&mut self, slot: u32) {
        if let Some(order) = self.table.get_mut(slot) {
            let (at, index) = (order.expires_at, std::mem::replace(&mut order.deadline_index, NO_DEADLINE));
            self.drop_deadline(at, index);
        }
    }

    fn drop_deadline(&mut self, at: Timestamp, index: u32) {
        if let Some(order) = self.deadlines.remove(at, index).and_then(|moved| self.table.get_mut(moved)) {
            order.deadline_index = index;
        }
    }

    /// Checks that the deadlines are those of the open orders that were not taken. For the audit.
    pub fn check_deadlines(&self) -> Result<(), String> {
        let open = || self.table.iter().filter(|order| order.is_open());
        if self.open != open().count() {
            return Err(format!("{} orders hold units, {} are counted", open().count(), self.open));
        }
        let armed = open().filter(|order| order.deadline_index != TAKEN).count();
        let right = |slot, at_step, index| {
            let order = self.table.get(slot).filter(|order| order.is_open());
            order.is_some_and(|order| {
                order.deadline_index == index && Deadlines::step_of(order.expires_at) == at_step
            })
        };
        self.deadlines.check(armed, right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are millions of them. Who makes them larger does so on purpose.
    #[test]
    fn an_order_without_extras_is_small() {
        assert_eq!(size_of::<Order>(), 144);
        assert_eq!(size_of::<Option<Box<Extras>>>(), size_of::<usize>());
    }
}
