//! What every journal must do, sentence by sentence of the contract in [`crate::contract::journal`]. An implementation
//! says how it is opened, crashed and made to fail ([`Subject`]) and calls [`journal_suite!`](crate::journal_suite),
//! which makes one test of every function here.

mod together;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::samples;
use crate::base::ids::{ChainHash, Lsn, ShardId};
use crate::contract::event::Event;
use crate::contract::journal::{Bounds, Group, Journal, JournalError, JournalReader};

pub use together::*;

/// Shards of the journals under test.
pub const SHARDS: u16 = 3;

/// A real disk may take its time; a journal that has not done it by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// A journal under test, through its restarts.
pub trait Subject {
    /// Opens the journal with [`SHARDS`] shards, on what earlier ones left.
    ///
    /// # Errors
    /// Those of the journal.
    fn open(&mut self) -> Result<Box<dyn Journal>, JournalError>;

    /// Ends the journal as a dying process would: nothing is closed, what was durable is what the next one finds.
    fn crash(&mut self, journal: Box<dyn Journal>);

    /// Makes the write of the next commit fail.
    fn fail_next_write(&mut self);

    /// Makes the sync of the next commit fail, after everything was written.
    fn fail_next_sync(&mut self);

    /// Events after which the journal can give something back when it is trimmed.
    fn events_to_trim(&self) -> u64;
}

/// Makes one test of every function of the suite. `$subject` is an expression for a fresh [`Subject`].
#[macro_export]
macro_rules! journal_suite {
    ($subject:expr) => {
        $crate::journal_suite!(@tests $subject;
            an_empty_journal_says_so
            what_was_committed_is_read_in_order
            any_start_and_any_max_are_read
            events_of_every_kind_come_back
            several_shards_in_one_commit
            several_groups_of_one_shard_in_one_commit
            large_events_come_back
            a_commit_of_many_bytes_comes_back
            a_gap_is_refused_and_leaves_nothing
            a_repeat_is_refused_and_leaves_nothing
            a_later_group_out_of_order_takes_the_earlier_back
            an_empty_commit_is_nothing
            a_reopened_journal_goes_on
            a_crashed_journal_has_everything
            crashes_and_commits_alternate
            trim_keeps_what_it_must
            trim_gives_space_back
            a_shard_without_a_mark_keeps_everything
            a_trimmed_journal_knows_its_place_after_a_restart
            a_failed_write_poisons
            a_failed_sync_poisons
            a_poisoned_journal_is_whole_after_a_restart
            a_reader_follows_the_writer
            the_chain_is_there_at_every_event
            the_chain_is_of_the_events_alone
            the_chain_outlives_restarts_and_trims
            the_chain_tells_journals_apart
            all_shards_are_read_together
            a_large_commit_is_read_in_its_order
            together_after_restarts_and_trims
            together_beside_the_writer
        );
    };
    (@tests $subject:expr; $($name:ident)+) => {$(
        #[test]
        fn $name() {
            $crate::testing::journal_suite::$name(&mut $subject);
        }
    )+};
}

/// Events of `shard` from `first` on.
#[must_use]
pub fn group(shard: u16, first: u64, count: u64) -> Group {
    Group {
        shard: ShardId(shard),
        first: Lsn(first),
        events: (first..first + count).map(|lsn| event(shard, lsn)).collect(),
    }
}

/// The event that [`group`] puts at this place.
#[must_use]
pub fn event(shard: u16, lsn: u64) -> Event {
    samples::event(lsn * u64::from(SHARDS) + u64::from(shard))
}

/// Asserts that the shard holds `first..=last`, just what [`group`] makes, and nothing beyond.
///
/// # Panics
/// When it does not.
pub fn assert_holds(reader: &dyn JournalReader, shard: u16, first: u64, last: u64) {
    let shard_id = ShardId(shard);
    assert_eq!(reader.bounds(shard_id), Bounds { first: Lsn(first), last: Lsn(last) }, "shard {shard}");
    let mut next = first;
    loop {
        let events = reader.read(shard_id, Lsn(next), 100).expect("the events are there");
        if events.is_empty() {
            break;
        }
        for (lsn, got) in events {
            assert_eq!(lsn, Lsn(next), "shard {shard}");
            assert_eq!(got, event(shard, next), "shard {shard}, event {next}");
            next += 1;
        }
    }
    assert_eq!(next, last + 1, "shard {shard} ends early");
}

fn open(subject: &mut dyn Subject) -> Box<dyn Journal> {
    subject.open().expect("it opens")
}

fn commit(journal: &mut dyn Journal, groups: &[Group]) {
    journal.commit(groups).expect("it commits");
}

fn assert_out_of_order(result: Result<(), JournalError>, shard: u16, expected: u64, got: u64) {
    match result {
        Err(JournalError::OutOfOrder { shard: s, expected: e, got: g }) => {
            assert_eq!((s, e, g), (ShardId(shard), Lsn(expected), Lsn(got)));
        }
        other => panic!("out of order was expected, not {other:?}"),
    }
}

/// Nothing is there, the first event to come is 1.
pub fn an_empty_journal_says_so(subject: &mut dyn Subject) {
    let journal = open(subject);
    let reader = journal.reader();
    for shard in 0..SHARDS {
        assert_holds(&*reader, shard, 1, 0);
    }
    assert!(reader.read(ShardId(0), Lsn(7), 1).expect("beyond the end is no error").is_empty());
    assert_eq!(reader.bounds(ShardId(SHARDS)), Bounds { first: Lsn(1), last: Lsn(0) });
}

/// Order, without gap or repeat.
pub fn what_was_committed_is_read_in_order(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let mut next = 1;
    for count in [1, 2, 1, 50, 7, 300] {
        commit(&mut *journal, &[group(1, next, count)]);
        next += count;
        assert_holds(&*journal.reader(), 1, 1, next - 1);
    }
    assert_holds(&*journal.reader(), 0, 1, 0);
}

/// Read from any LSN, at most as many as asked, at least one if there is one.
pub fn any_start_and_any_max_are_read(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, 3), group(2, 1, 90)]);
    commit(&mut *journal, &[group(2, 91, 10)]);
    let reader = journal.reader();
    for from in 1..=100 {
        for max in [1, 2, 7, 1000] {
            let events = reader.read(ShardId(2), Lsn(from), max).expect("they are there");
            assert!((1..=max).contains(&events.len()), "from {from} at most {max}: {}", events.len());
            for (place, (lsn, got)) in events.into_iter().enumerate() {
                assert_eq!(lsn, Lsn(from + place as u64));
                assert_eq!(got, event(2, lsn.0));
            }
        }
    }
    assert!(reader.read(ShardId(2), Lsn(101), 10).expect("the end is no error").is_empty());
    assert!(matches!(reader.read(ShardId(2), Lsn(0), 10), Err(JournalError::Trimmed { first: Lsn(1), .. })));
}

/// Every kind of event, with and without its optional fields.
pub fn events_of_every_kind_come_back(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, samples::KINDS * 20)]);
    assert_holds(&*journal.reader(), 0, 1, samples::KINDS * 20);
}

/// One commit, several shards.
pub fn several_shards_in_one_commit(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(2, 1, 4), group(0, 1, 100), group(1, 1, 1)]);
    commit(&mut *journal, &[group(1, 2, 9), group(2, 5, 2)]);
    let reader = journal.reader();
    assert_holds(&*reader, 0, 1, 100);
    assert_holds(&*reader, 1, 1, 10);
    assert_holds(&*reader, 2, 1, 6);
}

/// One commit, several groups of a shard, with those of others between them.
pub fn several_groups_of_one_shard_in_one_commit(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(
        &mut *journal,
        &[group(1, 1, 4), group(0, 1, 5), group(1, 5, 80), group(0, 6, 1), group(1, 85, 1)],
    );
    let reader = journal.reader();
    assert_holds(&*reader, 0, 1, 6);
    assert_holds(&*reader, 1, 1, 85);
}

/// Orders of 1,000 lines between small ones, read from each place, and after a restart.
pub fn large_events_come_back(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let events: Vec<Event> = vec![
        samples::event(1),
        samples::large_event(2, 1_000),
        samples::large_event(3, 40),
        samples::event(4),
        samples::large_event(5, 1_000),
        samples::large_event(6, 1_000),
        samples::event(7),
    ];
    commit(&mut *journal, &[Group { shard: ShardId(0), first: Lsn(1), events: events.clone() }]);
    for restart in [false, true] {
        if restart {
            subject.crash(journal);
            journal = open(subject);
        }
        let reader = journal.reader();
        for from in 0..events.len() {
            for max in 1..=events.len() {
                let read = reader.read(ShardId(0), Lsn(from as u64 + 1), max).expect("they are there");
                assert!((1..=max).contains(&read.len()));
                for (place, (lsn, event)) in read.into_iter().enumerate() {
                    assert_eq!(lsn, Lsn((from + place) as u64 + 1));
                    assert_eq!(event, events[from + place], "event {lsn}");
                }
            }
        }
    }
}

/// One commit of several megabytes, before and after a restart.
pub fn a_commit_of_many_bytes_comes_back(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let large: Vec<Event> = (0..40).map(|seed| samples::large_event(seed, 1_000)).collect();
    commit(
        &mut *journal,
        &[
            group(1, 1, 100),
            Group { shard: ShardId(0), first: Lsn(1), events: large.clone() },
            group(2, 1, 100),
        ],
    );
    subject.crash(journal);
    let journal = open(subject);
    let reader = journal.reader();
    assert_holds(&*reader, 1, 1, 100);
    assert_holds(&*reader, 2, 1, 100);
    let mut read = Vec::new();
    while read.len() < large.len() {
        let more = reader.read(ShardId(0), Lsn(read.len() as u64 + 1), 7).expect("they are there");
        assert!(!more.is_empty());
        read.extend(more.into_iter().map(|(_, event)| event));
    }
    assert_eq!(read, large);
}

/// A gap is refused, nothing of the call is written, and the right group is taken afterwards.
pub fn a_gap_is_refused_and_leaves_nothing(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, 3)]);
    assert_out_of_order(journal.commit(&[group(0, 5, 1)]), 0, 4, 5);
    assert_holds(&*journal.reader(), 0, 1, 3);
    commit(&mut *journal, &[group(0, 4, 2)]);
    subject.crash(journal);
    assert_holds(&*open(subject).reader(), 0, 1, 5);
}

/// So is a repeat.
pub fn a_repeat_is_refused_and_leaves_nothing(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, 3)]);
    assert_out_of_order(journal.commit(&[group(0, 3, 2)]), 0, 4, 3);
    assert_out_of_order(journal.commit(&[group(0, 1, 3)]), 0, 4, 1);
    assert_holds(&*journal.reader(), 0, 1, 3);
}

/// All or nothing, over all groups of a call.
pub fn a_later_group_out_of_order_takes_the_earlier_back(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    assert_out_of_order(journal.commit(&[group(0, 1, 3), group(1, 1, 2), group(0, 5, 1)]), 0, 4, 5);
    for shard in 0..SHARDS {
        assert_holds(&*journal.reader(), shard, 1, 0);
    }
    commit(&mut *journal, &[group(0, 1, 1)]);
    subject.crash(journal);
    let journal = open(subject);
    assert_holds(&*journal.reader(), 0, 1, 1);
    assert_holds(&*journal.reader(), 1, 1, 0);
}

/// A commit without groups.
pub fn an_empty_commit_is_nothing(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[]);
    commit(&mut *journal, &[group(0, 1, 1)]);
    assert_holds(&*journal.reader(), 0, 1, 1);
}

/// A clean end and a new start, several times.
pub fn a_reopened_journal_goes_on(subject: &mut dyn Subject) {
    for round in 0..4 {
        let mut journal = open(subject);
        assert_holds(&*journal.reader(), 0, 1, round * 10);
        assert_holds(&*journal.reader(), 2, 1, 0);
        commit(&mut *journal, &[group(0, round * 10 + 1, 10)]);
        assert_holds(&*journal.reader(), 0, 1, round * 10 + 10);
    }
}

/// Everything that a commit returned for is there after a crash.
pub fn a_crashed_journal_has_everything(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    for round in 0..20 {
        commit(&mut *journal, &[group(0, round * 7 + 1, 7), group(2, round + 1, 1)]);
    }
    subject.crash(journal);
    let journal = open(subject);
    assert_holds(&*journal.reader(), 0, 1, 140);
    assert_holds(&*journal.reader(), 1, 1, 0);
    assert_holds(&*journal.reader(), 2, 1, 20);
}

/// Crash after crash, also without a commit between them.
pub fn crashes_and_commits_alternate(subject: &mut dyn Subject) {
    let mut last = 0;
    for round in 0..6 {
        let mut journal = open(subject);
        assert_holds(&*journal.reader(), 1, 1, last);
        if round % 3 != 2 {
            commit(&mut *journal, &[group(1, last + 1, 5)]);
            last += 5;
        }
        subject.crash(journal);
    }
    assert_holds(&*open(subject).reader(), 1, 1, last);
}

/// Whatever goes, events from the mark on stay, without a hole, and the trimmed ones answer so.
pub fn trim_keeps_what_it_must(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let last = fill(subject, &mut *journal);
    let reader = journal.reader();
    for mark in [1, 2, last / 2, last - 1, last, last + 1] {
        journal.trim(&all_at(mark)).expect("it trims");
        for shard in 0..SHARDS {
            let Bounds { first, last: end } = reader.bounds(ShardId(shard));
            assert!(
                first <= Lsn(mark),
                "event {mark} and those after it stay, but the first left is {first}"
            );
            assert_eq!(end, Lsn(last));
            assert_holds(&*reader, shard, first.0, last);
            if first.0 > 1 {
                let asked = first.0 - 1;
                match reader.read(ShardId(shard), Lsn(asked), 10) {
                    Err(JournalError::Trimmed { first: left, .. }) => assert_eq!(left, first),
                    other => panic!("event {asked} was trimmed, not {other:?}"),
                }
            }
        }
    }
    commit(&mut *journal, &[group(0, last + 1, 5)]);
}

/// Space comes back, and the first that is left moves.
pub fn trim_gives_space_back(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let reader = journal.reader();
    let last = fill(subject, &mut *journal);
    let before = reader.disk_bytes();
    journal.trim(&all_at(last + 1)).expect("it trims");
    assert!(reader.bounds(ShardId(0)).first > Lsn(1), "nothing was trimmed");
    let deadline = Instant::now() + PATIENCE;
    while reader.disk_bytes() >= before {
        assert!(Instant::now() < deadline, "{before} bytes before, {} after", reader.disk_bytes());
        std::thread::yield_now();
    }
}

/// A shard without a mark keeps everything, and what it shares space with stays whole.
pub fn a_shard_without_a_mark_keeps_everything(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let last = fill(subject, &mut *journal);
    journal.trim(&[(ShardId(0), Lsn(last + 1)), (ShardId(2), Lsn(last + 1))]).expect("it trims");
    let reader = journal.reader();
    assert_holds(&*reader, 1, 1, last);
    let first = reader.bounds(ShardId(0)).first.0;
    assert_holds(&*reader, 0, first, last);
}

/// A shard whose events are all gone goes on with the LSN after them.
pub fn a_trimmed_journal_knows_its_place_after_a_restart(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(1, 1, 5)]);
    let last = fill_shards(subject, &mut *journal, &[0]);
    for crash in [false, true, false] {
        journal.trim(&[(ShardId(0), Lsn(last + 1)), (ShardId(1), Lsn(6))]).expect("it trims");
        if crash {
            subject.crash(journal)
        } else {
            drop(journal)
        }
        journal = open(subject);
    }
    let reader = journal.reader();
    for (shard, last) in [(0, last), (1, 5), (2, 0)] {
        assert_eq!(reader.bounds(ShardId(shard)).last, Lsn(last), "shard {shard}");
        commit(&mut *journal, &[group(shard, last + 1, 2)]);
        let first = reader.bounds(ShardId(shard)).first.0;
        assert_holds(&*reader, shard, first, last + 2);
    }
}

/// After a failed write nothing is written any more and reading goes on.
pub fn a_failed_write_poisons(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, 3)]);
    subject.fail_next_write();
    assert_poisoned(&mut *journal);
}

/// So after a failed sync: it is not tried again.
pub fn a_failed_sync_poisons(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    commit(&mut *journal, &[group(0, 1, 3)]);
    subject.fail_next_sync();
    assert_poisoned(&mut *journal);
}

fn assert_poisoned(journal: &mut dyn Journal) {
    let failed = journal.commit(&[group(0, 4, 2)]);
    assert!(matches!(failed, Err(JournalError::Io { .. })), "{failed:?}");
    for groups in [&[group(0, 4, 2)][..], &[group(0, 6, 1)], &[]] {
        let refused = journal.commit(groups);
        assert!(matches!(refused, Err(JournalError::Poisoned(_))), "{refused:?}");
    }
    assert_holds(&*journal.reader(), 0, 1, 3);
}

/// The next start finds what was durable and perhaps the events whose commit failed, whole, and goes on from there.
pub fn a_poisoned_journal_is_whole_after_a_restart(subject: &mut dyn Subject) {
    let mut last = 0;
    for (round, crash) in [(0, false), (1, true), (2, false), (3, true)] {
        let mut journal = open(subject);
        commit(&mut *journal, &[group(0, last + 1, 3)]);
        if round < 2 {
            subject.fail_next_write()
        } else {
            subject.fail_next_sync()
        }
        journal.commit(&[group(0, last + 4, 2), group(1, round + 1, 1)]).expect_err("it was made to fail");
        if crash {
            subject.crash(journal)
        } else {
            drop(journal)
        }
        let mut journal = open(subject);
        let found = journal.reader().bounds(ShardId(0)).last.0;
        assert!((last + 3..=last + 5).contains(&found), "{found} after {last}");
        assert_holds(&*journal.reader(), 0, 1, found);
        let other = journal.reader().bounds(ShardId(1)).last.0;
        commit(&mut *journal, &[group(0, found + 1, 1), group(1, other + 1, round + 1 - other)]);
        last = found + 1;
        assert_holds(&*journal.reader(), 0, 1, last);
    }
}

/// A reader in another thread sees only what is durable, all of it, in order.
pub fn a_reader_follows_the_writer(subject: &mut dyn Subject) {
    const LAST: u64 = 2_000;
    let mut journal = open(subject);
    let reader: Arc<dyn JournalReader> = journal.reader();
    let follower = std::thread::spawn(move || {
        let mut next = 1;
        let deadline = Instant::now() + PATIENCE;
        while next <= LAST {
            assert!(Instant::now() < deadline, "the follower is stuck before event {next}");
            for (lsn, got) in reader.read(ShardId(0), Lsn(next), 64).expect("it reads") {
                assert_eq!((lsn, &got), (Lsn(next), &event(0, next)));
                assert!(lsn <= reader.bounds(ShardId(0)).last);
                next += 1;
            }
            std::thread::yield_now();
        }
    });
    for first in (1..=LAST).step_by(20) {
        commit(&mut *journal, &[group(0, first, 20), group(1, first, 20)]);
    }
    follower.join().expect("the follower saw everything");
}

/// The chain hashes of a shard: before the first event that is left, and after each.
fn chains(reader: &dyn JournalReader, shard: u16) -> Vec<(u64, ChainHash)> {
    let Bounds { first, last } = reader.bounds(ShardId(shard));
    let chain = |lsn| (lsn, reader.chain(ShardId(shard), Lsn(lsn)).expect("it is there"));
    (first.0 - 1..=last.0).map(chain).collect()
}

/// At every LSN another one, 0 before the first event, none beyond the last.
pub fn the_chain_is_there_at_every_event(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let reader = journal.reader();
    assert_eq!(chains(&*reader, 0), [(0, ChainHash(0))]);
    commit(&mut *journal, &[group(0, 1, 300), group(1, 1, 3)]);
    let large = Group { shard: ShardId(0), first: Lsn(301), events: vec![samples::large_event(1, 1_000)] };
    commit(&mut *journal, &[large, group(0, 302, 40)]);
    let chains = chains(&*reader, 0);
    assert_eq!(chains.len(), 342);
    assert_eq!(chains[0], (0, ChainHash(0)));
    let different: HashSet<ChainHash> = chains.iter().map(|(_, chain)| *chain).collect();
    assert_eq!(different.len(), chains.len());
    for lsn in [342, 343, u64::MAX] {
        assert!(matches!(reader.chain(ShardId(0), Lsn(lsn)), Err(JournalError::Damaged { .. })), "{lsn}");
    }
    assert_eq!(reader.chain(ShardId(2), Lsn(0)).expect("nothing was logged"), ChainHash(0));
}

/// However they were committed.
pub fn the_chain_is_of_the_events_alone(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let events: Vec<Event> = (1..=60)
        .map(|lsn| if lsn % 20 == 0 { samples::large_event(lsn, 100) } else { event(0, lsn) })
        .collect();
    let of = |shard, from: usize, to: usize| Group {
        shard: ShardId(shard),
        first: Lsn(from as u64 + 1),
        events: events[from..to].to_vec(),
    };
    commit(&mut *journal, &[of(0, 0, 60)]);
    for (from, to) in [(0, 1), (1, 19), (19, 20), (20, 39), (39, 60)] {
        commit(&mut *journal, &[of(1, from, to)]);
    }
    commit(&mut *journal, &[of(2, 0, 7), group(0, 61, 2), of(2, 7, 20), of(2, 20, 60)]);
    let reader = journal.reader();
    let all: Vec<_> = (0..SHARDS).map(|shard| chains(&*reader, shard)).collect();
    assert_eq!(all[0][..61], all[1]);
    assert_eq!(all[1], all[2]);
}

/// It is the same after each, also of the event before the first that is left, and goes on.
pub fn the_chain_outlives_restarts_and_trims(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let last = fill(subject, &mut *journal);
    let before = chains(&*journal.reader(), 1);
    for (mark, crash) in [(1, false), (last / 2, true), (last / 2, false), (last + 1, true)] {
        journal.trim(&all_at(mark)).expect("it trims");
        if crash {
            subject.crash(journal)
        } else {
            drop(journal)
        }
        journal = open(subject);
        let after = chains(&*journal.reader(), 1);
        assert!(before.ends_with(&after), "mark {mark}");
        let first = after[0].0;
        if first > 0 {
            let asked = Lsn(first - 1);
            let trimmed = journal.reader().chain(ShardId(1), asked);
            assert!(matches!(trimmed, Err(JournalError::Trimmed { .. })), "{trimmed:?}");
        }
    }
    let end = before[before.len() - 1].1;
    commit(&mut *journal, &[group(1, last + 1, 1)]);
    let reader = journal.reader();
    assert_eq!(reader.chain(ShardId(1), Lsn(last)).expect("the one before"), end);
    assert_ne!(reader.chain(ShardId(1), Lsn(last + 1)).expect("the new one"), end);
}

/// From the first event on that differs, in whatever.
pub fn the_chain_tells_journals_apart(subject: &mut dyn Subject) {
    let mut journal = open(subject);
    let events = group(0, 1, 20).events;
    let mut later = events.clone();
    later[9].at.0 += 1;
    let mut other = events.clone();
    other[0] = event(1, 7);
    for (shard, events) in (0..).map(ShardId).zip([events, later, other]) {
        commit(&mut *journal, &[Group { shard, first: Lsn(1), events }]);
    }
    let reader = journal.reader();
    let all: Vec<_> = (0..SHARDS).map(|shard| chains(&*reader, shard)).collect();
    assert_eq!(all[0][..10], all[1][..10]);
    for (one, other) in all[0].iter().zip(&all[1]).skip(10).chain(all[0].iter().zip(&all[2]).skip(1)) {
        assert_ne!(one, other);
    }
}

/// Fills every shard with so many events that trimming gives something back; answers the last LSN of each.
fn fill(subject: &dyn Subject, journal: &mut dyn Journal) -> u64 {
    fill_shards(subject, journal, &[0, 1, 2])
}

fn fill_shards(subject: &dyn Subject, journal: &mut dyn Journal, shards: &[u16]) -> u64 {
    const STEP: u64 = 100;
    let steps = subject.events_to_trim().div_ceil(STEP).max(3);
    for step in 0..steps {
        let groups: Vec<Group> = shards.iter().map(|shard| group(*shard, step * STEP + 1, STEP)).collect();
        commit(journal, &groups);
    }
    steps * STEP
}

fn all_at(mark: u64) -> Vec<(ShardId, Lsn)> {
    (0..SHARDS).map(|shard| (ShardId(shard), Lsn(mark))).collect()
}
