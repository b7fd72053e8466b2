//! Each planted bug is found. Needs the feature `planted`; see `scripts/planted`.

#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotstock_engine::planted::{PLANTED, plant};
use hotstock_sim::keep_quiet;
use hotstock_sim::plan::Plan;
use hotstock_sim::run::run;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap())
}

/// The first seed, of those that are tried, that shows the bug: the seed, what it says, the steps until then.
fn hunt(bug: &str, until: Instant) -> Result<(u64, String, u64), u64> {
    let first = number("HOTSTOCK_SIM_FIRST", 30_000);
    let (next, steps, is_found) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let found: Mutex<Option<(u64, String)>> = Mutex::default();
    let seek = || {
        plant(bug);
        while !is_found.load(Ordering::SeqCst) && Instant::now() < until {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            match run(&Plan::of(seed, 300), false) {
                Ok(done) => drop(steps.fetch_add(done.steps, Ordering::SeqCst)),
                Err(failure) => {
                    steps.fetch_add(failure.steps, Ordering::SeqCst);
                    is_found.store(true, Ordering::SeqCst);
                    found.lock().unwrap().get_or_insert((seed, failure.violation));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..number("HOTSTOCK_SIM_THREADS", 2) {
            scope.spawn(seek);
        }
    });
    let steps = steps.load(Ordering::SeqCst);
    found.into_inner().unwrap().map(|(seed, told)| (seed, told, steps)).ok_or(steps)
}

#[test]
fn every_planted_bug_is_found() {
    keep_quiet();
    let only = std::env::var("HOTSTOCK_SIM_BUG").unwrap_or_default();
    let patience = Duration::from_secs(number("HOTSTOCK_SIM_SECONDS", 300));
    let mut missed = Vec::new();
    println!("| planted bug | seed | steps | seconds | how it shows |\n|---|---|---|---|---|");
    for (bug, what) in PLANTED.iter().filter(|(bug, _)| bug.contains(&*only)) {
        let began = Instant::now();
        let found = hunt(bug, began + patience);
        let seconds = began.elapsed().as_secs_f64();
        match found {
            Ok((seed, told, steps)) => {
                let told: String = told.lines().next().unwrap_or_default().chars().take(100).collect();
                println!("| {bug}: {what} | {seed} | {steps} | {seconds:.1} | {told} |");
            }
            Err(steps) => {
                println!("| {bug}: {what} | not found | {steps} | {seconds:.1} | |");
                missed.push(*bug);
            }
        }
    }
    assert!(missed.is_empty(), "not found within {patience:?}: {missed:?}");
}
