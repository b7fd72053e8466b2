//! What [`Store::flush`] must do and what is read of it afterwards, sentence by sentence of the contract in [`crate::store`]. An
//! implementation calls [`flush_suite!`](crate::flush_suite), which makes one test of every function here.

mod hot;
mod spanning;

use std::collections::BTreeMap;

pub use hot::{
    Hot, W1, W2, confirm, create, extend, give_back, lines, order, part, release, reserve, restock,
    set_status, sku,
};

pub use spanning::{
    a_home_comes_from_the_store, a_home_whose_number_is_there_is_left_alone,
    an_order_that_was_split_is_taken_in, any_batches_of_homes_give_the_same_rows, branches_that_left_ask,
    what_a_home_logs_is_taken_in,
};

use crate::checkpoint::{Image, OrderImage, Phase};
use crate::clock::Timestamp;
use crate::command::{Action, CreateStock, Line, Lines, Mode, Reserve, StockStatus};
use crate::event::Change;
use crate::ids::{Lsn, SkuId, WarehouseId};
use crate::outcome::{Answer, OrderView};
use crate::state::State;
use crate::store::{ColdOutcome, JournalRow, Moving, OrderFilter, Store, StoreError, Taken};

/// Makes one test of every function of the suite. `$store` is an async expression for a pair: whatever the store needs to live, and a
/// fresh store.
#[macro_export]
macro_rules! flush_suite {
    ($store:expr) => {
        $crate::flush_suite!(@tests $store;
            every_kind_of_event_is_taken_in
            a_repeat_changes_nothing
            a_batch_that_begins_elsewhere_is_told_where
            any_batches_give_the_same_rows
            an_order_that_is_there_is_left_alone
            two_tombstones_are_no_conflict
            a_number_that_is_used_again_is_a_conflict
            a_sku_of_another_is_fenced
            what_was_withdrawn_is_cold
            a_sku_goes_back_and_forth
            serial_numbers_go_on_hot_and_cold
            the_journal_comes_in_pages
            books_balance_page_by_page
            what_a_home_logs_is_taken_in
            any_batches_of_homes_give_the_same_rows
            an_order_that_was_split_is_taken_in
            branches_that_left_ask
            a_home_whose_number_is_there_is_left_alone
            a_home_comes_from_the_store
        );
    };
    (@tests $store:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let (_alive, store) = $store.await;
                $crate::testing::flush_suite::$name(&store).await;
            }
        )*
    };
}

/// The journal of a SKU, whole.
async fn journal(store: &dyn Store, sku_id: &SkuId) -> Vec<JournalRow> {
    store.stock_journal(sku_id, &[], 1_000_000).await.expect("it reads").rows
}

/// The journal of a stock has every version once, each row follows from the one before, and the last is the stock.
async fn check_stock(store: &dyn Store, sku_id: &SkuId) {
    let rows = journal(store, sku_id).await;
    for stock in store.stock(sku_id, None).await.expect("it reads") {
        let of_stock = rows.iter().filter(|row| row.change.warehouse_id == stock.view.warehouse_id);
        let mut levels = crate::outcome::Levels::default();
        for row in of_stock {
            let after = levels.after(row.change.delta);
            assert_eq!(after, Some(row.change.after), "{row:?} after {levels:?}");
            levels = row.change.after;
        }
        assert_eq!(levels, stock.view.levels, "SKU {sku_id}");
    }
}

/// The rows of these SKUs and orders are what the shard has, and their books balance.
async fn check(store: &dyn Store, hot: &Hot, stocks: &[(&str, WarehouseId)], orders: &[&str]) {
    for (name, warehouse_id) in stocks {
        let sku_id = sku(name);
        let image = hot.state.image_of_stock(&sku_id, *warehouse_id).expect("the shard has it");
        let rows = store.stock(&sku_id, Some(*warehouse_id)).await.expect("it reads");
        assert_eq!((rows[0].view.levels, rows[0].view.status), (image.levels, image.status), "SKU {name}");
        check_stock(store, &sku_id).await;
    }
    for number in orders {
        let image = hot.state.image_of_order(&order(number)).map(without_lsn);
        let stored = store.order(&order(number)).await.expect("it reads");
        assert_eq!(stored.map(|stored| without_lsn(stored.image)), image, "order {number}");
    }
    balance(store).await;
}

fn without_lsn(image: OrderImage) -> OrderImage {
    OrderImage { lsn: Lsn::ZERO, ..image }
}

/// Counted in every way, the store has the same units.
async fn balance(store: &dyn Store) {
    for books in store.books(None, 1_000_000).await.expect("it reads") {
        let levels = books.row.view.levels;
        let as_units = |units: u64| i64::try_from(units).expect("few units");
        let sums = [levels.available, levels.reserved, levels.sold].map(as_units);
        assert_eq!(books.journal, sums, "{books:?}");
        assert_eq!(
            (books.journal_rows, books.journal_version),
            (levels.version, levels.version),
            "{books:?}"
        );
        assert_eq!(books.journal_after, Some(levels), "{books:?}");
        assert_eq!(books.supplied, levels.quantity(), "{books:?}");
        assert_eq!((books.held_by_orders, books.sold_by_orders), (levels.reserved, levels.sold), "{books:?}");
    }
}

/// One of everything that a shard can log about stocks and orders.
fn one_of_everything(hot: &mut Hot) {
    hot.must(create("a", W1, 100));
    hot.must(create("a", W2, 5));
    hot.must(create("b", W1, 10));
    hot.must(restock("a", 20, "r-1"));
    hot.must(reserve("o-1", &[("a", 3), ("b", 2)]));
    hot.must(reserve("o-2", &[("a", 4)]));
    hot.must(reserve("o-3", &[("b", 50), ("a", 1)]));
    hot.must(reserve("o-4", &[("a", 5)]));
    hot.must(reserve("o-5", &[("a", 6)]));
    hot.must(confirm("o-1", part(&[("a", 2)], "c-1")));
    hot.must(confirm("o-1", None));
    hot.must(release("o-2", part(&[("a", 1)], "")));
    hot.must(extend("o-2", 86_400));
    hot.must(set_status("a", StockStatus::Suspended));
    hot.must(release("o-3", None));
    hot.must(set_status("a", StockStatus::OnSale));
    hot.must(give_back("o-1", &[("b", 1)], "back-1"));
    hot.must(release("o-9", None));
    hot.expire_after(700);
    hot.must(confirm("o-4", None));
}

const STOCKS: [(&str, WarehouseId); 3] = [("a", W1), ("a", W2), ("b", W1)];
const ORDERS: [&str; 6] = ["o-1", "o-2", "o-3", "o-4", "o-5", "o-9"];

/// Rows of all tables follow from the events.
pub async fn every_kind_of_event_is_taken_in(store: &dyn Store) {
    let mut hot = Hot::new(1);
    assert_eq!(store.watermark(hot.server, hot.shard).await, Ok(Lsn::ZERO));
    one_of_everything(&mut hot);
    let events = hot.events.clone();
    let flushed = hot.flush_all(store).await;
    assert_eq!(flushed.anomalies, 0);
    assert_eq!(store.watermark(hot.server, hot.shard).await, Ok(hot.last()));
    check(store, &hot, &STOCKS, &ORDERS).await;

    // The journal is that of the events, one by one.
    let mut levels = BTreeMap::new();
    let mut expected = Vec::new();
    for (lsn, event) in &events {
        let moves = event.stock_moves(|sku_id, w| levels.get(&(sku_id.clone(), w)).copied());
        for change in moves {
            levels.insert((change.sku_id.clone(), change.warehouse_id), change.after);
            let source = Some((hot.server, hot.shard, *lsn));
            expected.push(JournalRow { change, at: event.at, trace: event.trace, source });
        }
    }
    let key =
        |row: &JournalRow| (row.change.sku_id.clone(), row.change.warehouse_id, row.change.after.version);
    expected.sort_by_key(key);
    let mut rows = journal(store, &sku("a")).await;
    rows.extend(journal(store, &sku("b")).await);
    assert_eq!(rows, expected);

    // What was flushed later goes on from there.
    hot.must(give_back("o-1", &[("a", 2)], "back-2"));
    hot.must(confirm("o-2", None));
    hot.flush_all(store).await;
    check(store, &hot, &STOCKS, &ORDERS).await;
}

/// Whatever died when: the same batch again has no second effect.
pub async fn a_repeat_changes_nothing(store: &dyn Store) {
    let mut hot = Hot::new(1);
    one_of_everything(&mut hot);
    let first = store.flush(hot.batch(7)).await.expect("it flushes");
    assert_eq!(first.watermark, Lsn(7));
    for _ in 0..2 {
        let again = store.flush(hot.batch(7)).await.expect("it answers");
        assert_eq!((again.watermark, again.rows, again.anomalies), (Lsn(7), 0, 0));
    }
    // A larger one that begins where the first did.
    let again = store.flush(hot.batch(usize::MAX)).await.expect("it answers");
    assert_eq!((again.watermark, again.rows), (Lsn(7), 0));
    hot.move_to(Lsn(7));
    hot.flush_all(store).await;
    check(store, &hot, &STOCKS, &ORDERS).await;
}

/// Nothing is written of it.
pub async fn a_batch_that_begins_elsewhere_is_told_where(store: &dyn Store) {
    let mut hot = Hot::new(1);
    one_of_everything(&mut hot);
    hot.flush(store, 3).await.expect("it flushes");
    let mut later = hot.batch(usize::MAX);
    later.after = Lsn(5);
    later.events = &later.events[2..];
    let told = store.flush(later).await.expect("it answers");
    assert_eq!((told.watermark, told.rows), (Lsn(3), 0));

    // A gap, a start that is not the watermark's, and no events are refused whatever the watermark is.
    let mut wrong = hot.batch(usize::MAX);
    wrong.after = Lsn(4);
    assert!(matches!(store.flush(wrong).await, Err(StoreError::Inconsistent(_))));
    let none = crate::store::FlushBatch { events: &[], ..hot.batch(1) };
    assert!(matches!(store.flush(none).await, Err(StoreError::Inconsistent(_))));
    assert_eq!(store.watermark(hot.server, hot.shard).await, Ok(Lsn(3)));
    hot.flush_all(store).await;
    check(store, &hot, &STOCKS, &ORDERS).await;
}

/// Random events in random batches, some of them repeated, give the rows that the shard has.
pub async fn any_batches_give_the_same_rows(store: &dyn Store) {
    for seed in 0..3_u64 {
        let mut dice = Dice(seed + 1);
        let mut hot = Hot::new(u128::from(seed) + 10);
        let name = |kind: &str, n: u64| format!("{seed}-{kind}-{n}");
        let skus: Vec<_> = (0..4).map(|n| name("sku", n)).collect();
        let orders: Vec<_> = (0..60).map(|n| name("order", n)).collect();
        for sku in &skus {
            hot.must(create(sku, W1, 200));
        }
        for step in 0..400 {
            let (sku, other) = (&skus[dice.below(4)], &skus[dice.below(4)]);
            let number = &orders[dice.below(60)];
            let (some, few) = (1 + dice.units(5), 1 + dice.units(2));
            let request = name("request", step);
            let action = match dice.below(16) {
                0..=5 if sku != other => reserve(number, &[(sku, some), (other, few)]),
                0..=5 => reserve(number, &[(sku, some)]),
                6 | 7 => confirm(number, None),
                8 => confirm(number, part(&[(sku, few)], &request)),
                9 => release(number, None),
                10 => release(number, part(&[(sku, few)], &request)),
                11 => give_back(number, &[(sku, few)], &request),
                12 => extend(number, 60 * some),
                13 => restock(sku, i64::from(some), &name("restock", dice.below(200) as u64)),
                14 => set_status(sku, [StockStatus::OnSale, StockStatus::Suspended][dice.below(2)]),
                _ => {
                    hot.expire_after(u64::from(30 * some));
                    continue;
                }
            };
            // Refusals are part of it.
            let _ = hot.run(action);
        }
        while !hot.events.is_empty() {
            let most = [3, 40, 200][dice.below(3)];
            let size = 1 + dice.below(most);
            if dice.below(3) == 0 {
                // The answer was lost.
                store.flush(hot.batch(size)).await.expect("it flushes");
            }
            let flushed = hot.flush(store, size).await.expect("it flushes");
            assert_eq!(flushed.anomalies, 0);
        }
        let stocks: Vec<_> = skus.iter().map(|sku| (sku.as_str(), W1)).collect();
        let orders: Vec<_> = orders.iter().map(String::as_str).collect();
        check(store, &hot, &stocks, &orders).await;
    }
}

/// Its row stays, the stocks and the journal are written, the conflict is recorded once.
pub async fn an_order_that_is_there_is_left_alone(store: &dyn Store) {
    let (mut one, mut other) = (Hot::new(1), Hot::new(2));
    one.must(create("a", W1, 10));
    one.must(reserve("o-1", &[("a", 2)]));
    one.flush_all(store).await;
    other.must(create("b", W1, 10));
    other.must(reserve("o-1", &[("b", 3)]));
    other.must(reserve("o-2", &[("b", 1)]));
    let flushed = other.flush_all(store).await;
    assert_eq!(flushed.anomalies, 1);
    other.must(confirm("o-1", part(&[("b", 1)], "c-1")));
    other.must(extend("o-1", 1_000));
    assert_eq!(other.flush_all(store).await.anomalies, 0);
    other.must(release("o-1", None));
    other.must(confirm("o-2", None));
    assert_eq!(other.flush_all(store).await.anomalies, 0);
    one.must(confirm("o-1", None));
    one.flush_all(store).await;

    let stored = store.order(&order("o-1")).await.expect("it reads").expect("it is there");
    assert_eq!(Some(without_lsn(stored.image)), one.state.image_of_order(&order("o-1")).map(without_lsn));
    let stored = store.order(&order("o-2")).await.expect("it reads").expect("it is there");
    assert_eq!(Some(without_lsn(stored.image)), other.state.image_of_order(&order("o-2")).map(without_lsn));
    for (hot, name) in [(&one, "a"), (&other, "b")] {
        let image = hot.state.image_of_stock(&sku(name), W1).expect("it is there");
        assert_eq!(store.stock(&sku(name), None).await.expect("it reads")[0].view.levels, image.levels);
        check_stock(store, &sku(name)).await;
    }
    let (count, anomalies) = store.anomalies(10).await.expect("it reads");
    assert_eq!((count, anomalies.len()), (1, 1));
    assert_eq!(anomalies[0].kind, "order_exists");
    assert_eq!(anomalies[0].order_no, Some(order("o-1")));
    assert_eq!(anomalies[0].source, Some((other.server, other.shard, Lsn(2))));
}

/// Both say the same: nothing was ever held.
pub async fn two_tombstones_are_no_conflict(store: &dyn Store) {
    let (mut one, mut other) = (Hot::new(1), Hot::new(2));
    one.must(release("o-1", None));
    one.flush_all(store).await;
    other.must(release("o-1", None));
    assert_eq!(other.flush_all(store).await.anomalies, 0);
    let stored = store.order(&order("o-1")).await.expect("it reads").expect("it is there");
    assert_eq!(stored.image.phase, Phase::Cancelled);
    assert_eq!(store.anomalies(10).await.expect("it reads").0, 0);
}

/// A shard lets go of an order and its number comes again, even within one batch.
pub async fn a_number_that_is_used_again_is_a_conflict(store: &dyn Store) {
    let mut hot = Hot::new(1);
    hot.must(create("a", W1, 10));
    hot.must(reserve("o-1", &[("a", 2)]));
    hot.must(restock("a", 1, "r-1"));
    hot.must(confirm("o-1", None));
    let first = hot.state.image_of_order(&order("o-1")).map(without_lsn);
    hot.forget_orders(&[(sku("a"), W1)]);
    hot.must(reserve("o-1", &[("a", 1)]));
    hot.must(restock("a", 1, "r-1"));
    hot.must(release("o-1", None));
    assert_eq!(hot.flush_all(store).await.anomalies, 1);
    let stored = store.order(&order("o-1")).await.expect("it reads").expect("it is there");
    assert_eq!(Some(without_lsn(stored.image)), first);
    check_stock(store, &sku("a")).await;
    balance(store).await;
}

/// Nothing is written, the watermark stays, and the store remembers that it happened.
pub async fn a_sku_of_another_is_fenced(store: &dyn Store) {
    let (mut one, mut other) = (Hot::new(1), Hot::new(2));
    one.must(create("a", W1, 10));
    one.flush_all(store).await;
    other.must(create("b", W1, 10));
    other.must(reserve("o-1", &[("b", 1)]));
    other.flush_all(store).await;
    // As a server that was given up and does not know it.
    let image = one.state.image_of_stock(&sku("a"), W1).expect("it is there");
    other.state.restore(vec![Image::Stock(image)]).expect("it has no such stock");
    other.must(reserve("o-2", &[("b", 1)]));
    other.must(reserve("o-3", &[("a", 1)]));
    let before = other.flushed;
    for _ in 0..2 {
        let refused = other.flush(store, usize::MAX).await;
        assert_eq!(refused, Err(StoreError::Fenced { sku_id: sku("a") }));
    }
    assert_eq!(store.watermark(other.server, other.shard).await, Ok(before));
    assert_eq!(store.order(&order("o-2")).await, Ok(None));
    let (count, anomalies) = store.anomalies(10).await.expect("it reads");
    assert_eq!((count, anomalies[0].kind.as_str(), &anomalies[0].sku_id), (1, "fenced", &Some(sku("a"))));
    check_stock(store, &sku("a")).await;
    check_stock(store, &sku("b")).await;
}

/// The flushed withdrawal makes the store the owner, which expires what was left open.
pub async fn what_was_withdrawn_is_cold(store: &dyn Store) {
    let mut hot = Hot::new(1);
    hot.must(create("a", W1, 10));
    hot.must(create("b", W1, 10));
    hot.must(reserve("o-1", &[("a", 2)]));
    hot.must(reserve("o-2", &[("a", 3)]));
    hot.must(reserve("o-3", &[("b", 1)]));
    hot.must(confirm("o-2", None));
    hot.flush_all(store).await;
    let due = hot.now.plus_seconds(3_600);
    let elsewhere = store.submit(&confirm("o-1", None).into(), hot.now).await.expect("it answers");
    assert!(matches!(elsewhere, ColdOutcome::Elsewhere(_)), "{elsewhere:?}");

    hot.log(Change::Closed { skus: vec![sku("a")] });
    hot.log(Change::Shed { sku_id: sku("a"), orders: vec![order("o-1"), order("o-2")], sold: Vec::new() });
    hot.flush_all(store).await;
    // Not yet: the shard is the owner. A sweeper that meets the order here must not lose it.
    assert_eq!(store.expire(due, 100, false).await.expect("it looks").expired, 0);
    hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: 0 });
    hot.flush_all(store).await;
    let owners: Vec<_> =
        store.stock(&sku("a"), None).await.expect("it reads").iter().map(|row| row.owner).collect();
    assert_eq!(owners, [None]);
    assert!(store.stock(&sku("b"), None).await.expect("it reads")[0].owner.is_some());

    let expired = store.expire(due, 100, false).await.expect("it looks");
    assert_eq!(expired.expired, 1, "{expired:?}");
    let done = store.submit(&confirm("o-1", None).into(), due.plus_seconds(1)).await.expect("it answers");
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    check_stock(store, &sku("a")).await;
    balance(store).await;

    // Withdrawn once more it is not the shard's to give.
    hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: 0 });
    assert_eq!(hot.flush(store, 10).await, Err(StoreError::Fenced { sku_id: sku("a") }));
}

/// Cold, hot, cold, hot: one journal without gap, and every order is known.
pub async fn a_sku_goes_back_and_forth(store: &dyn Store) {
    let mut now = Timestamp(1_800_000_000_000);
    let mut lsn = Lsn::ZERO;
    let done = store.submit(&create("a", W1, 1_000).into(), now).await.expect("it answers");
    assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
    for round in 0..4_u64 {
        // An order that stays open through the moves, and one that ends hot.
        for number in [format!("cold-{round}"), format!("both-{round}")] {
            now = now.plus_millis(1);
            let done = store.submit(&reserve(&number, &[("a", 2)]).into(), now).await.expect("it answers");
            assert!(matches!(done, ColdOutcome::Done { outcome: Ok(_), .. }), "{done:?}");
        }
        let mut hot = Hot::new(1);
        let taken = store.take(&[sku("a")], hot.server, hot.shard).await.expect("it takes");
        let [Taken::Owned { epoch, stocks }] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(*epoch, round + 1);
        let moving =
            Moving { sku_id: sku("a"), server: hot.server, shard: hot.shard, since: Timestamp::default() };
        let orders = store.orders_of(&moving, None, 1_000).await.expect("it reads");
        let numbers: Vec<_> = orders.iter().map(|order| order.order_no.as_str()).collect();
        assert_eq!(numbers.len() as u64, 3 * round + 2, "{numbers:?}");
        let begun = Change::AdoptionBegun { sku_id: sku("a"), epoch: *epoch, stocks: stocks.clone() };
        let adopted =
            Change::OrdersAdopted { sku_id: Some(sku("a")), orders: orders.clone(), requests: Vec::new() };
        let images = stocks.iter().cloned().map(Image::Stock).chain(orders.into_iter().map(Image::Order));
        (hot.flushed, hot.now) = (lsn, now);
        hot.state = State::of_images(lsn, now, images.collect()).expect("each once");
        for change in [begun, adopted, Change::Adopted { sku_id: sku("a") }] {
            hot.log(change);
        }
        hot.must(confirm(&format!("both-{round}"), None));
        hot.must(reserve(&format!("hot-{round}"), &[("a", 1)]));
        hot.must(restock("a", 1, &format!("r-{round}")));
        hot.log(Change::Closed { skus: vec![sku("a")] });
        hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: *epoch });
        while !hot.events.is_empty() {
            hot.flush(store, 3).await.expect("it flushes");
        }
        (lsn, now) = (hot.flushed, hot.now);
    }
    check_stock(store, &sku("a")).await;
    balance(store).await;
    let stored = store.order(&order("hot-0")).await.expect("it reads").expect("it is there");
    assert_eq!(stored.owners, [None]);
    assert_eq!(store.anomalies(1).await.expect("it reads").0, 0);
}

/// Numbers are given once in all warehouses together, wherever the SKU is, and stay with orders and journal.
pub async fn serial_numbers_go_on_hot_and_cold(store: &dyn Store) {
    let mut hot = Hot::new(1);
    for warehouse_id in [W1, W2] {
        hot.must(Action::CreateStock(CreateStock {
            sku_id: sku("a"),
            warehouse_id,
            quantity: 20,
            serialized: true,
        }));
    }
    let both = |number: &str, one: u32, two: u32| {
        let line = |warehouse_id, quantity| Line { sku_id: sku("a"), warehouse_id, quantity };
        let lines = Lines::new([line(W1, one), line(W2, two)]).expect("two small lines");
        let (buyer_id, mode) = (None, Mode::AllOrNothing);
        Action::Reserve(Reserve {
            order_no: order(number),
            lines,
            ttl_seconds: 600,
            buyer_id,
            mode,
            choice: None,
        })
    };
    for (number, one, two) in [("o-1", 3, 2), ("o-2", 1, 1), ("o-3", 1, 4)] {
        hot.must(both(number, one, two));
    }
    hot.must(confirm("o-1", part(&[("a", 2)], "c-1")));
    hot.must(confirm("o-2", None));
    hot.must(confirm("o-1", None));
    hot.must(give_back("o-1", &[("a", 1)], "back-1"));
    while !hot.events.is_empty() {
        hot.flush(store, 3).await.expect("it flushes");
    }
    check(store, &hot, &[("a", W1), ("a", W2)], &["o-1", "o-2", "o-3"]).await;
    hot.log(Change::Closed { skus: vec![sku("a")] });
    hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: 0 });
    hot.flush_all(store).await;
    let cold = store.submit(&confirm("o-3", None).into(), hot.now).await.expect("it answers");
    let ColdOutcome::Done { outcome: Ok(Answer::Order { order: view, .. }), changed } = cold else {
        panic!("{cold:?}")
    };
    let given = |view: &OrderView| -> Vec<(u64, u64)> {
        let serials = view.lines.iter().filter_map(|line| line.serials.as_deref()).flatten();
        serials.map(|serials| (serials.from, serials.to)).collect()
    };
    // 1 and 2, then 3 and 4, then 5 to 7 were given hot.
    assert_eq!(given(&view), [(8, 8), (9, 12)]);
    assert!(changed.iter().all(|stock| stock.serialized));
    let listed = store.list(&OrderFilter::default(), None, 9).await.expect("it reads");
    let given: BTreeMap<_, _> = listed.iter().map(|view| (view.order_no.as_str(), given(view))).collect();
    let expected = [
        ("o-1", vec![(1, 2), (5, 5), (6, 7)]),
        ("o-2", vec![(3, 3), (4, 4)]),
        ("o-3", vec![(8, 8), (9, 12)]),
    ];
    assert_eq!(given, BTreeMap::from(expected));
    let rows = journal(store, &sku("a")).await;
    let mut serials: Vec<_> =
        rows.iter().filter_map(|row| row.change.serials).flat_map(|s| s.from..=s.to).collect();
    serials.sort_unstable();
    assert_eq!(serials, (1..=12).collect::<Vec<_>>());
    let taken = store.take(&[sku("a")], hot.server, hot.shard).await.expect("it takes");
    let [Taken::Owned { stocks, .. }] = &taken[..] else { panic!("{taken:?}") };
    let numbered: Vec<_> = stocks.iter().map(|stock| stock.numbered).collect();
    assert_eq!(numbered, [Some(5), Some(7)]);
}

/// Each warehouse from its version on, and the watermark with it.
pub async fn the_journal_comes_in_pages(store: &dyn Store) {
    let mut hot = Hot::new(1);
    hot.must(create("a", W1, 100));
    for n in 0..10 {
        hot.must(restock("a", 1, &format!("r-{n}")));
    }
    for warehouse in 2..=70 {
        hot.must(create("a", WarehouseId(warehouse), 5));
    }
    hot.flush_all(store).await;
    let page = store.stock_journal(&sku("a"), &[], 4).await.expect("it reads");
    assert_eq!(page.watermark, hot.last());
    assert_eq!(page.owner.map(|owner| (owner.server, owner.shard)), Some((hot.server, hot.shard)));
    let place = |row: &JournalRow| (row.change.warehouse_id.0, row.change.after.version);
    let places: Vec<_> = page.rows.iter().map(place).collect();
    let expected = (1..=4).map(|version| (1, version)).chain((2..=70).map(|warehouse| (warehouse, 1)));
    assert_eq!(places, expected.collect::<Vec<_>>());

    let after: Vec<_> = (1..=69).map(|w| (WarehouseId(w), if w == 1 { 9 } else { 1 })).collect();
    let page = store.stock_journal(&sku("a"), &after, 100).await.expect("it reads");
    assert_eq!(page.rows.iter().map(place).collect::<Vec<_>>(), [(1, 10), (1, 11), (70, 1)]);
    let nothing = store.stock_journal(&sku("z"), &[], 100).await.expect("it reads");
    assert_eq!((nothing.rows.len(), nothing.owner, nothing.watermark), (0, None, Lsn::ZERO));
}

/// Pages of books are by SKU, and a stock whose rows are right is not repaired.
pub async fn books_balance_page_by_page(store: &dyn Store) {
    let mut hot = Hot::new(1);
    one_of_everything(&mut hot);
    hot.must(create("c", W1, 0));
    hot.flush_all(store).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.books(after.as_ref(), 2).await.expect("it reads");
        let Some(last) = page.last() else { break };
        after = Some(last.row.view.sku_id.clone());
        seen.extend(
            page.iter().map(|books| (books.row.view.sku_id.to_string(), books.row.view.warehouse_id)),
        );
    }
    let expected = [("a", W1), ("a", W2), ("b", W1), ("c", W1)].map(|(name, w)| (name.to_owned(), w));
    assert_eq!(seen, expected);
    balance(store).await;
    hot.log(Change::Withdrawn { sku_id: sku("a"), epoch: 0 });
    hot.flush_all(store).await;
    for name in ["a", "b", "unknown"] {
        assert_eq!(store.repair(&sku(name), W1, hot.now).await, Ok(None), "{name}");
    }
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        // The step and output of splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % n as u64).expect("below n")
    }

    fn units(&mut self, n: u32) -> u32 {
        u32::try_from(self.below(n as usize)).expect("below n")
    }
}
