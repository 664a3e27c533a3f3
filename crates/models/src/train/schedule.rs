//! The learning rate over a run.

/// A straight line to `rate` over `warmup` steps, then half a cosine to zero: of step `step` (from 0) of `total`,
///
/// `rate (step + 1) / warmup` before `warmup`, then `rate/2 (1 + cos(pi (step - warmup) / (total - warmup)))`.
pub(super) fn cosine(rate: f64, warmup: usize, step: usize, total: usize) -> f64 {
    if step < warmup {
        return rate * (step + 1) as f64 / warmup as f64;
    }
    let phase = (step - warmup) as f64 / (total - warmup).max(1) as f64;
    rate / 2.0 * (1.0 + (std::f64::consts::PI * phase).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_rate_and_falls_to_zero() {
        let rates: Vec<f64> = (0..=10).map(|step| cosine(2.0, 4, step, 10)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert!((rates[7] - 1.0).abs() < 1e-15 && rates[10].abs() < 1e-15);
        assert!(rates[4..].windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(cosine(1.0, 0, 0, 5), 1.0);
    }
}
