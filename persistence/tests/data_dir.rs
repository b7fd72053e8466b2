//! The data directory: made once, locked, and refused with a way out when it does not fit.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hotstock_engine::checkpoint::{
    CheckpointEnd, CheckpointStore as _, FilterManifest, FilterStore as _, Identity as _,
};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{ChainHash, Epoch, Lsn, ShardId};
use hotstock_engine::journal::{Bounds, Journal as _, JournalError, JournalReader as _};
use hotstock_engine::testing::journal_suite::{assert_holds, event, group};
use hotstock_persistence::data_dir::{DataDir, DataDirError};
use hotstock_persistence::journal::JournalOptions;

const SMALL: JournalOptions = JournalOptions { segment_bytes: 1 << 20, zeros: 0 };

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("made/by/us");
    (home, path)
}

#[test]
fn it_is_created_once_and_remembers() {
    let (_home, path) = fresh();
    let data = DataDir::open(&path, Some(3)).unwrap();
    assert_eq!(data.shards(), 3);
    let id = data.server_id();
    assert_eq!(id.to_string().len(), 32);
    drop(data);
    for shards in [Some(3), None] {
        let data = DataDir::open(&path, shards).unwrap();
        assert_eq!((data.shards(), data.server_id()), (3, id));
    }
    let (_home, other) = fresh();
    assert_ne!(DataDir::open(&other, Some(3)).unwrap().server_id(), id);
}

#[test]
fn the_journal_is_in_it() {
    let (_home, path) = fresh();
    let data = DataDir::open(&path, Some(3)).unwrap();
    data.journal(SMALL).unwrap().commit(&[group(2, 1, 30)]).unwrap();
    drop(data);
    let data = DataDir::open(&path, None).unwrap();
    let journal = data.journal(SMALL).unwrap();
    assert_holds(&*journal.reader(), 2, 1, 30);
    assert_eq!(journal.reader().bounds(ShardId(0)).last, Lsn(0));
}

#[test]
fn another_number_of_shards_is_refused_with_the_way_out() {
    let (_home, path) = fresh();
    drop(DataDir::open(&path, Some(3)).unwrap());
    let error = DataDir::open(&path, Some(4)).unwrap_err();
    assert!(matches!(error, DataDirError::OtherShards { has: 3, asked: 4, .. }), "{error}");
    assert!(error.to_string().contains("start with 3 shards"), "{error}");
    // The refusal holds nothing.
    DataDir::open(&path, Some(3)).unwrap();
}

#[test]
fn a_number_of_shards_has_bounds() {
    let (_home, path) = fresh();
    for asked in [0, 1_025, u16::MAX] {
        assert!(matches!(DataDir::open(&path, Some(asked)), Err(DataDirError::BadShards { .. })));
    }
    assert!(!path.exists());
}

#[test]
fn only_one_has_it_open() {
    let (_home, path) = fresh();
    let data = DataDir::open(&path, Some(1)).unwrap();
    assert!(matches!(DataDir::open(&path, Some(1)), Err(DataDirError::InUse { .. })));
    let journal = data.journal(SMALL).unwrap();
    drop(data);
    // The journal alone keeps it locked.
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::InUse { .. })));
    drop(journal);
    DataDir::open(&path, None).unwrap();
}

#[test]
fn without_a_number_of_shards_nothing_is_created() {
    let (_home, path) = fresh();
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::Missing { .. })));
    assert!(!path.exists());
    fs::create_dir_all(&path).unwrap();
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::Missing { .. })));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn a_changed_meta_is_refused() {
    let (_home, path) = fresh();
    drop(DataDir::open(&path, Some(3)).unwrap());
    let meta = path.join("meta");
    let content = fs::read_to_string(&meta).unwrap();
    for changed in [
        content.replace("shards = 3", "shards = 4"),
        content.replace("shards = 3\n", ""),
        String::new(),
        content.replace("format = 1", "format = x"),
        format!("{content}\n"),
    ] {
        fs::write(&meta, changed).unwrap();
        let error = DataDir::open(&path, Some(3)).unwrap_err();
        assert!(matches!(error, DataDirError::Damaged { .. }), "{error}");
    }
    fs::write(&meta, content.replace("format = 1", "format = 2")).unwrap();
    assert!(matches!(DataDir::open(&path, Some(3)), Err(DataDirError::OtherFormat { has: 2, .. })));
    fs::write(&meta, content).unwrap();
    DataDir::open(&path, Some(3)).unwrap();
}

#[test]
fn a_missing_meta_beside_data_is_refused() {
    let (_home, path) = fresh();
    let data = DataDir::open(&path, Some(3)).unwrap();
    drop(data.journal(SMALL).unwrap());
    drop(data);
    fs::remove_file(path.join("meta")).unwrap();
    for shards in [Some(3), None] {
        assert!(matches!(DataDir::open(&path, shards), Err(DataDirError::Damaged { .. })));
    }
}

#[test]
fn it_belongs_to_the_first_store_that_is_reached() {
    let (_home, path) = fresh();
    let data = DataDir::open(&path, Some(3)).unwrap();
    assert_eq!(data.store_id().unwrap(), None);
    for _ in 0..2 {
        data.store_check()("own").unwrap();
        assert_eq!(data.store_id().unwrap().as_deref(), Some("own"));
        let problem = data.store_check()("other").unwrap_err();
        assert!(problem.contains("own") && problem.contains("another directory"), "{problem}");
    }
    // A file that was touched is not guessed at.
    let file = path.join("store");
    let text = fs::read_to_string(&file).unwrap();
    for content in
        [text.replace("store_id = ", "store_id = 0"), text[..text.len() - 2].to_owned(), String::new()]
    {
        fs::write(&file, content).unwrap();
        assert!(matches!(data.store_id(), Err(DataDirError::Damaged { .. })));
        assert!(data.store_check()("own").is_err());
    }
}

/// As programs before the first format that is read wrote it.
#[test]
fn a_directory_of_an_earlier_program_is_refused() {
    for format in 1..=3 {
        let (_home, path) = fresh();
        fs::create_dir_all(path.join("journal")).unwrap();
        let title = "hotstock data directory. Do not edit: the shards of every SKU depend on it.";
        let text = format!("{title}\nformat = {format}\nshards = 2\nserver_id = {:032x}\n", 7);
        let check = crc32fast::hash(text.as_bytes());
        fs::write(path.join("meta"), format!("{text}check = {check:08x}\n")).unwrap();
        for shards in [Some(2), None] {
            let error = DataDir::open(&path, shards).unwrap_err();
            assert!(matches!(error, DataDirError::EarlierProgram { .. }), "{error}");
            assert!(
                error.to_string().contains("earlier program whose format is not read; start with a new"),
                "{error}"
            );
        }
    }
}

fn chain(n: u64) -> ChainHash {
    ChainHash(n)
}

#[test]
fn a_restored_one_goes_on_behind_what_the_store_has() {
    let (_home, path) = fresh();
    let bases = [(Lsn(40), chain(u64::MAX)), (Lsn::ZERO, chain(0)), (Lsn(7), chain(9))];
    let restored = DataDir::restore(&path, &bases).unwrap();
    let server = restored.server_id();
    let end = CheckpointEnd { end: Lsn(40), time: Timestamp(5), departed: Lsn(40) };
    restored
        .checkpoints()
        .create(ShardId(0), Lsn(40))
        .unwrap()
        .finish(end, &FilterManifest::default())
        .unwrap();
    restored.filters().save(1, b"known").unwrap();
    // Not before it is finished.
    drop(restored.checkpoints());
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::InUse { .. })));
    drop(restored.finish(Epoch(12)).unwrap());

    for round in 0..3 {
        let data = DataDir::open(&path, Some(3)).unwrap();
        assert_eq!((data.server_id(), data.identity().unwrap().epoch()), (server, Epoch(12)));
        data.identity().unwrap().is_same_place().unwrap();
        assert_eq!(data.checkpoints().newest(ShardId(0)).unwrap().unwrap().end(), end);
        assert_eq!(data.filters().load(1).unwrap(), Some(b"known".to_vec()));
        let looked = data.stopped_journal().unwrap();
        assert_eq!(looked.bounds(ShardId(0)), Bounds { first: Lsn(41), last: Lsn(40 + round) });
        drop(looked);
        let mut journal = data.journal(SMALL).unwrap();
        let reader = journal.reader();
        for (shard, (lsn, hash)) in (0..).map(ShardId).zip(bases) {
            assert_eq!(reader.bounds(shard).first, lsn.next());
            assert_eq!(reader.chain(shard, lsn).unwrap(), hash);
        }
        let refused = journal.commit(&[group(0, 1, 1)]);
        assert!(
            matches!(refused, Err(JournalError::OutOfOrder { expected, .. }) if expected == Lsn(41 + round))
        );
        journal.commit(&[group(0, 41 + round, 1)]).unwrap();
        assert_holds(&*reader, 0, 41, 41 + round);
        assert_ne!(reader.chain(ShardId(0), Lsn(41)).unwrap(), chain(u64::MAX));
    }
}

#[test]
fn a_restore_that_broke_off_is_no_data_directory() {
    let (_home, path) = fresh();
    drop(DataDir::restore(&path, &[(Lsn(40), chain(5))]).unwrap());
    for shards in [Some(1), None] {
        let error = DataDir::open(&path, shards).unwrap_err();
        assert!(error.to_string().contains("begin again in a new directory"), "{error}");
    }
    assert!(matches!(DataDir::restore(&path, &[(Lsn(40), chain(5))]), Err(DataDirError::NotEmpty { .. })));
}

#[test]
fn nothing_is_restored_into_a_directory_that_holds_something() {
    let (_home, path) = fresh();
    let bases = [(Lsn(40), chain(5))];
    let data = DataDir::open(&path, Some(1)).unwrap();
    assert!(matches!(DataDir::restore(&path, &bases), Err(DataDirError::InUse { .. })));
    drop(data);
    assert!(matches!(DataDir::restore(&path, &bases), Err(DataDirError::NotEmpty { .. })));
    let (_home, empty) = fresh();
    assert!(matches!(DataDir::restore(&empty, &[]), Err(DataDirError::BadShards { asked: 0 })));
    assert!(!empty.exists());
    fs::create_dir_all(&empty).unwrap();
    drop(DataDir::restore(&empty, &bases).unwrap());
}

/// Every file with its content.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(everything(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn a_stopped_journal_is_read_without_a_change() {
    let (_home, path) = fresh();
    for clean in [true, false] {
        let data = DataDir::open(&path, Some(3)).unwrap();
        let mut journal = data.journal(JournalOptions { segment_bytes: 8 << 10, zeros: 0 }).unwrap();
        let first = journal.reader().bounds(ShardId(1)).last.0 + 1;
        for commit in 0..60 {
            journal.commit(&[group(1, first + commit * 10, 10), group(2, first + commit * 10, 10)]).unwrap();
        }
        if clean {
            continue;
        }
        // As a crash leaves it.
        let copy = tempfile::tempdir().unwrap();
        support::copy_dir(&path, copy.path());
        drop(journal);
        drop(data);
        fs::remove_dir_all(&path).unwrap();
        support::copy_dir(copy.path(), &path);
    }
    let before = everything(&path);
    let data = DataDir::open(&path, None).unwrap();
    let stopped = data.stopped_journal().unwrap();
    drop(data);
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::InUse { .. })));
    for shard in [1, 2] {
        assert_holds(&stopped, shard, 1, 1_200);
        stopped.check(ShardId(shard)).unwrap();
        let from: Vec<_> = stopped.events(ShardId(shard), Lsn(1_190)).map(Result::unwrap).collect();
        assert_eq!(from.len(), 11);
        assert_eq!(from[0], (Lsn(1_190), event(shard, 1_190)));
        let copies: Vec<_> = fs::read_dir(path.join("journal/trash-copies")).unwrap().collect();
        assert!(copies.len() <= 2, "{copies:?}");
    }
    assert_eq!(stopped.events(ShardId(0), Lsn(1)).count(), 0);
    assert_eq!(stopped.events(ShardId(1), Lsn(1_201)).count(), 0);
    assert!(matches!(stopped.events(ShardId(1), Lsn(0)).next(), Some(Err(JournalError::Trimmed { .. }))));
    drop(stopped);
    assert!(before == everything(&path), "something was changed");

    let data = DataDir::open(&path, None).unwrap();
    assert_holds(&*data.journal(SMALL).unwrap().reader(), 1, 1, 1_200);
}
