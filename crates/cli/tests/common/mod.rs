//! The binary as a user runs it, and a small network that trains in a moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The binary, in a folder of its own, without the user's cache.
pub fn binary(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("basin-volume").unwrap();
    command.current_dir(folder).env("BASIN_VOLUME_CACHE", folder.join("cache"));
    command
}

/// A trained network with 64-16-10 units (1,210 weights), made once per test program.
pub fn network() -> &'static Path {
    static NETWORK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = NETWORK.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small");
        binary(folder.path())
            .args(["train", "digits", "--width", "16", "--depth", "1", "--epochs", "6", "--out"])
            .arg(&path)
            .assert()
            .success();
        (folder, path)
    });
    path
}

/// A copy of the small network that a test may damage.
#[allow(dead_code, reason = "not every test program damages networks")]
pub fn network_copy(folder: &Path) -> PathBuf {
    let copy = folder.join("network");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(network()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// The lines of `samples.jsonl` in the order of the indices.
#[allow(dead_code, reason = "not every test program reads samples")]
pub fn samples(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("samples.jsonl")).unwrap_or_default();
    let mut samples: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    samples.sort_by_key(|sample| sample["index"].as_u64());
    samples
}

/// A JSON file.
#[allow(dead_code, reason = "not every test program reads files")]
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}
