//! The seam through which tests make the journal's medium fail. Without the feature `testing` nothing is there.

use std::path::Path;

use crate::files::FileError;

/// Where the medium can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write of a batch.
    Write,
    /// The sync after it; the batch has reached the file by then.
    Sync,
}

/// Faults to come. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "testing")]
    next: std::sync::Arc<std::sync::Mutex<Option<Fault>>>,
    #[cfg(feature = "testing")]
    syncs: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

#[cfg(feature = "testing")]
impl Faults {
    /// Makes the next write or sync fail, once.
    pub fn fail_next(&self, fault: Fault) {
        *self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(fault);
    }

    /// Syncs of segments that commits asked for so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) fn check(&self, here: Fault, path: &Path) -> Result<(), FileError> {
        if here == Fault::Sync {
            self.syncs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        let mut next = self.next.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match next.take_if(|fault| *fault == here) {
            Some(fault) => Err(FileError::new(path, format!("{fault:?} was made to fail by a test"))),
            None => Ok(()),
        }
    }
}

#[cfg(not(feature = "testing"))]
impl Faults {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same face as with `testing`")]
    pub(crate) fn check(&self, _here: Fault, _path: &Path) -> Result<(), FileError> {
        Ok(())
    }
}
