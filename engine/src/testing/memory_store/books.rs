//! The tables, counted and read in full: the stock journal, the books, repairs, anomalies.

use std::collections::BTreeSet;

use super::tables::{Tables, row};
use crate::checkpoint::StockImage;
use crate::clock::Timestamp;
use crate::event::{MoveKind, StockMove};
use crate::ids::{Lsn, SkuId, WarehouseId};
use crate::outcome::Levels;
use crate::state::Delta;
use crate::store::{Anomaly, JournalRow, Repaired, StockBooks, StockRow, StoredJournal};

impl Tables {
    pub fn stock_journal(&self, sku_id: &SkuId, after: &[(WarehouseId, u64)], limit: usize) -> StoredJournal {
        let mut rows = Vec::new();
        for kept in self.of_sku(sku_id) {
            let warehouse_id = kept.image.warehouse_id;
            let seen = after.iter().find(|(of, _)| *of == warehouse_id).map_or(0, |(_, version)| *version);
            let from = (sku_id.clone(), warehouse_id, seen + 1);
            let to = (sku_id.clone(), warehouse_id, u64::MAX);
            rows.extend(self.journal.range(from..=to).take(limit).map(|(_, row)| row.clone()));
        }
        let owner = self.owner_of(sku_id);
        let watermark = owner.map_or(Lsn::ZERO, |owner| self.watermark(owner.server, owner.shard));
        StoredJournal { rows, owner, watermark }
    }

    pub fn books(&self, after: Option<&SkuId>, limit: usize) -> Vec<StockBooks> {
        let mut skus = BTreeSet::new();
        let mut books = Vec::new();
        for kept in self.after(after) {
            let StockImage { sku_id, warehouse_id, supplied, .. } = &kept.image;
            skus.insert(sku_id);
            if skus.len() > limit {
                break;
            }
            let from = (sku_id.clone(), *warehouse_id, 0);
            let rows: Vec<_> = self.journal.range(from..=(sku_id.clone(), *warehouse_id, u64::MAX)).collect();
            let mut journal = [0_i64; 3];
            for (_, row) in &rows {
                let Delta { available, reserved, sold, .. } = row.change.delta;
                journal.iter_mut().zip([available, reserved, sold]).for_each(|(sum, delta)| *sum += delta);
            }
            let lines = || {
                let lines = self.orders.values().flat_map(|kept| &kept.image.lines);
                lines.filter(|line| line.sku_id == *sku_id && line.warehouse_id == *warehouse_id)
            };
            books.push(StockBooks {
                row: row(kept),
                supplied: *supplied,
                journal,
                journal_rows: rows.len() as u64,
                journal_version: rows.last().map_or(0, |(_, row)| row.change.after.version),
                journal_after: rows.last().map(|(_, row)| row.change.after),
                held_by_orders: lines().map(|line| u64::from(line.held)).sum(),
                sold_by_orders: lines().map(|line| u64::from(line.confirmed - line.returned)).sum(),
            });
        }
        books
    }

    pub fn repair(&mut self, sku_id: &SkuId, warehouse_id: WarehouseId, now: Timestamp) -> Option<Repaired> {
        let books = self.books(None, usize::MAX).into_iter();
        let mut books =
            books.filter(|b| b.row.view.sku_id == *sku_id && b.row.view.warehouse_id == warehouse_id);
        let StockBooks { row: StockRow { view, owner }, journal, journal_version, .. } = books.next()?;
        let [available, reserved, sold] = journal.map(|sum| u64::try_from(sum).ok());
        let sums =
            Levels { available: available?, reserved: reserved?, sold: sold?, version: journal_version };
        if sums == view.levels {
            return None;
        }
        if let Some(owner) = owner {
            // Its versions are its shard's, so the row alone is put right.
            let kept = self.stocks.get_mut(&(sku_id.clone(), warehouse_id))?;
            (kept.image.levels, kept.image.supplied) = (sums, sums.quantity());
            self.anomalies.push(Anomaly {
                at: now,
                kind: "repaired".into(),
                source: Some((owner.server, owner.shard, Lsn::ZERO)),
                order_no: None,
                sku_id: Some(sku_id.clone()),
                detail: format!("the row in warehouse {warehouse_id} was {:?}", view.levels),
            });
            return Some(Repaired { before: view.levels, after: sums });
        }
        let after = Levels { version: journal_version + 1, ..sums };
        let change = StockMove {
            sku_id: sku_id.clone(),
            warehouse_id,
            kind: MoveKind::Repaired,
            order_no: None,
            request_id: None,
            reason: None,
            delta: Delta::default(),
            after,
            serials: None,
        };
        let row = JournalRow { change, at: now, trace: None, source: None };
        self.journal.insert((sku_id.clone(), warehouse_id, after.version), row);
        let kept = self.stocks.get_mut(&(sku_id.clone(), warehouse_id))?;
        kept.image.levels = after;
        kept.image.supplied = after.quantity();
        Some(Repaired { before: view.levels, after })
    }

    pub fn anomalies(&self, max: usize) -> (u64, Vec<Anomaly>) {
        (self.anomalies.len() as u64, self.anomalies.iter().rev().take(max).cloned().collect())
    }
}
