//! A store of a test's own, seen through SQL too, and commands for branches and homes.

use std::path::PathBuf;
use std::sync::Arc;

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{
    Action, Command, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve, Return,
};
use hotstock_engine::event::Event;
use hotstock_engine::home::{HeldLine, HomeImage, HomeStep};
use hotstock_engine::ids::{AttemptId, Branch, Lsn, OrderNo, RequestId, ServerId, SkuId, WarehouseId};
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::outcome::{Answer, Effect, OrderView, Outcome};
use hotstock_engine::store::{ColdOutcome, Store};
use hotstock_engine::testing::flush_suite::Hot;
use hotstock_persistence::sql::{SqlOptions, SqlStore};
use hotstock_persistence::testing::MariaDb;
use sqlx::Connection as _;
use tempfile::TempDir;

pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub const W1: WarehouseId = WarehouseId(1);
pub const HOUR: u32 = 3_600;

/// A database, empty at first.
pub enum Base {
    Sqlite(TempDir),
    MariaDb(Arc<MariaDb>, String),
}

impl Base {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn mariadb(server: &Arc<MariaDb>, name: &str) -> Self {
        // The longest name that a database may have.
        let name: String = name.chars().take(60).collect();
        Self::MariaDb(Arc::clone(server), name)
    }

    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite:{}", self.file().display()),
            Self::MariaDb(server, name) => server.url(name),
        }
    }

    fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(dir) => dir.path().join("store"),
            Self::MariaDb(..) => unreachable!("it has no file"),
        }
    }

    /// The store as a server opens it.
    pub fn open(&self, server: u128, shards: u16) -> SqlStore {
        SqlStore::open(&SqlOptions::new(self.url()), ServerId(server), shards).unwrap()
    }

    /// Runs statements, as a careless operator would.
    pub async fn run(&self, statements: &str) {
        match self {
            Self::Sqlite(_) => {
                let mut conn = self.connect().await;
                sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&mut conn).await.unwrap();
                conn.close().await.unwrap();
            }
            Self::MariaDb(server, name) => drop(server.sql(&format!("USE {name}; {statements}"))),
        }
    }

    /// The one number that a query answers.
    pub async fn number(&self, query: &str) -> i64 {
        match self {
            Self::Sqlite(_) => {
                let mut conn = self.connect().await;
                let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
                let number = query.fetch_one(&mut conn).await.unwrap();
                conn.close().await.unwrap();
                number
            }
            Self::MariaDb(server, name) => {
                server.sql(&format!("USE {name}; {query}")).trim().parse().unwrap()
            }
        }
    }

    async fn connect(&self) -> sqlx::SqliteConnection {
        let url = format!("{}?mode=rwc", self.url());
        let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 5000").execute(&mut conn).await.unwrap();
        conn
    }
}

pub fn sku(name: &str) -> SkuId {
    SkuId::new(name).unwrap()
}

pub fn order(number: &str) -> OrderNo {
    OrderNo::new(number).unwrap()
}

pub fn branch(number: &str, name: &str, attempt: u64) -> OrderNo {
    Branch { order_no: order(number), sku_id: sku(name), attempt: AttemptId(attempt) }.number()
}

pub fn lines(of: &[(&str, u32)]) -> Lines {
    let line =
        |(name, quantity): &(&str, u32)| Line { sku_id: sku(name), warehouse_id: W1, quantity: *quantity };
    Lines::new(of.iter().map(line)).unwrap()
}

pub fn create_in(name: &str, warehouse: u32, quantity: u64) -> Command {
    let (sku_id, warehouse_id) = (sku(name), WarehouseId(warehouse));
    Action::CreateStock(CreateStock { sku_id, warehouse_id, quantity, serialized: false }).into()
}

pub fn create(name: &str, quantity: u64) -> Command {
    create_in(name, 1, quantity)
}

pub fn reserve_as(order_no: OrderNo, of: &[(&str, u32)], ttl_seconds: u32) -> Command {
    let (lines, mode) = (lines(of), Mode::AllOrNothing);
    Action::Reserve(Reserve { order_no, lines, ttl_seconds, buyer_id: None, mode, choice: None }).into()
}

pub fn reserve(number: &str, of: &[(&str, u32)]) -> Command {
    reserve_as(order(number), of, HOUR)
}

/// The branch of one SKU.
pub fn hold(number: &str, attempt: u64, name: &str, quantity: u32) -> Command {
    reserve_as(branch(number, name, attempt), &[(name, quantity)], BRANCH_ASK_SECONDS)
}

pub fn confirm(order_no: OrderNo) -> Command {
    Action::Confirm(Confirm { order_no, part: None }).into()
}

pub fn release(order_no: OrderNo) -> Command {
    Action::Release(Release { order_no, part: None, reason: None }).into()
}

pub fn give_back(order_no: OrderNo, request_id: &str, of: &[(&str, u32)]) -> Command {
    let request_id = RequestId::new(request_id).unwrap();
    Action::Return(Return { order_no, request_id, lines: Some(lines(of)) }).into()
}

/// The home's step that makes an order all of whose branches hold.
pub fn made(number: &str, attempt: u64, of: &[(&str, u32)]) -> Action {
    let lines = lines(of);
    let held = lines.as_slice().iter().map(|line| HeldLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.quantity,
        held: line.quantity,
    });
    let held = held.collect();
    let reserve = Reserve {
        order_no: order(number),
        lines,
        ttl_seconds: HOUR,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    };
    Action::Home(Box::new(HomeStep::Reserve { reserve, attempt: AttemptId(attempt), lines: held }))
}

/// What a command comes to that SQL decides.
pub async fn outcome(store: &dyn Store, command: &Command, now: Timestamp) -> Outcome {
    match store.submit(command, now).await.unwrap() {
        ColdOutcome::Done { outcome, .. } => outcome,
        other => panic!("{command:?}: {other:?}"),
    }
}

/// Carries out a command that must not be refused.
pub async fn done(store: &dyn Store, command: &Command) {
    outcome(store, command, NOW).await.unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
}

pub fn order_of(outcome: &ColdOutcome) -> (&OrderView, Effect) {
    match outcome {
        ColdOutcome::Done { outcome: Ok(Answer::Order { order, effect }), .. } => (order, *effect),
        other => panic!("{other:?}"),
    }
}

/// Available, reserved and sold.
pub async fn levels(store: &dyn Store, name: &str) -> [u64; 3] {
    let rows = store.stock(&sku(name), Some(W1)).await.unwrap();
    let levels = rows[0].view.levels;
    [levels.available, levels.reserved, levels.sold]
}

/// Every stock, its journal and the lines of its orders say the same.
pub async fn balance(store: &dyn Store) {
    for books in store.books(None, 1_000_000).await.unwrap() {
        let levels = books.row.view.levels;
        let sums =
            [levels.available, levels.reserved, levels.sold].map(|units| i64::try_from(units).unwrap());
        assert_eq!(books.journal, sums, "{books:?}");
        assert_eq!((books.journal_rows, books.journal_after), (levels.version, Some(levels)), "{books:?}");
        assert_eq!((books.held_by_orders, books.sold_by_orders), (levels.reserved, levels.sold), "{books:?}");
        let suspects = store.suspects(&books.row.view.sku_id, books.row.view.warehouse_id, 10).await.unwrap();
        assert_eq!(suspects, []);
    }
}

/// A home as the store keeps it.
pub fn without_lsn(mut home: HomeImage) -> HomeImage {
    home.order.lsn = Lsn::ZERO;
    home
}

/// Carries out a command in a shard.
pub fn must(hot: &mut Hot, command: Command) {
    hot.must(command.action);
}

/// The shard closes SKUs, and lets them go.
pub fn close(hot: &mut Hot, names: &[&str]) {
    let skus = names.iter().map(|name| sku(name)).collect();
    hot.must(Action::Place(Box::new(hotstock_engine::command::Place::Close { skus })));
    while let Some(event) = hot.state.next_leaving(hot.now) {
        log(hot, event);
    }
}

/// Logs an event that the shard makes by itself.
pub fn log(hot: &mut Hot, event: Event) {
    let lsn = hot.last().next();
    hot.state.apply(lsn, &event).unwrap();
    hot.events.push((lsn, event));
}
