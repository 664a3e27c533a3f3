//! What the results of all estimators have in common, so that they can stand in one table: the number, how far it can be trusted, and why.

use serde::{Deserialize, Serialize};

use crate::numbers::nats;

/// Which set a number is the measure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Measured {
    /// The points whose straight line to the center stays under the cutoff.
    Star,
    /// The points under the cutoff that a chain started at the center reaches.
    Basin,
    /// The points under the cutoff of the quadratic cost with the Fisher matrix: it bounds neither of the others.
    Ellipsoid,
    /// No set: states of chains around the center at one temperature, whose number is a learning coefficient.
    Posterior,
}

impl Measured {
    /// The name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Star => "star",
            Self::Basin => "basin",
            Self::Ellipsoid => "ellipsoid",
            Self::Posterior => "posterior",
        }
    }

    /// What it has to do with the local volume of the paper (Scherlis & Belrose 2025), in a sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Star => {
                "The star is the local volume of the paper: the weights whose straight line to the center stays under the cutoff."
            }
            Self::Basin => {
                "The basin is what chains from the center reach under the cutoff: it holds the star, which is the local volume of the paper."
            }
            Self::Ellipsoid => {
                "The ellipsoid is where the quadratic cost stays under the cutoff: a guide, which bounds neither the star nor the basin."
            }
            Self::Posterior => {
                "The learning coefficient is no volume: it says how fast the volume around the center grows with the cutoff, ln V(eps) ~ lambda ln eps, as far as the states at this temperature and with this localization see it."
            }
        }
    }
}

/// How far a number can be trusted as the measure of its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Trust {
    /// It is the measure of the set, within the interval.
    Answer,
    /// The measure is this or larger.
    LowerBound,
    /// The measure is this or smaller.
    UpperBound,
    /// The measure of a simpler set, that neither bounds nor estimates the others.
    Guide,
    /// Nothing follows from it.
    NotAnAnswer,
}

impl Trust {
    /// The words of tables.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::LowerBound => "lower bound",
            Self::UpperBound => "upper bound",
            Self::Guide => "guide",
            Self::NotAnAnswer => "not an answer",
        }
    }
}

/// The common view of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the estimator, with what distinguishes several of its runs (the preconditioner).
    pub estimator: String,
    /// Which set.
    pub measures: Measured,
    /// What the logarithm is of, in words: of a probability, or of a volume under the flat prior.
    pub quantity: String,
    /// The estimate, nats; `null` in JSON, and NaN, where there is none.
    #[serde(deserialize_with = "crate::statistics::null_is_nan")]
    pub log_probability: f64,
    /// The local learning coefficient, of an estimator that measures no volume; it has no unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_coefficient: Option<f64>,
    /// Both ends of the interval of the number, where they are known: nats, or of the learning coefficient.
    pub interval: (Option<f64>, Option<f64>),
    /// Of a guide, which has no interval: how far off the true number of its own set it may be, nats.
    pub numerical_error: Option<f64>,
    /// Of chains: the mean overlap `c.w / c.c` with the center of the states that the number is made of.
    pub overlap: Option<f64>,
    /// What the number means, in a sentence or two: which set it measures, and what that has to do with the local volume of the paper.
    pub meaning: String,
    /// How far the number can be trusted.
    pub trust: Trust,
    /// Why it is not trusted more, the gravest first; what else is to be known.
    pub reasons: Vec<String>,
    /// `-log_probability / (D ln 2)`, the description length in bits per parameter; none where there is no number, nor for a volume, whose
    /// logarithm depends on units.
    pub bits_per_parameter: Option<f64>,
    /// Wall-clock seconds spent on it, over all sessions that ended in an orderly way.
    pub seconds: f64,
    /// Gradients of the cost computed.
    pub gradients: u64,
    /// Evaluations of the cost without its gradient.
    pub evaluations: u64,
}

/// Below this overlap the states of chains know nothing of the center any more.
pub const FORGOTTEN: f64 = 0.1;

/// What it means that chains have come to an overlap below [`FORGOTTEN`], in two sentences.
#[must_use]
pub fn forgotten(overlap: f64) -> String {
    format!(
        "The chains have forgotten the center (overlap {overlap:.3}): this is the prior mass of the behaviour, wherever in weight space it is, not of a neighbourhood of these weights. The local volume of the paper is the mass of the star, which is smaller; `set_kind=star` measures it."
    )
}

/// What it means that the cutoff takes nothing off the mass of the prior along the rays that count.
pub const OF_THE_PRIOR: &str = "This number says nothing about the network: along these rays the prior's mass is behind before the cost reaches the cutoff, so it is the geometry of the prior, and any network of this size would have it. Take a smaller cutoff, a smaller `sigma`, or another estimator.";

impl Answer {
    /// What is said before the first record that a number follows from.
    #[must_use]
    pub fn nothing_yet(estimator: &str, measures: Measured, quantity: &str, seconds: f64) -> Self {
        Self {
            estimator: estimator.to_owned(),
            measures,
            quantity: quantity.to_owned(),
            log_probability: f64::NAN,
            learning_coefficient: None,
            interval: (None, None),
            numerical_error: None,
            overlap: None,
            meaning: measures.meaning().to_owned(),
            trust: Trust::NotAnAnswer,
            reasons: vec!["Nothing is computed yet.".to_owned()],
            bits_per_parameter: None,
            seconds,
            gradients: 0,
            evaluations: 0,
        }
    }

    /// The number that it is about: the learning coefficient where one is measured, else the log-probability, nats. NaN where there is none.
    #[must_use]
    pub fn number(&self) -> f64 {
        self.learning_coefficient.unwrap_or(self.log_probability)
    }

    /// Whether the number is a volume or a probability, whose logarithm is in nats.
    #[must_use]
    pub fn is_volume(&self) -> bool {
        self.measures != Measured::Posterior
    }

    /// The number with its unit, if it has one.
    fn number_in_words(&self) -> String {
        if self.is_volume() { format!("{} nats", nats(self.number())) } else { nats(self.number()) }
    }

    /// The half-width of an interval by which the work of estimators is compared: 1 % of the number, or one nat if that is more, and 5 % of a learning
    /// coefficient.
    #[must_use]
    pub fn compared_half_width(&self) -> f64 {
        if self.is_volume() { (0.01 * self.number().abs()).max(1.0) } else { 0.05 * self.number().abs() }
    }

    /// Whether it is of a basin whose chains have forgotten the center.
    #[must_use]
    pub fn is_of_behaviour(&self) -> bool {
        self.measures == Measured::Basin && self.overlap.is_some_and(|overlap| overlap.abs() < FORGOTTEN)
    }

    /// Whether it is the geometry of the prior alone, whatever the network.
    #[must_use]
    pub fn is_of_the_prior(&self) -> bool {
        self.meaning == OF_THE_PRIOR
    }

    /// The set in words of a table: the basin of chains that have forgotten the center is the whole behaviour.
    #[must_use]
    pub fn set(&self) -> &'static str {
        if self.is_of_behaviour() { "behaviour" } else { self.measures.name() }
    }
}

/// What the numbers say, in sentences: which of them to trust for which set, what that set is, and the best bound where there is no answer. A number
/// that is only a bound or a guide is never called an answer.
#[must_use]
pub fn verdict(answers: &[Answer]) -> Vec<String> {
    let named = |trust: Trust| answers.iter().filter(move |answer| answer.trust == trust);
    let narrowest = |a: &&Answer, b: &&Answer| width(a).total_cmp(&width(b));
    let mut text = Vec::new();
    for set in [Measured::Star, Measured::Basin, Measured::Ellipsoid, Measured::Posterior] {
        if let Some(best) = named(Trust::Answer).filter(|answer| answer.measures == set).min_by(narrowest) {
            text.push(format!("Trust the {} number ({}) for the {}. {}", best.estimator, best.number_in_words(), best.set(), best.meaning));
        }
    }
    if text.is_empty() && !answers.is_empty() {
        text.push(if answers.len() == 1 { "This number is no answer." } else { "None of these numbers is an answer." }.to_owned());
    }
    for set in [Measured::Star, Measured::Basin] {
        if named(Trust::Answer).any(|answer| answer.measures == set) {
            continue;
        }
        let bounds = |trust: Trust| named(trust).filter(move |answer| answer.measures == set);
        let low = bounds(Trust::LowerBound).max_by(|a, b| a.log_probability.total_cmp(&b.log_probability));
        let high = bounds(Trust::UpperBound).min_by(|a, b| a.log_probability.total_cmp(&b.log_probability));
        let bound = |answer: &Answer| format!("{} ({})", answer.number_in_words(), answer.estimator);
        let words = match (low, high) {
            (Some(low), Some(high)) => format!("there are bounds in practice: at least {}, at most {}", bound(low), bound(high)),
            (Some(low), None) => format!("the best lower bound in practice is {}", bound(low)),
            (None, Some(high)) => format!("the best upper bound in practice is {}", bound(high)),
            (None, None) => continue,
        };
        text.push(format!("For the {} {words}. {}", set.name(), low.or(high).map_or("", |answer| &answer.meaning)));
    }
    for guide in named(Trust::Guide) {
        text.push(format!("The {} number ({}) is a guide. {}", guide.estimator, guide.number_in_words(), guide.meaning));
    }
    text
}

fn width(answer: &Answer) -> f64 {
    match answer.interval {
        (Some(low), Some(high)) => high - low,
        _ => f64::INFINITY,
    }
}

impl Answer {
    /// How many times the work of this run it takes until the interval reaches `half_width` nats to either side, if its errors fall with the root of
    /// the work. None for an interval without two ends, about whose width more work promises nothing.
    #[must_use]
    pub fn work_until(&self, half_width: f64) -> Option<f64> {
        let (Some(low), Some(high)) = self.interval else { return None };
        let factor = (0.5 * (high - low) / half_width).powi(2);
        (factor.is_finite() && self.trust != Trust::NotAnAnswer).then_some(factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(estimator: &str, measures: Measured, trust: Trust, log_probability: f64, width: f64) -> Answer {
        Answer {
            estimator: estimator.to_owned(),
            measures,
            quantity: "ln".to_owned(),
            log_probability,
            learning_coefficient: None,
            interval: (Some(log_probability - width), Some(log_probability + width)),
            numerical_error: None,
            overlap: None,
            meaning: measures.meaning().to_owned(),
            trust,
            reasons: Vec::new(),
            bits_per_parameter: None,
            seconds: 1.0,
            gradients: 0,
            evaluations: 0,
        }
    }

    #[test]
    fn work_grows_with_the_square_of_the_width() {
        let wide = answer("annealed", Measured::Basin, Trust::Answer, -300.0, 9.0);
        assert!((wide.work_until(wide.compared_half_width()).unwrap() - 9.0).abs() < 1e-9);
        assert!((wide.work_until(Answer { log_probability: -3.0, ..wide.clone() }.compared_half_width()).unwrap() - 81.0).abs() < 1e-9);
        let open = Answer { interval: (Some(-310.0), None), ..wide.clone() };
        assert_eq!(open.work_until(3.0), None);
        assert_eq!(Answer { trust: Trust::NotAnAnswer, ..wide }.work_until(3.0), None);
    }

    #[test]
    fn a_learning_coefficient_has_no_unit() {
        let number = Answer {
            learning_coefficient: Some(12.5),
            interval: (Some(11.25), Some(13.75)),
            log_probability: f64::NAN,
            ..answer("llc", Measured::Posterior, Trust::Answer, 0.0, 1.0)
        };
        assert_eq!((number.number(), number.compared_half_width()), (12.5, 0.625));
        assert!((number.work_until(number.compared_half_width()).unwrap() - 4.0).abs() < 1e-9);
        let words = verdict(std::slice::from_ref(&number)).join(" ");
        assert!(words.starts_with("Trust the llc number (12.50) for the posterior. The learning coefficient is no volume"), "{words}");
        let text = serde_json::to_string(&number).unwrap();
        assert!(text.contains(r#""log_probability":null,"learning_coefficient":12.5,"#), "{text}");
        let back: Answer = serde_json::from_str(&text).unwrap();
        assert!(back.log_probability.is_nan() && back.learning_coefficient == Some(12.5));
    }

    #[test]
    fn only_answers_are_called_so() {
        let none = answer("radial, none", Measured::Star, Trust::LowerBound, -3000.0, 1.0);
        let adam = answer("radial, adam2", Measured::Star, Trust::LowerBound, -2000.0, 1.0);
        let ellipsoid = answer("spectral", Measured::Ellipsoid, Trust::Guide, -300.0, 1.0);
        let broken = answer("annealed", Measured::Basin, Trust::NotAnAnswer, -250.0, 1.0);
        let words = verdict(&[none.clone(), adam.clone(), ellipsoid.clone(), broken.clone()]).join(" ");
        assert!(words.starts_with("None of these numbers is an answer."), "{words}");
        assert!(words.contains("star the best lower bound in practice is \u{2212}2,000.00 nats (radial, adam2)"), "{words}");
        assert!(words.contains("The spectral number (\u{2212}300.00 nats) is a guide") && !words.contains("annealed"), "{words}");
        let high = answer("annealed", Measured::Star, Trust::UpperBound, -1000.0, 1.0);
        let words = verdict(&[none.clone(), high]).join(" ");
        assert!(words.contains("at least \u{2212}3,000.00 nats (radial, none), at most \u{2212}1,000.00 nats (annealed)"), "{words}");
        let good = answer("annealed", Measured::Star, Trust::Answer, -1200.0, 5.0);
        let better = answer("radial, fisher", Measured::Star, Trust::Answer, -1201.0, 0.5);
        let words = verdict(&[none.clone(), good, better, ellipsoid]).join(" ");
        assert!(words.starts_with("Trust the radial, fisher number (\u{2212}1,201.00 nats) for the star."), "{words}");
        assert!(!words.contains("lower bound"), "{words}");
    }

    #[test]
    fn a_basin_without_a_center_is_called_the_behaviour_and_the_best_bound_of_the_star_stands_beside_it() {
        let basin = answer("annealed", Measured::Basin, Trust::Answer, -328.0, 5.0);
        let near = Answer { overlap: Some(0.8), ..basin.clone() };
        assert_eq!((near.set(), near.is_of_behaviour()), ("basin", false));
        let far = Answer { overlap: Some(-0.02), meaning: forgotten(-0.02), ..basin };
        let rays = answer("radial, fisher", Measured::Star, Trust::LowerBound, -1040.0, 5.0);
        let words = verdict(&[rays, far]).join("\n");
        assert!(words.contains("for the behaviour. The chains have forgotten the center (overlap -0.020)"), "{words}");
        assert!(words.contains("`set_kind=star` measures it"), "{words}");
        assert!(words.contains("For the star the best lower bound in practice is \u{2212}1,040.00 nats (radial, fisher)."), "{words}");
    }
}
