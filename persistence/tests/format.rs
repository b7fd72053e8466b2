//! Data directories of every format version ever written stay readable.
//!
//! `fixtures/v1/data` was written by the first version: the journal of two shards with events of every kind, a cut one
//! among them, in a sealed segment and one that a crash left open, and a checkpoint. `fixtures/v1/expected.txt`
//! says what is in it. `fixtures/v2` is the same with the events of moves, and all kinds of entries in the checkpoint.
//! `fixtures/v3` has orders over several places, branches, serial numbers and chosen warehouses too. To write a new version's: `cargo nextest run -p hotstock-persistence --run-ignored only write_`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use hotstock_engine::checkpoint::{CheckpointEnd, CheckpointStore as _, Image};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::Event;
use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::{Group, Journal as _};
use hotstock_engine::testing::samples;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;

const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 1 << 20, zeros: 0 };

/// The version that this program writes.
const CURRENT: u8 = 3;

fn fixture(version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

/// Everything in the data directory, as text.
fn describe(path: &Path) -> String {
    let data = DataDir::open(path, None).unwrap();
    let mut text = String::new();
    writeln!(text, "shards {} server {}", data.shards(), data.server_id()).unwrap();
    let journal = data.journal(OPTIONS).unwrap();
    let reader = journal.reader();
    for shard in (0..data.shards()).map(ShardId) {
        let bounds = reader.bounds(shard);
        writeln!(text, "shard {shard}: {bounds:?}").unwrap();
        let mut next = bounds.first;
        while next <= bounds.last {
            for (lsn, event) in reader.read(shard, next, 1_000).unwrap() {
                writeln!(text, "{lsn} {event:?}").unwrap();
                next = lsn.next();
            }
        }
        if let Some(mut checkpoint) = data.checkpoints().newest(shard).unwrap() {
            writeln!(text, "checkpoint {:?} {:?}", checkpoint.begin(), checkpoint.end()).unwrap();
            while let Some(slice) = checkpoint.next_slice().unwrap() {
                slice.iter().for_each(|image| writeln!(text, "{image:?}").unwrap());
            }
        }
    }
    text
}

#[track_caller]
fn assert_read(version: u8) {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("data");
    support::copy_dir(&fixture(version).join("data"), &copy);
    let expected = fs::read_to_string(fixture(version).join("expected.txt")).unwrap();
    assert_eq!(describe(&copy), expected);
    // And after this version has been at it.
    assert_eq!(describe(&copy), expected);
    let meta = fs::read_to_string(copy.join("meta")).unwrap();
    assert!(
        meta.contains(&format!("format = {CURRENT}\n")),
        "an older program must not open it again: {meta}"
    );
}

#[test]
fn version_1_is_read() {
    assert_read(1);
}

#[test]
fn version_2_is_read() {
    assert_read(2);
}

#[test]
fn version_3_is_read() {
    assert_read(3);
}

#[test]
#[ignore = "writes the fixture of the current version"]
fn write_the_fixture() {
    let path = fixture(CURRENT).join("data");
    assert!(!path.exists(), "a fixture is never written again; a new format gets a new one");
    let home = tempfile::tempdir().unwrap();
    let data = DataDir::open(home.path(), Some(2)).unwrap();
    let events = |seeds: std::ops::Range<u64>| seeds.map(samples::event).collect::<Vec<Event>>();
    let mut journal = data.journal(OPTIONS).unwrap();
    journal
        .commit(&[Group { shard: ShardId(0), first: Lsn(1), events: events(0..samples::KINDS * 2) }])
        .unwrap();
    drop(journal);
    let mut journal = data.journal(OPTIONS).unwrap();
    let mut cut = vec![samples::large_event(5, 60)];
    cut.extend(events(54..60));
    journal
        .commit(&[
            Group { shard: ShardId(1), first: Lsn(1), events: cut },
            Group { shard: ShardId(0), first: Lsn(samples::KINDS * 2 + 1), events: events(60..74) },
        ])
        .unwrap();
    let mut checkpoint = data.checkpoints().create(ShardId(1), Lsn(3)).unwrap();
    let images = (0..6).flat_map(|seed| {
        let (stock, order) = (samples::stock_image(seed), samples::order_image(seed));
        let home = Image::Home(samples::home_image(seed));
        [Image::Stock(stock), Image::Order(order), Image::Request(samples::request_image(seed)), home]
    });
    checkpoint.write(&images.collect::<Vec<_>>()).unwrap();
    checkpoint.finish(CheckpointEnd { end: Lsn(7), time: Timestamp(1_700_000_000_009) }).unwrap();
    // As a crash leaves it, but for the empty segment that was being made ready.
    support::copy_dir(home.path(), &path);
    let _ = fs::remove_dir_all(path.join("journal/000000000003"));
    fs::remove_file(path.join("lock")).unwrap();
    drop(journal);
    drop(data);
    let copy = tempfile::tempdir().unwrap();
    support::copy_dir(&path, copy.path());
    fs::write(fixture(CURRENT).join("expected.txt"), describe(copy.path())).unwrap();
}
