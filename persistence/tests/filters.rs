//! The filter of known numbers as files: whole or not at all.

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
fn files_come_back_by_number_and_go_when_they_are_not_kept() {
    let (home, filters) = fresh();
    assert_eq!(filters.load(3), Ok(None));
    filters.keep_only(&[3]).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    filters.save(10, &large).unwrap();
    filters.save(2, b"").unwrap();
    filters.save(u64::MAX, b"last").unwrap();
    assert_eq!(filters.load(2), Ok(Some(Vec::new())));
    assert_eq!(filters.load(10), Ok(Some(large)));
    assert_eq!(filters.load(u64::MAX), Ok(Some(b"last".to_vec())));
    // What a crash left of one that was being written goes too, what somebody else laid there stays.
    fs::write(home.path().join("filters/000000000011.new"), b"half").unwrap();
    fs::write(home.path().join("filters/000000000010.bak"), b"somebody's").unwrap();
    filters.keep_only(&[2, 77]).unwrap();
    assert_eq!((filters.load(10), filters.load(11), filters.load(u64::MAX)), (Ok(None), Ok(None), Ok(None)));
    assert_eq!(filters.load(2), Ok(Some(Vec::new())));
    let mut names: Vec<_> =
        fs::read_dir(home.path().join("filters")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["000000000002", "000000000010.bak"]);
}

#[test]
fn a_change_of_the_header_is_an_error_that_names_the_file() {
    let (home, filters) = fresh();
    filters.save(1, b"some bytes").unwrap();
    let file = home.path().join("filters/000000000001");
    let whole = fs::read(&file).unwrap();
    for at in 0..8 {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        for content in [&changed[..], &whole[..at]] {
            fs::write(&file, content).unwrap();
            let error = filters.load(1).expect_err(&format!("byte {at}"));
            assert!(error.contains("filters/000000000001"), "{error}");
        }
    }
    // Whether the rest is what was saved, a checkpoint says.
    fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(filters.load(1), Ok(Some(b"some bytesx".to_vec())));
}
