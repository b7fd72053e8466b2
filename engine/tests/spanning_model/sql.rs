//! The store of the simulation: rows, each call one transaction. It is written from the contract of
//! [`Store`](hotstock_engine::store::Store), decides by the same state machine as the shards, and never forgets.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::{Image, OrderImage, Stage, StockImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command};
use hotstock_engine::event::{Change, Event};
use hotstock_engine::home::{HomeImage, split};
use hotstock_engine::ids::{AttemptId, Branch, Lsn, OrderNo, SkuId, shard_of_order};
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::state::State;

use crate::naive::Place;
use crate::shard::Shard;

/// See the module.
pub struct Sql {
    shards: u16,
    pub stocks: BTreeMap<Place, StockImage>,
    /// Shard and epoch of hot SKUs.
    pub owners: BTreeMap<SkuId, (usize, u64)>,
    epochs: BTreeMap<SkuId, u64>,
    pub orders: BTreeMap<OrderNo, OrderRow>,
    pub homes: BTreeMap<OrderNo, HomeRow>,
    /// It does not answer.
    pub down: bool,
    /// The time of its last transaction.
    pub time: Timestamp,
}

pub struct OrderRow {
    pub image: OrderImage,
    /// When the sweeper looks at it.
    pub due: Option<Timestamp>,
}

pub struct HomeRow {
    pub image: HomeImage,
    pub shard: usize,
    pub due: Option<Timestamp>,
}

/// What the sweeper is to look at.
pub enum Due {
    /// It expires, in this state.
    Order(OrderNo),
    Branch(OrderNo),
    Home(OrderNo),
}

impl Sql {
    pub fn new(shards: u16) -> Self {
        Self {
            shards,
            stocks: BTreeMap::new(),
            owners: BTreeMap::new(),
            epochs: BTreeMap::new(),
            orders: BTreeMap::new(),
            homes: BTreeMap::new(),
            down: false,
            time: Timestamp::default(),
        }
    }

    pub fn is_cold(&self, sku_id: &SkuId) -> bool {
        !self.owners.contains_key(sku_id)
    }

    /// What a command about cold SKUs reads and writes, as a small state that decides it.
    pub fn state_for(&mut self, command: &Command, now: Timestamp) -> State {
        self.time = self.time.max(now);
        let mut images = Vec::new();
        for place in self.touched(command) {
            images.extend(self.stocks.get(&place).cloned().map(Image::Stock));
        }
        let row = command.order_no().and_then(|order_no| self.orders.get(order_no));
        images.extend(row.map(|row| Image::Order(row.image.clone())));
        State::of_images(Lsn::ZERO, self.time, images).expect("each row once")
    }

    /// Writes back what a command touched.
    pub fn write_back(&mut self, state: &State, command: &Command) {
        let places = self.touched(command);
        assert!(
            places.iter().all(|(sku_id, _)| self.is_cold(sku_id)),
            "a hot SKU is changed in SQL: {command:?}"
        );
        for (sku_id, warehouse_id) in places {
            if let Some(image) = state.image_of_stock(&sku_id, warehouse_id) {
                self.stocks.insert((sku_id, warehouse_id), as_row(image));
            }
        }
        if let Some(order_no) = command.order_no()
            && let Some(image) = state.image_of_order(order_no)
        {
            let known = self.orders.get(order_no).map(|row| row.due);
            // A branch that was acknowledged is not due any more.
            let due = match known {
                Some(due) if order_no.is_branch() => due,
                _ => Some(image.expires_at),
            };
            self.put(image, due);
        }
    }

    /// Up to `max` rows that are due.
    pub fn due(&self, now: Timestamp, max: usize) -> Vec<Due> {
        let through = State::due_through(now);
        let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= through);
        let orders = self.orders.iter().filter(|(_, row)| is_due(row.due));
        let orders = orders.map(|(order_no, _)| match order_no.is_branch() {
            true => Due::Branch(order_no.clone()),
            false => Due::Order(order_no.clone()),
        });
        let homes = self.homes.iter().filter(|(_, row)| is_due(row.due));
        orders.chain(homes.map(|(order_no, _)| Due::Home(order_no.clone()))).take(max).collect()
    }

    /// Whether all SKUs of an order are here. Two that leave together with it come one after the other.
    pub fn is_all_cold(&self, order_no: &OrderNo) -> bool {
        self.orders[order_no].image.lines.iter().all(|line| self.is_cold(&line.sku_id))
    }

    /// Whoever has its SKUs looks at it.
    pub fn not_due(&mut self, order_no: &OrderNo) {
        if let Some(row) = self.orders.get_mut(order_no) {
            row.due = None;
        }
    }

    /// A row is looked at again in a second.
    pub fn put_off(&mut self, order_no: &OrderNo, now: Timestamp) {
        let later = now.plus_seconds(1);
        let order = self.orders.get_mut(order_no).map(|row| &mut row.due);
        let home = self.homes.get_mut(order_no).map(|row| &mut row.due);
        order.into_iter().chain(home).filter(|due| due.is_some()).for_each(|due| *due = Some(later));
    }

    /// Gives cold SKUs to a shard; open orders over them and others that don't come are split.
    pub fn take(&mut self, skus: &[SkuId], shard: usize) {
        let taken: Vec<&SkuId> = skus.iter().filter(|sku_id| self.is_cold(sku_id)).collect();
        let on =
            |row: &OrderRow, comes: bool| row.image.lines.iter().any(|l| taken.contains(&&l.sku_id) == comes);
        let open = self.orders.values().filter(|row| is_open(&row.image) && on(row, true));
        let apart: Vec<OrderNo> =
            open.filter(|row| on(row, false)).map(|row| row.image.order_no.clone()).collect();
        let taken: Vec<SkuId> = taken.into_iter().cloned().collect();
        apart.iter().for_each(|order_no| self.split(order_no));
        for sku_id in taken {
            let epoch = self.epochs.entry(sku_id.clone()).or_default();
            *epoch += 1;
            self.owners.insert(sku_id.clone(), (shard, *epoch));
            for row in
                self.orders.values_mut().filter(|row| row.image.lines.iter().any(|l| l.sku_id == sku_id))
            {
                row.due = None;
            }
        }
    }

    /// An order becomes one over several places.
    pub fn split(&mut self, order_no: &OrderNo) {
        let row = self.orders.remove(order_no).expect("the caller has looked");
        let (home, branches) = split(row.image);
        let shard = shard_of_order(order_no, self.shards).index();
        let due = is_open(&home.order).then_some(home.order.expires_at);
        let twice = self.homes.insert(order_no.clone(), HomeRow { image: home, shard, due });
        assert!(twice.is_none(), "{order_no} has a home already");
        for image in branches {
            assert!(image.order_no.is_branch(), "{image:?}");
            self.put(image, None);
        }
    }

    /// The stocks of a SKU, for an adoption.
    pub fn stocks_of(&self, sku_id: &SkuId) -> Vec<StockImage> {
        self.stocks.values().filter(|image| image.sku_id == *sku_id).cloned().collect()
    }

    /// The orders that move with a SKU into a shard.
    pub fn orders_of(&self, sku_id: &SkuId, shard: usize) -> Vec<OrderImage> {
        let ours = |sku_id: &SkuId| self.owners.get(sku_id).is_some_and(|owner| owner.0 == shard);
        let moves = |image: &&OrderImage| {
            let all_ours = image.lines.iter().all(|line| ours(&line.sku_id));
            image.lines.iter().any(|line| line.sku_id == *sku_id) && (is_open(image) || all_ours)
        };
        self.orders.values().map(|row| &row.image).filter(moves).cloned().collect()
    }

    /// Takes in the next events of a shard.
    pub fn flush(&mut self, shard: &mut Shard, index: usize, events: usize) {
        let events = shard.to_flush(events);
        for (lsn, event) in &events {
            self.flush_one(&mut shard.shadow, index, *lsn, event);
        }
        shard.note_flushed(events.len());
    }

    fn flush_one(&mut self, shadow: &mut State, index: usize, lsn: Lsn, event: &Event) {
        self.time = self.time.max(event.at);
        if let Change::Withdrawn { sku_id, epoch } = &event.change {
            assert_eq!(
                self.owners.remove(sku_id),
                Some((index, *epoch)),
                "{sku_id} leaves who does not own it"
            );
            let places: Vec<Place> = self.stocks.keys().filter(|place| place.0 == *sku_id).cloned().collect();
            for (sku_id, warehouse_id) in places {
                let image =
                    shadow.image_of_stock(&sku_id, warehouse_id).expect("all its warehouses were here");
                self.stocks.insert((sku_id, warehouse_id), as_row(image));
            }
            let at = event.at;
            let ask = at.plus_seconds(u64::from(BRANCH_ASK_SECONDS));
            for row in
                self.orders.values_mut().filter(|row| row.image.lines.iter().any(|l| l.sku_id == *sku_id))
            {
                let due = if row.image.order_no.is_branch() { ask } else { row.image.expires_at };
                row.due = is_open(&row.image).then_some(due);
            }
        }
        shadow.apply(lsn, event).expect("what was applied can be replayed");
        for order_no in touched_by(&event.change) {
            if let Some(image) = shadow.image_of_home(&order_no) {
                self.homes
                    .insert(order_no.clone(), HomeRow { image: image.clone(), shard: index, due: None });
                if let Change::Split { .. } = &event.change {
                    self.orders.remove(&order_no);
                    for line in &image.order.lines {
                        let (order_no, sku_id) = (order_no.clone(), line.sku_id.clone());
                        let number = Branch { order_no, sku_id, attempt: AttemptId(0) }.number();
                        if let Some(image) = shadow.image_of_order(&number) {
                            self.put(image, None);
                        }
                    }
                }
            } else if let Some(image) = shadow.image_of_order(&order_no) {
                self.put(image, None);
            }
        }
    }

    fn put(&mut self, mut image: OrderImage, due: Option<Timestamp>) {
        image.lsn = Lsn::ZERO;
        let due = due.filter(|_| is_open(&image));
        self.orders.insert(image.order_no.clone(), OrderRow { image, due });
    }

    fn touched(&self, command: &Command) -> BTreeSet<Place> {
        let row = command.order_no().and_then(|order_no| self.orders.get(order_no));
        let lines = row.into_iter().flat_map(|row| &row.image.lines);
        let mut touched: BTreeSet<Place> =
            lines.map(|line| (line.sku_id.clone(), line.warehouse_id)).collect();
        match &command.action {
            Action::Reserve(c) => {
                touched
                    .extend(c.lines.as_slice().iter().map(|line| (line.sku_id.clone(), line.warehouse_id)));
            }
            Action::ChangeStock(c) => drop(touched.insert((c.sku_id.clone(), c.warehouse_id))),
            Action::CreateStock(c) => drop(touched.insert((c.sku_id.clone(), c.warehouse_id))),
            Action::SetStatus(c) => {
                touched.extend(self.stocks.keys().filter(|place| place.0 == c.sku_id).cloned())
            }
            _ => {}
        }
        touched
    }
}

/// The orders that an event changes.
fn touched_by(change: &Change) -> Vec<OrderNo> {
    match change {
        Change::Reserved { order_no, .. }
        | Change::Confirmed { order_no, .. }
        | Change::Released { order_no, .. }
        | Change::Cancelled { order_no, .. }
        | Change::Expired { order_no, .. }
        | Change::Extended { order_no, .. }
        | Change::Returned { order_no, .. } => vec![order_no.clone()],
        Change::Home(change) => vec![change.order_no().clone()],
        Change::Split { orders } => orders.clone(),
        _ => Vec::new(),
    }
}

pub fn is_open(image: &OrderImage) -> bool {
    image.lines.iter().any(|line| line.held > 0)
}

fn as_row(image: StockImage) -> StockImage {
    StockImage { lsn: Lsn::ZERO, stage: Stage::Open, epoch: 0, forgotten_sold: 0, ..image }
}
