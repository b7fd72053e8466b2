//! The levels of one stock, as readers see them: written by the journal writer alone, read by anyone without a lock,
//! never torn. A sequence lock after H.-J. Boehm, "Can seqlocks get along with programming language memory models?"
//! (MSPC 2012).

use super::primitives::{AtomicU64, Ordering, fence, spin_loop};

/// What a cell holds; the engine gives the numbers their meaning.
pub type CellValue = [u64; 5];

/// One writer, many readers. A reader tries again while the writer is at work, which takes some nanoseconds.
#[derive(Debug, Default)]
pub struct StockCell {
    /// Odd while the writer is at work.
    sequence: AtomicU64,
    values: [AtomicU64; 5],
}

impl StockCell {
    /// Stores new values. Only one thread may do so at a time.
    pub fn store(&self, values: CellValue) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        // A reader that sees one of the new values sees the odd sequence, too.
        fence(Ordering::Release);
        for (place, value) in self.values.iter().zip(values) {
            place.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// The values of one store, whole.
    #[must_use]
    pub fn load(&self) -> CellValue {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let values = std::array::from_fn(|index| self.values[index].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return values;
            }
            spin_loop();
        }
    }
}
