//! Data directories as a crash leaves them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Bytes that reach the disk together. Smaller than on any disk, so that small writes are torn, too.
const PIECE: usize = 64;

/// Tries to copy a directory in which helper threads may still be at work.
const MAX_TRIES: usize = 1_000;

/// A copy of the directory in one state: nothing may have changed meanwhile, as nothing does after a crash.
pub fn frozen_copy(of: &Path) -> TempDir {
    for _ in 0..MAX_TRIES {
        let copy = TempDir::new().unwrap();
        let same = || -> io::Result<bool> {
            let before = contents(of)?;
            for (name, content) in &before {
                let path = copy.path().join(name);
                fs::create_dir_all(path.parent().expect("it lies in the copy"))?;
                fs::write(path, content)?;
            }
            Ok(contents(of)? == before)
        };
        // A file that is gone when it is read is a change, too.
        if same().unwrap_or(false) {
            return copy;
        }
    }
    panic!("{} never comes to rest", of.display());
}

/// Every file below `dir` by its relative path.
fn contents(dir: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("it lies in it").to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// What is left when the writes between `before` and `after` were cut short: of the one file that they changed, each
/// piece is old or new by chance (disks keep no order among unsynced writes). `None` when more than one file changed
/// (a new segment, a checkpoint), which is more than one write.
pub fn torn(before: &Path, after: &Path, seed: u64) -> Option<TempDir> {
    let (old, new) = (contents(before).unwrap(), contents(after).unwrap());
    if !old.keys().eq(new.keys()) {
        return None;
    }
    let mut changed = new.iter().filter(|(name, content)| old[*name] != **content);
    let (name, whole) = changed.next()?;
    if changed.next().is_some() {
        return None;
    }
    let was = &old[name];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torn = whole.clone();
    for from in (0..whole.len()).step_by(PIECE) {
        let to = whole.len().min(from + PIECE);
        if random.bool() {
            // Beyond the old end there were zeros.
            let old = |at: usize| was.get(at).copied().unwrap_or(0);
            (from..to).for_each(|at| torn[at] = old(at));
        }
    }
    let copy = frozen_copy(after);
    fs::write(copy.path().join(name), torn).unwrap();
    Some(copy)
}
