//! A MariaDB of a test's own.

use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, free_port, is_root, log_of};

/// Ports that are tried before the test gives up.
const PORT_TRIES: usize = 5;

/// A running MariaDB with a directory of its own. Dropped, both go.
///
/// Its methods block and may be called from tests of any kind. Every commit is synced, there is no binlog, the user
/// is `root` without a password.
#[derive(Debug)]
pub struct MariaDb {
    /// Before the directory, so that it ends first. `None` after [`MariaDb::kill`].
    process: Option<Process>,
    port: u16,
    dir: TempDir,
}

impl MariaDb {
    /// Makes the tables of the server (about a second) and starts it.
    ///
    /// # Panics
    /// When MariaDB is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("hotstock-mariadb-").tempdir().unwrap();
        let data = dir.path().join("data");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        install.args(["--innodb-log-file-size=8M", "--innodb-undo-tablespaces=0"]);
        install.arg(format!("--datadir={}", data.display()));
        if is_root() {
            install.arg("--user=root");
        }
        // Its temporary tables have names that another installation at the same time has too.
        install.env("TMPDIR", dir.path());
        run(install);
        for _ in 0..PORT_TRIES {
            let port = free_port();
            if let Some(process) = launch(dir.path(), port) {
                return Self { process: Some(process), port, dir };
            }
        }
        panic!("MariaDB does not start: {}", log_of(&dir.path().join("log")));
    }

    /// Makes a database, if it is not there, and gives its URL.
    ///
    /// # Panics
    /// When the server does not run, or the name is more than letters, digits and underscores.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        assert!(!database.is_empty() && database.bytes().all(plain), "{database:?} is not a plain name");
        self.sql(&format!("CREATE DATABASE IF NOT EXISTS {database}"));
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements and gives what they print: rows by line, columns by tab, without names.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn sql(&self, statements: &str) -> String {
        let output = self.client(statements.as_bytes());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `mariadb-dump` writes of a database by default.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn dump(&self, database: &str) -> Vec<u8> {
        let mut command = Command::new("mariadb-dump");
        command.args(["--no-defaults", "--user=root"]);
        command.arg(format!("--socket={}", self.dir.path().join("socket").display()));
        let output = command.arg(database).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Loads a dump into a database, table by table, beside all who use it.
    ///
    /// # Panics
    /// When it fails.
    pub fn load(&self, database: &str, dump: &[u8]) {
        let output = self.client(&[format!("USE {database};\n").as_bytes(), dump].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// SIGKILL, as a loss of power would be, and waits for the end.
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

    /// Starts it again on the same port and directory, after killing it where it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let process = launch(self.dir.path(), self.port);
        assert!(process.is_some(), "MariaDB does not start again: {}", log_of(&self.dir.path().join("log")));
        self.process = process;
    }

    /// A copy of all that it has on disk, as a backup that is taken while it is stopped. It runs again afterwards.
    ///
    /// # Panics
    /// When it does not start again.
    #[must_use]
    pub fn backup(&mut self) -> TempDir {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let copy = tempfile::Builder::new().prefix("hotstock-backup-").tempdir().unwrap();
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.dir.path().join("data")).arg(copy.path());
        run(command);
        self.restart();
        copy
    }

    /// Puts a backup in the place of what it has, and starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restore(&mut self, backup: &TempDir) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        let mut command = Command::new("cp");
        command.arg("-a").arg(backup.path().join("data")).arg(&data);
        run(command);
        self.restart();
    }

    /// Kills all connections of others, whatever they are doing; gives how many.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn cut_connections(&self) -> usize {
        let others =
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user = 'root'";
        let ids = self.sql(others);
        // One that is gone by now is an error of its statement, and as good.
        ids.lines()
            .filter(|id| self.client(format!("KILL CONNECTION {id}").as_bytes()).status.success())
            .count()
    }

    /// Runs statements in a transaction that stays open, with its locks, until what is given is dropped.
    ///
    /// # Panics
    /// When a statement fails.
    #[must_use]
    pub fn held(&self, statements: &str) -> HeldTransaction {
        let mut command = self.client_command();
        // An answer is printed when it is there, not at the end.
        command.arg("--unbuffered").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let script = format!("START TRANSACTION; {statements}; SELECT 'they are held';\n");
        client.stdin.as_mut().unwrap().write_all(script.as_bytes()).unwrap();
        let said = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
        let is_held = said.into_iter().any(|line| line == "they are held");
        let held = HeldTransaction(client);
        assert!(is_held, "{statements}: refused");
        held
    }

    fn client_command(&self) -> Command {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.arg(format!("--socket={}", self.dir.path().join("socket").display()));
        command
    }

    fn client(&self, statements: &[u8]) -> Output {
        let mut command = self.client_command();
        // Through a file: there may be more of them than an argument can hold.
        let mut script = tempfile::tempfile().unwrap();
        script.write_all(statements).unwrap();
        script.rewind().unwrap();
        command.stdin(script);
        command.output().unwrap()
    }
}

/// A transaction of a client of its own; rolled back when it is dropped.
#[derive(Debug)]
pub struct HeldTransaction(Child);

impl Drop for HeldTransaction {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the server; `None` when it ended at once.
fn launch(dir: &Path, port: u16) -> Option<Process> {
    let mut command = Command::new("mariadbd");
    command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"]);
    command.args([
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=8M",
        "--innodb-undo-tablespaces=0",
    ]);
    // The production setting: what is committed survives.
    command.args(["--innodb-flush-log-at-trx-commit=1", "--max-connections=200"]);
    command.arg(format!("--port={port}"));
    let path = |name: &str| dir.join(name).display().to_string();
    command.arg(format!("--datadir={}", path("data")));
    command.arg(format!("--socket={}", path("socket")));
    command.arg(format!("--pid-file={}", path("pid")));
    command.arg(format!("--log-error={}", path("log")));
    command.env("TMPDIR", dir);
    if is_root() {
        command.arg("--user=root");
    }
    // The greeting of the protocol comes when logins are taken.
    let ready = || {
        let mut first = [0; 1];
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .is_ok_and(|mut stream| std::io::Read::read_exact(&mut stream, &mut first).is_ok())
    };
    Process::start(command, &dir.join("log"), ready)
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_survives_a_kill() {
        let mut server = MariaDb::start();
        assert_eq!(server.url("shop"), format!("mysql://root@127.0.0.1:{}/shop", server.port()));
        server.sql("CREATE TABLE shop.t (a INT) ENGINE=InnoDB; INSERT INTO shop.t VALUES (1), (2)");
        server.kill();
        server.restart();
        assert_eq!(server.sql("SELECT a FROM shop.t ORDER BY a"), "1\n2\n");
        server.stop_signal();
        server.continue_signal();
        assert_eq!(server.sql("SELECT COUNT(*) FROM shop.t"), "2\n");
        assert_eq!(server.cut_connections(), 0);
    }
}
