//! The domain and the hot path of hotstock. Knows no HTTP, no SQL, no sled and no wall clock.
//!
//! Read in this order:
//!
//! 1. [`ids`], [`limits`], [`clock`]: the words, their bounds, time.
//! 2. [`command`], [`outcome`], [`event`]: what callers ask, what they are told, what is logged. [`inner`]: what goes
//!    between the parts of the engine alone.
//! 3. [`state`]: the pure state machine of one shard: decide, apply, audit. `coordinator`: orders over several shards,
//!    pure as well.
//! 4. [`journal`], [`checkpoint`], [`store`]: what the engine asks of durable storage (implemented in
//!    `hotstock-persistence`).
//! 5. [`sync`]: the concurrent primitives (gate, mailbox, inbox, backlog, durable LSN, stock cell), each with a loom
//!    model.
//! 6. [`recovery`]: a shard's state from its checkpoint and its journal. [`restore`]: from the store.
//! 7. [`engine`]: start, submit, read, stop; the one place where the parts are wired. [`counters`]: what it counts.
//! 8. `blocking`: where work is done that blocks its thread. `router`, `shard`, `writer`, `views`, `replier`: the way
//!    of a command. `directory` and `known`: which shard has an order, and which numbers there may be outside memory.
//!    `loader`: what commands wait for. `pins`: what is kept in memory.
//! 9. [`check`]: the order service, asked before an order expires.
//! 10. `store_link`, `fence`, [`ownership`], `owner`, `flusher`, `retention`: the side that faces the store. `reads`,
//!     `list`, `history`: reads of both memory and store. [`dirty`], [`mirror`]: what changed since it was mirrored.
//!     [`reconcile`]: every stock counted in several ways.

// Under `--cfg loom` only `limits` and `sync` are built: tokio has no net there, and ractor does not build.
pub mod limits;
pub mod sync;

// Before all others, which use its macro.
#[macro_use]
pub mod planted;

#[cfg(not(loom))]
mod backoff;
#[cfg(not(loom))]
mod blocking;
#[cfg(not(loom))]
pub mod check;
#[cfg(not(loom))]
pub mod checkpoint;
#[cfg(not(loom))]
mod checkpointer;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod command;
#[cfg(not(loom))]
mod coordinator;
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
mod directory;
#[cfg(not(loom))]
pub mod dirty;
#[cfg(not(loom))]
pub mod engine;
#[cfg(not(loom))]
pub mod event;
#[cfg(not(loom))]
mod failpoints;
#[cfg(not(loom))]
mod fence;
#[cfg(not(loom))]
mod flusher;
#[cfg(not(loom))]
mod history;
#[cfg(not(loom))]
pub mod ids;
#[cfg(not(loom))]
pub mod inner;
#[cfg(not(loom))]
mod inspect;
#[cfg(not(loom))]
pub mod journal;
#[cfg(not(loom))]
mod known;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
mod loader;
#[cfg(not(loom))]
pub mod mirror;
#[cfg(not(loom))]
mod options;
#[cfg(not(loom))]
pub mod outcome;
#[cfg(not(loom))]
mod owner;
#[cfg(not(loom))]
pub mod ownership;
#[cfg(not(loom))]
mod pins;
#[cfg(not(loom))]
mod reads;
#[cfg(not(loom))]
pub mod reconcile;
#[cfg(not(loom))]
pub mod recovery;
#[cfg(not(loom))]
mod replier;
#[cfg(not(loom))]
pub mod restore;
#[cfg(not(loom))]
mod retention;
#[cfg(not(loom))]
mod router;
#[cfg(not(loom))]
mod shard;
#[cfg(not(loom))]
pub mod state;
#[cfg(not(loom))]
mod status;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
mod store_link;
#[cfg(not(loom))]
mod views;
#[cfg(not(loom))]
mod writer;

#[cfg(all(not(loom), feature = "testing"))]
pub mod testing;
