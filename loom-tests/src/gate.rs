//! The gate: never more inside than there are permits; closed and empty means that it stays so.

use hotstock_engine::sync::Gate;
use loom::sync::{Arc, mpsc};
use loom::thread;

use crate::Data;

/// With one permit the gate is a lock that nobody waits for: what those inside do is seen by who enters after them.
#[test]
fn one_at_a_time_and_each_sees_the_one_before() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(1), Data::default()));
        let visit = |(gate, visits): &(Gate, Data)| {
            let entered = gate.enter(1);
            if entered {
                visits.add_one();
                let _ = gate.leave(1);
            }
            u64::from(entered)
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || visit(&shared))
        };
        let entered = visit(&shared) + other.join().unwrap();
        assert!(entered >= 1, "an empty gate lets somebody in");
        assert_eq!(
            shared.1.get(),
            entered,
            "a visit was lost: two were inside, or one did not see the other"
        );
    });
}

/// All of a batch or none of it: two that ask for two of three places are never both inside.
#[test]
fn a_batch_enters_whole_or_not_at_all() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(3));
        let other = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || gate.enter(2))
        };
        let entered = [gate.enter(2), other.join().unwrap()];
        assert_eq!(entered.iter().filter(|entered| **entered).count(), 1);
        assert_eq!(gate.under_way(), 2);
        assert!(gate.enter(1) && !gate.enter(1), "one more place, and then it is full");
    });
}

/// Once the closed gate is empty, nobody is in, nobody will be, and what those who were in did is seen.
#[test]
fn closed_and_empty_is_the_end() {
    loom::model(|| {
        let shared = Arc::new((Gate::new(2), Data::default()));
        let visitor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (gate, visits) = &*shared;
                let entered = gate.enter(1);
                if entered {
                    visits.add_one();
                    let _ = gate.leave(1);
                }
                u64::from(entered)
            })
        };
        let (gate, visits) = &*shared;
        gate.close();
        let seen = (gate.under_way() == 0).then(|| visits.get());
        let entered = visitor.join().unwrap();
        if let Some(seen) = seen {
            assert_eq!(seen, entered, "somebody was inside after the end, or was not seen");
        }
        assert!(!gate.enter(1), "a closed gate lets nobody in");
    });
}

/// Who waits for the closed gate to become empty is told (`Notify` keeps one notice, as the channel does).
#[test]
fn the_last_to_leave_tells() {
    loom::model(|| {
        let gate = Arc::new(Gate::new(2));
        let (tell, told) = mpsc::channel();
        assert!(gate.enter(2));
        let leavers = [tell.clone(), tell].map(|tell| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if gate.leave(1) {
                    tell.send(()).unwrap();
                }
                // Kept open: a closed channel would wake the waiting one as well.
                tell
            })
        });
        gate.close();
        while gate.under_way() > 0 {
            told.recv().unwrap();
        }
        for leaver in leavers {
            drop(leaver.join().unwrap());
        }
    });
}
