//! Orders by number, and an order over several places.

use std::collections::BTreeMap;

use hotstock_engine::ids::OrderNo;
use hotstock_engine::outcome::OrderView;
use hotstock_engine::state::State;
use hotstock_engine::store::{OrderFilter, StoredHome};

use super::Work;
use super::dialect::{Access, Arg, Tx};
use super::error::{SqlError, broken};
use super::rows::{Lock, STATUSES, find_orders, in_key_order, order_status_name};
use super::statements::marks;

/// See [`Store::home`](hotstock_engine::store::Store::home).
pub(super) struct Home<'a> {
    pub order_no: &'a OrderNo,
}

impl Work for Home<'_> {
    type Done = Option<StoredHome>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Self::Done, SqlError> {
        let found = find_orders(tx, std::slice::from_ref(self.order_no), Lock::No).await?;
        Ok(found.homes.into_iter().next().map(|home| home.stored()))
    }
}

/// See [`Store::list`](hotstock_engine::store::Store::list).
pub(super) struct List<'a> {
    pub filter: &'a OrderFilter,
    pub after: Option<&'a OrderNo>,
    pub limit: usize,
}

impl Work for List<'_> {
    type Done = Vec<OrderView>;

    const ACCESS: Access = Access::Read;

    async fn run(&self, tx: &mut dyn Tx) -> Result<Vec<OrderView>, SqlError> {
        let mut order_nos = in_key_order(self.numbers(tx).await?);
        order_nos.truncate(self.limit);
        let found = find_orders(tx, &order_nos, Lock::No).await?;
        let images = found.orders.into_iter().map(|order| order.image);
        let images = images.chain(found.homes.into_iter().map(|home| home.home.order));
        let mut images: BTreeMap<_, _> = images.map(|image| (image.order_no.clone(), image)).collect();
        let images = order_nos.iter().filter_map(|order_no| images.remove(order_no));
        let view = |image| State::view_of(image).ok_or_else(|| broken("an order that fits nothing").into());
        images.map(view).collect()
    }
}

impl List<'_> {
    /// The numbers on the page, and perhaps some after them, in no order. Branches have no status, so they are not found.
    async fn numbers(&self, tx: &mut dyn Tx) -> Result<Vec<OrderNo>, SqlError> {
        let wanted = if self.filter.status.is_empty() { &STATUSES[..] } else { &self.filter.status };
        // No order is named "", so everything is above it.
        let (after, limit) = (Arg::from(self.after.map_or("", OrderNo::as_str)), Arg::from(self.limit));
        let statuses = wanted.iter().map(|status| Arg::from(order_status_name(*status)));
        let mut asked: Vec<(String, Vec<Arg>)> = Vec::new();
        if let Some(sku_id) = &self.filter.sku_id {
            for table in ["order_lines", "home_lines"] {
                let sql = format!(
                    "SELECT l.order_no FROM {table} l JOIN orders o ON o.order_no = l.order_no \
                     WHERE l.sku_id = ? AND l.order_no > ? AND o.status IN ({}) \
                     GROUP BY l.order_no ORDER BY l.order_no LIMIT ?",
                    marks(wanted.len())
                );
                let args = [Arg::from(sku_id), after.clone()].into_iter();
                asked.push((sql, args.chain(statuses.clone()).chain([limit.clone()]).collect()));
            }
        } else {
            // Each is a range of an index, read from its place on.
            for status in statuses {
                let sql =
                    "SELECT order_no FROM orders WHERE status = ? AND order_no > ? ORDER BY order_no LIMIT ?";
                asked.push((sql.to_owned(), vec![status, after.clone(), limit.clone()]));
            }
        }
        let mut order_nos = Vec::new();
        for (sql, args) in asked {
            for row in tx.rows(&sql, args).await? {
                order_nos.push(row.fields().order_no()?);
            }
        }
        Ok(order_nos)
    }
}
