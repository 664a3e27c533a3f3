//! The state of Adam in the layouts that training programs write, as flat moments in the order of a network's parameters.
//!
//! | layout | files |
//! |---|---|
//! | ours | `optimizer.safetensors` |
//! | Hugging Face's Trainer, plain PyTorch | `optimizer.pt`, `optimizer.bin` |
//! | DeepSpeed with ZeRO stage 1 or 2 | `*zero_pp_rank_<r>_mp_rank_00_optim_states.pt` of every rank |
//! | DeepSpeed without ZeRO, as GPT-NeoX uses it | `mp_rank_00_model_states.pt` |
//!
//! One file a layout, and one line in the `LAYOUTS` table. States are read through memory maps, tensor by tensor: beside the two flat
//! vectors that are the result, only small blocks are held. Files are not trusted: see [`crate::weights`].

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Moments;
use crate::parameters::{Parameter, ParameterLayout};
use crate::weights::stored::StoredTensor;

mod deepspeed;
mod error;
mod flat;
mod objects;
mod ours;
mod trainer;
mod zero;

pub use error::OptimizerError;

/// Writes the coordinates of a range of the weights, in the layout's order, into a slice of its length.
pub type Center<'a> = &'a dyn Fn(Range<usize>, &mut [f32]);

/// A way of writing the state of an optimizer.
struct Layout {
    /// Which of the names of a folder's files are those of this layout.
    files: fn(&[String]) -> Vec<String>,
    /// The files of this layout in a folder, if there are any.
    find: fn(&Path) -> Result<Option<Vec<PathBuf>>, OptimizerError>,
    /// Reads the files that `find` gave.
    read: fn(&[PathBuf], &ParameterLayout, Center) -> Result<Moments, OptimizerError>,
}

/// The layouts, in the order in which they are looked for.
const LAYOUTS: &[Layout] = &[
    Layout { files: ours::files, find: ours::find, read: ours::read },
    Layout { files: trainer::files, find: trainer::find, read: trainer::read },
    Layout { files: zero::files, find: zero::find, read: zero::read },
    Layout { files: deepspeed::files, find: deepspeed::find, read: deepspeed::read },
];

/// Reads Adam's moments from a checkpoint folder, or from one of its files; None when a folder has no state of an optimizer.
///
/// A folder may also hold a file `latest` with the name of the folder inside it that has the state, as DeepSpeed writes it. `center` gives
/// the weights of the network at the same step: DeepSpeed's flat states are matched with the parameters by them.
///
/// # Errors
/// When a file cannot be read, or its state is not that of the network: one sentence that names the file, the parameter and what to do.
pub fn read(path: &Path, layout: &ParameterLayout, center: Center) -> Result<Option<Moments>, OptimizerError> {
    if !path.is_dir() {
        return read_file(path, layout, center).map(Some);
    }
    let latest = latest(path)?;
    for folder in std::iter::once(path.to_owned()).chain(latest) {
        for known in LAYOUTS {
            if let Some(files) = (known.find)(&folder)? {
                return (known.read)(&files, layout, center).map(Some);
            }
        }
    }
    Ok(None)
}

/// Which of a folder's files, by their names, are the state of an optimizer, in the layout that [`read`] would choose.
pub(crate) fn files_of(names: &[String]) -> Vec<String> {
    LAYOUTS.iter().map(|layout| (layout.files)(names)).find(|files| !files.is_empty()).unwrap_or_default()
}

fn read_file(path: &Path, layout: &ParameterLayout, center: Center) -> Result<Moments, OptimizerError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".safetensors") {
        return ours::read(&[path.to_owned()], layout, center);
    }
    if zero::rank(&name).is_some() {
        // The other ranks' partitions stand beside it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Some(files) = zero::find(folder)? {
            return zero::read(&files, layout, center);
        }
    }
    if deepspeed::is_name(&name) {
        return deepspeed::read(&[path.to_owned()], layout, center);
    }
    trainer::read(&[path.to_owned()], layout, center)
}

/// The folder that a file `latest` names.
fn latest(folder: &Path) -> Result<Option<PathBuf>, OptimizerError> {
    let path = folder.join("latest");
    let Ok(length) = std::fs::metadata(&path).map(|data| data.len()) else { return Ok(None) };
    let fault = |problem: &str| OptimizerError::Format { path: path.clone(), problem: problem.to_owned() };
    if length > 1000 {
        return Err(fault("it is too long to be the name of a folder"));
    }
    let name = std::fs::read_to_string(&path).map_err(|source| OptimizerError::Io { path: path.clone(), source })?;
    let name = name.trim();
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', '\0']) {
        return Err(fault("it does not hold the plain name of a folder"));
    }
    Ok(Some(folder.join(name)).filter(|folder| folder.is_dir()))
}

/// The files of the given names that exist in a folder: the first of them.
fn first_of(folder: &Path, names: &[&str]) -> Option<Vec<PathBuf>> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file()).map(|path| vec![path])
}

/// The first of the wanted names that is there.
fn first_name(names: &[String], wanted: &[&str]) -> Vec<String> {
    wanted.iter().find(|name| names.iter().any(|other| other == *name)).map(|name| (*name).to_owned()).into_iter().collect()
}

/// Elements read at a time.
const BLOCK: usize = 1 << 16;

/// Moments being filled in.
struct Filling<'a> {
    layout: &'a ParameterLayout,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl<'a> Filling<'a> {
    fn new(layout: &'a ParameterLayout) -> Self {
        let zeros = || vec![0.0; layout.dimension()];
        Self { layout, first: zeros(), second: zeros() }
    }

    /// Reads the two moments of a parameter; `read` is given which of them, the range inside the parameter, and where to put it.
    fn parameter(
        &mut self,
        path: &Path,
        parameter: &Parameter,
        read: impl Fn(Moment, Range<usize>, &mut [f32]),
    ) -> Result<(), OptimizerError> {
        for moment in [Moment::First, Moment::Second] {
            let all = if moment == Moment::First { &mut self.first } else { &mut self.second };
            let values = &mut all[parameter.range()];
            for (block, values) in values.chunks_mut(BLOCK).enumerate() {
                let start = block * BLOCK;
                read(moment, start..start + values.len(), values);
                let good = |value: f32| value.is_finite() && (moment == Moment::First || value >= 0.0);
                if let Some(place) = values.iter().position(|&value| !good(value)) {
                    let (value, name) = (values[place], moment.name());
                    let expected = if value.is_finite() { "a mean of squares is never negative" } else { "every value must be finite" };
                    let problem = format!("has {name} {value} at element {}: {expected}", start + place);
                    return Err(OptimizerError::Parameter { path: path.to_owned(), parameter: parameter.name.clone(), problem });
                }
            }
        }
        Ok(())
    }

    fn finish(self, step: u64) -> Moments {
        debug_assert_eq!(self.first.len(), self.layout.dimension());
        Moments { first: self.first, second: self.second, step }
    }
}

/// Which of Adam's two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The running mean of the gradient.
    First,
    /// The running mean of the squared gradient.
    Second,
}

impl Moment {
    /// PyTorch's name.
    fn name(self) -> &'static str {
        match self {
            Self::First => "exp_avg",
            Self::Second => "exp_avg_sq",
        }
    }
}

/// The two moments of one tensor, where they are stored.
struct Stored {
    first: StoredTensor,
    second: StoredTensor,
}

impl Stored {
    fn get(&self, moment: Moment) -> &StoredTensor {
        match moment {
            Moment::First => &self.first,
            Moment::Second => &self.second,
        }
    }
}

#[cfg(test)]
mod tests;
