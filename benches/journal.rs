//! Group commits of the journal on sled with the real sync, on the disk that the builds are on.

mod common;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::Journal as _;
use hotstock_persistence::journal::{JournalOptions, SledJournal};

fn commit(c: &mut Criterion) {
    let mut criterion_group = c.benchmark_group("commit");
    criterion_group.sample_size(20).warm_up_time(Duration::from_secs(1));
    for events in [1, 32, 256, 1_024, 4_096] {
        let dir = common::on_disk();
        let mut journal =
            SledJournal::open(&dir.path().join("journal"), 1, JournalOptions::default()).expect("it opens");
        let mut next = 1;
        criterion_group.throughput(Throughput::Elements(events));
        criterion_group.bench_function(format!("events: {events}"), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let groups = [common::group(0, next, events)];
                    let start = Instant::now();
                    journal.commit(&groups).expect("it commits");
                    spent += start.elapsed();
                    next += events;
                    if next / (1 << 20) != (next - events) / (1 << 20) {
                        journal.trim(&[(ShardId(0), Lsn(next))]).expect("it trims");
                    }
                }
                spent
            });
        });
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);
