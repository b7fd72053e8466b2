//! Generations of the filter of known numbers, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::checkpoint::FilterStore;
use crate::sync::unpoisoned;

/// Shared by its clones, so that an engine can be started again on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryFilters(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct State {
    kept: BTreeMap<u32, Vec<u8>>,
    damaged: bool,
    fails: bool,
}

impl MemoryFilters {
    /// A copy as it is now.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Nothing is kept any more.
    pub fn lose(&self) {
        self.state().kept.clear();
    }

    /// A generation can't be read from now on, until everything is lost and saved anew.
    pub fn damage(&self, damaged: bool) {
        self.state().damaged = damaged;
    }

    /// Whether nothing can be saved from now on.
    pub fn fail(&self, fails: bool) {
        self.state().fails = fails;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.lock())
    }
}

impl FilterStore for MemoryFilters {
    fn save(&self, generation: u32, bytes: &[u8]) -> Result<(), String> {
        let mut state = self.state();
        if state.fails {
            return Err("a fault on demand".into());
        }
        state.kept.insert(generation, bytes.to_vec());
        Ok(())
    }

    fn load(&self) -> Result<Vec<(u32, Vec<u8>)>, String> {
        let state = self.state();
        if state.damaged {
            return Err("a fault on demand".into());
        }
        Ok(state.kept.iter().map(|(generation, bytes)| (*generation, bytes.clone())).collect())
    }

    fn remove(&self, generation: u32) -> Result<(), String> {
        self.state().kept.remove(&generation);
        Ok(())
    }
}
