//! The journal of a SKU: the rows of the store, and behind them what is durable in the shard's journal and not
//! flushed yet.
//!
//! The seam: the store gives its rows and the watermark of one moment, so the events after the watermark are exactly
//! what is missing. They are read from the journal on; when it was trimmed meanwhile, they are in the store by now
//! and all is read again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::blocking;
use crate::base::ids::{Lsn, ShardId, SkuId, WarehouseId, shard_of};
use crate::base::limits::{MAX_HISTORY_TRIES, MAX_UNFLUSHED_SCAN};
use crate::contract::event::Event;
use crate::contract::journal::{JournalError, JournalReader};
use crate::contract::outcome::Refusal;
use crate::contract::store::{JournalRow, StoreError};
use crate::services::fence::Fence;
use crate::services::shared::ShardShared;
use crate::services::store_link::{StoreLink, refusal_of};

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

/// See the top of the file.
pub(crate) struct History {
    pub shards: Arc<[Arc<ShardShared>]>,
    pub link: Arc<StoreLink>,
    pub fence: Arc<Fence>,
    pub reader: Arc<dyn JournalReader>,
}

/// Which rows are wanted.
struct Asked<'a> {
    sku_id: &'a SkuId,
    /// Above these versions.
    after: &'a [(WarehouseId, u64)],
    limit: usize,
}

impl History {
    /// See [`crate::front::engine::Engine::stock_journal`].
    pub async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Vec<JournalRow>, Refusal> {
        self.fence.check()?;
        let shard = shard_of(sku_id, u16::try_from(self.shards.len()).unwrap_or(u16::MAX));
        let asked = Asked { sku_id, after, limit };
        for _ in 0..MAX_HISTORY_TRIES {
            let stored = self.link.store().stock_journal(sku_id, after, limit).await;
            let stored = self.link.noted(stored).map_err(|error| match error {
                // A row of its journal can't be read, now or later; nothing else is at fault.
                StoreError::Inconsistent(problem) => {
                    Refusal::StockInconsistent { sku_id: sku_id.clone(), problem }
                }
                error => refusal_of(error),
            })?;
            let flushed = stored.flushed(shard);
            let mut rows = stored.rows;
            let Some(new) = self.unflushed(shard, flushed, &asked, &rows).await? else { continue };
            rows.extend(new);
            return Ok(merged(rows, limit));
        }
        Err(Refusal::StoreUnavailable)
    }

    /// The rows of the events after `flushed`; `None` when the journal does not have them any more.
    async fn unflushed(
        &self,
        shard: ShardId,
        flushed: Lsn,
        asked: &Asked<'_>,
        stored: &[JournalRow],
    ) -> Result<Option<Vec<JournalRow>>, Refusal> {
        let durable = self.shards[shard.index()].durable_lsn();
        if durable.0.saturating_sub(flushed.0) > MAX_UNFLUSHED_SCAN {
            return Err(Refusal::StoreUnavailable);
        }
        let mut seen: HashMap<WarehouseId, (u64, usize)> =
            asked.after.iter().map(|(warehouse_id, version)| (*warehouse_id, (*version, 0))).collect();
        for row in stored {
            let (version, count) = seen.entry(row.change.warehouse_id).or_default();
            *version = (*version).max(row.change.after.version);
            *count += 1;
        }
        let (reader, sku_id, limit) = (Arc::clone(&self.reader), asked.sku_id.clone(), asked.limit);
        let scan = move || {
            let mut rows = Vec::new();
            let mut next = flushed.next();
            while next <= durable {
                let events: Vec<(Lsn, Event)> = match reader.read(shard, next, EVENTS_PER_READ) {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => events,
                    Err(JournalError::Trimmed { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                };
                for (lsn, event) in events.into_iter().take_while(|(lsn, _)| *lsn <= durable) {
                    next = lsn.next();
                    for change in event.stock_moves() {
                        if change.sku_id != sku_id {
                            continue;
                        }
                        let (version, count) = seen.entry(change.warehouse_id).or_default();
                        // Without gap: a full page of the store comes before.
                        if change.after.version != *version + 1 || *count >= limit {
                            continue;
                        }
                        (*version, *count) = (change.after.version, *count + 1);
                        rows.push(JournalRow {
                            change,
                            at: event.at,
                            trace: event.trace,
                            source: (shard, lsn),
                        });
                    }
                }
            }
            Ok(Some(rows))
        };
        let problem = match blocking::run(scan).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(problem, "the journal can't be read");
        Err(Refusal::JournalUnavailable)
    }
}

/// By time, the rows of one warehouse by version; the first `limit`. Times of one warehouse never step back with its
/// version, but for two servers whose clocks differ: then the version decides.
fn merged(rows: Vec<JournalRow>, limit: usize) -> Vec<JournalRow> {
    let mut by_warehouse: HashMap<WarehouseId, Vec<JournalRow>> = HashMap::new();
    for row in rows {
        by_warehouse.entry(row.change.warehouse_id).or_default().push(row);
    }
    let mut all = Vec::new();
    for rows in by_warehouse.values_mut() {
        rows.sort_by_key(|row| row.change.after.version);
        let mut latest = 0;
        for row in rows.drain(..) {
            latest = row.at.0.max(latest);
            all.push((latest, row));
        }
    }
    all.sort_by_key(|(at, row)| (*at, row.change.warehouse_id, row.change.after.version));
    all.truncate(limit);
    all.into_iter().map(|(_, row)| row).collect()
}
