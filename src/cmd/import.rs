//! `hotstock import`: takes over stock from another system's MySQL. Every row becomes a stock, created as any other: by
//! the server that is running (`--url`), or by an engine on its data directory while it is not. Never by SQL: what the
//! store has follows from events. The same import again changes nothing.

use std::sync::Arc;

use hotstock_engine::command::{Action, Command, CreateStock};
use hotstock_engine::engine::Engine;
use hotstock_engine::outcome::{Answer, Effect, Outcome, Refusal};
use hotstock_persistence::import::{Item, ReadOptions, Reader, Report, Row, Source};
use hotstock_tools::wire;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use crate::cli::Import;
use crate::cmd::say;
use crate::config::{Config, redacted};
use crate::failure::Failure;
use crate::operator::{Operator, ServerUrl};
use crate::store;
use crate::wiring::{self, System, TakeOver};

/// The variable with the address of the source.
const FROM_VARIABLE: &str = "HOTSTOCK_IMPORT_FROM";

/// Stocks that are created at a time: enough to share the syncs of the journal.
pub const AT_A_TIME: usize = 64;

/// Reads the other system's stock and creates it here.
///
/// # Errors
/// [`Failure::Incomplete`] when rows were refused or conflict with stock that is there.
pub async fn run(args: Import, config: Config) -> Result<(), Failure> {
    let url = match args.from {
        Some(url) => url,
        None => std::env::var(FROM_VARIABLE)
            .map_err(|_| Failure::Usage(format!("where from? Give --from or {FROM_VARIABLE}")))?,
    };
    let source = match (&args.preset, &args.map) {
        (Some(preset), _) => Source::preset(preset),
        (None, map) => Source::map(map.as_deref().unwrap_or_default()),
    };
    let source = source.map_err(|error| Failure::Usage(error.to_string()))?;
    let from = redacted(&url);
    let options = ReadOptions { url, source, include_reserved: args.include_reserved };
    let failed = |error| Failure::other(&format!("reading {from}"), error);
    let mut reader = Reader::open(options).await.map_err(failed)?;

    let into = match &args.url {
        Some(url) => format!("the server at {url}"),
        None => format!("{} ({})", config.data.dir.display(), store::place(&config)),
    };
    let destination = match (args.dry_run, args.url) {
        (true, _) => None,
        (false, Some(url)) => Some(Destination::server(&url)?),
        (false, None) => Some(Destination::data_dir(&config).await?),
    };
    let bar = ProgressBar::new(reader.expected()).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {per_sec}, {eta} left")
            .expect("the template is a constant"),
    );
    let mut report = Report::default();
    let mut creating: JoinSet<(Row, Result<Created, Failure>)> = JoinSet::new();
    let mut broken: Option<Failure> = None;
    while broken.is_none() {
        let Some(item) = reader.next().await else { break };
        match item {
            Ok(item) => {
                report.note(&item);
                bar.inc(1);
                if let (Item::Row(row), Some(destination)) = (item, &destination) {
                    if creating.len() >= AT_A_TIME {
                        broken = note_next(&mut creating, &mut report).await;
                    }
                    let destination = destination.clone();
                    creating.spawn(async move {
                        let created = destination.create(&row).await;
                        (row, created)
                    });
                }
            }
            Err(error) => broken = Some(failed(error)),
        }
    }
    while !creating.is_empty() {
        let failure = note_next(&mut creating, &mut report).await;
        broken = broken.or(failure);
    }
    bar.finish_and_clear();
    if let Some(Destination::DataDir(system)) = destination {
        system.stop().await;
    }
    let what = if args.dry_run { "would be imported from" } else { "imported from" };
    say(format_args!("{what} {from} into {into}\n{report}"));
    match broken {
        Some(failure) => Err(Failure::Other(format!("{failure}; the same import again goes on from here"))),
        None if report.is_complete() => Ok(()),
        None => Err(Failure::Incomplete("not every row is stock now; the report says why".to_owned())),
    }
}

/// Who creates the stocks.
#[derive(Clone)]
enum Destination {
    /// An engine in this process, on the data directory.
    DataDir(Arc<System>),
    /// A running server.
    Server(Arc<Operator>),
}

/// What became of a row.
enum Created {
    /// Its stock was created.
    Now,
    /// Its stock was there already, created with the same quantity.
    Before,
    /// Its stock is there with another quantity, or can't be created; why, in words.
    Conflict(String),
}

impl Destination {
    async fn data_dir(config: &Config) -> Result<Self, Failure> {
        match wiring::start(config, TakeOver::No).await {
            Ok(system) => Ok(Self::DataDir(Arc::new(system))),
            Err(Failure::InUse(problem)) => {
                Err(Failure::InUse(format!("{problem}; --url imports into a running server")))
            }
            Err(failure) => Err(failure),
        }
    }

    fn server(url: &ServerUrl) -> Result<Self, Failure> {
        Ok(Self::Server(Arc::new(Operator::new(url)?)))
    }

    async fn create(&self, row: &Row) -> Result<Created, Failure> {
        match self {
            Self::DataDir(system) => created(create(&system.engine, row).await),
            Self::Server(operator) => post(operator, row).await,
        }
    }
}

async fn create(engine: &Engine, row: &Row) -> Outcome {
    let Row { sku_id, warehouse_id, available, .. } = row.clone();
    let create = CreateStock { sku_id, warehouse_id, quantity: available, serialized: false };
    engine.submit(Command::from(Action::CreateStock(create))).await
}

fn created(outcome: Outcome) -> Result<Created, Failure> {
    match outcome {
        Ok(Answer::Stock { effect: Effect::Created, .. }) => Ok(Created::Now),
        Ok(_) => Ok(Created::Before),
        Err(
            refusal @ (Refusal::Overloaded
            | Refusal::JournalFull
            | Refusal::StoreUnavailable
            | Refusal::Fenced { .. }
            | Refusal::JournalUnavailable
            | Refusal::ShardRestarted),
        ) => Err(Failure::other("creating stock", refusal)),
        Err(refusal) => Ok(Created::Conflict(refusal.to_string())),
    }
}

async fn post(operator: &Operator, row: &Row) -> Result<Created, Failure> {
    let Row { sku_id, warehouse_id, available, .. } = row;
    let stock = wire::CreateStock {
        sku_id: sku_id.as_str(),
        warehouse_id: Some(warehouse_id.0),
        quantity: *available,
    };
    let answer = operator.post("/v1/stock", &stock).await?;
    match answer.status {
        201 => Ok(Created::Now),
        200 => Ok(Created::Before),
        409 | 422 => Ok(Created::Conflict(answer.detail()?)),
        _ => Err(answer.unexpected("creating stock")),
    }
}

/// Counts the next one that is done; one that could not be asked ends the import.
async fn note_next(
    creating: &mut JoinSet<(Row, Result<Created, Failure>)>,
    report: &mut Report,
) -> Option<Failure> {
    let (row, created) = match creating.join_next().await? {
        Ok(done) => done,
        Err(error) => return Some(Failure::other("creating stock", error)),
    };
    match created {
        Ok(Created::Now) => report.created += 1,
        Ok(Created::Before) => report.repeated += 1,
        Ok(Created::Conflict(why)) => report.note_conflict(&row, why),
        Err(failure) => return Some(failure),
    }
    None
}
