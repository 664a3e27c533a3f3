//! The same network in `f64` with plain loops: the oracle of the tests, and the yardstick for the rounding noise.

use super::{ConvNextV2Config, EPSILON, EXPANSION, Places};
use crate::nn::ActivationFunction;
use crate::nn::depthwise::SIDE;

/// Channels-last maps of one image.
struct Maps {
    side: usize,
    channels: usize,
    values: Vec<f64>,
}

fn norm(values: &mut [f64], (weight, bias): (&[f32], &[f32]), epsilon: f64) {
    for row in values.chunks_exact_mut(weight.len()) {
        let count = row.len() as f64;
        let mean = row.iter().sum::<f64>() / count;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * scale * f64::from(weight) + f64::from(bias);
        }
    }
}

fn linear(values: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let width = weight.len() / bias.len();
    let weight: Vec<f64> = weight.iter().map(|&w| f64::from(w)).collect();
    let row = |row: &[f64]| -> Vec<f64> {
        let output = |(weight, &bias): (&[f64], &f32)| f64::from(bias) + weight.iter().zip(row).map(|(w, x)| w * x).sum::<f64>();
        weight.chunks_exact(width).zip(bias).map(output).collect()
    };
    values.chunks_exact(width).flat_map(row).collect()
}

fn convolve(maps: &Maps, weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let Maps { side, channels, values } = maps;
    let (side, channels, reach) = (*side, *channels, SIDE / 2);
    let mut out: Vec<f64> = (0..side * side).flat_map(|_| bias.iter().map(|&bias| f64::from(bias))).collect();
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        for (line, column) in (0..SIDE).flat_map(|line| (0..SIDE).map(move |column| (line, column))) {
            let (from_y, from_x) = (y + line, x + column);
            if !(reach..side + reach).contains(&from_y) || !(reach..side + reach).contains(&from_x) {
                continue;
            }
            let from = ((from_y - reach) * side + from_x - reach) * channels;
            let to = &mut out[(y * side + x) * channels..][..channels];
            for (channel, to) in to.iter_mut().enumerate() {
                *to += values[from + channel] * f64::from(weight[(channel * SIDE + line) * SIDE + column]);
            }
        }
    }
    out
}

impl ConvNextV2Config {
    /// Logits of one image (color by color, row by row) in `f64`, of flat weights in the layout's order.
    ///
    /// # Panics
    /// If a length is wrong.
    #[must_use]
    pub fn logits_exact(&self, weights: &[f32], image: &[f32]) -> Vec<f64> {
        assert_eq!(image.len(), self.features(), "one image of the network's size");
        let places = Places::new(self);
        let pair = |pair: &super::places::Pair| (&weights[pair.weight.clone()], &weights[pair.bias.clone()]);
        let patches: Vec<f64> = self.patches(image).into_iter().map(f64::from).collect();
        let (weight, bias) = pair(&places.patch);
        let mut maps = Maps { side: self.side(0), channels: self.hidden_sizes[0], values: linear(&patches, weight, bias) };
        norm(&mut maps.values, pair(&places.patch_norm), f64::from(EPSILON));
        for stage in &places.stages {
            if let Some((before, convolution)) = &stage.reduction {
                norm(&mut maps.values, pair(before), f64::from(EPSILON));
                let (side, channels) = (maps.side, maps.channels);
                let mut windows = Vec::new();
                for (y, x) in (0..stage.side).flat_map(|y| (0..stage.side).map(move |x| (y, x))) {
                    for channel in 0..channels {
                        for (line, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                            windows.push(maps.values[((2 * y + line) * side + 2 * x + column) * channels + channel]);
                        }
                    }
                }
                let (weight, bias) = pair(convolution);
                maps = Maps { side: stage.side, channels: stage.channels, values: linear(&windows, weight, bias) };
            }
            for block in &stage.blocks {
                let (weight, bias) = pair(&block.depthwise);
                let mut mixed = convolve(&maps, weight, bias);
                norm(&mut mixed, pair(&block.norm), f64::from(EPSILON));
                let (weight, bias) = pair(&block.up);
                let mut inner = linear(&mixed, weight, bias);
                inner.iter_mut().for_each(|x| *x = ActivationFunction::Gelu.exact(*x));
                let width = EXPANSION * stage.channels;
                let response: Vec<f64> =
                    (0..width).map(|c| inner.iter().skip(c).step_by(width).map(|x| x * x).sum::<f64>().sqrt()).collect();
                let mean = response.iter().sum::<f64>() / width as f64 + 1e-6;
                let (weight, bias) = pair(&block.response);
                for row in inner.chunks_exact_mut(width) {
                    for (c, x) in row.iter_mut().enumerate() {
                        *x += f64::from(weight[c]) * *x * response[c] / mean + f64::from(bias[c]);
                    }
                }
                let (weight, bias) = pair(&block.down);
                let out = linear(&inner, weight, bias);
                maps.values.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
        }
        let positions = (maps.side * maps.side) as f64;
        let mut pooled: Vec<f64> =
            (0..maps.channels).map(|c| maps.values.iter().skip(c).step_by(maps.channels).sum::<f64>() / positions).collect();
        norm(&mut pooled, pair(&places.norm), self.layer_norm_eps);
        let (weight, bias) = pair(&places.head);
        linear(&pooled, weight, bias)
    }
}
