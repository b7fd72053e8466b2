//! The one place that makes a server of its parts: persistence under the engine under HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hotstock_engine::clock::{Clock, Timestamp};
use hotstock_engine::engine::{Engine, EngineOptions, Parts, StartError, StoreOptions};
use hotstock_engine::ids::WarehouseId;
use hotstock_engine::journal::JournalError;
use hotstock_persistence::data_dir::{DataDir, DataDirError};
use hotstock_persistence::journal::JournalOptions;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::Config;
use crate::failure::Failure;

/// The wall clock; the engine sees time only through this.
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is a broken one; time then stands still at 0, which shards bear.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Connections that the kernel keeps while they wait to be accepted. The usual 128 overflow when all clients of a sale come
/// back after a restart, and those over it wait a second for their next try. The kernel may allow less.
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
    engine: Engine,
}

/// Opens the data directory and starts the engine, without HTTP.
///
/// # Errors
/// [`Failure`], with the exit code that says why.
pub async fn start_engine(config: &Config) -> Result<Engine, Failure> {
    let (path, shards) = (config.data.dir.clone(), config.engine.shards);
    let options = journal_options(config);
    // Reading a journal back after a crash takes its time; signals and timers must run meanwhile.
    let opened = tokio::task::spawn_blocking(move || {
        let data_dir = DataDir::open(&path, Some(shards))?;
        // The journal keeps the directory locked from here on.
        let journal = data_dir.journal(options).map_err(StartError::from)?;
        Ok::<_, Failure>((journal, data_dir.checkpoints()))
    });
    let (journal, checkpoints) =
        opened.await.map_err(|error| Failure::other("opening the journal", error))??;
    let parts = Parts::new(Box::new(journal), Arc::new(checkpoints), Arc::new(WallClock));
    Ok(Engine::start(engine_options(config), parts).await?)
}

impl Server {
    /// Starts engine and HTTP.
    ///
    /// # Errors
    /// [`Failure`], with the exit code that says why.
    pub async fn start(config: &Config) -> Result<Self, Failure> {
        let listen = config.server.listen;
        let failed = |error| Failure::other(&format!("listening on {listen}"), error);
        // First, because it fails at once where recovery takes its time.
        let listener = listener(listen).map_err(failed)?;
        let engine = start_engine(config).await?;
        let http =
            hotstock_api::Server::start(listener, engine.clone(), http_options(config)).map_err(failed)?;
        Ok(Self { http, engine })
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
        self.engine.stop().await;
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
        self.engine.stop().await;
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        shards: config.engine.shards,
        gate_permits: config.engine.gate_permits,
        remember_seconds: config.orders.remember_hours * 3_600,
        remember_max: config.orders.remember_max,
        checkpoint_events: config.checkpoint.events,
        store: StoreOptions::default(),
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
            DataDirError::InUse { .. } => Self::DataDirInUse(problem),
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
            _ => Self::Other(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What config/default.toml says is what each part would choose for itself, reasons included.
    #[test]
    fn the_defaults_of_the_parts_are_those_of_the_configuration() {
        let config = Config::defaults();
        let text = |value: &dyn std::fmt::Debug| format!("{value:#?}");
        assert_eq!(text(&engine_options(&config)), text(&EngineOptions::default()));
        assert_eq!(text(&journal_options(&config)), text(&JournalOptions::default()));
        assert_eq!(text(&http_options(&config)), text(&hotstock_api::Options::default()));
    }
}
