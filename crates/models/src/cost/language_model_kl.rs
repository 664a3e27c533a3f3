//! Mean KL divergence of a language model's next-token distributions from those of the center.
//!
//! The body runs over blocks of positions ([`crate::arch`]); output head, log-softmax and divergence run over tiles of vocabulary x
//! positions, so that no array of tokens x vocabulary is ever built for the perturbed network. The center's part is computed once.

mod center;
mod gradient;
mod rotated;

use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use basin_volume::center::Center;
use basin_volume::direction::Direction;
use basin_volume::objective::{Cost, CostByPart, Objective, ObjectiveError, RayPoint};
use basin_volume_data::tokens::TokenSequences;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::CostError;
use super::noise::Noise;
use super::pool::{give_back, take};
use crate::arch::decoder::{BLOCK, Batch, TILE, Workspace, head_blocks};
use crate::arch::{GradientSpace, LanguageModel};
use crate::nn::vocabulary::{Normalizer, Sums, center_sums, divergence_sums, normalize_columns};
use crate::parameters::Moving;
use crate::products::product;

pub use rotated::RotatedLanguageModelKl;

/// Rows of the vocabulary that one task sums over; a multiple of [`TILE`].
const CHUNK: usize = 16 * TILE;

/// Sequences go through the network together up to this many positions: bounds the activations.
const GROUP: usize = 2048;

/// What is kept of the center's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CenterOutputs {
    /// The logits, 4 bytes per position and vocabulary entry: the fastest.
    Logits,
    /// The final hidden states, 4 bytes per position and hidden unit. The logits are computed again, tile by tile, at every evaluation.
    States,
}

/// `C(w) = mean over the kept positions of KL(p_c(.|x) || p_w(.|x))`, in nats, for a causal language model.
///
/// Forward passes are `f32`; per position the sums over the vocabulary are those of `crate::nn::vocabulary` (cancellation-free, `f64`
/// across tiles), and positions are summed in `f64` in order. The center's logits come from the same code in the same tiles, so `C(c)` is
/// exactly zero. Positions that do not count are never multiplied by the head.
///
/// # Resolution
/// See [`Noise`], which is measured once, at the beginning of the first sequence.
///
/// # Threads
/// On a pool of one thread an evaluation is sequential; else blocks of positions (body) and chunks of vocabulary x positions (head) run in
/// parallel. Blocks and chunks are fixed and summed in order: the bits are the same.
#[derive(Debug)]
pub struct LanguageModelKl {
    pub(super) model: LanguageModel,
    pub(super) moving: Moving,
    pub(super) tokens: TokenSequences,
    groups: Vec<Group>,
    kept: usize,
    outputs: CenterOutputs,
    noise: Noise,
    workspaces: Mutex<Vec<Evaluation>>,
    tiles: Mutex<Vec<Tiles>>,
    spaces: Mutex<Vec<gradient::Space>>,
    gradients: Mutex<Vec<GradientSpace>>,
    /// All sequences as the gradient takes them; made for the first one.
    prepared: OnceLock<Vec<gradient::Prepared>>,
}

/// Sequences that go through the network together.
#[derive(Debug)]
struct Group {
    batch: Batch,
    heads: Vec<HeadBlock>,
    /// Number of its kept positions, and where they begin among those of all groups.
    kept: Range<usize>,
}

/// Up to a block of kept positions with the center's outputs.
#[derive(Debug)]
struct HeadBlock {
    /// Positions in the batch.
    positions: Vec<usize>,
    /// Sequence of each position, counted over all groups.
    sequences: Vec<usize>,
    columns: usize,
    /// Per column: the center's most probable entry, and its logit by a plain inner product.
    favorites: Vec<usize>,
    favorite_logits: Vec<f32>,
    logarithms: Vec<f32>,
    /// Sums of the probabilities, 1 but for rounding.
    probabilities: Vec<f64>,
    /// Logits `[vocabulary, columns]`, or states `[head inputs, columns]`.
    center: Vec<f32>,
}

/// What one evaluation needs.
#[derive(Debug, Default)]
struct Evaluation {
    weights: Vec<f32>,
    body: Workspace,
    /// `[head inputs, columns]` of every head block of a group.
    inputs: Vec<Vec<f32>>,
    shifts: Vec<Vec<f32>>,
    /// Per head block and chunk, per column.
    sums: Vec<Vec<Sums>>,
    /// Divergence of the kept positions of all groups.
    positions: Vec<f64>,
}

/// What one task of the head needs.
#[derive(Debug, Default)]
struct Tiles {
    logits: Vec<f32>,
    center: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl LanguageModelKl {
    /// The cost of `model` around a center over the kept positions of `tokens`.
    ///
    /// # Errors
    /// When the number of weights differs, a sequence does not fit the model, or the center's own logits are not finite.
    pub fn new(
        model: &LanguageModel,
        moving: impl Into<Moving>,
        tokens: &TokenSequences,
        outputs: CenterOutputs,
    ) -> Result<Self, CostError> {
        let moving = moving.into();
        let lengths = checked_lengths(model, &moving, tokens)?;
        let expected = model.dimension();
        let mut evaluation = Evaluation { weights: vec![0.0; moving.center().dimension()], ..Evaluation::default() };
        moving.center().fill(0..expected, &mut evaluation.weights);
        let noise = Noise::measure(model, &mut evaluation.weights, tokens.sequence(0).ids, |weights, ids| {
            // The ids have been checked.
            model.logits(weights, ids, &[ids.len()]).unwrap_or_default().into_iter().map(f64::from).collect()
        });
        // The measurement moves the weights.
        moving.center().fill(0..expected, &mut evaluation.weights);
        let mut cost = Self {
            model: model.clone(),
            moving,
            tokens: tokens.clone(),
            groups: Vec::new(),
            kept: tokens.kept_count(),
            outputs,
            noise,
            workspaces: Mutex::default(),
            tiles: Mutex::default(),
            spaces: Mutex::default(),
            gradients: Mutex::default(),
            prepared: OnceLock::new(),
        };
        for sequences in grouped(&lengths) {
            let group = cost.group(sequences, &mut evaluation)?;
            cost.groups.push(group);
        }
        cost.workspaces = Mutex::new(vec![evaluation]);
        Ok(cost)
    }

    /// Bytes of what is kept of the center's outputs.
    #[must_use]
    pub(crate) fn center_bytes(model: &LanguageModel, tokens: &TokenSequences, outputs: CenterOutputs) -> u64 {
        let decoder = model.decoder();
        // Padding of the last block of every group, and the logits of one block while they are reduced to states.
        let columns = (tokens.kept_count() + 16 * grouped(&lengths(tokens)).len()) as u64;
        let (states, block) = (decoder.head_inputs() as u64, (decoder.vocabulary * BLOCK) as u64);
        4 * match outputs {
            CenterOutputs::Logits => columns * decoder.vocabulary as u64,
            CenterOutputs::States => columns * states + block,
        }
    }

    /// Bytes of one evaluation beside the weights, on a pool of this many threads.
    #[must_use]
    pub(crate) fn activation_bytes(model: &LanguageModel, tokens: &TokenSequences, threads: usize) -> u64 {
        let decoder = model.decoder();
        let lengths = lengths(tokens);
        let most = grouped(&lengths).into_iter().map(|group| lengths[group].iter().sum::<usize>()).max().unwrap_or(0);
        let columns = most.next_multiple_of(BLOCK);
        let body = model.activation_bytes(columns, tokens.longest(), threads);
        let chunks = decoder.vocabulary.div_ceil(CHUNK);
        let head = 4 * decoder.head_inputs() * columns + size_of::<Sums>() * chunks * columns;
        let tiles = 4 * threads * TILE * (2 * BLOCK + decoder.head_inputs());
        (body + head + tiles + 8 * tokens.kept_count()) as u64
    }

    /// The network.
    #[must_use]
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// The center, and which of its weights move.
    #[must_use]
    pub fn moving(&self) -> &Moving {
        &self.moving
    }

    /// Number of positions the cost averages over.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// What is kept of the center's outputs.
    #[must_use]
    pub fn outputs(&self) -> CenterOutputs {
        self.outputs
    }

    /// The rounding noise as measured at construction.
    #[must_use]
    pub fn noise(&self) -> Noise {
        self.noise
    }

    /// The cost of the given weights (all of the network's), as [`Objective::cost`] computes it.
    ///
    /// # Panics
    /// If `weights` has another length than the network.
    #[must_use]
    pub fn cost_of_weights(&self, weights: &[f32]) -> Cost {
        assert_eq!(weights.len(), self.moving.center().dimension(), "as many weights as the network has");
        let mut evaluation = take(&self.workspaces);
        let own = std::mem::take(&mut evaluation.weights);
        self.evaluate(weights, &mut evaluation);
        let cost = self.mean(&evaluation.positions);
        evaluation.weights = own;
        give_back(&self.workspaces, evaluation);
        cost
    }

    /// The forward pass up to what the head reads, for benchmarks; returns the sum of one number per group.
    #[doc(hidden)]
    #[must_use]
    pub fn body_only(&self, weights: &[f32]) -> f64 {
        let mut evaluation = take(&self.workspaces);
        let decoder = self.model.decoder();
        let states = |group: &Group, body: &mut Workspace| f64::from(decoder.forward(weights, &group.batch, body)[0]);
        let sum = self.groups.iter().map(|group| states(group, &mut evaluation.body)).sum();
        give_back(&self.workspaces, evaluation);
        sum
    }

    /// One group: its batch, and the center's outputs at the weights in `evaluation`.
    fn group(&self, sequences: Range<usize>, evaluation: &mut Evaluation) -> Result<Group, CostError> {
        let (decoder, tokens) = (self.model.decoder(), &self.tokens);
        let first = tokens.offsets()[sequences.start];
        let places = first..tokens.offsets()[sequences.end];
        let lengths: Vec<usize> = sequences.clone().map(|sequence| tokens.sequence(sequence).ids.len()).collect();
        let batch = Batch::new(decoder, &tokens.ids()[places.clone()], &lengths);
        let before = self.groups.last().map_or(0, |group| group.kept.end);
        let kept: Vec<usize> = places.filter(|&position| tokens.kept()[position]).collect();
        let states = decoder.forward(&evaluation.weights, &batch, &mut evaluation.body);
        let weights = &evaluation.weights;
        let mut heads = Vec::new();
        for (positions, columns) in head_blocks(&kept) {
            let sequence_of = |position: &usize| tokens.offsets().partition_point(|offset| offset <= position) - 1;
            let mut head = HeadBlock {
                sequences: positions.iter().map(sequence_of).collect(),
                positions: positions.iter().map(|position| position - first).collect(),
                columns,
                favorites: Vec::new(),
                favorite_logits: Vec::new(),
                logarithms: Vec::new(),
                probabilities: Vec::new(),
                center: Vec::new(),
            };
            let mut inputs = vec![0.0; decoder.head_inputs() * columns];
            batch.gather(states, decoder.head_inputs(), &head.positions, columns, &mut inputs);
            self.measure_center(&mut head, weights, inputs);
            if let Some(column) = (0..head.positions.len()).find(|&column| !head.logarithms[column].is_finite()) {
                let (sequence, position) = (head.sequences[column], positions[column] - tokens.offsets()[head.sequences[column]]);
                return Err(CostError::CenterTokens { dataset: tokens.name().to_owned(), sequence: sequence + 1, position: position + 1 });
            }
            heads.push(head);
        }
        Ok(Group { batch, heads, kept: before..before + kept.len() })
    }

    /// Fills in the center's part of a head block from what the head reads there.
    fn measure_center(&self, head: &mut HeadBlock, weights: &[f32], inputs: Vec<f32>) {
        let decoder = self.model.decoder();
        let columns = head.columns;
        let vocabulary = decoder.vocabulary;
        let mut logits = vec![0.0f32; vocabulary * columns];
        let matrix = &weights[decoder.head.weight.clone()];
        let bias = decoder.head.bias.as_ref().map(|range| &weights[range.clone()]);
        // Tiles as in every later evaluation: other shapes may round otherwise.
        let rows: Vec<Range<usize>> = tiles(0..vocabulary).collect();
        let parts = logits.chunks_mut(TILE * columns).zip(&rows).collect::<Vec<_>>();
        parts.into_par_iter().for_each(|(tile, rows)| {
            let width = decoder.head_inputs();
            product(tile, &matrix[rows.start * width..rows.end * width], &inputs, rows.len(), width, columns);
            decoder.finish_logits(bias.map(|bias| &bias[rows.clone()]), tile, columns);
        });
        let mut normalizers = vec![Normalizer::default(); columns];
        for (tile, rows) in logits.chunks(TILE * columns).zip(&rows) {
            normalize_columns(tile, columns, rows.start, &mut normalizers);
        }
        head.logarithms = normalizers.iter().map(|normalizer| normalizer.logarithm() as f32).collect();
        head.favorites = normalizers.iter().map(|normalizer| normalizer.row).collect();
        head.favorite_logits =
            (0..columns).map(|column| decoder.logit(weights, &inputs, columns, column, head.favorites[column])).collect();
        head.probabilities = vec![0.0; columns];
        center_sums(&logits, columns, &head.logarithms, &mut head.probabilities);
        head.center = match self.outputs {
            CenterOutputs::Logits => logits,
            CenterOutputs::States => inputs,
        };
    }

    /// The divergence of every kept position, into `evaluation.positions`.
    fn evaluate(&self, weights: &[f32], evaluation: &mut Evaluation) {
        evaluation.positions.resize(self.kept, 0.0);
        for group in &self.groups {
            self.evaluate_group(group, weights, evaluation);
        }
    }

    fn evaluate_group(&self, group: &Group, weights: &[f32], evaluation: &mut Evaluation) {
        let decoder = self.model.decoder();
        let Evaluation { body, inputs, shifts, sums, positions, .. } = evaluation;
        let states = decoder.forward(weights, &group.batch, body);
        let width = decoder.head_inputs();
        let count = group.heads.len();
        inputs.resize(inputs.len().max(count), Vec::new());
        shifts.resize(shifts.len().max(count), Vec::new());
        let gather =
            |((head, inputs), shifts): ((&HeadBlock, &mut Vec<f32>), &mut Vec<f32>)| {
                inputs.resize(width * head.columns, 0.0);
                group.batch.gather(states, width, &head.positions, head.columns, inputs);
                shifts.clear();
                shifts.extend((0..head.columns).map(|column| {
                    decoder.logit(weights, inputs, head.columns, column, head.favorites[column]) - head.favorite_logits[column]
                }));
            };
        let parallel = rayon::current_num_threads() > 1;
        if parallel {
            (group.heads.par_iter()).zip(inputs[..count].par_iter_mut()).zip(shifts[..count].par_iter_mut()).for_each(gather);
        } else {
            group.heads.iter().zip(inputs[..count].iter_mut()).zip(shifts[..count].iter_mut()).for_each(gather);
        }
        let chunks = decoder.vocabulary.div_ceil(CHUNK);
        sums.resize(sums.len().max(count * chunks), Vec::new());
        let work = |(index, sums): (usize, &mut Vec<Sums>)| {
            let (block, chunk) = (index / chunks, index % chunks);
            let head = &group.heads[block];
            sums.clear();
            sums.resize(head.columns, Sums::default());
            // Taken and given back within a task, never held while another one can be stolen.
            let mut tiles = take(&self.tiles);
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(decoder.vocabulary);
            self.sum_chunk(head, rows, weights, &inputs[block], &shifts[block], &mut tiles, sums);
            give_back(&self.tiles, tiles);
        };
        if parallel {
            sums[..count * chunks].par_iter_mut().enumerate().for_each(work);
        } else {
            sums[..count * chunks].iter_mut().enumerate().for_each(work);
        }
        let mut place = positions[group.kept.clone()].iter_mut();
        for (block, head) in group.heads.iter().enumerate() {
            for (column, place) in (0..head.positions.len()).zip(&mut place) {
                let mut total = Sums::default();
                sums[block * chunks..(block + 1) * chunks].iter().for_each(|sums| total.add(&sums[column]));
                *place = total.divergence(head.probabilities[column]);
            }
        }
    }

    /// Adds the sums of some rows of the vocabulary.
    #[allow(clippy::too_many_arguments)]
    fn sum_chunk(
        &self,
        head: &HeadBlock,
        rows: Range<usize>,
        weights: &[f32],
        inputs: &[f32],
        shifts: &[f32],
        tiles: &mut Tiles,
        sums: &mut [Sums],
    ) {
        let decoder = self.model.decoder();
        let (width, columns) = (decoder.head_inputs(), head.columns);
        let matrix = &weights[decoder.head.weight.clone()];
        let bias = decoder.head.bias.as_ref().map(|range| &weights[range.clone()]);
        tiles.logits.resize(tiles.logits.len().max(TILE * columns), 0.0);
        for rows in self::tiles(rows) {
            let logits = &mut tiles.logits[..rows.len() * columns];
            product(logits, &matrix[rows.start * width..rows.end * width], inputs, rows.len(), width, columns);
            decoder.finish_logits(bias.map(|bias| &bias[rows.clone()]), logits, columns);
            let center = match self.outputs {
                CenterOutputs::Logits => &head.center[rows.start * columns..rows.end * columns],
                CenterOutputs::States => {
                    let start = decoder.head.weight.start;
                    let own = self.moving.center();
                    let matrix = own.slice(start + rows.start * width..start + rows.end * width, &mut tiles.weights);
                    tiles.center.resize(tiles.center.len().max(TILE * columns), 0.0);
                    let center = &mut tiles.center[..rows.len() * columns];
                    product(center, matrix, &head.center, rows.len(), width, columns);
                    let bias = decoder.head.bias.as_ref().map(|range| range.start + rows.start..range.start + rows.end);
                    let bias = bias.map(|range| own.slice(range, &mut tiles.bias));
                    decoder.finish_logits(bias, center, columns);
                    &*center
                }
            };
            divergence_sums(center, logits, columns, &head.logarithms, shifts, sums);
        }
    }

    fn mean(&self, positions: &[f64]) -> Cost {
        let nats = positions.iter().sum::<f64>() / self.kept as f64;
        Cost { nats, resolution: self.noise.resolution(nats, self.kept) }
    }

    /// Evaluates where `write` moves the weights to, and hands the kept positions on.
    fn at<T>(&self, write: impl FnOnce(&mut [f32]), read: impl FnOnce(&[f64]) -> T) -> T {
        let mut evaluation = take(&self.workspaces);
        let mut weights = std::mem::take(&mut evaluation.weights);
        self.moving.prepare(&mut weights);
        write(&mut weights);
        self.evaluate(&weights, &mut evaluation);
        evaluation.weights = weights;
        let result = read(&evaluation.positions);
        give_back(&self.workspaces, evaluation);
        result
    }
}

impl Center for LanguageModelKl {
    fn dimension(&self) -> usize {
        self.moving.dimension()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        self.moving.fill(range, out);
    }
}

impl Objective for LanguageModelKl {
    fn cost(&self, direction: &Direction, point: RayPoint) -> Result<Cost, ObjectiveError> {
        Ok(self.at(|weights| self.moving.write_point(direction, point, weights), |positions| self.mean(positions)))
    }

    /// The mean over the kept positions of every sequence; `None` for a sequence without any.
    fn cost_by_part(&self, direction: &Direction, point: RayPoint) -> Result<Option<CostByPart>, ObjectiveError> {
        let write = |weights: &mut [f32]| self.moving.write_point(direction, point, weights);
        Ok(Some(self.at(write, |positions| {
            let heads = self.groups.iter().flat_map(|group| &group.heads);
            let parts = means(self.tokens.count(), positions, heads.flat_map(|head| &head.sequences), self.noise);
            CostByPart { whole: self.mean(positions), parts }
        })))
    }
}

/// The mean of every sequence, with the resolution that it has alone; `None` for a sequence without a kept position.
pub(crate) fn means<'a>(
    sequences: usize,
    positions: &[f64],
    sequence_of: impl Iterator<Item = &'a usize>,
    noise: Noise,
) -> Vec<Option<Cost>> {
    let mut sums = vec![(0.0, 0usize); sequences];
    for (position, &sequence) in positions.iter().zip(sequence_of) {
        sums[sequence].0 += position;
        sums[sequence].1 += 1;
    }
    let mean = |(sum, count): (f64, usize)| {
        let nats = sum / count as f64;
        (count > 0).then(|| Cost { nats, resolution: noise.resolution(nats, count) })
    };
    sums.into_iter().map(mean).collect()
}

/// The lengths of the sequences, once center and sequences have been found to fit the model.
pub(crate) fn checked_lengths(model: &LanguageModel, moving: &Moving, tokens: &TokenSequences) -> Result<Vec<usize>, CostError> {
    let (found, expected) = (moving.center().dimension(), model.dimension());
    if found != expected {
        return Err(CostError::Dimension { found, expected });
    }
    let lengths = lengths(tokens);
    model.check(tokens.ids(), &lengths).map_err(|source| CostError::Tokens { dataset: tokens.name().to_owned(), source })?;
    Ok(lengths)
}

fn lengths(tokens: &TokenSequences) -> Vec<usize> {
    tokens.iter().map(|sequence| sequence.ids.len()).collect()
}

/// Rows of the vocabulary in tiles.
fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(TILE).map(move |start| start..(start + TILE).min(rows.end))
}

/// Ranges of sequences that go through the network together: as many as stay under [`GROUP`] positions, at least one.
pub(crate) fn grouped(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut positions = 0;
    for (index, &length) in lengths.iter().enumerate() {
        match groups.last_mut() {
            Some(last) if positions + length <= GROUP => last.end += 1,
            _ => {
                groups.push(index..index + 1);
                positions = 0;
            }
        }
        positions += length;
    }
    groups
}

#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
pub(crate) mod tests;
