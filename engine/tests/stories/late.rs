//! Payments that come after the hold ended: the units are taken again if they are there.

use crate::shop::story;

#[test]
fn after_an_expiry_with_stock() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:3 ttl=1           -> created reserved A:3[held 3]
         wait 1000                      ->
         expire                         -> O1
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         levels A                       -> 2/0/3
         confirm O1                     -> replayed confirmed A:3[confirmed 3]
         release O1                     -> already_confirmed
         return O1 R1                   -> changed returned A:3[confirmed 3 returned 3]",
    );
}

#[test]
fn after_an_expiry_without_stock_until_there_is_some() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:3 ttl=1           -> created reserved A:3[held 3]
         wait 1000                      ->
         expire                         -> O1
         reserve O2 A:4                 -> created reserved A:4[held 4]
         confirm O1                     -> late_payment_no_stock A 1 of 3
         get O1                         -> replayed expired A:3[released 3]
         levels A                       -> 1/4/0
         release O2                     -> changed released A:4[released 4]
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         levels A                       -> 2/0/3",
    );
}

#[test]
fn after_a_release() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         release O1                     -> changed released A:3[released 3]
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         levels A                       -> 2/0/3",
    );
}

/// All lines or none, as when it was reserved.
#[test]
fn one_line_without_stock_refuses_the_whole() {
    story(
        "create A 5                     -> created A 5/0/0
         create B 1                     -> created B 1/0/0
         reserve O1 A:3 B:1             -> created reserved A:3[held 3] B:1[held 1]
         release O1                     -> changed released A:3[released 3] B:1[released 1]
         deduct B 1 R1                  -> changed B 0/0/0
         confirm O1                     -> late_payment_no_stock B 0 of 1
         levels A                       -> 5/0/0
         confirm O1 A:3                 -> changed partially_confirmed A:3[confirmed 3] B:1[released 1]
         restock B 1 R2                 -> changed B 1/0/0
         confirm O1                     -> changed confirmed A:3[confirmed 3] B:1[confirmed 1]",
    );
}

/// What the caller gave back on purpose stays given back; only what lapsed with the rest is taken again.
#[test]
fn with_part_of_it_lapsed() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:6 ttl=1           -> created reserved A:6[held 6]
         confirm O1 A:1                 -> changed partially_confirmed A:6[held 5 confirmed 1]
         release O1 A:2                 -> changed partially_confirmed A:6[held 3 confirmed 1 released 2]
         wait 1000                      ->
         expire                         -> O1
         get O1                         -> replayed partially_confirmed A:6[confirmed 1 released 5]
         confirm O1 A:4                 -> exceeds_hold A 0 of 4
         confirm O1 A:2                 -> changed partially_confirmed A:6[confirmed 3 released 3]
         confirm O1                     -> changed partially_confirmed A:6[confirmed 4 released 2]
         confirm O1                     -> replayed partially_confirmed A:6[confirmed 4 released 2]
         levels A                       -> 5/0/4",
    );
}

#[test]
fn in_parts_after_an_expiry() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:3 ttl=1           -> created reserved A:3[held 3]
         wait 1000                      ->
         expire                         -> O1
         confirm O1 A:1 id=R1           -> changed partially_confirmed A:3[confirmed 1 released 2]
         confirm O1 A:1 id=R1           -> replayed partially_confirmed A:3[confirmed 1 released 2]
         confirm O1 A:1 id=R2           -> changed partially_confirmed A:3[confirmed 2 released 1]
         release O1                     -> replayed partially_confirmed A:3[confirmed 2 released 1]
         confirm O1                     -> changed confirmed A:3[confirmed 3]",
    );
}

/// Given back part by part until nothing was left is as good as released at once, also for a payment in parts.
#[test]
fn in_parts_after_a_release_in_parts() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         release O1 A:2                 -> changed reserved A:3[held 1 released 2]
         release O1 A:1                 -> changed released A:3[released 3]
         confirm O1 A:1                 -> changed partially_confirmed A:3[confirmed 1 released 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         levels A                       -> 6/0/3",
    );
}

/// A suspended SKU takes no new holds, and a late payment is one.
#[test]
fn for_a_suspended_sku() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         reserve O2 A:1                 -> created reserved A:1[held 1]
         release O1                     -> changed released A:3[released 3]
         suspend A                      -> changed A 4/1/0 suspended
         confirm O1                     -> late_payment_no_stock A 0 of 3
         confirm O2                     -> changed confirmed A:1[confirmed 1]
         resume A                       -> changed A 4/0/1
         confirm O1                     -> changed confirmed A:3[confirmed 3]",
    );
}

/// A best-effort order sells late what it had got, not what it had asked for.
#[test]
fn for_a_best_effort_order() {
    story(
        "create A 2                     -> created A 2/0/0
         reserve O1 A:5 best_effort     -> created reserved A:5[held 2]
         release O1                     -> changed released A:5[released 2]
         restock A 9 R1                 -> changed A 11/0/0
         confirm O1 A:3                 -> exceeds_hold A 0 of 3
         confirm O1                     -> changed confirmed A:5[confirmed 2]
         levels A                       -> 9/0/2",
    );
}
