//! The journal's helper thread: makes the next segment ready, seals the last one, deletes trimmed ones; so that the
//! writer does none of it between two commits. It ends when the journal is dropped.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::seal::{self, Range};
use super::segment_dir;
use super::store::Store;
use crate::disk;
use crate::files::FileError;

/// Jobs that wait for the thread. A change of segment brings two, a trim one; when the thread is slower than that
/// the writer waits for it, and nothing piles up.
const MAX_WAITING_JOBS: usize = 8;

pub(super) enum Job {
    /// Make the segment of this number ready to be written.
    Prepare(u64),
    /// Nothing is written to the segment any more, and everything in it is durable.
    Seal(u64, Range),
    /// Delete directories that are out of the journal already.
    Delete(Vec<PathBuf>),
}

/// A segment without a record.
pub(super) struct Fresh {
    pub number: u64,
    pub store: Store,
}

pub(super) struct Background {
    /// `None` once the thread was told to end.
    jobs: Option<SyncSender<Job>>,
    ready: Receiver<Result<Fresh, FileError>>,
    thread: Option<JoinHandle<()>>,
    /// On a simulated disk jobs are done at once, by whoever hands them over.
    #[cfg(feature = "testing")]
    at_once: Option<AtOnce>,
}

#[cfg(feature = "testing")]
struct AtOnce {
    dir: PathBuf,
    zeros: u64,
    done: SyncSender<Result<Fresh, FileError>>,
}

impl Background {
    pub fn start(dir: PathBuf, zeros: u64) -> Result<Self, FileError> {
        let (jobs, waiting) = sync_channel(MAX_WAITING_JOBS);
        // One ahead: the writer asks for the next segment only after it took the one before.
        let (done, ready) = sync_channel(1);
        #[cfg(feature = "testing")]
        if disk::simulated::at(&dir).is_some() {
            let at_once = Some(AtOnce { dir, zeros, done });
            return Ok(Self { jobs: None, ready, thread: None, at_once });
        }
        let path = dir.clone();
        let thread = std::thread::Builder::new()
            .name("journal-helper".to_owned())
            .spawn(move || {
                for job in waiting {
                    run(&dir, zeros, job, &done);
                }
            })
            .map_err(|error| FileError::new(&path, error))?;
        Ok(Self {
            jobs: Some(jobs),
            ready,
            thread: Some(thread),
            #[cfg(feature = "testing")]
            at_once: None,
        })
    }

    /// Hands a job over; waits when [`MAX_WAITING_JOBS`] are waiting.
    pub fn submit(&self, job: Job) {
        #[cfg(feature = "testing")]
        if let Some(AtOnce { dir, zeros, done }) = &self.at_once {
            return run(dir, *zeros, job, done);
        }
        if let Some(jobs) = &self.jobs {
            // Only a thread that panicked takes no more jobs; the writer then finds no next segment and says so.
            let _ = jobs.send(job);
        }
    }

    /// The next segment if it is ready.
    pub fn ready(&self) -> Option<Result<Fresh, FileError>> {
        self.ready.try_recv().ok()
    }

    /// The next segment, as soon as it is ready; `None` when the thread has ended.
    pub fn wait(&self) -> Option<Result<Fresh, FileError>> {
        #[cfg(feature = "testing")]
        if self.at_once.is_some() {
            return self.ready();
        }
        self.ready.recv().ok()
    }

    /// Lets the thread finish its jobs and end. Answers the segment that was made ready in vain.
    pub fn stop(&mut self) -> Option<Fresh> {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's helper thread panicked");
        }
        self.ready()?.ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(dir: &Path, zeros: u64, job: Job, done: &SyncSender<Result<Fresh, FileError>>) {
    match job {
        Job::Prepare(number) => {
            let fresh = Store::create(&segment_dir(dir, number), zeros).map(|store| Fresh { number, store });
            // The writer is gone when nobody takes it; the next start throws the segment away.
            let _ = done.send(fresh);
        }
        Job::Seal(number, range) => {
            let segment = segment_dir(dir, number);
            // Without a seal the next start looks through the segment, which takes longer and is as safe. One that
            // was trimmed meanwhile needs none.
            if disk::exists(&segment)
                && let Err(error) = seal::write(&segment, &range)
            {
                tracing::warn!(%error, "a journal segment could not be sealed");
            }
        }
        Job::Delete(trash) => {
            for path in trash {
                if let Err(error) = disk::remove_dir_all(&path) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "a trimmed segment stays on disk until the next start");
                }
            }
        }
    }
}
