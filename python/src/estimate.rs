//! Estimates and scans, begun.

use basin_volume::run::driver::RunEnd;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimate::{self, Outcome};
use basin_volume_engine::loaded::Loaded;
use basin_volume_engine::prior_mean::{self, AroundBase};
use basin_volume_engine::request::{CostRequest, Estimate};
use basin_volume_engine::scan::{Scan, run as run_scan};
use basin_volume_engine::several::{self, OnData};
use basin_volume_engine::subject::Subject as EngineSubject;
use pyo3::prelude::*;
use serde_json::{Map, Value, json};

use crate::error::{UsageError, raised, request};
use crate::job::{Job, begin};
use crate::subject::{PythonSubject, Subject};

/// Where the runs are, and how they ended. Their figures are drawn beside them.
fn ended(outcome: &Outcome) -> Result<String, Error> {
    basin_volume_report::draw(&outcome.groups)?;
    Ok(json!({ "folder": outcome.folder, "is_interrupted": outcome.end == RunEnd::Interrupted }).to_string())
}

/// Begins an estimate of a model that the engine loads itself.
#[pyfunction]
pub fn estimate_model(py: Python<'_>, model: String, cost: &str, estimate: &str) -> PyResult<Job> {
    let cost: CostRequest = request(cost)?;
    let estimate: Estimate = request(estimate)?;
    begin(py, estimate.machine, move |session, _| {
        if cost.data.data.len() > 1 {
            several::check(&estimate)?;
            let loaded = several::load(&model, &cost, &estimate, session)?;
            let on: Vec<OnData<'_>> = loaded.iter().map(|(name, subject)| OnData { name: name.clone(), subject }).collect();
            return ended(&several::run(&estimate, &on, session)?);
        }
        estimate::check(&estimate)?;
        prior_mean::check(&estimate, &cost)?;
        let loaded = Loaded::load(&model, &cost, session)?;
        match &estimate.prior_mean {
            Some(base) => ended(&estimate::run(&estimate, &AroundBase::load(loaded, base, &cost, session)?, session)?),
            None => ended(&estimate::run(&estimate, &loaded, session)?),
        }
    })
}

/// Begins an estimate of subjects whose cost is Python's: one, or the same on several data with these names.
#[pyfunction]
pub fn estimate_subjects(py: Python<'_>, subjects: Vec<(String, Py<Subject>)>, estimate: &str) -> PyResult<Job> {
    let estimate: Estimate = request(estimate)?;
    if subjects.len() == 1 { estimate::check(&estimate).map(|_| ()) } else { several::check(&estimate).map(|_| ()) }
        .map_err(|error| raised(&error))?;
    begin(py, estimate.machine, move |session, sender| {
        let named: Vec<(String, PythonSubject)> = subjects
            .into_iter()
            .enumerate()
            .map(|(number, (name, subject))| (name, subject.get().with_mailbox(number, sender.clone())))
            .collect();
        drop(sender);
        if let [(_, subject)] = named.as_slice() {
            return ended(&estimate::run(&estimate, subject, session)?);
        }
        let on: Vec<OnData<'_>> =
            named.iter().map(|(name, subject)| OnData { name: name.clone(), subject: subject as &dyn EngineSubject }).collect();
        ended(&several::run(&estimate, &on, session)?)
    })
}

/// Begins a scan, of models that the engine loads itself: settings as a TOML file of a scan has them.
#[pyfunction]
pub fn scan(py: Python<'_>, settings: &str) -> PyResult<Job> {
    let settings: Map<String, Value> = request(settings)?;
    let asked = Scan::from_settings(settings).map_err(|error| UsageError::new_err(error.to_string()))?;
    begin(py, asked.machine, move |session, _| {
        let outcome = run_scan(&asked, session)?;
        for folder in &outcome.computed {
            basin_volume_report::draw(&basin_volume_engine::runs::read_all(folder)?)?;
        }
        if let Some(summary) = &outcome.summary {
            basin_volume_report::scan::draw(&outcome.folder, &outcome.file, summary)?;
        }
        let failures: Vec<String> = outcome.failures.iter().map(|failure| format!("{}: {}", failure.point, failure.reason)).collect();
        let is_interrupted = outcome.end == RunEnd::Interrupted;
        Ok(json!({ "folder": outcome.folder, "is_interrupted": is_interrupted, "failures": failures }).to_string())
    })
}
