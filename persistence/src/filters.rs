//! The filter of known numbers as files: one per generation.
//!
//! ```text
//!   data-dir/filters/
//!     000000000003     magic HSFILT, format version, 0, generation u32, CRC-32 of generation and content, content
//! ```
//!
//! Numbers are little-endian. What the content means, the engine knows (`engine::known`).

use std::fs;
use std::path::{Path, PathBuf};

use hotstock_engine::checkpoint::FilterStore;

use crate::codec::{FORMAT_VERSION, is_read};
use crate::files::{At as _, FileError, create_dir, parent, sync_dir, write_whole};

const MAGIC: &[u8; 6] = b"HSFILT";
const HEADER_BYTES: usize = 16;

/// The filters of one data directory.
#[derive(Debug)]
pub struct FileFilters {
    dir: PathBuf,
}

impl FileFilters {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn file(&self, generation: u32) -> PathBuf {
        self.dir.join(format!("{generation:012}"))
    }

    fn load_all(&self) -> Result<Vec<(u32, Vec<u8>)>, FileError> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let mut generations = Vec::new();
        for entry in fs::read_dir(&self.dir).at(&self.dir)? {
            let path = entry.at(&self.dir)?.path();
            // What a crash left of a file that was being written has a longer name.
            if let Some(generation) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) {
                generations.push((generation, read(&path, generation)?));
            }
        }
        generations.sort_unstable_by_key(|(generation, _)| *generation);
        Ok(generations)
    }
}

impl FilterStore for FileFilters {
    fn save(&self, generation: u32, bytes: &[u8]) -> Result<(), String> {
        let mut content = Vec::with_capacity(HEADER_BYTES + bytes.len());
        content.extend(MAGIC);
        content.extend([FORMAT_VERSION, 0]);
        content.extend(generation.to_le_bytes());
        content.extend(crc(generation, bytes).to_le_bytes());
        content.extend_from_slice(bytes);
        let save = || {
            create_dir(&parent(&self.dir))?;
            create_dir(&self.dir)?;
            write_whole(&self.file(generation), &content)
        };
        save().map_err(|error| error.to_string())
    }

    fn load(&self) -> Result<Vec<(u32, Vec<u8>)>, String> {
        self.load_all().map_err(|error| error.to_string())
    }

    fn remove(&self, generation: u32) -> Result<(), String> {
        let path = self.file(generation);
        let remove = || match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.at(&path).and_then(|()| sync_dir(&self.dir)),
        };
        remove().map_err(|error| error.to_string())
    }
}

fn crc(generation: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn read(path: &Path, generation: u32) -> Result<Vec<u8>, FileError> {
    let mut content = fs::read(path).at(path)?;
    let damage = |what: &str| Err(FileError::damage(path, what));
    let Some((header, bytes)) = content.split_first_chunk::<HEADER_BYTES>() else {
        return damage("the file is cut short");
    };
    if header[..6] != MAGIC[..] || header[7] != 0 {
        return damage("this is not a filter");
    }
    if !is_read(header[6]) {
        return Err(FileError::damage(
            path,
            format!("format version {}, this program reads up to {FORMAT_VERSION}", header[6]),
        ));
    }
    if header[8..12] != generation.to_le_bytes() || header[12..] != crc(generation, bytes).to_le_bytes() {
        return damage("the check sum of the filter does not fit");
    }
    content.drain(..HEADER_BYTES);
    Ok(content)
}
