//! Who may write. At each start a server takes the next epoch in the store, and writes it to its data directory
//! before it serves. [`judge`] says whether it may: a pure function of what the directory knows of itself, what its
//! journal has, and what the store says. [`Owner`](crate::front::owner::Owner) asks the store, takes it and keeps it.
//!
//! ```text
//!   judge ─▶ Identity::intend ─▶ Store::take ─▶ (the old owner's lease runs out) ─▶ Identity::record ─▶ serve
//!                                                                             serve ─▶ Store::renew, every second
//! ```
//!
//! Every take has a random id, which stands in the directory before the store has it. So whatever died when, and also
//! of a store that went back in time, a directory knows whether the store's present take is one that led to itself. One
//! that does not, and one that is evidently not in its place (a copy has all that the original has), needs the word of
//! an operator.

use crate::base::ids::{ChainHash, Epoch, Lsn, ServerId, ShardId, TakeId};
use crate::contract::journal::{Bounds, JournalError};
use crate::contract::store::{Ownership, Watermark};

/// What a server knows of itself.
#[derive(Debug, Clone)]
pub struct Mine {
    /// Its data directory.
    pub server: ServerId,
    /// The last epoch that the directory knows of.
    pub epoch: Epoch,
    /// Takes of the store that led to it: [`Identity::takes`](crate::contract::checkpoint::Identity::takes).
    pub takes: Vec<TakeId>,
    /// Its shards.
    pub shards: u16,
    /// It is evidently the same directory on the same machine as when that epoch was recorded.
    pub same_place: bool,
    /// An operator says that the owner so far is given up.
    pub take_over: bool,
}

/// What [`judge`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The store may be taken.
    Take {
        /// Its newest epoch.
        after: Epoch,
        /// The one to take.
        epoch: Epoch,
        /// Also from a process that holds it: an operator said so, or this very directory held it last.
        over: bool,
        /// To be waited after taking it and before serving: so long the owner before may think that its lease runs.
        wait_millis: u64,
    },
    /// It may not.
    Refused(NotOurs),
}

/// Why a server may not write to a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// Another server is using it.
    #[error(
        "another server is using this store; stop it, or take the store from it with `hotstock serve --take-over`"
    )]
    OwnerAlive,
    /// The store was written by somebody else, or has what the journal of this directory has not. Starting again
    /// changes nothing.
    #[error("this data directory must not serve: {why}. {way_out}")]
    Fenced {
        /// Why, in words.
        why: String,
        /// What can be done, in words.
        way_out: String,
    },
    /// The journal can't be read where it has to be compared.
    #[error("the journal can't be compared with the store: {0}")]
    Damaged(String),
    /// The store has to be asked and does not answer, or the disk does not do what it is asked to: the journal can't be
    /// read, the epoch not be written to the data directory. Another time it may be otherwise.
    #[error("{0}")]
    Unavailable(String),
}

/// What to do about a store that does not let itself be taken over, in words.
pub const LOCKED: &str = "If it answers otherwise, a session of the server before locks the row of its table `server`, and has not \
                          ended by itself: `SELECT trx_mysql_thread_id FROM information_schema.innodb_trx` names it on MySQL and \
                          MariaDB, `KILL` ends it";

const UNFLUSHED: &str =
    "`hotstock unflushed --data-dir …` lists what this directory answered and never flushed";

impl NotOurs {
    pub(crate) fn fenced(why: String, way_out: impl Into<String>) -> Self {
        Self::Fenced { why, way_out: way_out.into() }
    }
}

/// Whether a server may take a store. `bounds` and `chain` are those of its journal.
pub fn judge(
    mine: &Mine,
    store: &Ownership,
    bounds: impl Fn(ShardId) -> Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Verdict {
    match may_take(mine, store, bounds, chain) {
        Ok(verdict) => verdict,
        Err(not_ours) => Verdict::Refused(not_ours),
    }
}

fn may_take(
    mine: &Mine,
    store: &Ownership,
    bounds: impl Fn(ShardId) -> Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Result<Verdict, NotOurs> {
    let is_used = store.epoch > Epoch::ZERO;
    if is_used && store.shards != mine.shards {
        let why =
            format!("the store was written by {} shards, this directory has {}", store.shards, mine.shards);
        return Err(NotOurs::fenced(
            why,
            "Set engine.shards to the store's number for a new directory, or take another store",
        ));
    }
    let shards = (0..mine.shards).map(ShardId);
    let is_fresh = mine.epoch == Epoch::ZERO && shards.clone().all(|shard| bounds(shard).last == Lsn::ZERO);
    if is_fresh && store.watermarks.iter().any(|mark| mark.lsn > Lsn::ZERO) {
        return Err(NotOurs::fenced(
            "it is new, and the store was written by another one".into(),
            "Start on that directory; or make one from the store with `hotstock recover --from-store`; or take another store",
        ));
    }
    let knows = store.take.is_some_and(|take| mine.takes.contains(&take));
    let is_new = is_fresh && store.server != Some(mine.server);
    if is_used && mine.takes.is_empty() && !is_new && !mine.take_over {
        // Takes are written down before the store has them: it had some.
        let who = match store.server {
            Some(server) if server == mine.server => "this directory, or a copy of it,".to_owned(),
            Some(server) => format!("server {server}"),
            None => "a server".to_owned(),
        };
        let why = format!(
            "its file `epoch`, where it keeps which takes of the store are its own, is missing or names none, and {who} took the \
             store (epoch {})",
            store.epoch
        );
        let way_out = format!(
            "Put that file back if there is one; if no copy of this directory served since, or it is given up: \
             `hotstock serve --take-over`, which looks whether the journal here has all that the store has; else make a new \
             directory with `hotstock recover --from-store`; {UNFLUSHED}"
        );
        return Err(NotOurs::fenced(why, way_out));
    }
    if is_used && !knows && !mine.take_over {
        let who = match store.server {
            Some(server) if server == mine.server => "a copy of it".to_owned(),
            Some(server) => format!("server {server}"),
            None => "another server".to_owned(),
        };
        let (theirs, ours) = (store.epoch, mine.epoch);
        let why = if theirs >= ours {
            format!("{who} took the store after it (epoch {theirs}, here {ours})")
        } else {
            format!("the store is an older one, and {who} took it there (epoch {theirs}, here {ours})")
        };
        let way_out = format!(
            "If that one is gone for good and flushed nothing, or the file `epoch` of this directory is an older one: \
             `hotstock serve --take-over`; else make a new directory with `hotstock recover --from-store`; {UNFLUSHED}"
        );
        return Err(NotOurs::fenced(why, way_out));
    }
    if is_used && !mine.same_place && !mine.take_over {
        let why = "it is a copy of another one, or was moved or restored, and nobody can tell whether a server still sells from the other \
                   one, or sold what did not reach the store";
        let way_out = "If there is no other one any more, or it is given up with everything that it answered since: \
                       `hotstock serve --take-over`";
        return Err(NotOurs::fenced(why.into(), way_out));
    }
    for shard in shards {
        let mark = store.watermarks.iter().find(|mark| mark.shard == shard);
        let mark = mark.copied().unwrap_or(Watermark { shard, ..Watermark::default() });
        if let Some(not_ours) = untaken(&[mark], store.epoch, mine.epoch) {
            return Err(not_ours);
        }
        contains(&mark, bounds(shard), &chain)?;
    }
    let newest = store.epoch.max(mine.epoch);
    let Some(epoch) = newest.next() else { return Err(exhausted(store, mine.epoch)) };
    // What holds the store, or has a lease of it, is a process of this very directory, which died.
    let is_own = knows && mine.same_place;
    let runs = store.lease_until.map_or(0, |until| until.0.saturating_sub(store.now.0));
    Ok(Verdict::Take {
        after: store.epoch,
        epoch,
        over: mine.take_over || is_own,
        wait_millis: if is_own { 0 } else { runs },
    })
}

/// A watermark of an epoch that no server took: neither above what the store says is its newest, nor above `ours`.
pub(crate) fn untaken(watermarks: &[Watermark], newest: Epoch, ours: Epoch) -> Option<NotOurs> {
    let Watermark { shard, epoch, .. } = watermarks.iter().find(|mark| mark.epoch > newest.max(ours))?;
    let why = format!(
        "the store says that shard {shard} was flushed in epoch {epoch}, which no server took, since its newest is {newest}: a row of \
         `watermarks` or `server` was changed by hand, or one of the tables was restored without the others"
    );
    Some(NotOurs::fenced(
        why,
        format!(
            "Restore the store as a whole, or set `epoch` of that row of `watermarks` to {newest}, and start again"
        ),
    ))
}

/// There is no epoch above the newest. Nobody starts so often: it was written by hand.
pub(crate) fn exhausted(store: &Ownership, mine: Epoch) -> NotOurs {
    let newest = store.epoch.max(mine);
    let (whose, way_out) = if mine < newest {
        let flushed = store.watermarks.iter().map(|mark| mark.epoch).filter(|epoch| *epoch < newest);
        let right = flushed.max().unwrap_or_default().max(mine);
        (
            "the row of the store's table `server`",
            format!("Set `epoch` of that row to {right} and start again"),
        )
    } else {
        (
            "the file `epoch` of this directory",
            "Put that file back, or remove it and start once with `--take-over`; set `epoch` of the row of the store's table \
             `server` to what it was"
                .to_owned(),
        )
    };
    let why = format!(
        "the newest epoch is {newest}, and there is none above it that a start could take: {whose} was changed by hand"
    );
    NotOurs::fenced(why, way_out)
}

/// Whether a journal has the event of a watermark, with the same events before it.
pub(crate) fn contains(
    mark: &Watermark,
    bounds: Bounds,
    chain: impl Fn(ShardId, Lsn) -> Result<ChainHash, JournalError>,
) -> Result<(), NotOurs> {
    let Watermark { shard, lsn, hash, .. } = *mark;
    if lsn > bounds.last {
        let why = format!(
            "the store has events of shard {shard} up to {lsn}, its journal ends at {}: it is an older copy, or lost its newest part",
            bounds.last
        );
        let way_out =
            "Start on the newest directory, or make one from the store with `hotstock recover --from-store`";
        return Err(NotOurs::fenced(why, way_out));
    }
    if lsn.next() < bounds.first {
        let why = format!(
            "the store went back to event {lsn} of shard {shard}, and the journal begins at {}: what lies between is in neither",
            bounds.first
        );
        let way_out = "Restore a newer backup of the store and start again; or give up what is lost and make a new directory with \
                       `hotstock recover --from-store`";
        return Err(NotOurs::fenced(why, way_out));
    }
    if lsn == Lsn::ZERO {
        return Ok(());
    }
    match chain(shard, lsn) {
        Ok(ours) if ours == hash => Ok(()),
        Ok(_) => {
            let why = format!(
                "the store has another event {lsn} of shard {shard} than its journal: a copy of it wrote to the store, or the store is another one"
            );
            let way_out = format!(
                "Start on the directory that wrote last, or make one from the store with `hotstock recover --from-store`; {UNFLUSHED}"
            );
            Err(NotOurs::fenced(why, way_out))
        }
        // The medium may answer the next time.
        Err(error @ JournalError::Io { .. }) => {
            Err(NotOurs::Unavailable(format!("the journal can't be compared with the store: {error}")))
        }
        Err(error) => Err(NotOurs::Damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;

    const US: ServerId = ServerId(1);
    const OTHER: ServerId = ServerId(2);

    /// The takes that are known here, the last of them only meant; and one of somebody else.
    const TAKES: [TakeId; 4] = [TakeId(3), TakeId(4), TakeId(5), TakeId(6)];
    const ANOTHER: TakeId = TakeId(99);

    /// Two shards whose events 11 to 20 are in the journal; the hash after an event is its LSN.
    struct Case {
        mine: Mine,
        store: Ownership,
        bounds: Bounds,
    }

    fn mark(shard: u16, lsn: u64, epoch: u64) -> Watermark {
        Watermark { shard: ShardId(shard), lsn: Lsn(lsn), hash: ChainHash(lsn), epoch: Epoch(epoch) }
    }

    /// A restart after an orderly stop: epoch 5 was ours, everything is flushed but for some events of shard 1.
    fn restart() -> Case {
        let mine = Mine {
            server: US,
            epoch: Epoch(5),
            takes: TAKES.to_vec(),
            shards: 2,
            same_place: true,
            take_over: false,
        };
        let store = Ownership {
            epoch: Epoch(5),
            server: Some(US),
            take: Some(TakeId(5)),
            shards: 2,
            lease_until: None,
            now: Timestamp(100_000),
            watermarks: vec![mark(0, 20, 5), mark(1, 12, 5)],
        };
        Case { mine, store, bounds: Bounds { first: Lsn(11), last: Lsn(20) } }
    }

    fn with(change: impl FnOnce(&mut Case)) -> Verdict {
        let mut case = restart();
        change(&mut case);
        let Case { mine, store, bounds } = case;
        judge(&mine, &store, |_| bounds, |_, lsn| Ok(ChainHash(lsn.0)))
    }

    fn take(after: u64, epoch: u64, over: bool, wait_millis: u64) -> Verdict {
        Verdict::Take { after: Epoch(after), epoch: Epoch(epoch), over, wait_millis }
    }

    fn refused(verdict: Verdict, word: &str) {
        match verdict {
            Verdict::Refused(NotOurs::Fenced { why, way_out }) => {
                assert!(why.contains(word), "{why:?} does not say {word:?}");
                assert!(!way_out.is_empty());
            }
            other => panic!("{other:?} where {word:?} had to be refused"),
        }
    }

    /// A directory that was never used.
    fn fresh(case: &mut Case) {
        case.mine.epoch = Epoch::ZERO;
        case.mine.takes.clear();
        case.bounds = Bounds { first: Lsn(1), last: Lsn::ZERO };
    }

    #[test]
    fn who_was_the_last_owner_takes_the_next_epoch() {
        assert_eq!(with(|_| ()), take(5, 6, true, 0));
        let never_used = |c: &mut Case| {
            fresh(c);
            c.store = Ownership { now: Timestamp(1), ..Ownership::default() };
        };
        assert_eq!(with(never_used), take(0, 1, false, 0));
        let all_behind = |c: &mut Case| c.store.watermarks = vec![mark(0, 10, 3), mark(1, 10, 5)];
        assert_eq!(with(all_behind), take(5, 6, true, 0), "the event before the first that is left");
    }

    #[test]
    fn a_crash_before_the_epoch_was_recorded_does_not_lock_out() {
        let meant = |c: &mut Case| (c.store.epoch, c.store.take) = (Epoch(6), Some(TakeId(6)));
        assert_eq!(with(meant), take(6, 7, true, 0));
        let first = |c: &mut Case| {
            fresh(c);
            let taken = Some(TakeId(1));
            c.store = Ownership {
                epoch: Epoch(1),
                take: taken,
                server: Some(US),
                shards: 2,
                ..Ownership::default()
            };
            c.mine.takes = vec![TakeId(1)];
        };
        assert_eq!(with(first), take(1, 2, true, 0));
    }

    /// A copy has the same id and all takes up to the moment when it was made; whoever comes later is refused.
    #[test]
    fn of_a_directory_and_its_copy_one_goes_on() {
        for (epoch, flushed) in [(6, false), (6, true), (5, false)] {
            let taken_by_the_other = |c: &mut Case| {
                (c.store.epoch, c.store.take) = (Epoch(epoch), Some(ANOTHER));
                if flushed {
                    c.store.watermarks[0] = mark(0, 20, 6);
                }
            };
            refused(with(taken_by_the_other), "a copy of it took the store");
        }
        let copy = |c: &mut Case| c.mine.same_place = false;
        refused(with(copy), "nobody can tell whether a server still sells");
        let given_up = |c: &mut Case| {
            copy(c);
            c.mine.take_over = true;
        };
        assert_eq!(with(given_up), take(5, 6, true, 0));
        let copy_of_new = |c: &mut Case| {
            fresh(c);
            copy(c);
            c.store = Ownership::default();
        };
        assert_eq!(with(copy_of_new), take(0, 1, false, 0), "a store that nobody used");
    }

    #[test]
    fn a_store_that_went_back_is_flushed_again() {
        let older = |c: &mut Case| {
            (c.store.epoch, c.store.take) = (Epoch(3), Some(TakeId(3)));
            c.store.watermarks = vec![mark(0, 15, 3), mark(1, 10, 2)];
        };
        assert_eq!(with(older), take(3, 6, true, 0));
        let its_lease_runs = |c: &mut Case| {
            older(c);
            c.store.lease_until = Some(Timestamp(107_000));
        };
        assert_eq!(with(its_lease_runs), take(3, 6, true, 0), "it is our own");
        let by_other = |c: &mut Case| {
            older(c);
            c.store.server = Some(OTHER);
        };
        assert_eq!(with(by_other), take(3, 6, true, 0), "to before it was taken over from that one");
        let and_was_taken = |c: &mut Case| {
            older(c);
            (c.store.epoch, c.store.take) = (Epoch(4), Some(ANOTHER));
        };
        refused(with(and_was_taken), "the store is an older one, and a copy of it took it there");
        refused(
            with(|c| {
                older(c);
                c.store.watermarks[1] = mark(1, 9, 2);
            }),
            "went back to event 9 of shard 1",
        );
        refused(
            with(|c| {
                older(c);
                c.store.watermarks.pop();
            }),
            "went back to event 0 of shard 1",
        );
        let emptied = |c: &mut Case| c.store = Ownership { now: Timestamp(1), ..Ownership::default() };
        refused(with(emptied), "went back to event 0");
        let whole_journal = |c: &mut Case| {
            emptied(c);
            c.bounds.first = Lsn(1);
        };
        assert_eq!(with(whole_journal), take(0, 6, false, 0));
    }

    #[test]
    fn an_old_copy_is_refused() {
        refused(with(|c| c.store.watermarks[1] = mark(1, 21, 5)), "up to 21, its journal ends at 20");
        let hash = |c: &mut Case| c.store.watermarks[1].hash = ChainHash(99);
        refused(with(hash), "another event 12 of shard 1");
        let take_over = |c: &mut Case| {
            hash(c);
            c.mine.take_over = true;
        };
        refused(with(take_over), "another event 12 of shard 1");
    }

    #[test]
    fn a_store_of_another_is_refused() {
        let newer = |c: &mut Case| {
            (c.store.epoch, c.store.server, c.store.take) = (Epoch(6), Some(OTHER), Some(ANOTHER));
        };
        refused(with(newer), "took the store after it (epoch 6, here 5)");
        let same_epoch = |c: &mut Case| (c.store.server, c.store.take) = (Some(OTHER), Some(ANOTHER));
        refused(with(same_epoch), "took the store after it (epoch 5, here 5)");
        refused(with(|c| c.store.shards = 4), "written by 4 shards");
        refused(with(fresh), "it is new");
        let forced = |c: &mut Case| {
            fresh(c);
            c.mine.take_over = true;
        };
        refused(with(forced), "it is new");
    }

    #[test]
    fn what_another_took_is_taken_over_when_it_flushed_nothing_else() {
        let newer = |c: &mut Case| {
            (c.store.epoch, c.store.take, c.mine.take_over) = (Epoch(8), Some(ANOTHER), true);
        };
        assert_eq!(with(newer), take(8, 9, true, 0));
        refused(
            with(|c| {
                newer(c);
                c.store.watermarks[0] = mark(0, 30, 8);
            }),
            "its journal ends at 20",
        );
    }

    #[test]
    fn a_lease_of_another_is_waited_out() {
        let runs = |c: &mut Case| c.store.lease_until = Some(Timestamp(107_000));
        assert_eq!(with(runs), take(5, 6, true, 0), "our own, and evidently in our place");
        let moved = |c: &mut Case| {
            runs(c);
            (c.mine.same_place, c.mine.take_over) = (false, true);
        };
        assert_eq!(with(moved), take(5, 6, true, 7_000), "the original may think that it runs");
        let over = |c: &mut Case| {
            runs(c);
            (c.store.epoch, c.store.take, c.mine.take_over) = (Epoch(8), Some(ANOTHER), true);
        };
        assert_eq!(with(over), take(8, 9, true, 7_000));
        assert_eq!(
            with(|c| c.store.lease_until = Some(Timestamp(99_000))),
            take(5, 6, true, 0),
            "it has ended"
        );
    }

    #[test]
    fn a_watermark_of_an_epoch_that_nobody_took_is_refused() {
        refused(with(|c| c.store.watermarks[1].epoch = Epoch(99)), "shard 1 was flushed in epoch 99");
        // A table `server` that is older than the others: it is taken again.
        let older = |c: &mut Case| (c.store.epoch, c.store.take) = (Epoch(4), Some(TakeId(4)));
        assert_eq!(with(older), take(4, 6, true, 0));
    }

    #[test]
    fn a_directory_that_lost_its_file_of_takes_is_told_that() {
        let lost = |c: &mut Case| {
            (c.mine.epoch, c.mine.same_place) = (Epoch::ZERO, false);
            c.mine.takes.clear();
        };
        refused(with(lost), "its file `epoch`, where it keeps which takes");
        refused(with(lost), "this directory, or a copy of it, took the store (epoch 5)");
        let before_any_event = |c: &mut Case| {
            fresh(c);
            c.store.watermarks.clear();
        };
        refused(with(before_any_event), "its file `epoch`, where it keeps which takes");
        let of_another = |c: &mut Case| {
            before_any_event(c);
            c.store.server = Some(OTHER);
        };
        refused(with(of_another), "took the store after it (epoch 5, here 0)");
        let given_up = |c: &mut Case| {
            lost(c);
            c.mine.take_over = true;
        };
        assert_eq!(with(given_up), take(5, 6, true, 0));
    }

    #[test]
    fn an_epoch_that_cannot_be_raised_any_more_is_refused() {
        refused(with(|c| c.store.epoch = Epoch::LAST), "the row of the store's table `server` was changed");
        refused(with(|c| c.mine.epoch = Epoch(u64::MAX)), "the file `epoch` of this directory was changed");
        let last = Epoch::LAST.0;
        assert_eq!(with(|c| c.store.epoch = Epoch(last - 1)), take(last - 1, last, true, 0));
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_said_to_be_damaged() {
        let Case { mine, store, bounds } = restart();
        let damaged = |shard, lsn| Err(JournalError::Damaged { shard, lsn, what: "torn".into() });
        let verdict = judge(&mine, &store, |_| bounds, damaged);
        assert!(matches!(verdict, Verdict::Refused(NotOurs::Damaged(_))), "{verdict:?}");
        let failed = |_, _| Err(JournalError::Io { path: "db".into(), problem: "a sync failed".into() });
        let verdict = judge(&mine, &store, |_| bounds, failed);
        assert!(matches!(verdict, Verdict::Refused(NotOurs::Unavailable(_))), "another time: {verdict:?}");
    }
}
