//! What can go wrong in a transaction, and what follows from it.

use hotstock_engine::store::StoreError;

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub(super) enum SqlError {
    /// Another one was in the way: a deadlock, a lock that took too long, a row that changed. To be rolled back and
    /// started again.
    Retry(String),
    /// A row with this key exists. To be started again too: whoever wrote it will be seen then.
    Duplicate(String),
    /// The statement is too large for the server, or a value in it does not fit its column. Nothing of the statement
    /// was done, and the transaction goes on.
    Refused(String),
    /// Likewise, but the connection went with it: to be started again with smaller statements.
    TooLarge(String),
    /// Nothing to be gained by trying again.
    Store(StoreError),
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl SqlError {
    /// What callers are told when the tries are used up.
    pub fn used_up(self) -> StoreError {
        match self {
            Self::Retry(problem) => StoreError::Busy(problem),
            Self::Refused(problem) | Self::TooLarge(problem) => StoreError::Inconsistent(problem),
            Self::Duplicate(problem) => StoreError::Inconsistent(format!("again and again: {problem}")),
            Self::Store(error) => error,
        }
    }
}

/// What a database said to one statement.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is gone. The server rolls back what it had not committed.
    Lost(String),
    /// No answer in time. The connection is of no use any more.
    TimedOut(String),
    /// Deadlock, lock wait timeout, busy.
    Conflict(String),
    /// A row with this key exists.
    Duplicate(String),
    /// The database has no room, is read only, or shuts down: it can't do it now.
    Unable(String),
    /// The statement is too large, or a value does not fit.
    Refused(String),
    /// It is too large, and the server hung up.
    TooLarge(String),
    /// The statement or the data is wrong.
    Wrong(String),
}

impl Fault {
    /// Whether the connection can be used no longer.
    pub fn breaks(&self) -> bool {
        // One that was able once and is not any more may be of a server that others took the place of.
        matches!(self, Self::Lost(_) | Self::TimedOut(_) | Self::Unable(_) | Self::TooLarge(_))
    }

    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Lost(text)
            | Self::TimedOut(text)
            | Self::Conflict(text)
            | Self::Duplicate(text)
            | Self::Unable(text)
            | Self::Refused(text)
            | Self::TooLarge(text)
            | Self::Wrong(text) => text,
        }
    }
}

impl From<Fault> for SqlError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Conflict(text) => Self::Retry(text),
            Fault::Duplicate(text) => Self::Duplicate(text),
            Fault::Refused(text) => Self::Refused(text),
            Fault::TooLarge(text) => Self::TooLarge(text),
            Fault::Lost(text) | Fault::TimedOut(text) | Fault::Unable(text) => {
                Self::Store(StoreError::Unavailable(text))
            }
            Fault::Wrong(text) => Self::Store(StoreError::Inconsistent(text)),
        }
    }
}

/// What is in a row does not fit its bounds.
pub(super) fn broken(what: impl std::fmt::Display) -> StoreError {
    StoreError::Inconsistent(what.to_string())
}

/// What does not fit in a row, in words.
pub(super) fn problem_of(error: StoreError) -> String {
    match error {
        StoreError::Inconsistent(problem) => problem,
        error => error.to_string(),
    }
}
