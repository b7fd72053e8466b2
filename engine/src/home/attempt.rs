//! An attempt to hold the lines of an order in their places: which branches to reserve, what their answers mean, which to release again.
//! No memory of its own and nothing logged: presumed abort.

use super::words::{BranchCommand, HeldLine};
use crate::command::{Lines, Reserve};
use crate::ids::{AttemptId, OrderNo};
use crate::outcome::{Outcome, Refusal};

/// What the answers to an attempt mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged {
    /// Every branch holds what it must: for the home to log.
    Held(Vec<HeldLine>),
    /// The order is refused; those branches that hold, or may hold, are to be released first.
    Refused {
        /// What the caller is told: as one place that had all the lines would say it.
        refusal: Refusal,
        /// To be given, as often as it takes; a tombstone where the branch is not known.
        releases: Vec<BranchCommand>,
    },
}

/// The branches that a reserve needs: one for each SKU, in the order of the request.
#[must_use]
pub fn branches_of(reserve: &Reserve, attempt: AttemptId) -> Vec<BranchCommand> {
    todo!("{reserve:?} {attempt:?}")
}

/// The branches that a late payment needs: all or nothing.
#[must_use]
pub fn branches_of_late(order_no: &OrderNo, lines: &Lines, attempt: AttemptId) -> Vec<BranchCommand> {
    todo!("{order_no:?} {lines:?} {attempt:?}")
}

/// What the answers to [`branches_of`] mean; `answers` in the same order, every one final or given up as unknown.
#[must_use]
pub fn judge_reserve(reserve: &Reserve, attempt: AttemptId, answers: &[Outcome]) -> Judged {
    todo!("{reserve:?} {attempt:?} {answers:?}")
}

/// What the answers to [`branches_of_late`] mean. Want of stock is
/// [`Refusal::LatePaymentNoStock`](crate::outcome::Refusal::LatePaymentNoStock).
#[must_use]
pub fn judge_late(order_no: &OrderNo, lines: &Lines, attempt: AttemptId, answers: &[Outcome]) -> Judged {
    todo!("{order_no:?} {lines:?} {attempt:?} {answers:?}")
}
