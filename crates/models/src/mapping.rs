//! Mapping a file into memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file into memory, read-only.
pub(crate) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private to this crate and only read, as bytes that are validated before use. As with every mapped file,
    // another process that truncates it meanwhile ends this one with a bus error; checkpoints are written by rename, never in place.
    unsafe { Mmap::map(file) }
}
