//! The mailbox: whatever is put down before asking for a wake-up is seen by a turn; no wake-up gets lost.

use hotstock_engine::sync::Mailbox;
use loom::sync::{Arc, mpsc};
use loom::thread;

use crate::Data;

/// Two callers and the shard. The wake-up messages of the actor are the channel.
#[test]
fn every_command_is_taken() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let (wake, woken) = mpsc::channel();
        let callers = [1, 2].map(|item| {
            let (mailbox, wake) = (Arc::clone(&mailbox), wake.clone());
            thread::spawn(move || {
                mailbox.push([item]);
                if mailbox.must_wake() {
                    wake.send(()).unwrap();
                }
            })
        });
        let (mut taken, mut mail) = (Vec::new(), Vec::new());
        while taken.len() < 2 {
            // `wake` is still here, so that a lost wake-up is a deadlock and not a closed channel.
            woken.recv().unwrap();
            mailbox.begin_turn();
            mailbox.take(&mut mail);
            taken.append(&mut mail);
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        for caller in callers {
            caller.join().unwrap();
        }
        drop(wake);
    });
}

/// The shard is woken for more than its mail (room in the backlog, a checkpoint that is asked for), so the wake-up
/// itself has to carry what was done before it; no lock helps here.
#[test]
fn a_wake_up_carries_what_was_done_before_it() {
    loom::model(|| {
        let shared = Arc::new((Mailbox::<()>::default(), [Data::default(), Data::default()]));
        let (wake, woken) = mpsc::channel();
        let askers = [0, 1].map(|who| {
            let (shared, wake) = (Arc::clone(&shared), wake.clone());
            thread::spawn(move || {
                let (mailbox, asked) = &*shared;
                asked[who].set(1);
                if mailbox.must_wake() {
                    wake.send(()).unwrap();
                }
            })
        });
        let (mailbox, asked) = &*shared;
        let mut seen = 0;
        while seen < 2 {
            woken.recv().unwrap();
            mailbox.begin_turn();
            seen = asked.iter().map(Data::get).sum();
        }
        for asker in askers {
            asker.join().unwrap();
        }
        drop(wake);
    });
}

/// The commands of one caller keep their order.
#[test]
fn order_is_kept() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let caller = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                mailbox.push([1, 2]);
                mailbox.push([3]);
            })
        };
        let (mut taken, mut mail) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            mailbox.take(&mut mail);
            taken.append(&mut mail);
        }
        caller.join().unwrap();
        mailbox.take(&mut mail);
        taken.append(&mut mail);
        assert_eq!(taken, [1, 2, 3]);
    });
}
