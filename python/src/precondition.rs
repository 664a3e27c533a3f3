//! Curvatures, computed and saved.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use basin_volume::prior::Prior;
use basin_volume::question::Question;
use basin_volume_engine::curvature::{self, Computed, Settings, recipe, recipe_names};
use basin_volume_engine::error::Error;
use basin_volume_engine::files::check_file_place;
use basin_volume_engine::loaded::Loaded;
use basin_volume_engine::request::{CUTOFF, CostRequest, Machine, Sigma};
use basin_volume_engine::session::Session;
use basin_volume_engine::subject::Subject as EngineSubject;
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::json;

use crate::error::request;
use crate::job::{Job, begin};
use crate::subject::Subject;

/// What is asked.
#[derive(Deserialize)]
struct Asked {
    kind: String,
    out: PathBuf,
    probes: Option<NonZeroUsize>,
    rank: Option<NonZeroUsize>,
    steps: Option<NonZeroUsize>,
    cutoff: Option<f64>,
    sigma: Option<Sigma>,
    seed: u64,
    #[serde(flatten)]
    machine: Machine,
}

/// Begins the computation of a curvature of a model that the engine loads itself.
#[pyfunction]
pub fn precondition_model(py: Python<'_>, model: String, cost: &str, settings: &str) -> PyResult<Job> {
    let cost: CostRequest = request(cost)?;
    let asked: Asked = request(settings)?;
    begin(py, asked.machine, move |session, _| {
        let loaded = Loaded::load(&model, &cost, session)?;
        compute(&asked, &loaded, session)
    })
}

/// Begins the computation of a curvature of a subject whose cost is Python's.
#[pyfunction]
pub fn precondition_subject(py: Python<'_>, subject: Py<Subject>, settings: &str) -> PyResult<Job> {
    let asked: Asked = request(settings)?;
    begin(py, asked.machine, move |session, sender| compute(&asked, &subject.get().with_mailbox(0, sender), session))
}

fn compute(asked: &Asked, subject: &dyn EngineSubject, session: &Session) -> Result<String, Error> {
    check_file_place("out", &asked.out)?;
    let known = || Error::usage(format!("there is no curvature '{}': expected {}", asked.kind, recipe_names().join(", ")));
    let recipe = recipe(&asked.kind).ok_or_else(known)?;
    let given = [
        ("probes", asked.probes.is_some()),
        ("rank", asked.rank.is_some()),
        ("steps", asked.steps.is_some()),
        ("cutoff", asked.cutoff.is_some()),
        ("sigma", asked.sigma.is_some()),
    ];
    if let Some((setting, _)) = given.into_iter().find(|(setting, is_given)| *is_given && !recipe.takes().contains(setting)) {
        return Err(Error::usage(format!("`{setting}` does not go with the curvature {}: leave it out", recipe.name())));
    }
    // Only a map for a question depends on the rays that it is for.
    let prior = if recipe.is_for_question() { Prior::Gaussian { sigma: subject.sigma(asked.sigma)?.sigma } } else { Prior::Lebesgue };
    let question = Question::new(prior, asked.cutoff.unwrap_or(CUTOFF), 0.0, asked.seed)?;
    let settings = Settings::new(recipe, question, subject).with(asked.probes, asked.rank, asked.steps);
    let computed = curvature::compute(recipe, &settings, subject, session)?;
    curvature::save(&asked.out, &computed, subject)?;
    let Computed { found, provenance, time } = &computed;
    Ok(json!({
        "file": asked.out,
        "provenance": provenance,
        "dimension": subject.dimension(),
        "seconds": time.as_secs_f64(),
        "gradients": found.gradients,
        "trace": found.curvature.trace(&subject.layout()),
        "relative_error": found.relative_error,
        "bytes": found.curvature.bytes(),
    })
    .to_string())
}
