//! The states of chains in a run folder: `states/NUMBER.safetensors`, one tensor `chain.N` `[D]` (F32) per chain: its weights. Chains that move in other
//! coordinates have these beside them, as `coordinates.N`, and go on from them.
//!
//! Only the states after the last block and those at the beginning of the stay are needed to go on, so the others are removed, except the last ones
//! of every stay at the density that is wanted: networks that behave like the center, which are worth a look.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::error::AnnealedError;
use super::keeper::{Keeper, UnfinishedChains};
use super::record::{Relaxation, UnfinishedBlock};
use crate::coordinates::Coordinates;
use crate::run::folder::RunFolder;
use crate::run::record::Record;
use crate::run::tensors::{self, Values};

/// Name of the folder of states inside a run folder.
pub const STATES: &str = "states";
/// Name of the file in it with the state that the spring is attached to, as the only chain.
const ANCHOR: &str = "anchor.safetensors";
/// Name of the file in it with what an interrupt leaves of a block.
pub const UNFINISHED: &str = "unfinished.safetensors";
/// Names of the tensors, before the number of the chain.
const WEIGHTS: &str = "chain";
const COORDINATES: &str = "coordinates";
/// Key of its metadata that says how it was found.
const RELAXATION: &str = "relaxation";
/// Keys of the metadata of an unfinished block: its number, and what is done.
const SEQUENCE: &str = "sequence";
const DONE: &str = "done";
/// Key of the metadata that says whether states are of the wanted density.
const SETTLED: &str = "settled";

/// Keeps the records of a run in its folder and the states of its chains beside them.
pub struct FolderKeeper<'a> {
    folder: &'a mut RunFolder,
    states: PathBuf,
    /// The numbers of the states that are there, and whether they are of the wanted density.
    present: BTreeMap<u64, bool>,
    /// What may be removed once the records are kept.
    outdated: Vec<u64>,
    /// Whether there may be an unfinished block, which goes as well.
    has_unfinished: bool,
    /// What the states are, when not weights.
    coordinates: Option<&'a dyn Coordinates>,
}

impl std::fmt::Debug for FolderKeeper<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FolderKeeper").field("states", &self.states).field("present", &self.present).finish_non_exhaustive()
    }
}

/// The numbered states in a folder. One that cannot be read is not touched.
fn present(states: &Path) -> std::io::Result<BTreeMap<u64, bool>> {
    let mut present = BTreeMap::new();
    for entry in fs::read_dir(states)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), Ok(Some(metadata))) = (number, tensors::read_metadata(&path)) {
            present.insert(number, is_settled(&metadata));
        }
    }
    Ok(present)
}

fn keep_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AnnealedError {
    AnnealedError::Keep(error.into())
}

impl<'a> FolderKeeper<'a> {
    /// A keeper for this folder; creates the folder of states.
    ///
    /// # Errors
    /// When it can't be created or read.
    pub fn new(folder: &'a mut RunFolder) -> Result<Self, AnnealedError> {
        let states = folder.path().join(STATES);
        fs::create_dir_all(&states).map_err(|error| keep_error(format!("cannot create {}: {error}", states.display())))?;
        let present = present(&states).map_err(|error| keep_error(format!("cannot read {}: {error}", states.display())))?;
        Ok(Self { folder, states, present, outdated: Vec::new(), has_unfinished: false, coordinates: None })
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

impl<R: Record> Keeper<R> for FolderKeeper<'_> {
    fn keep_states(&mut self, sequence: u64, states: &[&[f32]], settled: bool, origin: Option<u64>) -> Result<(), AnnealedError> {
        write_states(&self.path(sequence), states, self.coordinates, HashMap::from([(SETTLED.to_owned(), settled.to_string())]))?;
        self.present.insert(sequence, settled);
        let is_outdated = |(&number, &is_settled): (&u64, &bool)| {
            // Of a stay at the wanted density the last ones stay.
            let has_successor = self.present.get(&(number + 1)).is_some_and(|is_settled| *is_settled);
            number != sequence && Some(number) != origin && (!is_settled || has_successor)
        };
        self.outdated = self.present.iter().filter(|entry| is_outdated(*entry)).map(|(number, _)| *number).collect();
        Ok(())
    }

    fn states(&mut self, sequence: u64) -> Result<Option<Vec<Vec<f32>>>, AnnealedError> {
        Ok(read(&self.path(sequence), self.name())?.map(|(states, _)| states))
    }

    fn keep_records(&mut self, records: &[R]) -> Result<(), AnnealedError> {
        for record in records {
            self.folder.append(record).map_err(keep_error)?;
        }
        for outdated in std::mem::take(&mut self.outdated) {
            // A file more is no harm.
            let _ = fs::remove_file(self.path(outdated));
            self.present.remove(&outdated);
        }
        if std::mem::take(&mut self.has_unfinished) {
            let _ = fs::remove_file(self.states.join(UNFINISHED));
        }
        Ok(())
    }

    fn keep_unfinished(&mut self, sequence: u64, done: &[UnfinishedBlock], states: &[&[f32]]) -> Result<(), AnnealedError> {
        let done = serde_json::to_string(done).map_err(keep_error)?;
        let metadata = HashMap::from([(SEQUENCE.to_owned(), sequence.to_string()), (DONE.to_owned(), done)]);
        self.has_unfinished = true;
        tensors::write(&self.states.join(UNFINISHED), &named(self.name(), states), metadata).map_err(keep_error)
    }

    fn unfinished(&mut self, sequence: u64) -> Result<Option<UnfinishedChains>, AnnealedError> {
        let Some((states, metadata)) = read(&self.states.join(UNFINISHED), self.name())? else { return Ok(None) };
        self.has_unfinished = true;
        let is_this = metadata.get(SEQUENCE).is_some_and(|found| *found == sequence.to_string());
        let done = metadata.get(DONE).filter(|_| is_this).and_then(|text| serde_json::from_str::<Vec<UnfinishedBlock>>(text).ok());
        Ok(done.filter(|done| done.len() == states.len()).map(|done| UnfinishedChains { done, states }))
    }

    fn keep_anchor(&mut self, number: usize, progress: &Relaxation, state: &[f32]) -> Result<(), AnnealedError> {
        let text = serde_json::to_string(progress).map_err(keep_error)?;
        let metadata = HashMap::from([(SETTLED.to_owned(), progress.is_done.to_string()), (RELAXATION.to_owned(), text)]);
        write_states(&self.states.join(anchor_name(number)), &[state], self.coordinates, metadata)
    }

    fn anchor(&mut self, number: usize) -> Result<Option<(Relaxation, Vec<f32>)>, AnnealedError> {
        let path = self.states.join(anchor_name(number));
        let Some((mut states, metadata)) = read(&path, self.name())? else { return Ok(None) };
        let progress = metadata.get(RELAXATION).and_then(|text| serde_json::from_str(text).ok());
        match (states.pop(), progress) {
            (Some(state), Some(progress)) => Ok(Some((progress, state))),
            _ => Err(keep_error(format!("{} does not say how its state was found: begin again in a new folder", path.display()))),
        }
    }
}

/// The file of a state that the spring is attached to.
fn anchor_name(number: usize) -> String {
    if number == 0 { ANCHOR.to_owned() } else { format!("anchor-{}.safetensors", number + 1) }
}

fn write_states(
    path: &Path,
    states: &[&[f32]],
    coordinates: Option<&dyn Coordinates>,
    metadata: HashMap<String, String>,
) -> Result<(), AnnealedError> {
    let weights_of = |coordinates: &dyn Coordinates, state: &&[f32]| {
        let mut weights = state.to_vec();
        coordinates.leave(&mut weights);
        weights
    };
    let weights: Vec<Vec<f32>> = coordinates.map_or(Vec::new(), |map| states.iter().map(|state| weights_of(map, state)).collect());
    let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
    let mut lists = named(WEIGHTS, &weights);
    lists.extend(named(if coordinates.is_some() { COORDINATES } else { WEIGHTS }, states));
    tensors::write(path, &lists, metadata).map_err(keep_error)
}

fn named<'a>(name: &str, states: &[&'a [f32]]) -> Vec<(String, Values<'a>)> {
    states.iter().enumerate().map(|(chain, state)| (format!("{name}.{chain}"), Values::F32(state))).collect()
}

/// States of chains.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    /// The weights of every chain, of length `D`.
    pub weights: Vec<Vec<f32>>,
    /// Whether they are of the wanted density.
    pub is_settled: bool,
}

/// The states of the chains in a file; `None` when there is no file.
///
/// # Errors
/// When the file can't be read or is not one of ours.
pub fn read_states(path: &Path) -> Result<Option<States>, AnnealedError> {
    let found = read(path, WEIGHTS)?;
    Ok(found.map(|(weights, metadata)| States { is_settled: is_settled(&metadata), weights }))
}

fn is_settled(metadata: &HashMap<String, String>) -> bool {
    metadata.get(SETTLED).is_some_and(|text| text == "true")
}

/// States of chains with the metadata of their file.
type Described = (Vec<Vec<f32>>, HashMap<String, String>);

fn read(path: &Path, name: &str) -> Result<Option<Described>, AnnealedError> {
    let Some(mut file) = tensors::read(path).map_err(keep_error)? else { return Ok(None) };
    let states = (0..).map_while(|chain| file.f32.remove(&format!("{name}.{chain}"))).collect();
    Ok(Some((states, file.metadata)))
}
