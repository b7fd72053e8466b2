//! The command line: what can be asked, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Target;
use crate::config::FlagValue;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong command line or configuration; 3 the data directory is in \
    use by another process; 4 an audit found that the books don't balance; 5 the journal or a checkpoint is damaged.";

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
    /// Half a minute of flash sale: a real server, thousands of buyers, a kill in the middle, an audit.
    Demo(Demo),
    /// Measure throughput and latency.
    Bench(Bench),
}

/// `hotstock serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// A TOML file over the built-in defaults (config/default.toml)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to serve HTTP, such as 127.0.0.1:8080; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Shards of a new data directory; one that exists keeps the number it was created with
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Any key of the configuration, such as engine.gate_permits=1000; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Serve {
    /// The flags as the last layer of the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<FlagValue> {
        let named = [("--listen", "server.listen", &self.listen), ("--data-dir", "data.dir", &self.data_dir)];
        let set = self.set.iter().map(|(key, value)| ("--set", key.as_str(), Some(value)));
        let named = named.into_iter().map(|(flag, key, value)| (flag, key, value.as_ref()));
        let flags = set.chain(named).filter_map(|(flag, key, value)| {
            Some(FlagValue { flag: flag.to_owned(), key: key.to_owned(), value: value?.clone() })
        });
        flags.collect()
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
    /// SKUs that the orders are spread over; 1 is the flash sale
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub skus: u32,
    /// Shards of the server or engine that is started
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_024), conflicts_with = "url")]
    pub shards: u16,
    /// Requests under way at once, with --in-process
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536), requires = "in_process")]
    pub in_flight: u32,
    /// HTTP connections, each with one request under way
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Operations in each request; more than 1 uses POST /v1/batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Confirm every order after it was reserved
    #[arg(long)]
    pub confirm: bool,
    /// Measure, in turns, also a server that parses and echoes the same JSON, and print the ratio
    #[arg(long)]
    pub echo: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
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
