//! Models of the primitives in `hotstock_engine::sync`, run by loom under every interleaving of two or three threads
//! and every value that a relaxed load may see.
//!
//! One file per primitive, and [`hand_over`] for what they promise together: an answer leaves after everything that
//! it rests on is durable, and its caller reads its own writes.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --release -p hotstock-loom-tests
//! scripts/loom-mutants        # weakens the primitives one by one; the models must fail
//! ```
//!
//! What threads share besides the primitives are relaxed atomics: they bring no order of their own, so a value that is
//! seen was carried over by the primitive. A wake-up that gets lost is a deadlock, which loom finds.

#![cfg(all(loom, test))]

mod backlog;
mod cell;
mod durable;
mod gate;
mod hand_over;
mod inbox;
mod mailbox;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Plain data that a primitive has to carry from one thread to another.
#[derive(Debug, Default)]
struct Data(AtomicU64);

impl Data {
    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Not atomic on purpose: two at the same time lose one.
    fn add_one(&self) {
        self.set(self.get() + 1);
    }
}
