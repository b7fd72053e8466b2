//! Commands that wait in their shard for something that may be in the store: an envelope is put aside whole until
//! everything that its commands need was looked for. Bounded by the gate, whose permits those that wait keep, and by
//! the number of things they wait for.
//!
//! Envelopes of one batch stay in their order: while one waits, those that come after it wait behind it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::base::ids::{Lsn, OrderNo, RequestId, ShardId, SkuId};
use crate::base::limits::{ABSENT_MILLIS, MAX_ABSENT_SKUS, MAX_WAITING_NEEDS};
use crate::contract::outcome::Refusal;
use crate::machine::state::{Need, Stored};
use crate::services::known::Known;
use crate::services::shared::{BatchId, Envelope};

/// What was learned of something that is not in memory.
#[derive(Debug, Clone)]
pub(super) enum Learned {
    /// The store does not have it, as of this watermark of the shard.
    Absent(Lsn),
    /// An order that another shard decides for.
    Elsewhere(ShardId),
    /// It could not be had.
    Refused(Refusal),
}

/// What an envelope that waited learned.
pub(super) type Lessons = HashMap<Need, Learned>;

/// An envelope that waits, or is about to be decided after it did.
#[derive(Debug)]
pub(super) struct Held {
    pub envelope: Envelope,
    pub lessons: Lessons,
    /// It is answered then, whatever is still missing.
    pub until: Instant,
    pub since: Instant,
    /// It waited by itself, and others of its batch may be behind it.
    is_head: bool,
    /// What it waits for.
    open: HashSet<Need>,
    /// SKUs that must not leave memory meanwhile.
    pins: Vec<SkuId>,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    held: HashMap<u64, Held>,
    count: u64,
    /// What the loader was asked for, with those that wait for it. Who is not there any more does not matter.
    asked: HashMap<Need, Vec<u64>>,
    by_time: BTreeSet<(Instant, u64)>,
    /// Of batches of which an envelope waits: those that came after it.
    behind: HashMap<BatchId, VecDeque<Envelope>>,
    pins: HashMap<SkuId, usize>,
    /// Sum of what those that wait wait for.
    needs: usize,
    /// Permits of all that is here.
    permits: u64,
}

impl Waiting {
    /// Whether an envelope can be put aside that waits for so many things.
    pub fn has_room(&self, needs: usize) -> bool {
        self.needs + needs <= MAX_WAITING_NEEDS
    }

    /// Puts an envelope aside. Gives what is to be asked of the loader.
    pub fn put(&mut self, mut held: Held, needs: Vec<Need>, pins: Vec<SkuId>) -> Vec<Need> {
        self.count += 1;
        let ticket = self.count;
        let mut new = Vec::new();
        for need in &needs {
            let waiting = self.asked.entry(need.clone()).or_insert_with(|| {
                new.push(need.clone());
                Vec::new()
            });
            waiting.push(ticket);
        }
        for sku_id in &pins {
            *self.pins.entry(sku_id.clone()).or_default() += 1;
        }
        if let Some(batch) = held.envelope.batch() {
            self.behind.entry(batch).or_default();
        }
        held.is_head = true;
        self.by_time.insert((held.until, ticket));
        self.permits += held.envelope.permits();
        held.open = needs.into_iter().collect();
        held.pins = pins;
        self.needs += held.open.len();
        self.held.insert(ticket, held);
        new
    }

    /// An envelope of a batch that has one waiting goes behind that one; another comes back.
    pub fn put_behind(&mut self, envelope: Envelope) -> Option<Envelope> {
        let Some(behind) = envelope.batch().and_then(|batch| self.behind.get_mut(&batch)) else {
            return Some(envelope);
        };
        self.permits += envelope.permits();
        behind.push_back(envelope);
        None
    }

    /// The envelope of a batch that waited was decided: those behind it, in their order.
    pub fn follow(&mut self, batch: BatchId) -> VecDeque<Envelope> {
        let behind = self.behind.remove(&batch).unwrap_or_default();
        self.permits -= behind.iter().map(Envelope::permits).sum::<u64>();
        behind
    }

    /// Those that wait for something of which there is an answer; empty when it was not asked for, or nobody waits
    /// any more.
    pub fn take_asked(&mut self, need: &Need) -> Vec<u64> {
        let mut tickets = self.asked.remove(need).unwrap_or_default();
        tickets.retain(|ticket| self.held.contains_key(ticket));
        tickets
    }

    /// It is asked for again.
    pub fn ask_again(&mut self, need: Need, tickets: Vec<u64>) {
        self.asked.entry(need).or_default().extend(tickets);
    }

    /// Something that was waited for is answered: the envelopes that wait for nothing more.
    pub fn learn(
        &mut self,
        need: &Need,
        learned: Option<&Learned>,
        tickets: Vec<u64>,
        ready: &mut Vec<Held>,
    ) {
        for ticket in tickets {
            let Some(held) = self.held.get_mut(&ticket) else { continue };
            if held.open.remove(need) {
                self.needs -= 1;
            }
            if let Some(learned) = learned {
                held.lessons.insert(need.clone(), learned.clone());
            }
            if held.open.is_empty() {
                ready.extend(self.remove(ticket));
            }
        }
    }

    /// Those that have waited long enough: of what they still wait for they learn `refusal`.
    pub fn take_late(&mut self, now: Instant, refusal: impl Fn() -> Refusal) -> Vec<Held> {
        let mut late = Vec::new();
        while let Some((_, ticket)) = self.by_time.first().copied().filter(|(until, _)| *until <= now) {
            let Some(mut held) = self.remove(ticket) else { continue };
            for need in std::mem::take(&mut held.open) {
                held.lessons.insert(need, Learned::Refused(refusal()));
            }
            late.push(held);
        }
        late
    }

    /// Everything, in the order in which it came; nothing is left.
    pub fn take_all(&mut self) -> Vec<Envelope> {
        let mut tickets: Vec<u64> = self.held.keys().copied().collect();
        tickets.sort_unstable();
        let mut all: Vec<Envelope> = Vec::new();
        for ticket in tickets {
            let Some(held) = self.remove(ticket) else { continue };
            let batch = held.envelope.batch();
            all.push(held.envelope);
            all.extend(batch.into_iter().flat_map(|batch| self.follow(batch)));
        }
        // Of batches whose first envelope was about to be decided.
        let mut batches: Vec<BatchId> = self.behind.keys().copied().collect();
        batches.sort_unstable();
        all.extend(batches.into_iter().flat_map(|batch| self.follow(batch)));
        self.asked.clear();
        all
    }

    fn remove(&mut self, ticket: u64) -> Option<Held> {
        let held = self.held.remove(&ticket)?;
        self.by_time.remove(&(held.until, ticket));
        self.needs -= held.open.len();
        self.permits -= held.envelope.permits();
        for sku_id in &held.pins {
            if let Some(count) = self.pins.get_mut(sku_id) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(sku_id);
                }
            }
        }
        Some(held)
    }

    /// Whether somebody who waits needs this SKU to stay.
    pub fn is_pinned(&self, sku_id: &SkuId) -> bool {
        self.pins.contains_key(sku_id)
    }

    /// Whether nothing waits: no command, and no message of another shard.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Commands that wait.
    pub fn commands(&self) -> u64 {
        self.permits
    }
}

impl Held {
    pub fn new(envelope: Envelope, since: Instant, until: Instant) -> Self {
        Self {
            envelope,
            lessons: Lessons::new(),
            until,
            since,
            is_head: false,
            open: HashSet::new(),
            pins: Vec::new(),
        }
    }

    /// Whether it waited by itself, not behind another one.
    pub fn is_head(&self) -> bool {
        self.is_head
    }
}

/// SKUs that were just found not to be in the store. Bounded in number and time.
#[derive(Debug, Default)]
pub(super) struct Absent {
    skus: HashMap<SkuId, Instant, RandomState>,
    by_time: VecDeque<(Instant, SkuId)>,
}

impl Absent {
    pub fn insert(&mut self, sku_id: SkuId, now: Instant) {
        self.expire(now);
        if self.by_time.len() >= MAX_ABSENT_SKUS
            && let Some((_, oldest)) = self.by_time.pop_front()
        {
            self.skus.remove(&oldest);
        }
        let until = now + std::time::Duration::from_millis(ABSENT_MILLIS);
        self.skus.insert(sku_id.clone(), until);
        self.by_time.push_back((until, sku_id));
    }

    /// It was created.
    pub fn remove(&mut self, sku_id: &SkuId) {
        // Its place in the list goes with its time.
        self.skus.remove(sku_id);
    }

    pub fn contains(&self, sku_id: &SkuId, now: impl FnOnce() -> Instant) -> bool {
        // Usually there is none, and the time need not be asked.
        !self.skus.is_empty() && self.skus.get(sku_id).is_some_and(|until| *until > now())
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, sku_id)) = self.by_time.front().filter(|(until, _)| *until <= now) {
            if self.skus.get(sku_id).is_some_and(|known| known <= until) {
                self.skus.remove(sku_id);
            }
            self.by_time.pop_front();
        }
    }
}

/// What the shard knows of the store without asking it.
pub(super) struct View<'a> {
    pub known: &'a Known,
    pub absent: &'a Absent,
    /// Of an envelope that waited.
    pub lessons: Option<&'a Lessons>,
    /// The last change of anything that left memory: what was learned before that counts no more.
    pub departed: Lsn,
}

impl View<'_> {
    fn lacks(&self, need: impl FnOnce() -> Need) -> bool {
        let learned =
            self.lessons.filter(|lessons| !lessons.is_empty()).and_then(|lessons| lessons.get(&need()));
        matches!(learned, Some(Learned::Absent(watermark)) if *watermark >= self.departed)
    }
}

impl Stored for View<'_> {
    fn may_have_order(&self, order_no: &OrderNo) -> bool {
        self.known.may_have_order(order_no) && !self.lacks(|| Need::Order(order_no.clone()))
    }

    fn may_have_request(&self, sku_id: &SkuId, request_id: &RequestId) -> bool {
        self.known.may_have_request(sku_id, request_id)
            && !self.lacks(|| Need::Request(sku_id.clone(), request_id.clone()))
    }

    fn lacks_sku(&self, sku_id: &SkuId) -> bool {
        self.absent.contains(sku_id, Instant::now) || self.lacks(|| Need::Sku(sku_id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::machine::message::Message;
    use std::time::Duration;

    fn sku(n: usize) -> SkuId {
        SkuId::new(&format!("s{n}")).unwrap()
    }

    #[test]
    fn what_is_absent_is_remembered_for_a_moment_and_within_a_bound() {
        let (mut absent, start) = (Absent::default(), Instant::now());
        for n in 0..MAX_ABSENT_SKUS + 10 {
            absent.insert(sku(n), start);
        }
        assert!(absent.by_time.len() <= MAX_ABSENT_SKUS && absent.skus.len() <= MAX_ABSENT_SKUS);
        assert!(!absent.contains(&sku(0), || start), "the oldest went");
        assert!(absent.contains(&sku(100), || start));
        absent.remove(&sku(100));
        assert!(!absent.contains(&sku(100), || start), "it was created");
        let later = start + Duration::from_millis(ABSENT_MILLIS);
        assert!(!absent.contains(&sku(101), || later));
        absent.insert(sku(1), later);
        assert_eq!((absent.skus.len(), absent.by_time.len()), (1, 1));
    }

    #[test]
    fn a_message_that_waits_is_looked_after_though_nobody_is_counted_for_it() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let order_no = crate::base::ids::OrderNo::new("o1").unwrap();
        let look = Message::Look { order_no, skus: vec![sku(1)] };
        let held = Held::new(Envelope::Message(ShardId(1), look), start, start + Duration::from_secs(5));
        assert_eq!(waiting.put(held, vec![Need::Sku(sku(1))], Vec::new()), [Need::Sku(sku(1))]);
        assert!(waiting.commands() == 0 && !waiting.is_empty());
        let late = waiting.take_late(start + Duration::from_secs(5), || Refusal::Overloaded);
        assert!(late.len() == 1 && waiting.is_empty());
    }
}
