//! What every store must do, sentence by sentence of the contract in [`crate::contract::store`]. An implementation says
//! how it is opened and changed by hand ([`Subject`]) and calls [`store_suite!`](crate::store_suite), which makes one
//! test of every function here.
//!
//! - [`TestShard`]: a shard whose events are flushed. [`Shards`]: several, with orders that lie in more than one.
//! - [`owners`]: who may write. [`flushes`]: events come in. [`spans`]: those of orders over several shards. [`reads`]:
//!   what is read and loaded. [`upkeep`]: what is old goes, what is wrong is put right.

mod flushes;
mod owners;
mod reads;
mod shard;
mod shards;
mod spans;
mod upkeep;

use std::sync::Arc;

use async_trait::async_trait;

use crate::base::ids::{Epoch, OrderNo, RequestId, ServerId, SkuId, TakeId};
use crate::contract::store::{Loaded, Store, Take, Wanted};

pub use flushes::*;
pub use owners::*;
pub use reads::*;
pub use shard::*;
pub use shards::*;
pub use spans::*;
pub use upkeep::*;

/// A store under test: one database, which nobody else uses.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Opens it once more, as another server would.
    fn open(&self) -> Arc<dyn Store>;

    /// Writes another number into the rows of a SKU, as a careless operator would.
    async fn spoil(&self, sku_id: &SkuId, available: u64);

    /// Deletes the rows of an order.
    async fn delete_order(&self, order_no: &OrderNo);

    /// Deletes the row of a stock request.
    async fn delete_request(&self, sku_id: &SkuId, request_id: &RequestId);

    /// Changes how much each row of what is held for an order holds; `None`: deletes those rows.
    async fn edit_holds(&self, order_no: &OrderNo, units: Option<u32>);
}

/// Makes one test of every function of the suite. `$subject` is an expression for a fresh [`Subject`]. After
/// `together` it is a function that makes one from a name, and there is one test for all, for a database that takes
/// long to start.
#[macro_export]
macro_rules! store_suite {
    (together $subject:expr) => {
        $crate::store_suite!(@names together, $subject);
    };
    (@names $how:ident, $subject:expr) => {
        $crate::store_suite!(@$how $subject;
            only_the_newest_epoch_writes
            an_epoch_is_taken_once
            a_live_owner_keeps_others_out
            a_lease_ends_when_it_is_let_go
            every_kind_of_event_is_taken_in
            a_repeat_changes_nothing
            a_batch_that_begins_elsewhere_is_told_where
            any_batches_give_the_same_rows
            a_row_changed_by_hand_parks_its_sku_alone
            a_stock_that_is_there_parks_its_sku
            an_order_that_is_there_or_missing_is_noted
            shards_do_not_touch_each_other
            orders_over_several_shards_are_taken_in
            any_batches_of_shards_give_the_same_rows
            what_is_pending_is_kept_however_long_it_is
            holds_come_page_by_page
            counts_fit_whatever_each_shard_has_flushed
            new_directories_begin_with_what_is_held
            new_directories_begin_whole
            a_batch_of_shards_is_taken_in_as_a_whole
            what_is_held_otherwise_than_an_order_says_is_named
            an_order_over_several_shards_goes_with_its_holds
            what_is_wanted_is_loaded
            what_is_unsound_is_named
            stocks_are_read_page_by_page
            orders_are_listed_page_by_page
            numbers_are_told_page_by_page
            requests_that_were_deleted_are_told_page_by_page
            a_new_directory_finds_what_is_open_and_hot
            the_journal_comes_in_pages
            what_is_old_goes_and_sums_stay
            nothing_goes_from_a_store_that_is_behind
            a_parked_sku_is_repaired
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

/// What a server says to take the store after an epoch.
fn taking(server: u128, after: u64) -> Take {
    let (after, epoch) = (Epoch(after), Epoch(after + 1));
    let id = TakeId(server << 64 | u128::from(epoch.0));
    Take {
        id,
        server: ServerId(server),
        shards: 1,
        after,
        epoch,
        lease_seconds: 0,
        over: false,
        judged: None,
    }
}

/// A store that was taken in epoch 1.
async fn taken(subject: &dyn Subject) -> Arc<dyn Store> {
    taken_by(subject, 1).await
}

/// Likewise, by a server with so many shards.
async fn taken_by(subject: &dyn Subject, shards: u16) -> Arc<dyn Store> {
    let store = subject.open();
    store.take(&Take { shards, ..taking(1, 0) }).await.expect("it is new");
    store
}

/// Everything that the store has of these SKUs and orders.
async fn load(store: &dyn Store, skus: &[SkuId], orders: &[OrderNo]) -> Loaded {
    let mut all = Loaded::default();
    for skus in skus.chunks(crate::base::limits::MAX_LOADED_AT_ONCE) {
        let wanted = Wanted { skus: skus.to_vec(), ..Wanted::default() };
        let loaded = store.load(&wanted).await.expect("it loads");
        all.watermarks = loaded.watermarks;
        all.skus.extend(loaded.skus);
    }
    for orders in orders.chunks(crate::base::limits::MAX_LOADED_AT_ONCE) {
        let wanted = Wanted { orders: orders.to_vec(), ..Wanted::default() };
        let loaded = store.load(&wanted).await.expect("it loads");
        all.watermarks = loaded.watermarks;
        all.orders.extend(loaded.orders);
    }
    all
}
