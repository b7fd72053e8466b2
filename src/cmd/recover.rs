//! `hotstock recover --from-store`: a new data directory from the SQL store, after the old one was lost.
//!
//! What a shard had logged and the store had not taken in is lost: it says up to which event everything is there. The
//! store is taken first, so that the old server is fenced, should it still run, and nothing changes while the store is
//! read. A run that broke off is begun again with another directory.

use std::path::Path;
use std::time::{Duration, Instant};

use hotstock_engine::checkpoint::{CheckpointError, CheckpointStore as _, FilterManifest, Identity as _};
use hotstock_engine::ids::{Epoch, Lsn, ServerId};
use hotstock_engine::limits::TAKE_OVER_WAIT_MILLIS;
use hotstock_engine::options::StartError;
use hotstock_engine::ownership::{LOCKED, NotOurs};
use hotstock_engine::restore::{Restored, RestoredShard, restore};
use hotstock_engine::seize::{Seized, hand_over, seize};
use hotstock_engine::store::{Ownership, Store as _};
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::sql::SqlStore;

use crate::cli::Recover;
use crate::clock::wall;
use crate::cmd::say;
use crate::config::Config;
use crate::failure::Failure;
use crate::store;

/// Entries of one slice of a checkpoint.
const SLICE: usize = 2_048;

/// A server that seems to live for this long does.
const SEEMS_ALIVE: Duration = Duration::from_secs(3);

/// A store that a session of the old server locks does not do so for longer.
const LOCKED_FOR: Duration = Duration::from_millis(TAKE_OVER_WAIT_MILLIS);

/// How often it is asked for meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// SKUs that are named one by one.
const MAX_NAMED: usize = 20;

/// Recovers.
///
/// # Errors
/// [`Failure`]; it can be run again, with another new directory.
pub async fn run(args: Recover, config: Config) -> Result<(), Failure> {
    debug_assert!(args.from_store, "clap asks for it");
    if config.store.url.is_empty() {
        return Err(Failure::Usage(
            "`store.url` is empty: that store is SQLite in the data directory, and lost with it. Name the store to recover from".to_owned(),
        ));
    }
    let (path, place) = (&config.data.dir, store::place(&config));
    let store = store::open_for_tool(&config)?;
    let failed = |error| Failure::other(&format!("reading {place}"), error);
    let owned = store.ownership().await.map_err(failed)?;
    // Before the old server is fenced for nothing.
    if owned.epoch == Epoch::ZERO {
        return Err(Failure::Other(format!(
            "{place}: no server has ever used it: there is nothing to recover"
        )));
    }
    if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(not_empty(path, &owned));
    }
    say(format_args!("{place}: taking it; a lease that still runs is waited out"));
    let seized = take(&store, &config, args.take_over, &place).await?;
    let restored = restore(&store, seized.epoch, &seized.owned, wall()).await;
    let restored = restored.map_err(|error| Failure::other(&format!("reading {place}"), error))?;
    let data_dir = write(&config, &restored, &seized)?;
    let epoch = hand_over(&store, &seized, &data_dir.identity()?).await?;
    store.close().await;

    tell(&restored, &seized);
    let dir = path.display();
    say(format_args!(
        "\n{dir} is the data directory of this store now, with epoch {epoch}; the old one is fenced."
    ));
    say(format_args!("If it turns up again, `hotstock unflushed` lists what it answered that is not here."));
    say(format_args!("Start the new one with: hotstock serve --data-dir {dir}, and the same configuration"));
    Ok(())
}

/// Takes the store. A database notices some moments after it that a server was killed, so one that seems to live is
/// asked for again.
async fn take(store: &SqlStore, config: &Config, over: bool, place: &str) -> Result<Seized, Failure> {
    let (until, locked_until) = (Instant::now() + SEEMS_ALIVE, Instant::now() + LOCKED_FOR);
    let mut told = false;
    loop {
        match seize(store, anybody()?, config.store.lease_seconds, over).await {
            Err(NotOurs::OwnerAlive) if Instant::now() < until => tokio::time::sleep(ASK_AGAIN).await,
            Err(NotOurs::OwnerAlive) => {
                return Err(Failure::InUse(format!(
                    "{place}: another server is using it. Stop that one, or give `--take-over`, which fences it"
                )));
            }
            Err(NotOurs::Unavailable(problem)) if Instant::now() < locked_until => {
                if !std::mem::replace(&mut told, true) {
                    let seconds = LOCKED_FOR.as_secs();
                    eprintln!(
                        "{place}: {problem}; it is tried again for {seconds} s: a session of the old server may lock it"
                    );
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(NotOurs::Unavailable(problem)) => {
                return Err(
                    NotOurs::Unavailable(format!("{place} could not be taken: {problem}. {LOCKED}")).into()
                );
            }
            seized => return Ok(seized?),
        }
    }
}

/// Why nothing is recovered into a directory that is there.
fn not_empty(path: &Path, owned: &Ownership) -> Failure {
    let dir = path.display();
    let identity = DataDir::open(path, None).and_then(|data_dir| data_dir.identity());
    Failure::Usage(match identity {
        Ok(identity) if owned.server == Some(identity.server()) && owned.epoch == identity.epoch() => {
            format!("{dir}: this is the data directory of this store: start it, there is nothing to recover")
        }
        _ => format!("{dir}: this directory holds something: recover into a new one"),
    })
}

/// An id that no server has.
fn anybody() -> Result<ServerId, Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Failure::other("making a random id", error))?;
    Ok(ServerId(u128::from_be_bytes(id)))
}

/// Makes the directory: journals that go on at the watermarks, and a checkpoint of each shard.
fn write(config: &Config, restored: &Restored, seized: &Seized) -> Result<DataDir, Failure> {
    let bases: Vec<_> = restored.shards.iter().map(|shard| (shard.mark.lsn, shard.mark.hash)).collect();
    let new = DataDir::restore(&config.data.dir, &bases)?;
    let checkpoints = new.checkpoints();
    for shard in &restored.shards {
        let RestoredShard { mark, images, end, .. } = shard;
        // A shard of which nothing was flushed begins with its journal.
        if mark.lsn == Lsn::ZERO && images.is_empty() {
            continue;
        }
        let write = || -> Result<(), CheckpointError> {
            let mut writer = checkpoints.create(mark.shard, mark.lsn)?;
            images.chunks(SLICE).try_for_each(|slice| writer.write(slice))?;
            // The filter is filled from the store.
            writer.finish(*end, &FilterManifest::default())
        };
        write().map_err(StartError::from)?;
    }
    Ok(new.finish(seized.epoch)?)
}

fn tell(restored: &Restored, seized: &Seized) {
    if let Some(before) = seized.before {
        say(format_args!("server {before} had the store, with epoch {}", seized.epoch.0.saturating_sub(1)));
    }
    for RestoredShard { mark, skus, open_orders, holds, .. } in &restored.shards {
        let shard = mark.shard;
        match mark.lsn {
            Lsn::ZERO => say(format_args!("shard {shard}: nothing of it was ever flushed")),
            lsn => say(format_args!(
                "shard {shard}: everything up to LSN {lsn} is there; what was logged after that is lost. In memory: {skus} SKUs, \
                 {open_orders} open orders; held for orders of other shards: {holds}"
            )),
        }
    }
    for (sku_id, _) in restored.repaired.iter().take(MAX_NAMED) {
        say(format_args!("SKU {sku_id}: its rows were not what the stock journal says, and were put right"));
    }
    if restored.repaired.len() > MAX_NAMED {
        say(format_args!("(and {} more)", restored.repaired.len() - MAX_NAMED));
    }
}
