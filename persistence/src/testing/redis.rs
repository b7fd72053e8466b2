//! A Redis of a test's own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, free_port, log_of};

/// Ports that are tried before the test gives up.
const PORT_TRIES: usize = 5;

/// A running Redis without persistence: killed or restarted, it is empty. Dropped, it goes.
#[derive(Debug)]
pub struct RedisServer {
    /// `None` after [`RedisServer::kill`].
    process: Option<Process>,
    port: u16,
    dir: TempDir,
}

impl RedisServer {
    /// Starts it.
    ///
    /// # Panics
    /// When Redis is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("hotstock-redis-").tempdir().unwrap();
        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Some(process) = launch(dir.path(), port) {
                return Self { process: Some(process), port, dir };
            }
        }
        panic!("Redis does not start: {}", log_of(&dir.path().join("log")));
    }

    /// Its URL; the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The port on 127.0.0.1; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// SIGSTOP: connections stay and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop_signal(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::STOP);
    }

    /// SIGCONT: goes on where it was stopped.
    ///
    /// # Panics
    /// When it does not run.
    pub fn continue_signal(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// Starts it again on the same port, empty, after killing it where it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let process = launch(self.dir.path(), self.port);
        assert!(process.is_some(), "Redis does not start again: {}", log_of(&self.dir.path().join("log")));
        self.process = process;
    }
}

/// Starts the server; `None` when it ended at once.
fn launch(dir: &Path, port: u16) -> Option<Process> {
    let log = dir.join("log");
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--port", &port.to_string()]).arg("--dir").arg(dir).arg("--logfile").arg(&log);
    Process::start(command, &log, || answers(port))
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_on_its_port() {
        let mut server = RedisServer::start();
        let url = server.url();
        server.stop_signal();
        server.continue_signal();
        assert!(answers(server.port()));
        server.kill();
        assert!(!answers(server.port()));
        server.restart();
        assert!(answers(server.port()));
        assert_eq!(server.url(), url);
    }
}
