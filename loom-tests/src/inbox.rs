//! The inbox of the journal writer: it sleeps on an empty queue only, and nothing is put where nobody takes.

use hotstock_engine::sync::Inbox;
use loom::sync::Arc;
use loom::thread;

fn take_until_closed(inbox: &Inbox<u32>) -> Vec<u32> {
    let (mut taken, mut items) = (Vec::new(), Vec::new());
    while inbox.take(&mut items) {
        assert!(!items.is_empty(), "woken for nothing");
        taken.append(&mut items);
    }
    taken
}

/// Two shards put, the writer takes everything and then hears that it is over.
#[test]
fn everything_is_taken() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let writer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || take_until_closed(&inbox))
        };
        let shard = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.put(1).unwrap())
        };
        inbox.put(2).unwrap();
        shard.join().unwrap();
        inbox.close();
        let mut taken = writer.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

/// The writer sleeps between two items: each of them wakes it.
#[test]
fn each_item_wakes() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let shard = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                inbox.put(1).unwrap();
                inbox.put(2).unwrap();
            })
        };
        let (mut taken, mut items) = (Vec::new(), Vec::new());
        while taken.len() < 2 {
            assert!(inbox.take(&mut items), "nobody closed it");
            taken.append(&mut items);
        }
        assert_eq!(taken, [1, 2]);
        shard.join().unwrap();
    });
}

/// An item that meets the closing comes back or is taken, never lost.
#[test]
fn what_comes_too_late_comes_back() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::default());
        let writer = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || take_until_closed(&inbox))
        };
        let shard = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.put(1))
        };
        inbox.close();
        let put = shard.join().unwrap();
        let taken = writer.join().unwrap();
        assert_eq!(taken.len() == 1, put.is_ok(), "{taken:?} and {put:?}");
    });
}
