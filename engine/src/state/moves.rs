//! How SKUs come into a shard and leave it: the events of a move, applied.
//!
//! ```text
//!   AdoptionBegun ─▶ Adopting ── OrdersAdopted … ── Adopted ─▶ Open
//!                        ▲ begun again: goes on
//!   Open ── Closed ─▶ Closing ── Shed … ── Withdrawn ─▶ gone
//! ```
//!
//! Every event carries what it needs to repair each entry alone, so that a replay from a fuzzy checkpoint comes out the same: a
//! stock, an order or a request that came back later than the event stays as it is.

use std::collections::BTreeMap;

use super::remembered::StockRequest;
use super::{Corruption, State};
use crate::checkpoint::{OrderImage, RequestImage, Stage, StockImage};
use crate::event::ForgottenSold;
use crate::ids::{Lsn, OrderNo, SkuId};

impl State {
    pub(super) fn begin_adoption(
        &mut self,
        lsn: Lsn,
        sku_id: &SkuId,
        epoch: u64,
        stocks: &[StockImage],
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        for image in stocks {
            let wrong = |what: &str| {
                let problem = format!("SKU {sku_id} in warehouse {}: {what}", image.warehouse_id);
                Err(Corruption::new(lsn, problem))
            };
            if image.sku_id != *sku_id || image.levels.quantity() != image.supplied {
                return wrong("the image makes no sense");
            }
            let number = self.stocks.place(sku_id, image.warehouse_id);
            let stock = self.stocks.get(number);
            if !stock.awaited && stock.lsn >= lsn {
                continue;
            }
            if exact && !stock.awaited && stock.stage != Stage::Adopting {
                return wrong("it is here already");
            }
            if exact && Some(image.forgotten_sold) != image.levels.sold.checked_sub(self.sold_by_orders_on(number)) {
                return wrong("the orders that are here sold other units");
            }
            self.stocks.put(number, &StockImage { epoch, ..image.clone() }, lsn);
            self.set_stage(number, Stage::Adopting);
        }
        if exact && self.stocks.of_sku(sku_id).any(|stock| stock.lsn != lsn) {
            return Err(Corruption::new(lsn, format!("it leaves out a warehouse of SKU {sku_id}")));
        }
        Ok(())
    }

    pub(super) fn adopt_orders(
        &mut self,
        lsn: Lsn,
        sku_id: Option<&SkuId>,
        orders: &[OrderImage],
        requests: &[RequestImage],
    ) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        if exact && sku_id.is_some_and(|sku_id| self.stocks.stage(sku_id) != Some(Stage::Adopting)) {
            return Err(Corruption::new(lsn, "the SKU of these orders is not being adopted"));
        }
        let mut net = BTreeMap::<u32, u64>::new();
        for image in orders {
            let order = self.order_of(image.clone(), lsn);
            for line in &order.lines {
                if exact && self.stocks.get(line.stock).awaited {
                    let problem = format!("order {} lies on a stock that is not here", order.order_no);
                    return Err(Corruption::new(lsn, problem));
                }
                let sold = u64::from(line.confirmed.saturating_sub(line.returned));
                if sold > 0 {
                    *net.entry(line.stock).or_default() += sold;
                }
            }
            self.insert_order(order)?;
        }
        for (number, units) in net {
            let levels = self.stocks.get(number).levels;
            self.change_stock(number, lsn, levels, |stock| {
                let left = stock.forgotten_sold.checked_sub(units);
                // In the store's small states these are not counted.
                stock.forgotten_sold = if exact { left? } else { left.unwrap_or(0) };
                Some(levels)
            })?;
        }
        for image in requests {
            self.remember(StockRequest { lsn, ..StockRequest::from(image.clone()) })?;
        }
        Ok(())
    }

    pub(super) fn finish_adoption(&mut self, lsn: Lsn, sku_id: &SkuId) -> Result<(), Corruption> {
        if lsn > self.exact_from
            && let Some(number) = self.incomplete(sku_id)
        {
            let warehouse_id = self.stocks.get(number).warehouse_id;
            let problem = format!("SKU {sku_id} in warehouse {warehouse_id}: orders that hold units are missing");
            return Err(Corruption::new(lsn, problem));
        }
        self.turn_stage(lsn, sku_id, Stage::Adopting, Stage::Open)
    }

    pub(super) fn close(&mut self, lsn: Lsn, sku_id: &SkuId) -> Result<(), Corruption> {
        self.turn_stage(lsn, sku_id, Stage::Open, Stage::Closing)
    }

    /// All stocks of a SKU go from one stage to the next.
    fn turn_stage(&mut self, lsn: Lsn, sku_id: &SkuId, from: Stage, to: Stage) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let numbers = self.stocks.numbers(sku_id);
        if exact && numbers.is_empty() {
            return Err(Corruption::new(lsn, format!("there is no SKU {sku_id}")));
        }
        for number in numbers {
            let stock = self.stocks.get(number);
            if stock.awaited || stock.lsn >= lsn {
                continue;
            }
            if exact && stock.stage != from {
                return Err(Corruption::new(lsn, format!("SKU {sku_id} is {:?} and not {from:?}", stock.stage)));
            }
            let levels = stock.levels;
            self.change_stock(number, lsn, levels, |_| Some(levels))?;
            self.set_stage(number, to);
        }
        Ok(())
    }

    pub(super) fn shed(
        &mut self,
        lsn: Lsn,
        orders: &[OrderNo],
        sold: &[ForgottenSold],
    ) -> Result<(), Corruption> {
        let mut net = BTreeMap::new();
        for order_no in orders {
            match self.orders.find(order_no) {
                Some((place, order)) if order.lsn < lsn => self.let_go(place, &mut net),
                // It came back before the checkpoint was at its end.
                Some(_) => {}
                None if lsn > self.exact_from => {
                    return Err(Corruption::new(lsn, format!("there is no order {order_no}")));
                }
                None => {}
            }
        }
        self.note_forgotten_sold(lsn, sold, net)
    }

    pub(super) fn withdraw(&mut self, lsn: Lsn, sku_id: &SkuId, epoch: u64) -> Result<(), Corruption> {
        let exact = lsn > self.exact_from;
        let numbers = self.stocks.numbers(sku_id);
        if exact && numbers.is_empty() {
            return Err(Corruption::new(lsn, format!("there is no SKU {sku_id}")));
        }
        for number in numbers {
            let stock = self.stocks.get(number);
            if !stock.awaited && stock.lsn >= lsn {
                continue;
            }
            if exact && (stock.stage != Stage::Closing || stock.epoch != epoch || !stock.orders.is_empty()) {
                return Err(Corruption::new(lsn, format!("SKU {sku_id} can't leave yet: {stock:?}")));
            }
            if stock.orders.is_empty() {
                self.stocks.remove(number);
            } else {
                self.stocks.await_again(number);
            }
        }
        let goes = |request: &StockRequest| request.key.sku_id == *sku_id && request.lsn < lsn;
        let requests = self.requests.places_and_entries();
        let gone: Vec<u32> = requests.filter(|(_, request)| goes(request)).map(|(place, _)| place).collect();
        gone.into_iter().for_each(|place| self.take_request(place));
        Ok(())
    }

    /// Units sold, and not returned, by the orders here that lie on a stock.
    pub(super) fn sold_by_orders_on(&self, number: u32) -> u64 {
        self.sum_on(number, |line| line.confirmed.saturating_sub(line.returned))
    }

    /// A stock of a SKU on which not all orders lie that hold its units.
    pub(super) fn incomplete(&self, sku_id: &SkuId) -> Option<u32> {
        let short = |number: &u32| self.sum_on(*number, |line| line.held) != self.stocks.get(*number).levels.reserved;
        self.stocks.numbers(sku_id).into_iter().find(short)
    }

    fn sum_on(&self, number: u32, count: impl Fn(&super::order::OrderLine) -> u32) -> u64 {
        let lying = self.stocks.get(number).orders.iter();
        let lines = lying.filter_map(|lying| self.orders.get(lying.order)?.lines.get(lying.line as usize));
        lines.map(|line| u64::from(count(line))).sum()
    }
}
