//! Orders over several places in the store, on both databases: branches, homes, orders that come apart, and who may touch what.
//! (What every store must do stands in the engine's suites; here are the rows, and what only a SQL store has.)

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod apart;
mod cold;
mod flushed;
mod found;
mod migration;
mod serials;
mod support;

macro_rules! on_both {
    ($($module:ident::$name:ident)*) => {
        mod on_sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    crate::$module::$name(&crate::support::Base::sqlite()).await;
                }
            )*
        }

        mod on_mariadb {
            /// A MariaDB takes two seconds to start, so all share one, each with a database of its own.
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn all_of_them() {
                let server = std::sync::Arc::new(hotstock_persistence::testing::MariaDb::start());
                $(
                    println!("{}", stringify!($name));
                    crate::$module::$name(&crate::support::Base::mariadb(&server, stringify!($name))).await;
                )*
            }
        }
    };
}

on_both! {
    cold::branches_of_an_order_are_reserved_together
    cold::branches_are_sold_and_given_back_like_orders
    cold::one_of_many_that_another_decides_is_named
    cold::every_warehouse_is_there_to_choose_from
    cold::due_branches_ask_and_do_not_expire
    cold::an_order_service_may_be_asked_first
    apart::a_sku_that_goes_leaves_branches_behind
    apart::many_orders_come_apart_page_by_page
    apart::orders_that_come_apart_while_others_change_them_stay_whole
    apart::an_ended_order_comes_apart_when_it_is_changed
    apart::servers_leave_each_others_branches_and_homes_alone
    apart::what_a_lost_server_had_goes_to_the_new_one
    flushed::a_home_is_written_whenever_it_changes
    flushed::orders_that_a_shard_splits_are_split_in_the_store
    flushed::a_home_that_comes_back_is_not_due_any_more
    flushed::an_order_that_is_there_already_is_left_alone
    flushed::a_home_that_another_server_took_over_is_fenced
    found::orders_are_listed_by_number_state_and_sku
    serials::serial_numbers_are_given_once
    migration::a_store_of_the_first_version_goes_on
    migration::a_migration_that_was_cut_off_is_carried_on
}
