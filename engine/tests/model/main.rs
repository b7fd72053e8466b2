//! The state machine of a shard against a naive model: random commands and mishaps, everything compared after each
//! step.
//!
//! - [`naive`]: the model, written from the docs. [`wishes`]: random commands. [`steps`]: what else can happen.
//! - [`bench`]: a shard (decide, apply, answer; restarts, torn tails, checkpoints; SKUs, orders and requests that
//!   leave memory and come back) and the model side by side. [`stored`]: the store behind it.
//! - [`sound`]: whatever the store hands over is refused, or can be applied.
//!
//! `PROPTEST_CASES=20000 cargo test -p hotstock-engine --test model` looks longer. A failure shrinks to few steps and
//! is kept in `regressions.txt`, which is replayed first.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod bench;
mod naive;
mod sound;
mod steps;
mod stored;
mod wishes;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use bench::Bench;
use steps::{Step, steps};
use wishes::World;

/// `cases` unless `PROPTEST_CASES` asks for another number.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let regressions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/regressions.txt");
    ProptestConfig {
        cases: if asked { default.cases } else { cases },
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        ..default
    }
}

fn run(steps: Vec<Step>) {
    let mut bench = Bench::default();
    for step in steps {
        bench.take(step);
        bench.check();
    }
    bench.finish();
}

proptest! {
    #![proptest_config(config(256))]

    /// Three SKUs in two warehouses and six orders: everything collides with everything.
    #[test]
    fn the_state_machine_does_what_the_model_does(steps in steps(World::SMALL, 1..160)) {
        run(steps);
    }
}

proptest! {
    #![proptest_config(config(128))]

    /// Two SKUs in four warehouses: where the lines lie that may lie anywhere.
    #[test]
    fn warehouses_are_chosen_as_the_model_says(steps in steps(World::MANY_WAREHOUSES, 1..120)) {
        run(steps);
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// Orders of up to sixty lines.
    #[test]
    fn orders_of_many_lines_do_what_the_model_does(steps in steps(World::WIDE, 1..40)) {
        run(steps);
    }
}
