//! All shards read together: whatever the bounds are, each answer ends where a beginning of what was committed ends.

use std::sync::Arc;
use std::time::Instant;

use super::{PATIENCE, SHARDS, Subject, all_at, event, open};
use crate::base::ids::{Lsn, ShardId};
use crate::contract::event::Event;
use crate::contract::journal::{Group, Journal, JournalError, JournalReader};
use crate::testing::samples;

/// What was committed, in its order.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// Of each shard its events.
    events: [Vec<Event>; SHARDS as usize],
    /// The shards of all events.
    order: Vec<u16>,
    /// Where each commit ends.
    commits: Vec<usize>,
    /// How many groups they had.
    groups: usize,
}

impl Sequence {
    /// So many events of shards, group after group: large ones of so many lines, or (0) small ones.
    pub fn groups(&mut self, of: &[(u16, u64, usize)]) -> Vec<Group> {
        let mut groups = Vec::new();
        for (shard, count, lines) in of {
            let known = &mut self.events[usize::from(*shard)];
            let first = known.len() as u64 + 1;
            let made = (first..first + count).map(|lsn| match lines {
                0 => event(*shard, lsn),
                lines => samples::large_event(lsn, *lines),
            });
            let events: Vec<Event> = made.collect();
            known.extend(events.iter().cloned());
            self.order.extend(events.iter().map(|_| *shard));
            groups.push(Group { shard: ShardId(*shard), first: Lsn(first), events });
        }
        self.commits.push(self.order.len());
        self.groups += groups.len();
        groups
    }

    /// Commits them.
    ///
    /// # Panics
    /// When they are not taken.
    pub fn commit(&mut self, journal: &mut dyn Journal, of: &[(u16, u64, usize)]) {
        journal.commit(&self.groups(of)).expect("it commits");
    }

    /// Commits of many forms, with a beginning of each shard that depends on `seed`.
    fn commit_some(&mut self, journal: &mut dyn Journal, seed: u64, count: u64) {
        for n in seed..seed + count {
            let shard = |n: u64| u16::try_from(n % u64::from(SHARDS)).expect("they are few");
            match n % 5 {
                0 => self.commit(journal, &[(shard(n), 1, 0)]),
                1 => self.commit(journal, &[(shard(n), 3, 0), (shard(n + 1), 2, 0), (shard(n), 1, 0)]),
                2 => self.commit(journal, &[(2, 1, 0), (1, 40, 0), (0, 1, 0), (1, 1, 0)]),
                3 => self.commit(journal, &[(shard(n + 2), 1, 100), (shard(n), 7, 0)]),
                _ => self.commit(journal, &[]),
            }
        }
    }

    /// The first events behind so many of all.
    #[must_use]
    pub fn next(&self, count: usize) -> [Lsn; SHARDS as usize] {
        let mut next = [Lsn(1); SHARDS as usize];
        self.order[..count].iter().for_each(|shard| next[usize::from(*shard)].0 += 1);
        next
    }

    /// Asserts that an answer goes on behind the first `from`, and how far it goes.
    fn check_next(&self, reader: &dyn JournalReader, from: usize, (max, max_bytes): (usize, u64)) -> usize {
        let mut next = self.next(from);
        let answer = reader.read_together(&next, max, max_bytes).expect("it reads");
        let (mut count, mut bytes) = (0, 0);
        for part in answer {
            assert!(!part.events.is_empty());
            let known = &self.events[part.shard.index()];
            for (lsn, got) in &part.events {
                let next = &mut next[part.shard.index()];
                assert_eq!(lsn, next);
                assert_eq!(got, &known[usize::try_from(lsn.0 - 1).expect("they are few")], "{lsn}");
                *next = next.next();
                (count, bytes) = (count + 1, bytes + got.weight());
            }
            let last = part.events[part.events.len() - 1].0;
            assert_eq!(part.hash, reader.chain(part.shard, last).expect("it is there"));
        }
        assert_eq!(next, self.next(from + count), "this is no beginning of what was committed");
        if count > max || bytes > max_bytes {
            let of = |place: usize| self.commits.partition_point(|end| *end <= place);
            assert_eq!(of(from), of(from + count - 1), "more than one commit, beyond the bounds");
        }
        from + count
    }

    /// Asserts that everything is read behind the first `from`, in answers within any bounds.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self, reader: &dyn JournalReader, from: usize) {
        const MANY: u64 = u64::MAX;
        for bounds in [(1, MANY), (10, MANY), (usize::MAX, 3_000), (usize::MAX, MANY)] {
            let (mut place, mut answers) = (from, 0);
            while place < self.order.len() {
                let end = self.check_next(reader, place, bounds);
                assert!(end > place, "{bounds:?}: nothing behind {place} of {}", self.order.len());
                (place, answers) = (end, answers + 1);
            }
            assert_eq!(self.check_next(reader, place, bounds), place);
            // Not cut without need: only between groups, and a group that is large has some pieces.
            let most = self.groups + self.order.len() / 10;
            assert!(answers <= most, "{bounds:?}: {answers} answers, {} groups", self.groups);
        }
    }
}

/// Whatever the commits and the bounds are.
pub fn all_shards_are_read_together(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let mut sequence = Sequence::default();
    sequence.check(&*journal.reader(), 0);
    for round in 0..2 {
        sequence.commit_some(&mut *journal, round * 10, 10);
        sequence.check(&*journal.reader(), 0);
    }
    let far = [Lsn(10_000); SHARDS as usize];
    assert_eq!(journal.reader().read_together(&far, 10, 10).expect("beyond the end is no error"), []);
}

/// A commit that is too large for one write: of it a beginning comes alone, before and after a restart.
pub fn a_large_commit_is_read_in_its_order(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let mut sequence = Sequence::default();
    sequence.commit_some(&mut *journal, 0, 4);
    // An effect in a lower shard, its cause in a higher one; several megabytes of each.
    let turns: Vec<_> = (0..60).map(|n| if n % 2 == 0 { (2, 1, 1_000) } else { (0, 3, 300) }).collect();
    sequence.commit(&mut *journal, &turns);
    sequence.commit_some(&mut *journal, 4, 4);
    sequence.check(&*journal.reader(), 0);
    subject.crash(journal);
    sequence.check(&*open(subject).reader(), 0);
}

/// Over restarts, and from wherever something is left.
pub fn together_after_restarts_and_trims(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let mut sequence = Sequence::default();
    let steps = subject.events_to_trim().div_ceil(30).max(12);
    for round in 0..3 {
        sequence.commit_some(&mut *journal, round * steps, steps);
        if round == 1 {
            subject.crash(journal);
        } else {
            drop(journal);
        }
        journal = open(subject);
    }
    sequence.check(&*journal.reader(), 0);
    let middle = sequence.commits[sequence.commits.len() / 2];
    let marks: Vec<_> = (0..).map(ShardId).zip(sequence.next(middle)).collect();
    journal.trim(&marks).expect("it trims");
    let reader = journal.reader();
    let first: Vec<Lsn> = marks.iter().map(|(shard, _)| reader.bounds(*shard).first).collect();
    assert!(first.iter().any(|first| *first > Lsn(1)), "nothing was trimmed");
    match reader.read_together(&[Lsn(1); SHARDS as usize], 10, u64::MAX) {
        Err(JournalError::Trimmed { shard, asked, first: left }) => {
            assert_eq!((asked, left), (Lsn(1), first[shard.index()]));
        }
        other => panic!("the first events were trimmed, not {other:?}"),
    }
    sequence.check(&*reader, middle);
    sequence.commit_some(&mut *journal, 0, 9);
    sequence.check(&*reader, middle);
    journal.trim(&all_at(100_000)).expect("it trims");
    subject.crash(journal);
    let mut journal = open(subject);
    let end = sequence.order.len();
    sequence.check(&*journal.reader(), end);
    sequence.commit_some(&mut *journal, 0, 9);
    sequence.check(&*journal.reader(), end);
}

/// Who reads while somebody writes sees no effect without its cause either.
pub fn together_beside_the_writer(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let mut sequence = Sequence::default();
    let commits: Vec<_> = (0..100_u64)
        .map(|n| {
            let shard = u16::try_from(n % 3).expect("it is small");
            sequence.groups(&[(2 - shard, 1 + n % 4, 0), (shard, 1 + n % 7, 0)])
        })
        .collect();
    let (all, reader): (_, Arc<dyn JournalReader>) = (sequence.clone(), journal.reader());
    let follower = std::thread::spawn(move || {
        let (mut place, deadline) = (0, Instant::now() + PATIENCE);
        while place < all.order.len() {
            assert!(Instant::now() < deadline, "the follower is stuck behind {place} events");
            place = all.check_next(&*reader, place, (20, u64::MAX));
            std::thread::yield_now();
        }
    });
    for groups in commits {
        journal.commit(&groups).expect("it commits");
    }
    follower.join().expect("the follower saw everything");
}
