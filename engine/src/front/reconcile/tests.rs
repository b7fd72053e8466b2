//! Reconcile beside a shard that goes on, is flushed, evicts and loads between every two things that reconcile reads.

use std::sync::{Arc, Mutex};

use super::*;
use crate::base::clock::Timestamp;
use crate::base::ids::{Epoch, Lsn, OrderNo, ServerId, ShardId, SkuId, TakeId, WarehouseId};
use crate::contract::command::{
    Action, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve, SetStatus, StockStatus,
};
use crate::contract::event::{Change, Event};
use crate::contract::image::StockImage;
use crate::contract::journal::{Group, Journal, JournalReader};
use crate::contract::outcome::{Refusal, StockView};
use crate::contract::store::{FlushBatch, FlushPart, Store, StoredSku, Take, Wanted};
use crate::machine::state::{Decision, State};
use crate::services::fence::Fence;
use crate::services::store_link::StoreLink;
use crate::testing::{MemoryJournal, MemoryStore};

const SHARD: ShardId = ShardId(0);
const EPOCH: Epoch = Epoch(1);
const SKUS: [&str; 4] = ["a", "b", "c", "d"];

struct Fixture {
    shard: Mutex<Shard>,
    reader: Arc<dyn JournalReader>,
    store: MemoryStore,
    link: StoreLink,
    reconciler: Reconciler,
}

struct Shard {
    state: State,
    journal: Box<dyn Journal>,
    flushed: Lsn,
    random: fastrand::Rng,
    orders: u32,
    now: Timestamp,
}

impl Shard {
    fn log(&mut self, event: Event) {
        let lsn = self.state.applied().next();
        self.state.apply(lsn, &event).unwrap();
        self.journal.commit(&[Group { shard: SHARD, first: lsn, events: vec![event] }]).unwrap();
    }

    fn change(&mut self, change: Change) {
        let event = self.state.event(change, self.now);
        self.log(event);
    }

    fn run(&mut self, action: Action) {
        if let Decision::Log(event) = self.state.decide(&action.into(), self.now) {
            self.log(event);
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus_millis(1);
        let sku_id = SkuId::new(SKUS[self.random.usize(..SKUS.len())]).unwrap();
        let known = OrderNo::new(&self.random.u32(..=self.orders).to_string()).unwrap();
        match self.random.u8(..20) {
            0 => {
                let status = if self.random.bool() { StockStatus::Suspended } else { StockStatus::OnSale };
                self.run(Action::SetStatus(SetStatus { sku_id, warehouse_id: None, status }));
            }
            1 => {
                let pinned = self.state.decide_pinned(&[sku_id], self.random.bool());
                pinned.ok().flatten().into_iter().for_each(|change| self.change(change));
            }
            2 => {
                let evicted = self.state.next_eviction(self.flushed, |_| true, |_| false, self.now);
                evicted.into_iter().for_each(|event| self.log(event));
            }
            3..10 if self.state.knows_order(&known) => {
                self.run(Action::Confirm(Confirm { order_no: known, part: None }));
            }
            10..12 if self.state.knows_order(&known) => {
                self.run(Action::Release(Release { order_no: known, part: None, reason: None }));
            }
            _ => {
                self.orders += 1;
                let line = |warehouse| Line {
                    sku_id: sku_id.clone(),
                    warehouse_id: WarehouseId(warehouse),
                    quantity: 2,
                };
                self.run(Action::Reserve(Reserve {
                    order_no: OrderNo::new(&self.orders.to_string()).unwrap(),
                    lines: Lines::new([line(1), line(2)]).unwrap(),
                    ttl_seconds: 600,
                    buyer_id: None,
                    mode: Mode::BestEffort,
                    choice: None,
                }));
            }
        }
    }
}

impl Fixture {
    async fn new(seed: u64) -> Self {
        let (store, journal) = (MemoryStore::default(), MemoryJournal::default().open());
        let take = Take {
            id: TakeId(1),
            server: ServerId(1),
            shards: 1,
            after: Epoch::ZERO,
            epoch: EPOCH,
            lease_seconds: 0,
            over: false,
            judged: None,
        };
        store.take(&take).await.unwrap();
        let link = StoreLink::new(Arc::new(store.clone()), Arc::new(Fence::new(false)));
        let reader = journal.reader();
        let mut shard = Shard {
            state: State::with_few(SHARD, 1),
            journal: Box::new(journal),
            flushed: Lsn::ZERO,
            random: fastrand::Rng::with_seed(seed),
            orders: 0,
            now: Timestamp(1_000),
        };
        for sku_id in SKUS.map(|name| SkuId::new(name).unwrap()) {
            for warehouse_id in [WarehouseId(1), WarehouseId(2)] {
                let (sku_id, serialized) = (sku_id.clone(), sku_id.as_str() == "a");
                shard.run(Action::CreateStock(CreateStock {
                    sku_id,
                    warehouse_id,
                    quantity: 1_000,
                    serialized,
                }));
            }
        }
        Self { shard: Mutex::new(shard), reader, store, link, reconciler: Reconciler::default() }
    }

    /// Something happens, and a part of it is flushed.
    async fn go_on(&self) {
        let (steps, sku_id) = {
            let mut shard = self.shard.lock().unwrap();
            (shard.random.u8(..30), SkuId::new(SKUS[shard.random.usize(..SKUS.len())]).unwrap())
        };
        self.load(&sku_id).await;
        (0..steps).for_each(|_| self.shard.lock().unwrap().step());
        let (flushed, to) = {
            let mut shard = self.shard.lock().unwrap();
            let (flushed, applied) = (shard.flushed, shard.state.applied());
            (flushed, Lsn(shard.random.u64(flushed.0..=applied.0)))
        };
        self.flush(flushed, to).await;
    }

    async fn load(&self, sku_id: &SkuId) {
        if self.shard.lock().unwrap().state.is_resident(sku_id) {
            return;
        }
        let wanted = Wanted { skus: vec![sku_id.clone()], ..Wanted::default() };
        if let Some(StoredSku::Sound(stocks)) = self.store.load(&wanted).await.unwrap().skus.remove(sku_id) {
            let mut shard = self.shard.lock().unwrap();
            let change = shard.state.decide_loaded(sku_id, &stocks).unwrap().unwrap();
            shard.change(change);
        }
    }

    async fn flush(&self, after: Lsn, to: Lsn) {
        if after == to {
            return;
        }
        let mut events = self.reader.read(SHARD, after.next(), 1_000_000).unwrap();
        events.truncate(usize::try_from(to.0 - after.0).unwrap());
        let hash = self.reader.chain(SHARD, to).unwrap();
        let part = FlushPart { shard: SHARD, after, hash, events: &events };
        let batch = FlushBatch { epoch: EPOCH, parts: vec![part] };
        assert_eq!(self.store.flush(batch).await.unwrap().flushed(SHARD), to);
        self.shard.lock().unwrap().flushed = to;
    }

    async fn look(&self, fix: bool) -> Reconciled {
        let ask = Reconcile { limit: 3, fix, ..Reconcile::default() };
        let mut all = self.reconciler.run(self, &self.link, &ask).await.unwrap();
        while let Some(next) = all.next.take() {
            let ask = Reconcile { after: next.after, ..ask.clone() };
            let page = self.reconciler.run(self, &self.link, &ask).await.unwrap();
            all.skus += page.skus;
            all.differences.extend(page.differences);
            all.repaired.extend(page.repaired);
            all.next = page.next;
        }
        assert_eq!((all.skus, &all.unsettled[..]), (4, &[][..]));
        all
    }
}

/// Runs what waits for nothing but its turn, as with a store in memory.
fn at_once(task: impl Future<Output = ()>) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut task = std::pin::pin!(task);
    while task.as_mut().poll(&mut context).is_pending() {}
}

#[async_trait::async_trait]
impl Live for Fixture {
    fn shards(&self) -> u16 {
        1
    }

    fn journal(&self) -> Arc<dyn JournalReader> {
        Arc::clone(&self.reader)
    }

    fn epoch(&self) -> Epoch {
        EPOCH
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn residents(&self, after: Option<&SkuId>, limit: usize) -> Vec<SkuId> {
        // What was flushed a moment ago may have left memory by now.
        at_once(self.go_on());
        let shard = self.shard.lock().unwrap();
        let skus = SKUS.map(|name| SkuId::new(name).unwrap()).into_iter();
        let after = skus.filter(|sku_id| after.is_none_or(|after| sku_id > after));
        after.filter(|sku_id| shard.state.is_resident(sku_id)).take(limit).collect()
    }

    async fn images(&self, _: ShardId, skus: Vec<SkuId>) -> Result<(Lsn, Vec<StockImage>), Refusal> {
        self.go_on().await;
        let images = {
            let shard = self.shard.lock().unwrap();
            let images = skus.iter().flat_map(|sku_id| shard.state.images_of_sku(sku_id)).collect();
            (shard.state.applied(), images)
        };
        // What is written by a repair is what was read before this.
        if self.shard.lock().unwrap().random.bool() {
            self.go_on().await;
        }
        Ok(images)
    }

    async fn stock(&self, _: &SkuId) -> Result<Vec<StockView>, Refusal> {
        unreachable!("there is no mirror")
    }

    fn repaired(&self, _: &SkuId) {}
}

#[tokio::test]
async fn what_changes_meanwhile_is_no_difference() {
    for seed in 0..30 {
        let fixture = Fixture::new(seed).await;
        for _ in 0..15 {
            let found = fixture.look(true).await;
            assert_eq!((&found.differences[..], &found.repaired[..]), (&[][..], &[][..]), "seed {seed}");
        }
        assert_eq!(fixture.store.parked(1).await.unwrap().0, 0);
    }
}

/// Rows are broken while all goes on, and put right while it does.
#[tokio::test]
async fn rows_are_put_right_meanwhile() {
    let edits: [fn(&mut StockImage); 8] = [
        |row| row.levels.available += 5,
        |row| row.levels.reserved += 5,
        |row| row.levels.sold += 5,
        |row| row.levels.version += 5,
        |row| row.supplied += 5,
        |row| row.initial += 5,
        |row| row.numbered = Some(900),
        |_| {},
    ];
    let mut repaired = 0;
    for seed in 0..10 {
        let fixture = Fixture::new(seed).await;
        let applied = fixture.shard.lock().unwrap().state.applied();
        fixture.flush(Lsn::ZERO, applied).await;
        for edit in edits {
            let (sku_id, warehouse_id) = (SkuId::new("c").unwrap(), WarehouseId(1));
            fixture.store.edit_stock(&sku_id, warehouse_id, edit);
            fixture.go_on().await;
            fixture.look(false).await;
            // It may give way to the flush a few times.
            let mut tries = 0;
            loop {
                let found = fixture.look(true).await;
                assert!(
                    found.differences.iter().all(|difference| difference.sku_id == sku_id),
                    "seed {seed}: {found:?}"
                );
                repaired += found.repaired.len();
                tries += 1;
                if found.differences.is_empty() {
                    break;
                }
                assert!(tries < 20, "seed {seed}: {found:?}");
            }
        }
        assert_eq!(fixture.store.parked(1).await.unwrap().0, 0, "seed {seed}");
    }
    assert!(repaired >= 70, "{repaired}");
}
