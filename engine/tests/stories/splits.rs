//! Orders of one shop that come apart because one of their SKUs moves away, and branches that move along.

use crate::mall::mall;
use crate::shop::story;

#[test]
fn an_open_order_comes_apart() {
    mall(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         reserve O1 A:3 B:2 ttl=60      -> created reserved A:3[held 3] B:2[held 2]
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:3[held 2 confirmed 1] B:2[held 2]
         move A 1                       -> split O1
         levels A                       -> 7/2/1
         levels B                       -> 8/2/0
         get O1                         -> replayed partially_confirmed A:3[held 2 confirmed 1] B:2[held 2]
         reserve O1 A:3 B:2             -> replayed partially_confirmed A:3[held 2 confirmed 1] B:2[held 2]
         reserve O1 A:3                 -> order_mismatch
         confirm O1 A:1 id=R1           -> replayed partially_confirmed A:3[held 2 confirmed 1] B:2[held 2]
         confirm O1 A:1 id=R2           -> changed partially_confirmed A:3[held 1 confirmed 2] B:2[held 2]
         return O1 R3 A:2               -> changed partially_returned A:3[held 1 confirmed 2 returned 2] B:2[held 2]
         restart                        ->
         carry                          ->
         wait 60000                     ->
         ask                            ->
         expire                         -> O1
         carry                          -> O1
         levels A                       -> 10/0/0
         levels B                       -> 10/0/0
         confirm O1                     -> changed partially_returned A:3[confirmed 3 returned 2] B:2[confirmed 2]
         levels A                       -> 9/0/1
         levels B                       -> 8/0/2",
    );
}

/// Lines of which nothing is held any more, or nothing ever was, come apart with the others.
#[test]
fn every_kind_of_line_comes_apart() {
    mall(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         create C 0                     -> created C 0/0/0
         create D 10                    -> created D 10/0/0
         reserve O1 A:3 B:2 C:1 D:4 best_effort -> created reserved A:3[held 3] B:2[held 2] C:1[] D:4[held 4]
         confirm O1 A:3                 -> changed partially_confirmed A:3[confirmed 3] B:2[held 2] C:1[] D:4[held 4]
         release O1 B:2                 -> changed partially_confirmed A:3[confirmed 3] B:2[released 2] C:1[] D:4[held 4]
         move C 1                       -> split O1
         move B 1                       ->
         move A 1                       ->
         return O1 R1 A:3               -> changed partially_returned A:3[confirmed 3 returned 3] B:2[released 2] C:1[] D:4[held 4]
         release O1                     -> changed returned A:3[confirmed 3 returned 3] B:2[released 2] C:1[] D:4[released 4]
         levels A                       -> 10/0/0
         levels D                       -> 10/0/0",
    );
}

/// A branch has one SKU and goes where it goes, in whatever state it is.
#[test]
fn branches_move_with_their_sku() {
    mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         reserve O2 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O2                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         hold O3 A:1 N:1                -> held O3/A O3/N
         move A 1                       ->
         levels A                       -> 3/4/3
         confirm O1 A:1                 -> changed partially_confirmed A:3[held 2 confirmed 1] N:2[held 2]
         move N 0                       ->
         wait 3000                      ->
         ask                            -> released O3/N O3/A
         move A 0                       ->
         move A 2                       ->
         ask                            ->
         return O2 R1                   -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels A                       -> 7/0/3
         levels N                       -> 8/0/2",
    );
}

/// What was not told before the move is told after it, in the new place.
#[test]
fn a_decision_follows_the_sku() {
    mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         deaf 1                         ->
         release O1 N:1                 -> changed reserved A:3[held 3] N:2[held 1 released 1]
         confirm O1                     -> changed partially_confirmed A:3[confirmed 3] N:2[confirmed 1 released 1]
         move N 0                       ->
         confirm O1                     -> replayed partially_confirmed A:3[confirmed 3] N:2[confirmed 1 released 1]
         levels A                       -> 7/0/3
         levels N                       -> 9/0/1",
    );
}

/// Orders that lie on SKUs that all leave are not taken apart, nor those that have ended.
#[test]
fn only_what_must_comes_apart() {
    story(
        "create A 10                    -> created A 10/0/0
         create B 10                    -> created B 10/0/0
         create C 10                    -> created C 10/0/0
         reserve O1 A:1 B:1             -> created reserved A:1[held 1] B:1[held 1]
         reserve O2 A:1 C:1             -> created reserved A:1[held 1] C:1[held 1]
         reserve O3 A:1 C:1             -> created reserved A:1[held 1] C:1[held 1]
         confirm O3                     -> changed confirmed A:1[confirmed 1] C:1[confirmed 1]
         reserve O4 C:1                 -> created reserved C:1[held 1]
         close A B                      -> placed
         leave                          -> split O2, shed O1 O2/A O3, withdrawn A, withdrawn B
         levels C                       -> 7/2/1
         get O1                         -> unknown_order
         get O3                         -> unknown_order
         get O4                         -> replayed reserved C:1[held 1]
         get O2                         -> replayed reserved A:1[held 1] C:1[held 1]
         confirm O2                     -> changed confirmed A:1[confirmed 1] C:1[confirmed 1] (to tell: 1)",
    );
}
