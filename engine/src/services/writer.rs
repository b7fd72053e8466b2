//! The journal writer: one OS thread that owns the journal. It commits all batches that are ready, of all shards, in
//! one sync; then publishes views and durable LSNs; then gives the answers to the replier. It never waits to fill a
//! batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::base::blocking::Loop;
use crate::base::ids::{Lsn, OrderNo, ShardId, SkuId};
use crate::base::sync::Inbox;
use crate::contract::counters::JournalCounters;
use crate::contract::journal::{Group, Journal};
use crate::machine::state::LeftStock;
use crate::services::directory::Directory;
use crate::services::dirty::Dirty;
use crate::services::flusher::Flusher;
use crate::services::hot::HotList;
use crate::services::replier::{Answers, Replier};
use crate::services::shared::{Permits, Reply, ShardShared};
use crate::services::views::{ViewUpdate, Views};

/// Why the journal can't be written any more. Set once, by the writer.
pub(crate) type Poison = Arc<OnceLock<String>>;

/// What the writer is asked to do.
pub(crate) enum WriterMessage {
    /// Make a batch durable and answer it.
    HandOver(HandOver),
    /// Let go of events that a checkpoint made unnecessary.
    Trim(Vec<(ShardId, Lsn)>),
}

/// A batch of a shard: the reply handles travel with the events, so that nobody can be answered before the sync.
pub(crate) struct HandOver {
    pub shared: Arc<ShardShared>,
    /// `None`: only refusals and repeats, which rest on earlier events.
    pub group: Option<Group>,
    /// Everything that the replies rest on is at or before this.
    pub last: Lsn,
    /// And on what other shards handed over before: nothing of that is durable when the journal fails.
    pub rests_on_others: bool,
    /// Stocks that left, to be taken out of the views before the others are published.
    pub left: Vec<LeftStock>,
    pub views: Vec<ViewUpdate>,
    /// Orders that left memory; the directory lets go of them when this is durable.
    pub departed: Vec<OrderNo>,
    /// SKUs that are kept in memory from here on, or no longer.
    pub pinned: Vec<(SkuId, bool)>,
    pub replies: Vec<Reply>,
    pub permits: Permits,
    /// The share of the shard's backlog.
    pub bytes: u64,
}

/// What the writer holds of the rest of the engine.
pub(crate) struct WriterParts {
    pub inbox: Arc<Inbox<WriterMessage>>,
    pub poison: Poison,
    pub directory: Arc<Directory>,
    pub views: Arc<Views>,
    /// For those who follow with the newest levels.
    pub dirty: Option<Arc<Dirty>>,
    pub hot: Arc<HotList>,
    /// The way of all answers that had to wait for the journal.
    pub replier: Replier,
    pub flusher: Arc<Flusher>,
    pub counters: Arc<WriterCounters>,
}

impl WriterMessage {
    /// Answers that nothing can be written.
    pub fn fail(self) {
        if let Self::HandOver(hand_over) = self {
            hand_over.replies.into_iter().for_each(Reply::send_unavailable);
        }
    }
}

/// Upper bounds of the commit histogram, in microseconds.
pub(crate) const COMMIT_BUCKETS: [u64; 12] =
    [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 204_800, 1_000_000];

/// Counts of the writer.
#[derive(Debug, Default)]
pub(crate) struct WriterCounters {
    pub journal: JournalCounters,
    /// Commits by duration; the last is for those above all bounds.
    pub histogram: [AtomicU64; COMMIT_BUCKETS.len() + 1],
}

impl WriterCounters {
    fn count(&self, events: usize, micros: u64) {
        let JournalCounters { commits, committed_events, commit_micros } = &self.journal;
        commits.fetch_add(1, Ordering::Relaxed);
        committed_events.fetch_add(events as u64, Ordering::Relaxed);
        commit_micros.fetch_add(micros, Ordering::Relaxed);
        let bucket = COMMIT_BUCKETS.partition_point(|bound| *bound < micros);
        self.histogram[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

/// The loop of the writer's thread: until the inbox is closed and empty.
pub(crate) struct Writer {
    journal: Box<dyn Journal>,
    parts: WriterParts,
    /// Taken from the inbox.
    messages: Vec<WriterMessage>,
    /// Memory for those of them that are batches.
    batch: Vec<HandOver>,
}

impl Writer {
    pub fn new(journal: Box<dyn Journal>, parts: WriterParts) -> Self {
        Self { journal, parts, messages: Vec::new(), batch: Vec::new() }
    }
}

impl Loop for Writer {
    fn wait(&mut self) -> bool {
        self.parts.inbox.take(&mut self.messages)
    }

    #[cfg(feature = "testing")]
    fn poll_wait(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        self.parts.inbox.poll_take(&mut self.messages, context)
    }

    fn step(&mut self) {
        let Self { journal, parts, messages, batch } = self;
        let mut trim = None;
        for message in messages.drain(..) {
            match message {
                WriterMessage::HandOver(hand_over) => batch.push(hand_over),
                WriterMessage::Trim(marks) => trim = Some(marks),
            }
        }
        commit(journal.as_mut(), parts, batch);
        if let Some(marks) = trim.filter(|_| parts.poison.get().is_none())
            && let Err(error) = journal.trim(&marks)
        {
            // Space that does not come back is no reason to refuse orders; the next checkpoint tries again.
            tracing::warn!(%error, "the journal could not be trimmed");
        }
    }
}

/// A writer that panics leaves a poisoned journal behind, not callers who wait for ever: what it held is dropped
/// (outcome unknown), what waits and what comes later is answered that nothing can be written.
impl Drop for Writer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let parts = &self.parts;
        parts.poison.get_or_init(|| "the journal writer panicked".to_owned());
        parts.inbox.close();
        let mut waiting = Vec::new();
        if parts.inbox.take(&mut waiting) {
            waiting.into_iter().for_each(WriterMessage::fail);
        }
    }
}

fn commit(journal: &mut dyn Journal, parts: &WriterParts, batch: &mut Vec<HandOver>) {
    let groups: Vec<Group> = batch.iter_mut().filter_map(|hand_over| hand_over.group.take()).collect();
    if !groups.is_empty() && parts.poison.get().is_none() {
        let began = Instant::now();
        match journal.commit(&groups) {
            Ok(()) => {
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                parts.counters.count(groups.iter().map(|group| group.events.len()).sum(), micros);
            }
            Err(error) => {
                tracing::error!(%error, "the journal can't be written any more; restart the server");
                let _why = planted!("poison-ignored", "", parts.poison.get_or_init(|| error.to_string()));
            }
        }
    }
    // The flag is looked at here, behind the place in the queue: whatever comes after a failure fails.
    let poisoned = parts.poison.get().is_some();
    for hand_over in batch.iter_mut() {
        let is_known_durable = !hand_over.rests_on_others && hand_over.last <= hand_over.shared.durable_lsn();
        let is_durable = !poisoned || is_known_durable;
        if !is_durable {
            std::mem::take(&mut hand_over.replies).into_iter().for_each(Reply::send_unavailable);
            continue;
        }
        hand_over.left.drain(..).for_each(|stock| parts.views.remove(stock.sku_id, stock.warehouse_id));
        // Views before the LSN: a shard that sees the LSN may answer at once, and its caller may then read.
        for update in hand_over.views.drain(..) {
            // Marked after it can be read: who learns that a mark was dropped reads all stocks from then on.
            let changed = parts.dirty.as_ref().map(|dirty| (dirty, update.stock.clone()));
            parts.views.publish(update);
            if let Some((dirty, stock)) = changed {
                dirty.mark(stock);
            }
        }
        hand_over.departed.drain(..).for_each(|order_no| parts.directory.forget(&order_no));
        parts.hot.update(hand_over.shared.id, hand_over.pinned.drain(..));
        let shared = &hand_over.shared;
        if hand_over.last > shared.durable_lsn() {
            shared.durable.publish(hand_over.last.0);
        }
    }
    parts.flusher.look();
    let mut answers: Answers = Vec::with_capacity(batch.len());
    for HandOver { shared, replies, permits, bytes, .. } in batch.drain(..) {
        if shared.backlog.remove(bytes) {
            shared.wake();
        }
        answers.push((permits, replies));
    }
    // It ends only after this thread.
    drop(parts.replier.send(Some(answers)));
}
