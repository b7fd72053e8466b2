//! hotstock, the program: reads the command line and hands over to one command.
//!
//! Read in this order: [`cli`] (what can be asked), [`config`], [`clock`], [`store`] and [`wiring`] (how engine,
//! persistence and API become a server), [`cmd`] (one module per command), [`client`] and [`wire`] (the HTTP client of
//! replay, demo and bench), [`failure`] (exit codes).

mod cli;
mod client;
mod clock;
mod cmd;
mod config;
#[cfg(debug_assertions)]
mod failpoint;
mod failure;
mod http;
mod operator;
mod order_check;
mod store;
mod wire;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cmd::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hotstock: {failure}");
            failure.exit_code()
        }
    }
}
