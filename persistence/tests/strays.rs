//! Orders over several shards some of whose rows somebody deleted or changed: their numbers are not free, and reconcile
//! names them. (Orders in one shard, requests and stocks: `reconcile.rs`.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, CreateStock, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{SkuId, shard_of};
use hotstock_engine::options::{EngineOptions, Parts, StoreOptions};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::reconcile::{Check, Reconcile};
use hotstock_engine::store::{Store as _, StoreError};
use hotstock_engine::testing::store_suite::{W1, confirm, create, give_back, release, reserve, restock};
use hotstock_engine::testing::{
    ManualClock, MemoryCheckpoints, MemoryFilters, MemoryIdentity, MemoryJournal,
};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;
use sqlx::Connection as _;

const SHARDS: u16 = 4;

/// Two SKUs of different shards.
fn skus() -> [String; 2] {
    let of = |name: &String| shard_of(&SkuId::new(name).unwrap(), SHARDS);
    let mut names = (0..).map(|n| format!("s-{n}"));
    let first = names.next().unwrap();
    let other = names.find(|name| of(name) != of(&first)).unwrap();
    [first, other]
}

async fn start(url: &str) -> Engine {
    let store = Arc::new(SqlStore::open(&SqlOptions::new(url)).unwrap());
    let (checkpoints, filters) = (Arc::new(MemoryCheckpoints::default()), Arc::new(MemoryFilters::default()));
    let (identity, clock) = (Arc::new(MemoryIdentity::new(1)), Arc::new(ManualClock::default()));
    let journal = Box::new(MemoryJournal::default().open());
    let parts = Parts::new(journal, checkpoints, filters, identity, clock, store);
    let store = StoreOptions { flush_interval_ms: 10, ..StoreOptions::default() };
    // Nothing stays in memory that may leave it.
    let options = EngineOptions {
        shards: SHARDS,
        max_resident_skus: 1,
        remember_max: 0,
        store,
        ..EngineOptions::default()
    };
    Engine::start(options, parts).await.unwrap()
}

/// All of it or nothing.
fn all(number: &str, of: &[(&str, u32)]) -> Action {
    let Action::Reserve(order) = reserve(number, of) else { panic!("it reserves") };
    Action::Reserve(Reserve { mode: Mode::AllOrNothing, ..order })
}

/// The shard that the row of an order names.
async fn shard_in_row(url: &str, number: &str) -> u16 {
    let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
    let query = sqlx::query_scalar("SELECT shard FROM orders WHERE order_no = ?").bind(number.to_owned());
    query.fetch_one(&mut connection).await.unwrap()
}

async fn by_hand(url: &str, sql: String) {
    assert_eq!(by_hand_all(url, &sql).await, 1, "{sql}");
}

/// Any number of rows.
async fn by_hand_all(url: &str, sql: &str) -> u64 {
    let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
    if url.starts_with("sqlite:") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        query.execute(&mut connection).await.unwrap().rows_affected()
    } else {
        let mut connection = sqlx::MySqlConnection::connect(url).await.unwrap();
        query.execute(&mut connection).await.unwrap().rows_affected()
    }
}

/// Guards can be made again at any moment of orders over several shards: what is on its way contradicts nothing.
async fn guards_beside_orders(url: &str) {
    let (engine, skus) = (start(url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    let Action::CreateStock(serialized) = create(b, W1, 1_000) else { panic!("it creates") };
    let serialized = Action::CreateStock(CreateStock { serialized: true, ..serialized });
    for action in [create(a, W1, 1_000), serialized] {
        engine.submit(action.into()).await.unwrap();
    }
    let store = SqlStore::open(&SqlOptions::new(url)).unwrap();
    let mut made = 0;
    for round in 0..15 {
        let both = [(a, 2), (b, 3)];
        let number = |n: usize| format!("o-{round}-{n}");
        for n in 0..6 {
            engine.submit(all(&number(n), &both).into()).await.unwrap();
        }
        let refused = engine.submit(all(&number(9), &[(a, 1), (b, 5_000)]).into()).await;
        assert!(refused.is_err());
        for action in [
            confirm(&number(0), None),
            release(&number(1), None),
            confirm(&number(2), None),
            give_back(&number(2), &[(b, 1)], "back"),
            restock(a, 1, &number(3)),
            release(&number(8), None),
        ] {
            engine.submit(action.into()).await.unwrap();
        }
        // The store stays as it is now, while the engine goes on.
        by_hand_all(url, "DELETE FROM order_serials WHERE order_no >= X'FF'").await;
        let again = store.make_guards(Timestamp(1)).await.unwrap();
        assert!(again.iter().all(|table| *table == "order_serials"), "{again:?}");
        made += again.len();
    }
    assert!(made > 5, "{made}");
    let mut left = 1_000;
    while engine.stats().shards.iter().any(|shard| shard.flushed < shard.durable) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "it is flushed");
    }
    assert_eq!(told(&engine).await, []);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_are_made_again_beside_orders_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    guards_beside_orders(&format!("sqlite:{}", dir.path().join("store").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_are_made_again_beside_orders_on_mariadb() {
    let server = MariaDb::start();
    guards_beside_orders(&server.url("hotstock")).await;
}

/// A row of `holds` that can't be read is named, column by column, and stops nothing else from being counted.
async fn a_hold_that_cannot_be_read(url: &str) {
    let (engine, skus) = (start(url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    for action in [create(a, W1, 10), create(b, W1, 10), reserve("o-1", &[(a, 2), (b, 3)])] {
        engine.submit(action.into()).await.unwrap();
    }
    let store = SqlStore::open(&SqlOptions::new(url)).unwrap();
    let mut left = 1_000;
    let hold = loop {
        if let [hold] = &store.holds(None, 10).await.unwrap()[..] {
            break hold.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "it is flushed");
    };
    assert_eq!(told(&engine).await, []);
    let sku_id = hold.image.lines[0].sku_id.to_string();
    let in_text = |text: &str| format!("'{text}'");
    let (attempt, seq) = (in_text(&format!("{:016x}", hold.image.attempt.0)), hold.image.seq.to_string());
    let (shard, coordinator) = (hold.shard.to_string(), hold.image.coordinator.to_string());
    let (units, lsn) = (hold.image.lines[0].units.to_string(), hold.image.lsn.to_string());
    for (column, broken, right) in [
        ("serials", "X'FF'", "NULL"),
        ("attempt", "'zz'", &*attempt),
        ("shard", "70000", &shard),
        ("shard", &coordinator, &shard),
        ("coordinator", "-1", &coordinator),
        ("purpose", "'x'", "'units'"),
        ("seq", "-1", &seq),
        ("units", "-1", &units),
        ("lsn", "-1", &lsn),
        ("order_no", "''", "'o-1'"),
        ("order_no", "X'FE'", "'o-1'"),
    ] {
        let set = |value: &str| format!("UPDATE holds SET {column} = {value} WHERE sku_id = '{sku_id}'");
        by_hand(url, set(broken)).await;
        let found = told(&engine).await;
        assert!(found.iter().all(|(of, ..)| *of == sku_id), "{column}: {found:?}");
        let causes: Vec<&String> = found.iter().flat_map(|(_, _, causes)| causes).collect();
        let is_it = |cause: &&&String| {
            cause.starts_with("the row in `holds` of order ") && cause.contains(&format!("(`{column}`: "))
        };
        assert_eq!(causes.iter().filter(is_it).count(), 1, "{column} = {broken}: {found:?}");
        // A recovery stops at it, and names it as well.
        if broken != coordinator && column != "order_no" {
            match store.holds(None, 10).await {
                Err(StoreError::Inconsistent(problem)) => {
                    assert!(problem.contains(&format!("`{column}`: ")), "{column}: {problem}");
                }
                other => panic!("{column}: {other:?}"),
            }
        }
        by_hand(url, set(right)).await;
        assert_eq!(told(&engine).await, [], "{column} was put back");
    }
    // Likewise one of which everything was sold.
    engine.submit(confirm("o-1", None).into()).await.unwrap();
    eventually("it left memory", async || engine.stats().store.known.numbers > 0).await;
    by_hand(url, format!("UPDATE holds SET attempt = 'zz' WHERE sku_id = '{sku_id}'")).await;
    let found = told(&engine).await;
    assert!(causes(&found).iter().any(|cause| cause.contains("(`attempt`: ")), "{found:?}");
    engine.stop().await;
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let mut left = 1_000;
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "{what}");
    }
}

fn causes(found: &[(String, Check, Vec<String>)]) -> Vec<&String> {
    found.iter().flat_map(|(_, _, causes)| causes).collect()
}

/// An order whose own row says something else than its lines is named, and a recovery stops at it if it may hold
/// something.
async fn an_order_that_contradicts_itself(url: &str) {
    let (engine, skus) = (start(url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    for action in [
        create(a, W1, 10),
        create(b, W1, 10),
        reserve("both", &[(a, 2), (b, 3)]),
        reserve("one", &[(b, 1)]),
        reserve("sold", &[(a, 1), (b, 1)]),
        confirm("sold", None),
    ] {
        engine.submit(action.into()).await.unwrap();
    }
    let store = SqlStore::open(&SqlOptions::new(url)).unwrap();
    let open = async || store.open_orders(None, 10).await.map(|(orders, _)| orders.len());
    eventually("they are flushed", async || {
        engine.stats().store.known.numbers > 0 && open().await == Ok(2) && told(&engine).await.is_empty()
    })
    .await;
    for (order_no, change, right, stops) in [
        ("both", "open = 0", "open = 1", true),
        ("both", "open = 2", "open = 1", true),
        ("both", "status = 'confirmed'", "status = 'reserved'", true),
        ("both", "phase = 'x'", "phase = 'open'", true),
        ("one", "open = 0", "open = 1", true),
        ("one", "status = 'x', open = 0", "status = 'reserved', open = 1", true),
        ("sold", "open = 1", "open = 0", true),
        ("sold", "open = 1, status = 'x'", "open = 0, status = 'confirmed'", true),
        ("sold", "status = 'reserved'", "status = 'confirmed'", false),
    ] {
        by_hand(url, format!("UPDATE orders SET {change} WHERE order_no = '{order_no}'")).await;
        let found = told(&engine).await;
        let words = format!("the rows of order {order_no} don't fit (");
        assert!(!found.is_empty(), "{order_no}: {change}");
        assert!(causes(&found).iter().all(|cause| cause.starts_with(&words)), "{change}: {found:?}");
        match open().await {
            Err(StoreError::Inconsistent(problem)) => {
                assert!(stops && problem.starts_with(&format!("order {order_no} ")), "{change}: {problem}");
            }
            orders => assert!(!stops && orders == Ok(2), "{order_no}: {change}: {orders:?}"),
        }
        by_hand(url, format!("UPDATE orders SET {right} WHERE order_no = '{order_no}'")).await;
        assert_eq!(told(&engine).await, [], "{change} was put back");
    }
    // Of what is held elsewhere the row is named that names another shard than the order does.
    for order_no in ["both", "sold"] {
        let set = |by: u16| format!("coordinator = (coordinator + {by}) % {SHARDS}");
        by_hand(url, format!("UPDATE holds SET {} WHERE order_no = '{order_no}'", set(1))).await;
        let found = told(&engine).await;
        let words = format!("the row in `holds` of order {order_no}, ");
        assert_eq!(causes(&found).len(), 1, "{found:?}");
        let is_named =
            |cause: &&String| cause.starts_with(&words) && cause.contains("(`coordinator`: it is ");
        assert!(causes(&found).iter().all(is_named), "{found:?}");
        by_hand(url, format!("UPDATE holds SET {} WHERE order_no = '{order_no}'", set(SHARDS - 1))).await;
        assert_eq!(told(&engine).await, []);
    }
    by_hand(url, "DELETE FROM orders WHERE order_no = 'one'".to_owned()).await;
    let told = open().await;
    assert!(
        matches!(&told, Err(StoreError::Inconsistent(problem)) if problem.starts_with("order one ")),
        "{told:?}"
    );
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_contradicts_itself_is_named_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    an_order_that_contradicts_itself(&format!("sqlite:{}", dir.path().join("store").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_contradicts_itself_is_named_on_mariadb() {
    let server = MariaDb::start();
    an_order_that_contradicts_itself(&server.url("hotstock")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_cannot_be_read_is_named_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    a_hold_that_cannot_be_read(&format!("sqlite:{}", dir.path().join("store").display())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_cannot_be_read_is_named_on_mariadb() {
    let server = MariaDb::start();
    a_hold_that_cannot_be_read(&server.url("hotstock")).await;
}

/// What reconcile says, for each SKU.
async fn told(engine: &Engine) -> Vec<(String, Check, Vec<String>)> {
    let found = engine.reconcile(Reconcile { limit: 100, ..Reconcile::default() }).await.unwrap();
    let differences = found.differences.into_iter();
    differences.map(|one| (one.sku_id.to_string(), one.check, one.causes)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_over_several_shards_is_named_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let (engine, skus) = (start(&url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    for action in [
        create(a, W1, 10),
        create(b, W1, 10),
        // What is left of an order that was refused does not take its number.
        all("refused", &[(a, 1), (b, 11)]),
        reserve("o-1", &[(a, 1), (b, 1)]),
        confirm("o-1", None),
        reserve("o-2", &[(a, 1), (b, 1)]),
        release("o-2", None),
    ] {
        let is_refused = matches!(&action, Action::Reserve(order) if order.order_no.as_str() == "refused");
        assert_eq!(engine.submit(action.into()).await.is_err(), is_refused);
    }
    let mut left = 1_000;
    while engine.stats().store.known.numbers < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "they leave memory: {:?}", engine.stats().store.known);
    }
    assert_eq!(told(&engine).await, []);

    let right = shard_in_row(&url, "o-1").await;
    let wrong = (0..SHARDS)
        .find(|shard| skus.iter().all(|name| shard_of(&SkuId::new(name).unwrap(), SHARDS).0 != *shard));
    by_hand(&url, format!("UPDATE orders SET shard = {} WHERE order_no = 'o-1'", wrong.unwrap())).await;
    let found = told(&engine).await;
    // Its line in its own shard does not count for it there, and what was held elsewhere tells why.
    assert_eq!(found.iter().map(|(_, check, _)| *check).collect::<BTreeSet<_>>().len(), 2, "{found:?}");
    let todo = format!("its column `shard` has to be set by hand to {right}");
    // To its own shard it seems to be another's, for which nothing is held.
    let is_known = |cause: &String| cause.contains(&todo) || cause.contains("0 sold by its rows in `holds`");
    let is_it = |causes: &[String]| causes.len() == 1 && is_known(&causes[0]);
    assert!(found.iter().any(|(_, _, causes)| causes[0].contains(&todo)), "{found:?}");
    for (_, check, causes) in &found {
        assert!(*check == Check::Sold || (*check == Check::Orders && is_it(causes)), "{found:?}");
    }

    by_hand(&url, "DELETE FROM orders WHERE order_no = 'o-1'".to_owned()).await;
    by_hand(&url, "DELETE FROM orders WHERE order_no = 'o-2'".to_owned()).await;
    let found = told(&engine).await;
    assert_eq!(found.iter().map(|(sku_id, ..)| sku_id.as_str()).collect::<Vec<_>>(), [a, b], "{found:?}");
    for (_, check, causes) in &found {
        assert_eq!(*check, Check::Orders);
        let is_named = |n: usize| causes[n].starts_with(&format!("order o-{} has no row, though", n + 1));
        assert!(causes.len() == 2 && is_named(0) && is_named(1), "{found:?}");
    }
    for order_no in ["o-1", "o-2"] {
        let refused = engine.submit(reserve(order_no, &[(a, 1)]).into()).await;
        assert!(matches!(refused, Err(Refusal::OrderInconsistent { .. })), "{order_no}: {refused:?}");
    }
    engine.submit(all("refused", &[(a, 1), (b, 1)]).into()).await.unwrap();
    engine.submit(release("refused", None).into()).await.unwrap();
    engine.stop().await;
}

/// Two requests for one number, whose first lines lie in different shards, meet in the shard of the first; when that is
/// refused, it decides the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_another_shard_decides_is_as_it_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let (engine, skus) = (start(&url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    let shards = [a, b].map(|name| shard_of(&SkuId::new(name).unwrap(), SHARDS).0);
    for action in [create(a, W1, 1_000), create(b, W1, 1_000)] {
        engine.submit(action.into()).await.unwrap();
    }
    let mut tries = 0..1_000;
    let number = loop {
        let number = format!("o-{}", tries.next().expect("two requests meet"));
        let refused = engine.submit(all(&number, &[(b, 5_000), (a, 1)]).into());
        let made = engine.submit(all(&number, &[(a, 1), (b, 1)]).into());
        let (refused, made) = tokio::join!(refused, made);
        assert!(refused.is_err() && made.is_ok(), "{refused:?}, {made:?}");
        let store = SqlStore::open(&SqlOptions::new(&url)).unwrap();
        eventually("it is flushed", async || {
            store.order_numbers(None, 1_000).await.unwrap().iter().any(|(of, _)| of.as_str() == number)
        })
        .await;
        if shard_in_row(&url, &number).await == shards[1] {
            break number;
        }
    };
    let names = async || {
        let found = told(&engine).await.into_iter();
        found.flat_map(|(_, _, causes)| causes).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(names().await, "");
    engine.submit(confirm(&number, None).into()).await.unwrap();
    eventually("it left memory", async || engine.stats().store.known.numbers > 0).await;
    assert_eq!(names().await, "");

    // What is wrong is named all the same.
    let other = (0..SHARDS).find(|shard| !shards.contains(shard)).unwrap();
    for (table, column) in [("orders", "shard"), ("holds", "coordinator")] {
        let set = |to: u16| format!("UPDATE {table} SET {column} = {to} WHERE order_no = '{number}'");
        by_hand(&url, set(other)).await;
        let told = names().await;
        // Of two that contradict each other nothing tells which is wrong; the order lies elsewhere than usual.
        let todo = format!("of order {number} names shard");
        assert!(told.contains(&todo), "{told}");
        by_hand(&url, set(shards[1])).await;
        assert_eq!(names().await, "");
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_for_an_order_and_is_deleted_is_named_and_its_return_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let (engine, skus) = (start(&url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    let lines = [(a, 2), (b, 3)];
    for action in [create(a, W1, 10), create(b, W1, 10), reserve("o-1", &lines), confirm("o-1", None)] {
        engine.submit(action.into()).await.unwrap();
    }
    let mut left = 1_000;
    while engine.stats().store.known.numbers < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left -= 1;
        assert!(left > 0, "it leaves memory: {:?}", engine.stats().store.known);
    }
    assert_eq!(told(&engine).await, []);
    by_hand(&url, "DELETE FROM holds WHERE order_no = 'o-1'".to_owned()).await;
    let found = told(&engine).await;
    let named = found.iter().find(|(_, check, _)| *check == Check::Orders).map(|(sku_id, _, causes)| {
        (sku_id.as_str(), causes[0].starts_with("order o-1, which another shard decides: 0 held, "))
    });
    assert!(matches!(named, Some((_, true))), "{found:?}");
    // The stocks have what was sold: nothing is in the way.
    let back = give_back("o-1", &lines, "r");
    for _ in 0..2 {
        engine.submit(back.clone().into()).await.unwrap();
    }
    engine.stop().await;
}

/// A filter of known numbers that has to be made anew finds them all.
#[tokio::test]
async fn the_number_of_an_order_whose_row_is_deleted_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("store").display());
    let (engine, skus) = (start(&url).await, skus());
    let [a, b] = skus.each_ref().map(String::as_str);
    let mut numbers = Vec::new();
    engine.submit(create(a, W1, 30).into()).await.unwrap();
    engine.submit(create(b, W1, 30).into()).await.unwrap();
    for n in 0..6 {
        let number = format!("o-{n}");
        engine.submit(reserve(&number, &[(a, 2), (b, 3)]).into()).await.unwrap();
        engine.submit(confirm(&number, None).into()).await.unwrap();
        numbers.push(number);
    }
    engine.stop().await;
    for number in ["o-0", "o-2", "o-3", "o-5"] {
        by_hand(&url, format!("DELETE FROM orders WHERE order_no = '{number}'")).await;
    }
    for sku_id in [a, b] {
        by_hand(&url, format!("DELETE FROM order_lines WHERE order_no = 'o-3' AND sku_id = '{sku_id}'"))
            .await;
    }
    let store = SqlStore::open(&SqlOptions::new(&url)).unwrap();
    for max in 1..9 {
        let (mut known, mut after) = (Vec::new(), None);
        loop {
            let page = store.order_numbers(after.as_ref(), max).await.unwrap();
            assert!(page.len() <= max);
            let Some((last, _)) = page.last().cloned() else { break };
            known.extend(page.into_iter().map(|(order_no, _)| order_no.to_string()));
            after = Some(last);
        }
        assert_eq!(known, numbers, "in pages of {max}");
    }
}
