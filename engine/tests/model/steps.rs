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
    /// What is older than the window, and what is more than `max`, is forgotten.
    /// The last events are not flushed yet, and nothing of them is forgotten.
    Forget { window_millis: u64, max: usize, unflushed: u64 },
    /// The shard stops and replays its whole journal.
    Restart,
    /// As `Restart`, and the last events never reached the disk.
    TornTail { events: usize },
    /// A checkpoint begins, or writes one more slice.
    Checkpoint { places: usize },
    /// The shard stops and starts from its newest complete checkpoint, without the last events.
    Recover { torn: usize },
    /// SKUs are closed, to leave for the store.
    Close { skus: Vec<SkuId> },
    /// Closed SKUs leave, up to so many events.
    Leave { events: usize },
    /// A SKU comes back from the store, or a part of it does.
    Arrive { sku: SkuId, how: Arrival },
}

/// How a SKU comes back.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Up to so many events; the rest comes another time.
    pub events: usize,
    /// Orders and requests of one event.
    pub part: usize,
    /// What began before begins again.
    pub again: bool,
    /// Orders that have ended stay behind, to come back by themselves when they are needed.
    pub without_ended: bool,
}

impl Arrival {
    pub const WHOLE: Self = Self { events: usize::MAX, part: 3, again: false, without_ended: false };
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
        6 => (millis(), 0..8_usize, 0..4_u64)
            .prop_map(|(window_millis, max, unflushed)| Step::Forget { window_millis, max, unflushed }),
        1 => Just(Step::Restart),
        2 => (1..6_usize).prop_map(|events| Step::TornTail { events }),
        16 => (1..4_usize).prop_map(|places| Step::Checkpoint { places }),
        4 => (0..4_usize).prop_map(|torn| Step::Recover { torn }),
    ]
}

/// As [`steps`], and SKUs leave and come back.
pub fn moving_steps(world: World, count: Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let moves = prop_oneof![3 => step(world), 1 => moving_step(world)];
    let together = |(first, rest): (Vec<Action>, Vec<Step>)| {
        first.into_iter().map(Step::Do).chain(rest).collect::<Vec<_>>()
    };
    (first_stocks(world), vec(moves, count)).prop_map(together)
}

fn moving_step(world: World) -> impl Strategy<Value = Step> {
    let one = move || (0..=world.skus).prop_map(sku);
    let how = (1..6_usize, 1..4_usize, any::<bool>(), any::<bool>());
    let how =
        how.prop_map(|(events, part, again, without_ended)| Arrival { events, part, again, without_ended });
    let how = prop_oneof![3 => how, 1 => Just(Arrival::WHOLE)];
    prop_oneof![
        3 => vec(one(), 1..4).prop_map(|skus| Step::Close { skus }),
        // All of them: nothing spans.
        1 => Just(Step::Close { skus: (0..=world.skus).map(sku).collect() }),
        3 => (1..5_usize).prop_map(|events| Step::Leave { events }),
        2 => (1..3_usize).prop_map(|places| Step::Checkpoint { places }),
        4 => (one(), how).prop_map(|(sku, how)| Step::Arrive { sku, how }),
    ]
}

/// Around whole seconds, where orders expire, and anything.
fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![(1..4_u64, 0..3_u64).prop_map(|(seconds, off)| seconds * 1000 + off - 1), 0..1500_u64]
}
