//! The durable LSN: who sees it sees everything that it stands for.

use hotstock_engine::sync::Durable;
use loom::sync::Arc;
use loom::thread;

use crate::Data;

#[test]
fn the_lsn_brings_what_was_published_before_it() {
    loom::model(|| {
        let shared = Arc::new((Durable::default(), Data::default()));
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (durable, written) = &*shared;
                for lsn in 1..=2 {
                    written.set(lsn);
                    durable.publish(lsn);
                }
            })
        };
        let (durable, written) = &*shared;
        let first = durable.get();
        assert!(written.get() >= first, "an LSN is seen before what it stands for");
        assert!(durable.get() >= first, "the durable LSN steps back");
        writer.join().unwrap();
        assert_eq!(durable.get(), 2);
    });
}
