//! The domain and the hot path of hotstock. Knows no HTTP, no SQL, no sled and no wall clock.
//!
//! Read in this order:
//!
//! 1. [`ids`], [`limits`], [`clock`]: the words, their bounds, time.
//! 2. [`command`], [`outcome`], [`event`]: what callers ask, what they are told, what is logged.
//! 3. [`state`]: the pure state machine of one shard: decide, apply, audit. [`home`]: orders over several shards, pure as well.
//! 4. [`journal`], [`checkpoint`], [`store`]: what the engine asks of durable storage (implemented in `hotstock-persistence`).
//! 5. [`sync`]: the concurrent primitives (gate, mailbox, inbox, backlog, durable LSN, stock cell), each with a loom model.
//! 6. [`recovery`]: a shard's state from its checkpoint and its journal. [`restore`]: from the store. [`ownership`]: who may write to it.

// Under `--cfg loom` only `limits` and `sync` are built: tokio has no net there, and ractor does not build.
pub mod limits;
pub mod sync;

#[cfg(not(loom))]
pub mod checkpoint;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod command;
#[cfg(not(loom))]
pub mod event;
#[cfg(not(loom))]
pub mod home;
#[cfg(not(loom))]
pub mod ids;
#[cfg(not(loom))]
pub mod journal;
#[cfg(not(loom))]
pub mod mirror;
#[cfg(not(loom))]
pub mod outcome;
#[cfg(not(loom))]
pub mod ownership;
#[cfg(not(loom))]
pub mod reconcile;
#[cfg(not(loom))]
pub mod recovery;
#[cfg(not(loom))]
pub mod restore;
#[cfg(not(loom))]
pub mod state;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
mod fence;
#[cfg(not(loom))]
mod store_link;

// Back in the build once they are rebuilt for one decider; each helper that brings a module back takes it out of this list, adds it
// above with `#[cfg(not(loom))]` and to the reading order at the top:
//
//   running: engine, options, router, shard, spanning, writer, replier, checkpointer, reads, list, history, status, directory, views,
//            dirty, mirror, check
//   store side: store_link, fence, ownership, flusher (was follower), retention, restore, known, loader, reconcile
//   gone with the second decider: hub, context, placement, sweeper

#[cfg(all(not(loom), feature = "testing"))]
pub mod testing;
