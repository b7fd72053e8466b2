//! The follower's side of the store: events of a shard, taken in exactly once.
//!
//! - [`touch`]: what the events are about. [`fold`]: the events applied to the rows of that.
//! - Here: the transaction. It locks the watermark of the shard (so that two flushes of one shard wait for each other), then order
//!   rows, then stock rows by key, and writes all tables and the watermark; a commit that is lost is found out by the watermark.
//!
//! Orders that the events make are inserted blindly. When one is there already, the transaction starts over and looks: the row stays,
//! the stocks and their journal are written, and the conflict is recorded; later events of that order leave its row alone too.
//!
//! An order over several places is one row, written whole whenever its home changes it. Its branches are orders like any other.

mod fold;
mod touch;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use hotstock_engine::checkpoint::Phase;
use hotstock_engine::event::Change;
use hotstock_engine::home::HomeChange;
use hotstock_engine::ids::{Lsn, OrderNo, ServerId, ShardId, SkuId};
use hotstock_engine::store::{Anomaly, FlushBatch, Flushed, StoreError};

use super::dialect::{Access, Arg, Existing, Table, Tx};
use super::error::{SqlError, broken};
use super::rows::{
    self, Lock, ORDER_LINES, ORDER_REQUESTS, ORDERS, STOCK, STOCK_JOURNAL, STOCK_REQUESTS, StockEntry,
    drop_parts, find_orders, load_skus, write_homes,
};
use super::statements::{execute_in, rows_in, write};
use super::{SqlStore, Work};
use crate::limits::MAX_DETAIL_BYTES;
use fold::{Folded, Loaded, fold};
use touch::{Part, parts};

const WATERMARKS: Table =
    Table { name: "watermarks", columns: &["server_id", "shard", "lsn", "time"], keys: 2 };

/// Without `id`, which the database counts.
const ANOMALIES: Table = Table {
    name: "anomalies",
    columns: &["at", "kind", "server", "shard", "lsn", "sku_id", "order_no", "detail"],
    keys: 0,
};

/// An order_no that the store had already.
const ORDER_EXISTS: &str = "order_exists";

/// See [`Store::watermark`](hotstock_engine::store::Store::watermark).
pub(super) async fn watermark(store: &SqlStore, server: ServerId, shard: ShardId) -> Result<Lsn, StoreError> {
    store.run(&Watermark { server, shard }).await
}

/// See [`Store::flush`](hotstock_engine::store::Store::flush).
pub(super) async fn flush(store: &SqlStore, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
    let gapless = batch.events.iter().zip(1..).all(|((lsn, _), n)| *lsn == batch.after.plus(n));
    if batch.events.is_empty() || !gapless {
        return Err(broken(format!("a batch after {} that does not begin there or has a gap", batch.after)));
    }
    let flush = Flush { batch, careful: AtomicBool::new(false) };
    let mut done = store.run(&flush).await;
    if let Err(StoreError::OutcomeUnknown(problem)) = done {
        // The watermark tells, if it can be read.
        done = match store.run(&flush).await {
            Err(StoreError::Unavailable(_) | StoreError::Busy(_)) => Err(StoreError::OutcomeUnknown(problem)),
            done => done,
        };
    }
    if let Err(StoreError::Fenced { sku_id }) = &done {
        store.run(&NoteFenced { batch, sku_id }).await?;
    }
    done
}

struct Watermark {
    server: ServerId,
    shard: ShardId,
}

impl Work for Watermark {
    type Done = Lsn;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Lsn, SqlError> {
        Ok(read_watermark(tx, self.server, self.shard, "").await?.unwrap_or(Lsn::ZERO))
    }
}

/// Where a shard's watermark is; `None` when it has none.
pub(super) async fn read_watermark(
    tx: &mut dyn Tx,
    server: ServerId,
    shard: ShardId,
    lock: &str,
) -> Result<Option<Lsn>, SqlError> {
    let sql = format!("SELECT lsn FROM watermarks WHERE server_id = ? AND shard = ?{lock}");
    let rows = tx.rows(&sql, vec![server.into(), shard.into()]).await?;
    Ok(rows.first().map(|row| row.fields().lsn()).transpose()?)
}

struct Flush<'a> {
    batch: FlushBatch<'a>,
    /// An insert met a row: look for orders that are there.
    careful: AtomicBool,
}

impl Work for Flush<'_> {
    type Done = Flushed;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Flushed, SqlError> {
        let careful = self.careful.load(Ordering::Relaxed);
        let done = self.carry_out(tx, careful).await;
        match done {
            // Orders were looked for, so it is a row of the stock journal: this version was written by somebody else.
            Err(SqlError::Duplicate(problem)) if careful => Err(broken(problem).into()),
            Err(SqlError::Duplicate(problem)) => {
                self.careful.store(true, Ordering::Relaxed);
                Err(SqlError::Duplicate(problem))
            }
            done => done,
        }
    }
}

impl Flush<'_> {
    async fn carry_out(&self, tx: &mut dyn Tx, careful: bool) -> Result<Flushed, SqlError> {
        let FlushBatch { server, shard, after, events } = self.batch;
        let watermark = lock_watermark(tx, server, shard).await?;
        if watermark != after {
            return Ok(Flushed { watermark, ..Flushed::default() });
        }
        let mut flushed = Flushed { watermark, ..Flushed::default() };
        for part in parts(events) {
            let (loaded, found) = self.load(tx, &part, careful).await?;
            let folded = fold((server, shard), loaded, &events[part.events.clone()])?;
            flushed.anomalies += (folded.anomalies.len() + found.len()) as u64;
            flushed.rows += note(tx, found).await?;
            flushed.rows += self.write(tx, folded).await?;
        }
        if let Some((lsn, event)) = events.last() {
            let row = vec![server.into(), shard.into(), (*lsn).into(), event.at.into()];
            flushed.rows += write(tx, &WATERMARKS, Existing::Replaced, vec![row]).await?;
            flushed.watermark = *lsn;
        }
        Ok(flushed)
    }

    /// The rows that a part starts from, locked, and the conflicts that are found with them.
    async fn load(
        &self,
        tx: &mut dyn Tx,
        part: &Part,
        careful: bool,
    ) -> Result<(Loaded, Vec<Anomaly>), SqlError> {
        let mut loaded =
            Loaded { conflicts: self.known_conflicts(tx, &part.orders).await?, ..Loaded::default() };
        let found =
            if careful { self.look_for_made(tx, part, &mut loaded.conflicts).await? } else { Vec::new() };
        let orders: Vec<_> =
            part.orders.iter().filter(|order_no| !loaded.conflicts.contains(*order_no)).cloned().collect();
        let found_orders = find_orders(tx, &orders, Lock::Yes).await?;
        (loaded.orders, loaded.homes) = (found_orders.orders, found_orders.homes);
        // Another server has taken the order over.
        let lost = loaded.homes.iter().find(|home| home.server != self.batch.server);
        if let Some(sku_id) = lost.and_then(|home| home.home.order.lines.first()).map(|line| &line.sku_id) {
            return Err(StoreError::Fenced { sku_id: sku_id.clone() }.into());
        }
        let mut skus = part.skus.clone();
        for order in loaded.orders.iter().filter(|order| part.whole.contains(&order.image.order_no)) {
            skus.extend(order.image.lines.iter().map(|line| line.sku_id.clone()));
        }
        let skus: Vec<_> = skus.into_iter().collect();
        loaded.stocks = load_skus(tx, &skus, Lock::Yes).await?;
        self.check_owner(&skus, &loaded.stocks, part)?;
        Ok((loaded, found))
    }

    /// Those of these orders whose rows in the store are about another order.
    async fn known_conflicts(
        &self,
        tx: &mut dyn Tx,
        orders: &BTreeSet<OrderNo>,
    ) -> Result<HashSet<OrderNo>, SqlError> {
        let mut conflicts = HashSet::new();
        let args = || vec![ORDER_EXISTS.into(), self.batch.server.into(), self.batch.shard.into()];
        let any = "SELECT id FROM anomalies WHERE kind = ? AND server = ? AND shard = ? LIMIT 1";
        if orders.is_empty() || tx.rows(any, args()).await?.is_empty() {
            return Ok(conflicts);
        }
        let orders: Vec<_> = orders.iter().cloned().collect();
        let head = "SELECT kind, server, shard, order_no FROM anomalies WHERE";
        for row in rows_in(tx, head, "order_no", &orders, "").await? {
            let f = &mut row.fields();
            let kind = f.text()? == ORDER_EXISTS;
            let ours = (f.server_or_null()?, f.shard_or_null()?)
                == (Some(self.batch.server), Some(self.batch.shard));
            if kind && ours {
                conflicts.insert(f.order_no()?);
            }
        }
        Ok(conflicts)
    }

    /// Looks for orders that a part makes and the store has. A tombstone that meets a tombstone is no conflict.
    async fn look_for_made(
        &self,
        tx: &mut dyn Tx,
        part: &Part,
        conflicts: &mut HashSet<OrderNo>,
    ) -> Result<Vec<Anomaly>, SqlError> {
        let made: BTreeSet<_> = part.made.iter().cloned().collect();
        let made: Vec<_> = made.into_iter().collect();
        let mut found = Vec::new();
        let known = find_orders(tx, &made, Lock::Yes).await?;
        let images = known.orders.into_iter().map(|order| order.image);
        for known in images.chain(known.homes.into_iter().map(|home| home.home.order)) {
            let order_no = known.order_no;
            let events = &self.batch.events[part.events.clone()];
            let makes = events.iter().find(|(_, event)| match &event.change {
                Change::Reserved { order_no: made, .. } | Change::Cancelled { order_no: made, .. } => {
                    *made == order_no
                }
                Change::Home(change) => {
                    matches!(**change, HomeChange::Reserved { .. }) && *change.order_no() == order_no
                }
                _ => false,
            });
            let Some((lsn, event)) = makes else { continue };
            let holds = |lines: usize, units: u64| Some(format!("{lines} lines that hold {units} units"));
            let asked = match &event.change {
                Change::Reserved { lines, .. } => {
                    holds(lines.len(), lines.iter().map(|line| u64::from(line.held)).sum())
                }
                Change::Home(change) => match &**change {
                    HomeChange::Reserved { lines, .. } => {
                        holds(lines.len(), lines.iter().map(|line| u64::from(line.held)).sum())
                    }
                    _ => None,
                },
                _ => (known.phase != Phase::Cancelled).then(|| "a release before the reserve".to_owned()),
            };
            if let Some(asked) = asked {
                let held: u64 = known.lines.iter().map(|line| u64::from(line.held)).sum();
                let (lines, phase) = (known.lines.len(), rows::phase_name(known.phase));
                found.push(Anomaly {
                    at: event.at,
                    kind: ORDER_EXISTS.to_owned(),
                    source: Some((self.batch.server, self.batch.shard, *lsn)),
                    order_no: Some(order_no.clone()),
                    sku_id: None,
                    detail: format!(
                        "the store has it made at {} with {lines} lines, {phase}, holding {held} units; the shard makes it at {} with {asked}",
                        known.created_at.0, event.at.0
                    ),
                });
            }
            conflicts.insert(order_no);
        }
        Ok(found)
    }

    /// All stocks of the SKUs belong to the shard. A SKU without any must be one that the shard creates.
    fn check_owner(&self, skus: &[SkuId], stocks: &[StockEntry], part: &Part) -> Result<(), StoreError> {
        let FlushBatch { server, shard, .. } = self.batch;
        let other = stocks
            .iter()
            .find(|stock| stock.owner.is_none_or(|owner| (owner.server, owner.shard) != (server, shard)));
        if let Some(stock) = other {
            return Err(StoreError::Fenced { sku_id: stock.image.sku_id.clone() });
        }
        let there: HashSet<_> = stocks.iter().map(|stock| &stock.image.sku_id).collect();
        match skus.iter().find(|sku_id| !there.contains(sku_id) && !part.created.contains(*sku_id)) {
            Some(sku_id) => Err(StoreError::Fenced { sku_id: sku_id.clone() }),
            None => Ok(()),
        }
    }

    async fn write(&self, tx: &mut dyn Tx, folded: Folded) -> Result<u64, SqlError> {
        let FlushBatch { server, shard, .. } = self.batch;
        let Folded { stocks, created, made, changed, requests, journal, shed, withdrawn, anomalies, .. } =
            folded;
        let mut rows = 0;
        rows += drop_parts(tx, &folded.split).await?;
        rows += write_homes(tx, &folded.homes_made, Existing::Refused).await?;
        rows += write_homes(tx, &folded.homes_changed, Existing::Replaced).await?;
        let new = made.iter().map(rows::order_row).collect();
        rows += write(tx, &ORDERS, Existing::Refused, new).await?;
        let new = made.iter().flat_map(|order| rows::line_rows(&order.image)).collect();
        rows += write(tx, &ORDER_LINES, Existing::Refused, new).await?;
        let old = changed.iter().map(|(order, _)| rows::order_row(order)).collect();
        rows += write(tx, &ORDERS, Existing::Replaced, old).await?;
        let old = changed.iter().flat_map(|(order, _)| rows::line_rows(&order.image)).collect();
        rows += write(tx, &ORDER_LINES, Existing::Replaced, old).await?;
        let made = made.iter().map(|order| (order, 0));
        let all = made.chain(changed.iter().map(|(order, known)| (order, *known)));
        let new = all.flat_map(|(order, known)| rows::request_rows(&order.image, known)).collect();
        rows += write(tx, &ORDER_REQUESTS, Existing::Refused, new).await?;
        // Not over one that somebody else makes at this moment.
        let new = created.iter().map(rows::stock_row).collect();
        rows += write(tx, &STOCK, Existing::Refused, new).await?;
        // They are locked, and were found to belong to the shard.
        let levels = stocks.iter().map(rows::stock_row).collect();
        rows += write(tx, &STOCK, Existing::Replaced, levels).await?;
        // A request that was forgotten may come again.
        let answered = requests.iter().map(rows::stock_request_row).collect();
        rows += write(tx, &STOCK_REQUESTS, Existing::Replaced, answered).await?;
        let moves = journal.iter().map(rows::journal_row).collect();
        rows += write(tx, &STOCK_JOURNAL, Existing::Refused, moves).await?;
        rows += note(tx, anomalies).await?;
        let shed: Vec<_> = shed.into_iter().collect();
        rows += make_due(tx, &shed).await?;
        for (sku_id, epoch) in withdrawn {
            let clear = "UPDATE stock SET owner_server = NULL, owner_shard = NULL \
                 WHERE sku_id = ? AND owner_server = ? AND owner_shard = ? AND epoch = ?";
            let args = vec![(&sku_id).into(), server.into(), shard.into(), epoch.into()];
            let cleared = tx.execute(clear, args).await?;
            if cleared == 0 {
                return Err(StoreError::Fenced { sku_id }.into());
            }
            rows += cleared + make_sku_due(tx, &sku_id).await?;
        }
        Ok(rows)
    }
}

/// Locks the watermark of a shard, which gets one when it has none, and tells where it is.
async fn lock_watermark(tx: &mut dyn Tx, server: ServerId, shard: ShardId) -> Result<Lsn, SqlError> {
    let lock = tx.dialect().for_update();
    if let Some(lsn) = read_watermark(tx, server, shard, lock).await? {
        return Ok(lsn);
    }
    let row = vec![server.into(), shard.into(), Arg::Int(0), Arg::Int(0)];
    write(tx, &WATERMARKS, Existing::Kept, vec![row]).await?;
    Ok(read_watermark(tx, server, shard, lock).await?.unwrap_or(Lsn::ZERO))
}

pub(super) async fn note(tx: &mut dyn Tx, anomalies: Vec<Anomaly>) -> Result<u64, SqlError> {
    let rows = anomalies.into_iter().map(|anomaly| {
        let Anomaly { at, kind, source, order_no, sku_id, detail } = anomaly;
        vec![
            at.into(),
            kind.as_str().into(),
            source.map(|(server, _, _)| server).into(),
            source.map(|(_, shard, _)| shard).into(),
            source.map(|(_, _, lsn)| lsn).into(),
            sku_id.as_ref().into(),
            order_no.as_ref().into(),
            short(&detail).into(),
        ]
    });
    write(tx, &ANOMALIES, Existing::Refused, rows.collect()).await
}

/// As much of a text as the column takes.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_DETAIL_BYTES)]
}

/// SQL expires these orders from now on, those that hold units.
async fn make_due(tx: &mut dyn Tx, order_nos: &[OrderNo]) -> Result<u64, SqlError> {
    let head = "UPDATE orders SET due_at = expires_at WHERE open = 1 AND";
    execute_in(tx, head, "order_no", order_nos).await
}

/// Likewise all orders of a SKU that were not made due when they were shed, or that a sweeper met and put off before the SKU had no
/// owner.
async fn make_sku_due(tx: &mut dyn Tx, sku_id: &SkuId) -> Result<u64, SqlError> {
    let missing = "SELECT l.order_no FROM order_lines l JOIN orders o ON o.order_no = l.order_no \
         WHERE l.sku_id = ? AND l.open = 1 AND o.open = 1 AND (o.due_at IS NULL OR o.due_at <> o.expires_at) ORDER BY l.order_no";
    let rows = tx.rows(missing, vec![sku_id.into()]).await?;
    let mut missing = rows.iter().map(|row| row.fields().order_no()).collect::<Result<Vec<_>, _>>()?;
    missing.dedup();
    make_due(tx, &missing).await
}

/// Records that a shard writes a SKU which it does not own. The transaction that found it is rolled back by then.
struct NoteFenced<'a> {
    batch: FlushBatch<'a>,
    sku_id: &'a SkuId,
}

impl Work for NoteFenced<'_> {
    type Done = ();

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        let FlushBatch { server, shard, after, events } = self.batch;
        let first = after.next();
        // Once for each batch, however often it is repeated.
        let known = "SELECT id FROM anomalies \
             WHERE kind = 'fenced' AND server = ? AND shard = ? AND lsn = ? AND sku_id = ?";
        let args = vec![server.into(), shard.into(), first.into(), self.sku_id.into()];
        if !tx.rows(known, args).await?.is_empty() {
            return Ok(());
        }
        let anomaly = Anomaly {
            at: events.first().map_or_else(Default::default, |(_, event)| event.at),
            kind: "fenced".to_owned(),
            source: Some((server, shard, first)),
            order_no: None,
            sku_id: Some(self.sku_id.clone()),
            detail: format!("the shard writes it in a batch from event {first} on, and does not own it"),
        };
        note(tx, vec![anomaly]).await.map(drop)
    }
}
