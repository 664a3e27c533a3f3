//! Changed fixtures of every format that is read: no panic, every error one sentence, and no more memory than the file can ask for. The
//! corpus is fixed by its seed. The functions are those of the fuzz targets.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use peak_alloc::PeakAlloc;

#[path = "../../../fuzz/src/lib.rs"]
mod entries;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Peaks are those of the process: one corpus at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A small generator of reproducible noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % bound as u64) as usize
    }
}

/// What lengths and offsets are replaced by.
const HUGE: [u64; 8] = [u64::MAX, i64::MAX as u64, 1 << 62, 1 << 40, u32::MAX as u64, i32::MAX as u64, 1 << 28, 1 << 20];

/// One change of a file; most happen in the first `header` or the last 300 bytes, where most can go wrong.
fn change(original: &[u8], header: usize, round: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let length = bytes.len();
    let place = |noise: &mut Noise| match noise.below(4) {
        0 => noise.below(length),
        1 => length - 1 - noise.below(length.min(300)),
        _ => noise.below(header.min(length)),
    };
    match round % 6 {
        0 => bytes.truncate(noise.below(length)),
        1 | 2 => {
            for _ in 0..=noise.below(3) {
                bytes[place(noise)] ^= 1 << noise.below(8);
            }
        }
        3 => {
            let (start, width) = (place(noise), [2, 4, 8][noise.below(3)]);
            let stop = (start + width).min(length);
            bytes[start..stop].copy_from_slice(&HUGE[noise.below(HUGE.len())].to_le_bytes()[..stop - start]);
        }
        4 => {
            let (start, value) = (place(noise), [0x00, 0xff, 0x7f, 0x80][noise.below(4)]);
            bytes[start..(start + 8).min(length)].fill(value);
        }
        _ => {
            // A piece of the file in another place: well-formed parts where they do not belong.
            let (from, to, count) = (place(noise), place(noise), 1 + noise.below(64));
            let piece = original[from..(from + count).min(length)].to_vec();
            bytes.splice(to..(to + count).min(length), piece);
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

fn exercise(name: &str, reader: &Reader, bytes: &[u8]) -> bool {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = (reader.read)(bytes);
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    let allowed = reader.multiple * bytes.len() + reader.constant;
    assert!(peak <= allowed, "{name}: {peak} bytes of memory for a file of {}", bytes.len());
    if let Err(message) = &result {
        assert!(!message.contains('\n') && message.len() < 1200, "{name}: {message}");
    }
    result.is_err()
}

/// Changes a file again and again. At least `least` of ten changes must be noticed.
fn corrupt(name: &str, original: &[u8], header: usize, rounds: usize, reader: &Reader, least: usize) {
    assert!(!exercise(name, reader, original), "{name}: the file itself should be read");
    let mut noise = Noise(7);
    let refused = (0..rounds).filter(|&round| exercise(name, reader, &change(original, header, round, &mut noise))).count();
    assert!(10 * refused > least * rounds, "{name}: only {refused} of {rounds} were refused");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

const MIB: usize = 1 << 20;

#[test]
fn changed_safetensors_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::safetensors, multiple: 60, constant: MIB / 8 };
    corrupt("model.safetensors", &file("weights/model.safetensors"), 500, 1500, &reader, 3);
    corrupt("gpt2", &file("language_models/gpt2/model.safetensors"), 2500, 500, &reader, 2);
}

#[test]
fn changed_pickles_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::pickle, multiple: 60, constant: MIB / 8 };
    corrupt("pytorch_model.bin", &file("weights/pytorch_model.bin"), 2500, 1500, &reader, 3);
    corrupt("protocol4.bin", &file("weights/protocol4.bin"), 2000, 1000, &reader, 3);
}

#[test]
fn changed_optimizer_states_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::optimizer, multiple: 60, constant: MIB / 4 };
    for (name, header) in [("single/optimizer.bin", 6000), ("trainer/optimizer.pt", 6000), ("deepspeed/mp_rank_00_model_states.pt", 9000)] {
        corrupt(name, &file(&format!("optimizer/gpt_neox/{name}")), header, 1000, &reader, 3);
    }
}

#[test]
fn changed_gguf_files_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::gguf, multiple: 60, constant: MIB / 8 };
    for name in ["gemma2", "llama3", "phi2_fused", "gptneox", "gpt2"] {
        corrupt(name, &file(&format!("gguf_models/{name}.gguf")), 2000, 400, &reader, 3);
    }
    let quantized = file("weights/llama.gguf");
    corrupt("llama", &quantized, 1400, 1000, &reader, 3);
}

#[test]
fn changed_indices_are_harmless() {
    let _alone = alone();
    let shard = file("weights/model.safetensors");
    let map = serde_json::json!({"weight_map": {
        "single": "a.safetensors", "half": "a.safetensors", "brain": "a.safetensors", "double": "a.safetensors",
        "scalar": "a.safetensors", "empty": "a.safetensors", "h.0.attn.bias": "a.safetensors"
    }});
    let index = map.to_string();
    let bytes = [&(index.len() as u16).to_le_bytes()[..], index.as_bytes(), &shard].concat();
    let reader = Reader { read: entries::index, multiple: 60, constant: MIB / 4 };
    corrupt("index", &bytes, index.len() + 400, 1500, &reader, 5);
}

#[test]
fn changed_configurations_are_harmless() {
    let _alone = alone();
    // The names of at most 10,000 layers' tensors are all that a configuration can ask for.
    let reader = Reader { read: entries::config, multiple: 200, constant: 96 * MIB };
    let mut cases: Vec<PathBuf> = std::fs::read_dir(golden("language_models")).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for (number, case) in cases.into_iter().enumerate() {
        let bytes = std::fs::read(case.join("config.json")).unwrap();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        corrupt(&name, &bytes, bytes.len(), 40, &reader, 3);
        // Every value replaced by ones of other kinds and sizes, for one or more models of every family.
        if !number.is_multiple_of(2) {
            continue;
        }
        let config: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for key in config.as_object().unwrap().keys() {
            for value in ["-1", "0", "1e300", "18446744073709551615", "16777216", "10000", "0.3", "[]", "{}", "\"x\"", "null", "true"] {
                let mut changed = config.clone();
                changed[key] = serde_json::from_str(value).unwrap();
                exercise(&format!("{name}, `{key}` is {value}"), &reader, changed.to_string().as_bytes());
            }
        }
    }
}

#[test]
fn changed_adapters_are_harmless() {
    let _alone = alone();
    let folder = golden("adapters/plain");
    let settings = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let tensors = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let bytes = [&(settings.len() as u16).to_le_bytes()[..], &settings, &tensors].concat();
    // The limit of a compiled regular expression, of which a changed pattern may make use, is 10 MiB.
    let reader = Reader { read: entries::adapter, multiple: 100, constant: 16 * MIB };
    corrupt("adapter", &bytes, settings.len() + 600, 600, &reader, 1);
}

#[test]
fn changed_token_files_are_harmless() {
    let _alone = alone();
    let reader = Reader { read: entries::tokens, multiple: 200, constant: MIB / 4 };
    corrupt("tokens", b"[[1, 2, 999, 4], [5, 6, 7],\n [8, 0, 10, 11, 12]]", 60, 1500, &reader, 4);
    let nested = "[".repeat(100_000);
    assert!(exercise("nested", &reader, nested.as_bytes()));
}

/// A file of one kind of instruction must not take more than a small multiple of its length, and no file more than a constant.
#[test]
fn pickles_of_many_small_instructions_are_bounded() {
    let _alone = alone();
    let reader = Reader { read: entries::pickle, multiple: 0, constant: 320 * MIB };
    let streams: [(&str, &[u8]); 6] =
        [("nothing", b"N"), ("dictionaries", b"}"), ("lists", b"]"), ("marks", b"("), ("memory", b"N\x94"), ("text", b"X\0\0\0\0")];
    for (name, instruction) in streams {
        let stream = [&b"\x80\x04"[..], &instruction.repeat(24 * MIB / instruction.len()), b"."].concat();
        assert!(exercise(name, &reader, &zip(&[("archive/data.pkl", &stream)])), "{name}");
    }
}

/// An archive of plain entries, without checksums.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let sizes = [content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let lengths = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        directory.extend(
            [&b"PK\x01\x02"[..], &[0; 16], &sizes, &lengths, &[0; 10], &(bytes.len() as u32).to_le_bytes(), name.as_bytes()].concat(),
        );
        bytes.extend([&b"PK\x03\x04"[..], &[0; 14], &sizes, &lengths, name.as_bytes(), content].concat());
    }
    let place = bytes.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    let end =
        [&b"PK\x05\x06"[..], &[0; 4], &count, &count, &(directory.len() as u32).to_le_bytes(), &place.to_le_bytes(), &[0; 2]].concat();
    bytes.extend(directory);
    bytes.extend(end);
    bytes
}
