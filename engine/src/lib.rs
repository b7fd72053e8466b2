//! The domain and the hot path of hotstock. Knows no HTTP, no SQL, no sled and no wall clock.
//!
//! Read in this order:
//!
//! 1. [`ids`], [`limits`], [`clock`]: the words, their bounds, time.
//! 2. [`command`], [`outcome`], [`event`]: what callers ask, what they are told, what is logged.
//! 3. [`state`]: the pure state machine of one shard: decide, apply, audit.
//! 4. [`journal`], [`checkpoint`]: what the engine asks of durable storage (implemented in `hotstock-persistence`).
//! 5. [`sync`]: the concurrent primitives (gate, mailbox, hand-over, stock cell), each with a loom model.

#[cfg(not(loom))]
pub mod checkpoint;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod command;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod event;
#[cfg(not(loom))]
pub mod ids;
#[cfg(not(loom))]
pub mod journal;
pub mod limits;
#[cfg(not(loom))]
pub mod outcome;
#[cfg(not(loom))]
pub mod state;
pub mod sync;
