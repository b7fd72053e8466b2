//! What every store must do, sentence by sentence of the contract in [`crate::store`]. An implementation says how it is
//! opened ([`Subject`]) and calls [`store_suite!`](crate::store_suite), which makes one test of every function here.
//!
//! - [`commands`]: cold commands and expiry, beside a shard's state machine and from many tasks at once.
//! - [`moves`]: owners, and what goes with a SKU.
//! - [`spanning`]: orders over several places, and the list of orders.

pub mod commands;
pub mod moves;
pub mod spanning;

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::command::{
    Action, ChangeKind, ChangeStock, Command, Confirm, CreateStock, Line, Lines, Mode, Release, Reserve,
};
use crate::ids::{OrderNo, RequestId, ServerId, SkuId, WarehouseId};
use crate::outcome::{Levels, Outcome};
use crate::store::{ColdOutcome, Store};

pub use commands::*;
pub use moves::*;
pub use spanning::*;

/// A store under test: one database, which nobody else uses.
pub trait Subject: Send + Sync {
    /// Opens it for this server, which has so many shards.
    fn open_as(&self, server: ServerId, shards: u16) -> Arc<dyn Store>;

    /// Opens it once more, as a server would.
    fn open(&self) -> Arc<dyn Store> {
        self.open_as(ServerId(1), 1)
    }
}

/// Makes one test of every function of the suite. `$subject` is an expression for a fresh [`Subject`]. After `together` it is
/// a function that makes one from a name, and there is one test for all, for a database that takes long to start.
#[macro_export]
macro_rules! store_suite {
    (together $subject:expr) => {
        $crate::store_suite!(@names together, $subject);
    };
    (@names $how:ident, $subject:expr) => {
        $crate::store_suite!(@$how $subject;
            random_commands_end_as_in_a_shard
            a_row_that_many_want_is_never_oversold
            an_order_number_that_many_use_is_one_order
            lines_in_any_order_do_not_lock_each_other_out
            servers_that_sweep_at_once_expire_each_order_once
            the_time_of_a_row_never_steps_back
            reads_show_what_was_written
            a_request_id_that_many_use_changes_the_stock_once
            what_has_an_owner_is_decided_elsewhere
            branches_lie_like_orders
            commands_go_together
            due_orders_are_asked_about_first
            an_order_come_apart_gets_a_home
            open_orders_come_apart_with_their_skus
            orders_are_listed_page_by_page
            any_warehouse_serves_a_line_that_is_open
            a_warehouse_that_is_added_meanwhile_goes_along
            after_a_sku_is_taken_nothing_changes_it
            orders_and_requests_go_along_page_by_page
            the_sweeper_leaves_orders_of_shards_alone
            servers_are_told_what_they_own
            a_closed_store_says_so
        );
    };
    (@tests $subject:expr; $($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            $crate::testing::store_suite::$name(&$subject).await;
        }
    )+};
    (@together $subject:expr; $($name:ident)+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn all_that_a_store_must_do() {
            let subject = $subject;
            $(
                println!("{}", stringify!($name));
                $crate::testing::store_suite::$name(&subject(stringify!($name))).await;
            )+
        }
    };
    ($subject:expr) => {
        $crate::store_suite!(@names tests, $subject);
    };
}

/// A time to begin with.
pub const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// Far more than any order in the suite is held.
const HOUR: u32 = 3_600;

fn sku(name: &str) -> SkuId {
    SkuId::new(name).expect("a short text")
}

fn order_no(name: &str) -> OrderNo {
    OrderNo::new(name).expect("a short text")
}

fn request_id(name: &str) -> RequestId {
    RequestId::new(name).expect("a short text")
}

const W1: WarehouseId = WarehouseId(1);

fn create(name: &str, warehouse_id: WarehouseId, quantity: u64) -> Command {
    Action::CreateStock(CreateStock { sku_id: sku(name), warehouse_id, quantity, serialized: false }).into()
}

fn restock(name: &str, quantity: i64, id: &str) -> Command {
    Action::ChangeStock(ChangeStock {
        sku_id: sku(name),
        warehouse_id: W1,
        kind: ChangeKind::Restock,
        quantity,
        request_id: request_id(id),
        reason: None,
    })
    .into()
}

/// An order of one unit of each SKU in the first warehouse.
fn reserve(order: &str, skus: &[&str], ttl_seconds: u32) -> Command {
    let line = |name: &&str| Line { sku_id: sku(name), warehouse_id: W1, quantity: 1 };
    let lines = Lines::new(skus.iter().map(line)).expect("a few small lines");
    let (buyer_id, mode) = (None, Mode::AllOrNothing);
    Action::Reserve(Reserve { order_no: order_no(order), lines, ttl_seconds, buyer_id, mode, choice: None })
        .into()
}

fn confirm(order: &str) -> Command {
    Action::Confirm(Confirm { order_no: order_no(order), part: None }).into()
}

fn release(order: &str) -> Command {
    Action::Release(Release { order_no: order_no(order), part: None, reason: None }).into()
}

/// What SQL says to a command that it decides.
async fn outcome(store: &dyn Store, command: &Command, now: Timestamp) -> Outcome {
    match store.submit(command, now).await.expect("the store is there") {
        ColdOutcome::Done { outcome, .. } => outcome,
        ColdOutcome::Elsewhere(owner) => panic!("{command:?} is decided by {owner:?}"),
        ColdOutcome::Home(home) => panic!("{command:?} is decided by {home:?}"),
    }
}

/// Carries out a command that can't be refused.
async fn done(store: &dyn Store, command: &Command, now: Timestamp) {
    if let Err(refusal) = outcome(store, command, now).await {
        panic!("{command:?}: {refusal}");
    }
}

/// The levels of a SKU in the first warehouse.
async fn levels(store: &dyn Store, name: &str) -> Levels {
    let stocks = store.stock(&sku(name), Some(W1)).await.expect("the store is there");
    stocks.first().expect("the stock is there").view.levels
}
