//! The queue in front of the journal writer: a thread that sleeps while there is nothing to write.

use super::primitives::{Condvar, Mutex};
use super::unpoisoned;

/// A queue whose one consumer sleeps on it. Its length is bounded by the backlog and the gate of each shard.
#[derive(Debug)]
pub struct Inbox<T> {
    state: Mutex<Queue<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { state: Mutex::new(Queue { items: Vec::new(), closed: false }), filled: Condvar::new() }
    }
}

impl<T> Inbox<T> {
    /// Adds an item.
    ///
    /// # Errors
    /// Gives the item back when the inbox is closed: nobody would take it.
    pub fn put(&self, item: T) -> Result<(), T> {
        let mut queue = unpoisoned(self.state.lock());
        if queue.closed {
            return Err(item);
        }
        queue.items.push(item);
        // The consumer sleeps only on an empty queue.
        let was_empty = queue.items.len() == 1;
        drop(queue);
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Sleeps until there is something and takes all of it into `into` (which must be empty). `false` when the inbox is
    /// closed and empty.
    pub fn take(&self, into: &mut Vec<T>) -> bool {
        debug_assert!(into.is_empty(), "what is in it would be lost in the queue");
        let mut queue = unpoisoned(self.state.lock());
        while queue.items.is_empty() {
            if queue.closed {
                return false;
            }
            queue = unpoisoned(self.filled.wait(queue));
        }
        std::mem::swap(&mut queue.items, into);
        true
    }

    /// Takes nothing more; what is in it is still taken out.
    pub fn close(&self) {
        unpoisoned(self.state.lock()).closed = true;
        self.filled.notify_one();
    }
}
