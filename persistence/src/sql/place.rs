//! SKUs go to shards: who owns them, and what moves with them.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::{OrderImage, RequestImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{OrderNo, RequestId, ServerId, ShardId, SkuId, shard_of_order};
use hotstock_engine::store::{Moving, Owner, StoreError, Taken};

use super::dialect::{Access, Arg, Tx};
use super::error::{SqlError, broken};
use super::rows::{
    self, Linked, Lock, OrderEntry, StockEntry, find_stock, in_key_order, is_open, load_orders, load_skus,
    load_stocks, request_image, write_split,
};
use super::statements::{marks, rows_in};
use super::{SqlStore, Work};
use crate::limits::{MAX_KEYS_PER_STATEMENT, MAX_SPLIT_PAGES, MAX_SPLIT_PER_TRANSACTION, MAX_TRIES};

/// See [`Store::take`](hotstock_engine::store::Store::take). Many orders that a SKU leaves behind become orders over several places
/// first, in transactions of their own; the last ones with the take.
pub(super) async fn take(
    store: &SqlStore,
    skus: &[SkuId],
    server: ServerId,
    shard: ShardId,
) -> Result<Vec<Taken>, StoreError> {
    let take = Take { skus: in_key_order(skus.to_vec()), server, shard, shards: store.shards };
    for _ in 0..MAX_SPLIT_PAGES {
        match store.run(&take).await? {
            Step::Taken(taken) => {
                let of = |sku_id| taken.get(sku_id).cloned().unwrap_or(Taken::Unknown);
                return Ok(skus.iter().map(of).collect());
            }
            Step::Split(links) => {
                store.run(&SplitPage { take: &take, links }).await?;
            }
        }
    }
    Err(StoreError::Busy("orders over several SKUs are made again and again".to_owned()))
}

struct Take {
    /// Sorted, each once.
    skus: Vec<SkuId>,
    server: ServerId,
    shard: ShardId,
    /// How many shards the server has.
    shards: u16,
}

/// What one transaction came to.
enum Step {
    Taken(BTreeMap<SkuId, Taken>),
    /// Nothing yet: there are too many orders to be split.
    Split(Links),
}

/// SKUs that go, and those which are linked to them by open orders and would be elsewhere.
#[derive(Debug, Default)]
struct Links {
    going: Vec<SkuId>,
    staying: Vec<SkuId>,
}

impl Work for Take {
    type Done = Step;

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Step, SqlError> {
        // Order rows are locked before stock rows, so this first look is a guess.
        let stocks = by_sku(load_skus(tx, &self.skus, Lock::No).await?);
        let going = self.going(tx, &stocks).await?.0;
        let links = self.links(tx, &stocks, &going).await?;
        let spanning = links.orders(tx, MAX_SPLIT_PER_TRANSACTION + 1).await?;
        if spanning.len() > MAX_SPLIT_PER_TRANSACTION {
            return Ok(Step::Split(links));
        }
        let mut orders = load_orders(tx, &spanning, Lock::Yes).await?;

        // With these rows locked no order can begin or end to hold one of the SKUs.
        let mut stocks = by_sku(load_skus(tx, &self.skus, Lock::Yes).await?);
        let (going, mut taken) = self.going(tx, &stocks).await?;
        let links = self.links(tx, &stocks, &going).await?;
        let mut made = links.orders(tx, MAX_SPLIT_PER_TRANSACTION + 1).await?;
        made.retain(|order_no| !spanning.contains(order_no));
        if made.len() > MAX_SPLIT_PER_TRANSACTION {
            return Ok(Step::Split(links));
        }
        // Made since the first look: few. Whoever holds one of these rows and waits for a stock is in our way, and the database tells
        // one of us to start again.
        orders.extend(load_orders(tx, &made, Lock::Yes).await?);
        self.split(tx, orders).await?;
        for _ in 0..MAX_TRIES {
            self.give(tx, &stocks, &going).await?;
            let again: Vec<_> = going.iter().cloned().collect();
            stocks = by_sku(load_skus(tx, &again, Lock::Yes).await?);
            if !stocks.values().flatten().any(|stock| stock.owner.is_none()) {
                taken.extend(stocks.into_iter().map(|(sku_id, rows)| (sku_id, owned(rows))));
                return Ok(Step::Taken(taken));
            }
            // A warehouse was added meanwhile.
        }
        Err(SqlError::Retry("warehouses are added again and again".to_owned()))
    }
}

/// Splits some of the orders that a take finds in its way.
struct SplitPage<'a> {
    take: &'a Take,
    links: Links,
}

impl Work for SplitPage<'_> {
    type Done = ();

    const ACCESS: Access = Access::Write;

    async fn run(&self, tx: &mut dyn Tx) -> Result<(), SqlError> {
        let order_nos = self.links.orders(tx, MAX_SPLIT_PER_TRANSACTION).await?;
        let orders = load_orders(tx, &order_nos, Lock::Yes).await?;
        self.take.split(tx, orders).await
    }
}

impl Links {
    /// Up to `max` open orders that hold a SKU which goes and one which stays; sorted.
    async fn orders(&self, tx: &mut dyn Tx, max: usize) -> Result<Vec<OrderNo>, SqlError> {
        let mut found = BTreeSet::new();
        for staying in &self.staying {
            for going in self.going.chunks(MAX_KEYS_PER_STATEMENT) {
                let sql = format!(
                    "SELECT other.order_no FROM order_lines other JOIN order_lines l ON l.order_no = other.order_no \
                     WHERE other.sku_id = ? AND other.open = 1 AND other.linked = 1 AND l.sku_id IN ({}) \
                     GROUP BY other.order_no ORDER BY other.order_no LIMIT ?",
                    marks(going.len())
                );
                let args = std::iter::once(Arg::from(staying)).chain(going.iter().map(Arg::from));
                for row in tx.rows(&sql, args.chain([max.into()]).collect()).await? {
                    found.insert(row.fields().order_no()?);
                }
            }
            if found.len() >= max {
                break;
            }
        }
        Ok(found.into_iter().take(max).collect())
    }
}

fn by_sku(stocks: Vec<StockEntry>) -> BTreeMap<SkuId, Vec<StockEntry>> {
    let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for stock in stocks {
        of.entry(stock.image.sku_id.clone()).or_default().push(stock);
    }
    of
}

fn owned(rows: Vec<StockEntry>) -> Taken {
    let epoch = rows.iter().map(|stock| stock.image.epoch).max().unwrap_or(0);
    Taken::Owned { epoch, stocks: rows.into_iter().map(|stock| stock.image).collect() }
}

impl Take {
    fn is_ours(&self, owner: Owner) -> bool {
        owner.server == self.server && owner.shard == self.shard
    }

    fn refused(&self, stocks: &[StockEntry]) -> Option<Taken> {
        let other = stocks.iter().filter_map(|stock| stock.owner).find(|owner| !self.is_ours(*owner))?;
        Some(Taken::OwnedBy(other))
    }

    /// The SKUs that the shard gets, and what becomes of the others.
    async fn going(
        &self,
        tx: &mut dyn Tx,
        stocks: &BTreeMap<SkuId, Vec<StockEntry>>,
    ) -> Result<(BTreeSet<SkuId>, BTreeMap<SkuId, Taken>), SqlError> {
        let mut taken: BTreeMap<_, _> =
            stocks.iter().filter_map(|(sku_id, rows)| Some((sku_id.clone(), self.refused(rows)?))).collect();
        let mut going: BTreeSet<SkuId> =
            stocks.keys().filter(|sku_id| !taken.contains_key(*sku_id)).cloned().collect();
        for (sku_id, order_no) in self.held_elsewhere(tx, stocks, &going).await? {
            going.remove(&sku_id);
            taken.insert(sku_id, Taken::OrdersSpan(order_no.of_caller()));
        }
        Ok((going, taken))
    }

    /// Those that are new to the shard.
    fn new_skus(stocks: &BTreeMap<SkuId, Vec<StockEntry>>, going: &BTreeSet<SkuId>) -> Vec<SkuId> {
        let is_new = |sku_id: &&SkuId| stocks[*sku_id].iter().all(|stock| stock.owner.is_none());
        going.iter().filter(is_new).cloned().collect()
    }

    /// SKUs with an open branch whose home is on another server, with such a branch. That server could not tell it anything any more.
    async fn held_elsewhere(
        &self,
        tx: &mut dyn Tx,
        stocks: &BTreeMap<SkuId, Vec<StockEntry>>,
        going: &BTreeSet<SkuId>,
    ) -> Result<Vec<(SkuId, OrderNo)>, SqlError> {
        let head = format!(
            "SELECT l.sku_id, MIN(l.order_no) FROM order_lines l JOIN orders o ON o.order_no = l.order_no \
             WHERE l.open = 1 AND l.linked = {} AND o.home_server <> '{}' AND",
            Linked::Home as i64,
            self.server
        );
        let rows =
            rows_in(tx, &head, "l.sku_id", &Self::new_skus(stocks, going), " GROUP BY l.sku_id").await?;
        let held = rows.iter().map(|row| {
            let f = &mut row.fields();
            Ok((f.id(SkuId::new)?, f.order_no()?))
        });
        Ok(held.collect::<Result<_, StoreError>>()?)
    }

    /// The SKUs that open orders link to those which go, and which would be elsewhere.
    async fn links(
        &self,
        tx: &mut dyn Tx,
        stocks: &BTreeMap<SkuId, Vec<StockEntry>>,
        going: &BTreeSet<SkuId>,
    ) -> Result<Links, SqlError> {
        let new = Self::new_skus(stocks, going);
        let links = rows_in(
            tx,
            "SELECT other.sku_id FROM order_lines l JOIN order_lines other ON other.order_no = l.order_no \
             WHERE l.open = 1 AND l.linked = 1 AND other.sku_id <> l.sku_id AND",
            "l.sku_id",
            &new,
            " GROUP BY other.sku_id",
        )
        .await?;
        let linked = links.iter().map(|row| row.fields().id(SkuId::new)).collect::<Result<Vec<_>, _>>()?;
        let outside = in_key_order(linked.into_iter().filter(|other| !going.contains(other)).collect());
        let there = by_sku(load_skus(tx, &outside, Lock::No).await?);
        let is_here = |sku_id: &SkuId| {
            let is_ours = |stock: &StockEntry| stock.owner.is_some_and(|owner| self.is_ours(owner));
            there.get(sku_id).is_some_and(|stocks| stocks.iter().all(is_ours))
        };
        let staying = outside.into_iter().filter(|sku_id| !is_here(sku_id)).collect();
        Ok(Links { going: new, staying })
    }

    /// Makes orders, whose rows are locked, orders over several places with their homes on the server.
    async fn split(&self, tx: &mut dyn Tx, orders: Vec<OrderEntry>) -> Result<(), SqlError> {
        let open = orders.into_iter().map(|order| order.image).filter(is_open);
        let home = |order_no: &OrderNo| shard_of_order(order_no, self.shards);
        write_split(tx, open.collect(), self.server, home).await.map(drop)
    }

    /// Gives the rows without owner of these SKUs to the shard, in one epoch per SKU.
    async fn give(
        &self,
        tx: &mut dyn Tx,
        stocks: &BTreeMap<SkuId, Vec<StockEntry>>,
        going: &BTreeSet<SkuId>,
    ) -> Result<(), SqlError> {
        let mut by_epoch: BTreeMap<u64, Vec<&SkuId>> = BTreeMap::new();
        for (sku_id, rows) in stocks.iter().filter(|(sku_id, _)| going.contains(*sku_id)) {
            if rows.iter().all(|stock| stock.owner.is_some()) {
                continue;
            }
            let ours = rows.iter().filter_map(|stock| stock.owner).map(|owner| owner.epoch).max();
            let next = || rows.iter().map(|stock| stock.image.epoch).max().unwrap_or(0).saturating_add(1);
            by_epoch.entry(ours.unwrap_or_else(next)).or_default().push(sku_id);
        }
        for (epoch, skus) in by_epoch {
            for skus in skus.chunks(MAX_KEYS_PER_STATEMENT) {
                let sql = format!(
                    "UPDATE stock SET owner_server = ?, owner_shard = ?, epoch = ?, lsn = 0 \
                     WHERE owner_server IS NULL AND sku_id IN ({})",
                    marks(skus.len())
                );
                let owner = [Arg::from(self.server), self.shard.into(), epoch.into()];
                tx.execute(&sql, owner.into_iter().chain(skus.iter().map(|id| Arg::from(*id))).collect())
                    .await?;
            }
        }
        Ok(())
    }
}

/// See [`Store::orders_of`](hotstock_engine::store::Store::orders_of). In the order of the indexes: the open ones, then the ended
/// ones by their last change. While a SKU moves nothing changes its orders, so the row of `after` tells where to go on.
pub(super) struct OrdersOf<'a> {
    pub moving: &'a Moving,
    pub after: Option<&'a OrderNo>,
    pub max: usize,
}

/// Where a page begins.
enum Place {
    Open { linked: Linked, after: String },
    Ended { since: Timestamp, after: String },
}

impl Work for OrdersOf<'_> {
    type Done = Vec<OrderImage>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<OrderImage>, SqlError> {
        let mut place = self.first_place(tx).await?;
        let mut found = Vec::new();
        while found.len() < self.max {
            let wanted = self.max - found.len();
            let (order_nos, full) = self.order_nos(tx, &place, wanted).await?;
            let orders = load_orders(tx, &in_key_order(order_nos.clone()), Lock::No).await?;
            let mut orders: BTreeMap<_, _> =
                orders.into_iter().map(|order| (order.image.order_no.clone(), order)).collect();
            let page: Vec<_> = order_nos.iter().filter_map(|order_no| orders.remove(order_no)).collect();
            let last =
                page.last().map(|order| (order.image.order_no.as_str().to_owned(), order.image.changed_at));
            match place {
                Place::Open { .. } => found.extend(page.into_iter().map(|order| order.image)),
                Place::Ended { .. } => found.extend(self.all_here(tx, page).await?),
            }
            place = match (place, last) {
                (Place::Open { linked, .. }, Some((after, _))) if full => Place::Open { linked, after },
                (Place::Open { linked, .. }, _) => match linked.next() {
                    Some(linked) => Place::Open { linked, after: String::new() },
                    None => Place::Ended { since: self.moving.since, after: String::new() },
                },
                (Place::Ended { .. }, Some((after, since))) if full => Place::Ended { since, after },
                (Place::Ended { .. }, _) => break,
            };
        }
        Ok(found)
    }
}

impl OrdersOf<'_> {
    async fn first_place(&self, tx: &mut dyn Tx) -> Result<Place, SqlError> {
        let Some(after) = self.after else {
            return Ok(Place::Open { linked: Linked::Alone, after: String::new() });
        };
        let sql = "SELECT open, linked, changed_at FROM order_lines WHERE order_no = ? AND sku_id = ?";
        let rows = tx.rows(sql, vec![after.into(), (&self.moving.sku_id).into()]).await?;
        let row = rows.first().ok_or_else(|| broken(format!("order {after} is not of this SKU")))?;
        let f = &mut row.fields();
        let (open, linked, since) = (f.flag()?, Linked::numbered(f.int()?)?, f.time()?);
        let after = after.as_str().to_owned();
        Ok(if open { Place::Open { linked, after } } else { Place::Ended { since, after } })
    }

    /// Up to `max` orders from a place on, each once, and whether there may be more there. (An order has a row for each warehouse; they
    /// lie together in the index.)
    async fn order_nos(
        &self,
        tx: &mut dyn Tx,
        place: &Place,
        max: usize,
    ) -> Result<(Vec<OrderNo>, bool), SqlError> {
        let sku_id = Arg::from(&self.moving.sku_id);
        let (sql, args): (_, Vec<Arg>) = match place {
            Place::Open { linked, after } => (
                "SELECT order_no FROM order_lines \
                 WHERE sku_id = ? AND open = 1 AND linked = ? AND order_no > ? ORDER BY order_no LIMIT ?",
                vec![sku_id, (*linked).into(), after.as_str().into(), max.into()],
            ),
            Place::Ended { since, after } => (
                "SELECT order_no FROM order_lines \
                 WHERE sku_id = ? AND open = 0 AND changed_at >= ? AND (changed_at > ? OR order_no > ?) \
                 ORDER BY changed_at, order_no LIMIT ?",
                vec![sku_id, (*since).into(), (*since).into(), after.as_str().into(), max.into()],
            ),
        };
        let rows = tx.rows(sql, args).await?;
        let mut order_nos = rows.iter().map(|row| row.fields().order_no()).collect::<Result<Vec<_>, _>>()?;
        order_nos.dedup();
        Ok((order_nos, rows.len() == max))
    }

    /// Those of the orders whose stocks are all owned by the shard.
    async fn all_here(&self, tx: &mut dyn Tx, orders: Vec<OrderEntry>) -> Result<Vec<OrderImage>, SqlError> {
        let keys = rows::stocks_of(orders.iter().map(|order| &order.image));
        let stocks = load_stocks(tx, &keys, Lock::No).await?;
        let here = |order: &OrderImage| {
            order.lines.iter().all(|line| {
                let owner =
                    find_stock(&stocks, &line.sku_id, line.warehouse_id).and_then(|stock| stock.owner);
                owner.is_some_and(|o| o.server == self.moving.server && o.shard == self.moving.shard)
            })
        };
        Ok(orders.into_iter().map(|order| order.image).filter(here).collect())
    }
}

/// See [`Store::requests_of`](hotstock_engine::store::Store::requests_of). By their time, for the same reason as the orders.
pub(super) struct RequestsOf<'a> {
    pub moving: &'a Moving,
    pub after: Option<&'a RequestId>,
    pub max: usize,
}

impl Work for RequestsOf<'_> {
    type Done = Vec<RequestImage>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<RequestImage>, SqlError> {
        let sku_id = || Arg::from(&self.moving.sku_id);
        let (mut since, mut after) = (self.moving.since, "");
        if let Some(request_id) = self.after {
            let sql = "SELECT at FROM stock_requests WHERE sku_id = ? AND request_id = ?";
            let rows = tx.rows(sql, vec![sku_id(), request_id.into()]).await?;
            let row =
                rows.first().ok_or_else(|| broken(format!("request {request_id} is not of this SKU")))?;
            (since, after) = (row.fields().time()?, request_id.as_str());
        }
        let sql = format!(
            "{} sku_id = ? AND at >= ? AND (at > ? OR request_id > ?) ORDER BY at, request_id LIMIT ?",
            rows::select_stock_requests()
        );
        let args = vec![sku_id(), since.into(), since.into(), after.into(), self.max.into()];
        let rows = tx.rows(&sql, args).await?;
        Ok(rows.iter().map(request_image).collect::<Result<_, _>>()?)
    }
}

/// See [`Store::owned`](hotstock_engine::store::Store::owned).
pub(super) struct Owned<'a> {
    pub server: ServerId,
    pub after: Option<&'a SkuId>,
    pub max: usize,
}

impl Work for Owned<'_> {
    type Done = Vec<(SkuId, Owner)>;

    const ACCESS: Access = Access::One;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let sql = "SELECT sku_id, MIN(owner_shard), MAX(epoch) FROM stock \
                   WHERE owner_server = ? AND sku_id > ? GROUP BY sku_id ORDER BY sku_id LIMIT ?";
        let args = vec![self.server.into(), self.after.map_or("", SkuId::as_str).into(), self.max.into()];
        let rows = tx.rows(sql, args).await?;
        let owned = rows.iter().map(|row| {
            let f = &mut row.fields();
            let sku_id = f.id(SkuId::new)?;
            let shard = f.shard_or_null()?.ok_or_else(|| broken(format!("SKU {sku_id}: half an owner")))?;
            Ok((sku_id, Owner { server: self.server, shard, epoch: f.count()? }))
        });
        Ok(owned.collect::<Result<_, StoreError>>()?)
    }
}
