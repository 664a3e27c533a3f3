//! Runs of chains that differ in their seed alone: ladders that know nothing of each other, and what they say together.

use basin_volume::run::ladders::Ladders;
use basin_volume::run::manifest::Manifest;
use basin_volume::spec::RunSpec;

use crate::estimators::{Run, family};
use crate::numbers::{interval_words, nats};

/// They in a sentence.
#[must_use]
pub fn words(ladders: &Ladders) -> String {
    let interval = interval_words(ladders.interval.map_or((None, None), |[low, high]| (Some(low), Some(high))));
    let scatter = ladders.standard_deviation.map_or_else(String::new, |sd| {
        let agree = if ladders.agree {
            "as their intervals allow"
        } else {
            "more than their intervals allow: chains do not cross from one to the other, or were not in equilibrium"
        };
        format!("; single ones scatter by {} (standard deviation), {agree}", nats(sd))
    });
    format!("{} ladders of other seeds together: {} {interval}{scatter}.", ladders.ladders, nats(ladders.mean))
}

/// Whether runs are ladders of one question: of an estimator without parts, and with seeds of their own.
pub(crate) fn are_ladders(manifests: &[Manifest]) -> bool {
    let [first, others @ ..] = manifests else { return false };
    let has_no_parts = family(first.spec.estimator.name()).is_ok_and(|family| !family.capabilities().shards);
    has_no_parts && others.iter().any(|other| other.spec.question.seed() != first.spec.question.seed())
}

/// A question with the seed of another.
pub(crate) fn with_seed_of(spec: &RunSpec, other: &RunSpec) -> RunSpec {
    RunSpec { question: spec.question.with_seed(other.question.seed()), ..spec.clone() }
}

/// What tells a ladder from the others.
#[must_use]
pub fn ladder_name(run: &Run) -> String {
    format!("{}, seed {}", run.answer.estimator, run.manifest.spec.question.seed())
}
