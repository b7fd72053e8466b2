//! An index of deadlines: whose time is over first. Entries are slots of a table; each entry keeps its index in the
//! list of its deadline, so that it can be taken out at once.

use std::collections::BTreeMap;

use crate::base::clock::Timestamp;

/// Deadlines are kept to this many milliseconds, rounded up: an order is never expired early, and at most this late
/// by the index.
const DEADLINE_STEP_MILLIS: u64 = 100;

/// The index of what has no deadline.
pub const NO_DEADLINE: u32 = u32::MAX;

/// The index of what was due and was given to somebody who sees to it.
pub const TAKEN: u32 = u32::MAX - 1;

/// Deadline (in steps) → slots of the entries that are due then; no list is empty.
#[derive(Debug, Clone, Default)]
pub struct Deadlines {
    lists: BTreeMap<u64, Vec<u32>>,
}

impl Deadlines {
    /// Adds an entry and gives its index in the list of its deadline.
    pub fn add(&mut self, at: Timestamp, slot: u32) -> u32 {
        let list = self.lists.entry(Self::step_of(at)).or_default();
        let index = u32::try_from(list.len()).ok().filter(|index| *index < TAKEN);
        list.push(slot);
        index.expect("no more deadlines than slots")
    }

    /// Takes an entry out, if it is in; gives the slot of the one that has its index now.
    pub fn remove(&mut self, at: Timestamp, index: u32) -> Option<u32> {
        if index >= TAKEN {
            return None;
        }
        let step = Self::step_of(at);
        let list = self.lists.get_mut(&step)?;
        list.swap_remove(index as usize);
        let moved = list.get(index as usize).copied();
        if list.is_empty() {
            self.lists.remove(&step);
        }
        moved
    }

    /// An entry that is due, the earliest first.
    pub fn first_due(&self, now: Timestamp) -> Option<u32> {
        let (step, slots) = self.lists.first_key_value()?;
        if step.saturating_mul(DEADLINE_STEP_MILLIS) > now.0 {
            return None;
        }
        slots.last().copied()
    }

    /// Checks that exactly `armed` entries are listed, and that each is `right` (its slot, its step, its index).
    pub fn check(&self, armed: usize, right: impl Fn(u32, u64, u32) -> bool) -> Result<(), String> {
        let listed: usize = self.lists.values().map(Vec::len).sum();
        if listed != armed {
            return Err(format!("{armed} entries have a deadline, {listed} are listed"));
        }
        for (step, list) in &self.lists {
            for (index, slot) in (0..).zip(list) {
                if !right(*slot, *step, index) {
                    return Err(format!("the deadline {step} lists slot {slot}, which is not due then"));
                }
            }
        }
        Ok(())
    }

    /// The step of a deadline.
    pub fn step_of(at: Timestamp) -> u64 {
        at.0.div_ceil(DEADLINE_STEP_MILLIS)
    }
}

/// What expires up to here is due at `now`: deadlines are kept in steps.
pub fn due_through(now: Timestamp) -> Timestamp {
    Timestamp(now.0 - now.0 % DEADLINE_STEP_MILLIS)
}
