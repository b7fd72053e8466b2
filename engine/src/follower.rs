//! Brings what the shards logged to the store: one task for each shard reads its durable journal and flushes it, one transaction with
//! the watermark each time. It tells the shard how far it may forget, the journal writer how far it may trim, and the routes
//! which SKUs have left for good. When the journal on the disk reaches its cap, shards take no new reservations.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::event::{Change, Event};
use crate::hub::{Hub, Side, add};
use crate::ids::{Lsn, ShardId, SkuId};
use crate::limits::{FINAL_FLUSH_MILLIS, MAX_FLUSH_BYTES, MAX_SKUS_PER_MOVE};
use crate::placement::Backoff;
use crate::placement::routes::Look;
use crate::shard::shared::ShardShared;
use crate::store::{FlushBatch, StoreError};
use crate::sync::unpoisoned;
use crate::writer::WriterMessage;

/// Events with their places.
type Events = Vec<(Lsn, Event)>;

/// What a follower knows.
struct Follower<'a> {
    hub: &'a Hub,
    side: &'a Side,
    shard: &'a Arc<ShardShared>,
    /// `None`: not asked yet.
    watermark: Option<Lsn>,
    /// Read and not flushed yet; the same batch is tried again.
    waiting: Events,
    /// Orders shed with SKUs that have not left yet.
    shed: std::collections::HashMap<SkuId, u64>,
}

impl Hub {
    /// The loop for one shard; ends with the engine, after a last flush.
    pub async fn follow(&self, shard: ShardId) {
        let side = self.side();
        let shard = &self.shards[shard.index()];
        let mut follower = Follower {
            hub: self,
            side,
            shard,
            watermark: None,
            waiting: Vec::new(),
            shed: std::collections::HashMap::new(),
        };
        let interval = Duration::from_millis(self.context.options.store.flush_interval_ms.max(1));
        let mut backoff = Backoff::default();
        while !side.is_stopping() {
            let pause = match follower.flush_all().await {
                Ok(()) => {
                    backoff.reset();
                    interval
                }
                Err(_) => backoff.next(),
            };
            self.watch_the_cap();
            let follow = &side.follows[shard.id.index()];
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = follow.wake.notified() => {}
                () = shard.flush_wanted.notified() => {}
            }
        }
        let last = follower.flush_all();
        if tokio::time::timeout(Duration::from_millis(FINAL_FLUSH_MILLIS), last).await.is_err() {
            tracing::warn!(shard = %shard.id, "the last flush was not done in time; it is at the next start");
        }
    }

    /// New reservations stop at the cap and are taken again when a tenth of it is free.
    fn watch_the_cap(&self) {
        let (cap, full) = (self.context.options.store.journal_cap_bytes, &self.context.journal_full);
        let bytes = self.reader.disk_bytes();
        if bytes > cap {
            if !full.swap(true, Ordering::Relaxed) {
                tracing::error!(bytes, cap, "the store is too far behind: no new reservations on hot SKUs");
            }
        } else if bytes < cap - cap / 10 && full.swap(false, Ordering::Relaxed) {
            tracing::info!(bytes, cap, "the journal has room again");
        }
    }
}

impl Follower<'_> {
    /// Flushes until everything is in the store that was durable when it last looked.
    async fn flush_all(&mut self) -> Result<(), ()> {
        loop {
            match self.flush_one().await {
                Ok(true) if !self.side.is_stopping() || self.is_behind() => {}
                Ok(_) => {
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
        self.watermark.is_none_or(|watermark| watermark < self.shard.durable_lsn())
    }

    /// One transaction. `false`: there was nothing.
    async fn flush_one(&mut self) -> Result<bool, String> {
        let (side, server, shard) = (self.side, self.side.server, self.shard.id);
        let watermark = match self.watermark {
            Some(watermark) => watermark,
            None => {
                let asked = side.noted(side.store.watermark(server, shard).await);
                let watermark = asked.map_err(|error| error.to_string())?;
                self.reached(watermark)?;
                watermark
            }
        };
        let follow = &side.follows[shard.index()];
        if self.waiting.is_empty() {
            if !self.is_behind() {
                follow.oldest.store(self.hub.context.clock.now().0, Ordering::Relaxed);
                return Ok(false);
            }
            self.waiting = self.read(watermark.next()).await?;
        }
        let Some((first, event)) = self.waiting.first() else { return Ok(false) };
        debug_assert_eq!(*first, watermark.next());
        follow.oldest.store(event.at.0, Ordering::Relaxed);
        self.hub.context.failpoint("flush.before");
        if self.waiting.iter().any(|(_, event)| matches!(event.change, Change::Withdrawn { .. })) {
            self.hub.context.failpoint("demote.before_flush");
        }
        let began = Instant::now();
        let batch = FlushBatch { server, shard, after: watermark, events: &self.waiting };
        let flushed = match side.noted(side.store.flush(batch).await) {
            Ok(flushed) => flushed,
            Err(error) => {
                if let StoreError::Fenced { sku_id } = &error {
                    self.fenced(sku_id);
                }
                return Err(error.to_string());
            }
        };
        self.hub.context.failpoint("flush.after");
        let counters = &side.counters;
        add(&counters.flushes, 1);
        add(&counters.flush_micros, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        add(&counters.flushed_rows, flushed.rows);
        add(&counters.anomalies, flushed.anomalies);
        if flushed.anomalies > 0 {
            tracing::error!(%shard, count = flushed.anomalies, "the store has orders with other content; see its anomalies");
        }
        self.reached(flushed.watermark)?;
        Ok(true)
    }

    /// The store has everything up to `watermark`.
    fn reached(&mut self, watermark: Lsn) -> Result<(), String> {
        let durable = self.shard.durable_lsn();
        if watermark > durable {
            return Err(format!(
                "the store has events of this shard up to {watermark}, its journal ends at {durable}: this data directory is older than the store",
            ));
        }
        self.watermark = Some(watermark);
        let before = Lsn(self.shard.flushed.swap(watermark.0, Ordering::AcqRel));
        let flushed = self.waiting.partition_point(|(lsn, _)| *lsn <= watermark);
        let flushed: Events = self.waiting.drain(..flushed).collect();
        if self.waiting.first().is_some_and(|(lsn, _)| *lsn != watermark.next()) {
            // The store was asked with a watermark that was not its own: read again from where it is.
            self.waiting.clear();
        }
        let follow = &self.side.follows[self.shard.id.index()];
        if let Some((_, last)) = flushed.last() {
            follow.oldest.store(last.at.0, Ordering::Relaxed);
            add(&self.side.counters.flushed_events, flushed.len() as u64);
        }
        // Before the routes: who waited for a move finds the store up to date.
        follow.flushed.send_replace(watermark);
        for (_, event) in flushed {
            match event.change {
                Change::Shed { sku_id, orders, .. } => *self.shed.entry(sku_id).or_default() += orders.len() as u64,
                Change::Withdrawn { sku_id, .. } => {
                    let orders = self.shed.remove(&sku_id).unwrap_or(0);
                    let mut gone = unpoisoned(follow.gone.lock());
                    if gone.len() >= MAX_SKUS_PER_MOVE {
                        // Of moves whose callers did not wait for the end.
                        gone.clear();
                    }
                    gone.insert(sku_id.clone(), orders);
                    drop(gone);
                    self.side.routes.left(&sku_id);
                    self.hub.context.failpoint("demote.flushed");
                }
                _ => {}
            }
        }
        if before < Lsn(self.shard.counters.checkpoint.load(Ordering::Relaxed)) {
            // The store was what kept the journal from being trimmed.
            let marks = trim_marks(&self.hub.shards);
            drop(self.hub.context.inbox.put(WriterMessage::Trim(marks)));
        }
        Ok(())
    }

    /// Events from `from` on, up to the bounds of a flush.
    async fn read(&self, from: Lsn) -> Result<Events, String> {
        let (reader, shard) = (Arc::clone(&self.hub.reader), self.shard.id);
        let max = self.hub.context.options.store.flush_events.max(1);
        let read = move || {
            let mut events: Events = Vec::new();
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
            Ok(events)
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
        read.map_err(|error: crate::journal::JournalError| error.to_string())
    }

    /// Another server owns a SKU that this shard wrote. Nothing more is acknowledged for it here; what was is in this journal alone,
    /// and the shard is not flushed any further until somebody has looked at it.
    fn fenced(&self, sku_id: &SkuId) {
        tracing::error!(%sku_id, shard = %self.shard.id, "a SKU of this shard belongs to another server by now");
        if !matches!(self.side.routes.look(sku_id), Look::Lost) {
            add(&self.side.counters.fenced, 1);
            self.side.routes.lost(sku_id);
        }
    }

    fn note(&self, problem: Option<String>) {
        let mut error = unpoisoned(self.side.follows[self.shard.id.index()].error.lock());
        if let Some(problem) = &problem
            && error.is_none()
        {
            tracing::warn!(shard = %self.shard.id, problem, "what the shard logged can't be flushed; it is kept and tried again");
        }
        *error = problem;
    }
}

/// The first event of each shard that is needed: by a recovery from its checkpoint, or by the store.
pub(crate) fn trim_marks(shards: &[Arc<ShardShared>]) -> Vec<(ShardId, Lsn)> {
    let mark = |shard: &Arc<ShardShared>| {
        let checkpoint = Lsn(shard.counters.checkpoint.load(Ordering::Relaxed));
        (shard.id, checkpoint.min(shard.flushed_lsn()).next())
    };
    shards.iter().map(mark).collect()
}
