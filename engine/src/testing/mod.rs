//! Doubles of the outside for tests (feature `testing`): a journal and checkpoints in memory that outlive an engine,
//! and a clock that is moved by hand. Time and faults are driven through the same seams that production uses. And the
//! suites that every journal and every store must pass.

pub mod journal_suite;
mod manual_clock;
mod memory_checkpoints;
mod memory_filters;
mod memory_identity;
mod memory_journal;
mod memory_store;
mod pure_shards;
mod pure_store;
mod recovered;
pub mod samples;
pub mod store_suite;

pub use manual_clock::ManualClock;
pub use memory_checkpoints::MemoryCheckpoints;
pub use memory_filters::MemoryFilters;
pub use memory_identity::MemoryIdentity;
pub use memory_journal::MemoryJournal;
pub use memory_store::{MemorySnapshot, MemoryStore};
pub use pure_shards::{Fate, Letter, PureShards, Ticket, WAIT_MILLIS};
pub use pure_store::{NoStore, PureStore};
pub use recovered::recovered;

pub use crate::base::blocking::simulation::{Pauses, Simulated, TURN, simulate};
