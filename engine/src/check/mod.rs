//! Whether an order whose time is over was paid, asked of the order service before its units go back.
//!
//! ```text
//!   shard, sweeper: an order is due ──▶ Checks (a place for it, or it stays due) ──▶ checker ──▶ OrderCheck
//!                                                                                      │
//!        paid: confirm ◀── unpaid, cancelled: expire ◀── no answer in time: expire, or extend
//! ```
//!
//! Nothing waits for it: a due order holds its units a little longer, that is all. What is under way is nowhere
//! written down: after a restart the order is due again and asked about again.
//!
//! - here: the [`OrderCheck`] that somebody implements, the options, the way into the queue. [`checker`]: the one
//!   task that works on it.

pub(crate) mod checker;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};

use crate::counters::CheckCounters;
pub use crate::counters::CheckStats;
use crate::ids::OrderNo;
use crate::limits::{DEFAULT_CHECK_CONCURRENCY, DEFAULT_CHECK_GRACE_SECONDS, MAX_WAITING_CHECKS};

/// The order service, as the engine asks it.
#[async_trait]
pub trait OrderCheck: Send + Sync + 'static {
    /// What became of an order. Comes to an end by itself, within some seconds; it is asked again, with growing
    /// pauses, while there is no answer.
    ///
    /// # Errors
    /// [`NoAnswer`]: whatever is not one of the three.
    async fn payment(&self, order_no: &OrderNo) -> Result<Payment, NoAnswer>;
}

/// What an order service says of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payment {
    /// It is paid: all that it still holds is sold.
    Paid,
    /// It is not: its units go back.
    Unpaid,
    /// It never will be: as [`Payment::Unpaid`].
    Cancelled,
}

/// The order service did not say; why, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// How the order service is asked. Of no use without one.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// How long the service may take to say something of one order, repeats included, in seconds.
    pub grace_seconds: u32,
    /// What becomes of the order then.
    pub unanswered: Unanswered,
    /// Questions under way at the same time.
    pub concurrency: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            grace_seconds: DEFAULT_CHECK_GRACE_SECONDS,
            unanswered: Unanswered::Release,
            concurrency: DEFAULT_CHECK_CONCURRENCY,
        }
    }
}

/// What becomes of an order of which the service says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unanswered {
    /// It expires, as it would without a service.
    #[default]
    Release,
    /// It is extended by the grace, and asked about again after that.
    Keep,
}

/// The way into the queue, for who finds orders that are due.
pub(crate) struct Checks {
    service: Arc<dyn OrderCheck>,
    options: CheckOptions,
    /// A place for each order that the checker may know at a time.
    room: Semaphore,
    /// Bounded by `room`.
    due: mpsc::UnboundedSender<OrderNo>,
    pub counters: CheckCounters,
}

/// Places in the queue; those that are not used come back on drop.
pub(crate) struct Places<'a> {
    checks: &'a Checks,
    permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Checks {
    /// With the other end of the queue, for [`checker`].
    pub fn new(
        service: Arc<dyn OrderCheck>,
        options: CheckOptions,
    ) -> (Self, mpsc::UnboundedReceiver<OrderNo>) {
        let (due, orders) = mpsc::unbounded_channel();
        let room = Semaphore::new(MAX_WAITING_CHECKS);
        (Self { service, options, room, due, counters: CheckCounters::default() }, orders)
    }

    /// Places for up to `max` orders.
    pub fn places(&self, max: usize) -> Places<'_> {
        let count = u32::try_from(self.room.available_permits().min(max)).unwrap_or(u32::MAX);
        // Somebody else may have been quicker: whoever gets none looks again soon.
        Places { checks: self, permit: self.room.try_acquire_many(count).ok() }
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> CheckStats {
        let waiting = MAX_WAITING_CHECKS.saturating_sub(self.room.available_permits()) as u64;
        CheckStats { waiting, ..self.counters.counted() }
    }
}

impl Places<'_> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.permit.as_ref().map_or(0, tokio::sync::SemaphorePermit::num_permits)
    }

    /// Gives orders to the checker, at most [`Places::count`].
    pub fn fill(mut self, orders: Vec<OrderNo>) {
        for order_no in orders {
            let Some(place) = self.permit.as_mut().and_then(|permit| permit.split(1)) else { return };
            // The checker gives it back. It is gone only when the engine stops.
            place.forget();
            drop(self.checks.due.send(order_no));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    #[async_trait]
    impl OrderCheck for Nobody {
        async fn payment(&self, _order_no: &OrderNo) -> Result<Payment, NoAnswer> {
            Err(NoAnswer("nobody is there".to_owned()))
        }
    }

    #[test]
    fn there_is_room_for_so_many_and_what_is_not_used_comes_back() {
        let (checks, mut orders) = Checks::new(Arc::new(Nobody), CheckOptions::default());
        let order_no = |n: usize| OrderNo::new(&format!("O{n}")).unwrap();
        let places = checks.places(3);
        assert_eq!((places.count(), checks.stats().waiting), (3, 3));
        places.fill(vec![order_no(1), order_no(2)]);
        assert_eq!(checks.stats().waiting, 2, "one was not used");
        assert_eq!((orders.try_recv(), orders.try_recv()), (Ok(order_no(1)), Ok(order_no(2))));
        let all = checks.places(usize::MAX);
        assert_eq!(all.count(), MAX_WAITING_CHECKS - 2);
        let none = checks.places(1);
        assert_eq!(none.count(), 0);
        none.fill(vec![order_no(3)]);
        assert!(orders.try_recv().is_err(), "there was no place for it");
        drop(all);
        assert_eq!(checks.stats().waiting, 2);
    }
}
