//! Costs of a small perceptron at several points of the segment from the center, with the gradient of a soft largest one: what chains of the star
//! take at every step.
//!
//! The sums of the first layer are linear along the segment, so one product gives them at every point; and the gradients of its weights at all points
//! that have a share are one product with the sum of their slopes. Of a network whose first layer is the large one (64-16-10) each further point
//! costs its activations and its outputs alone.

use basin_volume::max_cost::soft_shares;
use basin_volume::objective::SoftGradient;

use super::gradient::{add_layer, places};
use super::{MlpKl, TILE};
use crate::cost::pool::{give_back, take};
use crate::nn::product;
use crate::products::{Matrix, Sizes, product_strided};

/// Multiply-adds, times two, of the largest evaluation that is worth it: larger ones are dominated by the layers that are computed at every point, and
/// are better shared among threads.
const MOST_OPERATIONS: f64 = 1e7;

/// What a segment takes, kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Sums of the first layer at the end of the segment, of one tile; then the slopes of its sums, over all points.
    sums: Vec<f32>,
    /// Per point the weights after those of the first layer.
    weights: Vec<f32>,
    /// Per point and tile the outputs of the hidden layers, `[width, columns]` each.
    activations: Vec<f32>,
    /// Per point, tile and layer the sums before the activation, then its derivatives, then the sums' gradients.
    slopes: Vec<f32>,
    /// One layer's gradient.
    spare: Vec<f32>,
    shares: Vec<f64>,
}

impl MlpKl {
    /// See [`basin_volume::objective::Differentiable::soft_segment`].
    pub(super) fn segment(
        &self,
        weights: &[f32],
        parts: &[f64],
        softness: f64,
        gradient: &mut [f32],
        costs: &mut Vec<f64>,
    ) -> Option<SoftGradient> {
        let widths = self.network.widths();
        let layers = widths.len() - 1;
        if layers < 2 || !self.moving.is_whole() || self.operations() > MOST_OPERATIONS {
            return None;
        }
        assert!(weights.len() == self.moving.dimension() && gradient.len() == weights.len(), "as many weights and gradients as move");
        let mut space = take(&self.segments);
        let Space { sums, weights: at_points, activations, slopes, spare, shares } = &mut space;
        let first = widths[0] * widths[1];
        let rest = weights.len() - first;
        let stride: usize = widths[1..].iter().sum::<usize>() * TILE;
        let widest = widths[1..].iter().max().map_or(0, |width| width * TILE);
        let regions = parts.len() * self.tiles.len();
        sums.resize(widths[1] * TILE, 0.0);
        spare.resize(widest, 0.0);
        activations.resize(activations.len().max(regions * stride), 0.0);
        slopes.resize(slopes.len().max(regions * stride), 0.0);
        at_points.clear();
        let center = self.parameters().values();
        for &part in parts {
            let pairs = center[first..].iter().zip(&weights[first..]);
            at_points.extend(pairs.map(|(&c, &w)| (f64::from(c) + part * (f64::from(w) - f64::from(c))) as f32));
        }
        let at_center = self.first_sums();
        let scale = 1.0 / self.positions as f64;
        let region = |point: usize, tile: usize| (point * self.tiles.len() + tile) * stride..(point * self.tiles.len() + tile + 1) * stride;
        costs.clear();
        costs.resize(parts.len(), 0.0);
        for (index, tile) in self.tiles.iter().enumerate() {
            let columns = tile.columns;
            let places = places(widths, columns);
            let sums = &mut sums[..widths[1] * columns];
            product(sums, &weights[..first], &tile.inputs, widths[1], widths[0], columns);
            let at_center = &at_center[index * widths[1] * TILE..][..widths[1] * columns];
            for (point, &part) in parts.iter().enumerate() {
                let part = part as f32;
                let mut after = &at_points[point * rest..(point + 1) * rest];
                let (activations, slopes) = (&mut activations[region(point, index)], &mut slopes[region(point, index)]);
                for (layer, pair) in widths.windows(2).enumerate() {
                    let own = &mut slopes[places[layer].clone()];
                    if layer == 0 {
                        own.iter_mut().zip(&*sums).zip(at_center).for_each(|((own, &w), &c)| *own = c + part * (w - c));
                    } else {
                        let (weight, behind) = after.split_at(pair[0] * pair[1]);
                        after = behind;
                        product(own, weight, &activations[places[layer - 1].clone()], pair[1], pair[0], columns);
                    }
                    let (bias, behind) = after.split_at(pair[1]);
                    after = behind;
                    if layer + 1 < layers {
                        let outputs = activations[places[layer].clone()].chunks_exact_mut(columns);
                        for ((sums, outputs), &bias) in own.chunks_exact_mut(columns).zip(outputs).zip(bias) {
                            self.network.activation().add_bias_with_derivative(sums, bias, outputs);
                        }
                    } else {
                        costs[point] += tile.kept.divergence_slopes(own, bias, columns, 0..tile.kept.positions(), scale);
                    }
                }
            }
        }
        costs.iter_mut().for_each(|cost| *cost *= scale);
        shares.clear();
        shares.extend_from_slice(costs);
        let evaluations = costs.len() as u64;
        let Some(highest) = soft_shares(shares, softness) else {
            give_back(&self.segments, space);
            return Some(SoftGradient { nats: f64::NAN, gradients: 0, evaluations });
        };
        gradient.fill(0.0);
        for (index, tile) in self.tiles.iter().enumerate() {
            let columns = tile.columns;
            let places = places(widths, columns);
            let sums = &mut sums[..widths[1] * columns];
            sums.fill(0.0);
            for (point, (&share, &part)) in shares.iter().zip(parts).enumerate() {
                if share == 0.0 {
                    continue;
                }
                let weights = &at_points[point * rest..(point + 1) * rest];
                let (activations, slopes) = (&activations[region(point, index)], &mut slopes[region(point, index)]);
                let factor = (share * part) as f32;
                slopes[places[layers - 1].clone()].iter_mut().for_each(|slope| *slope *= factor);
                let mut end = rest;
                for layer in (1..layers).rev() {
                    let (width, outputs) = (widths[layer], widths[layer + 1]);
                    let start = end - outputs - width * outputs;
                    let (before, own) = slopes.split_at_mut(places[layer].start);
                    let own = &own[..outputs * columns];
                    let (weight, bias) = gradient[first + start..first + end].split_at_mut(width * outputs);
                    add_layer(weight, bias, own, &activations[places[layer - 1].clone()], columns);
                    let left = Matrix::columns(&weights[start..end - outputs], width);
                    let result = &mut spare[..width * columns];
                    let sizes = Sizes { rows: width, inner: outputs, columns };
                    product_strided(result, columns, left, Matrix::rows(own, columns), sizes, false);
                    before[places[layer - 1].clone()].iter_mut().zip(&*result).for_each(|(derivative, slope)| *derivative *= slope);
                    end = start;
                }
                sums.iter_mut().zip(&slopes[places[0].clone()]).for_each(|(sum, slope)| *sum += slope);
            }
            let (weight, after) = gradient.split_at_mut(first);
            add_layer(weight, &mut after[..widths[1]], sums, &tile.inputs, columns);
        }
        give_back(&self.segments, space);
        Some(SoftGradient { nats: highest, gradients: 1, evaluations })
    }

    /// The sums of the first layer at the center, without its bias: per tile `[width, columns]`, in rooms of a whole tile each.
    fn first_sums(&self) -> &[f32] {
        self.first_sums.get_or_init(|| {
            let widths = self.network.widths();
            let center = self.parameters().values();
            let room = widths[1] * TILE;
            let mut sums = vec![0.0f32; room * self.tiles.len()];
            for (sums, tile) in sums.chunks_exact_mut(room).zip(&self.tiles) {
                let sums = &mut sums[..widths[1] * tile.columns];
                product(sums, &center[..widths[0] * widths[1]], &tile.inputs, widths[1], widths[0], tile.columns);
            }
            sums
        })
    }
}

#[cfg(test)]
mod tests {
    use basin_volume::objective::Differentiable;
    use basin_volume::vectors::{Vector, View};
    use basin_volume_data::Dataset;
    use rayon::ThreadPoolBuilder;

    use super::*;
    use crate::arch::{Activation, Architecture, MlpConfig};
    use crate::parameters::Parameters;

    fn normals(count: usize, seed: u64) -> Vec<f32> {
        let mut out = vec![0.0; count];
        basin_volume::random::NormalVector::new(basin_volume::random::Purpose::Trials, seed, 0, count).fill(0..count, &mut out);
        out
    }

    /// A perceptron of these widths around random weights, on more rows than a tile has.
    fn cost(widths: &[usize], activation: Activation) -> MlpKl {
        let network = MlpConfig::from_widths(widths.to_vec()).unwrap().with_activation(activation);
        let layout = network.layout();
        let center: Vec<f32> = normals(layout.dimension(), 1).iter().map(|x| 0.4 * x).collect();
        let rows = 2 * TILE + 21;
        let data = Dataset::new("rows", widths[0], normals(rows * widths[0], 2), None).unwrap();
        MlpKl::new(network, Parameters::new(layout, center), &data).unwrap()
    }

    #[test]
    fn a_segment_is_what_one_point_after_the_other_is() {
        for (widths, activation) in
            [(vec![9, 7, 4], Activation::GeluTanh), (vec![5, 8, 6, 3], Activation::Relu), (vec![6, 5, 5, 5, 2], Activation::Silu)]
        {
            let cost = cost(&widths, activation);
            let dimension = cost.moving.dimension();
            let center = cost.parameters().values().to_vec();
            let weights: Vec<f32> = center.iter().zip(normals(dimension, 3)).map(|(c, n)| c + 0.3 * n).collect();
            let parts = [0.5, 0.75, 0.875, 1.0];
            // So soft that several points have a share: it is a twentieth of the largest at most.
            let softness = 1.0;
            let (mut gradient, mut costs) = (Vector::Slice(vec![0.0; dimension]), Vec::new());
            let found =
                cost.soft_segment(View::Slice(&weights), &parts, softness, &mut gradient, &mut costs).unwrap().expect("a small perceptron");
            let (mut expected, mut own) = (vec![0.0f64; dimension], vec![0.0f32; dimension]);
            let mut shares = Vec::new();
            let at = |part: f64| -> Vec<f32> {
                center.iter().zip(&weights).map(|(&c, &w)| (f64::from(c) + part * (f64::from(w) - f64::from(c))) as f32).collect()
            };
            for (&part, &cost_there) in parts.iter().zip(&costs) {
                let exact = cost.cost_at(&at(part)).unwrap().nats;
                assert!((cost_there - exact).abs() < 1e-5 * exact, "{cost_there} and {exact}");
                shares.push(exact);
            }
            let highest = soft_shares(&mut shares, softness).unwrap();
            for (&part, &share) in parts.iter().zip(&shares) {
                cost.gradient(&at(part), 0..cost.parts(), &mut own).unwrap();
                expected.iter_mut().zip(&own).for_each(|(sum, &g)| *sum += share * part * f64::from(g));
            }
            assert!((found.nats - highest).abs() < 1e-5 * highest);
            assert_eq!((found.gradients, found.evaluations), (1, 4));
            let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            let difference: f64 =
                expected.iter().zip(gradient.view().slice()).map(|(a, &b)| (a - f64::from(b)).powi(2)).sum::<f64>().sqrt();
            assert!(difference < 1e-4 * norm, "{widths:?}: {difference} of {norm}");
            // Every bit on any number of threads, and again.
            for threads in [1, 4] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut again, mut same) = (Vector::Slice(vec![1.0; dimension]), vec![9.0]);
                let found = pool.install(|| cost.soft_segment(View::Slice(&weights), &parts, softness, &mut again, &mut same).unwrap());
                assert_eq!((found.unwrap().nats, same.as_slice()), (costs.iter().copied().fold(0.0, f64::max), costs.as_slice()));
                assert_eq!(again.view().slice(), gradient.view().slice());
            }
        }
    }

    #[test]
    fn costs_that_are_not_finite_are_told() {
        let cost = cost(&[4, 3, 2], Activation::Relu);
        let dimension = cost.moving.dimension();
        let weights = vec![f32::INFINITY; dimension];
        let (mut gradient, mut costs) = (Vector::Slice(vec![0.0; dimension]), Vec::new());
        let found = cost.soft_segment(View::Slice(&weights), &[0.5, 1.0], 1.0, &mut gradient, &mut costs).unwrap().unwrap();
        assert!(found.nats.is_nan() && found.gradients == 0);
    }
}
