//! The data directory: made once, locked, and refused with a way out when it does not fit.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;

use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::Journal as _;
use hotstock_engine::store::StoreError;
use hotstock_engine::testing::journal_suite::{assert_holds, group};
use hotstock_persistence::data_dir::{DataDir, DataDirError};
use hotstock_persistence::journal::JournalOptions;
use hotstock_persistence::sql::{SqlOptions, SqlStore};

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
        content.replace("format = 3", "format = x"),
        format!("{content}\n"),
    ] {
        fs::write(&meta, changed).unwrap();
        let error = DataDir::open(&path, Some(3)).unwrap_err();
        assert!(matches!(error, DataDirError::Damaged { .. }), "{error}");
    }
    fs::write(&meta, content.replace("format = 3", "format = 4")).unwrap();
    assert!(matches!(DataDir::open(&path, Some(3)), Err(DataDirError::OtherFormat { has: 4, .. })));
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

#[tokio::test]
async fn it_belongs_to_the_first_store_that_is_reached() {
    let (home, path) = fresh();
    let store = |name: &str, data: &DataDir| {
        let url = format!("sqlite:{}", home.path().join(name).display());
        let store = SqlStore::open(&SqlOptions::new(url), data.server_id(), data.shards()).unwrap();
        store.checked_by(data.store_check())
    };
    let data = DataDir::open(&path, Some(3)).unwrap();
    assert_eq!(data.store_id().unwrap(), None);
    let own = store("own", &data).migrate().await.unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(store("own", &data).migrate().await.unwrap(), own);
        assert_eq!(data.store_id().unwrap().as_ref(), Some(&own));
        let refused = store("other", &data).migrate().await.unwrap_err();
        let StoreError::Inconsistent(problem) = refused else { panic!("{refused}") };
        assert!(problem.contains(&own) && problem.contains("another directory"), "{problem}");
    }
    // Another directory may use the same store.
    let (_home, second) = fresh();
    let second = DataDir::open(&second, Some(1)).unwrap();
    assert_eq!(store("own", &second).migrate().await.unwrap(), own);
    // A file that was touched is not guessed at.
    let file = path.join("store");
    let text = fs::read_to_string(&file).unwrap();
    for content in
        [text.replace("store_id = ", "store_id = 0"), text[..text.len() - 2].to_owned(), String::new()]
    {
        fs::write(&file, content).unwrap();
        assert!(matches!(data.store_id(), Err(DataDirError::Damaged { .. })));
        assert!(matches!(store("own", &data).migrate().await, Err(StoreError::Inconsistent(_))));
    }
}
