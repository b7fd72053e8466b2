//! Events of a shard come in, exactly once: one transaction with the watermark of the shard.
//!
//! - [`rows`]: what the events do to the tables, from the events alone.
//! - [`orders`], [`holds`], [`stocks`]: the rows written, and what the store has otherwise than it should be.
//! - Here: the transaction. The epoch is checked and the watermark locked, all tables, the watermark and
//!   the guards of the tables are written;
//!   a commit that is lost is found out by the watermark.
//!
//! New rows are inserted without a look. When one is there already, the transaction starts again *carefully*: what
//! should not be there is looked for and recorded. So the usual flush reads nothing, and the unusual one is right.

mod holds;
mod orders;
mod rows;
mod stocks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::Event;
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId};
use hotstock_engine::store::{Anomaly, FlushBatch, Flushed, StoreError, Watermark};

use self::rows::{Fold, Rows};
use super::dialect::{Access, Arg, Existing, Table, Tx};
use super::error::{SqlError, broken};
use super::guards::{move_guards, read_watermarks};
use super::owner::check_epoch;
use super::rows::{ANOMALIES, PARKED, WATERMARKS, anomaly_row, cut};
use super::statements::{Written, insert};
use super::{SqlStore, Work};
use crate::limits::{EVENTS_WITHOUT_PAUSE, MAX_REFUSED_ROWS};

/// See [`Store::flush`](hotstock_engine::store::Store::flush).
pub(super) async fn flush(store: &SqlStore, batch: FlushBatch<'_>) -> Result<Flushed, StoreError> {
    let gapless = batch.events.iter().zip(1..).all(|((lsn, _), n)| *lsn == batch.after.plus(n));
    let Some(last) = batch.events.last().filter(|_| gapless) else {
        return Err(broken(format!("a batch after {} that does not begin there or has a gap", batch.after)));
    };
    let mut fold = Fold::new(batch.shard);
    for some in batch.events.chunks(EVENTS_WITHOUT_PAUSE) {
        fold.events(some).map_err(broken)?;
        // Others on this thread are not kept waiting by a large batch.
        tokio::task::yield_now().await;
    }
    let rows = fold.finish();
    let flush = Flush { batch, rows, last, careful: AtomicBool::new(false) };
    let mut done = store.run(&flush).await;
    if let Err(StoreError::OutcomeUnknown(problem)) = done {
        // The watermark tells, if it can be read.
        done = match store.run(&flush).await {
            Err(StoreError::Unavailable(_) | StoreError::Busy(_)) => Err(StoreError::OutcomeUnknown(problem)),
            done => done,
        };
    }
    done
}

struct Flush<'a> {
    batch: FlushBatch<'a>,
    rows: Rows,
    last: &'a (Lsn, Event),
    /// An insert met a row: look for what is there.
    careful: AtomicBool,
}

impl Work for Flush<'_> {
    type Done = Flushed;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Flushed, SqlError> {
        let FlushBatch { epoch, shard, after, hash, .. } = self.batch;
        check_epoch(tx, epoch).await?;
        let lock = tx.dialect().for_update();
        tx.rows(&format!("SELECT shard FROM watermarks WHERE shard = ?{lock}"), &[shard.into()]).await?;
        let found = read_watermarks(tx).await?.into_iter().find(|mark| mark.shard == shard);
        let found = found.unwrap_or(Watermark { shard, ..Watermark::default() });
        if found.lsn != after {
            return Ok(Flushed { watermark: found, ..Flushed::default() });
        }
        let careful = self.careful.load(Ordering::Relaxed);
        let mut writing = Writing::new(tx, shard, self.last, careful);
        match writing.write(&self.rows).await {
            // Everything was looked for that can be there.
            Err(SqlError::Duplicate(problem)) if careful => return Err(broken(problem).into()),
            Err(SqlError::Duplicate(problem)) => {
                self.careful.store(true, Ordering::Relaxed);
                return Err(SqlError::Duplicate(problem));
            }
            done => done?,
        }
        let (lsn, event) = self.last;
        let row =
            vec![shard.into(), (*lsn).into(), hash.0.cast_signed().into(), epoch.into(), event.at.into()];
        writing.insert(&WATERMARKS, Existing::Replaced, vec![row], &|_| None).await?;
        move_guards(writing.tx, shard, after, *lsn).await?;
        let watermark = Watermark { shard, lsn: *lsn, hash, epoch };
        let (rows, anomalies) = (writing.count, writing.anomalies.len() as u64);
        Ok(Flushed { watermark, rows, anomalies, parked: writing.parked.into_keys().collect() })
    }
}

/// The writing of one batch.
struct Writing<'a> {
    tx: &'a mut dyn Tx,
    shard: ShardId,
    /// What anomalies that are not of one event are noted with.
    last: (Lsn, Timestamp),
    /// See the top of the file.
    careful: bool,
    /// Rows written.
    count: u64,
    anomalies: Vec<Anomaly>,
    /// SKUs that are parked by this batch, and why.
    parked: BTreeMap<SkuId, String>,
    refused: usize,
}

impl<'a> Writing<'a> {
    fn new(tx: &'a mut dyn Tx, shard: ShardId, last: &(Lsn, Event), careful: bool) -> Self {
        let (anomalies, parked) = (Vec::new(), BTreeMap::new());
        Self { tx, shard, last: (last.0, last.1.at), careful, count: 0, anomalies, parked, refused: 0 }
    }

    async fn write(&mut self, rows: &Rows) -> Result<(), SqlError> {
        self.made_orders(&rows.made).await?;
        self.changed_orders(&rows.changed).await?;
        self.orders_again(&rows.again);
        self.holds(rows).await?;
        self.stocks(rows).await?;
        let parked = self.parked.iter();
        let parked = parked
            .map(|(sku_id, reason)| vec![sku_id.into(), self.last.1.into(), cut(reason).into()])
            .collect();
        self.count += insert(self.tx, &PARKED, Existing::Kept, parked).await?.count;
        let anomalies = self.anomalies.iter().map(anomaly_row).collect();
        self.count += insert(self.tx, &ANOMALIES, Existing::Refused, anomalies).await?.count;
        Ok(())
    }

    /// Inserts rows; `sku_of` names the SKU of the row at a place. One that does not fit is left out, noted, and
    /// parks its SKU.
    async fn insert(
        &mut self,
        table: &Table,
        existing: Existing,
        rows: Vec<Vec<Arg>>,
        sku_of: &(dyn Fn(usize) -> Option<SkuId> + Sync),
    ) -> Result<(), SqlError> {
        self.count += rows.len() as u64;
        let written = insert(self.tx, table, existing, rows).await?;
        self.refused(table.name, written, sku_of)
    }

    fn refused(
        &mut self,
        table: &str,
        written: Written,
        sku_of: &(dyn Fn(usize) -> Option<SkuId> + Sync),
    ) -> Result<(), SqlError> {
        self.refused += written.refused.len();
        if self.refused > MAX_REFUSED_ROWS {
            let (_, problem) = &written.refused[0];
            return Err(broken(format!("many rows of {table} do not fit: {problem}")).into());
        }
        for (place, problem) in written.refused {
            let detail = format!("a row of {table} does not fit: {problem}");
            let sku_id = sku_of(place);
            self.anomaly("row_refused", self.last, None, sku_id.as_ref(), detail.clone());
            self.parked.extend(sku_id.map(|sku_id| (sku_id, detail)));
        }
        Ok(())
    }

    fn anomaly(
        &mut self,
        kind: &str,
        (lsn, at): (Lsn, Timestamp),
        order_no: Option<&OrderNo>,
        sku_id: Option<&SkuId>,
        detail: String,
    ) {
        let (order_no, sku_id) = (order_no.cloned(), sku_id.cloned());
        let source = Some((self.shard, lsn));
        self.anomalies.push(Anomaly { at, kind: kind.to_owned(), source, order_no, sku_id, detail });
    }
}
