//! Ends cold orders whose time is over: at each interval, in small transactions, until none is due. Any number of servers may do so. With
//! an order service they are asked about instead. Branches that are to ask their home, and homes that the store made or took over, go to
//! the keeper; what finds no room there is named again when it is due again.

use std::time::Duration;

use crate::hub::{Hub, add};
use crate::placement::Backoff;
use crate::spanning::Chore;

impl Hub {
    /// The loop; ends with the engine.
    pub async fn sweep(&self) {
        let side = self.side();
        let options = &self.context.options.store;
        let interval = Duration::from_millis(options.sweep_interval_ms.max(1));
        let max = options.sweep_batch.max(1);
        let mut backoff = Backoff::default();
        let mut pause = interval;
        loop {
            tokio::select! {
                () = side.stopped() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let swept = side.noted(side.store.expire(self.context.clock.now(), max, self.context.checks.is_some()).await);
            pause = match swept {
                Ok(swept) => {
                    backoff.reset();
                    if let Some(checks) = &self.context.checks {
                        // Those that find no room are named again later.
                        checks.places(swept.due.len()).fill(swept.due);
                    }
                    add(&side.counters.swept, swept.expired as u64);
                    if let Some(dirty) = &self.context.dirty {
                        swept.changed.into_iter().for_each(|stock| dirty.mark(stock));
                    }
                    let branches = swept.branches.into_iter().map(Chore::AskCold);
                    let homes = swept.homes.into_iter().map(Chore::Adopt);
                    branches.chain(homes).for_each(|chore| drop(self.context.chores.try_send(chore)));
                    if swept.seen < max { interval } else { Duration::ZERO }
                }
                Err(_) => interval.max(backoff.next()),
            };
        }
    }
}
