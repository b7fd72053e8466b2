//! The workers: each sends a request, waits for its answer, notes the time it took and goes on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotstock_engine::command::Command;
use hotstock_engine::engine::Engine;
use hotstock_engine::outcome::Outcome;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::task::JoinSet;

use super::Args;
use super::requests::Orders;
use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::wire;

/// Latencies up to a minute, in nanoseconds, with three digits.
const MAX_NANOS: u64 = 60_000_000_000;

/// How many [`Notes`] keep: more than the cores of the machines that this runs on, so that threads seldom meet at one.
const SHARED_NOTES: usize = 16;

/// What is asked of the workers.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests under way at once.
    pub requests: u32,
    /// Operations in each.
    pub batch: u32,
    /// SKUs that the orders are spread over.
    pub skus: u32,
    /// Whether orders are confirmed.
    pub confirm: bool,
    /// Whether the SKUs lie in the SQL store until they are asked for.
    pub stored: bool,
    /// How long to measure.
    pub length: Duration,
}

impl Plan {
    /// The plan of a command line.
    pub fn new(args: &Args) -> Self {
        Self {
            requests: if args.in_process { args.in_flight } else { args.connections },
            batch: args.batch,
            skus: args.skus(),
            confirm: args.confirm,
            stored: args.stored,
            length: Duration::from_secs(args.seconds),
        }
    }

    /// The plan of what comes before the clock starts: of stored SKUs it asks for the first alone, so that the others
    /// are still stored.
    pub fn warm_up(&self) -> Self {
        Self { skus: if self.stored { 1 } else { self.skus }, ..self.clone() }
    }
}

/// The figures of a run, or of one turn of it.
#[derive(Debug)]
pub struct Measured {
    /// For how long, until the last answer.
    pub elapsed: Duration,
    /// Operations answered: reservations and confirmations.
    pub operations: u64,
    /// Bytes of request bodies.
    pub body_bytes: u64,
    /// Latencies of the requests, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Default for Measured {
    fn default() -> Self {
        let latencies = Histogram::new_with_max(MAX_NANOS, 3).expect("the bounds are constants and fit");
        Self { elapsed: Duration::ZERO, operations: 0, body_bytes: 0, latencies }
    }
}

impl Measured {
    /// Adds another turn of the same load, after this one.
    pub fn add(&mut self, turn: &Self) {
        self.elapsed += turn.elapsed;
        self.merge(turn);
    }

    fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.body_bytes += other.body_bytes;
        self.latencies.add(&other.latencies).expect("all histograms have the same bounds");
    }

    fn note(&mut self, took: Duration, operations: usize, body_bytes: usize) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(MAX_NANOS);
        self.latencies.saturating_record(nanos);
        self.operations += operations as u64;
        self.body_bytes += body_bytes as u64;
    }
}

/// Where the workers of one turn note what they measure. A histogram has some 200 KiB, too much for each of thousands
/// of workers, so they share a few.
struct Notes([Mutex<Measured>; SHARED_NOTES]);

impl Notes {
    fn new() -> Arc<Self> {
        Arc::new(Self(std::array::from_fn(|_| Mutex::default())))
    }

    fn note(&self, worker: u64, began: Instant, operations: usize, body_bytes: usize) {
        let took = began.elapsed();
        let shared = &self.0[usize::try_from(worker).unwrap_or(0) % SHARED_NOTES];
        shared.lock().expect("no one panics with this lock held").note(took, operations, body_bytes);
    }

    fn sum(&self, elapsed: Duration) -> Measured {
        let mut sum = Measured { elapsed, ..Measured::default() };
        for shared in &self.0 {
            sum.merge(&shared.lock().expect("no one panics with this lock held"));
        }
        sum
    }
}

/// A server and the connections to it, which are kept from turn to turn.
pub struct Load {
    connections: Vec<Connection>,
}

impl Load {
    /// Connections that are made when they are first used.
    pub fn new(target: &Target, plan: &Plan) -> Self {
        Self { connections: (0..plan.requests).map(|_| Connection::new(target.clone())).collect() }
    }

    /// Loads the server for some time.
    ///
    /// # Errors
    /// [`Failure`] at the first request that is not carried out.
    pub async fn run(&mut self, plan: &Plan, length: Duration) -> Result<Measured, Failure> {
        let (notes, began) = (Notes::new(), Instant::now());
        let mut workers = JoinSet::new();
        for (worker, connection) in (0..).zip(self.connections.drain(..)) {
            workers.spawn(http_worker(connection, plan.clone(), worker, Arc::clone(&notes), began + length));
        }
        self.connections = gather(workers).await?;
        Ok(notes.sum(began.elapsed()))
    }
}

async fn http_worker(
    mut connection: Connection,
    plan: Plan,
    worker: u64,
    notes: Arc<Notes>,
    until: Instant,
) -> Result<Connection, Failure> {
    let mut orders = Orders::new(plan.skus, worker);
    let mut body = Vec::new();
    while Instant::now() < until {
        let path = match plan.batch {
            1 => orders.reserve(&mut body),
            count => orders.reserve_batch(count, &mut body),
        };
        let began = Instant::now();
        send(&mut connection, path, &body, plan.batch).await?;
        notes.note(worker, began, plan.batch as usize, body.len());
        if plan.confirm {
            let path = match plan.batch {
                1 => orders.confirm(&mut body),
                _ => orders.confirm_batch(&mut body),
            };
            let began = Instant::now();
            send(&mut connection, &path, &body, plan.batch).await?;
            notes.note(worker, began, plan.batch as usize, body.len());
        }
    }
    Ok(connection)
}

/// A batch's answer, as far as it must be read to know that every operation was carried out. The echo has no `results`.
#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    status: u16,
    #[serde(rename = "body")]
    _body: IgnoredAny,
}

async fn send(connection: &mut Connection, path: &str, body: &[u8], operations: u32) -> Result<(), Failure> {
    let status = connection.call("POST", path, body).await?;
    let carried_out = match (status, operations) {
        (200 | 201, 1) => true,
        (200, _) => {
            connection.json::<Results>()?.results.iter().all(|result| matches!(result.status, 200 | 201))
        }
        _ => false,
    };
    if carried_out { Ok(()) } else { Err(wire::unexpected(path, status, connection)) }
}

/// Loads the engine, without HTTP, for some time.
///
/// # Errors
/// [`Failure`] at the first command that is refused.
pub async fn in_process(engine: &Engine, plan: &Plan, length: Duration) -> Result<Measured, Failure> {
    let (notes, began) = (Notes::new(), Instant::now());
    let mut workers = JoinSet::new();
    for worker in 0..u64::from(plan.requests) {
        workers.spawn(engine_worker(
            engine.clone(),
            plan.clone(),
            worker,
            Arc::clone(&notes),
            began + length,
        ));
    }
    gather(workers).await?;
    Ok(notes.sum(began.elapsed()))
}

async fn engine_worker(
    engine: Engine,
    plan: Plan,
    worker: u64,
    notes: Arc<Notes>,
    until: Instant,
) -> Result<(), Failure> {
    let mut orders = Orders::new(plan.skus, worker);
    while Instant::now() < until {
        let commands = orders.reserve_commands(plan.batch);
        let began = Instant::now();
        submit(&engine, commands).await?;
        notes.note(worker, began, plan.batch as usize, 0);
        if plan.confirm {
            let commands = orders.confirm_commands();
            let began = Instant::now();
            submit(&engine, commands).await?;
            notes.note(worker, began, plan.batch as usize, 0);
        }
    }
    Ok(())
}

async fn submit(engine: &Engine, mut commands: Vec<Command>) -> Result<(), Failure> {
    let outcomes = match (commands.len(), commands.pop()) {
        (1, Some(command)) => vec![engine.submit(command).await],
        (_, Some(last)) => {
            commands.push(last);
            engine.submit_batch(commands).await
        }
        (_, None) => Vec::new(),
    };
    all_carried_out(outcomes)
}

fn all_carried_out(outcomes: Vec<Outcome>) -> Result<(), Failure> {
    match outcomes.into_iter().find_map(Result::err) {
        Some(refusal) => Err(Failure::other("the engine refused", refusal)),
        None => Ok(()),
    }
}

/// Waits for all workers; the first that failed ends the others.
async fn gather<T: 'static>(mut workers: JoinSet<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut all = Vec::with_capacity(workers.len());
    while let Some(worker) = workers.join_next().await {
        all.push(worker.map_err(|error| Failure::other("a worker", error))??);
    }
    Ok(all)
}
