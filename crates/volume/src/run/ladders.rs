//! Runs of chains that differ in their seed alone, and what they say together.

use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::answer::{Answer, Trust};
use crate::statistics::{mean, student_quantile, variance};

/// What independent ladders say together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ladders {
    /// How many have a number.
    pub ladders: usize,
    /// Mean of their numbers, nats (of a learning coefficient, its own unit).
    pub mean: f64,
    /// Standard deviation of single ones; none of fewer than two.
    pub standard_deviation: Option<f64>,
    /// Whether they scatter by no more than their intervals allow.
    pub agree: bool,
    /// Around the mean: as wide as single intervals are on average, because what chains lag behind is the same for all; where the ladders scatter by
    /// more than these intervals allow (a chi-square test at 5 %), as the scatter says (95 %, Student's law), if that is wider.
    pub interval: Option<[f64; 2]>,
}

impl Ladders {
    /// Of these answers; none where none has a number.
    #[must_use]
    pub fn of(answers: &[&Answer]) -> Option<Self> {
        let known: Vec<&&Answer> = answers.iter().filter(|answer| answer.number().is_finite()).collect();
        let numbers: Vec<f64> = known.iter().map(|answer| answer.number()).collect();
        if numbers.is_empty() {
            return None;
        }
        let (count, center) = (numbers.len(), mean(&numbers));
        let standard_deviation = (count > 1).then(|| variance(&numbers).sqrt());
        let widths: Option<Vec<f64>> =
            known.iter().map(|answer| answer.interval.0.zip(answer.interval.1).map(|(low, high)| high - low)).collect();
        let own = widths.map(|widths| 0.5 * mean(&widths));
        let agree = match (own, standard_deviation) {
            (Some(own), Some(sd)) => !is_more_than(sd, 0.5 * own, count),
            _ => true,
        };
        let interval = own.map(|own| {
            let of_scatter = standard_deviation
                .filter(|_| !agree)
                .map_or(0.0, |sd| student_quantile(0.975, (count - 1) as f64) * sd / (count as f64).sqrt());
            let half = own.max(of_scatter);
            [center - half, center + half]
        });
        Some(Self { ladders: count, mean: center, standard_deviation, agree, interval })
    }

    /// The mean as an answer: that of all ladders where each has one.
    #[must_use]
    pub fn answer(&self, answers: &[&Answer]) -> Option<Answer> {
        let first = answers.first()?;
        let overlaps: Option<Vec<f64>> = answers.iter().map(|answer| answer.overlap).collect();
        let doubtful = answers.iter().find(|answer| answer.trust != Trust::Answer);
        let mut joint = Answer {
            estimator: format!("{} ({} ladders)", first.estimator, self.ladders),
            interval: (self.interval.map(|[low, _]| low), self.interval.map(|[_, high]| high)),
            overlap: overlaps.map(|overlaps| mean(&overlaps)),
            trust: if self.agree { doubtful.map_or(Trust::Answer, |answer| answer.trust) } else { Trust::NotAnAnswer },
            seconds: answers.iter().map(|answer| answer.seconds).sum(),
            gradients: answers.iter().map(|answer| answer.gradients).sum(),
            evaluations: answers.iter().map(|answer| answer.evaluations).sum(),
            ..(*first).clone()
        };
        if first.learning_coefficient.is_some() {
            joint.learning_coefficient = Some(self.mean);
        } else {
            joint.bits_per_parameter = first.bits_per_parameter.map(|bits| bits * self.mean / first.log_probability);
            joint.log_probability = self.mean;
        }
        Some(joint)
    }
}

/// Whether a standard deviation of so many values is more than chance makes of the one that is expected.
fn is_more_than(found: f64, expected: f64, count: usize) -> bool {
    let freedom = (count - 1) as f64;
    let largest = ChiSquared::new(freedom).map_or(0.0, |law| law.inverse_cdf(0.95));
    freedom * found * found > largest * expected * expected
}

#[cfg(test)]
mod tests {
    use super::super::answer::Measured;
    use super::*;

    fn answer(value: f64, half: f64) -> Answer {
        let mut answer = Answer::nothing_yet("annealed", Measured::Basin, "ln P", 1.0);
        answer.log_probability = value;
        answer.interval = (Some(value - half), Some(value + half));
        answer
    }

    #[test]
    fn the_interval_is_the_wider_of_what_single_ones_and_their_scatter_say() {
        let of = |values: &[f64], half: f64| {
            let answers: Vec<Answer> = values.iter().map(|value| answer(*value, half)).collect();
            Ladders::of(&answers.iter().collect::<Vec<_>>())
        };
        assert_eq!(of(&[], 1.0), None);
        let one = of(&[-100.0], 5.0).unwrap();
        assert_eq!((one.ladders, one.interval, one.standard_deviation), (1, Some([-105.0, -95.0]), None));
        // They agree far better than they say: what all lag behind is not seen in their scatter.
        assert_eq!(of(&[-101.0, -99.0, -100.0], 5.0).unwrap().interval, Some([-105.0, -95.0]));
        // Glass: each is sure of its own.
        let glass = of(&[-120.0, -80.0, -100.0], 1.0).unwrap();
        let [low, high] = glass.interval.unwrap();
        // Three that differ by what single ones say, and no more.
        let usual = of(&[-105.0, -95.0, -100.0], 8.0).unwrap();
        assert!(usual.agree);
        assert_eq!(usual.interval, Some([-108.0, -92.0]));
        // 4.303 * 20 / sqrt(3) by Student's law.
        assert!((high - low - 2.0 * 49.68).abs() < 0.1 && (glass.mean + 100.0).abs() < 1e-12 && !glass.agree, "{glass:?}");
        let ladders: Vec<Answer> = [-120.0, -80.0].map(|value| answer(value, 1.0)).into();
        let ladders: Vec<&Answer> = ladders.iter().collect();
        let joint = Ladders::of(&ladders).unwrap().answer(&ladders).unwrap();
        assert_eq!((joint.log_probability, joint.estimator.as_str()), (-100.0, "annealed (2 ladders)"));
        assert!(joint.interval.0.unwrap() < -120.0 && joint.trust == Trust::NotAnAnswer, "{joint:?}");
        // One without a number is no ladder; one without an end leaves none.
        let mut open = answer(-90.0, 1.0);
        open.interval.1 = None;
        let (known, unknown) = (answer(-100.0, 1.0), answer(f64::NAN, 1.0));
        let together = Ladders::of(&[&known, &open, &unknown]).unwrap();
        assert_eq!((together.ladders, together.interval), (2, None));
    }
}
