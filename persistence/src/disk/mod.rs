//! The file system, as far as the journal, the checkpoints and the filters use it. It is the system's; while a test has
//! mounted a simulated disk on its thread ([`crate::testing::SimulatedDisk`]), paths below its root are on that.

#[cfg(feature = "testing")]
pub(crate) mod simulated;

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Calls the simulated disk when the path is there, else the system.
macro_rules! on_disk {
    ($path:expr, $simulated:expr, $real:expr) => {{
        #[cfg(feature = "testing")]
        if let Some(disk) = simulated::at($path) {
            let simulated: &dyn Fn(&simulated::SimulatedDisk) -> _ = &$simulated;
            return simulated(&disk);
        }
        $real
    }};
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    Real(fs::File),
    #[cfg(feature = "testing")]
    Simulated(simulated::Handle),
}

impl File {
    /// To be read; also a directory, to be synced.
    pub fn open(path: &Path) -> io::Result<Self> {
        on_disk!(path, |disk| disk.open(path).map(Self::Simulated), fs::File::open(path).map(Self::Real))
    }

    /// To be written from the front; empty.
    pub fn create(path: &Path) -> io::Result<Self> {
        on_disk!(
            path,
            |disk| disk.create(path, true).map(Self::Simulated),
            fs::File::create(path).map(Self::Real)
        )
    }

    /// To be read and written; created when it is not there.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        on_disk!(path, |disk| disk.create(path, false).map(Self::Simulated), {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).open(path).map(Self::Real)
        })
    }

    /// Bytes in it.
    pub fn length(&self) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.metadata().map(|metadata| metadata.len()),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.length(),
        }
    }

    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        match self {
            Self::Real(file) => file.write_all_at(bytes, at),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.write_at(bytes, at),
        }
    }

    pub fn sync_all(&self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.sync_all(),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.sync(),
        }
    }

    pub fn sync_data(&self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.sync_data(),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.sync(),
        }
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.read(into),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.read(into),
        }
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.write(bytes),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.seek(to),
            #[cfg(feature = "testing")]
            Self::Simulated(file) => file.seek(to),
        }
    }
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    on_disk!(path, |disk| disk.create_dir(path), fs::create_dir(path))
}

/// With those above it.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    on_disk!(path, |disk| disk.create_dir_all(path), fs::create_dir_all(path))
}

/// What is in a directory, in any order.
pub(crate) fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    on_disk!(dir, |disk| disk.entries(dir), fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect())
}

pub(crate) fn exists(path: &Path) -> bool {
    on_disk!(path, |disk| disk.exists(path), path.exists())
}

/// Bytes that a file takes on the disk; 0 when it is not there.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    // In blocks of 512 bytes, whatever the block size of the file system: so POSIX has it.
    on_disk!(
        path,
        |disk| disk.bytes_of(path),
        fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
    )
}

/// The content of a file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    on_disk!(path, |disk| disk.read_whole(path), fs::read(path))
}

/// Within a directory.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    on_disk!(from, |disk| disk.rename(from, to), fs::rename(from, to))
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    on_disk!(path, |disk| disk.remove(path), fs::remove_file(path))
}

pub(crate) fn remove_dir_all(path: &Path) -> io::Result<()> {
    on_disk!(path, |disk| disk.remove(path), fs::remove_dir_all(path))
}
