//! What single chains say about the gap of both ways.
//!
//! Driven slowly near equilibrium, the work that a chain does along the ladder is normal: its mean is the difference of the log-volumes less half
//! its variance on the way outward, and the same more on the way inward (Hermans 1991; Crooks 1999). So the gap of the ways is the variance of
//! the works, the mean of both ways is right, and its error is that of the works: far less than half of the gap, where the gap is many nats.
//! Chains that freeze or melt late do works that hardly differ and are all wrong: a gap far above their variance. There the gap itself is what is
//! known about the error.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF, FisherSnedecor};

use crate::statistics::{mean, null_is_nan, student_quantile, variance};

/// Works of each way that can tell.
const LEAST: usize = 4;
/// The share of the gap that stays in the interval: from so few works a departure from the normal law is seen late.
const SHARE_OF_GAP: f64 = 0.125;
/// A variance below the truth in one of so many runs is allowed for.
const LEVEL: f64 = 0.05;
/// A gap of so many standard errors is more than noise.
const NOISE: f64 = 2.0;
/// Ways whose variances differ by more than chance lets them in one of so many runs are not both near equilibrium.
const UNLIKE: f64 = 0.01;

/// The log-volume that every chain finds for itself, at the last rung, and what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Works {
    /// On the way outward, nats; one for every chain and sweep.
    pub outward: Vec<f64>,
    /// On the way inward, nats.
    pub inward: Vec<f64>,
    /// Their variance, pooled over both ways, squared nats: what the gap is near equilibrium, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub variance: f64,
    /// The largest gap that so few works of this variance can be near equilibrium with, nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub largest_gap: f64,
    /// Whether the gap is one of chains near equilibrium.
    pub near_equilibrium: bool,
    /// Whether the interval is that of the works: the gap is one of chains near equilibrium, and more than noise. Where it is noise there is nothing to
    /// be gained, and the fluctuations of both ways are the better judge of so few works.
    #[serde(default)]
    pub decide: bool,
}

impl Works {
    /// Of the chains of all sweeps; none where there are too few. `of_way` is the standard error of one way as its own fluctuations have it.
    pub(super) fn of(outward: Vec<f64>, inward: Vec<f64>, of_way: f64) -> Option<Self> {
        let count = outward.len();
        if count < LEAST || inward.len() != count {
            return None;
        }
        let (of_outward, of_inward) = (variance(&outward), variance(&inward));
        let pooled = 0.5 * (of_outward + of_inward);
        let freedom = (2 * count - 2) as f64;
        let quantile = ChiSquared::new(freedom).ok()?.inverse_cdf(LEVEL);
        let noise = 2.0 * (2.0 * pooled / count as f64).sqrt();
        let largest_gap = pooled * freedom / quantile + noise;
        let ratio = of_outward.max(of_inward) / of_outward.min(of_inward);
        let own = (count - 1) as f64;
        let largest_ratio = FisherSnedecor::new(own, own).ok()?.inverse_cdf(1.0 - 0.5 * UNLIKE);
        let gap = (mean(&outward) - mean(&inward)).abs();
        let near_equilibrium = gap <= largest_gap && ratio <= largest_ratio;
        // A difference of two ways, in two of its standard errors.
        let decide = near_equilibrium && gap > NOISE * std::f64::consts::SQRT_2 * of_way;
        Some(Self { outward, inward, variance: pooled, largest_gap, near_equilibrium, decide })
    }

    /// Half the 95 % interval around the mean of both ways, nats. `of_way` is as for [`Works::of`], `of_tail` the standard error of the last step, which
    /// both ways share.
    pub(super) fn half_width(&self, gap: f64, of_way: f64, of_tail: f64) -> f64 {
        let count = self.outward.len() as f64;
        let of_works = (self.variance / (2.0 * count)).sqrt();
        let error = of_works.max(of_way * 0.5f64.sqrt()).hypot(of_tail);
        student_quantile(0.975, 2.0 * count - 2.0) * error + SHARE_OF_GAP * gap.abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalVector, Purpose};

    /// Works of chains near equilibrium at so much dissipation: normal, the gap their variance.
    fn normal_works(seed: u64, count: usize, gap: f64) -> Works {
        let mut z = vec![0.0f32; 2 * count];
        NormalVector::new(Purpose::Trials, seed, 9, 2 * count).fill(0..2 * count, &mut z);
        let way = |z: &[f32], sign: f64| z.iter().map(|z| -100.0 + sign * 0.5 * gap + gap.sqrt() * f64::from(*z)).collect();
        Works::of(way(&z[..count], -1.0), way(&z[count..], 1.0), 0.0).unwrap()
    }

    #[test]
    fn normal_works_pass_and_their_interval_holds_the_truth() {
        for (count, gap) in [(4, 2.0), (4, 40.0), (8, 40.0), (8, 500.0)] {
            let (mut passed, mut held, mut narrower) = (0, 0, 0);
            for seed in 0..400 {
                let works = normal_works(seed, count, gap);
                let (outward, inward) = (mean(&works.outward), mean(&works.inward));
                let found = outward - inward;
                passed += u32::from(works.near_equilibrium);
                let half = works.half_width(found, 0.0, 0.0);
                held += u32::from((0.5 * (outward + inward) + 100.0).abs() <= half);
                narrower += u32::from(3.0 * half < 0.5 * found.abs());
            }
            assert!(passed >= 380, "{count} works, gap {gap}: {passed} of 400 pass");
            assert!(held >= 380, "{count} works, gap {gap}: {held} of 400 hold the truth");
            assert!(gap < 400.0 || narrower > 300, "{narrower} intervals of a large gap are narrower by three");
        }
    }

    #[test]
    fn works_that_are_all_wrong_or_of_unlike_ways_do_not_pass() {
        // Frozen: all chains agree with each other and not with those that melt.
        let frozen = Works::of(vec![-140.0, -141.0, -139.5, -140.2], vec![-60.0, -61.0, -59.0, -60.5], 0.0).unwrap();
        assert!(!frozen.near_equilibrium && frozen.largest_gap < 20.0, "{frozen:?}");
        // Every chain outward finds another place.
        let unlike = Works::of(vec![-100.0, -900.0, -450.0, -1200.0], vec![-60.0, -61.0, -59.0, -60.5], 0.0).unwrap();
        assert!(!unlike.near_equilibrium, "{unlike:?}");
        assert_eq!(Works::of(vec![1.0; 3], vec![1.0; 3], 0.0), None);
        assert_eq!(Works::of(vec![1.0; 4], vec![1.0; 5], 0.0), None);
        // Not known is not near.
        assert!(!Works::of(vec![f64::NAN; 4], vec![1.0; 4], 0.0).unwrap().near_equilibrium);
    }
}
