//! Who waits for an answer of the coordinator: it comes in a later turn than the command. With the answer come back the
//! place in the gate and the claim in the directory; also when the shard fails and drops it, which tells the caller
//! that the outcome is unknown.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::shared::{Permits, ShardAnswer};
use crate::base::ids::OrderNo;
use crate::base::sync::unpoisoned;
use crate::contract::outcome::Outcome;
use crate::services::directory::Directory;

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Caller {
    to: To,
    permits: Option<Permits>,
    claim: Option<Claim>,
}

#[derive(Debug)]
enum To {
    One(oneshot::Sender<ShardAnswer>),
    /// One of several commands that came together.
    Slot(Arc<Slots>, usize),
}

/// A claim in the directory that is given back on drop.
#[derive(Debug)]
pub(crate) struct Claim {
    directory: Arc<Directory>,
    order_no: OrderNo,
}

impl Claim {
    /// One that was taken.
    pub fn new(directory: Arc<Directory>, order_no: OrderNo) -> Self {
        Self { directory, order_no }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.directory.give_back(&self.order_no);
    }
}

impl Caller {
    /// Who sent one command.
    pub fn one(to: oneshot::Sender<ShardAnswer>, permits: Permits, claim: Option<Claim>) -> Self {
        Self { to: To::One(to), permits: Some(permits), claim }
    }

    /// Who sent several, of which this is one.
    pub fn slot(slots: Arc<Slots>, index: usize, claim: Option<Claim>) -> Self {
        Self { to: To::Slot(slots, index), permits: None, claim }
    }

    /// Answers. The places first: a caller who has its answer finds the place in the gate that it had.
    pub fn answer(self, outcome: Outcome) {
        self.send(ShardAnswer::Outcome(outcome));
    }

    /// As [`Caller::answer`], with whatever a shard says.
    pub fn send(self, answer: ShardAnswer) {
        let Self { to, permits, claim } = self;
        drop(permits);
        drop(claim);
        match to {
            To::One(to) => drop(to.send(answer)),
            To::Slot(slots, index) => slots.fill(vec![(index, answer)]),
        }
    }
}

/// Answers to commands that came together, until all are there.
#[derive(Debug)]
pub(crate) struct Slots {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    answers: Vec<Option<ShardAnswer>>,
    left: usize,
    /// `None`: the others are still being decided.
    to: Option<(oneshot::Sender<Vec<ShardAnswer>>, Permits)>,
}

impl Slots {
    /// For so many commands.
    pub fn new(count: usize) -> Arc<Self> {
        let mut answers = Vec::new();
        answers.resize_with(count, || None);
        Arc::new(Self { open: Mutex::new(Some(Open { answers, left: count, to: None })) })
    }

    /// Where the answers go, and the places that the commands have in the gate.
    pub fn set_caller(&self, to: oneshot::Sender<Vec<ShardAnswer>>, permits: Permits) {
        if let Some(open) = unpoisoned(self.open.lock()).as_mut() {
            open.to = Some((to, permits));
        }
        self.send_if_full();
    }

    /// Some of the answers.
    pub fn fill(&self, answers: Vec<(usize, ShardAnswer)>) {
        if let Some(open) = unpoisoned(self.open.lock()).as_mut() {
            for (index, answer) in answers {
                if open.answers[index].replace(answer).is_none() {
                    open.left -= 1;
                }
            }
        }
        self.send_if_full();
    }

    fn send_if_full(&self) {
        let full = unpoisoned(self.open.lock()).take_if(|open| open.left == 0 && open.to.is_some());
        if let Some(Open { answers, to: Some((to, permits)), .. }) = full {
            drop(permits);
            drop(to.send(answers.into_iter().flatten().collect()));
        }
    }
}
