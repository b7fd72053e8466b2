//! Checkpoints in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::base::ids::{Lsn, ShardId};
use crate::base::sync::unpoisoned;
use crate::contract::checkpoint::{
    CheckpointEnd, CheckpointError, CheckpointReader, CheckpointStore, CheckpointWriter, FilterManifest,
};
use crate::contract::image::Image;

/// Shared by its clones, so that an engine can be started again on it.
#[derive(Debug, Clone, Default)]
pub struct MemoryCheckpoints(Arc<Mutex<HashMap<ShardId, Complete>>>);

impl MemoryCheckpoints {
    /// A copy as it is now.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(unpoisoned(self.0.lock()).clone())))
    }
}

#[derive(Debug, Clone)]
struct Complete {
    begin: Lsn,
    end: CheckpointEnd,
    known: FilterManifest,
    /// In reverse, so that the reader pops the next one.
    slices: Vec<Vec<Image>>,
}

struct Writing {
    store: MemoryCheckpoints,
    shard: ShardId,
    begin: Lsn,
    slices: Vec<Vec<Image>>,
}

impl CheckpointStore for MemoryCheckpoints {
    fn create(&self, shard: ShardId, begin: Lsn) -> Result<Box<dyn CheckpointWriter>, CheckpointError> {
        Ok(Box::new(Writing { store: self.clone(), shard, begin, slices: Vec::new() }))
    }

    fn newest(&self, shard: ShardId) -> Result<Option<Box<dyn CheckpointReader>>, CheckpointError> {
        let complete = unpoisoned(self.0.lock()).get(&shard).cloned();
        Ok(complete.map(|complete| Box::new(complete) as Box<dyn CheckpointReader>))
    }
}

impl CheckpointWriter for Writing {
    fn write(&mut self, slice: &[Image]) -> Result<(), CheckpointError> {
        self.slices.push(slice.to_vec());
        Ok(())
    }

    fn finish(self: Box<Self>, end: CheckpointEnd, known: &FilterManifest) -> Result<(), CheckpointError> {
        let Self { store, shard, begin, mut slices } = *self;
        slices.reverse();
        let complete = Complete { begin, end, known: known.clone(), slices };
        unpoisoned(store.0.lock()).insert(shard, complete);
        Ok(())
    }
}

impl CheckpointReader for Complete {
    fn begin(&self) -> Lsn {
        self.begin
    }

    fn end(&self) -> CheckpointEnd {
        self.end
    }

    fn known(&self) -> &FilterManifest {
        &self.known
    }

    fn next_slice(&mut self) -> Result<Option<Vec<Image>>, CheckpointError> {
        Ok(self.slices.pop())
    }
}
