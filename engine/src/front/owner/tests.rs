//! Servers, copies of them and others, on one store.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, TakeId};
use crate::contract::checkpoint::Identity;
use crate::contract::journal::JournalReader;
use crate::contract::store::{Store, Take, Watermark};
use crate::front::restore::restore;
use crate::front::seize::{hand_over, seize};
use crate::machine::state::State;
use crate::services::fence::Fence;
use crate::services::flusher::tests::{Fixture, SHARD};
use crate::services::ownership::NotOurs;
use crate::testing::{ManualClock, MemoryIdentity, MemoryJournal, MemoryStore};

fn owner_of(fixture: &Fixture, take_over: bool) -> Owner {
    Owner {
        link: Arc::clone(&fixture.link),
        identity: Arc::new(fixture.identity.clone()),
        reader: Arc::new(fixture.disk.clone()),
        clock: Arc::new(ManualClock::default()),
        shards: 1,
        lease_seconds: 0,
        take_over,
        start_wait: Duration::from_millis(50),
    }
}

/// A server on a new directory and a new store, started.
async fn started() -> (Fixture, Owner) {
    let (disk, store) = (MemoryJournal::default(), MemoryStore::default());
    let fixture = Fixture::on(disk, store.session(), MemoryIdentity::new(7), State::new(SHARD, 1));
    let owner = owner_of(&fixture, false);
    owner.take_at_start().await.unwrap();
    (fixture, owner)
}

/// The same directory, after the process died or ended.
fn again(fixture: &Fixture) -> Fixture {
    fixture.store.die();
    let (disk, state) = (fixture.disk.clone(), fixture.state.clone());
    Fixture::on(disk, fixture.store.session(), fixture.identity.clone(), state)
}

/// A copy of the directory as it is now, beside it.
fn copy(fixture: &Fixture) -> Fixture {
    let (disk, state) = (fixture.disk.copy(), fixture.state.clone());
    Fixture::on(disk, fixture.store.session(), fixture.identity.copy(), state)
}

/// Another directory, never used.
fn other(fixture: &Fixture) -> Fixture {
    let identity = MemoryIdentity::new(8);
    Fixture::on(MemoryJournal::default(), fixture.store.session(), identity, State::new(SHARD, 1))
}

async fn start(fixture: &Fixture, take_over: bool) -> Result<(), NotOurs> {
    owner_of(fixture, take_over).take_at_start().await
}

fn epoch(fixture: &Fixture) -> u64 {
    assert!([Epoch::ZERO, fixture.identity.epoch()].contains(&fixture.link.fence().epoch()));
    fixture.link.fence().epoch().0
}

fn is_fenced(result: Result<(), NotOurs>, word: &str) {
    match result {
        Err(NotOurs::Fenced { why, .. }) if why.contains(word) => {}
        other => panic!("{other:?} where {word:?} had to be refused"),
    }
}

#[tokio::test]
async fn each_start_takes_the_next_epoch() {
    let (mut fixture, owner) = started().await;
    assert_eq!(epoch(&fixture), 1);
    fixture.some_events();
    fixture.flush().await.unwrap();
    owner.let_go().await;
    let next = again(&fixture);
    start(&next, false).await.unwrap();
    assert_eq!(epoch(&next), 2);
    let killed = again(&next);
    start(&killed, false).await.unwrap();
    assert_eq!(epoch(&killed), 3);
}

#[tokio::test]
async fn a_crash_between_taking_and_recording_does_not_lock_out() {
    let (fixture, _) = started().await;
    let mut fixture = again(&fixture);
    for _ in 0..3 {
        fixture.identity.fail(true);
        let refused = start(&fixture, false).await;
        assert!(matches!(refused, Err(NotOurs::Unavailable(_))), "{refused:?}");
        fixture.identity.fail(false);
        fixture = again(&fixture);
    }
    start(&fixture, false).await.unwrap();
    assert_eq!((epoch(&fixture), fixture.identity.epoch()), (5, Epoch(5)));
}

#[tokio::test]
async fn a_lost_answer_to_taking_is_no_loss() {
    for fault in [MemoryStore::lose_answers, MemoryStore::lose_writes, MemoryStore::be_busy] {
        let (fixture, _) = started().await;
        let next = again(&fixture);
        fault(&next.store, 1);
        start(&next, false).await.unwrap();
        assert!(epoch(&next) >= 2);
        next.link.fence().check().unwrap();
    }
}

#[tokio::test]
async fn beside_a_live_owner_nobody_starts() {
    let (mut fixture, _) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    is_fenced(start(&copy(&fixture), false).await, "a copy of another one");
    is_fenced(start(&other(&fixture), false).await, "it is new");
    is_fenced(start(&other(&fixture), true).await, "it is new");
    fixture.create("c", 1);
    fixture.flush().await.unwrap();
}

#[tokio::test]
async fn a_copy_that_took_over_fences_the_original() {
    let (mut fixture, owner) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    let mut copied = copy(&fixture);
    start(&copied, true).await.unwrap();
    copied.create("c", 1);
    copied.flush().await.unwrap();
    // The original answers one more order, and then finds out.
    fixture.create("d", 1);
    fixture.flush().await.unwrap_err();
    let why = fixture.link.fence().fenced().unwrap();
    assert!(why.contains("another event 8"), "{why}");
    assert!(fixture.link.fence().check().is_err());
    // Started again it finds out before it serves.
    is_fenced(start(&again(&fixture), false).await, "a copy of it took the store");
    is_fenced(start(&again(&fixture), true).await, "another event");
    // The heartbeat finds out as well.
    let (copied, _) = (again(&copied), owner);
    let keeps = owner_of(&copied, false);
    keeps.take_at_start().await.unwrap();
    start(&copy(&copied), true).await.unwrap();
    keeps.beat(&copied.flusher).await;
    assert!(copied.link.fence().is_fenced_for_good());
}

#[tokio::test]
async fn an_older_copy_is_refused() {
    let (mut fixture, _) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    let old = copy(&fixture);
    fixture.create("c", 1);
    fixture.flush().await.unwrap();
    fixture.store.die();
    is_fenced(start(&old, false).await, "a copy of another one");
    is_fenced(start(&old, true).await, "its journal ends at 7");
    // Restored in its place after a later start.
    let next = again(&fixture);
    start(&next, false).await.unwrap();
    next.store.die();
    old.identity.set_epoch(Epoch(1));
    is_fenced(start(&old, false).await, "a copy of it took the store");
}

#[tokio::test]
async fn without_the_store_only_the_same_directory_starts() {
    let (mut fixture, _) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    let copied = copy(&fixture);
    let mut next = again(&fixture);
    for server in [&copied, &next] {
        server.store.cut();
    }
    let refused = start(&copied, false).await;
    assert!(
        matches!(&refused, Err(NotOurs::Unavailable(why)) if why.contains("may be a copy")),
        "{refused:?}"
    );
    assert!(matches!(start(&next, true).await, Err(NotOurs::Unavailable(_))));

    let owner = owner_of(&next, false);
    owner.take_at_start().await.unwrap();
    assert_eq!(epoch(&next), 0);
    next.link.fence().check().unwrap();
    next.create("c", 1);
    owner.beat(&next.flusher).await;
    assert_eq!(epoch(&next), 0);
    next.store.mend();
    owner.beat(&next.flusher).await;
    assert_eq!(epoch(&next), 2);
    next.flush().await.unwrap();

    // Somebody else had it meanwhile.
    let late = again(&next);
    late.store.cut();
    let owner = owner_of(&late, false);
    owner.take_at_start().await.unwrap();
    let mut copied = copy(&next);
    start(&copied, true).await.unwrap();
    copied.create("e", 1);
    copied.flush().await.unwrap();
    late.store.mend();
    owner.beat(&late.flusher).await;
    assert!(late.link.fence().is_fenced_for_good());
}

#[tokio::test]
async fn a_store_that_went_back_before_our_start_is_taken_again() {
    let (mut fixture, _) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    let before = fixture.store.snapshot();
    let mut next = again(&fixture);
    let owner = owner_of(&next, false);
    owner.take_at_start().await.unwrap();
    next.create("c", 1);
    next.flush().await.unwrap();
    next.store.restore(&before);
    next.create("d", 1);
    next.flush().await.unwrap_err();
    assert!(next.link.fence().fenced().is_none(), "an older epoch is no rival");
    owner.beat(&next.flusher).await;
    assert_eq!(epoch(&next), 3);
    next.flush().await.unwrap();
    let mark = next.store.ownership().await.unwrap().watermarks[0];
    assert_eq!((mark.lsn, mark.epoch), (Lsn(9), Epoch(3)));
}

/// A disk that does not do what it is asked to, once, closes nobody for good.
#[tokio::test]
async fn a_store_that_went_back_is_taken_again_when_the_disk_answers_again() {
    let (mut fixture, owner) = started().await;
    let before = fixture.store.snapshot();
    fixture.some_events();
    owner.let_go().await;
    let next = again(&fixture);
    let owner = owner_of(&next, false);
    owner.take_at_start().await.unwrap();
    next.flush().await.unwrap();
    next.store.restore(&before);
    next.identity.fail(true);
    owner.beat(&next.flusher).await;
    assert!(next.link.fence().fenced().is_none());
    next.flush().await.unwrap_err();
    next.identity.fail(false);
    owner.beat(&next.flusher).await;
    next.flush().await.unwrap();
    assert_eq!(Epoch(epoch(&next)), next.identity.epoch());
}

#[tokio::test]
async fn another_server_on_a_restored_store_fences_at_the_heartbeat() {
    let (fixture, _) = started().await;
    let before = fixture.store.snapshot();
    let mut next = again(&fixture);
    let owner = owner_of(&next, false);
    owner.take_at_start().await.unwrap();
    next.create("c", 1);
    next.store.restore(&before);
    // It takes the epoch that is already ours.
    let rival = other(&next);
    start(&rival, true).await.unwrap();
    assert_eq!(epoch(&rival), epoch(&next));
    owner.beat(&next.flusher).await;
    assert!(next.link.fence().is_fenced_for_good());
}

/// A row that somebody wrote into is no take-over, whether a flush, a load or the heartbeat meets it first.
#[tokio::test]
async fn an_epoch_that_nobody_took_is_told_as_what_it_is() {
    let in_watermark = |store: &MemoryStore| {
        let mark = store.watermark(SHARD);
        store.set_watermark(Watermark { epoch: Epoch(99), ..mark });
    };
    let in_server: fn(&MemoryStore) = |store| store.set_epoch(Epoch(99));
    let exhausted: fn(&MemoryStore) = |store| store.set_epoch(Epoch::LAST);
    let told = [
        (
            in_watermark as fn(&MemoryStore),
            "flushed in epoch 99, which no server took, since its newest is 1",
        ),
        (in_server, "its epoch is 99, in the take of this very server, which took epoch 1"),
        (exhausted, "in the take of this very server"),
    ];
    for (edit, word) in told {
        let (mut fixture, owner) = started().await;
        fixture.some_events();
        fixture.flush().await.unwrap();
        edit(&fixture.store);
        owner.beat(&fixture.flusher).await;
        let why = fixture.link.fence().fenced().expect("it is fenced");
        assert!(why.contains(word) && why.contains("by hand"), "{why}");
        assert!(fixture.link.fence().is_fenced_for_good());
    }
    let (mut fixture, _) = started().await;
    fixture.some_events();
    in_server(&fixture.store);
    fixture.flush().await.unwrap_err();
    let why = fixture.link.fence().fenced().expect("it is fenced");
    assert!(why.contains("in the take of this very server"), "{why}");
    exhausted(&fixture.store);
    is_fenced(start(&again(&fixture), false).await, "there is none above it");
}

#[tokio::test]
async fn a_lease_that_ends_fences_until_it_is_renewed() {
    let fence = Fence::new(true);
    fence.check().unwrap_err();
    fence.renewed(Instant::now(), Duration::from_secs(60));
    fence.check().unwrap();
    fence.renewed(Instant::now(), Duration::ZERO);
    let why = fence.fenced().unwrap();
    assert!(why.contains("lease"), "{why}");
    assert!(!fence.is_fenced_for_good());
    fence.renewed(Instant::now(), Duration::from_secs(60));
    fence.check().unwrap();
    fence.took(Epoch(3));
    fence.found_newest(Epoch(2), None);
    fence.check().unwrap();
    fence.asking(Epoch(4), TakeId(4));
    fence.found_newest(Epoch(4), None);
    fence.check().unwrap();
    fence.not_given();
    fence.found_newest(Epoch(4), None);
    fence.renewed(Instant::now(), Duration::from_secs(60));
    fence.check().unwrap_err();
    assert!(fence.is_fenced_for_good());
}

#[tokio::test]
async fn a_directory_made_from_the_store_owns_it() {
    let (mut fixture, _) = started().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    fixture.create("lost", 1);
    let store = fixture.store.session();
    let now = Timestamp(1_600_000_000_000);
    let seized = seize(&store, crate::base::ids::ServerId(99), 0, true).await.unwrap();
    fixture.flush().await.unwrap_err();
    let mut restored = restore(&store, seized.epoch, &seized.owned, now).await.unwrap();
    let shard = restored.shards.pop().unwrap();
    assert_eq!((shard.mark.lsn, shard.end.departed, shard.skus, shard.open_orders), (Lsn(7), Lsn(7), 2, 2));
    let mut state = State::restoring(SHARD, 1, shard.mark.lsn, shard.end);
    state.restore(shard.images).unwrap();
    assert!(state.audit().violations.is_empty());

    let identity = MemoryIdentity::new(11);
    assert_eq!(hand_over(&store, &seized, &identity).await, Ok(Epoch(3)));
    let disk = MemoryJournal::behind(&[(SHARD, shard.mark.lsn, shard.mark.hash)]);
    assert_eq!(disk.bounds(SHARD).last, Lsn(7));
    let mut made = Fixture::on(disk, fixture.store.session(), identity, state);
    start(&made, false).await.unwrap();
    assert_eq!(epoch(&made), 4);
    made.confirm("o-2");
    made.flush().await.unwrap();
    is_fenced(start(&again(&fixture), false).await, "took the store after it");
}

#[tokio::test]
async fn what_was_taken_while_nobody_waited_is_taken_again() {
    let (mut fixture, owner) = started().await;
    fixture.some_events();
    // The answer to a take of epoch 2 was lost, once before and once after it was recorded.
    for (taken, recorded) in [(2, 1), (4, 4)] {
        let after = fixture.store.ownership().await.unwrap().epoch;
        let id = fixture.identity.intend(None).unwrap();
        fixture.link.fence().asking(Epoch(taken), id);
        let take = Take {
            id,
            server: fixture.identity.server(),
            shards: 1,
            after,
            epoch: Epoch(taken),
            lease_seconds: 0,
            over: false,
            judged: None,
        };
        fixture.store.take(&take).await.unwrap();
        fixture.identity.set_epoch(Epoch(recorded));
        fixture.flush().await.unwrap_err();
        owner.beat(&fixture.flusher).await;
        assert_eq!(epoch(&fixture), taken + 1);
        fixture.link.fence().check().unwrap();
    }
    fixture.flush().await.unwrap();
}

#[tokio::test]
async fn a_store_whose_own_row_cannot_be_read_is_refused_at_the_start() {
    let (fixture, _) = started().await;
    let next = again(&fixture);
    next.store.spoil_server(true);
    is_fenced(start(&next, false).await, "can't be read: column 4 is -1");
    // A server that runs waits: the store may be in the middle of being restored.
    next.store.spoil_server(false);
    let owner = owner_of(&next, false);
    owner.take_at_start().await.unwrap();
    next.store.spoil_server(true);
    owner.beat(&next.flusher).await;
    next.link.fence().check().unwrap();
}
