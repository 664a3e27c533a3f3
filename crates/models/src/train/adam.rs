//! The AdamW update on flat vectors. Its moments are kept: they are a preconditioner.

use crate::checkpoint::Moments;

/// Settings of one update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    /// Decay rates of the two moments.
    pub(super) betas: [f64; 2],
    /// Added to the root of the second moment.
    pub(super) epsilon: f64,
    /// Learning rate of this step.
    pub(super) rate: f64,
}

/// Penalties of some weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decay {
    /// `l2/2 ||w||^2` in the loss.
    pub(super) l2: f64,
    /// Decoupled weight decay.
    pub(super) decoupled: f64,
}

impl Adam {
    /// One step of AdamW, with `g = gradient + l2 w`:
    ///
    /// `m = b1 m + (1-b1) g`,  `s = b2 s + (1-b2) g^2`,  `w = (1 - rate decoupled) w - rate mhat / (sqrt(shat) + epsilon)`
    ///
    /// with `mhat = m / (1 - b1^n)`, `shat = s / (1 - b2^n)`, `n` the number of this step from 1. The same as torch's `AdamW`, up to
    /// rounding. `groups` are the ends of consecutive ranges of weights, with the decay of each; the last must be the end of all.
    pub(super) fn update(self, groups: &[(usize, Decay)], weights: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        moments.step += 1;
        let steps = moments.step as f64;
        let [beta1, beta2] = self.betas;
        let step_size = (self.rate / (1.0 - beta1.powf(steps))) as f32;
        let root_correction = (1.0 / (1.0 - beta2.powf(steps)).sqrt()) as f32;
        let epsilon = self.epsilon as f32;
        let (keep1, keep2, new1, new2) = (beta1 as f32, beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let mut start = 0;
        for &(end, decay) in groups {
            let (kept, l2) = ((1.0 - self.rate * decay.decoupled) as f32, decay.l2 as f32);
            let moments = moments.first[start..end].iter_mut().zip(&mut moments.second[start..end]);
            for ((weight, &gradient), (first, second)) in weights[start..end].iter_mut().zip(&gradient[start..end]).zip(moments) {
                let slope = gradient + l2 * *weight;
                *first = keep1 * *first + new1 * slope;
                *second = keep2 * *second + new2 * slope * slope;
                *weight = kept * *weight - step_size * *first / (second.sqrt() * root_correction + epsilon);
            }
            start = end;
        }
        debug_assert_eq!(start, weights.len(), "the groups cover all weights");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_equal_the_formula_in_f64() {
        let groups = [(1, Decay { l2: 0.3, decoupled: 0.1 }), (2, Decay { l2: 0.0, decoupled: 0.0 })];
        let (mut weights, mut moments) = (vec![0.5f32; 2], Moments { first: vec![0.0; 2], second: vec![0.0; 2], step: 0 });
        let mut exact = [[0.5f64, 0.0, 0.0]; 2];
        for (n, (gradient, rate)) in [(0.7f32, 0.1), (-0.2, 0.05), (1.5, 0.02)].into_iter().enumerate() {
            Adam { betas: [0.9, 0.999], epsilon: 1e-8, rate }.update(&groups, &mut weights, &[gradient; 2], &mut moments);
            for ([w, m, s], (_, decay)) in exact.iter_mut().zip(groups) {
                let g = f64::from(gradient) + decay.l2 * *w;
                *m = 0.9 * *m + 0.1 * g;
                *s = 0.999 * *s + 0.001 * g * g;
                let (power1, power2) = (0.9f64.powi(n as i32 + 1), 0.999f64.powi(n as i32 + 1));
                *w = *w * (1.0 - rate * decay.decoupled) - rate * (*m / (1.0 - power1)) / ((*s / (1.0 - power2)).sqrt() + 1e-8);
            }
        }
        for (i, [w, m, s]) in exact.into_iter().enumerate() {
            assert!((f64::from(weights[i]) - w).abs() < 1e-6, "{} not {w}", weights[i]);
            assert!((f64::from(moments.first[i]) / m - 1.0).abs() < 1e-6 && (f64::from(moments.second[i]) / s - 1.0).abs() < 1e-6);
        }
        assert_eq!(moments.step, 3);
    }
}
