//! The states of chains in a run folder: `states/NUMBER.safetensors`, one tensor `chain.N` `[D]` (F32) per chain.
//!
//! Only the states after the last block and those at the beginning of the stay are needed to go on, so the others are removed, except the last ones
//! of every stay at the density that is wanted: networks that behave like the center, which are worth a look.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::folder::{RunFolder, write_atomically};
use crate::estimator::annealed::{AnnealedError, AnnealedRecord, Keeper};

/// Name of the folder of states inside a run folder.
pub const STATES: &str = "states";

/// Keeps the records of a run in its folder and the states of its chains beside them.
#[derive(Debug)]
pub struct FolderKeeper<'a> {
    folder: &'a mut RunFolder,
    states: PathBuf,
    /// The newest states, and whether they are of the wanted density.
    newest: Option<(u64, bool)>,
    /// States that are kept for the stay that began after them.
    origin: Option<u64>,
    /// What may be removed once the records are kept.
    outdated: Vec<u64>,
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
        Ok(Self { folder, states, newest: None, origin: None, outdated: Vec::new() })
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.states.join(format!("{sequence:06}.safetensors"))
    }
}

impl Keeper for FolderKeeper<'_> {
    fn keep_states(&mut self, sequence: u64, states: &[&[f32]], settled: bool, origin: Option<u64>) -> Result<(), AnnealedError> {
        let bytes: Vec<Vec<u8>> = states.iter().map(|state| state.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = bytes.iter().enumerate().map(|(chain, bytes)| {
            TensorView::new(Dtype::F32, vec![states[chain].len()], bytes).map(|view| (format!("chain.{chain}"), view))
        });
        let views: Vec<(String, TensorView<'_>)> = views.collect::<Result<_, _>>().map_err(keep_error)?;
        let metadata = HashMap::from([("settled".to_owned(), settled.to_string())]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(keep_error)?;
        write_atomically(&self.path(sequence), &file).map_err(keep_error)?;
        let is_needed = |states: u64| Some(states) == origin;
        if let Some((before, was_settled)) = self.newest.replace((sequence, settled)) {
            if is_needed(before) && !was_settled {
                self.origin = Some(before);
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
        let found = read_states(&self.path(sequence))?;
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
}

/// States of chains, and whether they are of the wanted density.
pub type States = (Vec<Vec<f32>>, bool);

/// The chains' states in a file; `None` when there is no file.
///
/// # Errors
/// When the file can't be read or is not one of ours.
pub fn read_states(path: &Path) -> Result<Option<States>, AnnealedError> {
    let broken = |reason: String| keep_error(format!("{} cannot be read: {reason}", path.display()));
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    };
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
    let settled = metadata.metadata().as_ref().and_then(|m| m.get("settled")).is_some_and(|text| text == "true");
    let mut states = Vec::new();
    while let Ok(view) = tensors.tensor(&format!("chain.{}", states.len())) {
        if view.dtype() != Dtype::F32 {
            return Err(broken(format!("chain.{} is not F32", states.len())));
        }
        states.push(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
    }
    Ok(Some((states, settled)))
}
