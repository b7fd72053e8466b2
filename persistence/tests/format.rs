//! Data directories of every format version ever written stay readable.
//!
//! `fixtures/v1/data` was written by the first version: the journal of two shards with events of every kind, a cut
//! one among them, in a sealed segment and one that a crash left open; a checkpoint; generations of the filter of
//! known numbers; the id of a store; and an epoch. `fixtures/v1/expected.txt` says what is in it. To write a new
//! version's: `cargo nextest run -p hotstock-persistence --run-ignored only write_`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use hotstock_engine::checkpoint::{
    CheckpointEnd, CheckpointStore as _, FilterFile, FilterManifest, FilterStore as _, Identity as _,
};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::event::Event;
use hotstock_engine::ids::{Epoch, Lsn, ShardId};
use hotstock_engine::image::Image;
use hotstock_engine::journal::{Group, Journal as _, JournalReader};
use hotstock_engine::testing::samples;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;

const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 1 << 20, zeros: 0 };

/// The version that this program writes.
const CURRENT: u8 = 1;

fn fixture(version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/v{version}"))
}

/// Everything in the data directory, as text; by the one who writes to it from now on, or by one who only looks.
fn describe(path: &Path, only_look: bool) -> String {
    let data = DataDir::open(path, None).unwrap();
    let mut text = String::new();
    let identity = data.identity().unwrap();
    let (epoch, takes) = (identity.epoch(), identity.takes());
    writeln!(text, "shards {} server {} epoch {epoch} {takes:?}", data.shards(), data.server_id()).unwrap();
    writeln!(text, "store {:?}", data.store_id().unwrap()).unwrap();
    if only_look {
        describe_journal(&data, &data.stopped_journal().unwrap(), &mut text);
    } else {
        describe_journal(&data, &*data.journal(OPTIONS).unwrap().reader(), &mut text);
    }
    text
}

fn describe_journal(data: &DataDir, reader: &dyn JournalReader, text: &mut String) {
    for shard in (0..data.shards()).map(ShardId) {
        let bounds = reader.bounds(shard);
        writeln!(text, "shard {shard}: {bounds:?}").unwrap();
        let mut next = bounds.first;
        while next <= bounds.last {
            for (lsn, event) in reader.read(shard, next, 1_000).unwrap() {
                writeln!(text, "{lsn} {} {event:?}", reader.chain(shard, lsn).unwrap()).unwrap();
                next = lsn.next();
            }
        }
        if let Some(mut checkpoint) = data.checkpoints().newest(shard).unwrap() {
            writeln!(text, "checkpoint {:?} {:?}", checkpoint.begin(), checkpoint.end()).unwrap();
            for file in checkpoint.known().files.iter().flatten() {
                writeln!(text, "filter {file:?} {:?}", data.filters().load(file.number).unwrap()).unwrap();
            }
            while let Some(slice) = checkpoint.next_slice().unwrap() {
                slice.iter().for_each(|image| writeln!(text, "{image:?}").unwrap());
            }
        }
    }
}

#[track_caller]
fn assert_read(version: u8) {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("data");
    support::copy_dir(&fixture(version).join("data"), &copy);
    let expected = fs::read_to_string(fixture(version).join("expected.txt")).unwrap();
    assert_eq!(describe(&copy, true), expected);
    assert_eq!(describe(&copy, false), expected);
    // And after this version has been at it.
    assert_eq!(describe(&copy, false), expected);
}

#[test]
fn version_1_is_read() {
    assert_read(1);
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
    cut.extend(events(samples::KINDS * 2..samples::KINDS * 2 + 6));
    journal
        .commit(&[
            Group { shard: ShardId(1), first: Lsn(1), events: cut },
            Group {
                shard: ShardId(0),
                first: Lsn(samples::KINDS * 2 + 1),
                events: events(samples::KINDS * 2 + 6..samples::KINDS * 2 + 20),
            },
        ])
        .unwrap();
    let mut checkpoint = data.checkpoints().create(ShardId(1), Lsn(3)).unwrap();
    let images = (0..6).flat_map(|seed| {
        let (stock, order) = (samples::stock_image(seed), samples::order_image(seed));
        let hold = Image::Hold(samples::hold_image(seed));
        [Image::Stock(stock), Image::Order(order), Image::Request(samples::request_image(seed)), hold]
    });
    checkpoint.write(&images.collect::<Vec<_>>()).unwrap();
    data.filters().save(3, b"what was known").unwrap();
    data.filters().save(12, &[]).unwrap();
    let files = vec![FilterFile::of(3, b"what was known"), FilterFile::of(12, &[])];
    let end = CheckpointEnd { end: Lsn(7), time: Timestamp(1_700_000_000_009), departed: Lsn(2) };
    checkpoint.finish(end, &FilterManifest { number: 13, files: Some(files) }).unwrap();
    data.store_check()("7d1c5c0e").unwrap();
    data.identity().unwrap().record(Epoch(12)).unwrap();
    // As a crash leaves it, but for the empty segment that was being made ready.
    support::copy_dir(home.path(), &path);
    let _ = fs::remove_dir_all(path.join("journal/000000000003"));
    fs::remove_file(path.join("lock")).unwrap();
    fs::write(path.join("epoch"), epoch_of_nowhere()).unwrap();
    drop(journal);
    drop(data);
    let copy = tempfile::tempdir().unwrap();
    support::copy_dir(&path, copy.path());
    fs::write(fixture(CURRENT).join("expected.txt"), describe(copy.path(), true)).unwrap();
}

/// What `record(Epoch(12))` writes, but for the place, which is nobody's.
fn epoch_of_nowhere() -> String {
    let title = "# hotstock data directory. Do not edit: which server may sell what depends on it.";
    let machine = format!("{:032x}", 0xC0FFEE);
    let text = format!(
        "{title}\nepoch = 12\ntakes = {:032x} {:032x}\nmachine = {machine}\ndirectory = 2049:131\nmeta = 2049:140\ncreated = 1700000000.000000005\n\
         path = /var/lib/hotstock\n",
        0xBEEF, 0xCAFE
    );
    let check = crc32fast::hash(text.as_bytes());
    format!("{text}check = {check:08x}\n")
}
