//! An event that does not fit.

use crate::base::ids::Lsn;

/// An event that does not fit the state: the journal or the program is wrong, and going on could sell a unit twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {lsn}: {problem}")]
pub struct Corruption {
    /// Which event.
    pub lsn: Lsn,
    /// What does not fit.
    pub problem: String,
}

impl Corruption {
    pub(super) fn new(lsn: Lsn, problem: impl Into<String>) -> Self {
        Self { lsn, problem: problem.into() }
    }
}
