//! Events come in: rows of all tables follow from them, whatever the batches are, and whatever somebody did to the
//! rows.

use super::shard::sorted;
use super::{
    Subject, TestShard, W1, W2, bare, confirm, create, extend, give_back, load, order, part, release,
    reserve, restock, set_status, sku, taken,
};
use std::collections::BTreeSet;

use crate::base::ids::{Lsn, OrderNo, SkuId};
use crate::contract::command::{Action, CreateStock, StockStatus};
use crate::contract::store::{
    FlushBatch, JournalRow, Misfit, Store, StoreError, StoredSku, Sums, SumsCursor, Wanted,
};
use crate::contract::units::Levels;

/// The store has what the events made, and every count adds up.
pub(super) async fn check(store: &dyn Store, shard: &TestShard) {
    let made = &shard.made;
    let skus: Vec<SkuId> = made.stocks.keys().map(|(sku_id, _)| sku_id.clone()).collect();
    let orders: Vec<OrderNo> = made.orders.keys().cloned().collect();
    let loaded = load(store, &skus, &orders).await;
    let flushed = loaded.watermarks.iter().find(|mark| mark.shard == shard.shard).map(|mark| mark.lsn);
    assert_eq!(flushed, Some(shard.flushed));
    let mut stocks = made.stocks.clone();
    for (sku_id, stored) in loaded.skus.into_iter().filter(|(sku_id, _)| shard.state.owns(sku_id)) {
        let StoredSku::Sound(images) = stored else { panic!("SKU {sku_id}: {stored:?}") };
        for image in images {
            assert_eq!(image.forgotten_sold, image.levels.sold);
            let key = (sku_id.clone(), image.warehouse_id);
            assert_eq!(Some(bare(image)), stocks.remove(&key), "SKU {sku_id}");
        }
    }
    assert!(stocks.is_empty(), "not stored: {stocks:?}");
    let mut known = 0;
    for stored in loaded.orders {
        known += 1;
        assert_eq!(stored.shard, shard.shard);
        let order_no = &stored.image.order_no;
        assert_eq!(Some(&stored.image), made.orders.get(order_no), "order {order_no}");
    }
    assert_eq!(known, orders.len(), "orders that are stored");
    let wanted = Wanted { requests: made.requests.keys().cloned().collect(), ..Wanted::default() };
    for requests in wanted.requests.chunks(200) {
        let wanted = Wanted { requests: requests.to_vec(), ..Wanted::default() };
        let mut found = store.load(&wanted).await.expect("it loads").requests;
        found.sort_by(|one, other| (&one.sku_id, &one.request_id).cmp(&(&other.sku_id, &other.request_id)));
        let expected: Vec<_> = requests.iter().filter_map(|key| made.requests.get(key)).cloned().collect();
        assert_eq!(found, expected);
    }
    let holds = store.holds(None, usize::from(u16::MAX)).await.expect("it reads");
    let holds: Vec<_> = holds.into_iter().filter(|hold| hold.shard == shard.shard).map(sorted).collect();
    assert_eq!(holds, shard.holds());
    balance(store).await;
}

/// The lines of a stock's orders and its journal, all pieces.
pub(super) async fn sums(
    store: &dyn Store,
    sku_id: &SkuId,
    warehouse_id: crate::base::ids::WarehouseId,
) -> Sums {
    let (mut all, mut cursor) = (Sums::default(), SumsCursor::default());
    loop {
        let piece = store.sums(sku_id, warehouse_id, &cursor, 7, 5).await.expect("it reads").rows;
        let (lines, journal) = (piece.lines.len(), piece.journal.len());
        all.pruned = piece.pruned;
        all.lines.extend(piece.lines);
        // Here, SKUs lie in any shard, and shards are flushed at different moments: see `other_holds`.
        let is_left_out = |misfit: &Misfit| {
            matches!(
                misfit,
                Misfit::OtherShard { .. } | Misfit::OtherHold { .. } | Misfit::UnreadableHold { .. }
            )
        };
        all.misfits.extend(piece.misfits.into_iter().filter(|misfit| !is_left_out(misfit)));
        all.journal.extend(piece.journal);
        cursor.order_no = all.lines.last().map(|(order_no, ..)| order_no.clone());
        cursor.version = all.journal.last().map_or(0, |row| row.change.after.version);
        if lines < 7 && journal < 5 {
            return all;
        }
    }
}

/// Counted in every way, the store has the same units.
pub(super) async fn balance(store: &dyn Store) {
    let mut after = None;
    loop {
        let page = store.books(after.as_ref(), 3).await.expect("it reads").rows;
        assert!(page.without_row.is_empty(), "{page:?}");
        let page = page.stocks;
        let Some(last) = page.last() else { return };
        after = Some(last.row.sku_id.clone());
        for books in page {
            let (image, pruned) = (&books.row, books.pruned);
            let sums = sums(store, &image.sku_id, image.warehouse_id).await;
            assert_eq!((sums.pruned, &sums.misfits), (pruned, &BTreeSet::new()));
            let levels = image.levels;
            assert_eq!(image.supplied, levels.quantity(), "{books:?}");
            assert_eq!(books.newest.as_ref(), sums.journal.last(), "{books:?}");
            assert_eq!(books.newest.as_ref().map(|row| row.change.after), Some(levels), "{books:?}");
            assert_eq!(books.parked, None);
            let held: u64 = sums.lines.iter().map(|(_, held, _)| held).sum();
            let sold: u64 = sums.lines.iter().map(|(_, _, sold)| sold).sum();
            assert_eq!((held, sold + pruned.sold), (levels.reserved, levels.sold), "{books:?}");
            let [mut available, mut reserved, mut net_sold] = pruned.deltas;
            for (row, version) in sums.journal.iter().zip(pruned.version + 1..) {
                available += row.change.delta.available;
                reserved += row.change.delta.reserved;
                net_sold += row.change.delta.sold;
                let units = |units: i64| u64::try_from(units).expect("never below nothing");
                let so_far = Levels {
                    available: units(available),
                    reserved: units(reserved),
                    sold: units(net_sold),
                    version,
                };
                assert_eq!(row.change.after, so_far, "{row:?}");
            }
        }
    }
}

/// One of everything that a shard can log about stocks and orders.
pub(super) fn one_of_everything(shard: &mut TestShard) {
    shard.must(create("a", W1, 100));
    shard.must(create("a", W2, 5));
    shard.must(create("b", W1, 10));
    shard.must(restock("a", 20, "r-1"));
    shard.must(reserve("o-1", &[("a", 3), ("b", 2)]));
    shard.must(reserve("o-2", &[("a", 4)]));
    shard.must(reserve("o-3", &[("b", 50), ("a", 1)]));
    shard.must(reserve("o-4", &[("a", 5)]));
    shard.must(reserve("o-5", &[("a", 6)]));
    shard.must(confirm("o-1", part(&[("a", 2)], "c-1")));
    shard.must(confirm("o-1", None));
    shard.must(release("o-2", part(&[("a", 1)], "")));
    shard.must(extend("o-2", 86_400));
    shard.must(set_status("a", StockStatus::Suspended));
    shard.must(release("o-3", None));
    shard.must(set_status("a", StockStatus::OnSale));
    shard.must(give_back("o-1", &[("b", 1)], "back-1"));
    shard.must(release("o-9", None));
    shard.pin(&["a"], true);
    shard.must(create("a", crate::base::ids::WarehouseId(3), 7));
    shard.must(numbered("n", 50));
    shard.must(reserve("o-6", &[("n", 4), ("a", 1)]));
    shard.must(confirm("o-6", part(&[("n", 3)], "c-6")));
    shard.must(confirm("o-6", None));
    shard.expire_after(700);
    shard.must(confirm("o-4", None));
}

pub(super) fn numbered(name: &str, quantity: u64) -> Action {
    Action::CreateStock(CreateStock { sku_id: sku(name), warehouse_id: W1, quantity, serialized: true })
}

/// Rows of all tables follow from the events, in one batch or in one for each event.
pub async fn every_kind_of_event_is_taken_in(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    one_of_everything(&mut shard);
    let events = shard.events.clone();
    let flushed = shard.flush_all(&*store).await;
    assert_eq!((flushed.anomalies, flushed.parked.len()), (0, 0));
    assert!(flushed.rows > 50);
    check(&*store, &shard).await;

    // The journal is that of the events, one by one.
    let mut expected = Vec::new();
    for (lsn, event) in &events {
        let row =
            |change| JournalRow { change, at: event.at, trace: event.trace, source: (shard.shard, *lsn) };
        expected.extend(event.stock_moves().into_iter().map(row));
    }
    let key =
        |row: &JournalRow| (row.change.sku_id.clone(), row.change.warehouse_id, row.change.after.version);
    expected.sort_by_key(key);
    let mut rows = Vec::new();
    for name in ["a", "b", "n"] {
        rows.extend(store.stock_journal(&sku(name), &[], 1_000).await.expect("it reads").rows);
    }
    assert_eq!(rows, expected);

    // What was flushed later goes on from there, in small pieces.
    shard.must(give_back("o-1", &[("a", 2)], "back-2"));
    shard.must(confirm("o-2", None));
    shard.must(reserve("o-7", &[("n", 2)]));
    shard.must(confirm("o-7", None));
    while !shard.events.is_empty() {
        shard.flush(&*store, 1).await.expect("it flushes");
    }
    check(&*store, &shard).await;
}

/// Whatever died when: the same batch again has no second effect.
pub async fn a_repeat_changes_nothing(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    one_of_everything(&mut shard);
    let first = store.flush(shard.batch(7)).await.expect("it flushes");
    assert_eq!(first.flushed(shard.shard), Lsn(7));
    for _ in 0..2 {
        let again = store.flush(shard.batch(7)).await.expect("it answers");
        assert_eq!((&again.watermarks, again.rows, again.anomalies), (&first.watermarks, 0, 0));
    }
    // A larger one that begins where the first did.
    let again = store.flush(shard.batch(usize::MAX)).await.expect("it answers");
    assert_eq!((again.watermarks, again.rows), (first.watermarks, 0));
    shard.move_to(Lsn(7));
    shard.flush_all(&*store).await;
    check(&*store, &shard).await;
}

/// Nothing is written of it.
pub async fn a_batch_that_begins_elsewhere_is_told_where(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    one_of_everything(&mut shard);
    shard.flush(&*store, 3).await.expect("it flushes");
    let mut later = shard.batch(usize::MAX);
    later.parts[0].after = Lsn(5);
    later.parts[0].events = &later.parts[0].events[2..];
    let told = store.flush(later).await.expect("it answers");
    assert_eq!((told.flushed(shard.shard), told.rows), (Lsn(3), 0));

    // A gap, a start that is not the watermark's, and no events are refused whatever the watermark is.
    let mut wrong = shard.batch(usize::MAX);
    wrong.parts[0].after = Lsn(4);
    let mut none = shard.batch(1);
    none.parts[0].events = &[];
    let empty = FlushBatch { parts: Vec::new(), ..shard.batch(1) };
    let mut twice = shard.batch(1);
    twice.parts.extend(shard.batch(1).parts);
    for wrong in [wrong, none, empty, twice] {
        assert!(matches!(store.flush(wrong).await, Err(StoreError::Inconsistent(_))));
    }
    assert_eq!(store.ownership().await.expect("it answers").watermarks[0].lsn, Lsn(3));
    shard.flush_all(&*store).await;
    check(&*store, &shard).await;
}

/// Random events in random batches, some of them repeated, with SKUs that leave and come back, give the rows that the
/// shard has.
pub async fn any_batches_give_the_same_rows(subject: &dyn Subject) {
    let store = taken(subject).await;
    let store = &*store;
    let mut evicted = 0;
    for seed in 0..3_u16 {
        let mut dice = Dice(u64::from(seed) + 1);
        // Each of them is alone in its names.
        let mut shard = TestShard::stray(seed);
        let name = |kind: &str, n: usize| format!("{seed}-{kind}-{n}");
        let skus: Vec<_> = (0..12).map(|n| name("sku", n)).collect();
        let orders: Vec<_> = (0..60).map(|n| name("order", n)).collect();
        for (n, sku) in skus.iter().enumerate() {
            shard.must(if n % 4 == 3 { numbered(sku, 300) } else { create(sku, W1, 300) });
        }
        for step in 0..700_usize {
            let (sku, other) = (&skus[dice.below(12)], &skus[dice.below(12)]);
            let number = &orders[dice.below(60)];
            let (some, few) = (1 + dice.units(5), 1 + dice.units(2));
            let request = name("request", step);
            // Refusals are part of it.
            match dice.below(24) {
                0..=5 if sku != other => {
                    let _ = shard.run_with(store, reserve(number, &[(sku, some), (other, few)])).await;
                }
                0..=5 => drop(shard.run_with(store, reserve(number, &[(sku, some)])).await),
                6..=8 => drop(shard.run_with(store, confirm(number, None)).await),
                9 => drop(shard.run_with(store, confirm(number, part(&[(sku, few)], &request))).await),
                10 => drop(shard.run_with(store, release(number, None)).await),
                11 => drop(shard.run_with(store, release(number, part(&[(sku, few)], &request))).await),
                12 | 13 => drop(shard.run_with(store, give_back(number, &[(sku, few)], &request)).await),
                14 => drop(shard.run_with(store, extend(number, 60 * some)).await),
                15 => {
                    let request = name("restock", dice.below(200));
                    drop(shard.run_with(store, restock(sku, i64::from(some), &request)).await);
                }
                16 => {
                    let status = [StockStatus::OnSale, StockStatus::Suspended][dice.below(2)];
                    drop(shard.run_with(store, set_status(sku, status)).await);
                }
                17 => {
                    let (names, hot) = ([sku.as_str()], dice.below(2) == 0);
                    if shard.state.is_resident(&super::sku(sku)) {
                        shard.pin(&names, hot);
                    }
                }
                18..=20 => {
                    if dice.below(3) == 0 {
                        shard.expire_after(700);
                        shard.flush_all(store).await;
                    }
                    evicted += shard.evict(1 + dice.below(5));
                }
                21 => shard.expire_after(u64::from(20 * some)),
                _ => {
                    let most = [3, 40, 200][dice.below(3)];
                    let size = 1 + dice.below(most);
                    if shard.events.is_empty() {
                        continue;
                    }
                    if dice.below(3) == 0 {
                        // The answer was lost.
                        store.flush(shard.batch(size)).await.expect("it flushes");
                    }
                    let flushed = shard.flush(store, size).await.expect("it flushes");
                    assert_eq!(flushed.anomalies, 0);
                }
            }
        }
        assert_eq!(shard.flush_all(store).await.anomalies, 0);
        assert!(shard.state.audit().violations.is_empty(), "{:?}", shard.state.audit().violations);
        check(store, &shard).await;
    }
    assert!(evicted > 20, "{evicted}");
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
}

/// Its stock rows are left alone, its journal and orders go on, and so does everything else.
pub async fn a_row_changed_by_hand_parks_its_sku_alone(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    for name in ["a", "b", "c"] {
        shard.must(create(name, W1, 100));
    }
    shard.flush_all(&*store).await;
    subject.spoil(&sku("b"), 7).await;
    for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
        shard.must(reserve(&format!("o-{n}"), &[(name, 2)]));
        shard.must(confirm(&format!("o-{n}"), None));
    }
    shard.must(reserve("o-4", &[("a", 1), ("b", 1)]));
    let flushed = shard.flush_all(&*store).await;
    assert_eq!((flushed.anomalies, flushed.parked), (1, vec![sku("b")]));
    shard.must(confirm("o-4", None));
    let flushed = shard.flush_all(&*store).await;
    assert_eq!((flushed.anomalies, flushed.parked), (0, Vec::new()), "only once");

    let (count, parked) = store.parked(10).await.expect("it reads");
    assert_eq!((count, parked.len(), &parked[0].sku_id), (1, 1, &sku("b")));
    let (count, anomalies) = store.anomalies(10).await.expect("it reads");
    assert_eq!(
        (count, anomalies[0].kind.as_str(), &anomalies[0].sku_id),
        (1, "stock_changed", &Some(sku("b")))
    );
    assert_eq!(anomalies[0].source.map(|(shard, _)| shard), Some(shard.shard));
    let stock = |name: &'static str| {
        let store = &store;
        async move { store.stock(&sku(name), None).await.expect("it reads").rows[0].levels }
    };
    assert_eq!((stock("b").await.available, stock("b").await.version), (7, 1), "left alone");
    for name in ["a", "c"] {
        assert_eq!(stock(name).await, shard.made.stocks[&(sku(name), W1)].levels);
    }
    let journal = store.stock_journal(&sku("b"), &[], 100).await.expect("it reads").rows;
    let truth = shard.made.stocks[&(sku("b"), W1)].levels;
    assert_eq!(journal.last().map(|row| row.change.after), Some(truth), "the journal tells the truth");
    let loaded = load(&*store, &[sku("a"), sku("b")], &[order("o-1"), order("o-4")]).await;
    assert!(matches!(loaded.skus[&sku("a")], StoredSku::Sound(_)));
    assert!(matches!(loaded.skus[&sku("b")], StoredSku::Unsound(_)));
    for stored in loaded.orders {
        assert_eq!(Some(&stored.image), shard.made.orders.get(&stored.image.order_no));
    }
}

/// A row where there should be none is not written over.
pub async fn a_stock_that_is_there_parks_its_sku(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 100));
    shard.flush_all(&*store).await;
    // A second directory that knows nothing of it, as after a recovery that went wrong.
    let mut other = TestShard::stray(1);
    other.must(create("b", W1, 30));
    other.must(create("a", W2, 40));
    other.flush_all(&*store).await;
    let mut third = TestShard::stray(2);
    third.must(create("c", W1, 30));
    third.must(create("b", W1, 50));
    // The journal has that version already; it is written over, and both are noted.
    let flushed = third.flush_all(&*store).await;
    assert_eq!(flushed.parked, [sku("b")]);
    assert!(flushed.anomalies >= 1);
    assert_eq!(store.stock(&sku("b"), None).await.expect("it reads").rows[0].levels.available, 30);
    assert_eq!(store.stock(&sku("c"), None).await.expect("it reads").rows[0].levels.available, 30);
    assert_eq!(store.stock(&sku("a"), None).await.expect("it reads").rows.len(), 2);
}

/// An order is not written over by another one's changes, and its stocks go on.
pub async fn an_order_that_is_there_or_missing_is_noted(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shard = TestShard::new(1);
    shard.must(create("a", W1, 100));
    for number in ["o-1", "o-2", "o-3"] {
        shard.must(reserve(number, &[("a", 2)]));
    }
    shard.flush_all(&*store).await;
    subject.delete_order(&order("o-2")).await;
    for number in ["o-1", "o-2", "o-3"] {
        shard.must(confirm(number, None));
    }
    let flushed = shard.flush_all(&*store).await;
    assert_eq!((flushed.anomalies, flushed.parked.len()), (1, 0));
    let anomalies = store.anomalies(10).await.expect("it reads").1;
    assert_eq!((anomalies[0].kind.as_str(), &anomalies[0].order_no), ("order_missing", &Some(order("o-2"))));
    let loaded = load(&*store, &[sku("a")], &[order("o-1"), order("o-2"), order("o-3")]).await;
    assert_eq!(loaded.orders.len(), 2);
    for stored in loaded.orders {
        assert_eq!(Some(&stored.image), shard.made.orders.get(&stored.image.order_no));
    }
    assert!(matches!(loaded.skus[&sku("a")], StoredSku::Sound(_)));

    let mut other = TestShard::stray(1);
    other.must(create("b", W1, 10));
    other.must(reserve("o-1", &[("b", 3)]));
    other.must(reserve("o-5", &[("b", 1)]));
    let flushed = other.flush_all(&*store).await;
    assert_eq!(flushed.anomalies, 1);
    let anomalies = store.anomalies(10).await.expect("it reads").1;
    assert_eq!((anomalies[0].kind.as_str(), &anomalies[0].order_no), ("order_exists", &Some(order("o-1"))));
    let stocks = store.stock(&sku("b"), None).await.expect("it reads").rows;
    assert_eq!((stocks[0].levels.available, stocks[0].levels.reserved), (6, 4));
    assert!(load(&*store, &[], &[order("o-5")]).await.orders.len() == 1);
}

/// Each has its own watermark.
pub async fn shards_do_not_touch_each_other(subject: &dyn Subject) {
    let store = taken(subject).await;
    let mut shards: Vec<_> = (0..4).map(TestShard::stray).collect();
    for (number, shard) in shards.iter_mut().enumerate() {
        let name = format!("sku-{number}");
        shard.must(create(&name, W1, 1_000));
        for n in 0..200 {
            shard.must(reserve(&format!("{number}-{n}"), &[(&name, 1)]));
        }
    }
    let flushes = shards.into_iter().map(|mut shard| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            while !shard.events.is_empty() {
                shard.flush(&*store, 17).await.expect("it flushes");
            }
            shard
        })
    });
    let flushes: Vec<_> = flushes.collect();
    let mut shards = Vec::new();
    for flush in flushes {
        shards.push(flush.await.expect("it ends"));
    }
    for shard in shards {
        check(&*store, &shard).await;
    }
    let marks = store.ownership().await.expect("it answers").watermarks;
    assert_eq!(
        marks.iter().map(|mark| (mark.shard.0, mark.lsn.0)).collect::<Vec<_>>(),
        [(0, 201), (1, 201), (2, 201), (3, 201)]
    );
}

/// Numbers from a seed.
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        // The step and output of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % n as u64).expect("below n")
    }

    pub fn units(&mut self, n: u32) -> u32 {
        u32::try_from(self.below(n as usize)).expect("below n")
    }
}
