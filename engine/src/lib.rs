//! The domain and the hot path of hotstock. Knows no HTTP, no SQL, no sled and no wall clock.
//!
//! Read in this order:
//!
//! 1. [`ids`], [`limits`], [`clock`]: the words, their bounds, time.
//! 2. [`command`], [`outcome`], [`event`]: what callers ask, what they are told, what is logged.
//! 3. [`state`]: the pure state machine of one shard: decide, apply, audit.
//! 4. [`journal`], [`checkpoint`], [`store`]: what the engine asks of durable storage (implemented in `hotstock-persistence`).
//! 5. [`sync`]: the concurrent primitives (gate, mailbox, inbox, backlog, durable LSN, stock cell), each with a loom model.
//! 6. `directory`, `views`, [`dirty`], [`mirror`]: where orders live, what readers see, what changed since it was mirrored.
//! 7. `shard`, `writer`, `replier`, `checkpointer`: the running parts, in the order in which a command meets them; [`recovery`].
//! 8. [`home`], `spanning`: orders over several places: the pure protocol, and who brings its commands where they go.
//! 9. [`check`]: the order service, asked before an order expires. [`reconcile`]: every stock counted in several ways.
//! 10. [`engine`]: start, submit, read, stop.

pub mod limits;
pub mod sync;

// Under `--cfg loom` only `sync` is built: tokio has no net there, and ractor does not build.
macro_rules! not_under_loom {
    ($($item:item)*) => { $(#[cfg(not(loom))] $item)* };
}

not_under_loom! {
    pub mod check;
    pub mod checkpoint;
    pub mod clock;
    pub mod command;
    pub mod dirty;
    pub mod engine;
    pub mod event;
    pub mod home;
    pub mod ids;
    pub mod journal;
    pub mod mirror;
    pub mod outcome;
    pub mod reconcile;
    pub mod recovery;
    pub mod state;
    pub mod store;
    mod checkpointer;
    mod context;
    mod directory;
    mod follower;
    mod history;
    mod hub;
    mod list;
    mod options;
    mod placement;
    mod replier;
    mod reads;
    mod router;
    mod shard;
    mod spanning;
    mod status;
    mod sweeper;
    mod views;
    mod writer;
}

#[cfg(all(not(loom), feature = "testing"))]
pub mod testing;
