//! Rows a second that the SQL store takes in from a shard, on SQLite and on a MariaDB of its own (both on the real
//! disk, a sync per commit). Orders that are reserved and confirmed, as a sale makes them. `--orders N` changes how
//! many, `--batch N` the events of one flush, `--skus N` the SKUs that they are about; `--only sqlite` or `--only
//! mariadb` runs one.

use std::path::PathBuf;
use std::time::Instant;

use hotstock_engine::ids::{Epoch, ServerId, TakeId};
use hotstock_engine::limits::MAX_LOADED_AT_ONCE;
use hotstock_engine::store::{Store as _, StoredSku, Take, Wanted};
use hotstock_engine::testing::store_suite::{TestShard, W1, confirm, create, reserve, sku};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

struct Scale {
    orders: u64,
    batch: usize,
    skus: u64,
}

fn main() {
    let mut scale = Scale { orders: 100_000, batch: 20_000, skus: 10_000 };
    let mut only = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows");
        match argument.as_str() {
            "--orders" => scale.orders = value().parse().expect("a number"),
            "--batch" => scale.batch = value().parse().expect("a number"),
            "--skus" => scale.skus = value().parse().expect("a number"),
            "--only" => only = Some(value()),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("store     events  batch    rows  seconds  events/s   rows/s  longest flush ms");
    if wanted("sqlite") {
        // /tmp may be memory, which syncs in no time.
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let home = tempfile::tempdir_in(home).expect("a directory");
        let url = format!("sqlite:{}", home.path().join("store.sqlite").display());
        runtime.block_on(run("sqlite", &url, &scale));
    }
    if wanted("mariadb") {
        let server = MariaDb::start();
        let url = server.url("hotstock");
        runtime.block_on(run("mariadb", &url, &scale));
    }
}

async fn run(name_of_store: &str, url: &str, scale: &Scale) {
    let store = SqlStore::open(&SqlOptions::new(url)).expect("an address");
    let take = Take {
        id: TakeId(1),
        server: ServerId(1),
        shards: 1,
        after: Epoch::ZERO,
        epoch: Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.expect("it is new");
    let mut shard = TestShard::new(1);
    let name = |n: u64| format!("sku-{}", n % scale.skus);
    for n in 0..scale.skus {
        shard.must(create(&name(n), W1, 1_000_000_000));
    }
    shard.flush_all(&store).await;
    // A confirm comes some thousand orders after its reserve, so that most are flushed in another batch.
    let behind = scale.orders.min(5_000);
    for n in 0..scale.orders + behind {
        if n < scale.orders {
            shard.must(reserve(&format!("order-{n:012}"), &[(&name(n), 1)]));
        }
        if n >= behind {
            shard.must(confirm(&format!("order-{:012}", n - behind), None));
        }
    }
    let (events, begun) = (shard.events.len(), Instant::now());
    let (mut rows, mut longest) = (0, 0.0_f64);
    while !shard.events.is_empty() {
        let start = Instant::now();
        rows += shard.flush(&store, scale.batch).await.expect("it flushes").rows;
        longest = longest.max(start.elapsed().as_secs_f64() * 1e3);
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (per_event, per_row) = (events as f64 / seconds, rows as f64 / seconds);
    println!(
        "{name_of_store:8} {events:7} {:6} {rows:7} {seconds:8.2} {per_event:9.0} {per_row:8.0} {longest:17.0}",
        scale.batch
    );
    let skus: Vec<_> = (0..scale.skus).map(|n| sku(&name(n))).collect();
    let begun = Instant::now();
    for skus in skus.chunks(MAX_LOADED_AT_ONCE) {
        let loaded =
            store.load(&Wanted { skus: skus.to_vec(), ..Wanted::default() }).await.expect("it loads");
        assert!(loaded.skus.values().all(|stored| matches!(stored, StoredSku::Sound(_))));
    }
    println!("{name_of_store:8} {} SKUs loaded in {:.0} ms", scale.skus, begun.elapsed().as_secs_f64() * 1e3);
    store.close().await;
}
