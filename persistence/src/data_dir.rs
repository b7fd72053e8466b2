//! The directory of one server: its lock, its identity, and the way to what lies in it.
//!
//! ```text
//!   data-dir/
//!     lock           held while a process has the directory open
//!     meta           format, number of shards, the server's id: written once
//!     store          the id of the SQL store that its SKUs come from: written when that was first reached
//!     store.db       the SQL store itself, when that is SQLite
//!     journal/       see `journal`
//!     checkpoints/   see `checkpoint`
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotstock_engine::ids::ServerId;
use hotstock_engine::journal::JournalError;
use hotstock_engine::limits::MAX_SHARDS;

use crate::checkpoint::FileCheckpoints;
use crate::files::{At as _, FileError, parent, read_if_there, sync_dir, write_whole};
use crate::journal::{JournalOptions, SledJournal};
use crate::sql::IdentityCheck;

/// The format of the directory that this program writes; it reads all up to it. An older program must not look into a newer
/// journal, whose records it would take for a torn tail.
///
/// - 2: the journal and the checkpoints may hold entries of format version 2.
/// - 3: likewise of format version 3.
const FORMAT: u32 = 3;

const TITLE: &str = "hotstock data directory. Do not edit: the shards of every SKU depend on it.";

/// An open data directory. No other process opens it while this, or a journal of it, lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    meta: Meta,
    lock: Arc<File>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    format: u32,
    shards: u16,
    server_id: ServerId,
}

/// Why a data directory can't be opened. Paths begin as the caller gave them.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is not there, and the number of shards to create it with was not given.
    #[error("{path}: there is no data directory; `serve` creates one")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{path}: another process is using this data directory; stop it first, or give another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It was created with another number of shards.
    #[error(
        "{path}: this data directory has {has} shards, not {asked}. The number is fixed when the directory is created, \
         since every SKU's place depends on it: start with {has} shards, or with a new directory"
    )]
    OtherShards {
        /// The directory.
        path: PathBuf,
        /// With how many it was created.
        has: u16,
        /// How many were asked for.
        asked: u16,
    },
    /// A number of shards that no directory can have.
    #[error("a data directory has 1 to {MAX_SHARDS} shards, not {asked}")]
    BadShards {
        /// How many were asked for.
        asked: u16,
    },
    /// Its SKUs and orders belong to another SQL store.
    #[error(
        "{path}: this data directory belongs to the SQL store {has}, not to {asked}. Its hot SKUs would be decided twice: \
         give the address of its own store, or another directory"
    )]
    OtherStore {
        /// The directory.
        path: PathBuf,
        /// The id of the store that it was first used with.
        has: String,
        /// The id of the store at the address.
        asked: String,
    },
    /// It was written by a later version of the program.
    #[error("{path}: format {has} of a later version; this one reads up to {FORMAT}")]
    OtherFormat {
        /// The file that says so.
        path: PathBuf,
        /// Its format.
        has: u32,
    },
    /// The file that says what the directory is, is missing or not intact.
    #[error("{path}: {problem}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The system refused something.
    #[error("{path}: {problem}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
}

impl From<FileError> for DataDirError {
    fn from(error: FileError) -> Self {
        Self::Io { path: error.path, problem: error.problem }
    }
}

impl DataDir {
    /// Opens the directory `path` and locks it. With `shards` (1 to [`MAX_SHARDS`]) it is created when it is not
    /// there, and must have this number when it is; with `None` it must be there and may have any.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(path: &Path, shards: Option<u16>) -> Result<Self, DataDirError> {
        if let Some(asked) = shards.filter(|shards| !(1..=MAX_SHARDS).contains(shards)) {
            return Err(DataDirError::BadShards { asked });
        }
        if !path.is_dir() {
            if shards.is_none() {
                return Err(DataDirError::Missing { path: path.to_owned() });
            }
            fs::create_dir_all(path).at(path)?;
            sync_dir(&parent(path))?;
        }
        let meta_path = path.join("meta");
        if shards.is_none() && !meta_path.exists() && !in_use(path) {
            return Err(DataDirError::Missing { path: path.to_owned() });
        }
        let lock = Arc::new(lock(path)?);
        let meta = match (read_if_there(&meta_path)?, shards) {
            (Some(content), _) => parse_meta(&meta_path, &content)?,
            (None, None) => return Err(missing_meta(meta_path)),
            // Created before anything else, so without it there must be nothing.
            (None, Some(_)) if in_use(path) => return Err(missing_meta(meta_path)),
            (None, Some(shards)) => create_meta(&meta_path, shards)?,
        };
        match shards {
            Some(asked) if asked != meta.shards => {
                Err(DataDirError::OtherShards { path: path.to_owned(), has: meta.shards, asked })
            }
            _ => Ok(Self { path: path.to_owned(), meta, lock }),
        }
    }

    /// The number of shards, fixed when the directory was created.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.meta.shards
    }

    /// The server's id, made when the directory was created.
    #[must_use]
    pub fn server_id(&self) -> ServerId {
        self.meta.server_id
    }

    /// What [`SqlStore::checked_by`](crate::sql::SqlStore::checked_by) takes: the first store that is reached becomes the
    /// directory's own, any other is refused from then on.
    #[must_use]
    pub fn store_check(&self) -> IdentityCheck {
        let (path, lock) = (self.path.clone(), Arc::clone(&self.lock));
        Box::new(move |store_id| {
            // While anyone can ask, no other process may open the directory.
            let _locked = &lock;
            bind_store(&path, store_id).map_err(|error| error.to_string())
        })
    }

    /// The id of the SQL store that the directory belongs to; `None` when it was never used with one.
    ///
    /// # Errors
    /// [`DataDirError::Damaged`], [`DataDirError::Io`].
    pub fn store_id(&self) -> Result<Option<String>, DataDirError> {
        read_store_id(&self.path)
    }

    /// Opens the journal, which takes a directory of an older format to that of this program. It keeps the directory locked for as
    /// long as it lives.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Io`].
    pub fn journal(&self, options: JournalOptions) -> Result<SledJournal, JournalError> {
        if self.meta.format < FORMAT {
            let path = self.path.join("meta");
            let content = print_meta(&Meta { format: FORMAT, ..self.meta });
            write_whole(&path, &content)
                .map_err(|FileError { path, problem, .. }| JournalError::Io { path, problem })?;
        }
        let mut journal = SledJournal::open(&journal_dir(&self.path), self.meta.shards, options)?;
        journal.keep(Arc::clone(&self.lock));
        Ok(journal)
    }

    /// The checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> FileCheckpoints {
        FileCheckpoints::new(checkpoints_dir(&self.path))
    }
}

fn journal_dir(path: &Path) -> PathBuf {
    path.join("journal")
}

fn checkpoints_dir(path: &Path) -> PathBuf {
    path.join("checkpoints")
}

fn in_use(path: &Path) -> bool {
    journal_dir(path).exists() || checkpoints_dir(path).exists()
}

fn missing_meta(path: PathBuf) -> DataDirError {
    DataDirError::Damaged { path, problem: "it is missing, though the directory holds data".to_owned() }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).at(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(FileError::new(&path, error).into()),
    }
}

fn bind_store(dir: &Path, store_id: &str) -> Result<(), DataDirError> {
    match read_store_id(dir)? {
        Some(has) if has == store_id => Ok(()),
        Some(has) => Err(DataDirError::OtherStore { path: dir.to_owned(), has, asked: store_id.to_owned() }),
        None => Ok(write_whole(&dir.join("store"), &print_store_id(store_id))?),
    }
}

fn read_store_id(dir: &Path) -> Result<Option<String>, DataDirError> {
    let path = dir.join("store");
    let Some(content) = read_if_there(&path)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&content);
    let store_id = text.lines().find_map(|line| line.strip_prefix("store_id = "));
    match store_id.filter(|store_id| print_store_id(store_id) == content) {
        Some(store_id) => Ok(Some(store_id.to_owned())),
        None => Err(DataDirError::Damaged { path, problem: "it is not intact".to_owned() }),
    }
}

fn print_store_id(store_id: &str) -> Vec<u8> {
    let text = format!("{TITLE}\nstore_id = {store_id}\n");
    let check = crc32fast::hash(text.as_bytes());
    format!("{text}check = {check:08x}\n").into_bytes()
}

fn create_meta(path: &Path, shards: u16) -> Result<Meta, DataDirError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| FileError::new(path, format!("no random id: {error}")))?;
    let meta = Meta { format: FORMAT, shards, server_id: ServerId(u128::from_be_bytes(id)) };
    write_whole(path, &print_meta(&meta))?;
    Ok(meta)
}

fn print_meta(Meta { format, shards, server_id }: &Meta) -> Vec<u8> {
    let text = format!("{TITLE}\nformat = {format}\nshards = {shards}\nserver_id = {server_id}\n");
    let check = crc32fast::hash(text.as_bytes());
    format!("{text}check = {check:08x}\n").into_bytes()
}

fn parse_meta(path: &Path, content: &[u8]) -> Result<Meta, DataDirError> {
    let text = String::from_utf8_lossy(content);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let damaged = || DataDirError::Damaged { path: path.to_owned(), problem: "it is not intact".to_owned() };
    // First, since a later format may have other fields.
    let format: u32 = value("format").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    if !(1..=FORMAT).contains(&format) {
        return Err(DataDirError::OtherFormat { path: path.to_owned(), has: format });
    }
    let shards: u16 = value("shards").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    let server_id = value("server_id").and_then(|text| u128::from_str_radix(text, 16).ok());
    let meta = Meta { format, shards, server_id: ServerId(server_id.ok_or_else(damaged)?) };
    // Only what this program writes is taken, check sum and all.
    if print_meta(&meta) == content { Ok(meta) } else { Err(damaged()) }
}
