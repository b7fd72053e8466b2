//! What a start from a checkpoint and from a damaged journal finds.

use hotstock_engine::checkpoint::CheckpointEnd;
use hotstock_engine::event::{Change, Event};
use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::image::Image;
use hotstock_engine::state::{Capture, State};

use crate::shop::Shop;

/// A checkpoint under way.
struct Running {
    at: Capture,
    begin: Lsn,
    slices: Vec<Vec<Image>>,
}

impl Running {
    fn begin(shop: &Shop) -> Self {
        Self { at: Capture::default(), begin: shop.state.applied(), slices: Vec::new() }
    }

    fn slice(&mut self, shop: &Shop, places: usize) {
        self.slices.push(shop.state.capture(&mut self.at, places).expect("it is not complete yet"));
    }

    /// Writes the rest, and starts from it as a restart does.
    fn restart(mut self, shop: &Shop) -> State {
        while let Some(slice) = shop.state.capture(&mut self.at, 100) {
            self.slices.push(slice);
        }
        let (end, time, departed) = (shop.state.applied(), shop.state.time(), shop.state.departed());
        let end = CheckpointEnd { end, time, departed };
        let mut state = State::restoring(ShardId(0), 1, self.begin, end);
        for slice in self.slices {
            state.restore(slice).expect("a checkpoint can be restored");
        }
        let after = usize::try_from(self.begin.0).unwrap();
        for event in &shop.log[after..] {
            state.apply(state.applied().next(), event).expect("what was applied can be replayed");
        }
        state.check_exact().expect("the journal reaches to the end");
        state
    }
}

/// An order is captured, leaves memory, comes back to a slot that the checkpoint has still before it, and is captured
/// again.
#[test]
fn an_order_may_be_captured_under_its_number_twice() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9                     -> created A 9/0/0
         reserve O1 A:1                 -> created reserved A:1[held 1]
         reserve O2 A:2                 -> created reserved A:2[held 2]
         confirm O1                     -> changed confirmed A:1[confirmed 1]
         confirm O2                     -> changed confirmed A:2[confirmed 2]
         wait 1                         ->",
    );
    let mut running = Running::begin(&shop);
    running.slice(&shop, 1); // the stock
    running.slice(&shop, 1); // O1
    shop.tell(
        "forget 0 99                    -> O1 O2
         return O1 R1                   -> changed returned A:1[confirmed 1 returned 1]",
    );
    let state = running.restart(&shop);
    assert_eq!(state.audit(), shop.state.audit());
    assert_eq!(state.sizes(), shop.state.sizes());
    for (order_no, _) in shop.state.order_numbers() {
        assert_eq!(state.order(order_no), shop.state.order(order_no));
    }
}

#[test]
fn a_request_may_be_captured_under_its_id_twice() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9                     -> created A 9/0/0
         restock A 1 R1                 -> changed A 10/0/0
         restock A 1 R2                 -> changed A 11/0/0
         wait 1                         ->",
    );
    let mut running = Running::begin(&shop);
    running.slice(&shop, 1); // the stock
    running.slice(&shop, 1); // no orders
    running.slice(&shop, 1); // no holds
    running.slice(&shop, 1); // R1
    shop.tell(
        "forget 0 99                    ->
         restock A 1 R2                 -> replayed A 11/0/0
         restock A 1 R1                 -> replayed A 10/0/0",
    );
    shop.state = running.restart(&shop);
    assert_eq!(shop.state.audit().violations, []);
    shop.tell(
        "restock A 1 R1                 -> replayed A 10/0/0
         restock A 5 R2                 -> request_mismatch",
    );
}

/// An idle shard: nothing is replayed, and yet time may not step back in its journal.
#[test]
fn a_checkpoint_keeps_the_logged_time() {
    let mut shop = Shop::default();
    shop.tell("create A 9 -> created A 9/0/0");
    let state = Running::begin(&shop).restart(&shop);
    assert_eq!(state.time(), shop.state.time());
    shop.state = state;
    shop.tell(
        "clock_back 5000                ->
         reserve O1 A:1                 -> created reserved A:1[held 1]",
    );
    shop.check();
}

#[test]
fn a_journal_that_does_not_fit_is_refused() {
    let mut shop = Shop::default();
    shop.tell(
        "create A 9                     -> created A 9/0/0
         wait 5                         ->
         reserve O1 A:3                 -> created reserved A:3[held 3]
         confirm O1                     -> changed confirmed A:3[confirmed 3]",
    );
    let replay = |events: &[Event]| {
        let mut state = State::new(ShardId(0), 1);
        events.iter().try_for_each(|event| state.apply(state.applied().next(), event))
    };
    let refused_at = |events: &[Event]| replay(events).expect_err("it does not fit").lsn;
    replay(&shop.log).expect("as it is, it fits");

    let mut gap = shop.log.clone();
    gap.remove(1);
    assert_eq!(refused_at(&gap), Lsn(2), "the order is not there");

    let mut twice = shop.log.clone();
    twice.insert(1, twice[1].clone());
    assert_eq!(refused_at(&twice), Lsn(3), "the order is there already");

    let mut back = shop.log.clone();
    back[1].at = back[0].at.minus_millis(1);
    assert_eq!(refused_at(&back), Lsn(2), "time steps back");

    let mut levels = shop.log.clone();
    let Change::Reserved { lines, .. } = &mut levels[1].change else { panic!("the second is the reserve") };
    lines[0].after.as_mut().unwrap().available += 1;
    assert_eq!(refused_at(&levels), Lsn(2), "other levels");

    let mut units = shop.log.clone();
    let Change::Reserved { lines, .. } = &mut units[1].change else { panic!("the second is the reserve") };
    lines[0].held = 2;
    assert_eq!(refused_at(&units), Lsn(2), "other units");

    let mut state = State::new(ShardId(0), 1);
    assert_eq!(state.apply(Lsn(2), &shop.log[0]).expect_err("LSN 1 comes first").lsn, Lsn(2));
}

/// Two warehouses of a SKU are captured at different moments: until the end of the checkpoint their numbers don't add
/// up.
#[test]
fn numbers_are_of_different_moments_while_a_checkpoint_runs() {
    for before in 0..3 {
        let mut shop = Shop::default();
        shop.tell(
            "create A 9 serialized          -> created A 9/0/0 serialized
             create A@2 9 serialized        -> created A@2 9/0/0 serialized
             reserve O1 A:1 A@2:1           -> created reserved A:1[held 1] A@2:1[held 1]
             reserve O2 A:2                 -> created reserved A:2[held 2]",
        );
        let mut running = Running::begin(&shop);
        (0..before).for_each(|_| running.slice(&shop, 1));
        shop.tell("confirm O1 -> changed confirmed A:1[confirmed 1 #1-1] A@2:1[confirmed 1 #2-2]");
        running.slice(&shop, 1);
        shop.tell(
            "create A@3 5 serialized        -> created A@3 5/0/0 serialized
             reserve O3 A@3:1               -> created reserved A@3:1[held 1]
             confirm O3                     -> changed confirmed A@3:1[confirmed 1 #3-3]
             confirm O2                     -> changed confirmed A:2[confirmed 2 #4-5]",
        );
        let state = running.restart(&shop);
        assert_eq!(state.audit(), shop.state.audit());
        for (order_no, _) in shop.state.order_numbers() {
            assert_eq!(state.order(order_no), shop.state.order(order_no));
        }
    }
}
