//! Looking for things in the objects of a pickle, with sentences for what is not there.

use std::path::Path;
use std::sync::Arc;

use basin_volume_data::pickle::{Purpose, Value, kind};

use super::{Moment, OptimizerError, Stored};
use crate::weights::Element;
use crate::weights::stored::{MappedFile, StoredTensor};
use crate::weights::torch::{Archive, entries};

/// No optimizer keeps more for a parameter; a state of many entries that all parameters share would take time without end.
const MAX_ENTRIES: usize = 64;

/// No training has more groups of parameters whose weights are flat.
const MAX_GROUPS: usize = 4096;

/// Maps a file and gives its objects to `task`.
pub(super) fn open<T>(path: &Path, task: impl FnOnce(&Objects) -> Result<T, OptimizerError>) -> Result<T, OptimizerError> {
    let file = MappedFile::open(path)?;
    with(&file, task)
}

/// As [`open`], of a file that is mapped already.
pub(super) fn with<T>(file: &Arc<MappedFile>, task: impl FnOnce(&Objects) -> Result<T, OptimizerError>) -> Result<T, OptimizerError> {
    let entries = entries(file)?;
    let archive = Archive::read(file, &entries, Purpose::Optimizer)?;
    task(&Objects { path: &file.path, archive })
}

/// The objects of a file.
pub(super) struct Objects<'a> {
    pub(super) path: &'a Path,
    archive: Archive<'a>,
}

impl<'a> Objects<'a> {
    pub(super) fn root(&self) -> Value<'a> {
        self.archive.pickle.root
    }

    pub(super) fn fault(&self, problem: impl Into<String>) -> OptimizerError {
        OptimizerError::Format { path: self.path.to_owned(), problem: problem.into() }
    }

    /// An entry of a dictionary that need not be there; `None` counts as not there.
    pub(super) fn find(&self, value: Value<'a>, name: &str) -> Option<Value<'a>> {
        self.archive.pickle.get(value, name).filter(|found| *found != Value::None)
    }

    /// An entry of a dictionary; `place` says which dictionary, for messages.
    pub(super) fn get(&self, value: Value<'a>, place: &str, name: &str) -> Result<Value<'a>, OptimizerError> {
        self.find(value, name).ok_or_else(|| self.fault(format!("its `{place}` lacks `{name}`")))
    }

    pub(super) fn entries(&self, value: Value<'a>, place: &str) -> Result<&[(Value<'a>, Value<'a>)], OptimizerError> {
        self.archive.pickle.entries(value).ok_or_else(|| self.fault(format!("its `{place}` is {} instead of a dictionary", kind(value))))
    }

    pub(super) fn items(&self, value: Value<'a>, place: &str) -> Result<&[Value<'a>], OptimizerError> {
        self.archive.pickle.items(value).ok_or_else(|| self.fault(format!("its `{place}` is {} instead of a list", kind(value))))
    }

    /// The flat weights of all groups.
    pub(super) fn flat_groups(&self, value: Value<'a>, name: &str) -> Result<&[Value<'a>], OptimizerError> {
        let groups = self.items(self.get(value, "optimizer", name)?, name)?;
        if groups.len() > MAX_GROUPS {
            return Err(self.fault(format!("its `{name}` has {} groups: at most {MAX_GROUPS} are expected", groups.len())));
        }
        Ok(groups)
    }

    /// An entry of a dictionary whose keys are integers.
    pub(super) fn at(&self, value: Value<'a>, index: usize) -> Option<Value<'a>> {
        let entries = self.archive.pickle.entries(value)?;
        entries.iter().rfind(|entry| matches!(entry.0, Value::Int(key) if usize::try_from(key) == Ok(index))).map(|entry| entry.1)
    }

    /// A tensor of floating-point numbers.
    pub(super) fn tensor(&self, value: Value<'a>, place: &str) -> Result<StoredTensor, OptimizerError> {
        let Value::Tensor(view) = value else {
            return Err(self.fault(format!("its `{place}` is {} instead of a tensor", kind(value))));
        };
        let tensor = self.archive.tensor(view, place)?;
        match tensor.element {
            Element::Other(kind) => {
                Err(self.fault(format!("its `{place}` has elements of type {kind}: floating-point numbers are expected")))
            }
            _ => Ok(tensor),
        }
    }

    /// The two moments in the state of a tensor, of the same shape.
    pub(super) fn moments(&self, state: Value<'a>, place: &str) -> Result<Stored, OptimizerError> {
        let entries = self.entries(state, place)?;
        if entries.len() > MAX_ENTRIES {
            return Err(self.fault(format!("its `{place}` has {} entries: at most {MAX_ENTRIES} are expected", entries.len())));
        }
        if self.find(state, "exp_avg").is_none()
            && let [(Value::Text(other), _), ..] = entries
        {
            let other = crate::weights::printable(other);
            return Err(
                self.fault(format!("its `{place}` has `{other}`, but no `exp_avg`: it is the state of another optimizer than Adam"))
            );
        }
        let one = |moment: Moment| self.tensor(self.get(state, place, moment.name())?, &format!("{place}.{}", moment.name()));
        let (first, second) = (one(Moment::First)?, one(Moment::Second)?);
        if first.shape != second.shape {
            let problem = format!("its `{place}` has an `exp_avg` of shape {:?}, but an `exp_avg_sq` of {:?}", first.shape, second.shape);
            return Err(self.fault(problem));
        }
        Ok(Stored { first, second })
    }

    /// A number of steps: an integer, a number, or a tensor of one.
    pub(super) fn step(&self, value: Value<'a>) -> Result<u64, OptimizerError> {
        let number = match value {
            Value::Int(number) => return number.try_into().map_err(|_| self.fault(format!("its `step` is {number}"))),
            Value::Float(number) => number,
            other => {
                let tensor = self.tensor(other, "step")?;
                let mut number = [0.0];
                if tensor.len() != 1 {
                    return Err(self.fault(format!("its `step` has {} elements", tensor.len())));
                }
                tensor.read(0..1, &mut number);
                number[0].into()
            }
        };
        if (0.0..1e15).contains(&number) { Ok(number as u64) } else { Err(self.fault(format!("its `step` is {number}"))) }
    }

    /// The steps that a state tells, or its group of parameters, or, at last, the file.
    pub(super) fn steps_of(&self, places: &[Option<Value<'a>>]) -> Result<u64, OptimizerError> {
        match places.iter().flatten().find_map(|place| self.find(*place, "step").or_else(|| self.find(*place, "global_steps"))) {
            Some(value) => self.step(value),
            None => Err(self.fault("it lacks `step`, the number of optimizer steps")),
        }
    }
}
