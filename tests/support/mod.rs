//! What the black-box tests share: a real server process, a plain HTTP client with one keep-alive connection, and what
//! is asked of a server again and again.

#![allow(dead_code, reason = "each test target uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hotstock_histories::Recorder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

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
    /// What it writes to stderr; shown when the test fails while it runs.
    log: tempfile::NamedTempFile,
    /// `127.0.0.1:port`
    pub address: String,
}

impl Server {
    /// Starts it on a data directory, with `--set KEY=VALUE` for each setting, and waits until it listens.
    pub fn start(data_dir: &Path, settings: &[&str]) -> Self {
        Self::spawn(serve(data_dir, settings))
    }

    /// Likewise, killed as hard as by a power cut the n-th time that it reaches a step (`STEP:N`, see
    /// `src/failpoint.rs`). `None` when it was killed before it listened: a start flushes and saves too.
    pub fn start_to_fail(data_dir: &Path, settings: &[&str], failpoint: &str) -> Option<Self> {
        let mut command = serve(data_dir, settings);
        command.env("HOTSTOCK_FAILPOINT", failpoint);
        match Self::try_spawn(command) {
            Ok(server) => Some(server),
            Err((None, _)) => None,
            Err((code, said)) => panic!("it ended with {code:?}: {said}"),
        }
    }

    /// Starts it by a command that runs it in the end, and waits until it listens.
    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|(code, said)| panic!("it ended with {code:?}: {said}"))
    }

    /// Likewise; when it ends before it listens, its exit code and what it said.
    pub fn try_spawn(mut command: Command) -> Result<Self, (Option<i32>, String)> {
        let log = tempfile::NamedTempFile::new().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.reopen().unwrap());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if let Some(address) = line.trim().strip_prefix("hotstock listens on http://") {
            let address = address.to_owned();
            return Ok(Self { child, stdout, log, address });
        }
        stdout.read_to_string(&mut line).unwrap();
        let code = child.wait().unwrap().code();
        Err((code, line + &std::fs::read_to_string(log.path()).unwrap_or_default()))
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
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
        if std::thread::panicking() {
            eprintln!("the server at {} wrote:\n{}", self.address, self.log());
        }
    }
}

/// The command that serves a data directory on a free port.
pub fn serve(data_dir: &Path, settings: &[&str]) -> Command {
    let mut command = Command::new(hotstock());
    command.arg("serve").args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
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
    /// The operators' token, where one is shown.
    token: Option<String>,
    connection: Option<(String, BufReader<TcpStream>)>,
}

impl Client {
    /// One that shows a token.
    pub fn with_token(token: &str) -> Self {
        Self { token: Some(token.to_owned()), connection: None }
    }

    /// One request. An error is an unknown outcome.
    pub fn call(
        &mut self,
        address: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, Value)> {
        let (status, body) = self.text(address, method, path, body)?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
    }

    /// Likewise, with the answer as it came.
    pub fn text(
        &mut self,
        address: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
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
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        if let Some(token) = &self.token {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        stream.get_mut().write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
        let answer = read_answer(&mut stream)?;
        self.connection = Some((address.to_owned(), stream));
        Ok(answer)
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> std::io::Result<(u16, String)> {
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
    let text = String::from_utf8(body).map_err(|_| bad("no UTF-8"))?;
    Ok((status.ok_or_else(|| bad("no status"))?, text))
}

/// One request that a history takes down, with what comes of it.
pub fn recorded(
    history: &Recorder,
    client: &mut Client,
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, Value)> {
    history.call(address, method, path, body, || client.call(address, method, path, body))
}

/// One request over a connection of its own.
pub fn get(address: &str, path: &str) -> (u16, Value) {
    Client::default().call(address, "GET", path, "").unwrap()
}

/// One request over a connection of its own.
pub fn post(address: &str, path: &str, body: &Value) -> (u16, Value) {
    Client::default().call(address, "POST", path, &body.to_string()).unwrap()
}

/// Creates a stock in the default warehouse.
pub fn create(address: &str, sku_id: &str, quantity: i64, hot: bool) {
    let body = json!({ "sku_id": sku_id, "quantity": quantity, "hot": hot });
    let (status, answer) = post(address, "/v1/stock", &body);
    assert_eq!(status, 201, "{answer}");
}

/// Available, reserved and sold units of a SKU over all its warehouses.
pub fn levels(address: &str, sku_id: &str) -> [i64; 3] {
    let (status, answer) = get(address, &format!("/v1/stock/{}", encoded(sku_id)));
    assert_eq!(status, 200, "{sku_id}: {answer}");
    ["available", "reserved", "sold"].map(|level| answer["total"][level].as_i64().unwrap())
}

/// A name as it stands in a path.
pub fn encoded(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    name.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The table of shards, and one number of it summed over them.
pub fn sum_of_shards(address: &str, name: &str) -> u64 {
    let (status, answer) = get(address, "/v1/admin/shards");
    assert_eq!(status, 200, "{answer}");
    let number = |shard: &Value| shard[name].as_u64().unwrap_or_else(|| panic!("no {name} in {shard}"));
    answer["shards"].as_array().unwrap().iter().map(number).sum()
}

/// Events that are durable and not in the store yet.
pub fn lag(address: &str) -> u64 {
    sum_of_shards(address, "lag_events")
}

/// One value of `/metrics`: the first line that begins with this name (and labels).
pub fn metric(address: &str, name: &str) -> Option<f64> {
    let (_, text) = Client::default().text(address, "GET", "/metrics", "").unwrap();
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until a server has noticed that it may not write any more. From then on it is not ready, and each order is
/// answered `fenced`. What it says of the reason.
pub fn until_fenced(address: &str) -> String {
    let mut why = String::new();
    // A heartbeat every second or so.
    until_within(Duration::from_secs(20), "it notices that it is fenced", || {
        let (status, answer) = get(address, "/readyz");
        why = answer["detail"].as_str().unwrap_or_default().to_owned();
        status == 503
    });
    let lines = json!([{ "sku_id": "any", "quantity": 1 }]);
    let asked = [
        ("/v1/reservations", json!({ "order_no": "asked-of-a-fenced-one", "lines": lines })),
        ("/v1/reservations/asked-of-a-fenced-one/confirm", json!({})),
        ("/v1/reservations/asked-of-a-fenced-one/release", json!({})),
        ("/v1/stock", json!({ "sku_id": "made-by-a-fenced-one", "quantity": 1 })),
    ];
    for (path, body) in asked {
        let (status, answer) = post(address, path, &body);
        assert_eq!((status, answer["code"].as_str()), (503, Some("fenced")), "{path}: {answer}");
        assert!(!answer["detail"].as_str().unwrap_or_default().is_empty(), "it says why: {answer}");
    }
    why
}

/// Starts a server that may not serve. It ends before it listens, or it listens and is fenced; either way it says why,
/// which is given.
pub fn refused(data_dir: &Path, settings: &[&str]) -> String {
    match Server::try_spawn(serve(data_dir, settings)) {
        Err((code, said)) => {
            assert!(!matches!(code, Some(0) | None), "it ended with {code:?}: {said}");
            said
        }
        Ok(server) => {
            let why = until_fenced(&server.address);
            assert_eq!(server.end(Signal::TERM), Some(0), "{why}");
            why
        }
    }
}

/// Nothing differs between shards, rows, journal and orders.
pub fn reconciled(address: &str) {
    let (status, answer) = post(address, "/v1/admin/reconcile", &json!({}));
    assert_eq!((status, answer["differences"].as_array().map(Vec::len)), (200, Some(0)), "{answer}");
}

/// `hotstock verify` on a directory that no server uses.
pub fn verify(data_dir: &Path) {
    let (code, text) = run(&["verify", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!(code, 0, "verify: {text}");
}

/// Runs the program to its end; its exit code and all that it printed.
pub fn run(args: &[&str]) -> (i32, String) {
    run_with(args, &[])
}

/// Likewise, with variables of the environment.
pub fn run_with(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(hotstock());
    command.args(args).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().unwrap_or(-1), text.concat())
}

/// Waits for a condition that the test brings about; far longer than it can take.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    until_within(Duration::from_secs(120), what, is_so);
}

/// Likewise, within a time that is part of what is promised.
pub fn until_within(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < time, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A copy of a directory with all that is in it, as `cp -a` makes it while nobody writes.
pub fn copy_dir(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lets the threads of a test end, also when it fails in between.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
