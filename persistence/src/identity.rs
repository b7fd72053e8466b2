//! Who a server is: the id of its data directory, the last epoch that it took, its takes of the store, and where that
//! was. A directory that was copied brings all that along; only the place tells that it is a copy.
//!
//! ```text
//!   data-dir/epoch
//!     epoch = 12
//!     takes = 09af… 77c2…      ids of its takes of the store, oldest first; the last may have been meant only
//!     machine = 4b0f…          /etc/machine-id; `unknown` where there is none
//!     directory = 2049:131     device and inode of the directory …
//!     meta = 2049:140          … and of the file `meta` in it,
//!     created = 1700000000.5   when the system made that file; `unknown` where it does not say
//!     path = /var/lib/hotstock
//! ```
//!
//! It is the same place when machine, directory, `meta` and its time of birth are the same: that holds for a
//! directory that was renamed or reached by another path, and for none that `cp`, `tar`, `rsync` or a backup made.
//! The path is there for people. An inode that was freed may be given again, hence the time of birth; where there
//! is one, the device, whose number may change when a machine starts anew, is not compared. A clone of a whole disk
//! on the same machine, or a file system that was rolled back, can't be told apart here; the SQL store tells, as
//! soon as it is reached. A place that is taken for another one costs only this: the server does not start unless
//! an operator says that no other one has this directory (`serve --take-over`).

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use hotstock_engine::checkpoint::Identity;
use hotstock_engine::ids::{Epoch, ServerId, TakeId};
use hotstock_engine::limits::MAX_TAKES_KNOWN;

use crate::files::{At as _, FileError, read_if_there, sync_dir, write_whole};
use crate::text_file;

const MACHINE_ID: &str = "/etc/machine-id";
const UNKNOWN: &str = "unknown";
/// Instead of takes where there are none.
const NONE: &str = "none";
const NAMES: [&str; 7] = ["epoch", "takes", "machine", "directory", "meta", "created", "path"];

/// See the file's header.
pub struct DirIdentity {
    dir: PathBuf,
    server: ServerId,
    recorded: Mutex<Option<Recorded>>,
    /// The epoch is written as long as this lives, so no other process may open the directory.
    _lock: Arc<File>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Recorded {
    epoch: Epoch,
    takes: Vec<TakeId>,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    machine: String,
    directory: String,
    meta: String,
    created: String,
    path: String,
}

impl DirIdentity {
    /// Of the data directory `dir`, which has a `meta`.
    pub(crate) fn open(dir: &Path, server: ServerId, lock: Arc<File>) -> Result<Self, FileError> {
        let path = file(dir);
        let recorded = match read_if_there(&path)? {
            None => None,
            Some(content) => {
                // A process that ended before it was durable may have written it.
                sync_dir(dir)?;
                Some(parse(&content).ok_or_else(|| FileError::damage(&path, "it is not intact"))?)
            }
        };
        Ok(Self { dir: dir.to_owned(), server, recorded: Mutex::new(recorded), _lock: lock })
    }

    /// Changes what is recorded, and where: here.
    fn write(&self, change: impl FnOnce(&mut Epoch, &mut Vec<TakeId>)) -> Result<(), String> {
        let mut recorded = self.recorded();
        let (mut epoch, mut takes) =
            recorded.as_ref().map_or((Epoch::ZERO, Vec::new()), |was| (was.epoch, was.takes.clone()));
        change(&mut epoch, &mut takes);
        let place = Place::of(&self.dir).map_err(|error| error.to_string())?;
        let new = Recorded { epoch, takes, place };
        write_whole(&file(&self.dir), &print(&new)).map_err(|error| error.to_string())?;
        *recorded = Some(new);
        Ok(())
    }

    // A panic while the lock was held leaves nothing half changed.
    fn recorded(&self) -> MutexGuard<'_, Option<Recorded>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity for DirIdentity {
    fn server(&self) -> ServerId {
        self.server
    }

    fn epoch(&self) -> Epoch {
        self.recorded().as_ref().map_or(Epoch::ZERO, |recorded| recorded.epoch)
    }

    fn takes(&self) -> Vec<TakeId> {
        self.recorded().as_ref().map_or_else(Vec::new, |recorded| recorded.takes.clone())
    }

    fn intend(&self, after: Option<TakeId>) -> Result<TakeId, String> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| format!("no random id: {error}"))?;
        let id = TakeId(u128::from_be_bytes(id));
        self.write(|_, takes| {
            takes.retain(|take| Some(*take) != after);
            takes.extend(after.into_iter().chain([id]));
            takes.drain(..takes.len().saturating_sub(MAX_TAKES_KNOWN));
        })?;
        Ok(id)
    }

    fn record(&self, epoch: Epoch) -> Result<(), String> {
        self.write(|recorded, _| *recorded = epoch)
    }

    fn is_same_place(&self) -> Result<(), String> {
        let recorded = self.recorded().clone();
        let dir = self.dir.display();
        let Some(Recorded { place: was, .. }) = recorded else {
            return Err(format!("{dir}: no server has run in this data directory yet"));
        };
        let is = Place::of(&self.dir).map_err(|error| error.to_string())?;
        // A copy has another time of birth, whatever its inode. Where that is told, the numbers of devices, which may
        // change when a machine starts anew, need not be compared.
        let has_birth = was.created != UNKNOWN && is.created != UNKNOWN;
        let is_same =
            |was: &str, is: &str| was == is || (has_birth && inode(was).is_some() && inode(was) == inode(is));
        let differs: Vec<String> = [
            ("the machine", &was.machine, &is.machine),
            ("the directory (device:inode)", &was.directory, &is.directory),
            ("its file `meta` (device:inode)", &was.meta, &is.meta),
            ("the time at which that file was made", &was.created, &is.created),
        ]
        .into_iter()
        .filter(|(_, was, is)| !is_same(was, is))
        .map(|(what, was, is)| format!("{what} was {was} and is {is}"))
        .collect();
        if differs.is_empty() {
            return Ok(());
        }
        Err(format!("{dir}: this is a copy of {}, or was restored: {}", was.path, differs.join(", ")))
    }
}

impl Place {
    fn of(dir: &Path) -> Result<Self, FileError> {
        let meta = dir.join("meta");
        let (of_dir, of_meta) = (fs::metadata(dir).at(dir)?, fs::metadata(&meta).at(&meta)?);
        let inode = |of: &fs::Metadata| format!("{}:{}", of.dev(), of.ino());
        let created = of_meta.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        // A name that is no text, or holds a line break, is shown as well as it can be: it decides nothing.
        let path = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Ok(Self {
            machine: fs::read_to_string(MACHINE_ID).map_or_else(|_| UNKNOWN.to_owned(), |id| line(&id)),
            directory: inode(&of_dir),
            meta: inode(&of_meta),
            created: created.map_or_else(
                || UNKNOWN.to_owned(),
                |age| format!("{}.{:09}", age.as_secs(), age.subsec_nanos()),
            ),
            path: line(&path.to_string_lossy()),
        })
    }
}

/// The inode of `device:inode`.
fn inode(text: &str) -> Option<&str> {
    text.split_once(':').map(|(_, inode)| inode)
}

/// A text as one line.
fn line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn file(dir: &Path) -> PathBuf {
    dir.join("epoch")
}

fn print(Recorded { epoch, takes, place }: &Recorded) -> Vec<u8> {
    let Place { machine, directory, meta, created, path } = place;
    let epoch = epoch.to_string();
    let takes = match takes.iter().map(TakeId::to_string).collect::<Vec<_>>() {
        takes if takes.is_empty() => NONE.to_owned(),
        takes => takes.join(" "),
    };
    let values = [&epoch, &takes, machine, directory, meta, created, path].map(String::as_str);
    text_file::print(&NAMES.into_iter().zip(values).collect::<Vec<_>>())
}

fn parse(content: &[u8]) -> Option<Recorded> {
    let [epoch, takes, machine, directory, meta, created, path] = text_file::parse(content, NAMES)?;
    let [machine, directory, meta, created, path] =
        [machine, directory, meta, created, path].map(str::to_owned);
    let take = |id: &str| u128::from_str_radix(id, 16).ok().map(TakeId);
    let takes = takes.split(' ').filter(|id| *id != NONE).map(take).collect::<Option<_>>()?;
    Some(Recorded {
        epoch: Epoch(epoch.parse().ok()?),
        takes,
        place: Place { machine, directory, meta, created, path },
    })
}

impl fmt::Debug for DirIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.recorded().clone();
        f.debug_struct("DirIdentity")
            .field("server", &self.server)
            .field("recorded", &recorded)
            .finish_non_exhaustive()
    }
}
