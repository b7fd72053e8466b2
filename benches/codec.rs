//! Events to bytes and back, alone: what the one journal writer pays per event.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hotstock_engine::clock::Timestamp;
use hotstock_engine::ids::{ChainHash, Lsn};
use hotstock_persistence::codec::{decode_event, encode_event, link};

const BASE: Timestamp = Timestamp(1_760_000_000_000);

fn codec(c: &mut Criterion) {
    for lines in [1, 50] {
        let event = common::reserved(123_456, lines);
        let mut bytes = Vec::with_capacity(1 << 16);
        encode_event(&event, BASE, &mut bytes);
        let mut group = c.benchmark_group(format!("reserved, lines: {lines}, bytes: {}", bytes.len()));
        group.throughput(Throughput::Elements(1));
        group.bench_function("encode", |b| {
            let mut out = Vec::with_capacity(1 << 16);
            b.iter(|| {
                out.clear();
                encode_event(black_box(&event), BASE, &mut out);
                black_box(&out);
            });
        });
        group.bench_function("encode and chain", |b| {
            let mut out = Vec::with_capacity(1 << 16);
            let mut chain = ChainHash::default();
            b.iter(|| {
                out.clear();
                let body = encode_event(black_box(&event), BASE, &mut out);
                chain = link(chain, Lsn(7), event.at, &out[body..]);
                black_box(chain);
            });
        });
        group.bench_function("decode", |b| {
            b.iter(|| decode_event(&mut black_box(&bytes[..]), BASE));
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
