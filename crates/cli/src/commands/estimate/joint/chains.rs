//! Chains through several data: a ladder for each, and one for the largest of the costs.
//!
//! The numbers are found apart, and the interval of the dependence takes each of them at the end that hurts.

use std::path::{Path, PathBuf};

use basin_volume::estimator::joint::dependence_of;
use basin_volume::run::answer::{Answer, Trust};
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::{PreconditionerSpec, RunSpec};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::super::annealed::{self, Asked, Run};
use super::super::comparison::{Shelf, present_shelves};
use super::super::{COMPARISON, Prepared, Runs, ended, until_interrupted};
use super::{Together, dependence_words, nested};
use crate::error::{CommandError, CommandResult};
use crate::present::{align_right, interval_words, nats};
use crate::target::eprintln_status;

/// Computes what is missing, and shows it.
pub fn run(together: &Together<'_>) -> CommandResult {
    let Together { args, question, requests, .. } = together;
    let mut asked = requests.iter().map(annealed::prepare).collect::<Result<Vec<_>, _>>()?;
    asked.push(annealed::prepare_together(&requests[0], question.problems.iter().collect(), &question.all_record)?);
    let specs: Vec<RunSpec> = asked.iter().flat_map(|asked| asked.specs().iter().cloned()).collect();
    let out = together.out(PreconditionerSpec::None, specs[0].estimator.clone())?;
    together.check(&out, specs.into_iter())?;
    let paths: Vec<PathBuf> = question.folders.iter().map(|folder| out.join(folder)).chain([out.join(question.all_folder)]).collect();
    let sweeps = sweeps(&asked, &paths, &out)?;
    // The last needs the most memory: it is refused before the others are computed.
    let plans = asked.iter().map(Asked::plan).collect::<Result<Vec<_>, _>>()?;
    let all_name = question.names.join(" and ");
    let names = question.names.iter().chain([&all_name]);
    let jobs = asked.iter().zip(&plans).zip(&paths).zip(names);
    let (mut runs, end) = until_interrupted(jobs, |(((asked, plan), path), name)| {
        eprintln_status(&format!("On {name}:"));
        asked.compute(plan, path, sweeps)
    })?;
    let all = if runs.len() > question.names.len() { runs.pop() } else { None };
    let names = question.names[..runs.len()].to_vec();
    let runs: Box<dyn Runs> = Box::new(JointChains { names, parts: runs, all });
    present_shelves(&[Shelf { folder: out.clone(), is_group: true, runs }], None, &out, args.json)?;
    ended(end)
}

/// How many sweeps each run is to have: all the same number, so that a command that was stopped on its way means the same when it is repeated.
fn sweeps(asked: &[Asked<'_>], paths: &[PathBuf], out: &Path) -> Result<u64, CommandError> {
    let Some(first) = asked.first().filter(|asked| asked.extends()) else {
        return Ok(asked.first().map_or(1, Asked::sweeps));
    };
    let states = paths.iter().map(|path| first.state(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(most) = states.iter().flatten().map(|state| state.sweeps).max() else { return Err(annealed::nothing_to_continue(out)) };
    let are_complete = states.iter().all(|state| state.is_some_and(|state| state.sweeps == most && state.is_complete));
    Ok(most + u64::from(are_complete))
}

/// Reads the runs of each data, which has a name, and that of all.
pub fn read(parts: &[(&Path, String)], all: &Path) -> Result<Box<dyn Runs>, CommandError> {
    let names = parts.iter().map(|(_, name)| name.clone()).collect();
    let parts = parts.iter().map(|(folder, _)| annealed::read(folder)).collect::<Result<_, _>>()?;
    Ok(Box::new(JointChains { names, parts, all: Some(annealed::read(all)?) }))
}

/// One run per data set, and that of all unless it was interrupted before.
struct JointChains {
    /// What the data of the parts are called.
    names: Vec<String>,
    parts: Vec<Run>,
    all: Option<Run>,
}

impl JointChains {
    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.parts.iter().chain(&self.all)
    }

    /// All runs with what their data are called.
    fn named(&self) -> impl Iterator<Item = (String, &Run)> {
        self.names.iter().cloned().chain([self.names.join(" and ")]).zip(self.runs())
    }

    fn dependence(&self, all: &Run) -> (Option<f64>, Option<(f64, f64)>) {
        dependence_of(all.answer(), &self.parts.iter().map(Run::answer).collect::<Vec<_>>())
    }

    fn nested(&self) -> f64 {
        nested(self.parts.iter().map(|part| part.answer().log_probability))
    }

    /// The dependence in words, and whether it is an answer.
    fn words(&self, all: &Run) -> String {
        let (Some(value), interval) = self.dependence(all) else {
            return "The dependence is unknown: not every volume has a number.".to_owned();
        };
        let without = "without an interval: not every volume has both ends of one";
        let mut text = dependence_words(&self.names, value, interval, without, Some(self.nested()));
        let doubtful: Vec<String> =
            self.named().filter(|(_, run)| run.answer().trust != Trust::Answer).map(|(name, _)| format!("ln P({name})")).collect();
        if !doubtful.is_empty() {
            text += &format!(
                " It is not an answer, since {} {}.",
                doubtful.join(", "),
                if doubtful.len() == 1 { "is none" } else { "are none" }
            );
        }
        text
    }

    /// One row per data set, and one for all.
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
            "data",
            "measures",
            "log-probability (nats)",
            "95 % interval",
            "trust",
            "gradients",
            "seconds",
        ]);
        for (name, run) in self.named() {
            let answer = run.answer();
            table.add_row([
                name,
                answer.measures.name().to_owned(),
                nats(answer.log_probability),
                interval_words(answer.interval),
                answer.trust.words().to_owned(),
                answer.gradients.to_string(),
                format!("{:.1}", answer.seconds),
            ]);
        }
        align_right(&mut table, [2, 5, 6]);
        table.to_string()
    }

    /// Everything side by side, as it is written to the folder above the runs.
    fn comparison(&self) -> Result<Value, CommandError> {
        let result = |(name, run): (String, &Run)| -> Result<Value, CommandError> {
            let mut result = run.json()?;
            result["data"] = json!(name);
            Ok(result)
        };
        let mut parts: Vec<Value> = self.named().map(result).collect::<Result<_, _>>()?;
        let Some(all) = &self.all else { return Ok(json!({ "parts": parts })) };
        let (nats, interval) = self.dependence(all);
        let dependence = json!({ "nats": nats, "interval": interval, "level": 0.95 });
        let whole = parts.pop();
        Ok(json!({ "parts": parts, "all": whole, "dependence": dependence, "nested": self.nested(), "verdict": self.words(all) }))
    }
}

impl Runs for JointChains {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, group: Option<&Path>) -> CommandResult {
        self.runs().try_for_each(Run::write)?;
        match group {
            Some(group) => Ok(folder::write_json(&group.join(COMPARISON), &self.comparison()?)?),
            None => Ok(()),
        }
    }

    fn text(&self) -> String {
        let mut text: String = self.runs().map(|run| run.text() + "\n").collect();
        text += &format!("On all data:\n{}\n", self.table());
        if let Some(all) = &self.all {
            text += &format!("\n{}\n", self.words(all));
        }
        text
    }

    fn json(&self) -> Result<Vec<Value>, CommandError> {
        Ok(vec![self.comparison()?])
    }

    fn verdict(&self) -> Option<String> {
        self.all.as_ref().map(|all| self.words(all))
    }

    fn answers(&self) -> Vec<Answer> {
        self.named().map(|(name, run)| Answer { estimator: format!("annealed, on {name}"), ..run.answer().clone() }).collect()
    }
}
