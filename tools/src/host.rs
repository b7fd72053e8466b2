//! What a tool asks of the program that it is a part of: servers in this process, with or without HTTP.
//!
//! The tools know the engine and the HTTP contract. How journal, store and HTTP are put together to a server is the
//! program's knowledge, so it comes in through [`Host`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hotstock_engine::counters::ShardStats;
use hotstock_engine::engine::Engine;

use crate::failure::Failure;

/// SKUs that don't leave memory for this long don't leave it at all.
const EVICTION_PATIENCE: Duration = Duration::from_secs(60);

/// How often is looked whether they have left.
const EVICTION_POLL: Duration = Duration::from_millis(20);

/// The program that a tool is a part of.
pub trait Host {
    /// How the program fails; a tool's own failures become such.
    type Failure: From<Failure>;
    /// A running engine.
    type System: Running;
    /// A running server: an engine, and HTTP over it.
    type Server: Serving;

    /// Starts an engine without HTTP.
    fn open(&self, setup: &Setup) -> impl Future<Output = Result<Self::System, Self::Failure>>;

    /// Starts a server on a free port of this machine.
    fn serve(&self, setup: &Setup) -> impl Future<Output = Result<Self::Server, Self::Failure>>;
}

/// An engine that runs in this process.
pub trait Running {
    /// The engine.
    fn engine(&self) -> &Engine;

    /// Stops in order: everything that was answered is durable, and flushed if the store is there.
    fn stop(self) -> impl Future<Output = ()>;
}

/// A server that runs in this process.
pub trait Serving: Running {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
}

/// What a server is started with. Everything else is as the program's defaults have it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Keys of the configuration and their values, as `--set` gives them.
    pub set: Vec<(String, String)>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How many shards it has.
    pub shards: u16,
    /// The SQL store; without it SQLite in the data directory.
    pub store: Option<String>,
    /// Every idle SKU leaves memory as soon as it is flushed, so that all of them come to lie in the store alone.
    pub evicting: bool,
}

/// Waits until the SKUs of an engine with [`Setup::evicting`] have left memory: all but one for each shard, those that
/// hold orders and the hot ones.
///
/// # Errors
/// [`Failure::Other`] when none leaves any more and too many are left.
pub async fn all_evicted(engine: &Engine) -> Result<(), Failure> {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    loop {
        let shards = engine.stats().shards;
        let sum = |of: fn(&ShardStats) -> u64| shards.iter().map(of).sum::<u64>();
        let left = sum(|shard| shard.resident);
        if left <= shards.len() as u64 + sum(|shard| shard.open_orders) + sum(|shard| shard.hot) {
            return Ok(());
        }
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if since.elapsed() > EVICTION_PATIENCE {
            return Err(Failure::Other(format!("{left} SKUs are still in memory, and none leaves any more")));
        }
        tokio::time::sleep(EVICTION_POLL).await;
    }
}

/// Reads `KEY=VALUE` of a command line.
///
/// # Errors
/// In words, when it is something else.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
