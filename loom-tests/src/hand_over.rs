//! The way of an answer: the shard hands it to the journal writer with its event; the writer syncs, publishes the
//! views, then the LSN, then answers. Nobody may know of an event before it is durable and shown.

use hotstock_engine::sync::{Durable, Inbox, StockCell};
use loom::sync::{Arc, mpsc};
use loom::thread;

use crate::Data;

#[derive(Default)]
struct Shared {
    inbox: Inbox<(u64, mpsc::Sender<u64>)>,
    /// Stands for the medium: the last event that is on it.
    synced: Data,
    view: StockCell,
    durable: Durable,
}

impl Shared {
    /// As the journal writer does it: all that is ready in one sync, views, LSN, answers.
    fn commit(&self, batch: &mut Vec<(u64, mpsc::Sender<u64>)>) {
        let Some((last, _)) = batch.last() else { return };
        self.synced.set(*last);
        for (lsn, _) in batch.iter() {
            self.view.store([*lsn; 5]);
            self.durable.publish(*lsn);
        }
        for (lsn, reply) in batch.drain(..) {
            reply.send(lsn).unwrap();
        }
    }

    fn check_all_know(&self, lsn: u64) {
        assert!(self.synced.get() >= lsn, "event {lsn} is known and not durable");
        assert!(self.view.load()[0] >= lsn, "event {lsn} is known and its caller does not read it");
    }
}

/// The caller of an answer, and a caller whose repeat the shard answers from what is durable already.
#[test]
fn nobody_knows_of_an_event_before_it_is_durable_and_shown() {
    let mut builder = loom::model::Builder::new();
    // The sequence lock of the view multiplies the cases; two switches of each thread reach every pair of steps.
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let shared = Arc::new(Shared::default());
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut batch = Vec::new();
                while shared.inbox.take(&mut batch) {
                    shared.commit(&mut batch);
                }
            })
        };
        let repeat = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.durable.get() >= 1 {
                    shared.check_all_know(1);
                }
            })
        };
        let (reply, answer) = mpsc::channel();
        assert!(shared.inbox.put((1, reply)).is_ok(), "nobody closed it");
        let lsn = answer.recv().unwrap();
        shared.check_all_know(lsn);
        repeat.join().unwrap();
        shared.inbox.close();
        writer.join().unwrap();
    });
}
