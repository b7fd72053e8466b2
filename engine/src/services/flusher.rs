//! Brings what the shards logged to the store: one task reads the durable journal of all of them from the watermarks on
//! and flushes it, one transaction with the watermarks each time. So the store always has a beginning of the one
//! journal, and of no order what its shards did at different moments. It tells the shards what may leave their memory,
//! the journal writer how far it may trim, and everybody when the journal on the disk has reached its cap.
//! This is what the others see of it; [`task`] does the work.

mod task;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use task::Task;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Timestamp};
use crate::base::ids::{Lsn, ShardId, SkuId};
use crate::base::limits::{FINAL_FLUSH_MILLIS, FULL_CHECKPOINT_MILLIS, MAX_PARKED_KNOWN};
use crate::base::sync::unpoisoned;
use crate::contract::counters::{FlushStats, JournalFull};
use crate::contract::journal::JournalReader;
use crate::contract::store::Watermark;
use crate::services::shared::ShardShared;
use crate::services::store_link::StoreLink;

/// How what is logged is flushed. See [`StoreOptions`](crate::front::options::StoreOptions).
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushOptions {
    pub interval: Duration,
    /// Events of one transaction at the most.
    pub events: usize,
    /// Above this many bytes of journal no new reservations are taken.
    pub journal_cap_bytes: u64,
    /// The journal keeps what was flushed for so long.
    pub keep_flushed: Duration,
}

/// Asks the journal writer to trim.
pub(crate) type Trim = Box<dyn Fn(Vec<(ShardId, Lsn)>) + Send + Sync>;

/// Runs when a step of a flush is reached.
pub(crate) type Step = Box<dyn Fn(&'static str) + Send + Sync>;

/// The flusher, as the others see it.
pub(crate) struct Flusher {
    link: Arc<StoreLink>,
    shards: Vec<Arc<ShardShared>>,
    reader: Arc<dyn JournalReader>,
    clock: Arc<dyn Clock>,
    options: FlushOptions,
    trim: Trim,
    step: Step,
    /// One per shard.
    follows: Vec<Follow>,
    until: Mutex<FlushedUntil>,
    /// There is a reason not to wait for the interval.
    wake: Notify,
    /// The store may not be where it was left: it is to be asked.
    recheck: AtomicBool,
    error: Mutex<Option<String>>,
    parked: Mutex<ParkedSkus>,
    unparked: AtomicU64,
    /// New reservations stop while it is set.
    journal_full: AtomicBool,
    /// When shards were last asked for a checkpoint because of that.
    checkpoints_asked: Mutex<Option<Instant>>,
    stopping: AtomicBool,
    told_to_stop: Notify,
}

/// How far a shard is flushed.
#[derive(Default)]
struct Follow {
    flushed: AtomicU64,
    /// The time of the oldest event that is not flushed (or of a later one, while only others of its time are read), or
    /// when it was last looked.
    oldest: AtomicU64,
    /// Up to here it was flushed at least [`FlushOptions::keep_flushed`] ago.
    settled: AtomicU64,
}

impl Follow {
    fn flushed(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }
}

/// Everything that happened before `time` is in a store that has these events, by shard.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlushedUntil {
    pub time: Timestamp,
    pub lsns: Vec<Lsn>,
}

/// SKUs whose stock rows are left alone.
#[derive(Default)]
struct ParkedSkus {
    /// `None`: not read yet, or too many to know them.
    known: Option<HashSet<SkuId>>,
    count: u64,
}

impl Flusher {
    pub fn new(
        link: Arc<StoreLink>,
        shards: Vec<Arc<ShardShared>>,
        reader: Arc<dyn JournalReader>,
        clock: Arc<dyn Clock>,
        options: FlushOptions,
        trim: Trim,
        step: Step,
    ) -> Self {
        Self {
            follows: shards.iter().map(|_| Follow::default()).collect(),
            link,
            shards,
            reader,
            clock,
            options,
            trim,
            step,
            until: Mutex::default(),
            wake: Notify::new(),
            recheck: AtomicBool::new(false),
            error: Mutex::default(),
            parked: Mutex::default(),
            unparked: AtomicU64::new(0),
            journal_full: AtomicBool::new(false),
            checkpoints_asked: Mutex::default(),
            stopping: AtomicBool::new(false),
            told_to_stop: Notify::new(),
        }
    }

    /// The loop; ends after [`Flusher::stop`], with a last flush.
    pub async fn run(&self) {
        let mut task = Task::new(self);
        let mut backoff = Backoff::default();
        while !self.is_stopping() {
            let mut epoch_taken = std::pin::pin!(self.link.fence().epoch_taken());
            // A store that hangs must not hold up the end.
            let flushed = tokio::select! {
                biased;
                flushed = task.flush_all() => flushed,
                () = self.stopped_long_ago() => break,
            };
            self.watch_the_cap();
            if flushed.is_ok() {
                backoff.reset();
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(self.options.interval) => {}
                    () = self.wake.notified() => {}
                    () = &mut epoch_taken => {}
                }
            } else {
                // Whoever wants a flush now would only hasten a store that fails.
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(backoff.next()) => {}
                    () = &mut epoch_taken => {}
                    () = self.stopped() => {}
                }
            }
        }
        let last = Instant::now() + Duration::from_millis(FINAL_FLUSH_MILLIS);
        if timeout_at(last, task.flush_all()).await.is_err() {
            tracing::warn!("the last flush was not done in time; it is at the next start");
        }
    }

    /// Nothing more will be logged: the loop ends when what is durable is flushed.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.told_to_stop.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether a SKU may leave memory, as far as its rows are concerned: those of a parked one are not what the shard
    /// has.
    pub fn may_leave(&self, sku_id: &SkuId) -> bool {
        unpoisoned(self.parked.lock()).known.as_ref().is_some_and(|known| !known.contains(sku_id))
    }

    /// SKUs whose stock rows are left alone.
    pub fn parked(&self) -> u64 {
        unpoisoned(self.parked.lock()).count
    }

    /// The rows of a SKU were put right.
    pub fn unpark(&self, sku_id: &SkuId) {
        let mut parked = unpoisoned(self.parked.lock());
        if parked.known.as_mut().is_some_and(|known| known.remove(sku_id)) {
            parked.count = parked.count.saturating_sub(1);
            // It may leave memory now.
            self.unparked.fetch_add(1, Ordering::Release);
            self.wake_shards();
        }
    }

    /// Counts SKUs whose rows were put right.
    pub fn unparked(&self) -> u64 {
        self.unparked.load(Ordering::Acquire)
    }

    /// The backlog on the disk has reached its cap: no new reservations.
    pub fn is_journal_full(&self) -> bool {
        self.journal_full.load(Ordering::Relaxed)
    }

    /// Why it is, while it is.
    pub fn why_journal_full(&self) -> Option<JournalFull> {
        if !self.is_journal_full() {
            return None;
        }
        let waiting: Vec<ShardId> = self.wait_for_checkpoint().map(|shard| shard.id).collect();
        Some(if waiting.is_empty() { JournalFull::Store } else { JournalFull::Checkpoint(waiting) })
    }

    /// Shards whose checkpoint alone keeps the journal from being trimmed.
    fn wait_for_checkpoint(&self) -> impl Iterator<Item = &Arc<ShardShared>> {
        let is_behind = |(shard, follow): &(&Arc<ShardShared>, &Follow)| {
            let settled = Lsn(follow.settled.load(Ordering::Relaxed)).min(shard.flushed_lsn());
            Lsn(shard.counters.checkpoint.load(Ordering::Relaxed)) < settled
        };
        self.shards.iter().zip(&self.follows).filter(is_behind).map(|(shard, _)| shard)
    }

    /// A full journal makes no checkpoint due by itself: what would be logged is refused.
    fn ask_for_checkpoints(&self) {
        let mut asked = unpoisoned(self.checkpoints_asked.lock());
        let pause = Duration::from_millis(FULL_CHECKPOINT_MILLIS);
        if asked.is_none_or(|asked| asked.elapsed() >= pause) {
            for shard in self.wait_for_checkpoint() {
                shard.ask_checkpoint();
                *asked = Some(Instant::now());
            }
        }
    }

    /// Whether flushes succeed and are not far behind: then there is room for other work in the store.
    pub fn is_keeping_up(&self) -> bool {
        unpoisoned(self.error.lock()).is_none() && !self.is_far_behind()
    }

    /// More is durable by now. What fills a transaction does not wait for the interval.
    pub fn look(&self) {
        if self.is_far_behind() {
            self.wake.notify_one();
        }
    }

    fn is_far_behind(&self) -> bool {
        let lag = |(shard, follow): (&Arc<ShardShared>, &Follow)| {
            shard.durable_lsn().0.saturating_sub(follow.flushed().0)
        };
        self.shards.iter().zip(&self.follows).map(lag).sum::<u64>() >= self.options.events as u64
    }

    /// The first event of each shard that is needed: by a recovery from its checkpoint, or by a store that goes back
    /// in time.
    pub fn trim_marks(&self) -> Vec<(ShardId, Lsn)> {
        let mark = |(shard, follow): (&Arc<ShardShared>, &Follow)| {
            let checkpoint = Lsn(shard.counters.checkpoint.load(Ordering::Relaxed));
            let settled = Lsn(follow.settled.load(Ordering::Relaxed));
            (shard.id, checkpoint.min(settled).min(shard.flushed_lsn()).next())
        };
        self.shards.iter().zip(&self.follows).map(mark).collect()
    }

    pub fn wake_shards(&self) {
        self.shards.iter().for_each(|shard| shard.wake());
    }

    /// Up to when everything is flushed. It lags by a flush, and by the pause of a shard that has nothing to do and
    /// that nobody wakes.
    pub fn flushed_until(&self) -> FlushedUntil {
        unpoisoned(self.until.lock()).clone()
    }

    /// How far each shard is flushed, by shard.
    pub fn flushed(&self) -> Vec<Lsn> {
        self.follows.iter().map(Follow::flushed).collect()
    }

    /// The heartbeat saw the store at these watermarks; it had been flushed up to `flushed` before that. One that is
    /// behind went back in time: the flusher looks after it.
    pub fn compare(&self, flushed: &[Lsn], watermarks: &[Watermark]) {
        let at = |index| watermarks.iter().find(|mark| mark.shard.index() == index).map(|mark| mark.lsn);
        if flushed.iter().enumerate().any(|(index, flushed)| at(index).unwrap_or_default() < *flushed) {
            self.recheck.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// How far each shard is flushed, for metrics.
    pub fn stats(&self) -> Vec<FlushStats> {
        let now = self.clock.now();
        let last_error = unpoisoned(self.error.lock()).clone();
        let of = |(shard, follow): (&Arc<ShardShared>, &Follow)| {
            // The flushed one first: it never passes the durable one.
            let flushed = follow.flushed();
            let durable = shard.durable_lsn();
            let lag_events = durable.0.saturating_sub(flushed.0);
            let oldest = follow.oldest.load(Ordering::Relaxed);
            let lag_millis = if lag_events == 0 || oldest == 0 { 0 } else { now.0.saturating_sub(oldest) };
            let last_error = last_error.clone();
            FlushStats { shard: shard.id, flushed, durable, lag_events, lag_millis, last_error }
        };
        self.shards.iter().zip(&self.follows).map(of).collect()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    async fn stopped(&self) {
        // Before the look: what is told after it is not missed.
        let told = self.told_to_stop.notified();
        if !self.is_stopping() {
            told.await;
        }
    }

    async fn stopped_long_ago(&self) {
        self.stopped().await;
        tokio::time::sleep(Duration::from_millis(FINAL_FLUSH_MILLIS)).await;
    }

    /// New reservations stop at the cap and are taken again when a tenth of it is free.
    fn watch_the_cap(&self) {
        let (cap, full) = (self.options.journal_cap_bytes, &self.journal_full);
        let bytes = self.reader.disk_bytes();
        if bytes > cap {
            if !full.swap(true, Ordering::Relaxed) {
                tracing::error!(bytes, cap, "the journal is at its cap on the disk: no new reservations");
            }
        } else if bytes < cap - cap / 10 && full.swap(false, Ordering::Relaxed) {
            tracing::info!(bytes, cap, "the journal has room again");
        }
        if self.is_journal_full() {
            self.ask_for_checkpoints();
        }
    }

    /// Half of the cap is for the backlog: what was flushed is not kept there.
    fn is_crowded(&self) -> bool {
        self.reader.disk_bytes() > self.options.journal_cap_bytes / 2
    }

    fn park(&self, skus: Vec<SkuId>) {
        let mut parked = unpoisoned(self.parked.lock());
        let ParkedSkus { known: Some(known), count } = &mut *parked else { return };
        for sku_id in skus {
            tracing::error!(
                ?sku_id,
                "the rows of a SKU are not what its shard wrote: they are left alone until they are reconciled"
            );
            *count += u64::from(known.insert(sku_id));
        }
    }

    /// Reads which SKUs are parked, if that is not known.
    async fn read_parked(&self) -> Result<(), String> {
        if unpoisoned(self.parked.lock()).known.is_some() {
            return Ok(());
        }
        let read = self.link.noted(self.link.store().parked(MAX_PARKED_KNOWN).await);
        let (count, parked) = read.map_err(|error| error.to_string())?;
        let is_whole = count <= parked.len() as u64;
        if !is_whole {
            tracing::error!(
                count,
                "more SKUs are parked than can be known: none leaves memory until they are reconciled"
            );
        }
        let known = is_whole.then(|| parked.into_iter().map(|parked| parked.sku_id).collect());
        *unpoisoned(self.parked.lock()) = ParkedSkus { known, count };
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
