//! Each row of the state diagram of an order, what repeats are told, and what does not fit.

use crate::shop::story;

#[test]
fn reserve_confirm_return() {
    story(
        "create A 10             -> created A 10/0/0
         reserve O1 A:3          -> created reserved A:3[held 3]
         levels A                -> 7/3/0
         confirm O1              -> changed confirmed A:3[confirmed 3]
         levels A                -> 7/0/3
         return O1 R1 A:1        -> changed partially_returned A:3[confirmed 3 returned 1]
         return O1 R2            -> changed returned A:3[confirmed 3 returned 3]
         levels A                -> 10/0/0",
    );
}

#[test]
fn reserve_release() {
    story(
        "create A 10             -> created A 10/0/0
         reserve O1 A:3          -> created reserved A:3[held 3]
         release O1              -> changed released A:3[released 3]
         levels A                -> 10/0/0",
    );
}

#[test]
fn reserve_expiry() {
    story(
        "create A 10             -> created A 10/0/0
         reserve O1 A:3 ttl=1    -> created reserved A:3[held 3]
         wait 1000               ->
         expire                  -> O1
         get O1                  -> replayed expired A:3[released 3]
         levels A                -> 10/0/0",
    );
}

#[test]
fn a_release_before_the_reserve_is_a_tombstone() {
    story(
        "create A 10             -> created A 10/0/0
         release O1              -> changed cancelled
         release O1              -> replayed cancelled
         release O1 A:1          -> replayed cancelled
         reserve O1 A:3          -> order_cancelled
         confirm O1              -> order_cancelled
         extend O1 60            -> order_cancelled
         return O1 R1            -> order_cancelled
         get O1                  -> replayed cancelled
         levels A                -> 10/0/0
         release O2 A:1          -> unknown_order
         reserve O2 A:1          -> created reserved A:1[held 1]",
    );
}

#[test]
fn the_same_request_again_gets_the_same_answer() {
    story(
        "create A 10             -> created A 10/0/0
         reserve O1 A:3          -> created reserved A:3[held 3]
         reserve O1 A:3          -> replayed reserved A:3[held 3]
         reserve O1 A:3 ttl=7    -> replayed reserved A:3[held 3]
         confirm O1              -> changed confirmed A:3[confirmed 3]
         confirm O1              -> replayed confirmed A:3[confirmed 3]
         reserve O1 A:3          -> replayed confirmed A:3[confirmed 3]
         return O1 R1            -> changed returned A:3[confirmed 3 returned 3]
         return O1 R1            -> replayed returned A:3[confirmed 3 returned 3]
         confirm O1              -> replayed returned A:3[confirmed 3 returned 3]
         reserve O2 A:1          -> created reserved A:1[held 1]
         release O2              -> changed released A:1[released 1]
         release O2              -> replayed released A:1[released 1]
         reserve O2 A:1          -> replayed released A:1[released 1]
         levels A                -> 10/0/0",
    );
}

#[test]
fn the_same_order_no_with_other_content_is_a_mismatch() {
    story(
        "create A 10                    -> created A 10/0/0
         create A@2 10                  -> created A@2 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:3 B:1 buyer=u     -> created reserved A:3[held 3] B:1[held 1]
         reserve O1 B:1 A:3 buyer=u     -> replayed reserved A:3[held 3] B:1[held 1]
         reserve O1 A:2 B:1 buyer=u     -> order_mismatch
         reserve O1 A:3 buyer=u         -> order_mismatch
         reserve O1 A@2:3 B:1 buyer=u   -> order_mismatch
         reserve O1 A:1 B:3 buyer=u     -> order_mismatch
         reserve O1 A:3 X:1 buyer=u     -> order_mismatch
         reserve O1 A:3 B:1 buyer=v     -> order_mismatch
         reserve O1 A:3 B:1             -> order_mismatch
         reserve O1 A:3 B:1 buyer=u best_effort -> order_mismatch
         levels A                       -> 7/3/0",
    );
}

#[test]
fn lines_of_the_same_stock_are_summed() {
    story(
        "create A 5                     -> created A 5/0/0
         create A@2 5                   -> created A@2 5/0/0
         reserve O1 A:3 A@2:1 A:3       -> insufficient_stock A 5 of 6
         reserve O1 A:2 A@2:1 A:3       -> created reserved A:5[held 5] A@2:1[held 1]
         reserve O1 A:5 A@2:1           -> replayed reserved A:5[held 5] A@2:1[held 1]
         levels A                       -> 0/5/0",
    );
}

#[test]
fn all_or_nothing_holds_nothing_when_a_line_is_short() {
    story(
        "create A 5                     -> created A 5/0/0
         create B 1                     -> created B 1/0/0
         create C 0                     -> created C 0/0/0
         reserve O1 A:5 B:2 C:1         -> insufficient_stock B 1 of 2 C 0 of 1
         get O1                         -> unknown_order
         levels A                       -> 5/0/0
         levels B                       -> 1/0/0
         reserve O1 A:5 X:1             -> unknown_sku X
         reserve O1 A@2:1               -> unknown_sku A
         reserve O1 A:5 B:1             -> created reserved A:5[held 5] B:1[held 1]",
    );
}

#[test]
fn a_refused_reserve_leaves_its_order_no_free() {
    story(
        "create A 1                     -> created A 1/0/0
         reserve O1 A:2                 -> insufficient_stock A 1 of 2
         restock A 5 R1                 -> changed A 6/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]",
    );
}

#[test]
fn orders_that_are_not_known() {
    story(
        "create A 1                     -> created A 1/0/0
         get O1                         -> unknown_order
         confirm O1                     -> unknown_order
         extend O1 60                   -> unknown_order
         return O1 R1                   -> unknown_order
         confirm O1 A:1                 -> unknown_order",
    );
}

#[test]
fn what_is_confirmed_is_returned_and_not_released() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:2                 -> created reserved A:2[held 2]
         return O1 R1                   -> nothing_to_return A 0 of 2
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         release O1                     -> already_confirmed
         release O1 A:1                 -> already_confirmed
         return O1 R2 A:3               -> nothing_to_return A 2 of 3
         return O1 R3 B:1               -> nothing_to_return B 0 of 1
         levels A                       -> 3/0/2",
    );
}

#[test]
fn extend_moves_the_expiry_and_is_counted_from_now() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:2 ttl=10          -> created reserved A:2[held 2]
         wait 9000                      ->
         extend O1 10                   -> changed reserved A:2[held 2]
         wait 9999                      ->
         expire                         ->
         extend O1 1                    -> changed reserved A:2[held 2]
         wait 1001                      ->
         expire                         -> O1
         extend O1 10                   -> order_ended
         reserve O2 A:1                 -> created reserved A:1[held 1]
         release O2                     -> changed released A:1[released 1]
         extend O2 10                   -> order_ended",
    );
}
