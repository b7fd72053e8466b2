//! `hotstock bench`: closed-loop load, measured from outside. Every request waits for its answer before the next is sent.
//!
//! - [`requests`]: what is sent.
//! - [`load`]: the workers and their clock.
//! - [`echo`]: the server that only parses and answers the same JSON, as a yardstick.
//! - [`report`]: the figures, for people and as JSON.

mod echo;
mod load;
mod report;
mod requests;

use std::time::Duration;

use hotstock_engine::engine::Engine;

use crate::cli::Bench;
use crate::client::Target;
use crate::cmd::say;
use crate::config::Config;
use crate::failure::Failure;
use crate::wire::{self, Way};
use crate::wiring::{self, Books, Server};
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

/// Measures.
///
/// # Errors
/// [`Failure`], also when a request was refused: a run with refusals measures something else.
pub async fn run(args: Bench) -> Result<(), Failure> {
    let temporary =
        tempfile::tempdir().map_err(|error| Failure::other("making a temporary directory", error))?;
    let mut config = Config::defaults();
    config.server.listen.set_port(0);
    config.data.dir = temporary.path().to_owned();
    config.engine.shards = args.shards;
    let plan = Plan::new(&args);

    // The hot path alone, unless the store is asked for: what is flushed shares the cores and the disk with it.
    let books = if args.store || args.cold { Books::Sql } else { Books::Memory };
    let (measured, echoed) = if args.in_process {
        let system = wiring::start(&config, books).await?;
        let measured = in_process(&plan, &system.engine, books).await;
        system.stop().await;
        (measured?, None)
    } else if let Some(target) = &args.url {
        over_http(&plan, target, !args.cold, args.echo).await?
    } else {
        let server = Server::start_with(&config, books).await?;
        let promoted = books == Books::Sql && !args.cold;
        let measured = over_http(&plan, &server.address().into(), promoted, args.echo).await;
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

async fn in_process(plan: &Plan, engine: &Engine, books: Books) -> Result<Measured, Failure> {
    requests::stock_in_process(engine, plan.skus, UNITS).await?;
    if books == Books::Sql && !plan.cold {
        requests::promote_in_process(engine, plan.skus).await?;
    }
    load::in_process(engine, plan, WARM_UP).await?;
    load::in_process(engine, plan, plan.length).await
}

/// Measures a server, and in turns with it the echo if that is asked for.
async fn over_http(
    plan: &Plan,
    target: &Target,
    promoted: bool,
    with_echo: bool,
) -> Result<(Measured, Option<Measured>), Failure> {
    let names = requests::skus(plan.skus);
    wire::create_stock(target, names.iter().map(|sku_id| (sku_id.clone(), UNITS)).collect()).await?;
    if promoted {
        wire::move_all(target, Way::Promote, &names).await?;
    }
    let mut hotstock = Load::new(target, plan);
    hotstock.run(plan, WARM_UP).await?;
    if !with_echo {
        return Ok((hotstock.run(plan, plan.length).await?, None));
    }
    let echo = echo::start().map_err(|error| Failure::other("starting the echo server", error))?;
    let mut echo = Load::new(&echo, plan);
    echo.run(plan, WARM_UP).await?;
    let (mut measured, mut echoed) = (Measured::default(), Measured::default());
    while measured.elapsed < plan.length {
        let turn = TURN.min(plan.length - measured.elapsed).max(SHORTEST_TURN);
        measured.add(&hotstock.run(plan, turn).await?);
        echoed.add(&echo.run(plan, turn).await?);
    }
    Ok((measured, Some(echoed)))
}
