//! Of a plan that fails, the operations without which it does not fail.

use crate::plan::{Op, Plan};
use crate::run::{Failure, run};

/// Runs at the most.
const MAX_RUNS: usize = 400;

/// A plan that fails, as short as it could be made: which operations of the first plan are left, and how it fails.
#[derive(Debug)]
pub struct Shrunk {
    /// Their numbers.
    pub kept: Vec<usize>,
    /// The plan of these alone.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
}

/// Cuts a plan that fails with `failure`.
#[must_use]
pub fn shrink(plan: &Plan, failure: Failure) -> Shrunk {
    // Nothing that comes after matters.
    let mut best =
        Shrunk { kept: (0..failure.at.max(1).min(plan.ops.len())).collect(), plan: plan.clone(), failure };
    let mut runs = 0;
    let mut piece = best.kept.len().div_ceil(2);
    loop {
        let mut from = 0;
        while from < best.kept.len() && runs < MAX_RUNS {
            let mut kept = best.kept.clone();
            kept.drain(from..(from + piece).min(kept.len()));
            runs += 1;
            match attempt(plan, &kept, kind(&best.failure)) {
                Some((cut, failure)) => best = Shrunk { kept, plan: cut, failure },
                None => from += piece,
            }
        }
        if piece == 1 || runs >= MAX_RUNS {
            return best;
        }
        piece = piece.div_ceil(2);
    }
}

fn attempt(plan: &Plan, kept: &[usize], as_before: String) -> Option<(Plan, Failure)> {
    let cut = plan.only(kept);
    let failure = run(&cut, false).err()?;
    (kind(&failure) == as_before).then_some((cut, failure))
}

/// How it fails, in a word: a shorter plan that fails otherwise shows something else.
fn kind(failure: &Failure) -> String {
    failure.violation.chars().take_while(|c| !c.is_ascii_digit()).take(24).collect()
}

impl Plan {
    /// With these operations alone, by their numbers.
    #[must_use]
    pub fn only(&self, kept: &[usize]) -> Self {
        let ops: Vec<Op> = kept.iter().filter_map(|index| self.ops.get(*index)).cloned().collect();
        Self { ops, ..self.clone() }
    }
}
