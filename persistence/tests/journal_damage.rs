//! What the journal does with bytes that are not as it wrote them: a torn tail is dropped and never comes back, damage
//! to anything that was durable is refused with its place named.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::path::Path;

use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::{Group, Journal as _, JournalError};
use hotstock_engine::testing::journal_suite::{SHARDS, Sequence, Subject as _, assert_holds, group};
use hotstock_engine::testing::samples;
use hotstock_persistence::journal::{JournalOptions, events};
use support::{OnSled, SMALL, edit, forge, forge_chain, raw_records};

/// Everything in one segment.
const ONE_SEGMENT: JournalOptions = JournalOptions { segment_bytes: 64 << 20, zeros: 1 << 20 };

/// A journal that died after ten commits of ten events for shards 0 and 2, in one segment without a seal.
fn crashed() -> OnSled {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    for commit in 0..10 {
        journal.commit(&[group(0, commit * 10 + 1, 10), group(2, commit * 10 + 1, 10)]).unwrap();
    }
    subject.crash(Box::new(journal));
    subject
}

fn newest_db(subject: &OnSled) -> std::path::PathBuf {
    // A segment that was being made ready has no records, or not even a file.
    let written = |db: &std::path::PathBuf| !raw_records(&fs::read(db).unwrap_or_default()).is_empty();
    let mut dbs = subject.segments().into_iter().rev().map(|dir| dir.join("db"));
    dbs.find(written).unwrap()
}

/// Breaks every copy of the records of which `which` is true.
fn break_records(db: &Path, which: impl Fn(&support::RawRecord) -> bool) {
    edit(db, |raw| {
        let broken: Vec<_> = raw_records(raw).into_iter().filter(which).collect();
        assert!(!broken.is_empty(), "there is nothing to break");
        for record in broken {
            raw[record.at + support::HEADER + 2] ^= 1;
        }
    });
}

fn assert_damaged(subject: &mut OnSled, shard: u16, lsn: u64) {
    match subject.open_sled() {
        Err(JournalError::Damaged { shard: s, lsn: l, what }) => {
            assert_eq!((s, l), (ShardId(shard), Lsn(lsn)), "{what}");
        }
        other => panic!("damage at event {lsn} of shard {shard} was expected, not {other:?}"),
    }
}

#[test]
fn undamaged_it_has_everything() {
    let mut subject = crashed();
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 100);
    assert_holds(&*journal.reader(), 2, 1, 100);
}

#[test]
fn the_last_batch_may_be_torn() {
    let mut subject = crashed();
    let db = newest_db(&subject);
    let last = raw_records(&fs::read(&db).unwrap()).iter().map(|record| record.batch).max().unwrap();
    break_records(&db, |record| record.batch == last);
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 90);
    assert_holds(&*journal.reader(), 2, 1, 90);
}

#[test]
fn half_of_the_last_batch_is_dropped_with_the_other_half() {
    let mut subject = crashed();
    break_records(&newest_db(&subject), |record| record.shard == 2 && record.first == 91);
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 90);
    assert_holds(&*journal.reader(), 2, 1, 90);
}

#[test]
fn a_torn_tail_never_comes_back() {
    let mut subject = crashed();
    let db = newest_db(&subject);
    break_records(&db, |record| record.shard == 2 && record.first == 91);
    let mut journal = subject.open_sled().unwrap();
    journal.commit(&[group(2, 91, 1)]).unwrap();
    drop(journal);
    // Suppose that the broken half was mended, and the seal that fixed the end of the segment lost: the base record of
    // the next one still says what was dropped.
    break_records(&db, |record| record.shard == 2 && record.first == 91);
    fs::remove_file(db.with_file_name("seal")).unwrap();
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 90);
    assert_holds(&*journal.reader(), 2, 1, 91);
}

#[test]
fn damage_before_the_tail_is_refused() {
    for (shard, first) in [(0, 1), (2, 1), (0, 51), (2, 51), (0, 81), (2, 81)] {
        let mut subject = crashed();
        break_records(&newest_db(&subject), |record| (record.shard, record.first) == (shard, first));
        assert_damaged(&mut subject, shard, first);
        // And again: refusing changes nothing.
        assert_damaged(&mut subject, shard, first);
    }
}

#[test]
fn a_missing_base_record_is_refused() {
    let mut subject = crashed();
    break_records(&newest_db(&subject), |record| record.shard == u16::MAX);
    assert!(matches!(subject.open_sled(), Err(JournalError::Damaged { .. })));
}

/// sled ends its recovery at the first page that it can't read, in silence.
#[test]
fn what_sled_cuts_off_in_silence_is_refused() {
    let mut subject = crashed();
    let db = newest_db(&subject);
    edit(&db, |raw| {
        let fifth = raw_records(raw).into_iter().find(|record| record.batch == 5).unwrap();
        // The page header before the record: sled finds neither this page nor the ones behind it.
        raw[fifth.at - 40..fifth.at].fill(0);
    });
    assert!(matches!(subject.open_sled(), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_cut_file_has_the_commits_before_the_cut() {
    let mut subject = crashed();
    let db = newest_db(&subject);
    let sixth = raw_records(&fs::read(&db).unwrap()).into_iter().find(|record| record.batch == 6).unwrap();
    edit(&db, |raw| raw.truncate(sixth.at + 10));
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 50);
    assert_holds(&*journal.reader(), 2, 1, 50);
}

#[test]
fn a_segment_that_is_gone_is_noticed() {
    let mut subject = OnSled::new(SMALL);
    let mut journal = subject.open_sled().unwrap();
    let mut ends = Vec::new();
    for commit in 0..60 {
        journal.commit(&[group(1, commit * 10 + 1, 10)]).unwrap();
        ends.push(commit * 10 + 10);
    }
    drop(journal);
    let segments = subject.segments();
    assert!(segments.len() >= 4, "{segments:?}");
    fs::remove_dir_all(&segments[1]).unwrap();
    match subject.open_sled() {
        Err(JournalError::Damaged { shard: ShardId(1), lsn, .. }) => {
            assert!(ends.contains(&(lsn.0 - 1)), "{lsn}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_in_a_sealed_segment_is_met_by_its_reader() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    for commit in 0..10 {
        journal.commit(&[group(0, commit * 10 + 1, 10)]).unwrap();
    }
    drop(journal);
    break_records(&newest_db(&subject), |record| record.first == 51);
    let journal = subject.open_sled().unwrap();
    let reader = journal.reader();
    let mut next = Lsn(1);
    let error = loop {
        match reader.read(ShardId(0), next, 1_000) {
            Ok(events) => next = events.last().expect("there are more").0.next(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, JournalError::Damaged { shard: ShardId(0), lsn: Lsn(51), .. }), "{error}");
    assert_eq!(next, Lsn(51));
}

#[test]
fn without_their_seals_the_segments_are_looked_through() {
    let mut subject = OnSled::new(SMALL);
    let mut journal = subject.open_sled().unwrap();
    for commit in 0..40 {
        journal.commit(&[group(1, commit * 10 + 1, 10)]).unwrap();
    }
    drop(journal);
    for segment in subject.segments() {
        fs::remove_file(segment.join("seal")).unwrap();
    }
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 1, 1, 400);
    drop(journal);

    // A seal that is not intact is as good as none.
    for segment in subject.segments() {
        edit(&segment.join("seal"), |seal| {
            let last = seal.len() - 1;
            seal[last] ^= 1;
        });
    }
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 1, 1, 400);
}

/// sled can't open a database in which it was writing a snapshot when the process died.
#[test]
fn a_crash_during_recovery_is_recovered_from() {
    let mut subject = crashed();
    let segment = newest_db(&subject).parent().unwrap().to_owned();
    fs::write(segment.join("snap.00000000000FFFFF.generating"), b"half").unwrap();
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 100);
}

#[test]
fn a_crash_while_segments_are_made_or_removed_leaves_no_trace() {
    let mut subject = crashed();
    let dir = subject.dir();
    // Named, but sled had not written to it yet; and one that was being deleted.
    let prepared = dir.join("000000000002");
    let _ = fs::remove_dir_all(&prepared);
    fs::create_dir(&prepared).unwrap();
    fs::write(prepared.join("conf"), b"seg").unwrap();
    fs::create_dir(dir.join("trash-0")).unwrap();
    fs::write(dir.join("trash-0").join("conf"), b"x").unwrap();
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 100);
    assert!(!dir.join("trash-0").exists());
    drop(journal);
    assert_eq!(subject.segments().len(), 2, "{:?}", subject.segments());
}

/// A segment is made ready only after the one before it was written to.
#[test]
fn a_blank_segment_before_another_is_refused() {
    let mut subject = crashed();
    let db = newest_db(&subject);
    fs::create_dir_all(subject.dir().join("000000000002")).unwrap();
    edit(&db, |raw| raw.fill(0));
    assert_damaged(&mut subject, 0, 1);
}

#[test]
fn a_commit_syncs_once() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    let before = subject.faults().syncs();
    for commit in 0..50 {
        journal.commit(&[group(0, commit * 30 + 1, 30), group(1, commit + 1, 1)]).unwrap();
    }
    assert_eq!(subject.faults().syncs() - before, 50);
}

#[test]
fn starts_without_a_commit_leave_no_segments() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    journal.commit(&[group(0, 1, 1)]).unwrap();
    drop(journal);
    for _ in 0..5 {
        drop(subject.open_sled().unwrap());
    }
    // The one with the event, and the empty one of the last start.
    assert_eq!(subject.segments().len(), 2, "{:?}", subject.segments());
}

#[test]
fn a_shard_that_does_not_exist_is_refused() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    let refused = journal.commit(&[group(0, 1, 1), group(7, 1, 1)]);
    assert!(matches!(refused, Err(JournalError::OutOfOrder { shard: ShardId(7), .. })), "{refused:?}");
    journal.commit(&[group(0, 1, 1)]).unwrap();
    assert_holds(&*journal.reader(), 0, 1, 1);
    assert!(journal.reader().read(ShardId(7), Lsn(1), 1).unwrap().is_empty());
}

/// An event of some megabytes takes several batches and several syncs; it counts when all of it is there.
#[test]
fn an_event_larger_than_a_batch_is_there_as_a_whole_or_not() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    journal.commit(&[group(0, 1, 3), group(1, 1, 3)]).unwrap();
    let before = subject.faults().syncs();
    let large = samples::large_event(9, 25_000);
    let groups = [Group { shard: ShardId(0), first: Lsn(4), events: vec![large.clone()] }, group(1, 4, 1)];
    journal.commit(&groups).unwrap();
    assert!(subject.faults().syncs() - before > 1);
    assert_eq!(journal.reader().read(ShardId(0), Lsn(4), 10).unwrap(), [(Lsn(4), large.clone())]);
    subject.crash(Box::new(journal));

    let torn = subject.freeze();
    let journal = subject.open_sled().unwrap();
    assert_eq!(journal.reader().read(ShardId(0), Lsn(4), 10).unwrap(), [(Lsn(4), large)]);
    drop(journal);

    let mut subject = OnSled::on(torn, ONE_SEGMENT);
    let db = newest_db(&subject);
    let last = raw_records(&fs::read(&db).unwrap()).iter().map(|record| record.batch).max().unwrap();
    break_records(&db, |record| record.batch == last);
    let mut journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 3);
    assert_holds(&*journal.reader(), 1, 1, 3);
    journal.commit(&[group(0, 4, 2), group(1, 4, 2)]).unwrap();
    drop(journal);
    let journal = subject.open_sled().unwrap();
    assert_holds(&*journal.reader(), 0, 1, 5);
    assert_holds(&*journal.reader(), 1, 1, 5);
}

/// Each record is intact, and yet the journal is not what was written: a part of another one stands in it.
/// A commit of several batches: what shard 0 logs there came about by what shard 2 logged before.
#[test]
fn of_a_commit_that_is_torn_no_effect_is_left_without_its_cause() {
    let mut sequence = Sequence::default();
    let turns: Vec<_> = (0..400).map(|n| if n % 2 == 0 { (2, 1, 200) } else { (0, 1, 0) }).collect();
    let groups = sequence.groups(&turns);
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    journal.commit(&groups).unwrap();
    subject.crash(Box::new(journal));
    let whole = fs::read(newest_db(&subject)).unwrap();
    let batches = raw_records(&whole).iter().map(|record| record.batch).max().unwrap();
    assert!(batches > 3, "{batches}");
    for torn in 2..=batches {
        let mut subject = OnSled::on(subject.freeze(), ONE_SEGMENT);
        break_records(&newest_db(&subject), |record| record.batch >= torn);
        let journal = subject.open_sled().unwrap();
        let found: Vec<u64> =
            (0..SHARDS).map(|shard| journal.reader().bounds(ShardId(shard)).last.0).collect();
        let next = sequence.next(found.iter().sum::<u64>() as usize);
        assert_eq!(found, next.map(|next| next.0 - 1), "torn at batch {torn} of {batches}");
    }
}

#[test]
fn a_record_that_does_not_follow_is_refused() {
    for (shard, first) in [(0, 1), (2, 51), (0, 91)] {
        let mut subject = crashed();
        forge_chain(newest_db(&subject).parent().unwrap(), shard, first);
        assert_damaged(&mut subject, shard, first);
    }
}

/// It was durable as it is, so it is no torn tail, though it is in the last batch.
#[test]
fn an_intact_record_without_events_is_refused() {
    let mut subject = crashed();
    forge(newest_db(&subject).parent().unwrap(), 2, 91, |record| record[support::HEADER..].fill(0xFF));
    assert_damaged(&mut subject, 2, 91);
}

/// In a sealed segment whoever reads it finds it, also when the read begins just there.
#[test]
fn a_record_that_does_not_follow_is_met_by_its_reader() {
    for first in [1, 51, 91] {
        let mut subject = OnSled::new(ONE_SEGMENT);
        let mut journal = subject.open_sled().unwrap();
        for commit in 0..10 {
            journal.commit(&[group(0, commit * 10 + 1, 10)]).unwrap();
        }
        drop(journal);
        forge_chain(newest_db(&subject).parent().unwrap(), 0, first);
        let journal = subject.open_sled().unwrap();
        let reader = journal.reader();
        let error = reader.read(ShardId(0), Lsn(first), 100).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { lsn, .. } if lsn == Lsn(first)), "{error}");
        assert!(error.to_string().contains("chain"), "{error}");
        assert!(reader.chain(ShardId(0), Lsn(first)).is_err());
        let error =
            events(&*reader, ShardId(0), Lsn(1)).find_map(Result::err).expect("whoever reads all of it");
        assert!(matches!(error, JournalError::Damaged { lsn, .. } if lsn == Lsn(first)), "{error}");
    }
}

/// The last record of a segment has nothing behind it that would tell; the seal does.
#[test]
fn a_last_event_that_is_another_one_is_met_by_its_reader() {
    let mut subject = OnSled::new(ONE_SEGMENT);
    let mut journal = subject.open_sled().unwrap();
    journal.commit(&[group(0, 1, 10)]).unwrap();
    drop(journal);
    let mut other = OnSled::new(ONE_SEGMENT);
    let mut journal = other.open_sled().unwrap();
    let mut events = group(0, 1, 10).events;
    events[9] = samples::event(9);
    journal.commit(&[Group { shard: ShardId(0), first: Lsn(1), events }]).unwrap();
    drop(journal);
    fs::copy(newest_db(&other), newest_db(&subject)).unwrap();
    let journal = subject.open_sled().unwrap();
    let error = journal.reader().read(ShardId(0), Lsn(1), 100).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { lsn: Lsn(10), .. }), "{error}");
}
