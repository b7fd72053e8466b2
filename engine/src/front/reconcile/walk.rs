//! Counts the journal of a stock and the lines of its orders, in pieces, while both go on.
//!
//! The journal is read from its first row (or from the sums of what was pruned) to its end: each row must be the one
//! before it and its delta. The lines are read by order number, each piece in one snapshot with what the journal has
//! got meanwhile. A piece of lines counts only when the journal is at its end there: then they are as the journal
//! says at that moment. What the journal tells later of an order whose line was counted is added. So after the last
//! piece the sums are those of the last snapshot, and can be compared with the levels that the journal ends with.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::words;
use crate::base::ids::{OrderNo, SkuId, WarehouseId};
use crate::base::limits::{MAX_RECONCILE_CAUSES, RECONCILE_JOURNAL_ROWS, RECONCILE_LINES};
use crate::contract::command::StockStatus;
use crate::contract::moves::MoveKind;
use crate::contract::store::{JournalRow, Misfit, PrunedSums, Store, StoreError, Sums, SumsCursor};
use crate::contract::units::Levels;

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
    pub(super) sold: i64,
    /// Net units sold by orders that were pruned, when the first lines were counted, and now.
    pruned_sold: (u64, u64),
    /// The first row of the journal that is not what should come there: what should, and what is there.
    pub broken: Option<(String, String)>,
    /// What the journal tells of the columns that are not levels.
    pub status: Option<StockStatus>,
    pub serials: u64,
    /// Units were sold without.
    pub without_serials: bool,
    pub initial: Option<u64>,
    /// What was named and is not as it should be, up to [`MAX_RECONCILE_CAUSES`]; and whether there is more.
    pub misfits: BTreeSet<Misfit>,
    pub has_more_misfits: bool,
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
    pub async fn step(
        &mut self,
        store: &dyn Store,
        sku_id: &SkuId,
        warehouse_id: WarehouseId,
    ) -> Result<bool, StoreError> {
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
        for misfit in &sums.misfits {
            if self.misfits.len() < MAX_RECONCILE_CAUSES {
                self.misfits.insert(misfit.clone());
            } else {
                self.has_more_misfits |= !self.misfits.contains(misfit);
            }
        }
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
            let found = if after.version == last.version + 1 {
                words(&after)
            } else {
                format!("version {}", after.version)
            };
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
            MoveKind::Confirmed => self.without_serials |= delta.sold > 0 && change.serials.is_none(),
            MoveKind::Restocked
            | MoveKind::Deducted
            | MoveKind::Adjusted
            | MoveKind::Reserved
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

    /// Units that the levels at the end have and the lines don't: reserved, sold. (By so much as orders were pruned
    /// meanwhile, it can't be told whether they were counted.)
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
            // Ended orders are pruned sooner than their journal; and an order whose first rows were pruned can't be
            // counted.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::ids::{Lsn, ShardId};
    use crate::contract::moves::StockMove;
    use crate::contract::units::Delta;

    /// A stock of a store, its orders (held, net sold) and its journal.
    #[derive(Default)]
    struct Stock {
        levels: Levels,
        lines: BTreeMap<OrderNo, [u64; 2]>,
        journal: Vec<JournalRow>,
        pruned: PrunedSums,
    }

    impl Stock {
        fn log(&mut self, kind: MoveKind, order_no: Option<&OrderNo>, delta: Delta) {
            self.levels = self.levels.after(delta).unwrap();
            let change = StockMove {
                sku_id: SkuId::new("a").unwrap(),
                warehouse_id: WarehouseId(1),
                kind,
                order_no: order_no.cloned(),
                request_id: None,
                reason: None,
                delta,
                serials: None,
                after: self.levels,
            };
            self.journal.push(JournalRow {
                change,
                at: Timestamp(0),
                trace: None,
                source: (ShardId(0), Lsn(0)),
            });
        }

        /// Something happens to one of few orders.
        fn change(&mut self, random: &mut fastrand::Rng) {
            let order_no = OrderNo::new(&random.u8(..40).to_string()).unwrap();
            let (kind, delta) = match self.lines.get(&order_no) {
                None => (MoveKind::Reserved, Delta::hold(2)),
                Some([0, 0]) => return,
                Some([0, _]) => (MoveKind::Returned, Delta::give_back(1)),
                Some(_) if random.bool() => (MoveKind::Confirmed, Delta::sell(1, 0)),
                Some(_) => (MoveKind::Released, Delta::unhold(1)),
            };
            self.log(kind, Some(&order_no), delta);
            let [held, sold] = self.lines.entry(order_no).or_default();
            *held = held.checked_add_signed(delta.reserved).unwrap();
            *sold = sold.checked_add_signed(delta.sold).unwrap();
        }

        /// Some ended orders go, or the oldest rows of the journal.
        fn prune(&mut self, random: &mut fastrand::Rng) {
            if random.bool() {
                let gone =
                    self.lines.iter().find(|(_, [held, _])| *held == 0).map(|(order_no, _)| order_no.clone());
                let sold = gone.and_then(|order_no| self.lines.remove(&order_no)).map_or(0, |[_, sold]| sold);
                self.pruned.sold += sold;
            } else if self.journal.len() > 1 {
                let change = self.journal.remove(0).change;
                let Delta { available, reserved, sold } = change.delta;
                self.pruned.version = change.after.version;
                for (sum, delta) in self.pruned.deltas.iter_mut().zip([available, reserved, sold]) {
                    *sum += delta;
                }
            }
        }

        fn sums(&self, cursor: &SumsCursor, lines: usize, journal: usize) -> Sums {
            let after = |order_no: &OrderNo| cursor.order_no.as_ref().is_none_or(|after| order_no > after);
            let rows = self.journal.iter().filter(|row| row.change.after.version > cursor.version);
            let counted = self.lines.iter().filter(|(order_no, _)| after(order_no)).take(lines);
            Sums {
                lines: counted.map(|(order_no, [held, sold])| (order_no.clone(), *held, *sold)).collect(),
                journal: rows.take(journal).cloned().collect(),
                pruned: self.pruned,
                misfits: BTreeSet::new(),
            }
        }

        fn walk(&mut self, mut walk: Walk, mut between: impl FnMut(&mut Self)) -> Walk {
            loop {
                let lines = if walk.without_lines { 0 } else { 3 };
                let sums = self.sums(&walk.cursor, lines, 5);
                if walk.take(&sums, 3, 5) {
                    return walk;
                }
                between(self);
            }
        }
    }

    fn stock(random: &mut fastrand::Rng) -> Stock {
        let mut stock = Stock::default();
        stock.log(MoveKind::Created, None, Delta::supply(1_000));
        (0..60).for_each(|_| stock.change(random));
        stock
    }

    #[test]
    fn what_changes_meanwhile_is_no_difference() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut stock = stock(&mut random);
            let with_prune = seed % 3 == 0;
            let mut left = 200;
            let walk = stock.walk(Walk::for_suspects(), |stock| {
                // As long as a walk takes, but not for ever.
                for _ in 0..random.u8(..5).min(left) {
                    left -= 1;
                    stock.change(&mut random);
                    if with_prune {
                        stock.prune(&mut random);
                    }
                }
            });
            assert_eq!((walk.missing(), &walk.broken), ([0, 0], &None), "seed {seed}");
            assert_eq!(walk.last, stock.levels, "seed {seed}");
            if !with_prune {
                assert_eq!(walk.suspects(), [], "seed {seed}");
            }
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_found_and_named() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut stock = stock(&mut random);
        let wrong = stock.lines.keys().next().unwrap().clone();
        let right = stock.lines[&wrong].map(u64::cast_signed);
        stock.lines.get_mut(&wrong).unwrap()[1] += 3;
        let walk = stock.walk(Walk::for_suspects(), |_| {});
        assert_eq!(walk.missing(), [0, -3]);
        let line = [right[0], right[1] + 3];
        assert_eq!(walk.suspects(), [Suspect { order_no: wrong.clone(), line: Some(line), journal: right }]);
        stock.lines.remove(&wrong);
        let walk = stock.walk(Walk::for_suspects(), |_| {});
        assert_eq!(walk.missing(), right);
        assert_eq!(walk.suspects(), [Suspect { order_no: wrong, line: None, journal: right }]);
    }

    #[test]
    fn a_journal_with_a_gap_or_a_wrong_row_is_told_once() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut gap = stock(&mut random);
        gap.journal.remove(9);
        let walk = gap.walk(Walk::default(), |_| {});
        assert_eq!(walk.broken, Some(("version 10".to_owned(), "version 11".to_owned())));
        let mut wrong = stock(&mut random);
        wrong.journal[9].change.after.available += 1;
        let levels = wrong.journal[9].change.after;
        let walk = wrong.walk(Walk::default(), |_| {});
        let right = Levels { available: levels.available - 1, ..levels };
        assert_eq!(walk.broken, Some((words(&right), words(&levels))));
    }
}
