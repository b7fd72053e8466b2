//! The queue of orders whose time is over and that the order service is asked about. Bounded: an order that finds no
//! room stays due.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::base::ids::OrderNo;
use crate::base::limits::MAX_WAITING_CHECKS;
use crate::contract::check::{CheckOptions, OrderCheck};
use crate::contract::counters::{CheckCounters, CheckStats};

/// The way into the queue, for who finds orders that are due.
pub(crate) struct Checks {
    pub service: Arc<dyn OrderCheck>,
    pub options: CheckOptions,
    /// A place for each order that the checker may know at a time.
    pub room: Semaphore,
    /// Bounded by `room`.
    pub due: mpsc::UnboundedSender<OrderNo>,
    pub counters: CheckCounters,
}

/// Places in the queue; those that are not used come back on drop.
pub(crate) struct Places<'a> {
    checks: &'a Checks,
    permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Checks {
    /// With the other end of the queue, for the checker.
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
    use async_trait::async_trait;

    use super::*;
    use crate::contract::check::{NoAnswer, Payment};

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
