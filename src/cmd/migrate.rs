//! `hotstock migrate`: creates or changes the tables of the SQL store. `serve` does so by itself; this is for who wants
//! it done before, or by someone else.

use crate::cmd::say;
use crate::config::Config;
use crate::failure::Failure;
use crate::store;

/// Migrates. Safe beside running servers and other migrations.
///
/// # Errors
/// [`Failure`] when the store can't be reached, or its tables are those of a later version.
pub async fn run(config: Config) -> Result<(), Failure> {
    let place = store::place(&config);
    let store = store::open_for_tool(&config)?;
    let store_id =
        store.migrate().await.map_err(|error| Failure::other(&format!("migrating {place}"), error))?;
    say(format_args!("{place}: the tables are right; store {store_id}"));
    Ok(())
}
