//! Ten million events through the journal, trimmed as a running server trims it (a checkpoint every half million).
//! Every million it says what the journal takes on disk and in memory, and how long a start takes: one after a
//! crash, on a copy of the directory, and one after a clean end. `--events N` runs fewer, `--commit N` changes the
//! events per commit.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::journal::{Journal as _, JournalReader};
use hotstock_persistence::journal::{JournalOptions, SledJournal};

const SHARDS: u16 = 2;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut events, mut per_commit) = (10_000_000, 1_000);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--events" => events = number(),
            "--commit" => per_commit = number(),
            // Cargo says so.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    run(events, per_commit);
}

fn run(total: u64, per_commit: u64) {
    let home = common::on_disk();
    let dir = home.path().join("journal");
    let mut journal = open(&dir);
    let per_shard = (per_commit / u64::from(SHARDS)).max(1);
    let per_commit = per_shard * u64::from(SHARDS);
    let report_every = (total / 10).max(per_commit);
    let trim_every = (total / 20).clamp(per_commit, 500_000);
    let (mut done, mut next, mut latest) = (0, 1, Vec::new());
    println!(
        "events      events/s  p50 ms  p99 ms  max ms   disk MB  RSS MB  crash start ms  clean start ms"
    );
    while done < total {
        let groups: Vec<_> = (0..SHARDS).map(|shard| common::group(shard, next, per_shard)).collect();
        let start = Instant::now();
        journal.commit(&groups).expect("it commits");
        latest.push(start.elapsed());
        next += per_shard;
        done += per_commit;
        if done / trim_every != (done - per_commit) / trim_every {
            // The checkpoint before the last is what a server keeps.
            let mark = Lsn(next.saturating_sub(trim_every / u64::from(SHARDS)));
            let marks: Vec<_> = (0..SHARDS).map(|shard| (ShardId(shard), mark)).collect();
            journal.trim(&marks).expect("it trims");
        }
        if done / report_every != (done - per_commit) / report_every {
            let (disk, rss) = (journal.reader().disk_bytes() >> 20, resident_megabytes());
            let crash = start_after_crash(&dir, home.path(), &*journal.reader());
            drop(journal);
            let clean = Instant::now();
            journal = open(&dir);
            let clean = clean.elapsed();
            report(done, per_commit, &mut latest, disk, rss, crash, clean);
        }
    }
}

fn open(dir: &Path) -> SledJournal {
    SledJournal::open(dir, SHARDS, JournalOptions::default()).expect("it opens")
}

/// Copies the directory as it is, opens the copy, and checks that it ends where the original does.
fn start_after_crash(dir: &Path, home: &Path, original: &dyn JournalReader) -> Duration {
    let copy = home.join("copy");
    copy_dir(dir, &copy);
    let start = Instant::now();
    let journal = open(&copy);
    let spent = start.elapsed();
    for shard in (0..SHARDS).map(ShardId) {
        assert_eq!(journal.reader().bounds(shard), original.bounds(shard));
    }
    drop(journal);
    fs::remove_dir_all(&copy).expect("the copy can be removed");
    spent
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.map_while(Result::ok) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            // A trimmed segment may vanish meanwhile.
            let _ = fs::copy(entry.path(), target);
        }
    }
}

fn report(
    done: u64,
    per_commit: u64,
    commits: &mut Vec<Duration>,
    disk: u64,
    rss: u64,
    crash: Duration,
    clean: Duration,
) {
    commits.sort();
    let millis = |spent: Duration| spent.as_secs_f64() * 1e3;
    let at = |part: usize| millis(commits[(commits.len() - 1) * part / 100]);
    let rate = (commits.len() as u64 * per_commit) as f64 / commits.iter().sum::<Duration>().as_secs_f64();
    println!(
        "{done:10}  {rate:8.0}  {:6.2}  {:6.2}  {:6.2}  {disk:8}  {rss:6}  {:14.0}  {:14.0}",
        at(50),
        at(99),
        at(100),
        millis(crash),
        millis(clean),
    );
    commits.clear();
}

/// Memory of this process, from the kernel; 0 where there is no `/proc`.
fn resident_megabytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) >> 10
}
