//! For tests (feature `testing`): a disk that loses power, and real servers: a MariaDB and a Redis of their own, each
//! on a free port in a directory that goes with it. They can be killed, stopped, cut off and started again, which is
//! how the faults of the outside are tested.

#![allow(clippy::unwrap_used, reason = "for tests: a panic is how a test fails")]

mod mariadb;
mod process;
mod redis;

pub use mariadb::MariaDb;
pub use redis::RedisServer;

pub use crate::mirror::simulated::SimulatedRedis;

pub use crate::disk::simulated::{DiskFault, Mounted, SimulatedDisk};
