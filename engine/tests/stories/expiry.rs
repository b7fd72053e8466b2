//! Expiry: never early, at most a deadline step late, in pieces when very many are due.

use hotstock_engine::event::Change;
use hotstock_engine::limits::MAX_EXPIRIES_PER_TURN;

use crate::shop::{Shop, story};

#[test]
fn never_before_its_time() {
    story(
        "create A 5                     -> created A 5/0/0
         reserve O1 A:1 ttl=2           -> created reserved A:1[held 1]
         expire                         ->
         wait 1999                      ->
         expire                         ->
         wait 1                         ->
         expire                         -> O1
         expire                         ->",
    );
}

/// Deadlines are kept in steps of 100 ms, rounded up.
#[test]
fn at_most_a_step_late() {
    story(
        "create A 5                     -> created A 5/0/0
         wait 37                        ->
         reserve O1 A:1 ttl=2           -> created reserved A:1[held 1]
         wait 1999                      ->
         expire                         ->
         wait 100                       ->
         expire                         -> O1",
    );
}

/// The expiry is an event: until it is logged, the order holds its units, however late it is.
#[test]
fn an_order_that_is_over_time_can_be_confirmed_until_it_expires() {
    story(
        "create A 1                     -> created A 1/0/0
         reserve O1 A:1 ttl=1           -> created reserved A:1[held 1]
         wait 60000                     ->
         reserve O2 A:1                 -> insufficient_stock A 0 of 1
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         expire                         ->
         levels A                       -> 0/0/1",
    );
}

#[test]
fn only_what_is_held_expires() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:2 ttl=1           -> created reserved A:2[held 2]
         reserve O2 A:2 ttl=1           -> created reserved A:2[held 2]
         reserve O3 A:2 ttl=1           -> created reserved A:2[held 2]
         reserve O4 A:2 ttl=900         -> created reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:2[confirmed 2]
         confirm O2 A:1                 -> changed partially_confirmed A:2[held 1 confirmed 1]
         release O3                     -> changed released A:2[released 2]
         wait 2000                      ->
         expire                         -> O2
         get O2                         -> replayed partially_confirmed A:2[confirmed 1 released 1]
         levels A                       -> 4/2/3",
    );
}

#[test]
fn a_clock_that_steps_back_delays_and_loses_nothing() {
    story(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:2 ttl=1           -> created reserved A:2[held 2]
         clock_back 5000                ->
         reserve O2 A:2 ttl=1           -> created reserved A:2[held 2]
         wait 5999                      ->
         expire                         ->
         wait 1                         ->
         expire                         -> O1 O2",
    );
}

/// Twenty thousand orders due in the same instant (and one that is not) go in turns of bounded size; commands are
/// served in between, and no order goes early, twice or not at all.
#[test]
fn very_many_at_once() {
    const ORDERS: u32 = 20_000;
    let mut shop = Shop::default();
    shop.tell("create A 100000 -> created A 100000/0/0");
    for n in 0..ORDERS {
        shop.say(&format!("reserve O{n} A:1 ttl=60"));
    }
    shop.tell(
        "reserve LATER A:1 ttl=61  -> created reserved A:1[held 1]
         levels A                  -> 79999/20001/0
         wait 60000                ->",
    );
    let mut turns = 0;
    let mut expired = std::collections::BTreeSet::new();
    loop {
        let before = expired.len();
        while expired.len() - before < MAX_EXPIRIES_PER_TURN {
            let Some(event) = shop.state.next_expiry(shop.clock) else { break };
            let Change::Expired { order_no, .. } = &event.change else { panic!("{event:?}") };
            assert!(expired.insert(order_no.clone()), "{order_no} expires twice");
            shop.log(event);
        }
        if expired.len() == before {
            break;
        }
        turns += 1;
        let left = 100_000 - (ORDERS as usize + 1 - expired.len());
        shop.tell(&format!("levels A -> {left}/{}/0", 100_000 - left));
    }
    assert_eq!(expired.len(), ORDERS as usize);
    assert_eq!(turns, (ORDERS as usize).div_ceil(MAX_EXPIRIES_PER_TURN));
    shop.tell(
        "levels A                  -> 99999/1/0
         get LATER                 -> replayed reserved A:1[held 1]
         wait 1000                 ->
         expire                    -> LATER",
    );
    shop.check();
}
