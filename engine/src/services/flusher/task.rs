//! The task of the flusher: it reads what is durable, has the store take it in, and follows where the store is.
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

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{FlushedUntil, Flusher};
use crate::base::blocking;
use crate::base::clock::Timestamp;
use crate::base::ids::{ChainHash, Epoch, Lsn, ShardId};
use crate::base::limits::{MAX_FLUSH_BYTES, TRIM_STEPS};
use crate::base::sync::unpoisoned;
use crate::contract::journal::ShardEvents;
use crate::contract::store::{FlushBatch, FlushPart, Watermark};
use crate::services::ownership::{NotOurs, contains};
use crate::services::store_link::add;

/// The task of the flusher.
pub(super) struct Task<'a> {
    all: &'a Flusher,
    /// Where the store is, by shard; `None`: to be asked.
    marks: Option<Vec<Watermark>>,
    /// Read and not flushed yet, by shard; the same is tried again.
    waiting: Vec<ShardEvents>,
    /// When what was flushed, oldest first; a few of each span of [`FlushOptions::keep_flushed`].
    samples: VecDeque<(Instant, Vec<Lsn>)>,
    /// How far the shards had decided; it is told when all of that is flushed. Looked at anew only then: under load
    /// they are always further than the store.
    decided: Option<FlushedUntil>,
}

impl<'a> Task<'a> {
    pub fn new(all: &'a Flusher) -> Self {
        Self { all, marks: None, waiting: Vec::new(), samples: VecDeque::new(), decided: None }
    }

    /// Flushes until everything is in the store that was durable when it began. What comes meanwhile waits for its
    /// interval: to run after it would be many small transactions, each with a sync, and each writing the same pages.
    pub async fn flush_all(&mut self) -> Result<(), ()> {
        let durable = self.durable();
        if self.decided.is_none() {
            let (lsns, times): (Vec<Lsn>, Vec<Timestamp>) =
                self.all.shards.iter().map(|shard| shard.decided.get()).unzip();
            let time = times.into_iter().min().unwrap_or_default();
            self.decided = Some(FlushedUntil { time, lsns });
        }
        loop {
            match self.flush_one().await {
                Ok(true) if self.all.is_stopping() && self.is_behind(&self.durable()) => {}
                Ok(true) if self.is_behind(&durable) => {}
                Ok(_) => {
                    self.tell_until();
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

    fn tell_until(&mut self) {
        if let Some(until) = self.decided.take() {
            if self.is_behind(&until.lsns) {
                self.decided = Some(until);
            } else {
                *unpoisoned(self.all.until.lock()) = until;
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
        let flushed = link.noted_whole(link.store().flush(batch).await).map_err(|error| error.to_string())?;
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
        let asked = link.noted_whole(link.store().ownership().await).map_err(|error| error.to_string())?;
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
            *unpoisoned(self.all.until.lock()) = FlushedUntil::default();
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
