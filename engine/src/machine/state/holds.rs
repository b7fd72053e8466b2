//! The rules of stocks: what of them can be held, for an order that is decided here or for one that another shard
//! decides. What is held for those stands in [`Holds`]; the coordinator says what becomes of it
//! ([`crate::machine::coordinator`]).

use std::collections::BTreeMap;
use std::ops::Bound;

use smallvec::SmallVec;

use super::corruption::Corruption;
use super::held::{Hold, HoldKey, HoldLine};
use super::shard_state::State;
use super::stock::Stock;
use crate::base::ids::{AttemptId, Lsn, OrderNo, Reason, ShardId, SkuId};
use crate::contract::command::{Mode, Reserve, StockStatus};
use crate::contract::event::{Change, HeldLine, HoldMovedLine, ReservedLine};
use crate::contract::hold::{HoldMove, HoldPurpose};
use crate::contract::image::{HoldImage, HoldLineImage};
use crate::contract::outcome::{Refusal, ShortLine};
use crate::contract::units::{Delta, Serials};
use crate::machine::message::{GivenSerials, HoldRequest, Instruction};

impl State {
    /// The lines of a reserve with what can be held of each, all of whose stocks are here; best effort holds what it
    /// can.
    ///
    /// # Errors
    /// Why nothing is held.
    pub(crate) fn hold_lines(&self, c: &Reserve) -> Result<SmallVec<[ReservedLine; 1]>, Refusal> {
        let chosen = c.choice.as_deref().map(|choice| self.chosen_lines(c, choice)).transpose()?;
        let asked_lines = chosen.as_deref().unwrap_or(c.lines.as_slice());
        let mut lines = SmallVec::<[ReservedLine; 1]>::with_capacity(asked_lines.len());
        let mut short = Vec::new();
        for line in asked_lines {
            let stock = self.stocks.get(self.stock_number(&line.sku_id, line.warehouse_id)?);
            let held = match (c.mode, sellable(stock)) {
                (Mode::AllOrNothing, None) => {
                    let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
                    return Err(Refusal::SkuSuspended { sku_id, warehouse_id });
                }
                (_, free) => at_most(free.unwrap_or(0), line.quantity),
            };
            // Of a suspended SKU nothing can be had, as a late payment is told too.
            if held < line.quantity {
                short.push(ShortLine {
                    sku_id: line.sku_id.clone(),
                    warehouse_id: line.warehouse_id,
                    requested: u64::from(line.quantity),
                    available: sellable(stock).unwrap_or(0),
                });
            }
            let moved = if held == 0 { Some(stock.levels) } else { stock.levels.after(Delta::hold(held)) };
            lines.push(ReservedLine {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
                held,
                after: Some(moved.expect("what is available can be held")),
            });
        }
        let nothing_held = lines.iter().all(|line| line.held == 0);
        if nothing_held || (c.mode == Mode::AllOrNothing && !short.is_empty()) {
            return Err(self.no_stock(c, short));
        }
        Ok(lines)
    }

    /// Best effort that got nothing: because every line is suspended, or for want of stock.
    fn no_stock(&self, c: &Reserve, lines: Vec<ShortLine>) -> Refusal {
        let suspended = |line: &ShortLine| {
            let number = self.stocks.find(&line.sku_id, line.warehouse_id);
            number.is_some_and(|number| self.stocks.get(number).status == StockStatus::Suspended)
        };
        let first = c.lines.first();
        if lines.iter().all(suspended) {
            Refusal::SkuSuspended { sku_id: first.sku_id.clone(), warehouse_id: first.warehouse_id }
        } else {
            Refusal::InsufficientStock { lines }
        }
    }

    /// Holds units for an order that another shard decides: the change, and every line that was asked for with what it
    /// got.
    ///
    /// # Errors
    /// Why nothing is held.
    pub(crate) fn decide_hold(
        &self,
        request: &HoldRequest,
    ) -> Result<(Change, SmallVec<[ReservedLine; 1]>), Refusal> {
        let HoldRequest { reserve, attempt, coordinator, purpose, .. } = request;
        let mut got = match purpose {
            HoldPurpose::Units => self.hold_lines(reserve)?,
            HoldPurpose::Return => self.returnable_lines(reserve)?,
        };
        let held = |line: &ReservedLine| {
            let (sku_id, warehouse_id) = (line.sku_id.clone(), line.warehouse_id);
            let after = line.after.filter(|_| line.held > 0)?;
            Some(HeldLine { sku_id, warehouse_id, units: line.held, after })
        };
        let change = Change::Held {
            order_no: reserve.order_no.clone(),
            attempt: *attempt,
            coordinator: *coordinator,
            purpose: *purpose,
            lines: got.iter().filter_map(held).collect(),
        };
        got.iter_mut().for_each(|line| line.after = None);
        Ok((change, got))
    }

    fn returnable_lines(&self, c: &Reserve) -> Result<SmallVec<[ReservedLine; 1]>, Refusal> {
        let mut lines = SmallVec::new();
        for line in c.lines.as_slice() {
            let stock = self.stocks.get(self.stock_number(&line.sku_id, line.warehouse_id)?);
            if stock.forgotten_sold < u64::from(line.quantity) {
                let problem = format!("order {} sold more of it than was sold", c.order_no);
                return Err(Refusal::StockInconsistent { sku_id: line.sku_id.clone(), problem });
            }
            lines.push(ReservedLine {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
                held: line.quantity,
                after: Some(stock.levels),
            });
        }
        Ok(lines)
    }

    /// Whether there is a hold of an attempt.
    pub(crate) fn has_hold(&self, order_no: &OrderNo, attempt: AttemptId) -> bool {
        self.holds.entries.contains_key(&(order_no.clone(), attempt))
    }

    /// Attempts whose units are left here and came to nothing, as a request to hold others for the same order says.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]: a later attempt holds some, so the request was late and came to nothing itself.
    pub(crate) fn leftovers(&self, request: &HoldRequest) -> Result<Vec<AttemptId>, Refusal> {
        let order_no = &request.reserve.order_no;
        let of_order = (order_no.clone(), AttemptId(0))..=(order_no.clone(), AttemptId(u64::MAX));
        let holding = self.holds.entries.range(of_order).filter(|(_, hold)| hold.has_units());
        let others = holding.map(|((_, attempt), _)| *attempt).filter(|other| !request.known.contains(other));
        let others: Vec<_> = others.collect();
        match others.iter().any(|other| *other > request.attempt) {
            true => Err(Refusal::Overloaded),
            false => Ok(others),
        }
    }

    /// The highest number of an attempt that holds something here.
    pub(crate) fn newest_attempt(&self) -> u64 {
        self.holds.entries.keys().map(|(_, attempt)| attempt.0).max().unwrap_or(0)
    }

    /// The last decision that was carried out of a hold.
    pub(crate) fn seq_of_hold(&self, order_no: &OrderNo, attempt: AttemptId) -> u32 {
        self.holds.entries.get(&(order_no.clone(), attempt)).map_or(0, |hold| hold.seq)
    }

    /// Every hold with its coordinator: after a start, or when a coordinator was rebuilt, each is asked after.
    pub(crate) fn hold_keys(&self) -> impl Iterator<Item = (&HoldKey, ShardId)> {
        self.holds.entries.iter().map(|(key, hold)| (key, hold.coordinator))
    }

    /// The serial numbers of a hold that its coordinator may not have logged.
    pub(crate) fn serials_of_hold(&self, order_no: &OrderNo, attempt: AttemptId) -> Vec<GivenSerials> {
        let Some(hold) = self.holds.entries.get(&(order_no.clone(), attempt)) else { return Vec::new() };
        let of_line = |line: &HoldLine| {
            let Stock { sku_id, warehouse_id, .. } = self.stocks.get(line.stock);
            let named = |serials: &Serials| (sku_id.clone(), *warehouse_id, *serials);
            line.serials.iter().map(named).collect::<Vec<_>>()
        };
        hold.lines.iter().flat_map(of_line).collect()
    }

    /// Carries out what the coordinator of a hold decided; `None`: it had before, or there is nothing (more) to do.
    ///
    /// # Errors
    /// In words, why it can't be: somebody changed what was stored.
    pub(crate) fn decide_instructed(&self, instruction: &Instruction) -> Result<Option<Change>, String> {
        let Instruction { order_no, attempt, seq, kind, reason, lines } = instruction;
        let Some(hold) = self.holds.entries.get(&(order_no.clone(), *attempt)) else { return Ok(None) };
        if planted!("instruction-twice", false, *seq <= hold.seq) {
            return Ok(None);
        }
        let mut units = Vec::with_capacity(lines.len());
        for line in lines {
            let number = self.stocks.find(&line.sku_id, line.warehouse_id);
            match hold.lines.iter().position(|known| Some(known.stock) == number) {
                Some(index) if hold.lines[index].units >= line.quantity => units.push((index, line.quantity)),
                _ => return Err(format!("it does not hold {line:?}")),
            }
        }
        let fits = match hold.purpose {
            HoldPurpose::Units => *kind != HoldMove::Returned,
            HoldPurpose::Return => *kind == HoldMove::Returned,
        };
        if !fits {
            return Err(format!("units of a hold for {:?} can't be {kind:?}", hold.purpose));
        }
        Ok(Some(self.moved_hold(order_no, *attempt, hold, *seq, *kind, reason.clone(), &units)))
    }

    /// A hold that its order knows nothing of is over, with all that it holds.
    pub(crate) fn decide_abandoned(&self, order_no: &OrderNo, attempt: AttemptId) -> Option<Change> {
        let hold = self.holds.entries.get(&(order_no.clone(), attempt))?;
        let kind = match hold.purpose {
            // Only serial numbers are left, and an order that knows no more of it has logged them.
            HoldPurpose::Units if hold.lines.iter().all(|line| line.units == 0) => HoldMove::Over,
            HoldPurpose::Units => HoldMove::Released,
            HoldPurpose::Return => HoldMove::Over,
        };
        let all: Vec<_> = hold.lines.iter().enumerate().map(|(index, line)| (index, line.units)).collect();
        Some(self.moved_hold(order_no, attempt, hold, hold.seq, kind, None, &all))
    }

    /// The coordinator has logged the serial numbers that it was told with a decision.
    pub(crate) fn decide_heard(&self, order_no: &OrderNo, attempt: AttemptId, seq: u32) -> Option<Change> {
        let hold = self.holds.entries.get(&(order_no.clone(), attempt))?;
        let is_heard = hold.seq == seq && hold.lines.iter().any(|line| !line.serials.is_empty());
        is_heard.then(|| self.moved_hold(order_no, attempt, hold, seq, HoldMove::Over, None, &[]))
    }

    /// The change that moves units of a hold; `units`: how many of which of its lines.
    #[expect(clippy::too_many_arguments, reason = "what one event says of a hold")]
    fn moved_hold(
        &self,
        order_no: &OrderNo,
        attempt: AttemptId,
        hold: &Hold,
        seq: u32,
        kind: HoldMove,
        reason: Option<Reason>,
        units: &[(usize, u32)],
    ) -> Change {
        let mut lines = SmallVec::new();
        let mut serials = BTreeMap::<&SkuId, u64>::new();
        let mut is_over = true;
        for (index, line) in hold.lines.iter().enumerate() {
            let units = units.iter().find(|(of, _)| *of == index).map_or(0, |(_, units)| *units);
            let stock = self.stocks.get(line.stock);
            let serial = stock.numbered.filter(|_| kind == HoldMove::Sold && units > 0).map(|_| {
                let next =
                    serials.entry(&stock.sku_id).or_insert_with(|| self.stocks.next_serial(&stock.sku_id));
                let after = next.saturating_add(u64::from(units));
                std::mem::replace(next, after)
            });
            let moved = HoldMovedLine {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                units: if kind == HoldMove::Over { 0 } else { units },
                after: stock.levels,
                serial,
                left: 0,
                sold: 0,
                unheard: Vec::new(),
            };
            let after = line.after(hold.purpose, kind, &moved).expect("the lines were looked at");
            is_over &= after.units == 0 && after.serials.is_empty();
            if moved.units == 0 && after == *line {
                continue;
            }
            let levels = match moved.units {
                0 => stock.levels,
                units => stock.levels.after(kind.delta(units)).expect("units of a hold are in its stock"),
            };
            lines.push(HoldMovedLine {
                after: levels,
                left: after.units,
                sold: after.sold,
                unheard: after.serials,
                ..moved
            });
        }
        Change::HoldChanged { order_no: order_no.clone(), attempt, seq, kind, reason, lines, is_over }
    }

    pub(super) fn apply_held(
        &mut self,
        lsn: Lsn,
        (order_no, attempt): (&OrderNo, AttemptId),
        coordinator: ShardId,
        purpose: HoldPurpose,
        lines: &[HeldLine],
    ) -> Result<(), Corruption> {
        let mut here = SmallVec::with_capacity(lines.len());
        for line in lines {
            let stock = match purpose {
                HoldPurpose::Units => {
                    let delta = Delta::hold(line.units);
                    self.move_units(lsn, &line.sku_id, line.warehouse_id, delta, line.after)?
                }
                HoldPurpose::Return => self.stocks.number_or_placeholder(&line.sku_id, line.warehouse_id),
            };
            here.push(HoldLine { stock, units: line.units, sold: 0, serials: Vec::new() });
        }
        let key = (order_no.clone(), attempt);
        match self.holds.entries.get(&key) {
            Some(known) if known.lsn >= lsn => Ok(()),
            Some(_) => Err(Corruption::new(lsn, format!("order {order_no} has this hold already"))),
            None => {
                self.put_hold(key, Hold { coordinator, purpose, seq: 0, lsn, lines: here });
                Ok(())
            }
        }
    }

    pub(super) fn apply_hold_changed(
        &mut self,
        lsn: Lsn,
        (order_no, attempt): (&OrderNo, AttemptId),
        seq: u32,
        kind: HoldMove,
        lines: &[HoldMovedLine],
        is_over: bool,
    ) -> Result<(), Corruption> {
        let moving = || lines.iter().filter(|line| line.units > 0);
        moving().try_for_each(|line| self.move_held(lsn, kind, line))?;
        let key = (order_no.clone(), attempt);
        let wrong = |what: &str| Corruption::new(lsn, format!("a hold of order {order_no}: {what}"));
        let Some(hold) = self.holds.entries.get(&key) else {
            // It was over before the checkpoint came to it.
            return if lsn <= self.exact_from { Ok(()) } else { Err(wrong("it is not here")) };
        };
        if hold.lsn >= lsn {
            return Ok(());
        }
        let mut changed = hold.clone();
        for moved in lines {
            let number = self.stocks.find(&moved.sku_id, moved.warehouse_id);
            let line = changed.lines.iter_mut().find(|line| Some(line.stock) == number);
            let after = line.as_ref().and_then(|line| line.after(hold.purpose, kind, moved));
            let (Some(line), Some(after)) = (line, after) else { return Err(wrong("it has not so much")) };
            let as_logged = HoldLine {
                stock: after.stock,
                units: moved.left,
                sold: moved.sold,
                serials: moved.unheard.clone(),
            };
            if after != as_logged {
                return Err(wrong("the event makes another one of it"));
            }
            *line = after;
        }
        (changed.seq, changed.lsn) = (seq, lsn);
        let nothing = changed.lines.iter().all(|line| line.units == 0 && line.serials.is_empty());
        if nothing != is_over {
            return Err(wrong("the event does not say whether it is over"));
        }
        match is_over {
            true => self.take_hold(&key),
            false => drop(self.holds.entries.insert(key, changed)),
        }
        Ok(())
    }

    /// Units of a hold move in their stock. What they were sold to is decided elsewhere: of that the stock keeps sums
    /// alone.
    fn move_held(&mut self, lsn: Lsn, kind: HoldMove, line: &HoldMovedLine) -> Result<(), Corruption> {
        let HoldMovedLine { sku_id, warehouse_id, units, after, .. } = line;
        let number = self.stocks.number_or_placeholder(sku_id, *warehouse_id);
        self.check_serial(
            lsn,
            number,
            line.serial.filter(|_| kind == HoldMove::Sold),
            kind == HoldMove::Sold,
        )?;
        self.change_stock(number, lsn, *after, |stock| {
            match kind {
                HoldMove::Sold => {
                    stock.forgotten_sold = stock.forgotten_sold.checked_add(u64::from(*units))?;
                    stock.give(line.serials())?;
                }
                HoldMove::Returned => {
                    stock.forgotten_sold = stock.forgotten_sold.checked_sub(u64::from(*units))?;
                }
                HoldMove::Released | HoldMove::Expired | HoldMove::Over => {}
            }
            stock.moved(kind.delta(*units))
        })
    }

    /// Whether the units that are sold of a stock get the next serial numbers of its SKU.
    pub(super) fn check_serial(
        &self,
        lsn: Lsn,
        number: u32,
        serial: Option<u64>,
        is_sale: bool,
    ) -> Result<(), Corruption> {
        // Before a checkpoint is at its end, its stocks of the SKU are of different moments.
        if lsn <= self.exact_from || !is_sale {
            return Ok(());
        }
        let Stock { sku_id, numbered, .. } = self.stocks.get(number);
        let expected = numbered.map(|_| self.stocks.next_serial(sku_id));
        if serial == expected {
            return Ok(());
        }
        let problem = format!("SKU {sku_id}: {expected:?} is the next serial number, not {serial:?}");
        Err(Corruption::new(lsn, problem))
    }

    fn put_hold(&mut self, key: HoldKey, hold: Hold) {
        hold.lines.iter().for_each(|line| self.stocks.attach_hold(line.stock));
        self.holds.entries.insert(key, hold);
    }

    fn take_hold(&mut self, key: &HoldKey) {
        let Some(hold) = self.holds.entries.remove(key) else { return };
        hold.lines.iter().for_each(|line| self.stocks.detach_hold(line.stock));
    }

    pub(super) fn restore_hold(&mut self, image: HoldImage) -> Result<(), Corruption> {
        let HoldImage { order_no, attempt, coordinator, purpose, seq, lsn, lines } = image;
        let key = (order_no, attempt);
        if self.holds.entries.get(&key).is_some_and(|known| known.lsn >= lsn) {
            let problem = format!("a hold of order {} stands twice in it", key.0);
            return Err(Corruption::new(lsn, problem));
        }
        self.take_hold(&key);
        let line = |line: HoldLineImage| HoldLine {
            stock: self.stocks.number_or_placeholder(&line.sku_id, line.warehouse_id),
            units: line.units,
            sold: line.sold,
            serials: line.serials,
        };
        let lines = lines.into_iter().map(line).collect();
        self.put_hold(key, Hold { coordinator, purpose, seq, lsn, lines });
        Ok(())
    }

    fn image_of_hold(&self, (order_no, attempt): (&OrderNo, AttemptId), hold: &Hold) -> HoldImage {
        let line = |line: &HoldLine| {
            let stock = self.stocks.get(line.stock);
            HoldLineImage {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                units: line.units,
                sold: line.sold,
                serials: line.serials.clone(),
            }
        };
        HoldImage {
            order_no: order_no.clone(),
            attempt,
            coordinator: hold.coordinator,
            purpose: hold.purpose,
            seq: hold.seq,
            lsn: hold.lsn,
            lines: hold.lines.iter().map(line).collect(),
        }
    }

    /// What this shard holds for orders of other shards, as images.
    pub fn holds(&self) -> impl Iterator<Item = HoldImage> {
        self.holds
            .entries
            .iter()
            .map(|((order_no, attempt), hold)| self.image_of_hold((order_no, *attempt), hold))
    }

    /// Up to `max` images after `after`, for a checkpoint, and the last of them.
    pub(super) fn hold_images(
        &self,
        after: Option<&HoldKey>,
        max: usize,
    ) -> (Vec<HoldImage>, Option<HoldKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.holds.entries.range((from, Bound::Unbounded)).take(max);
        let mut last = None;
        let image = |((order_no, attempt), hold): (&HoldKey, &Hold)| {
            last = Some((order_no.clone(), *attempt));
            self.image_of_hold((order_no, *attempt), hold)
        };
        let images = some.map(image).collect();
        (images, last)
    }

    /// Holds, and lines of them.
    pub(super) fn hold_counts(&self) -> usize {
        self.holds.entries.len()
    }

    /// Units that are held for orders of other shards, by stock; and how many lines of holds lie on each. For the
    /// audit.
    pub(super) fn units_of_holds(&self) -> BTreeMap<u32, (u64, u32)> {
        let mut held = BTreeMap::<u32, (u64, u32)>::new();
        for hold in self.holds.entries.values() {
            for line in &hold.lines {
                let entry = held.entry(line.stock).or_default();
                entry.1 += 1;
                if hold.purpose == HoldPurpose::Units {
                    entry.0 += u64::from(line.units);
                }
            }
        }
        held
    }
}

/// What can be sold of a stock, `None` when it is suspended.
pub(super) fn sellable(stock: &Stock) -> Option<u64> {
    (stock.status == StockStatus::OnSale).then_some(stock.levels.available)
}

/// The smaller of what is free and what is wanted.
fn at_most(free: u64, wanted: u32) -> u32 {
    u32::try_from(free).map_or(wanted, |free| free.min(wanted))
}
