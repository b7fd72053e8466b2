//! A server of a bench's own and the one generator for all that is compared: callers that each send their next order
//! when they have the answer to their last, from this process, over connections of their own.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hotstock_tools::client::{Connection, Target};
use serde_json::Value;

/// `hotstock serve` on a free port, ended when it is dropped.
pub struct Server {
    child: Child,
    /// `127.0.0.1:port`
    pub address: String,
}

impl Server {
    /// Starts it on a data directory and waits until it listens.
    pub fn start(data_dir: &Path, settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotstock"));
        command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env("HOTSTOCK__LOG__LEVEL", "warn");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("hotstock listens on http://").expect("it listens").to_owned();
        Self { child, address }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        drop(self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One keep-alive connection to a server, for what must be answered.
pub struct Http(Connection);

impl Http {
    /// One that connects with its first request. `address` is `host:port`.
    pub fn new(address: &str) -> Self {
        Self(Connection::new(Target { authority: address.to_owned() }))
    }

    /// Sends a request; the status of its answer.
    pub async fn call(&mut self, method: &'static str, path: &str, body: &str) -> u16 {
        self.0.call(method, path, body.as_bytes()).await.expect("it answers")
    }

    /// As [`Http::call`], for what must be answered with 2xx; the body.
    pub async fn ask(&mut self, method: &'static str, path: &str, body: &Value) -> Value {
        let status = self.call(method, path, &body.to_string()).await;
        let value = self.0.json().unwrap_or(Value::Null);
        assert!((200..300).contains(&status), "{method} {path}: {status} {value}");
        value
    }
}

/// What a round of callers measured.
pub struct Round {
    /// Orders made.
    pub made: f64,
    /// Of these, a second.
    pub rate: f64,
    /// Half of the answers came within this.
    pub p50: Duration,
    /// 99 of 100 did.
    pub p99: Duration,
    /// Orders that were not made.
    pub refused: u64,
}

impl Round {
    /// From the waits of all callers and the time that they took together.
    pub fn of(mut waits: Vec<Duration>, refused: u64, took: Duration) -> Self {
        waits.sort_unstable();
        let at = |of_100: usize| waits.get(waits.len() * of_100 / 100).copied().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
        let made = waits.len() as f64;
        let rate = made / took.as_secs_f64();
        Self { made, rate, p50: at(50), p99: at(99), refused }
    }
}

/// Runs `callers` callers for `length`; each makes a state of its own with `connect` and sends orders with `order`,
/// which says whether the order was made.
pub async fn drive<C, T, F, G, O>(callers: usize, length: Duration, connect: F, order: G) -> Round
where
    F: Fn(usize) -> O,
    O: Future<Output = C>,
    C: Send + 'static,
    G: Fn(C, u64) -> T + Clone + Send + 'static,
    T: Future<Output = (C, bool)> + Send,
{
    let mut states = Vec::new();
    for caller in 0..callers {
        states.push(connect(caller).await);
    }
    let began = Instant::now();
    let tasks: Vec<_> = states
        .into_iter()
        .map(|mut state| {
            let order = order.clone();
            tokio::spawn(async move {
                let (mut waits, mut refused, mut number) = (Vec::new(), 0, 0);
                while began.elapsed() < length {
                    let sent = Instant::now();
                    let (back, made) = order(state, number).await;
                    state = back;
                    number += 1;
                    if made { waits.push(sent.elapsed()) } else { refused += 1 }
                }
                (waits, refused)
            })
        })
        .collect();
    let (mut waits, mut refused) = (Vec::new(), 0);
    for task in tasks {
        let (some, no) = task.await.expect("it ends");
        waits.extend(some);
        refused += no;
    }
    Round::of(waits, refused, began.elapsed())
}
