//! Durable storage of hotstock. Implements what the engine asks of journal and checkpoints; knows no HTTP.
//!
//! Read in this order:
//!
//! 1. [`data_dir`]: the directory of one server: its lock, its identity, what lies in it.
//! 2. [`codec`]: events and checkpoint entries as bytes.
//! 3. [`journal`]: the write-ahead log on sled.
//! 4. [`checkpoint`]: the checkpoint files.
//! 5. [`identity`], [`filters`]: who a server is, and the filter of known numbers, as files.
//! 6. [`sql`]: the SQL store, on SQLite and on MySQL/MariaDB.
//! 7. [`import`]: stock out of another system's MySQL.
//! 8. [`mirror`]: the Redis mirror.
//! 9. [`limits`]: the bounds of all this.

pub mod checkpoint;
pub mod codec;
pub mod data_dir;
mod disk;
mod files;
pub mod filters;
pub mod identity;
pub mod import;
pub mod journal;
pub mod limits;
pub mod mirror;
pub mod sql;
#[cfg(feature = "testing")]
pub mod testing;
mod text_file;
