//! Counting and repair, parked SKUs and anomalies.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::command::StockStatus;
use hotstock_engine::ids::{OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::image::StockImage;
use hotstock_engine::moves::MoveKind;
use hotstock_engine::store::{
    Anomaly, Books, JournalRow, Misfit, Parked, PrunedSums, Repair, Repaired, Snapshot, StockBooks,
    StoreError, Sums, SumsCursor, Units,
};

use super::Work;
use super::dialect::{Access, Arg, Existing, Fields, Row, Table, Tx};
use super::error::{SqlError, broken, problem_of};
use super::guards::read_watermarks;
use super::load::{Whole, select_whole, whole_or_broken};
use super::owner::{check_epoch, shard_count};
use super::reads::{after_text, page_of_numbers, page_of_skus};
use super::rows::{
    ANOMALIES, PRUNED_COLUMNS, STOCK_JOURNAL, UNITS, anomaly_row, find_orders, journal_entry, order_fits,
    pruned_sums, select, status_after, stock_row, words,
};
use super::statements::insert;
use super::strays::{AGREED, NamedOrder, Piece, SpanOf, misfits, other_holds, unreadable_holds, without_row};
use crate::codec::decode_span;
use crate::limits::MAX_MISFITS;

/// See [`Store::books`](hotstock_engine::store::Store::books).
pub(super) struct BooksOf<'a> {
    pub after: Option<&'a SkuId>,
    pub limit: usize,
}

impl Work for BooksOf<'_> {
    type Done = Snapshot<Books>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let of = |row: &Row| match whole_or_broken(row) {
            Ok(stock) => Ok(Some(stock_books(stock))),
            Err(error) => {
                tracing::warn!(%error, "a row of a stock can't be told from others; it is left out");
                Ok(None)
            }
        };
        let skus = page_of_skus(tx, &select_whole(), self.after, self.limit, of).await?;
        let is_last_page = skus.len() < self.limit;
        let mut stocks: Vec<StockBooks> = skus.into_iter().flatten().collect();
        let known: BTreeSet<_> =
            stocks.iter().map(|stock| (stock.row.sku_id.clone(), stock.row.warehouse_id)).collect();
        let mut without_row = without_row(tx, self.after, &known, is_last_page, self.limit).await?;
        let names: BTreeSet<_> = known.iter().chain(&without_row).map(|(sku_id, _)| sku_id.clone()).collect();
        if let Some(behind) = names.into_iter().nth(self.limit) {
            stocks.retain(|stock| stock.row.sku_id < behind);
            without_row.retain(|(sku_id, _)| *sku_id < behind);
        }
        Ok(Snapshot { watermarks, rows: Books { stocks, without_row } })
    }
}

fn stock_books(stock: Whole) -> StockBooks {
    let Whole { image, parked, newest, pruned, unreadable } = stock;
    StockBooks { row: image, unreadable, parked, newest, pruned }
}

/// See [`Store::sums`](hotstock_engine::store::Store::sums).
pub(super) struct SumsOf<'a> {
    pub sku_id: &'a SkuId,
    pub warehouse_id: WarehouseId,
    pub cursor: &'a SumsCursor,
    pub lines: usize,
    pub journal: usize,
}

impl Work for SumsOf<'_> {
    type Done = Snapshot<Sums>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let watermarks = read_watermarks(tx).await?;
        let mut sums = Sums::default();
        let stock = || [Arg::from(self.sku_id), self.warehouse_id.into()];
        let sql = format!("SELECT {PRUNED_COLUMNS} FROM stock s WHERE s.sku_id = ? AND s.warehouse_id = ?");
        if let Some(row) = tx.rows(&sql, &stock()).await?.first() {
            // Without them the journal does not begin where it should, and that is told.
            sums.pruned = pruned_sums(&mut row.fields()).unwrap_or_default();
        } else if let Some(first) =
            journal_row_of(tx, (self.sku_id, self.warehouse_id), "ORDER BY version").await.unwrap_or_default()
        {
            sums.pruned = sums_before(&first);
        }
        let orders = if self.lines > 0 { self.lines_of_orders(tx, &mut sums).await? } else { Vec::new() };
        if self.journal > 0 {
            let sql = format!(
                "{} sku_id = ? AND warehouse_id = ? AND version > ? ORDER BY version LIMIT ?",
                select(&STOCK_JOURNAL)
            );
            let args: Vec<_> =
                stock().into_iter().chain([self.cursor.version.into(), self.journal.into()]).collect();
            for row in tx.rows(&sql, &args).await? {
                // One that can't be read is a gap, and told as such.
                match journal_entry(&mut row.fields()) {
                    Ok(entry) => sums.journal.push(entry),
                    Err(error) => {
                        let (sku_id, warehouse_id) = (self.sku_id, self.warehouse_id);
                        tracing::warn!(?sku_id, %warehouse_id, %error, "a row of the stock journal can't be read");
                    }
                }
            }
        }
        let last = sums.journal.last().map_or(0, |row| row.change.after.version);
        let versions = (self.cursor.version, last);
        let (sku_id, warehouse_id) = (self.sku_id, self.warehouse_id);
        sums.misfits.extend(misfits(tx, &Piece { sku_id, warehouse_id, orders: &orders, versions }).await?);
        Ok(Snapshot { watermarks, rows: sums })
    }
}

impl SumsOf<'_> {
    /// Adds up the lines of orders of the stock's own shard, and what is held here for orders of others: of each the
    /// first after the cursor, so that together they are the first of all. What their orders must be like.
    async fn lines_of_orders(&self, tx: &mut dyn Tx, sums: &mut Sums) -> Result<Vec<NamedOrder>, SqlError> {
        let shards = shard_count(tx).await?;
        let own = shard_of(self.sku_id, shards);
        // Of an order whose row somebody deleted, what is sold of a hold counts by that alone.
        let counts = "CASE WHEN o.order_no IS NULL AND EXISTS (SELECT 1 FROM holds h WHERE h.order_no = l.order_no \
             AND h.sku_id = l.sku_id AND h.warehouse_id = l.warehouse_id) THEN 0 ELSE 1 END";
        let of_orders = format!(
            "SELECT l.order_no, CAST(SUM(l.held * {counts}) AS SIGNED), CAST(SUM((l.confirmed - l.returned) * {counts}) AS SIGNED), \
             1, NULL, 0, NULL, COUNT(o.order_no), MIN(o.shard) \
             FROM order_lines l LEFT JOIN orders o ON o.order_no = l.order_no WHERE l.sku_id = ? AND l.warehouse_id = ? \
             AND l.order_no > ? AND (o.span IS NULL OR o.shard = ?) GROUP BY l.order_no ORDER BY l.order_no"
        );
        // What only is held may be for an order that is on its way, or that is never made.
        let of_holds = format!(
            "SELECT h.order_no, CAST(SUM(CASE WHEN h.purpose = ? THEN h.units ELSE 0 END) AS SIGNED), \
             CAST(SUM(h.sold) AS SIGNED), 0, (SELECT f.sku_id FROM order_lines f WHERE f.order_no = h.order_no AND f.line = 0), \
             MAX(CASE WHEN {AGREED} THEN 1 ELSE 0 END), MIN(h.coordinator), COUNT(o.order_no), MIN(o.shard) \
             FROM holds h LEFT JOIN orders o ON o.order_no = h.order_no WHERE h.sku_id = ? AND h.warehouse_id = ? \
             AND h.order_no > ? GROUP BY h.order_no ORDER BY h.order_no"
        );
        let stock = || [Arg::from(self.sku_id), self.warehouse_id.into()];
        let after = || after_text(self.cursor.order_no.as_ref(), OrderNo::as_str);
        let args_of_orders = stock().into_iter().chain([after(), own.into()]).collect();
        let args_of_holds = [UNITS.into()].into_iter().chain(stock()).chain([after()]).collect();
        let spans = self.spans(tx, own).await?;
        let queries: [(&str, Vec<Arg>); 2] = [(&of_orders, args_of_orders), (&of_holds, args_of_holds)];
        let mut counted: BTreeMap<OrderNo, (i64, i64, Vec<NamedOrder>)> = BTreeMap::new();
        for (sql, args) in queries {
            for of in page_of_numbers(tx, sql, &args, self.lines, counted_of).await? {
                let entry = counted.entry(of.order_no.clone()).or_default();
                (entry.0, entry.1) = (entry.0.saturating_add(of.held), entry.1.saturating_add(of.sold));
                let right = if of.is_of_order { Some(own) } else { of.coordinator(shards) };
                let (order_no, shard) = (of.order_no, of.shard);
                entry.2.extend(right.map(|right| NamedOrder { order_no, shard, right }));
            }
        }
        // What is held for them is counted; when nothing is, that is told.
        for order_no in spans.keys() {
            counted.entry(order_no.clone()).or_default();
        }
        let mut orders = Vec::new();
        let counted: Vec<_> = counted.into_iter().take(self.lines).collect();
        let end = counted.last().map(|(order_no, _)| order_no.clone());
        // Behind the last order there may be rows that name none.
        let last = end.as_ref().filter(|_| counted.len() == self.lines);
        let unreadable =
            unreadable_holds(tx, (self.sku_id, self.warehouse_id), shards, after(), last).await?;
        let spans = spans.into_iter().filter(|(order_no, _)| Some(order_no) <= end.as_ref()).collect();
        sums.misfits = other_holds(tx, (self.sku_id, self.warehouse_id), spans).await?;
        sums.misfits.extend(unreadable);
        sums.misfits.extend(self.contradictions(tx, own, last).await?);
        for (order_no, (held, sold, named)) in counted {
            // Less than nothing is written by hand too.
            let [held, sold] = [held, sold].map(|units| u64::try_from(units).unwrap_or_default());
            sums.lines.push((order_no, held, sold));
            orders.extend(named);
        }
        Ok(orders)
    }
}

/// What lines, or holds, of one order count for a stock.
struct CountedOf {
    order_no: OrderNo,
    held: i64,
    sold: i64,
    /// These are its lines.
    is_of_order: bool,
    /// Of what is held for an order: the SKU of its first line, if there is one.
    first: Option<SkuId>,
    /// Likewise: whether it is held for the shard that the order's row names, and for which it is.
    is_agreed: bool,
    held_for: Option<ShardId>,
    /// The shard that its own row names, if there is one.
    shard: Option<Result<ShardId, StoreError>>,
}

impl CountedOf {
    /// Which of the `shards` shards decides an order for which something is held: that of its first line, or the one at
    /// which an earlier request for its number had arrived. So where the row and what is held agree it is that one;
    /// where they do not, and it isn't that of the first line, the row is wrong. `None`: there is no row.
    fn coordinator(&self, shards: u16) -> Option<ShardId> {
        let named = self.shard.as_ref()?;
        let first = self.first.as_ref().map(|first| shard_of(first, shards));
        match named {
            Ok(shard) if self.is_agreed || first == Some(*shard) => Some(*shard),
            _ => self.held_for.or(first),
        }
    }
}

fn counted_of(row: &Row) -> Result<CountedOf, StoreError> {
    let f = &mut row.fields();
    let order_no = f.order_no()?;
    // What is no number was written by hand: the sum, or the row, tells that it is wrong.
    let [held, sold] = std::array::from_fn(|_| f.int().unwrap_or_default());
    let (is_of_order, first) = (f.flag()?, f.id_or_null(SkuId::new).unwrap_or_default());
    let (is_agreed, held_for) = (f.flag()?, f.shard_or_null().unwrap_or_default());
    let shard = (f.int()? > 0).then(|| f.shard());
    Ok(CountedOf { order_no, held, sold, is_of_order, first, is_agreed, held_for, shard })
}

impl SumsOf<'_> {
    /// Orders of the stock's own shard, after the cursor up to another (`None`: all), whose rows contradict each
    /// other; at most [`MAX_MISFITS`].
    async fn contradictions(
        &self,
        tx: &mut dyn Tx,
        own: ShardId,
        end: Option<&OrderNo>,
    ) -> Result<Vec<Misfit>, SqlError> {
        let up_to = if end.is_some() { "AND a.order_no <= ? " } else { "" };
        let sql = format!(
            "SELECT o.order_no, MIN(o.phase), MIN(o.status), MIN(o.open), MIN(o.span), CAST(SUM(l.held) AS SIGNED), \
             CAST(SUM(l.confirmed) AS SIGNED), CAST(SUM(l.released) AS SIGNED), CAST(SUM(l.returned) AS SIGNED) FROM order_lines a \
             JOIN orders o ON o.order_no = a.order_no JOIN order_lines l ON l.order_no = a.order_no \
             WHERE a.sku_id = ? AND a.warehouse_id = ? AND a.order_no > ? {up_to}AND (o.span IS NULL OR o.shard = ?) \
             GROUP BY o.order_no ORDER BY o.order_no"
        );
        let after = after_text(self.cursor.order_no.as_ref(), OrderNo::as_str);
        let mut args = vec![self.sku_id.into(), self.warehouse_id.into(), after];
        args.extend(end.map(Arg::from));
        args.push(own.into());
        let rows = tx.rows(&sql, &args).await?;
        let suspects =
            rows.iter().filter(|row| !order_fits(row)).filter_map(|row| row.fields().order_no().ok());
        let suspects: Vec<OrderNo> = suspects.take(MAX_MISFITS).collect();
        // They are looked at as closely as a load and a recovery do.
        let found = find_orders(tx, &suspects, "").await?.unreadable.into_iter();
        Ok(found.map(|(order_no, problem)| Misfit::Contradiction { order_no, problem }).collect())
    }

    /// The orders after the cursor that other shards decide and that have lines of the stock, as far as they can be
    /// compared with what is held for them.
    async fn spans(&self, tx: &mut dyn Tx, own: ShardId) -> Result<BTreeMap<OrderNo, SpanOf>, SqlError> {
        let sql = "SELECT l.order_no, CAST(SUM(l.held) AS SIGNED), CAST(SUM(l.confirmed - l.returned) AS SIGNED), MIN(o.span) \
             FROM order_lines l JOIN orders o ON o.order_no = l.order_no WHERE l.sku_id = ? AND l.warehouse_id = ? \
             AND l.order_no > ? AND o.span IS NOT NULL AND o.shard <> ? GROUP BY l.order_no ORDER BY l.order_no";
        let after = after_text(self.cursor.order_no.as_ref(), OrderNo::as_str);
        let args = [self.sku_id.into(), self.warehouse_id.into(), after, own.into()];
        let spans = page_of_numbers(tx, sql, &args, self.lines, span_of).await?;
        Ok(spans.into_iter().collect())
    }
}

fn span_of(row: &Row) -> Result<(OrderNo, SpanOf), StoreError> {
    let f = &mut row.fields();
    let order_no = f.order_no()?;
    // What is no number was written by hand, and differs.
    let [held, sold] = std::array::from_fn(|_| f.int().unwrap_or(i64::MIN));
    let span = f.bytes_or_null().and_then(|bytes| decode_span(bytes.unwrap_or_default()).map_err(broken));
    Ok((order_no, SpanOf { units: Units { held, sold }, span: span.map_err(problem_of) }))
}

/// `stock` with what pruning adds to.
const STOCK_AND_SUMS: Table = Table {
    name: "stock",
    columns: &[
        "sku_id",
        "warehouse_id",
        "available",
        "reserved",
        "sold",
        "version",
        "status",
        "initial",
        "supplied",
        "numbered",
        "hot",
        "shard",
        "lsn",
        "changed_at",
        "pruned_sold",
        "pruned_version",
        "pruned_available",
        "pruned_reserved",
        "pruned_sold_delta",
    ],
    keys: 2,
};

/// See [`Store::repair`](hotstock_engine::store::Store::repair).
impl Work for Repair {
    type Done = Vec<Repaired>;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<Repaired>, SqlError> {
        check_epoch(tx, self.epoch).await?;
        read_watermarks(tx).await?;
        // No flush comes between.
        let lock = tx.dialect().for_update();
        tx.rows(&format!("SELECT shard FROM watermarks{lock}"), &[]).await?;
        let mut known = BTreeMap::new();
        let sql = format!("{} WHERE s.sku_id = ? ORDER BY s.warehouse_id{lock}", select_whole());
        for row in tx.rows(&sql, &[Arg::from(&self.sku_id)]).await? {
            let Ok(stock) = whole_or_broken(&row) else { continue };
            known.insert(stock.image.warehouse_id, stock);
        }
        let wanted = match &self.stocks {
            Some(stocks) => stocks.iter().map(|image| (image.warehouse_id, Some(image.clone()))).collect(),
            None => journals_of(tx, &self.sku_id).await?,
        };
        let (mut rows, mut repaired, mut said) = (Vec::new(), Vec::new(), Vec::new());
        for (warehouse_id, image) in wanted {
            let stock = (&self.sku_id, warehouse_id);
            let before = known.get(&warehouse_id);
            let newest = journal_row_of(tx, stock, "ORDER BY version DESC").await?;
            let Some(newest) =
                newest.filter(|row| image.as_ref().is_none_or(|image| image.levels == row.change.after))
            else {
                return Ok(Vec::new());
            };
            let first =
                journal_row_of(tx, stock, "ORDER BY version").await?.unwrap_or_else(|| newest.clone());
            // Sums that can't be read follow from the journal as well.
            let has_sums =
                |before: &&Whole| before.unreadable.is_none() || before.pruned != PrunedSums::default();
            let pruned = before.filter(has_sums).map_or_else(|| sums_before(&first), |before| before.pruned);
            let image = match image {
                Some(image) => image,
                None => image_of_journal(tx, before.map(|before| &before.image), &first, &newest).await?,
            };
            let mut row = stock_row(&image, newest.source.0, newest.at);
            row.extend([pruned.sold.into(), pruned.version.into()]);
            row.extend(pruned.deltas.map(Arg::from));
            rows.push(row);
            let unreadable = before.and_then(|before| before.unreadable.as_ref());
            let was = match (unreadable, before) {
                (Some(problem), _) => format!("a row that can't be read ({problem})"),
                (None, Some(before)) => words(before.image.levels),
                (None, None) => "no row".to_owned(),
            };
            let (before, after) = (before.map(|before| before.image.levels), image.levels);
            said.push(format!("warehouse {warehouse_id} had {was}, and has {}", words(after)));
            repaired.push(Repaired { warehouse_id, before, after });
        }
        insert(tx, &STOCK_AND_SUMS, Existing::Replaced, rows).await?;
        tx.execute("DELETE FROM parked WHERE sku_id = ?", &[Arg::from(&self.sku_id)]).await?;
        let anomaly = Anomaly {
            at: self.at,
            kind: "repaired".to_owned(),
            source: None,
            order_no: None,
            sku_id: Some(self.sku_id.clone()),
            detail: said.join("; "),
        };
        insert(tx, &ANOMALIES, Existing::Refused, vec![anomaly_row(&anomaly)]).await?;
        Ok(repaired)
    }
}

/// The warehouses that have a journal of a SKU; what is in their rows is to be found out.
async fn journals_of(
    tx: &mut dyn Tx,
    sku_id: &SkuId,
) -> Result<Vec<(WarehouseId, Option<StockImage>)>, SqlError> {
    let sql =
        "SELECT warehouse_id FROM stock_journal WHERE sku_id = ? GROUP BY warehouse_id ORDER BY warehouse_id";
    let rows = tx.rows(sql, &[sku_id.into()]).await?;
    Ok(rows.iter().map(|row| Ok((row.fields().warehouse()?, None))).collect::<Result<_, StoreError>>()?)
}

async fn journal_row_of(
    tx: &mut dyn Tx,
    (sku_id, warehouse_id): (&SkuId, WarehouseId),
    tail: &str,
) -> Result<Option<JournalRow>, SqlError> {
    let sql = format!("{} sku_id = ? AND warehouse_id = ? {tail} LIMIT 1", select(&STOCK_JOURNAL));
    let rows = tx.rows(&sql, &[sku_id.into(), warehouse_id.into()]).await?;
    Ok(rows.first().map(|row| journal_entry(&mut row.fields())).transpose()?)
}

/// What must have been pruned of a journal that begins with this row. (What was sold by orders that were pruned is
/// not known.)
fn sums_before(first: &JournalRow) -> PrunedSums {
    let (delta, after) = (first.change.delta, first.change.after);
    let before = |level: u64, delta: i64| i64::try_from(level).unwrap_or(i64::MAX).saturating_sub(delta);
    let deltas = [
        before(after.available, delta.available),
        before(after.reserved, delta.reserved),
        before(after.sold, delta.sold),
    ];
    PrunedSums { sold: 0, version: after.version.saturating_sub(1), deltas }
}

/// A stock as its journal tells; what is not in the journal any more is as it is.
async fn image_of_journal(
    tx: &mut dyn Tx,
    known: Option<&StockImage>,
    first: &JournalRow,
    newest: &JournalRow,
) -> Result<StockImage, SqlError> {
    let (sku_id, warehouse_id) = (&newest.change.sku_id, newest.change.warehouse_id);
    let levels = newest.change.after;
    let is_whole = first.change.kind == MoveKind::Created;
    let switched = "AND kind IN ('suspended', 'resumed') ORDER BY version DESC";
    let status = match journal_row_of(tx, (sku_id, warehouse_id), switched).await? {
        Some(row) => status_after(row.change.kind),
        None if is_whole => StockStatus::OnSale,
        None => known.map_or(StockStatus::OnSale, |known| known.status),
    };
    let sql = "SELECT COUNT(*), COUNT(serial_from), \
         CAST(COALESCE(SUM(CASE WHEN serial_from IS NULL THEN 0 ELSE d_sold END), 0) AS SIGNED) FROM stock_journal \
         WHERE sku_id = ? AND warehouse_id = ? AND kind = 'confirmed' AND d_sold > 0";
    let rows = tx.rows(sql, &[sku_id.into(), warehouse_id.into()]).await?;
    let sales = rows.first().map(|row| {
        let f = &mut row.fields();
        Ok::<_, StoreError>((f.count()?, f.count()?, f.count()?))
    });
    let (sales, with_serials, given) = sales.transpose()?.unwrap_or_default();
    let numbered = match known.and_then(|known| known.numbered) {
        // Units were sold without: it has none.
        _ if sales > with_serials => None,
        None if with_serials == 0 => None,
        Some(was) if !is_whole => Some(was.max(given)),
        _ => Some(given),
    };
    let created = u64::try_from(first.change.delta.available).unwrap_or(0);
    Ok(StockImage {
        sku_id: sku_id.clone(),
        warehouse_id,
        levels,
        status,
        initial: if is_whole { created } else { known.map_or(0, |known| known.initial) },
        supplied: levels.quantity(),
        forgotten_sold: levels.sold,
        lsn: newest.source.1,
        hot: known.is_some_and(|known| known.hot),
        numbered,
    })
}

/// See [`Store::parked`](hotstock_engine::store::Store::parked).
pub(super) struct ParkedSkus {
    pub max: usize,
}

impl Work for ParkedSkus {
    type Done = (u64, Vec<Parked>);

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let count = count(tx, "SELECT COUNT(*) FROM parked").await?;
        let sql = "SELECT sku_id, at, reason FROM parked ORDER BY sku_id LIMIT ?";
        // Whose it is counts, whatever else somebody wrote into the row.
        let parked = |row: &Row| {
            let f = &mut row.fields();
            let sku_id = f.id(SkuId::new)?;
            Ok::<_, StoreError>(Parked { sku_id, at: f.time().unwrap_or_default(), reason: words_in(f) })
        };
        let (mut all, mut of_none) = (Vec::new(), 0);
        for row in tx.rows(sql, &[self.max.into()]).await? {
            match parked(&row) {
                Ok(parked) => all.push(parked),
                // It is of no SKU.
                Err(error) => {
                    tracing::warn!(%error, "a row of `parked` can't be read; it is left out");
                    of_none += 1;
                }
            }
        }
        Ok((count.saturating_sub(of_none), all))
    }
}

/// See [`Store::anomalies`](hotstock_engine::store::Store::anomalies).
pub(super) struct Anomalies {
    pub max: usize,
}

impl Work for Anomalies {
    type Done = (u64, Vec<Anomaly>);

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let count = count(tx, "SELECT COUNT(*) FROM anomalies").await?;
        let newest =
            "SELECT at, kind, shard, lsn, sku_id, order_no, detail FROM anomalies ORDER BY id DESC LIMIT ?";
        let rows = tx.rows(newest, &[self.max.into()]).await?;
        Ok((count, rows.iter().map(anomaly).collect()))
    }
}

async fn count(tx: &mut dyn Tx, sql: &str) -> Result<u64, SqlError> {
    let rows = tx.rows(sql, &[]).await?;
    Ok(rows.first().map_or(Ok(0), |row| row.fields().count())?)
}

/// What is told of an anomaly is for people: what can't be read of its row is left out.
fn anomaly(row: &Row) -> Anomaly {
    let f = &mut row.fields();
    let (at, kind) = (f.time().unwrap_or_default(), words_in(f));
    let shard = f.shard_or_null().ok().flatten();
    let lsn = f.count_or_null().ok().flatten().map(hotstock_engine::ids::Lsn);
    let (sku_id, order_no) =
        (f.id_or_null(SkuId::new).ok().flatten(), f.id_or_null(OrderNo::new).ok().flatten());
    Anomaly { at, kind, source: shard.zip(lsn), order_no, sku_id, detail: words_in(f) }
}

/// A text for people, or why it can't be read.
fn words_in(f: &mut Fields<'_>) -> String {
    f.text().map(str::to_owned).unwrap_or_else(|error| format!("(it can't be read: {})", problem_of(error)))
}
