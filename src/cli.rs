//! The command line: what can be asked, and nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hotstock_tools::host::key_value;
use hotstock_tools::{bench, demo, replay};

use crate::config::FlagValue;
use crate::operator::ServerUrl;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong command line or configuration; 3 the data directory or the \
    SQL store is in use by another server; 4 an audit found that the books don't balance; 5 the journal or a checkpoint is damaged; \
    6 an import left rows out, or SKUs could not be promoted, demoted or compared; 7 fenced: the SQL store has what this data \
    directory does not have, or another server took it over.";

/// The program.
#[derive(Debug, Parser)]
#[command(name = "hotstock", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Each has a module in `cmd`, but for the tools (`replay`, `demo`, `bench`), which are a crate of their own.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP until SIGTERM or SIGINT.
    Serve(Serve),
    /// Play a CSV file of real orders against a server and audit every unit.
    Replay(replay::Args),
    /// Rebuild a data directory's stock from checkpoint and journal and check every invariant.
    Verify(Verify),
    /// Create or change the tables of the SQL store; `serve` does so by itself.
    Migrate(Migrate),
    /// Take over stock from another system's MySQL.
    Import(Import),
    /// Load SKUs of a running server and keep them in memory.
    Promote(Pin),
    /// Keep SKUs of a running server in memory no longer than they are used.
    Demote(Pin),
    /// Compare what the shards, the SQL store and the mirror of a running server have of every SKU.
    Reconcile(Reconcile),
    /// Make a data directory anew from the SQL store, after the old one was lost.
    Recover(Recover),
    /// List what a stopped server answered and the SQL store never got, of a data directory that is fenced.
    Unflushed(Unflushed),
    /// Make a token for the operators of a server, and its hash for the configuration.
    Token,
    /// Half a minute of flash sale: a real server, thousands of buyers, a kill in the middle, an audit.
    Demo(demo::Args),
    /// Measure throughput and latency.
    Bench(bench::Args),
}

/// The configuration of a command, as `hotstock serve` has it.
#[derive(Debug, Args)]
pub struct Settings {
    /// A TOML file over the built-in defaults (config/default.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Any key of the configuration, such as engine.gate_permits=1000; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Settings {
    /// The flags as the last layer of the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<FlagValue> {
        let dir = self.data_dir.iter().map(|dir| flag_value("--data-dir", "data.dir", dir));
        set_flags(&self.set).chain(dir).collect()
    }
}

fn flag_value(flag: &str, key: &str, value: &str) -> FlagValue {
    FlagValue { flag: flag.to_owned(), key: key.to_owned(), value: value.to_owned() }
}

/// What `--set` gave, as the last layer of the configuration.
pub fn set_flags(set: &[(String, String)]) -> impl Iterator<Item = FlagValue> {
    set.iter().map(|(key, text)| flag_value("--set", key, text))
}

/// `hotstock migrate`
#[derive(Debug, Args)]
pub struct Migrate {
    /// Make the guards of tables again, rows that somebody deleted who took them for nothing. You say that nothing else
    /// of these tables is gone; it is done only if no other table contradicts that
    #[arg(long)]
    pub make_guards: bool,
    /// Where the store is
    #[command(flatten)]
    pub settings: Settings,
}

/// `hotstock import`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["preset", "map"]))]
pub struct Import {
    /// The other system's database, mysql://user:password@host:port/database. Better in the variable
    /// HOTSTOCK_IMPORT_FROM: others can read a command line
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// A system that is known
    #[arg(long, value_name = "NAME", long_help = presets())]
    pub preset: Option<String>,
    /// One's own table: table=…,sku=…,available=… (or on_hand=…), and where they are there warehouse=COLUMN|NUMBER,
    /// reserved=…, sold=…, total=…, deleted=…
    #[arg(long, value_name = "COLUMNS")]
    pub map: Option<String>,
    /// Read and report, create nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Import units that the old system holds for orders as available; without it they are counted and left out
    #[arg(long)]
    pub include_reserved: bool,
    /// A running server to import into, such as http://127.0.0.1:8080 or https://stock.example; without it the data
    /// directory is opened, which no server may have open then
    #[arg(long, value_name = "URL")]
    pub url: Option<ServerUrl>,
    /// The data directory and its store, as the server has them
    #[command(flatten)]
    pub settings: Settings,
}

fn presets() -> String {
    let lines = hotstock_persistence::import::PRESETS.map(|(name, reads)| format!("  {name}: {reads}"));
    format!("A system that is known:\n{}", lines.join("\n"))
}

/// `hotstock promote` and `hotstock demote`
#[derive(Debug, Args)]
pub struct Pin {
    /// The SKUs
    #[arg(required = true, value_name = "SKU")]
    pub skus: Vec<String>,
    /// The server. Its operators' token is read from the variable HOTSTOCK_TOKEN
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: ServerUrl,
}

/// `hotstock reconcile`
#[derive(Debug, Args)]
pub struct Reconcile {
    /// The server. Its operators' token is read from the variable HOTSTOCK_TOKEN
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: ServerUrl,
    /// Put right what is derived, after telling what was found: rows of the store from its journal, the mirror from the
    /// stock
    #[arg(long)]
    pub fix: bool,
}

/// `hotstock recover`
#[derive(Debug, Args)]
pub struct Recover {
    /// From the SQL store of the configuration, which is the only place that it can be recovered from
    #[arg(long, required = true)]
    pub from_store: bool,
    /// Take the store also from a server that still uses it: it is fenced, and what it answers until then is lost
    #[arg(long)]
    pub take_over: bool,
    /// Where the store is and where the new data directory shall be
    #[command(flatten)]
    pub settings: Settings,
}

/// `hotstock unflushed`
#[derive(Debug, Args)]
pub struct Unflushed {
    /// One JSON object for each event, on a line of its own, and nothing else
    #[arg(long)]
    pub json: bool,
    /// The data directory and its store
    #[command(flatten)]
    pub settings: Settings,
}

/// `hotstock serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration
    #[command(flatten)]
    pub settings: Settings,
    /// Where to serve HTTP, such as 127.0.0.1:8080; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Shards of a new data directory; one that exists must have been created with this number
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Take the SQL store from a server that still holds it, or that had it last; that one is fenced. Its unflushed
    /// answers are lost. This data directory must have everything that the store has
    #[arg(long)]
    pub take_over: bool,
}

impl Serve {
    /// The flags as the last layer of the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<FlagValue> {
        let named =
            [("--listen", "server.listen", &self.listen), ("--shards", "engine.shards", &self.shards)];
        let named = named.into_iter().filter_map(|(flag, key, value)| {
            Some(FlagValue { flag: flag.to_owned(), key: key.to_owned(), value: value.clone()? })
        });
        self.settings.flags().into_iter().chain(named).collect()
    }
}

/// `hotstock verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// A data directory that no server has open
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Only the totals, not a row for every SKU
    #[arg(long)]
    pub summary: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn named_flags_lie_over_set() {
        let line = [
            "hotstock",
            "serve",
            "--listen",
            "[::1]:1",
            "--set",
            "server.listen=[::1]:2",
            "--set",
            "a.b=c=d",
        ];
        let Command::Serve(serve) = Cli::parse_from(line).command else { panic!("not serve") };
        let flags: Vec<_> =
            serve.flags().into_iter().map(|f| format!("{} {}={}", f.flag, f.key, f.value)).collect();
        assert_eq!(flags, ["--set server.listen=[::1]:2", "--set a.b=c=d", "--listen server.listen=[::1]:1"]);
    }
}
