//! Whether chains agree.

use crate::statistics::{mean, variance};

/// Split R-hat (Gelman et al. 2013, section 11.4): the root of the variance of all values over that within half chains,
/// `((n - 1)/n + B/W)^(1/2)` with `n` values in a half, `W` the mean of the halves' variances and `B` the variance of their means. 1 for chains that
/// have mixed; more where they sit at different places, or drift. NaN for fewer than four values a chain, or where a half does not vary.
pub(super) fn split_r_hat(series: &[Vec<f64>]) -> f64 {
    let half = series.iter().map(Vec::len).min().unwrap_or(0) / 2;
    if half < 2 {
        return f64::NAN;
    }
    let halves: Vec<&[f64]> = series.iter().flat_map(|chain| [&chain[..half], &chain[chain.len() - half..]]).collect();
    let means: Vec<f64> = halves.iter().map(|half| mean(half)).collect();
    let within = mean(&halves.iter().map(|half| variance(half)).collect::<Vec<_>>());
    let n = half as f64;
    if within > 0.0 { ((n - 1.0) / n + variance(&means) / within).sqrt() } else { f64::NAN }
}

/// Mean of `(a - mean a) (b - mean b)` over all chains.
pub(super) fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    mean(&a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::{NormalVector, Purpose};

    fn normals(chain: u64, count: usize) -> Vec<f64> {
        let mut out = vec![0.0; count];
        NormalVector::new(Purpose::Trials, 3, chain, count).fill(0..count, &mut out);
        out.into_iter().map(f64::from).collect()
    }

    #[test]
    fn chains_that_have_mixed_have_one_and_others_more() {
        let chains: Vec<Vec<f64>> = (0..4).map(|chain| normals(chain, 2000)).collect();
        assert!((split_r_hat(&chains) - 1.0).abs() < 0.005, "{}", split_r_hat(&chains));
        let apart: Vec<Vec<f64>> = chains.iter().enumerate().map(|(k, chain)| chain.iter().map(|x| x + k as f64).collect()).collect();
        // Variance of the means 5/3 x 8/7 x 3/4 over eight halves of unit variance.
        let expected = (1.0f64 + 10.0 / 7.0).sqrt();
        assert!((split_r_hat(&apart) / expected - 1.0).abs() < 0.03, "{} {expected}", split_r_hat(&apart));
        // One chain that drifts is found by its halves.
        let drifts = vec![normals(9, 400).iter().enumerate().map(|(i, x)| x + i as f64 / 100.0).collect::<Vec<_>>()];
        assert!(split_r_hat(&drifts) > 1.4, "{}", split_r_hat(&drifts));
    }

    proptest! {
        #[test]
        fn it_has_no_units(values in prop::collection::vec(-10.0f64..10.0, 24), scale in 1e-3f64..1e3, shift in -10.0f64..10.0) {
            let chains: Vec<Vec<f64>> = values.chunks(8).map(<[f64]>::to_vec).collect();
            let other: Vec<Vec<f64>> = chains.iter().map(|chain| chain.iter().map(|x| scale * x + shift).collect()).collect();
            prop_assert!((split_r_hat(&chains) - split_r_hat(&other)).abs() < 1e-6);
            prop_assert!(split_r_hat(&chains) >= (3.0f64 / 4.0).sqrt());
        }
    }

    #[test]
    fn few_values_say_nothing() {
        assert!(split_r_hat(&[vec![1.0, 2.0, 3.0]]).is_nan() && split_r_hat(&[]).is_nan() && split_r_hat(&[vec![1.0; 8]]).is_nan());
    }
}
