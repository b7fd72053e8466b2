//! What is behind a difference: read from the store, only for stocks that have one, and within a bound.

use super::{Cause, Check, Difference, Value};
use crate::ids::{SkuId, WarehouseId};
use crate::limits::{MAX_RECONCILE_CAUSES, MAX_RECONCILE_JOURNAL_ROWS, MAX_STOCK_UNITS, RECONCILE_ANOMALIES, RECONCILE_JOURNAL_PAGE};
use crate::outcome::Levels;
use crate::store::{Anomaly, Store, StoreError};

/// Finds causes for one call of reconcile.
pub(super) struct Causes<'a> {
    store: &'a dyn Store,
    /// The newest, read when they are first needed.
    anomalies: Option<Vec<Anomaly>>,
}

impl<'a> Causes<'a> {
    pub fn new(store: &'a dyn Store) -> Self {
        Self { store, anomalies: None }
    }

    /// Fills in the causes of a difference. `siblings` are all warehouses of the SKU.
    pub async fn find(&mut self, difference: &mut Difference, siblings: &[WarehouseId]) -> Result<(), StoreError> {
        let journal = Journal {
            store: self.store,
            sku_id: &difference.sku_id,
            warehouse_id: difference.warehouse_id,
            siblings,
        };
        let mut causes = Vec::new();
        match difference.check {
            Check::JournalGap | Check::JournalSum => causes.extend(journal.breaks().await?),
            Check::Row => {
                if let Value::Levels(row) = &difference.found.1
                    && journal.at(row.version).await? == Some(*row)
                {
                    causes.push(Cause::Behind(row.version));
                }
            }
            Check::Held | Check::Sold => {
                let found = self.store.suspects(&difference.sku_id, difference.warehouse_id, MAX_RECONCILE_CAUSES);
                let is_held = difference.check == Check::Held;
                for suspect in found.await? {
                    let (line, journal) = if is_held { suspect.held } else { suspect.sold };
                    if i64::try_from(line) != Ok(journal) {
                        causes.push(Cause::Order { order_no: suspect.order_no, line, journal });
                    }
                }
            }
            Check::Supplied | Check::Shard | Check::Mirror => {}
        }
        let about = |anomaly: &Anomaly| {
            let names = |cause: &Cause| match cause {
                Cause::Order { order_no, .. } => anomaly.order_no.as_ref() == Some(order_no),
                _ => false,
            };
            anomaly.sku_id.as_ref() == Some(&difference.sku_id) || causes.iter().any(names)
        };
        if difference.check != Check::Mirror {
            let known = self.anomalies().await?.iter().filter(|anomaly| about(anomaly));
            let known: Vec<Cause> = known.take(MAX_RECONCILE_CAUSES).cloned().map(Cause::Anomaly).collect();
            causes.extend(known);
        }
        difference.causes = causes;
        Ok(())
    }

    async fn anomalies(&mut self) -> Result<&[Anomaly], StoreError> {
        if self.anomalies.is_none() {
            let (_, mut newest) = self.store.anomalies(RECONCILE_ANOMALIES).await?;
            newest.iter_mut().for_each(Anomaly::tell_caller);
            self.anomalies = Some(newest);
        }
        Ok(self.anomalies.as_deref().unwrap_or_default())
    }
}

/// The journal of one stock.
pub(super) struct Journal<'a> {
    pub store: &'a dyn Store,
    pub sku_id: &'a SkuId,
    pub warehouse_id: WarehouseId,
    pub siblings: &'a [WarehouseId],
}

impl Journal<'_> {
    /// The levels after a version, if the journal has it.
    pub async fn at(&self, version: u64) -> Result<Option<Levels>, StoreError> {
        let Some(before) = version.checked_sub(1) else { return Ok(None) };
        let rows = self.rows(before, 1).await?;
        Ok(rows.first().map(|(_, after)| *after).filter(|after| after.version == version))
    }

    /// Where the journal first has a gap or does not add up; nothing when that is further back than is read.
    async fn breaks(&self) -> Result<Option<Cause>, StoreError> {
        let mut last = Levels::default();
        let mut left = MAX_RECONCILE_JOURNAL_ROWS;
        loop {
            let rows = self.rows(last.version, RECONCILE_JOURNAL_PAGE).await?;
            if rows.is_empty() || left == 0 {
                return Ok(None);
            }
            for (delta, after) in &rows {
                if after.version != last.version + 1 {
                    return Ok(Some(Cause::NoVersion(last.version + 1)));
                }
                if last.after(*delta) != Some(*after) {
                    return Ok(Some(Cause::Parts(after.version)));
                }
                last = *after;
            }
            left = left.saturating_sub(rows.len());
        }
    }

    async fn rows(&self, after: u64, limit: usize) -> Result<Vec<(crate::state::Delta, Levels)>, StoreError> {
        // No stock has so many versions: the other warehouses have nothing after that.
        let place = |w: &WarehouseId| (*w, if *w == self.warehouse_id { after } else { MAX_STOCK_UNITS });
        let places: Vec<_> = self.siblings.iter().map(place).collect();
        let page = self.store.stock_journal(self.sku_id, &places, limit).await?;
        let mine = page.rows.into_iter().map(|row| row.change).filter(|m| m.warehouse_id == self.warehouse_id);
        Ok(mine.map(|m| (m.delta, m.after)).collect())
    }
}
