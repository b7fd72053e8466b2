//! One run of the simulation: what happens next is drawn, until everything is let come to rest and is looked at.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fastrand::Rng;
use hotstock_engine::command::{Action, Command};
use hotstock_engine::ids::OrderNo;
use hotstock_engine::limits::BRANCH_ASK_SECONDS;
use hotstock_engine::outcome::{Outcome, Refusal};

use crate::checks::{all_over, at_rest, explain};
use crate::messages::{Message, Said, Slot, Task, poll};
use crate::naive::order::Order;
use crate::server::Server;
use crate::shard::Shard;
use crate::table::goes_on_from;
use crate::wishes::{Names, first_stocks, wish};
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
        world.forgets = rng.u32(0..4) > 0;
        world.trace = traced.then(Vec::new);
        for action in first_stocks(names, &mut rng) {
            let hotstock_engine::command::Action::CreateStock(create) = &action else {
                unreachable!("it creates")
            };
            let shard = world.shard_of(&create.sku_id);
            world.deliver(shard, &action.into());
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
        self.server.world().is_down = false;
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
            152..164 => self.pass(),
            164..176 => {
                let shard = self.pick_shard();
                let places = self.pick(20) + 1;
                let mut world = self.server.world();
                if world.shards[shard].checkpoint(places) {
                    world.saved = world.known.clone();
                }
            }
            176..188 => self.turn(),
            188..193 if self.faults => self.deliver_badly(),
            193 if self.faults => {
                let shard = self.pick_shard();
                self.crash_shard(shard);
            }
            194 if self.faults && self.roll(2) == 0 => self.crash_server(),
            195..198 if self.faults => {
                let mut world = self.server.world();
                // Down for a while, then up for longer.
                world.is_down = !world.is_down && world.rng.u32(0..3) == 0;
                let down = world.is_down;
                if down {
                    world.saw("the store was away");
                }
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
        let Message { to, command, slot } = world.messages.swap_remove(index);
        let reply = world.deliver(to, &command);
        let shard = &mut world.shards[to];
        let rests_on = shard.journal.len();
        shard.waiting.push((rests_on, slot, reply));
        put(shard.sync(0));
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
        let Message { to, command, slot } = world.messages.swap_remove(index);
        world.say(|| format!("badly ({how}): {to:?} {command:?}"));
        match how {
            0 => *slot.borrow_mut() = Some((Said::Outcome(Err(Refusal::Overloaded)), None)),
            1 => *slot.borrow_mut() = Some((Said::Outcome(Err(Refusal::ShardRestarted)), None)),
            2 | 3 => {
                drop(world.deliver(to, &command));
                *slot.borrow_mut() = Some((Said::Outcome(Err(Refusal::ShardRestarted)), None));
                drop(world);
                // A shard answers as long as it runs.
                self.crash_shard(to);
            }
            _ => {
                // It arrives twice; the second answer is the one that is heard. Of branches alone, which may come so.
                if command.order_no().is_some_and(OrderNo::is_branch) {
                    drop(world.deliver(to, &command));
                }
                world.messages.push(Message { to, command, slot });
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
        if !world.is_down {
            world.shards[shard].flush(events);
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
    }

    fn crash_shard(&self, shard: usize) {
        // The filter of known numbers is the server's.
        self.crash_of(shard);
    }

    /// Gives what left memory in the replay.
    fn crash_of(&self, shard: usize) -> Vec<hotstock_engine::state::Departed> {
        let mut world = self.server.world();
        world.saw("crashes of a shard");
        world.say(|| format!("shard {shard} crashes"));
        if world.shards[shard].has_checkpoint() {
            world.saw("starts from a checkpoint");
        }
        let at_most = world.shards[shard].journal.len() - world.shards[shard].durable;
        let kept = world.rng.usize(0..=at_most);
        let (slots, undo, departed) = world.shards[shard].crash(kept);
        world.take_back(undo);
        let lost =
            |slot: Slot| *slot.borrow_mut() = Some((Said::Outcome(Err(Refusal::ShardRestarted)), None));
        slots.into_iter().for_each(lost);
        let World { rng, messages, .. } = &mut *world;
        messages.retain(|message| {
            let goes = message.to == shard && rng.bool();
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
        departed
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
            world.messages.clear();
            // What it saved with its last checkpoint, and what the journals tell of since.
            world.known = world.saved.clone();
        }
        let count = self.server.look().shards.len();
        for shard in 0..count {
            let departed = self.crash_of(shard);
            self.server.world().known.add(departed);
        }
        for number in &self.open_calls {
            let answer = &mut self.calls.borrow_mut()[*number].answer;
            answer.get_or_insert((Err(Refusal::ShardRestarted), None));
        }
        self.go_on();
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
            self.go_on();
            let mut world = self.server.world();
            let busy = !world.messages.is_empty() || !self.tasks.is_empty() || !world.spawned.is_empty();
            let behind = world.shards.iter().any(|shard| shard.flushed() < shard.journal.len());
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
