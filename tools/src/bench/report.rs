//! The figures of a run, for people and as JSON: a figure without its conditions is none, so they stand beside it.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Args;
use super::load::{Measured, Plan};
use crate::terminal::grouped;

const DURABLE: &str = "every answer follows the fdatasync of the events it rests on (group commit)";

/// What the JSON file holds. Fields may be added; those here keep their meaning.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    build: &'static str,
    path: &'static str,
    place: &'static str,
    durability: &'static str,
    concurrency: Concurrency,
    payload: Payload,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    latency_micros: Latency,
    echo: Option<Echo>,
    machine: Machine,
}

#[derive(Debug, Serialize)]
struct Concurrency {
    requests_in_flight: u32,
    operations_in_flight: u64,
    connections: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Payload {
    /// None: the server was started by someone else.
    shards: Option<u16>,
    skus: u32,
    lines_per_order: u32,
    operations_per_request: u32,
    confirmed: bool,
    mean_body_bytes: Option<f64>,
}

/// Of requests: a batch is one.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Echo {
    what: &'static str,
    operations_per_second: f64,
    latency_micros: Latency,
    hotstock_to_echo: f64,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
    server: &'static str,
}

impl Report {
    /// The figures with their conditions.
    pub fn new(args: &Args, plan: &Plan, measured: &Measured, echoed: Option<&Measured>) -> Self {
        let operations_per_second = per_second(measured);
        let echo = echoed.map(|echoed| Echo {
            what: "axum: parses the same JSON and answers it, in turns with hotstock, same client and process",
            operations_per_second: per_second(echoed),
            latency_micros: Latency::of(&echoed.latencies),
            hotstock_to_echo: operations_per_second / per_second(echoed),
        });
        let requests = measured.latencies.len();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            path: if args.in_process { "engine handle, in process" } else { "HTTP/1.1, keep-alive" },
            place: match args.stored {
                true => "stored SKUs, loaded when they are asked for; the SQL store takes in what is logged",
                false => "hot SKUs; the SQL store takes in what is logged",
            },
            durability: DURABLE,
            concurrency: Concurrency {
                requests_in_flight: plan.requests,
                operations_in_flight: u64::from(plan.requests) * u64::from(plan.batch),
                connections: (!args.in_process).then_some(plan.requests),
            },
            payload: Payload {
                shards: args.url.is_none().then_some(args.shards),
                skus: plan.skus,
                lines_per_order: 1,
                operations_per_request: plan.batch,
                confirmed: plan.confirm,
                mean_body_bytes: (!args.in_process).then(|| ratio(measured.body_bytes, requests)),
            },
            seconds: measured.elapsed.as_secs_f64(),
            operations: measured.operations,
            operations_per_second,
            latency_micros: Latency::of(&measured.latencies),
            echo,
            machine: Machine::here(args.url.is_some()),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let Payload { skus, operations_per_request, confirmed, .. } = &self.payload;
        let mut text = format!(
            "{} ({}), {}\n{}\n{} SKUs, {} requests in flight, {operations_per_request} operations in each{}\n{}\n{}\n\n",
            self.path,
            self.build,
            self.machine.server,
            self.place,
            grouped(u64::from(*skus)),
            grouped(u64::from(self.concurrency.requests_in_flight)),
            if *confirmed { ", reserve and confirm" } else { ", reserve" },
            self.durability,
            format_args!(
                "{} ({} cores), Linux {}",
                self.machine.cpu, self.machine.cores, self.machine.kernel
            ),
        );
        text.push_str(&format!(
            "{:<10}{:>14}{:>12}{:>12}{:>12}{:>12}\n",
            "", "operations/s", "p50", "p99", "p99.9", "max"
        ));
        text.push_str(&row("hotstock", self.operations_per_second, &self.latency_micros));
        if let Some(echo) = &self.echo {
            text.push_str(&row("echo", echo.operations_per_second, &echo.latency_micros));
            text.push_str(&format!("\nhotstock / echo = {:.2}\n", echo.hotstock_to_echo));
        }
        text
    }
}

fn row(name: &str, rate: f64, latency: &Latency) -> String {
    let Latency { p50, p99, p999, max } = latency;
    let millis = [p50, p99, p999, max].map(|micros| format!("{:>9.2} ms", micros / 1_000.0));
    format!("{name:<10}{:>14}{}\n", format!("{rate:.0}"), millis.concat())
}

fn per_second(measured: &Measured) -> f64 {
    // Operations of a run are far below 2^52.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let operations = measured.operations as f64;
    operations / measured.elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a mean")]
fn ratio(sum: u64, count: u64) -> f64 {
    sum as f64 / count.max(1) as f64
}

impl Latency {
    fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| ratio(nanos, 1_000);
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: micros(nanos.max()) }
    }
}

impl Machine {
    /// As far as Linux tells; what it does not is left empty.
    fn here(server_elsewhere: bool) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            server: match server_elsewhere {
                true => "server in another process",
                false => "server and load generator share this process and its cores",
            },
        }
    }
}
