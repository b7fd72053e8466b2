//! Who may write: servers, copies of their directories, restored stores, on one store in memory. A ledger keeps what
//! clients were told. In each story the units that are there and those that the ledger has sold make what was put in,
//! and what a fenced server answered and never flushed is exactly what its journal has beyond the store.

#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fixture;
mod leases;
mod owners;
mod random;
mod recover;
mod stores;
