//! A pickle cannot grow: what the corpus of changed files (`tests/hostile.rs`) does not try.

use basin_volume_data::pickle::{self, Purpose};

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
