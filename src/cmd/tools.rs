//! `hotstock replay`, `demo` and `bench`: starts the servers that the tools of [`hotstock_tools`] ask for.

use std::net::SocketAddr;

use hotstock_engine::engine::Engine;
use hotstock_tools::demo;
use hotstock_tools::host::{Host, Running, Serving, Setup};

use crate::cli::set_flags;
use crate::cmd::serve::LISTENS;
use crate::config::Config;
use crate::failure::Failure;
use crate::wiring::{self, Server, System, TakeOver};

/// Starts servers as `hotstock serve` does, by the defaults and what the command line says; files and the environment
/// don't count, so that a tool measures and shows the same everywhere.
pub struct ThisProgram;

/// Runs the demo, with this program as its server.
///
/// # Errors
/// [`Failure`], as the demo has it.
pub async fn demo(args: demo::Args) -> Result<(), Failure> {
    let file = std::env::current_exe();
    let file = file.map_err(|error| Failure::other("looking up this program's file", error))?;
    Ok(demo::run(args, demo::Program { file: &file, listens: LISTENS }).await?)
}

fn config(setup: &Setup) -> Result<Config, Failure> {
    let flags: Vec<_> = set_flags(&setup.set).collect();
    let mut config = Config::load(None, [], &flags)?;
    config.server.listen.set_port(0);
    config.engine.shards = setup.shards;
    config.data.dir = setup.data_dir.clone();
    if let Some(store) = &setup.store {
        config.store.url = store.clone().into();
    }
    Ok(if setup.evicting { wiring::evicting(&config) } else { config })
}

impl Host for ThisProgram {
    type Failure = Failure;
    type System = System;
    type Server = Server;

    async fn open(&self, setup: &Setup) -> Result<System, Failure> {
        wiring::start(&config(setup)?, TakeOver::No).await
    }

    async fn serve(&self, setup: &Setup) -> Result<Server, Failure> {
        Server::start(&config(setup)?, TakeOver::No).await
    }
}

impl Running for System {
    fn engine(&self) -> &Engine {
        &self.engine
    }

    async fn stop(self) {
        System::stop(&self).await;
    }
}

impl Running for Server {
    fn engine(&self) -> &Engine {
        Server::engine(self)
    }

    async fn stop(self) {
        Server::stop(self).await;
    }
}

impl Serving for Server {
    fn address(&self) -> SocketAddr {
        Server::address(self)
    }
}
