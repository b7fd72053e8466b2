//! Messages under way, and the tasks of the server that wait for their answers: a small executor without threads or time.
//!
//! The simulation decides which message arrives next, and what becomes of it; then it lets every task go on as far as it can.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hotstock_engine::command::Command;
use hotstock_engine::outcome::Outcome;

use crate::naive::order::Order;

/// What a shard says to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    Outcome(Outcome),
    /// The store has the order, and this shard decides for it.
    Elsewhere(usize),
    /// Not the time or not the place for it: to be looked at anew.
    NotHere,
}

/// The answer, with the order in the model as it then was.
pub type Reply = (Said, Option<Order>);

/// Where an answer is put for whoever waits for it.
pub type Slot = Rc<RefCell<Option<Reply>>>;

/// A command under way to a shard.
pub struct Message {
    pub to: usize,
    pub command: Command,
    pub slot: Slot,
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
