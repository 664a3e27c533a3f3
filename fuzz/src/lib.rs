//! What the fuzz targets do with their input; the test suite does the same with a fixed corpus.
//!
//! Every function returns the message of the error that the reader gives, if it gives one. A panic is a fault of the reader, and so is a
//! tensor that claims more elements than its file can hold.

use std::fs;
use std::path::Path;

use basin_volume_data::json;
use basin_volume_data::tokens::{ModelLimits, Positions, read_json};
use basin_volume_models::arch::from_config;
use basin_volume_models::checkpoint::{Checkpoint, optimizer};
use basin_volume_models::weights::TensorStore;

// The tests of the two crates take the file that is theirs.
#[cfg(not(test))]
pub mod data;

/// A `pytorch_model.bin`.
pub fn pickle(bytes: &[u8]) -> Result<(), String> {
    weights(TensorStore::from_bytes(Path::new("pytorch_model.bin"), bytes), bytes.len())
}

/// A `.gguf` file: tensors, metadata, and the configuration made of it.
pub fn gguf(bytes: &[u8]) -> Result<(), String> {
    weights(TensorStore::from_bytes(Path::new("model.gguf"), bytes), bytes.len())
}

/// A `.safetensors` file.
pub fn safetensors(bytes: &[u8]) -> Result<(), String> {
    weights(TensorStore::from_bytes(Path::new("model.safetensors"), bytes), bytes.len())
}

/// An index and a shard: the first two bytes are the length of the index, what follows it is the shard `a.safetensors`.
pub fn index(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or("no length")?;
    let (index, shard) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or("no index")?;
    with_folder(|folder| {
        write(&folder.join("model.safetensors.index.json"), index)?;
        write(&folder.join("a.safetensors"), shard)?;
        weights(TensorStore::open(folder), shard.len())
    })
}

/// A `config.json`, up to the list of the network's tensors.
pub fn config(bytes: &[u8]) -> Result<(), String> {
    // As checkpoints are read: with NaN and Infinity, as Python writes them.
    let config = json::from_slice(bytes)?;
    let architecture = from_config(&config).map_err(|error| error.to_string())?;
    assert!(architecture.layout().dimension() > 0, "a network without weights");
    Ok(())
}

/// The network whose state `optimizer` takes its input for.
const NETWORK: &[u8] = include_bytes!("../../tests/golden/optimizer/gpt_neox/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../tests/golden/optimizer/gpt_neox/model.safetensors");

/// The state of an optimizer: an `optimizer.pt`, or DeepSpeed's `mp_rank_00_model_states.pt`.
pub fn optimizer(bytes: &[u8]) -> Result<(), String> {
    let config = json::from_slice(NETWORK)?;
    let layout = from_config(&config).map_err(|error| error.to_string())?.layout();
    let store = TensorStore::from_bytes(Path::new("model.safetensors"), WEIGHTS).map_err(|error| error.to_string())?;
    let mut weights = vec![0.0; layout.dimension()];
    for parameter in layout.parameters() {
        store.read_f32(&parameter.name, 0..parameter.len(), &mut weights[parameter.range()]).map_err(|error| error.to_string())?;
    }
    with_folder(|folder| {
        let mut result = Ok(());
        for name in ["optimizer.pt", "mp_rank_00_model_states.pt"] {
            let path = folder.join(name);
            write(&path, bytes)?;
            match optimizer::read(&path, &layout, &|range, out| out.copy_from_slice(&weights[range])) {
                Ok(moments) => {
                    let moments = moments.ok_or("a file that is there has a state")?;
                    assert!(moments.first.iter().all(|value| value.is_finite()), "a moment that is not finite");
                    assert!(moments.second.iter().all(|&value| value >= 0.0 && value.is_finite()), "a negative mean of squares");
                    return Ok(());
                }
                Err(error) => result = Err(error.to_string()),
            }
        }
        result
    })
}

/// The base of the adapters that `adapter` reads.
const BASE: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../../tests/golden/language_models/llama_untied/config.json")),
    ("model.safetensors", include_bytes!("../../tests/golden/language_models/llama_untied/model.safetensors")),
];

/// An `adapter_config.json` and an `adapter_model.safetensors` beside their base; the first two bytes are the length of the former.
pub fn adapter(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or("no length")?;
    let (settings, tensors) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or("no settings")?;
    with_folder(|folder| {
        let folder = folder.join("adapter");
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        for (name, content) in BASE {
            write(&folder.join(name), content)?;
        }
        write(&folder.join("adapter_config.json"), settings)?;
        write(&folder.join("adapter_model.safetensors"), tensors)?;
        let checkpoint = Checkpoint::load(&folder).map_err(|error| error.to_string())?;
        assert!(checkpoint.parameters.values().iter().all(|value| value.is_finite()), "a weight that is not finite");
        Ok(())
    })
}

/// A JSON file of token ids.
pub fn tokens(bytes: &[u8]) -> Result<(), String> {
    let limits = ModelLimits { vocabulary: 1000, positions: Some(64) };
    let tokens = with_folder(|folder| {
        let path = folder.join("tokens.json");
        write(&path, bytes)?;
        read_json(&path, limits, Some(0), Positions::All).map_err(|error| error.to_string())
    })?;
    assert!(tokens.ids().iter().all(|&id| id < 1000), "an id outside the vocabulary");
    Ok(())
}

/// Runs `task` with a folder of its own, which all calls on a thread share: making one takes longer than reading a small file.
fn with_folder<T>(task: impl FnOnce(&Path) -> Result<T, String>) -> Result<T, String> {
    thread_local!(static FOLDER: std::io::Result<tempfile::TempDir> = tempfile::tempdir());
    FOLDER.with(|folder| match folder {
        Ok(folder) => task(folder.path()),
        Err(error) => Err(error.to_string()),
    })
}

/// Writes a new file: taking the place of an old one is quicker than overwriting it.
fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    _ = fs::remove_file(path);
    fs::write(path, content).map_err(|error| error.to_string())
}

/// Reads all that a store claims to hold.
fn weights<E: ToString>(store: Result<TensorStore, E>, length: usize) -> Result<(), String> {
    let store = store.map_err(|error| error.to_string())?;
    let mut buffer = vec![0.0; 4096];
    for name in store.names() {
        let shape = store.shape(name).unwrap_or_default();
        if store.read_f32(name, 0..0, &mut []).is_err() {
            // Integers and truth values are listed, and not read.
            continue;
        }
        let count: usize = shape.iter().product();
        // The densest format is Q2_K, of 84 bytes for 256 elements.
        assert!(count <= 4 * length, "{name} has {count} elements in a file of {length} bytes");
        for start in (0..count).step_by(buffer.len()) {
            let range = start..count.min(start + buffer.len());
            let part = &mut buffer[..range.len()];
            store.read_f32(name, range, part).map_err(|error| error.to_string())?;
        }
    }
    if let Some(gguf) = store.gguf() {
        gguf.keys().for_each(|key| _ = gguf.get(key));
        gguf.config().map_err(|error| error.to_string())?;
    }
    Ok(())
}
