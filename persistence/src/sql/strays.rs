//! Rows that somebody deleted by hand, or gave to another shard, as far as other rows tell of them: a stock that has a
//! journal, an order that has lines, for which something was sold or that a journal names, a stock request that a
//! journal names.
//!
//! Pruning deletes whatever is looked at here together, but for the journal, which is kept longer. So the time before
//! which orders and requests were pruned stands in `meta`, and a younger row of a journal names none that was.
//!
//! No look is at a whole history: of each gap between rows the first key is read, of a piece of a history the rows that
//! it names, of a journal that may name a request the newest rows.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{OrderNo, RequestId, ShardId, SkuId, WarehouseId, shard_of};
use hotstock_engine::image::{HoldImage, Span};
use hotstock_engine::store::{Misfit, RequestsWithoutRow, StoreError, Units};

use super::dialect::{Access, Arg, Existing, Fields, Row, Tx};
use super::error::{SqlError, problem_of};
use super::guards::{BEFORE_GUARDS, read_watermarks};
use super::owner::shard_count;
use super::reads::page_of_numbers;
use super::rows::{HOLDS, StockKey, UNITS, columns_of, hold_image, hold_words};
use super::statements::{each, firsts, insert, rows_in};
use super::{META, Work};
use crate::codec::decode_span;
use crate::limits::{MAX_MISFITS, MAX_VERSIONS_LOOKED_AT};

/// The name in `meta`.
const PRUNED_BEFORE: &str = "pruned_before";

/// The time before which orders and stock requests may have been pruned.
pub(super) async fn pruned_before(tx: &mut dyn Tx) -> Result<Timestamp, SqlError> {
    let rows = tx.rows("SELECT value FROM meta WHERE name = ?", &[PRUNED_BEFORE.into()]).await?;
    let Some(row) = rows.first() else { return Ok(Timestamp(0)) };
    // What can't be read is told of nobody.
    let millis = row.fields().text().ok().and_then(|text| text.parse().ok());
    Ok(Timestamp(millis.unwrap_or(i64::MAX.cast_unsigned())))
}

/// Orders and requests before this are pruned, in this transaction.
pub(super) async fn note_pruned(tx: &mut dyn Tx, before: Timestamp) -> Result<(), SqlError> {
    if pruned_before(tx).await? < before {
        let row = vec![PRUNED_BEFORE.into(), before.0.to_string().as_str().into()];
        insert(tx, &META, Existing::Replaced, vec![row]).await?;
    }
    Ok(())
}

/// A gap between the stocks of a page, by key.
struct Gaps {
    /// Warehouses of a SKU, above one and below another.
    within: Vec<(String, i64, i64)>,
    /// SKUs above one and below another; `None`: up to the guards.
    between: Vec<(String, Option<String>)>,
}

impl Gaps {
    fn new(after: Option<&SkuId>, known: &BTreeSet<StockKey>, is_last_page: bool) -> Self {
        let mut gaps = Self { within: Vec::new(), between: Vec::new() };
        let mut last = (after.map_or("", SkuId::as_str).to_owned(), i64::MAX);
        for (sku_id, warehouse_id) in known {
            let warehouse = i64::from(warehouse_id.0);
            if last.0 != sku_id.as_str() {
                gaps.push_within(&last.0, last.1, i64::MAX);
                gaps.between.push((last.0, Some(sku_id.to_string())));
                last = (sku_id.to_string(), -1);
            }
            gaps.push_within(&last.0, last.1, warehouse);
            last.1 = warehouse;
        }
        gaps.push_within(&last.0, last.1, i64::MAX);
        if is_last_page {
            gaps.between.push((last.0, None));
        }
        gaps
    }

    fn push_within(&mut self, sku_id: &str, above: i64, below: i64) {
        if above.saturating_add(1) < below {
            self.within.push((sku_id.to_owned(), above, below));
        }
    }
}

/// Stocks without a row that have a journal, among up to `limit` SKUs after `after`; `known` are those that have a row,
/// and the last of them ends the page unless `is_last_page`.
pub(super) async fn without_row(
    tx: &mut dyn Tx,
    after: Option<&SkuId>,
    known: &BTreeSet<StockKey>,
    is_last_page: bool,
    limit: usize,
) -> Result<BTreeSet<StockKey>, SqlError> {
    let within = "sku_id, warehouse_id FROM stock_journal WHERE sku_id = ? AND warehouse_id > ? AND warehouse_id < ? \
                  ORDER BY warehouse_id";
    let between = "sku_id, warehouse_id FROM stock_journal WHERE sku_id > ? AND sku_id < ? ORDER BY sku_id, warehouse_id";
    let mut found = BTreeSet::new();
    let mut gaps = Gaps::new(after, known, is_last_page);
    while !gaps.within.is_empty() || !gaps.between.is_empty() {
        let mut next = Gaps { within: Vec::new(), between: Vec::new() };
        let of_within = |(sku_id, above, below): &(String, i64, i64)| {
            vec![sku_id.as_str().into(), (*above).into(), (*below).into()]
        };
        for (n, row) in firsts(tx, within, gaps.within.iter().map(of_within).collect()).await? {
            let Some((sku_id, warehouse)) = key_of(&row) else { continue };
            next.push_within(&sku_id, warehouse, gaps.within[n].2);
            found.extend(stock_key(&sku_id, warehouse));
        }
        let of_between = |(above, below): &(String, Option<String>)| {
            let end = below.as_deref().map_or(Arg::Bytes([0xFF].into()), Arg::from);
            vec![above.as_str().into(), end]
        };
        for (n, row) in firsts(tx, between, gaps.between.iter().map(of_between).collect()).await? {
            let Some((sku_id, warehouse)) = key_of(&row) else { continue };
            next.push_within(&sku_id, warehouse, i64::MAX);
            found.extend(stock_key(&sku_id, warehouse));
            next.between.push((sku_id, gaps.between[n].1.clone()));
        }
        // What lies behind the page is not looked for.
        let names: BTreeSet<&SkuId> = known.iter().chain(&found).map(|(sku_id, _)| sku_id).collect();
        if let Some(end) = names.into_iter().nth(limit.saturating_sub(1)) {
            next.within.retain(|(sku_id, ..)| sku_id.as_str() <= end.as_str());
            next.between.retain(|(above, _)| above.as_str() < end.as_str());
        }
        gaps = next;
    }
    Ok(found)
}

/// Reads a key of a journal as it stands; `None`: it is no text, and nobody's.
fn key_of(row: &Row) -> Option<(String, i64)> {
    let f = &mut fields_of(row);
    Some((f.text().ok()?.to_owned(), f.int().ok()?))
}

/// The columns of a row of [`firsts`], behind the place.
fn fields_of(row: &Row) -> Fields<'_> {
    let mut f = row.fields();
    f.skip(1);
    f
}

fn stock_key(sku_id: &str, warehouse: i64) -> Option<StockKey> {
    Some((SkuId::new(sku_id).ok()?, WarehouseId(u32::try_from(warehouse).ok()?)))
}

/// What is looked at of a piece of a history of a stock.
pub(super) struct Piece<'a> {
    pub sku_id: &'a SkuId,
    pub warehouse_id: WarehouseId,
    /// Orders of its lines, and of what is held for others.
    pub orders: &'a [NamedOrder],
    /// Versions of its journal, above the first and up to the last.
    pub versions: (u64, u64),
}

/// An order that a row of a piece names.
pub(super) struct NamedOrder {
    pub order_no: OrderNo,
    /// The shard that its own row names; `None`: it has none.
    pub shard: Option<Result<ShardId, StoreError>>,
    /// The shard that it must be.
    pub right: ShardId,
}

/// Orders and stock requests that a piece of a history names and whose own rows are not there, or are of another
/// shard; at most [`MAX_MISFITS`].
pub(super) async fn misfits(tx: &mut dyn Tx, piece: &Piece<'_>) -> Result<BTreeSet<Misfit>, SqlError> {
    let mut found = BTreeSet::new();
    for NamedOrder { order_no, shard, right } in piece.orders {
        match shard {
            None => {
                found.insert(Misfit::NoOrder(order_no.clone()));
            }
            Some(shard) => found.extend(elsewhere(order_no, shard, *right)),
        }
    }
    let (orders, requests) = named_in_vain(tx, piece).await?;
    found.extend(requests.into_iter().map(Misfit::NoRequest));
    found.extend(orders.into_iter().map(Misfit::NoOrder));
    Ok(found.into_iter().take(MAX_MISFITS).collect())
}

fn elsewhere(order_no: &OrderNo, shard: &Result<ShardId, StoreError>, right: ShardId) -> Option<Misfit> {
    let found = match shard {
        Ok(shard) if *shard == right => return None,
        Ok(shard) => shard.to_string(),
        Err(error) => problem_of(error.clone()),
    };
    Some(Misfit::OtherShard { order_no: order_no.clone(), right, found })
}

/// An order that another shard decides, with what its lines say of a stock.
pub(super) struct SpanOf {
    pub units: Units,
    /// Or why it can't be read.
    pub span: Result<Span, String>,
}

/// Those of these orders that say something else of the stock than the rows of what is held for them; at most
/// [`MAX_MISFITS`]. All rows are of one moment, over all shards: what is not told yet is pending.
pub(super) async fn other_holds(
    tx: &mut dyn Tx,
    (sku_id, warehouse_id): (&SkuId, WarehouseId),
    spans: BTreeMap<OrderNo, SpanOf>,
) -> Result<BTreeSet<Misfit>, SqlError> {
    let mut found = BTreeSet::new();
    let mut held: BTreeMap<OrderNo, (SpanOf, Units)> = BTreeMap::new();
    for (order_no, order) in spans {
        if order.span.as_ref().is_ok_and(|span| !span.pending.is_empty()) {
            continue;
        }
        held.insert(order_no, (order, Units::default()));
    }
    let names: Vec<OrderNo> = held.keys().cloned().collect();
    let head = "SELECT order_no, attempt, sku_id, warehouse_id, purpose, units, sold FROM holds WHERE";
    for row in rows_in(tx, head, "order_no", &names, "").await? {
        let f = &mut row.fields();
        // What can't be read is told by `unreadable_holds`.
        let (order_no, attempt) = (f.order_no()?, f.attempt());
        let is_of_sku = f.text().is_ok_and(|text| text == sku_id.as_str());
        if f.int().unwrap_or(-1) != i64::from(warehouse_id.0) || !is_of_sku {
            continue;
        }
        let Some((SpanOf { span, .. }, units)) = held.get_mut(&order_no) else { continue };
        let is_known = |attempt| span.as_ref().is_ok_and(|span| span.knows(attempt));
        let counts = f.text().is_ok_and(|purpose| purpose == UNITS) && attempt.is_ok_and(is_known);
        // What is no number was written by hand, and differs.
        let [of_row, sold] = std::array::from_fn(|_| f.int().unwrap_or(i64::MIN));
        units.held = units.held.saturating_add(if counts { of_row } else { 0 });
        units.sold = units.sold.saturating_add(sold);
    }
    for (order_no, (SpanOf { units, span }, held)) in held {
        let order = match span {
            Ok(_) if units == held => continue,
            Ok(_) => units.to_string(),
            Err(problem) => format!("{units}, with a `span` that can't be read ({problem})"),
        };
        found.insert(Misfit::OtherHold { order_no, order, held: held.to_string() });
    }
    Ok(found.into_iter().take(MAX_MISFITS).collect())
}

/// Rows of what is held of a stock for orders from one (as text: a row may name none) up to another (`None`: for all)
/// that can't be read, or name another of the `shards` shards than the one where the stock, or the order, lies; at most
/// [`MAX_MISFITS`].
pub(super) async fn unreadable_holds(
    tx: &mut dyn Tx,
    (sku_id, warehouse_id): (&SkuId, WarehouseId),
    shards: u16,
    after: Arg,
    end: Option<&OrderNo>,
) -> Result<BTreeSet<Misfit>, SqlError> {
    let own = shard_of(sku_id, shards);
    let columns = columns_of(&HOLDS, "h");
    let mut sql = format!(
        "SELECT {columns}, o.shard, f.sku_id, CASE WHEN {AGREED} THEN 1 ELSE 0 END, o.span FROM holds h LEFT JOIN orders o ON o.order_no = h.order_no \
         LEFT JOIN order_lines f ON f.order_no = h.order_no AND f.line = 0 \
         WHERE h.sku_id = ? AND h.warehouse_id = ? AND h.order_no >= ?"
    );
    let mut args = vec![sku_id.into(), warehouse_id.into(), after];
    if let Some(end) = end {
        sql.push_str(" AND h.order_no <= ?");
        args.push(end.into());
    }
    let mut found = BTreeSet::new();
    for row in tx.rows(&sql, &args).await? {
        let problem = match hold_image(&row) {
            Ok((shard, _)) if shard != own => format!("`shard`: it is {shard}, and its SKU lies in {own}"),
            Ok((_, hold)) => match other_coordinator(&row, &hold, shards) {
                Some(problem) => problem,
                None => continue,
            },
            Err(error) => problem_of(error),
        };
        found.insert(Misfit::UnreadableHold { row: hold_words(&row), problem });
        if found.len() == MAX_MISFITS {
            break;
        }
    }
    Ok(found)
}

/// Something is held for the shard that the row of an order names.
pub(super) const AGREED: &str =
    "EXISTS (SELECT 1 FROM holds x WHERE x.order_no = o.order_no AND x.coordinator = o.shard)";

/// What is wrong with the shard that a row of [`unreadable_holds`] names as the one that decides: it is not the one
/// that the order's row names, for which the order's first line speaks, or what else is held for it. An attempt that
/// the order knows nothing of may be one that another shard began.
fn other_coordinator(row: &Row, hold: &HoldImage, shards: u16) -> Option<String> {
    let f = &mut row.fields();
    f.skip(HOLDS.columns.len());
    let (right, first) = (f.shard_or_null(), f.id_or_null(SkuId::new));
    let (is_agreed, span) = (f.flag().ok()?, f.bytes_or_null().ok()??);
    let is_known = decode_span(span).is_ok_and(|span| span.knows(hold.attempt));
    let is_its = is_known || hold.lines.iter().any(|line| line.sold != 0);
    let (found, right) = (hold.coordinator, right.ok()??);
    let speaks_for_it = is_agreed || first.ok()?.is_some_and(|first| shard_of(&first, shards) == right);
    (is_its && speaks_for_it && found != right)
        .then(|| format!("`coordinator`: it is {found}, and its order lies in {right}"))
}

/// Orders and stock requests that a journal names, that have no row and were not pruned. Where there are several
/// shards, what was held and given back again tells of no order: it may have been an attempt that came to nothing. One
/// for which there are holds may be on its way: another shard flushes it.
async fn named_in_vain(
    tx: &mut dyn Tx,
    piece: &Piece<'_>,
) -> Result<(BTreeSet<OrderNo>, BTreeSet<RequestId>), SqlError> {
    let (mut orders, mut requests) = (BTreeSet::new(), BTreeSet::new());
    let (after, last) = piece.versions;
    if after >= last {
        return Ok((orders, requests));
    }
    let kinds = if shard_count(tx).await? > 1 { "AND j.kind IN ('confirmed', 'returned') " } else { "" };
    let sql = format!(
        "SELECT j.order_no, j.request_id FROM stock_journal j \
         WHERE j.sku_id = ? AND j.warehouse_id = ? AND j.version > ? AND j.version <= ? AND j.at >= ? AND ( \
         j.order_no IS NOT NULL {kinds}AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.order_no = j.order_no) \
         AND NOT EXISTS (SELECT 1 FROM holds h WHERE h.order_no = j.order_no) OR \
         j.order_no IS NULL AND j.request_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stock_requests r \
         WHERE r.sku_id = j.sku_id AND r.request_id = j.request_id)) LIMIT ?"
    );
    let args = [
        piece.sku_id.into(),
        piece.warehouse_id.into(),
        after.into(),
        last.into(),
        pruned_before(tx).await?.into(),
        // An order has some rows.
        (MAX_MISFITS * 4).into(),
    ];
    for row in tx.rows(&sql, &args).await? {
        let f = &mut row.fields();
        // An id that can't be read is no order's: its row is told as one that can't be.
        match (f.id_or_null(OrderNo::new), f.id_or_null(RequestId::new)) {
            (Ok(Some(order_no)), _) => drop(orders.insert(order_no)),
            (Ok(None), Ok(Some(request_id))) => drop(requests.insert(request_id)),
            _ => {}
        }
    }
    Ok((orders, requests))
}

/// Of orders that are not in `orders`: those of which there are lines, or for which other shards have sold something,
/// and what that means. Their numbers are taken. (What is only held may be for an attempt that comes to nothing.)
pub(super) async fn deleted_orders(
    tx: &mut dyn Tx,
    absent: &[OrderNo],
) -> Result<BTreeMap<OrderNo, String>, SqlError> {
    let mut deleted = BTreeMap::new();
    for (sql, rest) in [
        ("order_no FROM holds WHERE order_no = ? AND sold <> 0", "holds still has what was sold for it"),
        ("order_no FROM order_lines WHERE order_no = ?", "order_lines still has lines of it"),
    ] {
        let queries = absent.iter().map(|order_no| vec![order_no.into()]).collect();
        let problem = format!("its row of orders was deleted by hand; {rest}");
        let found = firsts(tx, sql, queries).await?;
        deleted.extend(found.into_iter().map(|(n, _)| (absent[n].clone(), problem.clone())));
    }
    Ok(deleted)
}

/// A stock and the version of the newest row of its journal, which is looked up from the end of its range; 0: there is
/// none.
const NEWEST: &str = "SELECT s.sku_id, s.warehouse_id, COALESCE((SELECT n.version FROM stock_journal n WHERE \
     n.sku_id = s.sku_id AND n.warehouse_id = s.warehouse_id ORDER BY n.sku_id DESC, n.warehouse_id DESC, n.version DESC \
     LIMIT 1), 0) FROM stock s WHERE";

/// A stock, and the newest version of its journal.
type Newest = (SkuId, WarehouseId, u64);

fn newest(row: &Row) -> Result<Newest, StoreError> {
    let f = &mut row.fields();
    Ok((f.id(SkuId::new)?, f.warehouse()?, f.count()?))
}

/// The rows among the newest ones of the journal of a stock in which a stock request that was not pruned may be. Its
/// versions are given as numbers: MySQL would read a whole journal to compare them with another column.
const NEWEST_ROWS: &str =
    "j.sku_id = ? AND j.warehouse_id = ? AND j.version > ? AND j.order_no IS NULL AND j.at >= ?";

fn newest_rows((sku_id, warehouse_id, newest): &Newest, pruned: Timestamp) -> Vec<Arg> {
    let after = newest.saturating_sub(MAX_VERSIONS_LOOKED_AT as u64);
    vec![sku_id.into(), (*warehouse_id).into(), after.into(), pruned.into()]
}

/// Of stock requests that are not in `stock_requests`: those that a journal names in its newest rows and that were not
/// pruned, and what that means.
pub(super) async fn deleted_requests(
    tx: &mut dyn Tx,
    absent: &[(SkuId, RequestId)],
) -> Result<Vec<(SkuId, RequestId, String)>, SqlError> {
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let pruned = pruned_before(tx).await?;
    let skus: BTreeSet<_> = absent.iter().map(|(sku_id, _)| sku_id.clone()).collect();
    let skus: Vec<_> = skus.into_iter().collect();
    let mut stocks: BTreeMap<SkuId, Vec<Newest>> = BTreeMap::new();
    for row in rows_in(tx, NEWEST, "s.sku_id", &skus, "").await? {
        // The row of one warehouse that can't be read makes its SKU unsound.
        if let Ok(stock) = newest(&row) {
            stocks.entry(stock.0.clone()).or_default().push(stock);
        }
    }
    let (mut keys, mut queries) = (Vec::new(), Vec::new());
    for key in absent {
        for stock in stocks.get(&key.0).into_iter().flatten() {
            keys.push(key);
            queries.push(newest_rows(stock, pruned).into_iter().chain([Arg::from(&key.1)]).collect());
        }
    }
    let body = format!("j.version FROM stock_journal j WHERE {NEWEST_ROWS} AND j.request_id = ?");
    let mut deleted = Vec::new();
    for (n, row) in firsts(tx, &body, queries).await? {
        let ((sku_id, request_id), version) = (keys[n], fields_of(&row).count()?);
        let problem = format!("its row was deleted by hand; the stock journal has it as version {version}");
        deleted.push((sku_id.clone(), request_id.clone(), problem));
    }
    Ok(deleted)
}

/// See [`Store::requests_without_row`](hotstock_engine::store::Store::requests_without_row). They are found by going
/// through the ends of all journals: an index by request would cost every flush, on MySQL an entry for each row of the
/// journal, and this is read when a filter has to be made anew.
pub(super) struct DeletedRequests<'a> {
    pub after: Option<&'a StockKey>,
    pub stocks: usize,
}

impl Work for DeletedRequests<'_> {
    type Done = RequestsWithoutRow;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        read_watermarks(tx).await?;
        let pruned = pruned_before(tx).await?;
        let (sku_id, warehouse_id) = match self.after {
            Some((sku_id, warehouse_id)) => (sku_id.into(), i64::from(warehouse_id.0)),
            None => (Arg::from(""), -1),
        };
        let page = format!(
            "{NEWEST} s.sku_id >= ? AND (s.sku_id > ? OR s.warehouse_id > ?) AND s.sku_id {BEFORE_GUARDS} \
             ORDER BY s.sku_id, s.warehouse_id"
        );
        let after = [sku_id.clone(), sku_id, warehouse_id.into()];
        let stocks = page_of_numbers(tx, &page, &after, self.stocks, newest).await?;
        let last = stocks.last().map(|(sku_id, warehouse_id, _)| (sku_id.clone(), *warehouse_id));
        let body = format!(
            "j.sku_id, j.request_id, j.at FROM stock_journal j LEFT JOIN stock_requests r \
             ON r.sku_id = j.sku_id AND r.request_id = j.request_id \
             WHERE {NEWEST_ROWS} AND j.request_id IS NOT NULL AND r.sku_id IS NULL"
        );
        let queries = stocks.iter().map(|stock| newest_rows(stock, pruned)).collect();
        let mut ids = Vec::new();
        for (_, row) in each(tx, &body, queries).await? {
            let f = &mut fields_of(&row);
            // What is no id nobody can ask for.
            if let (Ok(sku_id), Ok(request_id)) = (f.id(SkuId::new), f.id(RequestId::new)) {
                ids.push((sku_id, request_id, f.time()?));
            }
        }
        Ok(RequestsWithoutRow { ids, last })
    }
}
