//! Who may write. At each start a server takes the next epoch in the store, and writes it to its data directory before it serves.
//! [`judge`] says whether it may: a pure function of what the directory knows of itself, what its journal has, and what the store says.
//! [`Owner`] asks the store, takes it and keeps it: at the start, and once a second from then on.
//!
//! ```text
//!   judge ─▶ Store::take ─▶ (the old owner's lease runs out) ─▶ Identity::record ─▶ serve ─▶ Store::renew, every second
//! ```
//!
//! A crash between `take` and `record` leaves a store whose newest epoch was taken by this directory, which does not know of it. No event
//! was flushed in that epoch, since nothing is served or flushed before `record`; that is how [`judge`] knows it from a copy of the
//! directory that took the store and used it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::checkpoint::Identity;
use crate::clock::Clock;
use crate::flusher::Flushers;
use crate::ids::{ChainHash, Epoch, Lsn, ServerId, ShardId};
use crate::journal::{Bounds, JournalError, JournalReader};
use crate::limits::{HEARTBEAT_MILLIS, HEARTBEAT_TIMEOUT_MILLIS, START_STORE_WAIT_MILLIS};
use crate::store::{Ownership, Store, StoreError, Take, Watermark};
use crate::store_link::StoreLink;

/// What a server knows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Mine {
    /// Its data directory.
    pub server: ServerId,
    /// The last epoch that the directory knows of.
    pub epoch: Epoch,
    /// Its shards.
    pub shards: u16,
    /// It is evidently the same directory on the same machine as when that epoch was recorded.
    pub same_place: bool,
    /// An operator says that the owner so far is given up.
    pub take_over: bool,
}

/// What [`judge`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The store may be taken.
    Take {
        /// Its newest epoch.
        after: Epoch,
        /// The one to take.
        epoch: Epoch,
        /// Also from a process that holds it: an operator said so, or this very directory held it last.
        over: bool,
        /// To be waited after taking it and before serving: so long the owner before may think that its lease runs.
        wait_millis: u64,
    },
    /// It may not.
    Refused(NotOurs),
}

/// Why a server may not write to a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// Another server is using it.
    #[error(
        "another server is using this store{0}; stop it, or take the store from it with `hotstock serve --take-over`"
    )]
    OwnerAlive(String),
    /// The store was written by somebody else, or has what the journal of this directory has not. Starting again changes nothing.
    #[error("this data directory must not serve: {why}. {way_out}")]
    Fenced {
        /// Why, in words.
        why: String,
        /// What can be done, in words.
        way_out: String,
    },
    /// The journal can't be read where it has to be compared.
    #[error("the journal can't be compared with the store: {0}")]
    Damaged(String),
    /// The store has to be asked and does not answer, or the epoch can't be written to the data directory.
    #[error("{0}")]
    Unavailable(String),
}

const UNFLUSHED: &str =
    "`hotstock unflushed --data-dir …` lists what this directory answered and never flushed";

impl NotOurs {
    fn fenced(why: String, way_out: impl Into<String>) -> Self {
        Self::Fenced { why, way_out: way_out.into() }
    }
}

/// Whether a server may take a store. `bounds` and `chain` are those of its journal.
pub fn judge(
    mine: &Mine,
    store: &Ownership,
    bounds: impl Fn(ShardId) -> Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Verdict {
    match may_take(mine, store, bounds, chain) {
        Ok(verdict) => verdict,
        Err(not_ours) => Verdict::Refused(not_ours),
    }
}

fn may_take(
    mine: &Mine,
    store: &Ownership,
    bounds: impl Fn(ShardId) -> Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Result<Verdict, NotOurs> {
    let is_used = store.epoch > Epoch::ZERO;
    if is_used && store.shards != mine.shards {
        let why =
            format!("the store was written by {} shards, this directory has {}", store.shards, mine.shards);
        return Err(NotOurs::fenced(
            why,
            "Set engine.shards to the store's number for a new directory, or take another store",
        ));
    }
    let shards = (0..mine.shards).map(ShardId);
    let is_fresh = mine.epoch == Epoch::ZERO && shards.clone().all(|shard| bounds(shard).last == Lsn::ZERO);
    if is_fresh && store.watermarks.iter().any(|mark| mark.lsn > Lsn::ZERO) {
        return Err(NotOurs::fenced(
            "it is new, and the store was written by another one".into(),
            "Start on that directory; or make one from the store with `hotstock recover --from-store`; or take another store",
        ));
    }
    let is_same = store.server == Some(mine.server);
    let is_last_owner = is_same && store.epoch == mine.epoch;
    // Taken and not recorded: see the top of the file.
    let is_unrecorded =
        is_same && store.epoch > mine.epoch && store.watermarks.iter().all(|mark| mark.epoch <= mine.epoch);
    let is_others = is_used && store.epoch >= mine.epoch && !is_last_owner && !is_unrecorded;
    if is_others && !mine.take_over {
        let who = match store.server {
            Some(server) if server == mine.server => "a copy of it".to_owned(),
            Some(server) => format!("server {server}"),
            None => "another server".to_owned(),
        };
        let (theirs, ours) = (store.epoch, mine.epoch);
        let why = format!("{who} took the store after it (epoch {theirs}, here {ours})");
        let way_out = format!(
            "If that one is gone for good and flushed nothing: `hotstock serve --take-over`; else make a new directory with \
             `hotstock recover --from-store`; {UNFLUSHED}"
        );
        return Err(NotOurs::fenced(why, way_out));
    }
    for shard in shards {
        let mark = store.watermarks.iter().find(|mark| mark.shard == shard);
        let mark = mark.copied().unwrap_or(Watermark { shard, ..Watermark::default() });
        contains(&mark, bounds(shard), &chain)?;
    }
    let runs = store.lease_until.map_or(0, |until| until.0.saturating_sub(store.now.0));
    let is_ours_here = is_last_owner && mine.same_place;
    let may_wait = mine.take_over || (is_unrecorded && mine.same_place);
    let wait_millis = if is_ours_here { 0 } else { runs };
    if wait_millis > 0 && !may_wait {
        return Err(NotOurs::OwnerAlive(format!(
            ": its lease runs for another {} s",
            wait_millis.div_ceil(1_000)
        )));
    }
    Ok(Verdict::Take {
        after: store.epoch,
        epoch: store.epoch.max(mine.epoch).next(),
        over: mine.take_over || is_ours_here,
        wait_millis,
    })
}

/// Whether a journal has the event of a watermark, with the same events before it.
pub(crate) fn contains(
    mark: &Watermark,
    bounds: Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Result<(), NotOurs> {
    let Watermark { shard, lsn, hash, .. } = *mark;
    if lsn > bounds.last {
        let why = format!(
            "the store has events of shard {shard} up to {lsn}, its journal ends at {}: it is an older copy, or lost its newest part",
            bounds.last
        );
        let way_out =
            "Start on the newest directory, or make one from the store with `hotstock recover --from-store`";
        return Err(NotOurs::fenced(why, way_out));
    }
    if lsn.next() < bounds.first {
        let why = format!(
            "the store went back to event {lsn} of shard {shard}, and the journal begins at {}: what lies between is in neither",
            bounds.first
        );
        let way_out = "Restore a newer backup of the store and start again; or give up what is lost and make a new directory with \
                       `hotstock recover --from-store`";
        return Err(NotOurs::fenced(why, way_out));
    }
    if lsn == Lsn::ZERO {
        return Ok(());
    }
    match chain(shard, lsn) {
        Ok(ours) if ours == hash => Ok(()),
        Ok(_) => {
            let why = format!(
                "the store has another event {lsn} of shard {shard} than its journal: a copy of it wrote to the store, or the store is another one"
            );
            let way_out = format!(
                "Start on the directory that wrote last, or make one from the store with `hotstock recover --from-store`; {UNFLUSHED}"
            );
            Err(NotOurs::fenced(why, way_out))
        }
        Err(error) => Err(NotOurs::Damaged(error.to_string())),
    }
}

/// Takes the store and keeps it.
pub(crate) struct Owner {
    pub link: Arc<StoreLink>,
    pub identity: Arc<dyn Identity>,
    pub reader: Arc<dyn JournalReader>,
    pub clock: Arc<dyn Clock>,
    pub shards: u16,
    pub lease_seconds: u32,
    pub take_over: bool,
}

/// Why the store could not be taken now.
enum NotTaken {
    /// It does not answer, or somebody was quicker: to be tried again.
    Later(String),
    Refused(NotOurs),
}

impl Owner {
    /// At the start, before anything is served. A store that does not answer is asked for a while; a directory that evidently is in its
    /// place goes on without it: [`Fence::epoch`](crate::fence::Fence::epoch) is zero then, and [`Owner::keep`] takes the store when it is back.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub async fn take_at_start(&self) -> Result<(), NotOurs> {
        let mut backoff = Backoff::default();
        let until = Instant::now() + Duration::from_millis(START_STORE_WAIT_MILLIS);
        let problem = loop {
            match self.take(self.take_over).await {
                Ok(()) => return Ok(()),
                Err(NotTaken::Refused(not_ours)) => return Err(not_ours),
                Err(NotTaken::Later(problem)) if Instant::now() >= until => break problem,
                Err(NotTaken::Later(_)) => sleep(backoff.next()).await,
            }
        };
        if self.take_over || self.identity.epoch() == Epoch::ZERO {
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

    /// The heartbeat: renews the lease, takes the store when it was not there at the start or lost what we took, finds out that somebody
    /// else did. Ends when `stopping` says so.
    pub async fn keep(&self, flushers: &Flushers, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = sleep(Duration::from_millis(HEARTBEAT_MILLIS)) => {}
            }
            if self.link.fence().is_fenced_for_good() {
                continue;
            }
            let beat = timeout(Duration::from_millis(HEARTBEAT_TIMEOUT_MILLIS), self.beat(flushers));
            if beat.await.is_err() {
                let late = StoreError::Unavailable("it did not answer a heartbeat in time".into());
                drop(self.link.noted::<()>(Err(late)));
            }
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
    pub(crate) async fn beat(&self, flushers: &Flushers) {
        let fence = self.link.fence();
        let ours = fence.epoch();
        if ours == Epoch::ZERO {
            return self.take_again().await;
        }
        let from = Instant::now();
        match self.link.noted(self.link.store().renew(ours, self.lease_seconds).await) {
            Ok(time) => {
                self.renewed(from);
                self.link.note_time(time, self.clock.now());
            }
            // Newer ones have fenced us by now.
            Err(StoreError::Fenced { newest, .. }) if newest < ours => {
                tracing::warn!(%ours, %newest, "the store went back to before we took it");
                return self.take_again().await;
            }
            Err(_) => return,
        }
        // Those flushed before the store is asked: it can't be behind them unless it went back.
        let flushed = flushers.flushed();
        let Ok(store) = self.link.noted(self.link.store().ownership().await) else { return };
        if fence.epoch() != ours {
            return;
        }
        fence.found_newest(store.epoch);
        if store.epoch == ours && store.server != Some(self.identity.server()) {
            fence.fence("another server took the store with the same epoch, after the store was restored");
        } else if store.epoch == ours {
            flushers.compare(&flushed, &store.watermarks);
        }
    }

    /// Takes the store while serving; a refusal fences.
    async fn take_again(&self) {
        if let Err(NotTaken::Refused(not_ours)) = self.take(false).await {
            self.link.fence().fence(not_ours.to_string());
        }
    }

    /// Asks the store, judges, takes, waits, records.
    async fn take(&self, take_over: bool) -> Result<(), NotTaken> {
        let later = |error: StoreError| NotTaken::Later(error.to_string());
        let fence = self.link.fence();
        let store = self.link.noted(self.link.store().ownership().await).map_err(later)?;
        let (after, epoch, over, wait_millis) = match self.judged(store, take_over).await? {
            Verdict::Take { after, epoch, over, wait_millis } => (after, epoch, over, wait_millis),
            Verdict::Refused(not_ours) => return Err(NotTaken::Refused(not_ours)),
        };
        let (server, shards, lease_seconds) = (self.identity.server(), self.shards, self.lease_seconds);
        let take = Take { server, shards, after, epoch, lease_seconds, over };
        fence.asking(epoch);
        let from = Instant::now();
        match self.link.store().take(&take).await {
            Ok(()) => {}
            Err(StoreError::OwnerAlive) => {
                fence.not_given();
                return Err(NotTaken::Refused(NotOurs::OwnerAlive(String::new())));
            }
            // Somebody was quicker: what they did is judged at the next try.
            Err(error @ StoreError::Fenced { .. }) => {
                fence.not_given();
                return Err(NotTaken::Later(error.to_string()));
            }
            Err(StoreError::Foreign(problem)) => {
                fence.not_given();
                return Err(NotTaken::Refused(NotOurs::fenced(problem, "Take another store")));
            }
            // Whether we took it is unknown. If we did, the next try finds an epoch that was not recorded.
            Err(error) => return Err(later(self.link.noted::<()>(Err(error)).expect_err("it is one"))),
        }
        if wait_millis > 0 {
            tracing::info!(wait_millis, "the store is taken; the lease of its owner before has to run out");
            self.wait_out(epoch, from, wait_millis).await;
        }
        let identity = Arc::clone(&self.identity);
        let recorded = tokio::task::spawn_blocking(move || identity.record(epoch)).await;
        if let Err(problem) = recorded.map_err(|error| error.to_string()).and_then(|recorded| recorded) {
            let problem = format!("the epoch can't be written to the data directory: {problem}");
            return Err(NotTaken::Refused(NotOurs::Unavailable(problem)));
        }
        if wait_millis == 0 {
            self.renewed(from);
        }
        fence.took(epoch);
        tracing::info!(%epoch, after = %after, take_over, "the store is taken");
        Ok(())
    }

    /// Waits, and renews what was taken meanwhile.
    async fn wait_out(&self, epoch: Epoch, from: Instant, wait_millis: u64) {
        let until = from + Duration::from_millis(wait_millis);
        while Instant::now() < until {
            sleep(Duration::from_millis(HEARTBEAT_MILLIS).min(until - Instant::now())).await;
            let from = Instant::now();
            if self.link.noted(self.link.store().renew(epoch, self.lease_seconds).await).is_ok() {
                self.renewed(from);
            }
        }
    }

    /// Judges on a thread of its own: hashes of the journal are computed from the disk.
    async fn judged(&self, store: Ownership, take_over: bool) -> Result<Verdict, NotTaken> {
        let mine = Mine {
            server: self.identity.server(),
            epoch: self.identity.epoch(),
            shards: self.shards,
            same_place: self.identity.is_same_place().is_ok(),
            take_over,
        };
        let reader = Arc::clone(&self.reader);
        let judged = tokio::task::spawn_blocking(move || {
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

/// Takes a store for a data directory that is made from it: whoever owned it is fenced, and its lease waited out. What can be read from
/// then on does not change any more.
///
/// # Errors
/// [`NotOurs`].
pub async fn take_to_recover(
    store: &dyn Store,
    identity: &dyn Identity,
    shards: u16,
    lease_seconds: u32,
) -> Result<Ownership, NotOurs> {
    let unavailable = |error: StoreError| NotOurs::Unavailable(error.to_string());
    let owned = store.ownership().await.map_err(unavailable)?;
    if owned.epoch == Epoch::ZERO {
        let way_out = "Start `hotstock serve` with a new directory";
        return Err(NotOurs::fenced("the store was never used".into(), way_out));
    }
    if owned.shards != shards {
        let why = format!("the store was written by {} shards, engine.shards is {shards}", owned.shards);
        return Err(NotOurs::fenced(why, "Set engine.shards to the store's number"));
    }
    let (server, epoch) = (identity.server(), owned.epoch.max(identity.epoch()).next());
    let take = Take { server, shards, after: owned.epoch, epoch, lease_seconds, over: true };
    store.take(&take).await.map_err(unavailable)?;
    let runs = owned.lease_until.map_or(0, |until| until.0.saturating_sub(owned.now.0));
    sleep(Duration::from_millis(runs)).await;
    identity.record(epoch).map_err(NotOurs::Unavailable)?;
    store.ownership().await.map_err(unavailable)
}
