//! The command line: what can be asked, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Target;
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

/// One module in `cmd` each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve HTTP until SIGTERM or SIGINT.
    Serve(Serve),
    /// Play a CSV file of real orders against a server and audit every unit.
    Replay(Replay),
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
    Demo(Demo),
    /// Measure throughput and latency.
    Bench(Bench),
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

fn set_flags(set: &[(String, String)]) -> impl Iterator<Item = FlagValue> {
    set.iter().map(|(key, text)| flag_value("--set", key, text))
}

/// `hotstock migrate`
#[derive(Debug, Args)]
pub struct Migrate {
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
    /// A running server to import into, such as http://127.0.0.1:8080 or https://stock.example; without it the data directory is opened, which
    /// no server may have open then
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

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `hotstock replay`
#[derive(Debug, Args)]
pub struct Replay {
    /// A CSV file with the columns invoice_no, stock_code, quantity and customer_id, in time order
    pub file: PathBuf,
    /// A running server, such as http://127.0.0.1:8080; without it one is started inside this process
    #[arg(long)]
    pub url: Option<Target>,
    /// Stock every SKU with N units, so that some orders are refused; without it with as many as the file sells
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=1_000_000_000))]
    pub stock: Option<u64>,
    /// The data directory of the server inside; without it a temporary one
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data_dir: Option<PathBuf>,
    /// The SQL store of the server inside, mysql://user:password@host:port/database; without it SQLite in the data
    /// directory
    #[arg(long, value_name = "URL", conflicts_with = "url")]
    pub store: Option<String>,
    /// Where the SKUs are when the orders begin
    #[arg(long, value_enum, default_value_t = Place::Hot)]
    pub place: Place,
    /// Any key of the configuration of the server inside, such as engine.max_resident_skus=200; may be given several
    /// times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "url")]
    set: Vec<(String, String)>,
    /// Every line of an invoice is an order of its own
    #[arg(long)]
    pub by_line: bool,
    /// Shards of the server inside
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_024), conflicts_with = "url")]
    pub shards: u16,
    /// Callers at the same time. What belongs to one customer is played in its order; with one caller everything is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub callers: u16,
    /// What the random choice of --place mixed follows from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// See [`Replay::place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// In memory to stay: all are promoted
    Hot,
    /// In the SQL store alone: the server starts anew after they were created, and loads what is asked for (of --url:
    /// as they are created)
    Stored,
    /// As for stored, then a random two thirds of them are promoted
    Mixed,
}

impl Replay {
    /// What was set of the configuration of the server inside.
    #[must_use]
    pub fn flags(&self) -> Vec<FlagValue> {
        set_flags(&self.set).collect()
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

/// `hotstock demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// How long the rush lasts, about; the stock is chosen to fit. Restart, tail and audit come on top
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(4..=600))]
    pub seconds: u64,
}

/// `hotstock bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// Submit to the engine inside this process, without HTTP
    #[arg(long, conflicts_with_all = ["url", "connections", "echo"])]
    pub in_process: bool,
    /// A running server; without it one is started inside this process, in a temporary directory
    #[arg(long)]
    pub url: Option<Target>,
    /// SKUs that the orders are spread over, at random; 1, the flash sale, where nothing is said, and 10,000 with
    /// --stored
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    skus: Option<u32>,
    /// Shards of the server or engine that is started
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024), conflicts_with = "url")]
    pub shards: u16,
    /// Requests under way at once, with --in-process
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536), requires = "in_process")]
    pub in_flight: u32,
    /// HTTP connections, each with one request under way
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Operations in each request; more than 1 uses POST /v1/batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Seconds to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Confirm every order after it was reserved
    #[arg(long)]
    pub confirm: bool,
    /// Leave the SKUs in the SQL store, from which they are loaded when they are asked for; without it they are
    /// promoted
    #[arg(long)]
    pub stored: bool,
    /// Any key of the configuration of the server or engine that is started, such as store.flush_interval_ms=3600000
    /// (no flush) or store.url=mysql://…; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "url")]
    set: Vec<(String, String)>,
    /// Measure, in turns, also a server that parses and echoes the same JSON, and print the ratio
    #[arg(long)]
    pub echo: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Bench {
    /// SKUs that the orders are spread over.
    #[must_use]
    pub fn skus(&self) -> u32 {
        self.skus.unwrap_or(if self.stored { 10_000 } else { 1 })
    }

    /// What was set of the configuration of the server or engine that is started.
    #[must_use]
    pub fn flags(&self) -> Vec<FlagValue> {
        set_flags(&self.set).collect()
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let authority = url.strip_prefix("http://").ok_or("must begin with http://")?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@']) {
            return Err("must be http://HOST or http://HOST:PORT".to_owned());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            port.bytes().all(|b| b.is_ascii_digit())
                && !port.is_empty()
                && (!host.contains(':') || host.ends_with(']'))
        });
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority })
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { authority: address.to_string() }
    }
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
    fn urls_are_hosts_with_ports() {
        let of = |url: &str| url.parse::<Target>().map(|target| target.authority);
        assert_eq!(of("http://127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(of("http://stock.example/").unwrap(), "stock.example:80");
        assert_eq!(of("http://[::1]:9").unwrap(), "[::1]:9");
        assert_eq!(of("http://[::1]").unwrap(), "[::1]:80");
        for wrong in ["https://a", "a:1", "http://", "http://a/b"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
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
