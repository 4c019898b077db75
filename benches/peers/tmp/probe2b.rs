use redisraft::log::index_file::*;
use redisraft::log::record::*;
use std::hint::black_box;
use std::time::Instant;
fn t(name: &str, n: u64, mut f: impl FnMut(u64)) {
    for _ in 0..2 {
        for i in 0..n / 10 {
            f(i);
        }
    }
    let mut best = f64::MAX;
    for _ in 0..7 {
        let s = Instant::now();
        for i in 0..n {
            f(i);
        }
        best = best.min(s.elapsed().as_nanos() as f64 / n as f64);
    }
    println!("{name}: {best:.1} ns");
}
fn main() {
    let p = vec![0x5au8; 4096];
    for l in [36usize, 43, 64, 100, 127, 128, 160, 256, 1024, 4096] {
        t(&format!("hash {l}"), 400_000, |_| {
            black_box(crc32fast::hash(black_box(&p[..l])));
        });
    }
    t("hasher", 400_000, |_| {
        black_box(crc32fast::Hasher::new());
    });
    t("sealed", 400_000, |i| {
        black_box(RecordHeader::sealed(
            Place { salt: 7, offset: i * 160 },
            (RecordType::Normal, 0),
            (i, 1),
            (128, 77),
            5,
        ));
    });
    let h =
        RecordHeader::sealed(Place { salt: 7, offset: 160 }, (RecordType::Normal, 0), (1, 1), (128, 77), 5);
    t("encode", 400_000, |_| {
        black_box(black_box(&h).encode());
    });
    let mut fb = FrameBuilder::new(7);
    t("frame push", 400_000, |i| {
        if i % 4096 == 0 {
            fb.bytes();
            fb.clear();
        }
        fb.push(IndexEntry {
            record_type: RecordType::Normal,
            index: i,
            term: 1,
            offset: (i % 4096 * 160) as u32,
            length: 128,
            record_crc: 99,
        });
    });
}
