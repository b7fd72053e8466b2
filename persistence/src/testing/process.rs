//! A server process that a test started: signals, and its end with the test.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};

/// A server is ready within this or the test fails; far above anything that is not a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a server that starts is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A running child, killed when it is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it and waits until `ready` says so. `None` when it ended before: its port was taken meanwhile.
    ///
    /// # Panics
    /// When it can't be started or is not ready in time; the end of its log is printed.
    pub fn start(mut command: Command, log: &Path, ready: impl Fn() -> bool) -> Option<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let begun = Instant::now();
        while !ready() {
            if process.0.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "{command:?} is not ready: {}", log_of(log));
            // Not a wait for something that this program does: another process has no other way to tell.
            std::thread::sleep(ASK_EVERY);
        }
        Some(process)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Ends it at once, as a loss of power would, and waits for the end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // SIGKILL ends a stopped process too. An error: it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether the tests run as root, which some servers refuse unless told.
pub fn is_root() -> bool {
    getuid().is_root()
}

/// The last lines of a log.
pub fn log_of(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
