//! Every command on an order over two shards (A to M here, N to Y there), answered as one shard would.

use crate::several::several;

const STOCK: &str = "
    create A 10                    -> created A 10/0/0
    create B 10                    -> created B 10/0/0
    create N 10                    -> created N 10/0/0";

#[track_caller]
fn with_stock(table: &str) {
    several(&format!("{STOCK}\n{table}"));
}

#[test]
fn from_reserve_to_return() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         levels A                       -> 7/3/0
         levels N                       -> 8/2/0
         reserve O1 N:2 A:3             -> replayed reserved A:3[held 3] N:2[held 2]
         get O1                         -> replayed reserved A:3[held 3] N:2[held 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         confirm O1                     -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels A                       -> 7/0/3
         levels N                       -> 8/0/2
         release O1                     -> already_confirmed
         return O1 R1 A:1               -> changed partially_returned A:3[confirmed 3 returned 1] N:2[confirmed 2]
         return O1 R1 A:1               -> replayed partially_returned A:3[confirmed 3 returned 1] N:2[confirmed 2]
         return O1 R1 A:2               -> request_mismatch
         return O1 R2 N:3               -> nothing_to_return N 2 of 3
         levels A                       -> 8/0/2
         return O1 R3                   -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]
         return O1 R4                   -> nothing_to_return A 0 of 3 N 0 of 2
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0",
    );
}

#[test]
fn released_as_a_whole() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         release O1                     -> changed released A:3[released 3] N:2[released 2]
         release O1                     -> replayed released A:3[released 3] N:2[released 2]
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0
         extend O1 60                   -> order_ended
         return O1 R1                   -> nothing_to_return A 0 of 3 N 0 of 2",
    );
}

#[test]
fn several_skus_in_one_shard() {
    with_stock(
        "reserve O1 N:2 A:3 B:4 A@1:1   -> created reserved N:2[held 2] A:4[held 4] B:4[held 4]
         confirm O1 B:1 N:1             -> changed partially_confirmed N:2[held 1 confirmed 1] A:4[held 4] B:4[held 3 confirmed 1]
         release O1                     -> changed partially_confirmed N:2[confirmed 1 released 1] A:4[released 4] B:4[confirmed 1 released 3]
         levels A                       -> 10/0/0
         levels B                       -> 9/0/1
         levels N                       -> 9/0/1",
    );
}

#[test]
fn several_warehouses_of_a_sku() {
    with_stock(
        "create A@2 5                   -> created A@2 5/0/0
         reserve O1 A@2:2 N:1 A:1       -> created reserved A@2:2[held 2] N:1[held 1] A:1[held 1]
         confirm O1 A:1                 -> changed partially_confirmed A@2:2[held 2] N:1[held 1] A:1[confirmed 1]
         levels A                       -> 9/0/1
         levels A@2                     -> 3/2/0
         release O1 A@2:1               -> changed partially_confirmed A@2:2[held 1 released 1] N:1[held 1] A:1[confirmed 1]
         confirm O1                     -> changed partially_confirmed A@2:2[confirmed 1 released 1] N:1[confirmed 1] A:1[confirmed 1]
         levels A@2                     -> 4/0/1",
    );
}

#[test]
fn in_parts() {
    with_stock(
        "reserve O1 A:4 N:4             -> created reserved A:4[held 4] N:4[held 4]
         confirm O1 A:1                 -> changed partially_confirmed A:4[held 3 confirmed 1] N:4[held 4]
         confirm O1 A:1                 -> replayed partially_confirmed A:4[held 3 confirmed 1] N:4[held 4]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:4[held 2 confirmed 2] N:4[held 4]
         confirm O1 A:1 id=R1           -> replayed partially_confirmed A:4[held 2 confirmed 2] N:4[held 4]
         confirm O1 A:2 id=R1           -> request_mismatch
         release O1 A:1 N:1 id=R2       -> changed partially_confirmed A:4[held 1 confirmed 2 released 1] N:4[held 3 released 1]
         release O1 A:2 id=R3           -> exceeds_hold A 1 of 2
         confirm O1 B:1                 -> exceeds_hold B 0 of 1
         levels A                       -> 7/1/2
         levels N                       -> 7/3/0
         confirm O1 A:1 N:3 id=R4       -> changed partially_confirmed A:4[confirmed 3 released 1] N:4[confirmed 3 released 1]
         confirm O1                     -> replayed partially_confirmed A:4[confirmed 3 released 1] N:4[confirmed 3 released 1]
         return O1 R5 N:1               -> changed partially_returned A:4[confirmed 3 released 1] N:4[confirmed 3 released 1 returned 1]
         levels A                       -> 7/0/3
         levels N                       -> 8/0/2",
    );
}

/// Whatever a caller calls its requests.
#[test]
fn in_parts_with_ids() {
    with_stock(
        "reserve O1 A:4 N:4             -> created reserved A:4[held 4] N:4[held 4]
         confirm O1 A:1 id=d2           -> changed partially_confirmed A:4[held 3 confirmed 1] N:4[held 4]
         release O1 A:1 id=d1           -> changed partially_confirmed A:4[held 2 confirmed 1 released 1] N:4[held 4]
         confirm O1 A:1 id=d3           -> changed partially_confirmed A:4[held 1 confirmed 2 released 1] N:4[held 4]
         levels A                       -> 7/1/2",
    );
}

#[test]
fn refused_for_want_of_stock() {
    with_stock(
        "reserve O1 A:11 N:2            -> insufficient_stock A 10 of 11
         reserve O1 N:12 A:11 B:1       -> insufficient_stock N 10 of 12 A 10 of 11
         reserve O1 A:1 Z:1             -> unknown_sku Z
         reserve O1 A:11 Z:1            -> unknown_sku Z
         suspend N                      -> changed N 10/0/0 suspended
         reserve O1 A:11 N:1            -> sku_suspended N
         reserve O1 N:1 Y:1             -> sku_suspended N
         reserve O1 Y:1 A:1 N:1         -> unknown_sku Y
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0
         resume N                       -> changed N 10/0/0
         reserve O1 A:10 N:10           -> created reserved A:10[held 10] N:10[held 10]
         levels A                       -> 0/10/0",
    );
}

#[test]
fn best_effort() {
    with_stock(
        "reserve O1 A:12 N:2 best_effort -> created reserved A:12[held 10] N:2[held 2]
         reserve O2 A:1 N:2 best_effort -> created reserved A:1[] N:2[held 2]
         reserve O2 N:2 A:1 best_effort -> replayed reserved A:1[] N:2[held 2]
         reserve O2 N:2 A:1             -> order_mismatch
         reserve O3 A:1 N:9 B:1 best_effort -> created reserved A:1[] N:9[held 6] B:1[held 1]
         reserve O4 A:1 N:9 best_effort -> insufficient_stock A 0 of 1 N 0 of 9
         reserve O4 A:1 Z:9 best_effort -> unknown_sku Z
         confirm O2 A:1                 -> exceeds_hold A 0 of 1
         confirm O2                     -> changed confirmed A:1[] N:2[confirmed 2]
         suspend A                      -> changed A 0/10/0 suspended
         suspend N                      -> changed N 0/8/2 suspended
         reserve O5 A:1 N:1 best_effort -> sku_suspended A
         reserve O5 A:1 N:1 B:1 best_effort -> created reserved A:1[] N:1[] B:1[held 1]
         release O3                     -> changed released A:1[] N:9[released 6] B:1[released 1]
         levels N                       -> 6/2/2
         levels B                       -> 9/1/0",
    );
}

#[test]
fn mismatches() {
    with_stock(
        "reserve O1 A:3 N:2 buyer=bob   -> created reserved A:3[held 3] N:2[held 2]
         reserve O1 A:3 N:2             -> order_mismatch
         reserve O1 A:3 N:2 buyer=amy   -> order_mismatch
         reserve O1 A:3 N:1 buyer=bob   -> order_mismatch
         reserve O1 A:3 buyer=bob       -> order_mismatch
         reserve O1 A:3 N:2 B:1 buyer=bob -> order_mismatch
         reserve O1 A:3 N:2 buyer=bob ttl=5 -> replayed reserved A:3[held 3] N:2[held 2]",
    );
}

#[test]
fn a_tombstone() {
    with_stock(
        "release O1                     -> changed cancelled
         reserve O1 A:3 N:2             -> order_cancelled
         release O1                     -> replayed cancelled
         confirm O1                     -> order_cancelled
         release O2 A:1                 -> unknown_order
         confirm O3                     -> unknown_order
         get O3                         -> unknown_order
         levels A                       -> 10/0/0",
    );
}

#[test]
fn expired_by_the_coordinator_alone() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=5       -> created reserved A:3[held 3] N:2[held 2]
         confirm O1 A:1                 -> changed partially_confirmed A:3[held 2 confirmed 1] N:2[held 2]
         wait 4900                      ->
         expire                         ->
         wait 100                       ->
         deaf 1                         ->
         expire                         -> O1
         get O1                         -> replayed partially_confirmed A:3[confirmed 1 released 2] N:2[released 2]
         levels A                       -> 9/0/1
         levels N                       -> 8/2/0
         hears 1                        ->
         levels N                       -> 10/0/0",
    );
}

#[test]
fn extended() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=5       -> created reserved A:3[held 3] N:2[held 2]
         extend O1 60                   -> changed reserved A:3[held 3] N:2[held 2]
         wait 59900                     ->
         expire                         ->
         wait 100                       ->
         expire                         -> O1
         extend O1 60                   -> order_ended
         levels N                       -> 10/0/0",
    );
}

#[test]
fn a_late_payment_with_stock() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=5       -> created reserved A:3[held 3] N:2[held 2]
         wait 5000                      ->
         expire                         -> O1
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels A                       -> 7/0/3
         levels N                       -> 8/0/2
         confirm O1                     -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
         return O1 R1                   -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]
         levels A                       -> 10/0/0",
    );
}

#[test]
fn a_late_payment_in_parts_and_without_stock() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O1 A:1                 -> changed partially_confirmed A:3[held 2 confirmed 1] N:2[held 2]
         release O1                     -> changed partially_confirmed A:3[confirmed 1 released 2] N:2[released 2]
         confirm O1 A:3                 -> exceeds_hold A 0 of 3
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:3[confirmed 2 released 1] N:2[released 2]
         levels A                       -> 8/0/2
         reserve O2 N:9                 -> created reserved N:9[held 9]
         confirm O1                     -> late_payment_no_stock N 1 of 2
         levels A                       -> 8/0/2
         levels N                       -> 1/9/0
         suspend A                      -> changed A 8/0/2 suspended
         confirm O1                     -> late_payment_no_stock A 0 of 1 N 1 of 2
         resume A                       -> changed A 8/0/2
         release O2                     -> changed released N:9[released 9]
         confirm O1 N:1 id=R2           -> changed partially_confirmed A:3[confirmed 2 released 1] N:2[confirmed 1 released 1]
         return O1 R3 A:2               -> changed partially_returned A:3[confirmed 2 released 1 returned 2] N:2[confirmed 1 released 1]
         confirm O1                     -> changed partially_returned A:3[confirmed 3 returned 2] N:2[confirmed 2]
         levels A                       -> 9/0/1
         levels N                       -> 8/0/2
         return O1 R4                   -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]
         levels A                       -> 10/0/0",
    );
}

/// As in one shard, when the whole order went back part by part.
#[test]
fn a_late_payment_after_a_release_in_parts() {
    with_stock(
        "reserve O1 A:1 N:2             -> created reserved A:1[held 1] N:2[held 2]
         release O1 N:2                 -> changed reserved A:1[held 1] N:2[released 2]
         confirm O1 N:2                 -> exceeds_hold N 0 of 2
         release O1 A:1                 -> changed released A:1[released 1] N:2[released 2]
         confirm O1                     -> changed confirmed A:1[confirmed 1] N:2[confirmed 2]
         levels N                       -> 8/0/2",
    );
}
