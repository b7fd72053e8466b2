//! `hotstock recover --from-store`: a new data directory from the SQL store, after the old one was lost.
//!
//! What a shard had logged and the store had not taken in yet is lost: it says up to which event everything is there. The lost server is
//! fenced, should it still run somewhere: nothing that it writes of these SKUs is taken any more.

use std::time::{Duration, Instant};

use hotstock_engine::checkpoint::Stage;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{ServerId, SkuId};
use hotstock_engine::limits::MAX_PAGE_ROWS;
use hotstock_engine::store::Store as _;
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::sql::{Holding, SqlStore};

use crate::cli::Recover;
use crate::cmd::say;
use crate::config::Config;
use crate::failure::Failure;
use crate::store;
use crate::wiring::{self, Books};

/// How often the shards are asked how far they are.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Shards that take no SKU for this long don't come to an end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Recovers.
///
/// # Errors
/// [`Failure`]; it can be run again with the same directory, and goes on from there.
pub async fn run(args: Recover, mut config: Config) -> Result<(), Failure> {
    debug_assert!(args.from_store, "clap asks for it");
    if config.store.url.is_empty() {
        return Err(Failure::Usage(
            "`store.url` is empty: that store is SQLite in the data directory, and lost with it. Name the store to recover from".to_owned(),
        ));
    }
    let place = store::place(&config);
    let store = store::open_for_tool(&config)?;
    let failed = |error| Failure::other(&format!("reading {place}"), error);
    let holdings = store.holdings().await.map_err(failed)?;
    let lost = choose(&holdings, args.server.as_deref(), &place)?;
    let server = take_over(&store, lost, &config).await?;
    store.close().await;
    tell(lost, server, &place);

    config.engine.shards = lost.shards;
    let system = wiring::start(&config, Books::Sql).await?;
    let adopted = all_adopted(&system.engine, lost.skus).await;
    let open_orders: u64 = system.engine.stats().shards.iter().map(|shard| shard.open_orders).sum();
    system.stop().await;
    adopted?;
    let dir = config.data.dir.display();
    say(format_args!(
        "\n{dir}: {} SKUs and {open_orders} open orders are back in memory and on this disk.",
        lost.skus
    ));
    say(format_args!("Start it with: hotstock serve --data-dir {dir}, and the same store.url"));
    Ok(())
}

/// The server whose SKUs are taken over.
fn choose<'a>(holdings: &'a [Holding], asked: Option<&str>, place: &str) -> Result<&'a Holding, Failure> {
    let list = || -> String {
        let line = |h: &Holding| {
            format!(
                "\n  {}: {} SKUs, {} open orders, last opened {}",
                h.server,
                h.skus,
                h.open_orders,
                time(h.seen_at)
            )
        };
        holdings.iter().map(line).collect()
    };
    let nobody =
        || Failure::Other(format!("{place}: no server owns SKUs there. Nothing was lost: all SKUs are cold"));
    match (asked, holdings) {
        (_, []) => Err(nobody()),
        (None, [one]) => Ok(one),
        (None, _) => Err(Failure::Usage(format!(
            "several servers own SKUs; --server says which one was lost. Make sure that it does not run.{}",
            list()
        ))),
        (Some(id), _) => {
            let id = u128::from_str_radix(id, 16).map(ServerId);
            let known = id.ok().and_then(|id| holdings.iter().find(|holding| holding.server == id));
            known.ok_or_else(|| {
                Failure::Usage(format!("there is no such server; those that own SKUs are:{}", list()))
            })
        }
    }
}

/// Makes the directory and makes its server the owner.
async fn take_over(store: &SqlStore, lost: &Holding, config: &Config) -> Result<ServerId, Failure> {
    let path = &config.data.dir;
    let in_use = path.join("journal").exists();
    let data_dir = DataDir::open(path, Some(lost.shards))?;
    let server = data_dir.server_id();
    // A run that broke off after it took over: this directory owns them already.
    if server == lost.server {
        return Ok(server);
    }
    if in_use {
        return Err(Failure::Usage(format!(
            "{} is the data directory of another server, {server}: recover into a new one",
            path.display()
        )));
    }
    let taken = store.take_over(lost.server, server).await;
    taken.map_err(|error| Failure::other("taking over the SKUs", error))?;
    Ok(server)
}

fn tell(lost: &Holding, server: ServerId, place: &str) {
    say(format_args!(
        "{place}: server {} owned {} SKUs with {} open orders",
        lost.server, lost.skus, lost.open_orders
    ));
    for shard in (0..lost.shards).map(hotstock_engine::ids::ShardId) {
        match lost.watermarks.iter().find(|(of, ..)| *of == shard) {
            Some((_, lsn, at)) => say(format_args!(
                "shard {shard}: everything up to LSN {lsn} ({}) is there; what it logged after that is lost",
                time(*at)
            )),
            None => say(format_args!("shard {shard}: nothing of it was ever flushed")),
        }
    }
    say(format_args!("they belong to server {server} now; the old one is fenced"));
}

fn time(at: Timestamp) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.0));
    time.map_or_else(|| "?".to_owned(), |time| humantime::format_rfc3339_millis(time).to_string())
}

/// Waits until the shards have every SKU that is theirs.
async fn all_adopted(engine: &Engine, skus: u64) -> Result<(), Failure> {
    let (mut open, mut since) = (0, Instant::now());
    loop {
        let now = open_skus(engine);
        if now >= skus {
            return Ok(());
        }
        if now > open {
            (open, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            let problem = engine.stats().store.and_then(|store| store.problem).unwrap_or_default();
            return Err(Failure::Other(format!(
                "only {now} of {skus} SKUs are back, and no more came for {PATIENCE:?}; run it again. {problem}"
            )));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn open_skus(engine: &Engine) -> u64 {
    let (mut open, mut after): (u64, Option<SkuId>) = (0, None);
    loop {
        let page = engine.hot(after.as_ref(), MAX_PAGE_ROWS);
        open += page.iter().filter(|sku| sku.stage == Stage::Open).count() as u64;
        match page.last() {
            Some(last) => after = Some(last.sku_id.clone()),
            None => return open,
        }
    }
}
