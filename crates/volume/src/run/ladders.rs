//! Runs of chains that differ in their seed alone, and what they say together.

use serde::Serialize;

use super::answer::Answer;
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
    /// Around the mean: as wide as single intervals are on average, because what chains lag behind is the same for all, or as the scatter of the
    /// ladders says (95 %, Student's law), if that is wider.
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
        let interval = widths.map(|widths| {
            let own = 0.5 * mean(&widths);
            let of_scatter = standard_deviation.map_or(0.0, |sd| student_quantile(0.975, (count - 1) as f64) * sd / (count as f64).sqrt());
            let half = own.max(of_scatter);
            [center - half, center + half]
        });
        Some(Self { ladders: count, mean: center, standard_deviation, interval })
    }
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
        // 4.303 * 20 / sqrt(3) by Student's law.
        assert!((high - low - 2.0 * 49.68).abs() < 0.1 && (glass.mean + 100.0).abs() < 1e-12, "{glass:?}");
        // One without a number is no ladder; one without an end leaves none.
        let mut open = answer(-90.0, 1.0);
        open.interval.1 = None;
        let (known, unknown) = (answer(-100.0, 1.0), answer(f64::NAN, 1.0));
        let together = Ladders::of(&[&known, &open, &unknown]).unwrap();
        assert_eq!((together.ladders, together.interval), (2, None));
    }
}
