//! How a command fails, and the exit code that says so to scripts.

use std::process::ExitCode;

use crate::config::ConfigError;

/// Why a command did not succeed. The numbers are a promise to scripts; `hotstock --help` lists them.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 1: anything that has no code of its own.
    #[error("{0}")]
    Other(String),
    /// Exit code 2: the command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3: another process has the data directory open, or another server uses the SQL store.
    #[error("{0}")]
    InUse(String),
    /// Exit code 4: the books don't balance.
    #[error("{0}")]
    Audit(String),
    /// Exit code 5: the journal or a checkpoint can't be read.
    #[error("{0}")]
    Damaged(String),
    /// Exit code 6: a part could not be done, which was told line by line.
    #[error("{0}")]
    Incomplete(String),
    /// Exit code 7: the SQL store has what the data directory does not have, or another server took it over. Starting
    /// again changes nothing.
    #[error("{0}")]
    Fenced(String),
}

impl Failure {
    /// A failure without a code of its own: what was tried, and what came of it.
    pub fn other(tried: &str, problem: impl std::fmt::Display) -> Self {
        Self::Other(format!("{tried}: {problem}"))
    }

    /// The code that the process ends with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Other(_) => 1,
            Self::Usage(_) => 2,
            Self::InUse(_) => 3,
            Self::Audit(_) => 4,
            Self::Damaged(_) => 5,
            Self::Incomplete(_) => 6,
            Self::Fenced(_) => 7,
        })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<hotstock_tools::Failure> for Failure {
    fn from(failure: hotstock_tools::Failure) -> Self {
        match failure {
            hotstock_tools::Failure::Other(problem) => Self::Other(problem),
            hotstock_tools::Failure::Audit(problem) => Self::Audit(problem),
        }
    }
}
