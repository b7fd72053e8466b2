//! Decisions about stock: create, restock, deduct, adjust, suspend, resume.

use super::decision::{Decided, Verdict};
use super::remembered::RequestKey;
use super::shard_state::State;
use crate::base::ids::{SkuId, WarehouseId};
use crate::base::limits::{MAX_STOCK_UNITS, MAX_WAREHOUSES_PER_SKU};
use crate::contract::command::{
    ChangeKind, ChangeStock, CreateStock, InvalidField, SetStatus, change_fingerprint,
};
use crate::contract::event::Change;
use crate::contract::outcome::{Answer, Effect, Refusal, ShortLine, StockView};
use crate::contract::units::{Delta, Levels};

impl State {
    pub(super) fn decide_create(&self, c: &CreateStock) -> Decided {
        if let Some(number) = self.stocks.find(&c.sku_id, c.warehouse_id) {
            let stock = self.stocks.get(number);
            if stock.initial != c.quantity {
                return Err(Refusal::StockExists { initial: stock.initial, stock: stock.view() });
            }
            same_numbering(stock, c)?;
            return Ok(Verdict::Nothing(Answer::Stock { stock: stock.view(), effect: Effect::Replayed }));
        }
        if let Some(other) = self.stocks.of_sku(&c.sku_id).next() {
            same_numbering(other, c)?;
        }
        if self.stocks.of_sku(&c.sku_id).count() >= MAX_WAREHOUSES_PER_SKU {
            let problem = format!("would be more than {MAX_WAREHOUSES_PER_SKU} warehouses of one SKU");
            return Err(InvalidField::new("warehouse_id", problem).into());
        }
        Ok(Verdict::Change(Change::StockCreated {
            sku_id: c.sku_id.clone(),
            warehouse_id: c.warehouse_id,
            quantity: c.quantity,
            serialized: c.serialized,
        }))
    }

    pub(super) fn decide_change(&self, c: &ChangeStock) -> Decided {
        let key = RequestKey { sku_id: c.sku_id.clone(), request_id: c.request_id.clone() };
        if let Some(request) = self.requests.by_key(&key) {
            if request.fingerprint != change_fingerprint(c.kind, c.warehouse_id, c.quantity) {
                return Err(Refusal::RequestMismatch);
            }
            let stock = StockView { levels: request.after, ..self.stock(&c.sku_id, c.warehouse_id)?.view() };
            return Ok(Verdict::Nothing(Answer::Stock { stock, effect: Effect::Replayed }));
        }
        let stock = self.stock(&c.sku_id, c.warehouse_id)?;
        let delta = if c.kind == ChangeKind::Deduct { -c.quantity } else { c.quantity };
        if stock.levels.available.checked_add_signed(delta).is_none() {
            return Err(Refusal::InsufficientStock {
                lines: vec![ShortLine {
                    sku_id: c.sku_id.clone(),
                    warehouse_id: c.warehouse_id,
                    requested: c.quantity.unsigned_abs(),
                    available: stock.levels.available,
                }],
            });
        }
        let after = stock.levels.after(Delta::supply(delta)).ok_or_else(|| {
            let problem = format!("would make the stock larger than {MAX_STOCK_UNITS} units");
            InvalidField::new("quantity", problem)
        })?;
        Ok(Verdict::Change(Change::StockChanged {
            sku_id: c.sku_id.clone(),
            warehouse_id: c.warehouse_id,
            kind: c.kind,
            delta,
            request_id: c.request_id.clone(),
            reason: c.reason.clone(),
            after,
        }))
    }

    pub(super) fn decide_status(&self, c: &SetStatus) -> Decided {
        let named = |warehouse_id| c.warehouse_id.is_none_or(|only| only == warehouse_id);
        let mut stocks: Vec<_> = self.stocks.of_sku(&c.sku_id).filter(|s| named(s.warehouse_id)).collect();
        stocks.sort_by_key(|stock| stock.warehouse_id);
        if stocks.is_empty() {
            return Err(Refusal::UnknownSku { sku_id: c.sku_id.clone(), warehouse_id: c.warehouse_id });
        }
        if stocks.iter().all(|stock| stock.status == c.status) {
            let stocks = stocks.into_iter().map(super::stock::Stock::view).collect();
            return Ok(Verdict::Nothing(Answer::Sku { stocks, effect: Effect::Replayed }));
        }
        // Those that have the status already are named too, so that the answer shows all that was asked for.
        let after = |levels: Levels| levels.after(Delta::default()).expect("no unit moves");
        let warehouses = stocks.iter().map(|stock| (stock.warehouse_id, after(stock.levels))).collect();
        Ok(Verdict::Change(Change::StatusChanged { sku_id: c.sku_id.clone(), warehouses, status: c.status }))
    }

    fn stock(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Result<&super::stock::Stock, Refusal> {
        let number = self.stock_number(sku_id, warehouse_id)?;
        Ok(self.stocks.get(number))
    }

    /// The number of a stock, or that there is none.
    pub(super) fn stock_number(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Result<u32, Refusal> {
        self.stocks
            .find(sku_id, warehouse_id)
            .ok_or_else(|| Refusal::UnknownSku { sku_id: sku_id.clone(), warehouse_id: Some(warehouse_id) })
    }
}

/// All stocks of a SKU number their units, or none does.
fn same_numbering(known: &super::stock::Stock, c: &CreateStock) -> Result<(), InvalidField> {
    let serialized = known.numbered.is_some();
    if serialized == c.serialized {
        return Ok(());
    }
    Err(InvalidField::new("serialized", format!("must be {serialized}, as SKU {} was created", c.sku_id)))
}
