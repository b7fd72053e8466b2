//! The one place that makes a server of its parts: persistence under the engine under HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hotstock_api::limits::MirrorLink;
use hotstock_engine::check::{CheckOptions, Unanswered};
use hotstock_engine::dirty::Dirty;
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::journal::JournalError;
use hotstock_engine::limits::MAX_DIRTY_STOCKS;
use hotstock_engine::mirror::Mirror;
use hotstock_engine::options::{EngineOptions, Parts, StartError, StoreOptions};
use hotstock_engine::ownership::NotOurs;
use hotstock_engine::store::{Store, StoreError};
use hotstock_persistence::data_dir::{DataDir, DataDirError};
use hotstock_persistence::journal::JournalOptions;
use hotstock_persistence::mirror::{MirrorAccess, MirrorOptions, RedisMirror};
use hotstock_persistence::sql::SqlStore;
use tokio::net::{TcpListener, TcpSocket};

use crate::clock::CarriedClock;
use crate::config::Config;
use crate::failure::Failure;
use crate::order_check::HttpOrderCheck;

/// Connections that the kernel keeps while they wait to be accepted. The usual 128 overflow when all clients of a sale
/// come back after a restart, and those over it wait a second for their next try. The kernel may allow less.
const LISTEN_BACKLOG: u32 = 4_096;

/// Listens on an address, also on one that a process had just now which was killed.
///
/// # Errors
/// What the system says.
pub fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// A running server: HTTP over an engine.
pub struct Server {
    http: hotstock_api::Server,
    system: System,
}

/// Whether a server may take the SQL store from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// It may not: a store that somebody uses is refused.
    No,
    /// It may: an operator says that the other one is given up.
    Yes,
}

/// An engine and what works beside it.
pub struct System {
    /// The engine.
    pub engine: Engine,
    store: Arc<SqlStore>,
    mirror: Option<(Arc<RedisMirror>, Arc<MirrorAccess>)>,
}

impl System {
    /// What HTTP tells of the mirror.
    fn mirror_link(&self) -> Option<MirrorLink> {
        let (mirror, access) = self.mirror.as_ref()?;
        let (mirror, access) = (Arc::clone(mirror), Arc::clone(access) as Arc<dyn Mirror>);
        Some(MirrorLink { mirror: access, stats: Arc::new(move || mirror.stats()) })
    }

    /// Stops in order: the engine, with its last flush to the store; then who follows it; then the store.
    pub async fn stop(&self) {
        self.engine.stop().await;
        if let Some((mirror, _)) = &self.mirror {
            mirror.stop().await;
        }
        self.store.close().await;
    }
}

/// Opens the data directory and starts the engine, without HTTP.
///
/// # Errors
/// [`Failure`], with the exit code that says why.
pub async fn start(config: &Config, take_over: TakeOver) -> Result<System, Failure> {
    let mirror_options = crate::store::mirror_options(config)?;
    let (path, shards) = (config.data.dir.clone(), config.engine.shards);
    let options = journal_options(config);
    // Reading a journal back after a crash takes its time; signals and timers must run meanwhile.
    let opened = tokio::task::spawn_blocking(move || {
        let data_dir = DataDir::open(&path, Some(shards))?;
        // The journal keeps the directory locked from here on.
        let journal = data_dir.journal(options).map_err(StartError::from)?;
        Ok::<_, Failure>((journal, data_dir))
    });
    let (journal, data_dir) =
        opened.await.map_err(|error| Failure::other("opening the journal", error))??;
    let store = Arc::new(crate::store::open(config, &data_dir)?);
    reach(&store, config).await?;
    let mut parts = Parts::new(
        Box::new(journal),
        Arc::new(data_dir.checkpoints()),
        Arc::new(data_dir.filters()),
        Arc::new(data_dir.identity()?),
        Arc::new(CarriedClock::start()),
        Arc::clone(&store) as Arc<dyn Store>,
    );
    let mut mirror = None;
    if let Some(options) = mirror_options {
        let dirty = Arc::new(Dirty::new(MAX_DIRTY_STOCKS));
        parts = parts.with_dirty(Arc::clone(&dirty));
        mirror = Some((options, dirty));
    }
    if let Some(check) = HttpOrderCheck::new(&config.orders)? {
        parts = parts.with_order_check(Arc::new(check));
    }
    #[cfg(debug_assertions)]
    let parts = crate::failpoint::set(parts)?;
    let options = EngineOptions { take_over: take_over == TakeOver::Yes, ..engine_options(config) };
    let engine = Engine::start(options, parts).await?;
    let start_mirror = |(options, dirty): (MirrorOptions, _)| {
        let access = MirrorAccess::new(options.clone())?;
        let source = Arc::new(engine.clone());
        RedisMirror::start(options, dirty, source).map(|mirror| (Arc::new(mirror), Arc::new(access)))
    };
    let mirror = mirror.map(start_mirror).transpose();
    let mirror = mirror.map_err(|error| Failure::Usage(format!("[mirror]: {error}")))?;
    Ok(System { engine, store, mirror })
}

/// Makes the tables and sees that it is the right store. One that is not there is no reason not to start: SKUs in
/// memory need it not. The engine then goes on only if the directory is evidently where it was, and takes the store
/// when it is back.
async fn reach(store: &SqlStore, config: &Config) -> Result<(), Failure> {
    let place = crate::store::place(config);
    match store.migrate().await {
        Ok(store_id) => tracing::info!(%place, store_id, "the SQL store is there"),
        Err(StoreError::Foreign(problem) | StoreError::Inconsistent(problem)) => {
            return Err(Failure::Usage(format!("{place}: {problem}")));
        }
        Err(error) => {
            tracing::warn!(
                %place, %error,
                "the SQL store is not there: what is not in memory is not served until it is, and nothing is flushed"
            );
        }
    }
    Ok(())
}

/// The same configuration, but every idle SKU leaves memory as soon as it is flushed: for SKUs that shall lie in the
/// store alone.
#[must_use]
pub fn evicting(config: &Config) -> Config {
    let mut config = config.clone();
    config.engine.max_resident_skus = 1;
    config.store.flush_interval_ms = config.store.flush_interval_ms.min(100);
    config
}

impl Server {
    /// Starts store, engine and HTTP.
    ///
    /// # Errors
    /// [`Failure`], with the exit code that says why.
    pub async fn start(config: &Config, take_over: TakeOver) -> Result<Self, Failure> {
        let listen = config.server.listen;
        let failed = |error| Failure::other(&format!("listening on {listen}"), error);
        // First, because it fails at once where recovery takes its time.
        let listener = listener(listen).map_err(failed)?;
        if !listen.ip().to_canonical().is_loopback() && config.admin.token_sha256.0.is_none() {
            tracing::warn!(
                %listen,
                "whoever reaches this address can order, and change stock: it is not this machine's own, and there is no token \
                 (admin.token_sha256; operators' calls are taken from this machine alone)"
            );
        }
        let system = start(config, take_over).await?;
        let options = hotstock_api::Options { mirror: system.mirror_link(), ..http_options(config) };
        let http = hotstock_api::Server::start(listener, system.engine.clone(), options).map_err(failed)?;
        Ok(Self { http, system })
    }

    /// Its engine.
    pub fn engine(&self) -> &Engine {
        &self.system.engine
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// Waits until HTTP ends by itself, which it does only by a fault; stops the engine and tells.
    pub async fn ended(&mut self) -> Failure {
        let problem = match self.http.ended().await {
            Ok(_) => "it ended".to_owned(),
            Err(error) => error.to_string(),
        };
        self.system.stop().await;
        Failure::Other(format!("the HTTP server failed: {problem}"))
    }

    /// Stops in order: not ready, no more connections, requests under way end, sync.
    pub async fn stop(self) {
        match self.http.stop().await {
            Ok(hotstock_api::Stopped { cut_off: 0 }) => {}
            Ok(hotstock_api::Stopped { cut_off }) => {
                tracing::warn!(cut_off, "connections were cut with a request under way");
            }
            Err(error) => tracing::error!(%error, "the HTTP server panicked"),
        }
        self.system.stop().await;
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        shards: config.engine.shards,
        gate_permits: config.engine.gate_permits,
        remember_seconds: config.orders.remember_seconds,
        remember_max: config.orders.remember_max,
        max_resident_skus: config.engine.max_resident_skus,
        max_resident_bytes: config.engine.max_resident_mib << 20,
        take_over: false,
        checkpoint_events: config.checkpoint.events,
        check: CheckOptions {
            grace_seconds: config.orders.check_grace_seconds,
            unanswered: match config.orders.check_unanswered {
                crate::config::Unanswered::Release => Unanswered::Release,
                crate::config::Unanswered::Keep => Unanswered::Keep,
            },
            concurrency: config.orders.check_concurrency,
        },
        store: store_options(config),
    }
}

fn store_options(config: &Config) -> StoreOptions {
    let (store, journal) = (&config.store, &config.journal);
    StoreOptions {
        flush_interval_ms: store.flush_interval_ms,
        flush_events: store.flush_events,
        journal_cap_bytes: journal.max_disk_mib << 20,
        load_wait_ms: store.load_wait_ms,
        lease_seconds: store.lease_seconds,
        keep_days: store.keep_days,
        keep_journal_days: store.keep_journal_days,
        keep_flushed_minutes: journal.keep_flushed_minutes,
    }
}

fn journal_options(config: &Config) -> JournalOptions {
    JournalOptions { segment_bytes: config.journal.segment_bytes, zeros: config.journal.zeros_bytes }
}

fn http_options(config: &Config) -> hotstock_api::Options {
    let server = &config.server;
    hotstock_api::Options {
        default_warehouse_id: WarehouseId(config.engine.default_warehouse),
        default_ttl_seconds: config.orders.default_ttl_seconds,
        prefer_warehouses: config.orders.prefer_warehouses.iter().copied().map(WarehouseId).collect(),
        admin_token_sha256: config.admin.token_sha256.0,
        admin_from_loopback: config.admin.from_loopback,
        mirror: None,
        max_connections: server.max_connections,
        max_body_bytes: server.max_body_bytes,
        max_batch_body_bytes: server.max_batch_body_bytes,
        max_body_kib_in_flight: server.max_body_kib_in_flight,
        max_header_bytes: server.max_header_bytes,
        header_read_timeout: Duration::from_millis(server.header_read_timeout_ms),
        body_read_timeout: Duration::from_millis(server.body_read_timeout_ms),
        request_timeout: Duration::from_millis(server.request_timeout_ms),
        write_timeout: Duration::from_millis(server.write_timeout_ms),
        unready_for: Duration::from_millis(server.unready_ms),
        drain_timeout: Duration::from_millis(server.shutdown_grace_ms),
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        let problem = error.to_string();
        match error {
            DataDirError::InUse { .. } => Self::InUse(problem),
            DataDirError::OtherShards { .. } | DataDirError::BadShards { .. } => Self::Usage(problem),
            DataDirError::Damaged { .. } => Self::Damaged(problem),
            _ => Self::Other(problem),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let problem = error.to_string();
        match error {
            StartError::Journal(JournalError::Damaged { .. }) | StartError::Checkpoint(_) => {
                Self::Damaged(problem)
            }
            StartError::Inconsistent { .. } => Self::Audit(problem),
            StartError::NotOurs(not_ours) => not_ours.into(),
            StartError::Journal(_) | StartError::Spawn { .. } => Self::Other(problem),
        }
    }
}

impl From<NotOurs> for Failure {
    fn from(not_ours: NotOurs) -> Self {
        let problem = not_ours.to_string();
        match not_ours {
            NotOurs::OwnerAlive => Self::InUse(problem),
            NotOurs::Fenced { .. } => Self::Fenced(problem),
            NotOurs::Damaged(_) => Self::Damaged(problem),
            NotOurs::Unavailable(_) => Self::Other(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use hotstock_persistence::sql::SqlOptions;

    use super::*;

    /// What config/default.toml says is what each part would choose for itself, reasons included.
    #[test]
    fn the_defaults_of_the_parts_are_those_of_the_configuration() {
        let config = Config::defaults();
        let text = |value: &dyn std::fmt::Debug| format!("{value:#?}");
        assert_eq!(text(&engine_options(&config)), text(&EngineOptions::default()));
        assert_eq!(text(&journal_options(&config)), text(&JournalOptions::default()));
        let sql = SqlOptions::new("");
        assert_eq!(config.store.connections as usize, sql.connections);
        assert_eq!(u128::from(config.store.acquire_timeout_ms), sql.acquire_timeout.as_millis());
        assert_eq!(u128::from(config.store.statement_timeout_ms), sql.statement_timeout.as_millis());
        let mirror = MirrorOptions::default();
        assert_eq!(
            (
                &config.mirror.key_prefix,
                config.mirror.flush_every_ms,
                config.mirror.batch,
                config.mirror.timeout_ms
            ),
            (&mirror.prefix, mirror.flush_every_ms, mirror.batch, mirror.timeout_ms)
        );
        assert_eq!(text(&http_options(&config)), text(&hotstock_api::Options::default()));
    }
}
