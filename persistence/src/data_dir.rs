//! The directory of one server: its lock, its identity, and the way to what lies in it.
//!
//! ```text
//!   data-dir/
//!     lock           held while a process has the directory open
//!     meta           format, number of shards, the server's id: written once
//!     epoch          the last epoch that was taken, and where: see `identity`
//!     store          the id of the SQL store that its SKUs come from: written when that was first reached
//!     store.db       the SQL store itself, when that is SQLite
//!     journal/       see `journal`
//!     checkpoints/   see `checkpoint`
//!     filters/       see `filters`
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotstock_engine::checkpoint::Identity as _;
use hotstock_engine::ids::{ChainHash, Epoch, Lsn, ServerId};
use hotstock_engine::journal::JournalError;
use hotstock_engine::limits::MAX_SHARDS;

use crate::checkpoint::FileCheckpoints;
use crate::files::{At as _, FileError, parent, read_if_there, sync_dir, write_whole};
use crate::filters::FileFilters;
use crate::identity::DirIdentity;
use crate::journal::{JournalOptions, SledJournal, StoppedJournal};
use crate::text_file;

/// The format of the directory that this program writes; it reads all up to it. An older program must not look into
/// a newer journal, whose records it would take for a torn tail.
const FORMAT: u32 = 1;

/// Called with the id of the SQL store that was reached; says why that is the wrong one.
pub type StoreCheck = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

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
        "{path}: this data directory belongs to the SQL store {has}, not to {asked}. What it has logged does \
         not fit there: give the address of its own store, or another directory"
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
    /// It was written by a program of before the first format that is read.
    #[error("{path}: made by an earlier program whose format is not read; start with a new directory")]
    EarlierProgram {
        /// The file that says so.
        path: PathBuf,
    },
    /// A directory that was to be made is there and holds something.
    #[error("{path}: there is a data directory already, or something else; give a new directory")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
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
    fn from(FileError { path, problem, damage }: FileError) -> Self {
        if damage { Self::Damaged { path, problem } } else { Self::Io { path, problem } }
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
            (None, Some(shards)) => {
                let meta = Meta::new(path, shards)?;
                write_whole(&meta_path, &meta.print())?;
                // Where it is from its first moment on, so that a copy can be told also before the first epoch.
                let identity = DirIdentity::open(path, meta.server_id, Arc::clone(&lock))?;
                identity.record(Epoch::ZERO).map_err(|problem| DataDirError::Io { path: path.to_owned(), problem })?;
                meta
            }
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

    /// Begins a new directory `path` that goes on where `bases` say: of every shard the last event that the SQL
    /// store has of it, and the chain hash after that. Its journal begins behind them; the checkpoints have to be
    /// written before [`RestoredDir::finish`].
    ///
    /// # Errors
    /// [`DataDirError::NotEmpty`], [`DataDirError::InUse`], [`DataDirError::BadShards`], [`DataDirError::Io`].
    pub fn restore(path: &Path, bases: &[(Lsn, ChainHash)]) -> Result<RestoredDir, DataDirError> {
        let asked = u16::try_from(bases.len()).unwrap_or(u16::MAX);
        if !(1..=MAX_SHARDS).contains(&asked) {
            return Err(DataDirError::BadShards { asked });
        }
        if !path.is_dir() {
            fs::create_dir_all(path).at(path)?;
            sync_dir(&parent(path))?;
        }
        let lock = Arc::new(lock(path)?);
        for entry in fs::read_dir(path).at(path)? {
            if entry.at(path)?.file_name() != "lock" {
                return Err(DataDirError::NotEmpty { path: path.to_owned() });
            }
        }
        let meta = Meta::new(path, asked)?;
        SledJournal::create_behind(&journal_dir(path), bases).map_err(|error| match error {
            JournalError::Io { path, problem } => DataDirError::Io { path, problem },
            other => DataDirError::Damaged { path: journal_dir(path), problem: other.to_string() },
        })?;
        Ok(RestoredDir(Self { path: path.to_owned(), meta, lock }))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who the server of this directory is.
    ///
    /// # Errors
    /// [`DataDirError::Damaged`], [`DataDirError::Io`].
    pub fn identity(&self) -> Result<DirIdentity, DataDirError> {
        Ok(DirIdentity::open(&self.path, self.meta.server_id, Arc::clone(&self.lock))?)
    }

    /// Where the filter of known numbers is kept.
    #[must_use]
    pub fn filters(&self) -> FileFilters {
        FileFilters::new(self.path.join("filters"))
    }

    /// What [`SqlStore::checked_by`](crate::sql::SqlStore::checked_by) takes: the first store that is reached
    /// becomes the directory's own, any other is refused from then on.
    #[must_use]
    pub fn store_check(&self) -> StoreCheck {
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

    /// Opens the journal. It keeps the directory locked for as long as it lives.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Io`].
    pub fn journal(&self, options: JournalOptions) -> Result<SledJournal, JournalError> {
        let mut journal = SledJournal::open(&journal_dir(&self.path), self.meta.shards, options)?;
        journal.keep(Arc::clone(&self.lock));
        Ok(journal)
    }

    /// Opens the journal to be read only, and changes nothing of it. It keeps the directory locked for as long as it
    /// lives.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Io`].
    pub fn stopped_journal(&self) -> Result<StoppedJournal, JournalError> {
        StoppedJournal::open(&journal_dir(&self.path), self.meta.shards, Arc::clone(&self.lock))
    }

    /// The checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> FileCheckpoints {
        FileCheckpoints::new(checkpoints_dir(&self.path))
    }
}

/// A directory that is being made of what the SQL store has. Until [`RestoredDir::finish`] nobody takes it for a
/// data directory.
#[derive(Debug)]
pub struct RestoredDir(DataDir);

impl RestoredDir {
    /// The id of the server that will run in it; new.
    #[must_use]
    pub fn server_id(&self) -> ServerId {
        self.0.server_id()
    }

    /// Where the checkpoints have to be written.
    #[must_use]
    pub fn checkpoints(&self) -> FileCheckpoints {
        self.0.checkpoints()
    }

    /// Where the filter of known numbers may be written.
    #[must_use]
    pub fn filters(&self) -> FileFilters {
        self.0.filters()
    }

    /// Makes it a data directory, whose server has taken `epoch`.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn finish(self, epoch: Epoch) -> Result<DataDir, DataDirError> {
        let path = self.0.path.join("meta");
        write_whole(&path, &self.0.meta.print())?;
        // Without it the directory says that no server ever ran in it, and is refused by a store that knows of one.
        self.0.identity()?.record(epoch).map_err(|problem| DataDirError::Io { path, problem })?;
        Ok(self.0)
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
    let problem = "it is missing, though the directory holds data (of a `recover` that broke off: begin again in a new \
                   directory)";
    DataDirError::Damaged { path, problem: problem.to_owned() }
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
        None => Ok(write_whole(&dir.join("store"), &text_file::print(&[("store_id", store_id)]))?),
    }
}

fn read_store_id(dir: &Path) -> Result<Option<String>, DataDirError> {
    let path = dir.join("store");
    let Some(content) = read_if_there(&path)? else { return Ok(None) };
    match text_file::parse(&content, ["store_id"]) {
        Some([store_id]) => Ok(Some(store_id.to_owned())),
        None => Err(damaged(path)),
    }
}

fn damaged(path: PathBuf) -> DataDirError {
    DataDirError::Damaged { path, problem: "it is not intact".to_owned() }
}

impl Meta {
    fn new(dir: &Path, shards: u16) -> Result<Self, DataDirError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| FileError::new(dir, format!("no random id: {error}")))?;
        Ok(Self { format: FORMAT, shards, server_id: ServerId(u128::from_be_bytes(id)) })
    }

    fn print(&self) -> Vec<u8> {
        let Self { format, shards, server_id } = self;
        let values = [format.to_string(), shards.to_string(), server_id.to_string()];
        let [format, shards, server_id] = values.each_ref().map(String::as_str);
        text_file::print(&[("format", format), ("shards", shards), ("server_id", server_id)])
    }
}

fn parse_meta(path: &Path, content: &[u8]) -> Result<Meta, DataDirError> {
    if text_file::is_of_an_earlier_program(content) {
        return Err(DataDirError::EarlierProgram { path: path.to_owned() });
    }
    // First, since a later format may have other fields.
    let format: Option<u32> = text_file::value(content, "format").and_then(|format| format.parse().ok());
    let format = format.ok_or_else(|| damaged(path.to_owned()))?;
    if !(1..=FORMAT).contains(&format) {
        return Err(DataDirError::OtherFormat { path: path.to_owned(), has: format });
    }
    let meta = || {
        let [_, shards, server_id] = text_file::parse(content, ["format", "shards", "server_id"])?;
        let server_id = ServerId(u128::from_str_radix(server_id, 16).ok()?);
        let meta = Meta { format, shards: shards.parse().ok()?, server_id };
        // Only what this program writes is taken.
        (meta.print() == content && (1..=MAX_SHARDS).contains(&meta.shards)).then_some(meta)
    };
    meta().ok_or_else(|| damaged(path.to_owned()))
}
