//! The running engine on a real data directory against the naive model of `engine/tests/model`: random commands among
//! restarts, crashes, torn writes, failing disks, panicking shards and stores that were restored, while SKUs and orders
//! leave memory and come back.
//!
//! - [`naive`], [`wishes`]: the model and the random commands, shared with the test of the state machine.
//! - [`house`]: an engine on its data directory and the model side by side. [`disk`]: data directories as a crash
//!   leaves them.
//!
//! `PROPTEST_CASES=500 cargo test --test engine_model` looks longer.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod disk;
mod house;
#[path = "../../engine/tests/model/naive/mod.rs"]
#[allow(dead_code, reason = "the state machine's test asks it for more")]
mod naive;
#[path = "../../engine/tests/model/wishes.rs"]
#[allow(dead_code, reason = "the state machine's test has a larger world, too")]
mod wishes;

use hotstock_engine::command::Action;
use proptest::collection::vec;
use proptest::prelude::*;

use house::{House, Trouble};
use wishes::{PartWish, World, action, first_stocks, part};

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// A caller sends a command.
    Do(Action),
    /// A caller asks for a part of an order.
    DoPart(PartWish),
    /// A caller repeats a command that was sent before.
    Again(usize),
    /// A caller sends several at once.
    Batch(Vec<Action>),
    /// Time passes, in tenths of seconds.
    Pass(u64),
    /// So much that what has ended leaves memory.
    LongPass,
    /// Stopped in order and started again.
    Restart,
    /// Killed while nothing is under way, and started again.
    Crash,
    /// The store is copied.
    Backup,
    /// Started again with the last copy of the store in its place.
    Restore,
    /// Killed while a command is being written: any part of its bytes may have reached the disk.
    Torn(Action, u64),
    /// Something fails while commands are under way.
    Trouble(Trouble, Vec<Action>),
}

fn step(world: World) -> impl Strategy<Value = Step> {
    let trouble = prop_oneof![
        Just(Trouble::WriteFails),
        Just(Trouble::SyncFails),
        (0..2_u16).prop_map(Trouble::ShardPanics)
    ];
    prop_oneof![
        40 => action(world).prop_map(Step::Do),
        20 => part(world).prop_map(Step::DoPart),
        10 => (0..1000_usize).prop_map(Step::Again),
        15 => vec(action(world), 2..6).prop_map(Step::Batch),
        8 => (1..40_u64).prop_map(Step::Pass),
        2 => Just(Step::LongPass),
        2 => Just(Step::Backup),
        2 => Just(Step::Restore),
        2 => Just(Step::Restart),
        3 => Just(Step::Crash),
        6 => (action(world), any::<u64>()).prop_map(|(action, seed)| Step::Torn(action, seed)),
        3 => (trouble, vec(action(world), 1..4)).prop_map(|(trouble, actions)| Step::Trouble(trouble, actions)),
    ]
}

/// How many shards, the first stocks, and what happens.
fn story() -> impl Strategy<Value = (u16, Vec<Action>, Vec<Step>)> {
    (1..=2_u16, first_stocks(World::SMALL), vec(step(World::SMALL), 1..60))
}

/// Few cases by default, because each syncs hundreds of times; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let regressions = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine_model/regressions.txt");
    ProptestConfig {
        cases: if asked { default.cases } else { 12 },
        // Each try of a shrink takes as long as a case.
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(proptest::test_runner::FileFailurePersistence::Direct(
            regressions,
        ))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_does_what_the_model_does((shards, first, steps) in story()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let mut house = House::open(shards).await;
            for action in first {
                house.send(action).await;
            }
            for step in steps {
                let told = format!("{step:?}");
                house.take(step).await;
                house.check(&told).await;
            }
            house.close().await;
        });
    }
}
