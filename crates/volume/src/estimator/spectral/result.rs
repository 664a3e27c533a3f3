//! The answer of a spectral run, from its manifest and records alone.

use serde::{Deserialize, Serialize};

use super::measure::{Ends, Measure, SpectralNode};
use super::record::{Draw, Part, SpectralRecord};
use crate::question::Question;
use crate::run::answer::{Answer, Measured, Trust};
use crate::run::manifest::Manifest;
use crate::spec::{EstimatorSpec, SpectralRoute, SpectralSpec};
use crate::statistics::{mean, null_is_nan, quantile, variance};

/// Level of the interval.
const LEVEL: f64 = 0.95;

/// `Phi^-1((1 + LEVEL)/2)`.
const NORMAL_QUANTILE: f64 = 1.959_963_984_540_054;

/// From so many probes on their own spread counts beside the formula.
const ENOUGH_PROBES: usize = 4;

/// An error of so many nats, or of this part of the number, is worth a warning.
const NATS: f64 = 1.0;
const SHARE: f64 = 0.01;

/// A cost ratio within this factor of one speaks for the quadratic cost.
const ALIKE: f64 = 2.0;

/// Estimates from the two quadrature rules: the truth lies between them, sampling apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bracket {
    /// With Gauss' rule, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub gauss: f64,
    /// With the Gauss-Radau rule with a node at zero, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub radau: f64,
}

/// The estimate from the first steps of every recursion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prefix {
    /// Number of steps.
    pub steps: usize,
    /// From Gauss' rule, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub log_probability: f64,
}

/// True cost over quadratic cost at draws of the estimator's own Gaussian.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrueCost {
    /// Number of draws, made in the spaces of the Lanczos vectors of a probe and of the center.
    pub draws: usize,
    /// Median ratio.
    #[serde(deserialize_with = "null_is_nan")]
    pub ratio: f64,
    /// Smallest ratio.
    #[serde(deserialize_with = "null_is_nan")]
    pub least: f64,
    /// Largest ratio; `null` in JSON if a cost is not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub most: f64,
    /// Mean of the quadratic cost: the cutoff, if all is well.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean_quadratic: f64,
    /// Mean of the true cost, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean_true: f64,
}

/// What a spectral run says beside its answer, which is about the quadratic cost. Numbers that are not finite are `null` in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpectralResult {
    /// How the spectrum was obtained: `gram` or `lanczos`.
    pub route: SpectralRoute,
    /// Confidence level of the sampling part of the interval, which reaches from one rule to the other besides.
    pub level: f64,
    /// Standard error of the sampling of probes, nats; 0 for a whole spectrum.
    #[serde(deserialize_with = "null_is_nan")]
    pub sampling_error: f64,
    /// Standard deviation of the estimates of single probes, nats, where there are several.
    pub probe_sd: Option<f64>,
    /// The two rules.
    pub bracket: Option<Bracket>,
    /// Estimates from a half and three quarters of the steps, and from all.
    pub prefixes: Vec<Prefix>,
    /// Where the mean of the quadratic cost is the cutoff, per nat.
    #[serde(deserialize_with = "null_is_nan")]
    pub beta: f64,
    /// `sum beta s^2 l / (1 + beta s^2 l)`.
    #[serde(deserialize_with = "null_is_nan")]
    pub effective_dimension: f64,
    /// `-1/2 sum beta l c^2 / (1 + beta s^2 l)`: the center's part of the number, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub center_term: f64,
    /// Trace of the Fisher matrix.
    #[serde(deserialize_with = "null_is_nan")]
    pub trace: f64,
    /// Its largest eigenvalue, nats per squared unit of weight.
    #[serde(deserialize_with = "null_is_nan")]
    pub largest_eigenvalue: f64,
    /// Eigenvalues above zero, of the route gram.
    pub rank: Option<usize>,
    /// Lanczos steps of the shortest recursion.
    pub steps: usize,
    /// Probes that the number is made of; 0 for a whole spectrum.
    pub probes: usize,
    /// Records there are.
    pub samples: usize,
    /// Records asked for, over all shards: the center, and the probes or draws.
    pub samples_requested: u64,
    /// How far the true cost is from the quadratic one.
    pub true_cost: Option<TrueCost>,
    /// Products with the Fisher matrix.
    pub products: u64,
}

/// Record 0 and the probes.
fn split(records: &[SpectralRecord]) -> Option<(&SpectralRecord, Vec<&SpectralRecord>)> {
    let center = records.iter().find(|record| record.index == 0)?;
    let probes: Vec<&SpectralRecord> = records.iter().filter(|record| record.part == Part::Probe).collect();
    (center.part == Part::Spectrum || !probes.is_empty()).then_some((center, probes))
}

/// The spectral measure that the number is made of (without the penalty), from the largest eigenvalue: nodes with weights. Empty while there
/// are too few records.
#[must_use]
pub fn spectrum(dimension: usize, records: &[SpectralRecord]) -> Vec<SpectralNode> {
    let Some((center, probes)) = split(records) else { return Vec::new() };
    let mut nodes = Measure::with_ends(dimension, center, &probes, Ends::Low, 1.0).into_nodes();
    nodes.retain(|node| node.multiplicity > 0.0 || node.center_squared > 0.0);
    nodes.sort_by(|a, b| b.curvature.total_cmp(&a.curvature));
    nodes
}

/// What the measure says.
struct Numbers {
    log_probability: f64,
    sampling_error: f64,
    probe_sd: Option<f64>,
    bracket: Bracket,
    prefixes: Vec<Prefix>,
    beta: f64,
    effective_dimension: f64,
    center_term: f64,
    trace: f64,
    largest: f64,
    steps: usize,
}

impl Numbers {
    /// From record 0 and the probes, for so many parameters.
    fn of(question: &Question, dimension: usize, center: &SpectralRecord, probes: &[&SpectralRecord]) -> Self {
        let (cutoff, l2) = (question.cutoff(), question.l2_reg());
        // Only a folder that is no run of this estimator has another prior.
        let sigma = question.sigma().unwrap_or(f64::NAN);
        let measure = |ends, share| Measure::with_ends(dimension, center, probes, ends, share).with_penalty(l2);
        let value = |ends, share| measure(ends, share).log_probability(sigma, cutoff);
        let steps = probes.iter().copied().chain([center]).map(|record| record.tridiagonal().steps()).min().unwrap_or(0);
        let is_whole = center.part == Part::Spectrum;
        let middle = measure(Ends::Both, 1.0);
        let tilted = middle.saddle_point(sigma, cutoff);
        let scaled = tilted.beta * sigma * sigma;
        let log_term = |l: f64| (scaled * l).ln_1p();
        let mut sampling_error = 0.0;
        let mut probe_sd = None;
        if !is_whole {
            let mass = probes[0].mass;
            // The deflated eigenvalues are taken for exact: only the rest is sampled.
            let own: Vec<Measure> = probes.iter().map(|probe| Measure::probe_alone(probe).with_penalty(l2)).collect();
            let mean_of = |f: &dyn Fn(f64) -> f64| own.iter().map(|measure| measure.trace(f)).sum::<f64>() / own.len() as f64;
            let (first, second) = (mean_of(&log_term), mean_of(&|l| log_term(l).powi(2)));
            let count = probes.len() as f64;
            // Orthogonal directions scatter a little less than independent ones.
            let vectors = probes.iter().map(|probe| probe.width as f64).sum::<f64>();
            let formula = (0.5 * mass / (mass + 2.0) * (second - first * first / mass).max(0.0) / vectors).sqrt();
            sampling_error = formula;
            let halves: Vec<f64> = own.iter().map(|measure| -0.5 * measure.trace(log_term)).collect();
            if halves.len() > 1 {
                let sd = variance(&halves).sqrt();
                probe_sd = Some(sd);
                if halves.len() >= ENOUGH_PROBES {
                    sampling_error = formula.max(sd / count.sqrt());
                }
            }
        }
        let bracket = if is_whole {
            let exact = value(Ends::Low, 1.0);
            Bracket { gauss: exact, radau: exact }
        } else {
            Bracket { gauss: value(Ends::Low, 1.0), radau: value(Ends::High, 1.0) }
        };
        let prefixes = if is_whole {
            Vec::new()
        } else {
            let part = |share: f64| Prefix { steps: (share * steps as f64).ceil() as usize, log_probability: value(Ends::Low, share) };
            vec![part(0.5), part(0.75), Prefix { steps, log_probability: bracket.gauss }]
        };
        Self {
            log_probability: if is_whole { bracket.gauss } else { value(Ends::Both, 1.0) },
            sampling_error,
            probe_sd,
            bracket,
            prefixes,
            beta: tilted.beta,
            effective_dimension: middle.trace(|l| scaled * l / (1.0 + scaled * l)),
            center_term: -middle.center_term(sigma, tilted.beta),
            trace: middle.trace(|l| l - l2),
            largest: middle.largest() - l2,
            steps,
        }
    }

    /// How far the estimates move with more steps: from rule to rule, and what the last quarter of the steps added.
    fn truncation(&self) -> (f64, f64) {
        let Bracket { gauss, radau } = self.bracket;
        let added = match self.prefixes.as_slice() {
            [_, before, all] => (all.log_probability - before.log_probability).abs(),
            _ => 0.0,
        };
        ((radau - gauss).abs(), added)
    }

    fn interval(&self) -> (f64, f64) {
        let Bracket { gauss, radau } = self.bracket;
        let (_, added) = self.truncation();
        let half = NORMAL_QUANTILE * self.sampling_error;
        // It is a probability.
        (gauss.min(radau) - half, (gauss.max(radau).max(gauss + added) + half).min(0.0))
    }

    fn words(&self, probes: usize, settings: &SpectralSpec) -> Vec<String> {
        let mut words = Vec::new();
        let worth = NATS.max(SHARE * self.log_probability.abs());
        let (between, added) = self.truncation();
        if between.max(added) > worth {
            let remedy = if self.steps < settings.steps && settings.tolerance > 0.0 {
                "Let the probes go on to the end (`tolerance=0`)".to_owned()
            } else {
                format!("Raise the number of steps (`steps={}`)", 2 * self.steps)
            };
            words.push(format!(
                "{} Lanczos steps are too few: the two quadrature rules differ by {between:.1} nats, and the last quarter of the steps moved the number by {added:.1} nats. {remedy}, or take leading eigenvectors out (raise `deflation`).",
                self.steps
            ));
        }
        if NORMAL_QUANTILE * self.sampling_error > worth {
            words.push(format!(
                "The {probes} random probes leave a standard error of {:.1} nats: raise `samples`; four times as many halve it.",
                self.sampling_error
            ));
        }
        words
    }
}

fn compare(records: &[SpectralRecord]) -> Option<TrueCost> {
    let draws: Vec<_> = records.iter().filter_map(|record| record.draw).collect();
    if draws.is_empty() {
        return None;
    }
    let of = |f: &dyn Fn(&Draw) -> f64| draws.iter().map(f).collect::<Vec<f64>>();
    let mut ratios = of(&|draw| draw.cost / draw.quadratic);
    ratios.sort_by(f64::total_cmp);
    Some(TrueCost {
        draws: draws.len(),
        ratio: quantile(&ratios, 0.5),
        least: ratios[0],
        most: ratios[ratios.len() - 1],
        mean_quadratic: mean(&of(&|draw| draw.quadratic)),
        mean_true: mean(&of(&|draw| draw.cost)),
    })
}

/// How far the cost is from the quadratic one where the number comes from, as a sentence behind another.
fn ratio_words(true_cost: Option<&TrueCost>) -> String {
    match true_cost {
        None => " The true cost was not compared with it.".to_owned(),
        Some(found) if found.ratio < ALIKE && found.ratio > 1.0 / ALIKE => {
            format!(" At {} draws of its own Gaussian the true cost is {:.2} times the quadratic one (median).", found.draws, found.ratio)
        }
        Some(found) => format!(
            " At {} draws of its own Gaussian the true cost is {:.3} times the quadratic one (median; {:.3} to {:.3}): the cost is not quadratic where the number comes from.",
            found.draws, found.ratio, found.least, found.most
        ),
    }
}

impl SpectralResult {
    /// The result of these records (in the order of their indices), on which so many seconds were spent.
    #[must_use]
    pub fn of(manifest: &Manifest, records: &[SpectralRecord], seconds: f64) -> (Answer, Self) {
        let spec = &manifest.spec;
        let settings = if let EstimatorSpec::Spectral(settings) = spec.estimator { settings } else { SpectralSpec::default() };
        let found = split(records);
        let probes = found.as_ref().map_or(0, |(_, probes)| probes.len());
        let numbers = found.map(|(center, probes)| Numbers::of(&spec.question, spec.dimension, center, &probes));
        let true_cost = compare(records);
        let mut reasons = Vec::new();
        if numbers.is_none() {
            reasons.push("There is no number yet: it needs the record of the center (index 0) and at least one probe.".to_owned());
        }
        reasons.extend(numbers.iter().flat_map(|numbers| numbers.words(probes, &settings)));
        reasons.extend(manifest.words_on_samples(records.len()));
        let or_nan = |f: fn(&Numbers) -> f64| numbers.as_ref().map_or(f64::NAN, f);
        let log_probability = or_nan(|n| n.log_probability);
        let interval = numbers.as_ref().map(Numbers::interval).filter(|(low, high)| low.is_finite() && high.is_finite());
        let answer = Answer {
            estimator: "spectral (quadratic)".to_owned(),
            measures: Measured::Ellipsoid,
            quantity: spec.question.prior().quantity().to_owned(),
            log_probability,
            learning_coefficient: None,
            // A guide has none: no truth lies in the interval of a set that is not asked for.
            interval: (None, None),
            numerical_error: interval.map(|(low, high)| (high - log_probability).max(log_probability - low)),
            overlap: None,
            meaning: Measured::Ellipsoid.meaning().to_owned() + &ratio_words(true_cost.as_ref()),
            trust: if log_probability.is_finite() { Trust::Guide } else { Trust::NotAnAnswer },
            reasons,
            bits_per_parameter: spec.bits_per_parameter(log_probability),
            seconds,
            gradients: records.iter().map(|record| record.gradients).sum(),
            evaluations: records.iter().filter(|record| record.draw.is_some()).count() as u64,
        };
        let result = Self {
            route: settings.route,
            level: LEVEL,
            sampling_error: or_nan(|n| n.sampling_error),
            probe_sd: numbers.as_ref().and_then(|n| n.probe_sd),
            bracket: numbers.as_ref().map(|n| n.bracket),
            prefixes: numbers.as_ref().map_or(Vec::new(), |n| n.prefixes.clone()),
            beta: or_nan(|n| n.beta),
            effective_dimension: or_nan(|n| n.effective_dimension),
            center_term: or_nan(|n| n.center_term),
            trace: or_nan(|n| n.trace),
            largest_eigenvalue: or_nan(|n| n.largest),
            rank: records.iter().find(|record| record.part == Part::Spectrum).map(|record| record.eigenvalues.len()),
            steps: numbers.as_ref().map_or(0, |n| n.steps),
            probes,
            samples: records.len(),
            samples_requested: manifest.samples,
            true_cost,
            products: records.iter().map(|record| record.products).sum(),
        };
        (answer, result)
    }
}
