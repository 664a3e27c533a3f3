//! The output head with its loss, tile by tile of positions: cross-entropy or KL divergence, and their gradients with respect to what the
//! head reads and to its own weights, without an array of all positions x vocabulary.

use std::ops::Range;

use super::forward::for_each;
use super::{BLOCK, Decoder};
use crate::nn::vocabulary::{Normalizer, Sums, divergence_sums, normalize_columns};
use crate::nn::{divergence_slopes, entropy_slopes};
use crate::products::{Matrix, Sizes, product, product_strided};

/// Rows of the vocabulary whose logits are computed, and compared or differentiated, while they are in the cache. Measured: see the benchmark
/// `language_model_cost`. The same for costs and gradients, so that the logits are the same to the bit.
pub(crate) const TILE: usize = 256;

/// Most parts of the vocabulary that are worked on at the same time: fixed, so that sums do not depend on the number of threads, and few,
/// because each has a gradient of the states of its own.
const STRIPS: usize = 16;

/// The center's outputs at the positions of a tile, by column; where a column has no position they only have to be finite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CenterTile<'a> {
    /// `[vocabulary, columns]`.
    pub(crate) logits: &'a [f32],
    /// Their log-normalizers.
    pub(crate) logarithms: &'a [f32],
    /// Sums of the probabilities, 1 but for rounding.
    pub(crate) probabilities: &'a [f64],
    /// The most probable entries and their logits, by a plain inner product.
    pub(crate) favorites: &'a [usize],
    pub(crate) favorite_logits: &'a [f32],
}

/// Buffers for a [`CenterTile`].
#[derive(Debug, Default)]
pub(crate) struct CenterSpace {
    pub(crate) inputs: Vec<f32>,
    pub(crate) logits: Vec<f32>,
    pub(crate) logarithms: Vec<f32>,
    pub(crate) probabilities: Vec<f64>,
    pub(crate) favorites: Vec<usize>,
    pub(crate) favorite_logits: Vec<f32>,
}

/// The outputs of a center.
pub(crate) trait CenterSource: Sync {
    /// Those at some of the positions that count, given by their number among these, with so many columns.
    fn tile<'a>(&'a self, counted: Range<usize>, columns: usize, space: &'a mut CenterSpace) -> CenterTile<'a>;
}

/// What the outputs are compared with, at the positions that count.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Cross-entropy (nats) with one label per position.
    Labels(&'a [u32]),
    /// Cross-entropy with labels drawn from the outputs: one number in `[0, 1)` per position, and the label is the first entry at which the
    /// running sum of the probabilities exceeds it.
    Drawn(&'a [f64]),
    /// KL divergence from the center (nats).
    Center(&'a dyn CenterSource),
}

/// Buffers of the head; used again from tile to tile.
#[derive(Debug, Default)]
pub(crate) struct LossSpace {
    /// What the head reads, `[head inputs, columns]`, and the same by position.
    pub(crate) inputs: Vec<f32>,
    by_position: Vec<f32>,
    /// The gradient of the inputs.
    pub(crate) slopes: Vec<f32>,
    /// `[vocabulary, columns]`, then their gradients.
    logits: Vec<f32>,
    /// Of every strip, per column.
    sums: Vec<Sums>,
    /// Of every tile of the vocabulary, per column.
    normalizers: Vec<Normalizer>,
    /// The gradient of the inputs that comes through each strip.
    parts: Vec<f32>,
    center: CenterSpace,
    columns: Columns,
}

/// Per column what the slopes need.
#[derive(Debug, Default)]
struct Columns {
    weights: Vec<f32>,
    shifts: Vec<f32>,
    logarithms: Vec<f32>,
    labels: Vec<u32>,
    own: Vec<f32>,
    losses: Vec<f64>,
}

/// Below this, the sums of the divergence leave too few digits of the normalizer: the logits themselves give it.
const LEAST_RATIO: f64 = -2.0;

/// Rows of a strip of the vocabulary.
fn strip_rows(vocabulary: usize) -> usize {
    vocabulary.div_ceil(STRIPS).next_multiple_of(TILE)
}

/// One strip on its way through the head.
struct Strip<'a> {
    rows: Range<usize>,
    logits: &'a mut [f32],
    sums: &'a mut [Sums],
    normalizers: &'a mut [Normalizer],
}

/// One strip on its way back.
struct StripSlopes<'a> {
    rows: Range<usize>,
    logits: &'a mut [f32],
    part: &'a mut [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

impl Decoder {
    /// One logit by a plain inner product.
    pub(crate) fn logit(&self, weights: &[f32], inputs: &[f32], columns: usize, column: usize, row: usize) -> f32 {
        let width = self.head_inputs();
        let matrix = &weights[self.head.weight.clone()][row * width..(row + 1) * width];
        let sum: f64 = matrix.iter().zip(inputs[column..].iter().step_by(columns)).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        let mut logit = [sum as f32];
        self.finish_logits(self.head.bias.as_ref().map(|range| &weights[range.start + row..=range.start + row]), &mut logit, 1);
        logit[0]
    }

    /// Bytes of the head's buffers, those of a center included that is not kept as logits.
    pub(crate) fn loss_bytes(&self) -> usize {
        let strips = self.vocabulary.div_ceil(strip_rows(self.vocabulary));
        let tiles = self.vocabulary.div_ceil(TILE);
        let columns =
            8 * self.vocabulary + 4 * self.head_inputs() * (3 + strips) + tiles * size_of::<Normalizer>() + strips * size_of::<Sums>();
        BLOCK * columns
    }

    /// The sum over a tile's positions, `counted` among those that count, of weight times loss, given what the head reads there in
    /// `space.inputs` `[head inputs, columns]`, zero in the columns beyond. With `gradient`, that of the head's weights is added to it and that of
    /// the inputs written to `space.slopes`. Not finite when a logit is not.
    pub(crate) fn tile_loss(
        &self,
        weights: &[f32],
        counted: Range<usize>,
        tile_weights: &[f32],
        target: Target<'_>,
        space: &mut LossSpace,
        gradient: Option<&mut [f32]>,
    ) -> f64 {
        let (width, vocabulary) = (self.head_inputs(), self.vocabulary);
        let columns = tile_weights.len().next_multiple_of(16);
        let LossSpace { inputs, by_position, slopes, logits, sums, normalizers, parts, center, columns: own } = space;
        let inputs = &inputs[..width * columns];
        own.weights.clear();
        own.weights.extend_from_slice(tile_weights);
        own.weights.resize(columns, 0.0);
        let strips = vocabulary.div_ceil(strip_rows(vocabulary));
        logits.resize(logits.len().max(vocabulary * columns), 0.0);
        let logits = &mut logits[..vocabulary * columns];
        sums.clear();
        normalizers.clear();
        let center = match target {
            Target::Center(outputs) => {
                sums.resize(strips * columns, Sums::default());
                let center = outputs.tile(counted.clone(), columns, center);
                let favorites = center.favorites.iter().zip(center.favorite_logits).enumerate();
                own.shifts.clear();
                own.shifts.extend(favorites.map(|(column, (&row, before))| self.logit(weights, inputs, columns, column, row) - before));
                Some(center)
            }
            Target::Labels(_) | Target::Drawn(_) => {
                normalizers.resize(vocabulary.div_ceil(TILE) * columns, Normalizer::default());
                None
            }
        };
        self.run_head(weights, inputs, columns, center.as_ref().map(|center| (center, &own.shifts[..])), logits, (sums, normalizers));
        match (target, &center) {
            (_, Some(center)) => own.compare(center, sums, logits),
            (Target::Labels(labels), _) => {
                own.entropies(normalizers, logits, tile_weights.len(), |column, _| labels[counted.start + column])
            }
            (Target::Drawn(draws), _) => own.entropies(normalizers, logits, tile_weights.len(), |column, parts| {
                drawn_label(parts, logits, columns, column, draws[counted.start + column])
            }),
            (Target::Center(_), None) => unreachable!("made above"),
        }
        // A position that does not count must not spoil the sum either.
        let counted = own.losses.iter().zip(tile_weights).filter(|(_, weight)| **weight != 0.0);
        let loss = counted.map(|(loss, &weight)| loss * f64::from(weight)).sum();
        let Some(gradient) = gradient else { return loss };

        by_position.resize(columns * width, 0.0);
        for (feature, row) in inputs.chunks_exact(columns).enumerate() {
            by_position[feature..].iter_mut().step_by(width).zip(row).for_each(|(target, value)| *target = *value);
        }
        parts.resize(strips * width * columns, 0.0);
        self.run_head_back(weights, by_position, (tile_weights.len(), columns), center.as_ref(), own, (logits, parts), gradient);
        slopes.resize(width * columns, 0.0);
        slopes.fill(0.0);
        for part in parts.chunks_exact(width * columns) {
            slopes.iter_mut().zip(part).for_each(|(total, slope)| *total += slope);
        }
        loss
    }

    /// The logits, and what their losses need.
    fn run_head(
        &self,
        weights: &[f32],
        inputs: &[f32],
        columns: usize,
        center: Option<(&CenterTile<'_>, &[f32])>,
        logits: &mut [f32],
        (sums, normalizers): (&mut [Sums], &mut [Normalizer]),
    ) {
        let (width, rows) = (self.head_inputs(), strip_rows(self.vocabulary));
        let matrix = &weights[self.head.weight.clone()];
        let bias = self.head.bias.as_ref().map(|range| &weights[range.clone()]);
        let (mut sums, mut normalizers) = (sums.chunks_mut(columns), normalizers.chunks_mut(rows / TILE * columns));
        let strips = logits.chunks_mut(rows * columns).enumerate().map(|(index, logits)| Strip {
            rows: index * rows..index * rows + logits.len() / columns,
            logits,
            sums: sums.next().unwrap_or_default(),
            normalizers: normalizers.next().unwrap_or_default(),
        });
        for_each(strips.collect(), |strip| {
            let mut normalizers = strip.normalizers.chunks_mut(columns);
            for (rows, logits) in tiles(strip.rows).zip(strip.logits.chunks_mut(TILE * columns)) {
                product(logits, &matrix[rows.start * width..rows.end * width], inputs, rows.len(), width, columns);
                self.finish_logits(bias.map(|bias| &bias[rows.clone()]), logits, columns);
                match center {
                    Some((center, shifts)) => {
                        let own = &center.logits[rows.start * columns..rows.end * columns];
                        divergence_sums(own, logits, columns, center.logarithms, shifts, strip.sums);
                    }
                    None => normalize_columns(logits, columns, rows.start, normalizers.next().unwrap_or_default()),
                }
            }
        });
    }

    /// From the logits to the gradients of inputs (of every strip, written) and weights (added).
    #[allow(clippy::too_many_arguments)]
    fn run_head_back(
        &self,
        weights: &[f32],
        by_position: &[f32],
        (count, columns): (usize, usize),
        center: Option<&CenterTile<'_>>,
        own: &Columns,
        (logits, parts): (&mut [f32], &mut [f32]),
        gradient: &mut [f32],
    ) {
        let (width, rows) = (self.head_inputs(), strip_rows(self.vocabulary));
        let matrix = &weights[self.head.weight.clone()];
        // The bias stands behind the weight in every layout.
        let (first, second) = gradient.split_at_mut(self.head.weight.end);
        let bias = self.head.bias.clone().map(|range| range.start - self.head.weight.end..range.end - self.head.weight.end);
        let (mut weight, mut bias) =
            (first[self.head.weight.clone()].chunks_mut(rows * width), second[bias.unwrap_or(0..0)].chunks_mut(rows));
        let mut parts = parts.chunks_mut(width * columns);
        let strips = logits.chunks_mut(rows * columns).enumerate().map(|(index, logits)| StripSlopes {
            rows: index * rows..index * rows + logits.len() / columns,
            logits,
            part: parts.next().unwrap_or_default(),
            weight: weight.next().unwrap_or_default(),
            bias: bias.next().unwrap_or_default(),
        });
        for_each(strips.collect(), |strip| {
            let mut biases = strip.bias.chunks_mut(TILE);
            let tiles = tiles(strip.rows.clone()).zip(strip.logits.chunks_mut(TILE * columns)).zip(strip.weight.chunks_mut(TILE * width));
            for ((rows, slopes), weight) in tiles {
                match center {
                    Some(center) => {
                        let logits = &center.logits[rows.start * columns..rows.end * columns];
                        divergence_slopes(slopes, logits, columns, center.logarithms, &own.shifts, &own.weights, self.logit_cap);
                    }
                    None => {
                        entropy_slopes(slopes, columns, &own.logarithms, &own.weights, self.logit_cap);
                        own.subtract_labels(slopes, rows.clone(), columns, self.logit_cap);
                    }
                }
                let left = Matrix::rows(slopes, columns);
                let sizes = Sizes { rows: rows.len(), inner: count, columns: width };
                product_strided(weight, width, left, Matrix::rows(by_position, width), sizes, true);
                if let Some(bias) = biases.next() {
                    for (bias, slopes) in bias.iter_mut().zip(slopes.chunks_exact(columns)) {
                        *bias += slopes[..count].iter().sum::<f32>();
                    }
                }
                let left = Matrix::columns(&matrix[rows.start * width..rows.end * width], width);
                let sizes = Sizes { rows: width, inner: rows.len(), columns };
                product_strided(strip.part, columns, left, Matrix::rows(slopes, columns), sizes, rows.start > strip.rows.start);
            }
        });
    }
}

/// Rows of the vocabulary in tiles.
fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(TILE).map(move |start| start..(start + TILE).min(rows.end))
}

impl Columns {
    /// Divergences, and the shifts that make `log q - log p` of the difference of the logits.
    fn compare(&mut self, center: &CenterTile<'_>, sums: &[Sums], logits: &[f32]) {
        let columns = self.weights.len();
        self.losses.clear();
        for column in 0..columns {
            let mut total = Sums::default();
            sums[column..].iter().step_by(columns).for_each(|sums| total.add(sums));
            self.losses.push(total.divergence(center.probabilities[column]));
            let ratio = total.log_ratio(center.probabilities[column]);
            if (LEAST_RATIO..f64::INFINITY).contains(&ratio) {
                self.shifts[column] += ratio as f32;
            } else {
                self.shifts[column] = (logarithm(logits, columns, column) - f64::from(center.logarithms[column])) as f32;
            }
        }
    }

    /// Cross-entropies with labels, chosen from a column's normalizers of all tiles of the vocabulary; 0 beyond `count`.
    fn entropies(&mut self, normalizers: &[Normalizer], logits: &[f32], count: usize, label: impl Fn(usize, &[Normalizer]) -> u32) {
        let columns = self.weights.len();
        let Self { logarithms, labels, own, losses, .. } = self;
        [&mut *logarithms, &mut *own].into_iter().for_each(Vec::clear);
        labels.clear();
        losses.clear();
        let mut parts = Vec::with_capacity(normalizers.len() / columns);
        for column in 0..columns {
            parts.clear();
            parts.extend(normalizers[column..].iter().step_by(columns).copied());
            let mut total = Normalizer::default();
            parts.iter().for_each(|part| total.add(part));
            let logarithm = total.logarithm();
            let label = if column < count { label(column, &parts) } else { 0 };
            let logit = logits[label as usize * columns + column];
            logarithms.push(logarithm as f32);
            labels.push(label);
            own.push(logit);
            losses.push(logarithm - f64::from(logit));
        }
    }

    /// Of the slopes of some rows of the vocabulary, the labels' own entries.
    fn subtract_labels(&self, slopes: &mut [f32], rows: Range<usize>, columns: usize, cap: Option<f32>) {
        for (column, (&label, logit)) in self.labels.iter().zip(&self.own).enumerate() {
            if rows.contains(&(label as usize)) {
                let slope = cap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
                slopes[(label as usize - rows.start) * columns + column] -= self.weights[column] * slope;
            }
        }
    }
}

/// `log sum exp` of a column.
fn logarithm(logits: &[f32], columns: usize, column: usize) -> f64 {
    let values = || logits[column..].iter().step_by(columns).map(|&logit| f64::from(logit));
    let largest = values().fold(f64::NEG_INFINITY, f64::max);
    largest + values().map(|logit| (logit - largest).exp()).sum::<f64>().ln()
}

/// The label of a column for a number in `[0, 1)`, given the normalizers of the tiles of the vocabulary.
fn drawn_label(parts: &[Normalizer], logits: &[f32], columns: usize, column: usize, draw: f64) -> u32 {
    let mut total = Normalizer::default();
    parts.iter().for_each(|part| total.add(part));
    let logarithm = total.logarithm();
    let vocabulary = logits.len() / columns;
    let mut sum = 0.0;
    for (tile, part) in parts.iter().enumerate() {
        let share = part.sum * (f64::from(part.largest) - logarithm).exp();
        if sum + share > draw {
            for row in tile * TILE..((tile + 1) * TILE).min(vocabulary) {
                sum += (f64::from(logits[row * columns + column]) - logarithm).exp();
                if sum > draw {
                    return row as u32;
                }
            }
        } else {
            sum += share;
        }
    }
    // Rounding: the sum of all ended just below the number.
    (vocabulary - 1) as u32
}
