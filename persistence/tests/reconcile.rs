//! Reconcile over the real store, with rows that somebody broke: what it tells, and what it puts right. The shard is a state machine
//! that is flushed by hand.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hotstock_engine::checkpoint::StockImage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Action;
use hotstock_engine::ids::{ServerId, SkuId, WarehouseId};
use hotstock_engine::mirror::{Mirror, Put};
use hotstock_engine::outcome::{Levels, Refusal, StockView};
use hotstock_engine::reconcile::{
    Cause, Check, Difference, Live, Reconcile, Reconciled, Remedy, Side, Value, reconcile,
};
use hotstock_engine::store::{ColdOutcome, Store};
use hotstock_engine::testing::flush_suite::{
    Hot, W1, W2, confirm, create, give_back, order, release, reserve, restock, sku,
};
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::{MariaDb, RedisServer};
use sqlx::Connection;
use tokio::sync::Mutex;

/// A server: its store, one shard, what it would mirror.
struct House {
    url: String,
    store: SqlStore,
    shard: Mutex<Shard>,
    /// The follower does not get on.
    stuck: AtomicBool,
    marked: std::sync::Mutex<Vec<StockView>>,
    redis: Option<RedisServer>,
}

struct Shard {
    hot: Hot,
    views: BTreeMap<(SkuId, WarehouseId), StockView>,
}

impl House {
    async fn new(url: String) -> Self {
        let store = SqlStore::open(&SqlOptions::new(url.clone()), ServerId(1), 1).unwrap();
        let house = Self {
            url,
            store,
            shard: Mutex::new(Shard { hot: Hot::new(1), views: BTreeMap::new() }),
            stuck: AtomicBool::new(false),
            marked: std::sync::Mutex::default(),
            redis: None,
        };
        // Two cold SKUs and a hot one, each with orders of every kind.
        for action in trade("cold", "c") {
            house.cold(action).await;
        }
        house.cold(create("other", W1, 7)).await;
        for action in trade("hot", "h") {
            house.hot(action).await;
        }
        house.shard.lock().await.hot.flush_all(&house.store).await;
        house
    }

    async fn cold(&self, action: Action) {
        let outcome = self.store.submit(&action.into(), self.now()).await.unwrap();
        assert!(matches!(outcome, ColdOutcome::Done { outcome: Ok(_), .. }), "{outcome:?}");
    }

    async fn hot(&self, action: Action) {
        let mut shard = self.shard.lock().await;
        shard.hot.must(action);
        for name in ["hot", "later"] {
            for warehouse_id in [W1, W2] {
                if let Some(image) = shard.hot.state.image_of_stock(&sku(name), warehouse_id) {
                    let view = view_of(&image);
                    shard.views.insert((view.sku_id.clone(), view.warehouse_id), view);
                }
            }
        }
    }

    /// What somebody does with a database client.
    async fn tamper(&self, sql: &'static str) {
        let changed = if self.url.starts_with("sqlite:") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap().rows_affected()
        } else {
            let mut connection = sqlx::MySqlConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap().rows_affected()
        };
        assert_eq!(changed, 1, "{sql}");
    }

    async fn reconcile(&self, fix: bool) -> Reconciled {
        let mirror = self.redis.as_ref().map(|redis| -> Arc<dyn Mirror> { Arc::new(access(redis)) });
        let ask = Reconcile { after: None, limit: 100, fix, mirror };
        reconcile(self, Some(&self.store), &ask).await.unwrap()
    }

    /// The one difference that is told; twice, because telling changes nothing.
    async fn only(&self) -> Difference {
        let found = self.reconcile(false).await;
        assert_eq!(found.differences.len(), 1, "{:#?}", found.differences);
        assert!(found.repaired.is_empty());
        assert_eq!(self.reconcile(false).await, found);
        found.differences.into_iter().next().unwrap()
    }

    async fn is_right(&self) {
        let found = self.reconcile(false).await;
        assert_eq!((found.skus, &found.differences[..]), (3, &[][..]));
        assert!(found.unsettled.is_empty() && found.next.is_none() && found.mirror_error.is_none());
    }

    /// `fix` finds it as `only` did, and does nothing about it.
    async fn is_not_fixed(&self) {
        let before = self.only().await;
        let fixed = self.reconcile(true).await;
        assert_eq!((&fixed.differences[..], fixed.repaired.len()), (&[before.clone()][..], 0));
        assert_eq!(self.only().await, before);
    }
}

#[async_trait]
impl Live for House {
    fn views(&self, after: Option<&SkuId>, limit: usize) -> Vec<Vec<StockView>> {
        let shard = self.shard.try_lock().unwrap();
        let from =
            after.map_or(Bound::Unbounded, |sku| Bound::Excluded((sku.clone(), WarehouseId(u32::MAX))));
        let mut page: Vec<Vec<StockView>> = Vec::new();
        for view in shard.views.range((from, Bound::Unbounded)).map(|(_, view)| view.clone()) {
            if page.last().is_none_or(|last| last[0].sku_id != view.sku_id) {
                page.push(Vec::new());
            }
            page.last_mut().unwrap().push(view);
        }
        page.truncate(limit);
        page
    }

    fn view(&self, sku_id: &SkuId, warehouse_id: WarehouseId) -> Option<StockView> {
        self.shard.try_lock().unwrap().views.get(&(sku_id.clone(), warehouse_id)).cloned()
    }

    async fn stock(&self, sku_id: &SkuId) -> Result<Vec<StockView>, Refusal> {
        let shard = self.shard.lock().await;
        let hot: Vec<_> = shard.views.values().filter(|view| view.sku_id == *sku_id).cloned().collect();
        if !hot.is_empty() {
            return Ok(hot);
        }
        let rows = self.store.stock(sku_id, None).await.unwrap();
        Ok(rows.into_iter().map(|row| row.view).collect())
    }

    async fn stock_page(&self, _: Option<&SkuId>, _: usize) -> Result<Vec<Vec<StockView>>, Refusal> {
        unreachable!("there is a store")
    }

    async fn flushed(&self) -> bool {
        if self.stuck.load(Ordering::SeqCst) {
            return false;
        }
        let mut shard = self.shard.lock().await;
        if !shard.hot.events.is_empty() {
            shard.hot.flush_all(&self.store).await;
        }
        true
    }

    fn mark(&self, stock: StockView) {
        self.marked.lock().unwrap().push(stock);
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000)
    }
}

fn view_of(image: &StockImage) -> StockView {
    let StockImage { sku_id, warehouse_id, levels, status, .. } = image;
    StockView {
        sku_id: sku_id.clone(),
        warehouse_id: *warehouse_id,
        levels: *levels,
        status: *status,
        serialized: false,
    }
}

/// 100 units and 5 more, 10 reserved by two orders, 6 sold and 2 of those returned, 3 released.
fn trade(name: &str, prefix: &str) -> Vec<Action> {
    let number = |n: u32| format!("{prefix}-{n}");
    vec![
        create(name, W1, 100),
        create(name, W2, 50),
        restock(name, 5, "r-1"),
        reserve(&number(1), &[(name, 4)]),
        reserve(&number(2), &[(name, 6)]),
        reserve(&number(3), &[(name, 6)]),
        confirm(&number(3), None),
        give_back(&number(3), &[(name, 2)], "back"),
        reserve(&number(4), &[(name, 3)]),
        release(&number(4), None),
    ]
}

/// The stock of `trade` in the first warehouse.
const TRADED: Levels = Levels { available: 91, reserved: 10, sold: 4, version: 9 };

fn access(redis: &RedisServer) -> MirrorAccess {
    MirrorAccess::new(MirrorOptions { redis_url: redis.url(), ..MirrorOptions::default() }).unwrap()
}

async fn a_row_is_put_right_by_its_journal(house: &House) {
    house.is_right().await;
    house.tamper("UPDATE stock SET available = 1000 WHERE sku_id = 'cold' AND warehouse_id = 1").await;
    let wrong = Levels { available: 1000, ..TRADED };
    let told = house.only().await;
    assert_eq!((told.sku_id.as_str(), told.warehouse_id, told.check), ("cold", W1, Check::Row));
    assert_eq!(told.expected, (Side::Journal, Value::Levels(TRADED)));
    assert_eq!(told.found, (Side::Row, Value::Levels(wrong)));
    assert_eq!((told.remedy, &told.causes[..]), (Remedy::RowFromJournal, &[][..]));

    let fixed = house.reconcile(true).await;
    assert_eq!(fixed.differences, [told]);
    let after = Levels { version: 10, ..TRADED };
    let repaired: Vec<_> =
        fixed.repaired.iter().map(|r| (r.side, r.before.clone(), r.after.clone())).collect();
    assert_eq!(repaired, [(Side::Row, Value::Levels(wrong), Value::Levels(after))]);
    let marked: Vec<_> = house.marked.lock().unwrap().drain(..).map(|stock| stock.levels).collect();
    assert_eq!(marked, [after], "the mirror is told");
    let journal = house.store.stock_journal(&sku("cold"), &[(W1, 9), (W2, 9)], 5).await.unwrap();
    let told: Vec<_> = journal.rows.iter().map(|row| (row.change.kind.name(), row.change.after)).collect();
    assert_eq!(told, [("repaired", after)]);
    house.is_right().await;
    house.cold(reserve("c-9", &[("cold", 1)])).await;
    house.is_right().await;
}

async fn a_row_that_lacks_changes_says_since_when(house: &House) {
    house
        .tamper(
            "UPDATE stock SET available = 95, reserved = 10, sold = 0, version = 4 WHERE sku_id = 'cold' AND warehouse_id = 1",
        )
        .await;
    let told = house.only().await;
    assert_eq!((told.check, told.causes), (Check::Row, vec![Cause::Behind(4)]));
    assert_eq!(house.reconcile(true).await.repaired.len(), 1);
    house.is_right().await;
    house.tamper("UPDATE stock SET supplied = 1 WHERE sku_id = 'other'").await;
    let told = house.only().await;
    assert_eq!((told.check, told.remedy), (Check::Supplied, Remedy::RowFromJournal));
    house.reconcile(true).await;
    house.is_right().await;
}

async fn the_row_of_a_hot_stock_is_put_right_too(house: &House) {
    house.tamper("UPDATE stock SET sold = 50 WHERE sku_id = 'hot' AND warehouse_id = 1").await;
    let told = house.only().await;
    assert_eq!((told.check, told.remedy), (Check::Row, Remedy::RowFromJournal));
    let fixed = house.reconcile(true).await;
    assert_eq!(fixed.repaired.len(), 1);
    assert_eq!(fixed.repaired[0].after, Value::Levels(TRADED), "its versions are the shard's");
    let (count, anomalies) = house.store.anomalies(10).await.unwrap();
    assert_eq!((count, anomalies[0].kind.as_str()), (1, "repaired"), "{anomalies:?}");
    house.is_right().await;
    house.hot(reserve("h-9", &[("hot", 1)])).await;
    house.is_right().await;
    assert_eq!(house.store.anomalies(10).await.unwrap().0, 1, "the flush went on as if nothing had been");
}

async fn a_broken_journal_repairs_nothing(house: &House) {
    house.tamper("DELETE FROM stock_journal WHERE sku_id = 'cold' AND warehouse_id = 2").await;
    let told = house.only().await;
    assert_eq!((told.check, told.found.0, told.remedy), (Check::Row, Side::Row, Remedy::ByHand));
    house.is_not_fixed().await;
}

async fn a_journal_says_where_it_breaks(house: &House) {
    // Of no units, so that only the gap is told.
    house.hot(restock("hot", 5, "r-2")).await;
    house.hot(Action::SetStatus(suspend("hot"))).await;
    house.hot(restock("hot", 5, "r-3")).await;
    house.is_right().await;
    house
        .tamper("DELETE FROM stock_journal WHERE sku_id = 'hot' AND warehouse_id = 1 AND version = 11")
        .await;
    let told = house.only().await;
    assert_eq!((told.check, told.causes), (Check::JournalGap, vec![Cause::NoVersion(11)]));
    house.is_not_fixed().await;
}

async fn a_journal_says_where_it_parts(house: &House) {
    house
        .tamper("UPDATE stock_journal SET d_available = 7 WHERE sku_id = 'cold' AND warehouse_id = 1 AND version = 2")
        .await;
    let told = house.only().await;
    assert_eq!((told.check, told.causes), (Check::JournalSum, vec![Cause::Parts(2)]));
    house.is_not_fixed().await;
}

async fn the_order_behind_it_is_named(house: &House) {
    house.tamper("UPDATE order_lines SET held = 5 WHERE order_no = 'c-1'").await;
    let told = house.only().await;
    assert_eq!((told.check, &told.expected), (Check::Held, &(Side::Journal, Value::Units(10))));
    assert_eq!(told.found, (Side::Orders, Value::Units(11)));
    assert_eq!(told.causes, [Cause::Order { order_no: order("c-1"), line: 5, journal: 4 }]);
    house.is_not_fixed().await;
    house.tamper("UPDATE order_lines SET held = 4 WHERE order_no = 'c-1'").await;
    house.is_right().await;

    house.tamper("DELETE FROM order_lines WHERE order_no = 'h-3'").await;
    let told = house.only().await;
    assert_eq!((told.check, told.sku_id.as_str()), (Check::Sold, "hot"));
    assert_eq!(told.causes, [Cause::Order { order_no: order("h-3"), line: 0, journal: 4 }]);
}

/// The store had an order of the number already when the shard was flushed: its own line is not written.
async fn the_anomaly_behind_it_is_named(house: &House) {
    house.hot(reserve("c-1", &[("hot", 2)])).await;
    assert!(house.flushed().await);
    let told = house.only().await;
    assert_eq!((told.check, told.sku_id.as_str()), (Check::Held, "hot"));
    assert_eq!(told.causes[0], Cause::Order { order_no: order("c-1"), line: 0, journal: 2 });
    let Cause::Anomaly(anomaly) = &told.causes[1] else { panic!("{:?}", told.causes) };
    assert_eq!((anomaly.kind.as_str(), &anomaly.order_no), ("order_exists", &Some(order("c-1"))));
}

async fn what_is_not_flushed_yet_is_no_difference(house: &House) {
    house.hot(create("later", W1, 3)).await;
    house.hot(reserve("h-9", &[("hot", 1)])).await;
    house.stuck.store(true, Ordering::SeqCst);
    let found = house.reconcile(false).await;
    assert_eq!((found.differences.len(), found.unsettled), (0, vec![sku("hot"), sku("later")]));
    house.stuck.store(false, Ordering::SeqCst);
    let found = house.reconcile(false).await;
    assert_eq!((found.skus, found.differences.len(), found.unsettled.len()), (4, 0, 0));
}

async fn a_shard_and_the_journal_are_compared_at_one_version(house: &House) {
    house
        .tamper("UPDATE stock_journal SET d_sold = 9, sold = 9 WHERE sku_id = 'hot' AND warehouse_id = 2")
        .await;
    house.tamper("UPDATE stock SET sold = 9, supplied = 59 WHERE sku_id = 'hot' AND warehouse_id = 2").await;
    let found = house.reconcile(true).await;
    let told: Vec<_> = found.differences.iter().map(|d| (d.check, d.expected.0, d.remedy)).collect();
    let by_hand = Remedy::ByHand;
    assert_eq!(told, [(Check::Sold, Side::Journal, by_hand), (Check::Shard, Side::Shard, by_hand)]);
    assert!(found.repaired.is_empty());
}

async fn a_stock_without_row_is_told(house: &House) {
    house.tamper("DELETE FROM stock WHERE sku_id = 'hot' AND warehouse_id = 2").await;
    let told = house.only().await;
    assert_eq!((told.check, told.warehouse_id, told.found), (Check::Shard, W2, (Side::Row, Value::Missing)));
    house.is_not_fixed().await;
}

async fn pages_go_through_all_skus(house: &House) {
    house.hot(create("later", W1, 3)).await;
    house.tamper("UPDATE stock SET available = 8, supplied = 8 WHERE sku_id = 'other'").await;
    let mut ask = Reconcile { limit: 1, ..Reconcile::default() };
    let mut pages = Vec::new();
    loop {
        let found = reconcile(house, Some(&house.store), &ask).await.unwrap();
        pages.push((found.skus, found.differences.len()));
        ask.after = found.next;
        if ask.after.is_none() {
            break;
        }
    }
    // cold; hot, and later, which the store did not have when it was read; other.
    assert_eq!(pages.iter().map(|(_, differences)| differences).sum::<usize>(), 2, "{pages:?}");
    assert_eq!(pages.iter().map(|(skus, _)| skus).sum::<u64>(), 4, "{pages:?}");
}

fn suspend(name: &str) -> hotstock_engine::command::SetStatus {
    let status = hotstock_engine::command::StockStatus::Suspended;
    hotstock_engine::command::SetStatus { sku_id: sku(name), warehouse_id: None, status }
}

macro_rules! on_both {
    ($($name:ident)+) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(&super::House::new(format!("sqlite:{}", dir.path().join("store").display())).await).await;
            })+
        }

        mod on_mariadb {
            /// One server for all: it takes seconds to start.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn all() {
                let server = super::MariaDb::start();
                $(
                    println!("{}", stringify!($name));
                    super::$name(&super::House::new(server.url(stringify!($name))).await).await;
                )+
            }
        }
    };
}

on_both! {
    a_row_is_put_right_by_its_journal
    a_row_that_lacks_changes_says_since_when
    the_row_of_a_hot_stock_is_put_right_too
    a_broken_journal_repairs_nothing
    a_journal_says_where_it_breaks
    a_journal_says_where_it_parts
    the_order_behind_it_is_named
    the_anomaly_behind_it_is_named
    what_is_not_flushed_yet_is_no_difference
    a_shard_and_the_journal_are_compared_at_one_version
    a_stock_without_row_is_told
    pages_go_through_all_skus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_put_right_as_callers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    house.redis = Some(RedisServer::start());
    let redis = access(house.redis.as_ref().unwrap());
    let put = async |name: &str, warehouse_id, change: fn(&mut Levels)| {
        let mut stock = house.stock(&sku(name)).await.unwrap();
        stock.retain(|stock| stock.warehouse_id == warehouse_id);
        change(&mut stock[0].levels);
        redis.put(&[Put { stock: stock.remove(0), over: None }]).await.unwrap();
    };
    put("cold", W1, |levels| levels.available += 1).await;
    put("cold", W2, |levels| (levels.version, levels.sold) = (900, 3)).await;
    put("hot", W1, |levels| levels.version -= 1).await;
    put("hot", W2, |levels| (levels.version, levels.sold) = (900, 3)).await;
    let found = house.reconcile(false).await;
    let told = |found: &Reconciled| -> Vec<(String, u32, Check, Side, Remedy)> {
        let one = |d: &Difference| (d.sku_id.to_string(), d.warehouse_id.0, d.check, d.expected.0, d.remedy);
        found.differences.iter().map(one).collect()
    };
    let mirror = |name: &str, warehouse, side| {
        (name.to_owned(), warehouse, Check::Mirror, side, Remedy::MirrorFromStock)
    };
    let expected = [
        mirror("cold", 1, Side::Row),
        mirror("cold", 2, Side::Row),
        mirror("hot", 1, Side::Shard),
        mirror("hot", 2, Side::Shard),
        mirror("other", 1, Side::Row),
    ];
    assert_eq!(told(&found), expected);
    assert_eq!(found.differences[4].found, (Side::Mirror, Value::Missing));
    let fixed = house.reconcile(true).await;
    assert_eq!((fixed.differences, fixed.repaired.len()), (found.differences, 5));
    house.is_right().await;

    // A row that is wrong, and the mirror with it: the row is put right first, the mirror then as it is.
    house.tamper("UPDATE stock SET available = 1000 WHERE sku_id = 'cold' AND warehouse_id = 1").await;
    put("cold", W1, |_| {}).await;
    assert_eq!(house.only().await.check, Check::Row);
    let fixed = house.reconcile(true).await;
    assert_eq!(fixed.repaired.iter().map(|r| r.side).collect::<Vec<_>>(), [Side::Row, Side::Mirror]);
    house.is_right().await;

    // A SKU of another server: its shard may have mirrored what is not flushed yet.
    house.tamper("UPDATE stock SET owner_server = 'ff', owner_shard = 0 WHERE sku_id = 'other'").await;
    put("other", W1, |levels| (levels.version, levels.sold) = (5, 3)).await;
    house.is_right().await;
    assert_eq!(house.reconcile(true).await.repaired, []);

    house.redis.as_mut().unwrap().kill();
    let found = house.reconcile(false).await;
    assert!(found.mirror_error.is_some() && found.differences.is_empty(), "{found:?}");
}

/// Nothing is told of stocks that are right, however fast they change meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_go_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::new(format!("sqlite:{}", dir.path().join("store").display())).await;
    let is_over = AtomicBool::new(false);
    let orders = async {
        let mut count = 0;
        while !is_over.load(Ordering::SeqCst) {
            house.cold(reserve(&format!("m-{count}"), &[("cold", 1)])).await;
            house.cold(release(&format!("m-{count}"), None)).await;
            count += 1;
        }
        count
    };
    let looks = async {
        for _ in 0..30 {
            house.is_right().await;
            tokio::task::yield_now().await;
        }
        is_over.store(true, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(orders, looks);
    assert!(count > 0);
    house.is_right().await;
}
