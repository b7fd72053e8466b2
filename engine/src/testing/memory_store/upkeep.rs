//! What is pruned, counted and repaired.

use std::collections::{BTreeMap, BTreeSet};

use super::tables::{Place, StockRow, Tables};
use crate::base::ids::{AttemptId, OrderNo, ShardId, SkuId, WarehouseId, shard_of};
use crate::contract::command::StockStatus;
use crate::contract::hold::HoldPurpose;
use crate::contract::image::{LineImage, StockImage};
use crate::contract::moves::MoveKind;
use crate::contract::store::{
    Books, JournalRow, Misfit, Prune, Pruned, PrunedSums, Repair, Repaired, StockBooks, StoreError,
    StoredOrder, Sums, SumsCursor, Units, Watermark,
};

impl Tables {
    pub fn prune(&mut self, prune: &Prune<'_>) -> Result<Pruned, StoreError> {
        self.check_epoch(prune.epoch)?;
        let mut pruned = Pruned::default();
        let watermarks: Vec<Watermark> = self.watermarks.values().copied().collect();
        if prune.is_ahead_of(&watermarks) {
            return Ok(pruned);
        }
        if let Some(before) = prune.orders_before {
            self.pruned_before = self.pruned_before.max(before);
            let goes = |(_, order): &(&OrderNo, &StoredOrder)| {
                order.image.is_done() && order.image.changed_at < before && self.is_flushed(order)
            };
            let old: Vec<OrderNo> = self
                .orders
                .iter()
                .filter(goes)
                .map(|(order_no, _)| order_no.clone())
                .take(prune.max)
                .collect();
            for order_no in old {
                let Some(StoredOrder { shard, image }) = self.orders.remove(&order_no) else { continue };
                pruned.orders += 1;
                // What of it lies elsewhere was sold there.
                let shards = self.shards;
                let spans = image.span.is_some();
                let is_here = |line: &LineImage| !spans || shard_of(&line.sku_id, shards) == shard;
                let here = image.lines.into_iter().filter(is_here);
                // Of one order in sum: what came back is less than nothing by itself.
                let mut sold: BTreeMap<_, i64> = BTreeMap::new();
                for line in here {
                    let net = i64::from(line.confirmed) - i64::from(line.returned);
                    *sold.entry((line.sku_id, line.warehouse_id)).or_default() += net;
                }
                let holds = self.holds.extract_if(.., |(of, ..), _| *of == order_no);
                for line in holds.flat_map(|(_, hold)| hold.image.lines) {
                    *sold.entry((line.sku_id, line.warehouse_id)).or_default() += line.sold;
                }
                for (place, net) in sold {
                    if let Some(row) = self.stocks.get_mut(&place) {
                        row.pruned.sold = row.pruned.sold.saturating_add_signed(net);
                    }
                }
            }
            let old = self.requests.iter().filter(|(_, request)| request.at < before);
            let old: Vec<_> = old.map(|(key, _)| key.clone()).take(prune.max).collect();
            for key in old {
                self.requests.remove(&key);
                pruned.requests += 1;
            }
        }
        if let Some(before) = prune.journal_before {
            for (place, rows) in &mut self.journal {
                let Some(StockRow { pruned: sums, .. }) = self.stocks.get_mut(place) else { continue };
                while pruned.journal < prune.max as u64 && rows.len() > 1 {
                    let Some(first) = rows.first_entry().filter(|first| first.get().at < before) else {
                        break;
                    };
                    let JournalRow { change, .. } = first.remove();
                    let deltas = [change.delta.available, change.delta.reserved, change.delta.sold];
                    sums.deltas.iter_mut().zip(deltas).for_each(|(sum, delta)| *sum += delta);
                    sums.version = change.after.version;
                    pruned.journal += 1;
                }
            }
        }
        Ok(pruned)
    }

    /// Whether all shards have flushed what an ended order came to.
    fn is_flushed(&self, StoredOrder { shard, image }: &StoredOrder) -> bool {
        let holds = || self.holds.values().filter(|hold| hold.image.order_no == image.order_no);
        let sold_elsewhere = |line: &LineImage| -> i64 {
            let lines = holds().flat_map(|hold| &hold.image.lines);
            let of_line =
                lines.filter(|held| held.sku_id == line.sku_id && held.warehouse_id == line.warehouse_id);
            of_line.map(|held| held.sold).sum()
        };
        let mut elsewhere = image.lines.iter().filter(|line| shard_of(&line.sku_id, self.shards) != *shard);
        image.span.is_none()
            || holds().all(|hold| hold.image.is_over())
                && elsewhere
                    .all(|line| i64::from(line.confirmed) - i64::from(line.returned) == sold_elsewhere(line))
    }

    pub fn books(&self, after: Option<&SkuId>, limit: usize) -> Books {
        let mut books = Books::default();
        let mut names: BTreeSet<SkuId> = self.skus_after(after, limit).into_iter().collect();
        let is_after = |sku_id: &SkuId| after.is_none_or(|after| sku_id > after);
        names.extend(self.journal.keys().map(|(sku_id, _)| sku_id.clone()).filter(is_after));
        for sku_id in names.into_iter().take(limit) {
            let of_sku = self.journal.keys().filter(|(of, _)| *of == sku_id);
            books.without_row.extend(of_sku.filter(|place| !self.stocks.contains_key(*place)).cloned());
            for row in self.of_sku(&sku_id) {
                let place = (sku_id.clone(), row.image.warehouse_id);
                let newest = self.journal.get(&place).and_then(|rows| rows.last_key_value());
                books.stocks.push(StockBooks {
                    row: StockImage { forgotten_sold: row.image.levels.sold, ..row.image.clone() },
                    unreadable: None,
                    parked: self.parked.get(&sku_id).map(|parked| parked.reason.clone()),
                    newest: newest.map(|(_, row)| row.clone()),
                    pruned: row.pruned,
                });
            }
        }
        books
    }

    pub fn sums(
        &self,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
        cursor: &SumsCursor,
        lines: usize,
        journal: usize,
    ) -> Sums {
        let place = (sku_id.clone(), warehouse_id);
        let shard = shard_of(sku_id, self.shards);
        let is_after = |order_no: &OrderNo| cursor.order_no.as_ref().is_none_or(|after| order_no > after);
        // By number: of orders of its own shard their lines, of others what is held for them.
        let mut counted: BTreeMap<OrderNo, (u64, i64)> = BTreeMap::new();
        for (order_no, order) in self.orders_after(cursor.order_no.as_ref()) {
            let is_here = order.image.span.is_none() || order.shard == shard;
            let mut lines = order.image.lines.iter().filter(|_| is_here);
            let line = lines.find(|line| line.sku_id == *sku_id && line.warehouse_id == warehouse_id);
            if let Some(line) = line {
                let sold = i64::from(line.confirmed) - i64::from(line.returned);
                counted.insert(order_no.clone(), (u64::from(line.held), sold));
            } else if !is_here
                && order
                    .image
                    .lines
                    .iter()
                    .any(|line| (&line.sku_id, line.warehouse_id) == (sku_id, warehouse_id))
            {
                // What is held for it is counted.
                counted.insert(order_no.clone(), (0, 0));
            }
        }
        for ((order_no, ..), hold) in self.holds.iter().filter(|((order_no, ..), _)| is_after(order_no)) {
            let of_stock = |line: &&crate::contract::image::HoldLineImage| {
                line.sku_id == *sku_id && line.warehouse_id == warehouse_id
            };
            for line in hold.image.lines.iter().filter(of_stock) {
                let (held, sold) = counted.entry(order_no.clone()).or_default();
                *held += u64::from(line.units) * u64::from(hold.image.purpose == HoldPurpose::Units);
                *sold += line.sold;
            }
        }
        let line = |(order_no, (held, sold)): (OrderNo, (u64, i64))| {
            (order_no, held, u64::try_from(sold).unwrap_or_default())
        };
        let lines: Vec<_> = counted.into_iter().map(line).take(lines).collect();
        let rows = self.journal.get(&place).into_iter().flat_map(|rows| rows.range(cursor.version + 1..));
        let journal: Vec<JournalRow> = rows.map(|(_, row)| row.clone()).take(journal).collect();
        let pruned = self.stocks.get(&place).map_or(PrunedSums::default(), |row| row.pruned);
        let mut misfits = self.misfits(&lines, &journal);
        misfits.extend(self.other_holds(&place, lines.iter().map(|(order_no, ..)| order_no)));
        Sums { lines, journal, pruned, misfits }
    }

    /// Orders of other shards that say something else of a stock than what is held for them.
    fn other_holds<'a>(&self, place: &Place, orders: impl Iterator<Item = &'a OrderNo>) -> BTreeSet<Misfit> {
        let shard = shard_of(&place.0, self.shards);
        let mut others = BTreeSet::new();
        for order_no in orders {
            let Some(order) = self.orders.get(order_no).filter(|order| order.shard != shard) else {
                continue;
            };
            let Some(span) = order.image.span.as_ref().filter(|span| span.pending.is_empty()) else {
                continue;
            };
            let (mut said, mut held) = (Units::default(), Units::default());
            for line in order
                .image
                .lines
                .iter()
                .filter(|line| (&line.sku_id, line.warehouse_id) == (&place.0, place.1))
            {
                said.held += i64::from(line.held);
                said.sold += i64::from(line.confirmed) - i64::from(line.returned);
            }
            let key = |attempt, shard| (order_no.clone(), AttemptId(attempt), ShardId(shard));
            for ((_, attempt, _), hold) in self.holds.range(key(0, 0)..=key(u64::MAX, u16::MAX)) {
                let counts = hold.image.purpose == HoldPurpose::Units && span.knows(*attempt);
                for line in hold
                    .image
                    .lines
                    .iter()
                    .filter(|line| (&line.sku_id, line.warehouse_id) == (&place.0, place.1))
                {
                    held.held += i64::from(line.units) * i64::from(counts);
                    held.sold += line.sold;
                }
            }
            if said != held {
                let (order_no, order, held) = (order_no.clone(), said.to_string(), held.to_string());
                others.insert(Misfit::OtherHold { order_no, order, held });
            }
        }
        others
    }

    fn misfits(&self, lines: &[(OrderNo, u64, u64)], journal: &[JournalRow]) -> BTreeSet<Misfit> {
        let mut misfits = BTreeSet::new();
        for (order_no, ..) in lines {
            let Some(order) = self.orders.get(order_no) else { continue };
            let of_sku = |line: &LineImage| shard_of(&line.sku_id, self.shards);
            let right = order.image.lines.first().map_or(order.shard, of_sku);
            if order.shard != right && order.image.span.is_none() {
                let (order_no, found) = (order_no.clone(), order.shard.to_string());
                misfits.insert(Misfit::OtherShard { order_no, right, found });
            }
        }
        for JournalRow { change, .. } in journal.iter().filter(|row| row.at >= self.pruned_before) {
            match (&change.order_no, &change.request_id) {
                (Some(order_no), _) => {
                    // An attempt that came to nothing has no order; of one that came to something the row may come
                    // later than what was held for it.
                    let may_be_none = !matches!(change.kind, MoveKind::Confirmed | MoveKind::Returned)
                        || self.holds.keys().any(|(of, ..)| of == order_no);
                    if !self.orders.contains_key(order_no) && !may_be_none {
                        misfits.insert(Misfit::NoOrder(order_no.clone()));
                    }
                }
                (None, Some(request_id)) => {
                    if !self.requests.contains_key(&(change.sku_id.clone(), request_id.clone())) {
                        misfits.insert(Misfit::NoRequest(request_id.clone()));
                    }
                }
                (None, None) => {}
            }
        }
        misfits
    }

    pub fn repair(&mut self, repair: &Repair) -> Result<Vec<Repaired>, StoreError> {
        self.check_epoch(repair.epoch)?;
        let Repair { sku_id, stocks, at, .. } = repair;
        let newest = |tables: &Self, warehouse_id| {
            let rows = tables.journal.get(&(sku_id.clone(), warehouse_id))?;
            rows.last_key_value().map(|(_, row)| row.clone())
        };
        let images: Vec<StockImage> = match stocks {
            Some(stocks) => {
                let is_newest = |stock: &StockImage| {
                    newest(self, stock.warehouse_id)
                        .is_some_and(|row| row.change.after.version == stock.levels.version)
                };
                if !stocks.iter().all(is_newest) {
                    return Ok(Vec::new());
                }
                stocks.clone()
            }
            None => {
                let places = self.journal.keys().filter(|(of, _)| of == sku_id).cloned().collect::<Vec<_>>();
                places
                    .iter()
                    .filter_map(|(_, warehouse_id)| self.as_journaled(sku_id, *warehouse_id))
                    .collect()
            }
        };
        let mut repaired = Vec::new();
        for image in images {
            let place = (sku_id.clone(), image.warehouse_id);
            let (warehouse_id, after) = (image.warehouse_id, image.levels);
            let known = self.stocks.get(&place);
            let (before, pruned) = (known.map(|row| row.image.levels), known.map(|row| row.pruned));
            let pruned = pruned.unwrap_or_default();
            self.stocks.insert(place, StockRow { image, pruned });
            repaired.push(Repaired { warehouse_id, before, after });
        }
        if self.parked.remove(sku_id).is_some() || !repaired.is_empty() {
            let detail = format!("{repaired:?}");
            self.note(*at, "repaired", None, None, Some(sku_id), detail);
        }
        Ok(repaired)
    }

    /// A stock row as its journal says.
    fn as_journaled(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockImage> {
        let place = (sku_id.clone(), warehouse_id);
        let rows: &BTreeMap<u64, JournalRow> = self.journal.get(&place)?;
        let (_, newest) = rows.last_key_value()?;
        let created = rows.get(&1).map(|row| &row.change);
        let known = self.stocks.get(&place).map(|row| &row.image);
        let status = rows.values().rev().find_map(|row| match row.change.kind {
            MoveKind::Suspended => Some(StockStatus::Suspended),
            MoveKind::Resumed | MoveKind::Created => Some(StockStatus::OnSale),
            _ => None,
        });
        let given: u64 = rows.values().filter_map(|row| row.change.serials).map(|given| given.count()).sum();
        let is_whole = created.is_some();
        let numbered = known.and_then(|known| known.numbered);
        let is_plain = |row: &JournalRow| {
            row.change.kind == MoveKind::Confirmed
                && row.change.delta.sold > 0
                && row.change.serials.is_none()
        };
        let numbered = match numbered {
            _ if rows.values().any(is_plain) => None,
            numbered if is_whole && (numbered.is_some() || given > 0) => Some(given),
            numbered => numbered,
        };
        let levels = newest.change.after;
        Some(StockImage {
            sku_id: sku_id.clone(),
            warehouse_id,
            levels,
            status: status.or(known.map(|known| known.status)).unwrap_or(StockStatus::OnSale),
            initial: created
                .map_or_else(|| known.map_or(0, |known| known.initial), |change| change.after.available),
            supplied: levels.quantity(),
            forgotten_sold: levels.sold,
            lsn: newest.source.1,
            hot: known.is_some_and(|known| known.hot),
            numbered,
        })
    }
}
