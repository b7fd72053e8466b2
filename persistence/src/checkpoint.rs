//! Checkpoints as files, one directory per shard.
//!
//! ```text
//!   data-dir/checkpoints/shard-003/
//!     000000000017          complete; the highest number is the newest
//!     writing-4711          being written; renamed when it is complete and synced
//!
//!   file:    header, blocks of entries, a block about the filter, footer
//!   header   magic HSCKPT, format version, 0, shard u16, begin u64, CRC-32 of these
//!   block    kind u8 (1 entries, 2 footer, 3 filter), entries u32, payload length u32, CRC-32 of these three and the
//!            payload
//!   filter   a block whose payload is the manifest of the filter of known numbers: its number u64, 1 if it is
//!            complete u64, and number, length and hash of each file, u64 each
//!   footer   a block whose payload is: end LSN u64, time u64, departed LSN u64, blocks of entries u64, entries u64,
//!            bytes of the block before it u64; it is the last
//! ```
//!
//! Numbers are little-endian; entries are encoded as `codec` says.

use std::io::{BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hotstock_engine::checkpoint::{
    CheckpointEnd, CheckpointError, CheckpointReader, CheckpointStore, CheckpointWriter, FilterFile,
    FilterManifest,
};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{Lsn, ShardId};
use hotstock_engine::image::Image;
use hotstock_engine::limits::MAX_GENERATIONS;
use hotstock_engine::planted;

use crate::codec::{FORMAT_VERSION, decode_image, encode_image, is_read};
use crate::disk::{self, File};
use crate::files::{At as _, FileError, create_dir, parent, sync_dir};

const MAGIC: &[u8; 6] = b"HSCKPT";
const HEADER_BYTES: usize = 22;
const BLOCK_HEADER_BYTES: usize = 13;
const FOOTER_PAYLOAD_BYTES: usize = 48;
const FOOTER_BYTES: u64 = (BLOCK_HEADER_BYTES + FOOTER_PAYLOAD_BYTES) as u64;

const ENTRIES: u8 = 1;
const FOOTER: u8 = 2;
const FILTER: u8 = 3;

/// The longest payload of a block about the filter.
const MAX_FILTER_BYTES: usize = 16 + 24 * MAX_GENERATIONS;

/// Bytes of a block after which the next is begun, so that a reader needs little memory at once: a slice of orders with
/// a thousand lines each would be hundreds of megabytes.
const BLOCK_BYTES: usize = 1 << 20;

/// Bytes that are written before they are synced. Left to the end, one large sync would hold up the journal's, which
/// go to the same disk.
const SYNC_EVERY_BYTES: usize = 8 << 20;

/// What unfinished files are called before their number.
const WRITING: &str = "writing-";

/// The checkpoints of one data directory.
#[derive(Debug)]
pub struct FileCheckpoints {
    dir: PathBuf,
    /// Makes the names of unfinished files differ, so that one that was given up can't touch its successor's.
    started: AtomicU64,
}

impl FileCheckpoints {
    /// In this directory, which is made when there is none.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, started: AtomicU64::new(0) }
    }

    fn shard_dir(&self, shard: ShardId) -> PathBuf {
        self.dir.join(format!("shard-{:03}", shard.0))
    }
}

impl CheckpointStore for FileCheckpoints {
    fn create(&self, shard: ShardId, begin: Lsn) -> Result<Box<dyn CheckpointWriter>, CheckpointError> {
        let dir = self.shard_dir(shard);
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let writer = Writer::create(shard, begin, dir, number).map_err(of_shard(shard))?;
        Ok(Box::new(writer))
    }

    fn newest(&self, shard: ShardId) -> Result<Option<Box<dyn CheckpointReader>>, CheckpointError> {
        let dir = self.shard_dir(shard);
        let newest = || -> Result<_, FileError> {
            let Some(number) = numbers(&dir)?.pop() else { return Ok(None) };
            // Its name may be of a process that ended before it was durable. Whoever starts from it lets go of the
            // journal before it, so it must not be gone after a power loss.
            sync_dir(&dir)?;
            sync_dir(&parent(&dir))?;
            Reader::open(shard, file(&dir, number)).map(Some)
        };
        let reader = newest().map_err(of_shard(shard))?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn CheckpointReader>))
    }
}

fn of_shard(shard: ShardId) -> impl Fn(FileError) -> CheckpointError {
    move |error| {
        let way_out = if error.damage { way_out(&error.path) } else { String::new() };
        CheckpointError { shard, problem: format!("{error}{way_out}") }
    }
}

/// What can be done about a checkpoint that is damaged, in words.
fn way_out(path: &Path) -> String {
    let others = numbers(&parent(path)).unwrap_or_default();
    let is_older = others.iter().any(|number| file(&parent(path), *number) < *path);
    let instead = if is_older { "the checkpoint before it and the journal" } else { "the journal alone" };
    format!(
        ". Put back what was written there, or move that file away and start again: what it had is taken from {instead}, if the \
         journal still goes back so far; a start that does not find all of it is refused and changes nothing. Else make a new \
         directory with `hotstock recover --from-store`; `hotstock unflushed --data-dir …` lists what the store never got"
    )
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}"))
}

/// The numbers of the complete checkpoints in `dir`, in order.
fn numbers(dir: &Path) -> Result<Vec<u64>, FileError> {
    if !disk::exists(dir) {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for path in disk::entries(dir).at(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        numbers.extend(name.and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn block(kind: u8, entries: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a block ends soon after 1 MiB");
    let mut block = Vec::with_capacity(BLOCK_HEADER_BYTES + payload.len());
    block.push(kind);
    block.extend(entries.to_le_bytes());
    block.extend(length.to_le_bytes());
    let crc = block_crc(&block, payload);
    block.extend(crc.to_le_bytes());
    block.extend_from_slice(payload);
    block
}

fn block_crc(front: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(front);
    hasher.update(payload);
    hasher.finalize()
}

struct Writer {
    shard: ShardId,
    dir: PathBuf,
    path: PathBuf,
    file: File,
    blocks: u64,
    entries: u64,
    unsynced: usize,
    finished: bool,
}

impl Writer {
    fn create(shard: ShardId, begin: Lsn, dir: PathBuf, number: u64) -> Result<Self, FileError> {
        create_dir(&parent(&dir))?;
        create_dir(&dir)?;
        for path in disk::entries(&dir).at(&dir)? {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(WRITING)) {
                disk::remove_file(&path).at(&path)?;
            }
        }
        let path = dir.join(format!("{WRITING}{number}"));
        let file = File::create(&path).at(&path)?;
        let mut writer = Self { shard, dir, path, file, blocks: 0, entries: 0, unsynced: 0, finished: false };
        let mut header = MAGIC.to_vec();
        header.extend([FORMAT_VERSION, 0]);
        header.extend(shard.0.to_le_bytes());
        header.extend(begin.0.to_le_bytes());
        header.extend(crc32fast::hash(&header).to_le_bytes());
        writer.append(&header)?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).at(&self.path)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.unsynced = 0;
            self.file.sync_data().at(&self.path)?;
        }
        Ok(())
    }

    fn append_entries(&mut self, slice: &[Image]) -> Result<(), FileError> {
        let mut payload = Vec::new();
        let mut entries = 0;
        for (place, image) in slice.iter().enumerate() {
            encode_image(image, &mut payload);
            entries += 1;
            if payload.len() >= BLOCK_BYTES || place + 1 == slice.len() {
                self.append(&block(ENTRIES, entries, &payload))?;
                self.blocks += 1;
                self.entries += u64::from(entries);
                payload.clear();
                entries = 0;
            }
        }
        Ok(())
    }

    fn complete(&mut self, end: CheckpointEnd, known: &FilterManifest) -> Result<(), FileError> {
        let filter = block(FILTER, 0, &encode_manifest(known));
        self.append(&filter)?;
        let footer = [end.end.0, end.time.0, end.departed.0, self.blocks, self.entries, filter.len() as u64];
        self.append(&block(FOOTER, 0, &to_bytes(footer)))?;
        planted!("checkpoint-not-synced", (), self.file.sync_all().at(&self.path)?);
        let older = numbers(&self.dir)?;
        let complete = file(&self.dir, older.last().map_or(1, |newest| newest + 1));
        disk::rename(&self.path, &complete).at(&self.path)?;
        self.finished = true;
        sync_dir(&self.dir)?;
        for number in older {
            let path = file(&self.dir, number);
            disk::remove_file(&path).at(&path)?;
        }
        Ok(())
    }
}

impl CheckpointWriter for Writer {
    fn write(&mut self, slice: &[Image]) -> Result<(), CheckpointError> {
        self.append_entries(slice).map_err(of_shard(self.shard))
    }

    fn finish(
        mut self: Box<Self>,
        end: CheckpointEnd,
        known: &FilterManifest,
    ) -> Result<(), CheckpointError> {
        self.complete(end, known).map_err(of_shard(self.shard))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // What can't be removed now, the next checkpoint of the shard removes.
            let _ = disk::remove_file(&self.path);
        }
    }
}

struct Reader {
    shard: ShardId,
    path: PathBuf,
    file: BufReader<File>,
    begin: Lsn,
    footer: Footer,
    known: FilterManifest,
    blocks: u64,
    entries: u64,
}

#[derive(Debug, Clone, Copy)]
struct Footer {
    end: CheckpointEnd,
    blocks: u64,
    entries: u64,
    /// Bytes of the block before it.
    filter: u64,
}

impl Reader {
    fn open(shard: ShardId, path: PathBuf) -> Result<Self, FileError> {
        let mut file = File::open(&path).at(&path)?;
        let length = file.length().at(&path)?;
        if length < HEADER_BYTES as u64 + FOOTER_BYTES {
            return Err(FileError::damage(&path, "the file is cut short"));
        }
        file.seek(SeekFrom::Start(length - FOOTER_BYTES)).at(&path)?;
        let footer = match Block::read(&mut file, FOOTER_PAYLOAD_BYTES as u64, &path)? {
            Block { kind: FOOTER, payload, .. } => parse_footer(&payload),
            _ => None,
        };
        let Some(footer) = footer else {
            return Err(FileError::damage(&path, "the file does not end with a footer"));
        };
        let before = (length - HEADER_BYTES as u64 - FOOTER_BYTES).checked_sub(footer.filter);
        let known = match before {
            Some(before) => {
                file.seek(SeekFrom::Start(HEADER_BYTES as u64 + before)).at(&path)?;
                let block = Block::read(&mut file, MAX_FILTER_BYTES as u64, &path)?;
                (block.kind == FILTER).then(|| decode_manifest(&block.payload)).flatten()
            }
            None => None,
        };
        let Some(known) = known else {
            return Err(FileError::damage(&path, "what stands before the footer is not about the filter"));
        };
        file.seek(SeekFrom::Start(0)).at(&path)?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header).at(&path)?;
        let header = parse_header(&header, shard);
        let begin = header.map_err(|problem| FileError::damage(&path, problem))?;
        Ok(Self { shard, path, file: BufReader::new(file), begin, footer, known, blocks: 0, entries: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<Image>>, FileError> {
        // A block of entries ends with the entry that passed the mark, and no entry comes near to 64 MiB.
        let block = Block::read(&mut self.file, 64 << 20, &self.path)?;
        match block.kind {
            ENTRIES => {
                self.blocks += 1;
                self.entries += u64::from(block.entries);
                self.decode(&block).map(Some)
            }
            FILTER if self.blocks == self.footer.blocks && self.entries == self.footer.entries => Ok(None),
            FILTER => Err(FileError::damage(&self.path, "blocks are missing")),
            other => Err(FileError::damage(&self.path, format!("a block of kind {other} among the entries"))),
        }
    }

    fn decode(&self, block: &Block) -> Result<Vec<Image>, FileError> {
        let mut left = &block.payload[..];
        let mut images = Vec::new();
        for _ in 0..block.entries {
            let image = decode_image(&mut left).map_err(|error| {
                FileError::damage(
                    &self.path,
                    format!("entry {} of block {}: {error}", images.len(), self.blocks),
                )
            })?;
            images.push(image);
        }
        if left.is_empty() {
            Ok(images)
        } else {
            Err(FileError::damage(&self.path, format!("bytes behind the entries of block {}", self.blocks)))
        }
    }
}

impl CheckpointReader for Reader {
    fn begin(&self) -> Lsn {
        self.begin
    }

    fn end(&self) -> CheckpointEnd {
        self.footer.end
    }

    fn known(&self) -> &FilterManifest {
        &self.known
    }

    fn next_slice(&mut self) -> Result<Option<Vec<Image>>, CheckpointError> {
        self.next().map_err(of_shard(self.shard))
    }
}

struct Block {
    kind: u8,
    entries: u32,
    payload: Vec<u8>,
}

impl Block {
    fn read(file: &mut impl Read, max_payload: u64, path: &Path) -> Result<Self, FileError> {
        let mut front = [0; BLOCK_HEADER_BYTES];
        let cut = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => FileError::damage(path, "the file is cut short"),
            _ => FileError::new(path, error),
        };
        file.read_exact(&mut front).map_err(cut)?;
        let number = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
        let (entries, length, crc) = (number(1), u64::from(number(5)), number(9));
        if length > max_payload {
            return Err(FileError::damage(path, "a block says that it is longer than any block"));
        }
        let mut payload = Vec::new();
        file.take(length).read_to_end(&mut payload).map_err(cut)?;
        if payload.len() as u64 != length || block_crc(&front[..9], &payload) != crc {
            return Err(FileError::damage(path, "the check sum of a block does not fit"));
        }
        Ok(Self { kind: front[0], entries, payload })
    }
}

/// The LSN at which it was begun.
fn parse_header(header: &[u8; HEADER_BYTES], shard: ShardId) -> Result<Lsn, String> {
    let (content, crc) = header.split_at(HEADER_BYTES - 4);
    if content[..6] != MAGIC[..] {
        return Err("this is not a checkpoint".to_owned());
    }
    if crc32fast::hash(content).to_le_bytes() != crc {
        return Err("the check sum of the header does not fit".to_owned());
    }
    if !is_read(content[6]) {
        return Err(format!("format version {}, this program reads up to {FORMAT_VERSION}", content[6]));
    }
    if content[8..10] != shard.0.to_le_bytes() {
        return Err("this is a checkpoint of another shard".to_owned());
    }
    let begin = content[10..].try_into().expect("eight bytes are left of the header");
    Ok(Lsn(u64::from_le_bytes(begin)))
}

fn parse_footer(payload: &[u8]) -> Option<Footer> {
    let [end, time, departed, blocks, entries, filter] = to_numbers(payload)?[..] else { return None };
    let end = CheckpointEnd { end: Lsn(end), time: Timestamp(time), departed: Lsn(departed) };
    Some(Footer { end, blocks, entries, filter })
}

fn encode_manifest(known: &FilterManifest) -> Vec<u8> {
    let files = known.files.iter().flatten().flat_map(|file| [file.number, file.bytes, file.hash]);
    to_bytes([known.number, u64::from(known.files.is_some())].into_iter().chain(files))
}

fn decode_manifest(payload: &[u8]) -> Option<FilterManifest> {
    let numbers = to_numbers(payload)?;
    let ([number, is_complete], files) = numbers.split_first_chunk()?;
    let (files, []) = files.as_chunks() else { return None };
    let files: Vec<FilterFile> = files
        .iter()
        .map(|[number, bytes, hash]| FilterFile { number: *number, bytes: *bytes, hash: *hash })
        .collect();
    match is_complete {
        0 if files.is_empty() => Some(FilterManifest { number: *number, files: None }),
        1 => Some(FilterManifest { number: *number, files: Some(files) }),
        _ => None,
    }
}

fn to_bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn to_numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (numbers, []) = bytes.as_chunks::<8>() else { return None };
    Some(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}
