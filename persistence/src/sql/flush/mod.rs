//! Events of the shards come in, exactly once: one transaction with their watermarks.
//!
//! - [`rows`]: what the events do to the tables, from the events alone.
//! - [`orders`], [`holds`], [`stocks`]: the rows written, and what the store has otherwise than it should be.
//! - Here: the transaction. The epoch is checked and the watermarks are locked, all tables, the watermarks and the
//!   guards of the tables are written; a commit that is lost is found out by the watermarks.
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
use hotstock_engine::ids::{Lsn, OrderNo, ShardId, SkuId};
use hotstock_engine::store::{Anomaly, FlushBatch, FlushPart, Flushed, StoreError, Watermark};

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
    batch.check()?;
    let mut rows = Vec::with_capacity(batch.parts.len());
    for FlushPart { shard, events, .. } in &batch.parts {
        let mut fold = Fold::new(*shard);
        for some in events.chunks(EVENTS_WITHOUT_PAUSE) {
            fold.events(some).map_err(|problem| broken(format!("shard {shard}: {problem}")))?;
            // Others on this thread are not kept waiting by a large batch.
            tokio::task::yield_now().await;
        }
        rows.push(fold.finish());
    }
    let flush = Flush { batch, rows, careful: AtomicBool::new(false) };
    let mut done = store.run(&flush).await;
    if let Err(StoreError::OutcomeUnknown(problem)) = done {
        // The watermarks tell, if they can be read.
        done = match store.run(&flush).await {
            Err(StoreError::Unavailable(_) | StoreError::Torn(_) | StoreError::Busy(_)) => {
                Err(StoreError::OutcomeUnknown(problem))
            }
            done => done,
        };
    }
    done
}

struct Flush<'a> {
    batch: FlushBatch<'a>,
    /// What comes of each part.
    rows: Vec<Rows>,
    /// An insert met a row: look for what is there.
    careful: AtomicBool,
}

impl Work for Flush<'_> {
    type Done = Flushed;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Flushed, SqlError> {
        let FlushBatch { epoch, parts } = &self.batch;
        check_epoch(tx, *epoch).await?;
        let lock = tx.dialect().for_update();
        tx.rows(&format!("SELECT shard FROM watermarks{lock}"), &[]).await?;
        let known: BTreeMap<ShardId, Watermark> =
            read_watermarks(tx).await?.into_iter().map(|mark| (mark.shard, mark)).collect();
        let of = |shard| known.get(&shard).copied().unwrap_or(Watermark { shard, ..Watermark::default() });
        let mut watermarks: Vec<Watermark> = parts.iter().map(|part| of(part.shard)).collect();
        if parts.iter().zip(&watermarks).any(|(part, mark)| part.after != mark.lsn) {
            return Ok(Flushed { watermarks, ..Flushed::default() });
        }
        let careful = self.careful.load(Ordering::Relaxed);
        let mut writing = Writing::new(tx, careful);
        match writing.write(parts, &self.rows).await {
            // Everything was looked for that can be there.
            Err(SqlError::Duplicate(problem)) if careful => return Err(broken(problem).into()),
            Err(SqlError::Duplicate(problem)) => {
                self.careful.store(true, Ordering::Relaxed);
                return Err(SqlError::Duplicate(problem));
            }
            done => done?,
        }
        let mut moved = Vec::new();
        for (part, mark) in parts.iter().zip(&mut watermarks) {
            let Some((lsn, event)) = part.events.last() else { continue };
            *mark = Watermark { shard: part.shard, lsn: *lsn, hash: part.hash, epoch: *epoch };
            let hash = part.hash.0.cast_signed();
            moved.push(vec![part.shard.into(), (*lsn).into(), hash.into(), (*epoch).into(), event.at.into()]);
            move_guards(writing.tx, part.shard, part.after, *lsn).await?;
        }
        writing.insert(&WATERMARKS, Existing::Replaced, moved, &|_| None).await?;
        let (rows, anomalies) = (writing.count, writing.anomalies.len() as u64);
        Ok(Flushed { watermarks, rows, anomalies, parked: writing.parked.into_keys().collect() })
    }
}

/// The writing of one batch.
struct Writing<'a> {
    tx: &'a mut dyn Tx,
    /// Whose events are written now.
    shard: ShardId,
    /// What anomalies that are not of one event are noted with.
    last: (Lsn, Timestamp),
    /// See the top of the file.
    careful: bool,
    /// Rows written.
    count: u64,
    anomalies: Vec<Anomaly>,
    /// SKUs that are parked by this batch, since when and why.
    parked: BTreeMap<SkuId, (Timestamp, String)>,
    refused: usize,
}

impl<'a> Writing<'a> {
    fn new(tx: &'a mut dyn Tx, careful: bool) -> Self {
        let (anomalies, parked) = (Vec::new(), BTreeMap::new());
        let (shard, last) = (ShardId::default(), (Lsn::ZERO, Timestamp(0)));
        Self { tx, shard, last, careful, count: 0, anomalies, parked, refused: 0 }
    }

    async fn write(&mut self, parts: &[FlushPart<'_>], rows: &[Rows]) -> Result<(), SqlError> {
        for (FlushPart { shard, events, .. }, rows) in parts.iter().zip(rows) {
            let Some((lsn, event)) = events.last() else { continue };
            (self.shard, self.last) = (*shard, (*lsn, event.at));
            self.made_orders(&rows.made).await?;
            self.changed_orders(&rows.changed).await?;
            self.orders_again(&rows.again);
            self.holds(rows).await?;
            self.stocks(rows).await?;
        }
        let parked = self.parked.iter();
        let parked = parked
            .map(|(sku_id, (at, reason))| vec![sku_id.into(), (*at).into(), cut(reason).into()])
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
            let at = self.last.1;
            self.parked.extend(sku_id.map(|sku_id| (sku_id, (at, detail))));
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
