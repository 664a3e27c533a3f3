//! The AdamW update on flat vectors. candle's own optimizer hides its moments, and those are the preconditioner.

use super::TrainSpec;
use crate::checkpoint::Moments;

/// One step of AdamW at learning rate `rate`, with `g = gradient + l2 w`:
///
/// `m = b1 m + (1-b1) g`,  `s = b2 s + (1-b2) g^2`,  `w = (1 - rate weight_decay) w - rate mhat / (sqrt(shat) + epsilon)`
///
/// with `mhat = m / (1 - b1^n)`, `shat = s / (1 - b2^n)`, `n` the number of this step from 1. The same as torch's `AdamW`, up to
/// rounding.
pub(super) fn update(spec: &TrainSpec, rate: f64, weights: &mut [f32], gradient: &[f32], moments: &mut Moments) {
    moments.step += 1;
    let steps = moments.step as f64;
    let [beta1, beta2] = spec.betas;
    let step_size = (rate / (1.0 - beta1.powf(steps))) as f32;
    let root_correction = (1.0 / (1.0 - beta2.powf(steps)).sqrt()) as f32;
    let kept = (1.0 - rate * spec.weight_decay) as f32;
    let (l2, epsilon) = (spec.l2 as f32, spec.epsilon as f32);
    let (keep1, keep2, new1, new2) = (beta1 as f32, beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let moments = moments.first.iter_mut().zip(&mut moments.second);
    for ((weight, &gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
        let slope = gradient + l2 * *weight;
        *first = keep1 * *first + new1 * slope;
        *second = keep2 * *second + new2 * slope * slope;
        *weight = kept * *weight - step_size * *first / (second.sqrt() * root_correction + epsilon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_equal_the_formula_in_f64() {
        let spec = TrainSpec { l2: 0.3, weight_decay: 0.1, ..TrainSpec::default() };
        let (mut weights, mut moments) = (vec![0.5f32], Moments { first: vec![0.0], second: vec![0.0], step: 0 });
        let (mut w, mut m, mut s) = (0.5f64, 0.0f64, 0.0f64);
        for (n, (gradient, rate)) in [(0.7f32, 0.1), (-0.2, 0.05), (1.5, 0.02)].into_iter().enumerate() {
            update(&spec, rate, &mut weights, &[gradient], &mut moments);
            let g = f64::from(gradient) + 0.3 * w;
            m = 0.9 * m + 0.1 * g;
            s = 0.999 * s + 0.001 * g * g;
            let (power1, power2) = (0.9f64.powi(n as i32 + 1), 0.999f64.powi(n as i32 + 1));
            w = w * (1.0 - rate * 0.1) - rate * (m / (1.0 - power1)) / ((s / (1.0 - power2)).sqrt() + 1e-8);
        }
        assert!((f64::from(weights[0]) - w).abs() < 1e-6, "{} not {w}", weights[0]);
        assert!((f64::from(moments.first[0]) / m - 1.0).abs() < 1e-6 && (f64::from(moments.second[0]) / s - 1.0).abs() < 1e-6);
        assert_eq!(moments.step, 3);
    }
}
