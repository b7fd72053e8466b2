//! The Redis mirror: shows the levels of all stocks to readers that know Redis. It follows, nobody waits for it:
//! Redis slow, killed or emptied costs the orders nothing, and the mirror converges when it is back.
//!
//! ```text
//!   inv:{warehouse}:{sku}          what is available, a plain number, as existing readers expect
//!   inv:{warehouse}:{sku}:levels   a hash: available, reserved, sold, status, version
//! ```
//!
//! (The braces stand for values; [`keys`] says how the names stay unambiguous.) `version` counts the changes of a
//! stock for ever, hot or cold, and is what is compared: one script writes both keys unless the version there is
//! higher. So never an older one comes after a newer one, whoever writes: this task, a resync beside it, another
//! server, or a request that was stuck in a stopped Redis.
//!
//! All stocks are mirrored again at the start, after every new connection, when the mark of this run is gone
//! (FLUSHALL), and when more stocks changed than are kept. A Redis that evicts keys by itself must not be used: an
//! evicted stock comes back with its next change. One Redis, or one primary with replicas; a Redis Cluster is out of
//! scope (the two keys of a stock may lie in different slots).

mod follow;
mod keys;
mod link;
mod resync;
#[cfg(feature = "testing")]
pub(crate) mod simulated;
mod stats;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::counters::MirrorStats;
use hotstock_engine::dirty::Dirty;
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::mirror::{Mirror, MirrorError, MirrorSource, Mirrored, Put};
use redis::{Client, RedisResult};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::follow::Follower;
use self::keys::Keys;
use self::link::{Address, Connect, Link as _, RedisLink};
use self::stats::Shared;
use crate::limits::{
    MAX_MIRROR_BATCH, MAX_MIRROR_MILLIS, MAX_MIRROR_PREFIX_BYTES, MIRROR_FIRST_PAUSE_MILLIS,
    MIRROR_LAST_PAUSE_MILLIS,
};

/// How the mirror is set up.
#[derive(Clone)]
pub struct MirrorOptions {
    /// `redis://[user:password@]host:port/db` or `unix:path`. No TLS.
    pub redis_url: String,
    /// What every key begins with: letters, digits, `_`, `-`, `.` and `:`.
    pub prefix: String,
    /// How long changes are gathered before they are written, in milliseconds.
    pub flush_every_ms: u64,
    /// Stocks in one round trip.
    pub batch: usize,
    /// How long Redis may take to connect and for each answer, in milliseconds; then the connection is given up.
    pub timeout_ms: u64,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        Self {
            redis_url: "redis://127.0.0.1:6379/".to_owned(),
            prefix: "inv".to_owned(),
            flush_every_ms: 5,
            batch: 1_000,
            timeout_ms: 1_000,
        }
    }
}

impl fmt::Debug for MirrorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL: it may hold a password.
        let Self { redis_url: _, prefix, flush_every_ms, batch, timeout_ms } = self;
        f.debug_struct("MirrorOptions")
            .field("prefix", prefix)
            .field("flush_every_ms", flush_every_ms)
            .field("batch", batch)
            .field("timeout_ms", timeout_ms)
            .finish_non_exhaustive()
    }
}

impl MirrorOptions {
    /// Checks the bounds and the URL; connects to nothing.
    ///
    /// # Errors
    /// [`MirrorError::Options`] names what does not fit.
    pub fn validate(&self) -> Result<(), MirrorError> {
        self.client().map(drop)
    }

    fn client(&self) -> Result<Client, MirrorError> {
        let problem = |text: String| Err(MirrorError::Options(text));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        let length = self.prefix.len();
        if length == 0 || length > MAX_MIRROR_PREFIX_BYTES || !self.prefix.chars().all(is_plain) {
            return problem(format!(
                "prefix must be 1 to {MAX_MIRROR_PREFIX_BYTES} letters, digits and _-.:"
            ));
        }
        if self.batch == 0 || self.batch > MAX_MIRROR_BATCH {
            return problem(format!("batch must be 1 to {MAX_MIRROR_BATCH}"));
        }
        if self.timeout_ms == 0
            || self.timeout_ms > MAX_MIRROR_MILLIS
            || self.flush_every_ms > MAX_MIRROR_MILLIS
        {
            return problem(format!(
                "timeout_ms and flush_every_ms must be at most {MAX_MIRROR_MILLIS}, timeout_ms at least 1"
            ));
        }
        Client::open(self.redis_url.as_str()).or_else(|error| problem(format!("redis_url: {error}")))
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// A running mirror; dropped, it ends at once.
#[derive(Debug)]
pub struct RedisMirror {
    shared: Arc<Shared>,
    dirty: Arc<Dirty>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl RedisMirror {
    /// Starts it. Redis need not be there yet.
    ///
    /// # Errors
    /// [`MirrorError::Options`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        options: MirrorOptions,
        dirty: Arc<Dirty>,
        source: Arc<dyn MirrorSource>,
    ) -> Result<Self, MirrorError> {
        let (client, keys) = (options.client()?, Keys::new(&options.prefix));
        let redis = Box::new(Address { client, keys, timeout: options.timeout() });
        Ok(Self::follow(redis, options, dirty, source))
    }

    /// Starts it on a Redis that is simulated.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn simulated(
        redis: simulated::SimulatedRedis,
        options: MirrorOptions,
        dirty: Arc<Dirty>,
        source: Arc<dyn MirrorSource>,
    ) -> Self {
        Self::follow(Box::new(redis), options, dirty, source)
    }

    fn follow(
        redis: Box<dyn Connect>,
        options: MirrorOptions,
        dirty: Arc<Dirty>,
        source: Arc<dyn MirrorSource>,
    ) -> Self {
        let shared = Arc::new(Shared::new());
        let (stop, for_task) = watch::channel(false);
        let follower = Follower {
            redis,
            options,
            dirty: Arc::clone(&dirty),
            source,
            shared: Arc::clone(&shared),
            stop: for_task,
            run: format!("{:032x}", fastrand::u128(..)),
        };
        let task = Mutex::new(Some(tokio::spawn(follower.run())));
        Self { shared, dirty, stop, task }
    }

    /// Where it stands.
    #[must_use]
    pub fn stats(&self) -> MirrorStats {
        self.shared.stats(&self.dirty)
    }

    /// Writes what has changed, as far as that goes within a few `timeout_ms`, and ends. A second call returns at once.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the mirror ended badly");
        }
    }
}

impl Drop for RedisMirror {
    fn drop(&mut self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        task.iter().for_each(JoinHandle::abort);
    }
}

/// The mirror as reconcile reads and repairs it: over a connection of its own, opened for each call.
#[derive(Debug)]
pub struct MirrorAccess {
    client: Client,
    options: MirrorOptions,
}

impl MirrorAccess {
    /// For the Redis and prefix of a mirror; connects to nothing.
    ///
    /// # Errors
    /// [`MirrorError::Options`].
    pub fn new(options: MirrorOptions) -> Result<Self, MirrorError> {
        Ok(Self { client: options.client()?, options })
    }

    async fn open(&self) -> RedisResult<RedisLink> {
        RedisLink::open(&self.client, Keys::new(&self.options.prefix), self.options.timeout()).await
    }
}

#[async_trait]
impl Mirror for MirrorAccess {
    async fn levels(&self, stocks: &[(SkuId, WarehouseId)]) -> Result<Vec<Mirrored>, MirrorError> {
        let mut link = self.open().await.map_err(|error| unavailable(&error))?;
        let mut all = Vec::with_capacity(stocks.len());
        for some in stocks.chunks(self.options.batch) {
            all.extend(link.read(some).await.map_err(|error| unavailable(&error))?);
        }
        Ok(all)
    }

    async fn put(&self, stocks: &[Put]) -> Result<(), MirrorError> {
        let mut link = self.open().await.map_err(|error| unavailable(&error))?;
        for some in stocks.chunks(self.options.batch) {
            let puts: Vec<_> = some.iter().map(|put| (&put.stock, put.over)).collect();
            link.put(&puts).await.map_err(|error| unavailable(&error))?;
        }
        Ok(())
    }
}

fn unavailable(error: &redis::RedisError) -> MirrorError {
    MirrorError::Unavailable(error.to_string())
}

/// The wait after so many failures in a row: doubled each time up to a bound, the last half of it random.
fn pause(failures: u32) -> Duration {
    let doubled = MIRROR_FIRST_PAUSE_MILLIS.saturating_mul(1_u64.checked_shl(failures).unwrap_or(u64::MAX));
    let most = doubled.min(MIRROR_LAST_PAUSE_MILLIS);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_bounds_are_named() {
        let with = |change: fn(&mut MirrorOptions)| {
            let mut options = MirrorOptions::default();
            change(&mut options);
            options.validate().map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert!(with(|o| o.prefix = "a{b}".into()).unwrap_err().contains("prefix"));
        assert!(with(|o| o.prefix.clear()).unwrap_err().contains("prefix"));
        assert!(with(|o| o.batch = 0).unwrap_err().contains("batch"));
        assert!(with(|o| o.timeout_ms = 0).unwrap_err().contains("timeout_ms"));
        assert!(with(|o| o.flush_every_ms = MAX_MIRROR_MILLIS + 1).unwrap_err().contains("flush_every_ms"));
        assert!(with(|o| o.redis_url = "mysql://x".into()).unwrap_err().contains("redis_url"));
    }

    #[test]
    fn a_password_is_not_shown() {
        let options =
            MirrorOptions { redis_url: "redis://:secret@localhost/".into(), ..MirrorOptions::default() };
        let access = MirrorAccess::new(options.clone()).unwrap();
        assert!(!format!("{options:?}").contains("secret"));
        assert!(!format!("{access:?}").contains("secret"));
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        for failures in [1, 2, 5, 40, 64, u32::MAX] {
            let pause = pause(failures);
            assert!(pause >= Duration::from_millis(MIRROR_FIRST_PAUSE_MILLIS));
            assert!(pause <= Duration::from_millis(MIRROR_LAST_PAUSE_MILLIS));
        }
        assert!(pause(40) >= Duration::from_millis(MIRROR_LAST_PAUSE_MILLIS / 2));
    }
}
