//! `hotstock bench`: closed-loop load, measured from outside. Every request waits for its answer before the next is
//! sent.
//!
//! - `requests`: what is sent.
//! - `load`: the workers and their clock.
//! - `echo`: the server that only parses and answers the same JSON, as a yardstick.
//! - `report`: the figures, for people and as JSON.

mod echo;
mod load;
mod report;
mod requests;

use std::path::PathBuf;
use std::time::Duration;

use hotstock_engine::engine::Engine;

use crate::client::Target;
use crate::failure::Failure;
use crate::host::{Host, Running as _, Serving as _, Setup, all_evicted, key_value};
use crate::terminal::say;
use crate::wire;
use load::{Load, Measured, Plan};
use report::Report;

/// Units of each SKU: more than any run can reserve, so that stock is never what limits it.
const UNITS: u64 = 1_000_000_000_000;

/// Load before the clock starts: connections are made, tables grow, the disk wakes up.
const WARM_UP: Duration = Duration::from_secs(1);

/// With `--echo` the two servers take turns of this length, so that a noisy machine disturbs both alike.
const TURN: Duration = Duration::from_secs(2);

/// What is left of the time after the last full turn is at least this long: a shorter one measures its own start.
const SHORTEST_TURN: Duration = Duration::from_millis(100);

/// The command line of `hotstock bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
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

impl Args {
    /// SKUs that the orders are spread over.
    #[must_use]
    pub fn skus(&self) -> u32 {
        self.skus.unwrap_or(if self.stored { 10_000 } else { 1 })
    }
}

/// Measures, prints the figures, and writes them to the file of `--json`.
///
/// # Errors
/// [`Failure::Other`], also when a request was refused: a run with refusals measures something else. Or whatever the
/// host says of a server that does not start.
pub async fn run<H: Host>(args: Args, host: &H) -> Result<(), H::Failure> {
    let temporary =
        tempfile::tempdir().map_err(|error| Failure::other("making a temporary directory", error))?;
    let setup = Setup {
        set: args.set.clone(),
        data_dir: temporary.path().to_owned(),
        shards: args.shards,
        store: None,
        evicting: false,
    };
    let plan = Plan::new(&args);

    if plan.stored && args.url.is_none() {
        // Nothing shall be in memory when the clock starts. A restart alone does not do it: what was in memory is there
        // again.
        let system = host.open(&Setup { evicting: true, ..setup.clone() }).await?;
        let stocked = requests::stock_in_process(system.engine(), plan.skus, UNITS).await;
        let evicted = all_evicted(system.engine()).await;
        system.stop().await;
        stocked.and(evicted)?;
    }
    let (measured, echoed) = if args.in_process {
        let system = host.open(&setup).await?;
        let measured = in_process(&plan, system.engine()).await;
        system.stop().await;
        (measured?, None)
    } else if let Some(target) = &args.url {
        let names = requests::skus(plan.skus);
        wire::create_stock(target, names.iter().map(|sku_id| (sku_id.clone(), UNITS)).collect()).await?;
        over_http(&plan, target, args.echo).await?
    } else {
        let server = host.serve(&setup).await?;
        let stocked = match plan.stored {
            true => Ok(()),
            false => requests::stock_in_process(server.engine(), plan.skus, UNITS).await,
        };
        let measured = match stocked {
            Ok(()) => over_http(&plan, &server.address().into(), args.echo).await,
            Err(failure) => Err(failure),
        };
        server.stop().await;
        measured?
    };

    let report = Report::new(&args, &plan, &measured, echoed.as_ref());
    say(report.text().trim_end());
    if let Some(path) = &args.json {
        let text =
            serde_json::to_string_pretty(&report).expect("a report is plain structs, which are always JSON");
        std::fs::write(path, text + "\n")
            .map_err(|error| Failure::other(&format!("writing {}", path.display()), error))?;
    }
    Ok(())
}

/// Measures an engine of this process, without HTTP.
async fn in_process(plan: &Plan, engine: &Engine) -> Result<Measured, Failure> {
    if !plan.stored {
        requests::stock_in_process(engine, plan.skus, UNITS).await?;
        requests::promote_in_process(engine, plan.skus).await?;
    }
    load::in_process(engine, &plan.warm_up(), WARM_UP).await?;
    load::in_process(engine, plan, plan.length).await
}

/// Measures a server, and in turns with it the echo if that is asked for.
async fn over_http(
    plan: &Plan,
    target: &Target,
    with_echo: bool,
) -> Result<(Measured, Option<Measured>), Failure> {
    if !plan.stored {
        wire::promote_all(target, &requests::skus(plan.skus)).await?;
    }
    let mut hotstock = Load::new(target, plan);
    hotstock.run(&plan.warm_up(), WARM_UP).await?;
    if !with_echo {
        return Ok((hotstock.run(plan, plan.length).await?, None));
    }
    let echo = echo::start().map_err(|error| Failure::other("starting the echo server", error))?;
    let mut echo = Load::new(&echo, plan);
    echo.run(&plan.warm_up(), WARM_UP).await?;
    let (mut measured, mut echoed) = (Measured::default(), Measured::default());
    while measured.elapsed < plan.length {
        let turn = TURN.min(plan.length - measured.elapsed).max(SHORTEST_TURN);
        measured.add(&hotstock.run(plan, turn).await?);
        echoed.add(&echo.run(plan, turn).await?);
    }
    Ok((measured, Some(echoed)))
}
