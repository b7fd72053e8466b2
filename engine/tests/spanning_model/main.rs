//! Orders over several places, simulated: shards (the real state machines with their homes), a store behind them that is
//! away now and then, messages that are late, lost or come twice, crashes of everything at every step, SKUs and orders
//! that leave memory and come back, and an independent model that knows of one place only.
//!
//! - [`table`]: the model: one table of orders, on the naive model of a shard (`tests/model`). It foresees every decision.
//! - [`world`]: what is there; [`shard`]: the shards, [`stored`]: the rows of the store; [`messages`]: what is on its way,
//!   and a small executor.
//! - [`server`]: who is asked next, as the engine's coordinator does it. [`wishes`]: what callers ask.
//! - [`run`]: what happens next. [`checks`]: what must hold of every answer, and when everything has come to rest.
//!
//! Everything follows from a seed. `HOTSTOCK_SEED=… cargo test -p hotstock-engine --test spanning_model` runs one again;
//! `HOTSTOCK_CASES=200000` looks longer. A failure is cut to the fewest steps after which it still shows, and its trace is printed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod checks;
mod messages;
#[path = "../model/naive/mod.rs"]
#[allow(dead_code, reason = "of the naive model of a shard, some parts are for its own test alone")]
mod naive;
mod run;
mod server;
mod shard;
#[path = "../model/stored.rs"]
mod stored;
mod table;
mod wishes;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use run::Run;

/// Things that happen in one case.
const STEPS: u64 = 300;

/// Cases of one test, of which there are several that run side by side.
const CASES: u64 = 400;

/// The last things that are printed of a failure.
const TRACE: usize = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One case: so many steps, then everything comes to rest.
fn case(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let mut run = Run::new(seed, false);
    run.go(steps);
    run.end()
}

fn fails(seed: u64, steps: u64) -> bool {
    catch_unwind(|| drop(case(seed, steps))).is_err()
}

/// Prints what led to a failure, in the fewest steps.
fn tell(seed: u64) {
    // In large steps first; whether it fails does not quite grow with them.
    let mut steps = STEPS;
    for stride in [64_usize, 8, 1] {
        let from = if stride == 64 { 0 } else { steps.saturating_sub(8 * stride as u64) };
        let fewer = (from..steps).step_by(stride).find(|steps| fails(seed, *steps));
        steps = fewer.unwrap_or(steps);
    }
    let run = std::cell::RefCell::new(None);
    println!("--- again, to be told");
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let mut traced = Run::new(seed, true);
        let trace = traced.tracer();
        *run.borrow_mut() = Some(trace);
        traced.go(steps);
        traced.end();
    }));
    let trace = run.into_inner().map(|tracer| tracer()).unwrap_or_default();
    for line in &trace[trace.len().saturating_sub(TRACE)..] {
        println!("{line}");
    }
    println!("HOTSTOCK_SEED={seed} fails, already after {steps} steps");
}

fn cases(first: u64) {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let seeds = match number("HOTSTOCK_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("HOTSTOCK_CASES").map_or(CASES, |cases| cases / 4),
    };
    let enough = seeds.end - seeds.start >= CASES;
    for seed in seeds {
        match catch_unwind(|| case(seed, STEPS)) {
            Ok(saw) => saw.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times),
            Err(problem) => {
                tell(seed);
                std::panic::resume_unwind(problem);
            }
        }
    }
    println!("{seen:#?}");
    if enough {
        for what in MUST_BE_SEEN {
            assert!(seen.contains_key(what), "in all these cases there were none: {what}");
        }
    }
}

/// What a few hundred cases must have come across, or they show little.
const MUST_BE_SEEN: &[&str] = &[
    "attempts refused",
    "branches asked",
    "branches released by presumed abort",
    "crashes of a shard",
    "crashes of the server",
    "decisions carried",
    "evicted",
    "forgotten",
    "homes loaded",
    "late payments taken",
    "orders expired",
    "orders found in another shard",
    "orders loaded",
    "orders made over several places",
    "SKUs loaded",
    "starts from a checkpoint",
    "the store was away",
];

#[test]
fn orders_over_several_places_end_as_in_one_1() {
    cases(0);
}

#[test]
fn orders_over_several_places_end_as_in_one_2() {
    cases(1_000_000);
}

#[test]
fn orders_over_several_places_end_as_in_one_3() {
    cases(2_000_000);
}

#[test]
fn orders_over_several_places_end_as_in_one_4() {
    cases(3_000_000);
}
