//! Events as bytes: they come back as they were, and bytes that are none are refused without a panic.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use hotstock_engine::checkpoint::Image;
use hotstock_engine::clock::Timestamp;
use hotstock_engine::testing::samples;
use hotstock_persistence::codec::{
    FORMAT_VERSION, decode_event, decode_home, decode_image, encode_event, encode_home, encode_image,
};
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
    fn noise_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 1..=3_u8) {
        let _ = decode_event(&mut &bytes[..], BASE);
        let _ = decode_image(&mut &bytes[..], version);
        let _ = decode_home(&bytes);
    }

    #[test]
    fn changed_homes_are_refused_or_read_but_never_a_panic(seed in 0..500_u64, at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode_home(&samples::home_image(seed));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_home(&bytes);
    }

    #[test]
    fn entries_of_every_kind_come_back(seed in 0..1_000_000_u64) {
        let images = [
            Image::Stock(samples::stock_image(seed)),
            Image::Order(samples::order_image(seed)),
            Image::Request(samples::request_image(seed)),
            Image::Home(samples::home_image(seed)),
        ];
        let mut bytes = Vec::new();
        images.iter().for_each(|image| encode_image(image, &mut bytes));
        let mut left = &bytes[..];
        for image in images {
            prop_assert_eq!(decode_image(&mut left, FORMAT_VERSION), Ok(image));
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn an_order_over_several_places_comes_back_whole_or_not_at_all(seed in 0..1_000_000_u64) {
        let home = samples::home_image(seed);
        let mut bytes = encode_home(&home);
        prop_assert_eq!(decode_home(&bytes), Ok(home));
        for length in 0..bytes.len() {
            prop_assert!(decode_home(&bytes[..length]).is_err());
        }
        bytes.push(0);
        prop_assert!(decode_home(&bytes).is_err());
        bytes.pop();
        for version in [0, 1, 2, FORMAT_VERSION + 1] {
            bytes[0] = version;
            prop_assert!(decode_home(&bytes).is_err());
        }
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
