//! The few things that every durable file here needs: sync of directories, files that appear whole or not at all,
//! errors that name their path.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::disk::{self, File};

/// The system refused something; with the path, which begins as the user gave it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub(crate) struct FileError {
    pub path: PathBuf,
    pub problem: String,
    /// Not the system, but the content of the file is at fault.
    pub damage: bool,
}

impl FileError {
    pub fn new(path: &Path, problem: impl ToString) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string(), damage: false }
    }

    pub fn damage(path: &Path, problem: impl ToString) -> Self {
        Self { damage: true, ..Self::new(path, problem) }
    }
}

/// Adds the path to an error of the system.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, FileError> {
        self.map_err(|error| FileError::new(path, error))
    }
}

/// Makes the names in a directory durable: what was created, renamed or removed in it.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).at(path)
}

/// Creates a directory, unless it is there, so that it survives power loss. One that is there may be of a process that
/// ended before it was durable.
pub(crate) fn create_dir(path: &Path) -> Result<(), FileError> {
    match disk::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.at(path)?,
    }
    sync_dir(&parent(path))
}

/// The directory that holds `path`: of a bare name, the current one.
pub(crate) fn parent(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes a file that is there as a whole or not at all, and survives power loss when this returns.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = path.with_extension("new");
    File::create(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .at(&temporary)?;
    disk::rename(&temporary, path).at(path)?;
    sync_dir(&parent(path))
}

/// The content of a file, `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match disk::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new(path, error)),
    }
}
