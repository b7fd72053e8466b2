//! Stocks, orders, requests and journal entries as rows and back.

mod homes;
mod names;
mod orders;

use hotstock_engine::checkpoint::{LineImage, OrderImage, RequestImage, Stage, StockImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{MoveKind, StockMove};
use hotstock_engine::home::HomeImage;
use hotstock_engine::ids::{Lsn, OrderNo, Reason, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::{Levels, OrderStatus, Serials, StockView};
use hotstock_engine::state::Delta;
use hotstock_engine::store::{JournalRow, Owner, StockRow, StoreError, StoredHome};

use crate::sql::dialect::{Arg, Fields, Row, Table, Tx};
use crate::sql::error::{SqlError, broken};
use crate::sql::statements::{rows_in, rows_of_stocks};

pub(in crate::sql) use homes::{drop_parts, is_under_way, write_homes, write_split};
pub(in crate::sql) use names::{STATUSES, order_status_name, phase_name, status_name};
use names::{mode, mode_name, phase, status};
pub(in crate::sql) use orders::{complete, find_orders, line_rows, load_orders, order_row, request_rows};

/// All columns of `stock`.
pub(in crate::sql) const STOCK: Table = Table {
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
        "owner_server",
        "owner_shard",
        "epoch",
        "lsn",
        "changed_at",
        "numbered",
    ],
    keys: 2,
};

/// All columns of `orders`.
pub(in crate::sql) const ORDERS: Table = Table {
    name: "orders",
    columns: &[
        "order_no",
        "buyer_id",
        "mode",
        "phase",
        "open",
        "created_at",
        "expires_at",
        "changed_at",
        "due_at",
        "server",
        "shard",
        "lsn",
        "requests",
        "kind",
        "status",
        "home_server",
        "home_shard",
        "record",
        "serials",
    ],
    keys: 1,
};

/// All columns of `order_lines`.
pub(in crate::sql) const ORDER_LINES: Table = Table {
    name: "order_lines",
    columns: &[
        "order_no",
        "sku_id",
        "warehouse_id",
        "line",
        "quantity",
        "held",
        "confirmed",
        "released",
        "returned",
        "lapsed",
        "open",
        "linked",
        "changed_at",
    ],
    keys: 3,
};

/// All columns of `order_requests`.
pub(in crate::sql) const ORDER_REQUESTS: Table =
    Table { name: "order_requests", columns: &["order_no", "seq", "request_id", "fingerprint"], keys: 2 };

/// All columns of `stock_requests`.
pub(in crate::sql) const STOCK_REQUESTS: Table = Table {
    name: "stock_requests",
    columns: &[
        "sku_id",
        "request_id",
        "warehouse_id",
        "fingerprint",
        "available",
        "reserved",
        "sold",
        "version",
        "at",
    ],
    keys: 2,
};

/// All columns of `stock_journal`.
pub(in crate::sql) const STOCK_JOURNAL: Table = Table {
    name: "stock_journal",
    columns: &[
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
        "trace_id",
        "server",
        "shard",
        "lsn",
        "serial_from",
    ],
    keys: 3,
};

/// All columns of `home_lines`.
pub(in crate::sql) const HOME_LINES: Table =
    Table { name: "home_lines", columns: &["sku_id", "order_no"], keys: 2 };

/// The name of a stock.
pub(in crate::sql) type StockKey = (SkuId, WarehouseId);

/// Where an event of a shard stands.
pub(in crate::sql) type Source = (ServerId, ShardId, Lsn);

/// A row of `stock`.
#[derive(Debug, Clone)]
pub(in crate::sql) struct StockEntry {
    /// Without LSN: those of different shards can't be compared. All that was sold counts as sold by forgotten orders.
    pub image: StockImage,
    pub owner: Option<Owner>,
    /// The last event of a shard that changed it.
    pub lsn: Lsn,
    pub changed_at: Timestamp,
}

impl StockEntry {
    pub fn key(&self) -> StockKey {
        (self.image.sku_id.clone(), self.image.warehouse_id)
    }

    pub fn view(&self) -> StockView {
        view_of(&self.image)
    }

    pub fn stock_row(&self) -> StockRow {
        StockRow { view: self.view(), owner: self.owner }
    }
}

/// An order with its lines and requests.
#[derive(Debug, Clone)]
pub(in crate::sql) struct OrderEntry {
    /// Without LSN.
    pub image: OrderImage,
    pub due_at: Option<Timestamp>,
    /// The last event of a shard that changed it; `None`: SQL did.
    pub source: Option<Source>,
    /// Of a branch: the server that wrote it last, which lets it ask its home when nobody else does.
    pub writer: Option<ServerId>,
}

/// An order over several places.
#[derive(Debug, Clone)]
pub(in crate::sql) struct HomeEntry {
    /// Without LSN.
    pub home: HomeImage,
    pub server: ServerId,
    pub shard: ShardId,
    /// When its home is to take it in; `None`: the home has it, or it is over.
    pub due_at: Option<Timestamp>,
    /// The last event of a shard that changed it; `None`: SQL did.
    pub source: Option<Source>,
}

impl HomeEntry {
    /// As the engine knows it.
    pub fn stored(self) -> StoredHome {
        StoredHome { server: self.server, shard: self.shard, image: self.home }
    }
}

/// Orders of either kind.
#[derive(Debug, Clone, Default)]
pub(in crate::sql) struct Found {
    /// In one place, and branches.
    pub orders: Vec<OrderEntry>,
    /// Over several places.
    pub homes: Vec<HomeEntry>,
}

/// A stock as callers see it.
pub(in crate::sql) fn view_of(image: &StockImage) -> StockView {
    let StockImage { sku_id, warehouse_id, levels, status, .. } = image;
    StockView {
        sku_id: sku_id.clone(),
        warehouse_id: *warehouse_id,
        levels: *levels,
        status: *status,
        serialized: image.numbered.is_some(),
    }
}

/// Whether an order holds units.
pub(in crate::sql) fn is_open(image: &OrderImage) -> bool {
    image.lines.iter().any(|line| line.held > 0)
}

/// What links an order of several SKUs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) enum Linked {
    /// It has lines of one SKU.
    Alone = 0,
    /// It has lines of more than one.
    Lines = 1,
    /// It is a branch: its home does.
    Home = 2,
}

impl Linked {
    /// What links an order.
    pub fn of(image: &OrderImage) -> Self {
        if image.order_no.is_branch() {
            Self::Home
        } else if image.lines.windows(2).any(|pair| pair[0].sku_id != pair[1].sku_id) {
            Self::Lines
        } else {
            Self::Alone
        }
    }
}

impl Linked {
    /// That of a row.
    pub fn numbered(number: i64) -> Result<Self, StoreError> {
        match number {
            0 => Ok(Self::Alone),
            1 => Ok(Self::Lines),
            2 => Ok(Self::Home),
            _ => Err(broken(format!("a link of kind {number}"))),
        }
    }

    /// The next one in the order of the index.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Alone => Some(Self::Lines),
            Self::Lines => Some(Self::Home),
            Self::Home => None,
        }
    }
}

impl From<Linked> for Arg {
    fn from(linked: Linked) -> Self {
        Self::Int(linked as i64)
    }
}

/// The state of an order.
pub(in crate::sql) fn status_of(image: &OrderImage) -> OrderStatus {
    let sum = |count: fn(&LineImage) -> u32| image.lines.iter().map(|line| u64::from(count(line))).sum();
    let units = [
        sum(|line| line.held),
        sum(|line| line.confirmed),
        sum(|line| line.released),
        sum(|line| line.returned),
    ];
    OrderStatus::of(image.phase, units)
}

/// The stocks that an order is about, in the order in which they are locked.
pub(in crate::sql) fn stocks_of<'a>(orders: impl IntoIterator<Item = &'a OrderImage>) -> Vec<StockKey> {
    let lines = orders.into_iter().flat_map(|order| &order.lines);
    in_key_order(lines.map(|line| (line.sku_id.clone(), line.warehouse_id)).collect())
}

/// The stock of this name among stocks in the order of their keys, which is that of the load functions.
pub(in crate::sql) fn find_stock<'a>(
    stocks: &'a [StockEntry],
    sku_id: &SkuId,
    warehouse_id: WarehouseId,
) -> Option<&'a StockEntry> {
    let key =
        |stock: &StockEntry| (&stock.image.sku_id, stock.image.warehouse_id).cmp(&(sku_id, warehouse_id));
    stocks.binary_search_by(key).ok().map(|place| &stocks[place])
}

/// Sorted, each once.
pub(in crate::sql) fn in_key_order<K: Ord>(mut keys: Vec<K>) -> Vec<K> {
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn select(table: &Table) -> String {
    format!("SELECT {} FROM {} WHERE", table.columns.join(", "), table.name)
}

/// The stocks of these names, in their order; `keys` are sorted. Those that are not there are left out.
pub(in crate::sql) async fn load_stocks(
    tx: &mut dyn Tx,
    keys: &[StockKey],
    lock: Lock,
) -> Result<Vec<StockEntry>, SqlError> {
    let tail = format!(" ORDER BY sku_id, warehouse_id{}", lock.words(tx));
    let rows = rows_of_stocks(tx, &select(&STOCK), keys, &tail).await?;
    Ok(rows.iter().map(stock_entry).collect::<Result<_, _>>()?)
}

/// All stocks of a SKU, by warehouse.
pub(in crate::sql) async fn load_sku(
    tx: &mut dyn Tx,
    sku_id: &SkuId,
    lock: Lock,
) -> Result<Vec<StockEntry>, SqlError> {
    load_skus(tx, std::slice::from_ref(sku_id), lock).await
}

/// All stocks of these SKUs, by key; `skus` are sorted.
pub(in crate::sql) async fn load_skus(
    tx: &mut dyn Tx,
    skus: &[SkuId],
    lock: Lock,
) -> Result<Vec<StockEntry>, SqlError> {
    let tail = format!(" ORDER BY sku_id, warehouse_id{}", lock.words(tx));
    let rows = rows_in(tx, &select(&STOCK), "sku_id", skus, &tail).await?;
    Ok(rows.iter().map(stock_entry).collect::<Result<_, _>>()?)
}

/// Those of these SKUs whose units get serial numbers; that never changes. `skus` are sorted.
pub(in crate::sql) async fn serialized_skus(tx: &mut dyn Tx, skus: &[SkuId]) -> Result<Vec<SkuId>, SqlError> {
    let head = "SELECT sku_id FROM stock WHERE numbered IS NOT NULL AND";
    let rows = rows_in(tx, head, "sku_id", skus, " GROUP BY sku_id").await?;
    Ok(rows.iter().map(|row| row.fields().id(SkuId::new)).collect::<Result<_, _>>()?)
}

/// Whether rows are locked until the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sql) enum Lock {
    No,
    Yes,
}

impl Lock {
    fn words(self, tx: &dyn Tx) -> &'static str {
        match self {
            Self::No => "",
            Self::Yes => tx.dialect().for_update(),
        }
    }
}

/// Reads a row with the columns of [`STOCK`].
pub(in crate::sql) fn stock_entry(row: &Row) -> Result<StockEntry, StoreError> {
    let f = &mut row.fields();
    let (sku_id, warehouse_id) = (f.id(SkuId::new)?, f.warehouse()?);
    let levels = levels(f)?;
    let (status, initial, supplied) = (status(f.text()?)?, f.count()?, f.count()?);
    let (server, shard, epoch) = (f.server_or_null()?, f.shard_or_null()?, f.count()?);
    let (lsn, changed_at) = (f.lsn()?, f.time()?);
    let numbered = f.count_or_null()?;
    let owner = match (server, shard) {
        (Some(server), Some(shard)) => Some(Owner { server, shard, epoch }),
        (None, None) => None,
        _ => return Err(broken(format!("stock of SKU {sku_id}: half an owner"))),
    };
    let image = StockImage {
        sku_id,
        warehouse_id,
        levels,
        status,
        initial,
        supplied,
        forgotten_sold: levels.sold,
        lsn: Lsn::ZERO,
        epoch,
        stage: Stage::Open,
        numbered,
    };
    Ok(StockEntry { image, owner, lsn, changed_at })
}

/// A row for [`STOCK`].
pub(in crate::sql) fn stock_row(entry: &StockEntry) -> Vec<Arg> {
    let StockEntry { image, owner, lsn, changed_at } = entry;
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
        owner.map(|owner| owner.server).into(),
        owner.map(|owner| owner.shard).into(),
        image.epoch.into(),
        (*lsn).into(),
        (*changed_at).into(),
        image.numbered.into(),
    ]
}

/// The words after `SELECT` for [`request_image`].
pub(in crate::sql) fn select_stock_requests() -> String {
    select(&STOCK_REQUESTS)
}

/// Reads a row with the columns of [`STOCK_REQUESTS`].
pub(in crate::sql) fn request_image(row: &Row) -> Result<RequestImage, StoreError> {
    let f = &mut row.fields();
    Ok(RequestImage {
        sku_id: f.id(SkuId::new)?,
        request_id: f.id(RequestId::new)?,
        warehouse_id: f.warehouse()?,
        fingerprint: f.int()?.cast_unsigned(),
        after: levels(f)?,
        at: f.time()?,
        lsn: Lsn::ZERO,
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
    ]
}

/// Reads a row with the columns of [`STOCK_JOURNAL`].
pub(in crate::sql) fn journal_entry(row: &Row) -> Result<JournalRow, StoreError> {
    let f = &mut row.fields();
    let (sku_id, warehouse_id, version, at) = (f.id(SkuId::new)?, f.warehouse()?, f.count()?, f.time()?);
    let kind = f.text()?;
    let kind = MoveKind::named(kind).ok_or_else(|| broken(format!("a journal row of kind {kind}")))?;
    let (order_no, request_id) = (f.id_or_null(OrderNo::stored)?, f.id_or_null(RequestId::new)?);
    let reason = f.id_or_null(Reason::new)?;
    let delta = Delta { available: f.int()?, reserved: f.int()?, sold: f.int()? };
    let after = Levels { available: f.count()?, reserved: f.count()?, sold: f.count()?, version };
    let (trace, server, shard) = (f.trace_or_null()?, f.server_or_null()?, f.shard_or_null()?);
    let (lsn, serial_from) = (f.count_or_null()?.map(Lsn), f.count_or_null()?);
    let units = delta.sold.unsigned_abs();
    let serials = serial_from.map(|from| Serials { from, to: from.saturating_add(units).saturating_sub(1) });
    let source = server.zip(shard).zip(lsn).map(|((server, shard), lsn)| (server, shard, lsn));
    let change =
        StockMove { sku_id, warehouse_id, kind, order_no, request_id, reason, delta, after, serials };
    Ok(JournalRow { change, at, trace, source })
}

/// A row for [`STOCK_JOURNAL`].
pub(in crate::sql) fn journal_row(entry: &JournalRow) -> Vec<Arg> {
    let JournalRow { change, at, trace, source } = entry;
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
        (*trace).into(),
        source.map(|(server, _, _)| server).into(),
        source.map(|(_, shard, _)| shard).into(),
        source.map(|(_, _, lsn)| lsn).into(),
        change.serials.map(|serials| serials.from).into(),
    ]
}

/// Reads available, reserved, sold and version.
pub(in crate::sql) fn levels(f: &mut Fields<'_>) -> Result<Levels, StoreError> {
    Ok(Levels { available: f.count()?, reserved: f.count()?, sold: f.count()?, version: f.count()? })
}
