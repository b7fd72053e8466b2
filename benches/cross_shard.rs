//! Orders over several shards in figures, beside orders in one shard, in one run: reserve and confirm of orders with
//! 1, 2, 8 and 50 lines, all lines in one shard, and each line's SKU in a shard chosen at random among eight. In
//! process, every answer behind its sync, 16 and 256 callers that each send their next order when they have the answer.
//!
//! `cargo bench --bench cross_shard -- [--seconds 4] [--json FILE]`. Callers and engine share the machine. The kinds
//! take turns in rounds, so that what the machine does besides falls on all of them alike.

mod common;
#[path = "common/engine.rs"]
mod engine;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hotstock_engine::command::{Action, Command, Confirm, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId, shard_of};
use hotstock_engine::options::EngineOptions;
use hotstock_engine::outcome::Refusal;
use serde_json::json;

const SHARDS: u16 = 8;
const LINES: [usize; 4] = [1, 2, 8, 50];
const CALLERS: [usize; 2] = [16, 256];
const ROUNDS: u32 = 2;

/// Where the lines of an order lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OneShard,
    EightShards,
}

impl Kind {
    const ALL: [Self; 2] = [Self::OneShard, Self::EightShards];

    fn name(self) -> &'static str {
        match self {
            Self::OneShard => "one shard",
            Self::EightShards => "eight shards",
        }
    }
}

/// SKUs by where they lie: 64 in each shard.
struct Catalogue {
    hot: Vec<Vec<SkuId>>,
}

impl Catalogue {
    const EACH: usize = 64;

    fn new() -> Self {
        let mut hot = vec![Vec::new(); usize::from(SHARDS)];
        let mut number = 0;
        while hot.iter().any(|skus| skus.len() < Self::EACH) {
            let sku_id = SkuId::new(&format!("hot-{number}")).expect("in bounds");
            let skus = &mut hot[shard_of(&sku_id, SHARDS).index()];
            if skus.len() < Self::EACH {
                skus.push(sku_id);
            }
            number += 1;
        }
        Self { hot }
    }

    fn reserve(&self, order_no: &OrderNo, kind: Kind, lines: usize, rng: &mut fastrand::Rng) -> Command {
        let home = rng.usize(..self.hot.len());
        let mut picked: Vec<&SkuId> = Vec::with_capacity(lines);
        while picked.len() < lines {
            let shard = if kind == Kind::OneShard { home } else { rng.usize(..self.hot.len()) };
            let sku_id = &self.hot[shard][rng.usize(..Self::EACH)];
            if !picked.contains(&sku_id) {
                picked.push(sku_id);
            }
        }
        let line =
            |sku_id: &SkuId| Line { sku_id: sku_id.clone(), warehouse_id: WarehouseId(1), quantity: 1 };
        Action::Reserve(Reserve {
            order_no: order_no.clone(),
            lines: Lines::new(picked.into_iter().map(line)).expect("in bounds"),
            ttl_seconds: 86_400,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: None,
        })
        .into()
    }
}

struct Figure {
    orders: u64,
    seconds: f64,
    reserves: Vec<Duration>,
    confirms: Vec<Duration>,
}

fn p99(waits: &mut [Duration]) -> Duration {
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
}

async fn run(
    engine: &Engine,
    catalogue: &Arc<Catalogue>,
    kind: Kind,
    lines: usize,
    callers: usize,
    seconds: f64,
    run: u64,
) -> Figure {
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (engine, catalogue, stop) = (engine.clone(), Arc::clone(catalogue), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(run << 32 | caller as u64);
                let (mut reserves, mut confirms) = (Vec::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let number = format!("{run}-{caller}-{}", reserves.len());
                    let order_no = OrderNo::new(&number).expect("in bounds");
                    let command = catalogue.reserve(&order_no, kind, lines, &mut rng);
                    let sent = Instant::now();
                    // What finds no room comes again; its wait counts.
                    while let Err(refusal) = engine.submit(command.clone()).await {
                        assert_eq!(refusal, Refusal::Overloaded);
                    }
                    reserves.push(sent.elapsed());
                    let sent = Instant::now();
                    let confirm = Action::Confirm(Confirm { order_no, part: None });
                    let confirm = Command::from(confirm);
                    while let Err(refusal) = engine.submit(confirm.clone()).await {
                        assert_eq!(refusal, Refusal::Overloaded);
                    }
                    confirms.push(sent.elapsed());
                }
                (reserves, confirms)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut figure = Figure { orders: 0, seconds: 0.0, reserves: Vec::new(), confirms: Vec::new() };
    for task in tasks {
        let (reserves, confirms) = task.await.expect("it ends");
        figure.orders += confirms.len() as u64;
        figure.reserves.extend(reserves);
        figure.confirms.extend(confirms);
    }
    figure.seconds = began.elapsed().as_secs_f64();
    figure
}

#[tokio::main]
async fn main() {
    let (mut seconds, mut path) = (4.0, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                seconds = arguments.next().and_then(|n| n.parse().ok()).expect("a number follows --seconds");
            }
            "--json" => path = arguments.next(),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let home = common::on_disk();
    let options = EngineOptions { shards: SHARDS, ..EngineOptions::default() };
    let engine = engine::start(home.path(), options).await;

    let catalogue = Arc::new(Catalogue::new());
    let create = |sku_id: &SkuId| {
        let (warehouse_id, quantity) = (WarehouseId(1), 1_000_000_000);
        Action::CreateStock(CreateStock { sku_id: sku_id.clone(), warehouse_id, quantity, serialized: false })
            .into()
    };
    let hot: Vec<SkuId> = catalogue.hot.iter().flatten().cloned().collect();
    for outcome in engine.submit_batch(hot.iter().map(create).collect()).await {
        outcome.expect("it is new");
    }
    for (sku_id, pinned) in engine.promote(&hot).await {
        pinned.unwrap_or_else(|refusal| panic!("{sku_id}: {refusal}"));
    }

    let mut figures = Vec::new();
    let mut number = 0;
    println!("orders reserved and confirmed, each answer behind its sync; p99 of reserve / confirm");
    for callers in CALLERS {
        for lines in LINES {
            let mut sums: Vec<Figure> = Vec::new();
            for round in 0..ROUNDS {
                for (at, kind) in Kind::ALL.into_iter().enumerate() {
                    number += 1;
                    // What the run before left to be flushed would take its part of the machine.
                    while engine.stats().shards.iter().any(|shard| shard.lag_events > 0) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let seconds = seconds / f64::from(ROUNDS);
                    let figure = run(&engine, &catalogue, kind, lines, callers, seconds, number).await;
                    match round {
                        0 => sums.push(figure),
                        _ => {
                            sums[at].orders += figure.orders;
                            sums[at].seconds += figure.seconds;
                            sums[at].reserves.extend(figure.reserves);
                            sums[at].confirms.extend(figure.confirms);
                        }
                    }
                }
            }
            let mut one_shard = None;
            for (kind, mut figure) in Kind::ALL.into_iter().zip(sums) {
                #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
                let rate = figure.orders as f64 / figure.seconds;
                let ratio = rate / *one_shard.get_or_insert(rate);
                let (reserve, confirm) = (p99(&mut figure.reserves), p99(&mut figure.confirms));
                println!(
                    "{callers:4} callers, {lines:2} lines, {:28} {rate:8.0} orders/s ({ratio:.2} of one shard), p99 {reserve:9.2?} / {confirm:9.2?}",
                    kind.name()
                );
                figures.push(json!({ "callers": callers, "lines": lines, "place": kind.name(), "orders_per_second": rate,
                    "of_one_shard": ratio, "reserve_p99_micros": reserve.as_micros(), "confirm_p99_micros": confirm.as_micros() }));
            }
        }
    }
    engine.stop().await;
    if let Some(path) = path {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let all = json!({ "durability": "every answer behind a sync", "machine_cores": cores, "shards": SHARDS,
            "payload": "quantity 1 a line, reserve and confirm", "store": "sqlite", "figures": figures });
        std::fs::write(path, serde_json::to_vec_pretty(&all).expect("numbers and text"))
            .expect("the file can be written");
    }
}
