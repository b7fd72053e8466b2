//! A small state of the rows of one transaction: the same `decide` and `apply` as in a shard, and what they changed written back.

use std::collections::{BTreeMap, BTreeSet};

use hotstock_engine::checkpoint::{Image, OrderImage, RequestImage};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, OrderNo, ServerId, SkuId, WarehouseId};
use hotstock_engine::limits::MAX_STOCK_UNITS;
use hotstock_engine::outcome::StockView;
use hotstock_engine::state::{Corruption, State};
use hotstock_engine::store::{JournalRow, StoreError};

use super::dialect::{Arg, Existing, Tx};
use super::error::{SqlError, broken};
use super::rows::{
    self, Lock, ORDER_LINES, ORDER_REQUESTS, ORDERS, OrderEntry, STOCK, STOCK_JOURNAL, STOCK_REQUESTS,
    StockEntry, StockKey, find_stock, is_open, load_sku, view_of,
};
use super::statements::write;

/// Rows of one transaction, all cold where they are changed, and what events did to them.
pub(super) struct Desk {
    pub state: State,
    stocks: BTreeMap<StockKey, StockEntry>,
    /// Orders that were there.
    orders: BTreeMap<OrderNo, Known>,
    changed_orders: BTreeSet<OrderNo>,
    new_requests: Vec<RequestImage>,
    journal: Vec<JournalRow>,
}

/// What the rows of an order said that its image does not.
struct Known {
    requests: usize,
    due_at: Option<Timestamp>,
}

impl Desk {
    /// Lays out rows. Its time is that of the youngest of them.
    pub fn new(
        stocks: Vec<StockEntry>,
        orders: Vec<OrderEntry>,
        request: Option<RequestImage>,
    ) -> Result<Self, StoreError> {
        let times = stocks.iter().map(|stock| stock.changed_at);
        let times = times.chain(orders.iter().map(|order| order.image.changed_at));
        let time = times.chain(request.iter().map(|request| request.at)).max().unwrap_or_default();
        let stocks: BTreeMap<_, _> = stocks.into_iter().map(|entry| (entry.key(), entry)).collect();
        let known = |order: &OrderEntry| {
            let known = Known { requests: order.image.requests.len(), due_at: order.due_at };
            (order.image.order_no.clone(), known)
        };
        let known = orders.iter().map(known).collect();
        let mut images: Vec<_> = stocks.values().map(|entry| Image::Stock(entry.image.clone())).collect();
        images.extend(orders.into_iter().map(|order| Image::Order(order.image)));
        images.extend(request.map(Image::Request));
        let mut state = State::of_images(Lsn::ZERO, time, images).map_err(misfit)?;
        state.take_touched();
        let (changed_orders, new_requests, journal) = (BTreeSet::new(), Vec::new(), Vec::new());
        Ok(Self { state, stocks, orders: known, changed_orders, new_requests, journal })
    }

    /// Lets an event change the state, and names the stocks that it moves.
    pub fn apply(&mut self, event: &Event) -> Result<Vec<StockKey>, StoreError> {
        let state = &self.state;
        let levels = |sku_id: &SkuId, warehouse_id: WarehouseId| {
            state.image_of_stock(sku_id, warehouse_id).map(|image| image.levels)
        };
        let moves = event.stock_moves(levels);
        let moved = moves.iter().map(|change| (change.sku_id.clone(), change.warehouse_id)).collect();
        let (at, trace) = (event.at, event.trace);
        self.journal.extend(moves.into_iter().map(|change| JournalRow { change, at, trace, source: None }));
        self.state.apply(self.state.applied().next(), event).map_err(misfit)?;
        match &event.change {
            Change::Reserved { order_no, .. }
            | Change::Confirmed { order_no, .. }
            | Change::Released { order_no, .. }
            | Change::Cancelled { order_no, .. }
            | Change::Expired { order_no, .. }
            | Change::Extended { order_no, .. }
            | Change::Returned { order_no, .. } => {
                self.changed_orders.insert(order_no.clone());
            }
            Change::StockChanged { sku_id, request_id, .. } => {
                self.new_requests.extend(self.state.image_of_request(sku_id, request_id));
            }
            _ => {}
        }
        Ok(moved)
    }

    /// Writes what changed, branches in the name of a server, and gives the stocks that changed.
    pub async fn write(mut self, tx: &mut dyn Tx, server: ServerId) -> Result<Vec<StockView>, SqlError> {
        let mut changed = Vec::new();
        let at = self.state.time();
        for number in self.state.take_touched() {
            let view = self.state.stock_view(number);
            let image = self.state.image_of_stock(&view.sku_id, view.warehouse_id);
            let image = image.expect("the state just named it");
            let before = self.stocks.remove(&(view.sku_id, view.warehouse_id));
            changed.push(view_of(&image));
            let after = StockEntry { image, owner: None, lsn: Lsn::ZERO, changed_at: at };
            match before {
                Some(before) => update_stock(tx, &before, &after).await?,
                None => insert_stock(tx, &after).await?,
            }
        }
        self.write_orders(tx, server).await?;
        let requests = self.new_requests.iter().map(rows::stock_request_row).collect();
        write(tx, &STOCK_REQUESTS, Existing::Refused, requests).await?;
        let journal = self.journal.iter().map(rows::journal_row).collect();
        write(tx, &STOCK_JOURNAL, Existing::Refused, journal).await?;
        Ok(changed)
    }

    async fn write_orders(&self, tx: &mut dyn Tx, server: ServerId) -> Result<(), SqlError> {
        // A new order is only inserted: were it there by now, it would have to be decided again.
        for existing in [Existing::Replaced, Existing::Refused] {
            let is_new = existing == Existing::Refused;
            let (mut orders, mut lines, mut requests) = (Vec::new(), Vec::new(), Vec::new());
            for order_no in &self.changed_orders {
                let known = self.orders.get(order_no);
                if known.is_none() != is_new {
                    continue;
                }
                let image = self.state.image_of_order(order_no).ok_or_else(|| broken("an order got lost"))?;
                let due_at = match known {
                    // When a branch is to ask its home is not changed by what its home has it do.
                    Some(known) if order_no.is_branch() => known.due_at,
                    _ => Some(image.expires_at),
                };
                let due_at = due_at.filter(|_| is_open(&image));
                lines.extend(rows::line_rows(&image));
                requests.extend(rows::request_rows(&image, known.map_or(0, |known| known.requests)));
                orders.push(rows::order_row(&OrderEntry {
                    image,
                    due_at,
                    source: None,
                    writer: Some(server),
                }));
            }
            write(tx, &ORDERS, existing, orders).await?;
            write(tx, &ORDER_LINES, existing, lines).await?;
            write(tx, &ORDER_REQUESTS, Existing::Refused, requests).await?;
        }
        Ok(())
    }
}

/// Changes the row of a cold stock, if it is as it was read.
async fn update_stock(tx: &mut dyn Tx, before: &StockEntry, after: &StockEntry) -> Result<(), SqlError> {
    let (was, is) = (before.image.levels, after.image.levels);
    let sql = "UPDATE stock SET available = ?, reserved = ?, sold = ?, version = ?, status = ?, supplied = ?, \
               numbered = ?, lsn = 0, changed_at = ? \
               WHERE sku_id = ? AND warehouse_id = ? AND owner_server IS NULL AND version = ? AND available >= ?";
    let args: Vec<Arg> = vec![
        is.available.into(),
        is.reserved.into(),
        is.sold.into(),
        is.version.into(),
        rows::status_name(after.image.status).into(),
        after.image.supplied.into(),
        after.image.numbered.into(),
        after.changed_at.into(),
        (&after.image.sku_id).into(),
        after.image.warehouse_id.into(),
        was.version.into(),
        was.available.saturating_sub(is.available).into(),
    ];
    match tx.execute(sql, args).await? {
        1 => Ok(()),
        _ => Err(SqlError::Retry(format!("the stock of SKU {} changed meanwhile", after.image.sku_id))),
    }
}

/// Adds the row of a stock that is new. Had the SKU been given to a shard since it was looked for, the row would be its only
/// one without owner: so it is looked for again, now that nobody can take the SKU past this row.
async fn insert_stock(tx: &mut dyn Tx, entry: &StockEntry) -> Result<(), SqlError> {
    write(tx, &STOCK, Existing::Refused, vec![rows::stock_row(entry)]).await?;
    let all = load_sku(tx, &entry.image.sku_id, Lock::Yes).await?;
    if all.iter().any(|stock| stock.owner.is_some()) {
        return Err(SqlError::Retry(format!("SKU {} was taken meanwhile", entry.image.sku_id)));
    }
    Ok(())
}

fn misfit(corruption: Corruption) -> StoreError {
    broken(corruption.problem)
}

/// Whether what an order says fits what its stocks say, so that every change of it can be computed. A shard checks this when it
/// starts; rows of a store may have been changed by others. `stocks` are in the order of their keys.
pub(super) fn check_sound(order: &OrderImage, stocks: &[StockEntry]) -> Result<(), StoreError> {
    for line in &order.lines {
        let found = find_stock(stocks, &line.sku_id, line.warehouse_id);
        let levels = found.map(|stock| stock.image.levels);
        let units = line.held.checked_add(line.confirmed).and_then(|sum| sum.checked_add(line.released));
        let sold = line.confirmed.checked_sub(line.returned);
        let fits = levels.is_some_and(|levels| {
            levels.reserved >= u64::from(line.held)
                && sold.is_some_and(|sold| levels.sold >= u64::from(sold))
                && [levels.available, levels.reserved, levels.sold]
                    .iter()
                    .all(|level| *level <= MAX_STOCK_UNITS)
                && levels.quantity() <= MAX_STOCK_UNITS
        });
        if !fits || line.lapsed > line.released || units.is_none_or(|units| units > line.quantity) {
            let (order_no, sku_id) = (&order.order_no, &line.sku_id);
            return Err(broken(format!(
                "order {order_no}: its line of SKU {sku_id} does not fit {levels:?}"
            )));
        }
    }
    Ok(())
}
