//! Rows a second that the SQL store takes in from the shards of a server, on SQLite and on a MariaDB of its own (both
//! on the real disk, a sync per commit). Orders that are reserved and confirmed, as a sale makes them. Flushed in two
//! ways, as many events a round in both: `together`, as the flusher does, one transaction for all shards; `apart`,
//! one transaction for each shard, all at the same time. The ratio is what the store's consistency over shards costs.
//! `--orders N` changes how many, `--batch N` the events of a round, `--skus N` the SKUs that they are about,
//! `--shards N` the shards; `--only sqlite` or `--only mariadb` runs one.

use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::join_all;
use hotstock_engine::ids::{Epoch, ServerId, TakeId};
use hotstock_engine::limits::MAX_LOADED_AT_ONCE;
use hotstock_engine::store::{FlushBatch, Store as _, StoredSku, Take, Wanted};
use hotstock_engine::testing::store_suite::{Shards, W1, confirm, create, reserve, sku};
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;

struct Scale {
    orders: u64,
    batch: usize,
    skus: usize,
    shards: u16,
}

/// How what the shards have logged is flushed.
#[derive(Debug, Clone, Copy)]
enum How {
    Together,
    Apart,
}

fn main() {
    let mut scale = Scale { orders: 100_000, batch: 20_000, skus: 10_000, shards: 8 };
    let mut only = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value follows");
        match argument.as_str() {
            "--orders" => scale.orders = value().parse().expect("a number"),
            "--batch" => scale.batch = value().parse().expect("a number"),
            "--skus" => scale.skus = value().parse().expect("a number"),
            "--shards" => scale.shards = value().parse().expect("a number"),
            "--only" => only = Some(value()),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("store   shards  how       events  batch    rows  seconds  events/s   rows/s  longest round ms");
    if wanted("sqlite") {
        // /tmp may be memory, which syncs in no time.
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let home = tempfile::tempdir_in(home).expect("a directory");
        let url = |how| format!("sqlite:{}", home.path().join(format!("{how:?}.sqlite")).display());
        runtime.block_on(both("sqlite", url, &scale));
    }
    if wanted("mariadb") {
        let server = MariaDb::start();
        let url = |how| server.url(&format!("hotstock_{how:?}").to_lowercase());
        runtime.block_on(both("mariadb", url, &scale));
    }
}

async fn both(name_of_store: &str, url: impl Fn(How) -> String, scale: &Scale) {
    let apart = run(name_of_store, &url(How::Apart), scale, How::Apart).await;
    let together = run(name_of_store, &url(How::Together), scale, How::Together).await;
    println!(
        "{name_of_store:8} together takes in {:.2} times the events a second of apart",
        together / apart
    );
}

/// What the shards logged: a confirm comes some thousand orders after its reserve, so that most are flushed in another
/// round.
fn sale(shards: &mut Shards, names: &[Vec<String>], orders: u64) {
    let behind = orders.min(5_000);
    let count = shards.all.len() as u64;
    let place = |n: u64| usize::try_from(n % count).expect("it is small");
    for n in 0..orders + behind {
        if n < orders {
            let of_shard = &names[place(n)];
            let sku = &of_shard[usize::try_from(n / count).expect("it is small") % of_shard.len()];
            shards.all[place(n)].must(reserve(&format!("order-{n:012}"), &[(sku, 1)]));
        }
        if n >= behind {
            shards.all[place(n - behind)].must(confirm(&format!("order-{:012}", n - behind), None));
        }
    }
}

/// Flushes a sale; events a second.
async fn run(name_of_store: &str, url: &str, scale: &Scale, how: How) -> f64 {
    let store = SqlStore::open(&SqlOptions::new(url)).expect("an address");
    let take = Take {
        id: TakeId(1),
        server: ServerId(1),
        shards: scale.shards,
        after: Epoch::ZERO,
        epoch: Epoch(1),
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.expect("it is new");
    let mut shards = Shards::new(scale.shards);
    let names = shards.names("sku", scale.skus / shards.all.len());
    for (shard, names) in shards.all.iter_mut().zip(&names) {
        names.iter().for_each(|name| shard.must(create(name, W1, 1_000_000_000)));
    }
    shards.flush_all(&store).await;
    sale(&mut shards, &names, scale.orders);
    let left = |shards: &Shards| shards.all.iter().map(|shard| shard.events.len()).sum::<usize>();
    let (events, begun) = (left(&shards), Instant::now());
    let (mut rows, mut longest) = (0, 0.0_f64);
    while left(&shards) > 0 {
        let (start, of_each) = (Instant::now(), scale.batch.div_ceil(shards.all.len()));
        let batch = |parts| store.flush(FlushBatch { epoch: Epoch(1), parts });
        let flushed = match how {
            How::Together => {
                vec![batch(shards.all.iter().map(|shard| shard.part(of_each)).collect()).await]
            }
            How::Apart => join_all(shards.all.iter().map(|shard| batch(vec![shard.part(of_each)]))).await,
        };
        for flushed in flushed {
            let flushed = flushed.expect("it flushes");
            rows += flushed.rows;
            for mark in flushed.watermarks {
                let shard = &mut shards.all[mark.shard.index()];
                if mark.lsn > shard.flushed {
                    shard.move_to(mark.lsn);
                }
            }
        }
        longest = longest.max(start.elapsed().as_secs_f64() * 1e3);
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (per_event, per_row) = (events as f64 / seconds, rows as f64 / seconds);
    let how = format!("{how:?}").to_lowercase();
    println!(
        "{name_of_store:8} {:5}  {how:8} {events:7} {:6} {rows:7} {seconds:8.2} {per_event:9.0} {per_row:8.0} {longest:17.0}",
        scale.shards, scale.batch
    );
    let skus: Vec<_> = names.iter().flatten().map(|name| sku(name)).collect();
    let begun = Instant::now();
    for skus in skus.chunks(MAX_LOADED_AT_ONCE) {
        let loaded =
            store.load(&Wanted { skus: skus.to_vec(), ..Wanted::default() }).await.expect("it loads");
        assert!(loaded.skus.values().all(|stored| matches!(stored, StoredSku::Sound(_))));
    }
    println!("{name_of_store:8} {} SKUs loaded in {:.0} ms", skus.len(), begun.elapsed().as_secs_f64() * 1e3);
    store.close().await;
    per_event
}
