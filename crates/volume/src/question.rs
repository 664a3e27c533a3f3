//! What is asked about a center: how much of the prior behaves like it.

use serde::{Deserialize, Serialize};

use crate::prior::Prior;

/// What every estimator is asked: the mass under a prior of the weights whose cost, penalty included, stays under a cutoff. Checked where it is
/// made, so that whoever holds one need not check again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Question {
    /// The density that the volume is measured under.
    prior: Prior,
    /// The cost at which behaviour counts as changed, in nats.
    cutoff: f64,
    /// `l2_reg / 2 ||w - c||^2` is added to the cost.
    l2_reg: f64,
    /// Seed of everything that is random.
    seed: u64,
}

/// A part of a question is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{name}` is {value}: expected {expected}")]
pub struct QuestionError {
    /// Name of the part.
    pub name: &'static str,
    /// The given value.
    pub value: f64,
    /// What is allowed.
    pub expected: &'static str,
}

/// A question as it is written, before it is checked.
#[derive(Deserialize)]
struct Fields {
    prior: Prior,
    cutoff: f64,
    l2_reg: f64,
    seed: u64,
}

impl TryFrom<Fields> for Question {
    type Error = QuestionError;

    fn try_from(Fields { prior, cutoff, l2_reg, seed }: Fields) -> Result<Self, QuestionError> {
        Self::new(prior, cutoff, l2_reg, seed)
    }
}

impl Question {
    /// A question about the weights whose cost and penalty `l2_reg / 2 ||w - c||^2` add up to at most `cutoff` nats.
    ///
    /// # Errors
    /// If the cutoff, or sigma of a Gaussian prior, is not finite and positive, or the penalty not finite and at least zero.
    pub fn new(prior: Prior, cutoff: f64, l2_reg: f64, seed: u64) -> Result<Self, QuestionError> {
        let positive = |name, value: f64, expected| {
            if value > 0.0 && value.is_finite() { Ok(()) } else { Err(QuestionError { name, value, expected }) }
        };
        if let Prior::Gaussian { sigma } = prior {
            positive("sigma", sigma, "a finite number > 0")?;
        }
        positive("cutoff", cutoff, "a finite number of nats > 0")?;
        if !(l2_reg >= 0.0 && l2_reg.is_finite()) {
            return Err(QuestionError { name: "l2_reg", value: l2_reg, expected: "a finite number >= 0" });
        }
        Ok(Self { prior, cutoff, l2_reg, seed })
    }

    /// The same with another seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same with another cutoff, in nats.
    ///
    /// # Errors
    /// If it is not finite and positive.
    pub fn with_cutoff(self, cutoff: f64) -> Result<Self, QuestionError> {
        Self::new(self.prior, cutoff, self.l2_reg, self.seed)
    }

    /// The density that the volume is measured under.
    #[must_use]
    pub fn prior(&self) -> Prior {
        self.prior
    }

    /// The cost at which behaviour counts as changed, in nats.
    #[must_use]
    pub fn cutoff(&self) -> f64 {
        self.cutoff
    }

    /// The strength of the penalty `l2_reg / 2 ||w - c||^2` that is added to the cost, in nats per squared unit of weight.
    #[must_use]
    pub fn l2_reg(&self) -> f64 {
        self.l2_reg
    }

    /// Seed of everything that is random.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Standard deviation of one parameter under the Gaussian prior; none under another.
    #[must_use]
    pub fn sigma(&self) -> Option<f64> {
        match self.prior {
            Prior::Gaussian { sigma } => Some(sigma),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUSSIAN: Prior = Prior::Gaussian { sigma: 0.5 };

    #[test]
    fn what_is_out_of_range_is_named() {
        for (prior, cutoff, l2_reg, words) in [
            (GAUSSIAN, 0.0, 0.0, "`cutoff` is 0: expected a finite number of nats > 0"),
            (GAUSSIAN, f64::NAN, 0.0, "`cutoff` is NaN"),
            (GAUSSIAN, f64::INFINITY, 0.0, "`cutoff` is inf"),
            (GAUSSIAN, 1.0, -1.0, "`l2_reg` is -1: expected a finite number >= 0"),
            (GAUSSIAN, 1.0, f64::NAN, "`l2_reg` is NaN"),
            (Prior::Gaussian { sigma: 0.0 }, 1.0, 0.0, "`sigma` is 0: expected a finite number > 0"),
            (Prior::Gaussian { sigma: f64::INFINITY }, 1.0, 0.0, "`sigma` is inf"),
        ] {
            let error = Question::new(prior, cutoff, l2_reg, 1).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let question = Question::new(GAUSSIAN, 0.01, 0.0, 7).unwrap();
        assert_eq!((question.sigma(), question.cutoff(), question.l2_reg(), question.seed()), (Some(0.5), 0.01, 0.0, 7));
        assert_eq!(Question::new(Prior::Sphere, 0.01, 0.0, 7).unwrap().sigma(), None);
        assert_eq!(question.with_seed(8).seed(), 8);
        assert_eq!(question.with_cutoff(0.1).unwrap().cutoff(), 0.1);
        assert_eq!(question.with_cutoff(-0.1).unwrap_err().name, "cutoff");
    }

    #[test]
    fn files_are_held_to_the_same() {
        let question = Question::new(GAUSSIAN, 0.01, 0.25, 7).unwrap();
        let text = r#"{"prior":{"kind":"gaussian","sigma":0.5},"cutoff":0.01,"l2_reg":0.25,"seed":7}"#;
        assert_eq!(serde_json::to_string(&question).unwrap(), text);
        assert_eq!(serde_json::from_str::<Question>(text).unwrap(), question);
        for (good, bad, words) in [
            ("0.01", "-0.01", "`cutoff` is -0.01: expected a finite number of nats > 0"),
            ("0.25", "-0.25", "`l2_reg` is -0.25"),
            ("0.5", "0.0", "`sigma` is 0"),
        ] {
            let error = serde_json::from_str::<Question>(&text.replace(good, bad)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
