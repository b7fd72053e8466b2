//! Stock: created, changed, suspended; and what best effort makes of little of it.

use crate::shop::story;

#[test]
fn a_stock_is_created_once() {
    story(
        "create A 5                     -> created A 5/0/0
         create A 5                     -> replayed A 5/0/0
         create A 6                     -> stock_exists 5
         restock A 2 R1                 -> changed A 7/0/0
         create A 5                     -> replayed A 7/0/0
         create A 7                     -> stock_exists 5
         create A@2 7                   -> created A@2 7/0/0
         create B 0                     -> created B 0/0/0
         create B 0                     -> replayed B 0/0/0",
    );
}

#[test]
fn changes_are_answered_once_and_repeated_with_their_first_levels() {
    story(
        "create A 5                     -> created A 5/0/0
         restock A 3 R1                 -> changed A 8/0/0
         deduct A 2 R2                  -> changed A 6/0/0
         adjust A -1 R3                 -> changed A 5/0/0
         adjust A 4 R4                  -> changed A 9/0/0
         restock A 3 R1                 -> replayed A 8/0/0
         adjust A -1 R3                 -> replayed A 5/0/0
         restart                        ->
         deduct A 2 R2                  -> replayed A 6/0/0
         levels A                       -> 9/0/0",
    );
}

#[test]
fn a_request_id_with_other_content_is_a_mismatch() {
    story(
        "create A 5                     -> created A 5/0/0
         create A@2 5                   -> created A@2 5/0/0
         create B 5                     -> created B 5/0/0
         restock A 3 R1                 -> changed A 8/0/0
         restock A 4 R1                 -> request_mismatch
         deduct A 3 R1                  -> request_mismatch
         adjust A 3 R1                  -> request_mismatch
         restock A@2 3 R1               -> request_mismatch
         restock B 3 R1                 -> changed B 8/0/0
         levels A                       -> 8/0/0",
    );
}

#[test]
fn only_what_is_available_can_be_taken() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         deduct A 3 R1                  -> insufficient_stock A 2 of 3
         adjust A -3 R1                 -> insufficient_stock A 2 of 3
         deduct A 2 R1                  -> changed A 0/3/0
         adjust A -1 R2                 -> insufficient_stock A 0 of 1
         restock X 1 R1                 -> unknown_sku X
         restock A@2 1 R9               -> unknown_sku A",
    );
}

#[test]
fn a_suspended_sku_takes_no_reservations_and_keeps_its_promises() {
    story(
        "create A 5                     -> created A 5/0/0
         create A@2 5                   -> created A@2 5/0/0
         create B 5                     -> created B 5/0/0
         reserve O1 A:2                 -> created reserved A:2[held 2]
         reserve O2 A:1                 -> created reserved A:1[held 1]
         suspend A                      -> changed A 2/3/0 suspended A@2 5/0/0 suspended
         suspend A                      -> replayed A 2/3/0 suspended A@2 5/0/0 suspended
         reserve O3 A:1                 -> sku_suspended A
         reserve O3 B:1 A@2:1           -> sku_suspended A
         reserve O3 A:1 best_effort     -> sku_suspended A
         reserve O1 A:2                 -> replayed reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         release O2                     -> changed released A:1[released 1]
         return O1 R1 A:1               -> changed partially_returned A:2[confirmed 2 returned 1]
         restock A 1 R2                 -> changed A 5/0/1 suspended
         resume A@2                     -> changed A@2 5/0/0
         reserve O3 A@2:1               -> created reserved A@2:1[held 1]
         reserve O4 A:1                 -> sku_suspended A
         restart                        ->
         reserve O4 A:1                 -> sku_suspended A
         resume A                       -> changed A 5/0/1 A@2 4/1/0
         reserve O4 A:1                 -> created reserved A:1[held 1]
         suspend X                      -> unknown_sku X
         suspend A@3                    -> unknown_sku A",
    );
}

#[test]
fn best_effort_holds_what_it_can() {
    story(
        "create A 2                     -> created A 2/0/0
         create B 0                     -> created B 0/0/0
         create C 9                     -> created C 9/0/0
         create D 9                     -> created D 9/0/0
         suspend D                      -> changed D 9/0/0 suspended
         reserve O1 A:3 B:1 C:1 D:1 best_effort -> created reserved A:3[held 2] B:1[] C:1[held 1] D:1[]
         reserve O1 A:3 B:1 C:1 D:1 best_effort -> replayed reserved A:3[held 2] B:1[] C:1[held 1] D:1[]
         reserve O2 A:1 B:1 best_effort -> insufficient_stock A 0 of 1 B 0 of 1
         reserve O2 A:1 D:1 best_effort -> insufficient_stock A 0 of 1 D 0 of 1
         reserve O2 C:1 X:1 best_effort -> unknown_sku X
         confirm O1 B:1                 -> exceeds_hold B 0 of 1
         confirm O1                     -> changed confirmed A:3[confirmed 2] B:1[] C:1[confirmed 1] D:1[]
         levels A                       -> 0/0/2
         levels D                       -> 9/0/0",
    );
}
