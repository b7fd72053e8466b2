//! Stocks, orders, requests and journal entries as rows and back.

mod holds;
mod names;
mod orders;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::StockStatus;
use hotstock_engine::ids::{OrderNo, Reason, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::image::{RequestImage, StockImage};
use hotstock_engine::moves::{MoveKind, StockMove};
use hotstock_engine::outcome::StockView;
use hotstock_engine::store::{Anomaly, JournalRow, PrunedSums, StoreError, Watermark};
use hotstock_engine::units::{Delta, Levels, Serials};

use super::dialect::{Arg, Fields, Row, Table};
use super::error::{broken, problem_of};

pub(in crate::sql) use holds::{
    HoldKey, hold_image, hold_rows, hold_words, named, serials_arg, stored_holds,
};
pub(in crate::sql) use names::{UNITS, order_status_name, phase_name, status_name};
use names::{mode, mode_name, phase, purpose, purpose_name, status};
pub(in crate::sql) use orders::{
    FoundOrders, find_orders, line_rows, order_fits, order_row, request_row, request_rows, serial_row,
};

/// The name of a stock.
pub(in crate::sql) type StockKey = (SkuId, WarehouseId);

macro_rules! table {
    ($(#[$doc:meta])* $const:ident, $name:literal, $keys:literal, $($column:literal),+ $(,)?) => {
        $(#[$doc])*
        pub(in crate::sql) const $const: Table = Table { name: $name, columns: &[$($column),+], keys: $keys };
    };
}

table!(
    /// `stock`, without what pruning adds to.
    STOCK, "stock", 2, "sku_id", "warehouse_id", "available", "reserved", "sold", "version", "status", "initial", "supplied",
    "numbered", "hot", "shard", "lsn", "changed_at"
);
table!(
    ORDERS,
    "orders",
    1,
    "order_no",
    "shard",
    "buyer_id",
    "mode",
    "phase",
    "status",
    "open",
    "created_at",
    "expires_at",
    "changed_at",
    "lsn",
    "asked",
    "span"
);
table!(
    ORDER_LINES,
    "order_lines",
    2,
    "order_no",
    "line",
    "sku_id",
    "warehouse_id",
    "quantity",
    "held",
    "confirmed",
    "released",
    "returned",
    "lapsed"
);
table!(
    HOLDS,
    "holds",
    4,
    "order_no",
    "attempt",
    "sku_id",
    "warehouse_id",
    "shard",
    "coordinator",
    "purpose",
    "seq",
    "units",
    "sold",
    "serials",
    "lsn"
);
table!(ORDER_REQUESTS, "order_requests", 2, "order_no", "seq", "request_id", "fingerprint");
table!(ORDER_SERIALS, "order_serials", 2, "order_no", "seq", "line", "serial_from", "serial_to");
table!(
    STOCK_REQUESTS,
    "stock_requests",
    2,
    "sku_id",
    "request_id",
    "warehouse_id",
    "fingerprint",
    "available",
    "reserved",
    "sold",
    "version",
    "at",
    "lsn"
);
table!(
    STOCK_JOURNAL,
    "stock_journal",
    3,
    "sku_id",
    "warehouse_id",
    "version",
    "at",
    "kind",
    "order_no",
    "request_id",
    "reason",
    "d_available",
    "d_reserved",
    "d_sold",
    "available",
    "reserved",
    "sold",
    "serial_from",
    "trace_id",
    "shard",
    "lsn"
);
table!(WATERMARKS, "watermarks", 1, "shard", "lsn", "hash", "epoch", "at");
table!(PARKED, "parked", 1, "sku_id", "at", "reason");
table!(
    /// Without `id`, which the database counts.
    ANOMALIES, "anomalies", 0, "at", "kind", "shard", "lsn", "sku_id", "order_no", "detail"
);

/// `SELECT` all columns of a table `WHERE`.
pub(in crate::sql) fn select(table: &Table) -> String {
    format!("SELECT {} FROM {} WHERE", table.columns.join(", "), table.name)
}

/// The columns of a table under another name: `j.sku_id, j.warehouse_id, …`
pub(in crate::sql) fn columns_of(table: &Table, name: &str) -> String {
    table.columns.iter().map(|column| format!("{name}.{column}")).collect::<Vec<_>>().join(", ")
}

/// Reads a row with the columns of [`STOCK`].
pub(in crate::sql) fn stock_image(f: &mut Fields<'_>) -> Result<StockImage, StoreError> {
    let (sku_id, warehouse_id, levels) = (f.id(SkuId::new)?, f.warehouse()?, levels(f)?);
    let (status, initial, supplied) = (status(f.text()?)?, f.count()?, f.count()?);
    let (numbered, hot, _shard, lsn) = (f.count_or_null()?, f.flag()?, f.shard()?, f.lsn()?);
    let _changed_at = f.time()?;
    let forgotten_sold = levels.sold;
    Ok(StockImage {
        sku_id,
        warehouse_id,
        levels,
        status,
        initial,
        supplied,
        forgotten_sold,
        lsn,
        hot,
        numbered,
    })
}

/// Likewise of a row that [`stock_image`] can't read, but whose it is: what can't be read is 0.
pub(in crate::sql) fn stock_image_of_broken(f: &mut Fields<'_>) -> Result<StockImage, StoreError> {
    let (sku_id, warehouse_id) = (f.id(SkuId::new)?, f.warehouse()?);
    let [available, reserved, sold, version] = std::array::from_fn(|_| f.count().unwrap_or_default());
    let status = f.text().and_then(status).unwrap_or(StockStatus::OnSale);
    let [initial, supplied] = std::array::from_fn(|_| f.count().unwrap_or_default());
    let numbered = f.count_or_null().unwrap_or_default();
    let hot = f.flag().unwrap_or_default();
    f.skip(1);
    let lsn = f.lsn().unwrap_or_default();
    f.skip(1);
    Ok(StockImage {
        sku_id,
        warehouse_id,
        levels: Levels { available, reserved, sold, version },
        status,
        initial,
        supplied,
        forgotten_sold: sold,
        lsn,
        hot,
        numbered,
    })
}

/// A row for [`STOCK`].
pub(in crate::sql) fn stock_row(image: &StockImage, shard: ShardId, changed_at: Timestamp) -> Vec<Arg> {
    let Levels { available, reserved, sold, version } = image.levels;
    vec![
        (&image.sku_id).into(),
        image.warehouse_id.into(),
        available.into(),
        reserved.into(),
        sold.into(),
        version.into(),
        status_name(image.status).into(),
        image.initial.into(),
        image.supplied.into(),
        image.numbered.into(),
        image.hot.into(),
        shard.into(),
        image.lsn.into(),
        changed_at.into(),
    ]
}

/// A stock as callers see it.
pub(in crate::sql) fn stock_view(image: StockImage) -> StockView {
    let StockImage { sku_id, warehouse_id, levels, status, numbered, .. } = image;
    StockView { sku_id, warehouse_id, levels, status, serialized: numbered.is_some() }
}

/// The columns for [`pruned_sums`], of the table named `s`.
pub(in crate::sql) const PRUNED_COLUMNS: &str =
    "s.pruned_sold, s.pruned_version, s.pruned_available, s.pruned_reserved, s.pruned_sold_delta";

/// How many [`PRUNED_COLUMNS`] there are.
pub(in crate::sql) const PRUNED: usize = 5;

/// Reads [`PRUNED_COLUMNS`].
pub(in crate::sql) fn pruned_sums(f: &mut Fields<'_>) -> Result<PrunedSums, StoreError> {
    let (sold, version) = (f.count()?, f.count()?);
    Ok(PrunedSums { sold, version, deltas: [f.int()?, f.int()?, f.int()?] })
}

/// Reads a row with the columns of [`STOCK_REQUESTS`].
pub(in crate::sql) fn request_image(row: &Row) -> Result<RequestImage, StoreError> {
    let f = &mut row.fields();
    let (sku_id, request_id, warehouse_id) = (f.id(SkuId::new)?, f.id(RequestId::new)?, f.warehouse()?);
    let fingerprint = f.int()?.cast_unsigned();
    Ok(RequestImage {
        sku_id,
        request_id,
        warehouse_id,
        fingerprint,
        after: levels(f)?,
        at: f.time()?,
        lsn: f.lsn()?,
    })
}

/// A row for [`STOCK_REQUESTS`].
pub(in crate::sql) fn stock_request_row(image: &RequestImage) -> Vec<Arg> {
    let Levels { available, reserved, sold, version } = image.after;
    vec![
        (&image.sku_id).into(),
        (&image.request_id).into(),
        image.warehouse_id.into(),
        image.fingerprint.cast_signed().into(),
        available.into(),
        reserved.into(),
        sold.into(),
        version.into(),
        image.at.into(),
        image.lsn.into(),
    ]
}

/// Reads a row with the columns of [`STOCK_JOURNAL`]. One that can't be read is named.
pub(in crate::sql) fn journal_entry(f: &mut Fields<'_>) -> Result<JournalRow, StoreError> {
    let (sku_id, warehouse_id, version) = (f.id(SkuId::new)?, f.warehouse()?, f.count()?);
    journal_entry_of(f, sku_id, warehouse_id, version).map_err(|error| {
        let problem = problem_of(error);
        broken(format!(
            "the row of its journal of warehouse {warehouse_id}, version {version}, can't be read: {problem}"
        ))
    })
}

fn journal_entry_of(
    f: &mut Fields<'_>,
    sku_id: SkuId,
    warehouse_id: WarehouseId,
    version: u64,
) -> Result<JournalRow, StoreError> {
    let at = f.time()?;
    let kind = f.text()?;
    let kind = MoveKind::named(kind).ok_or_else(|| broken(format!("a journal row of kind {kind}")))?;
    let (order_no, request_id) = (f.id_or_null(OrderNo::new)?, f.id_or_null(RequestId::new)?);
    let reason = f.id_or_null(Reason::new)?;
    let delta = Delta { available: f.int()?, reserved: f.int()?, sold: f.int()? };
    let after = Levels { available: f.count()?, reserved: f.count()?, sold: f.count()?, version };
    let (serial_from, trace) = (f.count_or_null()?, f.trace_or_null()?);
    let source = (f.shard()?, f.lsn()?);
    let units = delta.sold.unsigned_abs();
    let serials = serial_from.map(|from| Serials { from, to: from.saturating_add(units).saturating_sub(1) });
    let change =
        StockMove { sku_id, warehouse_id, kind, order_no, request_id, reason, delta, serials, after };
    Ok(JournalRow { change, at, trace, source })
}

/// Likewise of a join that found none: the columns are NULL.
pub(in crate::sql) fn journal_entry_or_null(f: &mut Fields<'_>) -> Result<Option<JournalRow>, StoreError> {
    if f.is_null()? {
        f.skip(STOCK_JOURNAL.columns.len());
        return Ok(None);
    }
    journal_entry(f).map(Some)
}

/// A row for [`STOCK_JOURNAL`].
pub(in crate::sql) fn journal_row(entry: &JournalRow) -> Vec<Arg> {
    let JournalRow { change, at, trace, source: (shard, lsn) } = entry;
    vec![
        (&change.sku_id).into(),
        change.warehouse_id.into(),
        change.after.version.into(),
        (*at).into(),
        change.kind.name().into(),
        change.order_no.as_ref().into(),
        change.request_id.as_ref().into(),
        change.reason.as_ref().into(),
        change.delta.available.into(),
        change.delta.reserved.into(),
        change.delta.sold.into(),
        change.after.available.into(),
        change.after.reserved.into(),
        change.after.sold.into(),
        change.serials.map(|serials| serials.from).into(),
        (*trace).into(),
        (*shard).into(),
        (*lsn).into(),
    ]
}

/// Reads available, reserved, sold and version.
pub(in crate::sql) fn levels(f: &mut Fields<'_>) -> Result<Levels, StoreError> {
    Ok(Levels { available: f.count()?, reserved: f.count()?, sold: f.count()?, version: f.count()? })
}

/// Levels in words, for anomalies.
pub(in crate::sql) fn words(levels: Levels) -> String {
    let Levels { available, reserved, sold, version } = levels;
    format!("{available} available, {reserved} reserved, {sold} sold, version {version}")
}

/// A row for [`ANOMALIES`].
pub(in crate::sql) fn anomaly_row(anomaly: &Anomaly) -> Vec<Arg> {
    let Anomaly { at, kind, source, order_no, sku_id, detail } = anomaly;
    vec![
        (*at).into(),
        kind.as_str().into(),
        source.map(|(shard, _)| shard).into(),
        source.map(|(_, lsn)| lsn).into(),
        sku_id.as_ref().into(),
        order_no.as_ref().into(),
        cut(detail).into(),
    ]
}

/// At most as much of a text as the columns for words take.
pub(in crate::sql) fn cut(text: &str) -> &str {
    let mut end = text.len().min(crate::limits::MAX_DETAIL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads shard, LSN, hash and epoch.
pub(in crate::sql) fn watermark(f: &mut Fields<'_>) -> Result<Watermark, StoreError> {
    let (shard, lsn, hash) = (f.shard()?, f.lsn()?, f.int()?.cast_unsigned());
    Ok(Watermark { shard, lsn, hash: hotstock_engine::ids::ChainHash(hash), epoch: f.epoch()? })
}

/// Where a stock stands with its status, as a journal tells: the last suspended or resumed.
pub(in crate::sql) fn status_after(kind: MoveKind) -> StockStatus {
    if kind == MoveKind::Suspended { StockStatus::Suspended } else { StockStatus::OnSale }
}
