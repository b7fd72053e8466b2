//! The recorder: what was asked, when, and what came of it. It takes two short locks for each request and understands
//! nothing; that is done when the history is checked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// An answer as a client gets it: the HTTP status and the body. An error is an unknown outcome, unless the connection
/// was refused.
pub type Answer = std::io::Result<(u16, Value)>;

/// One request and what came of it. Times are nanoseconds since the recording began, on the monotonic clock.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which server was asked.
    pub address: String,
    /// As in HTTP.
    pub method: String,
    /// As in HTTP, with escapes.
    pub path: String,
    /// JSON.
    pub body: String,
    /// Before it was sent.
    pub sent: u64,
    /// After its end was known; `None`: it is under way.
    pub ended: Option<u64>,
    /// What was answered; `None`: nothing that says what happened.
    pub answer: Option<(u16, Value)>,
    /// It never reached the server.
    pub never_sent: bool,
}

/// What the callers of one server, or of one after the other, saw.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    requests: Mutex<Vec<Request>>,
    /// Servers that are no more, and since when that is known.
    dead: Mutex<Vec<(String, u64)>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { began: Instant::now(), requests: Mutex::default(), dead: Mutex::default() }
    }
}

impl Recorder {
    /// A recording made by hand.
    #[cfg(test)]
    pub fn of(requests: Vec<Request>, dead: Vec<(String, u64)>) -> Self {
        Self { requests: Mutex::new(requests), dead: Mutex::new(dead), ..Self::default() }
    }

    /// Nanoseconds since the recording began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Makes a request and takes down what comes of it. `address` is that of the server that `ask` asks.
    pub fn call(
        &self,
        address: &str,
        method: &str,
        path: &str,
        body: &str,
        ask: impl FnOnce() -> Answer,
    ) -> Answer {
        let index = self.begin(address, method, path, body);
        let answer = ask();
        let ended = self.now();
        let mut requests = unpoisoned(&self.requests);
        let request = &mut requests[index];
        request.ended = Some(ended);
        match &answer {
            Ok(answer) => request.answer = Some(answer.clone()),
            Err(error) => request.never_sent = error.kind() == std::io::ErrorKind::ConnectionRefused,
        }
        answer
    }

    fn begin(&self, address: &str, method: &str, path: &str, body: &str) -> usize {
        let [address, method, path, body] = [address, method, path, body].map(str::to_owned);
        // Before the request, and before the wait for the lock.
        let sent = self.now();
        let mut requests = unpoisoned(&self.requests);
        let (ended, answer, never_sent) = (None, None, false);
        requests.push(Request { address, method, path, body, sent, ended, answer, never_sent });
        requests.len() - 1
    }

    /// The server at this address has ended, and its end was waited for: what it did not answer by now it did before,
    /// or never will.
    pub fn ended(&self, address: &str) {
        let now = self.now();
        unpoisoned(&self.dead).push((address.to_owned(), now));
    }

    /// Everything so far.
    pub fn requests(&self) -> Vec<Request> {
        unpoisoned(&self.requests).clone()
    }

    /// When a server that was asked at this time was known to be no more.
    pub fn end_of(&self, address: &str, asked: u64) -> Option<u64> {
        let dead = unpoisoned(&self.dead);
        dead.iter().find(|(name, at)| name == address && *at >= asked).map(|(_, at)| *at)
    }
}

/// A worker that failed its test must not hide what it saw.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
