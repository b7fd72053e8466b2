//! An engine as the program runs it: real journal, SQLite behind it, real time.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hotstock_engine::clock::{Clock, Timestamp};
use hotstock_engine::engine::Engine;
use hotstock_engine::options::{EngineOptions, Parts};
use hotstock_persistence::data_dir::DataDir;
use hotstock_persistence::journal::JournalOptions;
use hotstock_persistence::sql::{SqlOptions, SqlStore};

/// The machine's time. It may step, which a bench of seconds does not mind.
#[derive(Debug)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Timestamp(u64::try_from(now.as_millis()).expect("before the year 500 million"))
    }
}

/// Starts one on a new data directory below `home`.
pub async fn start(home: &Path, options: EngineOptions) -> Engine {
    let data_dir = DataDir::open(&home.join("data"), Some(options.shards)).expect("it opens");
    let journal = data_dir.journal(JournalOptions::default()).expect("it opens");
    let url = format!("sqlite://{}", home.join("store.db").display());
    let store = SqlStore::open(&SqlOptions::new(url)).expect("it opens");
    let parts = Parts::new(
        Box::new(journal),
        Arc::new(data_dir.checkpoints()),
        Arc::new(data_dir.filters()),
        Arc::new(data_dir.identity().expect("it is intact")),
        Arc::new(WallClock),
        Arc::new(store),
    );
    Engine::start(options, parts).await.expect("it starts")
}
