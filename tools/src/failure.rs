//! How a tool fails.

use std::fmt::Display;

use crate::client::CallError;

/// Why a tool did not succeed, in words. The program gives each kind its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something could not be done.
    #[error("{0}")]
    Other(String),
    /// What a server has is not what its answers made it.
    #[error("{0}")]
    Audit(String),
}

impl Failure {
    /// What was tried, and what came of it.
    pub fn other(tried: &str, problem: impl Display) -> Self {
        Self::Other(format!("{tried}: {problem}"))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Other(error.to_string())
    }
}
