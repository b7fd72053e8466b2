//! Counts the journal of a stock and the lines of its orders, in pieces, while both go on.
//!
//! The journal is read from its first row (or from the sums of what was pruned) to its end: each row must be the one before it and its delta.
//! The lines are read by order number, each piece in one snapshot with what the journal has got meanwhile. A piece of lines counts only when
//! the journal is at its end there: then they are as the journal says at that moment. What the journal tells later of an order whose
//! line was counted is added. So after the last piece the sums are those of the last snapshot, and can be compared
//! with the levels that the journal ends with.

use std::collections::BTreeMap;

use super::compare::words;
use crate::command::StockStatus;
use crate::event::MoveKind;
use crate::ids::{OrderNo, SkuId, WarehouseId};
use crate::limits::{RECONCILE_JOURNAL_ROWS, RECONCILE_LINES};
use crate::outcome::Levels;
use crate::store::{JournalRow, PrunedSums, Store, StoreError, Sums, SumsCursor};

/// A walk under way, or at its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Walk {
    cursor: SumsCursor,
    is_begun: bool,
    /// The journal was not at its end the last time: lines would not count.
    without_lines: bool,
    /// The levels after the last row of the journal that was read.
    pub last: Levels,
    /// The version up to which it was pruned when the walk began.
    pub pruned: u64,
    /// Units held and net units sold by the lines that were counted, as of `last`.
    held: i64,
    sold: i64,
    /// Net units sold by orders that were pruned, when the first lines were counted, and now.
    pruned_sold: (u64, u64),
    /// The first row of the journal that is not what should come there: what should, and what is there.
    pub broken: Option<(String, String)>,
    /// What the journal tells of the columns that are not levels.
    pub status: Option<StockStatus>,
    pub serials: u64,
    pub initial: Option<u64>,
    /// To look for the orders behind a difference: the units of each by its line and by the journal.
    orders: Option<BTreeMap<OrderNo, Counted>>,
}

/// Units of one order: held and net sold.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    line: Option<[i64; 2]>,
    journal: [i64; 2],
    /// The journal has its first row.
    is_whole: bool,
}

/// An order whose line is not what the journal says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    pub order_no: OrderNo,
    /// `None`: there is no line.
    pub line: Option<[i64; 2]>,
    pub journal: [i64; 2],
}

impl Walk {
    /// One that names the orders that differ at its end.
    pub fn for_suspects() -> Self {
        Self { orders: Some(BTreeMap::new()), ..Self::default() }
    }

    /// Reads the next piece. `true`: that was the last.
    pub async fn step(&mut self, store: &dyn Store, sku_id: &SkuId, warehouse_id: WarehouseId) -> Result<bool, StoreError> {
        let lines = if self.without_lines { 0 } else { RECONCILE_LINES };
        let sums = store.sums(sku_id, warehouse_id, &self.cursor, lines, RECONCILE_JOURNAL_ROWS).await?.rows;
        Ok(self.take(&sums, RECONCILE_LINES, RECONCILE_JOURNAL_ROWS))
    }

    fn take(&mut self, sums: &Sums, lines: usize, journal: usize) -> bool {
        if !self.is_begun {
            self.begin(&sums.pruned);
        } else if sums.pruned.version > self.last.version {
            // Rows went before they were read: what went is in the sums, but not of which orders.
            *self = if self.orders.is_some() { Self::for_suspects() } else { Self::default() };
            return false;
        }
        sums.journal.iter().for_each(|row| self.take_row(row));
        let is_at_end = sums.journal.len() < journal;
        if std::mem::replace(&mut self.without_lines, !is_at_end) || !is_at_end {
            return false;
        }
        if self.cursor.order_no.is_none() {
            self.pruned_sold.0 = sums.pruned.sold;
        }
        self.pruned_sold.1 = sums.pruned.sold;
        for (order_no, held, sold) in &sums.lines {
            let line = [*held, *sold].map(|units| i64::try_from(units).unwrap_or(i64::MAX));
            self.held = self.held.saturating_add(line[0]);
            self.sold = self.sold.saturating_add(line[1]);
            if let Some(orders) = &mut self.orders {
                orders.entry(order_no.clone()).or_default().line = Some(line);
            }
        }
        if let Some((order_no, ..)) = sums.lines.last() {
            self.cursor.order_no = Some(order_no.clone());
        }
        sums.lines.len() < lines
    }

    fn begin(&mut self, pruned: &PrunedSums) {
        let [available, reserved, sold] = pruned.deltas.map(|sum| u64::try_from(sum).unwrap_or_default());
        self.is_begun = true;
        self.pruned = pruned.version;
        self.last = Levels { available, reserved, sold, version: pruned.version };
        self.cursor.version = pruned.version;
    }

    fn take_row(&mut self, row: &JournalRow) {
        let change = &row.change;
        let (last, after, delta) = (self.last, change.after, change.delta);
        let expected = last.after(delta);
        if expected != Some(after) && self.broken.is_none() {
            let found = if after.version == last.version + 1 { words(&after) } else { format!("version {}", after.version) };
            let expected = match expected {
                Some(expected) if after.version == expected.version => words(&expected),
                _ => format!("version {}", last.version + 1),
            };
            self.broken = Some((expected, found));
        }
        (self.last, self.cursor.version) = (after, after.version);
        self.serials = self.serials.saturating_add(change.serials.map_or(0, |serials| serials.count()));
        match change.kind {
            MoveKind::Created => self.initial = u64::try_from(delta.available).ok(),
            MoveKind::Suspended => self.status = Some(StockStatus::Suspended),
            MoveKind::Resumed => self.status = Some(StockStatus::OnSale),
            MoveKind::Restocked
            | MoveKind::Deducted
            | MoveKind::Adjusted
            | MoveKind::Reserved
            | MoveKind::Confirmed
            | MoveKind::Released
            | MoveKind::Expired
            | MoveKind::Returned
            | MoveKind::Repaired => {}
        }
        let Some(order_no) = &change.order_no else { return };
        let moved = [delta.reserved, delta.sold];
        let is_counted = self.cursor.order_no.as_ref().is_some_and(|counted| order_no <= counted);
        if is_counted {
            self.held = self.held.saturating_add(moved[0]);
            self.sold = self.sold.saturating_add(moved[1]);
        }
        if let Some(orders) = &mut self.orders {
            let order = orders.entry(order_no.clone()).or_default();
            order.is_whole |= change.kind == MoveKind::Reserved;
            add(&mut order.journal, moved);
            if is_counted {
                // Also of an order that is new since its numbers were counted.
                add(order.line.get_or_insert_default(), moved);
            }
        }
    }

    /// Units that the levels at the end have and the lines don't: reserved, sold. (By so much as orders were pruned meanwhile, it can't be told
    /// whether they were counted.)
    pub fn missing(&self) -> [i64; 2] {
        let units = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
        let sold = units(self.last.sold) - self.sold;
        let gone = units(self.pruned_sold.0)..=units(self.pruned_sold.1);
        let sold = if gone.contains(&sold) { 0 } else { sold - *gone.end() };
        [units(self.last.reserved) - self.held, sold]
    }

    /// The orders whose line is not what the journal says; only of a walk that looked for them.
    pub fn suspects(&self) -> Vec<Suspect> {
        let differs = |(order_no, counted): (&OrderNo, &Counted)| {
            let Counted { line, journal, is_whole } = *counted;
            // Ended orders are pruned sooner than their journal; and an order whose first rows were pruned can't be counted.
            let is_pruned = line.is_none() && journal[0] == 0 && self.pruned_sold.1 > 0;
            let is_known = (is_whole || self.pruned == 0) && !is_pruned;
            let differs = is_known && line.unwrap_or_default() != journal;
            differs.then(|| Suspect { order_no: order_no.clone(), line, journal })
        };
        self.orders.iter().flatten().filter_map(differs).collect()
    }
}

fn add(units: &mut [i64; 2], more: [i64; 2]) {
    for (units, more) in units.iter_mut().zip(more) {
        *units = units.saturating_add(more);
    }
}
