//! Who a server is, in memory.

use std::sync::{Arc, Mutex};

use crate::base::ids::{Epoch, ServerId, TakeId};
use crate::base::sync::unpoisoned;
use crate::contract::checkpoint::Identity;

/// Shared by its clones, so that an engine can be started again on it; [`MemoryIdentity::copy`] is a copy of the
/// directory elsewhere.
#[derive(Debug, Clone)]
pub struct MemoryIdentity {
    server: ServerId,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    epoch: Epoch,
    takes: Vec<TakeId>,
    same_place: bool,
    fails: bool,
}

impl Default for MemoryIdentity {
    fn default() -> Self {
        Self::new(1)
    }
}

impl MemoryIdentity {
    /// A new directory with this id.
    #[must_use]
    pub fn new(server: u128) -> Self {
        let state = State { epoch: Epoch::ZERO, takes: Vec::new(), same_place: true, fails: false };
        Self { server: ServerId(server), state: Arc::new(Mutex::new(state)) }
    }

    /// A copy of the directory as it is now, in another place.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = State { same_place: false, ..unpoisoned(self.state.lock()).clone() };
        Self { server: self.server, state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the epoch, as a restore of the directory in its place would, or a record whose answer was lost.
    pub fn set_epoch(&self, epoch: Epoch) {
        unpoisoned(self.state.lock()).epoch = epoch;
    }

    /// Whether epochs can't be written from now on.
    pub fn fail(&self, fails: bool) {
        unpoisoned(self.state.lock()).fails = fails;
    }
}

impl Identity for MemoryIdentity {
    fn server(&self) -> ServerId {
        self.server
    }

    fn epoch(&self) -> Epoch {
        unpoisoned(self.state.lock()).epoch
    }

    fn takes(&self) -> Vec<TakeId> {
        unpoisoned(self.state.lock()).takes.clone()
    }

    fn intend(&self, after: Option<TakeId>) -> Result<TakeId, String> {
        let mut state = unpoisoned(self.state.lock());
        let id = TakeId(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
        state.takes.retain(|take| Some(*take) != after);
        state.takes.extend(after.into_iter().chain([id]));
        state.same_place = true;
        Ok(id)
    }

    fn record(&self, epoch: Epoch) -> Result<(), String> {
        let mut state = unpoisoned(self.state.lock());
        if state.fails {
            return Err("a fault on demand".into());
        }
        (state.epoch, state.same_place) = (epoch, true);
        Ok(())
    }

    fn is_same_place(&self) -> Result<(), String> {
        let same_place = unpoisoned(self.state.lock()).same_place;
        if same_place { Ok(()) } else { Err("it is in another place than before".into()) }
    }
}
