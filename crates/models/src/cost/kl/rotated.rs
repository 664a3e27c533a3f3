//! The cost of a multilayer perceptron in coordinates in which the mean of every sum stands alone.
//!
//! The sums of a layer are `W h + b`. Their mean over the data is `(W, b) . (mu, 1)`, with `mu` the mean of the layer's inputs `h`, which has few
//! hundredths of the coordinates and, as activations are positive, nearly all of the length: what a step does to the outputs is first of all to
//! shift their means, by all layers at once. So every row `(W, b)` is reflected, by the reflection that takes `(mu, 1)` to the axis of the bias:
//! there stands, but for a factor, the mean of the sum, and the other coordinates leave it as it is, whatever they do to the layers before. (`mu`
//! depends on these layers alone, so the Jacobian is one.)
//!
//! What that is worth is in `docs/accuracy.md`.

use std::ops::Range;
use std::sync::Mutex;

use basin_volume::center::Center;
use basin_volume::coordinates::{Coordinates, OfWeights, Straight};
use basin_volume::direction::{Direction, dot};
use basin_volume::objective::{Cost, Differentiable, Objective, ObjectiveError, RayPoint};
use basin_volume::vectors::Vector;
use rayon::prelude::*;

use super::gradient::{add_layer, places};
use super::{MlpKl, TILE, last_bias};
use crate::cost::pool::{give_back, take};
use crate::cost::tiles::mean_cost;
use crate::nn::{Divergence, log_normaliser, logit, product};
use crate::products::{Matrix, Sizes, product_strided};
use crate::reflection::Reflection;

/// Rows that one task works on: fixed, so that no sum depends on the number of threads.
const ROWS: usize = 64;
/// To sum by inner products.
const ONES: [f32; TILE] = [1.0; TILE];

/// [`MlpKl`] in the coordinates that this module describes. All weights have to move. Every concurrent evaluation keeps the activations of all rows,
/// eight bytes per row and unit, a gradient four more per row and unit of the widest layer, and both a copy of the weights; these buffers are kept.
#[derive(Debug)]
pub struct RotatedMlpKl {
    cost: MlpKl,
    /// Coordinates of the center.
    center: Vec<f32>,
    /// That of the first layer, whose inputs are the data.
    first: Reflection,
    spaces: Mutex<Vec<Space>>,
}

/// What one evaluation needs.
#[derive(Debug, Default)]
struct Space {
    /// Per tile the outputs of the hidden layers, `[width, columns]` each.
    activations: Vec<f32>,
    /// Per tile and layer the activation's derivatives and the logits, then the gradients of the sums.
    slopes: Vec<f32>,
    /// Per tile one layer's gradient.
    spare: Vec<f32>,
    /// What the rows become by reflection.
    reflected: Vec<f32>,
    /// One for each layer.
    reflections: Vec<Reflection>,
}

/// The reflection of the rows `(W, b)` of a layer with this mean of its inputs: it takes the direction of `(mu, 1)` to the axis of the bias.
fn reflection_of(mean: &[f64]) -> Reflection {
    let vector: Vec<f64> = mean.iter().copied().chain([1.0]).collect();
    Reflection::of(&vector, mean.len(), 1.0)
}

/// Rows of a layer, whose bias stands apart.
impl Reflection {
    /// The component of a row along `u`.
    fn along_layer(&self, weight: &[f32], bias: f32) -> f64 {
        let (last, unit) = self.split();
        dot(weight, unit) + f64::from(bias) * last
    }

    fn split(&self) -> (f64, &[f32]) {
        match self.unit.split_last() {
            Some((last, unit)) => (f64::from(*last), unit),
            None => (0.0, &[]),
        }
    }

    /// Takes `factor along u` from a row.
    fn reflect_layer(&self, weight: &mut [f32], bias: &mut f32, along: f64) {
        let (last, unit) = self.split();
        let amount = self.factor * along;
        let small = amount as f32;
        weight.iter_mut().zip(unit).for_each(|(w, u)| *w -= small * u);
        *bias = (f64::from(*bias) - amount * last) as f32;
    }
}

/// Where the gradient comes from that goes back to the coordinates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The gradients of the logits.
    Logits,
    /// The gradient of the weights, which stands where that of the coordinates will.
    Weights,
}

/// Whether the rows that are reflected are those of the network, or become those of the network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Weights,
    Coordinates,
}

impl RotatedMlpKl {
    /// The same cost in other coordinates; none when some weights do not move.
    #[must_use]
    pub fn new(cost: MlpKl) -> Option<Self> {
        if !cost.moving.is_whole() {
            return None;
        }
        let features = cost.network.inputs();
        let mut sums = vec![0.0f64; features];
        for tile in &cost.tiles {
            for (sum, row) in sums.iter_mut().zip(tile.inputs.chunks_exact(tile.columns)) {
                *sum += row.iter().map(|x| f64::from(*x)).sum::<f64>();
            }
        }
        let mean: Vec<f64> = sums.iter().map(|sum| sum / cost.positions as f64).collect();
        let mut center = vec![0.0f32; cost.moving.dimension()];
        cost.center(0..center.len(), &mut center);
        let mut rotated = Self { cost, center: Vec::new(), first: reflection_of(&mean), spaces: Mutex::default() };
        rotated.enter(&mut center);
        rotated.center = center;
        Some(rotated)
    }

    fn widths(&self) -> &[usize] {
        self.cost.network.widths()
    }

    /// Floats that a tile takes.
    fn stride(&self) -> usize {
        self.widths()[1..].iter().sum::<usize>() * TILE
    }

    /// Reflects the rows of every layer and goes forward: `space` has the activations, derivatives and logits (without the last bias) of the network.
    fn forward(&self, rows: &[f32], given: Given, space: &mut Space) {
        let widths = self.widths();
        let layers = widths.len() - 1;
        let (stride, tiles) = (self.stride(), &self.cost.tiles);
        let function = self.cost.network.activation();
        let Space { activations, slopes, reflected, reflections, .. } = space;
        activations.resize(tiles.len() * stride, 0.0);
        slopes.resize(tiles.len() * stride, 0.0);
        reflected.resize(rows.len(), 0.0);
        reflections.clear();
        let mut start = 0;
        for (layer, pair) in widths.windows(2).enumerate() {
            let (width, outputs) = (pair[0], pair[1]);
            let (weights_end, end) = (start + width * outputs, start + (width + 1) * outputs);
            let reflection = if layer == 0 { self.first.clone() } else { reflection_of(&self.mean(activations, layer - 1)) };
            let (weight, bias) = reflected[start..end].split_at_mut(width * outputs);
            weight.copy_from_slice(&rows[start..weights_end]);
            bias.copy_from_slice(&rows[weights_end..end]);
            weight.par_chunks_mut(ROWS * width).zip(bias.par_chunks_mut(ROWS)).for_each(|(weight, bias)| {
                for (weight, bias) in weight.chunks_exact_mut(width).zip(bias) {
                    let along = reflection.along_layer(weight, *bias);
                    reflection.reflect_layer(weight, bias, along);
                }
            });
            reflections.push(reflection);
            let network = if given == Given::Weights { rows } else { &*reflected };
            let (weight, bias) = (&network[start..weights_end], &network[weights_end..end]);
            let buffers = activations.par_chunks_mut(stride).zip(slopes.par_chunks_mut(stride));
            tiles.par_iter().zip(buffers).for_each(|(tile, (activations, slopes))| {
                let places = places(widths, tile.columns);
                let sums = &mut slopes[places[layer].clone()];
                let input = if layer == 0 { &tile.inputs[..] } else { &activations[places[layer - 1].clone()] };
                product(sums, weight, input, outputs, width, tile.columns);
                if layer + 1 < layers {
                    let outputs = activations[places[layer].clone()].chunks_exact_mut(tile.columns);
                    for ((sums, outputs), &bias) in sums.chunks_exact_mut(tile.columns).zip(outputs).zip(bias) {
                        function.add_bias_with_derivative(sums, bias, outputs);
                    }
                }
            });
            start = end;
        }
    }

    /// The mean over all rows of the outputs of a hidden layer.
    fn mean(&self, activations: &[f32], layer: usize) -> Vec<f64> {
        let (widths, stride) = (self.widths(), self.stride());
        let width = widths[layer + 1];
        let sums: Vec<Vec<f64>> = self
            .cost
            .tiles
            .par_iter()
            .zip(activations.par_chunks(stride))
            .map(|(tile, activations)| {
                let positions = tile.kept.positions();
                let outputs = &activations[places(widths, tile.columns)[layer].clone()];
                outputs.chunks_exact(tile.columns).map(|row| dot(&row[..positions], &ONES[..positions])).collect()
            })
            .collect();
        (0..width).map(|unit| sums.iter().map(|sums| sums[unit]).sum::<f64>() / self.cost.positions as f64).collect()
    }

    /// Goes back to the gradient of all coordinates.
    fn backward(&self, coordinates: &[f32], source: Source, space: &mut Space, gradient: &mut [f32]) {
        let widths = self.widths();
        let (stride, tiles) = (self.stride(), &self.cost.tiles);
        let widest = widths[1..].iter().max().map_or(0, |width| width * TILE);
        let Space { activations, slopes, spare, reflected, reflections, .. } = space;
        spare.resize(tiles.len() * widest, 0.0);
        if source == Source::Logits {
            gradient.fill(0.0);
        }
        let mut end = coordinates.len();
        let last = widths.len() - 2;
        for layer in (0..=last).rev() {
            // Whether sums of this layer have a gradient: with that of the weights nothing but the means of the layers above has.
            let has_slopes = source == Source::Logits || layer < last;
            let (width, outputs) = (widths[layer], widths[layer + 1]);
            let start = end - (width + 1) * outputs;
            let (weight, bias) = gradient[start..end].split_at_mut(width * outputs);
            let rows = &coordinates[start..end - outputs];
            let biases = &coordinates[end - outputs..end];
            let reflection = &reflections[layer];
            // Products, then what the reflection makes of them; by the way the gradient of what it reflects by.
            let parts = weight.par_chunks_mut(ROWS * width).zip(bias.par_chunks_mut(ROWS)).enumerate();
            let unit_gradients: Vec<Vec<f64>> = parts
                .map(|(chunk, (weight, bias))| {
                    let first = chunk * ROWS;
                    let with_slopes = if has_slopes { tiles.len() } else { 0 };
                    let buffers = slopes.chunks(stride).zip(activations.chunks(stride));
                    for (tile, (slopes, activations)) in tiles[..with_slopes].iter().zip(buffers) {
                        let places = places(widths, tile.columns);
                        let begin = places[layer].start;
                        let slopes = &slopes[begin + first * tile.columns..begin + (first + bias.len()) * tile.columns];
                        let inputs = if layer == 0 { &tile.inputs[..] } else { &activations[places[layer - 1].clone()] };
                        add_layer(weight, bias, slopes, inputs, tile.columns);
                    }
                    let mut unit_gradient = vec![0.0f64; if layer == 0 { 0 } else { width + 1 }];
                    for (k, (weight, bias)) in weight.chunks_exact_mut(width).zip(bias).enumerate() {
                        let row = &rows[(first + k) * width..(first + k + 1) * width];
                        let along = reflection.along_layer(weight, *bias);
                        if layer > 0 {
                            let other = reflection.along_layer(row, biases[first + k]);
                            let (sums, last) = unit_gradient.split_at_mut(width);
                            for ((sum, row), g) in sums.iter_mut().zip(row).zip(&*weight) {
                                *sum -= 2.0 * (along * f64::from(*row) + other * f64::from(*g));
                            }
                            last[0] -= 2.0 * (along * f64::from(biases[first + k]) + other * f64::from(*bias));
                        }
                        reflection.reflect_layer(weight, bias, along);
                    }
                    unit_gradient
                })
                .collect();
            if layer == 0 {
                break;
            }
            let mut unit_gradient = vec![0.0f64; width + 1];
            unit_gradients.iter().for_each(|part| unit_gradient.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
            let per_row: Vec<f32> =
                reflection.back(&unit_gradient).into_iter().take(width).map(|g| (g / self.cost.positions as f64) as f32).collect();
            let weight = Matrix::columns(&reflected[start..end - outputs], width);
            let parts = tiles.par_iter().zip(slopes.par_chunks_mut(stride)).zip(spare.par_chunks_mut(widest));
            parts.for_each(|((tile, slopes), spare)| {
                let (places, columns) = (places(widths, tile.columns), tile.columns);
                let (before, own) = slopes.split_at_mut(places[layer].start);
                let right = Matrix::rows(&own[..outputs * columns], columns);
                let result = &mut spare[..width * columns];
                if has_slopes {
                    product_strided(result, columns, weight, right, Sizes { rows: width, inner: outputs, columns }, false);
                } else {
                    result.fill(0.0);
                }
                let sums = before[places[layer - 1].clone()].chunks_exact_mut(columns);
                for ((sums, result), mean) in sums.zip(result.chunks_exact(columns)).zip(&per_row) {
                    let (inside, outside) = sums.split_at_mut(tile.kept.positions());
                    inside.iter_mut().zip(result).for_each(|(derivative, slope)| *derivative *= slope + mean);
                    // Columns beyond the rows are no part of the mean.
                    outside.fill(0.0);
                }
            });
            end = start;
        }
    }

    /// Goes through the logits of every tile, in their order.
    fn logits<T: Send>(&self, slopes: &mut [f32], work: impl Fn(usize, &mut [f32]) -> T + Sync) -> Vec<T> {
        let (widths, stride) = (self.widths(), self.stride());
        let last = widths.len() - 2;
        let tiles = self.cost.tiles.par_iter().zip(slopes.par_chunks_mut(stride)).enumerate();
        tiles.map(|(index, (tile, slopes))| work(index, &mut slopes[places(widths, tile.columns)[last].clone()])).collect()
    }

    fn with_space<T>(&self, work: impl FnOnce(&mut Space) -> T) -> T {
        let mut space = take(&self.spaces);
        let result = work(&mut space);
        give_back(&self.spaces, space);
        result
    }
}

impl Center for RotatedMlpKl {
    fn dimension(&self) -> usize {
        self.center.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.center[range]);
    }
}

impl Objective for RotatedMlpKl {
    fn cost(&self, _: &Direction, _: RayPoint) -> Result<Cost, ObjectiveError> {
        Err(ObjectiveError::new("rays are straight in weights: use the cost itself"))
    }
}

/// One part: what one row contributes depends on the means over all.
impl Differentiable for RotatedMlpKl {
    fn parts(&self) -> usize {
        1
    }

    fn gradient(&self, weights: &[f32], parts: Range<usize>, gradient: &mut [f32]) -> Result<f64, ObjectiveError> {
        assert!(weights.len() == self.center.len() && gradient.len() == weights.len(), "as many coordinates and gradients as weights");
        assert!(parts.end <= 1, "parts {parts:?} of one");
        if parts.is_empty() {
            gradient.fill(0.0);
            return Ok(0.0);
        }
        Ok(self.with_space(|space| {
            self.forward(weights, Given::Coordinates, space);
            let Space { slopes, reflected, .. } = &mut *space;
            let bias = last_bias(&self.cost.network, reflected);
            let scale = 1.0 / self.cost.positions as f64;
            let nats = self.logits(slopes, |index, logits| {
                let tile = &self.cost.tiles[index];
                tile.kept.divergence_slopes(logits, bias, tile.columns, 0..tile.kept.positions(), scale)
            });
            self.backward(weights, Source::Logits, space, gradient);
            nats.iter().sum::<f64>() * scale
        }))
    }

    fn cost_at(&self, weights: &[f32]) -> Result<Cost, ObjectiveError> {
        assert_eq!(weights.len(), self.center.len(), "as many coordinates as weights");
        Ok(self.with_space(|space| {
            self.forward(weights, Given::Coordinates, space);
            let Space { slopes, reflected, .. } = space;
            let bias = last_bias(&self.cost.network, reflected);
            let sums =
                self.logits(slopes, |index, logits| self.cost.tiles[index].kept.divergence(logits, bias, self.cost.tiles[index].columns));
            let mut total = Divergence::default();
            sums.iter().for_each(|sum| total.add(sum));
            mean_cost(&total, (self.cost.positions, self.cost.network.outputs()), self.cost.relative_noise)
        }))
    }

    fn likelihood_gradient(&self, _: &[f32], _: Range<usize>, _: u64, _: &mut [f32]) -> Result<f64, ObjectiveError> {
        Err(ObjectiveError::new("scores are those of weights: use the cost itself"))
    }
}

impl Coordinates for RotatedMlpKl {
    fn enter(&self, weights: &mut [f32]) {
        self.with_space(|space| {
            self.forward(weights, Given::Weights, space);
            weights.copy_from_slice(&space.reflected);
        });
    }

    fn leave(&self, coordinates: &mut [f32]) {
        self.with_space(|space| {
            self.forward(coordinates, Given::Coordinates, space);
            coordinates.copy_from_slice(&space.reflected);
        });
    }

    /// The means of the logits. A step along such an axis changes the logit of the row with inputs `h` by `(mu, 1) . (h, 1)` over the length of `(mu, 1)`;
    /// with `q` the probability of the class there, the curvature is the mean over the rows of `q (1 - q)` times the square of this.
    fn stiff_axes(&self, states: &[&[f32]]) -> Result<Vec<(usize, f64)>, ObjectiveError> {
        let (widths, stride) = (self.widths(), self.stride());
        let (classes, layers) = (self.cost.network.outputs(), widths.len() - 1);
        let scale = 1.0 / (self.cost.positions * states.len()) as f64;
        let mut curvatures = vec![0.0f64; classes];
        for state in states {
            self.with_space(|space| {
                self.forward(state, Given::Coordinates, space);
                let Space { activations, slopes, reflected, reflections, .. } = space;
                let bias = last_bias(&self.cost.network, reflected);
                let toward = reflections.last().map_or(&[][..], |reflection| &reflection.toward);
                let sums = self.logits(slopes, |index, logits| {
                    let (tile, columns) = (&self.cost.tiles[index], self.cost.tiles[index].columns);
                    let inputs = match layers {
                        1 => &tile.inputs[..],
                        _ => &activations[index * stride..][places(widths, columns)[layers - 2].clone()],
                    };
                    let mut sums = vec![0.0f64; classes];
                    for position in 0..tile.kept.positions() {
                        let units = inputs.iter().skip(position).step_by(columns).map(|h| f64::from(*h)).chain([1.0]);
                        let moved: f64 = units.zip(toward).map(|(h, q)| h * q).sum();
                        let normaliser = log_normaliser(logits, bias, columns, position);
                        for (class, sum) in sums.iter_mut().enumerate() {
                            let q = (logit(logits, bias, columns, class, position) - normaliser).exp();
                            *sum += q * (1.0 - q) * moved * moved;
                        }
                    }
                    sums
                });
                sums.iter().for_each(|sums| curvatures.iter_mut().zip(sums).for_each(|(curvature, sum)| *curvature += scale * sum));
            });
        }
        let first = self.center.len() - classes;
        Ok(curvatures.into_iter().enumerate().map(|(class, curvature)| (first + class, curvature)).collect())
    }

    fn straight(&self) -> Option<&dyn Straight> {
        Some(self)
    }
}

impl Straight for RotatedMlpKl {
    fn cost_of_weights(&self) -> &dyn Differentiable {
        &self.cost
    }

    fn pull_back(&self, coordinates: &[f32], gradient: &mut Vector, work: &mut OfWeights<'_>) -> Result<f64, ObjectiveError> {
        self.with_space(|space| {
            self.forward(coordinates, Given::Coordinates, space);
            let nats = work(&space.reflected, gradient)?;
            self.backward(coordinates, Source::Weights, space, gradient.slice_mut());
            Ok(nats)
        })
    }
}

#[cfg(test)]
mod tests {
    use basin_volume_data::Dataset;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    use super::*;
    use crate::arch::{Architecture, MlpConfig};
    use crate::parameters::Parameters;
    use crate::reflection::testkit::{determinant, jacobian};

    fn normals(count: usize, scale: f32, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|_| {
                let z: f32 = StandardNormal.sample(&mut rng);
                scale * z
            })
            .collect()
    }

    /// Two tiles, the second one of 13 rows of 16 columns.
    fn cost(widths: Vec<usize>) -> MlpKl {
        let (inputs, rows) = (widths[0], TILE + 13);
        let config = MlpConfig::from_widths(widths).unwrap();
        let data = Dataset::new("some", inputs, normals(inputs * rows, 1.0, 3).iter().map(|x| x.abs()).collect(), None).unwrap();
        let weights = normals(config.layout().dimension(), 0.4, 4);
        MlpKl::new(config.clone(), Parameters::new(config.layout(), weights), &data).unwrap()
    }

    #[test]
    fn coordinates_have_the_length_of_the_weights_and_lead_back_to_them() {
        let weights = cost(vec![5, 17, 9, 4]);
        let rotated = RotatedMlpKl::new(cost(vec![5, 17, 9, 4])).unwrap();
        for seed in 0..3 {
            let start = normals(weights.dimension(), 0.5, seed);
            let mut there = start.clone();
            rotated.enter(&mut there);
            assert!((dot(&there, &there) / dot(&start, &start) - 1.0).abs() < 1e-6);
            assert!(there.iter().zip(&start).any(|(a, b)| (a - b).abs() > 0.1));
            let (here, same) = (weights.cost_at(&start).unwrap().nats, rotated.cost_at(&there).unwrap().nats);
            assert!((here - same).abs() < 1e-5 * here, "{here} {same}");
            let mut back = there.clone();
            rotated.leave(&mut back);
            assert!(back.iter().zip(&start).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        let mut center = vec![0.0; rotated.dimension()];
        rotated.center(0..center.len(), &mut center);
        assert!(rotated.cost_at(&center).unwrap().nats < 1e-9);
    }

    #[test]
    fn the_map_keeps_volumes() {
        // The determinant of the Jacobian of a network of one hidden unit, by differences.
        let rotated = RotatedMlpKl::new(cost(vec![1, 1, 2])).unwrap();
        let start = normals(rotated.dimension(), 0.7, 9);
        let determinant = determinant(jacobian(&rotated, &start, 1e-2));
        assert!((determinant.abs() - 1.0).abs() < 1e-3, "{determinant}");
    }

    /// A gradient with respect to the coordinates of the network 5-70-9-4 against differences of the value, layer by layer too.
    fn check_gradient(what: &str, start: &[f32], gradient: &[f32], value: impl Fn(Vec<f32>) -> f64) {
        for seed in 0..6 {
            let mut direction = normals(start.len(), 1.0, 20 + seed);
            match seed {
                1 => direction[5 * 70..].fill(0.0),
                2 => direction[..6 * 70].fill(0.0),
                _ => {}
            }
            let at = |by: f32| value(start.iter().zip(&direction).map(|(w, d)| w + by * d).collect());
            let step = 2e-3f32;
            let expected = (at(step) - at(-step)) / (2.0 * f64::from(step));
            let found = dot(gradient, &direction);
            assert!((found - expected).abs() < 2e-3 * expected.abs() + 2e-4, "{what}, {seed}: {found} instead of {expected}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_cost_for_any_number_of_threads() {
        let rotated = RotatedMlpKl::new(cost(vec![5, 70, 9, 4])).unwrap();
        let start = normals(rotated.dimension(), 0.4, 11);
        let mut gradient = vec![0.0f32; start.len()];
        let nats = rotated.gradient(&start, 0..1, &mut gradient).unwrap();
        assert!((nats - rotated.cost_at(&start).unwrap().nats).abs() < 1e-6 * nats);
        check_gradient("of the cost", &start, &gradient, |moved| rotated.cost_at(&moved).unwrap().nats);
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut again = vec![1.0f32; start.len()];
            assert_eq!(pool.install(|| rotated.gradient(&start, 0..1, &mut again).unwrap()), nats);
            assert_eq!(again, gradient, "{threads} threads");
        }
        assert_eq!(rotated.gradient(&start, 0..0, &mut gradient).unwrap(), 0.0);
        assert!(gradient.iter().all(|g| *g == 0.0));
    }

    /// Half the way to the center and less, where the star looks, and at the end, for any number of threads.
    #[test]
    fn a_gradient_of_weights_is_pulled_back_to_the_coordinates() {
        let rotated = RotatedMlpKl::new(cost(vec![5, 70, 9, 4])).unwrap();
        let start = normals(rotated.dimension(), 0.4, 11);
        let mut center = vec![0.0; rotated.dimension()];
        rotated.cost.center(0..center.len(), &mut center);
        for part in [0.5f32, 0.125, 1.0] {
            let on_the_way = |weights: &[f32]| -> Vec<f32> { weights.iter().zip(&center).map(|(w, c)| c + part * (w - c)).collect() };
            let pull = |gradient: &mut Vector| {
                let mut work = |weights: &[f32], gradient: &mut Vector| {
                    let straight = rotated.straight().unwrap().cost_of_weights();
                    let nats = straight.gradient(&on_the_way(weights), 0..straight.parts(), gradient.slice_mut())?;
                    gradient.slice_mut().iter_mut().for_each(|g| *g *= part);
                    Ok(nats)
                };
                rotated.straight().unwrap().pull_back(&start, gradient, &mut work).unwrap()
            };
            let mut gradient = Vector::Slice(vec![1.0; start.len()]);
            let nats = pull(&mut gradient);
            check_gradient(&format!("{part} of the way"), &start, gradient.view().slice(), |mut moved| {
                rotated.leave(&mut moved);
                rotated.cost.cost_at(&on_the_way(&moved)).unwrap().nats
            });
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut again = Vector::Slice(vec![2.0; start.len()]);
                assert_eq!(pool.install(|| pull(&mut again)), nats);
                assert_eq!(again.view().slice(), gradient.view().slice(), "{threads} threads");
            }
        }
    }

    #[test]
    fn the_means_of_the_logits_are_the_stiff_axes() {
        let rotated = RotatedMlpKl::new(cost(vec![5, 70, 9, 4])).unwrap();
        let mut center = vec![0.0; rotated.dimension()];
        rotated.center(0..center.len(), &mut center);
        let axes = rotated.stiff_axes(&[&center]).unwrap();
        assert_eq!(axes.iter().map(|axis| axis.0).collect::<Vec<_>>(), (center.len() - 4..center.len()).collect::<Vec<_>>());
        // At the center the divergence is quadratic.
        for (axis, curvature) in axes {
            let at = |by: f32| {
                let mut moved = center.clone();
                moved[axis] += by;
                rotated.cost_at(&moved).unwrap().nats
            };
            let step = 1e-2f32;
            let expected = (at(step) + at(-step)) / f64::from(step * step);
            assert!((curvature - expected).abs() < 0.02 * expected, "{axis}: {curvature} instead of {expected}");
        }
    }
}
