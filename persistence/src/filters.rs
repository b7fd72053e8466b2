//! The filter of known numbers as files: one per generation, each written once. Which ones count, the checkpoints say.
//!
//! ```text
//!   data-dir/filters/
//!     000000000003     magic HSFILT, format version, 0, content
//! ```
//!
//! What the content means, the engine knows (`engine::known`), and whether it is what was saved: a checkpoint has the
//! length and a hash of it.

use std::path::{Path, PathBuf};

use hotstock_engine::checkpoint::FilterStore;

use crate::codec::{FORMAT_VERSION, is_read};
use crate::disk;
use crate::files::{At as _, FileError, create_dir, read_if_there, sync_dir, write_whole};

const MAGIC: &[u8; 6] = b"HSFILT";
const HEADER_BYTES: usize = 8;

/// The filters of one data directory.
#[derive(Debug)]
pub struct FileFilters {
    dir: PathBuf,
}

impl FileFilters {
    /// In this directory, which is made when there is none.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:012}"))
    }

    /// What a crash left of a file that was being written goes, too.
    fn remove_others(&self, kept: &[PathBuf]) -> Result<(), FileError> {
        if !disk::exists(&self.dir) {
            return Ok(());
        }
        let mut removed = false;
        for path in disk::entries(&self.dir).at(&self.dir)? {
            if !kept.contains(&path) && is_ours(&path) {
                disk::remove_file(&path).at(&path)?;
                removed = true;
            }
        }
        if removed { sync_dir(&self.dir) } else { Ok(()) }
    }
}

/// Whether [`FileFilters::save`] gives such names: not what an operator laid beside them.
fn is_ours(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|name| name.to_str());
    stem.is_some_and(|name| name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_digit()))
        && path.extension().is_none_or(|extension| extension == "new")
}

impl FilterStore for FileFilters {
    fn save(&self, number: u64, bytes: &[u8]) -> Result<(), String> {
        let content = [&MAGIC[..], &[FORMAT_VERSION, 0], bytes].concat();
        let save = || {
            create_dir(&self.dir)?;
            write_whole(&self.file(number), &content)
        };
        save().map_err(|error| error.to_string())
    }

    fn load(&self, number: u64) -> Result<Option<Vec<u8>>, String> {
        let path = self.file(number);
        let load = || match read_if_there(&path)? {
            Some(content) => content_of(&path, content).map(Some),
            None => Ok(None),
        };
        load().map_err(|error: FileError| error.to_string())
    }

    fn keep_only(&self, numbers: &[u64]) -> Result<(), String> {
        let kept: Vec<PathBuf> = numbers.iter().map(|number| self.file(*number)).collect();
        self.remove_others(&kept).map_err(|error| error.to_string())
    }
}

fn content_of(path: &Path, mut content: Vec<u8>) -> Result<Vec<u8>, FileError> {
    let Some(header) = content.first_chunk::<HEADER_BYTES>() else {
        return Err(FileError::damage(path, "the file is cut short"));
    };
    if header[..6] != MAGIC[..] || header[7] != 0 {
        return Err(FileError::damage(path, "this is not a filter"));
    }
    if !is_read(header[6]) {
        let problem = format!("format version {}, this program reads up to {FORMAT_VERSION}", header[6]);
        return Err(FileError::damage(path, problem));
    }
    content.drain(..HEADER_BYTES);
    Ok(content)
}
