//! The configuration: the keys, their bounds, and the order of the layers. How a layer is read is in [`layers`].
//!
//! Layers, each over the one before: `config/default.toml` (part of the program, with a reason on every key), the file given
//! with `--config`, the environment (`HOTSTOCK__SECTION__KEY`), flags. Whatever does not fit is an error that names
//! the place where it was said.

mod layers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hotstock_engine::limits::MAX_SHARDS;
use serde::{Deserialize, Serialize};

pub use layers::ConfigError;
use layers::{Entry, Place};

/// The first layer, with the reason for every key.
const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Variables that begin so are ours; an unknown one among them is an error.
const ENV_PREFIX: &str = "HOTSTOCK__";

/// The whole configuration. What each key means stands in `config/default.toml`, and only there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each section")]
pub struct Config {
    pub server: Server,
    pub data: Data,
    pub engine: EngineKeys,
    pub orders: Orders,
    pub journal: Journal,
    pub checkpoint: Checkpoint,
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Server {
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub request_timeout_ms: u64,
    pub shutdown_grace_ms: u64,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Data {
    pub dir: PathBuf,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct EngineKeys {
    pub shards: u16,
    pub gate_permits: u32,
    pub default_warehouse: u32,
}

/// `[orders]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Orders {
    pub remember_hours: u64,
    pub remember_max: usize,
}

/// `[journal]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Journal {
    pub segment_bytes: u64,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Checkpoint {
    pub events: u64,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents each key")]
pub struct Log {
    pub level: String,
}

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
    /// The defaults alone, for servers that live inside another command.
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
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::new(Some(&Place::File { name: name.clone(), line: None }), error))?;
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
        let at_least = |key, value: u64, least: u64| {
            (value < least).then(|| (key, format!("is {value}, but must be {least} or more")))
        };
        let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let server = &self.server;
        at_least("server.max_connections", as_u64(server.max_connections), 1)
            .or_else(|| at_least("server.max_body_bytes", as_u64(server.max_body_bytes), 1024))
            // hyper takes no smaller buffer for the head.
            .or_else(|| at_least("server.max_header_bytes", as_u64(server.max_header_bytes), 8192))
            .or_else(|| at_least("server.request_timeout_ms", server.request_timeout_ms, 1))
            .or_else(|| at_least("engine.gate_permits", u64::from(self.engine.gate_permits), 1))
            .or_else(|| at_least("orders.remember_hours", self.orders.remember_hours, 1))
            .or_else(|| at_least("orders.remember_max", as_u64(self.orders.remember_max), 1))
            .or_else(|| at_least("journal.segment_bytes", self.journal.segment_bytes, 1 << 20))
            .or_else(|| at_least("checkpoint.events", self.checkpoint.events, 1))
            .or_else(|| match self.engine.shards {
                1..=MAX_SHARDS => None,
                n => Some(("engine.shards", format!("is {n}, but must be 1 to {MAX_SHARDS}"))),
            })
            .or_else(|| {
                let filter = tracing_subscriber::EnvFilter::try_new(&self.log.level);
                filter.err().map(|error| ("log.level", error.to_string()))
            })
    }
}

#[cfg(test)]
mod tests;
