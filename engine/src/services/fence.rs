//! The fence: whether this server may take orders, and the epoch that everything it writes to the store names. A
//! server whose epoch is not the newest, or whose journal is not the one that the store was flushed from, is fenced
//! for good: it takes no order until it is started again and judged anew ([`crate::services::ownership`]). A lease that
//! could not be renewed in time fences it until it is renewed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::base::ids::{Epoch, TakeId};
use crate::base::sync::unpoisoned;
use crate::contract::outcome::Refusal;
use crate::contract::store::Ownership;
use crate::services::ownership::untaken;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Fence {
    /// The epoch that this server took; zero until it has taken one (a start without the store).
    epoch: AtomicU64,
    /// Told when it is taken.
    taken: Notify,
    /// The highest epoch that it asked for. The store may name it before the answer is here.
    asked: AtomicU64,
    /// The take that it asked for last.
    take: Mutex<Option<TakeId>>,
    /// Something keeps it from serving: look at `why`. Most checks read nothing else.
    closed: AtomicBool,
    /// Set once.
    why: Mutex<Option<String>>,
    lease: Lease,
}

/// The lease, by the monotonic clock.
#[derive(Debug)]
struct Lease {
    /// There is one.
    is_needed: bool,
    /// What the times count from.
    start: Instant,
    /// Until when it runs, in microseconds from `start`; 0: it was never renewed.
    until: AtomicU64,
}

impl Fence {
    /// A server that has taken no epoch yet. With a lease it does not serve before [`Fence::renewed`].
    pub fn new(with_lease: bool) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            taken: Notify::new(),
            asked: AtomicU64::new(0),
            take: Mutex::default(),
            closed: AtomicBool::new(false),
            why: Mutex::default(),
            lease: Lease { is_needed: with_lease, start: Instant::now(), until: AtomicU64::new(0) },
        }
    }

    /// The epoch that writes to the store name. It changes when the store is taken later, or again; zero: not taken
    /// yet, nothing may be written to the store.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Ready when an epoch is taken after this call, also when it is awaited only later.
    pub fn epoch_taken(&self) -> Notified<'_> {
        self.taken.notified()
    }

    /// Whether orders may be taken now. Costs one load, and with a lease a look at the monotonic clock: so a process
    /// that stood still for longer than its lease answers nothing when it goes on.
    ///
    /// # Errors
    /// [`Refusal::Fenced`].
    pub fn check(&self) -> Result<(), Refusal> {
        if planted!("fence-not-checked", true, !self.closed.load(Ordering::Acquire) && self.has_lease()) {
            return Ok(());
        }
        match self.fenced() {
            Some(why) => Err(Refusal::Fenced { why }),
            None => Ok(()),
        }
    }

    /// Why no orders may be taken; `None`: they may.
    pub fn fenced(&self) -> Option<String> {
        if self.closed.load(Ordering::Acquire) {
            return unpoisoned(self.why.lock()).clone();
        }
        (!self.has_lease()).then(|| {
            "its lease of the store has ended and could not be renewed: another server may have taken the store".to_owned()
        })
    }

    /// Whether it is fenced until the next start, whatever becomes of its lease.
    pub fn is_fenced_for_good(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Fences this server for good. The first reason stays.
    pub fn fence(&self, why: impl Into<String>) {
        let mut reason = unpoisoned(self.why.lock());
        if reason.is_none() {
            let why = why.into();
            tracing::error!(why, "this server is fenced: it takes no orders any more");
            *reason = Some(why);
            self.closed.store(true, Ordering::Release);
        }
    }

    /// The store named its newest epoch when it refused ours. A newer one fences; an older one says that the store
    /// went back in time, and the heartbeat takes it again. With `take`, the one that the store says it is of, it is
    /// told from a row that somebody wrote into.
    pub fn found_newest(&self, newest: Epoch, take: Option<TakeId>) {
        if !self.is_beyond(newest) {
            return;
        }
        let ours = self.epoch();
        if take.is_some() && take == *unpoisoned(self.take.lock()) {
            return self.fence(format!(
                "the store says that its epoch is {newest}, in the take of this very server, which took epoch {ours}: the row of its \
                 table `server` was changed by hand. Set its `epoch` to {ours} and start again"
            ));
        }
        self.fence(format!(
            "another server took the store over (its epoch is {newest}, ours {ours}); what this one answered and did not flush: \
             `hotstock unflushed --data-dir …`"
        ));
    }

    /// Whether an epoch is above all that this server took or asked for: then [`Fence::found`] says what that means.
    pub fn is_beyond(&self, epoch: Epoch) -> bool {
        epoch > self.newest()
    }

    /// What the store says of itself: another server took it, or its rows were changed by hand.
    pub fn found(&self, store: &Ownership) {
        self.found_newest(store.epoch, store.take);
        if let Some(not_ours) = untaken(&store.watermarks, store.epoch, self.newest()) {
            self.fence(not_ours.to_string());
        }
    }

    fn newest(&self) -> Epoch {
        self.epoch().max(Epoch(self.asked.load(Ordering::Acquire)))
    }

    /// The store is about to be asked for this epoch, in this take.
    pub fn asking(&self, epoch: Epoch, take: TakeId) {
        *unpoisoned(self.take.lock()) = Some(take);
        self.asked.store(epoch.0, Ordering::Release);
    }

    /// The store was not given to us.
    pub fn not_given(&self) {
        self.asked.store(0, Ordering::Release);
    }

    /// This epoch is ours, in the store and in the data directory.
    pub fn took(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
        self.taken.notify_waiters();
    }

    /// The lease runs for this long from `from` on, which is before the store was asked.
    pub fn renewed(&self, from: Instant, runs: Duration) {
        let until = from.saturating_duration_since(self.lease.start) + runs;
        self.lease.until.store(u64::try_from(until.as_micros()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn has_lease(&self) -> bool {
        !self.lease.is_needed || {
            let now = self.lease.start.elapsed().as_micros();
            now < u128::from(self.lease.until.load(Ordering::Acquire))
        }
    }
}
