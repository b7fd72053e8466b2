//! Orders over several shards while messages are late, come twice or are lost with a shard that fails.

use crate::several::{Several, several};

const STOCK: &str = "
    create A 10                    -> created A 10/0/0
    create N 10                    -> created N 10/0/0";

#[track_caller]
fn with_stock(table: &str) -> Several {
    several(&format!("{STOCK}\n{table}"))
}

/// What can be seen to be refused changes nothing anywhere: no version, no journal.
#[test]
fn refused_at_sight() {
    with_stock(
        "create B 10                    -> created B 10/0/0
         create O 5                     -> created O 5/0/0
         create O@2 5                   -> created O@2 5/0/0
         suspend O@2                    -> changed O@2 5/0/0 suspended
         reserve L1 A:1 N:4 ttl=1       -> created reserved A:1[held 1] N:4[held 4]
         wait 1000                      ->
         expire                         -> L1
         logged                         -> 0 StockCreated StockCreated Reserved Expired Acknowledged, 1 StockCreated StockCreated StockCreated StatusChanged Held HoldChanged
         reserve O1 A:1 N:11            -> insufficient_stock N 10 of 11
         reserve O1 A:11 N:1            -> insufficient_stock A 10 of 11
         reserve O1 N:11 A:1            -> insufficient_stock N 10 of 11
         reserve O1 A:2 B:11 N:11 O:6   -> insufficient_stock B 10 of 11 N 10 of 11 O 5 of 6
         reserve O1 A:1 X:1             -> unknown_sku X
         reserve O1 X:1 A:1             -> unknown_sku X
         reserve O1 A:1 O@3:1           -> unknown_sku O
         reserve O1 A:1 O@2:1           -> sku_suspended O
         reserve O1 A:1 O@any:6         -> insufficient_stock O@any 5 of 6
         logged                         ->",
    );
    // A third shard, which would hold while the second one says no.
    with_stock(
        "create Z 10                    -> created Z 10/0/0
         create O 5                     -> created O 5/0/0
         create O@2 5                   -> created O@2 5/0/0
         suspend O@2                    -> changed O@2 5/0/0 suspended
         create P 4                     -> created P 4/0/0
         create P@2 4                   -> created P@2 4/0/0
         suspend P                      -> changed P 4/0/0 suspended P@2 4/0/0 suspended
         logged                         -> 0 StockCreated, 1 StockCreated StockCreated StockCreated StatusChanged StockCreated StockCreated StatusChanged, 2 StockCreated
         reserve O1 A:1 Z:1 O@3:1       -> unknown_sku O
         reserve O1 Z:1 A:1 X:1         -> unknown_sku X
         reserve O1 O@2:1 Z@9:1 A:1     -> sku_suspended O
         reserve O1 Z@9:1 O@2:1 A:1     -> unknown_sku Z
         reserve O1 O@2:1 Z@9:1 A@any:1 -> unknown_sku Z
         reserve O1 Z:1 P:1 A:1         -> sku_suspended P
         reserve O1 Z:1 P@any:1 A:1     -> sku_suspended P
         reserve O1 Z:1 O@any:6 A:1     -> insufficient_stock O@any 5 of 6
         suspend A                      -> changed A 10/0/0 suspended
         reserve O1 A:3 P:1             -> sku_suspended A
         logged                         -> 0 StatusChanged",
    );
}

/// Likewise what a late payment would need.
#[test]
fn a_late_payment_refused_at_sight() {
    with_stock(
        "reserve O1 A:3 N:4 ttl=1       -> created reserved A:3[held 3] N:4[held 4]
         wait 1000                      ->
         expire                         -> O1
         reserve O2 N:7                 -> created reserved N:7[held 7]
         reserve O3 A:8                 -> created reserved A:8[held 8]
         logged                         -> 0 StockCreated Reserved Expired Acknowledged Reserved, 1 StockCreated Held HoldChanged Reserved
         confirm O1                     -> late_payment_no_stock A 2 of 3 N 3 of 4
         release O3                     -> changed released A:8[released 8]
         confirm O1                     -> late_payment_no_stock N 3 of 4
         suspend N                      -> changed N 3/7/0 suspended
         confirm O1                     -> late_payment_no_stock N 0 of 4
         logged                         -> 0 Released, 1 StatusChanged",
    );
}

/// What could not be seen is refused by whoever has the stock, and the others let go.
#[test]
fn refused_by_a_participant() {
    with_stock(
        "start reserve O1 A:1 N:6       ->
         start reserve O2 A:1 N:6       ->
         deliver command                ->
         deliver command                ->
         on its way                     -> hold hold
         settle                         ->
         answers                        -> created reserved A:1[held 1] N:6[held 6] | insufficient_stock N 4 of 6
         logged                         -> 0 StockCreated Reserved, 1 StockCreated Held
         levels A                       -> 9/1/0",
    );
}

/// Presumed abort: of a hold whose coordinator does not know it, it never will.
#[test]
fn holds_that_nobody_decides_are_released() {
    for fault in ["crash ->", "rebuild 0 held ->", "rebuild 1 hold ->"] {
        with_stock(&format!(
            "start reserve O1 A:3 N:2       ->
             deliver command                ->
             {}
             {fault}
             settle                         ->
             levels A                       -> 10/0/0
             levels N                       -> 10/0/0
             reserve O1 A:4 N:4             -> created reserved A:4[held 4] N:4[held 4]",
            if fault.ends_with("hold ->") { "" } else { "deliver hold ->" }
        ));
    }
}

/// What is left of an attempt does not make the order short of its own units, while nobody knows what became of it.
#[test]
fn leftovers_do_not_make_the_same_order_short() {
    for again in ["reserve O1 A:3 N:9", "reserve O1 A:3 B:1 N:9"] {
        let held =
            again.replace("reserve O1 ", "").replace("A:3", "A:3[held 3]").replace("B:1", "B:1[held 1]");
        let held = held.replace("N:9", "N:9[held 9]");
        with_stock(&format!(
            "create B 10                    -> created B 10/0/0
             start reserve O1 A:3 N:9       ->
             deliver command                ->
             deliver hold                   ->
             crash                          ->
             levels N                       -> 1/9/0
             {again}                        -> created reserved {held}
             settle                         ->
             levels N                       -> 1/9/0"
        ));
    }
}

/// A request for units that comes when the order was made by a later attempt changes nothing.
#[test]
fn a_hold_that_comes_too_late() {
    with_stock(
        "start reserve O1 A:3 N:2       ->
         deliver command                ->
         on its way                     -> hold
         linger 5000                    ->
         linger 1000                    ->
         answers                        -> overloaded",
    );
    let mut shards = with_stock("create O 9 -> created O 9/0/0");
    // The first waits for its SKU meanwhile, as it were.
    shards.tell(
        "start reserve O1 A:3 N:2       ->
         deliver command                ->
         deaf 1                         ->
         linger 5000                    ->
         linger 1000                    ->
         answers                        -> overloaded
         on its way                     -> hold abandon
         deliver abandon                ->
         deliver abandoned              ->
         start reserve O1 A:1 O:1       ->
         deliver command                ->
         on its way                     -> hold hold",
    );
    shards.shards.deliver(1);
    shards.tell(
        "deliver held                   ->
         answers                        -> created reserved A:1[held 1] O:1[held 1]
         levels O                       -> 8/1/0
         deliver hold                   ->
         hears 1                        ->
         settle                         ->
         levels O                       -> 8/1/0
         levels N                       -> 10/0/0
         confirm O1                     -> changed confirmed A:1[confirmed 1] O:1[confirmed 1]",
    );
    shards.check();
}

#[test]
fn a_shard_that_does_not_answer_refuses_the_order_for_now() {
    with_stock(
        "deaf 1                         ->
         reserve O1 A:3 N:2             -> overloaded
         levels A                       -> 10/0/0
         hears 1                        ->
         levels N                       -> 10/0/0
         mute 1                         ->
         reserve O1 A:3 N:2             -> overloaded
         hears 1                        ->
         levels N                       -> 10/0/0
         reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]",
    );
}

/// What was decided stands, and is told later, in its order.
#[test]
fn a_decision_waits_for_a_shard_that_does_not_answer() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         deaf 1                         ->
         confirm O1 N:1                 -> changed partially_confirmed A:3[held 3] N:2[held 1 confirmed 1]
         release O1                     -> changed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         levels N                       -> 8/2/0
         levels A                       -> 10/0/0
         get O1                         -> replayed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         hears 1                        ->
         release O1                     -> replayed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]
         levels N                       -> 9/0/1
         logged                         -> 0 StockCreated Reserved Confirmed Released Acknowledged Acknowledged, 1 StockCreated Held HoldChanged HoldChanged",
    );
}

/// However often it is told and acknowledged, it is carried out once.
#[test]
fn a_decision_is_carried_out_once() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         logged                         -> 0 StockCreated Reserved, 1 StockCreated Held
         start confirm O1               ->
         deliver command                ->
         twice instruct                 ->
         twice instruct                 ->
         on its way                     -> instruct instruct instruct
         deliver instruct               ->
         twice done                     ->
         linger 1000                    ->
         settle                         ->
         answers                        -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         logged                         -> 0 Confirmed Acknowledged, 1 HoldChanged
         levels N                       -> 8/0/2",
    );
}

#[test]
fn a_decision_survives_a_start() {
    for fault in ["crash ->", "rebuild 0 done ->", "rebuild 1 instruct ->"] {
        for delivered in 0..3 {
            let steps = ["", "deliver instruct ->", "deliver instruct ->\n deliver done ->"][delivered];
            with_stock(&format!(
                "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
                 start confirm O1               ->
                 deliver command                ->
                 {steps}
                 {fault}
                 settle                         ->
                 confirm O1                     -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
                 levels A                       -> 7/0/3
                 levels N                       -> 8/0/2"
            ));
        }
    }
}

/// The coordinator did not hear that the units are held: they go back, and the payment is tried again.
#[test]
fn a_late_payment_whose_participant_does_not_answer() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=1       -> created reserved A:3[held 3] N:2[held 2]
         wait 1000                      ->
         expire                         -> O1
         mute 1                         ->
         confirm O1                     -> overloaded
         hears 1                        ->
         levels A                       -> 10/0/0
         levels N                       -> 10/0/0
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels A                       -> 7/0/3",
    );
}

/// Sold units that are to come back are held first, so nothing can take them from under the decision.
#[test]
fn a_return_is_held_first() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         logged                         -> 0 StockCreated Reserved Confirmed Acknowledged, 1 StockCreated Held HoldChanged
         start return O1 R1             ->
         deliver command                ->
         deliver hold                   ->
         levels N                       -> 8/0/2
         logged                         -> 1 Held
         evict N                        -> stays
         settle                         ->
         answers                        -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]
         logged                         -> 0 Returned Acknowledged, 1 HoldChanged
         levels N                       -> 10/0/0
         evict N                        -> left",
    );
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         confirm O1                     -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         start return O1 R1             ->
         deliver command                ->
         deliver hold                   ->
         crash                          ->
         settle                         ->
         get O1                         -> replayed confirmed A:3[confirmed 3] N:2[confirmed 2]
         evict N                        -> left
         return O1 R1                   -> changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2]",
    );
}

/// A participant is told one decision after the other. While it has not heard of them all, it can't say what there is
/// to be given back, nor what it gets back for a late payment.
#[test]
fn what_needs_units_waits_until_what_was_decided_is_told() {
    with_stock(
        "reserve O1 A:3 N:2             -> created reserved A:3[held 3] N:2[held 2]
         start confirm O1 N:1           ->
         deliver command                ->
         start confirm O1               ->
         deliver command                ->
         start return O1 R1             ->
         deliver command                ->
         start get O1                   ->
         settle                         ->
         answers                        -> changed partially_confirmed A:3[held 3] N:2[held 1 confirmed 1] \
         | changed confirmed A:3[confirmed 3] N:2[confirmed 2] \
         | changed returned A:3[confirmed 3 returned 3] N:2[confirmed 2 returned 2] \
         | replayed confirmed A:3[confirmed 3] N:2[confirmed 2]",
    );
    with_stock(
        "reserve O1 A:3 N:10            -> created reserved A:3[held 3] N:10[held 10]
         start confirm O1 N:1           ->
         deliver command                ->
         start release O1               ->
         deliver command                ->
         start confirm O1               ->
         deliver command                ->
         settle                         ->
         answers                        -> changed partially_confirmed A:3[held 3] N:10[held 9 confirmed 1] \
         | changed partially_confirmed A:3[released 3] N:10[confirmed 1 released 9] \
         | changed confirmed A:3[confirmed 3] N:10[confirmed 10]",
    );
}

/// Commands about one order wait for the attempt before them, in their order; reads don't.
#[test]
fn commands_queue_behind_an_attempt() {
    with_stock(
        "start reserve O1 A:3 N:2       ->
         deliver command                ->
         start reserve O1 N:2 A:3       ->
         start confirm O1 N:1           ->
         start reserve O1 A:3           ->
         start release O1               ->
         start get O1                   ->
         deliver command                ->
         deliver command                ->
         deliver command                ->
         deliver command                ->
         deliver command                ->
         answers                        -> … | … | … | … | … | unknown_order",
    );
    with_stock(
        "start reserve O1 A:3 N:2       ->
         deliver command                ->
         start reserve O1 N:2 A:3       ->
         start confirm O1 N:1           ->
         start reserve O1 A:3           ->
         start release O1               ->
         settle                         ->
         answers                        -> created reserved A:3[held 3] N:2[held 2] | replayed reserved A:3[held 3] N:2[held 2] | changed partially_confirmed A:3[held 3] N:2[held 1 confirmed 1] | order_mismatch | changed partially_confirmed A:3[released 3] N:2[confirmed 1 released 1]",
    );
    // Refused, the next one makes the order; all of whose lines lie elsewhere then.
    with_stock(
        "start reserve O1 A:3 N:12      ->
         start reserve O1 N:2           ->
         settle                         ->
         answers                        -> insufficient_stock N 10 of 12 | created reserved N:2[held 2]
         confirm O1                     -> changed confirmed N:2[confirmed 2]
         levels N                       -> 8/0/2
         return O1 R1 N:1               -> changed partially_returned N:2[confirmed 2 returned 1]",
    );
}

/// An order that expires while a participant is away, and is paid late.
#[test]
fn an_expiry_and_a_late_payment_while_a_participant_is_away() {
    with_stock(
        "reserve O1 A:3 N:2 ttl=1       -> created reserved A:3[held 3] N:2[held 2]
         deaf 1                         ->
         wait 1000                      ->
         expire                         -> O1
         start confirm O1               ->
         deliver command                ->
         on its way                     -> instruct
         hears 1                        ->
         settle                         ->
         answers                        -> changed confirmed A:3[confirmed 3] N:2[confirmed 2]
         levels N                       -> 8/0/2",
    );
}

/// Each shard chooses warehouses for its lines; the repeat is known by what was asked.
#[test]
fn any_warehouse() {
    with_stock(
        "create A@2 9                   -> created A@2 9/0/0
         create N@3 9                   -> created N@3 9/0/0
         create N@2 4                   -> created N@2 4/0/0
         deduct A 5 R1                  -> changed A 5/0/0
         reserve O1 A@any:9 N@any:4     -> created reserved A@2:9[held 9] N@2:4[held 4]
         reserve O1 A@any:9 N@any:4     -> replayed reserved A@2:9[held 9] N@2:4[held 4]
         reserve O1 A@any:9 N@any:3     -> order_mismatch
         reserve O2 A@any:1 N@any:13    -> created reserved A:1[held 1] N:10[held 10] N@3:3[held 3]
         confirm O2 N@3:3               -> changed partially_confirmed A:1[held 1] N:10[held 10] N@3:3[confirmed 3]
         reserve O3 A@any:99 N@any:1 best_effort -> created reserved A:99[held 4] N@3:1[held 1]",
    );
}

/// A line that may lie anywhere and gets nothing stands in one place all the same, here and elsewhere.
#[test]
fn any_warehouse_that_has_nothing() {
    with_stock(
        "create A@2 1                   -> created A@2 1/0/0
         create B@2 0                   -> created B@2 0/0/0
         create O@3 0                   -> created O@3 0/0/0
         create C@2 9                   -> created C@2 9/0/0
         suspend C                      -> changed C@2 9/0/0 suspended
         reserve O1 B@any:1 N:1 best_effort -> created reserved B@2:1[] N:1[held 1]
         reserve O2 N:1 B@2:3 B@any:2 best_effort -> created reserved N:1[held 1] B@2:5[]
         reserve O3 A:1 O@any:1 best_effort -> created reserved A:1[held 1] O@3:1[]
         reserve O4 C@any:1 N:1 best_effort -> created reserved C@2:1[] N:1[held 1]
         reserve O5 N:1 C@any:1 best_effort -> created reserved N:1[held 1] C@2:1[]
         confirm O2                     -> changed confirmed N:1[confirmed 1] B@2:5[]",
    );
}

/// Whatever happens while checkpoints are written, slice by slice, a start from them finds what there is: also holds
/// and decisions on their way.
#[test]
fn checkpoints_may_be_fuzzy() {
    const STORY: &str = "
        create A 90 | create B 90 serialized | create N 90 serialized | create O 90
        start reserve O1 A:1 N:2 | deliver command | deliver hold | deliver held | reserve O2 N:1 A:1 B:1 | reserve O3 A:1 O:3
        start confirm O1 N:1 | deliver command | deliver instruct | deliver done | deliver heard | release O2 | confirm O3 O:1
        wait 1 | forget 0 99 | evict A | evict N | get O2 | start confirm O1 | deliver command | deliver instruct | start release O3
        deliver command | deliver instruct | deliver done | deliver done | settle | start return O1 R1 | deliver command | deliver hold
        deliver held | deliver instruct | deliver done | settle | wait 1 | forget 0 99 | evict N | evict O | confirm O2 | reserve O4 A:2 N:2 O:1
        return O2 R2 N:1 | evict B | settle | start reserve O5 A:500 N:1 | start reserve O6 N:1 A:1 | deliver command | deliver command
        deliver hold | deliver held | settle | release O4 | wait 1 | forget 0 99 | evict A | evict N | evict O | get O1";
    let steps: Vec<_> = STORY.split(['|', '\n']).map(str::trim).filter(|step| !step.is_empty()).collect();
    for begin in 0..steps.len() {
        for places in [1, 2, 5] {
            let mut several = Several::default();
            steps[..begin].iter().for_each(|step| drop(several.say(step)));
            let mut rest = steps[begin..].iter();
            let mut running: Vec<_> = several.shards.ids().collect();
            while !running.is_empty() {
                running.retain(|shard| !several.shards.checkpoint(*shard, places));
                rest.next().into_iter().for_each(|step| drop(several.say(step)));
            }
            rest.for_each(|step| drop(several.say(step)));
            several.shards.ids().for_each(|shard| several.shards.check_recovered(shard));
        }
    }
}
