//! What chains take, go on from and refuse, whatever they stay at.

use std::path::Path;

use basin_volume::run::folder::{self, names};
use basin_volume::spec::Metric;
use basin_volume_models::curvature::StateMetrics;
use basin_volume_models::memory::{Beside, size};

use super::{Family, Request};
use crate::error::Error;
use crate::resources::{Needs, Resources};
use crate::session::Session;
use crate::subject::Subject;

/// Vectors of length `D` that a chain takes, its states on the way to the disk included.
const VECTORS: u64 = 11;

/// Refuses a request that chains cannot answer; `name` says whose chains they would be.
pub(super) fn check(request: &Request<'_>, name: &str) -> Result<(), Error> {
    if !request.estimate.shard.part().is_all() {
        return Err(Error::usage(format!(
            "`shard` does not go with `estimator={name}`, whose chains go on from each other: use different `seed` instead"
        )));
    }
    request.needs_gradients()
}

/// Refuses a metric for a subject that does not give what it is made of.
pub(super) fn check_metric(has_metric: bool, subject: &dyn Subject) -> Result<(), Error> {
    if !has_metric || subject.offers().scores {
        return Ok(());
    }
    Err(Error::usage(format!("`set=metric` needs the scores of single positions, which {} does not give: leave it out", subject.name())))
}

/// There is nothing to merge.
pub(super) fn no_shards() -> Error {
    Error::usage("chains have no shards to be joined: run them with different `seed` and compare")
}

/// How far a run folder has come.
#[derive(Clone, Copy)]
pub(crate) struct State {
    /// Sweeps or rounds that it is to have.
    pub samples: u64,
    /// Whether it has them.
    pub is_complete: bool,
}

/// There is no run that could have one more sweep or round.
pub(crate) fn nothing_to_continue(out: &Path) -> Error {
    Error::failed(format!("`continue`: {} is not a run folder, so there is nothing to go on from", out.display()))
}

/// How far the run of an estimator in a folder has come; none when there is none.
pub(super) fn state(family: &dyn Family, out: &Path) -> Result<Option<State>, Error> {
    if !out.join(names::MANIFEST).exists() {
        return Ok(None);
    }
    let manifest = folder::read_manifest(out)?;
    let (found, name) = (manifest.spec.estimator.name(), family.name());
    if found != name {
        return Err(Error::failed(format!(
            "`continue`: {} holds a run of the {found} estimator, not of {name}: choose another folder",
            out.display()
        )));
    }
    Ok(Some(State { samples: manifest.samples, is_complete: family.read(out)?.is_complete }))
}

/// What decides the memory of chains.
pub(super) struct ChainNeeds<'a> {
    /// With what they run.
    pub session: &'a Session,
    /// The subjects the largest of whose costs is the cost.
    pub subjects: &'a [&'a dyn Subject],
    /// Weights that move.
    pub dimension: usize,
    /// What their coordinates are stretched by.
    pub metric: Metric,
}

impl ChainNeeds<'_> {
    /// What is kept in memory for each subject; refused where it does not fit, with the number of chains that would. `name` says whose chains they are.
    pub fn plan(&self, name: &str, chains: u32) -> Result<Vec<Resources>, Error> {
        let chains = u64::from(chains);
        let planned = self.plan_for(chains, "");
        if let Ok(planned) = &planned
            && let Some(last) = planned.last()
        {
            self.session.note(&format!("{name}: memory {} of {} allowed", size(last.needed), size(last.allowed)));
        }
        let is_refused = matches!(planned, Err(Error::Failed { .. }));
        match (1..chains).rev().find(|&fewer| is_refused && self.plan_for(fewer, "").is_ok()) {
            Some(fewer) => self.plan_for(chains, &format!("`set=chains={fewer}`, which fits")),
            None => planned,
        }
    }

    /// The same for so many chains, with what would help where they do not fit.
    fn plan_for(&self, chains: u64, advice: &str) -> Result<Vec<Resources>, Error> {
        let Self { session, dimension, metric, .. } = *self;
        let vectors = VECTORS * chains + 1 + StateMetrics::vectors(metric, chains);
        // Beside a cost there are the chains, and the costs before it.
        let gradients: u64 = self.subjects.iter().map(|subject| subject.gradient_bytes(session.threads)).sum();
        let at_once = chains.min(session.threads.get() as u64);
        let mut needed = 4 * dimension as u64 * vectors + at_once * gradients;
        // A metric has a cost around other weights for a while.
        let at_once = at_once + u64::from(metric != Metric::None);
        let what = format!("{chains} chain{} with gradients", if chains == 1 { "" } else { "s" });
        let mut all = Vec::new();
        for subject in self.subjects {
            let beside = Beside { what: what.clone(), bytes: needed, advice: advice.to_owned() };
            let own = subject.resources(Needs::beside_gradients(beside, at_once, 4 * dimension as u64 * vectors), session)?;
            needed = own.needed;
            all.push(own);
        }
        if let Some(last) = all.last() {
            let remedy = if advice.is_empty() { "fewer weights that move" } else { advice };
            last.check(&format!("the run of {what} and {dimension} weights needs"), 0, &format!("take {remedy}"))?;
        }
        Ok(all)
    }
}
