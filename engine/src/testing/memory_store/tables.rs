//! The rows, who may write them, and how they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use smallvec::SmallVec;

use crate::base::clock::Timestamp;
use crate::base::ids::{AttemptId, Epoch, OrderNo, RequestId, ServerId, ShardId, SkuId, TakeId, WarehouseId};
use crate::contract::image::{LineImage, OrderImage, RequestImage, StockImage};
use crate::contract::order::OrderStatus;
use crate::contract::outcome::{LineView, OrderView, StockView};
use crate::contract::store::{
    Anomaly, JournalRow, Loaded, OrderFilter, Ownership, Parked, PrunedSums, Snapshot, StoreError,
    StoredHold, StoredOrder, StoredSku, Take, Wanted, Watermark,
};
use crate::contract::units::Serials;

/// A stock.
pub type Place = (SkuId, WarehouseId);

/// Everything that is kept.
#[derive(Clone, Default)]
pub struct Tables {
    pub epoch: Epoch,
    pub server: Option<ServerId>,
    pub taken: Option<TakeId>,
    pub shards: u16,
    pub lease_until: Option<Timestamp>,
    /// Somebody wrote nonsense into the row that has these.
    pub server_unreadable: bool,
    /// The session that holds the store; it lives.
    pub holder: Option<u64>,
    /// Sessions that were given a number.
    pub sessions: u64,
    pub watermarks: BTreeMap<ShardId, Watermark>,
    pub stocks: BTreeMap<Place, StockRow>,
    /// By version.
    pub journal: BTreeMap<Place, BTreeMap<u64, JournalRow>>,
    pub orders: BTreeMap<OrderNo, StoredOrder>,
    /// Those of them that can't be loaded.
    pub unreadable: BTreeSet<OrderNo>,
    /// What participants hold, and what they sold of it.
    pub holds: BTreeMap<(OrderNo, AttemptId, ShardId), StoredHold>,
    pub requests: BTreeMap<(SkuId, RequestId), RequestImage>,
    pub parked: BTreeMap<SkuId, Parked>,
    pub anomalies: Vec<Anomaly>,
    /// Orders and requests before this may have been pruned.
    pub pruned_before: Timestamp,
}

/// A row of the stock table.
#[derive(Debug, Clone)]
pub struct StockRow {
    pub image: StockImage,
    pub pruned: PrunedSums,
}

impl Tables {
    pub fn ownership(&self, now: Timestamp) -> Result<Ownership, StoreError> {
        if self.server_unreadable {
            return Err(StoreError::Inconsistent("column 4 is -1".into()));
        }
        Ok(Ownership {
            epoch: self.epoch,
            server: self.server,
            take: self.taken,
            shards: self.shards,
            lease_until: self.lease_until,
            now,
            watermarks: self.watermarks(),
        })
    }

    pub fn take(&mut self, session: u64, take: &Take, now: Timestamp) -> Result<(), StoreError> {
        let is_again = self.epoch == take.epoch && self.taken == Some(take.id);
        if !is_again && self.epoch != take.after {
            return Err(StoreError::Fenced { ours: take.epoch, newest: self.epoch, take: self.taken });
        }
        if !take.over && self.holder.is_some_and(|holder| holder != session) {
            return Err(StoreError::OwnerAlive);
        }
        if !is_again {
            take.is_still_judged(&self.ownership(now)?.watermarks)?;
        }
        (self.epoch, self.taken) = (take.epoch, Some(take.id));
        (self.server, self.shards) = (Some(take.server), take.shards);
        self.holder = Some(session);
        self.lease_until = lease(take.lease_seconds, now);
        Ok(())
    }

    pub fn renew(
        &mut self,
        session: u64,
        epoch: Epoch,
        lease_seconds: u32,
        now: Timestamp,
    ) -> Result<Timestamp, StoreError> {
        self.check_epoch(epoch)?;
        self.holder = Some(session);
        self.lease_until = lease(lease_seconds, now);
        Ok(now)
    }

    pub fn let_go(&mut self, epoch: Epoch) {
        if self.epoch == epoch {
            (self.holder, self.lease_until) = (None, None);
        }
    }

    /// Whoever writes names the newest epoch.
    pub fn check_epoch(&self, ours: Epoch) -> Result<(), StoreError> {
        let fenced = StoreError::Fenced { ours, newest: self.epoch, take: self.taken };
        if ours == self.epoch { Ok(()) } else { Err(fenced) }
    }

    pub fn watermarks(&self) -> Vec<Watermark> {
        self.watermarks.values().copied().collect()
    }

    pub fn snapshot<T>(&self, rows: T) -> Snapshot<T> {
        Snapshot { watermarks: self.watermarks(), rows }
    }

    pub fn load(&self, wanted: &Wanted) -> Loaded {
        let orders: Vec<StoredOrder> =
            wanted.orders.iter().filter_map(|order_no| self.orders.get(order_no)).cloned().collect();
        let is_unreadable = |order: &StoredOrder| self.unreadable.contains(&order.image.order_no);
        let (unreadable, orders): (Vec<_>, Vec<_>) = orders.into_iter().partition(is_unreadable);
        let told = |order: StoredOrder| (order.image.order_no.clone(), "column 2 is -1".to_owned());
        let unreadable_orders = unreadable.into_iter().map(told).collect();
        let of_orders = orders.iter().flat_map(|order| order.image.lines.iter().map(|line| &line.sku_id));
        let requests: Vec<_> =
            wanted.requests.iter().filter_map(|key| self.requests.get(key)).cloned().collect();
        let of_requests = requests.iter().map(|image| &image.sku_id);
        let skus = wanted.skus.iter().chain(of_orders).chain(of_requests);
        let skus = skus.filter_map(|sku_id| Some((sku_id.clone(), self.stored_sku(sku_id)?))).collect();
        Loaded {
            watermarks: self.watermarks(),
            skus,
            orders,
            requests,
            unreadable_orders,
            unreadable_requests: self.unreadable_requests(wanted),
        }
    }

    /// Wanted requests whose own rows were deleted, as the journal tells.
    fn unreadable_requests(&self, wanted: &Wanted) -> Vec<(SkuId, RequestId, String)> {
        let problem_of = |key: &&(SkuId, RequestId)| {
            let places = self.of_sku(&key.0).map(|row| (key.0.clone(), row.image.warehouse_id));
            let rows = places.flat_map(|place| self.deleted_requests(&place).collect::<Vec<_>>());
            let mut rows = rows.filter(|(id, _)| *id == key.1);
            let version = rows.next().map(|(_, row)| row.change.after.version)?;
            Some((
                key.0.clone(),
                key.1.clone(),
                format!("its row was deleted by hand; the stock journal has it as version {version}"),
            ))
        };
        wanted.requests.iter().filter_map(|key| problem_of(&key)).collect()
    }

    /// Requests that a journal names, that have no row and were not pruned.
    pub fn deleted_requests(&self, place: &Place) -> impl Iterator<Item = (RequestId, &JournalRow)> {
        let rows = self.journal.get(place).into_iter().flat_map(BTreeMap::values);
        rows.filter(|row| row.at >= self.pruned_before && row.change.order_no.is_none()).filter_map(|row| {
            let request_id = row.change.request_id.clone()?;
            let is_there = self.requests.contains_key(&(row.change.sku_id.clone(), request_id.clone()));
            (!is_there).then_some((request_id, row))
        })
    }

    fn stored_sku(&self, sku_id: &SkuId) -> Option<StoredSku> {
        let hot = self.is_hot(sku_id);
        let mut stocks = Vec::new();
        if let Some(parked) = self.parked.get(sku_id) {
            return Some(StoredSku::Unsound(format!("it is parked: {}", parked.reason)));
        }
        for row in self.of_sku(sku_id) {
            let place = (sku_id.clone(), row.image.warehouse_id);
            let newest = self.journal.get(&place).and_then(|rows| rows.last_key_value());
            if newest.is_none_or(|(_, newest)| newest.change.after != row.image.levels) {
                let problem =
                    format!("warehouse {}: it is not what its journal says", row.image.warehouse_id);
                return Some(StoredSku::Unsound(problem));
            }
            if row.image.levels.quantity() != row.image.supplied {
                let problem =
                    format!("warehouse {}: its sum is not what was supplied", row.image.warehouse_id);
                return Some(StoredSku::Unsound(problem));
            }
            stocks.push(StockImage { forgotten_sold: row.image.levels.sold, hot, ..row.image.clone() });
        }
        let (first, last) = ((sku_id.clone(), WarehouseId(0)), (sku_id.clone(), WarehouseId(u32::MAX)));
        if stocks.is_empty() && self.journal.range(first..=last).next().is_some() {
            return Some(StoredSku::Unsound("it has a journal and no row of its stock".to_owned()));
        }
        (!stocks.is_empty()).then_some(StoredSku::Sound(stocks))
    }

    pub fn is_hot(&self, sku_id: &SkuId) -> bool {
        self.of_sku(sku_id).any(|row| row.image.hot)
    }

    pub fn is_reserved(&self, sku_id: &SkuId) -> bool {
        self.of_sku(sku_id).any(|row| row.image.levels.reserved > 0)
    }

    pub fn of_sku(&self, sku_id: &SkuId) -> impl Iterator<Item = &StockRow> {
        let (first, last) = ((sku_id.clone(), WarehouseId(0)), (sku_id.clone(), WarehouseId(u32::MAX)));
        self.stocks.range(first..=last).map(|(_, row)| row)
    }

    pub fn skus_after(&self, after: Option<&SkuId>, limit: usize) -> Vec<SkuId> {
        let mut skus: Vec<SkuId> = Vec::new();
        for (sku_id, _) in self.stocks.keys().filter(|(sku_id, _)| after.is_none_or(|after| sku_id > after)) {
            if skus.last() != Some(sku_id) {
                if skus.len() == limit {
                    break;
                }
                skus.push(sku_id.clone());
            }
        }
        skus
    }

    pub fn orders_after(&self, after: Option<&OrderNo>) -> impl Iterator<Item = (&OrderNo, &StoredOrder)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        self.orders.range((from, Bound::Unbounded))
    }

    pub fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Vec<StockView> {
        let rows = self.of_sku(sku_id);
        let rows = rows.filter(|row| warehouse_id.is_none_or(|only| row.image.warehouse_id == only));
        rows.map(|row| StockView {
            sku_id: sku_id.clone(),
            warehouse_id: row.image.warehouse_id,
            levels: row.image.levels,
            status: row.image.status,
            serialized: row.image.numbered.is_some(),
        })
        .collect()
    }

    pub fn list(&self, filter: &OrderFilter, after: Option<&OrderNo>, limit: usize) -> Vec<OrderView> {
        let views = self.orders_after(after).map(|(_, order)| view(&order.image));
        views.filter(|order| filter.takes(order)).take(limit).collect()
    }

    pub fn stock_journal(
        &self,
        sku_id: &SkuId,
        after: &[(WarehouseId, u64)],
        limit: usize,
    ) -> Vec<JournalRow> {
        let mut rows = Vec::new();
        for ((_, warehouse_id), kept) in self.journal.iter().filter(|((of, _), _)| of == sku_id) {
            let seen = after.iter().find(|(of, _)| of == warehouse_id).map_or(0, |(_, version)| *version);
            rows.extend(kept.range(seen + 1..).take(limit).map(|(_, row)| row.clone()));
        }
        rows
    }
}

fn lease(lease_seconds: u32, now: Timestamp) -> Option<Timestamp> {
    (lease_seconds > 0).then(|| now.plus_seconds(u64::from(lease_seconds)))
}

/// An order as callers see it.
fn view(image: &OrderImage) -> OrderView {
    let sum =
        |count: fn(&LineImage) -> u32| image.lines.iter().map(|line| u64::from(count(line))).sum::<u64>();
    let sums = [sum(|l| l.held), sum(|l| l.confirmed), sum(|l| l.released), sum(|l| l.returned)];
    let line_view = |(index, line): (u16, &LineImage)| {
        let serials = image.serials.iter().filter(|given| given.line == index).map(|given| given.serials);
        let serials: Vec<Serials> = serials.collect();
        LineView {
            sku_id: line.sku_id.clone(),
            warehouse_id: line.warehouse_id,
            quantity: line.quantity,
            held: line.held,
            confirmed: line.confirmed,
            released: line.released,
            returned: line.returned,
            serials: (!serials.is_empty()).then(|| serials.into_boxed_slice()),
        }
    };
    let lines: SmallVec<[LineView; 1]> = (0..).zip(&image.lines).map(line_view).collect();
    OrderView {
        order_no: image.order_no.clone(),
        status: OrderStatus::of(image.phase, sums),
        created_at: image.created_at,
        expires_at: (sums[0] > 0).then_some(image.expires_at),
        lines,
    }
}
