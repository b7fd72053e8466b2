//! The backlog: a shard that pauses at its bound is woken when the journal writer is done with some of it.

use hotstock_engine::sync::Backlog;
use loom::sync::{Arc, mpsc};
use loom::thread;

/// The shard hands over two pieces and goes on only when fewer than two bytes wait; the writer is done with them one
/// by one.
#[test]
fn a_paused_shard_goes_on() {
    loom::model(|| {
        let backlog = Arc::new(Backlog::default());
        let (hand_over, handed_over) = mpsc::channel();
        let (wake, woken) = mpsc::channel();
        let writer = {
            let backlog = Arc::clone(&backlog);
            thread::spawn(move || {
                for _ in 0..2 {
                    let bytes = handed_over.recv().unwrap();
                    if backlog.remove(bytes) {
                        wake.send(()).unwrap();
                    }
                }
                // Kept open until the end: a closed channel would wake the shard as well.
                wake
            })
        };
        for _ in 0..2 {
            backlog.add(1);
            hand_over.send(1).unwrap();
        }
        while !backlog.may_go_on(1) {
            woken.recv().unwrap();
        }
        assert_eq!(backlog.bytes(), 0);
        drop(writer.join().unwrap());
    });
}

/// The smallest case, where the writer is done at any moment around the pause.
#[test]
fn a_pause_and_its_end_meet() {
    loom::model(|| {
        let backlog = Arc::new(Backlog::default());
        let (wake, woken) = mpsc::channel();
        backlog.add(1);
        let writer = {
            let backlog = Arc::clone(&backlog);
            thread::spawn(move || {
                if backlog.remove(1) {
                    wake.send(()).unwrap();
                }
                wake
            })
        };
        while !backlog.may_go_on(1) {
            woken.recv().unwrap();
        }
        drop(writer.join().unwrap());
    });
}
