//! The estimators: what the jobs know of one, and the registry.
//!
//! A new estimator is one file here, one line in [`FAMILIES`], and a variant of [`EstimatorSpec`] (or none: [`EstimatorSpec::Custom`] holds settings
//! by name). What it can do it says itself ([`Capabilities`]): nothing outside its file asks for its name.

use std::any::Any;
use std::path::{Path, PathBuf};

use basin_volume::run::answer::Answer;
use basin_volume::run::driver::RunEnd;
use basin_volume::run::manifest::Manifest;
use basin_volume::run::result::ResultFile;
use basin_volume::spec::{EstimatorSpec, RunSpec};
use serde_json::Value;

use crate::error::Error;
use crate::forecast::Work;
use crate::request::{ALL, Estimate};

pub mod annealed;
mod asked;
pub(crate) mod chains;
pub mod llc;
pub mod radial;
#[cfg(test)]
mod rejection;
pub(crate) mod run_folder;
pub mod spectral;

pub use asked::{Request, question};

/// The estimators that there are, in the order in which they are shown.
pub const FAMILIES: &[&dyn Family] = &[
    &radial::Radial,
    &spectral::Spectral,
    &annealed::Annealed,
    &llc::Llc,
    #[cfg(test)]
    &rejection::Rejection,
];

/// What an estimator can do, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether a run can be split into shards.
    pub shards: bool,
    /// Whether there is a run for each of several preconditioners.
    pub preconditioners: bool,
    /// Whether it needs gradients of the cost, which are computed on the processor.
    pub gradients: bool,
    /// Whether it measures the set on several data at once.
    pub several_data: bool,
    /// Whether its number is a volume, which stands in one table with those of the others.
    pub volume: bool,
}

/// An estimator as the jobs see it.
pub trait Family: Sync {
    /// The name in requests, in manifests and of folders.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Settings of its own that were given, for other estimators to refuse.
    fn own_settings(&self, estimate: &Estimate) -> Vec<&'static str> {
        let _ = estimate;
        Vec::new()
    }

    /// The folders of what it adds where all estimators are asked for.
    fn folders(&self) -> &'static [&'static str];

    /// What it adds where all estimators are asked for: in each of its folders what is asked there.
    fn in_all(&self, estimate: &Estimate) -> Vec<Part> {
        vec![Part::of(self.name(), estimate)]
    }

    /// Understands the request and refuses what cannot be, before anything is computed.
    ///
    /// # Errors
    /// For what cannot be.
    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error>;

    /// Reads a run folder of this estimator and computes its result again.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, folder: &Path) -> Result<Run, Error>;

    /// Joins the shards of one run into a new folder, result included.
    ///
    /// # Errors
    /// When they are no shards of one run, or there are none of this estimator.
    fn merge(&self, folders: &[PathBuf], out: &Path) -> Result<(), Error>;
}

/// One of the estimates that stand side by side where all estimators are asked for.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its folder.
    pub folder: &'static str,
    /// What it is, in words.
    pub words: String,
    /// What is asked.
    pub estimate: Estimate,
}

impl Part {
    /// An estimator as it is asked for, in the folder of its name.
    pub(crate) fn of(name: &'static str, estimate: &Estimate) -> Self {
        Self { folder: name, words: format!("the {name} estimator"), estimate: estimate.clone() }
    }
}

/// A request that an estimator has understood.
pub trait Prepared {
    /// What decides the answers, as far as it is known before anything is computed: one per run.
    fn specs(&self) -> &[RunSpec];

    /// How many records a complete run has over all shards; `None` where only the estimator itself can tell whether a run is complete.
    fn records(&self) -> Option<u64>;

    /// The work of a whole run, as far as it can be known before it begins.
    fn work(&self) -> Option<Work>;

    /// Computes what the folder lacks: a run folder, or a folder of them if there are several specs.
    ///
    /// # Errors
    /// When the folder is that of another question, or something fails; what was computed before is kept.
    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error>;
}

/// What was computed, and how it ended.
#[derive(Debug)]
pub struct Computed {
    /// The runs that there are.
    pub runs: Vec<Run>,
    /// Whether all of them are complete.
    pub end: RunEnd,
}

/// One run, computed or read.
pub struct Run {
    /// Its folder.
    pub folder: PathBuf,
    /// What was asked.
    pub manifest: Manifest,
    /// The common view of its result.
    pub answer: Answer,
    /// The estimator's own block of the result.
    pub block: Value,
    /// What tells it from runs on other data, as it was asked for.
    pub data: Option<String>,
    /// Whether chains have gone all their way; rays have none.
    pub is_complete: bool,
    details: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("folder", &self.folder).field("answer", &self.answer).finish_non_exhaustive()
    }
}

impl Run {
    /// A run with what only its own estimator knows: records, and the result as its type.
    pub fn new(folder: PathBuf, manifest: Manifest, answer: Answer, block: Value, details: impl Any + Send + Sync) -> Self {
        Self { folder, manifest, answer, block, data: None, is_complete: true, details: Box::new(details) }
    }

    /// Name of the estimator.
    #[must_use]
    pub fn estimator(&self) -> &str {
        self.manifest.spec.estimator.name()
    }

    /// What only its own estimator knows, if it is of that type.
    #[must_use]
    pub fn details<T: Any>(&self) -> Option<&T> {
        self.details.downcast_ref()
    }

    /// `result.json`.
    #[must_use]
    pub fn result(&self) -> ResultFile<'_, Value> {
        ResultFile::new(&self.answer, self.estimator(), &self.block)
    }
}

/// The estimator with this name.
///
/// # Errors
/// When there is none.
pub fn family(name: &str) -> Result<&'static dyn Family, Error> {
    FAMILIES.iter().copied().find(|family| family.name() == name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.name()).collect();
        Error::usage(format!("the {name} estimator is not built in: expected {}", known.join(" or ")))
    })
}

/// The estimators whose numbers are volumes.
#[must_use]
pub fn volumes() -> Vec<&'static dyn Family> {
    FAMILIES.iter().copied().filter(|family| family.capabilities().volume).collect()
}

/// The estimators of this name, which may be the word for all that measure volumes.
///
/// # Errors
/// When there is none.
pub fn families(name: &str) -> Result<Vec<&'static dyn Family>, Error> {
    if name == ALL { Ok(volumes()) } else { Ok(vec![family(name)?]) }
}

/// Refuses settings of estimators that are not asked for.
///
/// # Errors
/// [`Error::Usage`].
pub fn refuse_settings_of_others(estimate: &Estimate, families: &[&'static dyn Family]) -> Result<(), Error> {
    // Chains of either kind go on with `continue`.
    let owned: Vec<&str> = families.iter().flat_map(|family| family.own_settings(estimate)).collect();
    for other in FAMILIES.iter().filter(|other| families.iter().all(|family| family.name() != other.name())) {
        let setting = other.own_settings(estimate).into_iter().find(|setting| !owned.contains(setting));
        if let (Some(setting), Some(asked)) = (setting, families.first()) {
            let (owner, name) = (other.name(), asked.name());
            return Err(Error::usage(format!("`{setting}` belongs to `estimator={owner}`: leave it out with `estimator={name}`")));
        }
    }
    Ok(())
}

/// Does one job after the other until one is interrupted: what those before it gave is there to be shown.
pub(crate) fn until_interrupted<J, R>(
    jobs: impl IntoIterator<Item = J>,
    mut work: impl FnMut(J) -> Result<(R, RunEnd), Error>,
) -> Result<(Vec<R>, RunEnd), Error> {
    let mut done = Vec::new();
    for job in jobs {
        match work(job) {
            Ok((result, end)) => {
                done.push(result);
                if end == RunEnd::Interrupted {
                    return Ok((done, end));
                }
            }
            Err(Error::Interrupted) if !done.is_empty() => return Ok((done, RunEnd::Interrupted)),
            Err(error) => return Err(error),
        }
    }
    Ok((done, RunEnd::Completed))
}

/// The settings of a spec that is not of this estimator.
pub(crate) fn other_settings(spec: &EstimatorSpec) -> Error {
    Error::failed(format!("the settings are those of the {} estimator", spec.name()))
}
