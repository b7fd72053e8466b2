//! The SQL store and the Redis mirror as the configuration names them.

use std::path::Path;
use std::time::Duration;

use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::mirror::MirrorOptions;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::config::Config;
use crate::failure::Failure;

/// The SQLite file of a data directory.
const STORE_FILE: &str = "store.db";

/// Where the store is, without what is secret, for people.
#[must_use]
pub fn place(config: &Config) -> String {
    match config.store.url.is_empty() {
        true => format!("SQLite in {}", config.data.dir.display()),
        false => config.store.url.to_string(),
    }
}

/// The store of a server. A database that is not there makes its calls fail until it is; one that this directory does
/// not belong to makes them fail for good.
///
/// # Errors
/// [`Failure::Usage`] when its address can't be one.
pub fn open(config: &Config, data_dir: &DataDir) -> Result<SqlStore, Failure> {
    Ok(sql_store(config)?.checked_by(data_dir.store_check()))
}

/// The store for a command that is no server.
///
/// # Errors
/// [`Failure`] when its address can't be one, or the directory of a SQLite file can't be made.
pub fn open_for_tool(config: &Config) -> Result<SqlStore, Failure> {
    if config.store.url.is_empty() {
        let dir = &config.data.dir;
        std::fs::create_dir_all(dir)
            .map_err(|error| Failure::other(&format!("making {}", dir.display()), error))?;
    }
    sql_store(config)
}

/// The store of a data directory, for a command that only reads it and makes none where there is none.
///
/// # Errors
/// [`Failure`] when its address can't be one, or there is no SQLite file in the directory.
pub fn open_of(config: &Config, data_dir: &DataDir) -> Result<SqlStore, Failure> {
    if config.store.url.is_empty() && !data_dir.path().join(STORE_FILE).exists() {
        return Err(Failure::Usage(format!(
            "{}: there is no SQLite store in it. Name the store that it was used with: --config, or --set store.url=…",
            data_dir.path().display()
        )));
    }
    sql_store(config)
}

/// Whether a store that was reached is the one that the directory belongs to.
///
/// # Errors
/// [`Failure::Usage`].
pub fn must_be_of(store: &SqlStore, data_dir: &DataDir, place: &str) -> Result<(), Failure> {
    match (data_dir.store_id()?, store.store_id()) {
        (Some(has), Some(is)) if has != is => Err(Failure::Usage(format!(
            "{}: this data directory belongs to the SQL store {has}; {place} is another one, {is}",
            data_dir.path().display()
        ))),
        _ => Ok(()),
    }
}

fn sql_store(config: &Config) -> Result<SqlStore, Failure> {
    let store = &config.store;
    let url = match store.url.is_empty() {
        true => sqlite_url(&config.data.dir.join(STORE_FILE))?,
        false => store.url.expose().to_owned(),
    };
    let options = SqlOptions {
        url,
        connections: store.connections as usize,
        acquire_timeout: Duration::from_millis(store.acquire_timeout_ms),
        statement_timeout: Duration::from_millis(store.statement_timeout_ms),
    };
    SqlStore::open(&options).map_err(|error| Failure::Usage(format!("`store.url`: {error}")))
}

/// A path as a URL: it may hold what means something else there.
fn sqlite_url(path: &Path) -> Result<String, Failure> {
    const SPECIAL: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
    let text = path.to_str().ok_or_else(|| Failure::Usage(format!("{} is not UTF-8", path.display())))?;
    Ok(format!("sqlite:{}", utf8_percent_encode(text, SPECIAL)))
}

/// The mirror, if there is to be one.
///
/// # Errors
/// [`Failure::Usage`] for options that don't fit.
pub fn mirror_options(config: &Config) -> Result<Option<MirrorOptions>, Failure> {
    let mirror = &config.mirror;
    if mirror.redis_url.is_empty() {
        return Ok(None);
    }
    let options = MirrorOptions {
        redis_url: mirror.redis_url.expose().to_owned(),
        prefix: mirror.key_prefix.clone(),
        flush_every_ms: mirror.flush_every_ms,
        batch: mirror.batch,
        timeout_ms: mirror.timeout_ms,
    };
    options.validate().map_err(|error| Failure::Usage(format!("[mirror]: {error}")))?;
    Ok(Some(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_a_path_in_a_url() {
        assert_eq!(sqlite_url(Path::new("./data/store.db")).unwrap(), "sqlite:./data/store.db");
        assert_eq!(sqlite_url(Path::new("/a b/50%?#/store.db")).unwrap(), "sqlite:/a b/50%25%3F%23/store.db");
    }

    #[tokio::test]
    async fn a_store_is_made_at_an_odd_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults();
        config.data.dir = dir.path().join("a b/50%?#ü");
        let store = open_for_tool(&config).unwrap();
        store.migrate().await.unwrap();
        assert!(config.data.dir.join(STORE_FILE).is_file());
    }

    #[test]
    fn a_secret_is_in_no_text() {
        let mut config = Config::defaults();
        config.store.url = "mysql://root:s3cret@127.0.0.1:1/db?password=s3cret".to_owned().into();
        config.mirror.redis_url = "redis://:s3cret@127.0.0.1:1/0".to_owned().into();
        let texts =
            [place(&config), format!("{config:?}"), format!("{:?}", mirror_options(&config).unwrap())];
        for text in texts {
            assert!(!text.contains("s3cret"), "{text}");
        }
        config.store.url = "mysql://root:s3cret@[/db".to_owned().into();
        if let Err(failure) = open_for_tool(&config) {
            assert!(!failure.to_string().contains("s3cret"), "{failure}");
        }
    }
}
