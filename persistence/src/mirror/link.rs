//! One connection to Redis and what is said over it. Any error ends it: whoever uses it opens another and mirrors
//! everything again, because nobody knows what the Redis behind a new connection has. That is why the redis crate's
//! own `ConnectionManager` is not used: it replaces a connection without saying so.

use std::time::Duration;

use async_trait::async_trait;
use hotstock_engine::command::StockStatus;
use hotstock_engine::ids::{SkuId, WarehouseId};
use hotstock_engine::mirror::Mirrored;
use hotstock_engine::outcome::StockView;
use hotstock_engine::units::Levels;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind};

use super::keys::Keys;
use crate::limits::MIRROR_MARK_SECONDS;

/// Compares and writes; see its own comments.
const PUT: &str = include_str!("put.lua");

/// The longest version that is one, in digits: 2^53 has 16.
const MAX_VERSION_DIGITS: usize = 16;

/// What the mirror says to a Redis, over one connection.
#[async_trait]
pub(super) trait Link: Send {
    /// Writes stocks in one round trip, each with the version that it replaces though that is higher.
    async fn put(&mut self, stocks: &[(&StockView, Option<u64>)]) -> RedisResult<()>;

    /// Leaves the mark by which this run sees that Redis was emptied.
    async fn plant(&mut self, run: &str) -> RedisResult<()>;

    /// Whether the mark is still there; keeps it alive.
    async fn is_planted(&mut self, run: &str) -> RedisResult<bool>;

    /// Takes the mark away.
    async fn uproot(&mut self, run: &str) -> RedisResult<()>;
}

/// A Redis that can be connected to: a real one, or in the simulator one that is not.
#[async_trait]
pub(super) trait Connect: Send + Sync {
    /// A new connection.
    async fn connect(&self) -> RedisResult<Box<dyn Link>>;
}

/// A real Redis.
pub(super) struct Address {
    pub client: Client,
    pub keys: Keys,
    /// Each answer may take as long.
    pub timeout: Duration,
}

#[async_trait]
impl Connect for Address {
    async fn connect(&self) -> RedisResult<Box<dyn Link>> {
        let Self { client, keys, timeout } = self;
        Ok(Box::new(RedisLink::open(client, keys.clone(), *timeout).await?))
    }
}

/// See the top of the file.
pub(super) struct RedisLink {
    connection: MultiplexedConnection,
    keys: Keys,
    /// The name of the loaded script.
    put: String,
}

impl RedisLink {
    /// Connects and loads the script. Each answer may take as long as `timeout`.
    pub async fn open(client: &Client, keys: Keys, timeout: Duration) -> RedisResult<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let put = load(&mut connection).await?;
        Ok(Self { connection, keys, put })
    }

    async fn put_once(&mut self, stocks: &[(&StockView, Option<u64>)]) -> RedisResult<()> {
        let mut pipe = Pipeline::with_capacity(stocks.len());
        for (stock, over) in stocks {
            let StockView { sku_id, warehouse_id, levels, status, serialized: _ } = stock;
            pipe.cmd("EVALSHA")
                .arg(&self.put)
                .arg(2)
                .arg(self.keys.available(sku_id, *warehouse_id))
                .arg(self.keys.levels(sku_id, *warehouse_id))
                .arg(levels.version)
                .arg(over.map(|version| version.to_string()).unwrap_or_default())
                .arg(levels.available)
                .arg(levels.reserved)
                .arg(levels.sold)
                .arg(status_text(*status));
        }
        let answers: Vec<RedisResult<u64>> = pipe.ignore_errors().query_async(&mut self.connection).await?;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// What is there, all of one moment.
    pub async fn read(&mut self, stocks: &[(SkuId, WarehouseId)]) -> RedisResult<Vec<Mirrored>> {
        if stocks.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = Pipeline::with_capacity(stocks.len() * 2);
        pipe.atomic().ignore_errors();
        for (sku_id, warehouse_id) in stocks {
            pipe.cmd("GET").arg(self.keys.available(sku_id, *warehouse_id));
            let hash = pipe.cmd("HMGET").arg(self.keys.levels(sku_id, *warehouse_id));
            for field in ["available", "reserved", "sold", "version", "status"] {
                hash.arg(field);
            }
        }
        let answers: Vec<RedisResult<redis::Value>> = pipe.query_async(&mut self.connection).await?;
        Ok(answers.chunks(2).map(mirrored).collect())
    }
}

#[async_trait]
impl Link for RedisLink {
    async fn put(&mut self, stocks: &[(&StockView, Option<u64>)]) -> RedisResult<()> {
        if stocks.is_empty() {
            return Ok(());
        }
        match self.put_once(stocks).await {
            Err(error) if is_no_script(&error) => {
                // SCRIPT FLUSH. What was written before it is written once more, which changes nothing.
                self.put = load(&mut self.connection).await?;
                self.put_once(stocks).await
            }
            done => done,
        }
    }

    async fn plant(&mut self, run: &str) -> RedisResult<()> {
        let mut set = redis::cmd("SET");
        set.arg(self.keys.mark(run)).arg(1).arg("EX").arg(MIRROR_MARK_SECONDS);
        set.exec_async(&mut self.connection).await
    }

    async fn is_planted(&mut self, run: &str) -> RedisResult<bool> {
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(self.keys.mark(run)).arg(MIRROR_MARK_SECONDS);
        expire.query_async(&mut self.connection).await
    }

    async fn uproot(&mut self, run: &str) -> RedisResult<()> {
        redis::cmd("DEL").arg(self.keys.mark(run)).exec_async(&mut self.connection).await
    }
}

async fn load(connection: &mut MultiplexedConnection) -> RedisResult<String> {
    redis::cmd("SCRIPT").arg("LOAD").arg(PUT).query_async(connection).await
}

fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn status_text(status: StockStatus) -> &'static str {
    match status {
        StockStatus::OnSale => "on_sale",
        StockStatus::Suspended => "suspended",
    }
}

/// The answers to GET and HMGET. An error is that the key is of another kind: nothing of ours is there.
fn mirrored(answers: &[RedisResult<redis::Value>]) -> Mirrored {
    let plain = answers.first().and_then(|answer| text(answer.as_ref().ok()?));
    let fields: Vec<Option<String>> = match answers.get(1) {
        Some(Ok(redis::Value::Array(values))) => values.iter().map(text).collect(),
        _ => Vec::new(),
    };
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    let count = |index: usize| field(index).and_then(|text| text.parse::<u64>().ok());
    let version = count(3).filter(|_| field(3).is_some_and(|text| text.len() <= MAX_VERSION_DIGITS));
    let levels = || {
        let levels = Levels { available: count(0)?, reserved: count(1)?, sold: count(2)?, version: version? };
        let status = [StockStatus::OnSale, StockStatus::Suspended].into_iter();
        let status = status.into_iter().find(|status| Some(status_text(*status)) == field(4))?;
        Some((levels, status))
    };
    Mirrored { available: plain.and_then(|text| text.parse().ok()), levels: levels(), version }
}

fn text(value: &redis::Value) -> Option<String> {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}
