//! Brings what the shards logged to the store: one task reads the durable journal of all of them from the watermarks on
//! and flushes it, one transaction with the watermarks each time. So the store always has a beginning of the one
//! journal, and of no order what its shards did at different moments. It tells the shards what may leave their memory,
//! the journal writer how far it may trim, and everybody when the journal on the disk has reached its cap.
//!
//! Where the store says that it is, and that its events are ours, is checked whenever it is not where we left it; of
//! each shard:
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

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::base::backoff::Backoff;
use crate::base::blocking;
use crate::base::clock::Clock;
use crate::base::ids::{ChainHash, Epoch, Lsn, ShardId, SkuId};
use crate::base::limits::{
    FINAL_FLUSH_MILLIS, FULL_CHECKPOINT_MILLIS, MAX_FLUSH_BYTES, MAX_PARKED_KNOWN, TRIM_STEPS,
};
use crate::base::sync::unpoisoned;
use crate::contract::counters::{FlushStats, JournalFull};
use crate::contract::journal::{JournalReader, ShardEvents};
use crate::contract::store::{FlushBatch, FlushPart, Watermark};
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

/// The task of the flusher.
struct Task<'a> {
    all: &'a Flusher,
    /// Where the store is, by shard; `None`: to be asked.
    marks: Option<Vec<Watermark>>,
    /// Read and not flushed yet, by shard; the same is tried again.
    waiting: Vec<ShardEvents>,
    /// When what was flushed, oldest first; a few of each span of [`FlushOptions::keep_flushed`].
    samples: VecDeque<(Instant, Vec<Lsn>)>,
}

impl<'a> Task<'a> {
    fn new(all: &'a Flusher) -> Self {
        Self { all, marks: None, waiting: Vec::new(), samples: VecDeque::new() }
    }

    /// Flushes until everything is in the store that was durable when it began. What comes meanwhile waits for its
    /// interval: to run after it would be many small transactions, each with a sync, and each writing the same pages.
    async fn flush_all(&mut self) -> Result<(), ()> {
        let durable = self.durable();
        loop {
            match self.flush_one().await {
                Ok(true) if self.all.is_stopping() && self.is_behind(&self.durable()) => {}
                Ok(true) if self.is_behind(&durable) => {}
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

    fn durable(&self) -> Vec<Lsn> {
        self.all.shards.iter().map(|shard| shard.durable_lsn()).collect()
    }

    fn is_behind(&self, durable: &[Lsn]) -> bool {
        let Some(marks) = &self.marks else { return true };
        marks.iter().zip(durable).any(|(mark, durable)| mark.lsn < *durable)
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
        if all.recheck.swap(false, Ordering::AcqRel) {
            self.marks = None;
        }
        let marks = match &self.marks {
            Some(marks) => marks.clone(),
            None => self.ask().await?,
        };
        if self.waiting.is_empty() && self.is_behind(&self.durable()) {
            self.waiting = self.read(&marks).await?;
        }
        self.note_oldest(&marks);
        if self.waiting.is_empty() {
            return Ok(false);
        }
        (all.step)("flush.before");
        let began = Instant::now();
        planted!("watermark-before-rows", self.pretend(), ());
        let batch = FlushBatch { epoch, parts: self.parts(&marks) };
        let flushed = link.noted(link.store().flush(batch).await).map_err(|error| error.to_string())?;
        (all.step)("flush.after");
        let counters = &link.counters;
        add(&counters.flushes, 1);
        add(&counters.flush_micros, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        add(&counters.flushed_rows, flushed.rows);
        add(&counters.anomalies, flushed.anomalies);
        if flushed.anomalies > 0 {
            tracing::error!(
                count = flushed.anomalies,
                "the store is not what was flushed; see its anomalies"
            );
        }
        all.park(flushed.parked);
        self.reached(flushed.watermarks).await?;
        Ok(true)
    }

    /// What waits, beside where every shard is.
    fn parts(&self, marks: &[Watermark]) -> Vec<FlushPart<'_>> {
        let part = |mark: &Watermark| {
            let (shard, after) = (mark.shard, mark.lsn);
            match self.waiting_of(shard) {
                Some(ShardEvents { events, hash, .. }) => FlushPart { shard, after, hash: *hash, events },
                None => FlushPart { shard, after, hash: mark.hash, events: &[] },
            }
        };
        marks.iter().map(part).collect()
    }

    fn waiting_of(&self, shard: ShardId) -> Option<&ShardEvents> {
        let place = self.waiting.binary_search_by_key(&shard, |of| of.shard).ok()?;
        self.waiting.get(place)
    }

    #[cfg(feature = "planted")]
    fn pretend(&self) {
        for ShardEvents { shard, events, .. } in &self.waiting {
            let last = events.last().map_or(0, |(lsn, _)| lsn.0);
            let follow = &self.all.follows[shard.index()];
            self.all.shards[shard.index()].flushed.store(last, Ordering::Release);
            follow.flushed.store(last, Ordering::Release);
            if self.all.options.keep_flushed.is_zero() {
                follow.settled.store(last, Ordering::Release);
            }
        }
        (self.all.trim)(self.all.trim_marks());
    }

    /// Asks the store where it is.
    async fn ask(&mut self) -> Result<Vec<Watermark>, String> {
        let link = &self.all.link;
        self.all.read_parked().await?;
        let asked = link.noted(link.store().ownership().await).map_err(|error| error.to_string())?;
        let of = |shard: ShardId| {
            let mark = asked.watermarks.iter().find(|mark| mark.shard == shard);
            mark.copied().unwrap_or(Watermark { shard, ..Watermark::default() })
        };
        let marks: Vec<Watermark> = self.all.shards.iter().map(|shard| of(shard.id)).collect();
        self.waiting.clear();
        self.reached(marks.clone()).await?;
        Ok(marks)
    }

    /// The store has everything up to `marks`, or says so.
    async fn reached(&mut self, marks: Vec<Watermark>) -> Result<(), String> {
        // Where our own batch brought it, or left it, needs no look at the journal.
        let ours: Vec<(Lsn, ChainHash)> = match &self.marks {
            Some(before) => {
                let of = |part: FlushPart<'_>| (part.after.plus(part.events.len() as u64), part.hash);
                self.parts(before).into_iter().map(of).collect()
            }
            None => Vec::new(),
        };
        let is_ours = |place: usize| ours.get(place) == Some(&(marks[place].lsn, marks[place].hash));
        for place in (0..marks.len()).filter(|place| !is_ours(*place)) {
            self.compare(marks[place]).await?;
        }
        let follows = &self.all.follows;
        let back = marks.iter().zip(follows).filter(|(mark, follow)| mark.lsn < follow.flushed());
        let back: Vec<String> = back
            .map(|(mark, follow)| format!("{}: {} to {}", mark.shard, follow.flushed(), mark.lsn))
            .collect();
        if !back.is_empty() {
            add(&self.all.link.counters.went_back, 1);
            let shards = back.join(", ");
            tracing::warn!(%shards, "the store went back in time: what it lost is flushed again");
            let is_there = |lsns: &[Lsn]| lsns.iter().zip(&marks).all(|(lsn, mark)| *lsn <= mark.lsn);
            self.samples.retain(|(_, lsns)| is_there(lsns));
            // Rows that were parked since may not be any more.
            unpoisoned(self.all.parked.lock()).known = None;
        }
        if (0..marks.len()).all(is_ours) {
            for ShardEvents { shard, events, .. } in &self.waiting {
                if let Some((_, last)) = events.last() {
                    follows[shard.index()].oldest.store(last.at.0, Ordering::Relaxed);
                }
                add(&self.all.link.counters.flushed_events, events.len() as u64);
            }
        }
        // Flushed, or not what follows where the store is.
        self.waiting.clear();
        for ((mark, shard), follow) in marks.iter().zip(&self.all.shards).zip(follows) {
            shard.flushed.store(mark.lsn.0, Ordering::Release);
            follow.flushed.store(mark.lsn.0, Ordering::Release);
        }
        self.marks = Some(marks);
        self.settle();
        self.all.read_parked().await
    }

    /// Fences this server when a watermark is not of our journal.
    async fn compare(&self, mark: Watermark) -> Result<(), String> {
        let reader = Arc::clone(&self.all.reader);
        let compared = blocking::run(move || {
            contains(&mark, reader.bounds(mark.shard), |shard, lsn| reader.chain(shard, lsn))
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

    /// Notes since when each shard waits: where none of its events was read, all are younger than those that were.
    fn note_oldest(&self, marks: &[Watermark]) {
        let newest = self.waiting.iter().flat_map(|of| of.events.last()).map(|(_, last)| last.at).max();
        for ((shard, follow), mark) in self.all.shards.iter().zip(&self.all.follows).zip(marks) {
            let first = self.waiting_of(shard.id).and_then(|of| of.events.first()).map(|(_, first)| first.at);
            let waits = newest.filter(|_| mark.lsn < shard.durable_lsn());
            let oldest = first.or(waits).unwrap_or_else(|| self.all.clock.now());
            follow.oldest.store(oldest.0, Ordering::Relaxed);
        }
    }

    /// Notes when what was flushed, and lets the journal go of what was flushed long enough ago.
    fn settle(&mut self) {
        let Some(marks) = &self.marks else { return };
        let (now, keep) = (Instant::now(), self.all.options.keep_flushed);
        let step = (keep / TRIM_STEPS).max(Duration::from_secs(1));
        let lsns: Vec<Lsn> = marks.iter().map(|mark| mark.lsn).collect();
        if self.samples.back().is_none_or(|(at, before)| now - *at >= step && *before != lsns) {
            self.samples.push_back((now, lsns.clone()));
        }
        let mut old = None;
        while let Some((at, _)) = self.samples.front()
            && now.saturating_duration_since(*at) >= keep
        {
            old = self.samples.pop_front().map(|(_, lsns)| lsns);
        }
        let at_once = keep.is_zero() || self.all.is_crowded();
        let mut held_up = false;
        for (place, follow) in self.all.follows.iter().enumerate() {
            let before = Lsn(follow.settled.load(Ordering::Relaxed));
            let old = old.as_ref().map_or(Lsn::ZERO, |old| old[place]);
            let settled = if at_once { lsns[place] } else { before.min(lsns[place]).max(old) };
            follow.settled.store(settled.0, Ordering::Relaxed);
            let checkpoint = Lsn(self.all.shards[place].counters.checkpoint.load(Ordering::Relaxed));
            held_up |= settled > before && before < checkpoint;
        }
        if held_up {
            // It was this, and not a checkpoint, that kept the journal from being trimmed.
            (self.all.trim)(self.all.trim_marks());
        }
    }

    /// Events behind the marks, up to the bounds of a flush.
    async fn read(&self, marks: &[Watermark]) -> Result<Vec<ShardEvents>, String> {
        let (reader, max) = (Arc::clone(&self.all.reader), self.all.options.events.max(1));
        let next: Vec<Lsn> = marks.iter().map(|mark| mark.lsn.next()).collect();
        let read = blocking::run(move || reader.read_together(&next, max, MAX_FLUSH_BYTES));
        read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn note(&self, problem: Option<String>) {
        let mut error = unpoisoned(self.all.error.lock());
        if let Some(problem) = &problem
            && error.is_none()
        {
            tracing::warn!(problem, "what is logged can't be flushed; it is kept and tried again");
        }
        *error = problem;
    }
}

#[cfg(test)]
pub(crate) mod tests;
