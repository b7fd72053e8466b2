//! `hotstock verify` and `serve` on books that don't balance and on a journal that is damaged: both say what and where,
//! and end with the exit code for it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use hotstock_engine::checkpoint::{CheckpointEnd, CheckpointStore as _, FilterManifest};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::StockStatus;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, ShardId, SkuId, WarehouseId};
use hotstock_engine::image::{Image, StockImage};
use hotstock_engine::journal::{Group, Journal as _};
use hotstock_engine::units::Levels;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;
use rustix::process::Signal;
use serde_json::json;

use support::{Client, Server, hotstock};

fn verify(data_dir: &Path) -> (Option<i32>, String) {
    run("verify", data_dir)
}

fn run(command: &str, data_dir: &Path) -> (Option<i32>, String) {
    let mut process = Command::new(hotstock());
    process.arg(command).arg("--data-dir").arg(data_dir);
    if command == "serve" {
        process.args(["--listen", "127.0.0.1:0"]);
    }
    let output = process.output().unwrap();
    (
        output.status.code(),
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat(),
    )
}

#[test]
fn books_that_do_not_balance_are_told_with_the_stock() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(dir.path(), Some(1)).unwrap();
    // As if a server had used it: without its store it would be refused for another reason.
    let (_, said) = run("migrate", dir.path());
    data_dir.store_check()(said.split_whitespace().last().unwrap()).unwrap();
    let mut journal = data_dir.journal(JournalOptions { zeros: 0, ..JournalOptions::default() }).unwrap();
    let (sku_id, warehouse_id) = (SkuId::new("1001").unwrap(), WarehouseId(1));
    let change =
        Change::StockCreated { sku_id: sku_id.clone(), warehouse_id, quantity: 10, serialized: false };
    let time = Timestamp(1_600_000_000_000);
    let events = vec![Event { at: time, trace: None, change }];
    journal.commit(&[Group { shard: ShardId(0), first: Lsn(1), events }]).unwrap();
    // Three units are reserved by nobody.
    let mut checkpoint = data_dir.checkpoints().create(ShardId(0), Lsn(1)).unwrap();
    let levels = Levels { available: 7, reserved: 3, sold: 0, version: 2 };
    let (status, initial, supplied, forgotten_sold, lsn) = (StockStatus::OnSale, 10, 10, 0, Lsn(1));
    let stock = StockImage {
        sku_id,
        warehouse_id,
        levels,
        status,
        initial,
        supplied,
        forgotten_sold,
        lsn,
        hot: false,
        numbered: None,
    };
    checkpoint.write(&[Image::Stock(stock)]).unwrap();
    let end = CheckpointEnd { end: Lsn(1), time, departed: Lsn::ZERO };
    checkpoint.finish(end, &FilterManifest::default()).unwrap();
    drop((journal, data_dir));

    let (code, text) = verify(dir.path());
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("SKU 1001 in warehouse 1: reserved is 3 and must be 0"), "{text}");
    // A server does not start on it either.
    let (code, text) = run("serve", dir.path());
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("reserved is 3 and must be 0"), "{text}");
}

/// A segment that a crash left open is looked through record by record, so the very event is named.
#[test]
fn damage_in_the_middle_is_refused_with_its_event() {
    // The start, the stock and that it is hot were events 1 to 3, so order 20 is event 24.
    damage(false, "damaged at event 24");
}

/// A sealed one is read through sled, which gives nothing of it from the bad page on: the first event that can't be
/// read is named.
#[test]
fn damage_in_a_sealed_segment_is_refused_with_an_event() {
    damage(true, "damaged at event ");
}

fn damage(sealed: bool, told: &str) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["journal.zeros_bytes=0"]);
    let mut client = Client::default();
    let stock = json!({ "sku_id": "1001", "quantity": 1_000, "hot": true }).to_string();
    assert_eq!(client.call(&server.address, "POST", "/v1/stock", &stock).unwrap().0, 201);
    for n in 0..50 {
        let order =
            json!({ "order_no": format!("ORDER-{n:03}"), "lines": [{ "sku_id": "1001", "quantity": 1 }] });
        assert_eq!(
            client.call(&server.address, "POST", "/v1/reservations", &order.to_string()).unwrap().0,
            201
        );
    }
    server.end(Signal::KILL);
    if sealed {
        // Opening it in good health seals what the kill left open.
        assert_eq!(verify(dir.path()).0, Some(0));
    }
    // The event of one order, wherever sled wrote it.
    let mut hits = 0;
    for file in files(&dir.path().join("journal")) {
        let mut bytes = std::fs::read(&file).unwrap();
        let name = b"ORDER-020";
        while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            bytes[at] ^= 0xff;
            hits += 1;
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert!(hits > 0, "the test damaged nothing");
    for command in ["verify", "serve"] {
        let (code, text) = run(command, dir.path());
        assert_eq!(code, Some(5), "{command}: {text}");
        assert!(text.contains(told), "{command}: {text}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}
