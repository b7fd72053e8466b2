//! The queue in front of the journal writer: a thread that sleeps while there is nothing to write.

use super::primitives::{Condvar, Mutex, unpoisoned};

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
    /// Of a consumer that is a task.
    #[cfg(feature = "testing")]
    waker: Option<std::task::Waker>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        let queue = Queue {
            items: Vec::new(),
            closed: false,
            #[cfg(feature = "testing")]
            waker: None,
        };
        Self { state: Mutex::new(queue), filled: Condvar::new() }
    }
}

impl<T> Queue<T> {
    #[cfg(feature = "testing")]
    fn wake_task(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
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
        #[cfg(feature = "testing")]
        queue.wake_task();
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

    /// As [`Inbox::take`], for a consumer that is a task.
    #[cfg(feature = "testing")]
    pub fn poll_take(
        &self,
        into: &mut Vec<T>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<bool> {
        let mut queue = unpoisoned(self.state.lock());
        if queue.items.is_empty() && !queue.closed {
            queue.waker = Some(context.waker().clone());
            return std::task::Poll::Pending;
        }
        std::mem::swap(&mut queue.items, into);
        std::task::Poll::Ready(!into.is_empty())
    }

    /// Takes nothing more; what is in it is still taken out.
    pub fn close(&self) {
        let mut queue = unpoisoned(self.state.lock());
        queue.closed = true;
        #[cfg(feature = "testing")]
        queue.wake_task();
        drop(queue);
        self.filled.notify_one();
    }
}
