//! The journal on sled against a model of it: any row of commits, trims, clean ends, crashes and torn tails. The model
//! knows after every commit what the journal must hold; after a torn tail the journal must be as after one of the last
//! commits, and go on from there.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;

use hotstock_engine::ids::{ChainHash, Lsn, ShardId};
use hotstock_engine::journal::{Journal as _, JournalError, JournalReader};
use hotstock_engine::testing::journal_suite::{SHARDS, Subject as _, assert_holds, group};
use hotstock_persistence::journal::{JournalOptions, SledJournal};
use proptest::collection::vec;
use proptest::prelude::*;
use support::{OnSled, edit, raw_records};

#[derive(Debug, Clone)]
enum Step {
    /// So many events for each shard.
    Commit([u64; SHARDS as usize]),
    /// Below this part (in hundredths) of what there is.
    Trim(u64),
    Reopen,
    Crash,
    /// A crash in which the end of the newest segment's file, this part of what was written to it, did not reach the
    /// disk.
    Cut(u64),
    /// A crash after which a byte of the newest segment is another one, at this part of what was written.
    Flip(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => [0..40_u64, 0..5_u64, 0..300_u64].prop_map(Step::Commit),
        1 => (0..=100_u64).prop_map(Step::Trim),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => (0..1000_u64).prop_map(Step::Cut),
        1 => (0..1000_u64).prop_map(Step::Flip),
    ]
}

/// The last LSN of every shard.
type Ends = [u64; SHARDS as usize];

struct Model {
    /// What the journal held after each commit since the newest segment was begun, and at its beginning.
    history: Vec<Ends>,
    /// Below these it may have let go.
    marks: Ends,
    /// The chain hashes that were seen.
    chains: RefCell<HashMap<(u16, u64), ChainHash>>,
}

impl Model {
    fn ends(&self) -> Ends {
        *self.history.last().expect("it begins with one")
    }
}

fn ends(reader: &dyn JournalReader) -> Ends {
    std::array::from_fn(|shard| reader.bounds(ShardId(shard as u16)).last.0)
}

fn check(reader: &dyn JournalReader, model: &Model) {
    for (shard, end) in (0..).zip(model.ends()) {
        let first = reader.bounds(ShardId(shard)).first.0;
        assert!(first <= model.marks[usize::from(shard)], "too much of shard {shard} was trimmed");
        assert_holds(reader, shard, first, end);
        for lsn in [first - 1, first.midpoint(end), end] {
            // The events depend on their shard and LSN alone, and so does the chain.
            let chain = reader.chain(ShardId(shard), Lsn(lsn)).unwrap();
            let known = *model.chains.borrow_mut().entry((shard, lsn)).or_insert(chain);
            assert_eq!(chain, known, "event {lsn} of shard {shard}");
        }
    }
}

/// The newest segment that was written to.
fn newest_db(subject: &OnSled) -> std::path::PathBuf {
    let written = |db: &std::path::PathBuf| fs::read(db).is_ok_and(|raw| !raw_records(&raw).is_empty());
    let mut dbs = subject.segments().into_iter().rev().map(|dir| dir.join("db"));
    dbs.find(written).expect("a started journal wrote its base record")
}

/// How far the file was written: behind it are only zeros.
fn written(raw: &[u8]) -> u64 {
    raw.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

fn run(options: JournalOptions, steps: Vec<Step>) {
    let mut subject = OnSled::new(options);
    let mut journal = subject.open_sled().unwrap();
    let mut model = Model {
        history: vec![[0; SHARDS as usize]],
        marks: [1; SHARDS as usize],
        chains: RefCell::default(),
    };
    for step in steps {
        match step {
            Step::Commit(counts) => {
                let before = model.ends();
                let groups: Vec<_> = (0..)
                    .zip(counts)
                    .filter(|(_, count)| *count > 0)
                    .map(|(shard, count)| group(shard, before[usize::from(shard)] + 1, count))
                    .collect();
                journal.commit(&groups).unwrap();
                model.history.push(std::array::from_fn(|shard| before[shard] + counts[shard]));
            }
            Step::Trim(part) => {
                for (mark, end) in model.marks.iter_mut().zip(*model.history.last().expect("never empty")) {
                    *mark = (*mark).max(end * part / 100 + 1);
                }
                let marks: Vec<_> = (0..).map(ShardId).zip(model.marks.map(Lsn)).collect();
                journal.trim(&marks).unwrap();
            }
            Step::Reopen => {
                drop(journal);
                journal = subject.open_sled().unwrap();
                model.history = vec![model.ends()];
            }
            Step::Crash => {
                subject.crash(Box::new(journal));
                journal = subject.open_sled().unwrap();
                model.history = vec![model.ends()];
            }
            Step::Cut(part) => {
                subject.crash(Box::new(journal));
                let db = newest_db(&subject);
                edit(&db, |raw| {
                    // The base record was durable before the journal was open.
                    let base = raw_records(raw).iter().find(|record| record.shard == u16::MAX).unwrap().end;
                    raw.truncate(base.max((written(raw) * part / 1000) as usize));
                });
                journal = reopen_torn(&mut subject, &mut model);
            }
            Step::Flip(part) => {
                subject.crash(Box::new(journal));
                let db = newest_db(&subject);
                let at = (written(&fs::read(&db).unwrap()) * part / 1000) as usize;
                edit(&db, |raw| raw[at] ^= 0x10);
                match subject.open_sled() {
                    Ok(torn) => {
                        // Nothing was refused, so no more than the last commit may be lost.
                        let found = ends(&*torn.reader());
                        let last = model.history.len() - 1;
                        assert!(model.history[last.saturating_sub(1)..].contains(&found), "{found:?}");
                        model.history = vec![found];
                        journal = torn;
                    }
                    Err(JournalError::Damaged { shard, lsn, .. }) => {
                        // The one after the last, when the damage is where it would be.
                        assert!(lsn.0 <= model.ends()[shard.index()] + 1, "event {lsn} of {shard} never was");
                        edit(&db, |raw| raw[at] ^= 0x10);
                        journal = subject.open_sled().expect("mended, it is as it was");
                        model.history = vec![model.ends()];
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        check(&*journal.reader(), &model);
    }
}

/// What was lost of a segment's end is as if it had not been written: a row of commits, from the first on.
fn reopen_torn(subject: &mut OnSled, model: &mut Model) -> SledJournal {
    let journal = subject.open_sled().unwrap();
    let found = ends(&*journal.reader());
    assert!(model.history.contains(&found), "{found:?} is between two commits of {:?}", model.history);
    model.history = vec![found];
    journal
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Every step opens and syncs real files; a failure is as clear after a few rounds of shrinking.
        cases: 10, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// All commits since a start are in one segment, so that a cut may fall between any two of them.
    #[test]
    fn it_holds_what_the_model_holds(steps in vec(step(), 1..20)) {
        run(JournalOptions { segment_bytes: 64 << 20, zeros: 256 << 10 }, steps);
    }

    /// Segments change all the time; their tails are not torn, since a commit in the next one proves them whole.
    #[test]
    fn it_holds_what_the_model_holds_over_many_segments(
        steps in vec(step().prop_filter("whole", |s| !matches!(s, Step::Cut(_) | Step::Flip(_))), 1..20)
    ) {
        run(JournalOptions { segment_bytes: 4 << 10, zeros: 0 }, steps);
    }
}
