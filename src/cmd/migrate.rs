//! `hotstock migrate`: creates or changes the tables of the SQL store, and says whether they are of one moment. `serve`
//! does so by itself; this is for who wants it done before, or by someone else.

use std::time::Duration;

use hotstock_engine::store::Store as _;

use crate::clock::wall;
use crate::cmd::say;
use crate::config::Config;
use crate::failure::Failure;
use crate::store;

/// How long one look through whole tables may take, before guards are made again: ten million orders take minutes.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Migrates. Safe beside running servers and other migrations. `make_guards`: an operator says that nothing but the
/// guards of tables is gone.
///
/// # Errors
/// [`Failure`] when the store can't be reached, its tables are those of a later version, or not of one moment.
pub async fn run(make_guards: bool, mut config: Config) -> Result<(), Failure> {
    let place = store::place(&config);
    if make_guards {
        let millis = u64::try_from(LOOK_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        config.store.statement_timeout_ms = config.store.statement_timeout_ms.max(millis);
    }
    let store = store::open_for_tool(&config)?;
    let store_id =
        store.migrate().await.map_err(|error| Failure::other(&format!("migrating {place}"), error))?;
    if make_guards {
        let made = store.make_guards(wall()).await.map_err(|error| Failure::other(&place, error))?;
        match made.is_empty() {
            true => say(format_args!("{place}: no guard is missing")),
            false => say(format_args!("{place}: guards were made of: {}", made.join(", "))),
        }
        if made.iter().any(|table| matches!(*table, "orders" | "order_requests" | "order_serials")) {
            say(format_args!(
                "No other table tells of rows of `order_requests` and `order_serials`, and of orders that were released before they \
                 were reserved: that none of these is gone is your word alone"
            ));
        }
    }
    // It compares them.
    store.ownership().await.map_err(|error| Failure::other(&place, error))?;
    say(format_args!("{place}: the tables are right; store {store_id}"));
    Ok(())
}
