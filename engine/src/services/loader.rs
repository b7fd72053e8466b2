//! Reads from the store what commands wait for: SKUs that are not in memory, orders and stock requests that left it.
//!
//! Shards say what they want ([`Loader::want`]) and go on; one task takes what is wanted by all of them, asks the
//! store for up to [`MAX_LOADED_AT_ONCE`] of each kind in a call, a few calls at the same time, and puts what was
//! found into the mailboxes of the shards. It never waits to fill a call. A shard wants a thing once, however many
//! commands wait for it, and whoever waits holds a permit of its gate: so what is wanted is bounded.
//!
//! Every want is answered, also when the store fails or a call panics: then with the refusal for those that wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::base::backoff::Backoff;
use crate::base::failpoints::Failpoints;
use crate::base::ids::{Epoch, ShardId};
use crate::base::limits::{MAX_LOAD_TRIES, MAX_LOADED_AT_ONCE, MAX_LOADS_IN_FLIGHT};
use crate::base::sync::unpoisoned;
use crate::contract::outcome::Refusal;
use crate::contract::store::{Loaded, Wanted};
use crate::machine::state::Need;
use crate::services::shared::{Envelope, LoadAnswer, ShardShared};
use crate::services::store_link::{StoreLink, add, refusal_of};

/// See the top of the file.
pub(crate) struct Loader {
    link: Arc<StoreLink>,
    shards: Vec<Arc<ShardShared>>,
    failpoints: Failpoints,
    queue: Mutex<VecDeque<(ShardId, Need)>>,
    wanted: Notify,
}

/// What one call looks for. Answers with a refusal when it is dropped before it was answered.
struct Batch {
    loader: Arc<Loader>,
    needs: Vec<(ShardId, Need)>,
}

impl Loader {
    pub fn new(link: Arc<StoreLink>, shards: Vec<Arc<ShardShared>>, failpoints: Failpoints) -> Self {
        let (queue, wanted) = (Mutex::default(), Notify::new());
        Self { link, shards, failpoints, queue, wanted }
    }

    /// A shard wants these, each of which it waits for only once.
    pub fn want(&self, shard: ShardId, needs: impl IntoIterator<Item = Need>) {
        let mut queue = unpoisoned(self.queue.lock());
        let before = queue.len();
        queue.extend(needs.into_iter().map(|need| (shard, need)));
        if queue.len() > before {
            self.wanted.notify_one();
        }
    }

    /// Things that are wanted and that no call looks for yet.
    pub fn waiting(&self) -> u64 {
        unpoisoned(self.queue.lock()).len() as u64
    }

    /// What a caller is told that waited too long.
    pub fn late(&self) -> Refusal {
        self.link.late()
    }

    /// The loop; ends with the engine.
    pub async fn run(self: Arc<Self>) {
        let mut running = JoinSet::new();
        loop {
            while running.len() < MAX_LOADS_IN_FLIGHT
                && let Some(batch) = self.take()
            {
                running.spawn(batch.load());
            }
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a load failed");
                    }
                }
                () = self.wanted.notified() => {}
            }
        }
    }

    fn take(self: &Arc<Self>) -> Option<Batch> {
        let mut queue = unpoisoned(self.queue.lock());
        let mut counts = [0_usize; 3];
        let mut needs = Vec::new();
        while let Some((_, need)) = queue.front() {
            let count = &mut counts[kind_of(need)];
            if *count == MAX_LOADED_AT_ONCE {
                break;
            }
            *count += 1;
            needs.extend(queue.pop_front());
        }
        (!needs.is_empty()).then(|| Batch { loader: Arc::clone(self), needs })
    }
}

fn kind_of(need: &Need) -> usize {
    match need {
        Need::Sku(_) => 0,
        Need::Order(_) => 1,
        Need::Request(..) => 2,
    }
}

impl Batch {
    async fn load(mut self) {
        let found = self.found().await;
        self.answer(found);
    }

    /// Asks the store; once more when it fails, unless it was known to be away.
    async fn found(&self) -> Result<Arc<Loaded>, Refusal> {
        let Loader { link, failpoints, .. } = self.loader.as_ref();
        let wanted = self.wanted();
        let mut backoff = Backoff::default();
        let mut tries = 0;
        loop {
            failpoints.reach("load.before");
            if link.fence().epoch() == Epoch::ZERO {
                // Not taken yet, after a start without it: somebody else may be writing to it, so nothing that it
                // says may be decided on.
                return Err(Refusal::StoreUnavailable);
            }
            let (was_down, began) = (link.is_down(), Instant::now());
            match link.noted(link.store().load(&wanted).await) {
                Ok(loaded) => {
                    let counters = &link.counters;
                    add(&counters.loads, 1);
                    add(&counters.load_micros, micros(began.elapsed()));
                    // Another server took the store, or somebody wrote into the row: the store says which.
                    if loaded.watermarks.iter().any(|mark| link.fence().is_beyond(mark.epoch)) {
                        let store = link.noted_whole(link.store().ownership().await).map_err(refusal_of)?;
                        link.fence().found(&store);
                    }
                    let missing = wanted.orders.len() + wanted.requests.len();
                    let found = loaded.orders.len() + loaded.requests.len();
                    add(&counters.not_found, missing.saturating_sub(found) as u64);
                    return Ok(Arc::new(loaded));
                }
                Err(error) => {
                    tries += 1;
                    if was_down || tries == MAX_LOAD_TRIES {
                        return Err(refusal_of(error));
                    }
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Each thing once, whoever wants it.
    fn wanted(&self) -> Wanted {
        let (mut skus, mut orders, mut requests) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (_, need) in &self.needs {
            let _is_new = match need {
                Need::Sku(sku_id) => skus.insert(sku_id.clone()),
                Need::Order(order_no) => orders.insert(order_no.clone()),
                Need::Request(sku_id, request_id) => requests.insert((sku_id.clone(), request_id.clone())),
            };
        }
        Wanted {
            skus: skus.into_iter().collect(),
            orders: orders.into_iter().collect(),
            requests: requests.into_iter().collect(),
        }
    }

    fn answer(&mut self, found: Result<Arc<Loaded>, Refusal>) {
        let mut by_shard: BTreeMap<ShardId, Vec<Need>> = BTreeMap::new();
        for (shard, need) in self.needs.drain(..) {
            by_shard.entry(shard).or_default().push(need);
        }
        for (shard, mut needs) in by_shard {
            // SKUs first: what lies on them comes after them.
            needs.sort_by_key(kind_of);
            let shared = &self.loader.shards[shard.index()];
            shared.mailbox.push([Envelope::Loaded(LoadAnswer { needs, found: found.clone() })]);
            shared.wake();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.needs.is_empty() {
            self.answer(Err(Refusal::StoreUnavailable));
        }
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
