//! Ends the process at a step of a load, an eviction or a flush, so that tests can see what comes of it:
//! `HOTSTOCK_FAILPOINT=flush.after:2` at the second time that the step is reached; `span.held:1:100` a tenth of a
//! second after the first, in which everything is written that was on its way to the disk. Not part of release builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hotstock_engine::options::Parts;

use crate::failure::Failure;

const VARIABLE: &str = "HOTSTOCK_FAILPOINT";

/// Sets the step that the environment names, if it names one.
///
/// # Errors
/// [`Failure::Usage`] when it is not `NAME:N` or `NAME:N:MILLISECONDS`.
pub fn set(parts: Parts) -> Result<Parts, Failure> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(parts) };
    let named = text.split_once(':').and_then(|(name, rest)| {
        let (times, rests) = rest.split_once(':').unwrap_or((rest, "0"));
        Some((name.to_owned(), times.parse::<u64>().ok()?, rests.parse().ok()?))
    });
    let Some((name, times, rests)) = named else {
        return Err(Failure::Usage(format!(
            "{VARIABLE} is {text:?}, but must be NAME:N or NAME:N:MILLISECONDS"
        )));
    };
    let left = AtomicU64::new(times);
    Ok(parts.failpoint(Arc::new(move |step| {
        if step == name && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::thread::sleep(Duration::from_millis(rests));
            // As hard as a power cut: nothing is written or told on the way.
            std::process::abort();
        }
    })))
}
