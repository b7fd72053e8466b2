//! Takes the store and keeps it: at the start, and once a second from then on. What may be taken says [`judge`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::base::backoff::Backoff;
use crate::base::blocking;
use crate::base::clock::Clock;
use crate::base::ids::Epoch;
use crate::base::limits::{HEARTBEAT_MILLIS, HEARTBEAT_TIMEOUT_MILLIS, TAKE_OVER_WAIT_MILLIS};
use crate::contract::checkpoint::Identity;
use crate::contract::journal::JournalReader;
use crate::contract::store::{Ownership, StoreError, Take};
use crate::services::flusher::Flusher;
use crate::services::ownership::{LOCKED, Mine, NotOurs, Verdict, judge};
use crate::services::store_link::StoreLink;

const TAKE_OVER_WAIT: Duration = Duration::from_millis(TAKE_OVER_WAIT_MILLIS);

/// See the top of the file.
pub(crate) struct Owner {
    pub link: Arc<StoreLink>,
    pub identity: Arc<dyn Identity>,
    pub reader: Arc<dyn JournalReader>,
    pub clock: Arc<dyn Clock>,
    pub shards: u16,
    pub lease_seconds: u32,
    pub take_over: bool,
    /// How long a start waits for a store that does not answer.
    pub start_wait: Duration,
}

/// Why the store could not be taken now.
enum NotTaken {
    /// It does not answer, or somebody was quicker: to be tried again.
    Later(String),
    /// It answers, and what it says of itself can't be read. It may be in the middle of being restored.
    Unfit(String),
    Refused(NotOurs),
}

impl From<StoreError> for NotTaken {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::OwnerAlive => Self::Refused(NotOurs::OwnerAlive),
            StoreError::Foreign(problem) => {
                Self::Refused(NotOurs::fenced(problem, "Take the store of this directory"))
            }
            StoreError::Unavailable(_)
            | StoreError::Torn(_)
            | StoreError::OutcomeUnknown(_)
            | StoreError::Busy(_)
            | StoreError::Fenced { .. } => Self::Later(error.to_string()),
            StoreError::Inconsistent(problem) => Self::Unfit(problem),
        }
    }
}

impl Owner {
    /// At the start, before anything is served. A store that does not answer is asked for a while; a directory that
    /// evidently is in its place goes on without it: [`Fence::epoch`](crate::services::fence::Fence::epoch) is zero
    /// then, and [`Owner::keep`] takes the store when it is back.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub async fn take_at_start(&self) -> Result<(), NotOurs> {
        let mut backoff = Backoff::default();
        let wait = if self.take_over { self.start_wait.max(TAKE_OVER_WAIT) } else { self.start_wait };
        let until = Instant::now() + wait;
        let mut told = false;
        let problem = loop {
            match self.take(self.take_over).await {
                Ok(()) => return Ok(()),
                Err(NotTaken::Refused(not_ours)) => return Err(not_ours),
                Err(NotTaken::Later(problem)) if Instant::now() >= until => break problem,
                Err(NotTaken::Unfit(problem)) if Instant::now() >= until => {
                    return Err(NotOurs::fenced(
                        format!("what the store says of itself can't be read: {problem}"),
                        "Put the row of its table `server` or `watermarks` right, or restore the store as a whole, and start again",
                    ));
                }
                Err(NotTaken::Later(problem) | NotTaken::Unfit(problem)) => {
                    if self.take_over && !std::mem::replace(&mut told, true) {
                        tracing::warn!(
                            problem,
                            "the store can't be taken over yet; a session of the server before may lock it for some seconds"
                        );
                    }
                    sleep(backoff.next()).await;
                }
            }
        };
        if self.take_over {
            return Err(NotOurs::Unavailable(format!(
                "the store could not be taken over: {problem}. {LOCKED}"
            )));
        }
        if self.identity.epoch() == Epoch::ZERO {
            return Err(NotOurs::Unavailable(format!("the store has to be asked who may write: {problem}")));
        }
        self.identity.is_same_place().map_err(|otherwise| {
            NotOurs::Unavailable(format!(
                "the store does not answer ({problem}), and this data directory may be a copy ({otherwise}): it serves when the store \
                 has told that nobody else does"
            ))
        })?;
        tracing::warn!(
            problem,
            "the store does not answer; what is in memory is served, the store is taken when it is back"
        );
        Ok(())
    }

    /// The heartbeat: renews the lease, takes the store when it was not there at the start or lost what we took,
    /// finds out that somebody else did. Ends when `stopping` says so.
    pub async fn keep(&self, flusher: &Flusher, mut stopping: watch::Receiver<bool>) {
        // Several in the time of a lease.
        let lease_millis = u64::from(self.lease_seconds).saturating_mul(1_000);
        let pause = if lease_millis == 0 { HEARTBEAT_MILLIS } else { HEARTBEAT_MILLIS.min(lease_millis / 8) };
        let mut jumped = false;
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(Duration::from_millis(pause)) => {}
            }
            let clock = self.clock.status();
            if clock.jumped && !jumped {
                let off_millis = clock.off_millis;
                tracing::error!(
                    off_millis,
                    "the wall clock was set; it is not followed, so that no hold ends at another time"
                );
            }
            jumped = clock.jumped;
            if self.link.fence().is_fenced_for_good() {
                continue;
            }
            self.beat(flusher).await;
        }
    }

    /// An orderly stop: the lease ends now.
    pub async fn let_go(&self) {
        let epoch = self.link.fence().epoch();
        if epoch > Epoch::ZERO && !self.link.fence().is_fenced_for_good() {
            let let_go =
                timeout(Duration::from_millis(HEARTBEAT_TIMEOUT_MILLIS), self.link.store().let_go(epoch));
            if !matches!(let_go.await, Ok(Ok(()))) {
                tracing::warn!(
                    "the store could not be told that this server stops; its lease runs out by itself"
                );
            }
        }
    }

    /// One heartbeat.
    pub(crate) async fn beat(&self, flusher: &Flusher) {
        let fence = self.link.fence();
        let ours = fence.epoch();
        if ours == Epoch::ZERO {
            return self.take_again().await;
        }
        let from = Instant::now();
        match self.link.noted(self.asked(self.link.store().renew(ours, self.lease_seconds)).await) {
            Ok(time) => {
                self.renewed(from);
                self.link.note_time(time, self.clock.now());
            }
            // A newer one, of somebody else, has fenced us by now. An older one: the store went back to before we
            // took it. A newer one that we asked for ourselves: its answer was lost.
            Err(StoreError::Fenced { newest, .. }) if !fence.is_fenced_for_good() => {
                tracing::warn!(%ours, %newest, "the store does not have our epoch as its newest: it is taken again");
                return self.take_again().await;
            }
            // Another one is in its place.
            Err(StoreError::Foreign(problem)) => return fence.fence(problem),
            Err(_) => return,
        }
        // Those flushed before the store is asked: it can't be behind them unless it went back.
        let flushed = flusher.flushed();
        let Ok(store) = self.link.noted_whole(self.asked(self.link.store().ownership()).await) else {
            return;
        };
        if fence.epoch() != ours {
            return;
        }
        fence.found(&store);
        let is_ours = store.take.is_some_and(|take| self.identity.takes().contains(&take));
        if store.epoch == ours && !is_ours {
            fence.fence("another server took the store with the same epoch, after the store was restored");
        } else if store.epoch == ours {
            flusher.compare(&flushed, &store.watermarks);
        }
    }

    /// Takes the store while serving; a refusal fences. What a disk did not do is asked of it again at the next
    /// heartbeat: until then nothing is flushed.
    async fn take_again(&self) {
        match self.take(false).await {
            Err(NotTaken::Refused(NotOurs::Unavailable(problem))) => {
                tracing::warn!(problem, "the store can't be taken again now");
            }
            Err(NotTaken::Refused(not_ours)) => self.link.fence().fence(not_ours.to_string()),
            Ok(()) | Err(NotTaken::Later(_) | NotTaken::Unfit(_)) => {}
        }
    }

    /// Asks the store, judges, takes, waits, records.
    async fn take(&self, take_over: bool) -> Result<(), NotTaken> {
        let fence = self.link.fence();
        let store =
            self.link.noted_whole(self.asked(self.link.store().ownership()).await).map_err(NotTaken::from)?;
        let (taken, judged) = (store.take, Some(store.watermarks.clone()));
        let (after, epoch, over, wait_millis) = match self.judged(store, take_over).await? {
            Verdict::Take { after, epoch, over, wait_millis } => (after, epoch, over, wait_millis),
            Verdict::Refused(not_ours) => return Err(NotTaken::Refused(not_ours)),
        };
        let (server, shards, lease_seconds) = (self.identity.server(), self.shards, self.lease_seconds);
        // Before the store has it: then a crash, or an answer that is lost, leaves no doubt about whose it is.
        let id = self.written(move |identity| identity.intend(taken)).await?;
        let take = Take { id, server, shards, after, epoch, lease_seconds, over, judged };
        fence.asking(epoch, id);
        let from = Instant::now();
        let taken =
            timeout(Duration::from_millis(HEARTBEAT_TIMEOUT_MILLIS), self.link.store().take(&take)).await;
        // Whether we took it may be unknown. If we did, the next try finds a take that we meant to do.
        match taken.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("it did not answer in time".into()))) {
            Ok(()) => {}
            // Somebody was quicker (what they did is judged at the next try), or is there.
            Err(
                error @ (StoreError::Fenced { .. }
                | StoreError::OwnerAlive
                | StoreError::Busy(_)
                | StoreError::Foreign(_)),
            ) => {
                fence.not_given();
                return Err(error.into());
            }
            Err(error) => return Err(self.link.noted::<()>(Err(error)).expect_err("it is one").into()),
        }
        if wait_millis > 0 {
            tracing::info!(wait_millis, "the store is taken; the lease of its owner before has to run out");
            self.wait_out(epoch, from, wait_millis).await;
        }
        self.written(move |identity| identity.record(epoch)).await?;
        if wait_millis == 0 {
            self.renewed(from);
        }
        fence.took(epoch);
        tracing::info!(%epoch, after = %after, take_over, "the store is taken");
        Ok(())
    }

    /// Writes to the data directory, on a thread of its own.
    async fn written<T: Send + 'static>(
        &self,
        write: impl FnOnce(&dyn Identity) -> Result<T, String> + Send + 'static,
    ) -> Result<T, NotTaken> {
        let identity = Arc::clone(&self.identity);
        let written = blocking::run(move || write(&*identity)).await;
        written.map_err(|error| error.to_string()).and_then(|written| written).map_err(|problem| {
            let problem = format!("the epoch can't be written to the data directory: {problem}");
            NotTaken::Refused(NotOurs::Unavailable(problem))
        })
    }

    /// What the store answers in time.
    async fn asked<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answer = timeout(Duration::from_millis(HEARTBEAT_TIMEOUT_MILLIS), call).await;
        answer.unwrap_or_else(|_| Err(StoreError::Unavailable("it did not answer in time".into())))
    }

    /// Waits, and renews what was taken meanwhile.
    async fn wait_out(&self, epoch: Epoch, from: Instant, wait_millis: u64) {
        let until = from + Duration::from_millis(wait_millis);
        while Instant::now() < until {
            sleep(Duration::from_millis(HEARTBEAT_MILLIS).min(until - Instant::now())).await;
            let from = Instant::now();
            if self.link.noted(self.asked(self.link.store().renew(epoch, self.lease_seconds)).await).is_ok() {
                self.renewed(from);
            }
        }
    }

    /// Judges on a thread of its own: hashes of the journal are computed from the disk.
    async fn judged(&self, store: Ownership, take_over: bool) -> Result<Verdict, NotTaken> {
        let mine = Mine {
            server: self.identity.server(),
            epoch: self.identity.epoch(),
            takes: self.identity.takes(),
            shards: self.shards,
            same_place: self.identity.is_same_place().is_ok(),
            take_over,
        };
        let reader = Arc::clone(&self.reader);
        let judged = blocking::run(move || {
            judge(&mine, &store, |shard| reader.bounds(shard), |shard, lsn| reader.chain(shard, lsn))
        });
        judged.await.map_err(|error| NotTaken::Later(error.to_string()))
    }

    /// The lease runs from before it was asked for; a quarter of it is left for what is under way when it ends.
    fn renewed(&self, from: Instant) {
        let runs = Duration::from_secs(u64::from(self.lease_seconds)) * 3 / 4;
        self.link.fence().renewed(from, runs);
    }
}

#[cfg(test)]
mod tests;
