//! Decisions about where SKUs are: the steps of an adoption, closing, and what a shard does by itself to let a closed SKU go.
//!
//! Whatever the store sends is checked here, so that an event that is made can be applied.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{Order, OrderLine};
use super::remembered::RequestKey;
use super::{Decided, State, Verdict};
use crate::checkpoint::{LineImage, LineSerials, OrderImage, RequestImage, Stage, StockImage};
use crate::clock::Timestamp;
use crate::command::{Command, InvalidField, Place};
use crate::event::{Change, Event};
use crate::ids::{OrderNo, SkuId};
use crate::limits::{
    MAX_ADOPTED_PER_EVENT, MAX_FORGOTTEN_STOCKS, MAX_ORDER_LINES, MAX_SKUS_PER_MOVE, MAX_SPLIT_LINES,
    MAX_STOCK_UNITS, MAX_WAREHOUSES_PER_SKU,
};
use crate::outcome::{Answer, Refusal};

/// What becomes of an order that is offered.
enum Offer {
    Take,
    LeaveOut,
}

impl State {
    pub(super) fn decide_place(&self, place: &Place, command: &Command) -> Decided {
        let moved = || Refusal::Moved(Box::new(command.clone()));
        match place {
            Place::Begin { sku_id, epoch, stocks } => self.decide_begin(sku_id, *epoch, stocks, moved),
            Place::Orders { sku_id, orders, requests } => {
                self.decide_orders(sku_id.as_ref(), orders, requests, moved)
            }
            Place::Finish { sku_id } => match self.stocks.stage(sku_id) {
                Some(Stage::Open) => Ok(Verdict::Nothing(Answer::Placed)),
                Some(Stage::Adopting) => match self.incomplete(sku_id) {
                    Some(_) => Err(invalid("orders", format!("that hold units of SKU {sku_id} are missing"))),
                    None => Ok(Verdict::Change(Change::Adopted { sku_id: sku_id.clone() })),
                },
                Some(Stage::Closing) | None => Err(moved()),
            },
            Place::Close { skus } => self.decide_close(skus, moved),
        }
    }

    fn decide_begin(
        &self,
        sku_id: &SkuId,
        epoch: u64,
        stocks: &[StockImage],
        moved: impl Fn() -> Refusal,
    ) -> Decided {
        match self.stocks.stage(sku_id) {
            Some(Stage::Open) if self.epoch(sku_id) >= epoch => return Ok(Verdict::Nothing(Answer::Placed)),
            Some(Stage::Open | Stage::Closing) => return Err(moved()),
            Some(Stage::Adopting) | None => {}
        }
        if !(1..=MAX_WAREHOUSES_PER_SKU).contains(&stocks.len()) {
            return Err(invalid("stocks", format!("must be 1 to {MAX_WAREHOUSES_PER_SKU}")));
        }
        let mut warehouses = BTreeSet::new();
        let mut images = Vec::with_capacity(stocks.len());
        for image in stocks {
            let number = self.stocks.find(sku_id, image.warehouse_id);
            // Of a begin that was not finished, orders may be here already.
            let sold_here = number.map_or(0, |number| self.sold_by_orders_on(number));
            let numbered_alike = image.numbered.is_some() == stocks[0].numbered.is_some();
            let sound = image.sku_id == *sku_id
                && numbered_alike
                && image.numbered.is_none_or(|numbered| numbered >= image.levels.sold)
                && warehouses.insert(image.warehouse_id)
                && image.supplied <= MAX_STOCK_UNITS
                && sum(&[image.levels.available, image.levels.reserved, image.levels.sold]) == Some(image.supplied);
            let forgotten_sold = image.levels.sold.checked_sub(sold_here).filter(|_| sound).ok_or_else(|| {
                invalid("stocks", format!("of SKU {sku_id} in warehouse {} make no sense", image.warehouse_id))
            })?;
            images.push(StockImage { forgotten_sold, epoch, stage: Stage::Adopting, ..image.clone() });
        }
        if !self.stocks.of_sku(sku_id).all(|stock| warehouses.contains(&stock.warehouse_id)) {
            return Err(invalid("stocks", format!("leave out a warehouse of SKU {sku_id}")));
        }
        Ok(Verdict::Change(Change::AdoptionBegun { sku_id: sku_id.clone(), epoch, stocks: images }))
    }

    fn decide_orders(
        &self,
        sku_id: Option<&SkuId>,
        orders: &[OrderImage],
        requests: &[RequestImage],
        moved: impl Fn() -> Refusal,
    ) -> Decided {
        if sku_id.is_some_and(|sku_id| self.stocks.stage(sku_id) != Some(Stage::Adopting)) {
            return Err(moved());
        }
        if orders.len() > MAX_ADOPTED_PER_EVENT || requests.len() > MAX_ADOPTED_PER_EVENT {
            return Err(invalid("orders", format!("must be at most {MAX_ADOPTED_PER_EVENT}")));
        }
        let mut adopted = Vec::new();
        let mut names = BTreeSet::new();
        let mut net = BTreeMap::<u32, u64>::new();
        for image in orders {
            if self.knows_order(&image.order_no) || !names.insert(&image.order_no) {
                continue;
            }
            check_counts(image)?;
            match self.offer(image, sku_id.is_some(), &moved)? {
                Offer::LeaveOut => continue,
                Offer::Take => adopted.push(image.clone()),
            }
            self.check_numbers(image)?;
            for line in &image.lines {
                if let Some(number) = self.stocks.find(&line.sku_id, line.warehouse_id) {
                    *net.entry(number).or_default() += u64::from(line.confirmed - line.returned);
                }
            }
        }
        if let Some((number, _)) = net.iter().find(|(n, units)| self.stocks.get(**n).forgotten_sold < **units) {
            let sku_id = &self.stocks.get(*number).sku_id;
            return Err(invalid("orders", format!("sold more of SKU {sku_id} than was sold")));
        }
        let mut ids = BTreeSet::new();
        let mut remembered = Vec::new();
        for image in requests {
            if Some(&image.sku_id) != sku_id {
                return Err(invalid("requests", "must be those of the SKU".to_owned()));
            }
            let key = RequestKey { sku_id: image.sku_id.clone(), request_id: image.request_id.clone() };
            if self.requests.find(&key).is_none() && ids.insert(&image.request_id) {
                remembered.push(image.clone());
            }
        }
        if adopted.is_empty() && remembered.is_empty() {
            return Ok(Verdict::Nothing(Answer::Placed));
        }
        let sku_id = sku_id.cloned();
        Ok(Verdict::Change(Change::OrdersAdopted { sku_id, orders: adopted, requests: remembered }))
    }

    /// Whether an order can come: with a SKU that is being adopted, or (`with_sku` is false) back by itself.
    fn offer(&self, image: &OrderImage, with_sku: bool, moved: &impl Fn() -> Refusal) -> Result<Offer, Refusal> {
        let open = image.lines.iter().any(|line| line.held > 0);
        let stage = |line: &LineImage| {
            let number = self.stocks.find(&line.sku_id, line.warehouse_id)?;
            Some(self.stocks.get(number).stage)
        };
        if !with_sku {
            if open {
                return Err(invalid("orders", format!("that hold units don't come alone: {}", image.order_no)));
            }
            let here = image.lines.iter().all(|line| stage(line) == Some(Stage::Open));
            return if here { Ok(Offer::Take) } else { Err(moved()) };
        }
        for line in &image.lines {
            match stage(line) {
                Some(Stage::Adopting) => {}
                Some(Stage::Open) if line.held == 0 => {}
                // Its units are counted there already, so it would have to be here.
                Some(Stage::Open) => {
                    let problem = format!("order {} holds units of SKU {}", image.order_no, line.sku_id);
                    return Err(invalid("orders", problem));
                }
                // All SKUs that open orders share begin before the orders come.
                Some(Stage::Closing) | None if open => return Err(moved()),
                // It has ended and stays where it is: it lies on a SKU that is not here.
                Some(Stage::Closing) | None => return Ok(Offer::LeaveOut),
            }
        }
        Ok(Offer::Take)
    }

    /// Whether the lines of an order that comes have the serial numbers of all units that they sold, where their SKU gives such, and no
    /// others.
    fn check_numbers(&self, image: &OrderImage) -> Result<(), Refusal> {
        let wrong = || invalid("orders", format!("have wrong serial numbers: {}", image.order_no));
        let mut units = vec![0_u64; image.lines.len()];
        for LineSerials { line, serials } in &image.serials {
            let place = usize::from(*line);
            let line = image.lines.get(place).ok_or_else(wrong)?;
            let given = (1..self.stocks.next_serial(&line.sku_id)).contains(&serials.to);
            if !given || !(1..=serials.to).contains(&serials.from) {
                return Err(wrong());
            }
            units[place] = units[place].saturating_add(serials.count());
        }
        let fits = |(line, units): (&LineImage, u64)| {
            let number = self.stocks.find(&line.sku_id, line.warehouse_id);
            let numbered = number.is_some_and(|number| self.stocks.get(number).numbered.is_some());
            units == if numbered { u64::from(line.confirmed) } else { 0 }
        };
        if image.lines.iter().zip(units).all(fits) { Ok(()) } else { Err(wrong()) }
    }

    fn decide_close(&self, skus: &[SkuId], moved: impl Fn() -> Refusal) -> Decided {
        if skus.len() > MAX_SKUS_PER_MOVE {
            return Err(invalid("skus", format!("must be at most {MAX_SKUS_PER_MOVE}")));
        }
        let named: BTreeSet<&SkuId> = skus.iter().collect();
        if named.iter().any(|sku_id| self.stocks.stage(sku_id) == Some(Stage::Adopting)) {
            return Err(moved());
        }
        let open = |sku_id: &&SkuId| self.stocks.stage(sku_id) == Some(Stage::Open);
        let closed: Vec<SkuId> = named.into_iter().filter(open).cloned().collect();
        if closed.is_empty() {
            return Ok(Verdict::Nothing(Answer::Placed));
        }
        Ok(Verdict::Change(Change::Closed { skus: closed }))
    }

    /// What is to be done next for a SKU that is closed: some of its orders leave, and when none is left the SKU does. Open orders that
    /// hold other SKUs too, which stay, are split before. The caller applies it before it asks again.
    #[must_use]
    pub fn next_leaving(&self, now: Timestamp) -> Option<Event> {
        let sku_id = &self.stocks.first_closing()?.sku_id;
        let mut places = BTreeSet::new();
        let mut orders: Vec<OrderNo> = Vec::new();
        let mut sold = BTreeMap::new();
        let (mut spanning, mut spanning_lines) = (Vec::new(), 0);
        let lying = self.stocks.of_sku(sku_id).flat_map(|stock| stock.orders.iter().rev());
        for lying in lying {
            let full = orders.len() >= MAX_ADOPTED_PER_EVENT || sold.len() >= MAX_FORGOTTEN_STOCKS;
            if full || spanning_lines >= MAX_SPLIT_LINES {
                break;
            }
            if let Some(order) = self.orders.get(lying.order).filter(|_| places.insert(lying.order)) {
                if self.comes_apart(order) {
                    spanning_lines += order.lines.len();
                    spanning.push(order.order_no.clone());
                }
                orders.push(order.order_no.clone());
                self.add_net_sold(lying.order, &mut sold);
            }
        }
        let sku_id = sku_id.clone();
        let change = if !spanning.is_empty() {
            Change::Split { orders: spanning }
        } else if orders.is_empty() {
            Change::Withdrawn { epoch: self.epoch(&sku_id), sku_id }
        } else {
            Change::Shed { sku_id, orders, sold: self.forgotten_totals(sold) }
        };
        Some(Event { at: now.max(self.time), trace: None, change })
    }

    /// Whether an order that lies on a closing stock holds units and lies on others that stay.
    fn comes_apart(&self, order: &Order) -> bool {
        let leaves = |line: &OrderLine| self.stocks.get(line.stock).stage == Stage::Closing;
        order.lines.len() > 1 && order.is_open() && !order.lines.iter().all(leaves)
    }

    fn epoch(&self, sku_id: &SkuId) -> u64 {
        self.stocks.of_sku(sku_id).next().map_or(0, |stock| stock.epoch)
    }
}

/// Whether the counts of an order fit each other, and each stock stands in it once.
pub(crate) fn check_counts(image: &OrderImage) -> Result<(), Refusal> {
    let fits = |line: &LineImage| {
        let got = sum(&[line.held, line.confirmed, line.released].map(u64::from));
        got.is_some_and(|got| got <= u64::from(line.quantity))
            && line.returned <= line.confirmed
            && line.lapsed <= line.released
    };
    let stocks: BTreeSet<_> = image.lines.iter().map(|line| (&line.sku_id, line.warehouse_id)).collect();
    let once = stocks.len() == image.lines.len() && image.lines.len() <= MAX_ORDER_LINES;
    if once && image.lines.iter().all(fits) {
        return Ok(());
    }
    Err(invalid("orders", format!("make no sense: {}", image.order_no)))
}

fn sum(units: &[u64]) -> Option<u64> {
    units.iter().try_fold(0_u64, |sum, units| sum.checked_add(*units))
}

pub(super) fn invalid(field: &str, problem: String) -> Refusal {
    InvalidField::new(field, problem).into()
}
