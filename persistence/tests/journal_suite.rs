//! The journal on sled passes the suite that every journal must pass, with segments of the usual size and with
//! small ones that change all the time.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

mod with_small_segments {
    use super::support::{OnSled, SMALL};

    hotstock_engine::journal_suite!(OnSled::new(SMALL));
}

mod with_tiny_segments {
    use super::support::OnSled;
    use hotstock_persistence::journal::JournalOptions;

    // Full after every commit.
    hotstock_engine::journal_suite!(OnSled::new(JournalOptions { segment_bytes: 1, zeros: 0 }));
}

mod on_a_simulated_disk {
    use hotstock_engine::journal::{Journal, JournalError};
    use hotstock_engine::testing::journal_suite::{SHARDS, Subject};
    use hotstock_persistence::journal::SledJournal;
    use hotstock_persistence::testing::{DiskFault, Mounted, SimulatedDisk};

    use super::support::SMALL;

    /// A crash takes the power away, with all that was not synced.
    struct Simulated {
        disk: SimulatedDisk,
        mounted: Mounted,
    }

    impl Simulated {
        fn new() -> Self {
            let disk = SimulatedDisk::new(7);
            let mounted = disk.mount("disk");
            Self { disk, mounted }
        }
    }

    impl Subject for Simulated {
        fn open(&mut self) -> Result<Box<dyn Journal>, JournalError> {
            let journal = SledJournal::open(&self.mounted.root().join("journal"), SHARDS, SMALL)?;
            Ok(Box::new(journal))
        }

        fn crash(&mut self, journal: Box<dyn Journal>) {
            self.disk.power_off();
            drop(journal);
            self.disk.power_cycle();
        }

        fn fail_next_write(&mut self) {
            self.disk.fail(DiskFault::Write);
        }

        fn fail_next_sync(&mut self) {
            self.disk.fail(DiskFault::Sync);
        }

        fn events_to_trim(&self) -> u64 {
            1_000
        }
    }

    // Without those that read in another thread, which does not see the disk.
    hotstock_engine::journal_suite!(@tests Simulated::new();
        several_shards_in_one_commit large_events_come_back a_commit_of_many_bytes_comes_back a_reopened_journal_goes_on
        a_crashed_journal_has_everything crashes_and_commits_alternate trim_keeps_what_it_must trim_gives_space_back
        a_trimmed_journal_knows_its_place_after_a_restart a_failed_write_poisons a_failed_sync_poisons
        a_poisoned_journal_is_whole_after_a_restart the_chain_is_there_at_every_event
        the_chain_outlives_restarts_and_trims
    );
}
