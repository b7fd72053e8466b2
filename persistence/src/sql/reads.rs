//! Reads: stocks, orders by number, the stock journal, and what is asked for at a start.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{OrderNo, RequestId, SkuId, WarehouseId};
use hotstock_engine::outcome::{OrderView, StockView};
use hotstock_engine::store::{JournalRow, OrderFilter, Snapshot, StoreError, StoredHold};

use super::Work;
use super::dialect::{Access, Arg, Row, Tx};
use super::error::SqlError;
use super::guards::{BEFORE_GUARDS, read_watermarks};
use super::rows::{
    HoldKey, STOCK, STOCK_JOURNAL, columns_of, find_orders, journal_entry, named, order_status_name, select,
    stock_image, stock_view, stored_holds,
};
use super::statements::marks;
use crate::limits::MAX_WAREHOUSES_PER_STATEMENT;

/// The text of an id to start after; nothing is named "", so everything is above it.
pub(super) fn after_text<T>(after: Option<&T>, text: fn(&T) -> &str) -> Arg {
    Arg::from(after.map_or("", text))
}

/// See [`Store::stock`](hotstock_engine::store::Store::stock).
pub(super) struct Stock<'a> {
    pub sku_id: &'a SkuId,
    pub warehouse_id: Option<WarehouseId>,
}

impl Work for Stock<'_> {
    type Done = Snapshot<Vec<StockView>>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let mut sql = format!("{} sku_id = ?", select(&STOCK));
        let mut args = vec![self.sku_id.into()];
        if let Some(warehouse_id) = self.warehouse_id {
            sql.push_str(" AND warehouse_id = ?");
            args.push(warehouse_id.into());
        }
        sql.push_str(" ORDER BY warehouse_id");
        Ok(Snapshot { watermarks, rows: read(tx, &sql, &args, view).await? })
    }
}

fn view(row: &Row) -> Result<StockView, StoreError> {
    stock_image(&mut row.fields()).map(stock_view)
}

/// Asks and reads each row.
pub(super) async fn read<T: Send>(
    tx: &mut dyn Tx,
    sql: &str,
    args: &[Arg],
    of: fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, SqlError> {
    Ok(tx.rows(sql, args).await?.iter().map(of).collect::<Result<_, _>>()?)
}

/// Up to `limit` SKUs after `after`, each with its rows by warehouse: `select` reads them from the table of stocks,
/// `s`, and `of` reads one. `None`: the row is left out. A SKU of which a row can't be read is left out and named in
/// the log.
pub(super) async fn page_of_skus<T: Send>(
    tx: &mut dyn Tx,
    select: &str,
    after: Option<&SkuId>,
    limit: usize,
    of: impl Fn(&Row) -> Result<Option<T>, StoreError> + Send + Sync,
) -> Result<Vec<Vec<T>>, SqlError> {
    let sql = format!(
        "{select} JOIN (SELECT sku_id FROM stock WHERE sku_id > ? AND sku_id {BEFORE_GUARDS} GROUP BY sku_id ORDER BY sku_id LIMIT ?) page \
         ON page.sku_id = s.sku_id ORDER BY s.sku_id, s.warehouse_id"
    );
    let mut after = after.map_or("", SkuId::as_str).to_owned();
    let mut skus = Vec::new();
    loop {
        // More are read in the place of those that were left out.
        let (wanted, mut found) = (limit - skus.len(), 0);
        let rows = tx.rows(&sql, &[after.as_str().into(), wanted.into()]).await?;
        let mut rows = rows.iter().peekable();
        while let Some(row) = rows.peek() {
            after = row.fields().text()?.to_owned();
            found += 1;
            let is_same = |row: &&Row| row.fields().text().is_ok_and(|name| name == after);
            let mut sku: Result<Vec<T>, StoreError> = Ok(Vec::new());
            while let Some(row) = rows.next_if(|row| is_same(row)) {
                sku = sku.and_then(|mut stocks| {
                    stocks.extend(of(row)?);
                    Ok(stocks)
                });
            }
            match sku {
                Ok(stocks) if stocks.is_empty() => {}
                Ok(stocks) => skus.push(stocks),
                Err(error) => {
                    tracing::warn!(sku_id = after, %error, "the stored rows of a SKU can't be read; it is left out");
                }
            }
        }
        if found < wanted || skus.len() >= limit {
            return Ok(skus);
        }
    }
}

/// See [`Store::stock_page`](hotstock_engine::store::Store::stock_page).
pub(super) struct StockPage<'a> {
    pub after: Option<&'a SkuId>,
    pub limit: usize,
}

impl Work for StockPage<'_> {
    type Done = Snapshot<Vec<Vec<StockView>>>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let select = format!("SELECT {} FROM stock s", columns_of(&STOCK, "s"));
        let rows = page_of_skus(tx, &select, self.after, self.limit, |row| view(row).map(Some)).await?;
        Ok(Snapshot { watermarks, rows })
    }
}

/// See [`Store::list`](hotstock_engine::store::Store::list).
pub(super) struct List<'a> {
    pub filter: &'a OrderFilter,
    pub after: Option<&'a OrderNo>,
    pub limit: usize,
}

impl Work for List<'_> {
    type Done = Snapshot<Vec<OrderView>>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let mut orders = Vec::new();
        let mut after = self.after.cloned();
        loop {
            // More are read in the place of those that were left out.
            let wanted = self.limit - orders.len();
            let mut order_nos: Vec<_> = self.numbers(tx, after.as_ref(), wanted).await?.into_iter().collect();
            order_nos.truncate(wanted);
            let found = find_orders(tx, &order_nos, "").await?;
            orders.extend(found.readable().iter().map(|order| order.image.view()));
            if order_nos.len() < wanted || orders.len() >= self.limit {
                return Ok(Snapshot { watermarks, rows: orders });
            }
            after = order_nos.pop();
        }
    }
}

impl List<'_> {
    /// The numbers on the page, and perhaps some after them.
    async fn numbers(
        &self,
        tx: &mut dyn Tx,
        after: Option<&OrderNo>,
        limit: usize,
    ) -> Result<BTreeSet<OrderNo>, SqlError> {
        let statuses: Vec<_> =
            self.filter.status.iter().map(|status| Arg::from(order_status_name(*status))).collect();
        let (after, limit) = (after_text(after, OrderNo::as_str), Arg::from(limit));
        let Some(sku_id) = &self.filter.sku_id else {
            if statuses.is_empty() {
                let sql = format!(
                    "SELECT order_no FROM orders WHERE order_no > ? AND order_no {BEFORE_GUARDS} ORDER BY order_no LIMIT ?"
                );
                return Ok(read(tx, &sql, &[after, limit], number).await?.into_iter().collect());
            }
            let ranges = statuses.into_iter().flat_map(|status| [(false, status.clone()), (true, status)]);
            return numbers_in(tx, ranges.collect(), &after, &limit).await;
        };
        let status = match statuses.len() {
            0 => String::new(),
            count => format!("AND o.status IN ({}) ", marks(count)),
        };
        let sql = format!(
            "SELECT l.order_no FROM order_lines l JOIN orders o ON o.order_no = l.order_no \
             WHERE l.sku_id = ? AND l.order_no > ? {status}GROUP BY l.order_no ORDER BY l.order_no LIMIT ?"
        );
        let args = [sku_id.into(), after].into_iter().chain(statuses).chain([limit]);
        Ok(read(tx, &sql, &args.collect::<Vec<_>>(), number).await?.into_iter().collect())
    }
}

pub(super) fn number(row: &Row) -> Result<OrderNo, StoreError> {
    row.fields().order_no()
}

/// Numbers of orders that are open or not and have a status, up to `limit` of each after `after`. Each is a range of an
/// index, read from its place on.
async fn numbers_in(
    tx: &mut dyn Tx,
    ranges: Vec<(bool, Arg)>,
    after: &Arg,
    limit: &Arg,
) -> Result<BTreeSet<OrderNo>, SqlError> {
    let mut numbers = BTreeSet::new();
    for (open, status) in ranges {
        let sql = "SELECT order_no FROM orders WHERE open = ? AND status = ? AND order_no > ? ORDER BY order_no LIMIT ?";
        let args = [open.into(), status, after.clone(), limit.clone()];
        numbers.extend(read(tx, sql, &args, number).await?);
    }
    Ok(numbers)
}

/// See [`Store::holds`](hotstock_engine::store::Store::holds).
pub(super) struct Holds<'a> {
    pub after: Option<&'a HoldKey>,
    pub max: usize,
}

impl Work for Holds<'_> {
    type Done = Vec<StoredHold>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<StoredHold>, SqlError> {
        read_watermarks(tx).await?;
        // The rest of the order, then the orders after it.
        let select =
            "SELECT order_no, attempt, shard FROM holds WHERE (units <> 0 OR serials IS NOT NULL) AND";
        let tail = "GROUP BY order_no, attempt, shard ORDER BY order_no, attempt, shard";
        let mut keys = Vec::new();
        if let Some((order_no, ..)) = self.after {
            let sql = format!("{select} order_no = ? {tail}");
            keys = read(tx, &sql, &[order_no.into()], hold_key).await?;
            keys.retain(|key| Some(key) > self.after);
            keys.truncate(self.max);
        }
        if keys.len() < self.max {
            let sql = format!("{select} order_no > ? AND order_no {BEFORE_GUARDS} {tail} LIMIT ?");
            let after = after_text(self.after.map(|(order_no, ..)| order_no), OrderNo::as_str);
            keys.extend(read(tx, &sql, &[after, (self.max - keys.len()).into()], hold_key).await?);
        }
        // One that can't be read is no reason to go on: a directory without it would sell these units.
        stored_holds(tx, &keys).await
    }
}

fn hold_key(row: &Row) -> Result<HoldKey, StoreError> {
    let f = &mut row.fields();
    let (order_no, attempt, shard) = (f.order_no(), f.attempt(), f.shard());
    Ok((named("order_no", order_no)?, named("attempt", attempt)?, named("shard", shard)?))
}

/// See [`Store::stock_journal`](hotstock_engine::store::Store::stock_journal).
pub(super) struct StockJournal<'a> {
    pub sku_id: &'a SkuId,
    pub after: &'a [(WarehouseId, u64)],
    pub limit: usize,
}

impl Work for StockJournal<'_> {
    type Done = Snapshot<Vec<JournalRow>>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let sql = "SELECT warehouse_id FROM stock WHERE sku_id = ? ORDER BY warehouse_id";
        let warehouses = read(tx, sql, &[self.sku_id.into()], |row| row.fields().warehouse()).await?;
        let after: BTreeMap<_, _> = self.after.iter().copied().collect();
        // Each warehouse is a range of the primary key, read from its place on; together they are few statements.
        let columns = STOCK_JOURNAL.columns.join(", ");
        let of_one = |place: usize| {
            format!(
                "SELECT * FROM (SELECT {columns} FROM stock_journal WHERE sku_id = ? AND warehouse_id = ? AND version > ? \
                 ORDER BY version LIMIT ?) w{place}"
            )
        };
        let mut rows = Vec::new();
        for some in warehouses.chunks(MAX_WAREHOUSES_PER_STATEMENT) {
            let sql = (0..some.len()).map(of_one).collect::<Vec<_>>().join(" UNION ALL ");
            let args = some.iter().flat_map(|warehouse_id| {
                let after = after.get(warehouse_id).copied().unwrap_or(0);
                [Arg::from(self.sku_id), (*warehouse_id).into(), after.into(), self.limit.into()]
            });
            rows.extend(
                read(tx, &sql, &args.collect::<Vec<_>>(), |row| journal_entry(&mut row.fields())).await?,
            );
        }
        // A union promises no order.
        rows.sort_by_key(|row| (row.change.warehouse_id, row.change.after.version));
        Ok(Snapshot { watermarks, rows })
    }
}

/// What is told of a number whose time can't be read: that it is needed for as long as any.
const UNREADABLE_TIME: Timestamp = Timestamp(i64::MAX.cast_unsigned());

/// Up to `max` of what `sql` finds, fewer only when there are no more. A row without an id is left out, and told in the
/// log: nobody can ask for it.
pub(super) async fn page_of_numbers<T: Send>(
    tx: &mut dyn Tx,
    sql: &str,
    args: &[Arg],
    max: usize,
    of: fn(&Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, SqlError> {
    let sql = format!("{sql} LIMIT ? OFFSET ?");
    let (mut page, mut passed) = (Vec::new(), 0_usize);
    loop {
        let wanted = max - page.len();
        let args: Vec<_> = args.iter().cloned().chain([wanted.into(), passed.into()]).collect();
        let rows = tx.rows(&sql, &args).await?;
        for row in &rows {
            match of(row) {
                Ok(entry) => page.push(entry),
                Err(error) => {
                    tracing::warn!(%error, "a stored row has no number that anybody could ask for; it is left out")
                }
            }
        }
        if page.len() == max || rows.len() < wanted {
            return Ok(page);
        }
        passed += rows.len();
    }
}

/// See [`Store::order_numbers`](hotstock_engine::store::Store::order_numbers).
pub(super) struct OrderNumbers<'a> {
    pub after: Option<&'a OrderNo>,
    pub max: usize,
}

impl Work for OrderNumbers<'_> {
    type Done = Vec<(OrderNo, Timestamp)>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        read_watermarks(tx).await?;
        let entry = |row: &Row| {
            let f = &mut row.fields();
            // A number is known, whatever its row says.
            Ok((f.order_no()?, f.time().unwrap_or(UNREADABLE_TIME)))
        };
        // An order whose own row somebody deleted is told of by the others (see `strays.rs`).
        let mut numbers: BTreeMap<OrderNo, Timestamp> = BTreeMap::new();
        let mut lasts = Vec::new();
        for from in [
            "order_no, changed_at FROM orders WHERE",
            "DISTINCT order_no, NULL FROM order_lines WHERE",
            "DISTINCT order_no, NULL FROM holds WHERE sold <> 0 AND",
        ] {
            let sql = format!("SELECT {from} order_no > ? AND order_no {BEFORE_GUARDS} ORDER BY order_no");
            let args = [after_text(self.after, OrderNo::as_str)];
            let page = page_of_numbers(tx, &sql, &args, self.max, entry).await?;
            lasts.extend(page.last().map(|(order_no, _)| order_no.clone()));
            for (order_no, at) in page {
                numbers.entry(order_no).or_insert(at);
            }
        }
        // Behind the first that ends there may be more of it.
        let sure = lasts.into_iter().min();
        numbers.retain(|order_no, _| sure.as_ref().is_some_and(|sure| order_no <= sure));
        Ok(numbers.into_iter().take(self.max).collect())
    }
}

/// See [`Store::request_ids`](hotstock_engine::store::Store::request_ids).
pub(super) struct RequestIds<'a> {
    pub after: Option<&'a (SkuId, RequestId)>,
    pub max: usize,
}

impl Work for RequestIds<'_> {
    type Done = Vec<(SkuId, RequestId, Timestamp)>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let entry = |row: &Row| {
            let f = &mut row.fields();
            Ok((f.id(SkuId::new)?, f.id(RequestId::new)?, f.time().unwrap_or(UNREADABLE_TIME)))
        };
        read_watermarks(tx).await?;
        // The rest of the SKU, then the SKUs after it: MySQL would read a comparison of pairs from the beginning.
        let mut ids = Vec::new();
        let select = "SELECT sku_id, request_id, at FROM stock_requests WHERE";
        let order = "ORDER BY sku_id, request_id";
        if let Some((sku_id, request_id)) = self.after {
            let sql = format!("{select} sku_id = ? AND request_id > ? {order}");
            ids = page_of_numbers(tx, &sql, &[sku_id.into(), request_id.into()], self.max, entry).await?;
        }
        if ids.is_empty() {
            let after = after_text(self.after, |(sku_id, _)| sku_id.as_str());
            let sql = format!("{select} sku_id > ? AND sku_id {BEFORE_GUARDS} {order}");
            ids = page_of_numbers(tx, &sql, &[after], self.max, entry).await?;
        }
        Ok(ids)
    }
}

/// See [`Store::hot_skus`](hotstock_engine::store::Store::hot_skus).
pub(super) struct HotSkus<'a> {
    pub after: Option<&'a SkuId>,
    pub max: usize,
}

impl Work for HotSkus<'_> {
    type Done = Vec<SkuId>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        read_watermarks(tx).await?;
        let sql =
            "SELECT sku_id FROM stock WHERE hot = 1 AND sku_id > ? GROUP BY sku_id ORDER BY sku_id LIMIT ?";
        let args = [after_text(self.after, SkuId::as_str), self.max.into()];
        read(tx, sql, &args, |row| row.fields().id(SkuId::new)).await
    }
}

/// See [`Store::ping`](hotstock_engine::store::Store::ping).
pub(super) struct Ping;

impl Work for Ping {
    type Done = ();

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        tx.rows("SELECT 1", &[]).await.map(drop)
    }
}
