//! The store's own accounts: stocks counted in several ways, rows put right, anomalies.

use std::collections::HashMap;

use hotstock_engine::checkpoint::StockImage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{MoveKind, StockMove};
use hotstock_engine::ids::{Lsn, OrderNo, Reason, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_STOCK_UNITS;
use hotstock_engine::outcome::Levels;
use hotstock_engine::state::Delta;
use hotstock_engine::store::{Anomaly, JournalRow, Repaired, StockBooks, StoreError, Suspect};

use super::dialect::{Access, Arg, Existing, Row, Tx};
use super::error::{SqlError, broken};
use super::flush::note;
use super::pages::skus_after;
use super::rows::{self, Lock, STOCK, STOCK_JOURNAL, StockEntry, StockKey, load_skus, load_stocks};
use super::statements::{rows_in, write};
use super::{SqlStore, Work};

/// See [`Store::books`](hotstock_engine::store::Store::books).
pub(super) async fn books(
    store: &SqlStore,
    after: Option<&SkuId>,
    limit: usize,
) -> Result<Vec<StockBooks>, StoreError> {
    store.run(&Books { after, limit }).await
}

/// See [`Store::repair`](hotstock_engine::store::Store::repair).
pub(super) async fn repair(
    store: &SqlStore,
    sku_id: &SkuId,
    warehouse_id: WarehouseId,
    now: Timestamp,
) -> Result<Option<Repaired>, StoreError> {
    let key = (sku_id.clone(), warehouse_id);
    store.run(&Repair { key: &key, now }).await
}

/// See [`Store::anomalies`](hotstock_engine::store::Store::anomalies).
pub(super) async fn anomalies(store: &SqlStore, max: usize) -> Result<(u64, Vec<Anomaly>), StoreError> {
    store.run(&Anomalies { max }).await
}

/// See [`Store::suspects`](hotstock_engine::store::Store::suspects).
pub(super) async fn suspects(
    store: &SqlStore,
    sku_id: &SkuId,
    warehouse_id: WarehouseId,
    max: usize,
) -> Result<Vec<Suspect>, StoreError> {
    store.run(&Suspects { sku_id, warehouse_id, max }).await
}

/// The anomaly that tells of a repair.
const REPAIRED: &str = "repaired";

struct Books<'a> {
    after: Option<&'a SkuId>,
    limit: usize,
}

/// What the journal of a stock sums up to.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    moved: [i64; 3],
    rows: u64,
    version: u64,
}

impl Work for Books<'_> {
    type Done = Vec<StockBooks>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<StockBooks>, SqlError> {
        let skus = skus_after(tx, self.after, self.limit).await?;
        let stocks = load_skus(tx, &skus, Lock::No).await?;
        let sums = journal_sums(tx, &skus).await?;
        let last = last_levels(tx, &skus).await?;
        let head = "SELECT sku_id, warehouse_id, CAST(SUM(held) AS SIGNED), \
             CAST(SUM(confirmed - returned) AS SIGNED) FROM order_lines WHERE";
        let by_stock = " GROUP BY sku_id, warehouse_id";
        let orders =
            keyed(&rows_in(tx, head, "sku_id", &skus, by_stock).await?, |f| Ok((f.count()?, f.count()?)))?;

        let of_stock = |stock: StockEntry| {
            let key = stock.key();
            let sums = sums.get(&key).copied().unwrap_or_default();
            let (held_by_orders, sold_by_orders) = orders.get(&key).copied().unwrap_or_default();
            StockBooks {
                row: stock.stock_row(),
                supplied: stock.image.supplied,
                journal: sums.moved,
                journal_rows: sums.rows,
                journal_version: sums.version,
                journal_after: last.get(&key).copied(),
                held_by_orders,
                sold_by_orders,
            }
        };
        Ok(stocks.into_iter().map(of_stock).collect())
    }
}

/// The journals of SKUs, summed up by stock.
async fn journal_sums(tx: &mut dyn Tx, skus: &[SkuId]) -> Result<HashMap<StockKey, Sums>, SqlError> {
    let head = "SELECT sku_id, warehouse_id, CAST(SUM(d_available) AS SIGNED), CAST(SUM(d_reserved) AS SIGNED), \
         CAST(SUM(d_sold) AS SIGNED), COUNT(*), MAX(version) FROM stock_journal WHERE";
    let rows = rows_in(tx, head, "sku_id", skus, " GROUP BY sku_id, warehouse_id").await?;
    let sums = keyed(&rows, |f| {
        Ok(Sums { moved: [f.int()?, f.int()?, f.int()?], rows: f.count()?, version: f.count()? })
    });
    Ok(sums?)
}

/// The levels in the last row of each journal.
async fn last_levels(tx: &mut dyn Tx, skus: &[SkuId]) -> Result<HashMap<StockKey, Levels>, SqlError> {
    let head = "SELECT j.sku_id, j.warehouse_id, j.available, j.reserved, j.sold, j.version FROM stock_journal j \
         JOIN (SELECT sku_id, warehouse_id, MAX(version) AS version FROM stock_journal WHERE";
    let tail = " GROUP BY sku_id, warehouse_id) m \
         ON j.sku_id = m.sku_id AND j.warehouse_id = m.warehouse_id AND j.version = m.version";
    let rows = rows_in(tx, head, "sku_id", skus, tail).await?;
    Ok(keyed(&rows, rows::levels)?)
}

/// Rows that begin with the name of a stock.
fn keyed<T>(
    rows: &[Row],
    value: impl Fn(&mut super::dialect::Fields<'_>) -> Result<T, StoreError>,
) -> Result<HashMap<StockKey, T>, StoreError> {
    let entry = |row: &Row| {
        let f = &mut row.fields();
        let key = (f.id(SkuId::new)?, f.warehouse()?);
        Ok((key, value(f)?))
    };
    rows.iter().map(entry).collect()
}

struct Repair<'a> {
    key: &'a StockKey,
    now: Timestamp,
}

impl Work for Repair<'_> {
    type Done = Option<Repaired>;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Option<Repaired>, SqlError> {
        let (sku_id, warehouse_id) = self.key;
        let stocks = load_stocks(tx, std::slice::from_ref(self.key), Lock::Yes).await?;
        let Some(stock) = stocks.into_iter().next() else { return Ok(None) };
        let skus = std::slice::from_ref(sku_id);
        // Without a journal there is nothing to go by.
        let Some(sums) = journal_sums(tx, skus).await?.remove(self.key) else { return Ok(None) };
        let before = stock.image.levels;
        let after = Levels { version: sums.version, ..levels_of(sums)? };
        if before == after && stock.image.supplied == after.quantity() {
            return Ok(None);
        }
        let Levels { available, reserved, sold, version } = before;
        let reason =
            format!("was {available} available, {reserved} reserved, {sold} sold, version {version}");
        let at = self.now.max(stock.changed_at);
        if let Some(owner) = stock.owner {
            // The next version is the shard's, so the journal can't tell of it. The row is locked: no flush comes between.
            let anomaly = Anomaly {
                at,
                kind: REPAIRED.to_owned(),
                source: Some((owner.server, owner.shard, stock.lsn)),
                order_no: None,
                sku_id: Some(sku_id.clone()),
                detail: format!(
                    "the row of warehouse {warehouse_id} {reason}; written as its journal sums up"
                ),
            };
            note(tx, vec![anomaly]).await?;
            let image = StockImage { levels: after, supplied: after.quantity(), ..stock.image };
            write(tx, &STOCK, Existing::Replaced, vec![rows::stock_row(&StockEntry { image, ..stock })])
                .await?;
            return Ok(Some(Repaired { before, after }));
        }
        // The repair is a change of the stock too, of no units: its journal was right.
        let after = Levels { version: after.version + 1, ..after };
        let change = StockMove {
            sku_id: sku_id.clone(),
            warehouse_id: *warehouse_id,
            kind: MoveKind::Repaired,
            order_no: None,
            request_id: None,
            reason: Reason::new(&reason).ok(),
            delta: Delta::default(),
            after,
            serials: None,
        };
        let row = JournalRow { change, at, trace: None, source: None };
        write(tx, &STOCK_JOURNAL, Existing::Refused, vec![rows::journal_row(&row)]).await?;
        let image = StockImage { levels: after, supplied: after.quantity(), ..stock.image };
        let entry = StockEntry { image, owner: None, lsn: Lsn::ZERO, changed_at: at };
        // It is locked, and has no owner.
        write(tx, &STOCK, Existing::Replaced, vec![rows::stock_row(&entry)]).await?;
        Ok(Some(Repaired { before, after }))
    }
}

/// The levels that a journal sums up to, without version.
fn levels_of(sums: Sums) -> Result<Levels, StoreError> {
    let [available, reserved, sold] = sums.moved.map(u64::try_from);
    let fits = |levels: &Levels| levels.quantity() <= MAX_STOCK_UNITS;
    match (available, reserved, sold) {
        (Ok(available), Ok(reserved), Ok(sold)) => {
            Some(Levels { available, reserved, sold, version: 0 }).filter(fits)
        }
        _ => None,
    }
    .ok_or_else(|| broken(format!("the journal sums up to {:?}, which no stock can have", sums.moved)))
}

struct Suspects<'a> {
    sku_id: &'a SkuId,
    warehouse_id: WarehouseId,
    max: usize,
}

impl Work for Suspects<'_> {
    type Done = Vec<Suspect>;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<Suspect>, SqlError> {
        // Both sides added up by order, so that an order which only one of them knows is found too; branches with their order, which
        // may have been in one place before.
        let order_no = tx.dialect().of_caller("order_no");
        let sql = format!(
            "SELECT order_no, CAST(SUM(held) AS SIGNED), CAST(SUM(j_held) AS SIGNED), CAST(SUM(sold) AS SIGNED), \
             CAST(SUM(j_sold) AS SIGNED) FROM ( \
             SELECT {order_no} AS order_no, held, 0 AS j_held, confirmed - returned AS sold, 0 AS j_sold FROM order_lines \
             WHERE sku_id = ? AND warehouse_id = ? \
             UNION ALL SELECT {order_no}, 0, d_reserved, 0, d_sold FROM stock_journal \
             WHERE sku_id = ? AND warehouse_id = ? AND order_no IS NOT NULL) both_sides \
             GROUP BY order_no HAVING SUM(held) <> SUM(j_held) OR SUM(sold) <> SUM(j_sold) ORDER BY order_no LIMIT ?"
        );
        let stock = || [Arg::from(self.sku_id), self.warehouse_id.into()];
        let args = stock().into_iter().chain(stock()).chain([self.max.into()]).collect();
        let suspect = |row: &Row| {
            let f = &mut row.fields();
            let order_no = f.order_no()?;
            let (held, j_held, sold, j_sold) = (f.count()?, f.int()?, f.count()?, f.int()?);
            Ok(Suspect { order_no, held: (held, j_held), sold: (sold, j_sold) })
        };
        Ok(tx.rows(&sql, args).await?.iter().map(suspect).collect::<Result<_, StoreError>>()?)
    }
}

struct Anomalies {
    max: usize,
}

impl Work for Anomalies {
    type Done = (u64, Vec<Anomaly>);

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let count = tx.rows("SELECT COUNT(*) FROM anomalies", Vec::new()).await?;
        let count = count.first().map_or(Ok(0), |row| row.fields().count())?;
        let newest = "SELECT at, kind, server, shard, lsn, order_no, sku_id, detail FROM anomalies \
             ORDER BY id DESC LIMIT ?";
        let rows = tx.rows(newest, vec![self.max.into()]).await?;
        let anomalies = rows.iter().map(anomaly).collect::<Result<_, _>>()?;
        Ok((count, anomalies))
    }
}

fn anomaly(row: &Row) -> Result<Anomaly, StoreError> {
    let f = &mut row.fields();
    let (at, kind) = (f.time()?, f.text()?.to_owned());
    let (server, shard) = (f.server_or_null()?, f.shard_or_null()?);
    let lsn = f.int_or_null()?.map(|lsn| Lsn(lsn.unsigned_abs()));
    Ok(Anomaly {
        at,
        kind,
        source: server.zip(shard).zip(lsn).map(|((server, shard), lsn)| (server, shard, lsn)),
        order_no: f.id_or_null(OrderNo::stored)?,
        sku_id: f.id_or_null(SkuId::new)?,
        detail: f.text()?.to_owned(),
    })
}
