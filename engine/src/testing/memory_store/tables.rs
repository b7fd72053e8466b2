//! The tables of the store in memory: reads of them, and the small states that transactions decide with. Each method is a
//! transaction: one lock is held over it, and nothing is written before all of it is decided.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use crate::checkpoint::{Image, OrderImage, RequestImage, Stage, StockImage};
use crate::clock::Timestamp;
use crate::command::{Action, Command};
use crate::event::{Event, StockMove};
use crate::home::HomeImage;
use crate::ids::{Lsn, OrderNo, RequestId, ServerId, ShardId, SkuId, WarehouseId};
use crate::outcome::{OrderView, StockView};
use crate::state::{Corruption, State};
use crate::store::{Anomaly, JournalRow, OrderFilter, Owner, StockRow, StoreError, StoredHome, StoredOrder};

pub(super) type Place = (SkuId, WarehouseId);

/// See the top of the file.
#[derive(Default)]
pub(super) struct Tables {
    pub stocks: BTreeMap<Place, Kept>,
    /// Also branches, under their numbers.
    pub orders: BTreeMap<OrderNo, KeptOrder>,
    /// Orders over several places.
    pub homes: BTreeMap<OrderNo, KeptHome>,
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
    /// From when on the sweeper looks at it; `None`: it does not.
    pub due: Option<Timestamp>,
    /// Of a branch: the server that its home is on.
    pub server: Option<ServerId>,
}

pub(super) struct KeptHome {
    pub server: ServerId,
    pub shard: ShardId,
    pub image: HomeImage,
    /// As of an order; `None` also once the home has it.
    pub due: Option<Timestamp>,
}

/// Whose session a transaction is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Me {
    pub server: ServerId,
    pub shards: u16,
}

/// What a transaction is about.
#[derive(Default)]
pub(super) struct Touched {
    pub stocks: BTreeSet<Place>,
    pub orders: BTreeSet<OrderNo>,
    pub homes: BTreeSet<OrderNo>,
    pub requests: BTreeSet<(SkuId, RequestId)>,
}

impl From<Corruption> for StoreError {
    fn from(corruption: Corruption) -> Self {
        Self::Inconsistent(corruption.to_string())
    }
}

impl Tables {
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

    pub fn home(&self, order_no: &OrderNo) -> Option<StoredHome> {
        let KeptHome { server, shard, image, .. } = self.homes.get(order_no)?;
        Some(StoredHome { server: *server, shard: *shard, image: image.clone() })
    }

    pub fn list(&self, filter: &OrderFilter, after: Option<&OrderNo>, limit: usize) -> Vec<OrderView> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let plain = self.orders.range::<OrderNo, _>(from).filter(|(order_no, _)| !order_no.is_branch());
        let plain = plain.map(|(_, kept)| &kept.image);
        let homes = self.homes.range::<OrderNo, _>(from).map(|(_, kept)| &kept.image.order);
        let view = |image: &OrderImage| State::view_of(image.clone()).filter(|view| filter.takes(view));
        let mut listed: Vec<OrderView> = plain.filter_map(view).take(limit).collect();
        listed.extend(homes.filter_map(view).take(limit));
        listed.sort_by(|a, b| a.order_no.cmp(&b.order_no));
        listed.truncate(limit);
        listed
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
                for line in c.lines.as_slice().iter().filter(|_| c.choice.is_some()) {
                    touched.stocks.extend(self.warehouses_of(&line.sku_id));
                }
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
            touched.stocks.extend(self.warehouses_of(sku_id));
        }
        self.add_numbered(&mut touched);
        touched
    }

    /// Serial numbers go on from those of all warehouses.
    pub(super) fn add_numbered(&self, touched: &mut Touched) {
        let is_numbered = |sku_id: &&SkuId| self.of_sku(sku_id).any(|kept| kept.image.numbered.is_some());
        let skus: BTreeSet<&SkuId> = touched.stocks.iter().map(|(sku_id, _)| sku_id).collect();
        let places = skus.into_iter().filter(is_numbered).flat_map(|sku_id| self.warehouses_of(sku_id));
        let places: Vec<Place> = places.collect();
        touched.stocks.extend(places);
    }

    fn warehouses_of(&self, sku_id: &SkuId) -> Vec<Place> {
        self.of_sku(sku_id).map(|kept| (sku_id.clone(), kept.image.warehouse_id)).collect()
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
        for kept in touched.homes.difference(without).filter_map(|order_no| self.homes.get(order_no)) {
            now = now.max(kept.image.order.changed_at);
            images.push(Image::Home(kept.image.clone()));
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

    /// Writes what is touched as it is in the state, of cold SKUs or `by` a shard. Gives the stocks that changed.
    pub(super) fn write_back(
        &mut self,
        me: Me,
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
            let known = self.orders.get(order_no);
            let due = match known {
                _ if by.is_some() || !is_open(&image) => None,
                // Left to its home, it is so for good.
                Some(known) if order_no.is_branch() => known.due,
                _ => Some(image.expires_at),
            };
            let server = match (by, known) {
                (Some((server, _)), _) => server,
                (None, Some(KeptOrder { server: Some(server), .. })) => *server,
                (None, _) => me.server,
            };
            let server = order_no.is_branch().then_some(server);
            self.orders.insert(order_no.clone(), KeptOrder { image, due, server });
        }
        for order_no in touched.homes.difference(without) {
            let (Some(mut image), Some((server, shard))) = (state.image_of_home(order_no), by) else {
                continue;
            };
            image.order.lsn = Lsn::ZERO;
            // Of one that was split: in its place there are branches.
            self.orders.remove(order_no);
            self.homes.insert(order_no.clone(), KeptHome { server, shard, image, due: None });
        }
        for key in &touched.requests {
            let Some(mut image) = state.image_of_request(&key.0, &key.1) else { continue };
            image.lsn = Lsn::ZERO;
            self.requests.insert(key.clone(), image);
        }
        changed
    }

    pub(super) fn set_due(&mut self, order_no: &OrderNo, due: Option<Timestamp>) {
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
    let StockImage { sku_id, warehouse_id, levels, status, numbered, .. } = kept.image.clone();
    let serialized = numbered.is_some();
    StockRow { view: StockView { sku_id, warehouse_id, levels, status, serialized }, owner: kept.owner }
}
