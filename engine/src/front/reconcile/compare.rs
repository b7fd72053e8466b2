//! What is different, of what was read: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Check, Difference, Remedy, Side};
use super::truth::Truth;
use super::walk::Walk;
use crate::base::ids::{SkuId, WarehouseId};
use crate::contract::command::StockStatus;
use crate::contract::image::StockImage;
use crate::contract::store::{Misfit, StockBooks};
use crate::contract::units::Levels;

/// Levels in words.
pub(super) fn words(levels: &Levels) -> String {
    let Levels { available, reserved, sold, version } = levels;
    format!("available {available}, reserved {reserved}, sold {sold}, version {version}")
}

/// A status in words.
pub(super) fn on(status: StockStatus) -> &'static str {
    match status {
        StockStatus::OnSale => "on sale",
        StockStatus::Suspended => "suspended",
    }
}

/// All that was read of one SKU.
#[derive(Debug, Default)]
pub(super) struct Sku {
    pub books: BTreeMap<WarehouseId, StockBooks>,
    /// Those that have a journal and no row.
    pub without_row: BTreeSet<WarehouseId>,
    pub known: Known,
    pub walks: BTreeMap<WarehouseId, Walk>,
}

/// Whether the SKU is in memory.
#[derive(Debug, Default)]
pub(super) enum Known {
    /// It is not: the journal stands for it.
    #[default]
    Stored,
    /// It is, but the store is too far behind to compare with; at its watermark the journal stands for it.
    Far,
    /// Its stocks, as they were at the watermark.
    Resident(Vec<Truth>),
}

impl Sku {
    /// Its warehouses, in the store or in memory.
    pub fn warehouses(&self) -> Vec<WarehouseId> {
        let mut all: Vec<WarehouseId> = self.books.keys().chain(&self.without_row).copied().collect();
        if let Known::Resident(stocks) = &self.known {
            all.extend(stocks.iter().filter(|stock| !stock.is_new).map(|stock| stock.image.warehouse_id));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// See the top of the file.
    pub fn differences(&self, sku_id: &SkuId) -> Vec<Difference> {
        let mut found = Vec::new();
        for warehouse_id in self.warehouses() {
            let mut tell = |check, expected, other, remedy, causes: Vec<String>| {
                let sku_id = sku_id.clone();
                found.push(Difference {
                    sku_id,
                    warehouse_id,
                    check,
                    expected,
                    found: other,
                    causes,
                    remedy,
                });
            };
            let books = self.books.get(&warehouse_id);
            let walk = self.walks.get(&warehouse_id);
            let is_broken = walk.is_none_or(|walk| walk.broken.is_some());
            match &self.known {
                Known::Resident(stocks) => {
                    let truth =
                        stocks.iter().find(|stock| stock.image.warehouse_id == warehouse_id && !stock.is_new);
                    let has_journal = self.without_row.contains(&warehouse_id);
                    match walk.filter(|_| truth.is_none() && has_journal) {
                        Some(walk) => of_shard_without(walk, &mut tell),
                        None => of_shard(truth, books, is_broken, &mut tell),
                    }
                }
                Known::Stored | Known::Far => of_stored(books, walk, &mut tell),
            }
            let Some(walk) = walk else { continue };
            if !walk.misfits.is_empty() {
                let (count, more) =
                    (walk.misfits.len(), if walk.has_more_misfits { " and more" } else { "" });
                let expected = (
                    Side::Orders,
                    "each order and stock request has its row, in its shard, and what is held for it"
                        .to_owned(),
                );
                let found = (Side::Orders, format!("{count}{more} do not"));
                let causes = walk.misfits.iter().map(todo_of).collect();
                tell(Check::Orders, expected, found, Remedy::ByHand, causes);
            }
            if let Some((expected, other)) = &walk.broken {
                let todo =
                    "the journal has to be put right by hand: it is what rows are written from".to_owned();
                let (expected, other) = ((Side::Journal, expected.clone()), (Side::Journal, other.clone()));
                tell(Check::Journal, expected, other, Remedy::ByHand, vec![todo]);
            }
            let counted = [(Check::Held, walk.last.reserved), (Check::Sold, walk.last.sold)];
            for ((check, units), missing) in counted.into_iter().zip(walk.missing()) {
                if missing != 0 {
                    let lines = i128::from(units) - i128::from(missing);
                    let (expected, other) = (format!("{units} units"), format!("{lines} units"));
                    tell(check, (Side::Journal, expected), (Side::Orders, other), Remedy::ByHand, Vec::new());
                }
            }
        }
        self.tell_parked(sku_id, &mut found);
        found.sort_by_key(|difference| (difference.warehouse_id, difference.check));
        found
    }

    /// That a SKU is parked is behind what differs in its rows; alone it is told by itself, because its rows are not
    /// flushed.
    fn tell_parked(&self, sku_id: &SkuId, found: &mut Vec<Difference>) {
        let parked =
            self.books.values().find_map(|books| Some((books.row.warehouse_id, books.parked.as_ref()?)));
        let Some((warehouse_id, reason)) = parked else { return };
        let mut rows = found.iter_mut().filter(|difference| difference.check == Check::Row).peekable();
        if rows.peek().is_some() {
            rows.for_each(|difference| difference.causes.push(format!("it is parked: {reason}")));
            return;
        }
        let remedy = match &self.known {
            _ if self.walks.values().any(|walk| walk.broken.is_some()) => Remedy::ByHand,
            Known::Resident(_) => Remedy::RowFromShard,
            Known::Stored | Known::Far => Remedy::RowFromJournal,
        };
        found.push(Difference {
            sku_id: sku_id.clone(),
            warehouse_id,
            check: Check::Parked,
            expected: (Side::Row, "flushed".to_owned()),
            found: (Side::Row, format!("parked: {reason}")),
            causes: Vec::new(),
            remedy,
        });
    }
}

type Told = (Side, String);

/// A stock in memory beside its row and the newest row of its journal.
fn of_shard(
    truth: Option<&Truth>,
    books: Option<&StockBooks>,
    is_broken: bool,
    tell: &mut impl FnMut(Check, Told, Told, Remedy, Vec<String>),
) {
    let missing = |side| (side, "missing".to_owned());
    match (truth, books) {
        (None, None) => {}
        (None, Some(books)) => {
            let todo = "its shard has no such stock: the row has to be deleted".to_owned();
            let row = (Side::Row, words(&books.row.levels));
            tell(Check::Row, missing(Side::Shard), row, Remedy::ByHand, vec![todo]);
        }
        (Some(truth), None) => {
            let remedy = if is_broken { Remedy::ByHand } else { Remedy::RowFromShard };
            tell(
                Check::Row,
                (Side::Shard, words(&truth.image.levels)),
                missing(Side::Row),
                remedy,
                Vec::new(),
            );
        }
        (Some(truth), Some(books)) => {
            let mut right = truth.image.clone();
            if truth.later_status {
                right.status = books.row.status;
            }
            if truth.later_hot {
                right.hot = books.row.hot;
            }
            let newest = books.newest.as_ref().map(|newest| newest.change.after);
            let is_logged = newest == Some(right.levels);
            if let Some((expected, found)) = columns(&right, books) {
                let remedy = if is_logged { Remedy::RowFromShard } else { Remedy::ByHand };
                tell(Check::Row, (Side::Shard, expected), (Side::Row, found), remedy, Vec::new());
            }
            // One that is broken before its end is told by the walk.
            if !is_logged && !is_broken {
                let todo = "the journal has to be put right by hand, as the shard has it".to_owned();
                let newest =
                    newest.map_or_else(|| missing(Side::Journal), |newest| (Side::Journal, words(&newest)));
                tell(Check::Journal, (Side::Shard, words(&right.levels)), newest, Remedy::ByHand, vec![todo]);
            }
        }
    }
}

/// A stock that has a journal and no row, of a SKU that is in memory without it.
fn of_shard_without(walk: &Walk, tell: &mut impl FnMut(Check, Told, Told, Remedy, Vec<String>)) {
    let todo =
        "its SKU was loaded without it: ask again, with `fix`, once the SKU has left memory".to_owned();
    let (journal, row) = ((Side::Journal, words(&walk.last)), (Side::Row, "missing".to_owned()));
    tell(Check::Row, journal, row, Remedy::ByHand, vec![todo]);
}

/// What is wrong with an order or a request that is named, and what there is to do.
fn todo_of(misfit: &Misfit) -> String {
    match misfit {
        Misfit::OtherHold { order_no, order, held } => format!(
            "order {order_no}, which another shard decides: {order} by its rows in `orders` and `order_lines`; {held} by its rows in \
             `holds`: the rows that somebody changed have to be put back by hand"
        ),
        Misfit::Contradiction { order_no, problem } => format!(
            "the rows of order {order_no} don't fit ({problem}): what somebody changed has to be put back by hand; until then the \
             order is refused once it left memory, and if it holds units the store can't be recovered from"
        ),
        Misfit::UnreadableHold { row, problem } => format!(
            "the row in `holds` of {row} can't be read ({problem}): it has to be put back by hand, from a backup of the store; until \
             then the store can't be recovered from. (`serials` may be set to NULL once `order_serials` has a number for each unit \
             that the order's line sold.)"
        ),
        Misfit::NoOrder(order_no) => {
            let todo = "its rows have to be put back, from a backup of the store";
            format!(
                "order {order_no} has no row, though it was not pruned: {todo}; with nothing of it left in `order_lines`, its number may \
                 be given to another order"
            )
        }
        Misfit::NoRequest(request_id) => format!(
            "request {request_id} has no row, though it was not pruned: it has to be put back, from a backup of the store; until then \
             it is refused, or carried out again once its stock has changed some thousand times more"
        ),
        Misfit::OtherShard { order_no, right, found } => {
            format!(
                "the row of order {order_no} names shard {found}: its column `shard` has to be set by hand to {right}"
            )
        }
    }
}

/// A stock that is not in memory beside what its journal says.
fn of_stored(
    books: Option<&StockBooks>,
    walk: Option<&Walk>,
    tell: &mut impl FnMut(Check, Told, Told, Remedy, Vec<String>),
) {
    let Some(books) = books else {
        let Some(walk) = walk else { return };
        let agrees = walk.broken.is_none() && walk.missing() == [0, 0];
        let remedy = if agrees { Remedy::RowFromJournal } else { Remedy::ByHand };
        let (journal, row) = ((Side::Journal, words(&walk.last)), (Side::Row, "missing".to_owned()));
        return tell(Check::Row, journal, row, remedy, Vec::new());
    };
    let Some(newest) = books.newest.as_ref().map(|newest| newest.change.after) else {
        let todo =
            "it has no journal: the row has to be deleted, and the stock created by a request".to_owned();
        let row = (Side::Row, words(&books.row.levels));
        tell(Check::Row, (Side::Journal, "missing".to_owned()), row, Remedy::ByHand, vec![todo]);
        return;
    };
    let mut right = StockImage { levels: newest, supplied: newest.quantity(), ..books.row.clone() };
    let sound = walk.filter(|walk| walk.broken.is_none());
    // A walk that has seen later rows tells of a later row.
    if let Some(walk) = sound.filter(|walk| walk.last.version == newest.version) {
        let is_whole = walk.pruned == 0;
        right.status = walk.status.or(is_whole.then_some(StockStatus::OnSale)).unwrap_or(right.status);
        right.initial = walk.initial.unwrap_or(right.initial);
        if is_whole && (walk.serials > 0 || right.numbered.is_some()) {
            right.numbered = (!walk.without_serials).then_some(walk.serials);
        }
    }
    if let Some((expected, found)) = columns(&right, books) {
        // Rows that are missing at the end of a journal leave it without a gap. It is written from only where the
        // orders agree with it, and where the row does not know of later changes.
        let levels = books.row.levels;
        let goes_on =
            levels.version > newest.version && Levels { version: newest.version, ..levels } != newest;
        let agrees = sound.is_some_and(|walk| walk.missing() == [0, 0]);
        let (remedy, causes) = if agrees && !goes_on {
            (Remedy::RowFromJournal, Vec::new())
        } else if sound.is_some() {
            let todo = "its orders, or its version, say that the journal lacks its last rows: put them back from a backup of the store, \
                        or set the row and the journal by hand to what the orders say";
            (Remedy::ByHand, vec![todo.to_owned()])
        } else {
            (Remedy::ByHand, Vec::new())
        };
        tell(Check::Row, (Side::Journal, expected), (Side::Row, found), remedy, causes);
    }
}

/// The columns in which a row is not what it should be, in words: as it should be, and as it is.
fn columns(right: &StockImage, books: &StockBooks) -> Option<(String, String)> {
    if let Some(problem) = &books.unreadable {
        return Some((words(&right.levels), format!("can't be read: {problem}")));
    }
    let of = |image: &StockImage| {
        let Levels { available, reserved, sold, version } = image.levels;
        [
            format!("available {available}"),
            format!("reserved {reserved}"),
            format!("sold {sold}"),
            format!("version {version}"),
            format!("supplied {}", image.supplied),
            format!("initial {}", image.initial),
            on(image.status).to_owned(),
            if image.hot { "hot" } else { "not hot" }.to_owned(),
            image
                .numbered
                .map_or("without serial numbers".to_owned(), |numbered| format!("{numbered} serial numbers")),
        ]
    };
    let pairs = of(right).into_iter().zip(of(&books.row)).filter(|(right, row)| right != row);
    let (right, row): (Vec<String>, Vec<String>) = pairs.unzip();
    (!right.is_empty()).then(|| (right.join(", "), row.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::ids::{Lsn, ShardId};
    use crate::contract::moves::{MoveKind, StockMove};
    use crate::contract::store::JournalRow;
    use crate::contract::units::Delta;

    const LEVELS: Levels = Levels { available: 5, reserved: 0, sold: 0, version: 1 };
    const W: WarehouseId = WarehouseId(1);

    /// A stock of five units, right on every side.
    fn right(known: fn(Truth) -> Known) -> Sku {
        let sku_id = SkuId::new("a").unwrap();
        let row = StockImage {
            sku_id: sku_id.clone(),
            warehouse_id: W,
            levels: LEVELS,
            status: StockStatus::OnSale,
            initial: 5,
            supplied: 5,
            forgotten_sold: 0,
            lsn: Lsn(1),
            hot: false,
            numbered: None,
        };
        let change = StockMove {
            sku_id,
            warehouse_id: W,
            kind: MoveKind::Created,
            order_no: None,
            request_id: None,
            reason: None,
            delta: Delta::supply(5),
            serials: None,
            after: LEVELS,
        };
        let newest = JournalRow { change, at: Timestamp(0), trace: None, source: (ShardId(0), Lsn(1)) };
        let known = known(Truth::new(row.clone()));
        let mut walk = Walk::default();
        (walk.last, walk.initial) = (LEVELS, Some(5));
        let books = StockBooks {
            row,
            unreadable: None,
            parked: None,
            newest: Some(newest),
            pruned: crate::contract::store::PrunedSums::default(),
        };
        Sku { books: [(W, books)].into(), known, walks: [(W, walk)].into(), ..Sku::default() }
    }

    fn told(known: fn(Truth) -> Known, change: impl FnOnce(&mut Sku)) -> Vec<(Check, String, Remedy)> {
        let mut sku = right(known);
        change(&mut sku);
        let found = sku.differences(&SkuId::new("a").unwrap());
        found
            .into_iter()
            .map(|difference| (difference.check, difference.found.1, difference.remedy))
            .collect()
    }

    fn row(sku: &mut Sku) -> &mut StockImage {
        &mut sku.books.get_mut(&W).unwrap().row
    }

    #[test]
    fn every_column_is_compared() {
        let stored = (|_| Known::Stored) as fn(Truth) -> Known;
        let resident = |truth| Known::Resident(vec![truth]);
        for (known, remedy) in [(stored, Remedy::RowFromJournal), (resident, Remedy::RowFromShard)] {
            assert_eq!(told(known, |_| {}), []);
            let one = |found: &str| [(Check::Row, found.to_owned(), remedy)];
            assert_eq!(told(known, |sku| row(sku).levels.available = 6), one("available 6"));
            assert_eq!(told(known, |sku| row(sku).levels.reserved = 6), one("reserved 6"));
            assert_eq!(told(known, |sku| row(sku).levels.sold = 6), one("sold 6"));
            assert_eq!(told(known, |sku| row(sku).levels.version = 6), one("version 6"));
            assert_eq!(told(known, |sku| row(sku).supplied = 6), one("supplied 6"));
            assert_eq!(told(known, |sku| row(sku).initial = 6), one("initial 6"));
            assert_eq!(told(known, |sku| row(sku).status = StockStatus::Suspended), one("suspended"));
            assert_eq!(told(known, |sku| row(sku).numbered = Some(3)), one("3 serial numbers"));
        }
        let unreadable = |sku: &mut Sku| sku.books.get_mut(&W).unwrap().unreadable = Some("why".to_owned());
        for (known, remedy) in [(stored, Remedy::RowFromJournal), (resident, Remedy::RowFromShard)] {
            assert_eq!(told(known, unreadable), [(Check::Row, "can't be read: why".to_owned(), remedy)]);
        }
        let hot = [(Check::Row, "hot".to_owned(), Remedy::RowFromShard)];
        assert_eq!(told(resident, |sku| row(sku).hot = true), hot);
    }

    #[test]
    fn a_row_is_not_written_from_a_journal_that_lost_its_end() {
        let later = |sku: &mut Sku| {
            row(sku).levels = Levels { available: 4, reserved: 0, sold: 1, version: 3 };
        };
        let by_hand = [(Check::Row, "available 4, sold 1, version 3".to_owned(), Remedy::ByHand)];
        assert_eq!(told(|_| Known::Stored, later), by_hand);
        // The orders know of one that was sold, whatever the row says, and whether it is there.
        for is_there in [true, false] {
            let sold = |sku: &mut Sku| {
                sku.walks.get_mut(&W).unwrap().sold = 1;
                row(sku).levels.available = 6;
                if !is_there {
                    sku.books.clear();
                    sku.without_row.insert(W);
                }
            };
            let found = told(|_| Known::Stored, sold);
            assert_eq!(found.iter().map(|told| told.0).collect::<Vec<_>>(), [Check::Row, Check::Sold]);
            assert!(found.iter().all(|told| told.2 == Remedy::ByHand), "{found:?}");
        }
    }

    #[test]
    fn what_is_not_sound_repairs_nothing() {
        let break_it = |sku: &mut Sku| {
            sku.walks.get_mut(&W).unwrap().broken = Some(("version 3".to_owned(), "version 4".to_owned()));
            row(sku).levels.available = 6;
        };
        let broken = (Check::Journal, "version 4".to_owned(), Remedy::ByHand);
        let by_hand = (Check::Row, "available 6".to_owned(), Remedy::ByHand);
        assert_eq!(told(|_| Known::Stored, break_it), [by_hand, broken]);
        let newest = |sku: &mut Sku| {
            sku.books.get_mut(&W).unwrap().newest.as_mut().unwrap().change.after.available = 4
        };
        let other = words(&Levels { available: 4, ..LEVELS });
        assert_eq!(
            told(|truth| Known::Resident(vec![truth]), newest),
            [(Check::Journal, other, Remedy::ByHand)]
        );
        let no_journal = |sku: &mut Sku| sku.books.get_mut(&W).unwrap().newest = None;
        assert_eq!(told(|_| Known::Stored, no_journal), [(Check::Row, words(&LEVELS), Remedy::ByHand)]);
    }

    #[test]
    fn a_parked_sku_is_told_once() {
        let parked = |sku: &mut Sku| sku.books.get_mut(&W).unwrap().parked = Some("why".to_owned());
        assert_eq!(
            told(|_| Known::Stored, parked),
            [(Check::Parked, "parked: why".to_owned(), Remedy::RowFromJournal)]
        );
        let both = |sku: &mut Sku| {
            parked(sku);
            row(sku).levels.available = 6;
        };
        assert_eq!(
            told(|_| Known::Stored, both),
            [(Check::Row, "available 6".to_owned(), Remedy::RowFromJournal)]
        );
    }
}
