//! Several runs side by side: checked against each other, written to the folder above them.

use std::path::Path;

use basin_volume::run::answer::{Answer, verdict};
use basin_volume::run::folder;
use basin_volume::spec::RunSpec;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::estimators::Run;
use crate::ladders::with_seed_of;
use crate::runs::{RunGroup, check_same};

/// What several runs say side by side, in the folder above them.
pub const COMPARISON: &str = "comparison.json";

/// The answers of several estimators to the same question.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// One per run.
    pub answers: Vec<Answer>,
    /// What they say, in sentences: which of them to trust, for which set.
    pub verdict: Vec<String>,
}

impl Comparison {
    /// Compares groups of runs, which may be of different estimators, but must answer the same question.
    ///
    /// # Errors
    /// When they do not.
    pub fn of(groups: &[RunGroup]) -> Result<Self, Error> {
        let runs: Vec<_> = groups.iter().flat_map(|group| &group.runs).collect();
        if let Some(first) = runs.first() {
            for run in &runs {
                // Another estimator may be asked the same question, and ladders have a seed each.
                check_same(&first.manifest, &run.manifest, &run.folder, |first, other| RunSpec {
                    preconditioner: first.preconditioner.clone(),
                    estimator: first.estimator.clone(),
                    ..with_seed_of(other, first)
                })?;
            }
        }
        let answers: Vec<Answer> = groups.iter().flat_map(RunGroup::answers).collect();
        let of_groups: Vec<Answer> =
            groups.iter().flat_map(|group| group.joint().map_or_else(|| group.answers(), |joint| vec![joint])).collect();
        Ok(Self { answers, verdict: verdict(&of_groups) })
    }
}

/// Writes what groups of runs say beside what each says itself; `together` is the folder of all estimators, if it is one.
///
/// # Errors
/// When the runs do not answer the same question, or it cannot be written.
pub fn write(groups: &[RunGroup], together: Option<&Path>) -> Result<(), Error> {
    groups.iter().try_for_each(|group| write_runs(&group.runs))?;
    write_beside(groups, together)
}

/// The same without what each says itself, where others may be writing that.
///
/// # Errors
/// As [`write()`].
pub fn write_beside(groups: &[RunGroup], together: Option<&Path>) -> Result<(), Error> {
    for group in groups {
        if group.is_group {
            folder::write_json(&group.folder.join(COMPARISON), &group_json(group)?)?;
        }
    }
    match together {
        Some(together) => Ok(folder::write_json(&together.join(COMPARISON), &Comparison::of(groups)?)?),
        None => Ok(()),
    }
}

/// Writes the result of every run.
pub(crate) fn write_runs(runs: &[Run]) -> Result<(), Error> {
    for run in runs {
        folder::write_json(&run.folder.join(folder::names::RESULT), &run.result())?;
    }
    Ok(())
}

/// A group as JSON: an array of results, or what runs of several data or ladders of several seeds say together.
fn group_json(group: &RunGroup) -> Result<Value, Error> {
    match (&group.together, &group.ladders) {
        (Some(together), _) => together.json(&group.runs),
        (None, Some(ladders)) => Ok(json!({ "ladders": ladders, "results": results(group)? })),
        (None, None) => Ok(Value::Array(results(group)?)),
    }
}

fn results(group: &RunGroup) -> Result<Vec<Value>, Error> {
    Ok(group.runs.iter().map(|run| serde_json::to_value(run.result())).collect::<Result<_, _>>()?)
}

/// Everything as one JSON value: a result for one run, an array for several, what they say together for several data, and for all estimators the
/// comparison with the results by estimator.
///
/// # Errors
/// When the runs do not answer the same question.
pub fn json(groups: &[RunGroup], is_together: bool) -> Result<Value, Error> {
    if !is_together {
        return match groups {
            [group] if group.together.is_none() && group.runs.len() == 1 => Ok(serde_json::to_value(group.runs[0].result())?),
            [group] => group_json(group),
            groups => Ok(Value::Array(groups.iter().map(group_json).collect::<Result<_, _>>()?)),
        };
    }
    let mut comparison = json!(Comparison::of(groups)?);
    let mut by_estimator = Map::new();
    for group in groups {
        if let Some(first) = group.runs.first() {
            // The basin and the star are of one estimator.
            if let Value::Array(of_estimator) = by_estimator.entry(first.estimator()).or_insert_with(|| json!([])) {
                of_estimator.extend(results(group)?);
            }
        }
    }
    comparison["results"] = Value::Object(by_estimator);
    Ok(comparison)
}
