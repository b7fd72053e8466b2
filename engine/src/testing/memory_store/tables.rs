//! The tables of the store in memory. Each method is a transaction: one lock is held over it, and nothing is written before all of it
//! is decided.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use crate::checkpoint::{Image, OrderImage, RequestImage, Stage, StockImage};
use crate::clock::Timestamp;
use crate::command::{Action, Command};
use crate::event::{Event, StockMove};
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use crate::outcome::{Refusal, StockView};
use crate::state::{Corruption, Decision, State};
use crate::store::{
    Anomaly, ColdOutcome, Expired, JournalRow, Moving, Owner, StockRow, StoreError, StoredOrder, Taken,
};

pub(super) type Place = (SkuId, WarehouseId);

/// See the top of the file.
#[derive(Default)]
pub(super) struct Tables {
    pub stocks: BTreeMap<Place, Kept>,
    pub orders: BTreeMap<OrderNo, KeptOrder>,
    pub requests: BTreeMap<(SkuId, RequestId), RequestImage>,
    pub journal: BTreeMap<(SkuId, WarehouseId, u64), JournalRow>,
    pub watermarks: HashMap<(ServerId, ShardId), Lsn>,
    pub anomalies: Vec<Anomaly>,
    /// Orders of shards whose numbers the store has for other orders: what these shards log of them is not for its rows.
    pub strangers: HashSet<(ServerId, ShardId, OrderNo)>,
}

pub(super) struct Kept {
    pub image: StockImage,
    pub owner: Option<Owner>,
    /// Of the last ownership.
    pub epoch: u64,
    pub changed_at: Timestamp,
}

pub(super) struct KeptOrder {
    pub image: OrderImage,
    /// The sweeper looks at it.
    pub due: bool,
}

/// What a transaction is about.
#[derive(Default)]
pub(super) struct Touched {
    pub stocks: BTreeSet<Place>,
    pub orders: BTreeSet<OrderNo>,
    pub requests: BTreeSet<(SkuId, RequestId)>,
}

impl From<Corruption> for StoreError {
    fn from(corruption: Corruption) -> Self {
        Self::Inconsistent(corruption.to_string())
    }
}

impl Tables {
    pub fn submit(&mut self, command: &Command, now: Timestamp) -> Result<ColdOutcome, StoreError> {
        let touched = self.touched_by(command);
        // An order that is there is decided where its own lines are.
        let of_order: Option<BTreeSet<Place>> = command.order_no().and_then(|order_no| {
            self.orders.get(order_no).filter(|kept| !kept.image.lines.is_empty())?;
            Some(self.places_of(order_no).collect())
        });
        let owners = self.owners(of_order.as_ref().unwrap_or(&touched.stocks));
        if let [Some(owner)] = owners.iter().collect::<Vec<_>>()[..] {
            return Ok(ColdOutcome::Elsewhere(*owner));
        }
        let mixed = owners.iter().any(Option::is_some);
        let (mut state, now) = self.state_of(Lsn::ZERO, &touched, &BTreeSet::new(), now)?;
        let event = match state.decide(command, now) {
            Decision::Answer(outcome) => return Ok(ColdOutcome::Done { outcome, changed: Vec::new() }),
            Decision::Log(_) if mixed => {
                return Ok(ColdOutcome::Done { outcome: Err(Refusal::SpansShards), changed: Vec::new() });
            }
            Decision::Log(event) => event,
        };
        let moves = moves_of(&state, &event);
        state.apply(Lsn(1), &event)?;
        let outcome = Ok(state.answer(&event));
        self.write_moves(moves, &event, None);
        let changed = self.write_back(&state, &touched, &BTreeSet::new(), None, event.at);
        Ok(ColdOutcome::Done { outcome, changed })
    }

    pub fn expire(&mut self, now: Timestamp, max: usize) -> Result<Expired, StoreError> {
        let due = self
            .orders
            .iter()
            .filter(|(_, kept)| kept.due && kept.image.expires_at <= State::due_through(now));
        let mut due: Vec<_> = due.map(|(order_no, kept)| (kept.image.expires_at, order_no.clone())).collect();
        due.sort_unstable();
        due.truncate(max);
        let mut expired = Expired { seen: due.len(), ..Expired::default() };
        let mut changed: BTreeMap<Place, StockView> = BTreeMap::new();
        for (_, order_no) in due {
            let mut touched = Touched::default();
            touched.orders.insert(order_no.clone());
            touched.stocks.extend(self.places_of(&order_no));
            if self.owners(&touched.stocks).iter().any(Option::is_some) {
                // Whoever owns them lets it expire.
                self.set_due(&order_no, false);
                continue;
            }
            let (mut state, now) = self.state_of(Lsn::ZERO, &touched, &BTreeSet::new(), now)?;
            let Some(event) = state.next_expiry(now) else { continue };
            let moves = moves_of(&state, &event);
            state.apply(Lsn(1), &event)?;
            self.write_moves(moves, &event, None);
            for stock in self.write_back(&state, &touched, &BTreeSet::new(), None, event.at) {
                changed.insert((stock.sku_id.clone(), stock.warehouse_id), stock);
            }
            expired.expired += 1;
        }
        expired.changed = changed.into_values().collect();
        Ok(expired)
    }

    pub fn stock(&self, sku_id: &SkuId, warehouse_id: Option<WarehouseId>) -> Vec<StockRow> {
        let rows =
            self.of_sku(sku_id).filter(|kept| warehouse_id.is_none_or(|w| w == kept.image.warehouse_id));
        rows.map(row).collect()
    }

    pub fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockRow>> {
        let mut page: Vec<Vec<StockRow>> = Vec::new();
        for kept in self.after(after) {
            let full = page.len() == limit;
            match page.last_mut() {
                Some(last) if last[0].view.sku_id == kept.image.sku_id => last.push(row(kept)),
                _ if full => break,
                _ => page.push(vec![row(kept)]),
            }
        }
        page
    }

    pub fn order(&self, order_no: &OrderNo) -> Option<StoredOrder> {
        let image = self.orders.get(order_no)?.image.clone();
        let owners = self.owners(&self.places_of(order_no).collect());
        Some(StoredOrder { image, owners: owners.into_iter().collect() })
    }

    pub fn take(&mut self, skus: &[SkuId], server: ServerId, shard: ShardId) -> Vec<Taken> {
        let mut refused: HashMap<SkuId, Taken> = HashMap::new();
        for sku_id in skus {
            let owner = self.of_sku(sku_id).next().map(|kept| kept.owner);
            match owner {
                None => drop(refused.insert(sku_id.clone(), Taken::Unknown)),
                Some(Some(owner)) if (owner.server, owner.shard) != (server, shard) => {
                    refused.insert(sku_id.clone(), Taken::OwnedBy(owner));
                }
                Some(_) => {}
            }
        }
        // Without one that can't come, others may not come either.
        loop {
            let comes = |sku_id: &SkuId| {
                (skus.contains(sku_id) && !refused.contains_key(sku_id))
                    || self
                        .owner_of(sku_id)
                        .is_some_and(|owner| (owner.server, owner.shard) == (server, shard))
            };
            let spanning = self.orders.values().find_map(|kept| {
                let lines = &kept.image.lines;
                if !is_open(&kept.image) || lines.iter().all(|line| comes(&line.sku_id)) {
                    return None;
                }
                let comes = lines
                    .iter()
                    .find(|line| skus.contains(&line.sku_id) && !refused.contains_key(&line.sku_id))?;
                Some((comes.sku_id.clone(), kept.image.order_no.clone()))
            });
            let Some((sku_id, order_no)) = spanning else { break };
            refused.insert(sku_id, Taken::OrdersSpan(order_no));
        }
        let mut taken = Vec::with_capacity(skus.len());
        for sku_id in skus {
            if let Some(refused) = refused.get(sku_id) {
                taken.push(refused.clone());
                continue;
            }
            let epoch = match self.owner_of(sku_id) {
                Some(owner) => owner.epoch,
                None => self.of_sku(sku_id).map(|kept| kept.epoch).max().unwrap_or(0) + 1,
            };
            self.set_owner(sku_id, Some(Owner { server, shard, epoch }));
            let stocks = self.of_sku(sku_id).map(|kept| StockImage { epoch, ..kept.image.clone() }).collect();
            taken.push(Taken::Owned { epoch, stocks });
        }
        taken
    }

    pub fn orders_of(&self, moving: &Moving, after: Option<&OrderNo>, max: usize) -> Vec<OrderImage> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ours = |owner: Option<Owner>| {
            owner.is_some_and(|owner| (owner.server, owner.shard) == (moving.server, moving.shard))
        };
        let moves = |image: &OrderImage| {
            image.lines.iter().any(|line| line.sku_id == moving.sku_id)
                && (is_open(image)
                    || (image.changed_at >= moving.since
                        && image.lines.iter().all(|line| ours(self.owner_of(&line.sku_id)))))
        };
        let orders = self.orders.range((from, Bound::Unbounded)).map(|(_, kept)| &kept.image);
        orders.filter(|image| moves(image)).take(max).cloned().collect()
    }

    pub fn requests_of(&self, moving: &Moving, after: Option<&RequestId>, max: usize) -> Vec<RequestImage> {
        let of_sku = self
            .requests
            .values()
            .filter(|request| request.sku_id == moving.sku_id && request.at >= moving.since);
        let after = of_sku.filter(|request| after.is_none_or(|after| request.request_id > *after));
        after.take(max).cloned().collect()
    }

    pub fn owned(&self, server: ServerId, after: Option<&SkuId>, max: usize) -> Vec<(SkuId, Owner)> {
        let mut owned: BTreeMap<SkuId, Owner> = BTreeMap::new();
        for kept in self.after(after) {
            if let Some(owner) = kept.owner.filter(|owner| owner.server == server) {
                owned.insert(kept.image.sku_id.clone(), owner);
            }
        }
        owned.into_iter().take(max).collect()
    }

    pub fn watermark(&self, server: ServerId, shard: ShardId) -> Lsn {
        self.watermarks.get(&(server, shard)).copied().unwrap_or_default()
    }

    pub fn set_available(&mut self, sku_id: &SkuId, available: u64) {
        let places: Vec<Place> =
            self.of_sku(sku_id).map(|kept| (sku_id.clone(), kept.image.warehouse_id)).collect();
        for place in places {
            if let Some(kept) = self.stocks.get_mut(&place) {
                kept.image.levels.available = available;
            }
        }
    }

    pub fn set_owner(&mut self, sku_id: &SkuId, owner: Option<Owner>) {
        let places: Vec<Place> =
            self.of_sku(sku_id).map(|kept| (sku_id.clone(), kept.image.warehouse_id)).collect();
        for place in places {
            if let Some(kept) = self.stocks.get_mut(&place) {
                kept.owner = owner;
                kept.epoch = owner.map_or(kept.epoch, |owner| owner.epoch);
            }
        }
    }

    /// Everything that a command may read or change.
    pub(super) fn touched_by(&self, command: &Command) -> Touched {
        let mut touched = Touched::default();
        if let Some(order_no) = command.order_no() {
            touched.orders.insert(order_no.clone());
            touched.stocks.extend(self.places_of(order_no));
        }
        let sku_id = match &command.action {
            Action::Reserve(c) => {
                touched.stocks.extend(c.lines.as_slice().iter().map(|l| (l.sku_id.clone(), l.warehouse_id)));
                None
            }
            Action::CreateStock(c) => {
                touched.stocks.insert((c.sku_id.clone(), c.warehouse_id));
                Some(&c.sku_id)
            }
            Action::ChangeStock(c) => {
                touched.requests.insert((c.sku_id.clone(), c.request_id.clone()));
                Some(&c.sku_id)
            }
            Action::SetStatus(c) => Some(&c.sku_id),
            _ => None,
        };
        if let Some(sku_id) = sku_id {
            touched.stocks.extend(self.of_sku(sku_id).map(|kept| (sku_id.clone(), kept.image.warehouse_id)));
        }
        touched
    }

    /// A small state of what is touched, but for these orders; and a time not before any of it.
    pub(super) fn state_of(
        &self,
        applied: Lsn,
        touched: &Touched,
        without: &BTreeSet<OrderNo>,
        now: Timestamp,
    ) -> Result<(State, Timestamp), StoreError> {
        let mut images = Vec::new();
        let mut now = now;
        for kept in touched.stocks.iter().filter_map(|place| self.stocks.get(place)) {
            now = now.max(kept.changed_at);
            images.push(Image::Stock(kept.image.clone()));
        }
        for kept in touched.orders.difference(without).filter_map(|order_no| self.orders.get(order_no)) {
            now = now.max(kept.image.changed_at);
            images.push(Image::Order(kept.image.clone()));
        }
        images.extend(
            touched.requests.iter().filter_map(|key| self.requests.get(key)).cloned().map(Image::Request),
        );
        let time = if applied == Lsn::ZERO { now } else { Timestamp::default() };
        Ok((State::of_images(applied, time, images)?, now))
    }

    pub(super) fn write_moves(
        &mut self,
        moves: Vec<StockMove>,
        event: &Event,
        source: Option<(ServerId, ShardId, Lsn)>,
    ) {
        for change in moves {
            let key = (change.sku_id.clone(), change.warehouse_id, change.after.version);
            let row = JournalRow { change, at: event.at, trace: event.trace, source };
            let twice = self.journal.insert(key, row);
            assert!(twice.is_none(), "a version of a stock has two rows: {twice:?}");
        }
    }

    /// Writes what is touched as it is in the state. Gives the stocks that changed.
    pub(super) fn write_back(
        &mut self,
        state: &State,
        touched: &Touched,
        without: &BTreeSet<OrderNo>,
        by: Option<(ServerId, ShardId)>,
        at: Timestamp,
    ) -> Vec<StockView> {
        let mut changed = Vec::new();
        for place in &touched.stocks {
            let Some(mut image) = state.image_of_stock(&place.0, place.1) else { continue };
            (image.lsn, image.stage, image.epoch, image.forgotten_sold) = (Lsn::ZERO, Stage::Open, 0, 0);
            let known = self.stocks.get(place);
            if known.is_some_and(|kept| kept.image == image) {
                continue;
            }
            let owner = by.map(|(server, shard)| {
                let epoch = self.owner_of(&place.0).map_or(0, |owner| owner.epoch);
                Owner { server, shard, epoch }
            });
            let epoch = self.of_sku(&place.0).map(|kept| kept.epoch).max().unwrap_or(0);
            changed.push(row(&Kept { image: image.clone(), owner, epoch, changed_at: at }).view);
            self.stocks.insert(place.clone(), Kept { image, owner, epoch, changed_at: at });
        }
        for order_no in touched.orders.difference(without) {
            let Some(mut image) = state.image_of_order(order_no) else { continue };
            image.lsn = Lsn::ZERO;
            let due = by.is_none() && is_open(&image);
            self.orders.insert(order_no.clone(), KeptOrder { image, due });
        }
        for key in &touched.requests {
            let Some(mut image) = state.image_of_request(&key.0, &key.1) else { continue };
            image.lsn = Lsn::ZERO;
            self.requests.insert(key.clone(), image);
        }
        changed
    }

    pub(super) fn set_due(&mut self, order_no: &OrderNo, due: bool) {
        if let Some(kept) = self.orders.get_mut(order_no) {
            kept.due = due;
        }
    }

    pub(super) fn places_of(&self, order_no: &OrderNo) -> impl Iterator<Item = Place> {
        let lines = self.orders.get(order_no).into_iter().flat_map(|kept| &kept.image.lines);
        lines.map(|line| (line.sku_id.clone(), line.warehouse_id))
    }

    pub(super) fn owners(&self, places: &BTreeSet<Place>) -> HashSet<Option<Owner>> {
        // A warehouse that there is not belongs to whom the SKU belongs.
        let known = places.iter().filter(|(sku_id, _)| self.of_sku(sku_id).next().is_some());
        known.map(|(sku_id, _)| self.owner_of(sku_id)).collect()
    }

    pub(super) fn owner_of(&self, sku_id: &SkuId) -> Option<Owner> {
        self.of_sku(sku_id).next().and_then(|kept| kept.owner)
    }

    pub(super) fn of_sku(&self, sku_id: &SkuId) -> impl Iterator<Item = &Kept> {
        let (first, last) = ((sku_id.clone(), WarehouseId(0)), (sku_id.clone(), WarehouseId(u32::MAX)));
        self.stocks.range(first..=last).map(|(_, kept)| kept)
    }

    pub(super) fn after(&self, after: Option<&SkuId>) -> impl Iterator<Item = &Kept> {
        let from =
            after.map_or(Bound::Unbounded, |sku_id| Bound::Excluded((sku_id.clone(), WarehouseId(u32::MAX))));
        self.stocks.range((from, Bound::Unbounded)).map(|(_, kept)| kept)
    }
}

pub(super) fn moves_of(state: &State, event: &Event) -> Vec<StockMove> {
    event.stock_moves(|sku_id, warehouse_id| {
        state.image_of_stock(sku_id, warehouse_id).map(|image| image.levels)
    })
}

pub(super) fn is_open(image: &OrderImage) -> bool {
    image.lines.iter().any(|line| line.held > 0)
}

pub(super) fn row(kept: &Kept) -> StockRow {
    let StockImage { sku_id, warehouse_id, levels, status, .. } = kept.image.clone();
    StockRow {
        view: StockView { sku_id, warehouse_id, levels, status, serialized: false },
        owner: kept.owner,
    }
}
