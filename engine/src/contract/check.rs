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
//! Here are the [`OrderCheck`] that somebody implements, and its options; the queue is `services/checks.rs`, the one
//! task that works on it `front/checker.rs`.

use async_trait::async_trait;

use crate::base::ids::OrderNo;
use crate::base::limits::{DEFAULT_CHECK_CONCURRENCY, DEFAULT_CHECK_GRACE_SECONDS};

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
