//! Checkpoints: found only when they are complete, and damage is an error, never a shorter checkpoint.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use std::fs;
use std::path::PathBuf;

use hotstock_engine::checkpoint::{
    CheckpointEnd, CheckpointStore, CheckpointWriter, FilterFile, FilterManifest,
};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::{Mode, StockStatus};
use hotstock_engine::ids::{BuyerId, Lsn, OrderNo, RequestId, ShardId, SkuId, WarehouseId};
use hotstock_engine::image::{Image, LineImage, OrderImage, RequestImage, StockImage};
use hotstock_engine::limits::MAX_GENERATIONS;
use hotstock_engine::order::{OrderRequest, Phase};
use hotstock_engine::units::Levels;
use hotstock_persistence::checkpoint::FileCheckpoints;
use hotstock_persistence::data_dir::DataDir;

const SHARD: ShardId = ShardId(1);
const END: CheckpointEnd =
    CheckpointEnd { end: Lsn(90), time: Timestamp(1_700_000_000_000), departed: Lsn(44) };

struct Home {
    dir: tempfile::TempDir,
    checkpoints: FileCheckpoints,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = DataDir::open(dir.path(), Some(2)).unwrap().checkpoints();
        Self { dir, checkpoints }
    }

    fn write(&self, begin: u64, slices: &[Vec<Image>]) -> Box<dyn CheckpointWriter> {
        let mut writer = self.checkpoints.create(SHARD, Lsn(begin)).unwrap();
        for slice in slices {
            writer.write(slice).unwrap();
        }
        writer
    }

    /// Begin, end and entries of the newest; `Err` with the text of the error.
    fn read(&self) -> Result<Option<(Lsn, CheckpointEnd, Vec<Image>)>, String> {
        let Some(mut reader) = self.checkpoints.newest(SHARD).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let mut images = Vec::new();
        while let Some(slice) = reader.next_slice().map_err(|error| error.to_string())? {
            images.extend(slice);
        }
        assert_eq!(reader.known(), &known());
        Ok(Some((reader.begin(), reader.end(), images)))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("checkpoints/shard-001")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// As full as can be.
fn known() -> FilterManifest {
    let file = |n: u64| FilterFile { number: n, bytes: n << 40, hash: u64::MAX - n };
    FilterManifest { number: 99, files: Some((0..MAX_GENERATIONS as u64).map(file).collect()) }
}

fn image(seed: u32) -> Image {
    let sku_id = SkuId::new(&format!("sku-{seed}")).unwrap();
    let warehouse_id = WarehouseId(seed);
    let number = u64::from(seed);
    let levels = Levels { available: number, reserved: 2, sold: u64::MAX, version: number * 7 };
    let request_id = RequestId::new(&format!("请求{seed}")).unwrap();
    let lsn = Lsn(number);
    match seed % 3 {
        0 => Image::Stock(StockImage {
            sku_id,
            warehouse_id,
            levels,
            status: [StockStatus::OnSale, StockStatus::Suspended][seed as usize / 3 % 2],
            initial: 5,
            supplied: number,
            forgotten_sold: number << 30,
            lsn,
            hot: seed.is_multiple_of(2),
            numbered: None,
        }),
        1 => Image::Order(OrderImage {
            order_no: OrderNo::new(&format!("ORD-{seed}")).unwrap(),
            buyer_id: seed.is_multiple_of(2).then(|| BuyerId::new("u7").unwrap()),
            mode: [Mode::AllOrNothing, Mode::BestEffort][seed as usize / 3 % 2],
            phase: [Phase::Open, Phase::Released, Phase::Expired, Phase::Cancelled][seed as usize / 3 % 4],
            created_at: Timestamp(1),
            expires_at: Timestamp(u64::MAX),
            changed_at: Timestamp(number),
            lsn,
            lines: (0..seed % 40)
                .map(|place| LineImage {
                    sku_id: sku_id.clone(),
                    warehouse_id: WarehouseId(place),
                    quantity: 1,
                    held: 2,
                    confirmed: 3,
                    released: 4,
                    returned: 5,
                    lapsed: u32::MAX,
                })
                .collect(),
            requests: (0..seed % 3)
                .map(|place| OrderRequest {
                    request_id: (place == 1).then(|| request_id.clone()),
                    fingerprint: u64::MAX / 3 * u64::from(place),
                })
                .collect(),
            serials: Vec::new(),
            span: None,
        }),
        _ => Image::Request(RequestImage {
            sku_id,
            request_id,
            warehouse_id,
            fingerprint: u64::MAX - number,
            after: levels,
            at: Timestamp(number),
            lsn,
        }),
    }
}

fn images(seeds: std::ops::Range<u32>) -> Vec<Image> {
    seeds.map(image).collect()
}

#[test]
fn a_finished_one_is_read_back() {
    let home = Home::new();
    assert_eq!(home.read(), Ok(None));
    home.write(40, &[images(0..100), Vec::new(), images(100..150)]).finish(END, &known()).unwrap();
    assert_eq!(home.read(), Ok(Some((Lsn(40), END, images(0..150)))));
    assert!(home.checkpoints.newest(ShardId(0)).unwrap().is_none());
}

#[test]
fn what_it_says_of_the_filter_is_read_back() {
    let home = Home::new();
    for files in [None, Some(Vec::new()), Some(vec![FilterFile::of(7, b"x")]), known().files] {
        let known = FilterManifest { number: 7, files };
        home.write(1, &[images(0..3)]).finish(END, &known).unwrap();
        assert_eq!(home.checkpoints.newest(SHARD).unwrap().unwrap().known(), &known);
    }
}

#[test]
fn an_empty_one_is_one_too() {
    let home = Home::new();
    home.write(1, &[]).finish(END, &known()).unwrap();
    assert_eq!(home.read(), Ok(Some((Lsn(1), END, Vec::new()))));
}

#[test]
fn a_large_slice_is_read_in_pieces() {
    let home = Home::new();
    let slice = images(0..60_000);
    home.write(1, std::slice::from_ref(&slice)).finish(END, &known()).unwrap();
    let mut reader = home.checkpoints.newest(SHARD).unwrap().unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = reader.next_slice().unwrap() {
        pieces.push(piece);
    }
    assert!(pieces.len() > 1);
    assert_eq!(pieces.concat(), slice);
}

#[test]
fn an_unfinished_one_is_not_found_and_leaves_nothing() {
    let home = Home::new();
    home.write(1, &[images(0..10)]).finish(END, &known()).unwrap();
    let unfinished = home.write(2, &[images(10..20)]);
    assert_eq!(home.read(), Ok(Some((Lsn(1), END, images(0..10)))));
    drop(unfinished);
    assert_eq!(home.files().len(), 1);
    // The process died while it wrote: the next one cleans up.
    std::mem::forget(home.write(2, &[images(10..20)]));
    assert_eq!(home.files().len(), 2);
    assert_eq!(home.read(), Ok(Some((Lsn(1), END, images(0..10)))));
    drop(home.write(3, &[]));
    assert_eq!(home.files().len(), 1);
}

#[test]
fn one_that_was_given_up_can_not_touch_its_successor() {
    let home = Home::new();
    let given_up = home.write(1, &[images(0..10)]);
    let successor = home.write(2, &[images(0..20)]);
    drop(given_up);
    let given_up = home.write(3, &[]);
    assert!(successor.finish(END, &known()).is_err(), "it was thrown away when the next was begun");
    given_up.finish(END, &known()).unwrap();
    assert_eq!(home.read(), Ok(Some((Lsn(3), END, Vec::new()))));
}

#[test]
fn the_newest_replaces_the_older() {
    let home = Home::new();
    for round in 1..5 {
        let end = CheckpointEnd { end: Lsn(round), ..END };
        home.write(round, &[images(0..10)]).finish(end, &known()).unwrap();
        assert_eq!(home.read(), Ok(Some((Lsn(round), end, images(0..10)))));
        assert_eq!(home.files().len(), 1);
    }
}

#[test]
fn every_changed_byte_is_an_error() {
    let home = Home::new();
    home.write(40, &[images(0..6), images(6..9)]).finish(END, &known()).unwrap();
    let file = home.files().remove(0);
    let whole = fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        fs::write(&file, changed).unwrap();
        let error = home.read().expect_err(&format!("byte {at}"));
        assert!(error.contains("checkpoints/shard-001"), "{error}");
        assert!(error.contains("move that file away") && error.contains("the journal alone"), "{error}");
    }
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    let home = Home::new();
    home.write(40, &[images(0..6), images(6..9)]).finish(END, &known()).unwrap();
    let file = home.files().remove(0);
    let whole = fs::read(&file).unwrap();
    for length in 0..whole.len() {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(home.read().is_err(), "{length} bytes");
    }
    fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
    assert!(home.read().is_err());
    // One that an operator put back beside it.
    fs::write(file.with_file_name("000000000000"), &whole).unwrap();
    let error = home.read().unwrap_err();
    assert!(error.contains("is taken from the checkpoint before it and the journal"), "{error}");
}

#[test]
fn a_block_that_is_left_out_is_an_error() {
    let home = Home::new();
    home.write(40, &[images(0..6), images(6..9)]).finish(END, &known()).unwrap();
    let file = home.files().remove(0);
    let mut whole = fs::read(&file).unwrap();
    let length = u32::from_le_bytes(whole[27..31].try_into().unwrap()) as usize;
    whole.drain(22..22 + 13 + length);
    fs::write(&file, whole).unwrap();
    assert!(home.read().unwrap_err().contains("missing"));
}

#[test]
fn a_file_of_another_shard_is_an_error() {
    let home = Home::new();
    home.write(40, &[images(0..6)]).finish(END, &known()).unwrap();
    let file = home.files().remove(0);
    let other = home.dir.path().join("checkpoints/shard-000");
    fs::create_dir(&other).unwrap();
    fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    assert!(home.checkpoints.newest(ShardId(0)).is_err());
}

/// What a start reads it rests on: the journal before it goes. So it is there after a power loss, also when the process
/// that wrote it ended between giving it its name and making that durable.
#[cfg(feature = "testing")]
#[test]
fn what_was_read_is_there_after_a_power_loss() {
    use hotstock_persistence::testing::{DiskFault, SimulatedDisk};

    for (operations, seed) in (0..24).flat_map(|operations| (0..8).map(move |seed| (operations, seed))) {
        let disk = SimulatedDisk::new(seed);
        let mounted = disk.mount("disk");
        let checkpoints = FileCheckpoints::new(mounted.root().join("checkpoints"));
        let write = |begin: u64| {
            let mut writer = checkpoints.create(SHARD, Lsn(begin))?;
            writer.write(&images(0..3))?;
            writer.finish(END, &known())
        };
        let newest = || checkpoints.newest(SHARD).unwrap().map(|reader| reader.begin());
        if operations % 2 == 0 {
            write(10).unwrap();
        }
        disk.fail(DiskFault::PowerOff(operations / 2));
        drop(write(20));
        // The process ended, and the machine did not.
        disk.power_off();
        disk.power_on();
        let read = newest();
        disk.power_cycle();
        assert_eq!(newest(), read, "after {operations} operations, seed {seed}");
    }
}
