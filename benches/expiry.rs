//! A million orders that fall due at the same moment, on the real engine and journal: how late they expire, and what
//! a caller who reserves meanwhile waits. `--orders N` takes fewer.

mod common;
#[path = "common/engine.rs"]
mod engine;

use std::time::{Duration, Instant};

use hotstock_engine::clock::Clock as _;
use hotstock_engine::command::{Action, Command, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{OrderNo, SkuId, WarehouseId};
use hotstock_engine::options::EngineOptions;

use engine::WallClock;

const BATCH: u64 = 5_000;

/// Orders are made due together by their ttl, which counts whole seconds; so this long must be enough to make them all.
const TTL_SECONDS: u64 = 20;

fn sku(name: &str) -> SkuId {
    SkuId::new(name).expect("in bounds")
}

fn create(name: &str) -> Command {
    let quantity = 100_000_000;
    Action::CreateStock(CreateStock {
        sku_id: sku(name),
        warehouse_id: WarehouseId(1),
        quantity,
        serialized: false,
    })
    .into()
}

fn reserve(order: &str, name: &str, ttl_seconds: u64) -> Command {
    let line = Line { sku_id: sku(name), warehouse_id: WarehouseId(1), quantity: 1 };
    Action::Reserve(Reserve {
        order_no: OrderNo::new(order).expect("in bounds"),
        lines: Lines::new([line]).expect("in bounds"),
        ttl_seconds: u32::try_from(ttl_seconds).expect("seconds"),
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

async fn reserved(engine: &Engine) -> u64 {
    engine.stock(&sku("due"), None).await.expect("what is in memory is read there")[0].levels.reserved
}

#[tokio::main]
async fn main() {
    let mut orders = 1_000_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--orders" => orders = arguments.next().and_then(|n| n.parse().ok()).expect("a number follows"),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let home = common::on_disk();
    let engine = engine::start(home.path(), EngineOptions::default()).await;
    for name in ["due", "probe"] {
        engine.submit(create(name)).await.expect("it is new");
    }
    let due = WallClock.now().plus_seconds(TTL_SECONDS);
    let mut made = 0;
    while made < orders {
        // Each batch aims at the same second.
        let left = due.0.saturating_sub(WallClock.now().0) / 1000;
        assert!(left > 0, "making {orders} orders took longer than {TTL_SECONDS} s");
        let batch =
            (made..orders.min(made + BATCH)).map(|n| reserve(&format!("o{n}"), "due", left)).collect();
        for outcome in engine.submit_batch(batch).await {
            outcome.expect("there is stock");
        }
        made += BATCH.min(orders - made);
    }
    println!("{orders} orders made, {} held", reserved(&engine).await);
    // The last of them are due at `due`, the first up to a second before.
    let mut probes = Vec::new();
    let (mut first, mut last) = (None, None);
    while last.is_none() {
        let began = Instant::now();
        engine.submit(reserve(&format!("p{}", probes.len()), "probe", 3_600)).await.expect("there is stock");
        probes.push(began.elapsed());
        let held = reserved(&engine).await;
        first = first.or_else(|| (held < orders).then(|| WallClock.now()));
        last = (held == 0).then(|| WallClock.now());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let [first, last] = [first, last].map(|at| at.map_or(0, |at| at.0));
    probes.sort_unstable();
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = (probes.len() as f64 * share) as usize;
        probes[index.min(probes.len() - 1)]
    };
    println!(
        "all expired within {} ms; the last {} ms after it was due",
        last - first,
        last.saturating_sub(due.0)
    );
    println!("a reserve meanwhile: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
    engine.stop().await;
}
