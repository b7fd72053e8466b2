//! Durable storage of hotstock. Implements what the engine asks of journal and checkpoints; knows no HTTP.
//!
//! Read in this order:
//!
//! 1. [`data_dir`]: the directory of one server: its lock, its identity, what lies in it.
//! 2. [`codec`]: events and checkpoint entries as bytes.
//! 3. [`journal`]: the write-ahead log on sled.
//! 4. [`checkpoint`]: the checkpoint files.
//! 5. [`mirror`]: the Redis mirror.
//! 6. [`limits`]: the bounds of all this.

pub mod checkpoint;
pub mod codec;
pub mod data_dir;
mod files;
pub mod journal;
pub mod limits;
pub mod mirror;
#[cfg(feature = "testing")]
pub mod testing;
