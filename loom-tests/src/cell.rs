//! The stock cell: a reader sees the values of one store, whole, and never an older store after a newer one.

use hotstock_engine::sync::StockCell;
use loom::sync::Arc;
use loom::thread;

/// The store whose values these are; fails when they are of two.
fn store_of(values: [u64; 5]) -> u64 {
    assert_eq!(values, [values[0]; 5], "torn");
    values[0]
}

#[test]
fn a_reader_never_sees_half_a_store() {
    loom::model(|| {
        let cell = Arc::new(StockCell::default());
        let writer = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.store([1; 5]))
        };
        let seen = store_of(cell.load());
        assert!(seen <= 1);
        writer.join().unwrap();
        assert_eq!(store_of(cell.load()), 1);
    });
}

#[test]
fn a_reader_never_sees_an_older_store_after_a_newer_one() {
    let mut builder = loom::model::Builder::new();
    // Two switches of each thread reach every pair of steps; all of them take minutes.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let cell = Arc::new(StockCell::default());
        cell.store([1; 5]);
        let writer = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.store([2; 5]))
        };
        let first = store_of(cell.load());
        let second = store_of(cell.load());
        assert!(1 <= first && first <= second && second <= 2);
        writer.join().unwrap();
    });
}
