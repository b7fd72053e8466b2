//! Events as bytes: they come back as they were, and bytes that are none are refused without a panic.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a panic is how a test fails")]

use hotstock_engine::clock::Timestamp;
use hotstock_engine::command::Mode;
use hotstock_engine::event::{Change, ConfirmedLine, Event, MovedLine, OrderAfter, ReservedLine};
use hotstock_engine::ids::{ChainHash, Lsn, OrderNo, SkuId, WarehouseId};
use hotstock_engine::image::Image;
use hotstock_engine::order::{LineCounts, OrderStatus, Phase};
use hotstock_engine::testing::samples;
use hotstock_engine::units::{Levels, Serials};
use hotstock_persistence::codec::{
    FORMAT_VERSION, decode_event, decode_image, decode_serials, decode_span, encode_event, encode_image,
    encode_serials, encode_span, link,
};
use proptest::prelude::*;
use smallvec::smallvec;

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
        assert_eq!(decode_event(&mut left, BASE).unwrap().0, *event);
    }
    assert!(left.is_empty());
}

/// Whatever else is in the record: so the chain hash is one of the events alone.
#[test]
fn the_body_of_an_event_does_not_depend_on_the_base_time() {
    let mut bodies = Vec::new();
    for base in [BASE, Timestamp(0), Timestamp(u64::MAX)] {
        let event = samples::event(11);
        let mut bytes = b"something before it".to_vec();
        let start = bytes.len();
        let body = encode_event(&event, base, &mut bytes);
        let (again, read) = decode_event(&mut &bytes[start..], base).unwrap();
        assert_eq!((again, read), (event, &bytes[body..]));
        bodies.push(read.to_vec());
    }
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2]);
}

/// A number that stands in stores must be found again.
#[test]
fn the_chain_over_events_is_frozen() {
    let mut chain = ChainHash::default();
    for seed in 0..samples::KINDS * 3 {
        let (event, mut bytes) = (samples::event(seed), Vec::new());
        let body = encode_event(&event, BASE, &mut bytes);
        chain = link(chain, Lsn(seed + 1), event.at, &bytes[body..]);
    }
    assert_eq!(chain.to_string(), "4b1d59da9eebd528");
}

/// A small order: what the disk takes of each decides how fast a flash sale is.
#[test]
fn small_events_are_small() {
    let sizes = |seed: u64| {
        let mut bytes = Vec::new();
        encode_event(&Event { trace: None, at: BASE, ..small(seed) }, BASE, &mut bytes);
        bytes.len()
    };
    assert_eq!([sizes(0), sizes(1), sizes(2)], [50, 50, 49]);
}

/// A reserve, a confirm and an expiry of one unit of one SKU.
fn small(step: u64) -> Event {
    let (order_no, sku_id) = (OrderNo::new("ORD-2026-11-27-0001").unwrap(), SkuId::new("1001").unwrap());
    let warehouse_id = WarehouseId(1);
    let after = Some(Levels { available: 99_000, reserved: 700, sold: 300, version: 1_500 });
    let order = |phase, status, open| OrderAfter { phase, status, open, requests: 0, serials: 0, span: None };
    let change = match step {
        0 => Change::Reserved {
            order_no,
            buyer_id: None,
            mode: Mode::AllOrNothing,
            ttl_seconds: 900,
            asked: None,
            attempt: None,
            lines: smallvec![ReservedLine { sku_id, warehouse_id, quantity: 1, held: 1, after }],
        },
        1 => Change::Confirmed {
            order_no,
            request: None,
            attempt: None,
            lines: smallvec![ConfirmedLine {
                line: 0,
                sku_id,
                warehouse_id,
                held: 1,
                late: 0,
                after,
                counts: LineCounts { confirmed: 1, ..LineCounts::default() },
                serial: None,
            }],
            after: order(Phase::Open, OrderStatus::Confirmed, false),
        },
        _ => Change::Expired {
            order_no,
            lines: smallvec![MovedLine {
                line: 0,
                sku_id,
                warehouse_id,
                quantity: 1,
                after,
                counts: LineCounts { released: 1, lapsed: 1, ..LineCounts::default() },
            }],
            after: order(Phase::Expired, OrderStatus::Expired, false),
        },
    };
    Event { at: BASE, trace: None, change }
}

#[test]
fn any_two_times_have_a_distance() {
    for at in [0, 1, u64::MAX / 2, u64::MAX] {
        for base in [0, 1, u64::MAX / 2 + 2, u64::MAX] {
            let mut event = samples::event(7);
            event.at = Timestamp(at);
            let mut bytes = Vec::new();
            encode_event(&event, Timestamp(base), &mut bytes);
            assert_eq!(decode_event(&mut &bytes[..], Timestamp(base)).unwrap().0, event);
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
    fn noise_is_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_event(&mut &bytes[..], BASE);
        let _ = decode_image(&mut &bytes[..]);
        let _ = (decode_span(&bytes), decode_serials(&bytes));
    }

    #[test]
    fn changed_spans_are_refused_or_read_but_never_a_panic(seed in 0..500_u64, at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode_span(&samples::span(seed));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_span(&bytes);
    }

    #[test]
    fn entries_of_every_kind_come_back(seed in 0..1_000_000_u64) {
        let images = [
            Image::Stock(samples::stock_image(seed)),
            Image::Order(samples::order_image(seed)),
            Image::Request(samples::request_image(seed)),
            Image::Hold(samples::hold_image(seed)),
        ];
        let mut bytes = Vec::new();
        images.iter().for_each(|image| encode_image(image, &mut bytes));
        let mut left = &bytes[..];
        for image in images {
            prop_assert_eq!(decode_image(&mut left), Ok(image));
        }
        prop_assert!(left.is_empty());
    }

    #[test]
    fn what_stands_in_columns_comes_back_whole_or_not_at_all(seed in 0..1_000_000_u64) {
        let span = samples::span(seed);
        let serials: Vec<Serials> = samples::hold_image(seed).lines.into_iter().flat_map(|line| line.serials).collect();
        let (mut of_span, mut of_serials) = (encode_span(&span), encode_serials(&serials));
        prop_assert_eq!(decode_span(&of_span), Ok(span));
        prop_assert_eq!(decode_serials(&of_serials), Ok(serials));
        let refuses_span = |bytes: &[u8]| decode_span(bytes).is_err();
        let refuses_serials = |bytes: &[u8]| decode_serials(bytes).is_err();
        for (bytes, refuses) in
            [(&mut of_span, &refuses_span as &dyn Fn(&[u8]) -> bool), (&mut of_serials, &refuses_serials)]
        {
            for length in 0..bytes.len() {
                prop_assert!(refuses(&bytes[..length]));
            }
            bytes.push(0);
            prop_assert!(refuses(bytes));
            bytes.pop();
            for version in [0, FORMAT_VERSION + 1] {
                bytes[0] = version;
                prop_assert!(refuses(bytes));
            }
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
