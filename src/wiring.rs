//! The one place that makes a server of its parts: persistence under the engine under HTTP.

use std::net::SocketAddr;

use hotstock_engine::engine::Engine;

use crate::config::Config;
use crate::failure::Failure;

/// A running server.
pub struct Server {
    engine: Engine,
    address: SocketAddr,
}

/// Opens the data directory and starts the engine, without HTTP.
pub async fn start_engine(_config: &Config) -> Result<Engine, Failure> {
    Err(Failure::Other("not wired".into()))
}

impl Server {
    /// Starts engine and HTTP.
    pub async fn start(config: &Config) -> Result<Self, Failure> {
        let engine = start_engine(config).await?;
        Ok(Self { engine, address: config.server.listen })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it ends by itself, which it only does when it fails.
    pub async fn ended(&mut self) -> Failure {
        std::future::pending().await
    }

    /// Stops in order.
    pub async fn stop(self) {
        self.engine.stop().await;
    }
}
