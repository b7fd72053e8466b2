//! The simulator: the shipped engine, journal, checkpoints, filters and mirror on a simulated disk, a simulated
//! store, a simulated Redis, a simulated clock and simulated callers, on one thread. A run follows from one number,
//! the seed, and repeats bit for bit.
//!
//! Read in this order:
//!
//! 1. [`plan`]: what happens, as data made from the seed.
//! 2. [`run`]: carries a plan out and checks what callers are told, step by step and at the end.
//! 3. `worlds`: what may have happened, as far as callers were told, in the words of the naive model.
//! 4. `outside`: store and clock; disk and Redis are in `hotstock_persistence::testing`, beside what they stand in for.
//! 5. [`shrink`]: of a plan that fails, the operations without which it does not.

mod outside;
pub mod plan;
pub mod run;
pub mod shrink;
mod trace;
mod worlds;

#[allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "the model of the engine's tests, which ask it for more"
)]
#[path = "../../engine/tests/model/naive/mod.rs"]
mod naive;

/// What a shard says that panics because the plan wants it to.
const ON_DEMAND: &str = "a panic on demand";

/// Keeps panics that the plan wants out of the output.
pub fn keep_quiet() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| info.payload().downcast_ref::<&str>().copied());
        if text.is_none_or(|text| !text.contains(ON_DEMAND)) {
            before(info);
        }
    }));
}
