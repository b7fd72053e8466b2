//! The journal in memory passes the suite that every journal must pass: it stands in for the real one in the engine's
//! tests.

use hotstock_engine::journal::{Journal, JournalError};
use hotstock_engine::journal_suite;
use hotstock_engine::testing::MemoryJournal;
use hotstock_engine::testing::journal_suite::Subject;

/// It has no medium: a crash is a clean end, and a failed sync is a failed write.
struct InMemory(MemoryJournal);

impl Subject for InMemory {
    fn open(&mut self) -> Result<Box<dyn Journal>, JournalError> {
        Ok(Box::new(self.0.open()))
    }

    fn crash(&mut self, journal: Box<dyn Journal>) {
        drop(journal);
    }

    fn fail_next_write(&mut self) {
        self.0.fail_next();
    }

    fn fail_next_sync(&mut self) {
        self.0.fail_next();
    }

    fn events_to_trim(&self) -> u64 {
        1
    }
}

journal_suite!(InMemory(MemoryJournal::default()));
