//! What an interrupt leaves of a recursion, and where that is kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::SpectralError;
use crate::run::tensors::{self, Tensors, Values};

/// A computation on its way, as named lists of numbers: all that it takes to go on with the same bits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnfinishedRecursion<'a> {
    /// Lists in double precision.
    pub numbers: BTreeMap<String, Vec<f64>>,
    /// Vectors of length `D`.
    pub vectors: BTreeMap<String, Cow<'a, [f32]>>,
}

impl<'a> UnfinishedRecursion<'a> {
    pub(super) fn put(&mut self, name: &str, numbers: &[f64]) {
        self.numbers.insert(name.to_owned(), numbers.to_vec());
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Vec<f64>> {
        self.numbers.remove(name)
    }

    pub(super) fn put_vectors(&mut self, name: &str, vectors: &'a [Vec<f32>]) {
        for (number, vector) in vectors.iter().enumerate() {
            self.vectors.insert(format!("{name}.{number}"), Cow::Borrowed(vector));
        }
    }

    /// None if one of them has another length.
    pub(super) fn take_vectors(&mut self, name: &str, length: usize) -> Option<Vec<Vec<f32>>> {
        let found = (0..).map_while(|number| self.vectors.remove(&format!("{name}.{number}")));
        found.map(|vector| (vector.len() == length).then(|| vector.into_owned())).collect()
    }
}

/// Keeps what an interrupt leaves of a recursion, until a later run takes it up again. Without it that run begins the recursion again, and finds the
/// same. Called from several threads at once, each with names of its own.
pub trait RecursionKeeper: Send + Sync {
    /// Keeps this under a name (of letters, digits and hyphens), in place of what was kept under it before.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep(&self, name: &str, unfinished: &UnfinishedRecursion<'_>) -> Result<(), SpectralError>;

    /// What is kept under a name.
    ///
    /// # Errors
    /// When it can't be read.
    fn kept(&self, name: &str) -> Result<Option<UnfinishedRecursion<'static>>, SpectralError>;

    /// What is kept under a name, if anything is, is of no use any more.
    fn forget(&self, name: &str);

    /// Nothing that is kept is of any use any more. Called by one thread, while no other is at work.
    fn forget_all(&self);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeepNothing;

impl RecursionKeeper for KeepNothing {
    fn keep(&self, _name: &str, _unfinished: &UnfinishedRecursion<'_>) -> Result<(), SpectralError> {
        Ok(())
    }

    fn kept(&self, _name: &str) -> Result<Option<UnfinishedRecursion<'static>>, SpectralError> {
        Ok(None)
    }

    fn forget(&self, _name: &str) {}

    fn forget_all(&self) {}
}

/// Name of the folder of recursions inside a run folder.
pub const RECURSIONS: &str = "recursions";

/// Keeps recursions in a run folder: `recursions/NAME.safetensors`, there only between an interrupt and the next session.
#[derive(Debug, Clone)]
pub struct FolderRecursions {
    folder: PathBuf,
}

impl FolderRecursions {
    /// A keeper for the run folder at this path, in which it makes nothing before it has to.
    #[must_use]
    pub fn new(run_folder: impl Into<PathBuf>) -> Self {
        Self { folder: run_folder.into().join(RECURSIONS) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.safetensors"))
    }
}

fn keep_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SpectralError {
    SpectralError::Keep(error.into())
}

impl RecursionKeeper for FolderRecursions {
    fn keep(&self, name: &str, unfinished: &UnfinishedRecursion<'_>) -> Result<(), SpectralError> {
        std::fs::create_dir_all(&self.folder).map_err(|error| keep_error(format!("cannot create {}: {error}", self.folder.display())))?;
        let numbers = unfinished.numbers.iter().map(|(name, values)| (name.clone(), Values::F64(values)));
        let vectors = unfinished.vectors.iter().map(|(name, values)| (name.clone(), Values::F32(values)));
        let lists: Vec<(String, Values<'_>)> = numbers.chain(vectors).collect();
        tensors::write(&self.path(name), &lists, std::collections::HashMap::new()).map_err(keep_error)
    }

    fn kept(&self, name: &str) -> Result<Option<UnfinishedRecursion<'static>>, SpectralError> {
        let Some(Tensors { f32, f64, .. }) = tensors::read(&self.path(name)).map_err(keep_error)? else { return Ok(None) };
        let vectors = f32.into_iter().map(|(name, values)| (name, Cow::Owned(values))).collect();
        Ok(Some(UnfinishedRecursion { numbers: f64.into_iter().collect(), vectors }))
    }

    fn forget(&self, name: &str) {
        // A file more is no harm.
        let _ = std::fs::remove_file(self.path(name));
    }

    fn forget_all(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
