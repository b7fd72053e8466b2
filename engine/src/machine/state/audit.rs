//! Every invariant of a shard, recomputed from its entries. Run on recovery, by `verify` and by tests.

use std::collections::BTreeMap;
use std::fmt;

use super::remembered::Item;
use super::shard_state::State;
use super::stock::LineRef;
use crate::base::ids::{SkuId, WarehouseId};
use crate::contract::command::StockStatus;
use crate::contract::image::LineSerials;
use crate::contract::order::Phase;
use crate::contract::units::{Levels, Serials};

/// What the audit counted.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditReport {
    /// One entry per stock, by SKU and warehouse.
    pub stocks: Vec<StockAudit>,
    /// Orders in memory; as in [`Sizes`](super::shard_state::Sizes).
    pub orders: usize,
    /// Orders that hold units.
    pub open_orders: usize,
    /// What does not hold; empty when all is well.
    pub violations: Vec<Violation>,
}

/// One stock: its levels, and what they must be by everything else that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct StockAudit {
    /// What.
    pub sku_id: SkuId,
    /// Where.
    pub warehouse_id: WarehouseId,
    /// Its levels.
    pub levels: Levels,
    /// Whether new reservations are taken.
    pub status: StockStatus,
    /// What came less what left other than by orders: must be available + reserved + sold.
    pub supplied: u64,
    /// Held by the lines of all orders, and for orders of other shards: must be reserved.
    pub held_by_orders: u64,
    /// Confirmed less returned by the lines of all orders, known, forgotten and of other shards: must be sold.
    pub sold_by_orders: u64,
    /// Orders that hold units of it.
    pub open_orders: u64,
    /// Serial numbers given so far here; `None`: its units get none.
    pub numbered: Option<u64>,
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl State {
    /// Recomputes everything that can be computed in two ways and compares.
    #[must_use]
    pub fn audit(&self) -> AuditReport {
        let mut violations = Vec::new();
        // The index of each stock in the list, by its number.
        let mut indexes = vec![usize::MAX; self.stocks.slots()];
        for (index, (number, _)) in self.stocks.iter().enumerate() {
            indexes[number as usize] = index;
        }
        let held_for_others = self.units_of_holds();
        let mut stocks: Vec<_> = self
            .stocks
            .iter()
            .map(|(number, stock)| StockAudit {
                sku_id: stock.sku_id.clone(),
                warehouse_id: stock.warehouse_id,
                levels: stock.levels,
                status: stock.status,
                supplied: stock.supplied,
                held_by_orders: held_for_others.get(&number).map_or(0, |(units, _)| *units),
                sold_by_orders: stock.forgotten_sold,
                open_orders: 0,
                numbered: stock.numbered,
            })
            .collect();
        for order in self.orders.iter() {
            for line in &order.lines {
                let stock = &mut stocks[indexes[line.stock as usize]];
                stock.held_by_orders += u64::from(line.held);
                stock.sold_by_orders += line.net_sold();
                stock.open_orders += u64::from(line.held > 0);
                let got = [line.held, line.confirmed, line.released].map(u64::from).iter().sum::<u64>();
                let in_bounds = line.returned <= line.confirmed
                    && line.lapsed <= line.released
                    && got <= u64::from(line.quantity);
                if !in_bounds {
                    violations.push(Violation(format!(
                        "order {}: the counts of {line:?} don't fit",
                        order.order_no
                    )));
                }
            }
            if order.phase == Phase::Cancelled && !order.lines.is_empty() {
                violations.push(Violation(format!("order {} is cancelled and has lines", order.order_no)));
            }
        }
        let foreign = |stock: &StockAudit| !self.owns(&stock.sku_id);
        stocks.retain(|stock| !foreign(stock));
        for stock in &stocks {
            let name = || format!("SKU {} in warehouse {}", stock.sku_id, stock.warehouse_id);
            let mut check = |what: &str, level: u64, must: u64| {
                if level != must {
                    violations.push(Violation(format!("{}: {what} is {level} and must be {must}", name())));
                }
            };
            check("available + reserved + sold", stock.levels.quantity(), stock.supplied);
            check("reserved", stock.levels.reserved, stock.held_by_orders);
            check("sold", stock.levels.sold, stock.sold_by_orders);
        }
        violations.extend(self.orders.check_deadlines().err().map(Violation));
        violations.extend(self.check_serials().into_iter().map(Violation));
        violations.extend(self.check_attached().err().map(Violation));
        violations.extend(self.check_hot().err().map(Violation));
        violations.extend(self.check_remembered().err().map(Violation));
        stocks.sort_by(|a, b| (&a.sku_id, a.warehouse_id).cmp(&(&b.sku_id, b.warehouse_id)));
        let super::shard_state::Sizes { orders, open_orders, .. } = self.sizes();
        AuditReport { stocks, orders, open_orders, violations }
    }

    /// No serial number was given twice, and none that the stocks of its SKU don't count; every unit that was
    /// confirmed and is known has one. Numbers of orders that are not here can't be looked at.
    fn check_serials(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut given: BTreeMap<&SkuId, Vec<Serials>> = BTreeMap::new();
        for order in self.orders.iter() {
            let mut numbers = vec![0; if order.serials().is_empty() { 0 } else { order.lines.len() }];
            for LineSerials { line, serials } in order.serials() {
                match (order.lines.get(usize::from(*line)), numbers.get_mut(usize::from(*line))) {
                    (Some(line), Some(number)) if (1..=serials.to).contains(&serials.from) => {
                        *number += serials.count();
                        let stock = self.stocks.get(line.stock);
                        if !stock.foreign {
                            given.entry(&stock.sku_id).or_default().push(*serials);
                        }
                    }
                    _ => wrong
                        .push(format!("order {}: {serials:?} of line {line} make no sense", order.order_no)),
                }
            }
            for (line, units) in order.lines.iter().zip(numbers.into_iter().chain(std::iter::repeat(0))) {
                let stock = self.stocks.get(line.stock);
                if stock.foreign {
                    continue;
                }
                let numbered = stock.numbered.is_some();
                let must = if numbered { u64::from(line.confirmed) } else { 0 };
                if units != must {
                    wrong.push(format!(
                        "order {}: {units} serial numbers and not {must} of {line:?}",
                        order.order_no
                    ));
                }
            }
        }
        for (_, stock) in self.stocks.iter() {
            let Some(numbered) = stock.numbered else { continue };
            if numbered < stock.levels.sold {
                let (sku_id, warehouse_id) = (&stock.sku_id, stock.warehouse_id);
                wrong.push(format!(
                    "SKU {sku_id} in warehouse {warehouse_id}: {numbered} serial numbers are too few"
                ));
            }
        }
        for (sku_id, mut ranges) in given {
            let next = self.stocks.next_serial(sku_id);
            ranges.sort_by_key(|serials| serials.from);
            let twice = ranges.windows(2).any(|two| two[1].from <= two[0].to);
            if twice || ranges.last().is_some_and(|last| last.to >= next) {
                wrong.push(format!("SKU {sku_id}: the serial numbers below {next} were not given once each"));
            }
        }
        wrong
    }

    /// Every stock is really there, and lists exactly the lines that lie on it.
    fn check_attached(&self) -> Result<(), String> {
        let mut listed = 0;
        let mut holds = self.units_of_holds();
        for (number, stock) in self.stocks.iter() {
            if holds.remove(&number).map_or(0, |(_, lines)| lines) != stock.holds {
                let (sku_id, warehouse_id) = (&stock.sku_id, stock.warehouse_id);
                return Err(format!("SKU {sku_id} in warehouse {warehouse_id}: holds are counted wrongly"));
            }
            if stock.placeholder && !stock.foreign {
                let (sku_id, warehouse_id) = (&stock.sku_id, stock.warehouse_id);
                return Err(format!("SKU {sku_id} in warehouse {warehouse_id} is named and was never there"));
            }
            listed += stock.lines.len();
        }
        let mut lines = 0;
        for (slot, order) in self.orders.slots_and_entries() {
            for (line, index) in order.lines.iter().zip(0..) {
                let attached = self.stocks.get(line.stock).lines.get(line.index);
                if attached != Some(&LineRef { order: slot, line: index }) {
                    return Err(format!("order {}: its stock does not list {line:?}", order.order_no));
                }
                lines += 1;
            }
        }
        if lines != listed || lines != self.stocks.attached() {
            let counted = self.stocks.attached();
            return Err(format!("{lines} lines lie on stocks that list {listed}, {counted} are counted"));
        }
        let listed: usize = self.stocks.iter().map(|(_, stock)| stock.requests.len()).sum();
        let right = |(slot, request): (u32, &super::remembered::StockRequest)| {
            let (number, index) = request.stock;
            let stock = self.stocks.get(number);
            let key = &request.key;
            let is_it = stock.sku_id == key.sku_id && stock.warehouse_id == request.warehouse_id;
            is_it && stock.requests.get(index) == Some(&slot)
        };
        if listed == self.requests.len() && self.requests.slots_and_entries().all(right) {
            return Ok(());
        }
        Err(format!("{} requests lie on stocks that list {listed}, or other ones", self.requests.len()))
    }

    /// All stocks of a SKU are kept in memory or none, as is listed.
    fn check_hot(&self) -> Result<(), String> {
        let kept = |sku_id: &SkuId| self.stocks.hot_skus().contains(sku_id);
        let other = self.stocks.iter().find(|(_, stock)| stock.hot != kept(&stock.sku_id));
        let strange = self.stocks.hot_skus().iter().find(|sku_id| !self.stocks.is_resident(sku_id));
        match other.map(|(_, stock)| &stock.sku_id).or(strange) {
            Some(sku_id) => Err(format!("it is not clear whether SKU {sku_id} is kept in memory")),
            None => Ok(()),
        }
    }

    /// What is remembered is exactly the ended orders (over several shards: those whose participants know it) and the
    /// requests, each by its last change.
    fn check_remembered(&self) -> Result<(), String> {
        let done = self.orders.iter().filter(|order| order.is_done()).count();
        let must = done + self.requests.len();
        if self.remembered.len() != must {
            return Err(format!("{} entries are remembered and {must} must be", self.remembered.len()));
        }
        let right = |lsn, item| match item {
            Item::Order(slot) => self.orders.get(slot).is_some_and(|o| o.lsn == lsn && o.is_done()),
            Item::Request(slot) => self.requests.get(slot).is_some_and(|r| r.lsn == lsn),
        };
        match self.remembered.iter().find(|(lsn, item)| !right(*lsn, *item)) {
            Some((lsn, item)) => Err(format!("{item:?} is remembered at {lsn} and was changed elsewhere")),
            None => Ok(()),
        }
    }
}
