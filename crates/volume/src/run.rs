//! Runs: a folder with a manifest, one line per sample written as it is computed, and a result; resumed, sharded and merged.

pub mod answer;
pub mod driver;
pub mod folder;
pub mod ladders;
pub mod manifest;
pub mod record;
pub mod result;
pub mod shard;
pub(crate) mod tensors;
