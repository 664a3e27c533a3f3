//! The Fisher matrix of a multilayer perceptron by its factor: exact products, and the Gram matrix of small data.
//!
//! One row of `J` per input and class: `sqrt(p(y|x) / N)` times the gradient of `log p(y|x)`. In a layer it is an outer product of slopes
//! and inputs, so that nothing of length `D` is kept per row, and
//!
//! ```text
//! (J J')_(iy),(jz) = sum over layers (slopes_iy . slopes_jz) (inputs_i . inputs_j + 1)
//! ```

use basin_volume::fisher::{FisherError, FisherFactor, FisherMatrix, check_finite};
use basin_volume::interrupt::Interrupt;
use basin_volume::objective::ObjectiveError;
use rayon::prelude::*;

use super::gradient::places;
use super::scores::{EXACT_CLASSES, Event};
use super::{MlpKl, TILE};
use crate::arch::Architecture;
use crate::curvature::Labels;
use crate::products::{Matrix, Sizes, product_strided};

/// The factor keeps activations and slopes of all inputs: no more than so many bytes, else products by differences are the better choice.
const MOST_BYTES: usize = 1 << 30;

/// Products and Gram matrix of the Fisher matrix of a [`MlpKl`].
pub(crate) struct MlpFisher<'a> {
    cost: &'a MlpKl,
    /// Numbers of one tile's activations.
    stride: usize,
    /// Outputs of the hidden layers, `[width, columns]` at their places, tile by tile.
    activations: Vec<f32>,
    /// Tile by tile and layer by layer `[width, class, column]`.
    slopes: Vec<Vec<f32>>,
}

impl<'a> MlpFisher<'a> {
    /// None for networks with too many classes or too much data.
    pub(super) fn new(cost: &'a MlpKl) -> Option<Self> {
        let widths = cost.network.widths();
        let classes = cost.network.outputs();
        let stride: usize = widths[1..].iter().sum::<usize>() * TILE;
        if !cost.has_factor() {
            return None;
        }
        let mut activations = vec![0.0f32; cost.tiles.len() * stride];
        let mut slopes: Vec<Vec<f32>> = cost.tiles.iter().map(|_| Vec::new()).collect();
        let (mut tile, mut class) = (0, 0);
        let center = cost.moving.center().values();
        let labels = Labels::Model { probes: 1, seed: 0 };
        let visited = cost.for_slopes(&center, 0..cost.positions, labels, &mut |found, event| {
            let columns = found.columns;
            match event {
                Event::Forward(outputs, _) => {
                    activations[tile * stride..][..outputs.len()].copy_from_slice(outputs);
                    slopes[tile].resize(outputs.len() * classes, 0.0);
                    class = 0;
                }
                Event::Slopes(own) => {
                    // Rows of all layers one after the other.
                    let rows = slopes[tile].chunks_exact_mut(classes * columns).zip(own.chunks_exact(columns));
                    rows.for_each(|(to, from)| to[class * columns..][..columns].copy_from_slice(from));
                    class += 1;
                }
                Event::End(_) => tile += 1,
            }
        });
        visited.ok()?;
        Some(Self { cost, stride, activations, slopes })
    }

    /// What goes into a layer of a tile, `[width, columns]`.
    fn inputs(&self, tile: usize, layer: usize) -> &[f32] {
        let columns = self.cost.tiles[tile].columns;
        match layer {
            0 => &self.cost.tiles[tile].inputs,
            _ => &self.activations[tile * self.stride..][places(self.cost.network.widths(), columns)[layer - 1].clone()],
        }
    }

    /// Slopes of a layer, `[width, class, column]`.
    fn slopes(&self, tile: usize, layer: usize) -> &[f32] {
        let place = &places(self.cost.network.widths(), self.cost.tiles[tile].columns)[layer];
        let classes = self.cost.network.outputs();
        &self.slopes[tile][place.start * classes..place.end * classes]
    }

    /// A vector of the moving weights among zeros.
    fn spread(&self, v: &[f32]) -> Vec<f32> {
        let mut full = vec![0.0f32; self.cost.moving.center().dimension()];
        self.cost.moving.scatter(v, &mut full);
        full
    }

    /// `J v` of one tile, `[class, column]`.
    fn tile_image(&self, tile: usize, full: &[f32]) -> Vec<f64> {
        let widths = self.cost.network.widths();
        let (classes, columns) = (self.cost.network.outputs(), self.cost.tiles[tile].columns);
        let mut image = vec![0.0f64; classes * columns];
        let mut sums = vec![0.0f32; classes * columns];
        let mut tangents = Vec::new();
        let mut rest = full;
        for (layer, pair) in widths.windows(2).enumerate() {
            let (weight, after) = rest.split_at(pair[0] * pair[1]);
            let (bias, after) = after.split_at(pair[1]);
            rest = after;
            tangents.resize(pair[1] * columns, 0.0f32);
            let left = Matrix::rows(weight, pair[0]);
            let right = Matrix::rows(self.inputs(tile, layer), columns);
            product_strided(&mut tangents, columns, left, right, Sizes { rows: pair[1], inner: pair[0], columns }, false);
            sums.fill(0.0);
            let rows = self.slopes(tile, layer).chunks_exact(classes * columns);
            for ((slopes, tangents), &bias) in rows.zip(tangents.chunks_exact(columns)).zip(bias) {
                for (sums, slopes) in sums.chunks_exact_mut(columns).zip(slopes.chunks_exact(columns)) {
                    for ((sum, slope), tangent) in sums.iter_mut().zip(slopes).zip(tangents) {
                        *sum += slope * (tangent + bias);
                    }
                }
            }
            image.iter_mut().zip(&sums).for_each(|(image, &sum)| *image += f64::from(sum));
        }
        image
    }

    /// Which of a layer's weight and bias move.
    fn moves(&self, layer: usize) -> [bool; 2] {
        let layout = self.cost.network.layout();
        [0, 1].map(|which| {
            let name = &layout.parameters()[2 * layer + which].name;
            self.cost.moving.touches(name)
        })
    }

    /// `[class, column]` of one tile against those of another.
    fn gram_block(&self, left: usize, right: usize) -> Vec<f64> {
        let widths = self.cost.network.widths();
        let classes = self.cost.network.outputs();
        let (rows, columns) = (self.cost.tiles[left].columns, self.cost.tiles[right].columns);
        let mut block = vec![0.0f64; classes * rows * classes * columns];
        let (mut of_slopes, mut of_inputs) = (vec![0.0f32; block.len()], vec![0.0f32; rows * columns]);
        for (layer, pair) in widths.windows(2).enumerate() {
            let [weight, bias] = self.moves(layer);
            if !weight && !bias {
                continue;
            }
            let transposed = |values, width| Matrix::columns(values, width);
            let plain = |values, width| Matrix::rows(values, width);
            let (a, b) = (self.slopes(left, layer), self.slopes(right, layer));
            let (high, wide) = (classes * rows, classes * columns);
            product_strided(
                &mut of_slopes,
                wide,
                transposed(a, high),
                plain(b, wide),
                Sizes { rows: high, inner: pair[1], columns: wide },
                false,
            );
            of_inputs.fill(0.0);
            if weight {
                let (a, b) = (self.inputs(left, layer), self.inputs(right, layer));
                product_strided(
                    &mut of_inputs,
                    columns,
                    transposed(a, rows),
                    plain(b, columns),
                    Sizes { rows, inner: pair[0], columns },
                    false,
                );
            }
            let shift = f64::from(u8::from(bias));
            for (row, (block, slopes)) in block.chunks_exact_mut(wide).zip(of_slopes.chunks_exact(wide)).enumerate() {
                let inputs = &of_inputs[(row % rows) * columns..][..columns];
                for (block, slopes) in block.chunks_exact_mut(columns).zip(slopes.chunks_exact(columns)) {
                    for ((entry, &slopes), &inputs) in block.iter_mut().zip(slopes).zip(inputs) {
                        *entry += f64::from(slopes) * (f64::from(inputs) + shift);
                    }
                }
            }
        }
        block
    }

    /// The rows of a tile that are no padding, `[class, position]`: place in the block, row of the factor.
    fn rows_of(&self, tile: usize) -> Vec<(usize, usize)> {
        let (classes, columns) = (self.cost.network.outputs(), self.cost.tiles[tile].columns);
        let positions = self.cost.tiles[tile].kept.positions();
        let place = |class: usize, position: usize| (class * columns + position, (tile * TILE + position) * classes + class);
        (0..classes).flat_map(|class| (0..positions).map(move |position| place(class, position))).collect()
    }
}

impl FisherFactor for MlpFisher<'_> {
    fn rows(&self) -> usize {
        self.cost.positions * self.cost.network.outputs()
    }

    /// The gradients of all classes' logarithms, weighted with their probabilities, add up to nothing.
    fn largest_rank(&self) -> usize {
        self.cost.positions * self.cost.network.outputs().saturating_sub(1)
    }

    fn apply(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        assert_eq!(out.len(), self.rows(), "one number per row of the factor");
        let full = self.spread(v);
        let images: Vec<Vec<f64>> = (0..self.slopes.len()).into_par_iter().map(|tile| self.tile_image(tile, &full)).collect();
        for (tile, image) in images.iter().enumerate() {
            self.rows_of(tile).into_iter().for_each(|(place, row)| out[row] = image[place] as f32);
        }
        check_finite(out)
    }

    fn gram(&self, interrupt: &Interrupt) -> Result<Vec<f64>, FisherError> {
        let size = self.rows();
        let mut gram = vec![0.0f64; size * size];
        let tiles = self.slopes.len();
        for left in 0..tiles {
            if interrupt.is_raised() {
                return Err(ObjectiveError::interrupted().into());
            }
            let blocks: Vec<Vec<f64>> = (left..tiles).into_par_iter().map(|right| self.gram_block(left, right)).collect();
            for (right, block) in (left..tiles).zip(blocks) {
                let wide = self.cost.network.outputs() * self.cost.tiles[right].columns;
                let across = self.rows_of(right);
                for (place, row) in self.rows_of(left) {
                    for &(other, column) in &across {
                        let entry = block[place * wide + other];
                        gram[row * size + column] = entry;
                        gram[column * size + row] = entry;
                    }
                }
            }
        }
        Ok(gram)
    }
}

impl FisherMatrix for MlpFisher<'_> {
    fn dimension(&self) -> usize {
        self.cost.moving.dimension()
    }

    /// `J'(J v)`, exact but for the rounding of `f32` products.
    fn product(&self, v: &[f32], out: &mut [f32]) -> Result<(), FisherError> {
        assert!(v.len() == self.dimension() && out.len() == v.len(), "vectors of length D");
        let full = self.spread(v);
        let classes = self.cost.network.outputs();
        let mut combined = vec![0.0f32; self.activations.len()];
        combined.par_chunks_mut(self.stride).enumerate().for_each(|(tile, combined)| {
            let columns = self.cost.tiles[tile].columns;
            let image: Vec<f32> = self.tile_image(tile, &full).into_iter().map(|x| x as f32).collect();
            // Rows of all layers one after the other, as in `slopes`.
            let rows = self.slopes[tile].chunks_exact(classes * columns).zip(combined.chunks_exact_mut(columns));
            for (slopes, sum) in rows {
                for (slopes, image) in slopes.chunks_exact(columns).zip(image.chunks_exact(columns)) {
                    for ((sum, slope), image) in sum.iter_mut().zip(slopes).zip(image) {
                        *sum += slope * image;
                    }
                }
            }
        });
        let mut gradient = full;
        gradient.fill(0.0);
        let tiles: Vec<_> = self.cost.tiles.iter().map(super::Tile::all).collect();
        self.cost.add_products(&tiles, &self.activations, &combined, self.stride, &mut gradient);
        self.cost.moving.gather(&gradient, out);
        check_finite(out)
    }

    /// A forward pass and the products of slopes and inputs: less than a gradient, which has a backward pass too.
    fn gradients_per_product(&self) -> u64 {
        1
    }

    fn scratch_bytes(&self) -> u64 {
        4 * (2 * self.cost.moving.center().dimension() + self.activations.len()) as u64
    }

    fn held_bytes(&self) -> u64 {
        4 * (self.activations.len() + self.slopes.iter().map(Vec::len).sum::<usize>()) as u64
    }

    fn factor(&self) -> Option<&dyn FisherFactor> {
        Some(self)
    }
}

impl MlpKl {
    /// Whether the classes are few enough for exact expectations, the data for what the factor keeps, and whole tensors move.
    pub(super) fn has_factor(&self) -> bool {
        let classes = self.network.outputs();
        let stride: usize = self.network.widths()[1..].iter().sum::<usize>() * TILE;
        // The products of slopes and inputs are those of whole matrices.
        !self.moving.has_parts_of_tensors() && classes <= EXACT_CLASSES && 4 * self.tiles.len() * stride * (classes + 1) <= MOST_BYTES
    }

    /// The Fisher matrix by its factor, unless there are too many classes or data.
    #[must_use]
    pub(crate) fn fisher(&self) -> Option<MlpFisher<'_>> {
        MlpFisher::new(self)
    }
}

#[cfg(test)]
mod tests {
    use basin_volume::direction::dot;
    use basin_volume::fisher::DifferenceProducts;

    use super::*;
    use crate::curvature::Scores;
    use crate::curvature::testkit::perceptron;
    use crate::parameters::{Moving, Parameters};

    fn vector(dimension: usize, seed: usize) -> Vec<f32> {
        (0..dimension).map(|i| ((i * (seed + 2)) as f32 * 0.7).sin()).collect()
    }

    /// Products, factor and Gram matrix of whole and partly frozen networks against the matrix from `f64` scores.
    #[test]
    fn products_and_gram_matrix_are_those_of_the_dense_matrix() {
        // More rows than a tile, and a last tile that is padded.
        let net = perceptron(&[9, 7, 6, 4], 150);
        let dense = net.fisher();
        let all = dense.len().isqrt();
        let center: &Parameters = net.cost.parameters();
        for exclude in [None, Some("bias"), Some("layers.1.weight"), Some("layers.[02]")] {
            let moving = Moving::matching(center.clone(), None, exclude).unwrap();
            let cost = MlpKl::new(net.cost.network().clone(), moving.clone(), &net.data).unwrap();
            let fisher = cost.fisher().unwrap();
            let numbers: Vec<f32> = (0..all).map(|i| i as f32).collect();
            let mut own = vec![0.0f32; moving.dimension()];
            moving.gather(&numbers, &mut own);
            let chosen: Vec<usize> = own.iter().map(|&x| x as usize).collect();
            let v = vector(chosen.len(), 3);
            let expected: Vec<f64> =
                chosen.iter().map(|&i| chosen.iter().zip(&v).map(|(&j, &v)| dense[i * all + j] * f64::from(v)).sum()).collect();
            let mut found = vec![0.0f32; v.len()];
            fisher.product(&v, &mut found).unwrap();
            let error: f64 = found.iter().zip(&expected).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
            let size: f64 = expected.iter().map(|y| y * y).sum();
            assert!((error / size).sqrt() < 1e-4, "{exclude:?}: {}", (error / size).sqrt());
            // |J v|^2 = v'Fv, and the Gram matrix has the traces of F and of its square.
            let mut image = vec![0.0f32; fisher.rows()];
            fisher.apply(&v, &mut image).unwrap();
            let quadratic: f64 = expected.iter().zip(&v).map(|(x, &v)| x * f64::from(v)).sum();
            assert!((dot(&image, &image) / quadratic - 1.0).abs() < 1e-4, "{exclude:?}");
            let gram = fisher.gram(&Interrupt::new()).unwrap();
            let trace: f64 = gram.iter().step_by(fisher.rows() + 1).sum();
            let square: f64 = gram.iter().map(|x| x * x).sum();
            let trace_of_fisher: f64 = chosen.iter().map(|&i| dense[i * all + i]).sum();
            let square_of_fisher: f64 =
                chosen.iter().flat_map(|&i| chosen.iter().map(move |&j| (i, j))).map(|(i, j)| dense[i * all + j].powi(2)).sum();
            assert!((trace / trace_of_fisher - 1.0).abs() < 1e-4 && (square / square_of_fisher - 1.0).abs() < 1e-4, "{exclude:?}");
        }
    }

    #[test]
    fn differences_of_gradients_agree() {
        let net = perceptron(&[9, 7, 6, 4], 150);
        let v = vector(net.cost.parameters().dimension(), 1);
        let (mut exact, mut differences) = (vec![0.0f32; v.len()], vec![0.0f32; v.len()]);
        net.cost.fisher_matrix().unwrap().product(&v, &mut exact).unwrap();
        DifferenceProducts::new(&net.cost, 1e-2).unwrap().product(&v, &mut differences).unwrap();
        let error: f64 = exact.iter().zip(&differences).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!((error / dot(&exact, &exact)).sqrt() < 1e-3);
    }
}
