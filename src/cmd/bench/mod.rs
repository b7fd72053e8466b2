//! `hotstock bench`: closed-loop load, measured from outside. Every request waits for its answer before the next is
//! sent.
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
use crate::wire;
use crate::wiring::{self, Server, TakeOver};
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
    let mut config = Config::load(None, [], &args.flags())?;
    config.server.listen.set_port(0);
    config.data.dir = temporary.path().to_owned();
    config.engine.shards = args.shards;
    let plan = Plan::new(&args);

    if plan.stored && args.url.is_none() {
        // Nothing shall be in memory when the clock starts. A restart alone does not do it: what was in memory is there
        // again.
        let system = wiring::start(&wiring::evicting(&config), TakeOver::No).await?;
        let stocked = requests::stock_in_process(&system.engine, plan.skus, UNITS).await;
        let evicted = wiring::all_evicted(&system.engine).await;
        system.stop().await;
        stocked.and(evicted)?;
    }
    let (measured, echoed) = if args.in_process {
        let system = wiring::start(&config, TakeOver::No).await?;
        let measured = in_process(&plan, &system.engine).await;
        system.stop().await;
        (measured?, None)
    } else if let Some(target) = &args.url {
        let names = requests::skus(plan.skus);
        wire::create_stock(target, names.iter().map(|sku_id| (sku_id.clone(), UNITS)).collect()).await?;
        over_http(&plan, target, args.echo).await?
    } else {
        let server = Server::start(&config, TakeOver::No).await?;
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
