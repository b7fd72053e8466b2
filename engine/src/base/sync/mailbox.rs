//! The queue in front of a shard. The shard takes everything at once; it is woken only when it was idle.

use super::primitives::{AtomicBool, Mutex, Ordering, unpoisoned};

/// A queue with a wake-up flag. Its length is bounded by the gate before it.
///
/// The protocol: producers push, then ask [`Mailbox::must_wake`]; on `true` they send the one wake-up message. The
/// shard calls [`Mailbox::begin_turn`] first thing when it is woken, then takes. Whatever was pushed before a
/// `must_wake` that said `false` is seen by a turn that is still to begin or to take.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Mutex<Vec<T>>,
    /// A wake-up is under way that no turn has taken up yet.
    woken: AtomicBool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { queue: Mutex::new(Vec::new()), woken: AtomicBool::new(false) }
    }
}

impl<T> Mailbox<T> {
    /// Adds items, in order.
    pub fn push(&self, items: impl IntoIterator<Item = T>) {
        unpoisoned(self.queue.lock()).extend(items);
    }

    /// Whether the caller has to send the wake-up message.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        // AcqRel, paired with `begin_turn`: either this comes first and the turn sees what we did before, or the
        // turn comes first and we see that a wake-up is needed.
        !self.woken.swap(true, Ordering::AcqRel)
    }

    /// The wake-up message has arrived: from here on, a new one is needed.
    pub fn begin_turn(&self) {
        // A swap and not a store: it has to read from the last `must_wake` to see what its caller did before.
        self.woken.swap(false, Ordering::AcqRel);
    }

    /// Takes everything. `into` must be empty; its memory is used for the queue from now on.
    pub fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty(), "what is in it would be lost in the queue");
        std::mem::swap(&mut *unpoisoned(self.queue.lock()), into);
    }
}
