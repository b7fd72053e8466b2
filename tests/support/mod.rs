//! What the black-box tests share: a real server process, and a plain HTTP client with one keep-alive connection.

#![allow(dead_code, reason = "each test target uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test: the one that was built with the test, or another one (a release build, say).
pub fn hotstock() -> String {
    std::env::var("HOTSTOCK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hotstock").to_owned())
}

/// A server answers within this or the test fails; far above anything that is not a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server process on a free port, killed when it is dropped.
pub struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// `127.0.0.1:port`
    pub address: String,
}

impl Server {
    /// Starts it on a data directory, with `--set KEY=VALUE` for each setting, and waits until it listens.
    pub fn start(data_dir: &Path, settings: &[&str]) -> Self {
        let mut command = Command::new(hotstock());
        command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Self::spawn(command)
    }

    /// Starts it by a command that runs it in the end, and waits until it listens.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("hotstock listens on http://").unwrap_or_default().to_owned();
        assert!(!address.is_empty(), "it printed {line:?} and ended with {:?}", child.try_wait());
        Self { child, stdout, address }
    }

    /// Sends a signal to the process that was started and waits for its end; its exit code, `None` when it was killed.
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Waits until the process has ended by itself, killed at a failpoint.
    pub fn until_killed(mut self) {
        until_killed(&mut self.child);
    }

    /// Starts it by a command and waits until it was killed at a failpoint, which may be before it listens.
    pub fn run_until_killed(mut command: Command) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        until_killed(&mut child);
    }

    /// Waits for the end of the process that was started, after the one that it runs was asked to end.
    pub fn end_after_child(mut self) -> Option<i32> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_killed(child: &mut Child) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it was not killed at its failpoint");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One keep-alive connection; connects when it is first used and again after it was lost.
#[derive(Default)]
pub struct Client {
    connection: Option<(String, BufReader<TcpStream>)>,
}

impl Client {
    /// One request. An error is an unknown outcome.
    pub fn call(
        &mut self,
        address: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, Value)> {
        // Taken out, so that after an error the connection is made anew.
        let connection = self.connection.take().filter(|(to, _)| to == address);
        let mut stream = match connection {
            Some((_, stream)) => stream,
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n");
        stream.get_mut().write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
        let answer = read_answer(&mut stream)?;
        self.connection = Some((address.to_owned(), stream));
        Ok(answer)
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> std::io::Result<(u16, Value)> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    let mut status = None;
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if status.is_none() {
            let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
            status = Some(code.ok_or_else(|| bad(text))?);
        } else if text.is_empty() {
            break;
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| bad(text))?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok((status.ok_or_else(|| bad("no status"))?, value))
}
