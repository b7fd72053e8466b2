//! One run of the simulation: what happens next is drawn, until everything is let come to rest and is looked at.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fastrand::Rng;
use hotstock_engine::checkpoint::Stage;
use hotstock_engine::command::{Action, Command};
use hotstock_engine::ids::{OrderNo, SkuId};
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::outcome::{Outcome, Refusal};

use crate::checks::{all_over, at_rest, explain};
use crate::messages::{Ask, Message, Slot, Target, Task, poll};
use crate::naive::order::Order;
use crate::server::Server;
use crate::shard::Shard;
use crate::table::goes_on_from;
use crate::wishes::{Names, first_stocks, sku, wish};
use crate::world::World;

/// After this long without a fault nothing is held that shall not be: a branch asks, a turn or two, an answer.
const REST_MILLIS: u64 = BRANCH_ASK_SECONDS as u64 * 1_000 + 3_000;

/// Looks at everything before "it does not come to rest" is said.
const ROUNDS: u32 = 3_000;

/// A call of a client.
struct Call {
    command: Command,
    since: u64,
    answer: Option<(Outcome, Option<Order>)>,
}

/// See the module.
pub struct Run {
    server: Server,
    tasks: Vec<Task>,
    calls: Rc<RefCell<Vec<Call>>>,
    names: Names,
    /// What clients were told, as the model was then.
    promised: Vec<(OrderNo, Order)>,
    seen_answers: usize,
    open_calls: Vec<usize>,
    faults: bool,
}

impl Run {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        let shards = rng.u16(2..6);
        let names = Names { skus: rng.u32(3..7), warehouses: rng.u32(1..3), orders: rng.u32(3..9) };
        let mut world = World::new(seed, shards);
        world.forgets = rng.u32(0..3) == 0;
        world.trace = traced.then(Vec::new);
        for action in first_stocks(names, &mut rng) {
            world.deliver(Target::Store, &Ask::Commands(vec![action.into()]));
        }
        let mut run = Self {
            server: Server::new(world),
            tasks: Vec::new(),
            calls: Rc::default(),
            names,
            promised: Vec::new(),
            seen_answers: 0,
            open_calls: Vec::new(),
            faults: rng.u32(0..5) > 0,
        };
        let hot: Vec<SkuId> = (0..names.skus).filter(|_| rng.u32(0..3) > 0).map(sku).collect();
        for sku_id in hot {
            let shard = run.server.look().shard_of(&sku_id);
            run.promote(vec![sku_id], shard);
        }
        run.settle(0);
        run
    }

    /// So many things happen.
    pub fn go(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Everything that is under way ends, then every order; each time everything is compared.
    pub fn end(mut self) -> BTreeMap<&'static str, u64> {
        self.server.world().sql.down = false;
        self.settle(REST_MILLIS);
        at_rest(&self.server.look());
        let last = {
            let world = self.server.look();
            let open = world.orders.values().filter(|order| order.is_open()).map(|order| order.expires_at);
            open.max().unwrap_or(world.clock)
        };
        let now = self.server.look().clock;
        self.server.world().clock = now.max(last);
        self.settle(REST_MILLIS);
        let world = self.server.look();
        at_rest(&world);
        all_over(&world);
        assert!(self.open_calls.is_empty(), "some calls have no answer");
        for (order_no, then) in &self.promised {
            let now = world.orders.get(order_no);
            assert!(
                now.is_some_and(|now| goes_on_from(now, then)),
                "{order_no} was told to be {then:?} and is {now:?}"
            );
        }
        world.seen.clone()
    }

    /// Tells what happened, also after a failure.
    pub fn tracer(&self) -> impl Fn() -> Vec<String> + use<> {
        let server = self.server.clone();
        move || server.world().trace.take().unwrap_or_default()
    }

    fn roll(&self, sides: u32) -> u32 {
        self.server.world().rng.u32(0..sides)
    }

    fn pick(&self, len: usize) -> usize {
        self.server.world().rng.usize(..len)
    }

    fn step(&mut self) {
        self.server.world().step += 1;
        match self.roll(200) {
            0..32 if self.open_calls.len() < 12 => self.call(),
            0..100 => self.deliver(),
            100..126 => self.sync(),
            126..144 => self.turn(),
            144..152 => self.flush(),
            152..157 => self.sweep(),
            157..168 => self.pass(),
            168..176 => {
                let shard = self.pick_shard();
                let places = self.pick(20) + 1;
                self.server.world().shards[shard].checkpoint(places);
            }
            176..181 => self.draw_promotion(),
            181..188 => self.draw_demotion(),
            188..193 if self.faults => self.deliver_badly(),
            193 if self.faults => {
                let shard = self.pick_shard();
                self.crash_shard(shard);
            }
            194 if self.faults && self.roll(2) == 0 => self.crash_server(),
            195..198 if self.faults => {
                let mut world = self.server.world();
                // Down for a while, then up for longer.
                world.sql.down = !world.sql.down && world.rng.u32(0..3) == 0;
                let down = world.sql.down;
                world.say(|| format!("the store is down: {down}"));
            }
            _ => self.deliver(),
        }
        self.go_on();
    }

    fn pick_shard(&self) -> usize {
        let count = self.server.look().shards.len();
        self.pick(count)
    }

    /// A client asks something new, or what it asked before.
    fn call(&mut self) {
        let command: Command = {
            let mut world = self.server.world();
            let World { rng, orders, .. } = &mut *world;
            let calls = self.calls.borrow();
            if !calls.is_empty() && rng.u32(0..5) == 0 {
                let again = &calls[rng.usize(..calls.len())].command;
                // A change of stock is told from a new one only while it is remembered, which is another story.
                match again.action {
                    Action::ChangeStock(_) => Action::GetOrder(OrderNo::new("O0").unwrap()).into(),
                    _ => again.clone(),
                }
            } else {
                wish(self.names, rng, orders, calls.len() as u64).into()
            }
        };
        command.validate().expect("only valid commands are drawn");
        let since = self.server.look().step;
        let number = self.calls.borrow().len();
        self.server.world().say(|| format!("call {number}: {command:?}"));
        self.calls.borrow_mut().push(Call { command: command.clone(), since, answer: None });
        self.open_calls.push(number);
        let (server, calls) = (self.server.clone(), Rc::clone(&self.calls));
        self.server.spawn(async move {
            let answer = server.call(command).await;
            calls.borrow_mut()[number].answer = Some(answer);
        });
    }

    fn deliver(&mut self) {
        let count = self.server.look().messages.len();
        if count == 0 {
            // Everybody waits for the disk, or for time to pass.
            return if self.roll(4) == 0 { self.pass() } else { self.sync() };
        }
        let index = self.pick(count);
        self.deliver_one(index);
    }

    fn deliver_one(&self, index: usize) {
        let mut world = self.server.world();
        let Message { to, ask, slot, orphan } = world.messages.swap_remove(index);
        if orphan.is_some_and(|until| until < world.step) {
            return;
        }
        let reply = world.deliver(to, &ask);
        match to {
            Target::Store => *slot.borrow_mut() = Some(reply),
            Target::Shard(shard) => {
                let shard = &mut world.shards[shard];
                let rests_on = shard.journal.len();
                shard.waiting.push((rests_on, slot, reply));
                put(shard.sync(0));
            }
        }
    }

    /// A message is lost, or its answer is, or it arrives twice.
    fn deliver_badly(&mut self) {
        let count = self.server.look().messages.len();
        if count == 0 {
            return;
        }
        let index = self.pick(count);
        let how = self.roll(5);
        let mut world = self.server.world();
        let Message { to, ask, slot, orphan } = world.messages.swap_remove(index);
        if orphan.is_some() {
            return;
        }
        let (unknown, passing) = match to {
            Target::Store => (Refusal::OutcomeUnknown, Refusal::StoreUnavailable),
            Target::Shard(_) => (Refusal::ShardRestarted, Refusal::Overloaded),
        };
        world.say(|| format!("badly ({how}): {to:?} {ask:?}"));
        match how {
            0 => *slot.borrow_mut() = Some(vec![(Err(passing), None)]),
            1 => *slot.borrow_mut() = Some(vec![(Err(unknown), None)]),
            2 | 3 => {
                let down = to == Target::Store && world.sql.down;
                drop(world.deliver(to, &ask));
                let told = if down { passing } else { unknown };
                *slot.borrow_mut() = Some(vec![(Err(told), None)]);
                drop(world);
                // A shard answers as long as it runs.
                if let Target::Shard(shard) = to {
                    self.crash_shard(shard);
                }
            }
            _ => {
                // It arrives twice; the second answer is the one that is heard.
                if is_of_branches(&ask) {
                    drop(world.deliver(to, &ask));
                }
                world.messages.push(Message { to, ask, slot, orphan });
            }
        }
    }

    fn sync(&mut self) {
        let shard = self.pick_shard();
        let events = self.pick(6) + 1;
        put(self.server.world().shards[shard].sync(events));
    }

    fn turn(&mut self) {
        let shard = self.pick_shard();
        self.turn_of(shard);
    }

    fn turn_of(&self, shard: usize) {
        let (branches, unsent) = self.server.world().turn(shard);
        for number in branches {
            let server = self.server.clone();
            self.server.spawn(async move { server.ask_after(number).await });
        }
        for order_no in unsent {
            let server = self.server.clone();
            self.server.spawn(async move { server.carry(&order_no, None).await });
        }
    }

    fn flush(&mut self) {
        let shard = self.pick_shard();
        let events = self.pick(12) + 1;
        self.flush_of(shard, events);
    }

    fn flush_of(&self, shard: usize, events: usize) {
        let mut world = self.server.world();
        if !world.sql.down {
            let World { sql, shards, .. } = &mut *world;
            sql.flush(&mut shards[shard], shard, events);
        }
    }

    fn sweep(&mut self) {
        let (branches, homes) = self.server.world().sweep();
        for number in branches {
            let server = self.server.clone();
            self.server.spawn(async move { server.ask_after(number).await });
        }
        for order_no in homes {
            let server = self.server.clone();
            self.server.spawn(async move { server.adopt_home(order_no).await });
        }
    }

    fn pass(&mut self) {
        let mut world = self.server.world();
        let millis = match world.rng.u32(0..10) {
            0 => world.rng.u64(1_000..4_000),
            1..4 => world.rng.u64(100..700),
            _ => world.rng.u64(1..100),
        };
        world.clock = world.clock.plus_millis(millis);
        if world.forgets && world.rng.u32(0..40) == 0 {
            world.clock = world.clock.plus_millis(41_000);
        }
    }

    fn draw_promotion(&mut self) {
        let (skus, shard) = {
            let mut world = self.server.world();
            let first = sku(world.rng.u32(0..self.names.skus));
            let shard = world.shard_of(&first);
            let all = (0..self.names.skus).map(sku).filter(|sku_id| world.shard_of(sku_id) == shard);
            let skus: Vec<SkuId> = all.collect();
            let alone = world.rng.bool();
            let skus: Vec<SkuId> = skus.into_iter().filter(|sku_id| !alone || *sku_id == first).collect();
            let cold = skus.into_iter().filter(|sku_id| world.sql.is_cold(sku_id)).collect::<Vec<_>>();
            (cold, shard)
        };
        if !skus.is_empty() {
            self.promote(skus, shard);
        }
    }

    fn promote(&self, skus: Vec<SkuId>, shard: usize) {
        let server = self.server.clone();
        self.server.spawn(async move { server.promote(skus, shard).await });
    }

    fn draw_demotion(&mut self) {
        let shard = self.pick_shard();
        let skus: Vec<SkuId> = {
            let mut world = self.server.world();
            let all = world.shards[shard].state.places();
            let open =
                all.into_iter().filter(|(_, (stage, _))| *stage == Stage::Open).map(|(sku_id, _)| sku_id);
            open.collect::<Vec<_>>().into_iter().filter(|_| world.rng.bool()).take(2).collect()
        };
        if !skus.is_empty() {
            let server = self.server.clone();
            self.server.spawn(async move { server.demote(skus, shard).await });
        }
    }

    fn crash_shard(&self, shard: usize) {
        let mut world = self.server.world();
        world.saw("crashes of a shard");
        world.say(|| format!("shard {shard} crashes"));
        if world.shards[shard].has_checkpoint() {
            world.saw("starts from a checkpoint");
        }
        let at_most = world.shards[shard].journal.len() - world.shards[shard].durable;
        let kept = world.rng.usize(0..=at_most);
        let (slots, undo) = world.shards[shard].crash(kept);
        world.take_back(undo);
        let lost = |slot: Slot| *slot.borrow_mut() = Some(vec![(Err(Refusal::ShardRestarted), None)]);
        slots.into_iter().for_each(lost);
        let World { rng, messages, .. } = &mut *world;
        messages.retain(|message| {
            let goes = message.to == Target::Shard(shard) && rng.bool();
            if goes {
                lost(Rc::clone(&message.slot));
            }
            !goes
        });
        let shard = &world.shards[shard];
        assert_eq!(
            Shard::contents(&shard.state),
            Shard::contents(&shard.replayed()),
            "restored (left) and replayed"
        );
    }

    fn crash_server(&mut self) {
        self.server.world().say(|| "the server crashes".to_owned());
        self.server.world().saw("crashes of the server");
        // Their locks are given back while they go.
        let spawned = std::mem::take(&mut self.server.world().spawned);
        drop(spawned);
        self.tasks.clear();
        {
            let mut world = self.server.world();
            world.claims.clear();
            world.locked.clear();
            world.under_way.clear();
            world.adopting.clear();
            let step = world.step;
            let World { rng, messages, .. } = &mut *world;
            // What was on its way to the database may still arrive there.
            messages.retain_mut(|message| {
                let stays = message.to == Target::Store && is_of_branches(&message.ask) && rng.bool();
                message.orphan = Some(message.orphan.unwrap_or(step + 60));
                stays
            });
        }
        let count = self.server.look().shards.len();
        (0..count).for_each(|shard| self.crash_shard(shard));
        for number in &self.open_calls {
            let answer = &mut self.calls.borrow_mut()[*number].answer;
            answer.get_or_insert((Err(Refusal::ShardRestarted), None));
        }
        self.go_on();
        // What was on its way into a shard goes on.
        let mut coming: BTreeMap<usize, Vec<SkuId>> = BTreeMap::new();
        for (sku_id, (shard, _)) in &self.server.look().sql.owners {
            coming.entry(*shard).or_default().push(sku_id.clone());
        }
        for (shard, skus) in coming {
            let server = self.server.clone();
            self.server.spawn(async move { server.adopt(skus, shard).await });
        }
    }

    /// Lets the tasks go on as far as they can, and looks at the answers that came.
    fn go_on(&mut self) {
        loop {
            let spawned = std::mem::take(&mut self.server.world().spawned);
            let begun = !spawned.is_empty();
            self.tasks.extend(spawned);
            self.tasks.retain_mut(|task| !poll(task));
            if !begun {
                break;
            }
        }
        let calls = self.calls.borrow();
        let mut world = self.server.world();
        self.open_calls.retain(|number| {
            let Call { command, since, answer } = &calls[*number];
            let Some((outcome, then)) = answer else { return true };
            world.say(|| format!("call {number} is told {outcome:?}"));
            explain(&world, command, *since, outcome);
            if let (Some(order_no), Some(then)) = (command.order_no(), then)
                && outcome.is_ok()
            {
                self.promised.push((order_no.clone(), then.clone()));
            }
            self.seen_answers += 1;
            false
        });
    }

    /// No faults: everything arrives, until nothing is under way and so much time has passed.
    fn settle(&mut self, millis: u64) {
        let end = self.server.look().clock.plus_millis(millis);
        for _ in 0..ROUNDS {
            self.server.world().step += 1;
            self.go_on();
            let count = self.server.look().shards.len();
            for _ in 0..self.roll(8) {
                while !self.server.look().messages.is_empty() {
                    let messages = self.server.look().messages.len();
                    let index = self.pick(messages);
                    self.deliver_one(index);
                }
                (0..count).for_each(|shard| put(self.server.world().shards[shard].sync(usize::MAX)));
                self.go_on();
            }
            for shard in 0..count {
                self.turn_of(shard);
                put(self.server.world().shards[shard].sync(usize::MAX));
                self.flush_of(shard, usize::MAX);
            }
            self.sweep();
            self.go_on();
            let mut world = self.server.world();
            let busy = !world.messages.is_empty() || !self.tasks.is_empty() || !world.spawned.is_empty();
            let behind = world.shards.iter().any(|shard| shard.flushed < shard.journal.len());
            if !busy && !behind && world.clock >= end {
                return;
            }
            world.clock = world.clock.plus_millis(250);
        }
        let world = self.server.look();
        let calls = self.calls.borrow();
        let open: Vec<_> = self.open_calls.iter().map(|number| &calls[*number].command).collect();
        panic!(
            "it does not come to rest: {} tasks, {} messages, locked {:?}, open calls {open:?}",
            self.tasks.len(),
            world.messages.len(),
            world.locked
        );
    }
}

fn put(ready: Vec<(Slot, crate::messages::Reply)>) {
    for (slot, reply) in ready {
        *slot.borrow_mut() = Some(reply);
    }
}

/// Whether a message is about branches alone, so that it may come twice or late.
fn is_of_branches(ask: &Ask) -> bool {
    let Ask::Commands(commands) = ask else { return false };
    commands.iter().all(|command| command.order_no().is_some_and(OrderNo::is_branch))
}
