//! The workers: each sends a request, waits for its answer, notes the time it took and goes on.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotstock_engine::engine::Engine;
use hotstock_engine::outcome::Outcome;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::task::JoinSet;

use super::requests::Orders;
use crate::cli::Bench;
use crate::client::{Connection, Target};
use crate::failure::Failure;
use crate::wire;

/// Latencies up to a minute, in nanoseconds, with three digits.
const MAX_NANOS: u64 = 60_000_000_000;

/// What is asked of the workers.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests under way at once.
    pub requests: u32,
    /// Operations in each.
    pub batch: u32,
    /// SKUs.
    pub skus: u32,
    /// Whether orders are confirmed.
    pub confirm: bool,
    /// How long to measure.
    pub length: Duration,
}

impl Plan {
    /// The plan of a command line.
    pub fn new(args: &Bench) -> Self {
        Self {
            requests: if args.in_process { args.in_flight } else { args.connections },
            batch: args.batch,
            skus: args.skus,
            confirm: args.confirm,
            length: Duration::from_secs(args.seconds),
        }
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// For how long.
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
    /// Another turn of the same, after this one.
    pub fn add(&mut self, turn: &Self) {
        self.elapsed += turn.elapsed;
        self.merge(turn);
    }

    /// What another worker measured in the same time.
    fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.body_bytes += other.body_bytes;
        self.latencies.add(&other.latencies).expect("all histograms have the same bounds");
    }

    fn note(&mut self, began: Instant, operations: usize, body_bytes: usize) {
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(MAX_NANOS);
        self.latencies.saturating_record(nanos);
        self.operations += operations as u64;
        self.body_bytes += body_bytes as u64;
    }
}

/// Loads a server for some time.
///
/// # Errors
/// [`Failure`] at the first request that is not carried out.
pub async fn over_http(target: &Target, plan: &Plan, length: Duration) -> Result<Measured, Failure> {
    let until = Instant::now() + length;
    let mut workers = JoinSet::new();
    for worker in 0..u64::from(plan.requests) {
        workers.spawn(http_worker(Connection::new(target.clone()), plan.clone(), worker, until));
    }
    gather(workers).await
}

async fn http_worker(
    mut connection: Connection,
    plan: Plan,
    worker: u64,
    until: Instant,
) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    let mut orders = Orders::new(plan.skus, worker);
    let mut body = Vec::new();
    while Instant::now() < until {
        match plan.batch {
            1 => {
                orders.reserve(&mut body);
                send(&mut connection, "/v1/reservations", &body, 1, &mut measured).await?;
                if plan.confirm {
                    let path = format!("/v1/reservations/{}/confirm", orders.numbers[0]);
                    send(&mut connection, &path, b"{}", 1, &mut measured).await?;
                }
            }
            count => {
                orders.reserve_batch(count, &mut body);
                send(&mut connection, "/v1/batch", &body, count, &mut measured).await?;
                if plan.confirm {
                    orders.confirm_batch(&mut body);
                    send(&mut connection, "/v1/batch", &body, count, &mut measured).await?;
                }
            }
        }
    }
    Ok(measured)
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

async fn send(
    connection: &mut Connection,
    path: &str,
    body: &[u8],
    operations: u32,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let began = Instant::now();
    let status = connection.call("POST", path, body).await?;
    measured.note(began, operations as usize, body.len());
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
    let until = Instant::now() + length;
    let mut workers = JoinSet::new();
    for worker in 0..u64::from(plan.requests) {
        workers.spawn(engine_worker(engine.clone(), plan.clone(), worker, until));
    }
    gather(workers).await
}

async fn engine_worker(engine: Engine, plan: Plan, worker: u64, until: Instant) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    let mut orders = Orders::new(plan.skus, worker);
    while Instant::now() < until {
        let mut commands = orders.reserve_commands(plan.batch);
        let began = Instant::now();
        let outcomes = match plan.batch {
            1 => vec![engine.submit(commands.remove(0)).await],
            _ => engine.submit_batch(commands).await,
        };
        measured.note(began, outcomes.len(), 0);
        all_carried_out(outcomes)?;
        if plan.confirm {
            let mut commands = orders.confirm_commands();
            let began = Instant::now();
            let outcomes = match plan.batch {
                1 => vec![engine.submit(commands.remove(0)).await],
                _ => engine.submit_batch(commands).await,
            };
            measured.note(began, outcomes.len(), 0);
            all_carried_out(outcomes)?;
        }
    }
    Ok(measured)
}

fn all_carried_out(outcomes: Vec<Outcome>) -> Result<(), Failure> {
    match outcomes.into_iter().find_map(Result::err) {
        Some(refusal) => Err(Failure::other("the engine refused", refusal)),
        None => Ok(()),
    }
}

async fn gather(mut workers: JoinSet<Result<Measured, Failure>>) -> Result<Measured, Failure> {
    let began = Instant::now();
    let mut sum = Measured::default();
    while let Some(worker) = workers.join_next().await {
        sum.merge(&worker.map_err(|error| Failure::other("a worker", error))??);
    }
    // Until the last answer: requests under way at the end count with the time they took.
    sum.elapsed = began.elapsed();
    Ok(sum)
}
