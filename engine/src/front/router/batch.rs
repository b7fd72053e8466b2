//! Many commands of one caller: those that lie in a shard travel there together; those of orders over several shards
//! are carried out one by one, in chains of those about the same order or SKU, some chains at a time.
//!
//! What comes in a batch takes effect in its order. So before anything is sent, orders that left memory and that the
//! batch changes are brought back: then the directory knows where they are.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{Router, next_envelope};
use crate::base::ids::{OrderNo, ShardId, SkuId, shard_of_order};
use crate::base::limits::MAX_BATCH_CHAINS;
use crate::contract::command::{Action, Command, Lines};
use crate::contract::outcome::{Answer, OrderView, Outcome, Refusal};
use crate::contract::subject::Subject;
use crate::machine::inner::InnerCommand;
use crate::services::shared::{BatchId, Envelope, ShardAnswer, give_back_claims};

/// A command with its place in the batch.
type Placed = (usize, InnerCommand);

/// Where commands of a batch went: their places in it, and the way their answers come.
struct Sent {
    places: Vec<usize>,
    answers: oneshot::Receiver<Vec<ShardAnswer>>,
}

/// Commands on their way to one shard.
#[derive(Default)]
struct Load {
    places: Vec<usize>,
    commands: Vec<InnerCommand>,
}

/// The SKUs of orders that the batch names: of those that were made before, and of those that it makes. Kept only
/// when orders over several shards are among them, or a number that another shard has: their commands take longer, and
/// what comes after them about the same SKUs must not overtake them.
#[derive(Default)]
struct OrderSkus {
    orders: HashMap<OrderNo, Vec<SkuId>>,
    is_kept: bool,
}

/// Orders that the batch changes and that were there before it.
#[derive(Default)]
struct Brought {
    /// Where they are.
    shards: HashMap<OrderNo, ShardId>,
    /// Of those, the ones over several shards.
    cross_shard: HashSet<OrderNo>,
    /// As they were read, those that had left memory.
    read: Vec<OrderView>,
    /// Those of which nobody could say where they are, or whether they are.
    unsure: HashSet<OrderNo>,
}

/// Commands that are carried out one by one, behind the others, and what they are about.
#[derive(Default)]
struct Careful {
    commands: Vec<Placed>,
    orders: HashSet<OrderNo>,
    skus: HashSet<SkuId>,
    /// One of them changes an order that nobody knew when the batch came: it may be about any SKU. Whatever comes after
    /// it waits for it.
    may_be_any: bool,
}

impl Router {
    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, commands: Vec<Command>) -> Vec<Outcome> {
        if let Err(fenced) = self.fence.check() {
            return commands.iter().map(|_| Err(fenced.clone())).collect();
        }
        let mut outcomes: Vec<Outcome> = Vec::new();
        outcomes.resize_with(commands.len(), || Err(Refusal::Overloaded));
        let mut sound: Vec<(usize, Command)> = Vec::with_capacity(commands.len());
        for (index, command) in commands.into_iter().enumerate() {
            match command.validate() {
                Ok(()) => sound.push((index, command)),
                Err(invalid) => outcomes[index] = Err(invalid.into()),
            }
        }
        let mut brought = self.bring_back(&sound).await;
        let mut known = self.skus_of_orders(&sound, &mut brought).await;
        let placed = sound.into_iter().map(|(index, command)| (index, command.into()));
        let mut careful = Careful::default();
        for Sent { places, answers } in self.send_all(placed, &brought, &mut known, &mut careful) {
            let Ok(answers) = answers.await else {
                for index in places {
                    outcomes[index] = Err(Refusal::ShardRestarted);
                }
                continue;
            };
            for (index, answer) in places.into_iter().zip(answers) {
                match answer {
                    ShardAnswer::Outcome(outcome) => outcomes[index] = outcome,
                    ShardAnswer::Elsewhere { command, .. } => careful.add(index, *command, &known),
                }
            }
        }
        let Careful { mut commands, may_be_any, .. } = careful;
        commands.sort_by_key(|(index, _)| *index);
        self.settle_all(commands, &known, may_be_any, &mut outcomes).await;
        outcomes
    }

    /// Has orders brought back into memory that the batch changes and that may be in the store alone. They may leave
    /// again at once, but where an order is does not change. With one shard everything goes to it in its order
    /// anyway.
    async fn bring_back(&self, commands: &[(usize, Command)]) -> Brought {
        let mut brought = Brought::default();
        if self.shards.len() == 1 {
            return brought;
        }
        let mut asked: BTreeMap<ShardId, Vec<InnerCommand>> = BTreeMap::new();
        let changed = commands.iter().filter(|(_, command)| changes_an_order(&command.action));
        let changed: HashSet<&OrderNo> = changed.filter_map(|(_, command)| command.order_no()).collect();
        for order_no in changed {
            if let Some((shard, spans)) = self.directory.there(order_no) {
                brought.shards.insert(order_no.clone(), shard);
                if spans {
                    brought.cross_shard.insert(order_no.clone());
                }
            } else if self.known.may_have_order(order_no) {
                let shard = shard_of_order(order_no, self.shard_count());
                brought.unsure.insert(order_no.clone());
                asked.entry(shard).or_default().push(Action::GetOrder(order_no.clone()).into());
            }
        }
        // The second time where they are.
        for _ in 0..2 {
            let mut elsewhere: BTreeMap<ShardId, Vec<InnerCommand>> = BTreeMap::new();
            for (asked, answer) in self.ask_each(std::mem::take(&mut asked)).await {
                match answer {
                    ShardAnswer::Elsewhere { shard, command } => {
                        elsewhere.entry(shard).or_default().push(*command);
                    }
                    ShardAnswer::Outcome(Err(Refusal::UnknownOrder { order_no })) => {
                        brought.unsure.remove(&order_no);
                    }
                    ShardAnswer::Outcome(Ok(Answer::Order { order, .. })) => {
                        brought.unsure.remove(&order.order_no);
                        let shards: HashSet<ShardId> =
                            order.lines.iter().map(|line| self.shard_of(&line.sku_id)).collect();
                        if shards.len() > 1 || !shards.contains(&asked) {
                            brought.cross_shard.insert(order.order_no.clone());
                        }
                        brought.shards.insert(order.order_no.clone(), asked);
                        brought.read.push(order);
                    }
                    ShardAnswer::Outcome(_) => {}
                }
            }
            asked = elsewhere;
        }
        brought
    }

    /// The SKUs of orders that were made before the batch.
    async fn skus_of_orders(&self, commands: &[(usize, Command)], brought: &mut Brought) -> OrderSkus {
        let takes_longer = |command: &Command| {
            let subject = command.action.subject();
            let is_taken = |order_no: &OrderNo, lines: &Lines| {
                self.directory
                    .shard(order_no)
                    .is_some_and(|shard| shard != self.shard_of(&lines.first().sku_id))
            };
            matches!(subject, Subject::NewOrder { order_no, lines }
                if self.is_over_shards(lines) || is_taken(order_no, lines))
                || subject.order_no().is_some_and(|order_no| self.spans(order_no, brought))
        };
        let mut known = OrderSkus::default();
        if !commands.iter().any(|(_, command)| takes_longer(command)) {
            return known;
        }
        known.is_kept = true;
        std::mem::take(&mut brought.read).into_iter().for_each(|read| known.add(read));
        let mut asked: BTreeMap<ShardId, Vec<InnerCommand>> = BTreeMap::new();
        let orders: HashSet<&OrderNo> =
            commands.iter().filter_map(|(_, command)| command.order_no()).collect();
        for order_no in orders {
            if let Some(shard) = self.directory.shard(order_no) {
                asked.entry(shard).or_default().push(Action::GetOrder(order_no.clone()).into());
            }
        }
        for (_, answer) in self.ask_each(asked).await {
            if let ShardAnswer::Outcome(Ok(Answer::Order { order, .. })) = answer {
                known.add(order);
            }
        }
        known
    }

    fn spans(&self, order_no: &OrderNo, brought: &Brought) -> bool {
        self.directory.spans(order_no) || brought.cross_shard.contains(order_no)
    }

    /// Asks shards, all at the same time, commands without claims. Answers in no order, each with who gave it.
    async fn ask_each(&self, asked: BTreeMap<ShardId, Vec<InnerCommand>>) -> Vec<(ShardId, ShardAnswer)> {
        let mut running = JoinSet::new();
        for (shard, commands) in asked {
            let router = self.arc();
            running.spawn(async move { (shard, router.ask_all(shard, commands).await) });
        }
        let mut answers = Vec::new();
        while let Some(read) = running.join_next().await {
            match read {
                Ok((shard, some)) => answers.extend(some.into_iter().map(|answer| (shard, answer))),
                Err(error) => tracing::error!(%error, "orders of a batch could not be read"),
            }
        }
        answers
    }

    /// Has a shard decide commands without claims, one after the other.
    async fn ask_all(&self, shard: ShardId, commands: Vec<InnerCommand>) -> Vec<ShardAnswer> {
        let batch = self.next_batch();
        let mut all = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let some = next_envelope(&mut commands);
            let refused = |refusal: &Refusal| ShardAnswer::refused(refusal.clone());
            let count = some.len();
            let shared = match self.enter(shard, &some) {
                Ok(shared) => shared,
                Err(refusal) => {
                    all.extend((0..count).map(|_| refused(&refusal)));
                    continue;
                }
            };
            let (to, answers) = oneshot::channel();
            shared.mailbox.push([Envelope::Many(some, batch, to)]);
            shared.wake();
            match answers.await {
                Ok(answers) => all.extend(answers),
                Err(_) => all.extend((0..count).map(|_| refused(&Refusal::ShardRestarted))),
            }
        }
        all
    }

    /// Sends commands to their shards, in order; those of orders over several shards, and those that must not overtake
    /// them, go to `careful`.
    fn send_all(
        &self,
        commands: impl Iterator<Item = Placed>,
        brought: &Brought,
        known: &mut OrderSkus,
        careful: &mut Careful,
    ) -> Vec<Sent> {
        let mut loads: Vec<Load> = Vec::new();
        loads.resize_with(self.shards.len(), Load::default);
        for (index, command) in commands {
            known.note(&command);
            let subject = command.subject();
            let spans = matches!(subject, Subject::NewOrder { lines, .. } if self.is_over_shards(lines))
                || known.is_kept && subject.order_no().is_some_and(|order_no| self.spans(order_no, brought));
            // It may be of any shard, and what it changes may be what comes after it is about.
            let is_unsure = command.order_no().is_some_and(|order_no| brought.unsure.contains(order_no));
            if spans || is_unsure || careful.touches(&command, known) {
                careful.add(index, command, known);
                continue;
            }
            let back = command.order_no().and_then(|order_no| brought.shards.get(order_no));
            let shard = match back {
                Some(shard) => self.claim_for(&command, *shard),
                None => self.route(&command),
            };
            if back.is_none() && self.is_away(&command, shard) {
                // Another request for the same order, perhaps one of this batch, came first: its shard decides.
                give_back_claims(std::slice::from_ref(&command), &self.directory);
                careful.add(index, command, known);
                continue;
            }
            let load = &mut loads[shard.index()];
            load.places.push(index);
            load.commands.push(command);
        }
        let batch = self.next_batch();
        let sent = loads
            .into_iter()
            .zip(self.shards.iter())
            .flat_map(|(load, shard)| self.send(batch, shard.id, load));
        sent.collect()
    }

    /// Sends what goes to one shard. Nothing when it has no room: `Overloaded` is what the outcomes began with.
    fn send(&self, batch: BatchId, shard: ShardId, load: Load) -> Vec<Sent> {
        let Load { places, commands } = load;
        if commands.is_empty() {
            return Vec::new();
        }
        let Ok(shared) = self.enter(shard, &commands) else { return Vec::new() };
        let (mut sent, mut envelopes) = (Vec::new(), Vec::new());
        let (mut commands, mut places) = (commands.into_iter().peekable(), places.into_iter());
        while commands.peek().is_some() {
            let (to, answers) = oneshot::channel();
            let some = next_envelope(&mut commands);
            sent.push(Sent { places: places.by_ref().take(some.len()).collect(), answers });
            envelopes.push(Envelope::Many(some, batch, to));
        }
        shared.mailbox.push(envelopes);
        shared.wake();
        sent
    }

    /// Carries out commands, sorted by place, those of one chain one after the other.
    async fn settle_all(
        &self,
        commands: Vec<Placed>,
        known: &OrderSkus,
        in_one_chain: bool,
        outcomes: &mut [Outcome],
    ) {
        if commands.is_empty() {
            return;
        }
        let chains = if in_one_chain { vec![commands] } else { chains(commands, known) };
        let mut chains = chains.into_iter();
        let mut running: JoinSet<Vec<(usize, Outcome)>> = JoinSet::new();
        loop {
            while running.len() < MAX_BATCH_CHAINS
                && let Some(chain) = chains.next()
            {
                let router = self.arc();
                running.spawn(async move {
                    let mut answers = Vec::with_capacity(chain.len());
                    for (index, command) in chain {
                        answers.push((index, router.carry_out(command).await));
                    }
                    answers
                });
            }
            match running.join_next().await {
                None => return,
                Some(Ok(answers)) => {
                    answers.into_iter().for_each(|(index, outcome)| outcomes[index] = outcome)
                }
                // Its places keep `Overloaded`, which would be a lie only if a command panicked in the middle.
                Some(Err(error)) => tracing::error!(%error, "a chain of a batch failed"),
            }
        }
    }
}

/// Whether a command changes an order that is there before it.
fn changes_an_order(action: &Action) -> bool {
    match action {
        Action::Confirm(_) | Action::Release(_) | Action::Extend(_) | Action::Return(_) => true,
        Action::CreateStock(_)
        | Action::ChangeStock(_)
        | Action::SetStatus(_)
        | Action::Reserve(_)
        | Action::GetOrder(_) => false,
    }
}

impl Careful {
    /// Whether a command is about what one of these is about: it must not overtake it.
    fn touches(&self, command: &InnerCommand, known: &OrderSkus) -> bool {
        if self.commands.is_empty() {
            return false;
        }
        self.may_be_any
            || known.is_unknown(command)
            || command.order_no().is_some_and(|order_no| self.orders.contains(order_no))
            || (!self.skus.is_empty() && known.skus_of(command).any(|sku_id| self.skus.contains(sku_id)))
    }

    fn add(&mut self, index: usize, command: InnerCommand, known: &OrderSkus) {
        self.may_be_any |= known.is_unknown(&command);
        self.orders.extend(command.order_no().cloned());
        self.skus.extend(known.skus_of(&command).cloned());
        self.commands.push((index, command));
    }
}

impl OrderSkus {
    /// An order that was made before.
    fn add(&mut self, order: OrderView) {
        let skus = order.lines.into_iter().map(|line| line.sku_id).collect();
        self.orders.insert(order.order_no, skus);
    }

    /// An order that the batch makes.
    fn note(&mut self, command: &InnerCommand) {
        let subject = command.subject();
        if let Subject::NewOrder { order_no, .. } = subject
            && self.is_kept
        {
            self.orders.entry(order_no.clone()).or_insert_with(|| subject.skus().cloned().collect());
        }
    }

    /// Whether a command changes an order of which nobody knows the SKUs: somebody else may be making it just now, or
    /// they were not kept because nothing was expected to take longer.
    fn is_unknown(&self, command: &InnerCommand) -> bool {
        let InnerCommand::Public(public) = command else { return false };
        let is_unknown = |order_no| !self.is_kept || !self.orders.contains_key(order_no);
        changes_an_order(&public.action) && command.order_no().is_some_and(is_unknown)
    }

    /// The SKUs that a command names, and those of its order.
    fn skus_of<'a>(&'a self, command: &'a InnerCommand) -> impl Iterator<Item = &'a SkuId> {
        let of_order =
            command.order_no().filter(|_| self.is_kept).and_then(|order_no| self.orders.get(order_no));
        command.subject().skus().chain(of_order.into_iter().flatten())
    }
}

/// Puts commands that share an order or SKU, directly or through others, into one chain, in their order.
fn chains(commands: Vec<Placed>, known: &OrderSkus) -> Vec<Vec<Placed>> {
    // A forest over the places in `commands`; a root is its own parent.
    fn root(parents: &mut [usize], mut at: usize) -> usize {
        while parents[at] != at {
            parents[at] = parents[parents[at]];
            at = parents[at];
        }
        at
    }
    let mut parents: Vec<usize> = (0..commands.len()).collect();
    {
        let mut orders: HashMap<&OrderNo, usize> = HashMap::new();
        let mut skus: HashMap<&SkuId, usize> = HashMap::new();
        for (at, (_, command)) in commands.iter().enumerate() {
            let earlier = command.order_no().and_then(|order_no| orders.insert(order_no, at));
            let mut earlier: Vec<usize> = earlier.into_iter().collect();
            earlier.extend(known.skus_of(command).filter_map(|sku| skus.insert(sku, at)));
            for other in earlier {
                let (one, other) = (root(&mut parents, at), root(&mut parents, other));
                parents[one.max(other)] = one.min(other);
            }
        }
    }
    let mut chains: Vec<Vec<Placed>> = Vec::new();
    let mut of_root: HashMap<usize, usize> = HashMap::new();
    for (at, command) in commands.into_iter().enumerate() {
        let chain = *of_root.entry(root(&mut parents, at)).or_insert_with(|| {
            chains.push(Vec::new());
            chains.len() - 1
        });
        chains[chain].push(command);
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::WarehouseId;
    use crate::contract::command::{Confirm, Line, Lines, Mode, Reserve};

    fn reserve(order: &str, skus: &[&str]) -> InnerCommand {
        let line = |name: &&str| {
            let sku_id = SkuId::new(name).unwrap();
            Line { sku_id, warehouse_id: WarehouseId(1), quantity: 1 }
        };
        Action::Reserve(Reserve {
            order_no: OrderNo::new(order).unwrap(),
            lines: Lines::new(skus.iter().map(line)).unwrap(),
            ttl_seconds: 1,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            choice: None,
        })
        .into()
    }

    fn confirm(order: &str) -> InnerCommand {
        Action::Confirm(Confirm { order_no: OrderNo::new(order).unwrap(), part: None }).into()
    }

    #[test]
    fn chains_keep_the_order_of_what_belongs_together() {
        let commands = vec![
            reserve("o1", &["a"]),
            reserve("o2", &["b"]),
            confirm("o1"),
            reserve("o3", &["c", "d"]),
            reserve("o4", &["d", "a"]),
            confirm("o2"),
        ];
        let chains = chains(commands.into_iter().enumerate().collect(), &OrderSkus::default());
        let places: Vec<Vec<usize>> = chains.iter().map(|c| c.iter().map(|(at, _)| *at).collect()).collect();
        assert_eq!(places, [vec![0, 2, 3, 4], vec![1, 5]]);
    }
}
