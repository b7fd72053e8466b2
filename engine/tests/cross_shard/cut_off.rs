//! The directory is lost, and a new one is made of the store, which was cut off at any moment: it has a beginning of
//! the journal, over all shards, so no order is there in part. What is in doubt is settled after the start: a hold
//! without an order is let go, a decision that a participant has not heard of is told again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hotstock_engine::command::{Command, Mode};
use hotstock_engine::engine::Engine;
use hotstock_engine::ids::{Epoch, Lsn, ServerId, ShardId, TakeId};
use hotstock_engine::journal::{JournalReader, ShardEvents};
use hotstock_engine::options::{EngineOptions, StoreOptions};
use hotstock_engine::order::OrderStatus;
use hotstock_engine::recovery::{HoldsReport, check_holds, recover_audited};
use hotstock_engine::state::State;
use hotstock_engine::store::{FlushBatch, FlushPart, Store as _, Take};
use hotstock_engine::testing::{ManualClock, MemorySnapshot, MemoryStore};

use crate::shop::{cart, confirm_part, give_back, read, skus};
use crate::support::{World, confirm, create, flushed_soon, levels, release, tight, until, until_flushed};

const SHARDS: u16 = 3;

/// What each SKU begins with.
const UNITS: u64 = 400;

/// What `hotstock verify` looks at of a directory whose server has stopped.
fn verified(world: &World) -> HoldsReport {
    let recover = |shard| {
        let recovered = recover_audited(ShardId(shard), SHARDS, &world.journal, &world.checkpoints);
        recovered.expect("the books balance").state
    };
    let states: Vec<State> = (0..SHARDS).map(recover).collect();
    check_holds(&states)
}

/// Recovers from the store as it was, and asserts that each SKU holds and has sold what the orders say once all is
/// settled; what was in doubt.
async fn settles(
    store: &MemorySnapshot,
    clock: &ManualClock,
    names: &[String],
    orders: &[String],
) -> HoldsReport {
    let cut_off = MemoryStore::with_clock(Arc::new(clock.clone()));
    cut_off.restore(store);
    let world = World::recovered(cut_off, clock.clone()).await;
    let doubt = verified(&world);
    assert_eq!(doubt.violations, Vec::<String>::new());
    let engine = world.start(flushed_soon(SHARDS)).await;
    let mut tries = 0;
    loop {
        let mut of_orders = vec![(0, 0); names.len()];
        for number in orders {
            for line in read(&engine, number).await.map(|order| order.lines).unwrap_or_default() {
                let place = names.iter().position(|name| name == line.sku_id.as_str()).unwrap();
                of_orders[place].0 += u64::from(line.held);
                of_orders[place].1 += u64::from(line.confirmed - line.returned);
            }
        }
        let mut wrong = Vec::new();
        for (name, (held, sold)) in names.iter().zip(of_orders) {
            let (wanted, found) = ((UNITS - held - sold, held, sold), levels(&engine, name).await);
            if wanted != found {
                wrong.push(format!("{name}: {found:?}, the orders say {wanted:?}"));
            }
        }
        if wrong.is_empty() {
            break;
        }
        tries += 1;
        assert!(tries < 5_000, "{wrong:?}\n{doubt:?}\n{:#?}", engine.stats().cross_shard);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until(|| engine.stats().cross_shard.under_way == 0).await;
    assert_eq!(engine.stats().cross_shard.misfits, 0);
    until_flushed(&engine).await;
    engine.stop().await;
    let HoldsReport { asking, pending, violations, .. } = verified(&world);
    assert_eq!((asking, pending, violations), (Vec::new(), 0, Vec::new()), "{doubt:?}");
    doubt
}

/// Orders over some shards, asked for, sold in part, given back, left alone; some at the same time.
async fn trade(engine: &Engine, clock: &ManualClock, names: &[String], orders: &[String], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for (n, number) in orders.iter().enumerate() {
        let mut some = names.to_vec();
        random.shuffle(&mut some);
        some.truncate(random.usize(2..=names.len()));
        let of = |units: u32| some.iter().map(|name| (name.as_str(), units)).collect::<Vec<_>>();
        let (all, one) = (of(random.u32(1..=3)), of(1));
        let mut asked: Vec<Command> = vec![cart(number, &all, Mode::BestEffort, random.u32(1..=60))];
        match random.u8(..8) {
            0 | 1 => asked.push(confirm(number)),
            2 => asked.extend([confirm_part(number, &one, Some("p")), release(number)]),
            3 => asked.extend([confirm(number), give_back(number, Some(&one), "r")]),
            4 => asked.extend([confirm(number), give_back(number, None, "r")]),
            5 => asked.push(release(number)),
            6 => asked.extend([release(number), confirm(number)]),
            _ => {}
        }
        for command in asked {
            // Refusals are part of it.
            drop(engine.submit(command).await);
        }
        if n % 10 == 9 {
            clock.advance(Duration::from_secs(random.u64(1..10)));
        }
    }
}

/// While orders come and go, some at the same time.
async fn cut_off_while(seed: u64, mut options: EngineOptions, events: usize) -> (usize, usize) {
    const MOMENTS: usize = 30;
    let world = World::new();
    options.store = StoreOptions { flush_events: events, ..options.store };
    let moments: Arc<Mutex<Vec<MemorySnapshot>>> = Arc::default();
    let failpoint = {
        let (moments, store) = (Arc::clone(&moments), world.store.clone());
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        move |step: &'static str| {
            if step == "flush.after" {
                let (mut moments, mut random) = (moments.lock().unwrap(), random.lock().unwrap());
                let snapshot = store.snapshot();
                // As likely each as any other.
                let all = moments.len();
                match all < MOMENTS {
                    true => moments.push(snapshot),
                    false if random.u8(..4) == 0 => moments[random.usize(..MOMENTS)] = snapshot,
                    false => {}
                }
            }
        }
    };
    let parts = world.parts().failpoint(Arc::new(failpoint));
    let engine = Engine::start(options, parts).await.unwrap();
    let names = skus(4, SHARDS);
    for name in &names {
        engine.submit(create(name, UNITS)).await.unwrap();
    }
    until_flushed(&engine).await;
    moments.lock().unwrap().clear();
    let orders: Vec<Vec<String>> =
        (0..4).map(|caller| (0..40).map(|n| format!("{seed}-{caller}-{n}")).collect()).collect();
    let callers =
        orders.iter().zip(1..).map(|(orders, n)| trade(&engine, &world.clock, &names, orders, seed * 10 + n));
    futures_of(callers.collect()).await;
    world.session().die();
    engine.stop().await;

    let moments = std::mem::take(&mut *moments.lock().unwrap());
    assert!(moments.len() > MOMENTS / 2, "{}", moments.len());
    let (mut asking, mut pending) = (0, 0);
    for moment in &moments {
        let doubt = settles(moment, &world.clock, &names, &orders.concat()).await;
        (asking, pending) = (asking + doubt.asking.len(), pending + doubt.pending);
    }
    (asking, pending)
}

/// All at the same time.
async fn futures_of<F: Future<Output = ()>>(all: Vec<F>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_cut_off_under_load_is_whole() {
    let (mut asking, mut pending) = (0, 0);
    for (seed, options, events) in [
        (1, flushed_soon(SHARDS), 1),
        (2, flushed_soon(SHARDS), 5),
        (3, tight(SHARDS), 3),
        (4, tight(SHARDS), 40),
    ] {
        let doubt = cut_off_while(seed, options, events).await;
        (asking, pending) = (asking + doubt.0, pending + doubt.1);
    }
    assert!(asking > 0 && pending > 0, "nothing was in doubt: {asking} {pending}");
}

/// Commit by commit of one order and what becomes of it: what is in doubt at each, and what it is settled to.
#[tokio::test]
async fn at_every_commit_of_an_order_what_is_in_doubt_is_settled() {
    let names = skus(3, SHARDS);
    let all: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let orders = ["sold", "left"].map(String::from);
    let world = World::new();
    let engine = world.start(flushed_soon(SHARDS)).await;
    for name in &names {
        engine.submit(create(name, UNITS)).await.unwrap();
    }
    for command in [
        cart("sold", &all, Mode::AllOrNothing, 900),
        confirm("sold"),
        give_back("sold", Some(&all[1..]), "r"),
        cart("left", &all, Mode::AllOrNothing, 900),
        release("left"),
    ] {
        engine.submit(command).await.unwrap();
    }
    until(|| engine.stats().cross_shard.under_way == 0).await;
    until_flushed(&engine).await;
    engine.stop().await;

    let (store, epoch) = (MemoryStore::with_clock(Arc::new(world.clock.clone())), Epoch(1));
    let take = Take {
        id: TakeId(1),
        server: ServerId(1),
        shards: SHARDS,
        after: Epoch::ZERO,
        epoch,
        lease_seconds: 0,
        over: false,
        judged: None,
    };
    store.take(&take).await.unwrap();
    let mut next = vec![Lsn(1); usize::from(SHARDS)];
    let (mut aborted, mut told) = (0, 0);
    loop {
        let commit = world.journal.read_together(&next, 1, u64::MAX).unwrap();
        if commit.is_empty() {
            break;
        }
        let part = |ShardEvents { shard, events, hash }: &ShardEvents| {
            (*shard, next[shard.index()].0 - 1, *hash, events.clone())
        };
        let parts: Vec<_> = commit.iter().map(part).collect();
        let parts = parts.iter().map(|(shard, after, hash, events)| FlushPart {
            shard: *shard,
            after: Lsn(*after),
            hash: *hash,
            events,
        });
        store.flush(FlushBatch { epoch, parts: parts.collect() }).await.unwrap();
        for ShardEvents { shard, events, .. } in &commit {
            next[shard.index()] = next[shard.index()].plus(events.len() as u64);
        }
        if store.stock_page(None, 10).await.unwrap().rows.len() < names.len() {
            // Before there was anything to order.
            continue;
        }
        let doubt = settles(&store.snapshot(), &world.clock, &names, &orders).await;
        aborted += usize::from(!doubt.asking.is_empty());
        told += usize::from(doubt.pending > 0);
    }
    assert!(aborted >= 2, "each order was held for before it was made: {aborted}");
    assert!(told >= 3, "each decision was logged before it was told: {told}");
    let engine = World::recovered(store, world.clock.clone()).await;
    let engine = engine.start(flushed_soon(SHARDS)).await;
    assert_eq!(read(&engine, "sold").await.unwrap().status, OrderStatus::PartiallyReturned);
    assert_eq!(read(&engine, "left").await.unwrap().status, OrderStatus::Released);
    engine.stop().await;
}
