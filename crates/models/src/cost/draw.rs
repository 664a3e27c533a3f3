//! Labels drawn from a model's own outputs, and random signs.

use basin_volume::random::{Draws, Purpose};

/// A number in `[0, 1)` for every position: a pure function of the seed and the position.
pub fn uniforms(seed: u64, positions: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut draws = Draws::new(Purpose::Labels, seed, 0, 0);
    let draw = |position: usize| {
        draws.go_to(position as u64);
        draws.uniform()
    };
    positions.map(draw).collect()
}

/// Fills `out` with independent signs, -1 or 1: a pure function of the seed, the number of the probe and the coordinate.
pub(crate) fn signs(seed: u64, probe: u64, out: &mut [f32]) {
    let mut draws = Draws::new(Purpose::Signs, seed, probe, 0);
    for values in out.chunks_mut(64) {
        let bits = draws.bits();
        values.iter_mut().enumerate().for_each(|(bit, value)| *value = if bits >> bit & 1 == 1 { 1.0 } else { -1.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_belong_to_their_positions() {
        let all = uniforms(3, 0..1000);
        assert_eq!(uniforms(3, 700..703), all[700..703]);
        assert_ne!(uniforms(4, 0..1000), all);
        let mean = all.iter().sum::<f64>() / 1000.0;
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)) && (mean - 0.5).abs() < 5.0 / (12.0 * 1000f64).sqrt(), "{mean}");
    }

    #[test]
    fn signs_are_balanced_and_belong_to_their_probes() {
        let (mut all, mut part) = (vec![0.0f32; 10_000], vec![0.0f32; 70]);
        signs(3, 1, &mut all);
        signs(3, 1, &mut part);
        assert_eq!(part, all[..70]);
        assert!(all.iter().all(|x| x.abs() == 1.0) && all.iter().sum::<f32>().abs() < 500.0);
        let mut other = vec![0.0f32; 10_000];
        signs(3, 2, &mut other);
        assert!(all.iter().zip(&other).map(|(x, y)| x * y).sum::<f32>().abs() < 500.0);
    }
}
