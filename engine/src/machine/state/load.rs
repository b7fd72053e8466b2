//! How SKUs, ended orders and stock requests come from the store into memory.
//!
//! What the store hands over is checked here, so that an event that is made can be applied: somebody may have changed
//! rows by hand. None of it holds units, because whatever holds units never leaves memory.

use std::collections::{BTreeMap, BTreeSet};

use super::corruption::Corruption;
use super::order::Order;
use super::remembered::{RequestKey, StockRequest};
use super::shard_state::State;
use super::stock::LineRef;
use crate::base::ids::{Lsn, SkuId};
use crate::base::limits::{
    MAX_LOADED_PER_EVENT, MAX_ORDER_LINES, MAX_REQUESTS_PER_ORDER, MAX_SERIALS_COMPARED, MAX_STOCK_UNITS,
    MAX_STORED_COUNT, MAX_WAREHOUSES_PER_SKU, MAX_WHOLE_RETURNS,
};
use crate::contract::command::InvalidField;
use crate::contract::event::Change;
use crate::contract::image::{LineImage, LineSerials, OrderImage, RequestImage, StockImage};
use crate::contract::order::Phase;
use crate::contract::outcome::Refusal;
use crate::contract::units::Serials;

impl State {
    /// A stored SKU comes into memory. `None`: it is here already.
    ///
    /// # Errors
    /// [`Refusal::StockInconsistent`] when its stocks make no sense.
    pub fn decide_loaded(&self, sku_id: &SkuId, stocks: &[StockImage]) -> Result<Option<Change>, Refusal> {
        if self.stocks.is_resident(sku_id) {
            return Ok(None);
        }
        let problem = |problem: String| Refusal::StockInconsistent { sku_id: sku_id.clone(), problem };
        if !self.owns(sku_id) {
            return Err(problem("it belongs to another shard".to_owned()));
        }
        check_stocks(sku_id, stocks).map_err(problem)?;
        // None of its orders is here; and it is kept in memory if any row says so, whatever a new warehouse's row says.
        let hot = stocks.iter().any(|image| image.hot);
        let loaded =
            |image: &StockImage| StockImage { forgotten_sold: image.levels.sold, hot, ..image.clone() };
        let stocks = stocks.iter().map(loaded).collect();
        Ok(Some(Change::Loaded { sku_id: sku_id.clone(), stocks }))
    }

    /// Ended orders and stock requests come back into memory, each list at most [`MAX_LOADED_PER_EVENT`]; all SKUs
    /// that they are about are here. Those that are known are left out; `None`: nothing is left.
    ///
    /// # Errors
    /// [`Refusal::StockInconsistent`] when something in them makes no sense.
    pub fn decide_orders_loaded(
        &self,
        orders: &[OrderImage],
        requests: &[RequestImage],
    ) -> Result<Option<Change>, Refusal> {
        if orders.len() > MAX_LOADED_PER_EVENT || requests.len() > MAX_LOADED_PER_EVENT {
            return Err(invalid("orders", format!("must be at most {MAX_LOADED_PER_EVENT}")));
        }
        let mut new_orders = Vec::new();
        let mut numbers = BTreeSet::new();
        let mut net = BTreeMap::<u32, u64>::new();
        for image in orders {
            if self.knows_order(&image.order_no) || !numbers.insert(&image.order_no) {
                continue;
            }
            self.check_ended_order(image)?;
            for line in image.lines.iter().filter(|line| self.owns(&line.sku_id)) {
                let number = self.stock_number(&line.sku_id, line.warehouse_id)?;
                *net.entry(number).or_default() += u64::from(line.confirmed - line.returned);
            }
            new_orders.push(image.clone());
        }
        if let Some((number, _)) = net.iter().find(|(n, units)| self.stocks.get(**n).forgotten_sold < **units)
        {
            let sku_id = self.stocks.get(*number).sku_id.clone();
            let problem = "its orders sold more of it than was sold".to_owned();
            return Err(Refusal::StockInconsistent { sku_id, problem });
        }
        let mut new_requests = Vec::new();
        let mut keys = BTreeSet::new();
        for image in requests {
            let key = RequestKey { sku_id: image.sku_id.clone(), request_id: image.request_id.clone() };
            if self.requests.find(&key).is_some() || !keys.insert((&image.sku_id, &image.request_id)) {
                continue;
            }
            self.stock_number(&image.sku_id, image.warehouse_id)?;
            new_requests.push(image.clone());
        }
        if new_orders.is_empty() && new_requests.is_empty() {
            return Ok(None);
        }
        Ok(Some(Change::OrdersLoaded { orders: new_orders, requests: new_requests }))
    }

    /// Whether an ended order can lie on the stocks that are here.
    fn check_ended_order(&self, image: &OrderImage) -> Result<(), Refusal> {
        let wrong = |what: &str| {
            let problem = format!("its order {} {what}", image.order_no);
            match image.lines.first() {
                Some(line) => Refusal::StockInconsistent { sku_id: line.sku_id.clone(), problem },
                None => Refusal::OrderInconsistent { order_no: image.order_no.clone(), problem },
            }
        };
        check_counts(image)?;
        if image.lines.iter().any(|line| line.held > 0) {
            return Err(wrong("holds units and was not in memory"));
        }
        if (image.phase == Phase::Cancelled) != image.lines.is_empty() {
            return Err(wrong("has lines and was released before it was reserved, or neither"));
        }
        if image.requests.len() > MAX_REQUESTS_PER_ORDER + MAX_WHOLE_RETURNS {
            return Err(wrong("has more partial requests than an order can have"));
        }
        if !image.is_done() {
            return Err(wrong("was not in memory, and its participants may not know what was decided"));
        }
        if image.span.is_none() && !image.lines.iter().all(|line| self.owns(&line.sku_id)) {
            return Err(wrong("lies in other shards without having been held there"));
        }
        self.check_numbers(image).ok_or_else(|| wrong("has serial numbers that it can't have"))
    }

    /// Whether the lines of an order have the serial numbers of all units that they sold, where their SKU gives such,
    /// and no others; nor any that an order in memory has (which is not looked at when very many lie on the SKU).
    fn check_numbers(&self, image: &OrderImage) -> Option<()> {
        let mut units = vec![0_u64; image.lines.len()];
        for LineSerials { line, serials } in &image.serials {
            let index = usize::from(*line);
            let line = image.lines.get(index)?;
            let given =
                !self.owns(&line.sku_id) || (1..self.stocks.next_serial(&line.sku_id)).contains(&serials.to);
            (given && (1..=serials.to).contains(&serials.from)).then_some(())?;
            units[index] = units[index].saturating_add(serials.count());
        }
        let fits = |(line, units): (&LineImage, u64)| {
            // What numbers another shard gives is not known here.
            if !self.owns(&line.sku_id) {
                return units == 0 || units == u64::from(line.confirmed);
            }
            let number = self.stocks.find(&line.sku_id, line.warehouse_id);
            let numbered = number.is_some_and(|number| self.stocks.get(number).numbered.is_some());
            units == if numbered { u64::from(line.confirmed) } else { 0 }
        };
        image.lines.iter().zip(units).all(fits).then_some(())?;
        let mut given: BTreeMap<&SkuId, Vec<Serials>> = BTreeMap::new();
        for LineSerials { line, serials } in &image.serials {
            given.entry(&image.lines[usize::from(*line)].sku_id).or_default().push(*serials);
        }
        for (sku_id, mut given) in given {
            let lines = self.stocks.of_sku(sku_id).flat_map(|stock| stock.lines.iter());
            if self.stocks.of_sku(sku_id).map(|stock| stock.lines.len()).sum::<usize>()
                <= MAX_SERIALS_COMPARED
            {
                let of_line = |line: &LineRef| {
                    let order = self.orders.get(line.order)?;
                    let serials = order.serials().iter().filter(|given| u32::from(given.line) == line.line);
                    Some(serials.map(|given| given.serials).collect::<Vec<_>>())
                };
                given.extend(lines.filter_map(of_line).flatten());
            }
            given.sort_by_key(|serials| serials.from);
            given.windows(2).all(|two| two[0].to < two[1].from).then_some(())?;
        }
        Some(())
    }

    pub(super) fn apply_loaded(
        &mut self,
        lsn: Lsn,
        sku_id: &SkuId,
        stocks: &[StockImage],
    ) -> Result<(), Corruption> {
        let wrong = |problem: String| Corruption::new(lsn, format!("SKU {sku_id}: {problem}"));
        check_stocks(sku_id, stocks).map_err(wrong)?;
        if stocks.iter().any(|image| image.forgotten_sold != image.levels.sold) {
            return Err(wrong(
                "none of its orders is here, so all that it sold is sold by forgotten ones".to_owned(),
            ));
        }
        if stocks.iter().any(|image| image.hot != stocks[0].hot) {
            return Err(wrong("its warehouses are kept in memory all or none".to_owned()));
        }
        if lsn > self.exact_from && self.stocks.of_sku(sku_id).next().is_some() {
            return Err(wrong("it is here already".to_owned()));
        }
        for image in stocks {
            let number = self.stocks.number_or_placeholder(sku_id, image.warehouse_id);
            let stock = self.stocks.get(number);
            if stock.placeholder {
                self.stocks.put(number, image, lsn);
            } else if stock.lsn < lsn {
                return Err(wrong(format!("its stock in warehouse {} is here already", image.warehouse_id)));
            }
            // Otherwise it came from a checkpoint that was taken later.
        }
        Ok(())
    }

    pub(super) fn apply_orders_loaded(
        &mut self,
        lsn: Lsn,
        orders: &[OrderImage],
        requests: &[RequestImage],
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let mut net = BTreeMap::<u32, u64>::new();
        for image in orders {
            if !image.is_done() {
                let problem =
                    format!("order {} has not come to its end and was not in memory", image.order_no);
                return Err(Corruption::new(lsn, problem));
            }
            let order = self.order_of(image.clone(), lsn);
            for line in &order.lines {
                if self.stocks.get(line.stock).foreign {
                    continue;
                }
                self.check_here(lsn, line.stock, &order.order_no)?;
                if line.net_sold() > 0 {
                    *net.entry(line.stock).or_default() += line.net_sold();
                }
            }
            self.insert_order(order)?;
        }
        for (number, units) in net {
            let levels = self.stocks.get(number).levels;
            self.change_stock(number, lsn, levels, |stock| {
                stock.forgotten_sold = stock.forgotten_sold.checked_sub(units)?;
                Some(levels)
            })?;
        }
        for image in requests {
            let number = self.stocks.number_or_placeholder(&image.sku_id, image.warehouse_id);
            if exact {
                self.check_here(lsn, number, &image.request_id)?;
            }
            self.remember(StockRequest { lsn, ..StockRequest::from(image.clone()) })?;
        }
        Ok(())
    }

    /// What lies on a stock comes after it.
    fn check_here(&self, lsn: Lsn, number: u32, what: &dyn std::fmt::Display) -> Result<(), Corruption> {
        let stock = self.stocks.get(number);
        if lsn <= self.exact_from || !stock.placeholder {
            return Ok(());
        }
        Err(Corruption::new(lsn, format!("{what} lies on SKU {}, which is not here", stock.sku_id)))
    }

    /// The order of an image, as if an event at `lsn` had made it. Its stocks get their numbers, if they are not
    /// there yet.
    pub(super) fn order_of(&mut self, image: OrderImage, lsn: Lsn) -> Order {
        let mut stock = |line: &LineImage| self.stocks.number_or_placeholder(&line.sku_id, line.warehouse_id);
        // A stock that was created while the checkpoint ran gets its number now and its levels from the replay.
        let stocks = image.lines.iter().map(&mut stock).collect::<Vec<_>>();
        Order::of_image(image, lsn, &stocks)
    }
}

/// Whether these can be the stocks of a SKU on which nothing holds units, each of a warehouse of its own.
fn check_stocks(sku_id: &SkuId, stocks: &[StockImage]) -> Result<(), String> {
    if !(1..=MAX_WAREHOUSES_PER_SKU).contains(&stocks.len()) {
        return Err(format!(
            "it has {} warehouses and must have 1 to {MAX_WAREHOUSES_PER_SKU}",
            stocks.len()
        ));
    }
    let mut warehouses = BTreeSet::new();
    let mut numbers = 0_u64;
    for image in stocks {
        let wrong = |what: &str| Err(format!("in warehouse {} {what}", image.warehouse_id));
        let levels = &image.levels;
        if image.sku_id != *sku_id || !warehouses.insert(image.warehouse_id) {
            return wrong("is a stock that stands twice or is of another SKU");
        }
        if image.supplied > MAX_STOCK_UNITS
            || sum(&[levels.available, levels.reserved, levels.sold]) != Some(image.supplied)
        {
            return wrong("available, reserved and sold are not what was supplied");
        }
        if levels.reserved > 0 {
            return wrong("units are reserved, and no order that holds units was left out of memory");
        }
        if image.initial > MAX_STOCK_UNITS || !(1..=MAX_STORED_COUNT).contains(&levels.version) {
            return wrong("the first quantity or the version is out of bounds");
        }
        let alike = image.numbered.is_some() == stocks[0].numbered.is_some();
        if !alike || image.numbered.is_some_and(|numbered| numbered < levels.sold) {
            return wrong("the serial numbers given are too few, or other warehouses give none");
        }
        numbers = numbers.saturating_add(image.numbered.unwrap_or(0));
    }
    if numbers <= MAX_STORED_COUNT { Ok(()) } else { Err("too many serial numbers were given".to_owned()) }
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
    let problem = format!("the counts of its order {} make no sense", image.order_no);
    match image.lines.first() {
        Some(line) => Err(Refusal::StockInconsistent { sku_id: line.sku_id.clone(), problem }),
        None => Ok(()),
    }
}

fn sum(units: &[u64]) -> Option<u64> {
    units.iter().try_fold(0_u64, |sum, units| sum.checked_add(*units))
}

pub(super) fn invalid(field: &str, problem: String) -> Refusal {
    InvalidField::new(field, problem).into()
}
