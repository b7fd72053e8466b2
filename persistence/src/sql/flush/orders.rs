//! The rows of orders: those that a batch makes, and those that it changes.

use std::collections::{BTreeMap, HashSet};

use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{Lsn, OrderNo};
use hotstock_engine::image::OrderImage;
use hotstock_engine::order::LineCounts;

use super::super::dialect::{Arg, Existing, Update};
use super::super::error::SqlError;
use super::super::rows::{
    ORDER_LINES, ORDER_REQUESTS, ORDER_SERIALS, ORDERS, find_orders, line_rows, order_row, order_status_name,
    phase_name, request_row, request_rows, serial_row,
};
use super::super::statements::{rows_in, update};
use super::Writing;
use super::rows::ChangedOrder;
use crate::codec::encode_span;

/// An order that the store had already when a shard made it. Its rows are left alone.
const ORDER_EXISTS: &str = "order_exists";

/// An order, or a line of one, that a shard changes and the store does not have.
const ORDER_MISSING: &str = "order_missing";

const CHANGE_ORDERS: Update = Update {
    table: "orders",
    keys: &["order_no"],
    sets: &[
        "phase = COALESCE(v.n_phase, phase)",
        "status = COALESCE(v.n_status, status)",
        "open = COALESCE(v.n_open, open)",
        "expires_at = COALESCE(v.n_expires_at, expires_at)",
        "changed_at = COALESCE(v.n_changed_at, changed_at)",
        "lsn = v.n_lsn",
        "span = COALESCE(v.n_span, span)",
    ],
    values: &["order_no", "phase", "status", "open", "expires_at", "changed_at", "lsn", "span"],
    bytes: &["span"],
};

const CHANGE_LINES: Update = Update {
    table: "order_lines",
    keys: &["order_no", "line"],
    sets: &[
        "held = v.n_held",
        "confirmed = v.n_confirmed",
        "released = v.n_released",
        "returned = v.n_returned",
        "lapsed = v.n_lapsed",
    ],
    values: &["order_no", "line", "held", "confirmed", "released", "returned", "lapsed"],
    bytes: &[],
};

impl Writing<'_> {
    /// Parts of an order may be there without it when somebody deleted it by hand; they are written over then.
    fn parts_existing(&self) -> Existing {
        if self.careful { Existing::Replaced } else { Existing::Refused }
    }

    /// Orders that the batch makes once more.
    pub(super) fn orders_again(&mut self, again: &BTreeMap<OrderNo, (Lsn, Timestamp)>) {
        for (order_no, source) in again {
            let detail =
                "the shard makes it once more, since the store had lost it; the rows are those of the first";
            self.anomaly(ORDER_EXISTS, *source, Some(order_no), None, detail.to_owned());
        }
    }

    /// Orders that the batch makes.
    pub(super) async fn made_orders(&mut self, made: &[OrderImage]) -> Result<(), SqlError> {
        let mut there = HashSet::new();
        if self.careful {
            let order_nos: Vec<_> = made.iter().map(|order| order.order_no.clone()).collect();
            let found = find_orders(self.tx, &order_nos, "").await?;
            for (order_no, problem) in found.unreadable {
                let detail = format!(
                    "the store has it, and it can't be read ({problem}); the shard makes it too. The store's rows are left as they are"
                );
                self.anomaly(ORDER_EXISTS, self.last, Some(&order_no), None, detail);
                there.insert(order_no);
            }
            for known in found.orders {
                let image = &known.image;
                let detail = format!(
                    "the store has it, made at {} with {} lines and {}; the shard makes it too. The store's rows are left as they are",
                    image.created_at.0,
                    image.lines.len(),
                    order_status_name(image.status())
                );
                self.anomaly(ORDER_EXISTS, self.last, Some(&image.order_no), None, detail);
                there.insert(image.order_no.clone());
            }
        }
        let made: Vec<_> = made.iter().filter(|order| !there.contains(&order.order_no)).collect();
        let of_order = |place: usize| made[place].lines.first().map(|line| line.sku_id.clone());
        let rows = made.iter().map(|order| order_row(order, self.shard)).collect();
        self.insert(&ORDERS, Existing::Refused, rows, &of_order).await?;
        let parts = self.parts_existing();
        let rows = made.iter().flat_map(|order| line_rows(order)).collect();
        let sku_of =
            |place| made.iter().flat_map(|order| &order.lines).nth(place).map(|line| line.sku_id.clone());
        self.insert(&ORDER_LINES, parts, rows, &sku_of).await?;
        let requests = made.iter().flat_map(|order| request_rows(order));
        self.insert(&ORDER_REQUESTS, parts, requests.collect(), &|_| None).await?;
        let serials = made.iter().flat_map(|order| {
            order.serials.iter().enumerate().map(|(seq, given)| serial_row(&order.order_no, seq, given))
        });
        self.insert(&ORDER_SERIALS, parts, serials.collect(), &|_| None).await
    }

    /// Orders that were there.
    pub(super) async fn changed_orders(&mut self, changed: &[ChangedOrder]) -> Result<(), SqlError> {
        let conflicts = self.known_conflicts(changed).await?;
        let mut changed: Vec<_> =
            changed.iter().filter(|order| !conflicts.contains(&order.order_no)).collect();
        let rows: Vec<_> = changed.iter().map(|order| changed_row(order)).collect();
        let wanted = rows.len() as u64;
        let written = update(self.tx, &CHANGE_ORDERS, rows).await?;
        self.count += written.count;
        if written.count < wanted {
            let missing = self.missing_orders(&changed).await?;
            changed.retain(|order| !missing.contains(&order.order_no));
        }
        self.refused(ORDERS.name, written, &|_| None)?;
        self.changed_lines(&changed).await?;
        let parts = self.parts_existing();
        let requests = changed.iter().flat_map(|order| {
            order.requests.iter().map(|(seq, request)| request_row(&order.order_no, *seq, request))
        });
        self.insert(&ORDER_REQUESTS, parts, requests.collect(), &|_| None).await?;
        let serials = changed.iter().flat_map(|order| {
            order.serials.iter().map(|(seq, given)| serial_row(&order.order_no, *seq, given))
        });
        self.insert(&ORDER_SERIALS, parts, serials.collect(), &|_| None).await
    }

    async fn changed_lines(&mut self, changed: &[&ChangedOrder]) -> Result<(), SqlError> {
        let lines = || {
            changed
                .iter()
                .flat_map(|order| order.lines.iter().map(|(line, counts)| (&order.order_no, *line, counts)))
        };
        let rows: Vec<_> =
            lines().map(|(order_no, line, counts)| changed_line(order_no, line, counts)).collect();
        let wanted = rows.len() as u64;
        let written = update(self.tx, &CHANGE_LINES, rows).await?;
        self.count += written.count;
        if written.count < wanted {
            let order_nos: Vec<_> = changed.iter().map(|order| order.order_no.clone()).collect();
            let mut there = HashSet::new();
            for row in
                rows_in(self.tx, "SELECT order_no, line FROM order_lines WHERE", "order_no", &order_nos, "")
                    .await?
            {
                let f = &mut row.fields();
                let order_no = f.order_no()?;
                // A number that no line has is of none that the shard changes.
                there.extend(f.small::<u16>().ok().map(|line| (order_no, line)));
            }
            let lost: Vec<_> = lines().map(|(order_no, line, _)| (order_no.clone(), line)).collect();
            for (order_no, line) in lost.into_iter().filter(|line| !there.contains(line)) {
                let detail = format!("the shard changes its line {line}, which the store does not have");
                self.anomaly(ORDER_MISSING, self.last, Some(&order_no), None, detail);
            }
        }
        self.refused(ORDER_LINES.name, written, &|_| None)
    }

    /// Those of these orders whose rows in the store are about another order.
    async fn known_conflicts(&mut self, changed: &[ChangedOrder]) -> Result<HashSet<OrderNo>, SqlError> {
        let mut conflicts = HashSet::new();
        let any = "SELECT id FROM anomalies WHERE kind = ? LIMIT 1";
        if changed.is_empty() || self.tx.rows(any, &[ORDER_EXISTS.into()]).await?.is_empty() {
            return Ok(conflicts);
        }
        let order_nos: Vec<_> = changed.iter().map(|order| order.order_no.clone()).collect();
        let head = format!("SELECT order_no FROM anomalies WHERE kind = '{ORDER_EXISTS}' AND");
        for row in rows_in(self.tx, &head, "order_no", &order_nos, "").await? {
            conflicts.insert(row.fields().order_no()?);
        }
        Ok(conflicts)
    }

    /// Those of these orders that the store does not have; each is noted.
    async fn missing_orders(&mut self, changed: &[&ChangedOrder]) -> Result<HashSet<OrderNo>, SqlError> {
        let order_nos: Vec<_> = changed.iter().map(|order| order.order_no.clone()).collect();
        let mut there = HashSet::new();
        for row in rows_in(self.tx, "SELECT order_no FROM orders WHERE", "order_no", &order_nos, "").await? {
            there.insert(row.fields().order_no()?);
        }
        let mut missing = HashSet::new();
        for order in changed.iter().filter(|order| !there.contains(&order.order_no)) {
            let detail = "the shard changes it, and the store does not have it".to_owned();
            let source = (order.lsn, order.changed_at.unwrap_or(self.last.1));
            self.anomaly(ORDER_MISSING, source, Some(&order.order_no), None, detail);
            missing.insert(order.order_no.clone());
        }
        Ok(missing)
    }
}

fn changed_row(order: &ChangedOrder) -> Vec<Arg> {
    let after = order.after.as_ref();
    let span = after.and_then(|after| after.span.as_deref());
    vec![
        (&order.order_no).into(),
        after.map(|after| phase_name(after.phase)).into(),
        after.map(|after| order_status_name(after.status)).into(),
        after.map(|after| after.open).into(),
        order.expires_at.into(),
        order.changed_at.into(),
        order.lsn.into(),
        span.map(encode_span).into(),
    ]
}

fn changed_line(order_no: &OrderNo, line: u16, counts: &LineCounts) -> Vec<Arg> {
    let LineCounts { held, confirmed, released, returned, lapsed } = *counts;
    vec![
        order_no.into(),
        line.into(),
        held.into(),
        confirmed.into(),
        released.into(),
        returned.into(),
        lapsed.into(),
    ]
}
