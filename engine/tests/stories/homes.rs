//! What a home remembers: checkpoints, restarts, forgetting, and orders that come back.

use hotstock_engine::checkpoint::{CheckpointEnd, Image};
use hotstock_engine::home::{HomeImage, HomeStep};
use hotstock_engine::ids::{OrderNo, ShardId};
use hotstock_engine::inner::{InnerAnswer, InnerCommand, InnerOutcome};
use hotstock_engine::outcome::{Answer, Effect, Refusal};
use hotstock_engine::state::{Capture, State};

use crate::mall::{HOME, Mall, mall};
use crate::shop::Shop;

/// The order alone: nothing was to be done.
fn is_replayed(outcome: InnerOutcome) -> bool {
    matches!(outcome, Ok(InnerAnswer::Public(Answer::Order { effect: Effect::Replayed, .. })))
}

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
    mall.tell("get O1 -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]");
    mall.check();
}

/// A forgotten order comes back from the store when it is asked for, and goes on; its branches do so by themselves.
#[test]
fn an_order_comes_back() {
    let mall = mall(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         reserve O2 A:1 N:1 ttl=60      -> created reserved A:1[held 1] N:1[held 1]
         wait 60000                     ->
         expire                         -> O2
         carry                          -> O2
         wait 10                        ->
         forget 5 99                    -> O1 O2
         evict A                        -> left
         evict N                        -> left
         reserve O1 A:3 N:2             -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
         reserve O1 A:3                 -> order_mismatch
         here N                         -> false
         return O1 R1 N:1               -> changed partially_returned A:3[confirmed 3] N:2[confirmed 2 returned 1]
         here N                         -> true
         here A                         -> false
         confirm O2                     -> changed confirmed A:1[confirmed 1] N:1[confirmed 1]
         levels A                       -> 6/0/4
         levels N                       -> 8/0/2
         restart                        ->
         return O1 R1 N:1               -> replayed partially_returned A:3[confirmed 3] N:2[confirmed 2 returned 1]
         wait 10                        ->
         forget 5 99                    -> O1 O2",
    );
    mall.check();
}

/// An image that makes no sense does not come in, nor one of an order that could not have left.
#[test]
fn an_order_that_makes_no_sense_does_not_come_back() {
    let mut mall = Mall::default();
    mall.tell(
        "create A 10                    -> created A 10/0/0
         create N 10                    -> created N 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         reserve O2 A:1 N:1             -> created reserved A:1[held 1] N:1[held 1]
         deaf 1                         ->
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]",
    );
    let of = |mall: &Mall, name: &str| mall.shops[HOME].state.image_of_home(&order_no(name)).unwrap();
    let mut wrong = vec![of(&mall, "O1"), of(&mall, "O2")];
    mall.tell(
        "hears 1                        ->
         confirm O1                     -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]",
    );
    let sound = of(&mall, "O1");
    let changes: [fn(&mut HomeImage); 5] = [
        |image| image.shares[0].confirmed += 1,
        |image| image.shares[1].line = 7,
        |image| image.order.lines[0].held = 1,
        |image| image.order.lines[0].released = 9,
        |image| image.shares.truncate(1),
    ];
    for change in changes {
        let mut image = sound.clone();
        change(&mut image);
        wrong.push(image);
    }
    for image in wrong {
        let refused = Shop::default().state.decide_home_loaded(&image);
        assert!(matches!(refused, Err(Refusal::InvalidField(_))), "{image:?} was {refused:?}");
    }
    let mut shop = Shop::default();
    let loaded = shop.state.decide_home_loaded(&sound).unwrap().unwrap();
    shop.log(shop.state.event(loaded, shop.clock));
    assert_eq!(shop.state.decide_home_loaded(&sound), Ok(None), "it comes once");
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
    let mut step = |step: HomeStep| home.send(step);
    let unknown = |name: &str| Err(Refusal::UnknownOrder { order_no: order_no(name) });
    assert_eq!(step(HomeStep::Pending(order_no("O9"))), unknown("O9"));
    assert_eq!(
        step(HomeStep::Carried { order_no: order_no("O9"), through: 1, serials: Vec::new() }),
        unknown("O9")
    );
    assert!(is_replayed(step(HomeStep::Pending(order_no("O1")))), "nothing is pending");
    assert!(is_replayed(step(HomeStep::Carried {
        order_no: order_no("O1"),
        through: 9,
        serials: Vec::new()
    })));
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
    assert!(is_replayed(again));
    let mut too_much = held;
    too_much[0].held += 1;
    let refused = step(HomeStep::Reserve { reserve: of("O3"), attempt, lines: too_much });
    assert!(matches!(refused, Err(Refusal::InvalidField(_))), "{refused:?}");
    let asked = |attempt| hotstock_engine::home::Asked { order_no: order_no("O1"), attempt };
    assert!(is_replayed(step(HomeStep::Ask(asked(image.shares[0].attempt)))));
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
    let expire = || InnerCommand::Expire(order_no("O1"));
    assert!(matches!(mall.shops[HOME].send(expire()), Ok(InnerAnswer::Decided { .. })));
    mall.tell(
        "expire                         -> O2
         carry                          -> O1
         levels A                       -> 10/0/0",
    );
    assert!(is_replayed(mall.shops[HOME].send(expire())), "it is over");
    mall.check();
}

/// A shop with homes, branches and plain orders that leave memory and come back: whatever happens while a checkpoint
/// is written, slice by slice, a start from it finds what there is.
#[test]
fn a_checkpoint_may_be_fuzzy() {
    const STORY: &str = "
        create A 90 | create B 90 serialized | create C 90
        reserve O4 A:1 | reserve O5 A:1 C:1 | reserve O1 A:1 B:1 | reserve O2 A:1 B:1 C:1 | reserve O3 B:1 C:1 | restock A 1 R1
        confirm O5 | release O4 | pin C | wait 1 | forget 0 99 | get O4 | evict A | make H1 | confirm O1 | release O2 | unpin C
        evict A | evict B | get O1 | restock A 1 R1 | evict A | evict B | evict C | make H2 | release H1 | reserve O6 B:2 | reserve O7 B:2 C:2
        evict A | return O1 R9 | wait 10 | told H1 | forget 5 99 | reserve O4 A:5 | confirm H1 | told H1 | wait 1 | forget 0 99 | return O5 R3 | restock A 2 R2
        extend O7 60 | release O6 | confirm O3 | wait 2000000 | expire | told H2 | wait 1 | forget 0 99 | evict A | evict B | evict C | get O3
        confirm O7 | get H2 | create A@2 5 | evict A | evict B";
    let steps: Vec<_> = STORY.split(['|', '\n']).map(str::trim).filter(|step| !step.is_empty()).collect();
    let carry_out = |shop: &mut Shop, step: &str| match step.split_once(' ') {
        // An order over several places whose home is here, and whose branches nobody asks.
        Some(("make", name)) => make_home(shop, name),
        Some(("told", name)) => {
            let step = HomeStep::Carried { order_no: order_no(name), through: 9, serials: Vec::new() };
            drop(shop.send(step));
        }
        _ => drop(shop.say(step)),
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
            let (end, time, departed) = (shop.state.applied(), shop.state.time(), shop.state.departed());
            let end = CheckpointEnd { end, time, departed };
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
            assert_eq!((state.departed(), state.hot_skus()), (shop.state.departed(), shop.state.hot_skus()));
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

fn make_home(shop: &mut Shop, name: &str) {
    let line = hotstock_engine::command::Line {
        sku_id: hotstock_engine::ids::SkuId::new("X").unwrap(),
        warehouse_id: hotstock_engine::ids::WarehouseId(1),
        quantity: 2,
    };
    let reserve = hotstock_engine::command::Reserve {
        order_no: order_no(name),
        lines: hotstock_engine::command::Lines::new([line.clone()]).unwrap(),
        ttl_seconds: 60,
        buyer_id: None,
        mode: hotstock_engine::command::Mode::AllOrNothing,
        choice: None,
    };
    let hotstock_engine::command::Line { sku_id, warehouse_id, quantity } = line;
    let lines = vec![hotstock_engine::home::HeldLine { sku_id, warehouse_id, quantity, held: quantity }];
    let step = HomeStep::Reserve { reserve, attempt: hotstock_engine::ids::AttemptId(1), lines };
    shop.send(step).unwrap();
}
