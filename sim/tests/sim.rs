//! Seeds of the simulator: those that once failed, one that is asked for, many.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hotstock_sim::plan::Plan;
use hotstock_sim::run::{Done, run};
use hotstock_sim::{keep_quiet, shrink};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Seeds that once failed, each with the length of its plan.
fn kept() -> impl Iterator<Item = Plan> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let (seed, commands) = (words.next()?, words.next().unwrap());
        Some(Plan::of(seed.parse().unwrap(), commands.parse().unwrap()))
    })
}

fn commands() -> usize {
    usize::try_from(number("HOTSTOCK_SIM_STEPS").unwrap_or(300)).unwrap()
}

/// Runs a plan; when it fails, cuts it and says how to repeat it.
fn check(plan: &Plan) -> Done {
    run(plan, false).unwrap_or_else(|failure| {
        let seed = plan.seed();
        eprintln!("seed {seed}, operation {}: {}", failure.at, failure.violation);
        let shrunk = shrink::shrink(plan, failure.clone());
        let kept: Vec<String> = shrunk.kept.iter().map(usize::to_string).collect();
        panic!(
            "seed {seed}, operation {}: {}\n\ncut to {} operations:\n{}\nwhich fail with: {}\n\nrepeat it:\n  HOTSTOCK_SIM_SEED={seed} \
             HOTSTOCK_SIM_STEPS={} HOTSTOCK_SIM_ONLY={} cargo test -p hotstock-sim one_seed -- --nocapture\n",
            failure.at,
            failure.violation,
            kept.len(),
            shrunk.plan,
            shrunk.failure.violation,
            commands(),
            kept.join(","),
        )
    })
}

#[test]
fn one_seed() {
    let Some(seed) = number("HOTSTOCK_SIM_SEED") else { return };
    keep_quiet();
    let mut plan = Plan::of(seed, commands());
    if let Ok(only) = std::env::var("HOTSTOCK_SIM_ONLY") {
        plan = plan.only(&only.split(',').map(|index| index.parse().unwrap()).collect::<Vec<_>>());
    }
    match run(&plan, true) {
        Ok(done) => eprintln!("{done:?}"),
        Err(failure) => panic!("seed {seed}, operation {}: {}", failure.at, failure.violation),
    }
}

#[test]
fn seeds_that_once_failed() {
    keep_quiet();
    for plan in kept() {
        check(&plan);
    }
}

#[test]
fn a_seed_repeats_bit_for_bit() {
    keep_quiet();
    for seed in 0..number("HOTSTOCK_SIM_TWICE").unwrap_or(10) {
        let plan = Plan::of(seed, commands());
        assert_eq!(check(&plan), check(&plan), "seed {seed}");
    }
}

#[test]
fn many_seeds() {
    keep_quiet();
    let (first, seeds) =
        (number("HOTSTOCK_SIM_FIRST").unwrap_or(30_000), number("HOTSTOCK_SIM_SEEDS").unwrap_or(60));
    let (began, next, steps) = (Instant::now(), AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= first + seeds {
                break;
            }
            steps.fetch_add(check(&Plan::of(seed, commands())).steps, Ordering::SeqCst);
        }
    };
    // Each run is of one thread.
    std::thread::scope(|scope| {
        let threads = number("HOTSTOCK_SIM_THREADS").unwrap_or(1);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let (steps, seconds) = (steps.into_inner(), began.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = steps as f64 / seconds;
    println!("{steps} steps over {seeds} seeds in {seconds:.1} s: {rate:.0} steps/s");
}
