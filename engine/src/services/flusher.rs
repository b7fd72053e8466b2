//! Brings what the shards logged to the store: one task for each shard reads its durable journal from the watermark
//! on and flushes it, one transaction with the watermark each time. It tells the shard what may leave its memory, the
//! journal writer how far it may trim, and everybody when the journal on the disk has reached its cap.
//!
//! Where the store says that it is, and that its events are ours, is checked whenever it is not where we left it:
//!
//! ```text
//!   journal        first ······ flushed before ······ durable
//!   the store at     │             │                    │
//!     behind first ──┘ fenced      │                    │      what lies between is in neither
//!     here, same hash ─────────────┘ went back: flush again from there
//!     another hash, or ahead of durable: fenced                somebody else wrote, or this is an old copy
//! ```

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::base::backoff::Backoff;
use crate::base::blocking;
use crate::base::clock::Clock;
use crate::base::ids::{ChainHash, Epoch, Lsn, ShardId, SkuId};
use crate::base::limits::{
    FINAL_FLUSH_MILLIS, FULL_CHECKPOINT_MILLIS, MAX_FLUSH_BYTES, MAX_FLUSHES_AT_ONCE, MAX_PARKED_KNOWN,
    TRIM_STEPS,
};
use crate::base::sync::unpoisoned;
use crate::contract::counters::{FlushStats, JournalFull};
use crate::contract::event::Event;
use crate::contract::journal::{JournalError, JournalReader};
use crate::contract::store::{FlushBatch, Watermark};
use crate::services::ownership::{NotOurs, contains};
use crate::services::shared::ShardShared;
use crate::services::store_link::{StoreLink, add};

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

/// The flushers of all shards, and what the others ask them.
pub(crate) struct Flushers {
    link: Arc<StoreLink>,
    shards: Vec<Arc<ShardShared>>,
    reader: Arc<dyn JournalReader>,
    clock: Arc<dyn Clock>,
    options: FlushOptions,
    trim: Trim,
    step: Step,
    /// One per shard.
    follows: Vec<Follow>,
    /// Flush transactions under way. It is fair: a shard with a long backlog takes turns with the others, also where
    /// the store has one writer.
    turns: Semaphore,
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
struct Follow {
    flushed: watch::Sender<Lsn>,
    /// There is a reason not to wait for the interval.
    wake: Notify,
    /// The store may not be where it was left: it is to be asked.
    recheck: AtomicBool,
    /// The time of the oldest event that is not flushed, or when it was last looked.
    oldest: AtomicU64,
    /// Up to here it was flushed at least [`FlushOptions::keep_flushed`] ago.
    settled: AtomicU64,
    error: Mutex<Option<String>>,
}

/// SKUs whose stock rows are left alone.
#[derive(Default)]
struct ParkedSkus {
    /// `None`: not read yet, or too many to know them.
    known: Option<HashSet<SkuId>>,
    count: u64,
}

impl Flushers {
    pub fn new(
        link: Arc<StoreLink>,
        shards: Vec<Arc<ShardShared>>,
        reader: Arc<dyn JournalReader>,
        clock: Arc<dyn Clock>,
        options: FlushOptions,
        trim: Trim,
        step: Step,
    ) -> Self {
        let follow = |_: &Arc<ShardShared>| Follow {
            flushed: watch::Sender::new(Lsn::ZERO),
            wake: Notify::new(),
            recheck: AtomicBool::new(false),
            oldest: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            error: Mutex::default(),
        };
        Self {
            follows: shards.iter().map(follow).collect(),
            link,
            shards,
            reader,
            clock,
            options,
            trim,
            step,
            turns: Semaphore::new(MAX_FLUSHES_AT_ONCE),
            parked: Mutex::default(),
            unparked: AtomicU64::new(0),
            journal_full: AtomicBool::new(false),
            checkpoints_asked: Mutex::default(),
            stopping: AtomicBool::new(false),
            told_to_stop: Notify::new(),
        }
    }

    /// The loop for one shard; ends after [`Flushers::stop`], with a last flush.
    pub async fn run(&self, shard: ShardId) {
        let mut flusher = Flusher::new(self, shard);
        let mut backoff = Backoff::default();
        while !self.is_stopping() {
            let mut epoch_taken = std::pin::pin!(self.link.fence().epoch_taken());
            // A store that hangs must not hold up the end.
            let flushed = tokio::select! {
                biased;
                flushed = flusher.flush_all() => flushed,
                () = self.stopped_long_ago() => break,
            };
            self.watch_the_cap();
            if flushed.is_ok() {
                backoff.reset();
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(self.options.interval) => {}
                    () = self.follows[shard.index()].wake.notified() => {}
                    () = flusher.shard.flush_wanted.notified() => {}
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
        if timeout_at(last, flusher.flush_all()).await.is_err() {
            tracing::warn!(%shard, "the last flush was not done in time; it is at the next start");
        }
    }

    /// Nothing more will be logged: the loops end when what is durable is flushed.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.told_to_stop.notify_waiters();
        self.follows.iter().for_each(|follow| follow.wake.notify_one());
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
            self.shards.iter().for_each(|shard| shard.wake());
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

    /// Whether flushes succeed and none is far behind: then there is room for other work in the store.
    pub fn is_keeping_up(&self) -> bool {
        self.shards.iter().zip(&self.follows).all(|(shard, follow)| {
            let lag = shard.durable_lsn().0.saturating_sub(follow.flushed.borrow().0);
            unpoisoned(follow.error.lock()).is_none() && lag < self.options.events as u64
        })
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

    /// How far each shard is flushed, by shard.
    pub fn flushed(&self) -> Vec<Lsn> {
        self.follows.iter().map(|follow| *follow.flushed.borrow()).collect()
    }

    /// The heartbeat saw the store at these watermarks; it had been flushed up to `flushed` before that. One that is
    /// behind went back in time: its flusher looks after it.
    pub fn compare(&self, flushed: &[Lsn], watermarks: &[Watermark]) {
        for (index, (follow, flushed)) in self.follows.iter().zip(flushed).enumerate() {
            let mark = watermarks.iter().find(|mark| mark.shard.index() == index);
            if mark.map_or(Lsn::ZERO, |mark| mark.lsn) < *flushed {
                follow.recheck.store(true, Ordering::Release);
                follow.wake.notify_one();
            }
        }
    }

    /// How far each shard is flushed, for metrics.
    pub fn stats(&self) -> Vec<FlushStats> {
        let now = self.clock.now();
        let of = |(shard, follow): (&Arc<ShardShared>, &Follow)| {
            // The flushed one first: it never passes the durable one.
            let flushed = *follow.flushed.borrow();
            let durable = shard.durable_lsn();
            let lag_events = durable.0.saturating_sub(flushed.0);
            let oldest = follow.oldest.load(Ordering::Relaxed);
            let lag_millis = if lag_events == 0 || oldest == 0 { 0 } else { now.0.saturating_sub(oldest) };
            let last_error = unpoisoned(follow.error.lock()).clone();
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
            tracing::error!(%sku_id, "the rows of a SKU are not what its shard wrote: they are left alone until they are reconciled");
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

/// Events read, with the hash after the last.
#[derive(Default)]
struct Batch {
    events: Vec<(Lsn, Event)>,
    hash: ChainHash,
}

/// The flusher of one shard.
struct Flusher<'a> {
    all: &'a Flushers,
    shard: &'a ShardShared,
    follow: &'a Follow,
    /// Where the store is; `None`: to be asked.
    mark: Option<Watermark>,
    /// Read and not flushed yet; the same batch is tried again.
    waiting: Batch,
    /// When which event was flushed, oldest first; a few of each span of [`FlushOptions::keep_flushed`].
    samples: VecDeque<(Instant, Lsn)>,
}

impl<'a> Flusher<'a> {
    fn new(all: &'a Flushers, shard: ShardId) -> Self {
        let (shard, follow) = (&all.shards[shard.index()], &all.follows[shard.index()]);
        Self { all, shard, follow, mark: None, waiting: Batch::default(), samples: VecDeque::new() }
    }

    /// Flushes until everything is in the store that was durable when it began. What comes meanwhile waits for its
    /// interval: to run after it would be many small transactions, each with a sync, and each writing the same pages.
    async fn flush_all(&mut self) -> Result<(), ()> {
        let durable = self.shard.durable_lsn();
        loop {
            match self.flush_one().await {
                Ok(true) if self.all.is_stopping() && self.is_behind() => {}
                Ok(true) if self.mark.is_none_or(|mark| mark.lsn < durable) => {}
                Ok(_) => {
                    self.settle();
                    self.note(None);
                    return Ok(());
                }
                Err(problem) => {
                    self.note(Some(problem));
                    return Err(());
                }
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.mark.is_none_or(|mark| mark.lsn < self.shard.durable_lsn())
    }

    /// One transaction. `false`: there was nothing.
    async fn flush_one(&mut self) -> Result<bool, String> {
        let (all, link) = (self.all, &self.all.link);
        if let Some(why) = link.fence().fenced() {
            // What was answered stays in the journal, where it can be listed.
            return Err(why);
        }
        let epoch = link.fence().epoch();
        if epoch == Epoch::ZERO {
            return Err("the store was not taken yet".into());
        }
        if self.follow.recheck.swap(false, Ordering::AcqRel) {
            self.mark = None;
        }
        let mark = match self.mark {
            Some(mark) => mark,
            None => self.ask().await?,
        };
        if self.waiting.events.is_empty() {
            if !self.is_behind() {
                self.follow.oldest.store(all.clock.now().0, Ordering::Relaxed);
                return Ok(false);
            }
            self.waiting = self.read(mark.lsn.next()).await?;
        }
        let Batch { events, hash } = &self.waiting;
        let Some((_, first)) = events.first() else { return Ok(false) };
        self.follow.oldest.store(first.at.0, Ordering::Relaxed);
        let turn = all.turns.acquire().await.map_err(|error| error.to_string())?;
        (all.step)("flush.before");
        let began = Instant::now();
        planted!(
            "watermark-before-rows",
            self.shard.flushed.store(mark.lsn.0 + events.len() as u64, Ordering::Release),
            ()
        );
        let batch = FlushBatch { epoch, shard: self.shard.id, after: mark.lsn, hash: *hash, events };
        let flushed = link.noted(link.store().flush(batch).await).map_err(|error| error.to_string())?;
        drop(turn);
        (all.step)("flush.after");
        let counters = &link.counters;
        add(&counters.flushes, 1);
        add(&counters.flush_micros, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        add(&counters.flushed_rows, flushed.rows);
        add(&counters.anomalies, flushed.anomalies);
        if flushed.anomalies > 0 {
            tracing::error!(shard = %self.shard.id, count = flushed.anomalies, "the store is not what was flushed; see its anomalies");
        }
        all.park(flushed.parked);
        self.reached(flushed.watermark).await?;
        Ok(true)
    }

    /// Asks the store where it is.
    async fn ask(&mut self) -> Result<Watermark, String> {
        let (link, shard) = (&self.all.link, self.shard.id);
        self.all.read_parked().await?;
        let asked = link.noted(link.store().ownership().await).map_err(|error| error.to_string())?;
        let mark = asked.watermarks.into_iter().find(|mark| mark.shard == shard);
        let mark = mark.unwrap_or(Watermark { shard, ..Watermark::default() });
        self.waiting = Batch::default();
        self.reached(mark).await?;
        Ok(mark)
    }

    /// The store has everything up to `mark`, or says so.
    async fn reached(&mut self, mark: Watermark) -> Result<(), String> {
        let last = self.waiting.events.last().map(|(lsn, _)| *lsn);
        // Where our own batch brought it needs no look at the journal.
        if last != Some(mark.lsn) || self.waiting.hash != mark.hash {
            self.compare(mark).await?;
        }
        let before = *self.follow.flushed.borrow();
        if mark.lsn < before {
            add(&self.all.link.counters.went_back, 1);
            tracing::warn!(shard = %self.shard.id, %before, now = %mark.lsn, "the store went back in time: what it lost is flushed again");
            self.samples.retain(|(_, lsn)| *lsn <= mark.lsn);
            // Rows that were parked since may not be any more.
            unpoisoned(self.all.parked.lock()).known = None;
        }
        if self.waiting.events.first().is_some_and(|(first, _)| *first <= mark.lsn) && last == Some(mark.lsn)
        {
            let events = &self.waiting.events;
            if let Some((_, last)) = events.last() {
                self.follow.oldest.store(last.at.0, Ordering::Relaxed);
            }
            add(&self.all.link.counters.flushed_events, events.len() as u64);
        }
        // Flushed, or not what follows where the store is.
        self.waiting = Batch::default();
        self.mark = Some(mark);
        self.shard.flushed.store(mark.lsn.0, Ordering::Release);
        self.follow.flushed.send_replace(mark.lsn);
        self.settle();
        self.all.read_parked().await
    }

    /// Fences this server when a watermark is not of our journal.
    async fn compare(&self, mark: Watermark) -> Result<(), String> {
        let (reader, shard) = (Arc::clone(&self.all.reader), self.shard.id);
        let compared = blocking::run(move || {
            contains(&mark, reader.bounds(shard), |shard, lsn| reader.chain(shard, lsn))
        });
        match compared.await.map_err(|error| error.to_string())? {
            Ok(()) => Ok(()),
            Err(not_ours) => {
                let problem = not_ours.to_string();
                if matches!(not_ours, NotOurs::Fenced { .. }) {
                    self.all.link.fence().fence(problem.clone());
                }
                Err(problem)
            }
        }
    }

    /// Notes when what was flushed, and lets the journal go of what was flushed long enough ago.
    fn settle(&mut self) {
        let Some(mark) = self.mark else { return };
        let (now, keep) = (Instant::now(), self.all.options.keep_flushed);
        let step = (keep / TRIM_STEPS).max(Duration::from_secs(1));
        if self.samples.back().is_none_or(|(at, lsn)| now - *at >= step && *lsn < mark.lsn) {
            self.samples.push_back((now, mark.lsn));
        }
        let mut settled = Lsn(self.follow.settled.load(Ordering::Relaxed)).min(mark.lsn);
        while let Some((at, lsn)) = self.samples.front()
            && now.saturating_duration_since(*at) >= keep
        {
            settled = settled.max(*lsn);
            self.samples.pop_front();
        }
        if keep.is_zero() || self.all.is_crowded() {
            settled = mark.lsn;
        }
        let before = Lsn(self.follow.settled.swap(settled.0, Ordering::Relaxed));
        let checkpoint = Lsn(self.shard.counters.checkpoint.load(Ordering::Relaxed));
        if settled > before && before < checkpoint {
            // It was this, and not the checkpoint, that kept the journal from being trimmed.
            (self.all.trim)(self.all.trim_marks());
        }
    }

    /// Events from `from` on, up to the bounds of a flush.
    async fn read(&self, from: Lsn) -> Result<Batch, String> {
        let (reader, shard) = (Arc::clone(&self.all.reader), self.shard.id);
        let max = self.all.options.events.max(1);
        let read = move || {
            let mut events: Vec<(Lsn, Event)> = Vec::new();
            let mut bytes = 0;
            while events.len() < max && bytes < MAX_FLUSH_BYTES {
                let next = from.plus(events.len() as u64);
                let some = reader.read(shard, next, max - events.len())?;
                if some.is_empty() {
                    break;
                }
                for event in some {
                    if bytes >= MAX_FLUSH_BYTES {
                        break;
                    }
                    bytes += event.1.weight();
                    events.push(event);
                }
            }
            let hash = match events.last() {
                Some((last, _)) => reader.chain(shard, *last)?,
                None => ChainHash::default(),
            };
            Ok(Batch { events, hash })
        };
        let read = blocking::run(read).await.map_err(|error| error.to_string())?;
        read.map_err(|error: JournalError| error.to_string())
    }

    fn note(&self, problem: Option<String>) {
        let mut error = unpoisoned(self.follow.error.lock());
        if let Some(problem) = &problem
            && error.is_none()
        {
            tracing::warn!(shard = %self.shard.id, problem, "what the shard logged can't be flushed; it is kept and tried again");
        }
        *error = problem;
    }
}

#[cfg(test)]
pub(crate) mod tests;
