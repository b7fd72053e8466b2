//! The rows of what a shard holds for orders that other shards decide. They follow from its own events, so they fit
//! the rows of its stocks in every snapshot, whatever the shard of the order has flushed.

use std::collections::BTreeSet;

use hotstock_engine::ids::{AttemptId, OrderNo, SkuId, WarehouseId};
use hotstock_engine::image::HoldLineImage;

use super::super::dialect::{Arg, Existing, Update};
use super::super::error::SqlError;
use super::super::rows::{HOLDS, hold_rows, serials_arg};
use super::super::statements::{execute_any, rows_of_any, update};
use super::Writing;
use super::rows::Rows;

/// A row of a hold that the store had already when a shard held. It is written over.
const HOLD_EXISTS: &str = "hold_exists";

/// A row of a hold that a shard changes and the store does not have.
const HOLD_MISSING: &str = "hold_missing";

const CHANGE_HOLDS: Update = Update {
    table: "holds",
    keys: &["order_no", "attempt", "sku_id", "warehouse_id"],
    sets: &[
        "seq = v.n_seq",
        "units = v.n_units",
        "sold = v.n_sold",
        "serials = v.n_serials",
        "lsn = v.n_lsn",
    ],
    values: &["order_no", "attempt", "sku_id", "warehouse_id", "seq", "units", "sold", "serials", "lsn"],
    bytes: &["serials"],
};

/// What names a row.
type Key = (OrderNo, AttemptId, SkuId, WarehouseId);

impl Writing<'_> {
    pub(super) async fn holds(&mut self, rows: &Rows) -> Result<(), SqlError> {
        let lines = || rows.held.values().flat_map(|hold| hold.lines.iter().map(move |line| (hold, line)));
        let keys: Vec<Key> = lines().map(|(hold, line)| key(&hold.order_no, hold.attempt, line)).collect();
        if self.careful {
            for (order_no, _, sku_id, warehouse_id) in self.those_there(&keys).await? {
                let detail = format!(
                    "the store had a row of what warehouse {warehouse_id} holds for it; the shard holds it anew, and the row is \
                     written over"
                );
                self.anomaly(HOLD_EXISTS, self.last, Some(&order_no), Some(&sku_id), detail);
            }
        }
        let existing = if self.careful { Existing::Replaced } else { Existing::Refused };
        let made = rows.held.values().flat_map(|hold| hold_rows(hold, self.shard)).collect();
        self.insert(&HOLDS, existing, made, &|place| Some(keys[place].2.clone())).await?;
        self.changed_holds(rows).await
    }

    async fn changed_holds(&mut self, rows: &Rows) -> Result<(), SqlError> {
        let (mut keys, mut changed) = (Vec::new(), Vec::new());
        for ((order_no, attempt), hold) in &rows.changed_holds {
            for line in hold.lines.values() {
                keys.push(key(order_no, *attempt, line));
                changed.push(vec![
                    order_no.into(),
                    (*attempt).into(),
                    (&line.sku_id).into(),
                    line.warehouse_id.into(),
                    hold.seq.into(),
                    line.units.into(),
                    line.sold.into(),
                    serials_arg(&line.serials),
                    hold.lsn.into(),
                ]);
            }
        }
        let written = update(self.tx, &CHANGE_HOLDS, changed).await?;
        self.count += written.count;
        if written.count < keys.len() as u64 {
            let there = self.those_there(&keys).await?;
            for missing in keys.iter().filter(|key| !there.contains(key)) {
                let (order_no, _, sku_id, warehouse_id) = missing;
                let detail = format!(
                    "the shard changes what warehouse {warehouse_id} holds for it, which the store does not have"
                );
                self.anomaly(HOLD_MISSING, self.last, Some(order_no), Some(sku_id), detail);
            }
        }
        self.refused(HOLDS.name, written, &|place| Some(keys[place].2.clone()))?;
        let over = rows.changed_holds.iter().filter(|(_, hold)| hold.is_over);
        let over =
            over.map(|((order_no, attempt), _)| vec![order_no.into(), (*attempt).into(), self.shard.into()]);
        let one = "(order_no = ? AND attempt = ? AND shard = ?)";
        self.count +=
            execute_any(self.tx, "DELETE FROM holds WHERE sold = 0 AND", one, over.collect()).await?;
        Ok(())
    }

    /// Those of these rows that the store has.
    async fn those_there(&mut self, keys: &[Key]) -> Result<BTreeSet<Key>, SqlError> {
        let args = keys.iter().map(|(order_no, attempt, sku_id, warehouse_id)| {
            vec![order_no.into(), (*attempt).into(), sku_id.into(), (*warehouse_id).into()]
        });
        let one = "(order_no = ? AND attempt = ? AND sku_id = ? AND warehouse_id = ?)";
        let head = "SELECT order_no, attempt, sku_id, warehouse_id FROM holds WHERE";
        let mut there = BTreeSet::new();
        for row in rows_of_any(self.tx, head, one, args.collect::<Vec<Vec<Arg>>>(), "").await? {
            let f = &mut row.fields();
            there.insert((f.order_no()?, f.attempt()?, f.id(SkuId::new)?, f.warehouse()?));
        }
        Ok(there)
    }
}

fn key(order_no: &OrderNo, attempt: AttemptId, line: &HoldLineImage) -> Key {
    (order_no.clone(), attempt, line.sku_id.clone(), line.warehouse_id)
}
