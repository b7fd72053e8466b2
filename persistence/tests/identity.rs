//! Who a server is: its epoch stays with the directory, and a copy of the directory is told from the directory.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hotstock_engine::checkpoint::Identity as _;
use hotstock_engine::ids::{Epoch, TakeId};
use hotstock_engine::limits::MAX_TAKES_KNOWN;
use hotstock_persistence::data_dir::{DataDir, DataDirError};

/// A data directory whose server took epoch 3.
fn used() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let data = DataDir::open(&path, Some(2)).unwrap();
    data.identity().unwrap().record(Epoch(3)).unwrap();
    (home, path)
}

fn is_same_place(path: &Path) -> Result<(), String> {
    let identity = DataDir::open(path, None).unwrap().identity().unwrap();
    assert_eq!(identity.epoch(), Epoch(3));
    identity.is_same_place()
}

fn run(program: &str, args: &[&Path]) {
    let options = if program == "cp" { vec!["-a"] } else { Vec::new() };
    assert!(Command::new(program).args(options).args(args).status().unwrap().success());
}

#[test]
fn a_new_one_has_no_epoch_and_is_in_its_place() {
    let home = tempfile::tempdir().unwrap();
    let data = DataDir::open(home.path(), Some(2)).unwrap();
    let identity = data.identity().unwrap();
    assert_eq!((identity.epoch(), identity.server()), (Epoch::ZERO, data.server_id()));
    identity.is_same_place().unwrap();
    identity.record(Epoch(1)).unwrap();
    identity.is_same_place().unwrap();
}

#[test]
fn it_remembers_its_epoch_and_its_place() {
    let (_home, path) = used();
    is_same_place(&path).unwrap();
    is_same_place(&path).unwrap();
    let data = DataDir::open(&path, None).unwrap();
    let identity = data.identity().unwrap();
    identity.record(Epoch(4)).unwrap();
    assert_eq!(identity.epoch(), Epoch(4));
    assert_eq!(data.identity().unwrap().epoch(), Epoch(4));
    // What has the directory's identity keeps it locked.
    drop(data);
    assert!(matches!(DataDir::open(&path, None), Err(DataDirError::InUse { .. })));
}

#[test]
fn it_remembers_what_it_took_and_what_it_meant_to_take() {
    let (_home, path) = used();
    let identity = DataDir::open(&path, None).unwrap().identity().unwrap();
    assert_eq!(identity.takes(), []);
    let before = TakeId(7);
    let first = identity.intend(Some(before)).unwrap();
    let second = identity.intend(Some(first)).unwrap();
    drop(identity);
    let identity = DataDir::open(&path, None).unwrap().identity().unwrap();
    assert_eq!((identity.takes(), identity.epoch()), (vec![before, first, second], Epoch(3)));
    identity.record(Epoch(4)).unwrap();
    // Tries that come to nothing, however many, don't push out the one that the store has.
    for _ in 0..MAX_TAKES_KNOWN + 10 {
        identity.intend(Some(second)).unwrap();
    }
    let takes = identity.takes();
    assert_eq!(takes.len(), MAX_TAKES_KNOWN);
    assert_eq!(takes[takes.len() - 2], second);
}

#[test]
fn a_copy_is_another_place() {
    let (home, path) = used();
    let copy = home.path().join("copy");
    run("cp", &[&path, &copy]);
    let why = is_same_place(&copy).unwrap_err();
    for named in ["copy of", path.canonicalize().unwrap().to_str().unwrap(), "inode"] {
        assert!(why.contains(named), "{why}");
    }
    is_same_place(&path).unwrap();
    // Also when the original is gone and the copy stands in its place.
    fs::remove_dir_all(&path).unwrap();
    run("mv", &[&copy, &path]);
    is_same_place(&path).unwrap_err();
    // As soon as its server took an epoch, it is a place of its own.
    let identity = DataDir::open(&path, None).unwrap().identity().unwrap();
    identity.record(Epoch(5)).unwrap();
    identity.is_same_place().unwrap();
}

#[test]
fn files_that_were_put_back_are_another_place() {
    let (home, path) = used();
    let backup = home.path().join("backup");
    run("cp", &[&path, &backup]);
    // Into the same directory: it has its inode still, and the new file may get the inode of the old one.
    fs::remove_file(path.join("meta")).unwrap();
    run("cp", &[&backup.join("meta"), &path.join("meta")]);
    let why = is_same_place(&path).unwrap_err();
    assert!(why.contains("meta") || why.contains("made"), "{why}");
}

#[test]
fn another_name_is_the_same_place() {
    let (home, path) = used();
    let other = home.path().join("renamed");
    run("mv", &[&path, &other]);
    is_same_place(&other).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    is_same_place(&path).unwrap();
}

#[test]
fn a_changed_file_is_refused() {
    let (_home, path) = used();
    let file = path.join("epoch");
    let content = fs::read_to_string(&file).unwrap();
    for changed in [content.replace("epoch = 3", "epoch = 4"), String::new(), format!("{content}\n")] {
        fs::write(&file, changed).unwrap();
        let refused = DataDir::open(&path, None).unwrap().identity();
        assert!(matches!(refused, Err(DataDirError::Damaged { .. })), "{refused:?}");
    }
}
