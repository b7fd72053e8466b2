//! Events as bytes: they come back as they were, and bytes that are none are refused without a panic.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use hotstock_engine::clock::Timestamp;
use hotstock_engine::testing::samples;
use hotstock_persistence::codec::{decode_event, decode_image, encode_event};
use proptest::prelude::*;

const BASE: Timestamp = Timestamp(1_700_000_000_500);

#[test]
fn events_of_every_kind_come_back() {
    let events: Vec<_> = (0..samples::KINDS * 30).map(samples::event).collect();
    let mut bytes = Vec::new();
    for event in &events {
        encode_event(event, BASE, &mut bytes);
    }
    let mut left = &bytes[..];
    for event in &events {
        assert_eq!(decode_event(&mut left, BASE).as_ref(), Ok(event));
    }
    assert!(left.is_empty());
}

#[test]
fn any_two_times_have_a_distance() {
    for at in [0, 1, u64::MAX / 2, u64::MAX] {
        for base in [0, 1, u64::MAX / 2 + 2, u64::MAX] {
            let mut event = samples::event(7);
            event.at = Timestamp(at);
            let mut bytes = Vec::new();
            encode_event(&event, Timestamp(base), &mut bytes);
            assert_eq!(decode_event(&mut &bytes[..], Timestamp(base)), Ok(event));
        }
    }
}

#[test]
fn every_cut_is_refused() {
    for seed in 0..samples::KINDS * 2 {
        let mut bytes = Vec::new();
        encode_event(&samples::event(seed), BASE, &mut bytes);
        for length in 0..bytes.len() {
            assert!(decode_event(&mut &bytes[..length], BASE).is_err(), "{length} of {bytes:?}");
        }
    }
}

proptest! {
    #[test]
    fn noise_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 1..=2_u8) {
        let _ = decode_event(&mut &bytes[..], BASE);
        let _ = decode_image(&mut &bytes[..], version);
    }

    #[test]
    fn changed_events_are_refused_or_read_but_never_a_panic(seed in 0..500_u64, at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = Vec::new();
        encode_event(&samples::event(seed), BASE, &mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_event(&mut &bytes[..], BASE);
    }
}
