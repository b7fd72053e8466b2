//! What may have happened, as far as callers were told: naive models side by side, one for each way in which the
//! answers can be explained. Commands that were under way at the same time may have come in any order, and those
//! whose answer nobody got may have taken effect or not. When no way is left, the server told something that can't be
//! true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::Hasher as _;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Confirm, Line, Lines, Release, Reserve, Return};
use hotstock_engine::ids::{OrderNo, SkuId, shard_of};
use hotstock_engine::outcome::{Answer, Effect, OrderView, Outcome, Refusal, StockView};
use hotstock_engine::units::Levels;
use xxhash_rust::xxh3::Xxh3;

use crate::naive::choice::wished;
use crate::naive::{self, Naive};

/// More ways than this are never followed.
const MAX_WORLDS: usize = 512;

/// As many are shown when none fits.
const MAX_SHOWN: usize = 4;

/// A command, and what its caller was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its place among those that came together.
    pub place: usize,
    pub action: Action,
    /// `None`: nobody knows whether it took effect.
    pub answer: Option<Outcome>,
}

/// How commands came.
pub struct How<'a> {
    /// When.
    pub now: Timestamp,
    /// Orders as they are by now.
    pub seen: &'a BTreeMap<OrderNo, Option<OrderView>>,
    /// When they were looked at.
    pub seen_at: Timestamp,
    /// Attempts of orders over several shards broke off: they hold units until their participants have asked.
    pub lenient: bool,
    /// There are orders over several shards.
    pub spanning: bool,
    /// One caller sent them, in this order.
    pub in_order: bool,
}

/// See the top of the file.
#[derive(Clone)]
pub struct Worlds {
    shards: u16,
    /// There are orders over several shards.
    spanning: bool,
    worlds: Vec<Naive>,
}

/// What callers were told that can't be.
pub type Violation = String;

impl Worlds {
    pub fn new(shards: u16, spanning: bool) -> Self {
        Self { shards, spanning, worlds: vec![Naive::default()] }
    }

    /// One of those that may be.
    pub fn any(&self) -> &Naive {
        self.worlds.first().expect("there is always one")
    }

    pub fn count(&self) -> usize {
        self.worlds.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Naive> {
        self.worlds.iter()
    }

    /// Commands that were under way at the same time.
    ///
    /// # Errors
    /// There is no order in which they can have come.
    pub fn take(&mut self, told: &[Told], how: &How<'_>) -> Result<(), Violation> {
        for group in self.apart(told) {
            let after = match (&mut self.worlds[..], &group[..]) {
                // The usual case, without a copy.
                ([world], [one]) if one.answer.is_some() && !how.lenient => {
                    if fits(world, one, how, false).is_some() { continue } else { Vec::new() }
                }
                _ => self.take_group(&group, how),
            };
            if after.is_empty() {
                let mut text = String::from("no order of these explains what was told:");
                for one in &group {
                    let _ = write!(text, "\n    {:?}\n      told {:?}", one.action, one.answer);
                    if let Some(seen) = order_of(&one.action).and_then(|order_no| how.seen.get(order_no)) {
                        let _ = write!(text, "\n      seen {seen:?}");
                    }
                    for world in self.worlds.iter().take(MAX_SHOWN) {
                        let outcome = world.clone().carry(&one.action, how.now, None);
                        let _ = write!(text, "\n      alone {outcome:?}");
                    }
                }
                return Err(text);
            }
            self.worlds = after;
        }
        if self.worlds.len() > 8 {
            let mut known = BTreeSet::new();
            self.worlds.retain(|world| known.insert(print(world)));
        }
        if self.worlds.len() > MAX_WORLDS {
            return Err(format!("{} ways: the plan leaves too much open", self.worlds.len()));
        }
        Ok(())
    }

    /// Those that have an order or a SKU in common stay together; the others don't meet.
    fn apart(&self, told: &[Told]) -> Vec<Vec<Told>> {
        let mut groups: Vec<(Vec<String>, Vec<Told>)> = Vec::new();
        for one in told {
            let (mut names, mut members) = (self.names(&one.action), Vec::new());
            let mut rest = Vec::new();
            for (other_names, others) in std::mem::take(&mut groups) {
                if other_names.iter().any(|name| names.contains(name)) {
                    names.extend(other_names);
                    members.extend(others);
                } else {
                    rest.push((other_names, others));
                }
            }
            members.push(one.clone());
            rest.push((names, members));
            groups = rest;
        }
        // Several groups that were put together are in their order again.
        groups.iter_mut().for_each(|(_, members)| members.sort_by_key(|one| one.place));
        groups.into_iter().map(|(_, members)| members).collect()
    }

    /// What a command is about: its order, and all SKUs that it may touch.
    fn names(&self, action: &Action) -> Vec<String> {
        let of_order = |order_no: &OrderNo| {
            let orders = self.worlds.iter().filter_map(|world| world.orders.get(order_no));
            let skus = orders.flat_map(|order| &order.asked).map(|line| format!("sku {}", line.sku_id));
            skus.chain([format!("order {order_no}")]).collect::<Vec<_>>()
        };
        let of_sku = |sku_id: &SkuId| vec![format!("sku {sku_id}")];
        match action {
            Action::CreateStock(c) => of_sku(&c.sku_id),
            Action::ChangeStock(c) => of_sku(&c.sku_id),
            Action::SetStatus(c) => of_sku(&c.sku_id),
            Action::Reserve(c) => {
                let lines = c.lines.as_slice().iter().map(|line| format!("sku {}", line.sku_id));
                lines.chain(of_order(&c.order_no)).collect()
            }
            Action::Confirm(Confirm { order_no, .. })
            | Action::Release(Release { order_no, .. })
            | Action::Return(Return { order_no, .. })
            | Action::GetOrder(order_no) => of_order(order_no),
            Action::Extend(c) => of_order(&c.order_no),
        }
    }

    fn take_group(&self, told: &[Told], how: &How<'_>) -> Vec<Naive> {
        // Orders over several shards that come to nothing hold units for a moment, and others see that.
        let spans = how.lenient
            || !how.in_order && told.len() > 1 && told.iter().any(|one| self.is_spanning(&one.action));
        let orders: Vec<&OrderNo> = told.iter().filter_map(|one| order_of(&one.action)).collect();
        let mut after = Vec::new();
        let mut known: BTreeSet<(u32, u64, u64)> = BTreeSet::new();
        let all = (1_u32 << told.len()) - 1;
        for world in &self.worlds {
            known.clear();
            // What may be; which commands are still to come; what those did whose answer nobody got.
            let mut open: Vec<(Naive, u32, u64)> = vec![(world.clone(), all, 0)];
            while let Some((world, left, did)) = open.pop() {
                if !known.insert((left, did, last_words(&world, &orders))) {
                    continue;
                }
                let is_left = |i: &usize| left & (1 << i) != 0;
                for (i, one) in told.iter().enumerate().filter(|(i, _)| is_left(i)) {
                    let mut next = world.clone();
                    if let Some(outcome) = fits(&mut next, one, how, spans) {
                        // What a command does follows from what it answers.
                        let did = if one.answer.is_none() { did ^ hash(&(i, &outcome)) } else { did };
                        open.push((next, left & !(1 << i), did));
                    }
                    if how.in_order && one.answer.is_some() {
                        break;
                    }
                }
                if (0..told.len()).filter(is_left).all(|i| told[i].answer.is_none()) {
                    // Those that are left did not take effect.
                    if orders.iter().all(|order_no| may_be(&world, order_no, how)) {
                        after.push(world);
                    }
                }
            }
        }
        after
    }

    /// Whether a command holds units in several shards.
    pub fn is_spanning(&self, action: &Action) -> bool {
        match action {
            Action::Reserve(c) => self.are_over_shards(c.lines.as_slice()),
            Action::Confirm(c) => self.is_over_shards(&c.order_no),
            _ => false,
        }
    }

    /// Whether an order lies in several shards.
    pub fn is_over_shards(&self, order_no: &OrderNo) -> bool {
        let orders = self.worlds.iter().filter_map(|world| world.orders.get(order_no));
        orders.into_iter().any(|order| self.are_over_shards(&order.asked))
    }

    fn are_over_shards(&self, lines: &[Line]) -> bool {
        let shard = |line: &Line| shard_of(&line.sku_id, self.shards);
        lines.iter().any(|line| shard(line) != shard(&lines[0]))
    }

    /// What is due ends.
    pub fn expire(&mut self, now: Timestamp) {
        for world in &mut self.worlds {
            let due: Vec<OrderNo> = world.due(now).map(|(order_no, _)| order_no.clone()).collect();
            for order_no in due {
                drop(world.expire(&order_no, now));
            }
        }
    }

    /// Keeps those in which an order is as it was just read.
    ///
    /// # Errors
    /// There is none.
    pub fn see_order(&mut self, order_no: &OrderNo, seen: Option<&OrderView>) -> Result<(), Violation> {
        let spans = self.spanning;
        let seen = seen.map(|seen| numbered(seen.clone(), spans));
        let is_so = |world: &Naive| world.order_view(order_no).map(|order| numbered(order, spans)) == seen;
        if !self.worlds.iter().any(is_so) {
            let expected = self.any().order_view(order_no);
            return Err(format!("order {order_no} is\n    {seen:?}\n  and must be\n    {expected:?}"));
        }
        self.worlds.retain(is_so);
        Ok(())
    }

    /// Whether all stocks can be as they were just read.
    pub fn see_stocks(&mut self, seen: &[StockView]) -> Result<(), Violation> {
        let is_so = |world: &Naive| stocks(world) == seen;
        if !self.worlds.iter().any(is_so) {
            let expected = stocks(self.any());
            let differ: Vec<_> = seen
                .iter()
                .filter(|stock| !expected.contains(stock))
                .chain(expected.iter().filter(|stock| !seen.contains(stock)))
                .collect();
            return Err(format!("stocks differ (read first, then as they must be): {differ:?}"));
        }
        self.worlds.retain(is_so);
        Ok(())
    }
}

/// All stocks of a model, without what counts their changes.
pub fn stocks(world: &Naive) -> Vec<StockView> {
    world.shelves.keys().map(|place| unversioned(world.stock_view(place))).collect()
}

/// An order that is refused in one of several shards may have been held in the others for a moment: their versions
/// count that.
pub fn unversioned(mut stock: StockView) -> StockView {
    stock.levels.version = 0;
    stock
}

/// What both say of an order: over several shards its units get their numbers when its shards are told, so they may
/// come later, and in another order than the confirms.
fn numbered(mut order: OrderView, spans: bool) -> OrderView {
    if spans {
        order.lines.iter_mut().for_each(|line| line.serials = None);
    }
    order
}

/// What both say of a stock: with `spans`, units may be held for a moment, and a shard is told a moment later what
/// became of those that it holds. Once all is quiet everything is compared.
fn visible(stock: StockView, spans: bool) -> StockView {
    let mut stock = unversioned(stock);
    if spans {
        let Levels { available, reserved, sold, .. } = &mut stock.levels;
        *available += std::mem::take(reserved) + std::mem::take(sold);
    }
    stock
}

/// What server and model say alike. Of an order of several lines that can't be had for more than one reason, any of
/// them may be told.
fn plain(outcome: Outcome, action: &Action, spanning: bool, spans: bool) -> Outcome {
    let has_lines = matches!(action, Action::Reserve(c) if c.lines.as_slice().len() > 1);
    match naive::plain(outcome) {
        Err(
            Refusal::UnknownSku { .. } | Refusal::SkuSuspended { .. } | Refusal::InsufficientStock { .. },
        ) if has_lines => Err(Refusal::InsufficientStock { lines: Vec::new() }),
        Ok(Answer::Order { order, effect }) => Ok(Answer::Order { order: numbered(order, spanning), effect }),
        Ok(Answer::Stock { stock, effect }) => {
            // A repeat is told the levels after the change, which may not have been clear then.
            let spans = spans || spanning && effect == Effect::Replayed;
            Ok(Answer::Stock { stock: visible(stock, spans), effect })
        }
        Ok(Answer::Sku { stocks, effect }) => Ok(Answer::Sku {
            stocks: stocks.into_iter().map(|stock| visible(stock, spans)).collect(),
            effect,
        }),
        Err(Refusal::StockExists { initial, stock }) => {
            Err(Refusal::StockExists { initial, stock: visible(stock, spans) })
        }
        // Over several shards, of a SKU that is suspended in several warehouses the first is named.
        Err(Refusal::LatePaymentNoStock { .. }) => Err(Refusal::LatePaymentNoStock { lines: Vec::new() }),
        outcome => outcome,
    }
}

/// Carries a command out in a model; what it answers, if that can be what the caller was told.
fn fits(world: &mut Naive, one: &Told, how: &How<'_>, spans: bool) -> Option<Outcome> {
    let is_short = |outcome: &Outcome| {
        matches!(outcome, Err(Refusal::InsufficientStock { .. } | Refusal::LatePaymentNoStock { .. }))
    };
    let answered = match &one.answer {
        Some(Ok(Answer::Order { order, .. })) => Some(order),
        _ => None,
    };
    let order_no = match &one.action {
        Action::Reserve(c) => Some(&c.order_no),
        _ => None,
    };
    let chosen = answered.or_else(|| order_no.and_then(|order_no| how.seen.get(order_no)?.as_ref()));
    if let Some(answer) = one.answer.as_ref().filter(|answer| spans && is_short(answer)) {
        // Somebody held for a moment what was there.
        return Some(answer.clone());
    }
    let outcome = world.carry(&one.action, how.now, chosen)?;
    match &one.answer {
        None => Some(outcome),
        Some(answer) => {
            let (must, told) = (
                plain(outcome.clone(), &one.action, how.spanning, spans),
                plain(answer.clone(), &one.action, how.spanning, spans),
            );
            (must == told).then_some(outcome)
        }
    }
}

impl Naive {
    /// Carries out a command; of an order whose warehouses are chosen, `chosen` shows where. `None`: it can't have been
    /// carried out.
    fn carry(&mut self, action: &Action, now: Timestamp, chosen: Option<&OrderView>) -> Option<Outcome> {
        let Action::Reserve(c) = action else { return Some(self.carry_out(action, now)) };
        let Some(wished) = wished(c).filter(|_| !self.orders.contains_key(&c.order_no)) else {
            return Some(self.carry_out(action, now));
        };
        if let Err(refusal) = self.refusal_of(c, &wished) {
            return Some(Err(refusal));
        }
        let line = |line: &hotstock_engine::outcome::LineView| Line {
            sku_id: line.sku_id.clone(),
            warehouse_id: line.warehouse_id,
            quantity: line.quantity,
        };
        let lines = Lines::new(chosen?.lines.iter().map(line)).ok()?;
        let units = |lines: &mut dyn Iterator<Item = (SkuId, u32)>| {
            let mut units: BTreeMap<SkuId, u32> = BTreeMap::new();
            lines.for_each(|(sku_id, quantity)| *units.entry(sku_id).or_default() += quantity);
            units
        };
        let asked = units(&mut wished.iter().map(|(sku_id, _, quantity)| (sku_id.clone(), *quantity)));
        let given = units(&mut lines.as_slice().iter().map(|line| (line.sku_id.clone(), line.quantity)));
        if asked != given {
            return None;
        }
        let reserve = Reserve { lines, choice: None, ..c.clone() };
        let outcome = self.carry_out(&Action::Reserve(reserve), now);
        if let Some(order) = self.orders.get_mut(&c.order_no) {
            order.wished = Some(wished);
        }
        Some(outcome)
    }
}

/// A hash of what depends on which command came last, although all are answered alike: when orders end, and what is
/// suspended.
fn last_words(world: &Naive, orders: &[&OrderNo]) -> u64 {
    let mut print = Print(Xxh3::new());
    for order in orders.iter().filter_map(|order_no| world.orders.get(*order_no)) {
        let _ = write!(print, "{:?}{:?}", order.expires_at, order.deeds);
    }
    for shelf in world.shelves.values() {
        let _ = write!(print, "{:?}", shelf.status);
    }
    print.0.finish()
}

/// A hash of all that can be told of a model; what only counts is left out.
fn print(world: &Naive) -> u64 {
    let mut print = Print(Xxh3::new());
    for (place, shelf) in &world.shelves {
        let sum: i64 = shelf.supplies.iter().sum();
        let _ = write!(print, "{place:?}{sum}{:?}{:?}", shelf.supplies.first(), shelf.status);
    }
    for (order_no, order) in &world.orders {
        let naive::order::Order {
            buyer_id,
            mode,
            created_at,
            expires_at,
            asked,
            wished,
            got,
            deeds,
            requests,
            ..
        } = order;
        let _ = write!(
            print,
            "{order_no}{buyer_id:?}{mode:?}{created_at:?}{expires_at:?}{asked:?}{wished:?}{got:?}{deeds:?}{requests:?}"
        );
    }
    for (change, known) in &world.changes {
        // A repeat is told them.
        let Levels { available, reserved, sold, .. } = known.answer;
        let _ = write!(print, "{change:?}{available} {reserved} {sold}");
    }
    let _ = write!(print, "{:?}", world.highest);
    print.0.finish()
}

/// Whether an order is as it was seen later; what was due by then may have ended.
fn may_be(world: &Naive, order_no: &OrderNo, how: &How<'_>) -> bool {
    let Some(seen) = how.seen.get(order_no) else { return true };
    let order = world.orders.get(order_no);
    order.is_some_and(|order| order.is_open() && order.expires_at <= how.seen_at)
        || order.map(|order| numbered(order.view(order_no), how.spanning))
            == seen.clone().map(|seen| numbered(seen, how.spanning))
}

/// The order that a command is about.
pub fn order_of(action: &Action) -> Option<&OrderNo> {
    match action {
        Action::CreateStock(_) | Action::ChangeStock(_) | Action::SetStatus(_) => None,
        Action::Reserve(c) => Some(&c.order_no),
        Action::Confirm(c) => Some(&c.order_no),
        Action::Release(c) => Some(&c.order_no),
        Action::Extend(c) => Some(&c.order_no),
        Action::Return(c) => Some(&c.order_no),
        Action::GetOrder(order_no) => Some(order_no),
    }
}

fn hash(what: &dyn std::fmt::Debug) -> u64 {
    let mut print = Print(Xxh3::new());
    let _ = write!(print, "{what:?}");
    print.0.finish()
}

/// Text that is hashed as it is written.
struct Print(Xxh3);

impl std::fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
