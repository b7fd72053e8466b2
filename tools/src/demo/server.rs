//! The demo's server: a real `hotstock serve` in a process of its own, so that it can be killed as hard as a power cut
//! kills.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Program;
use crate::failure::Failure;

/// A stopping server may take its grace and a sync; longer than that it hangs.
const MAX_STOP: Duration = Duration::from_secs(30);

/// How often a stopping server is looked at.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Lines of its log that are shown when it does not start.
const LOG_LINES: usize = 10;

/// A running server; killed when this is dropped.
pub struct ChildServer {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    // Kept open: a server whose stdout is closed would fail to print.
    _stdout: BufReader<ChildStdout>,
}

impl ChildServer {
    /// Starts a server on a data directory and waits until it listens; the wait ends when it does, or when the process
    /// does.
    pub fn start(
        program: Program<'_>,
        data_dir: &Path,
        log: &Path,
        listen: SocketAddr,
    ) -> Result<Self, Failure> {
        let tried = "starting the server";
        let failed = |error: std::io::Error| Failure::other(tried, error);
        let log_file = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut command = Command::new(program.file);
        command.arg("serve").arg("--listen").arg(listen.to_string()).arg("--data-dir").arg(data_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
        // The demo is the same for everybody, whatever is set in the environment.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOTSTOCK__") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        let address = line.trim().strip_prefix(program.listens).and_then(|address| address.parse().ok());
        match (read, address) {
            (Ok(_), Some(address)) => Ok(Self { child, address, log: log.to_owned(), _stdout: stdout }),
            (read, _) => {
                let _ = child.kill();
                let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                let read = read.err().map(|error| format!(" ({error})")).unwrap_or_default();
                Err(Failure::Other(format!("{tried}: it ended with {ended}{read}; its log:\n{}", tail(log))))
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no handler runs, no buffer is written.
    pub fn kill(mut self) -> Result<(), Failure> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| Failure::other("killing the server", error))
    }

    /// SIGTERM, and waits for the graceful end.
    pub fn stop(mut self) -> Result<(), Failure> {
        let tried = "stopping the server";
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .map_err(|error| Failure::other(tried, error))?;
        let began = Instant::now();
        loop {
            match self.child.try_wait().map_err(|error| Failure::other(tried, error))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(Failure::Other(format!(
                        "{tried}: it ended with {status}\n{}",
                        tail(&self.log)
                    )));
                }
                None if began.elapsed() > MAX_STOP => {
                    return Err(Failure::other(tried, format!("it still runs after {MAX_STOP:?}")));
                }
                None => std::thread::sleep(STOP_POLL),
            }
        }
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
