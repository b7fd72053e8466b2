//! What is different, of what was read: pure.

use super::{Check, Difference, Remedy, Side, Value};
use crate::outcome::{Levels, StockView};
use crate::store::StockBooks;

/// The differences within the store. A stock that has several because of one is told once: the other sides are
/// compared with the journal if that is sound, else with the row.
pub(super) fn of_books(books: &StockBooks) -> Vec<Difference> {
    let StockBooks { row, journal, journal_rows, journal_version, journal_after, .. } = books;
    let levels = row.view.levels;
    let mut found = Vec::new();
    let mut tell = |check, expected, other, remedy| {
        found.push(Difference {
            sku_id: row.view.sku_id.clone(),
            warehouse_id: row.view.warehouse_id,
            check,
            expected,
            found: other,
            causes: Vec::new(),
            remedy,
        });
    };
    if journal_rows != journal_version {
        let (expected, other) = (Value::Count(*journal_version), Value::Count(*journal_rows));
        tell(Check::JournalGap, (Side::Journal, expected), (Side::Journal, other), Remedy::ByHand);
    }
    let is_sum = journal_after.is_some_and(|after| is_sum_of(after, *journal)) || (*journal_rows == 0 && *journal == [0; 3]);
    if !is_sum {
        let last = journal_after.map_or(Value::Missing, Value::Levels);
        tell(Check::JournalSum, (Side::Journal, Value::Sums(*journal)), (Side::Journal, last), Remedy::ByHand);
    }
    let sound = sound_levels(books);
    match sound {
        Some(sound) if sound != levels => {
            let (expected, other) = (Value::Levels(sound), Value::Levels(levels));
            tell(Check::Row, (Side::Journal, expected), (Side::Row, other), Remedy::RowFromJournal);
        }
        Some(_) => {}
        None if *journal_rows == 0 => {
            let (expected, other) = (Value::Missing, Value::Levels(levels));
            tell(Check::Row, (Side::Journal, expected), (Side::Row, other), Remedy::ByHand);
        }
        // The journal was told of; the row may still be what its last row says.
        None => {
            if let Some(after) = journal_after.filter(|after| *after != levels) {
                let (expected, other) = (Value::Levels(after), Value::Levels(levels));
                tell(Check::Row, (Side::Journal, expected), (Side::Row, other), Remedy::ByHand);
            }
        }
    }
    let (side, counted) = sound.map_or((Side::Row, levels), |sound| (Side::Journal, sound));
    if counted.quantity() != books.supplied {
        let (expected, other) = (Value::Units(counted.quantity()), Value::Units(books.supplied));
        let remedy = if sound.is_some() { Remedy::RowFromJournal } else { Remedy::ByHand };
        tell(Check::Supplied, (side, expected), (Side::Row, other), remedy);
    }
    if counted.reserved != books.held_by_orders {
        let (expected, other) = (Value::Units(counted.reserved), Value::Units(books.held_by_orders));
        tell(Check::Held, (side, expected), (Side::Orders, other), Remedy::ByHand);
    }
    if counted.sold != books.sold_by_orders {
        let (expected, other) = (Value::Units(counted.sold), Value::Units(books.sold_by_orders));
        tell(Check::Sold, (side, expected), (Side::Orders, other), Remedy::ByHand);
    }
    found
}

/// The levels that a journal without gap sums up to, if they are those of its last row.
pub(super) fn sound_levels(books: &StockBooks) -> Option<Levels> {
    let after = books.journal_after?;
    let is_sound =
        books.journal_rows == books.journal_version && after.version == books.journal_version && is_sum_of(after, books.journal);
    is_sound.then_some(after)
}

fn is_sum_of(levels: Levels, sums: [i64; 3]) -> bool {
    [levels.available, levels.reserved, levels.sold].map(i64::try_from) == sums.map(Ok)
}

/// A shard's stock beside what the journal has at its version (`None`: no such row).
pub(super) fn of_shard(view: &StockView, journal: Option<Levels>) -> Option<Difference> {
    let is_same = journal.is_some_and(|levels| levels == view.levels);
    (!is_same).then(|| Difference {
        found: (Side::Journal, journal.map_or(Value::Missing, Value::Levels)),
        ..of_view(view, Value::Levels(view.levels))
    })
}

/// A shard's stock beside its row, where both are of one version: the status, which the journal does not carry.
pub(super) fn of_status(view: &StockView, row: &StockView) -> Option<Difference> {
    let differs = view.levels.version == row.levels.version && view.status != row.status;
    differs.then(|| Difference {
        found: (Side::Row, Value::Stock(row.levels, row.status)),
        ..of_view(view, Value::Stock(view.levels, view.status))
    })
}

/// A shard's stock that has no row.
pub(super) fn without_row(view: &StockView) -> Difference {
    Difference { found: (Side::Row, Value::Missing), ..of_view(view, Value::Stock(view.levels, view.status)) }
}

fn of_view(view: &StockView, value: Value) -> Difference {
    Difference {
        sku_id: view.sku_id.clone(),
        warehouse_id: view.warehouse_id,
        check: Check::Shard,
        expected: (Side::Shard, value),
        found: (Side::Row, Value::Missing),
        causes: Vec::new(),
        remedy: Remedy::ByHand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::StockStatus;
    use crate::ids::{SkuId, WarehouseId};
    use crate::store::StockRow;

    const LEVELS: Levels = Levels { available: 5, reserved: 3, sold: 2, version: 7 };

    fn view() -> StockView {
        let (sku_id, warehouse_id) = (SkuId::new("a").unwrap(), WarehouseId(1));
        StockView { sku_id, warehouse_id, levels: LEVELS, status: StockStatus::OnSale, serialized: false  }
    }

    fn right() -> StockBooks {
        StockBooks {
            row: StockRow { view: view(), owner: None },
            supplied: 10,
            journal: [5, 3, 2],
            journal_rows: 7,
            journal_version: 7,
            journal_after: Some(LEVELS),
            held_by_orders: 3,
            sold_by_orders: 2,
        }
    }

    /// What is told when one thing is changed.
    fn told(change: impl FnOnce(&mut StockBooks)) -> Vec<(Check, Remedy)> {
        let mut books = right();
        change(&mut books);
        of_books(&books).into_iter().map(|difference| (difference.check, difference.remedy)).collect()
    }

    #[test]
    fn each_side_is_compared() {
        use Check::*;
        assert_eq!(told(|_| {}), []);
        let by_journal = Remedy::RowFromJournal;
        assert_eq!(told(|b| b.row.view.levels.available = 6), [(Row, by_journal)]);
        assert_eq!(told(|b| b.row.view.levels.version = 6), [(Row, by_journal)]);
        // A row with other counts of units than its journal is one difference, not one with the orders too.
        assert_eq!(told(|b| b.row.view.levels.reserved = 9), [(Row, by_journal)]);
        assert_eq!(told(|b| b.supplied = 11), [(Supplied, by_journal)]);
        assert_eq!(told(|b| b.held_by_orders = 4), [(Held, Remedy::ByHand)]);
        assert_eq!(told(|b| b.sold_by_orders = 0), [(Sold, Remedy::ByHand)]);
    }

    #[test]
    fn a_journal_that_is_not_sound_repairs_nothing() {
        use Check::*;
        let by_hand = Remedy::ByHand;
        assert_eq!(told(|b| b.journal_rows = 6), [(JournalGap, by_hand)]);
        assert_eq!(told(|b| b.journal = [6, 3, 2]), [(JournalSum, by_hand)]);
        let both = |b: &mut StockBooks| {
            b.journal_rows = 6;
            b.row.view.levels.available = 6;
        };
        assert_eq!(told(both), [(JournalGap, by_hand), (Row, by_hand), (Supplied, by_hand)]);
        let empty = |b: &mut StockBooks| {
            (b.journal, b.journal_rows, b.journal_version, b.journal_after) = ([0; 3], 0, 0, None);
        };
        assert_eq!(told(empty), [(Row, by_hand)]);
    }

    #[test]
    fn a_shard_is_compared_at_its_version() {
        assert_eq!(of_shard(&view(), Some(LEVELS)), None);
        let other = Levels { available: 4, ..LEVELS };
        let difference = of_shard(&view(), Some(other)).unwrap();
        assert_eq!(difference.expected, (Side::Shard, Value::Levels(LEVELS)));
        assert_eq!(difference.found, (Side::Journal, Value::Levels(other)));
        assert_eq!(of_shard(&view(), None).unwrap().found, (Side::Journal, Value::Missing));
        let suspended = StockView { status: StockStatus::Suspended, ..view() };
        assert!(of_status(&view(), &suspended).is_some());
        let later = StockView { levels: Levels { version: 8, ..LEVELS }, ..suspended };
        assert_eq!(of_status(&view(), &later), None);
    }
}
