//! Reading stock from a real MariaDB with the tables of other systems, good rows and bad.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use hotstock_persistence::import::{
    ImportError, Item, ReadOptions, Reader, Refused, Report, Row, Source, Why,
};
use hotstock_persistence::testing::MariaDb;

/// Everything that a source has, and the report of it.
async fn read(url: &str, source: Source, include_reserved: bool) -> (Vec<Row>, Vec<Refused>, Report) {
    let options = ReadOptions { url: url.to_owned(), source, include_reserved };
    let mut reader = Reader::open(options).await.unwrap();
    let (mut rows, mut refused, mut report) = (Vec::new(), Vec::new(), Report::default());
    while let Some(item) = reader.next().await {
        let item = item.unwrap();
        report.note(&item);
        match item {
            Item::Row(row) => rows.push(row),
            Item::Refused(row) => refused.push(row),
        }
    }
    assert_eq!(report.read, reader.expected());
    (rows, refused, report)
}

/// SKU, warehouse, available, locked, sold.
fn short(rows: &[Row]) -> Vec<(&str, u32, u64, u64, u64)> {
    let of = |row: &Row| (row.warehouse_id.0, row.available, row.locked, row.sold);
    let with_sku = |row| {
        let (warehouse, available, locked, sold) = of(row);
        (row.sku_id.as_str(), warehouse, available, locked, sold)
    };
    rows.iter().map(with_sku).collect()
}

fn reasons(refused: &[Refused]) -> BTreeMap<&str, &Why> {
    refused.iter().map(|row| (row.sku.as_str(), &row.why)).collect()
}

#[tokio::test]
async fn the_presets_read_their_tables() {
    let server = MariaDb::start();
    let url = server.url("shop");
    server.sql(
        "USE shop;
         CREATE TABLE t_inventory (id BIGINT AUTO_INCREMENT PRIMARY KEY, sku_id BIGINT, warehouse_id BIGINT, available_qty INT,
             reserved_qty INT, deleted TINYINT DEFAULT 0);
         INSERT INTO t_inventory (sku_id, warehouse_id, available_qty, reserved_qty, deleted) VALUES
             (1001, 1, 98, 2, 0), (1001, 2, 10, 0, 0), (1002, 1, 0, NULL, 0), (1003, 1, 7, 0, 1), (1004, 1, -1, 0, 0),
             (1005, 1, 5, 0, 0), (1005, 1, 6, 0, 0);
         CREATE TABLE collection (id BIGINT PRIMARY KEY, quantity BIGINT, saleable_inventory BIGINT, occupied_inventory BIGINT);
         INSERT INTO collection VALUES (1, 100, 60, 30), (2, 100, 100, 0), (3, 100, 60, 50), (4, 100, 60, NULL);
         CREATE TABLE product_stock (product_id BIGINT UNSIGNED PRIMARY KEY, stock INT UNSIGNED);
         INSERT INTO product_stock VALUES (18446744073709551615, 4294967295), (5, 0);
         CREATE TABLE pms_sku_stock (id BIGINT AUTO_INCREMENT PRIMARY KEY, sku_code VARCHAR(64) NOT NULL, stock INT DEFAULT 0,
             lock_stock INT DEFAULT 0);
         INSERT INTO pms_sku_stock (sku_code, stock, lock_stock) VALUES ('202002210028001', 100, 8), ('b', 3, 4), ('c', 5, 0);",
    );

    let (rows, refused, report) = read(&url, Source::preset("ymall").unwrap(), false).await;
    assert_eq!(short(&rows), [("1001", 1, 98, 2, 0), ("1001", 2, 10, 0, 0), ("1002", 1, 0, 0, 0)]);
    let expected =
        [("1003", &Why::Deleted), ("1004", &Why::Negative("available")), ("1005", &Why::Duplicate)];
    assert_eq!(reasons(&refused), BTreeMap::from(expected));
    assert_eq!((report.read, report.accepted, report.units, report.locked), (7, 3, 108, 2));
    assert_eq!(report.refused[&Why::Duplicate].0, 2);
    assert!(!report.is_complete());

    let (rows, ..) = read(&url, Source::preset("ymall").unwrap(), true).await;
    assert_eq!(short(&rows)[0], ("1001", 1, 100, 2, 0));

    let (rows, refused, _) = read(&url, Source::preset("nft").unwrap(), false).await;
    assert_eq!(short(&rows), [("1", 1, 60, 10, 30), ("2", 1, 100, 0, 0), ("4", 1, 60, 40, 0)]);
    assert!(matches!(reasons(&refused)["3"], Why::Contradiction(_)));

    let (rows, _, report) = read(&url, Source::preset("product_stock").unwrap(), false).await;
    assert_eq!(short(&rows), [("18446744073709551615", 1, 4_294_967_295, 0, 0), ("5", 1, 0, 0, 0)]);
    assert!(report.is_complete());

    let (rows, refused, _) = read(&url, Source::preset("mall").unwrap(), false).await;
    assert_eq!(short(&rows), [("202002210028001", 1, 92, 8, 0), ("c", 1, 5, 0, 0)]);
    assert!(matches!(reasons(&refused)["b"], Why::Contradiction(_)));
    let (rows, ..) = read(&url, Source::preset("mall").unwrap(), true).await;
    assert_eq!(short(&rows)[0], ("202002210028001", 1, 100, 8, 0));
}

#[tokio::test]
async fn a_map_reads_columns_of_any_type() {
    let server = MariaDb::start();
    let url = server.url("shop");
    // A collation that takes 'a' and 'A' for one, and a character set that is not UTF-8.
    server.sql(
        "USE shop;
         CREATE DATABASE erp;
         CREATE TABLE erp.`goods` (code VARCHAR(200) CHARACTER SET latin1 COLLATE latin1_swedish_ci, store VARCHAR(20),
             qty VARCHAR(40), held DECIMAL(12,3), gone BIT(1) DEFAULT 0);
         INSERT INTO erp.goods (code, store, qty, held, gone) VALUES
             ('a', '1', '5', 1.000, 0), ('A', '1', '6', 0, 0), ('a', '2', '7', 0, 0), ('Größe', '1', '8', 0, 0),
             ('', '1', '1', 0, 0), (NULL, '1', '1', 0, 0), (REPEAT('x', 65), '1', '1', 0, 0), (CONCAT('tab', CHAR(9)), '1', '1', 0, 0),
             ('w1', 'north', '1', 0, 0), ('w2', NULL, '1', 0, 0), ('w3', '4294967296', '1', 0, 0),
             ('q1', '1', 'many', 0, 0), ('q2', '1', NULL, 0, 0), ('q3', '1', '1.5', 0, 0), ('q4', '1', '1000000000000001', 0, 0),
             ('q5', '1', '1', 0.5, 0), ('q6', '1', '1', -1, 0), ('q7', '1', '1', 0, 1);",
    );
    let map = "table=erp.goods,sku=code,warehouse=store,available=qty,reserved=held,deleted=gone";
    let (rows, refused, report) = read(&url, Source::map(map).unwrap(), false).await;
    let expected = [("A", 1, 6, 0, 0), ("Größe", 1, 8, 0, 0), ("a", 1, 5, 1, 0), ("a", 2, 7, 0, 0)];
    assert_eq!(short(&rows), expected);
    let of = reasons(&refused);
    for sku in ["", &"x".repeat(65), "tab\t"] {
        assert_eq!(of[sku], &Why::BadSku, "{sku:?}");
    }
    for sku in ["w1", "w2", "w3"] {
        assert_eq!(of[sku], &Why::BadWarehouse, "{sku}");
    }
    for sku in ["q1", "q2", "q3"] {
        assert_eq!(of[sku], &Why::NotANumber("available"), "{sku}");
    }
    assert_eq!(of["q4"], &Why::TooLarge("available"));
    assert_eq!(of["q5"], &Why::NotANumber("reserved"));
    assert_eq!(of["q6"], &Why::Negative("reserved"));
    assert_eq!(of["q7"], &Why::Deleted);
    assert_eq!((report.read, report.accepted), (18, 4));
    let text = report.to_string();
    assert!(text.contains("refused          4: the SKU must be"), "{text}");
}

#[tokio::test]
async fn more_rows_than_wait_come_through_in_order() {
    let server = MariaDb::start();
    let url = server.url("shop");
    server.sql(
        "USE shop; CREATE TABLE shop.product_stock AS SELECT seq AS product_id, seq * 2 AS stock FROM seq_1_to_20000",
    );
    let (rows, refused, report) = read(&url, Source::preset("product_stock").unwrap(), false).await;
    assert_eq!((rows.len(), refused.len()), (20_000, 0));
    assert!(rows.is_sorted_by(|a, b| a.sku_id < b.sku_id));
    assert_eq!(report.units, 20_000 * 20_001);
}

#[tokio::test]
async fn what_can_t_be_read_is_said() {
    let mut server = MariaDb::start();
    let url = server.url("shop");
    let open = |url: &str| {
        let source = Source::preset("product_stock").unwrap();
        Reader::open(ReadOptions { url: url.to_owned(), source, include_reserved: false })
    };
    assert_eq!(open("postgres://x/y").await.unwrap_err(), ImportError::BadUrl);
    assert_eq!(open("mysql://u:secret@:not a port/x").await.unwrap_err(), ImportError::BadUrl);
    let ImportError::Unreadable(missing) = open(&url).await.unwrap_err() else { panic!("there is no table") };
    assert!(missing.contains("product_stock"), "{missing}");

    // Large enough that most of it is still with the server when that dies.
    server.sql("USE shop; CREATE TABLE shop.product_stock AS SELECT RPAD(seq, 60, 'x') AS product_id, 1 AS stock FROM seq_1_to_300000");
    let mut reader = open(&url).await.unwrap();
    assert!(reader.next().await.unwrap().is_ok());
    server.kill();
    let mut rows = 1;
    let end = loop {
        match reader.next().await {
            Some(Ok(_)) => rows += 1,
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(ImportError::Unreadable(_)))), "{rows} rows, then {end:?}");
    assert!(reader.next().await.is_none());
    assert!(open(&url).await.is_err());
}
