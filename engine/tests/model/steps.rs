//! What can happen to a shard.

use std::ops::Range;

use hotstock_engine::command::Action;
use hotstock_engine::ids::SkuId;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::wishes::{PartWish, World, action, first_stocks, open_reserve, part, sku};

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// A caller sends a command.
    Do(Action),
    /// A caller asks for a part of what an order has, so that most parts fit.
    DoPart(PartWish),
    /// A caller repeats a command that was sent before (counted from the first, modulo their number).
    Again(usize),
    /// Time passes.
    Pass { millis: u64 },
    /// The clock steps back.
    ClockBack { millis: u64 },
    /// Up to so many orders expire, one after the other.
    Expire { at_most: usize },
    /// What is older than the window, and what is more than `max`, leaves memory; of what was flushed.
    Forget { window_millis: u64, max: usize },
    /// The shard stops and replays its whole journal.
    Restart,
    /// As `Restart`, and the last events never reached the disk.
    TornTail { events: usize },
    /// A checkpoint begins, or writes one more slice.
    Checkpoint { places: usize },
    /// The shard stops and starts from its newest complete checkpoint, without the last events.
    Recover { torn: usize },
    /// Up to so many events are flushed to the store.
    Flush { events: usize },
    /// SKUs that are not in use leave memory, up to so many.
    Evict { at_most: usize },
    /// A SKU is loaded and kept in memory, or let go.
    Pin { sku: SkuId, hot: bool },
}

/// A stock in each warehouse, then whatever happens.
pub fn steps(world: World, count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let together = |(first, rest): (Vec<Action>, Vec<Step>)| {
        first.into_iter().map(Step::Do).chain(rest).collect::<Vec<_>>()
    };
    (first_stocks(world), vec(step(world), count)).prop_map(together)
}

fn step(world: World) -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => action(world).prop_map(Step::Do),
        8 => open_reserve(world).prop_map(Step::Do),
        25 => part(world).prop_map(Step::DoPart),
        12 => (0..1000_usize).prop_map(Step::Again),
        12 => millis().prop_map(|millis| Step::Pass { millis }),
        2 => millis().prop_map(|millis| Step::ClockBack { millis }),
        10 => (1..4_usize).prop_map(|at_most| Step::Expire { at_most }),
        6 => (millis(), 0..8_usize).prop_map(|(window_millis, max)| Step::Forget { window_millis, max }),
        1 => Just(Step::Restart),
        2 => (1..6_usize).prop_map(|events| Step::TornTail { events }),
        16 => (1..4_usize).prop_map(|places| Step::Checkpoint { places }),
        4 => (0..4_usize).prop_map(|torn| Step::Recover { torn }),
        12 => prop_oneof![1..6_usize, Just(usize::MAX)].prop_map(|events| Step::Flush { events }),
        10 => (1..4_usize).prop_map(|at_most| Step::Evict { at_most }),
        3 => (0..=world.skus, any::<bool>()).prop_map(|(number, hot)| Step::Pin { sku: sku(number), hot }),
    ]
}

/// Around whole seconds, where orders expire, and anything.
fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![(1..4_u64, 0..3_u64).prop_map(|(seconds, off)| seconds * 1000 + off - 1), 0..1500_u64]
}
