//! Flags that decide a volume, and with what it is computed.

use std::num::NonZeroUsize;

use basin_volume::spec::{Proposal, SetKind};
use basin_volume_engine::error::Error;
use basin_volume_engine::request::{Ask, Assignment, DampingChoice, Machine, Memory, PerSequence, PriorKind, Sigma};
use clap::{Args, ValueEnum};

use super::cost::{same_words, take};
use super::worker_threads;

/// Headings of flags.
pub(super) const QUESTION: &str = "The question";
pub(super) const RAYS: &str = "Rays (--estimator radial)";
pub(super) const SPECTRUM: &str = "Quadratic cost (--estimator spectral)";
pub(super) const CHAINS: &str = "Chains (--estimator annealed or llc)";

/// What decides a ray and its volume.
#[derive(Debug, Args)]
pub struct RayFlags {
    /// The cost (mean KL divergence, nats) at which behaviour counts as changed. [default: 0.01]
    #[arg(long, value_name = "NATS", help_heading = QUESTION)]
    pub cutoff: Option<f64>,
    /// Add l2-reg/2 ||w - c||^2 to the cost. [default: 0]
    #[arg(long, value_name = "L", help_heading = QUESTION)]
    pub l2_reg: Option<f64>,
    /// Standard deviation of the Gaussian prior: a number, `rms` (root mean square of the moving weights) or `weight-decay`
    /// (1/sqrt(l2 x train size) of the checkpoint's own training). [default: rms; weight-decay for `digits-mlp`]
    #[arg(long, value_name = "VALUE|rms|weight-decay", help_heading = QUESTION)]
    pub sigma: Option<Sigma>,
    /// The density that the volume is measured under. [default: gaussian]
    #[arg(long, value_enum, help_heading = QUESTION)]
    pub prior: Option<PriorChoice>,
    /// Power of the curvature s in the preconditioner 1/(|s|^exponent + eps), the map of Adam's moments and plain files. [default: 0.3 for
    /// `digits`, else 0.5]
    #[arg(long, value_name = "X", conflicts_with = "damping", help_heading = RAYS)]
    pub exponent: Option<f64>,
    /// eps in the preconditioner 1/(|s|^exponent + eps). [default: 2e-3 for `digits`, else 1e-5]
    #[arg(long, value_name = "Y", conflicts_with = "damping", help_heading = RAYS)]
    pub eps: Option<f64>,
    /// Precondition by (s + damping)^(-1/2) instead: a number added to the curvature; `auto`, which is 1/(beta sigma^2) with beta from the
    /// saddle point of the quadratic cost; or `match`, with the beta at which draws of the proposal have the cost of the cutoff (about
    /// thirty evaluations more; for networks and --proposal shifted). [default: auto for curvature files and computed curvatures]
    #[arg(long, value_name = "auto|match|VALUE", help_heading = RAYS)]
    pub damping: Option<DampingChoice>,
    /// Where the Gaussian lies that directions are drawn from: around the center, where only its shape matters, or shifted to the mean
    /// -Sigma c/sigma^2 of the prior tilted by the cost. Shifted needs --prior gaussian and a covariance Sigma: a damped curvature (Sigma =
    /// (beta F + 1/sigma^2)^-1), a file of moments, or `none`, which is the prior itself. [default: centered]
    #[arg(long, value_enum, help_heading = RAYS)]
    pub proposal: Option<ProposalChoice>,
    /// Seed of the random directions. [default: 42]
    #[arg(long, value_name = "K", help_heading = QUESTION)]
    pub seed: Option<u64>,
    /// Accepted error of one ray's log-volume due to its radius. [default: 1, or 1e-5 per parameter if that is less]
    #[arg(long, value_name = "NATS", help_heading = RAYS)]
    pub radius_tolerance: Option<f64>,
}

/// Settings of estimators.
#[derive(Debug, Args)]
pub struct EstimatorFlags {
    /// Another setting of the estimator, by its name in manifest.json, such as max_evaluations=40; may be repeated. With --estimator all the
    /// name says which estimator is meant: radial.max_evaluations=40.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Number of samples over all shards: rays per preconditioner, probes of the spectral estimator (draws where it takes the Gram matrix), sweeps
    /// of the annealed one, rounds of a learning coefficient. With --estimator all, rays. [default: 100 rays, 6 probes or 4 draws, 1 sweep or
    /// round]
    #[arg(long, value_name = "N")]
    pub samples: Option<u64>,
    /// What is said of every sequence: its `cost` at the radius (`costs_by_part` in samples.jsonl), at the price of one more evaluation per
    /// ray, or its own radius and `volume` (a table, and sequences.csv), at the price of a few. Language models only.
    #[arg(long, value_enum, value_name = "cost|volume", num_args = 0..=1, default_missing_value = "cost", help_heading = RAYS)]
    pub per_sequence: Option<SequenceChoice>,
    /// What the annealed chains measure: the basin that they reach, or the star of weights that see the center along a straight line.
    /// [default: basin]
    #[arg(long, value_enum, help_heading = CHAINS)]
    pub set_kind: Option<SetChoice>,
}

/// With what the work is done.
#[derive(Debug, Args)]
pub struct MachineFlags {
    /// Worker threads. [default: all cores]
    #[arg(long, value_name = "T", value_parser = worker_threads)]
    pub threads: Option<NonZeroUsize>,
    /// Memory that may be used: `auto` (four fifths of what is free), `low` (as little as possible), or a size such as 1.5GB. Decides what
    /// is kept and what is computed again; the samples do not depend on it. For language models and images. [default: auto]
    #[arg(long, value_name = "auto|low|SIZE")]
    pub memory: Option<Memory>,
}

impl RayFlags {
    /// Writes what was typed into a question.
    pub fn apply(&self, ask: &mut Ask) {
        take!(self, ask; cutoff, sigma, exponent, eps, damping, radius_tolerance);
        ask.l2_reg = self.l2_reg.unwrap_or(ask.l2_reg);
        ask.seed = self.seed.unwrap_or(ask.seed);
        ask.prior = self.prior.map_or(ask.prior, Into::into);
        ask.proposal = self.proposal.map(Into::into).or(ask.proposal);
    }
}

impl EstimatorFlags {
    /// Writes what was typed into a question.
    ///
    /// # Errors
    /// When a setting is not of the form NAME=VALUE.
    pub fn apply(&self, ask: &mut Ask) -> Result<(), Error> {
        take!(self, ask; samples);
        let parse = |text: &String| text.parse::<Assignment>().map_err(|reason| Error::usage(format!("--set {text}: {reason}")));
        if !self.set.is_empty() {
            ask.set = self.set.iter().map(parse).collect::<Result<_, _>>()?;
        }
        ask.per_sequence = self.per_sequence.map(Into::into).or(ask.per_sequence);
        ask.set_kind = self.set_kind.map(Into::into).or(ask.set_kind);
        Ok(())
    }
}

impl MachineFlags {
    /// Writes what was typed.
    pub fn apply(&self, machine: &mut Machine) {
        take!(self, machine; threads, memory);
    }

    /// What was typed.
    pub fn machine(&self) -> Machine {
        Machine { threads: self.threads, memory: self.memory }
    }
}

same_words!(PriorChoice, PriorKind; Gaussian, Lebesgue, Sphere);
same_words!(ProposalChoice, Proposal; Centered, Shifted);
same_words!(SetChoice, SetKind; Basin, Star);
same_words!(SequenceChoice, PerSequence; Cost, Volume);

/// What is said of every sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SequenceChoice {
    /// Its cost at the radius of all.
    Cost,
    /// Its own radius and volume.
    Volume,
}

/// Which set of weights annealed chains measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SetChoice {
    /// The weights under the cutoff that chains from the center reach.
    Basin,
    /// The weights whose straight line to the center stays under the cutoff.
    Star,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PriorChoice {
    /// N(0, sigma^2 I).
    Gaussian,
    /// Flat: the result is the log of a volume, not of a probability.
    Lebesgue,
    /// Uniform on the sphere ||w|| = ||c||.
    Sphere,
}

/// Where the Gaussian of the directions lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProposalChoice {
    /// Around the center.
    #[value(alias = "centred")]
    Centered,
    /// Around the mean of the tilted prior, or that of the file.
    Shifted,
}
