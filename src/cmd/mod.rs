//! One module per command; [`tools`] gives replay, demo and bench the servers that they ask for.

pub mod import;
pub mod migrate;
pub mod pin;
pub mod reconcile;
pub mod recover;
pub mod serve;
pub mod token;
pub mod tools;
pub mod unflushed;
pub mod verify;

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use hotstock_engine::clock::Timestamp;
pub use hotstock_tools::terminal::say;
use hotstock_tools::{bench, replay};
use tracing_subscriber::EnvFilter;

use crate::cli::{Command, Settings};
use crate::config::Config;
use crate::failure::Failure;
use crate::wiring::TakeOver;
use pin::PinWay;

/// What the commands log that are not a server: only what needs someone's attention.
const QUIET: &str = "warn";

/// Runs a command to its end.
///
/// # Errors
/// [`Failure`], with the exit code.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => {
            let config = Config::load(args.settings.config.as_deref(), unicode_env(), &args.flags())?;
            log_to_stderr(&config.log.level)?;
            let take_over = if args.take_over { TakeOver::Yes } else { TakeOver::No };
            block_on(serve::run(config, take_over))
        }
        Command::Replay(args) => {
            log_to_stderr(QUIET).and_then(|()| block_on(replay::run(args, &tools::ThisProgram)))
        }
        Command::Verify(args) => log_to_stderr(QUIET).and_then(|()| verify::run(&args)),
        Command::Migrate(args) => {
            let config = config(&args.settings)?;
            log_to_stderr(QUIET).and_then(|()| block_on(migrate::run(args.make_guards, config)))
        }
        Command::Import(args) => {
            let config = config(&args.settings)?;
            log_to_stderr(QUIET).and_then(|()| block_on(import::run(args, config)))
        }
        Command::Promote(args) => {
            log_to_stderr(QUIET).and_then(|()| block_on(pin::run(args, PinWay::Promote)))
        }
        Command::Demote(args) => log_to_stderr(QUIET).and_then(|()| block_on(pin::run(args, PinWay::Demote))),
        Command::Reconcile(args) => log_to_stderr(QUIET).and_then(|()| block_on(reconcile::run(args))),
        Command::Recover(args) => {
            let config = config(&args.settings)?;
            log_to_stderr(QUIET).and_then(|()| block_on(recover::run(args, config)))
        }
        Command::Unflushed(args) => {
            let config = config(&args.settings)?;
            log_to_stderr(QUIET).and_then(|()| block_on(unflushed::run(args, config)))
        }
        Command::Token => token::run(),
        Command::Demo(args) => log_to_stderr(QUIET).and_then(|()| block_on(tools::demo(args))),
        Command::Bench(args) => {
            log_to_stderr(QUIET).and_then(|()| block_on(bench::run(args, &tools::ThisProgram)))
        }
    }
}

/// The configuration of a command that is not a server's.
fn config(settings: &Settings) -> Result<Config, Failure> {
    Ok(Config::load(settings.config.as_deref(), unicode_env(), &settings.flags())?)
}

/// A time for people, as the HTTP contract writes it.
pub fn time(at: Timestamp) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at.0));
    time.map_or_else(|| "?".to_owned(), |time| humantime::format_rfc3339_millis(time).to_string())
}

/// The environment; what is not text can't be a setting.
fn unicode_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| Failure::Usage(error.to_string()))?;
    // Colours are for people, not for files.
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    Ok(())
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::other("starting the runtime", error))?.block_on(command)
}
