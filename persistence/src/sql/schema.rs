//! The migrations, and which stores are not ours.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use hotstock_engine::store::StoreError;

use super::error::broken;
use crate::limits::MIGRATE_TIMEOUT;

/// All migrations of a database, in their order. One that was released is never changed: a new one is added.
pub(super) fn migrator(first: &'static str) -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let migrations = vec![migration(1, "first", first)];
    // Both databases are locked by the caller.
    Migrator { migrations: Cow::Owned(migrations), locking: false, ..Migrator::DEFAULT }
}

/// Whether a database that has these tables was migrated, or at least begun to be, by this program.
///
/// # Errors
/// [`StoreError::Foreign`] when it has others and was not.
pub(super) fn check(tables: &[String]) -> Result<bool, StoreError> {
    if tables.is_empty() || tables.iter().any(|table| table == "_sqlx_migrations") {
        return Ok(!tables.is_empty());
    }
    let tables = tables.join(", ");
    Err(StoreError::Foreign(format!(
        "the database has tables that are not this program's: {tables}. Give it a database of its own"
    )))
}

/// A statement around the migrations failed.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(format!("it could not be migrated: {error}"))
}

/// The migrations failed.
pub(super) fn not_migrated(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) => StoreError::Foreign(format!(
            "its tables are of another version of the program (migration {version})"
        )),
        MigrateError::VersionMismatch(version) => StoreError::Foreign(format!(
            "its tables are of another, older version of the program, which this one can't read (migration {version} differs)"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        other => broken(format!("it could not be migrated: {other}")),
    }
}

/// The migrations, or another server's, take too long.
pub(super) fn too_long() -> StoreError {
    StoreError::Unavailable(format!("it was not migrated within {MIGRATE_TIMEOUT:?}"))
}
