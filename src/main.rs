//! hotstock, the program: reads the command line and hands over to one command.
//!
//! Read in this order: [`cli`] (what can be asked), [`config`], [`clock`], [`store`] and [`wiring`] (how engine,
//! persistence and API become a server), [`http`] (the client of whatever asks another server) with [`order_check`] and
//! [`operator`], [`cmd`] (one module per command), [`failure`] (exit codes). Replay, demo and bench are the crate
//! `hotstock-tools`.

mod cli;
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
