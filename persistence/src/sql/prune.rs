//! What is older than it is kept goes, in small transactions. What it adds up to stays in the stock rows, so that
//! every sum still does.

use std::collections::BTreeMap;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::store::{Prune, Pruned, StoreError};

use super::dialect::{Access, Arg, Dialect, Tx, Update};
use super::error::SqlError;
use super::guards::read_watermarks;
use super::owner::check_epoch;
use super::rows::StockKey;
use super::statements::{execute_in, rows_in, update};
use super::strays::note_pruned;
use super::{SqlStore, Work};

/// See [`Store::prune`](hotstock_engine::store::Store::prune).
pub(super) async fn prune(store: &SqlStore, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    if let Some(before) = prune.orders_before {
        (pruned.orders, pruned.requests) = store.run(&OldOrders { prune, before }).await?;
    }
    let Some(before) = prune.journal_before else { return Ok(pruned) };
    // Around once, from where the last one ended.
    let from = store.prune_from.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let mut starts = vec![from];
    if starts[0].is_some() {
        starts.push(None);
    }
    for from in starts {
        let (count, next) = store.run(&OldJournal { prune, before, from }).await?;
        *store.prune_from.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        pruned.journal += count;
        if count > 0 {
            break;
        }
    }
    Ok(pruned)
}

struct OldOrders<'a> {
    prune: &'a Prune<'a>,
    before: Timestamp,
}

impl Work for OldOrders<'_> {
    type Done = (u64, u64);

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        check_epoch(tx, self.prune.epoch).await?;
        if self.prune.is_ahead_of(&read_watermarks(tx).await?) {
            return Ok((0, 0));
        }
        let order_nos = self.find(tx).await?;
        self.keep_sums(tx, &order_nos).await?;
        for part in ["order_lines", "order_requests", "order_serials", "holds"] {
            execute_in(tx, &format!("DELETE FROM {part} WHERE"), "order_no", &order_nos).await?;
        }
        let orders = execute_in(tx, "DELETE FROM orders WHERE", "order_no", &order_nos).await?;
        let requests = match tx.dialect() {
            Dialect::Sqlite => {
                "DELETE FROM stock_requests WHERE (sku_id, request_id) IN \
                 (SELECT sku_id, request_id FROM stock_requests WHERE at < ? ORDER BY at LIMIT ?)"
            }
            Dialect::MySql => "DELETE FROM stock_requests WHERE at < ? ORDER BY at LIMIT ?",
        };
        let requests = tx.execute(requests, &[self.before.into(), self.prune.max.into()]).await?;
        if orders + requests > 0 {
            note_pruned(tx, self.before).await?;
        }
        Ok((orders, requests))
    }
}

impl OldOrders<'_> {
    /// Orders that go. One over several shards stays until all of them have flushed what it came to: nothing is held
    /// for it any more, and they sold what its lines say. What is still to come changes rows that must be there.
    async fn find(&self, tx: &mut dyn Tx) -> Result<Vec<OrderNo>, SqlError> {
        let lock = tx.dialect().for_update();
        let sql = format!(
            "SELECT o.order_no FROM orders o WHERE o.created_at < ? AND o.changed_at < ? AND o.open = 0 AND (o.span IS NULL OR \
             NOT EXISTS (SELECT 1 FROM holds h WHERE h.order_no = o.order_no AND (h.units <> 0 OR h.serials IS NOT NULL)) \
             AND NOT EXISTS (SELECT 1 FROM order_lines l JOIN stock s ON s.sku_id = l.sku_id AND s.warehouse_id = l.warehouse_id \
             WHERE l.order_no = o.order_no AND s.shard <> o.shard AND l.confirmed - l.returned <> \
             (SELECT COALESCE(SUM(h.sold), 0) FROM holds h WHERE h.order_no = l.order_no AND h.sku_id = l.sku_id \
             AND h.warehouse_id = l.warehouse_id))) ORDER BY o.created_at LIMIT ?{lock}"
        );
        let args = [self.before.into(), self.before.into(), self.prune.max.into()];
        let rows = tx.rows(&sql, &args).await?;
        let mut order_nos =
            rows.iter().map(|row| row.fields().order_no()).collect::<Result<Vec<_>, StoreError>>()?;
        order_nos.sort_unstable();
        Ok(order_nos)
    }

    /// What they sold stays in the stock rows: of each the lines in its own shard, and what others hold for it.
    async fn keep_sums(&self, tx: &mut dyn Tx, order_nos: &[OrderNo]) -> Result<(), SqlError> {
        let mut sold: BTreeMap<StockKey, i64> = BTreeMap::new();
        let of_lines = "SELECT l.sku_id, l.warehouse_id, CAST(SUM(l.confirmed - l.returned) AS SIGNED) FROM order_lines l \
                        JOIN orders o ON o.order_no = l.order_no \
                        JOIN stock s ON s.sku_id = l.sku_id AND s.warehouse_id = l.warehouse_id \
                        WHERE (o.span IS NULL OR o.shard = s.shard) AND";
        let of_holds = "SELECT l.sku_id, l.warehouse_id, CAST(SUM(l.sold) AS SIGNED) FROM holds l WHERE";
        for head in [of_lines, of_holds] {
            let tail = " GROUP BY l.sku_id, l.warehouse_id";
            for row in rows_in(tx, head, "l.order_no", order_nos, tail).await? {
                let f = &mut row.fields();
                let (key, units) = ((f.id(SkuId::new)?, f.warehouse()?), f.int()?);
                *sold.entry(key).or_default() += units;
            }
        }
        let keep = Update {
            table: "stock",
            keys: &["sku_id", "warehouse_id"],
            sets: &["pruned_sold = pruned_sold + v.n_units"],
            values: &["sku_id", "warehouse_id", "units"],
            bytes: &[],
        };
        let rows = sold.iter().filter(|(_, units)| **units != 0);
        let rows = rows.map(|((sku_id, warehouse_id), units)| {
            vec![sku_id.into(), (*warehouse_id).into(), (*units).into()]
        });
        update(tx, &keep, rows.collect()).await.map(drop)
    }
}

struct OldJournal<'a> {
    prune: &'a Prune<'a>,
    before: Timestamp,
    /// Stocks after this one.
    from: Option<StockKey>,
}

impl Work for OldJournal<'_> {
    /// Rows that went, and where to go on; `None`: from the first stock.
    type Done = (u64, Option<StockKey>);

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        check_epoch(tx, self.prune.epoch).await?;
        if self.prune.is_ahead_of(&read_watermarks(tx).await?) {
            return Ok((0, None));
        }
        // The journal has no index by time, which every flush would pay for: what is old stands at the front of each
        // stock's rows. Those that have nothing to prune are passed over in one statement.
        let (sku_id, warehouse_id) = match &self.from {
            Some((sku_id, warehouse_id)) => (sku_id.into(), i64::from(warehouse_id.0)),
            None => (Arg::from(""), -1),
        };
        let sql = "SELECT s.sku_id, s.warehouse_id, s.version, s.pruned_version FROM stock s \
             JOIN stock_journal j ON j.sku_id = s.sku_id AND j.warehouse_id = s.warehouse_id AND j.version = s.pruned_version + 1 \
             WHERE s.sku_id >= ? AND (s.sku_id > ? OR s.warehouse_id > ?) AND s.version > s.pruned_version + 1 AND j.at < ? \
             ORDER BY s.sku_id, s.warehouse_id LIMIT ?";
        let args = [sku_id.clone(), sku_id, warehouse_id.into(), self.before.into(), MAX_STOCKS.into()];
        let found = tx.rows(sql, &args).await?;
        let (mut count, mut next) = (0, None);
        for row in &found {
            let left = self.prune.max.saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            if left == 0 {
                return Ok((count, next));
            }
            let f = &mut row.fields();
            let key = (f.id(SkuId::new)?, f.warehouse()?);
            let (version, pruned) = (f.count()?, f.count()?);
            count += self.prune_stock(tx, &key, version, pruned, left).await?;
            next = Some(key);
        }
        Ok((count, next.filter(|_| found.len() == MAX_STOCKS)))
    }
}

/// Stocks in one transaction.
const MAX_STOCKS: usize = 100;

impl OldJournal<'_> {
    async fn prune_stock(
        &self,
        tx: &mut dyn Tx,
        (sku_id, warehouse_id): &(SkuId, WarehouseId),
        version: u64,
        pruned: u64,
        max: usize,
    ) -> Result<u64, SqlError> {
        let sql = "SELECT COUNT(*), COALESCE(MAX(version), 0), CAST(COALESCE(SUM(d_available), 0) AS SIGNED), \
             CAST(COALESCE(SUM(d_reserved), 0) AS SIGNED), CAST(COALESCE(SUM(d_sold), 0) AS SIGNED) FROM \
             (SELECT version, d_available, d_reserved, d_sold FROM stock_journal \
             WHERE sku_id = ? AND warehouse_id = ? AND version > ? AND version < ? AND at < ? ORDER BY version LIMIT ?) old";
        let stock = || [Arg::from(sku_id), (*warehouse_id).into()];
        let args = stock().into_iter().chain([pruned.into(), version.into(), self.before.into(), max.into()]);
        let rows = tx.rows(sql, &args.collect::<Vec<_>>()).await?;
        let Some(row) = rows.first() else { return Ok(0) };
        let f = &mut row.fields();
        let (count, last) = (f.count()?, f.count()?);
        let deltas = [f.int()?, f.int()?, f.int()?];
        // Only rows that follow each other from the first on.
        if count == 0 || last != pruned + count {
            return Ok(0);
        }
        let delete = "DELETE FROM stock_journal WHERE sku_id = ? AND warehouse_id = ? AND version <= ?";
        tx.execute(delete, &stock().into_iter().chain([last.into()]).collect::<Vec<_>>()).await?;
        let keep = "UPDATE stock SET pruned_version = ?, pruned_available = pruned_available + ?, \
             pruned_reserved = pruned_reserved + ?, pruned_sold_delta = pruned_sold_delta + ? \
             WHERE sku_id = ? AND warehouse_id = ? AND pruned_version = ?";
        let args =
            [last.into()].into_iter().chain(deltas.map(Arg::from)).chain(stock()).chain([pruned.into()]);
        if tx.execute(keep, &args.collect::<Vec<_>>()).await? == 0 {
            return Err(SqlError::Retry("the stock was repaired meanwhile".to_owned()));
        }
        Ok(count)
    }
}
