//! Prunes the store of what is older than it is kept: ended orders with their lines and requests, stock requests, the
//! stock journal. In small transactions with pauses, and only while the flushes keep up: orders come first.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::failpoints::Failpoints;
use crate::flusher::Flushers;
use crate::ids::Epoch;
use crate::known::Known;
use crate::limits::{
    FIRST_PRUNE_MILLIS, PRUNE_BATCH, PRUNE_MARGIN_SECONDS, PRUNE_PAUSE_MILLIS, RETENTION_INTERVAL_MILLIS,
};
use crate::store::Prune;
use crate::store_link::{StoreLink, add};

const DAY_SECONDS: u64 = 86_400;

/// How long the store keeps what has ended; 0 days: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Ended orders and stock requests.
    pub keep_days: u64,
    /// Rows of the stock journal.
    pub keep_journal_days: u64,
}

impl Retention {
    /// Whether an order or a request that last changed then may still be loaded. What is about to be pruned is not:
    /// its rows could go while it is in memory, and its next change would find none.
    pub fn may_load(self, changed_at: Timestamp, now: Timestamp) -> bool {
        let margin = PRUNE_MARGIN_SECONDS * 1_000;
        before(self.keep_days, now).is_none_or(|before| changed_at >= before.plus_millis(margin))
    }

    /// The loop; ends when `stopping` says so.
    pub async fn run(
        self,
        link: &StoreLink,
        flushers: &Flushers,
        known: &Known,
        clock: &dyn Clock,
        failpoints: &Failpoints,
        mut stopping: watch::Receiver<bool>,
    ) {
        if self.keep_days == 0 && self.keep_journal_days == 0 {
            return;
        }
        let mut pause = FIRST_PRUNE_MILLIS;
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
            failpoints.reach("prune.before");
            let pruned = self.prune(link, flushers, known, clock.now()).await;
            failpoints.reach("prune.after");
            pause = if pruned { PRUNE_PAUSE_MILLIS } else { RETENTION_INTERVAL_MILLIS };
        }
    }

    /// One batch, if there is room for it in the store. Whether there may be more.
    pub async fn prune(self, link: &StoreLink, flushers: &Flushers, known: &Known, now: Timestamp) -> bool {
        let epoch = link.fence().epoch();
        if epoch == Epoch::ZERO || link.fence().fenced().is_some() || !flushers.is_keeping_up() {
            return false;
        }
        let (orders_before, journal_before) =
            (before(self.keep_days, now), before(self.keep_journal_days, now));
        let prune = Prune { epoch, orders_before, journal_before, max: PRUNE_BATCH };
        let Ok(pruned) = link.noted(link.store().prune(&prune).await) else { return false };
        let counters = &link.counters;
        add(&counters.pruned_orders, pruned.orders);
        add(&counters.pruned_requests, pruned.requests);
        add(&counters.pruned_journal, pruned.journal);
        if pruned.orders + pruned.requests == 0
            && let Some(before) = orders_before
        {
            // Their numbers are free again.
            known.pruned(before);
        }
        pruned.orders + pruned.requests + pruned.journal > 0
    }
}

/// What last changed before this goes; `None`: nothing does.
fn before(keep_days: u64, now: Timestamp) -> Option<Timestamp> {
    let keep = keep_days.saturating_mul(DAY_SECONDS * 1_000);
    (keep_days > 0).then(|| now.minus_millis(keep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_be_pruned_is_not_loaded() {
        let retention = Retention { keep_days: 2, keep_journal_days: 0 };
        let now = Timestamp(10 * DAY_SECONDS * 1_000);
        let ago = |seconds: u64| now.minus_millis(seconds * 1_000);
        assert!(retention.may_load(ago(0), now));
        assert!(retention.may_load(ago(2 * DAY_SECONDS - PRUNE_MARGIN_SECONDS), now));
        assert!(!retention.may_load(ago(2 * DAY_SECONDS - PRUNE_MARGIN_SECONDS + 1), now));
        assert!(Retention { keep_days: 0, ..retention }.may_load(Timestamp(0), now), "kept for ever");
    }
}
