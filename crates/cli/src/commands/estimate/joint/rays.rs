//! Rays through several data: all share them.
//!
//! The crossing of the largest of the costs is the first of the crossings, and the sampling error that the runs have in common cancels from the
//! dependence.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use basin_volume::estimator::joint::{Dependence, dependence, first_crossings};
use basin_volume::estimator::radial::Sample;
use basin_volume::prior::Prior;
use basin_volume::run::answer::Answer;
use basin_volume::run::folder::{self, RunFolder, names};
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::run::result::RunResult;
use basin_volume::spec::{EstimatorSpec, RunSpec};
use basin_volume::statistics::IntervalSettings;
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};

use super::super::comparison::{Shelf, present_shelves};
use super::super::radial::{self, Setup};
use super::super::{COMPARISON, Request, Runs, ended, until_interrupted};
use super::{Together, dependence_words, nested};
use crate::args::EstimateArgs;
use crate::error::{CommandError, CommandResult};
use crate::preconditioning;
use crate::present::{self, By, Run};
use crate::problem::Interruptible;

/// The one preconditioner.
pub fn preconditioner(args: &EstimateArgs) -> Result<&str, CommandError> {
    match args.preconditioner.as_slice() {
        [] => Ok("none"),
        [one] => Ok(one),
        several => Err(CommandError::usage(format!(
            "several --data share their rays, so they take one preconditioner: leave all but one of {} out",
            several.join(", ")
        ))),
    }
}

/// Computes what is missing, and shows it.
pub fn run(together: &Together<'_>) -> CommandResult {
    let Together { args, interrupt, question, requests } = together;
    let choice = preconditioner(args)?;
    let first = &requests[0];
    let settings = radial::settings(first)?;
    let samples = first.samples(radial::SAMPLES)?;
    radial::check_maps(args, first.problem)?;
    preconditioning::check_proposal(choice, first.problem, &args.rays, settings.proposal)?;
    let at_hand = match preconditioning::computed(choice) {
        Some(_) => None,
        None => Some(radial::resolve(first, settings, choice, None)?),
    };
    let asked = at_hand.as_ref().map_or_else(|| preconditioning::placeholder(choice, &args.rays), |found| found.spec.clone());
    let estimator = EstimatorSpec::Radial(settings);
    let out = together.out(asked, estimator.clone())?;
    super::check_folder(&out, &question.folders, question.all_folder)?;
    // A curvature is that of the cost on the first data: the rays have to be the same for all.
    let preconditioning = match at_hand {
        Some(found) => found,
        None => radial::resolve(first, settings, choice, Some(&out.join(&question.folders[0])))?,
    };
    let spec = |request: &Request<'_>| request.spec(preconditioning.spec.clone(), estimator.clone());
    let all_spec = RunSpec { problem: question.all_record.clone(), ..spec(first) };
    together.check(&out, requests.iter().map(spec).chain([all_spec.clone()]))?;
    let jobs = requests.iter().zip(&question.folders).zip(&question.names);
    let (parts, end) = until_interrupted(jobs, |((request, name), data)| {
        let problem = request.problem;
        let resources = radial::resources(request, std::slice::from_ref(&preconditioning), settings)?;
        let pool = ThreadPoolBuilder::new().num_threads(request.threads.get()).build()?;
        let objective = pool.install(|| problem.objective(&resources))?;
        let objective = Interruptible { objective: &*objective, interrupt, is_calibrating: AtomicBool::new(false) };
        let setup = Setup { args, problem, objective, resources, settings, samples, pool };
        let (run, end) = radial::one_run(&setup, &preconditioning, (spec(request), name), &out.join(name))?;
        Ok((Run { data: Some(data.clone()), ..run }, end))
    })?;
    let all = if parts.len() == requests.len() { Some(first_of(&parts, all_spec, &out.join(question.all_folder))?) } else { None };
    let runs: Box<dyn Runs> = Box::new(JointRuns { parts, all });
    present_shelves(&[Shelf { folder: out.clone(), is_group: true, runs }], None, &out, args.json)?;
    ended(end)
}

/// The run of all data: the first crossings of every ray that all parts have.
fn first_of(parts: &[Run], spec: RunSpec, folder: &Path) -> Result<Run, CommandError> {
    let first = &parts[0].manifest;
    let mut manifest = Manifest::new(spec, first.center_norm_squared, None, first.samples, first.shard);
    manifest.dual_norm_squared = first.dual_norm_squared;
    manifest.notes = first.notes.clone();
    manifest.notes.remove("data");
    let slices: Vec<&[Sample]> = parts.iter().map(|part| part.samples.as_slice()).collect();
    let (mut run_folder, present) = RunFolder::open::<Sample>(folder, &manifest)?;
    let present: BTreeSet<u64> = present.iter().map(Record::index).collect();
    let samples = first_crossings(&slices);
    for sample in samples.iter().filter(|sample| !present.contains(&sample.index)) {
        run_folder.append(sample)?;
    }
    let manifest = folder::read_manifest(folder)?;
    let result = RunResult::of(&manifest, &samples, parts.iter().map(|part| part.result.seconds).sum());
    run_folder.write_result(&result)?;
    Ok(Run { folder: folder.to_owned(), manifest, samples, result, data: None })
}

/// Reads the runs of each data, which has a name, and that of all.
pub fn read(parts: &[(&Path, String)], all: &Path) -> Result<Box<dyn Runs>, CommandError> {
    let part = |(folder, name): &(&Path, String)| Ok(Run { data: Some(name.clone()), ..radial::read(folder)? });
    let parts = parts.iter().map(part).collect::<Result<_, CommandError>>()?;
    Ok(Box::new(JointRuns { parts, all: Some(radial::read(all)?) }))
}

/// One run per data set, and that of all unless it was interrupted before.
struct JointRuns {
    parts: Vec<Run>,
    all: Option<Run>,
}

impl JointRuns {
    fn dependence(&self) -> Dependence {
        let slices: Vec<&[Sample]> = self.parts.iter().map(|part| part.samples.as_slice()).collect();
        let seed = self.parts.first().map_or(0, |part| part.manifest.spec.seed);
        dependence(&slices, IntervalSettings { seed, ..IntervalSettings::default() })
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.parts.iter().chain(&self.all)
    }

    fn nested(&self) -> f64 {
        nested(self.parts.iter().map(|part| part.result.summary.log_volume.log_mean_exp))
    }

    /// The dependence in words.
    fn words(&self, dependence: &Dependence) -> String {
        let Some(value) = dependence.nats else { return "The dependence is unknown: not every volume has a finite estimate.".to_owned() };
        let is_flat = self.parts.iter().any(|part| matches!(part.manifest.spec.prior, Prior::Lebesgue));
        let names: Vec<String> = self.parts.iter().map(|part| By::Data.name(part)).collect();
        let interval = dependence.interval.and_then(|interval| Some((interval.low, interval.high?)));
        let without = "without an interval: a volume that is carried by few rays leaves both ends unknown";
        let text = dependence_words(&names, value, interval, without, (!is_flat).then(|| self.nested()));
        if is_flat {
            return text + " These are volumes, whose logarithms depend on units, so only differences between dependences mean something.";
        }
        text
    }
}

impl Runs for JointRuns {
    fn manifests(&self) -> Vec<(&Path, &Manifest)> {
        self.runs().map(|run| (run.folder.as_path(), &run.manifest)).collect()
    }

    fn write(&self, group: Option<&Path>) -> CommandResult {
        for run in self.runs() {
            folder::write_json(&run.folder.join(names::RESULT), &run.result)?;
            present::figures(&[run], By::Data, &run.folder)?;
        }
        if let Some(group) = group {
            fs::create_dir_all(group)?;
            present::figures(&self.runs().collect::<Vec<_>>(), By::Data, group)?;
            folder::write_json(&group.join(COMPARISON), &self.comparison()?)?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let runs: Vec<&Run> = self.runs().collect();
        let mut text = present::report(&runs, By::Data);
        if self.all.is_some() {
            text += &format!("\n{}\n", self.words(&self.dependence()));
        }
        text
    }

    fn json(&self) -> Result<Vec<Value>, CommandError> {
        Ok(vec![self.comparison()?])
    }

    fn verdict(&self) -> Option<String> {
        self.all.as_ref().map(|_| self.words(&self.dependence()))
    }

    fn answers(&self) -> Vec<Answer> {
        self.runs()
            .map(|run| {
                let answer = Answer::from(&run.result);
                Answer { estimator: format!("{}, on {}", answer.estimator, By::Data.name(run)), ..answer }
            })
            .collect()
    }
}

impl JointRuns {
    /// Everything side by side, as it is written to the folder above the runs.
    fn comparison(&self) -> Result<Value, CommandError> {
        let result = |run: &Run| -> Result<Value, serde_json::Error> {
            let mut result = serde_json::to_value(&run.result)?;
            result["data"] = json!(By::Data.name(run));
            Ok(result)
        };
        let parts: Vec<Value> = self.parts.iter().map(result).collect::<Result<_, _>>()?;
        let Some(all) = &self.all else { return Ok(json!({ "parts": parts })) };
        let dependence = self.dependence();
        let verdict = self.words(&dependence);
        Ok(json!({ "parts": parts, "all": result(all)?, "dependence": dependence, "nested": self.nested(), "verdict": verdict }))
    }
}
