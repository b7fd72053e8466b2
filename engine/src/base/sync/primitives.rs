//! The one switch between `std` and loom's doubles.

pub(crate) use doubles::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, fence, spin_loop};

#[cfg(not(loom))]
mod doubles {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    pub(crate) use std::sync::{Condvar, Mutex};
}

#[cfg(loom)]
mod doubles {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex};
}

/// A lock whose holder panicked is still good here: what it guards is changed by single pushes and swaps only.
pub(crate) fn unpoisoned<G>(locked: Result<G, std::sync::PoisonError<G>>) -> G {
    locked.unwrap_or_else(std::sync::PoisonError::into_inner)
}
