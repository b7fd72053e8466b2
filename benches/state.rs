//! The pure core alone, one thread, no journal: decide, apply and answer a reserve of one line; the same with the
//! confirm after it; a repeat; a refusal; an order of 50 lines. Every order has its own number, so the tables grow
//! as they do live.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Action, Confirm, CreateStock, Line, Lines, Mode, Reserve};
use hotstock_engine::ids::{OrderNo, ShardId, SkuId, WarehouseId};
use hotstock_engine::inner::InnerCommand;
use hotstock_engine::outcome::Outcome;
use hotstock_engine::state::{Decision, State};

const NOW: Timestamp = Timestamp(1_600_000_000_000);

fn sku(n: usize) -> SkuId {
    SkuId::new(&format!("sku-{n:04}")).expect("in bounds")
}

/// As a shard does it.
fn execute(state: &mut State, command: &InnerCommand) -> Outcome {
    match state.decide(command, NOW) {
        Decision::Answer(outcome) => outcome,
        Decision::Log(event) => {
            state.apply(state.applied().next(), &event).expect("it was just decided");
            Ok(state.answer(&event))
        }
        Decision::HoldFirst(_) => unreachable!("the orders are this shard's"),
    }
}

fn stocked(skus: usize, quantity: u64) -> State {
    let mut state = State::new(ShardId(0), 1);
    for n in 0..skus {
        let create =
            CreateStock { sku_id: sku(n), warehouse_id: WarehouseId(1), quantity, serialized: false };
        execute(&mut state, &Action::CreateStock(create).into()).expect("it is new");
    }
    state
}

fn reserve(number: u64, lines: usize) -> InnerCommand {
    let line = |n| Line { sku_id: sku(n), warehouse_id: WarehouseId(1), quantity: 1 };
    let order_no = OrderNo::new(&format!("ORD-{number:010}")).expect("in bounds");
    let lines = Lines::new((0..lines).map(line)).expect("in bounds");
    Action::Reserve(Reserve {
        order_no,
        lines,
        ttl_seconds: 900,
        buyer_id: None,
        mode: Mode::AllOrNothing,
        choice: None,
    })
    .into()
}

fn confirm(number: u64) -> InnerCommand {
    let order_no = OrderNo::new(&format!("ORD-{number:010}")).expect("in bounds");
    Action::Confirm(Confirm { order_no, part: None }).into()
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("state");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    for lines in [1, 50] {
        let mut state = stocked(lines, 1_000_000_000_000);
        group.bench_function(format!("reserve of {lines} lines"), |b| {
            let input = || reserve(next(), lines);
            b.iter_batched(input, |command| execute(&mut state, black_box(&command)), BatchSize::SmallInput);
        });
    }
    let mut state = stocked(1, 1_000_000_000_000);
    group.bench_function("reserve and confirm", |b| {
        let input = || {
            let number = next();
            (reserve(number, 1), confirm(number))
        };
        let both = |(first, second): (InnerCommand, InnerCommand)| {
            (execute(&mut state, &first), execute(&mut state, &second))
        };
        b.iter_batched(input, both, BatchSize::SmallInput);
    });
    let repeated = reserve(next(), 1);
    execute(&mut state, &repeated).expect("there is stock");
    group.bench_function("repeat of a reserve", |b| b.iter(|| execute(&mut state, black_box(&repeated))));
    let mut sold_out = stocked(1, 0);
    let refused = reserve(next(), 1);
    group.bench_function("refusal when sold out", |b| b.iter(|| execute(&mut sold_out, black_box(&refused))));
    group.finish();
}

criterion_group!(state, benches);
criterion_main!(state);
