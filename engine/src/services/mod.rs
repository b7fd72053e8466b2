//! What stands around the shards and outlives each of them: the threads and tasks that serve all shards, and what they
//! share. A shard uses them; they know a shard by its mailbox and counters alone ([`shared`]).
//!
//! - [`shared`]: what others see of a shard; [`callers`]: who waits for an answer. [`directory`], [`known`]: which
//!   shard has an order, and which numbers there may be outside memory. [`checks`]: orders to be asked about.
//! - The way back of a command: [`writer`] commits, [`views`], [`hot`] and [`dirty`] are told what is durable,
//!   [`replier`] answers. [`checkpointer`] writes checkpoints.
//! - The side that faces the store: [`ownership`] and [`fence`]: who may write. [`store_link`]: the way there.
//!   [`loader`] reads what commands wait for, [`flusher`] writes what is logged, [`retention`] prunes.

pub(crate) mod callers;
pub(crate) mod shared;

pub(crate) mod checks;
pub(crate) mod directory;
pub(crate) mod known;

pub(crate) mod checkpointer;
pub mod dirty;
pub mod hot;
pub(crate) mod replier;
pub(crate) mod views;
pub(crate) mod writer;

pub(crate) mod fence;
pub mod ownership;
pub(crate) mod store_link;

pub(crate) mod flusher;
pub(crate) mod loader;
pub(crate) mod retention;
