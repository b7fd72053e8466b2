//! The flusher on a store and a journal in memory, driven by hand.

use super::*;
use crate::base::ids::{Epoch, OrderNo, RequestId, WarehouseId};
use crate::contract::command::{
    Action, ChangeKind, ChangeStock, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve,
};
use crate::contract::journal::{Group, Journal};
use crate::contract::outcome::Outcome;
use crate::contract::store::{Store, Take};
use crate::machine::state::{Decision, State};
use crate::services::fence::Fence;
use crate::services::known::Known;
use crate::services::retention::Retention;
use crate::testing::{ManualClock, MemoryFilters, MemoryIdentity, MemoryJournal, MemoryStore};

/// The marks of each trim that was asked for.
type Trims = Arc<Mutex<Vec<Vec<(ShardId, Lsn)>>>>;

/// One shard without its actor, and what faces the store.
pub(crate) struct Fixture {
    pub clock: ManualClock,
    pub disk: MemoryJournal,
    pub journal: Box<dyn Journal>,
    pub store: MemoryStore,
    pub identity: MemoryIdentity,
    pub link: Arc<StoreLink>,
    pub shard: Arc<ShardShared>,
    pub flusher: Arc<Flusher>,
    pub state: State,
    pub trims: Trims,
    /// So many events are durable as soon as a flush has begun; 0: as many as before.
    late: Arc<AtomicU64>,
}

pub(crate) const SHARD: ShardId = ShardId(0);

impl Fixture {
    /// On a disk and a store that may have been used, with a state that stands at the end of the disk.
    pub fn on(disk: MemoryJournal, store: MemoryStore, identity: MemoryIdentity, state: State) -> Self {
        Self::with(disk, store, identity, state, |_| ())
    }

    fn with(
        disk: MemoryJournal,
        store: MemoryStore,
        identity: MemoryIdentity,
        state: State,
        set: impl FnOnce(&mut FlushOptions),
    ) -> Self {
        let clock = ManualClock::default();
        let link = Arc::new(StoreLink::new(Arc::new(store.clone()), Arc::new(Fence::new(false))));
        let shard = Arc::new(ShardShared::new(SHARD, 10));
        shard.durable.publish(disk.bounds(SHARD).last.0);
        let mut options = FlushOptions {
            interval: Duration::from_millis(1),
            events: 3,
            journal_cap_bytes: u64::MAX,
            keep_flushed: Duration::from_secs(3_600),
        };
        set(&mut options);
        let trims: Arc<Mutex<Vec<_>>> = Arc::default();
        let trimmed = Arc::clone(&trims);
        let late = Arc::new(AtomicU64::new(0));
        let (shard_again, come) = (Arc::clone(&shard), Arc::clone(&late));
        let step = move |step| {
            if step == "flush.before" && come.load(Ordering::Relaxed) > 0 {
                shard_again.durable.publish(come.load(Ordering::Relaxed));
            }
        };
        let flusher = Arc::new(Flusher::new(
            Arc::clone(&link),
            vec![Arc::clone(&shard)],
            Arc::new(disk.clone()),
            Arc::new(clock.clone()),
            options,
            Box::new(move |marks| trimmed.lock().unwrap().push(marks)),
            Box::new(step),
        ));
        let journal = Box::new(disk.open());
        Self { clock, disk, journal, store, identity, link, shard, flusher, state, trims, late }
    }

    /// A new one, whose store is taken with epoch 1.
    pub async fn new() -> Self {
        Self::with_options(|_| ()).await
    }

    async fn with_options(set: impl FnOnce(&mut FlushOptions)) -> Self {
        let (disk, store) = (MemoryJournal::default(), MemoryStore::default());
        let fixture = Self::with(disk, store, MemoryIdentity::new(1), State::new(SHARD, 1), set);
        let server = crate::contract::checkpoint::Identity::server(&fixture.identity);
        let (after, epoch) = (Epoch::ZERO, Epoch(1));
        let id = crate::contract::checkpoint::Identity::intend(&fixture.identity, None).unwrap();
        let take = Take { id, server, shards: 1, after, epoch, lease_seconds: 0, over: false, judged: None };
        fixture.store.take(&take).await.unwrap();
        crate::contract::checkpoint::Identity::record(&fixture.identity, epoch).unwrap();
        fixture.link.fence().took(epoch);
        fixture
    }

    /// Decides, logs, makes durable.
    pub fn run(&mut self, action: Action) -> Outcome {
        match self.state.decide(&action.into(), self.clock.now()) {
            Decision::Log(event) => {
                let lsn = self.state.applied().next();
                self.state.apply(lsn, &event).unwrap();
                let answer = self.state.answer(&event);
                self.journal.commit(&[Group { shard: SHARD, first: lsn, events: vec![event] }]).unwrap();
                self.shard.durable.publish(lsn.0);
                Ok(answer)
            }
            Decision::Answer(outcome) => outcome,
            Decision::HoldFirst(_) => panic!("nothing is over several shards here"),
        }
    }

    pub fn create(&mut self, name: &str, quantity: u64) {
        let create =
            CreateStock { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity, serialized: false };
        self.run(Action::CreateStock(create)).unwrap();
    }

    pub fn reserve(&mut self, number: &str, name: &str, quantity: u32) {
        let line = Line { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity };
        let reserve = Reserve {
            order_no: OrderNo::new(number).unwrap(),
            lines: Lines::new([line]).unwrap(),
            ttl_seconds: 60,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: None,
        };
        self.run(Action::Reserve(reserve)).unwrap();
    }

    pub fn confirm(&mut self, number: &str) {
        let order_no = OrderNo::new(number).unwrap();
        self.run(Action::Confirm(Confirm { order_no, part: None })).unwrap();
    }

    fn release(&mut self, number: &str) {
        let order_no = OrderNo::new(number).unwrap();
        self.run(Action::Release(Release { order_no, part: None, reason: None })).unwrap();
    }

    fn restock(&mut self, name: &str, id: &str) {
        let change = ChangeStock {
            sku_id: sku(name),
            warehouse_id: WarehouseId(1),
            kind: ChangeKind::Restock,
            quantity: 5,
            request_id: RequestId::new(id).unwrap(),
            reason: None,
        };
        self.run(Action::ChangeStock(change)).unwrap();
    }

    /// Some events of every use: 7.
    pub fn some_events(&mut self) {
        self.create("a", 10);
        self.create("b", 10);
        self.reserve("o-1", "a", 2);
        self.reserve("o-2", "b", 3);
        self.confirm("o-1");
        self.restock("a", "r-1");
        self.reserve("o-3", "a", 1);
    }

    /// Flushes all that is durable, as a flusher that was started just now.
    pub async fn flush(&self) -> Result<(), ()> {
        Task::new(&self.flusher).flush_all().await
    }

    fn task(&self) -> Task<'_> {
        Task::new(&self.flusher)
    }

    fn count(&self, count: impl Fn(&crate::contract::counters::StoreCounters) -> &AtomicU64) -> u64 {
        count(&self.link.counters).load(Ordering::Relaxed)
    }

    async fn mark(&self) -> u64 {
        self.store.ownership().await.unwrap().watermarks.first().map_or(0, |mark| mark.lsn.0)
    }

    fn fenced(&self) -> String {
        self.link.fence().fenced().unwrap_or_default()
    }
}

pub(crate) fn sku(name: &str) -> SkuId {
    crate::base::ids::SkuId::new(name).unwrap()
}

#[tokio::test]
async fn what_is_durable_is_flushed_and_told() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    assert_eq!(fixture.mark().await, 7);
    assert_eq!(fixture.shard.flushed_lsn(), Lsn(7));
    assert_eq!(
        (fixture.count(|c| &c.flushes), fixture.count(|c| &c.flushed_events)),
        (3, 7),
        "three at a time"
    );
    let stats = fixture.flusher.stats();
    assert_eq!((stats[0].flushed, stats[0].lag_events, stats[0].last_error.clone()), (Lsn(7), 0, None));
    let stock = fixture.store.stock(&sku("a"), None).await.unwrap().rows;
    assert_eq!((stock[0].levels.available, stock[0].levels.reserved, stock[0].levels.sold), (12, 1, 2));
}

/// Events that never stop coming would otherwise be flushed by a transaction for each few of them, one after the other.
#[tokio::test]
async fn what_comes_during_a_flush_waits_for_the_next() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    fixture.shard.durable.publish(3);
    fixture.late.store(7, Ordering::Relaxed);
    fixture.flush().await.unwrap();
    assert_eq!((fixture.mark().await, fixture.shard.durable_lsn()), (3, Lsn(7)));
    fixture.flush().await.unwrap();
    assert_eq!((fixture.mark().await, fixture.count(|c| &c.flushes)), (7, 3));
}

#[tokio::test]
async fn nothing_is_flushed_before_the_store_is_taken_nor_when_fenced() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    let (disk, store) = (fixture.disk.clone(), fixture.store.clone());
    let untaken = Fixture::on(disk, store, MemoryIdentity::new(1), fixture.state.clone());
    untaken.flush().await.unwrap_err();
    fixture.link.fence().fence("somebody else");
    fixture.flush().await.unwrap_err();
    assert_eq!(fixture.mark().await, 0);
    assert_eq!(fixture.flusher.stats()[0].last_error.as_deref(), Some("somebody else"));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_has_no_second_effect() {
    let mut plain = Fixture::new().await;
    plain.some_events();
    plain.flush().await.unwrap();
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    let mut task = fixture.task();
    for fault in [MemoryStore::lose_answers, MemoryStore::lose_writes, MemoryStore::be_busy] {
        fault(&fixture.store, 1);
        task.flush_all().await.unwrap_err();
    }
    fixture.store.cut();
    task.flush_all().await.unwrap_err();
    assert!(fixture.link.is_down());
    fixture.store.mend();
    task.flush_all().await.unwrap();
    assert!(!fixture.link.is_down());
    assert_eq!(fixture.count(|c| &c.anomalies), 0);
    assert_eq!(fixture.store.dump(), plain.store.dump());
}

#[tokio::test]
async fn a_store_that_went_back_gets_again_what_it_lost() {
    let mut fixture = Fixture::new().await;
    let flusher = Arc::clone(&fixture.flusher);
    let mut task = Task::new(&flusher);
    fixture.create("a", 10);
    task.flush_all().await.unwrap();
    let before = fixture.store.snapshot();
    fixture.create("b", 10);
    fixture.reserve("o-1", "a", 2);
    task.flush_all().await.unwrap();
    let whole = fixture.store.dump();

    // Nothing new is logged: the heartbeat finds it.
    fixture.store.restore(&before);
    let watermarks = fixture.store.ownership().await.unwrap().watermarks;
    fixture.flusher.compare(&fixture.flusher.flushed(), &watermarks);
    task.flush_all().await.unwrap();
    assert_eq!(fixture.store.dump(), whole);

    // Something new is: the flush finds it.
    fixture.store.restore(&before);
    fixture.confirm("o-1");
    task.flush_all().await.unwrap();
    assert_eq!((fixture.mark().await, fixture.count(|c| &c.went_back)), (4, 2));
    assert_eq!((fixture.count(|c| &c.anomalies), fixture.fenced()), (0, String::new()));
}

#[tokio::test]
async fn a_store_that_went_back_too_far_fences() {
    let mut fixture = Fixture::new().await;
    let before = fixture.store.snapshot();
    fixture.some_events();
    fixture.flush().await.unwrap();
    fixture.journal.trim(&[(SHARD, Lsn(4))]).unwrap();
    fixture.store.restore(&before);
    fixture.flush().await.unwrap_err();
    assert!(fixture.fenced().contains("went back to event 0"), "{}", fixture.fenced());
    assert!(fixture.fenced().contains("recover --from-store"));
}

#[tokio::test]
async fn events_of_somebody_else_fence() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    fixture.flush().await.unwrap();
    let mark = fixture.store.ownership().await.unwrap().watermarks[0];
    let other = |change: fn(&mut Watermark)| {
        let mut mark = mark;
        change(&mut mark);
        fixture.store.set_watermark(mark);
        Fixture::on(
            fixture.disk.clone(),
            fixture.store.clone(),
            MemoryIdentity::new(1),
            fixture.state.clone(),
        )
    };
    for (change, word) in [
        ((|mark| mark.hash.0 += 1) as fn(&mut Watermark), "another event 7"),
        (|mark| mark.lsn.0 += 1, "up to 8, its journal ends at 7"),
    ] {
        let other = other(change);
        other.link.fence().took(Epoch(1));
        other.flush().await.unwrap_err();
        assert!(other.fenced().contains(word), "{}", other.fenced());
    }
}

#[tokio::test]
async fn a_parked_sku_stays_and_hinders_nobody() {
    let mut fixture = Fixture::new().await;
    let flusher = Arc::clone(&fixture.flusher);
    let mut task = Task::new(&flusher);
    assert!(!flusher.may_leave(&sku("b")), "it is not known yet what is parked");
    fixture.create("a", 10);
    fixture.create("b", 10);
    task.flush_all().await.unwrap();
    fixture.store.spoil(&sku("a"), 3);
    fixture.reserve("o-1", "a", 2);
    fixture.reserve("o-2", "b", 2);
    task.flush_all().await.unwrap();
    assert_eq!((fixture.mark().await, fixture.flusher.parked(), fixture.count(|c| &c.anomalies)), (4, 1, 1));
    assert!(!fixture.flusher.may_leave(&sku("a")) && fixture.flusher.may_leave(&sku("b")));
    assert_eq!(fixture.store.stock_journal(&sku("a"), &[], 9).await.unwrap().rows.len(), 2);
    let again = Fixture::on(
        fixture.disk.clone(),
        fixture.store.clone(),
        MemoryIdentity::new(1),
        fixture.state.clone(),
    );
    again.link.fence().took(Epoch(1));
    again.flush().await.unwrap();
    assert!(!again.flusher.may_leave(&sku("a")), "known after a restart");
    again.flusher.unpark(&sku("a"));
    assert_eq!(again.flusher.unparked(), 1, "its shard looks whether it can leave");
    assert!(again.flusher.may_leave(&sku("a")) && again.flusher.parked() == 0);
}

#[tokio::test]
async fn the_journal_keeps_what_was_flushed_for_a_while() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    fixture.shard.counters.checkpoint.store(6, Ordering::Relaxed);
    fixture.flush().await.unwrap();
    assert_eq!(fixture.flusher.trim_marks(), [(SHARD, Lsn(1))]);
    assert!(fixture.trims.lock().unwrap().is_empty());

    let mut fixture = Fixture::with_options(|options| options.keep_flushed = Duration::ZERO).await;
    fixture.some_events();
    fixture.shard.counters.checkpoint.store(6, Ordering::Relaxed);
    fixture.flush().await.unwrap();
    assert_eq!(fixture.flusher.trim_marks(), [(SHARD, Lsn(7))], "the checkpoint keeps the rest");
    assert!(!fixture.trims.lock().unwrap().is_empty());

    let mut crowded = Fixture::with_options(|options| options.journal_cap_bytes = 600).await;
    crowded.some_events();
    crowded.shard.counters.checkpoint.store(7, Ordering::Relaxed);
    crowded.flush().await.unwrap();
    assert_eq!(crowded.flusher.trim_marks(), [(SHARD, Lsn(8))], "half of the cap is for the backlog");
}

#[tokio::test]
async fn at_its_cap_the_journal_is_full() {
    let mut fixture = Fixture::with_options(|options| options.journal_cap_bytes = 500).await;
    fixture.flusher.watch_the_cap();
    assert!(!fixture.flusher.is_journal_full());
    fixture.some_events();
    fixture.flusher.watch_the_cap();
    assert!(fixture.flusher.is_journal_full());
    fixture.journal.trim(&[(SHARD, Lsn(6))]).unwrap();
    fixture.flusher.watch_the_cap();
    assert!(!fixture.flusher.is_journal_full());
}

#[tokio::test]
async fn the_loop_ends_when_all_is_flushed() {
    let mut fixture = Fixture::new().await;
    let flusher = Arc::clone(&fixture.flusher);
    let looping = tokio::spawn(async move { flusher.run().await });
    fixture.some_events();
    while fixture.flusher.flushed() != [Lsn(7)] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.create("c", 1);
    fixture.flusher.stop();
    looping.await.unwrap();
    assert_eq!(fixture.mark().await, 8);
}

fn prune(fixture: &Fixture, retention: Retention, now: Timestamp) -> impl Future<Output = bool> + use<> {
    let (link, flusher) = (Arc::clone(&fixture.link), Arc::clone(&fixture.flusher));
    let known = Known::load(Arc::new(MemoryFilters::default()), []);
    async move { retention.prune(&link, &flusher, &known, now).await }
}

#[tokio::test]
async fn old_orders_are_pruned_while_flushes_keep_up() {
    let mut fixture = Fixture::new().await;
    fixture.some_events();
    let retention = Retention { keep_days: 1, keep_journal_days: 1 };
    let later = fixture.clock.now().plus_seconds(3 * 86_400);
    let prune = |fixture: &Fixture| prune(fixture, retention, later);
    fixture.shard.decided.publish(Lsn(7), later);
    fixture.shard.durable.publish(20);
    assert!(!prune(&fixture).await, "behind");
    fixture.shard.durable.publish(7);
    fixture.flush().await.unwrap();
    assert!(prune(&fixture).await);
    assert!(!prune(&fixture).await, "nothing is left");
    let pruned = [fixture.count(|c| &c.pruned_orders), fixture.count(|c| &c.pruned_requests)];
    assert_eq!((pruned, fixture.count(|c| &c.pruned_journal)), ([1, 1], 5), "o-2 and o-3 hold units");
    let books = fixture.store.books(None, 9).await.unwrap().rows.stocks;
    assert_eq!((books[0].pruned.sold, books[0].pruned.version), (2, 4));
}

/// It ended long ago, was paid on the last day and, before that was flushed, the clock went on by days.
#[tokio::test]
async fn an_order_is_not_pruned_before_its_last_change_is_flushed() {
    let mut fixture = Fixture::new().await;
    let retention = Retention { keep_days: 1, keep_journal_days: 0 };
    fixture.create("a", 5);
    fixture.reserve("late", "a", 2);
    fixture.release("late");
    fixture.flush().await.unwrap();
    fixture.clock.advance(Duration::from_secs(80_000));
    fixture.shard.decided.publish(Lsn(3), fixture.clock.now());
    fixture.flush().await.unwrap();

    fixture.confirm("late");
    fixture.clock.advance(Duration::from_secs(3 * 86_400));
    assert!(!prune(&fixture, retention, fixture.clock.now()).await, "it is not in the store yet");
    fixture.flush().await.unwrap();
    assert_eq!(fixture.count(|c| &c.anomalies), 0);
    assert!(!prune(&fixture, retention, fixture.clock.now()).await, "of that time it is not known");
    fixture.shard.decided.publish(Lsn(4), fixture.clock.now());
    fixture.flush().await.unwrap();
    assert!(prune(&fixture, retention, fixture.clock.now()).await, "it is old enough");
    let books = fixture.store.books(None, 9).await.unwrap().rows.stocks;
    assert_eq!((books[0].pruned.sold, fixture.count(|c| &c.pruned_orders)), (2, 1));
}
