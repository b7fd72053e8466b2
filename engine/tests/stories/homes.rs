//! What a home remembers: checkpoints, restarts, forgetting, and orders that come back.

use hotstock_engine::checkpoint::{CheckpointEnd, Image};
use hotstock_engine::command::Action;
use hotstock_engine::home::{HomeImage, HomeStep};
use hotstock_engine::ids::{OrderNo, ShardId};
use hotstock_engine::outcome::{Answer, Refusal};
use hotstock_engine::state::{Capture, State};

use crate::mall::{HOME, Mall, mall};
use crate::shop::Shop;

fn order_no(name: &str) -> OrderNo {
    OrderNo::new(name).unwrap()
}

#[test]
fn an_order_is_forgotten_when_its_branches_know() {
    let mut mall = mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         reserve O2 A:1 N:1             -> created reserved A:1[held 1] N:1[held 1]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         deaf 1                         ->
         release O2                     -> changed released A:1[released 1] N:1[released 1]
         wait 10                        ->
         forget 5 99                    -> O1
         get O1                         -> unknown_order
         get O2                         -> replayed released A:1[released 1] N:1[released 1]
         levels A                       -> 7/0/3
         hears 1                        ->
         release O2                     -> replayed released A:1[released 1] N:1[released 1]
         levels N                       -> 8/0/2
         wait 10                        ->
         forget 5 99                    -> O2",
    );
    assert_eq!(mall.shops[HOME].state.sizes(), hotstock_engine::state::Sizes::default());
    mall.tell("restart -> ");
    mall.check();
}

/// A forgotten order comes back from where its image was kept, and goes on; also an open one with something to tell.
#[test]
fn an_order_comes_back() {
    let mut mall = mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         reserve O2 A:1 N:1 ttl=60      -> created reserved A:1[held 1] N:1[held 1]
         deaf 1                         ->
         confirm O2 N:1                 -> changed partially_confirmed A:1[held 1] N:1[confirmed 1]
         hears 1                        ->",
    );
    let images = ["O1", "O2"].map(|name| mall.shops[HOME].state.image_of_home(&order_no(name)).unwrap());
    // A home that knows nothing.
    mall.shops[HOME] = Shop { clock: mall.shops[HOME].clock, ..Shop::default() };
    mall.tell("confirm O1 -> unknown_order");
    for image in images {
        let adopt = || Action::Home(Box::new(HomeStep::Adopt(Box::new(image.clone()))));
        assert_eq!(mall.shops[HOME].send(adopt()), Ok(Answer::Placed));
        let lsn = mall.shops[HOME].state.applied();
        assert_eq!(mall.shops[HOME].send(adopt()), Ok(Answer::Placed));
        assert_eq!(mall.shops[HOME].state.applied(), lsn, "it comes once");
    }
    mall.tell(
        "carry                          -> O2
         levels N                       -> 7/0/3
         reserve O1 A:3 N:2             -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
         return O1 R1 N:1               -> changed partially_returned A:3[confirmed 3] N:2[confirmed 2 returned 1]
         wait 60000                     ->
         ask                            ->
         expire                         -> O2
         carry                          -> O2
         levels A                       -> 7/0/3
         wait 10                        ->
         forget 5 99                    -> O1 O2",
    );
    mall.check();
}

/// An image that makes no sense does not come in.
#[test]
fn an_order_that_makes_no_sense_does_not_come_back() {
    let mut mall = Mall::default();
    mall.tell(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         deaf 1                         ->
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]",
    );
    let sound = mall.shops[HOME].state.image_of_home(&order_no("O1")).unwrap();
    let mut wrong = Vec::new();
    let changes: [fn(&mut HomeImage); 6] = [
        |image| image.shares[0].confirmed += 1,
        |image| image.shares[1].line = 7,
        |image| image.order.lines[0].held = 1,
        |image| image.decisions = 0,
        |image| image.pending[0].shares[0].0 = 9,
        |image| image.shares.truncate(1),
    ];
    for change in changes {
        let mut image = sound.clone();
        change(&mut image);
        wrong.push(image);
    }
    for image in wrong {
        let adopt = Action::Home(Box::new(HomeStep::Adopt(Box::new(image.clone()))));
        let refused = Shop::default().send(adopt);
        assert!(matches!(refused, Err(Refusal::InvalidField(_))), "{image:?} was {refused:?}");
    }
}

/// What the steps say of orders that are not, or not any more, what the coordinator thinks.
#[test]
fn steps_that_come_too_late() {
    let mut mall = mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         release O2                     -> changed cancelled",
    );
    let home = &mut mall.shops[HOME];
    let image = home.state.image_of_home(&order_no("O1")).unwrap();
    let mut step = |step| home.send(Action::Home(Box::new(step)));
    let unknown = |name: &str| Err(Refusal::UnknownOrder { order_no: order_no(name) });
    assert_eq!(step(HomeStep::Pending(order_no("O9"))), unknown("O9"));
    assert_eq!(
        step(HomeStep::Carried { order_no: order_no("O9"), through: 1, serials: Vec::new() }),
        unknown("O9")
    );
    assert_eq!(
        step(HomeStep::Carried { order_no: order_no("O1"), through: 9, serials: Vec::new() }),
        Ok(Answer::Placed)
    );
    let of = |name: &str| hotstock_engine::command::Reserve {
        order_no: order_no(name),
        lines: hotstock_engine::command::Lines::new(image.order.lines.iter().map(|line| {
            hotstock_engine::command::Line {
                sku_id: line.sku_id.clone(),
                warehouse_id: line.warehouse_id,
                quantity: line.quantity,
            }
        }))
        .unwrap(),
        ttl_seconds: 60,
        buyer_id: None,
        mode: hotstock_engine::command::Mode::AllOrNothing,
        choice: None,
    };
    let held = image.order.lines.iter().map(|line| hotstock_engine::home::HeldLine {
        sku_id: line.sku_id.clone(),
        warehouse_id: line.warehouse_id,
        quantity: line.quantity,
        held: line.quantity,
    });
    let held: Vec<_> = held.collect();
    let attempt = hotstock_engine::ids::AttemptId(77);
    let late = step(HomeStep::Reserve { reserve: of("O2"), attempt, lines: held.clone() });
    assert_eq!(late, Err(Refusal::OrderCancelled { order_no: order_no("O2") }));
    let again = step(HomeStep::Reserve { reserve: of("O1"), attempt, lines: held.clone() });
    assert!(
        matches!(again, Ok(Answer::Order { effect: hotstock_engine::outcome::Effect::Replayed, .. })),
        "{again:?}"
    );
    let mut too_much = held;
    too_much[0].held += 1;
    let refused = step(HomeStep::Reserve { reserve: of("O3"), attempt, lines: too_much });
    assert!(matches!(refused, Err(Refusal::InvalidField(_))), "{refused:?}");
    let asked = |attempt| hotstock_engine::home::Asked { order_no: order_no("O1"), attempt };
    assert_eq!(step(HomeStep::Ask(asked(image.shares[0].attempt))), Ok(Answer::Placed));
    assert_eq!(step(HomeStep::Ask(asked(attempt))), unknown("O1"));
    mall.check();
}

/// Due orders are named once, for somebody who is to be asked about them.
#[test]
fn due_orders_are_taken_once() {
    let mut mall = mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2 ttl=5       -> created reserved A:3[held 3] N:2[held 2]
         reserve O2 A:1 ttl=5           -> created reserved A:1[held 1]
         wait 5000                      ->",
    );
    let now = mall.shops[0].clock;
    let mut taken = |shop: usize| mall.shops[shop].state.take_due_orders(now, 9);
    assert_eq!((taken(HOME), taken(0)), (vec![order_no("O1")], vec![order_no("O2")]));
    assert_eq!((taken(HOME), taken(0)), (vec![], vec![]));
    mall.tell("expire -> ");
    mall.check();
    for (shop, name) in [(HOME, "O1"), (0, "O2")] {
        mall.shops[shop].state.give_back_due(&order_no(name));
        mall.shops[shop].state.give_back_due(&order_no(name));
    }
    mall.check();
    assert_eq!(mall.shops[HOME].state.take_due_orders(now, 9), [order_no("O1")]);
    // Somebody says that it may go.
    let expire = || Action::Expire(order_no("O1"));
    assert!(matches!(mall.shops[HOME].send(expire()), Ok(Answer::Decided { .. })));
    mall.tell(
        "expire                         -> O2
         carry                          -> O1
         levels A                       -> 10/0/0",
    );
    assert!(matches!(mall.shops[HOME].send(expire()), Ok(Answer::Order { .. })), "it is over");
    mall.check();
}

/// One shop with homes, splits, branches and plain orders: whatever happens while a checkpoint is written, slice by slice, a start from it
/// finds what there is.
#[test]
fn a_checkpoint_with_homes_may_be_fuzzy() {
    const STORY: &str = "
        create A 90 | create B 90 | create C 90
        reserve O4 A:1 | reserve O5 A:1 C:1 | reserve O1 A:1 B:1 | reserve O2 A:1 B:1 C:1 | reserve O3 B:1 C:1
        confirm O5 | release O4 | wait 1 | forget 0 99 | get O1 | get O1
        close A | split | leave
        confirm O1 B:1 | release O2 | wait 10 | reserve O6 B:2 | reserve O7 B:2 C:2
        close C | split | split | leave
        extend O7 60 | release O6 | confirm O3 | wait 2000000 | expire | wait 1 | forget 0 99 | reserve O4 B:1";
    let steps: Vec<_> = STORY.split(['|', '\n']).map(str::trim).filter(|step| !step.is_empty()).collect();
    let carry_out = |shop: &mut Shop, step: &str| match step {
        // One event of those that let SKUs go.
        "split" => {
            let event = shop.state.next_leaving(shop.clock).expect("something leaves");
            shop.log(event);
        }
        step => drop(shop.say(step)),
    };
    // Begins before each step; then so many places are written after each further step.
    for begin in 0..steps.len() {
        for places in [1, 2, 3, 7] {
            let mut shop = Shop::default();
            steps[..begin].iter().for_each(|step| carry_out(&mut shop, step));
            let (mut at, begun, mut images) = (Capture::default(), shop.state.applied(), Vec::<Image>::new());
            let mut rest = steps[begin..].iter();
            while let Some(slice) = shop.state.capture(&mut at, places) {
                images.extend(slice);
                if let Some(step) = rest.next() {
                    carry_out(&mut shop, step);
                }
            }
            let end = CheckpointEnd { end: shop.state.applied(), time: shop.state.time() };
            rest.for_each(|step| carry_out(&mut shop, step));
            let mut state = State::restoring(ShardId(0), 1, begun, end);
            state.restore(images).unwrap();
            for event in &shop.log[usize::try_from(begun.0).unwrap()..] {
                state.apply(state.applied().next(), event).unwrap();
            }
            state.check_exact().unwrap();
            assert_eq!(state.audit(), shop.state.audit(), "{begin} {places}");
            assert_eq!(state.audit().violations, []);
            assert_eq!(state.sizes(), shop.state.sizes());
            let mut numbers: Vec<_> = shop.state.order_numbers().cloned().collect();
            let mut found: Vec<_> = state.order_numbers().cloned().collect();
            numbers.sort();
            found.sort();
            assert_eq!(numbers, found);
            for order_no in &numbers {
                assert_eq!(state.order(order_no), shop.state.order(order_no));
                assert_eq!(state.image_of_home(order_no), shop.state.image_of_home(order_no));
            }
        }
    }
}
