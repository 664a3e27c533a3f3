//! Changed fixtures of the files that data sets and tokenizers come in: no panic, every error one sentence, and no more memory than the file
//! can ask for. The corpus is fixed by its seed. The functions are those of the fuzz targets.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use peak_alloc::PeakAlloc;

#[path = "../../../fuzz/src/data.rs"]
mod entries;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Peaks are those of the process: one corpus at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A small generator of reproducible noise: a linear congruential one, of which the upper bits are good enough to pick places.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

/// What lengths and offsets are replaced by.
const HUGE: [u64; 6] = [u64::MAX, i64::MAX as u64, 1 << 40, u32::MAX as u64, i32::MAX as u64, 1 << 24];

/// One change of a file: cut, bits flipped, a number replaced, bytes filled, or a piece of it in another place.
fn change(original: &[u8], round: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let length = bytes.len();
    let start = noise.below(length);
    match round % 5 {
        0 => bytes.truncate(start),
        1 => (0..=noise.below(3)).for_each(|_| bytes[noise.below(length)] ^= 1 << noise.below(8)),
        2 => {
            let stop = (start + [2, 4, 8][noise.below(3)]).min(length);
            bytes[start..stop].copy_from_slice(&HUGE[noise.below(HUGE.len())].to_le_bytes()[..stop - start]);
        }
        3 => bytes[start..(start + 6).min(length)].fill([0x00, 0xff, 0x7f, 0x80][noise.below(4)]),
        _ => {
            let (from, count) = (noise.below(length), 1 + noise.below(64));
            let piece = original[from..(from + count).min(length)].to_vec();
            bytes.splice(start..(start + count).min(length), piece);
        }
    }
    bytes
}

/// A reader, and how much memory it may take: a multiple of the file's length, and a constant.
struct Reader {
    read: fn(&[u8]) -> Result<(), String>,
    multiple: usize,
    constant: usize,
}

fn exercise(name: &str, reader: &Reader, bytes: &[u8]) -> Result<(), String> {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = (reader.read)(bytes);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= reader.multiple * bytes.len() + reader.constant, "{name}: {peak} bytes of memory for a file of {}", bytes.len());
    if let Err(message) = &result {
        assert!(!message.contains('\n') && message.len() < 1500, "{name}: {message}");
    }
    result
}

/// Changes a file again and again. At least `least` of ten changes must be noticed.
fn corrupt(name: &str, original: &[u8], rounds: usize, reader: &Reader, least: usize) {
    exercise(name, reader, original).unwrap_or_else(|problem| panic!("{name}: the file itself should be read: {problem}"));
    let mut noise = Noise(7);
    let refused = (0..rounds).filter(|&round| exercise(name, reader, &change(original, round, &mut noise)).is_err()).count();
    assert!(10 * refused > least * rounds, "{name}: only {refused} of {rounds} were refused");
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)).unwrap()
}

/// Two files as one input.
fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u16).to_le_bytes()[..], first, second].concat()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, content).unwrap();
    encoder.finish().unwrap()
}

const MIB: usize = 1 << 20;

#[test]
fn changed_arrow_files_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::arrow, multiple: 10, constant: MIB };
    for (name, least) in [("every_type", 1), ("zstd", 3), ("large", 3), ("version4", 3), ("view", 2)] {
        corrupt(name, &file(&format!("saved/{name}.arrow")), 1200, &reader, least);
    }
}

#[test]
fn changed_rows_are_harmless() {
    let _alone = alone();
    // The library of zstandard keeps a window, whose size a frame may ask for.
    let reader = Reader { read: entries::lines, multiple: 20, constant: 160 * MIB };
    let rows = br#"{"id": 1, "score": NaN, "text": "caf\u00e9 \ud83e\udd8a", "list": [1, {"a": -Infinity}]}
{"text": "two", "n": 1e300}
"#;
    corrupt("rows", rows, 1500, &reader, 3);
    corrupt("gzip", &gzip(&rows.repeat(20)), 600, &reader, 5);
    corrupt("zstandard", &zstd::encode_all(rows.repeat(20).as_slice(), 3).unwrap(), 600, &reader, 4);
    let nested = format!("{{\"text\": {}", "[".repeat(100_000));
    assert!(exercise("nested", &reader, nested.as_bytes()).is_err());
    let csv = Reader { read: entries::csv, multiple: 20, constant: 160 * MIB };
    corrupt("csv", b"id,text\n1,\"a \"\"b\"\"\"\n2,c\n3,\"d\ne\"\n", 1500, &csv, 2);
    corrupt("csv.gz", &gzip(b"id,text\n1,\"a b\"\n"), 400, &csv, 5);
}

/// A line without an end that a small file unpacks to: bounded, and refused.
#[test]
fn bombs_do_not_fill_the_memory() {
    let _alone = alone();
    let reader = Reader { read: entries::lines, multiple: 0, constant: 700 * MIB };
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(b' '), 1 << 31), 1).unwrap();
    assert!(bomb.len() < MIB, "{}", bomb.len());
    let message = exercise("bomb", &reader, &bomb).unwrap_err();
    assert!(message.contains("longer than 256 MiB"), "{message}");
}

#[test]
fn changed_vocabularies_are_harmless() {
    let _alone = alone();
    // Words, their ids both ways, merges, and the texts that are encoded.
    let reader = Reader { read: entries::vocabulary, multiple: 200, constant: 4 * MIB };
    let both = pair(&file("tokenizers/gpt2_bare/vocab.json"), &file("tokenizers/gpt2_bare/merges.txt"));
    corrupt("gpt2", &both, 1200, &reader, 6);
}

#[test]
fn changed_tokenizers_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::tokenizer_files, multiple: 300, constant: 16 * MIB };
    for (name, least) in [("neox_flag_true", 4), ("qwen2_fast", 4), ("llama_legacy", 4), ("gemma2", 4), ("decoder_flags", 4)] {
        let read = |file_name: &str| file(&format!("tokenizers/{name}/{file_name}"));
        corrupt(name, &pair(&read("tokenizer_config.json"), &read("tokenizer.json")), 500, &reader, least);
    }
}

#[test]
fn changed_batches_of_images_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::images, multiple: 100, constant: 4 * MIB };
    for name in ["protocol0", "protocol2", "protocol5", "label_big_endian2", "label_scalars5", "fortran5"] {
        // Nearly all of a file are pixels, which may be anything.
        corrupt(name, &file(&format!("cifar/pickles/{name}")), 400, &reader, 1);
    }
}
