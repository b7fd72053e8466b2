//! A store of the first version, with data in it.

use std::borrow::Cow;

use hotstock_engine::ids::{ServerId, ShardId};
use hotstock_engine::outcome::OrderStatus;
use hotstock_engine::store::{OrderFilter, Store, Taken};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Connection as _, SqlSafeStr as _};

use crate::support::{
    Base, NOW, balance, branch, confirm, done, give_back, hold, levels, order, reserve, sku,
};

/// The orders of the old store, each with what it is; all of SKUs a and b.
const ORDERS: [(&str, OrderStatus); 9] = [
    ("back", OrderStatus::Returned),
    ("empty", OrderStatus::Released),
    ("expired", OrderStatus::Expired),
    ("half", OrderStatus::PartiallyConfirmed),
    ("open", OrderStatus::Reserved),
    ("paid", OrderStatus::Confirmed),
    ("released", OrderStatus::Released),
    ("some back", OrderStatus::PartiallyReturned),
    ("tomb", OrderStatus::Cancelled),
];

/// Makes the tables as the first version did.
async fn first_version(base: &Base) {
    let sql = match base {
        Base::Sqlite(_) => include_str!("../../src/sql/migrations/sqlite/0001_first.sql"),
        Base::MariaDb(..) => include_str!("../../src/sql/migrations/mysql/0001_first.sql"),
    };
    let migration =
        Migration::new(1, Cow::Borrowed("first"), MigrationType::Simple, sql.into_sql_str(), false);
    let migrator = Migrator { migrations: Cow::Owned(vec![migration]), locking: false, ..Migrator::DEFAULT };
    match base {
        Base::Sqlite(_) => {
            let url = format!("{}?mode=rwc", base.url());
            let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
            migrator.run_direct(None, &mut conn, false).await.unwrap();
            conn.close().await.unwrap();
        }
        Base::MariaDb(..) => {
            let mut conn = sqlx::MySqlConnection::connect(&base.url()).await.unwrap();
            migrator.run_direct(None, &mut conn, false).await.unwrap();
            conn.close().await.unwrap();
        }
    }
}

/// What the first version would have written: lines as (held, confirmed, released, returned, lapsed) of a and b.
async fn fill(base: &Base) {
    let mut sql = String::from("INSERT INTO meta VALUES ('store_id', '00112233445566778899aabbccddeeff');");
    let mut sums = [[0_i64; 2]; 2];
    let of = |name: &str| match name {
        "back" => ("open", [[0, 2, 0, 2, 0], [0, 1, 0, 1, 0]]),
        "empty" => ("open", [[0, 0, 0, 0, 0]; 2]),
        "expired" => ("expired", [[0, 0, 2, 0, 2], [0, 0, 1, 0, 1]]),
        "half" => ("open", [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
        "open" => ("open", [[2, 0, 0, 0, 0], [1, 0, 0, 0, 0]]),
        "paid" => ("open", [[0, 2, 0, 0, 0], [0, 1, 0, 0, 0]]),
        "released" => ("released", [[0, 0, 2, 0, 2], [0, 0, 1, 0, 1]]),
        _ => ("open", [[0, 2, 0, 1, 0], [0, 1, 0, 0, 0]]),
    };
    for (number, _) in ORDERS {
        let (mut open, mut phase) = (0, "cancelled");
        if number != "tomb" {
            let (of_order, lines) = of(number);
            (phase, open) = (of_order, i64::from(lines.iter().any(|line| line[0] > 0)));
            for (place, (line, name)) in lines.iter().zip(["a", "b"]).enumerate() {
                let [held, confirmed, released, returned, lapsed] = line;
                let quantity = [2, 1][place];
                sums[place][0] += held;
                sums[place][1] += confirmed - returned;
                sql += &format!(
                    "INSERT INTO order_lines VALUES ('{number}', '{name}', 1, {place}, {quantity}, {held}, {confirmed}, {released}, {returned}, {lapsed}, {open}, 1, {});",
                    NOW.0
                );
            }
        }
        let due = if open == 1 { (NOW.0 + 60_000).to_string() } else { "NULL".to_owned() };
        sql += &format!(
            "INSERT INTO orders VALUES ('{number}', NULL, 'all_or_nothing', '{phase}', {open}, {at}, {}, {at}, {due}, NULL, NULL, 0, 0);",
            NOW.0 + 60_000,
            at = NOW.0
        );
    }
    for ([held, sold], name) in sums.into_iter().zip(["a", "b"]) {
        let left = 100 - held - sold;
        sql += &format!(
            "INSERT INTO stock VALUES ('{name}', 1, {left}, {held}, {sold}, 2, 'on_sale', 100, 100, NULL, NULL, 0, 0, {});",
            NOW.0
        );
        sql += &format!(
            "INSERT INTO stock_journal VALUES ('{name}', 1, 1, {}, 'created', NULL, NULL, NULL, 100, 0, 0, 100, 0, 0, NULL, NULL, NULL, NULL);",
            NOW.0
        );
        sql += &format!(
            "INSERT INTO stock_journal VALUES ('{name}', 1, 2, {}, 'reserved', 'all of them', NULL, NULL, {}, {held}, {sold}, {left}, {held}, {sold}, NULL, NULL, NULL, NULL);",
            NOW.0,
            -held - sold
        );
    }
    base.run(&sql).await;
}

async fn check(base: &Base) {
    let store = base.open(1, 2);
    assert_eq!(store.migrate().await.unwrap(), "00112233445566778899aabbccddeeff");
    let listed = store.list(&OrderFilter::default(), None, 100).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|view| (view.order_no.as_str(), view.status)).collect();
    assert_eq!(listed, ORDERS);
    for (number, status) in ORDERS {
        let filter = OrderFilter { status: vec![status], sku_id: None };
        let found = store.list(&filter, None, 100).await.unwrap();
        assert!(found.iter().any(|view| view.order_no == order(number)));
    }
    let image = store.order(&order("half")).await.unwrap().unwrap().image;
    assert_eq!((image.lines[0].held, image.lines[0].confirmed, image.serials.len()), (1, 1, 0));
    assert_eq!(store.stock(&sku("a"), None).await.unwrap()[0].view.levels.reserved, 3);
    assert_eq!(store.books(None, 10).await.unwrap()[0].held_by_orders, 3);
}

/// What it has is as it was, and can be gone on with: also with the longest numbers that there are now.
pub async fn a_store_of_the_first_version_goes_on(base: &Base) {
    first_version(base).await;
    fill(base).await;
    check(base).await;
    let store = base.open(1, 2);
    // The journal of that test knows of no single order.
    base.run("UPDATE stock_journal SET order_no = NULL").await;
    done(&store, &confirm(order("open"))).await;
    done(&store, &give_back(order("some back"), "r", &[("a", 1)])).await;
    done(&store, &reserve("new", &[("a", 1), ("b", 1)])).await;
    let long = "x".repeat(64);
    done(&store, &hotstock_engine::testing::flush_suite::create(&long, crate::support::W1, 5).into()).await;
    done(&store, &hold(&long, u64::MAX, &long, 1)).await;
    done(&store, &confirm(branch(&long, &long, u64::MAX))).await;
    assert_eq!(levels(&store, &long).await, [4, 0, 1]);
    let taken = store.take(&[sku("a")], ServerId(1), ShardId(0)).await.unwrap();
    assert!(matches!(taken[..], [Taken::Owned { .. }]));
    for number in ["half", "new"] {
        assert!(store.home(&order(number)).await.unwrap().is_some(), "{number}");
    }
    for name in ["a", "b"] {
        let books = store.books(None, 10).await.unwrap().into_iter().find(|b| b.row.view.sku_id == sku(name));
        let books = books.unwrap();
        let levels = books.row.view.levels;
        assert_eq!((books.held_by_orders, books.sold_by_orders), (levels.reserved, levels.sold), "{name}");
    }
    assert_eq!(store.stock(&sku("b"), None).await.unwrap()[0].owner, None);
    let _ = balance;
}

/// A server that died in the middle of it.
pub async fn a_migration_that_was_cut_off_is_carried_on(base: &Base) {
    first_version(base).await;
    fill(base).await;
    // In SQLite it is one transaction; in MySQL every change of a table is one.
    let Base::MariaDb(server, name) = base else { return };
    base.open(1, 2).migrate().await.unwrap();
    let forget = "UPDATE _sqlx_migrations SET success = FALSE WHERE version = 2;";
    for undone in [
        "",
        "ALTER TABLE stock_journal DROP COLUMN serial_from;",
        "ALTER TABLE stock_journal DROP COLUMN serial_from; ALTER TABLE stock DROP COLUMN numbered; DROP TABLE home_lines;",
        "ALTER TABLE order_lines DROP INDEX order_lines_sku; ALTER TABLE stock DROP COLUMN numbered; UPDATE orders SET status = NULL;",
    ] {
        drop(server.sql(&format!("USE {name}; {forget} {undone}")));
        check(base).await;
    }
}
