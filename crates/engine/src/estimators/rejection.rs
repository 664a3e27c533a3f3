//! Draws from the prior, counted. It needs millions of draws for a single hit, and exists in tests alone: to show all that a new estimator takes,
//! this file and one line in [`super::FAMILIES`].

use std::path::{Path, PathBuf};

use basin_volume::direction::Direction;
use basin_volume::objective::{Objective, ObjectiveError, RayPoint};
use basin_volume::question::Question;
use basin_volume::random::{NormalVector, Purpose};
use basin_volume::run::answer::{Answer, Measured, Trust};
use basin_volume::run::driver::{IndexedEstimator, Workers};
use basin_volume::run::folder;
use basin_volume::run::manifest::Manifest;
use basin_volume::run::record::Record;
use basin_volume::spec::{EstimatorSpec, PreconditionerSpec, RunSpec};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::run_folder::{self, Outcome, Spread};
use super::{Capabilities, Computed, Family, Prepared, Request, Run};
use crate::error::Error;
use crate::forecast::Work;
use crate::resources::Needs;

/// See the module.
pub(super) struct Rejection;

/// Whether one draw is under the cutoff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Draw {
    index: u64,
    is_hit: bool,
}

impl Record for Draw {
    fn index(&self) -> u64 {
        self.index
    }
}

#[derive(Debug, Clone, Serialize)]
struct Counts {
    draws: usize,
    hits: usize,
}

struct Draws<'a> {
    objective: &'a dyn Objective,
    center: Vec<f32>,
    question: Question,
}

impl IndexedEstimator for Draws<'_> {
    type Record = Draw;
    type Error = ObjectiveError;

    fn compute(&self, index: u64) -> Result<Draw, ObjectiveError> {
        let sigma = self.question.sigma().unwrap_or(1.0) as f32;
        let mut values = vec![0.0; self.center.len()];
        NormalVector::new(Purpose::Directions, self.question.seed(), index, values.len()).fill(0..values.len(), &mut values);
        values.iter_mut().zip(&self.center).for_each(|(value, center)| *value = sigma * *value - center);
        let direction = Direction::from_values(values, 1.0, &self.center);
        let cost = self.objective.cost(&direction, RayPoint::straight(1.0))?;
        Ok(Draw { index, is_hit: cost.nats <= self.question.cutoff() })
    }

    fn is_interrupt(error: &ObjectiveError) -> bool {
        error.is_interrupt()
    }
}

fn conclude(folder: PathBuf, manifest: Manifest, draws: Vec<Draw>, seconds: f64) -> Result<Run, Error> {
    let counts = Counts { draws: draws.len(), hits: draws.iter().filter(|draw| draw.is_hit).count() };
    let is_answer = counts.hits >= 20;
    let answer = Answer {
        estimator: "rejection".to_owned(),
        measures: Measured::Basin,
        quantity: "ln of the probability under the prior".to_owned(),
        log_probability: (counts.hits as f64 / counts.draws as f64).ln(),
        learning_coefficient: None,
        interval: (None, None),
        numerical_error: None,
        overlap: None,
        meaning: Measured::Basin.meaning().to_owned(),
        trust: if is_answer { Trust::Answer } else { Trust::NotAnAnswer },
        reasons: if is_answer { Vec::new() } else { vec![format!("Only {} draws are under the cutoff.", counts.hits)] },
        bits_per_parameter: None,
        seconds,
        gradients: 0,
        evaluations: counts.draws as u64,
    };
    run_folder::run_of(folder, manifest, Outcome { answer, own: counts }, |counts| counts)
}

struct Asked<'a> {
    request: &'a Request<'a>,
    samples: u64,
    specs: [RunSpec; 1],
}

impl Family for Rejection {
    fn name(&self) -> &'static str {
        "rejection"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shards: true, preconditioners: false, gradients: false, several_data: false, volume: true }
    }

    fn folders(&self) -> &'static [&'static str] {
        &["rejection"]
    }

    fn prepare<'a>(&self, request: &'a Request<'a>) -> Result<Box<dyn Prepared + 'a>, Error> {
        let mut settings = EstimatorSpec::Custom { name: self.name().to_owned(), settings: Map::new() };
        request.apply_settings(&mut settings)?;
        let specs = [request.spec(PreconditionerSpec::None, settings)];
        Ok(Box::new(Asked { request, samples: request.samples(1000)?, specs }))
    }

    fn read(&self, folder: &Path) -> Result<Run, Error> {
        conclude(folder.to_owned(), folder::read_manifest(folder)?, folder::read_samples(folder)?, run_folder::seconds_in(folder))
    }

    fn merge(&self, folders: &[PathBuf], out: &Path) -> Result<(), Error> {
        run_folder::merge::<Draw>(folders, out, |out| self.read(out))
    }
}

impl Prepared for Asked<'_> {
    fn specs(&self) -> &[RunSpec] {
        &self.specs
    }

    fn records(&self) -> Option<u64> {
        Some(self.samples)
    }

    fn work(&self) -> Option<Work> {
        None
    }

    fn run(self: Box<Self>, out: &Path) -> Result<Computed, Error> {
        let Request { subject, session, question, .. } = *self.request;
        let resources = subject.resources(Needs::rays(0), session)?;
        let objective = subject.objective(&resources)?;
        let mut center = vec![0.0; subject.dimension()];
        subject.center(0..center.len(), &mut center);
        let squares = subject.sum_of_squares();
        let manifest = self.request.manifest(self.specs[0].clone(), squares, None, self.samples);
        let estimator = Draws { objective: &*objective, center, question };
        let spread = Spread { workers: Workers::automatic(session.threads, subject.dimension()), session };
        let (run, end) =
            run_folder::in_folder(out, &manifest, |at_work| run_folder::drive(&estimator, at_work, &spread, |_, _| ()), conclude)?;
        Ok(Computed { runs: vec![run], end })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use basin_volume::objective::Cost;
    use basin_volume::run::shard::Shard;
    use basin_volume::testkit::{Ball, Closure};

    use super::*;
    use crate::estimate;
    use crate::events::Silent;
    use crate::merge;
    use crate::request::{Ask, Estimate, Sigma};
    use crate::session::Session;
    use crate::spread::ShardChoice;
    use crate::subject::Foreign;

    /// All that the other estimators have, an estimator gets that registers itself: folders, shards, `merge`, comparison.
    #[test]
    fn an_estimator_is_one_file_and_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let center = vec![0.5f32, -0.25];
        let ball = center.clone();
        let closure = Closure::new(center.clone(), move |w: &[f64]| {
            Cost::exact(w.iter().zip(&ball).map(|(w, c)| 0.5 * (w - f64::from(*c)).powi(2)).sum())
        });
        let subject = Foreign::on_rays("ball", Map::new(), Arc::new(closure));
        let session = Session::new(None, None, basin_volume::interrupt::Interrupt::new(), Box::new(Silent));
        let asked = |out: &str, shard: Shard| Estimate {
            ask: Ask { cutoff: Some(0.5), sigma: Some(Sigma::Value(1.0)), samples: Some(4000), ..Ask::default() },
            estimator: "rejection".to_owned(),
            shard: ShardChoice::Part(shard),
            out: Some(folder.path().join(out)),
            ..Estimate::default()
        };
        let whole = estimate::run(&asked("whole", Shard::ALL), &subject, &session).unwrap();
        let answer = &whole.groups[0].runs[0].answer;
        let truth = Ball::new(center).true_log_probability(1.0, 0.5);
        assert!((answer.log_probability - truth).abs() < 0.1, "{truth}, {answer:?}");
        for part in ["0/2", "1/2"] {
            estimate::run(&asked(&part.replace('/', "-"), part.parse().unwrap()), &subject, &session).unwrap();
        }
        let merged = folder.path().join("merged");
        merge::merge(&[folder.path().join("0-2"), folder.path().join("1-2")], &merged).unwrap();
        let read = crate::runs::read_all(&merged).unwrap();
        assert_eq!(read[0].runs[0].block, whole.groups[0].runs[0].block);
        let unknown = Estimate { ask: Ask { set: vec!["a=1".parse().unwrap()], ..asked("b", Shard::ALL).ask }, ..asked("b", Shard::ALL) };
        let error = estimate::run(&unknown, &subject, &session).unwrap_err().to_string();
        assert!(error.contains("there is no setting 'a'"), "{error}");
    }
}
