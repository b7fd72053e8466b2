//! How a server is started, mended and ended in a run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use hotstock_engine::checkpoint::Identity as _;
use hotstock_engine::dirty::Dirty;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::Epoch;
use hotstock_engine::journal::JournalError;
use hotstock_engine::options::{EngineOptions, Parts, StartError, StoreOptions};
use hotstock_engine::outcome::Refusal;
use hotstock_engine::status::Health;
use hotstock_persistence::checkpoint::FileCheckpoints;
use hotstock_persistence::filters::FileFilters;
use hotstock_persistence::journal::{JournalOptions, SledJournal};
use hotstock_persistence::mirror::{MirrorOptions, RedisMirror};
use tokio::time::sleep;

use super::{End, Run, SETTLED};
use crate::outside::{Life, SlowStore};
use crate::worlds::Violation;

/// Why a server did not start.
enum NoStart {
    /// The power went meanwhile.
    Power,
    /// Something on the disk is damaged, and it says so.
    Damaged(String),
    Other(String),
}

impl Run<'_> {
    pub(super) fn options(&self) -> EngineOptions {
        let setup = &self.plan.setup;
        let store = StoreOptions {
            flush_interval_ms: setup.flush_interval_ms,
            flush_events: setup.flush_events,
            load_wait_ms: setup.load_wait_ms,
            keep_flushed_minutes: setup.keep_flushed_minutes,
            keep_days: setup.keep_days,
            keep_journal_days: 0,
            lease_seconds: setup.lease_seconds,
            ..StoreOptions::default()
        };
        EngineOptions {
            shards: setup.shards,
            gate_permits: setup.gate_permits,
            remember_seconds: setup.remember_seconds,
            max_resident_skus: setup.max_resident_skus,
            checkpoint_events: setup.checkpoint_events,
            store,
            ..EngineOptions::default()
        }
    }

    /// Starts the server. `None`: the power went meanwhile.
    pub(super) async fn start(&mut self) -> Result<Option<Engine>, Violation> {
        self.follow_time();
        self.clock.start_anew();
        match self.try_start(false).await {
            Ok(engine) => Ok(Some(engine)),
            Err(NoStart::Power) => Ok(None),
            Err(NoStart::Damaged(problem) | NoStart::Other(problem)) => {
                Err(format!("it does not start: {problem}"))
            }
        }
    }

    async fn try_start(&mut self, take_over: bool) -> Result<Engine, NoStart> {
        self.starts += 1;
        self.disk_failed = false;
        self.life = Life::default();
        self.panic_next.store(0, Ordering::SeqCst);
        if let Some(before) = self.session.take() {
            before.die();
        }
        let session = self.store.session();
        self.session = Some(session.clone());
        let store = SlowStore {
            session,
            life: self.life.clone(),
            millis: Arc::clone(&self.slow_store),
            random: Mutex::new(fastrand::Rng::with_seed(self.plan.seed ^ self.starts)),
        };
        let root = self.mounted.root().to_owned();
        let segments = JournalOptions { segment_bytes: self.plan.setup.segment_bytes, zeros: 0 };
        let journal = SledJournal::open(&root.join("journal"), self.plan.setup.shards, segments);
        let journal = journal.map_err(|error| self.no_start(&StartError::Journal(error)))?;
        let options = EngineOptions { take_over, ..self.options() };
        let parts = Parts::new(
            Box::new(journal),
            Arc::new(FileCheckpoints::new(root.join("checkpoints"))),
            Arc::new(FileFilters::new(root.join("filters"))),
            Arc::new(self.identity.clone()),
            Arc::new(self.clock.clone()),
            Arc::new(store),
        );
        let dirty = self.plan.setup.mirror.then(|| Arc::new(Dirty::new(self.plan.setup.dirty)));
        let parts = match &dirty {
            Some(dirty) => parts.with_dirty(Arc::clone(dirty)),
            None => parts,
        };
        let (step, life, disk) = (Arc::clone(&self.step), self.life.clone(), self.disk.clone());
        let parts = parts.failpoint(Arc::new(move |_| {
            if step.load(Ordering::SeqCst) == 0 {
                step.store(usize::MAX, Ordering::SeqCst);
                life.end();
                disk.power_off();
            }
            let one_less = |left: usize| (left != usize::MAX).then(|| left.saturating_sub(1));
            let _ = step.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        }));
        let panic_next = Arc::clone(&self.panic_next);
        let parts = parts.before_decide(move |_| {
            assert!(panic_next.swap(0, Ordering::SeqCst) == 0, "{}", crate::ON_DEMAND);
        });
        match self.bounded("a start", Engine::start(options, parts)).await {
            Ok(None) => Err(NoStart::Power),
            Ok(Some(started)) => {
                let engine = started.map_err(|error| self.no_start(&error))?;
                self.mirror = dirty.map(|dirty| {
                    let source = Arc::new(engine.clone());
                    RedisMirror::simulated(self.redis.clone(), MirrorOptions::default(), dirty, source)
                });
                Ok(engine)
            }
            Err(problem) => Err(NoStart::Other(problem)),
        }
    }

    fn no_start(&self, error: &StartError) -> NoStart {
        match error {
            _ if !self.is_alive() => NoStart::Power,
            StartError::Journal(JournalError::Damaged { .. })
            | StartError::Checkpoint(_)
            | StartError::Inconsistent { .. } => NoStart::Damaged(error.to_string()),
            // The journal could not be read for the comparison with the store.
            _ if error.to_string().contains("is damaged at event") => NoStart::Damaged(error.to_string()),
            _ => NoStart::Other(error.to_string()),
        }
    }

    /// Ends the server in order.
    pub(super) async fn stop(&mut self, engine: &Engine) -> Result<End, Violation> {
        self.bounded("stop", engine.stop()).await?;
        if let Some(mirror) = self.mirror.take() {
            self.bounded("the mirror's stop", mirror.stop()).await?;
        }
        if !self.is_alive() {
            return Ok(End::Crash);
        }
        // What could not be written before it can be now.
        self.disk.mend();
        self.mend_store();
        Ok(End::Stopped)
    }

    /// A server that is not ready: one whose shard is being rebuilt comes back by itself. `false`: it has to be started
    /// again.
    pub(super) async fn mend(&mut self, engine: &Engine) -> Result<bool, Violation> {
        for _ in 0..60 {
            if !self.is_alive() {
                // There is nothing to be mended any more.
                return Ok(true);
            }
            match engine.health() {
                Health::Ready => {
                    self.shaken = true;
                    // What it had begun is answered or given up by then.
                    sleep(SETTLED).await;
                    return if self.is_alive() { self.settle_doubtful(engine).await } else { Ok(true) };
                }
                Health::Rebuilding(_) => sleep(std::time::Duration::from_secs(1)).await,
                Health::Fenced(why) => {
                    // With a lease it is, as long as the store does not answer.
                    if self.plan.setup.lease_seconds == 0 {
                        return Err(format!("it is fenced: {why}"));
                    }
                    self.mend_store();
                    sleep(std::time::Duration::from_secs(2)).await;
                }
                Health::JournalPoisoned(_) | Health::ShardFailed(_) => return Ok(false),
                Health::Stopping => return Err("it stops by itself".into()),
            }
        }
        Err(format!("it is {:?} for ever", engine.health()))
    }

    /// The files of the filter of known numbers are gone.
    pub(super) fn lose_filters(&self) {
        let root = self.mounted.root();
        for path in self.disk.files(root) {
            if path.starts_with(root.join("filters")) {
                self.disk.lose(&path);
            }
        }
    }

    /// A bit flips while the server is down. It does not start then, or has no need of that bit; either way nothing
    /// wrong is told. Afterwards all is as it was.
    pub(super) async fn flip(&mut self, file: f64, place: f64, crash: bool) -> Result<(), Violation> {
        let files = self.disk.files(self.mounted.root());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
        let index = (files.len() as f64 * file) as usize;
        let Some(path) = files.get(index) else { return Ok(()) };
        // Damage in the last batch of a segment that a crash left open, or a stop whose disk failed, can't be told from a
        // torn tail.
        if crash && path.ends_with("db") && (self.disk.length(path) < 4_096 || place > 0.4) {
            return Ok(());
        }
        let whole = self.disk.copy(self.plan.seed ^ self.starts);
        let (stored, epoch) = (self.store.snapshot(), self.identity.epoch());
        let copy = self.redis.copy(self.plan.seed ^ self.starts);
        let redis = std::mem::replace(&mut self.redis, copy);
        if !self.disk.flip_bit(path, place) {
            return Ok(());
        }
        let path = path.display();
        self.trace.note(format_args!("a bit flips in {path}"));
        match self.try_start(false).await {
            Ok(engine) => {
                let compared = self.compare_what_can_be_read(&engine).await;
                compared.map_err(|problem| format!("after a bit had flipped in {path}: {problem}"))?;
                self.bounded("stop", engine.stop()).await?;
            }
            Err(NoStart::Damaged(problem)) => self.trace.note(format_args!("refused: {problem}")),
            Err(NoStart::Power) => {}
            Err(NoStart::Other(problem)) => return Err(problem),
        }
        (self.mirror, self.redis) = (None, redis);
        drop(self.change_disk(whole));
        self.store.restore(&stored);
        self.identity.set_epoch(epoch);
        Ok(())
    }

    /// Another server takes over on a copy of the disk while this one does not reach the store.
    pub(super) async fn take_over(&mut self, engine: &Engine) -> Result<Option<End>, Violation> {
        if engine.epoch() == Epoch::ZERO || !self.doubtful.is_empty() {
            return Ok(None);
        }
        let old_session = self.session().clone();
        old_session.cut();
        let old_life = self.life.clone();
        // The copy is made of what the first one has durable, when it can't take any order any more.
        sleep(std::time::Duration::from_secs(u64::from(self.plan.setup.lease_seconds) + 1)).await;
        if !self.is_alive() {
            return Ok(Some(End::Crash));
        }
        if engine.health() == Health::Ready {
            return Err("its lease is over, and it takes orders".into());
        }
        let copy = self.disk.copy(self.plan.seed ^ self.starts);
        let _first = self.change_disk(copy);
        // A copy, which an operator says is the one to go on with.
        self.identity = self.identity.copy();
        // What it still has to say comes beside what the second one says.
        let _mirror_of_first = self.mirror.take();
        let second = match self.try_start(true).await {
            Ok(second) => second,
            Err(NoStart::Power) => return Ok(Some(End::Crash)),
            Err(NoStart::Damaged(problem) | NoStart::Other(problem)) => {
                return Err(format!("the second server does not start: {problem}"));
            }
        };
        old_session.mend();
        for _ in 0..4 {
            sleep(std::time::Duration::from_millis(700)).await;
            let order_no = hotstock_engine::ids::OrderNo::new("O0").expect("a short name");
            let release = hotstock_engine::command::Action::GetOrder(order_no);
            let told = self.bounded("the first server", engine.submit(release.into())).await?;
            let Some(told) = told else { break };
            if !matches!(told, Err(Refusal::Fenced { .. })) {
                return Err(format!("a server that was taken over from tells {told:?}"));
            }
        }
        old_life.end();
        self.shaken = true;
        self.stop(&second).await.map(Some)
    }
}
