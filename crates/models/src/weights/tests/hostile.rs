//! Truncated and corrupted files of every format: never a panic, and every error one sentence. The corpus is fixed by its seed; the
//! `fuzz` folder, where there is one, starts from the same files.

use std::fs;
use std::path::Path;

use super::pickle::Purpose;
use super::*;

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

/// Opens a file and reads all of what it claims to hold. What it claims must not exceed what it can hold.
fn exercise(path: &Path, length: usize) -> Result<(), WeightsError> {
    let store = TensorStore::open(path)?;
    let names: Vec<String> = store.names().map(str::to_owned).collect();
    for name in names {
        let Ok(tensor) = store.readable(&name) else { continue };
        // The densest format is Q2_K, of 84 bytes for 256 elements.
        assert!(tensor.len() <= 4 * length, "{name} has {} elements in a file of {length} bytes", tensor.len());
        let mut values = vec![0.0; tensor.len()];
        store.read_f32(&name, 0..values.len(), &mut values)?;
    }
    if let Some(gguf) = store.gguf() {
        gguf.keys().for_each(|key| _ = gguf.get(key));
        gguf.config()?;
    }
    Ok(())
}

fn corrupt(source: &Path, name: &str, header: usize, rounds: usize) {
    let original = fs::read(source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut noise = Noise(7);
    let mut refused = 0;
    for round in 0..rounds {
        let mut bytes = original.clone();
        match round % 4 {
            0 => bytes.truncate(noise.below(original.len())),
            // Most of what can go wrong is in the header.
            1 | 2 => {
                for _ in 0..=noise.below(3) {
                    bytes[noise.below(header.min(original.len()))] ^= 1 << noise.below(8);
                }
            }
            _ => {
                let place = noise.below(original.len());
                let value = [0x00, 0xff, 0x7f, 0x80][noise.below(4)];
                bytes[place..(place + 8).min(original.len())].fill(value);
            }
        }
        // A new file for every round: one that is mapped must not be changed.
        fs::write(&path, &bytes).unwrap();
        if let Err(error) = exercise(&path, bytes.len()) {
            assert_sentence(&error.to_string(), "");
            refused += 1;
        }
        fs::remove_file(&path).unwrap();
    }
    assert!(refused > rounds / 4, "{name}: only {refused} of {rounds} were refused");
}

#[test]
fn corrupt_safetensors_are_refused() {
    corrupt(&golden("model.safetensors"), "model.safetensors", 450, 3000);
}

#[test]
fn corrupt_pickles_are_refused() {
    corrupt(&golden("pytorch_model.bin"), "pytorch_model.bin", 2500, 3000);
    corrupt(&golden("protocol4.bin"), "pytorch_model.bin", 2000, 2000);
}

#[test]
fn corrupt_gguf_files_are_refused() {
    corrupt(&golden("gemma2.gguf"), "model.gguf", 900, 3000);
    corrupt(&golden("llama.gguf"), "model.gguf", 1400, 1000);
}

#[test]
fn corrupt_indices_are_refused() {
    corrupt(&golden("shards-safetensors/model.safetensors.index.json"), "model.safetensors.index.json", 1000, 3000);
}

#[test]
fn a_pickle_cannot_grow_by_sharing() {
    // Each tuple holds the one before twice: copied out, sixty of them would fill any memory.
    let mut stream = vec![0x80, 2, b')', b'q', 0];
    for _ in 0..60 {
        stream.extend([b'h', 0, b'h', 0, 0x86, b'q', 0]);
    }
    stream.push(b'.');
    assert_eq!(pickle::kind(pickle::read(&stream, Purpose::Weights).unwrap().root), "a tuple");
    // A text of 4 GB in a stream of a few bytes.
    assert!(pickle::read(b"\x80\x02X\xff\xff\xff\xffab", Purpose::Weights).unwrap_err().contains("truncated"));
}
