//! Who may write. At each start a server takes the next epoch in the store, and writes it to its data directory
//! before it serves. [`judge`] says whether it may: a pure function of what the directory knows of itself, what its
//! journal has, and what the store says. [`Owner`](crate::owner::Owner) asks the store, takes it and keeps it.
//!
//! ```text
//!   judge ─▶ Store::take ─▶ (the old owner's lease runs out) ─▶ Identity::record ─▶ serve
//!                                                                 serve ─▶ Store::renew, every second
//! ```
//!
//! A crash between `take` and `record` leaves a store whose newest epoch was taken by this directory, which does not
//! know of it. No event was flushed in that epoch, since nothing is served or flushed before `record`; that is how
//! [`judge`] knows it from a copy of the directory that took the store and used it.

use std::time::Duration;

use crate::checkpoint::Identity;
use crate::ids::{ChainHash, Epoch, Lsn, ServerId, ShardId};
use crate::journal::{Bounds, JournalError};
use crate::store::{Ownership, Store, StoreError, Take, Watermark};

/// What a server knows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Mine {
    /// Its data directory.
    pub server: ServerId,
    /// The last epoch that the directory knows of.
    pub epoch: Epoch,
    /// Its shards.
    pub shards: u16,
    /// It is evidently the same directory on the same machine as when that epoch was recorded.
    pub same_place: bool,
    /// The store lies in the directory: whoever copied the one copied the other, so the store can't tell a copy.
    pub store_inside: bool,
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
        "another server is using this store{0}; stop it, or take the store from it with `hotstock serve --take-over`"
    )]
    OwnerAlive(String),
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
    /// The store has to be asked and does not answer, or the epoch can't be written to the data directory.
    #[error("{0}")]
    Unavailable(String),
}

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
    if is_used && mine.store_inside && !mine.same_place && !mine.take_over {
        return Err(NotOurs::fenced(
            "it is a copy of another one, or was restored, and so is the store in it: nobody can tell whether the other still sells"
                .into(),
            "If the other one is given up for good, with everything that it answered since: `hotstock serve --take-over`",
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
    let is_same = store.server == Some(mine.server);
    let is_last_owner = is_same && store.epoch == mine.epoch;
    // Taken and not recorded: see the top of the file.
    let is_unrecorded = is_same
        && mine.same_place
        && store.epoch > mine.epoch
        && store.watermarks.iter().all(|mark| mark.epoch <= mine.epoch);
    let is_others = is_used && store.epoch >= mine.epoch && !is_last_owner && !is_unrecorded;
    if is_others && !mine.take_over {
        let who = match store.server {
            Some(server) if server == mine.server => "a copy of it".to_owned(),
            Some(server) => format!("server {server}"),
            None => "another server".to_owned(),
        };
        let (theirs, ours) = (store.epoch, mine.epoch);
        let why = format!("{who} took the store after it (epoch {theirs}, here {ours})");
        let way_out = format!(
            "If that one is gone for good and flushed nothing: `hotstock serve --take-over`; else make a new directory with \
             `hotstock recover --from-store`; {UNFLUSHED}"
        );
        return Err(NotOurs::fenced(why, way_out));
    }
    for shard in shards {
        let mark = store.watermarks.iter().find(|mark| mark.shard == shard);
        let mark = mark.copied().unwrap_or(Watermark { shard, ..Watermark::default() });
        contains(&mark, bounds(shard), &chain)?;
    }
    let runs = store.lease_until.map_or(0, |until| until.0.saturating_sub(store.now.0));
    // Of this very directory, now or (of a store that went back) before: what holds the store is our own process that
    // died.
    let is_ours_here = is_same && store.epoch <= mine.epoch && mine.same_place;
    let may_wait = mine.take_over || is_unrecorded;
    let wait_millis = if is_ours_here { 0 } else { runs };
    if wait_millis > 0 && !may_wait {
        return Err(NotOurs::OwnerAlive(format!(
            ": its lease runs for another {} s",
            wait_millis.div_ceil(1_000)
        )));
    }
    Ok(Verdict::Take {
        after: store.epoch,
        epoch: store.epoch.max(mine.epoch).next(),
        over: mine.take_over || is_ours_here,
        wait_millis,
    })
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
        Err(error) => Err(NotOurs::Damaged(error.to_string())),
    }
}

/// A store that was taken to be read. See [`seize`].
#[derive(Debug, Clone, PartialEq)]
pub struct Seized {
    /// The epoch that it was taken with.
    pub epoch: Epoch,
    /// What it says now: how far each shard is flushed, for good.
    pub owned: Ownership,
    /// Who owned it before.
    pub before: Option<ServerId>,
}

/// Takes a store for a data directory that is to be made from it: whoever owned it is fenced, and its lease waited
/// out. What is read from then on does not change any more. `server` is any id that no server has; [`hand_over`]
/// gives the store to the new directory. With `over` also from a server that evidently lives.
///
/// # Errors
/// [`NotOurs`].
pub async fn seize(
    store: &dyn Store,
    server: ServerId,
    lease_seconds: u32,
    over: bool,
) -> Result<Seized, NotOurs> {
    let owned = store.ownership().await.map_err(unavailable)?;
    if owned.epoch == Epoch::ZERO {
        return Err(NotOurs::fenced(
            "the store was never used".into(),
            "Start `hotstock serve` with a new directory",
        ));
    }
    let (shards, after, epoch) = (owned.shards, owned.epoch, owned.epoch.next());
    let take = Take { server, shards, after, epoch, lease_seconds, over };
    store.take(&take).await.map_err(unavailable)?;
    let runs = owned.lease_until.map_or(0, |until| until.0.saturating_sub(owned.now.0));
    tokio::time::sleep(Duration::from_millis(runs)).await;
    let before = owned.server;
    Ok(Seized { epoch, owned: store.ownership().await.map_err(unavailable)?, before })
}

/// Gives a store that was seized to the directory that was made from it.
///
/// # Errors
/// [`NotOurs`].
pub async fn hand_over(store: &dyn Store, seized: &Seized, to: &dyn Identity) -> Result<Epoch, NotOurs> {
    let (server, shards, after, epoch) =
        (to.server(), seized.owned.shards, seized.epoch, seized.epoch.next());
    let take = Take { server, shards, after, epoch, lease_seconds: 0, over: true };
    store.take(&take).await.map_err(unavailable)?;
    to.record(epoch).map_err(NotOurs::Unavailable)?;
    Ok(epoch)
}

fn unavailable(error: StoreError) -> NotOurs {
    match error {
        StoreError::OwnerAlive => NotOurs::OwnerAlive(String::new()),
        error => NotOurs::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const US: ServerId = ServerId(1);
    const OTHER: ServerId = ServerId(2);

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
            shards: 2,
            same_place: true,
            store_inside: false,
            take_over: false,
        };
        let store = Ownership {
            epoch: Epoch(5),
            server: Some(US),
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

    fn owner_is_alive(verdict: Verdict) {
        assert!(matches!(verdict, Verdict::Refused(NotOurs::OwnerAlive(_))), "{verdict:?}");
    }

    /// A directory that was never used.
    fn fresh(case: &mut Case) {
        case.mine = Mine { epoch: Epoch::ZERO, ..case.mine };
        case.bounds = Bounds { first: Lsn(1), last: Lsn::ZERO };
    }

    #[test]
    fn who_was_the_last_owner_takes_the_next_epoch() {
        assert_eq!(with(|_| ()), take(5, 6, true, 0));
        assert_eq!(with(|c| c.mine.same_place = false), take(5, 6, false, 0), "moved to another machine");
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
        for taken in [6, 7, 20] {
            let verdict = with(|c| c.store.epoch = Epoch(taken));
            assert_eq!(verdict, take(taken, taken + 1, false, 0));
        }
        let first = |c: &mut Case| {
            fresh(c);
            c.store = Ownership { epoch: Epoch(1), server: Some(US), shards: 2, ..Ownership::default() };
        };
        assert_eq!(with(first), take(1, 2, false, 0));
        // It is a copy: the one that took it may have answered and not flushed yet.
        let copy = |c: &mut Case| {
            c.store.epoch = Epoch(6);
            c.mine.same_place = false;
        };
        refused(with(copy), "a copy of it took the store");
        let copy_of_new = |c: &mut Case| {
            first(c);
            c.mine.same_place = false;
        };
        refused(with(copy_of_new), "a copy of it took the store");
        // A copy of the directory took it and used it.
        refused(
            with(|c| {
                c.store.epoch = Epoch(6);
                c.store.watermarks[0] = mark(0, 20, 6);
            }),
            "a copy of it took the store",
        );
    }

    #[test]
    fn a_store_that_went_back_is_flushed_again() {
        let older = |c: &mut Case| {
            c.store.epoch = Epoch(3);
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
        assert_eq!(with(by_other), take(3, 6, false, 0), "to before it was taken over from that one");
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
    fn a_copy_with_its_store_in_it_is_refused() {
        let copy = |c: &mut Case| (c.mine.store_inside, c.mine.same_place) = (true, false);
        refused(with(copy), "and so is the store in it");
        let given_up = |c: &mut Case| {
            copy(c);
            c.mine.take_over = true;
        };
        assert_eq!(with(given_up), take(5, 6, true, 0));
        assert_eq!(with(|c| c.mine.store_inside = true), take(5, 6, true, 0), "the directory itself");
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
            (c.store.epoch, c.store.server) = (Epoch(6), Some(OTHER));
        };
        refused(with(newer), "took the store after it (epoch 6, here 5)");
        let same_epoch = |c: &mut Case| c.store.server = Some(OTHER);
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
            (c.store.epoch, c.store.server, c.mine.take_over) = (Epoch(8), Some(OTHER), true);
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
    fn a_lease_that_runs_is_waited_out_or_respected() {
        let runs = |c: &mut Case| c.store.lease_until = Some(Timestamp(107_000));
        assert_eq!(with(runs), take(5, 6, true, 0), "our own, and evidently in our place");
        owner_is_alive(with(|c| {
            runs(c);
            c.mine.same_place = false;
        }));
        owner_is_alive(with(|c| {
            runs(c);
            (c.store.epoch, c.store.server) = (Epoch(3), Some(OTHER));
        }));
        let over = |c: &mut Case| {
            runs(c);
            (c.store.epoch, c.store.server, c.mine.take_over) = (Epoch(8), Some(OTHER), true);
        };
        assert_eq!(with(over), take(8, 9, true, 7_000));
        let unrecorded = |c: &mut Case| {
            runs(c);
            c.store.epoch = Epoch(6);
        };
        assert_eq!(with(unrecorded), take(6, 7, false, 7_000));
        assert_eq!(
            with(|c| c.store.lease_until = Some(Timestamp(99_000))),
            take(5, 6, true, 0),
            "it has ended"
        );
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_said_to_be_damaged() {
        let Case { mine, store, bounds } = restart();
        let damaged = |shard, lsn| Err(JournalError::Damaged { shard, lsn, what: "torn".into() });
        let verdict = judge(&mine, &store, |_| bounds, damaged);
        assert!(matches!(verdict, Verdict::Refused(NotOurs::Damaged(_))), "{verdict:?}");
    }
}
