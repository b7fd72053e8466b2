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
