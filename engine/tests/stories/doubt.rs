//! Orders over several shops while one of them does not answer, or whoever coordinates is gone.

use crate::mall::{Mall, mall};

const STOCK: &str = "
    create A 10                    -> created A 10/0/0
    create N 10                    -> created N 10/0/0";

#[track_caller]
fn with_stock(table: &str) -> Mall {
    mall(&format!("{STOCK}\n{table}"))
}

/// Presumed abort: a home that does not know the attempt never will.
#[test]
fn holds_that_nobody_decides_are_released() {
    with_stock(
        "hold O1 A:3 N:2                -> held O1/A O1/N
         levels A                       -> 7/3/0
         wait 2900                      ->
         ask                            ->
         wait 100                       ->
         ask                            -> released O1/A O1/N
         ask                            ->
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0
         reserve O1 A:4 N:4             -> created reserved A:4[held 4] N:4[held 4]",
    );
}

/// Also those of another attempt than the one that its home knows.
#[test]
fn holds_of_another_attempt_are_released() {
    with_stock(
        "hold O1 A:3 N:2                -> held O1/A O1/N
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         levels A                       -> 4/6/0
         wait 3000                      ->
         ask                            -> released O1/A O1/N
         levels A                       -> 7/3/0
         restart                        ->
         ask                            ->
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]",
    );
}

#[test]
fn a_shop_that_does_not_answer_refuses_the_order_for_now() {
    with_stock(
        "deaf 1                         ->
         reserve O1 A:3 N:2             -> overloaded
         levels A                       -> 10/0/0
         hears 1                        ->
         levels N                       -> 10/0/0
         mute 1                         ->
         reserve O1 A:3 N:2             -> overloaded
         hears 1                        ->
         levels N                       -> 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]",
    );
}

/// What was decided stands, and is carried later, in its order.
#[test]
fn a_decision_waits_for_a_shop_that_does_not_answer() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         deaf 1                         ->
         confirm O1 N:1                 -> changed partially_confirmed A:3[held 3] N:2[held 1 confirmed 1]
         release O1                     -> changed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         levels N                       -> 8/2/0
         levels A                       -> 7/3/0
         get O1                         -> replayed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         hears 1                        ->
         release O1                     -> replayed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         levels N                       -> 9/0/1
         levels A                       -> 10/0/0
         carry                          ->",
    );
}

#[test]
fn a_decision_survives_a_restart() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         mute 1                         ->
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels N                       -> 8/0/2
         restart                        ->
         carry                          -> O1
         restart                        ->
         hears 1                        ->
         carry                          -> O1
         levels A                       -> 7/0/3
         levels N                       -> 8/0/2
         restart                        ->
         carry                          ->",
    );
}

/// The home did not hear that the units are held: they go back, and the payment is tried again.
#[test]
fn a_late_payment_whose_home_does_not_answer() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=1       -> created reserved A:3[held 3] N:2[held 2]
         wait 1000                      ->
         expire                         -> O1
         carry                          -> O1
         mute 1                         ->
         confirm O1                     -> overloaded
         hears 1                        ->
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels A                       -> 7/0/3",
    );
}

/// Who asked for a decision tells it; when it has gone away, others do after a while.
#[test]
fn a_decision_whose_asker_went_away() {
    with_stock(
        "carry                          ->
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         reserve O2 A:1 N:1             -> created reserved A:1[held 1] N:1[held 1]
         deaf 1                         ->
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         confirm O2 N:1                 -> changed partially_confirmed A:1[held 1] N:1[confirmed 1]
         hears 1                        ->
         carry                          ->
         wait 5000                      ->
         confirm O2 A:1                 -> changed confirmed A:1[confirmed 1] N:1[confirmed 1]
         levels N                       -> 7/2/1
         wait 5000                      ->
         carry                          -> O1
         levels N                       -> 7/0/3
         carry                          ->
         wait 60000                     ->
         carry                          ->",
    );
}
