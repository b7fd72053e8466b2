//! A disk that loses power, for simulations: what was not synced when it does is lost, torn or written in another
//! order, by chance; names that were made, moved or removed in a directory that was not synced come undone. It can be
//! full, fail a write or a sync, and flip bits. Everything that it does follows from its seed and what it is asked.
//!
//! What it takes for granted, as the shipped code does: sectors of 512 bytes are written in any order, and one that is
//! being written may hold a mixture afterwards; changes of the names of one directory reach the medium in their order;
//! a file that was synced is there when its name is. A sync that failed leaves its pages marked as written: a later
//! one succeeds and writes nothing of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is written at once, or torn.
const SECTOR: usize = 512;

/// Where simulated disks are mounted, each under its name.
const ROOT_PATH: &str = "/simulated";

const NO_POWER: &str = "the power is gone";

thread_local! {
    static MOUNTED: RefCell<Vec<(PathBuf, SimulatedDisk)>> = const { RefCell::new(Vec::new()) };
}

/// The disk on which a path lies, if that is a simulated one.
pub(crate) fn at(path: &Path) -> Option<SimulatedDisk> {
    MOUNTED.with_borrow(|mounted| {
        mounted.iter().find(|(root, _)| path.starts_with(root)).map(|(_, disk)| disk.clone())
    })
}

/// See the top of the file. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimulatedDisk(Arc<Mutex<Medium>>);

/// Takes the disk away from its thread again when it is dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// The path of what is on the disk.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        MOUNTED.with_borrow_mut(|mounted| mounted.retain(|(root, _)| *root != self.0));
    }
}

/// What goes wrong next; each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// A write is refused.
    Write,
    /// A sync fails; what it had to write may or may not be there.
    Sync,
    /// There is no room for so many bytes more.
    Full(u64),
    /// The power goes when so many more changes and syncs were begun.
    PowerOff(u64),
}

/// A file or directory, by its number.
type Inode = usize;

#[derive(Debug)]
struct Medium {
    random: fastrand::Rng,
    nodes: Vec<Node>,
    /// Names that changed in a directory that was not synced since, in their order, with what they were before.
    unsynced: Vec<(Inode, OsString, Option<Inode>)>,
    has_power: bool,
    off_in: Option<u64>,
    fail_write: bool,
    fail_sync: bool,
    room: Option<u64>,
    /// Changes and syncs that were begun.
    operations: u64,
}

#[derive(Debug)]
enum Node {
    Dir(BTreeMap<OsString, Inode>),
    File(Content),
}

/// The root directory.
const ROOT: Inode = 0;

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Writes since the last sync, in their order.
    unsynced: Vec<Undo>,
    /// As those, but no sync will write them any more.
    lost: Vec<Undo>,
}

/// A write: where, how much, what was there before, and how long the file was.
#[derive(Debug)]
struct Undo {
    at: usize,
    written: usize,
    before: Vec<u8>,
    length: usize,
}

impl Content {
    fn write(&mut self, bytes: &[u8], at: usize) {
        let (length, end) = (self.bytes.len(), at + bytes.len());
        let before = self.bytes.get(at..end.min(length)).unwrap_or_default().to_vec();
        if length < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
        self.unsynced.push(Undo { at, written: bytes.len(), before, length });
    }

    /// What was written since is on the medium; of what was lost, that which was written again.
    fn sync(&mut self) {
        let Self { unsynced, lost, .. } = self;
        let is_again = |old: &Undo| {
            let covers = |new: &Undo| new.at <= old.at && old.at + old.written <= new.at + new.written;
            unsynced.iter().any(covers)
        };
        lost.retain(|old| !is_again(old));
        unsynced.clear();
    }

    /// Each sector of each write that was not synced is there, or not, or torn.
    fn lose_power(&mut self, random: &mut fastrand::Rng, keep: f64) {
        let undos: Vec<Undo> = self.lost.drain(..).chain(self.unsynced.drain(..)).collect();
        let Some(synced) = undos.iter().map(|undo| undo.length).min() else { return };
        let mut length = synced;
        for Undo { at, written, before, .. } in undos.into_iter().rev() {
            let (mut from, end) = (at, at + written);
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                let kept_to = match random.f64() {
                    chance if chance < keep => to,
                    chance if chance > 0.97 => random.usize(from..=to),
                    _ => from,
                };
                if kept_to > from {
                    length = length.max(to);
                }
                for place in kept_to..to {
                    self.bytes[place] = before.get(place - at).copied().unwrap_or(0);
                }
                from = to;
            }
        }
        self.bytes.truncate(length);
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Medium {
            random: fastrand::Rng::with_seed(seed),
            nodes: vec![Node::Dir(BTreeMap::new())],
            unsynced: Vec::new(),
            has_power: true,
            off_in: None,
            fail_write: false,
            fail_sync: false,
            room: None,
            operations: 0,
        })))
    }

    /// Makes the paths below [`Mounted::root`] lie on this disk, for this thread. Each of its disks has another name.
    #[must_use]
    pub fn mount(&self, name: &str) -> Mounted {
        let root = Path::new(ROOT_PATH).join(name);
        MOUNTED.with_borrow_mut(|mounted| mounted.push((root.clone(), self.clone())));
        Mounted(root)
    }

    /// Makes something go wrong.
    pub fn fail(&self, fault: DiskFault) {
        let mut medium = self.medium();
        match fault {
            DiskFault::Write => medium.fail_write = true,
            DiskFault::Sync => medium.fail_sync = true,
            DiskFault::Full(room) => medium.room = Some(room),
            DiskFault::PowerOff(operations) => medium.off_in = Some(operations),
        }
    }

    /// Faults that did not happen yet don't any more, and there is room.
    pub fn mend(&self) {
        self.medium().mend();
    }

    /// The power goes now, until [`SimulatedDisk::power_cycle`]: nothing can be read or written.
    pub fn power_off(&self) {
        self.medium().has_power = false;
    }

    /// It can be read and written again, and nothing was lost: the process ended, and the machine did not.
    pub fn power_on(&self) {
        let mut medium = self.medium();
        medium.has_power = true;
        medium.mend();
    }

    /// Whether it has power.
    #[must_use]
    pub fn has_power(&self) -> bool {
        self.medium().has_power
    }

    /// Changes and syncs that were begun so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.medium().operations
    }

    /// The power goes, and comes back: only what was synced is sure to be there.
    pub fn power_cycle(&self) {
        let mut medium = self.medium();
        let Medium { random, nodes, unsynced, .. } = &mut *medium;
        // Sometimes nothing that was not synced is there, sometimes nearly all of it, mostly a part.
        let keep = match random.u8(..4) {
            0 => 0.0,
            1 => 0.95,
            _ => random.f64(),
        };
        let mut cut: Vec<Inode> = Vec::new();
        let mut undone = Vec::new();
        for (dir, name, before) in unsynced.drain(..) {
            if !cut.contains(&dir) && random.bool() {
                continue;
            }
            cut.push(dir);
            undone.push((dir, name, before));
        }
        for (dir, name, before) in undone.into_iter().rev() {
            let Some(Node::Dir(names)) = nodes.get_mut(dir) else { continue };
            match before {
                Some(inode) => names.insert(name, inode),
                None => names.remove(&name),
            };
        }
        for node in nodes {
            if let Node::File(content) = node {
                content.lose_power(random, keep);
            }
        }
        medium.has_power = true;
        medium.mend();
    }

    /// Flips one bit of a file: the one at this share of its length. `false`: there is none.
    pub fn flip_bit(&self, path: &Path, share: f64) -> bool {
        let mut medium = self.medium();
        let Ok(inode) = medium.find(path) else { return false };
        let Node::File(content) = &mut medium.nodes[inode] else { return false };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the file")]
        let at = (content.bytes.len() as f64 * share) as usize;
        let Some(byte) = content.bytes.get_mut(at) else { return false };
        *byte ^= 1 << (at % 8);
        true
    }

    /// Takes a file away, for good.
    pub fn lose(&self, path: &Path) {
        let mut medium = self.medium();
        if medium.name(path, None).is_ok() {
            medium.unsynced.pop();
        }
    }

    /// Bytes of a file; 0 when it is not there.
    #[must_use]
    pub fn length(&self, path: &Path) -> u64 {
        self.bytes_of(path)
    }

    /// All files below the root at which it is mounted.
    #[must_use]
    pub fn files(&self, root: &Path) -> Vec<PathBuf> {
        let medium = self.medium();
        let mut files = Vec::new();
        medium.list(ROOT, root, &mut files);
        files
    }

    /// Another disk with what is on this one now, all of it synced.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let other = Self::new(seed);
        let copied = |node: &Node| match node {
            Node::Dir(names) => Node::Dir(names.clone()),
            Node::File(content) => Node::File(Content { bytes: content.bytes.clone(), ..Content::default() }),
        };
        other.medium().nodes = self.medium().nodes.iter().map(copied).collect();
        other
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        // Whoever panicked with it left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, path: &Path) -> io::Result<Handle> {
        let inode = self.medium().find(path)?;
        Ok(Handle { disk: self.clone(), inode, at: 0 })
    }

    pub(crate) fn create(&self, path: &Path, empty: bool) -> io::Result<Handle> {
        let mut medium = self.medium();
        let inode = match medium.find(path) {
            Ok(inode) if !empty => inode,
            _ => {
                medium.begin()?;
                medium.nodes.push(Node::File(Content::default()));
                let inode = medium.nodes.len() - 1;
                medium.name(path, Some(inode))?;
                inode
            }
        };
        drop(medium);
        Ok(Handle { disk: self.clone(), inode, at: 0 })
    }

    pub(crate) fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.begin()?;
        if medium.find(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        medium.nodes.push(Node::Dir(BTreeMap::new()));
        let inode = medium.nodes.len() - 1;
        medium.name(path, Some(inode))
    }

    pub(crate) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|dir| !self.exists(dir)).collect();
        missing.into_iter().rev().try_for_each(|dir| self.create_dir(dir))
    }

    pub(crate) fn entries(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let medium = self.medium();
        let inode = medium.find(dir)?;
        match &medium.nodes[inode] {
            Node::Dir(names) => Ok(names.keys().map(|name| dir.join(name)).collect()),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.medium().find(path).is_ok()
    }

    pub(crate) fn bytes_of(&self, path: &Path) -> u64 {
        self.open(path).and_then(|file| file.length()).unwrap_or(0)
    }

    pub(crate) fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.begin()?;
        let inode = medium.find(from)?;
        medium.name(from, None)?;
        medium.name(to, Some(inode))
    }

    /// With what is in it.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut medium = self.medium();
        medium.begin()?;
        medium.find(path)?;
        medium.name(path, None)
    }
}

impl Medium {
    fn mend(&mut self) {
        (self.off_in, self.fail_write, self.fail_sync, self.room) = (None, false, false, None);
    }

    /// Before each change and each sync.
    fn begin(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.off_in {
            Some(0) => (self.has_power, self.off_in) = (false, None),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.has_power { Ok(()) } else { Err(Error::other(NO_POWER)) }
    }

    fn find(&self, path: &Path) -> io::Result<Inode> {
        if !self.has_power {
            return Err(Error::other(NO_POWER));
        }
        let rest = path.strip_prefix(ROOT_PATH).map_err(|_| ErrorKind::NotFound)?;
        let mut inode = ROOT;
        // Behind the name of the disk.
        for name in rest.iter().skip(1) {
            let Node::Dir(names) = &self.nodes[inode] else { return Err(ErrorKind::NotADirectory.into()) };
            inode = *names.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(inode)
    }

    fn name(&mut self, path: &Path, inode: Option<Inode>) -> io::Result<()> {
        let (dir, name) = path.parent().zip(path.file_name()).ok_or(ErrorKind::InvalidInput)?;
        let dir = self.find(dir)?;
        let Node::Dir(names) = &mut self.nodes[dir] else { return Err(ErrorKind::NotADirectory.into()) };
        let before = match inode {
            Some(inode) => names.insert(name.to_owned(), inode),
            None => names.remove(name),
        };
        self.unsynced.push((dir, name.to_owned(), before));
        Ok(())
    }

    fn list(&self, inode: Inode, path: &Path, into: &mut Vec<PathBuf>) {
        match &self.nodes[inode] {
            Node::File(_) => into.push(path.to_owned()),
            Node::Dir(names) => {
                names.iter().for_each(|(name, inode)| self.list(*inode, &path.join(name), into));
            }
        }
    }
}

/// An open file, or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    disk: SimulatedDisk,
    inode: Inode,
    at: usize,
}

impl Handle {
    fn look<T>(&self, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        match &self.disk.medium().nodes[self.inode] {
            Node::File(content) => Ok(look(&content.bytes)),
            Node::Dir(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub fn length(&self) -> io::Result<u64> {
        self.look(|bytes| bytes.len() as u64)
    }

    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).map_err(|_| ErrorKind::InvalidInput)?;
        let mut medium = self.disk.medium();
        medium.begin()?;
        let Medium { nodes, fail_write, room, .. } = &mut *medium;
        let Node::File(content) = &mut nodes[self.inode] else { return Err(ErrorKind::IsADirectory.into()) };
        if std::mem::take(fail_write) {
            return Err(Error::other("a write was made to fail"));
        }
        let more = (at + bytes.len()).saturating_sub(content.bytes.len()) as u64;
        match room {
            Some(room) if *room < more => return Err(ErrorKind::StorageFull.into()),
            Some(room) => *room -= more,
            None => {}
        }
        content.write(bytes, at);
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        let mut medium = self.disk.medium();
        medium.begin()?;
        let Medium { nodes, unsynced, fail_sync, .. } = &mut *medium;
        let fails = std::mem::take(fail_sync);
        match &mut nodes[self.inode] {
            Node::File(content) if fails => content.lost.append(&mut content.unsynced),
            Node::File(content) => content.sync(),
            Node::Dir(_) if fails => {}
            Node::Dir(_) => unsynced.retain(|(dir, ..)| *dir != self.inode),
        }
        if fails { Err(Error::other("a sync was made to fail")) } else { Ok(()) }
    }
}

impl Read for Handle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.look(|bytes| {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        })?;
        self.at += count;
        Ok(count)
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, self.at as u64)?;
        self.at += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Handle {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let from = |base: usize, offset: i64| {
            base.checked_add_signed(isize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?)
                .ok_or_else(|| Error::from(ErrorKind::InvalidInput))
        };
        self.at = match to {
            SeekFrom::Start(at) => usize::try_from(at).map_err(|_| ErrorKind::InvalidInput)?,
            SeekFrom::Current(offset) => from(self.at, offset)?,
            SeekFrom::End(offset) => {
                let length = usize::try_from(self.length()?).map_err(|_| ErrorKind::InvalidInput)?;
                from(length, offset)?
            }
        };
        Ok(self.at as u64)
    }
}
