//! The state machines, pure: no clock, IO, thread or await. [`state`]: that of one shard. [`coordinator`]: orders over
//! several shards. [`inner`]: what a shard is asked; [`message`]: what shards say to each other.

pub mod inner;
pub(crate) mod message;

pub mod state;

pub(crate) mod coordinator;
