//! The journal of a SKU: the rows of the store, and behind them what is durable in the shard's journal and not flushed yet.
//!
//! The seam: the store gives its rows and the watermark of one moment, so the events after the watermark are exactly what is
//! missing. They are read from the journal on; when it was trimmed meanwhile, they are in the store by now and all is read again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Change, Event, StockMove};
use crate::hub::{Hub, Side, refusal_of};
use crate::ids::{Lsn, ShardId, SkuId, WarehouseId};
use crate::journal::JournalError;
use crate::limits::{MAX_HISTORY_TRIES, MAX_UNFLUSHED_SCAN};
use crate::outcome::{Levels, Refusal};
use crate::store::JournalRow;

/// Events read at once.
const EVENTS_PER_READ: usize = 4_096;

impl Hub {
    /// See [`crate::engine::Engine::stock_journal`].
    pub async fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Result<Vec<JournalRow>, Refusal> {
        let side = self.side.as_ref().ok_or(Refusal::StoreUnavailable)?;
        for _ in 0..MAX_HISTORY_TRIES {
            let stored = side.noted(side.store.stock_journal(sku_id, after, limit).await).map_err(refusal_of)?;
            let mut rows = stored.rows;
            let ours = stored.owner.filter(|owner| owner.server == side.server);
            if let Some(owner) = ours.filter(|owner| owner.shard.index() < self.shards.len()) {
                let Some(new) = self.unflushed(side, sku_id, owner.shard, stored.watermark, after, limit, &rows).await?
                else {
                    continue;
                };
                rows.extend(new);
            }
            let mut rows = merged(rows, limit);
            for JournalRow { change, .. } in &mut rows {
                tell_caller(change);
            }
            return Ok(rows);
        }
        Err(Refusal::StoreUnavailable)
    }

    /// The rows of the events after `watermark`; `None` when the journal does not have them any more.
    #[expect(clippy::too_many_arguments, reason = "what a page is asked with, and what the store said")]
    async fn unflushed(
        &self,
        side: &Side,
        sku_id: &SkuId,
        shard: ShardId,
        watermark: Lsn,
        after: &[(WarehouseId, u64)],
        limit: usize,
        stored: &[JournalRow],
    ) -> Result<Option<Vec<JournalRow>>, Refusal> {
        let durable = self.shards[shard.index()].durable_lsn();
        if durable.0.saturating_sub(watermark.0) > MAX_UNFLUSHED_SCAN {
            return Err(Refusal::StoreUnavailable);
        }
        // Levels before a change of status, which tells none: of the last row of each warehouse, which the page may not have.
        let mut levels: HashMap<WarehouseId, Levels> = HashMap::new();
        let rows = side.noted(side.store.stock(sku_id, None).await).map_err(refusal_of)?;
        levels.extend(rows.into_iter().map(|row| (row.view.warehouse_id, row.view.levels)));
        let mut seen: HashMap<WarehouseId, (u64, usize)> =
            after.iter().map(|(warehouse_id, version)| (*warehouse_id, (*version, 0))).collect();
        for row in stored {
            let (version, count) = seen.entry(row.change.warehouse_id).or_default();
            *version = (*version).max(row.change.after.version);
            *count += 1;
        }
        let (reader, sku_id, server) = (Arc::clone(&self.reader), sku_id.clone(), side.server);
        let scan = move || {
            let mut rows = Vec::new();
            let mut next = watermark.next();
            while next <= durable {
                let events: Vec<(Lsn, Event)> = match reader.read(shard, next, EVENTS_PER_READ) {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => events,
                    Err(JournalError::Trimmed { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                };
                for (lsn, event) in events.into_iter().take_while(|(lsn, _)| *lsn <= durable) {
                    next = lsn.next();
                    if is_ahead(&levels, &sku_id, &event) {
                        return Ok(None);
                    }
                    let before = |of: &SkuId, warehouse_id| (*of == sku_id).then(|| levels.get(&warehouse_id).copied())?;
                    for change in event.stock_moves(before) {
                        if change.sku_id != sku_id {
                            continue;
                        }
                        levels.insert(change.warehouse_id, change.after);
                        let (version, count) = seen.entry(change.warehouse_id).or_default();
                        // Without gap: a full page of the store comes before.
                        if change.after.version != *version + 1 || *count >= limit {
                            continue;
                        }
                        (*version, *count) = (change.after.version, *count + 1);
                        rows.push(JournalRow { change, at: event.at, trace: event.trace, source: Some((server, shard, lsn)) });
                    }
                }
            }
            Ok(Some(rows))
        };
        let scanned = tokio::task::spawn_blocking(scan).await;
        match scanned {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                tracing::error!(%error, "the journal can't be read");
                Err(Refusal::JournalUnavailable)
            }
            Err(error) => {
                tracing::error!(%error, "reading the journal failed");
                Err(Refusal::JournalUnavailable)
            }
        }
    }
}

/// Whether the levels were read later than the watermark, behind this change of status.
fn is_ahead(levels: &HashMap<WarehouseId, Levels>, sku_id: &SkuId, event: &Event) -> bool {
    let Change::StatusChanged { sku_id: of, warehouses, .. } = &event.change else { return false };
    let ahead = |(warehouse_id, version): &(WarehouseId, u64)| {
        levels.get(warehouse_id).is_some_and(|levels| levels.version >= *version)
    };
    of == sku_id && warehouses.iter().any(ahead)
}

/// A branch is known to its caller as its order. The request_id of what a branch was told is its home's.
fn tell_caller(change: &mut StockMove) {
    if let Some(order_no) = change.order_no.as_ref().filter(|order_no| order_no.is_branch()) {
        (change.order_no, change.request_id) = (Some(order_no.of_caller()), None);
    }
}

/// By time, the rows of one warehouse by version; the first `limit`. Times of one warehouse never step back with its version, but for two
/// servers whose clocks differ: then the version decides.
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
