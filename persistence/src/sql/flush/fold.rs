//! Events into rows: a small state of what they touch, the events applied to it, and what is different then.
//!
//! The shard has decided, so its events count. Where the store's row of a stock or an order is not what the events start from (somebody
//! changed it by hand), that becomes an anomaly: the stock is written as the events say, the order is left as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hotstock_engine::checkpoint::{Image, RequestImage, StockImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{Change, Event, StockMove};
use hotstock_engine::home::HomeChange;
use hotstock_engine::ids::{Branch, Lsn, OrderNo, ServerId, ShardId, SkuId, WarehouseId};
use hotstock_engine::outcome::Levels;
use hotstock_engine::state::State;
use hotstock_engine::store::{Anomaly, JournalRow, Owner, StoreError};

use super::super::error::broken;
use super::super::rows::{HomeEntry, OrderEntry, StockEntry, StockKey};

/// What a part of a batch does to the tables.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// Stocks that were there, as they are afterwards.
    pub stocks: Vec<StockEntry>,
    /// Stocks that are new.
    pub created: Vec<StockEntry>,
    /// Orders that are new.
    pub made: Vec<OrderEntry>,
    /// Orders that were there, and how many of their requests were.
    pub changed: Vec<(OrderEntry, usize)>,
    /// Orders over several places that are new.
    pub homes_made: Vec<HomeEntry>,
    /// Those that were there, perhaps as orders in one place.
    pub homes_changed: Vec<HomeEntry>,
    /// Of those, the ones that were in one place.
    pub split: Vec<OrderNo>,
    /// Stock requests.
    pub requests: Vec<RequestImage>,
    /// In the order of the events.
    pub journal: Vec<JournalRow>,
    /// Orders that left the shard.
    pub shed: BTreeSet<OrderNo>,
    /// SKUs that left it, with the epoch that ends.
    pub withdrawn: Vec<(SkuId, u64)>,
    /// What did not fit.
    pub anomalies: Vec<Anomaly>,
}

/// The rows that a part starts from.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// All stocks of the SKUs that it touches, which the shard owns.
    pub stocks: Vec<StockEntry>,
    /// The orders that it changes.
    pub orders: Vec<OrderEntry>,
    /// Likewise those over several places.
    pub homes: Vec<HomeEntry>,
    /// Orders whose rows in the store are about another order of that number. They are left alone.
    pub conflicts: HashSet<OrderNo>,
}

/// Applies events to rows.
///
/// # Errors
/// [`StoreError::Inconsistent`] when a stock of the store is at another version than the events start from.
pub(super) fn fold(
    (server, shard): (ServerId, ShardId),
    mut loaded: Loaded,
    events: &[(Lsn, Event)],
) -> Result<Folded, StoreError> {
    let met = meet(&mut loaded.stocks, events)?;
    let before_first = Lsn(events.first().map_or(0, |(lsn, _)| lsn.0.saturating_sub(1)));
    let mut fold = Fold::new(server, shard, loaded, before_first)?;
    for Differs { lsn, at, sku_id, detail } in met {
        fold.anomaly(lsn, at, "stock_differs", None, Some(&sku_id), detail);
    }
    for (lsn, event) in events {
        fold.event(*lsn, event)?;
    }
    fold.finish()
}

/// A stock that the store had otherwise than its first event found it.
struct Differs {
    lsn: Lsn,
    at: Timestamp,
    sku_id: SkuId,
    detail: String,
}

/// Compares the stocks of the store with what the first event of each starts from, and sets them to that.
fn meet(stocks: &mut [StockEntry], events: &[(Lsn, Event)]) -> Result<Vec<Differs>, StoreError> {
    let mut fresh: HashMap<StockKey, &mut StockImage> =
        stocks.iter_mut().map(|stock| (stock.key(), &mut stock.image)).collect();
    let mut differs = Vec::new();
    for (lsn, event) in events {
        if fresh.is_empty() {
            break;
        }
        let levels = |sku_id: &SkuId, warehouse_id| Some(fresh.get(&(sku_id.clone(), warehouse_id))?.levels);
        for change in event.stock_moves(levels) {
            let StockMove { sku_id, warehouse_id, delta, after, .. } = change;
            let Some(image) = fresh.remove(&(sku_id.clone(), warehouse_id)) else { continue };
            let has = image.levels;
            if has.version.checked_add(1) != Some(after.version) {
                let (stock, has, makes) = (name(&sku_id, warehouse_id), has.version, after.version);
                return Err(broken(format!(
                    "{stock} is at version {has}, event {lsn} makes version {makes}"
                )));
            }
            let back = |level: u64, delta: i64| level.checked_add_signed(delta.checked_neg()?);
            let starts = back(after.available, delta.available)
                .zip(back(after.reserved, delta.reserved))
                .zip(back(after.sold, delta.sold))
                .map(|((available, reserved), sold)| Levels { available, reserved, sold, ..has });
            let starts = starts.ok_or_else(|| broken(format!("event {lsn} starts below nothing")))?;
            if (starts, starts.quantity()) != (has, image.supplied) {
                let (was, is) = (words(has, image.supplied), words(starts, starts.quantity()));
                let detail = format!("the store had {was}, the shard had {is}");
                differs.push(Differs { lsn: *lsn, at: event.at, sku_id, detail });
                image.levels = starts;
                image.supplied = starts.quantity();
                image.forgotten_sold = starts.sold;
            }
        }
    }
    Ok(differs)
}

struct Fold {
    server: ServerId,
    shard: ShardId,
    state: State,
    /// The owner of each SKU, which is the shard.
    owners: HashMap<SkuId, Owner>,
    stocks: BTreeMap<StockKey, (Lsn, Timestamp)>,
    created: HashSet<StockKey>,
    /// Orders of the store, and how many requests they had.
    known: HashMap<OrderNo, usize>,
    made: BTreeSet<OrderNo>,
    changed: BTreeSet<OrderNo>,
    homes_made: BTreeSet<OrderNo>,
    homes_changed: BTreeSet<OrderNo>,
    /// Orders whose rows are not written.
    left_alone: HashSet<OrderNo>,
    folded: Folded,
}

impl Fold {
    fn new(server: ServerId, shard: ShardId, loaded: Loaded, at: Lsn) -> Result<Self, StoreError> {
        let Loaded { stocks, orders, homes, conflicts } = loaded;
        let owner = |stock: &StockEntry| Some((stock.image.sku_id.clone(), stock.owner?));
        let owners = stocks.iter().filter_map(owner).collect();
        let known: HashMap<_, _> =
            orders.iter().map(|order| (order.image.order_no.clone(), order.image.requests.len())).collect();
        let images = stocks.into_iter().map(|stock| Image::Stock(stock.image));
        let images = images.chain(orders.into_iter().map(|order| Image::Order(order.image)));
        let images = images.chain(homes.into_iter().map(|home| Image::Home(home.home))).collect();
        let state = State::of_images(at, Timestamp::default(), images).map_err(broken)?;
        Ok(Self {
            server,
            shard,
            state,
            owners,
            stocks: BTreeMap::new(),
            created: HashSet::new(),
            known,
            made: BTreeSet::new(),
            changed: BTreeSet::new(),
            homes_made: BTreeSet::new(),
            homes_changed: BTreeSet::new(),
            left_alone: conflicts,
            folded: Folded::default(),
        })
    }

    fn event(&mut self, lsn: Lsn, event: &Event) -> Result<(), StoreError> {
        match &event.change {
            Change::Forgotten { .. }
            | Change::AdoptionBegun { .. }
            | Change::OrdersAdopted { .. }
            | Change::Adopted { .. }
            | Change::Closed { .. } => self.pass_over(lsn, event)?,
            Change::Shed { orders, .. } => {
                self.pass_over(lsn, event)?;
                self.folded.shed.extend(orders.iter().cloned());
            }
            Change::Withdrawn { sku_id, epoch } => {
                self.pass_over(lsn, event)?;
                self.folded.withdrawn.push((sku_id.clone(), *epoch));
            }
            Change::Split { orders } => self.split(lsn, event, orders)?,
            change => {
                if let Change::StockCreated { sku_id, warehouse_id, .. } = change {
                    if self.state.image_of_stock(sku_id, *warehouse_id).is_some() {
                        let stock = name(sku_id, *warehouse_id);
                        return Err(broken(format!("event {lsn} creates {stock}, which is there")));
                    }
                    self.created.insert((sku_id.clone(), *warehouse_id));
                }
                self.apply(lsn, event)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, lsn: Lsn, event: &Event) -> Result<(), StoreError> {
        let state = &self.state;
        let levels = |sku_id: &SkuId, warehouse_id| Some(state.image_of_stock(sku_id, warehouse_id)?.levels);
        let moves = event.stock_moves(levels);
        if let Err(corruption) = self.state.apply(lsn, event) {
            // The stocks fit, so it is the order that does not.
            let moved = moves.iter().all(|change| {
                let image = self.state.image_of_stock(&change.sku_id, change.warehouse_id);
                image.is_some_and(|image| image.levels == change.after)
            });
            let Some(order_no) = order_of(&event.change).filter(|_| moved) else {
                return Err(broken(corruption));
            };
            self.pass_over(lsn, event)?;
            if self.left_alone.insert(order_no.clone()) {
                self.anomaly(lsn, event.at, "order_differs", Some(order_no), None, corruption.problem);
            }
        } else {
            self.note(lsn, event);
        }
        for change in moves {
            self.stocks.insert((change.sku_id.clone(), change.warehouse_id), (lsn, event.at));
            let source = Some((self.server, self.shard, lsn));
            self.folded.journal.push(JournalRow { change, at: event.at, trace: event.trace, source });
        }
        Ok(())
    }

    /// Orders become orders over several places. Those whose rows are left alone don't.
    fn split(&mut self, lsn: Lsn, event: &Event, orders: &[OrderNo]) -> Result<(), StoreError> {
        let mut here = Vec::with_capacity(orders.len());
        for order_no in orders {
            if self.state.image_of_order(order_no).is_some() && !self.left_alone.contains(order_no) {
                here.push(order_no.clone());
            } else if self.left_alone.insert(order_no.clone()) {
                let detail = "the shard splits an order that the store does not have".to_owned();
                self.anomaly(lsn, event.at, "order_missing", Some(order_no), None, detail);
            }
        }
        if here.is_empty() {
            return self.pass_over(lsn, event);
        }
        let change = Change::Split { orders: here.clone() };
        self.state.apply(lsn, &Event { change, ..event.clone() }).map_err(broken)?;
        for order_no in here {
            let home = self.state.image_of_home(&order_no);
            let home = home.ok_or_else(|| broken(format!("order {order_no} was not split")))?;
            self.made.extend(home.shares.iter().filter_map(|share| {
                let line = home.order.lines.get(usize::from(share.line))?;
                let (sku_id, attempt) = (line.sku_id.clone(), share.attempt);
                Some(Branch { order_no: order_no.clone(), sku_id, attempt }.number())
            }));
            // One that was made in this part has no rows yet.
            if self.made.remove(&order_no) {
                self.homes_made.insert(order_no);
            } else {
                self.changed.remove(&order_no);
                self.folded.split.push(order_no.clone());
                self.homes_changed.insert(order_no);
            }
        }
        Ok(())
    }

    fn pass_over(&mut self, lsn: Lsn, event: &Event) -> Result<(), StoreError> {
        self.state.pass_over(lsn, event).map_err(broken)
    }

    /// What an event that was applied means for the rows of orders and requests.
    fn note(&mut self, lsn: Lsn, event: &Event) {
        if let Change::StockChanged { sku_id, request_id, .. } = &event.change {
            self.folded.requests.extend(self.state.image_of_request(sku_id, request_id));
        }
        let Some(order_no) = order_of(&event.change) else { return };
        if self.left_alone.contains(order_no) || self.made.contains(order_no) {
            return;
        }
        if let Change::Home(change) = &event.change {
            if matches!(**change, HomeChange::Reserved { .. }) {
                self.homes_made.insert(order_no.clone());
            } else if !self.homes_made.contains(order_no) {
                self.homes_changed.insert(order_no.clone());
            }
        } else if matches!(event.change, Change::Reserved { .. } | Change::Cancelled { .. }) {
            self.made.insert(order_no.clone());
        } else if self.known.contains_key(order_no) {
            self.changed.insert(order_no.clone());
        } else {
            self.left_alone.insert(order_no.clone());
            let detail = "the shard changes an order that the store does not have".to_owned();
            self.anomaly(lsn, event.at, "order_missing", Some(order_no), None, detail);
        }
    }

    fn anomaly(
        &mut self,
        lsn: Lsn,
        at: Timestamp,
        kind: &str,
        order_no: Option<&OrderNo>,
        sku_id: Option<&SkuId>,
        detail: String,
    ) {
        self.folded.anomalies.push(Anomaly {
            at,
            kind: kind.to_owned(),
            source: Some((self.server, self.shard, lsn)),
            order_no: order_no.cloned(),
            sku_id: sku_id.cloned(),
            detail,
        });
    }

    fn finish(mut self) -> Result<Folded, StoreError> {
        for ((sku_id, warehouse_id), (lsn, changed_at)) in &self.stocks {
            let image = self.state.image_of_stock(sku_id, *warehouse_id);
            let mut image =
                image.ok_or_else(|| broken(format!("{} was lost", name(sku_id, *warehouse_id))))?;
            let first = Owner { server: self.server, shard: self.shard, epoch: 0 };
            let owner = self.owners.get(sku_id).copied().unwrap_or(first);
            image.epoch = owner.epoch;
            let new = self.created.contains(&(sku_id.clone(), *warehouse_id));
            let stocks = if new { &mut self.folded.created } else { &mut self.folded.stocks };
            stocks.push(StockEntry { image, owner: Some(owner), lsn: *lsn, changed_at: *changed_at });
        }
        let entry = |order_no: &OrderNo| {
            let image = self
                .state
                .image_of_order(order_no)
                .ok_or_else(|| broken(format!("order {order_no} was lost")))?;
            let source = Some((self.server, self.shard, image.lsn));
            Ok::<_, StoreError>(OrderEntry { image, due_at: None, source, writer: Some(self.server) })
        };
        let home = |order_no: &OrderNo| {
            let home = self.state.image_of_home(order_no);
            let home = home.ok_or_else(|| broken(format!("order {order_no} was lost")))?;
            let (server, shard) = (self.server, self.shard);
            let source = Some((server, shard, home.order.lsn));
            Ok::<_, StoreError>(HomeEntry { home, server, shard, due_at: None, source })
        };
        let written = |order_no: &&OrderNo| !self.left_alone.contains(*order_no);
        for order_no in self.homes_made.iter().filter(written) {
            self.folded.homes_made.push(home(order_no)?);
        }
        for order_no in self.homes_changed.iter().filter(written) {
            self.folded.homes_changed.push(home(order_no)?);
        }
        for order_no in self.made.iter().filter(|order_no| !self.left_alone.contains(*order_no)) {
            self.folded.made.push(entry(order_no)?);
        }
        for order_no in self.changed.iter().filter(|order_no| !self.left_alone.contains(*order_no)) {
            let requests = self.known.get(order_no).copied().unwrap_or(0);
            self.folded.changed.push((entry(order_no)?, requests));
        }
        Ok(self.folded)
    }
}

/// The order that a change is about.
fn order_of(change: &Change) -> Option<&OrderNo> {
    match change {
        Change::Reserved { order_no, .. }
        | Change::Confirmed { order_no, .. }
        | Change::Released { order_no, .. }
        | Change::Cancelled { order_no, .. }
        | Change::Expired { order_no, .. }
        | Change::Extended { order_no, .. }
        | Change::Returned { order_no, .. } => Some(order_no),
        Change::Home(change) => Some(change.order_no()),
        _ => None,
    }
}

fn name(sku_id: &SkuId, warehouse_id: WarehouseId) -> String {
    format!("the stock of SKU {sku_id} in warehouse {warehouse_id}")
}

fn words(levels: Levels, supplied: u64) -> String {
    let Levels { available, reserved, sold, .. } = levels;
    format!("{available} available, {reserved} reserved, {sold} sold of {supplied}")
}
