//! `hotstock import`: takes over stock from another system's MySQL. Every row becomes a cold SKU in the SQL store of the configuration; a
//! server need not run, and may. The same import again changes nothing.

use std::sync::Arc;
use std::time::SystemTime;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Command, CreateStock};
use hotstock_engine::outcome::{Answer, Effect};
use hotstock_engine::store::{ColdOutcome, Store, StoreError};
use hotstock_persistence::import::{Item, ReadOptions, Reader, Report, Row, Source};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use crate::cli::Import;
use crate::cmd::say;
use crate::config::{Config, redacted};
use crate::failure::Failure;
use crate::store;

/// The variable with the address of the source.
const FROM_VARIABLE: &str = "HOTSTOCK_IMPORT_FROM";

/// Stocks that are created at a time: enough to share the syncs of a MySQL store; SQLite writes one after the other anyway.
const AT_A_TIME: usize = 32;

/// Imports.
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

    let into = store::place(&config);
    let store = match args.dry_run {
        true => None,
        false => {
            let store = store::open_for_tool(&config)?;
            // A store that can't be reached is told before the first row.
            store.migrate().await.map_err(|error| Failure::other(&format!("opening {into}"), error))?;
            Some(Arc::new(store) as Arc<dyn Store>)
        }
    };
    let bar = ProgressBar::new(reader.expected()).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {per_sec}, {eta} left")
            .expect("the template is a constant"),
    );
    let mut report = Report::default();
    let mut creating: JoinSet<(Row, Result<ColdOutcome, StoreError>)> = JoinSet::new();
    let mut broken: Option<Failure> = None;
    while broken.is_none() {
        let Some(item) = reader.next().await else { break };
        match item {
            Ok(item) => {
                report.note(&item);
                bar.inc(1);
                if let (Item::Row(row), Some(store)) = (item, &store) {
                    if creating.len() >= AT_A_TIME {
                        broken = note_next(&mut creating, &mut report, &into).await;
                    }
                    let store = Arc::clone(store);
                    creating.spawn(async move { create(&*store, row).await });
                }
            }
            Err(error) => broken = Some(failed(error)),
        }
    }
    while !creating.is_empty() {
        let failure = note_next(&mut creating, &mut report, &into).await;
        broken = broken.or(failure);
    }
    bar.finish_and_clear();
    if let Some(store) = store {
        store.close().await;
    }
    let what = if args.dry_run { "would be imported from" } else { "imported from" };
    say(format_args!("{what} {from} into {into}\n{report}"));
    match broken {
        Some(failure) => Err(Failure::Other(format!("{failure}; the same import again goes on from here"))),
        None if report.is_complete() => Ok(()),
        None => Err(Failure::Incomplete("not every row is stock now; the report says why".to_owned())),
    }
}

async fn create(store: &dyn Store, row: Row) -> (Row, Result<ColdOutcome, StoreError>) {
    let Row { sku_id, warehouse_id, available, .. } = row.clone();
    let action =
        Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity: available, serialized: false });
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let outcome = store.submit(&Command::from(action), now).await;
    (row, outcome)
}

/// Counts the next one that is done; a store that fails ends the import.
async fn note_next(
    creating: &mut JoinSet<(Row, Result<ColdOutcome, StoreError>)>,
    report: &mut Report,
    into: &str,
) -> Option<Failure> {
    let (row, outcome) = match creating.join_next().await? {
        Ok(done) => done,
        Err(error) => return Some(Failure::other("creating stock", error)),
    };
    match outcome {
        Ok(ColdOutcome::Done { outcome: Ok(Answer::Stock { effect: Effect::Created, .. }), .. }) => {
            report.created += 1
        }
        Ok(ColdOutcome::Done { outcome: Ok(_), .. }) => report.repeated += 1,
        Ok(ColdOutcome::Done { outcome: Err(refusal), .. }) => report.note_conflict(&row, refusal),
        Ok(ColdOutcome::Elsewhere(owner)) => {
            report.note_conflict(&row, format_args!("server {} owns the SKU: demote it first", owner.server));
        }
        Ok(ColdOutcome::Home(_)) => unreachable!("a stock is no order"),
        Err(error) => return Some(Failure::other(&format!("writing to {into}"), error)),
    }
    None
}
