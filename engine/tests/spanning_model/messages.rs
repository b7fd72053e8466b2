//! Messages under way, and the tasks of the server that wait for their answers: a small executor without threads or time.
//!
//! The simulation decides which message arrives next, and what becomes of it; then it lets every task go on as far as it can.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hotstock_engine::command::Command;
use hotstock_engine::ids::{OrderNo, SkuId};
use hotstock_engine::outcome::Outcome;

use crate::naive::order::Order;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Shard(usize),
    Store,
}

/// What is asked of a place. All but commands read what they need of the store at the moment when they arrive, as the engine does
/// under its locks.
#[derive(Debug, Clone)]
pub enum Ask {
    /// One after the other; several at once of the store alone.
    Commands(Vec<Command>),
    /// A shard takes in a home as the store has it.
    AdoptHome(OrderNo),
    /// A shard takes in an order that it had let go of.
    BringBack(OrderNo),
    /// The store splits an ended order whose SKUs have come apart.
    Split(OrderNo),
    /// The store gives SKUs to a shard.
    Take(Vec<SkuId>, usize),
    /// The steps of an adoption.
    Begin(SkuId),
    Orders(SkuId),
    /// Branches are their home's concern from now on.
    LeaveToHome(OrderNo),
}

/// The answers, one for each command, each with the order in the model as it then was.
pub type Reply = Vec<(Outcome, Option<Order>)>;

/// Where an answer is put for whoever waits for it.
pub type Slot = Rc<RefCell<Option<Reply>>>;

/// A message under way.
pub struct Message {
    pub to: Target,
    pub ask: Ask,
    pub slot: Slot,
    /// Its sender is gone; it arrives before this step or never.
    pub orphan: Option<u64>,
}

/// A task of the server, or a client.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Lets a task go on; whether it has ended.
pub fn poll(task: &mut Task) -> bool {
    task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Waits until `ready` gives something. Asked again whenever anything has happened.
pub async fn until<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    std::future::poll_fn(move |_| ready().map_or(Poll::Pending, Poll::Ready)).await
}

/// Waits for all of them at the same time.
pub async fn all<T>(futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, done) in &mut running {
            if let Some(waiting) = future
                && let Poll::Ready(value) = waiting.as_mut().poll(context)
            {
                (*future, *done) = (None, Some(value));
            }
        }
        if running.iter().any(|(future, _)| future.is_some()) {
            return Poll::Pending;
        }
        Poll::Ready(running.drain(..).filter_map(|(_, done)| done).collect())
    })
    .await
}
