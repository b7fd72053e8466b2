//! What leaves memory by its age or number, when, and that nobody can tell.

use hotstock_engine::event::Change;
use hotstock_engine::ids::Lsn;
use hotstock_engine::limits::MAX_FORGOTTEN_PER_EVENT;

use crate::shop::{Shop, story};

/// Everything is flushed.
const ALL: Lsn = Lsn(u64::MAX);

#[test]
fn a_forgotten_order_comes_back_when_it_is_asked_for() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         return O1 R1 A:1               -> changed partially_returned A:3[confirmed 3 returned 1]
         reserve O2 A:1                 -> created reserved A:1[held 1]
         release O2                     -> changed released A:1[released 1]
         release O3                     -> changed cancelled
         reserve O4 A:1                 -> created reserved A:1[held 1]
         wait 1                         ->
         forget 0 99                    -> O1 O2 O3
         levels A                       -> 6/1/2
         restart                        ->
         levels A                       -> 6/1/2
         get O1                         -> replayed partially_returned A:3[confirmed 3 returned 1]
         confirm O1                     -> replayed partially_returned A:3[confirmed 3 returned 1]
         return O1 R2                   -> changed returned A:3[confirmed 3 returned 3]
         release O2                     -> replayed released A:1[released 1]
         reserve O3 A:1                 -> order_cancelled
         reserve O1 A:2                 -> order_mismatch
         levels A                       -> 8/1/0
         wait 1                         ->
         forget 0 99                    -> O1 O2 O3
         confirm O2                     -> changed confirmed A:1[confirmed 1]
         get O4                         -> replayed reserved A:1[held 1]",
    );
}

/// A number is given once, for good, and so is the id of a stock request.
#[test]
fn forgotten_names_are_not_free_again() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1                     -> changed confirmed A:3[confirmed 3]
         restock A 1 R1                 -> changed A 7/0/3
         wait 1                         ->
         forget 0 99                    -> O1
         reserve O1 A:2                 -> order_mismatch
         reserve O1 A:3                 -> replayed confirmed A:3[confirmed 3]
         restock A 1 R1                 -> replayed A 7/0/3
         forget 0 99                    -> O1
         restock A 2 R1                 -> request_mismatch
         levels A                       -> 7/0/3",
    );
}

/// The window counts from the last change, and "before" is before, not at.
#[test]
fn what_is_young_enough_is_kept() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:1                 -> created reserved A:1[held 1]
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         reserve O2 A:1                 -> created reserved A:1[held 1]
         confirm O2                     -> changed confirmed A:1[confirmed 1]
         wait 1000                      ->
         return O1 R1                   -> changed returned A:1[confirmed 1 returned 1]
         forget 1000 99                 ->
         wait 1                         ->
         forget 1000 99                 -> O2
         return O1 R1                   -> replayed returned A:1[confirmed 1 returned 1]
         wait 1000                      ->
         forget 1000 99                 -> O1",
    );
}

/// An order that holds units is never forgotten, whatever its age.
#[test]
fn an_open_order_is_never_forgotten() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:2 ttl=604800      -> created reserved A:2[held 2]
         confirm O1 A:1                 -> changed partially_confirmed A:2[held 1 confirmed 1]
         wait 600000000                 ->
         forget 0 0                     ->
         get O1                         -> replayed partially_confirmed A:2[held 1 confirmed 1]",
    );
}

/// More than the bound: the oldest go early, and only as many as are too many.
#[test]
fn the_oldest_go_when_there_are_too_many() {
    story(
        "create A 9                     -> created A 9/0/0
         release O1                     -> changed cancelled
         restock A 1 R1                 -> changed A 10/0/0
         release O2                     -> changed cancelled
         release O3                     -> changed cancelled
         forget 60000 4                 ->
         forget 60000 3                 -> O1
         forget 60000 2                 ->
         restock A 1 R1                 -> replayed A 10/0/0
         forget 60000 2                 -> O2
         get O3                         -> replayed cancelled
         get O2                         -> replayed cancelled
         forget 60000 2                 -> O3
         restock A 1 R1                 -> replayed A 10/0/0",
    );
}

/// A late payment makes an ended order young again: its last change counts.
#[test]
fn a_late_payment_counts_as_a_change() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:1                 -> created reserved A:1[held 1]
         release O1                     -> changed released A:1[released 1]
         release O2                     -> changed cancelled
         wait 1000                      ->
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         forget 500 99                  -> O2
         levels A                       -> 8/0/1
         wait 501                       ->
         forget 500 99                  -> O1
         levels A                       -> 8/0/1",
    );
}

#[test]
fn one_event_forgets_a_bounded_number() {
    let mut shop = Shop::default();
    let orders = 2 * MAX_FORGOTTEN_PER_EVENT + 1;
    for n in 0..orders {
        shop.tell(&format!("release O{n} -> changed cancelled"));
    }
    shop.tell("wait 1 ->");
    let mut counts = Vec::new();
    while let Some(forget) = shop.state.next_forgotten(shop.clock, 1_000_000, shop.clock, ALL, |_| false) {
        assert!(matches!(forget.event.change, Change::Forgotten { .. }));
        assert_eq!(forget.early, 0);
        counts.push(forget.count);
        shop.log(forget.event);
    }
    assert_eq!(counts, [MAX_FORGOTTEN_PER_EVENT, MAX_FORGOTTEN_PER_EVENT, 1]);
    assert_eq!(shop.state.take_departed().len(), orders);
    assert_eq!(shop.state.sizes().orders, 0);
    shop.check();
}

#[test]
fn what_goes_early_is_counted() {
    let mut shop = Shop::default();
    shop.tell(
        "release O1 -> changed cancelled
         wait 1000  ->
         release O2 -> changed cancelled
         release O3 -> changed cancelled",
    );
    let before = shop.clock;
    let forget =
        shop.state.next_forgotten(before, 1, shop.clock, ALL, |_| false).expect("there are too many");
    assert_eq!((forget.count, forget.early), (2, 1), "O1 is old, O2 is one too many");
}

/// Nothing that the store has not taken in leaves memory; what came back by one event goes together.
#[test]
fn forgetting_stops_at_what_is_flushed() {
    let mut shop = Shop::default();
    shop.tell(
        "release O1                     -> changed cancelled
         release O2                     -> changed cancelled
         release O3                     -> changed cancelled
         wait 1                         ->",
    );
    let forget =
        |shop: &Shop, at_most| shop.state.next_forgotten(shop.clock, 99, shop.clock, Lsn(at_most), |_| false);
    assert_eq!(forget(&shop, 0), None);
    assert_eq!(forget(&shop, 2).map(|forget| forget.count), Some(2));
    shop.tell("forget 0 99 -> O1 O2 O3");
    let images: Vec<_> = shop.rows.orders.values().cloned().collect();
    let change = shop.state.decide_orders_loaded(&images, &[]).unwrap().unwrap();
    shop.log(shop.state.event(change, shop.clock));
    shop.tell("wait 1 ->");
    assert_eq!(forget(&shop, 4), None, "they came back with event 5");
    assert_eq!(forget(&shop, 5).map(|forget| forget.count), Some(3));
    shop.check();
}
