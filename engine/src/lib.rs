//! The domain and the hot path of hotstock. Knows no HTTP, no SQL, no sled and no wall clock.
//!
//! Six layers, each a folder; a file uses others of its layer and of those below, never of one above (`tests/tidy`
//! looks it up). Read them from below:
//!
//! 1. `base`: ids, limits, time, the concurrent primitives, each with a loom model. Knows nothing of stock.
//! 2. `contract`: the words and what is asked of others. What callers ask ([`command`]) and are told ([`outcome`]),
//!    what is logged ([`event`]) and written down ([`image`]); the traits of durable storage ([`journal`],
//!    [`checkpoint`], [`store`]), of the mirror and of the order service. Plain data, no behaviour.
//! 3. `machine`: the pure state machines. [`state`]: decide, apply, audit of one shard. `coordinator`: orders over
//!    several shards.
//! 4. `services`: what stands around the shards and serves all of them: the journal writer, views, directory, filter of
//!    known numbers, loader, flusher, checkpointer, the fence.
//! 5. `shard`: a running shard: its turn, its actor, its supervisor, its [`recovery`].
//! 6. `front`: [`engine`] wires the parts and is what other crates call; the router, reads, lists, operators' work,
//!    [`reconcile`], [`restore`].
//!
//! Each `mod.rs` gives its modules in reading order. Other crates see the modules below, each under one name.

#[macro_use]
mod base;
#[cfg(not(loom))]
mod contract;
#[cfg(not(loom))]
mod front;
#[cfg(not(loom))]
mod machine;
#[cfg(not(loom))]
mod services;
#[cfg(not(loom))]
mod shard;

// Under `--cfg loom` only these are built.
pub use base::{limits, planted, sync};

#[cfg(not(loom))]
pub use base::{clock, ids};
#[cfg(not(loom))]
pub use contract::{
    check, checkpoint, command, counters, event, hold, image, journal, mirror, moves, order, outcome, store,
    units,
};
#[cfg(not(loom))]
pub use front::{engine, list, options, pins, reconcile, restore, seize, status};
#[cfg(not(loom))]
pub use machine::{inner, state};
#[cfg(not(loom))]
pub use services::{dirty, hot, ownership};
#[cfg(not(loom))]
pub use shard::recovery;

#[cfg(all(not(loom), feature = "testing"))]
pub mod testing;
