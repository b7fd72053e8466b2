//! Lines that may lie in any warehouse: where they come to lie, what repeats are told, what is short.

use crate::shop::{Shop, story};

#[test]
fn one_warehouse_that_can_serve_the_whole_order_comes_first() {
    story(
        "create A 9                     -> created A 9/0/0
         create A@2 2                   -> created A@2 2/0/0
         create B@2 1                   -> created B@2 1/0/0
         create B@3 9                   -> created B@3 9/0/0
         reserve O1 A@any:2 B@any:1     -> created reserved A@2:2[held 2] B@2:1[held 1]
         levels A@2                     -> 0/2/0
         reserve O2 A@any:2 B@any:1     -> created reserved A:2[held 2] B@3:1[held 1]
         confirm O2                     -> changed confirmed A:2[confirmed 2] B@3:1[confirmed 1]
         return O2 R1 B@3:1             -> changed partially_returned A:2[confirmed 2] B@3:1[confirmed 1 returned 1]
         release O1                     -> changed released A@2:2[released 2] B@2:1[released 1]
         confirm O1                     -> changed confirmed A@2:2[confirmed 2] B@2:1[confirmed 1]",
    );
}

#[test]
fn the_preferred_warehouse_comes_before_others_that_would_do() {
    story(
        "create A 9                     -> created A 9/0/0
         create A@2 5                   -> created A@2 5/0/0
         create A@3 5                   -> created A@3 5/0/0
         reserve O1 A@any:2             -> created reserved A:2[held 2]
         reserve O2 A@any:2 prefer=3,2  -> created reserved A@3:2[held 2]
         reserve O3 A@any:4 prefer=3,2  -> created reserved A@2:4[held 4]
         reserve O4 A@any:2 prefer=8    -> created reserved A:2[held 2]",
    );
}

#[test]
fn enough_stock_in_all_is_never_refused() {
    story(
        "create A 2                     -> created A 2/0/0
         create A@2 3                   -> created A@2 3/0/0
         create A@3 1                   -> created A@3 1/0/0
         reserve O1 A@any:5             -> created reserved A@2:3[held 3] A:2[held 2]
         reserve O2 A@any:1             -> created reserved A@3:1[held 1]
         reserve O3 A@any:1             -> insufficient_stock A@any 0 of 1
         release O1 A:2                 -> changed reserved A@2:3[held 3] A:2[released 2]
         reserve O3 A@any:3             -> insufficient_stock A@any 2 of 3
         reserve O3 A@any:2             -> created reserved A:2[held 2]",
    );
}

#[test]
fn lines_that_name_a_warehouse_keep_it_and_draw_the_others_there() {
    story(
        "create A 9                     -> created A 9/0/0
         create A@2 4                   -> created A@2 4/0/0
         create B@2 1                   -> created B@2 1/0/0
         reserve O1 A@any:2 B@2:1       -> created reserved A@2:2[held 2] B@2:1[held 1]
         reserve O2 A@2:1 A@any:1       -> created reserved A@2:2[held 2]
         get O2                         -> replayed reserved A@2:2[held 2]
         reserve O3 A@2:1 A@any:1       -> insufficient_stock A@2 0 of 1
         reserve O4 A:4 A@any:6         -> insufficient_stock A@any 5 of 6
         reserve O4 A:4 A@any:5         -> created reserved A:9[held 9]",
    );
}

#[test]
fn the_same_request_again_is_a_repeat_wherever_the_units_are_by_then() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 1                     -> created A 1/0/0
         create A@2 2                   -> created A@2 2/0/0
         reserve O1 A@any:1 A@2:1       -> created reserved A@2:2[held 2]
         reserve O2 A@any:1             -> created reserved A:1[held 1]
         restock A 9 R1                 -> changed A 9/1/0
         reserve O2 A@any:1             -> replayed reserved A:1[held 1]
         reserve O2 A@any:1 prefer=2    -> replayed reserved A:1[held 1]
         reserve O1 A@2:1 A@any:1       -> replayed reserved A@2:2[held 2]
         reserve O1 A@2:1 A@any:2       -> order_mismatch
         reserve O1 A@any:2             -> order_mismatch
         reserve O2 A@any:1 best_effort -> order_mismatch
         reserve O2 A@any:1 buyer=u1    -> order_mismatch
         reserve O2 A@2:1               -> order_mismatch
         restart                        ->
         reserve O2 A@any:1             -> replayed reserved A:1[held 1]
         confirm O2 A:1                 -> changed confirmed A:1[confirmed 1]
         reserve O2 A@any:1             -> replayed confirmed A:1[confirmed 1]
         reserve O3 A:1                 -> created reserved A:1[held 1]
         reserve O3 A@any:1             -> order_mismatch",
    );
    shop.check();
    // Whoever names what was chosen asks for the same.
    shop.tell("reserve O2 A:1 -> replayed confirmed A:1[confirmed 1]");
}

#[test]
fn best_effort_takes_all_that_there_is_anywhere() {
    story(
        "create A 2                         -> created A 2/0/0
         create A@2 3                       -> created A@2 3/0/0
         create B@2 0                       -> created B@2 0/0/0
         create B 0                         -> created B 0/0/0
         reserve O1 A@any:9 B@any:1 best_effort -> created reserved A@2:7[held 3] A:2[held 2] B:1[]
         reserve O1 A@any:9 B@any:1 best_effort -> replayed reserved A@2:7[held 3] A:2[held 2] B:1[]
         reserve O2 A@any:9 B@any:1 best_effort -> insufficient_stock A@any 0 of 9 B@any 0 of 1
         reserve O3 A@any:1 B@any:1             -> insufficient_stock A@any 0 of 1 B@any 0 of 1
         release O1                             -> changed released A@2:7[released 3] A:2[released 2] B:1[]
         reserve O4 B@any:1 A:3 A@any:1 best_effort prefer=2 -> created reserved B@2:1[] A:3[held 2] A@2:1[held 1]",
    );
}

#[test]
fn suspended_stock_is_not_chosen() {
    story(
        "create A 9                     -> created A 9/0/0
         create A@2 1                   -> created A@2 1/0/0
         suspend A@1                    -> changed A 9/0/0 suspended
         reserve O1 A@any:1             -> created reserved A@2:1[held 1]
         reserve O2 A@any:1             -> insufficient_stock A@any 0 of 1
         suspend A                      -> changed A 9/0/0 suspended A@2 0/1/0 suspended
         reserve O2 A@any:1             -> sku_suspended A
         reserve O2 A@any:1 best_effort -> sku_suspended A
         resume A                       -> changed A 9/0/0 A@2 0/1/0
         reserve O2 A@any:1             -> created reserved A:1[held 1]
         reserve O3 X@any:1             -> unknown_sku X
         reserve O3 X@any:1 A:1 best_effort -> unknown_sku X",
    );
}

/// A thousand open lines can be cut into more pieces than an order has lines.
#[test]
fn an_order_does_not_lie_in_more_stocks_than_an_order_has_lines() {
    let mut shop = Shop::default();
    for n in 0..501 {
        shop.say(&format!("create S{n} 1"));
        shop.say(&format!("create S{n}@2 1"));
    }
    let order = |lines: usize| {
        let lines: Vec<_> = (0..lines).map(|n| format!("S{n}@any:2")).collect();
        format!("reserve O1 {}", lines.join(" "))
    };
    assert_eq!(shop.say(&order(501)), "invalid_field lines");
    assert!(shop.say(&order(500)).starts_with("created reserved S0:1[held 1] S0@2:1[held 1]"));
    shop.check();
}
