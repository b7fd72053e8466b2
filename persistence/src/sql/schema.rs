//! The migrations, and what the store says of itself in `meta`.

use std::borrow::Cow;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use hotstock_engine::store::StoreError;

use super::error::broken;
use crate::limits::MIGRATE_TIMEOUT;

/// All migrations of a database, in their order. One that was released is never changed: a new one is added.
pub(super) fn migrator([first, several_places]: [&'static str; 2]) -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, sql.into_sql_str(), false)
    };
    let migrations = vec![migration(1, "first", first), migration(2, "several places", several_places)];
    // Both databases are locked by the caller.
    Migrator { migrations: Cow::Owned(migrations), locking: false, ..Migrator::DEFAULT }
}

/// A statement around the migrations failed.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(format!("it could not be migrated: {error}"))
}

/// The migrations failed.
pub(super) fn not_migrated(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) => {
            broken(format!("its tables are of a later version of the program (migration {version})"))
        }
        MigrateError::VersionMismatch(version) => {
            broken(format!("migration {version} was applied with other content"))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => failed(error),
        other => broken(format!("it could not be migrated: {other}")),
    }
}

/// The migrations, or another server's, take too long.
pub(super) fn too_long() -> StoreError {
    StoreError::Unavailable(format!("it was not migrated within {MIGRATE_TIMEOUT:?}"))
}
