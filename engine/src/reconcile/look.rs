//! The steps of reconcile: a page of books, the shards beside it, repairs, then the mirror.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::cause::{Causes, Journal};
use super::compare::{of_books, of_shard, of_status, sound_levels, without_row};
use super::{Check, Difference, Key, Reconcile, Reconciled, Remedy, Repair, Side, Value, key_of};
use crate::clock::Timestamp;
use crate::hub::refusal_of;
use crate::ids::{SkuId, WarehouseId};
use crate::limits::{MAX_PAGE_ROWS, RECONCILE_MIRROR_LOOKS, RECONCILE_PAUSE_MILLIS, RECONCILE_STORE_LOOKS};
use crate::mirror::{Mirror, MirrorError, Mirrored, Put};
use crate::outcome::{Refusal, StockView};
use crate::store::{Store, StockBooks, StoreError};

/// What reconcile needs of the running engine.
#[async_trait]
pub trait Live: Sync {
    /// Up to `limit` SKUs after `after` that the shards have, as their views.
    fn views(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockView>>;

    /// A stock of a shard, as its view.
    fn view(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockView>;

    /// The stocks of a SKU as callers are told.
    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal>;

    /// SKUs after `after` as callers are told.
    async fn stock_page(&self, after: Option<&SkuId>, limit: usize) -> Result<Vec<Vec<StockView>>, Refusal>;

    /// Waits until the store has what every shard had logged when this was called. `false`: it does not come, or too late.
    async fn flushed(&self) -> bool;

    /// A stock was changed: for the mirror.
    fn mark(&self, stock: StockView);

    /// The time.
    fn now(&self) -> Timestamp;
}

/// See the top of the folder. Without a store only shards and mirror are compared.
///
/// # Errors
/// [`Refusal`] when the store can't be read; what was put right until then stays so.
pub async fn reconcile(live: &dyn Live, store: Option<&dyn Store>, ask: &Reconcile) -> Result<Reconciled, Refusal> {
    let limit = ask.limit.clamp(1, MAX_PAGE_ROWS);
    let mut done = Reconciled::default();
    let page = match store {
        Some(store) => {
            let page = Page::read(live, store, ask.after.as_ref(), limit).await.map_err(refusal_of)?;
            page.compare(live, store, ask, &mut done).await.map_err(refusal_of)?;
            page
        }
        None => Page::of_views(live.stock_page(ask.after.as_ref(), limit).await?, limit),
    };
    if let Some(mirror) = &ask.mirror
        && let Err(problem) = page.compare_mirror(live, store, mirror.as_ref(), ask.fix, &mut done).await
    {
        match problem {
            Problem::Mirror(error) => done.mirror_error = Some(error.to_string()),
            Problem::Engine(refusal) => return Err(refusal),
        }
    }
    done.differences.sort_by_key(|d| (d.sku_id.clone(), d.warehouse_id, d.check));
    for difference in &done.differences {
        let Difference { sku_id, warehouse_id, check, expected, found, .. } = difference;
        let (expected, found) = ((expected.0.name(), expected.1.to_string()), (found.0.name(), found.1.to_string()));
        tracing::warn!(%sku_id, %warehouse_id, check = check.name(), ?expected, ?found, "reconcile: a difference");
    }
    for Repair { sku_id, warehouse_id, side, before, after } in &done.repaired {
        tracing::warn!(%sku_id, %warehouse_id, side = side.name(), %before, %after, "reconcile: put right");
    }
    done.skus = page.skus;
    done.next = page.next;
    Ok(done)
}

/// A range of SKUs, as the store and the shards have it.
struct Page {
    after: Option<SkuId>,
    limit: usize,
    books: BTreeMap<Key, StockBooks>,
    /// The stocks of shards in the range, read after the books.
    views: BTreeMap<Key, StockView>,
    skus: u64,
    next: Option<SkuId>,
}

enum Problem {
    Mirror(MirrorError),
    Engine(Refusal),
}

impl From<MirrorError> for Problem {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Engine(refusal)
    }
}

impl Page {
    async fn read(live: &dyn Live, store: &dyn Store, after: Option<&SkuId>, limit: usize) -> Result<Self, StoreError> {
        let books = read_books(store, after, limit).await?;
        let names: Vec<&SkuId> = distinct(books.keys());
        let next = if names.len() >= limit { names.last().map(|last| (*last).clone()) } else { None };
        let mut views = BTreeMap::new();
        let mut from = after.cloned();
        loop {
            let some = live.views(from.as_ref(), MAX_PAGE_ROWS);
            let Some(last) = some.last().and_then(|stocks| stocks.first()) else { break };
            let is_over = next.as_ref().is_some_and(|next| last.sku_id >= *next);
            from = Some(last.sku_id.clone());
            let in_range = |stock: &StockView| next.as_ref().is_none_or(|next| stock.sku_id <= *next);
            views.extend(some.into_iter().flatten().filter(in_range).map(|stock| (key_of(&stock), stock)));
            if is_over {
                break;
            }
        }
        let mut page = Self { after: after.cloned(), limit, books, views, skus: 0, next };
        page.skus = page.all().len() as u64;
        Ok(page)
    }

    /// Without a store.
    fn of_views(stocks: Vec<Vec<StockView>>, limit: usize) -> Self {
        let last = stocks.last().and_then(|stocks| stocks.first()).map(|stock| stock.sku_id.clone());
        // A page may be shorter than asked for, so only an empty one is the last.
        let next = last.filter(|_| limit > 0);
        let skus = stocks.len() as u64;
        let views = stocks.into_iter().flatten().map(|stock| (key_of(&stock), stock)).collect();
        Self { after: None, limit, books: BTreeMap::new(), views, skus, next }
    }

    /// The SKUs of the page, with their warehouses.
    fn all(&self) -> BTreeMap<SkuId, Vec<WarehouseId>> {
        let mut all: BTreeMap<SkuId, Vec<WarehouseId>> = BTreeMap::new();
        for (sku_id, warehouse_id) in self.books.keys().chain(self.views.keys()) {
            let warehouses = all.entry(sku_id.clone()).or_default();
            if !warehouses.contains(warehouse_id) {
                warehouses.push(*warehouse_id);
            }
        }
        all
    }

    /// Everything but the mirror.
    async fn compare(
        &self,
        live: &dyn Live,
        store: &dyn Store,
        ask: &Reconcile,
        done: &mut Reconciled,
    ) -> Result<(), StoreError> {
        let all = self.all();
        let (mut found, books) = self.differences_in_store(store).await?;
        self.differences_of_shards(live, store, &all, &mut found, &mut done.unsettled).await?;
        let mut causes = Causes::new(store);
        for difference in &mut found {
            let siblings = all.get(&difference.sku_id).map_or(&[][..], Vec::as_slice);
            causes.find(difference, siblings).await?;
        }
        if ask.fix {
            let by_journal = found.iter().filter(|difference| difference.remedy == Remedy::RowFromJournal);
            let mut keys: Vec<Key> = by_journal.map(|d| (d.sku_id.clone(), d.warehouse_id)).collect();
            keys.dedup();
            for (sku_id, warehouse_id) in keys {
                let key = (sku_id.clone(), warehouse_id);
                if books.get(&key).and_then(sound_levels).is_none() {
                    continue;
                }
                let Some(repaired) = store.repair(&sku_id, warehouse_id, live.now()).await? else { continue };
                let (before, after) = (Value::Levels(repaired.before), Value::Levels(repaired.after));
                let row = store.stock(&sku_id, Some(warehouse_id)).await?;
                row.into_iter().filter(|row| row.owner.is_none()).for_each(|row| live.mark(row.view));
                done.repaired.push(Repair { sku_id, warehouse_id, side: Side::Row, before, after });
            }
        }
        done.differences.extend(found);
        Ok(())
    }

    /// What differs within the store, each time that it is looked at; and the books as they were last.
    async fn differences_in_store(
        &self,
        store: &dyn Store,
    ) -> Result<(Vec<Difference>, BTreeMap<Key, StockBooks>), StoreError> {
        let mut books = self.books.clone();
        let mut found: Vec<Difference> = books.values().flat_map(of_books).collect();
        // A store that is read while it is written may show two moments in one answer: what is only seen once is none.
        for _ in 1..RECONCILE_STORE_LOOKS {
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(RECONCILE_PAUSE_MILLIS)).await;
            books = read_books(store, self.after.as_ref(), self.limit).await?;
            let again: Vec<Difference> = books.values().flat_map(of_books).collect();
            let is_known = |d: &Difference| found.iter().any(|known| is_same(known, d));
            found = again.into_iter().filter(is_known).collect();
        }
        Ok((found, books))
    }

    /// What differs between the shards and the store.
    async fn differences_of_shards(
        &self,
        live: &dyn Live,
        store: &dyn Store,
        all: &BTreeMap<SkuId, Vec<WarehouseId>>,
        found: &mut Vec<Difference>,
        unsettled: &mut Vec<SkuId>,
    ) -> Result<(), StoreError> {
        let mut is_flushed = None;
        for (key, view) in &self.views {
            let is_told = |books: &&StockBooks| books.row.view == *view && sound_levels(books) == Some(view.levels);
            if self.books.get(key).filter(is_told).is_some() {
                continue;
            }
            let (sku_id, warehouse_id) = key;
            let siblings = all.get(sku_id).map_or(&[][..], Vec::as_slice);
            let journal = Journal { store, sku_id, warehouse_id: *warehouse_id, siblings };
            let mut at_version = journal.at(view.levels.version).await?;
            let mut rows = store.stock(sku_id, Some(*warehouse_id)).await?;
            if at_version.is_none() || rows.is_empty() {
                if is_flushed.is_none() {
                    is_flushed = Some(live.flushed().await);
                }
                at_version = journal.at(view.levels.version).await?;
                rows = store.stock(sku_id, Some(*warehouse_id)).await?;
                if (at_version.is_none() || rows.is_empty()) && is_flushed == Some(false) {
                    if unsettled.last() != Some(sku_id) {
                        unsettled.push(sku_id.clone());
                    }
                    continue;
                }
            }
            match rows.first() {
                None => found.push(without_row(view)),
                Some(row) => {
                    found.extend(of_shard(view, at_version));
                    found.extend(of_status(view, &row.view));
                }
            }
        }
        Ok(())
    }

    async fn compare_mirror(
        &self,
        live: &dyn Live,
        store: Option<&dyn Store>,
        mirror: &dyn Mirror,
        fix: bool,
        done: &mut Reconciled,
    ) -> Result<(), Problem> {
        let mut keys: Vec<Key> =
            self.all().into_iter().flat_map(|(sku, all)| all.into_iter().map(move |w| (sku.clone(), w))).collect();
        let mut wrong: Vec<(StockView, Mirrored)> = Vec::new();
        for look in 0..RECONCILE_MIRROR_LOOKS {
            if look > 0 {
                if wrong.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(RECONCILE_PAUSE_MILLIS)).await;
                keys = wrong.iter().map(|(stock, _)| key_of(stock)).collect();
            }
            wrong = self.look_at_mirror(live, mirror, &keys, look == 0).await?;
        }
        // Only here, when the mirror was read: a stock whose levels are decided elsewhere may be newer there than it is told here.
        let mut certain = Vec::with_capacity(wrong.len());
        for (stock, shown) in wrong {
            if shown.version <= Some(stock.levels.version) || is_decided_here(live, store, &stock).await? {
                certain.push((stock, shown));
            }
        }
        let mut wrong = certain;
        // The levels of a row that is not as its journal sums up are told as what they are, not as the mirror's.
        let is_row = |stock: &StockView| {
            let of_row = |d: &Difference| {
                d.check == Check::Row && (&d.sku_id, d.warehouse_id) == (&stock.sku_id, stock.warehouse_id)
            };
            !fix && done.differences.iter().any(of_row)
        };
        wrong.retain(|(stock, _)| !is_row(stock));
        if fix && !wrong.is_empty() {
            let put = |(stock, shown): &(StockView, Mirrored)| Put { stock: stock.clone(), over: shown.version };
            mirror.put(&wrong.iter().map(put).collect::<Vec<_>>()).await?;
        }
        for (stock, shown) in wrong {
            let truth = Value::Stock(stock.levels, stock.status);
            let (sku_id, warehouse_id) = key_of(&stock);
            let shown = if shown == Mirrored::default() { Value::Missing } else { Value::Shown(shown) };
            let of_shard = self.views.contains_key(&(sku_id.clone(), warehouse_id));
            done.differences.push(Difference {
                sku_id: sku_id.clone(),
                warehouse_id,
                check: Check::Mirror,
                expected: (if of_shard { Side::Shard } else { Side::Row }, truth.clone()),
                found: (Side::Mirror, shown.clone()),
                causes: Vec::new(),
                remedy: Remedy::MirrorFromStock,
            });
            if fix {
                done.repaired.push(Repair { sku_id, warehouse_id, side: Side::Mirror, before: shown, after: truth });
            }
        }
        Ok(())
    }

    /// The stocks that the mirror does not show as callers are told, neither as they were before it was read nor after.
    async fn look_at_mirror(
        &self,
        live: &dyn Live,
        mirror: &dyn Mirror,
        keys: &[Key],
        is_first: bool,
    ) -> Result<Vec<(StockView, Mirrored)>, Problem> {
        let before = if is_first { self.known() } else { told(live, keys).await? };
        let shown = mirror.levels(keys).await?;
        let shown: Vec<(&Key, Mirrored)> = keys.iter().zip(shown).collect();
        let doubtful = |(key, shown): &&(&Key, Mirrored)| !before.get(*key).is_some_and(|stock| shown.shows(stock));
        let doubtful: Vec<&(&Key, Mirrored)> = shown.iter().filter(doubtful).collect();
        let names: Vec<Key> = doubtful.iter().map(|(key, _)| (*key).clone()).collect();
        let after = told(live, &names).await?;
        let mut wrong = Vec::new();
        for (key, shown) in doubtful {
            // Not told of any more: it can't be compared.
            let Some(now) = after.get(*key) else { continue };
            let is_between = before.get(*key).zip(shown.levels).is_some_and(|(before, (levels, _))| {
                let is_whole = shown.available == Some(levels.available);
                is_whole && before.levels.version < levels.version && levels.version < now.levels.version
            });
            if !shown.shows(now) && !is_between {
                wrong.push((now.clone(), *shown));
            }
        }
        Ok(wrong)
    }

    /// The stocks as this page has them, but for rows that were found wrong.
    fn known(&self) -> BTreeMap<Key, StockView> {
        let right = self.books.iter().filter(|(_, books)| sound_levels(books) == Some(books.row.view.levels));
        let rows = right.map(|(key, books)| (key.clone(), books.row.view.clone()));
        // The views are newer.
        rows.chain(self.views.iter().map(|(key, view)| (key.clone(), view.clone()))).collect()
    }
}

/// Whether nobody but this server and the store's row decides on a stock: its shard here has it, or it is cold.
async fn is_decided_here(live: &dyn Live, store: Option<&dyn Store>, stock: &StockView) -> Result<bool, Refusal> {
    let Some(store) = store else { return Ok(true) };
    if live.view(&stock.sku_id, stock.warehouse_id).is_some() {
        return Ok(true);
    }
    let rows = store.stock(&stock.sku_id, Some(stock.warehouse_id)).await.map_err(refusal_of)?;
    Ok(rows.iter().all(|row| row.owner.is_none() && row.view.levels.version <= stock.levels.version))
}

async fn read_books(store: &dyn Store, after: Option<&SkuId>, limit: usize) -> Result<BTreeMap<Key, StockBooks>, StoreError> {
    let books = store.books(after, limit).await?;
    Ok(books.into_iter().map(|books| (key_of(&books.row.view), books)).collect())
}

/// Stocks as callers are told now.
async fn told(live: &dyn Live, keys: &[Key]) -> Result<BTreeMap<Key, StockView>, Refusal> {
    let mut told = BTreeMap::new();
    for sku_id in distinct(keys.iter()) {
        told.extend(live.stock(sku_id).await?.into_iter().map(|stock| (key_of(&stock), stock)));
    }
    Ok(told)
}

fn distinct<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<&'a SkuId> {
    let mut skus: Vec<&SkuId> = keys.map(|(sku_id, _)| sku_id).collect();
    skus.dedup();
    skus
}

fn is_same(one: &Difference, other: &Difference) -> bool {
    (&one.sku_id, one.warehouse_id, one.check) == (&other.sku_id, other.warehouse_id, other.check)
}
