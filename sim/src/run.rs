//! One run: a plan is carried out against the shipped engine, process after process, and everything that callers are
//! told is held against what may have happened.

mod callers;
mod checks;
mod process;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Action;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::OrderNo;
use hotstock_engine::status::Health;
use hotstock_engine::testing::{MemoryIdentity, MemorySnapshot, MemoryStore, TURN, simulate};
use hotstock_persistence::mirror::RedisMirror;
use hotstock_persistence::testing::{DiskFault, Mounted, SimulatedDisk, SimulatedRedis};
use tokio::time::{Instant, sleep};

use crate::outside::{Life, SimClock, StoreClock};
use crate::plan::{Op, Plan, RedisFault};
use crate::trace::Trace;
use crate::worlds::{Told, Violation, Worlds};

/// Nobody waits longer for an answer, in simulated time: what takes longer has got stuck.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often it is looked whether the process lives.
const LOOK: Duration = Duration::from_millis(100);

/// How long, after callers went away or were not told, until nothing of what they asked is under way any more.
const SETTLED: Duration = Duration::from_secs(8);

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Operations and commands.
    pub steps: u64,
    /// Over everything that was answered, when, and what the disk did meanwhile.
    pub trace: u64,
}

/// A run that found something.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which operation of the plan it was.
    pub at: usize,
    /// What.
    pub violation: Violation,
    /// Operations and commands until then.
    pub steps: u64,
}

/// Carries out a plan.
///
/// # Errors
/// The engine did something that can't be.
pub fn run(plan: &Plan, show: bool) -> Result<Done, Failure> {
    fastrand::seed(plan.seed);
    let disk = SimulatedDisk::new(plan.seed ^ 0xD15C);
    let (slow_disk, stall) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let _simulated = {
        let (slow, stall) = (Arc::clone(&slow_disk), Arc::clone(&stall));
        let random = Mutex::new(fastrand::Rng::with_seed(plan.seed ^ 0x510));
        simulate(std::rc::Rc::new(move |what| {
            let longest = slow.load(Ordering::Relaxed).saturating_mul(1_000);
            let mut random = random.lock().expect("nobody panics with it");
            if what == TURN {
                let longest = stall.load(Ordering::Relaxed).saturating_mul(1_000);
                return Duration::from_micros(if longest == 0 { 0 } else { random.u64(..longest) });
            }
            let usual = if what == "journal writer" { 400 } else { 60 };
            let longest = if what == "journal writer" { longest.max(usual) } else { longest / 4 + usual };
            Duration::from_micros(random.u64(..longest))
        }))
    };
    let before = Arc::new(AtomicU64::new(0));
    let store_clock = Arc::new(StoreClock { before: Arc::clone(&before), start: Mutex::new(None) });
    let mut run = Run {
        plan,
        at: 0,
        clock: SimClock::new(),
        store: MemoryStore::with_clock(Arc::clone(&store_clock) as Arc<dyn hotstock_engine::clock::Clock>),
        store_clock,
        before,
        mounted: disk.mount("0"),
        disks: 0,
        disk,
        identity: MemoryIdentity::new(1),
        slow_disk,
        stall,
        slow_store: Arc::default(),
        worlds: Worlds::new(plan.setup.shards, plan.setup.spanning),
        sent: Vec::new(),
        snapshot: None,
        session: None,
        redis: SimulatedRedis::new(plan.seed ^ 0x4ED15),
        mirror: None,
        life: Life::default(),
        step: Arc::new(AtomicUsize::new(usize::MAX)),
        panic_next: Arc::default(),
        doubtful: Vec::new(),
        doubtful_at: Timestamp(0),
        in_order: false,
        flip_next: None,
        process_alone: false,
        disk_failed: false,
        unseen: BTreeSet::new(),
        units_on_their_way: false,
        shaken: true,
        trace: Trace::new(show),
        steps: 0,
        starts: 0,
    };
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|error| Failure { at: 0, violation: error.to_string(), steps: 0 })?;
        let ended = runtime.block_on(run.process());
        // What is left of the process goes without a trace: neither disk nor store hear of it any more.
        run.life.end();
        run.mirror = None;
        if ended == Ok(End::Crash) {
            run.disk.power_off();
        }
        drop(runtime);
        match ended {
            Ok(End::Over) => return Ok(Done { steps: run.steps, trace: run.trace.finish() }),
            // The system goes on with what the process had written, or all of it ends.
            Ok(End::Crash) if std::mem::take(&mut run.process_alone) => run.disk.power_on(),
            Ok(End::Crash) => run.disk.power_cycle(),
            Ok(End::Stopped) => {}
            Err(violation) => return Err(Failure { at: run.at, violation, steps: run.steps }),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The plan is through.
    Over,
    /// In order.
    Stopped,
    /// By itself or with the whole machine.
    Crash,
}

struct Run<'a> {
    plan: &'a Plan,
    /// The next operation.
    at: usize,
    clock: SimClock,
    store_clock: Arc<StoreClock>,
    /// Simulated milliseconds before this process.
    before: Arc<AtomicU64>,
    disk: SimulatedDisk,
    mounted: Mounted,
    /// Those before this one.
    disks: u32,
    identity: MemoryIdentity,
    store: MemoryStore,
    slow_disk: Arc<AtomicU64>,
    stall: Arc<AtomicU64>,
    slow_store: Arc<AtomicU64>,
    worlds: Worlds,
    /// Everything that was asked.
    sent: Vec<Action>,
    snapshot: Option<MemorySnapshot>,
    session: Option<MemoryStore>,
    redis: SimulatedRedis,
    /// Of this process.
    mirror: Option<RedisMirror>,
    life: Life,
    /// The process ends at this one of the next steps that are named.
    step: Arc<AtomicUsize>,
    panic_next: Arc<AtomicUsize>,
    /// Commands of the process before whose outcome nobody knows.
    doubtful: Vec<Told>,
    /// When they were asked.
    doubtful_at: Timestamp,
    /// By one caller, in their order.
    in_order: bool,
    /// A bit that flips before the next start.
    flip_next: Option<(f64, f64, bool)>,
    /// The process ends, and the machine does not.
    process_alone: bool,
    /// Something was to fail on the disk since the last start, and may have kept a stop from sealing the journal.
    disk_failed: bool,
    /// Expired in the model; no server was seen to have expired them.
    unseen: BTreeSet<OrderNo>,
    /// An order over several shards expired since all was last compared.
    units_on_their_way: bool,
    /// Something broke off since all was last compared: attempts may still hold units.
    shaken: bool,
    trace: Trace,
    steps: u64,
    starts: u64,
}

impl Run<'_> {
    fn now(&self) -> Timestamp {
        self.clock.expected()
    }

    /// Lets the server's clock follow simulated time.
    fn follow_time(&self) {
        self.clock.go_on(self.store_clock.millis());
    }

    fn is_alive(&self) -> bool {
        self.disk.has_power() && !self.life.is_over()
    }

    /// From the next start to the end of a process.
    async fn process(&mut self) -> Result<End, Violation> {
        *self.store_clock.start.lock().expect("nobody panics with it") = Some(Instant::now());
        let end = self.serve().await;
        let gone = self.store_clock.millis();
        *self.store_clock.start.lock().expect("nobody panics with it") = None;
        self.before.store(gone, Ordering::SeqCst);
        self.trace.note(format_args!("{gone} {end:?} {}", self.disk.operations()));
        end
    }

    async fn serve(&mut self) -> Result<End, Violation> {
        if let Some((file, place, crash)) = self.flip_next.take() {
            self.flip(file, place, crash).await?;
        }
        let engine = self.start().await?;
        let Some(engine) = engine else { return Ok(End::Crash) };
        if !self.settle_doubtful(&engine).await? {
            return Ok(End::Crash);
        }
        while let Some(op) = self.plan.ops.get(self.at) {
            self.follow_time();
            self.expire(&engine).await?;
            if std::mem::take(&mut self.units_on_their_way)
                && !self.compare(&engine).await?
                && !self.is_alive()
            {
                return Ok(End::Crash);
            }
            self.at += 1;
            self.steps += 1;
            let (at, millis) = (self.at - 1, self.store_clock.millis());
            self.trace.note(format_args!("#{at} at {millis}: {op:?}"));
            let end = self.carry_out(&engine, op).await?;
            if let Some(wrong) = self.redis.wrong() {
                return Err(format!("the mirror shows what never was: {wrong}"));
            }
            if let Some(end) = end {
                return Ok(end);
            }
            if !self.is_alive() {
                return Ok(End::Crash);
            }
            if engine.health() != Health::Ready && !self.mend(&engine).await? {
                return self.stop(&engine).await;
            }
            if !self.is_alive() {
                return Ok(End::Crash);
            }
            if self.at.is_multiple_of(16) && !self.compare(&engine).await? && !self.is_alive() {
                return Ok(End::Crash);
            }
        }
        self.finish(&engine).await
    }

    async fn carry_out(&mut self, engine: &Engine, op: &Op) -> Result<Option<End>, Violation> {
        match op {
            Op::Burst(calls) => {
                self.burst(engine, calls, None).await?;
                self.stall.store(0, Ordering::SeqCst);
            }
            Op::Batch(actions) => {
                self.batch(engine, actions).await?;
                self.stall.store(0, Ordering::SeqCst);
            }
            Op::Pin(skus, true) => drop(self.bounded("promote", engine.promote(skus)).await?),
            Op::Pin(skus, false) => drop(self.bounded("demote", engine.demote(skus)).await?),
            Op::Checkpoint => engine.checkpoint_now(),
            Op::Pass(millis) => {
                sleep(Duration::from_millis(*millis)).await;
                self.follow_time();
                self.expire(engine).await?;
            }
            Op::Leap(hours) => {
                self.clock.go_on(self.clock.millis() + hours * 3_600_000);
                self.before.fetch_add(hours * 3_600_000, Ordering::SeqCst);
                sleep(Duration::from_millis(250)).await;
                self.follow_time();
                self.expire(engine).await?;
            }
            Op::Jump(millis) => {
                self.clock.jump(*millis);
                self.follow_time();
                sleep(Duration::from_millis(250)).await;
                self.follow_time();
                self.expire(engine).await?;
            }
            Op::Restart => return self.stop(engine).await.map(Some),
            Op::Crash { after_micros, power } => {
                let next = self.plan.ops.get(self.at);
                if let Some(Op::Burst(calls)) = next {
                    self.at += 1;
                    self.burst(engine, calls, Some(Duration::from_micros(*after_micros))).await?;
                    self.stall.store(0, Ordering::SeqCst);
                } else {
                    sleep(Duration::from_micros(*after_micros)).await;
                }
                self.process_alone = !power && self.is_alive();
                return Ok(Some(End::Crash));
            }
            Op::Disk(fault) => {
                self.disk_failed = true;
                self.disk.fail(*fault);
            }
            Op::CrashAtWrite { operations, power } => {
                self.process_alone = !power;
                self.disk.fail(DiskFault::PowerOff(*operations));
            }
            Op::CrashAtStep(step) => self.step.store(*step % 24, Ordering::SeqCst),
            Op::Panic => self.panic_next.store(1, Ordering::SeqCst),
            Op::LoseFilter => {
                let end = self.stop(engine).await?;
                if end == End::Stopped {
                    self.lose_filters();
                }
                return Ok(Some(end));
            }
            Op::Flip { file, place, crash } => {
                let end = if *crash { End::Crash } else { self.stop(engine).await? };
                self.flip_next = Some((*file, *place, end == End::Crash || self.disk_failed));
                return Ok(Some(end));
            }
            Op::CutStore => self.session().cut(),
            Op::MendStore => self.mend_store(),
            Op::SlowStore(millis) => self.slow_store.store(*millis, Ordering::SeqCst),
            Op::SlowDisk(millis) => self.slow_disk.store(*millis, Ordering::SeqCst),
            Op::Stall(millis) => self.stall.store(*millis, Ordering::SeqCst),
            Op::Redis(fault) => self.redis_fault(fault),
            Op::BusyStore(calls) => self.session().be_busy(*calls),
            Op::LoseAnswers(calls) => self.session().lose_answers(*calls),
            Op::LoseWrites(calls) => self.session().lose_writes(*calls),
            Op::Snapshot => self.snapshot = Some(self.store.snapshot()),
            Op::GoBack => {
                if let Some(snapshot) = self.snapshot.take() {
                    self.store.restore(&snapshot);
                    self.shaken = true;
                }
            }
            Op::TakeOver => return self.take_over(engine).await,
        }
        Ok(None)
    }

    fn session(&self) -> &MemoryStore {
        self.session.as_ref().expect("an engine was started")
    }

    fn redis_fault(&self, fault: &RedisFault) {
        match fault {
            RedisFault::Away => self.redis.be_away(true),
            RedisFault::Back => self.redis.mend(),
            RedisFault::Slow(millis) => self.redis.be_slow(*millis),
            RedisFault::LoseAnswers(count) => self.redis.lose_answers(*count),
            RedisFault::Empty => self.redis.empty(),
            RedisFault::Note => self.redis.note(),
            RedisFault::GoBack => self.redis.go_back(),
        }
    }

    pub(super) fn mend_store(&self) {
        let session = self.session();
        session.mend();
        session.be_busy(0);
        session.lose_answers(0);
        session.lose_writes(0);
        self.slow_store.store(0, Ordering::SeqCst);
    }

    /// What must come to an end. `None`: the process ended meanwhile, or before.
    async fn bounded<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<Option<T>, Violation> {
        let mut future = std::pin::pin!(future);
        let end = Instant::now() + PATIENCE;
        while self.is_alive() {
            let look = Instant::now() + LOOK;
            if let Ok(done) = tokio::time::timeout_at(look, &mut future).await {
                return Ok(self.is_alive().then_some(done));
            }
            if look >= end {
                return Err(format!("{what}: no answer within {PATIENCE:?}"));
            }
        }
        Ok(None)
    }

    /// Another disk is in the machine from here on. Gives the one before.
    fn change_disk(&mut self, disk: SimulatedDisk) -> (SimulatedDisk, Mounted) {
        self.disks += 1;
        let mounted = disk.mount(&self.disks.to_string());
        (std::mem::replace(&mut self.disk, disk), std::mem::replace(&mut self.mounted, mounted))
    }
}
