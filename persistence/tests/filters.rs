//! The filter of known numbers as files: whole or not at all, and damage is told.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::fs;

use hotstock_engine::checkpoint::FilterStore as _;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::filters::FileFilters;

fn fresh() -> (tempfile::TempDir, FileFilters) {
    let home = tempfile::tempdir().unwrap();
    let filters = DataDir::open(home.path(), Some(2)).unwrap().filters();
    (home, filters)
}

#[test]
fn generations_come_back_by_number() {
    let (_home, filters) = fresh();
    assert_eq!(filters.load(), Ok(Vec::new()));
    filters.remove(3).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    filters.save(10, &large).unwrap();
    filters.save(2, b"").unwrap();
    filters.save(u32::MAX, b"last").unwrap();
    assert_eq!(filters.load(), Ok(vec![(2, Vec::new()), (10, large), (u32::MAX, b"last".to_vec())]));
    filters.save(10, b"new").unwrap();
    filters.remove(2).unwrap();
    filters.remove(2).unwrap();
    assert_eq!(filters.load(), Ok(vec![(10, b"new".to_vec()), (u32::MAX, b"last".to_vec())]));
}

#[test]
fn one_that_was_not_written_to_the_end_is_not_there() {
    let (home, filters) = fresh();
    filters.save(1, b"whole").unwrap();
    fs::write(home.path().join("filters/000000000002.new"), b"half").unwrap();
    assert_eq!(filters.load(), Ok(vec![(1, b"whole".to_vec())]));
}

#[test]
fn every_change_is_an_error_that_names_the_file() {
    let (home, filters) = fresh();
    filters.save(1, b"some bytes").unwrap();
    let file = home.path().join("filters/000000000001");
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        for content in [&changed[..], &whole[..at]] {
            fs::write(&file, content).unwrap();
            let error = filters.load().expect_err(&format!("byte {at}"));
            assert!(error.contains("filters/000000000001"), "{error}");
        }
    }
    fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    filters.load().unwrap_err();
    // In the place of another one.
    fs::write(home.path().join("filters/000000000002"), &whole).unwrap();
    filters.load().unwrap_err();
}
