//! Files of the filter of known numbers, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::sync::unpoisoned;
use crate::contract::checkpoint::FilterStore;

/// Shared by its clones, so that an engine can be started again on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryFilters(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct State {
    files: BTreeMap<u64, Vec<u8>>,
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
        self.state().files.clear();
    }

    /// All files, by number.
    #[must_use]
    pub fn files(&self) -> BTreeMap<u64, Vec<u8>> {
        self.state().files.clone()
    }

    /// These files instead of those that are there.
    pub fn put(&self, files: BTreeMap<u64, Vec<u8>>) {
        self.state().files = files;
    }

    /// Whether nothing can be saved or removed from now on.
    pub fn fail(&self, fails: bool) {
        self.state().fails = fails;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.0.lock())
    }

    fn working(&self) -> Result<MutexGuard<'_, State>, String> {
        let state = self.state();
        if state.fails { Err("a fault on demand".into()) } else { Ok(state) }
    }
}

impl FilterStore for MemoryFilters {
    fn save(&self, number: u64, bytes: &[u8]) -> Result<(), String> {
        self.working()?.files.insert(number, bytes.to_vec());
        Ok(())
    }

    fn load(&self, number: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(self.state().files.get(&number).cloned())
    }

    fn keep_only(&self, numbers: &[u64]) -> Result<(), String> {
        self.working()?.files.retain(|number, _| numbers.contains(number));
        Ok(())
    }
}
