//! Many commands of one caller: those that surely lie in a shard travel there together; the others, also those of orders over
//! several places, are settled one by one, in chains of those about the same order or SKU, some chains at a time.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::First;
use crate::command::{Action, Command};
use crate::hub::{Hub, next_envelope};
use crate::directory::Home;
use crate::ids::{OrderNo, ShardId, SkuId};
use crate::limits::MAX_BATCH_CHAINS;
use crate::outcome::{Answer, Effect, Outcome, Refusal};
use crate::shard::shared::{Envelope, give_back_claims};

/// A command with its place in the batch.
type Placed = (usize, Command);

/// Where commands of a batch went: their places in it, copies of those that may have to be looked for, and the way their
/// answers come.
struct Sent {
    places: Vec<(usize, Option<Command>)>,
    answers: oneshot::Receiver<Vec<Outcome>>,
}

/// Commands on their way to one shard.
#[derive(Default)]
struct Load {
    places: Vec<(usize, Option<Command>)>,
    commands: Vec<Command>,
}

/// The SKUs of orders that the batch names: of those that were made before, and of those that it makes. Kept only when orders over
/// several places are among them: their commands take longer, and what comes after them about the same SKUs must not overtake them.
#[derive(Default)]
struct Known {
    orders: HashMap<OrderNo, Vec<SkuId>>,
    is_kept: bool,
}

/// What commands are about.
#[derive(Default)]
struct Subjects {
    orders: HashSet<OrderNo>,
    skus: HashSet<SkuId>,
}

impl Hub {
    /// Carries out commands; those about the same order or SKU in the order given. Answers in the same order.
    pub async fn submit_batch(&self, commands: Vec<Command>) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        outcomes.resize_with(commands.len(), || Err(Refusal::Overloaded));
        let mut left: Vec<Placed> = Vec::with_capacity(commands.len());
        for (index, command) in commands.into_iter().enumerate() {
            match command.validate() {
                Ok(()) => left.push((index, command)),
                Err(invalid) => outcomes[index] = Err(invalid.into()),
            }
        }
        let mut known = self.known_of(&left).await;
        let mut careful: Vec<Placed> = Vec::new();
        while !left.is_empty() {
            let (sent, later) = self.send_all(std::mem::take(&mut left), &mut known, &mut outcomes, &mut careful);
            left = later;
            for Sent { places, answers } in sent {
                let Ok(answers) = answers.await else {
                    for (index, _) in places {
                        outcomes[index] = Err(Refusal::ShardRestarted);
                    }
                    continue;
                };
                for ((index, spare), outcome) in places.into_iter().zip(answers) {
                    match (outcome, spare) {
                        (Err(Refusal::Moved(back)), _) => careful.push((index, *back)),
                        (outcome, Some(spare)) if self.look_again(&outcome).is_some() => careful.push((index, spare)),
                        // Of an order that was not known to lie in several places.
                        (outcome @ (Ok(Answer::Decided { .. }) | Err(Refusal::HoldFirst(_))), spare) => {
                            outcomes[index] = self.conclude(spare.as_ref(), outcome).await;
                        }
                        (outcome, _) => outcomes[index] = outcome,
                    }
                }
            }
            left.sort_by_key(|(index, _)| *index);
        }
        read_again(&mut careful, &outcomes);
        careful.sort_by_key(|(index, _)| *index);
        self.settle_all(careful, &known, &mut outcomes).await;
        outcomes
    }

    /// The SKUs of orders that were made before the batch.
    async fn known_of(&self, commands: &[Placed]) -> Known {
        let spans = |command: &Command| match &command.action {
            Action::Reserve(c) => self.is_over_shards(&c.lines) || self.context.directory.spans(&c.order_no),
            _ => command.order_no().is_some_and(|order_no| self.context.directory.spans(order_no)),
        };
        let mut known = Known::default();
        if !commands.iter().any(|(_, command)| spans(command)) {
            return known;
        }
        known.is_kept = true;
        let mut asked: HashMap<ShardId, Vec<Command>> = HashMap::new();
        let orders: HashSet<&OrderNo> = commands.iter().filter_map(|(_, command)| command.order_no()).collect();
        for order_no in orders {
            if let Some(Home::Shard(home)) = self.context.directory.home(order_no) {
                asked.entry(home).or_default().push(Action::GetOrder(order_no.clone()).into());
            }
        }
        let mut running = JoinSet::new();
        for (home, commands) in asked {
            let hub = self.arc();
            running.spawn(async move { hub.ask_all(home, commands).await });
        }
        while let Some(read) = running.join_next().await {
            match read {
                Ok(outcomes) => outcomes.into_iter().for_each(|outcome| known.add(outcome)),
                Err(error) => tracing::error!(%error, "orders of a batch could not be read"),
            }
        }
        known
    }

    /// Sends commands to their shards, in order. Those that can't be sent get their outcome at once; those that have to
    /// wait for the answers to others are given back; those that have to be looked for go to `careful`.
    fn send_all(
        &self,
        commands: Vec<Placed>,
        known: &mut Known,
        outcomes: &mut [Outcome],
        careful: &mut Vec<Placed>,
    ) -> (Vec<Sent>, Vec<Placed>) {
        let mut later: Vec<Placed> = Vec::new();
        let mut loads: Vec<Load> = Vec::new();
        loads.resize_with(self.shards.len(), Load::default);
        // Orders with a command whose place is uncertain: what comes after it waits for its answer.
        let mut uncertain: HashSet<OrderNo> = HashSet::new();
        let mut looked_for = Subjects::default();
        // Orders with a command that does not make them: the shard may not know the order, and then it is looked for. A
        // reserve of it that comes later must not overtake that.
        let mut named: HashSet<OrderNo, RandomState> = HashSet::default();
        for (index, command) in commands {
            if command.order_no().is_some_and(|order_no| uncertain.contains(order_no)) {
                later.push((index, command));
                continue;
            }
            let overtakes = match (&self.side, &command.action) {
                (Some(_), Action::Reserve(c)) => named.contains(&c.order_no),
                (Some(_), _) => {
                    named.extend(command.order_no().cloned());
                    false
                }
                (None, _) => false,
            };
            known.note(&command);
            let spans = known.is_kept && command.order_no().is_some_and(|order_no| self.context.directory.spans(order_no));
            if overtakes || spans || looked_for.touch(&command, known) {
                looked_for.add(&command, known);
                careful.push((index, command));
                continue;
            }
            let shard = match self.first(&command) {
                First::Several | First::Unsure => {
                    looked_for.add(&command, known);
                    careful.push((index, command));
                    continue;
                }
                First::Refused(refusal) => {
                    outcomes[index] = Err(refusal);
                    continue;
                }
                First::Shard(shard) => shard,
            };
            let load = &mut loads[shard.index()];
            if self.side.is_none() && self.is_away(&command, shard) {
                uncertain.extend(command.order_no().cloned());
                if load.commands.iter().any(|earlier| earlier.order_no() == command.order_no()) {
                    give_back_claims(std::slice::from_ref(&command), &self.context.directory);
                    later.push((index, command));
                    continue;
                }
            }
            load.places.push((index, self.spare(&command)));
            load.commands.push(command);
        }
        let mut sent = Vec::new();
        for (shard, Load { places, commands }) in self.shards.iter().zip(loads) {
            if commands.is_empty() || self.enter(shard.id, &commands).is_err() {
                // `Overloaded` is what the outcomes began with.
                continue;
            }
            let mut envelopes = Vec::new();
            let mut commands = commands.into_iter().peekable();
            let mut places = places.into_iter();
            while commands.peek().is_some() {
                let (to, answers) = oneshot::channel();
                let some = next_envelope(&mut commands);
                sent.push(Sent { places: places.by_ref().take(some.len()).collect(), answers });
                envelopes.push(Envelope::Many(some, to));
            }
            shard.mailbox.push(envelopes);
            shard.wake();
        }
        (sent, later)
    }

    /// Settles commands, sorted by place, those of one chain one after the other.
    async fn settle_all(&self, commands: Vec<Placed>, known: &Known, outcomes: &mut [Outcome]) {
        if commands.is_empty() {
            return;
        }
        let together = self.side.is_some()
            && (names_skus_and_may_touch_others(&commands, known) || self.is_any_known_otherwise(&commands).await);
        let mut chains = if together { vec![commands] } else { chains(commands, known) }.into_iter();
        let mut running: JoinSet<Vec<(usize, Outcome)>> = JoinSet::new();
        loop {
            while running.len() < MAX_BATCH_CHAINS
                && let Some(chain) = chains.next()
            {
                let hub = self.arc();
                running.spawn(async move {
                    let mut answers = Vec::with_capacity(chain.len());
                    for (index, command) in chain {
                        let careful = hub.side.is_some();
                        let outcome = if careful { hub.look_for(command, false).await } else { hub.submit(command).await };
                        answers.push((index, outcome));
                    }
                    answers
                });
            }
            match running.join_next().await {
                None => return,
                Some(Ok(answers)) => answers.into_iter().for_each(|(index, outcome)| outcomes[index] = outcome),
                // Its places keep `Overloaded`, which would be a lie only if a settle panicked in the middle.
                Some(Err(error)) => tracing::error!(%error, "a chain of a batch failed"),
            }
        }
    }
}

impl Hub {
    /// Whether an order that the batch reserves and then goes on with was there before with other SKUs: what follows is then about
    /// those, which the batch does not name.
    async fn is_any_known_otherwise(&self, commands: &[Placed]) -> bool {
        let mut reserved: HashMap<&OrderNo, HashSet<&SkuId>> = HashMap::new();
        let mut asked: HashSet<&OrderNo> = HashSet::new();
        for (_, command) in commands {
            match (&command.action, command.order_no()) {
                (Action::Reserve(c), _) => reserved.entry(&c.order_no).or_default().extend(skus_of(command)),
                (Action::GetOrder(_), _) | (_, None) => {}
                (_, Some(order_no)) => drop(asked.insert(order_no)),
            }
        }
        asked.retain(|order_no| reserved.contains_key(order_no));
        let mut waiting = asked.into_iter();
        let mut running: JoinSet<Outcome> = JoinSet::new();
        loop {
            while running.len() < MAX_BATCH_CHAINS
                && let Some(order_no) = waiting.next()
            {
                let (hub, command) = (self.arc(), Action::GetOrder(order_no.clone()).into());
                running.spawn(async move { hub.settle(hub.side(), command, false).await });
            }
            match running.join_next().await {
                None => return false,
                Some(Ok(Ok(Answer::Order { order, .. }))) => {
                    let named = &reserved[&order.order_no];
                    if order.lines.iter().any(|line| !named.contains(&line.sku_id)) {
                        return true;
                    }
                }
                Some(Ok(Err(Refusal::UnknownOrder { .. }))) => {}
                // Nobody can say: the slow way is always right.
                Some(_) => return true,
            }
        }
    }
}

/// While its SKU moves, an order is frozen: reads and repeats are answered, changes are not. Those answers are out of date when a
/// change that came before them in the batch is carried out after all, so the order is read again behind it.
fn read_again(careful: &mut Vec<Placed>, outcomes: &[Outcome]) {
    let mut first: HashMap<OrderNo, usize> = HashMap::new();
    for (index, command) in careful.iter() {
        if let Some(order_no) = command.order_no() {
            let first = first.entry(order_no.clone()).or_insert(*index);
            *first = (*first).min(*index);
        }
    }
    if first.is_empty() {
        return;
    }
    for (index, outcome) in outcomes.iter().enumerate() {
        if let Ok(Answer::Order { order, effect: Effect::Replayed }) = outcome
            && first.get(&order.order_no).is_some_and(|first| *first < index)
        {
            careful.push((index, Action::GetOrder(order.order_no.clone()).into()));
        }
    }
}

impl Subjects {
    fn touch(&self, command: &Command, known: &Known) -> bool {
        command.order_no().is_some_and(|order_no| self.orders.contains(order_no))
            || (!self.skus.is_empty() && known.skus_of(command).any(|sku_id| self.skus.contains(sku_id)))
    }

    fn add(&mut self, command: &Command, known: &Known) {
        self.orders.extend(command.order_no().cloned());
        self.skus.extend(known.skus_of(command).cloned());
    }
}

/// The SKUs that a command names.
pub(crate) fn skus_of(command: &Command) -> Vec<&SkuId> {
    match &command.action {
        Action::CreateStock(c) => vec![&c.sku_id],
        Action::ChangeStock(c) => vec![&c.sku_id],
        Action::SetStatus(c) => vec![&c.sku_id],
        Action::Reserve(c) => c.lines.as_slice().iter().map(|line| &line.sku_id).collect(),
        _ => Vec::new(),
    }
}

impl Known {
    /// An order that was made before.
    fn add(&mut self, read: Outcome) {
        if let Ok(Answer::Order { order, .. }) = read {
            let skus = order.lines.into_iter().map(|line| line.sku_id).collect();
            self.orders.insert(order.order_no, skus);
        }
    }

    /// An order that the batch makes.
    fn note(&mut self, command: &Command) {
        if let Action::Reserve(c) = &command.action
            && self.is_kept
        {
            self.orders.entry(c.order_no.clone()).or_insert_with(|| skus_of(command).into_iter().cloned().collect());
        }
    }

    /// The SKUs that a command names, and those of its order.
    fn skus_of<'a>(&'a self, command: &'a Command) -> impl Iterator<Item = &'a SkuId> {
        let of_order = command.order_no().filter(|_| self.is_kept).and_then(|order_no| self.orders.get(order_no));
        skus_of(command).into_iter().chain(of_order.into_iter().flatten())
    }
}

/// Puts commands that share an order or SKU, directly or through others, into one chain, in their order.
fn chains(commands: Vec<Placed>, known: &Known) -> Vec<Vec<Placed>> {
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

/// A command of an order that was made before the batch may be about any SKU: beside commands that name SKUs, it makes one chain of
/// all.
fn names_skus_and_may_touch_others(commands: &[Placed], known: &Known) -> bool {
    let mut made: HashSet<&OrderNo> = HashSet::new();
    let (mut names, mut touches) = (false, false);
    for (_, command) in commands {
        match (&command.action, command.order_no()) {
            (Action::Reserve(c), _) => {
                names = true;
                made.insert(&c.order_no);
            }
            (Action::GetOrder(_), _) => {}
            (_, Some(order_no)) => {
                touches |= !known.orders.contains_key(order_no) && !made.contains(order_no);
            }
            (_, None) => names = true,
        }
    }
    names && touches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Confirm, Line, Lines, Mode, Reserve};
    use crate::ids::WarehouseId;

    fn reserve(order: &str, skus: &[&str]) -> Command {
        let line = |name: &&str| {
            let sku_id = SkuId::new(name).unwrap();
            Line { sku_id, warehouse_id: WarehouseId(1), quantity: 1 }
        };
        Action::Reserve(Reserve {
            order_no: OrderNo::new(order).unwrap(),
            lines: Lines::new(skus.iter().map(line)).unwrap(),
            ttl_seconds: 1,
            buyer_id: None,
            mode: Mode::AllOrNothing, choice: None 
        })
        .into()
    }

    fn confirm(order: &str) -> Command {
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
        let chains = chains(commands.into_iter().enumerate().collect(), &Known::default());
        let places: Vec<Vec<usize>> = chains.iter().map(|c| c.iter().map(|(at, _)| *at).collect()).collect();
        assert_eq!(places, [vec![0, 2, 3, 4], vec![1, 5]]);
        // Orders that were made before may hold whatever the others name.
        let commands = vec![confirm("o1"), confirm("o2"), reserve("o3", &["a"])];
        let placed: Vec<Placed> = commands.into_iter().enumerate().collect();
        assert!(names_skus_and_may_touch_others(&placed, &Known::default()));
        assert!(!names_skus_and_may_touch_others(&placed[..2], &Known::default()));
    }
}
