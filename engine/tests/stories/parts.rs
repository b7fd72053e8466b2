//! Parts of orders: confirmed, released and returned bit by bit, and each of that again.

use crate::shop::story;

#[test]
fn the_rest_stays_as_it_is() {
    story(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:4 B:2             -> created reserved A:4[held 4] B:2[held 2]
         confirm O1 A:1                 -> changed partially_confirmed A:4[held 3 confirmed 1] B:2[held 2]
         release O1 A:2 B:1             -> changed partially_confirmed A:4[held 1 confirmed 1 released 2] B:2[held 1 released 1]
         levels A                       -> 8/1/1
         levels B                       -> 9/1/0
         confirm O1                     -> changed partially_confirmed A:4[confirmed 2 released 2] B:2[confirmed 1 released 1]
         release O1                     -> already_confirmed
         return O1 R1 A:1               -> changed partially_returned A:4[confirmed 2 released 2 returned 1] B:2[confirmed 1 released 1]
         return O1 R2                   -> changed returned A:4[confirmed 2 released 2 returned 2] B:2[confirmed 1 released 1 returned 1]
         levels A                       -> 10/0/0",
    );
}

#[test]
fn without_a_request_id_the_content_is_the_identity() {
    story(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:6 B:1             -> created reserved A:6[held 6] B:1[held 1]
         confirm O1 A:1                 -> changed partially_confirmed A:6[held 5 confirmed 1] B:1[held 1]
         confirm O1 A:1                 -> replayed partially_confirmed A:6[held 5 confirmed 1] B:1[held 1]
         release O1 A:1                 -> changed partially_confirmed A:6[held 4 confirmed 1 released 1] B:1[held 1]
         release O1 A:1                 -> replayed partially_confirmed A:6[held 4 confirmed 1 released 1] B:1[held 1]
         confirm O1 A:1 B:1             -> changed partially_confirmed A:6[held 3 confirmed 2 released 1] B:1[confirmed 1]
         confirm O1 B:1 A:1             -> replayed partially_confirmed A:6[held 3 confirmed 2 released 1] B:1[confirmed 1]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:6[held 2 confirmed 3 released 1] B:1[confirmed 1]
         levels A                       -> 5/2/3",
    );
}

#[test]
fn with_a_request_id_the_same_part_can_be_had_twice() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:6                 -> created reserved A:6[held 6]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:6[held 5 confirmed 1]
         confirm O1 A:1 id=R2           -> changed partially_confirmed A:6[held 4 confirmed 2]
         confirm O1 A:1 id=R1           -> replayed partially_confirmed A:6[held 4 confirmed 2]
         confirm O1 A:2 id=R1           -> request_mismatch
         release O1 A:1 id=R1           -> request_mismatch
         release O1 A:1 id=R3           -> changed partially_confirmed A:6[held 3 confirmed 2 released 1]
         release O1 A:1 id=R4           -> changed partially_confirmed A:6[held 2 confirmed 2 released 2]
         release O1 A:1 id=R4           -> replayed partially_confirmed A:6[held 2 confirmed 2 released 2]
         confirm O1 A:1 id=R4           -> request_mismatch
         return O1 R4                   -> request_mismatch
         levels A                       -> 6/2/2",
    );
}

#[test]
fn returns_are_told_apart_by_their_ids() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:6                 -> created reserved A:6[held 6]
         confirm O1                     -> changed confirmed A:6[confirmed 6]
         return O1 R1 A:1               -> changed partially_returned A:6[confirmed 6 returned 1]
         return O1 R2 A:1               -> changed partially_returned A:6[confirmed 6 returned 2]
         return O1 R1 A:1               -> replayed partially_returned A:6[confirmed 6 returned 2]
         return O1 R1 A:2               -> request_mismatch
         return O1 R1                   -> request_mismatch
         return O1 R3 A:5               -> nothing_to_return A 4 of 5
         return O1 R3 A:4               -> changed returned A:6[confirmed 6 returned 6]
         return O1 R4                   -> nothing_to_return A 0 of 6
         return O1 R3 A:4               -> replayed returned A:6[confirmed 6 returned 6]
         levels A                       -> 10/0/0",
    );
}

#[test]
fn a_repeat_is_known_after_the_order_ended_and_after_a_restart() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:6                 -> created reserved A:6[held 6]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:6[held 5 confirmed 1]
         release O1 A:2 id=R2           -> changed partially_confirmed A:6[held 3 confirmed 1 released 2]
         release O1                     -> changed partially_confirmed A:6[confirmed 1 released 5]
         restart                        ->
         confirm O1 A:1 id=R1           -> replayed partially_confirmed A:6[confirmed 1 released 5]
         release O1 A:2 id=R2           -> replayed partially_confirmed A:6[confirmed 1 released 5]
         confirm O1 A:1 id=R2           -> request_mismatch
         levels A                       -> 9/0/1",
    );
}

#[test]
fn a_part_can_not_be_more_than_is_held() {
    story(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1 A:4                 -> exceeds_hold A 3 of 4
         confirm O1 B:1                 -> exceeds_hold B 0 of 1
         confirm O1 X:1                 -> exceeds_hold X 0 of 1
         release O1 A:4                 -> exceeds_hold A 3 of 4
         release O1 A@2:1               -> exceeds_hold A@2 0 of 1
         confirm O1 A:2                 -> changed partially_confirmed A:3[held 1 confirmed 2]
         confirm O1 A:3                 -> exceeds_hold A 1 of 3
         release O1 A:2                 -> exceeds_hold A 1 of 2
         levels A                       -> 7/1/2",
    );
}

/// A refused request is not remembered: it can be sent again when it fits.
#[test]
fn a_refused_part_leaves_its_request_id_free() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1 A:4 id=R1           -> exceeds_hold A 3 of 4
         confirm O1 A:2 id=R1           -> changed partially_confirmed A:3[held 1 confirmed 2]",
    );
}

#[test]
fn the_last_part_ends_the_order() {
    story(
        "create A 10                    -> created A 10/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         release O1 A:1                 -> changed reserved A:3[held 2 released 1]
         release O1 A:2                 -> changed released A:3[released 3]
         release O1                     -> replayed released A:3[released 3]
         reserve O2 A:3                 -> created reserved A:3[held 3]
         confirm O2 A:1                 -> changed partially_confirmed A:3[held 2 confirmed 1]
         confirm O2 A:2                 -> changed confirmed A:3[confirmed 3]
         confirm O2                     -> replayed confirmed A:3[confirmed 3]",
    );
}
