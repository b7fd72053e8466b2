//! Ends the process at a step of a move or of a flush, for the tests of what a crash there leaves behind. In release builds there is no
//! such thing.

use hotstock_engine::engine::Parts;

/// `HOTSTOCK_FAILPOINT=promote.taken:3` aborts at the third passing of that step.
#[cfg(debug_assertions)]
const VARIABLE: &str = "HOTSTOCK_FAILPOINT";

/// Sets the failpoint that the environment asks for.
#[cfg(debug_assertions)]
pub fn set(parts: Parts) -> Parts {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let Ok(asked) = std::env::var(VARIABLE) else { return parts };
    let (step, count) = asked.split_once(':').unwrap_or((&asked, "1"));
    let Ok(count) = count.parse::<u64>() else {
        tracing::error!(asked, "{VARIABLE} must be STEP:NUMBER");
        return parts;
    };
    let (step, passed) = (step.to_owned(), AtomicU64::new(0));
    parts.failpoint(Arc::new(move |reached: &'static str| {
        if reached == step && passed.fetch_add(1, Ordering::Relaxed) + 1 == count {
            std::process::abort();
        }
    }))
}

/// There are no failpoints in a release build.
#[cfg(not(debug_assertions))]
pub fn set(parts: Parts) -> Parts {
    parts
}
