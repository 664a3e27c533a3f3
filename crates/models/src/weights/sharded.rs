//! Weights in several files, with an index (`*.index.json`) of which tensor is in which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::error::{WeightsError, printable};
use super::file::read_file;
use super::stored::{MappedFile, StoredTensor};

/// No published index is larger than a few MB.
const MAX_INDEX: u64 = 64 << 20;

/// What an index holds that matters here; its `metadata` is ignored.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards that an index names, sorted.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>, WeightsError> {
    Ok(read_index(path)?.weight_map.into_values().collect())
}

fn read_index(path: &Path) -> Result<Index, WeightsError> {
    let io = |source| WeightsError::Io { path: path.to_owned(), source };
    let fault = |problem: String| WeightsError::Format { path: path.to_owned(), problem };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > MAX_INDEX {
        return Err(fault(format!("it is {length} bytes long: an index has at most {MAX_INDEX}")));
    }
    let text = fs::read(path).map_err(io)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| fault(format!("it is not an index with a `weight_map` ({})", printable(&error.to_string()))))?;
    // A name with a path in it could reach any file of the machine.
    match index.weight_map.values().find(|name| name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0'])) {
        Some(name) => Err(fault(format!("its shard `{}` is not a plain file name", printable(name)))),
        None => Ok(index),
    }
}

/// The tensors of all shards.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let index = read_index(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let missing: Vec<String> = names.iter().filter(|name| !folder.join(name).is_file()).map(|name| (*name).clone()).collect();
    if !missing.is_empty() {
        return Err(WeightsError::MissingShards { path: path.to_owned(), names: missing });
    }
    let mut tensors = BTreeMap::new();
    let (mut unlisted, mut misplaced) = (Vec::new(), Vec::new());
    for shard in names {
        let file = MappedFile::open(&folder.join(shard))?;
        for (name, tensor) in read_file(&file)? {
            match index.weight_map.get(&name) {
                Some(expected) if expected == shard => {
                    tensors.insert(name, tensor);
                }
                Some(_) => misplaced.push(name),
                None => unlisted.push(name),
            }
        }
    }
    let disagree = |tensors, problem| Err(WeightsError::Index { path: path.to_owned(), tensors, problem });
    if !misplaced.is_empty() {
        return disagree(misplaced, "found in another shard than listed");
    }
    if !unlisted.is_empty() {
        return disagree(unlisted, "found in a shard, but not listed");
    }
    let absent: Vec<String> = index.weight_map.into_keys().filter(|name| !tensors.contains_key(name)).collect();
    if !absent.is_empty() {
        return disagree(absent, "listed, but not in the shard");
    }
    Ok(tensors)
}
