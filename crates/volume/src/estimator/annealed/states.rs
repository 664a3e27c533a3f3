//! The states of chains in a run folder: `states/NUMBER.safetensors`, one tensor `chain.N` `[D]` (F32) per chain: its weights. Chains that move in other
//! coordinates have these beside them, as `coordinates.N`, and go on from them.
//!
//! Only the states after the last block and those at the beginning of the stay are needed to go on, so the others are removed, except the last ones
//! of every stay at the density that is wanted: networks that behave like the center, which are worth a look.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::error::AnnealedError;
use super::keeper::Keeper;
use super::record::{AnnealedRecord, Relaxation};
use crate::coordinates::Coordinates;
use crate::run::folder::{RunFolder, write_atomically};

/// Name of the folder of states inside a run folder.
pub const STATES: &str = "states";
/// Name of the file in it with the state that the spring is attached to, as the only chain.
pub const ANCHOR: &str = "anchor.safetensors";
/// Names of the tensors, before the number of the chain.
const WEIGHTS: &str = "chain";
const COORDINATES: &str = "coordinates";
/// Key of its metadata that says how it was found.
const RELAXATION: &str = "relaxation";
/// Key of the metadata that says whether states are of the wanted density.
const SETTLED: &str = "settled";

/// Keeps the records of a run in its folder and the states of its chains beside them.
pub struct FolderKeeper<'a> {
    folder: &'a mut RunFolder,
    states: PathBuf,
    /// The newest states, and whether they are of the wanted density.
    newest: Option<(u64, bool)>,
    /// States that are kept for the stay that began after them.
    origin: Option<u64>,
    /// What may be removed once the records are kept.
    outdated: Vec<u64>,
    /// What the states are, when not weights.
    coordinates: Option<&'a dyn Coordinates>,
}

impl std::fmt::Debug for FolderKeeper<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FolderKeeper").field("states", &self.states).field("newest", &self.newest).finish_non_exhaustive()
    }
}

fn keep_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AnnealedError {
    AnnealedError::Keep(error.into())
}

impl<'a> FolderKeeper<'a> {
    /// A keeper for this folder; creates the folder of states.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn new(folder: &'a mut RunFolder) -> Result<Self, AnnealedError> {
        let states = folder.path().join(STATES);
        fs::create_dir_all(&states).map_err(|error| keep_error(format!("cannot create {}: {error}", states.display())))?;
        Ok(Self { folder, states, newest: None, origin: None, outdated: Vec::new(), coordinates: None })
    }

    /// The states are in these coordinates.
    #[must_use]
    pub fn with_coordinates(self, coordinates: &'a dyn Coordinates) -> Self {
        Self { coordinates: Some(coordinates), ..self }
    }

    /// The tensors that chains go on from.
    fn name(&self) -> &'static str {
        if self.coordinates.is_some() { COORDINATES } else { WEIGHTS }
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.states.join(format!("{sequence:06}.safetensors"))
    }
}

impl Keeper for FolderKeeper<'_> {
    fn keep_states(&mut self, sequence: u64, states: &[&[f32]], settled: bool, origin: Option<u64>) -> Result<(), AnnealedError> {
        write_states(&self.path(sequence), states, self.coordinates, HashMap::from([(SETTLED.to_owned(), settled.to_string())]))?;
        let is_needed = |states: u64| Some(states) == origin;
        if let Some((before, was_settled)) = self.newest.replace((sequence, settled)) {
            if is_needed(before) && !was_settled {
                self.outdated.extend(self.origin.replace(before).filter(|old| *old != before));
            } else if (!was_settled || settled) && before != sequence {
                self.outdated.push(before);
            }
        }
        if let Some(before) = self.origin.filter(|before| !is_needed(*before)) {
            self.outdated.push(before);
            self.origin = None;
        }
        Ok(())
    }

    fn states(&mut self, sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError> {
        let found = read(&self.path(sequence), self.name())?.map(with_mark);
        if let Some((_, settled)) = &found {
            // The newer ones are asked for first.
            match self.newest {
                Some((newest, _)) if sequence < newest => self.origin = (!settled).then_some(sequence),
                _ => self.newest = Some((sequence, *settled)),
            }
        }
        Ok(found.map(|(states, _)| states))
    }

    fn keep_records(&mut self, records: &[AnnealedRecord]) -> Result<(), AnnealedError> {
        for record in records {
            self.folder.append(record).map_err(keep_error)?;
        }
        for outdated in std::mem::take(&mut self.outdated) {
            // A file more is no harm.
            let _ = fs::remove_file(self.path(outdated));
        }
        Ok(())
    }

    fn keep_anchor(&mut self, progress: &Relaxation, state: &[f32]) -> Result<(), AnnealedError> {
        let text = serde_json::to_string(progress).map_err(keep_error)?;
        let metadata = HashMap::from([(SETTLED.to_owned(), progress.is_done.to_string()), (RELAXATION.to_owned(), text)]);
        write_states(&self.states.join(ANCHOR), &[state], self.coordinates, metadata)
    }

    fn anchor(&mut self) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError> {
        let path = self.states.join(ANCHOR);
        let Some((mut states, metadata)) = read(&path, self.name())? else { return Ok(None) };
        let progress = metadata.get(RELAXATION).and_then(|text| serde_json::from_str(text).ok());
        match (states.pop(), progress) {
            (Some(state), Some(progress)) => Ok(Some((progress, state))),
            _ => Err(keep_error(format!("{} does not say how its state was found: begin again in a new folder", path.display()))),
        }
    }
}

fn write_states(
    path: &Path,
    states: &[&[f32]],
    coordinates: Option<&dyn Coordinates>,
    metadata: HashMap<String, String>,
) -> Result<(), AnnealedError> {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let mut tensors: Vec<(String, Vec<u8>)> = Vec::new();
    for (chain, state) in states.iter().enumerate() {
        if let Some(coordinates) = coordinates {
            let mut weights = state.to_vec();
            coordinates.leave(&mut weights);
            tensors.push((format!("{WEIGHTS}.{chain}"), bytes(&weights)));
            tensors.push((format!("{COORDINATES}.{chain}"), bytes(state)));
        } else {
            tensors.push((format!("{WEIGHTS}.{chain}"), bytes(state)));
        }
    }
    let views = tensors.iter().map(|(name, bytes)| TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map(|view| (name, view)));
    let views: Vec<(&String, TensorView<'_>)> = views.collect::<Result<_, _>>().map_err(keep_error)?;
    let file = safetensors::serialize(views, Some(metadata)).map_err(keep_error)?;
    write_atomically(path, &file).map_err(keep_error)
}

/// States of chains, and whether they are of the wanted density.
pub type States = (Vec<Vec<f32>>, bool);

/// The weights of the chains in a file; `None` when there is no file.
///
/// # Errors
/// When the file can't be read or is not one of ours.
pub fn read_states(path: &Path) -> Result<Option<States>, AnnealedError> {
    Ok(read(path, WEIGHTS)?.map(with_mark))
}

fn with_mark((states, metadata): Described) -> States {
    (states, metadata.get(SETTLED).is_some_and(|text| text == "true"))
}

/// States of chains with the metadata of their file.
type Described = (Vec<Vec<f32>>, HashMap<String, String>);

fn read(path: &Path, name: &str) -> Result<Option<Described>, AnnealedError> {
    let broken = |reason: String| keep_error(format!("{} cannot be read: {reason}", path.display()));
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
    let mut states = Vec::new();
    while let Ok(view) = tensors.tensor(&format!("{name}.{}", states.len())) {
        if view.dtype() != Dtype::F32 {
            return Err(broken(format!("{name}.{} is not F32", states.len())));
        }
        states.push(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
    }
    Ok(Some((states, metadata.metadata().clone().unwrap_or_default())))
}
