//! The configuration: the keys, their bounds, and the order of the layers. How a layer is read is in [`layers`].
//!
//! Layers, each over the one before: `config/default.toml` (part of the program, with a reason on every key), the file
//! given with `--config`, the environment (`HOTSTOCK__SECTION__KEY`), flags. Whatever does not fit is an error that
//! names the place where it was said.

mod layers;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hotstock_engine::limits::{MAX_SHARDS, MAX_TTL_SECONDS, MAX_WAREHOUSES_PER_SKU};
use serde::{Deserialize, Serialize};

pub use layers::ConfigError;
use layers::{Entry, Place};
pub use values::{Secret, TokenHash, redacted};

/// The first layer, with the reason for every key.
const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Variables that begin so are ours; an unknown one among them is an error.
const ENV_PREFIX: &str = "HOTSTOCK__";

/// The whole configuration. What each key means stands in `config/default.toml`, and only there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub data: Data,
    pub engine: EngineKeys,
    pub orders: Orders,
    pub store: Store,
    pub mirror: Mirror,
    pub admin: Admin,
    pub journal: Journal,
    pub checkpoint: Checkpoint,
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub max_batch_body_bytes: usize,
    pub max_body_kib_in_flight: u32,
    pub max_header_bytes: usize,
    pub header_read_timeout_ms: u64,
    pub body_read_timeout_ms: u64,
    pub request_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub unready_ms: u64,
    pub shutdown_grace_ms: u64,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub dir: PathBuf,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineKeys {
    pub shards: u16,
    pub gate_permits: u32,
    pub default_warehouse: u32,
    pub max_resident_skus: usize,
    pub max_resident_mib: u64,
}

/// `[orders]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    pub default_ttl_seconds: u32,
    pub remember_seconds: u64,
    pub remember_max: usize,
    pub prefer_warehouses: Vec<u32>,
    pub check_url: Secret,
    pub check_timeout_ms: u64,
    pub check_grace_seconds: u32,
    pub check_unanswered: Unanswered,
    pub check_concurrency: usize,
}

/// `orders.check_unanswered`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    Release,
    Keep,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub url: Secret,
    pub connections: u32,
    pub acquire_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub flush_interval_ms: u64,
    pub flush_events: usize,
    pub load_wait_ms: u64,
    pub lease_seconds: u32,
    pub keep_days: u64,
    pub keep_journal_days: u64,
}

/// `[mirror]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub redis_url: Secret,
    pub key_prefix: String,
    pub flush_every_ms: u64,
    pub batch: usize,
    pub timeout_ms: u64,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub token_sha256: TokenHash,
    pub from_loopback: bool,
}

/// `[journal]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    pub segment_bytes: u64,
    pub zeros_bytes: u64,
    pub max_disk_mib: u64,
    pub keep_flushed_minutes: u64,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    pub events: u64,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
}

/// The longest timeout that can be set: an hour. Longer ones are typing errors.
const MAX_MILLIS: u64 = 3_600_000;

/// A key set on the command line, and the flag that did it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlagValue {
    /// As the user typed it: `--listen`, `--set server.listen`.
    pub flag: String,
    /// The dotted key.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

impl Config {
    /// The defaults alone.
    #[cfg(test)]
    #[must_use]
    pub fn defaults() -> Self {
        Self::load(None, [], &[]).expect("the built-in defaults fit their struct; a test checks it")
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// [`ConfigError`], which names the place of what does not fit.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[FlagValue],
    ) -> Result<Self, ConfigError> {
        let mut merged = layers::Merged::new(layers::from_toml(DEFAULTS, "config/default.toml (built in)")?);
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| {
                ConfigError::new(Some(&Place::File { name: name.clone(), line: None }), error)
            })?;
            merged.overlay(layers::from_toml(&text, &name)?)?;
        }
        merged.overlay(layers::from_env(env, ENV_PREFIX))?;
        merged.overlay(flags.iter().map(Entry::from_flag).collect())?;
        let config: Self = merged.read()?;
        match config.out_of_bounds() {
            Some((key, problem)) => Err(merged.error_at(key, problem)),
            None => Ok(config),
        }
    }

    /// The first key whose value makes no sense, and why.
    fn out_of_bounds(&self) -> Option<(&'static str, String)> {
        let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let Server { max_connections, max_body_bytes, max_batch_body_bytes, max_header_bytes, .. } =
            self.server;
        // Each key with the least and the most that makes sense.
        let Store { connections, flush_events, .. } = self.store;
        let bounds: [(&'static str, u64, u64, u64); 38] = [
            ("server.max_connections", as_u64(max_connections), 1, 1_000_000),
            ("server.max_body_bytes", as_u64(max_body_bytes), 1024, 1 << 30),
            ("server.max_batch_body_bytes", as_u64(max_batch_body_bytes), 1024, 1 << 30),
            ("server.max_body_kib_in_flight", self.server.max_body_kib_in_flight.into(), 1024, 1 << 30),
            // hyper takes no smaller buffer for the head.
            ("server.max_header_bytes", as_u64(max_header_bytes), 8192, 1 << 20),
            ("server.header_read_timeout_ms", self.server.header_read_timeout_ms, 1, MAX_MILLIS),
            ("server.body_read_timeout_ms", self.server.body_read_timeout_ms, 1, MAX_MILLIS),
            ("server.request_timeout_ms", self.server.request_timeout_ms, 1, MAX_MILLIS),
            ("server.write_timeout_ms", self.server.write_timeout_ms, 1, MAX_MILLIS),
            ("server.unready_ms", self.server.unready_ms, 0, MAX_MILLIS),
            ("server.shutdown_grace_ms", self.server.shutdown_grace_ms, 0, MAX_MILLIS),
            ("engine.shards", self.engine.shards.into(), 1, MAX_SHARDS.into()),
            // The largest batch must fit an idle gate.
            ("engine.gate_permits", self.engine.gate_permits.into(), 10_000, 1 << 28),
            ("engine.max_resident_skus", as_u64(self.engine.max_resident_skus), 1, 1 << 32),
            ("engine.max_resident_mib", self.engine.max_resident_mib, 1, 1 << 24),
            ("orders.default_ttl_seconds", self.orders.default_ttl_seconds.into(), 1, MAX_TTL_SECONDS.into()),
            ("orders.remember_seconds", self.orders.remember_seconds, 0, 366 * 24 * 3_600),
            ("orders.remember_max", as_u64(self.orders.remember_max), 1, 1 << 32),
            ("orders.check_timeout_ms", self.orders.check_timeout_ms, 1, 60_000),
            // A day: longer than any service is away, and an extension by it is within the bounds.
            ("orders.check_grace_seconds", self.orders.check_grace_seconds.into(), 1, 24 * 3_600),
            ("orders.check_concurrency", as_u64(self.orders.check_concurrency), 1, 1_024),
            ("store.connections", connections.into(), 1, 1_000),
            ("store.acquire_timeout_ms", self.store.acquire_timeout_ms, 1, MAX_MILLIS),
            ("store.statement_timeout_ms", self.store.statement_timeout_ms, 1, MAX_MILLIS),
            ("store.flush_interval_ms", self.store.flush_interval_ms, 1, MAX_MILLIS),
            ("store.flush_events", as_u64(flush_events), 1, 1_000_000),
            ("store.load_wait_ms", self.store.load_wait_ms, 1, MAX_MILLIS),
            ("store.lease_seconds", self.store.lease_seconds.into(), 0, 3_600),
            ("store.keep_days", self.store.keep_days, 0, 36_525),
            ("store.keep_journal_days", self.store.keep_journal_days, 0, 36_525),
            ("mirror.flush_every_ms", self.mirror.flush_every_ms, 1, MAX_MILLIS),
            ("mirror.batch", as_u64(self.mirror.batch), 1, 100_000),
            ("mirror.timeout_ms", self.mirror.timeout_ms, 1, MAX_MILLIS),
            ("journal.max_disk_mib", self.journal.max_disk_mib, 1, 1 << 30),
            ("journal.keep_flushed_minutes", self.journal.keep_flushed_minutes, 0, 31 * 24 * 60),
            ("journal.segment_bytes", self.journal.segment_bytes, 1 << 16, 1 << 40),
            ("journal.zeros_bytes", self.journal.zeros_bytes, 0, 1 << 40),
            ("checkpoint.events", self.checkpoint.events, 1, u64::MAX),
        ];
        let outside = bounds.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value));
        outside
            .map(|(key, value, least, most)| (key, format!("is {value}, but must be {least} to {most}")))
            .or_else(|| self.does_not_fit())
            .or_else(|| {
                let filter = tracing_subscriber::EnvFilter::try_new(&self.log.level);
                filter.err().map(|error| ("log.level", error.to_string()))
            })
    }
}

impl Config {
    /// The first key whose value does not fit another one, or is not what it must be, and why.
    fn does_not_fit(&self) -> Option<(&'static str, String)> {
        let url = |key, url: &Secret, schemes: &[&str]| {
            let known = url.is_empty() || schemes.iter().any(|scheme| url.expose().starts_with(scheme));
            (!known).then(|| (key, format!("must be empty or begin with {}", schemes.join(" or "))))
        };
        let segment = self.journal.segment_bytes.max(self.journal.zeros_bytes);
        if self.journal.max_disk_mib << 20 < segment.saturating_mul(2) {
            let problem = "must be at least twice journal.segment_bytes and journal.zeros_bytes".to_owned();
            return Some(("journal.max_disk_mib", problem));
        }
        if self.orders.prefer_warehouses.len() > MAX_WAREHOUSES_PER_SKU {
            let problem = format!("must have at most {MAX_WAREHOUSES_PER_SKU} entries");
            return Some(("orders.prefer_warehouses", problem));
        }
        url("store.url", &self.store.url, &["mysql://", "sqlite://"])
            .or_else(|| url("orders.check_url", &self.orders.check_url, &["http://", "https://"]))
            .or_else(|| {
                let has_more = self.orders.check_url.expose().contains(['?', '#', '@']);
                has_more.then(|| ("orders.check_url", "must have no user, query or fragment".to_owned()))
            })
            .or_else(|| url("mirror.redis_url", &self.mirror.redis_url, &["redis://", "rediss://"]))
            .or_else(|| {
                let prefix = &self.mirror.key_prefix;
                let fits = (1..=64).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_graphic());
                (!fits).then(|| ("mirror.key_prefix", "must be 1 to 64 visible ASCII characters".to_owned()))
            })
    }
}

#[cfg(test)]
mod tests;
