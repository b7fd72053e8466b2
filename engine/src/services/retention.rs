//! Prunes the store of what is older than it is kept: ended orders with their lines and requests, stock requests, the
//! stock journal. In small transactions with pauses, and only while the flushes keep up: orders come first.

use std::time::Duration;

use tokio::sync::watch;

use crate::base::clock::{Clock, Timestamp};
use crate::base::failpoints::Failpoints;
use crate::base::ids::Epoch;
use crate::base::limits::{
    FIRST_PRUNE_MILLIS, PRUNE_BATCH, PRUNE_MARGIN_SECONDS, PRUNE_PAUSE_MILLIS, RETENTION_INTERVAL_MILLIS,
};
use crate::contract::store::Prune;
use crate::services::flusher::{FlushedUntil, Flusher};
use crate::services::known::Known;
use crate::services::store_link::{StoreLink, add};

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
    /// Whether an ended order that last changed then may change again. Afterwards it is answered as it is, in memory or
    /// from the store, until its rows have gone; a change of it would not find them.
    pub fn may_change(self, changed_at: Timestamp, now: Timestamp) -> bool {
        before(self.keep_days, now).is_none_or(|before| changed_at >= before)
    }

    /// Orders and requests that last changed before this go, when everything is flushed that happened until then: what
    /// an order could still take is. A while later, so that a clock that is set back by less between two runs lets
    /// nothing change any more whose rows went.
    fn orders_before(self, until: Timestamp) -> Option<Timestamp> {
        before(self.keep_days, until).map(|before| before.minus_millis(PRUNE_MARGIN_SECONDS * 1_000))
    }

    /// The loop; ends when `stopping` says so.
    pub async fn run(
        self,
        link: &StoreLink,
        flusher: &Flusher,
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
            // Those that have nothing to do say what time it is, too.
            flusher.wake_shards();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            }
            failpoints.reach("prune.before");
            let pruned = self.prune(link, flusher, known, clock.now()).await;
            failpoints.reach("prune.after");
            pause = if pruned { PRUNE_PAUSE_MILLIS } else { RETENTION_INTERVAL_MILLIS };
        }
    }

    /// One batch, if there is room for it in the store. Whether there may be more.
    pub async fn prune(self, link: &StoreLink, flusher: &Flusher, known: &Known, now: Timestamp) -> bool {
        let epoch = link.fence().epoch();
        if epoch == Epoch::ZERO || link.fence().fenced().is_some() || !flusher.is_keeping_up() {
            return false;
        }
        let FlushedUntil { time, lsns } = flusher.flushed_until();
        let (orders_before, journal_before) = (
            planted!("retention-too-early", Some(now), self.orders_before(time)),
            before(self.keep_journal_days, now),
        );
        let prune = Prune { epoch, orders_before, journal_before, flushed: &lsns, max: PRUNE_BATCH };
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
    fn what_may_be_pruned_soon_does_not_change_any_more() {
        let retention = Retention { keep_days: 2, keep_journal_days: 0 };
        let now = Timestamp(10 * DAY_SECONDS * 1_000);
        let ago = |seconds: u64| now.minus_millis(seconds * 1_000);
        assert!(retention.may_change(ago(0), now));
        assert!(retention.may_change(ago(2 * DAY_SECONDS), now), "for as long as it is kept");
        assert!(!retention.may_change(ago(2 * DAY_SECONDS + 1), now));
        assert_eq!(retention.orders_before(now), Some(ago(2 * DAY_SECONDS + PRUNE_MARGIN_SECONDS)));
        let for_ever = Retention { keep_days: 0, ..retention };
        assert!(for_ever.may_change(Timestamp(0), now) && for_ever.orders_before(now).is_none());
    }
}
