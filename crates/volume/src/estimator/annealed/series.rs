//! Statistics of series of numbers, one for each chain.

use crate::statistics::{mean, variance};

/// Standard error of the mean of some chains, their autocorrelation included.
pub(in crate::estimator) fn standard_error(series: &[Vec<f64>]) -> f64 {
    let values = series.concat();
    (variance(&values) * autocorrelation(series) / values.len() as f64).sqrt()
}

/// Trajectories per independent value: `1 + 2 sum rho`, summed while pairs of neighbouring correlations are positive (Geyer 1992, section
/// 3.3), with the correlations of all chains around their common mean.
pub(in crate::estimator) fn autocorrelation(series: &[Vec<f64>]) -> f64 {
    let length = series.iter().map(Vec::len).min().unwrap_or(0);
    if length < 4 {
        return 1.0;
    }
    let center = mean(&series.concat());
    let correlation = |lag: usize| -> f64 {
        let products = series.iter().flat_map(|chain| {
            let pairs = chain[..length].iter().zip(&chain[lag..length]);
            pairs.map(|(a, b)| (a - center) * (b - center))
        });
        products.sum::<f64>() / (series.len() * (length - lag)) as f64
    };
    let at_zero = correlation(0);
    if at_zero <= 0.0 {
        return 1.0;
    }
    let mut time = -1.0;
    for pair in 0..length / 4 {
        let sum = (correlation(2 * pair) + correlation(2 * pair + 1)) / at_zero;
        if sum <= 0.0 {
            break;
        }
        time += 2.0 * sum;
    }
    time.max(1.0)
}

/// Difference of the means of the second and the first half, over all chains, with its standard error as if trajectories were independent.
pub(in crate::estimator) fn halves(series: &[Vec<f64>]) -> (f64, f64) {
    let length = series.first().map_or(0, Vec::len);
    let middle = length / 2;
    let first: Vec<f64> = series.iter().flat_map(|chain| &chain[..middle]).copied().collect();
    let second: Vec<f64> = series.iter().flat_map(|chain| &chain[length - middle..]).copied().collect();
    if first.len() < 2 {
        return (0.0, f64::INFINITY);
    }
    let error = |values: &[f64]| variance(values) / values.len() as f64;
    (mean(&second) - mean(&first), (error(&first) + error(&second)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::autocorrelation;

    #[test]
    fn autocorrelation_of_a_first_order_process() {
        let rho = 0.8;
        let mut state = 0.0;
        let mut seed = 1u64;
        let mut normal = || {
            let mut sum = -6.0;
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (seed >> 11) as f64 / (1u64 << 53) as f64;
            }
            sum
        };
        let series: Vec<Vec<f64>> = (0..4)
            .map(|_| {
                (0..5000)
                    .map(|_| {
                        state = rho * state + normal();
                        state
                    })
                    .collect()
            })
            .collect();
        let expected = (1.0 + rho) / (1.0 - rho);
        assert!((autocorrelation(&series) / expected - 1.0).abs() < 0.15, "{}", autocorrelation(&series));
    }
}
