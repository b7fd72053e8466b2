//! Bugs that are planted to show that the simulator finds them (feature `planted`, which nothing that is shipped has).
//! Each is one line of shipped code that does something else while its name is chosen.

/// `planted!(name, bug, shipped)`: what is shipped; with the feature `planted`, the bug while that is chosen.
#[macro_export]
#[doc(hidden)]
macro_rules! planted {
    ($name:literal, $bug:expr, $shipped:expr) => {{
        #[cfg(feature = "planted")]
        {
            if $crate::planted::is_planted($name) { $bug } else { $shipped }
        }
        #[cfg(not(feature = "planted"))]
        {
            $shipped
        }
    }};
}

#[cfg(feature = "planted")]
pub use bugs::{PLANTED, is_planted, plant};

#[cfg(feature = "planted")]
mod bugs {
    use std::cell::Cell;

    /// The bugs, by their names, with what they are.
    pub const PLANTED: &[(&str, &str)] = &[
        ("answer-before-sync", "an answer leaves before its event is durable"),
        ("refusal-before-sync", "a refusal leaves before what it rests on is durable"),
        ("poison-ignored", "a commit that failed is answered as if it had not"),
        ("sync-skipped", "the journal does not sync what it wrote"),
        ("checkpoint-not-synced", "a checkpoint is there before its content is"),
        ("filter-forgets", "the filter of known numbers says that a known number is new"),
        ("departed-forgotten", "a checkpoint does not tell how new a snapshot of the store has to be"),
        ("version-not-compared", "what the store says counts, however old it is"),
        ("watermark-before-rows", "a flush counts as done before the store has its rows"),
        ("retention-too-early", "orders are pruned that are still kept"),
        ("jump-followed", "a jump of the wall clock is followed"),
        ("fence-not-checked", "a server that another one took over from goes on"),
        ("late-hold-kept", "a participant whose hold came too late is not told to let go"),
        ("holds-not-asked", "after a start nobody asks whether the holds are wanted"),
        ("decisions-not-repeated", "after a start nobody is told again what was decided"),
        ("instruction-twice", "a participant carries out again what it had carried out"),
        (
            "attempt-forgotten",
            "a coordinator that is asked knows nothing of the attempt whose holds its order has",
        ),
        ("kept-hold-let-go", "after a start a participant lets go of what it is to keep"),
        ("emptied-mirror-not-seen", "a mirror that lost everything is not filled again"),
        ("damage-taken-for-a-tear", "a start drops what lies behind damage, as if it were a torn tail"),
    ];

    thread_local! {
        static CHOSEN: Cell<&'static str> = const { Cell::new("") };
    }

    /// Plants a bug on this thread, and no other; an empty name plants none.
    pub fn plant(name: &str) {
        let known = PLANTED.iter().map(|(known, _)| *known).find(|known| *known == name);
        CHOSEN.set(known.unwrap_or_default());
    }

    /// Whether a bug is planted.
    #[must_use]
    pub fn is_planted(name: &str) -> bool {
        CHOSEN.get() == name
    }
}
