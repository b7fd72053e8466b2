//! Tests of the filter: what it knows over generations and restarts, and that it takes nothing for complete that is not
//! exactly what the newest checkpoint names.

use std::collections::BTreeMap;

use super::*;
use crate::testing::MemoryFilters;

fn order(n: u64) -> OrderNo {
    OrderNo::new(&format!("ORD-{n}")).unwrap()
}

fn request(n: u64) -> (SkuId, RequestId) {
    (SkuId::new(&format!("S{}", n % 7)).unwrap(), RequestId::new(&format!("R-{n}")).unwrap())
}

fn fill(known: &Known, from: u64, to: u64) {
    for n in from..to {
        known.add_order(&order(n), Timestamp(n));
        let (sku_id, request_id) = request(n);
        known.add_request(&sku_id, &request_id, Timestamp(n));
    }
}

fn knows_all(known: &Known, from: u64, to: u64) -> bool {
    (from..to).all(|n| {
        let (sku_id, request_id) = request(n);
        known.may_have_order(&order(n)) && known.may_have_request(&sku_id, &request_id)
    })
}

fn load(files: &MemoryFilters, named: &[FilterManifest]) -> Known {
    Known::load(Arc::new(files.clone()), named.iter().cloned())
}

/// Saves it and lets a checkpoint name it.
fn checkpoint(known: &Known) -> FilterManifest {
    let manifest = known.save().unwrap();
    known.named(&manifest);
    manifest
}

#[test]
fn what_left_is_known_over_generations_and_reloads_and_little_else() {
    let files = MemoryFilters::default();
    let count = KNOWN_FIRST_CAPACITY * 2;
    let known = load(&files, &[]);
    fill(&known, 0, count);
    assert!(known.stats().generations > 1 && knows_all(&known, 0, count));
    let manifest = checkpoint(&known);
    let known = load(&files, &[manifest]);
    assert!(known.is_ready() && knows_all(&known, 0, count), "no false negatives after a reload");
    let wrong = (count..count * 3).filter(|n| known.may_have_order(&order(*n))).count();
    assert!((wrong as u64) < count / 100, "{wrong} of {} new numbers are taken for known ones", count * 2);
    // It goes on where it was; what did not change is not written again.
    fill(&known, count, count + 100);
    let before = files.files();
    let manifest = checkpoint(&known);
    let same = files.files().keys().filter(|number| before.contains_key(number)).count();
    assert_eq!((same, files.files().len()), (before.len() - 1, before.len()));
    assert!(knows_all(&load(&files, &[manifest]), 0, count + 100));
}

#[test]
fn kinds_of_keys_are_kept_apart() {
    let known = load(&MemoryFilters::default(), &[]);
    known.add_order(&OrderNo::new("x").unwrap(), Timestamp(1));
    let id = |text: &str| RequestId::new(text).unwrap();
    let sku = |text: &str| SkuId::new(text).unwrap();
    known.add_request(&sku("ab"), &id("c"), Timestamp(1));
    assert!(
        !known.may_have_request(&sku("a"), &id("bc")) && !known.may_have_order(&OrderNo::new("abc").unwrap())
    );
}

/// What is done to the files.
type Harm<'a> = &'a dyn Fn(&mut BTreeMap<u64, Vec<u8>>);

/// Several generations, and the files of an older checkpoint.
fn two_checkpoints() -> (MemoryFilters, BTreeMap<u64, Vec<u8>>, FilterManifest) {
    let files = MemoryFilters::default();
    let known = load(&files, &[]);
    fill(&known, 0, KNOWN_FIRST_CAPACITY);
    checkpoint(&known);
    let old = files.files();
    fill(&known, KNOWN_FIRST_CAPACITY, KNOWN_FIRST_CAPACITY + 10);
    let manifest = checkpoint(&known);
    assert_eq!((old.len(), files.files().len()), (2, 2));
    (files, old, manifest)
}

#[test]
fn what_is_not_exactly_what_the_checkpoint_names_is_maybe_known() {
    let (files, old, manifest) = two_checkpoints();
    let right = files.files();
    let (&first, &last) = (right.keys().next().unwrap(), right.keys().next_back().unwrap());
    let old_last = old.values().next_back().unwrap().clone();
    let harms: [(&str, Harm<'_>); 8] = [
        ("all are gone", &|files| files.clear()),
        ("the first is gone", &|files| drop(files.remove(&first))),
        ("the last is gone", &|files| drop(files.remove(&last))),
        ("one is an older one", &|files| drop(files.insert(last, old_last.clone()))),
        ("all are older ones", &|files| files.clone_from(&old)),
        ("two are swapped", &|files| {
            let (a, b) = (files[&first].clone(), files[&last].clone());
            files.extend([(first, b), (last, a)]);
        }),
        ("one is damaged", &|files| files.get_mut(&first).unwrap()[100] ^= 1),
        ("one is cut short", &|files| files.get_mut(&last).unwrap().truncate(64)),
    ];
    let new = order(9_999_999);
    for (what, harm) in harms {
        let mut harmed = right.clone();
        harm(&mut harmed);
        files.put(harmed);
        let known = load(&files, std::slice::from_ref(&manifest));
        assert!(!known.is_ready() && known.may_have_order(&new), "{what}");
        let next = checkpoint(&known);
        assert!(next.number > manifest.number && next.files.is_none(), "what is not complete is not kept");
        assert_eq!(files.files().len(), 0, "{what}: nobody names them any more");
        // The newest speaks for all, also when another shard's checkpoint names what is there.
        files.put(right.clone());
        assert!(!load(&files, &[next, manifest.clone()]).is_ready(), "{what}");
    }
    files.put(right.clone());
    // What a crash left between the save and the end of a checkpoint does no harm.
    let mut more = right;
    more.insert(last + 100, vec![0; 64]);
    files.put(more);
    let known = load(&files, &[FilterManifest::default(), manifest]);
    assert!(known.is_ready() && !known.may_have_order(&new));
    assert!(knows_all(&known, 0, KNOWN_FIRST_CAPACITY + 10));
}

#[test]
fn files_of_the_last_checkpoint_stay_until_the_next_is_finished() {
    let (files, _, manifest) = two_checkpoints();
    let known = load(&files, std::slice::from_ref(&manifest));
    fill(&known, 300_000, 300_010);
    // Saved, and then the process ends: the checkpoint was not finished.
    let next = known.save().unwrap();
    assert!(load(&files, std::slice::from_ref(&manifest)).is_ready());
    // It was finished, and then the process ends: what is not named is still there.
    let known = load(&files, &[manifest, next]);
    assert!(known.is_ready() && knows_all(&known, 300_000, 300_010));
}

#[test]
fn a_new_directory_knows_nothing_and_an_empty_filter_is_not_a_missing_one() {
    let files = MemoryFilters::default();
    let known = load(&files, &[]);
    assert!(known.is_ready() && !known.may_have_order(&order(1)));
    let manifest = checkpoint(&known);
    assert!(load(&files, &[manifest]).is_ready());
    assert!(!load(&files, &[FilterManifest::default()]).is_ready(), "a directory that was made of the store");
}

#[test]
fn a_save_that_fails_is_done_again() {
    let files = MemoryFilters::default();
    let known = load(&files, &[]);
    fill(&known, 0, 10);
    files.fail(true);
    known.save().unwrap_err();
    files.fail(false);
    let manifest = checkpoint(&known);
    assert!(knows_all(&load(&files, &[manifest]), 0, 10));
}

#[test]
fn generations_go_when_everything_in_them_was_pruned() {
    let files = MemoryFilters::default();
    let known = load(&files, &[]);
    let count = KNOWN_FIRST_CAPACITY;
    fill(&known, 0, count);
    checkpoint(&known);
    let before = known.stats().generations;
    assert!(before > 1);
    known.pruned(Timestamp(0));
    assert_eq!(known.stats().generations, before);
    known.pruned(Timestamp(count));
    assert_eq!(
        (known.stats().generations, files.files().len() as u64),
        (1, before),
        "the checkpoint names them"
    );
    let manifest = checkpoint(&known);
    assert_eq!((manifest.files.clone().unwrap().len(), files.files().len()), (1, 1));
    fill(&known, count, count * 4);
    assert!(knows_all(&known, count, count * 4));
    assert!(load(&files, &[manifest]).is_ready());
}
