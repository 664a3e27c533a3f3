//! Losses of a language model and their gradients with respect to all its weights, on slices.

use std::ops::Range;

use super::{LanguageModel, TokenError};
use crate::arch::decoder::Target as HeadTarget;
use crate::arch::decoder::{
    BLOCK, Batch, CenterSource, Given, Keep, LossSpace, Pass, Plan, ReflectedSpace, ReverseSpace, Tape, Watcher, head_blocks,
};

/// Positions that go through the network together at most, where what the reverse pass keeps of them fits.
const TOGETHER: usize = 2048;

/// Bytes that the reverse pass may keep of the activations, for small networks; half of what the weights take, for large ones.
const KEPT: usize = 256 << 20;

/// Bytes of what is known of a position: ids, places, weights, the token that follows.
const POSITION_BYTES: usize = 64;

/// Why a gradient could not be computed. Every message is one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// The model refuses the tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Something has another length than tokens or model ask for.
    #[error("{what} has {found} entries: expected {expected}")]
    Length {
        /// What it is.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What is needed.
        expected: usize,
    },
    /// An operation without a gradient stands between a tensor and the loss.
    #[error("no gradient reaches the tensor {name}: an operation on its way has none")]
    Cut {
        /// The tensor's name.
        name: String,
    },
    /// An accelerator failed, or lacks memory.
    #[error("the device could not compute a gradient: {problem}")]
    Device {
        /// What it said.
        problem: String,
    },
}

/// Sequences of tokens, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBatch<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Lengths of the sequences.
    pub lengths: &'a [usize],
    /// Weight of every position in the loss; 0 leaves it out.
    pub weights: &'a [f32],
}

/// What the outputs are compared with.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Cross-entropy with one label per position (nats). Labels of positions of weight 0 only have to be in the vocabulary.
    Labels(&'a [u32]),
    /// Cross-entropy (nats) with labels drawn from the model's own outputs: a number in `[0, 1)` per position, and the label is the first
    /// at which the running sum of the probabilities exceeds it.
    Drawn(&'a [f64]),
    /// `KL(center || model)` (nats) from the outputs of the same model with other weights, at the positions whose weight is not 0.
    Center(&'a dyn CenterSource),
}

/// Sequences with everything about their pass through the network that does not depend on the weights.
#[derive(Debug)]
pub(crate) struct Sequences {
    batch: Batch,
    /// The positions whose weight is not 0: those alone are multiplied by the head.
    counted: Vec<usize>,
    /// Their weights.
    weights: Vec<f32>,
    positions: usize,
    keep: Keep,
}

/// Rows that are reflected on the way through the network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) given: Given,
}

/// Buffers of a gradient; used again from one to the next.
#[derive(Debug, Default)]
pub(crate) struct GradientSpace {
    reverse: ReverseSpace,
    loss: LossSpace,
    /// The gradient of what the head reads, block after block.
    outputs: Vec<f32>,
}

impl LanguageModel {
    /// Bytes of activations that a gradient may keep.
    fn kept_bytes(&self) -> usize {
        KEPT.max(2 * self.dimension())
    }

    /// How many positions should go through a gradient together: enough for fast products, few enough that what is kept of them is small.
    pub(crate) fn positions_together(&self) -> usize {
        let block = Tape::bytes(&self.decoder, BLOCK, Keep::Everything);
        (self.kept_bytes() / block * BLOCK).clamp(BLOCK, TOGETHER)
    }

    /// Whether a gradient over so many positions keeps everything.
    fn keep(&self, positions: usize) -> Keep {
        if Tape::bytes(&self.decoder, positions, Keep::Everything) <= self.kept_bytes() { Keep::Everything } else { Keep::Inputs }
    }

    /// Bytes of a gradient's buffers over sequences of at most `longest` positions, on `threads` threads, and of what is known of all sequences
    /// without the weights.
    pub(crate) fn gradient_bytes(&self, positions: usize, longest: usize, threads: usize) -> usize {
        let together = positions.min(self.positions_together().max(longest));
        let turns: usize = self.decoder.rotaries.iter().map(|rotary| 4 * rotary.width).sum();
        let sequences = positions * (POSITION_BYTES + turns);
        ReverseSpace::bytes(&self.decoder, together, longest, threads, self.keep(together)) + self.decoder.loss_bytes() + sequences
    }

    /// Prepares sequences for [`LanguageModel::loss`] and its gradient.
    ///
    /// # Errors
    /// As [`LanguageModel::check`]; when there is not one weight for each position.
    pub(crate) fn sequences(&self, tokens: TokenBatch<'_>) -> Result<Sequences, GradientError> {
        self.check(tokens.ids, tokens.lengths)?;
        let positions = tokens.ids.len();
        fits("the list of weights", tokens.weights.len(), positions)?;
        let counted: Vec<usize> = (0..positions).filter(|&position| tokens.weights[position] != 0.0).collect();
        let weights = counted.iter().map(|&position| tokens.weights[position]).collect();
        let batch = Batch::new(&self.decoder, tokens.ids, tokens.lengths);
        Ok(Sequences { batch, counted, weights, positions, keep: self.keep(positions) })
    }

    /// The sum over positions of weight times loss, in nats (`f64`), at weights that are flat in the layout's order. Not finite when a logit
    /// is not.
    ///
    /// # Errors
    /// When the target has another length than the tokens, or a label is not in the vocabulary.
    ///
    /// # Panics
    /// If there are not as many weights as the layout says.
    pub(crate) fn loss(
        &self,
        weights: &[f32],
        sequences: &Sequences,
        target: Target<'_>,
        space: &mut GradientSpace,
    ) -> Result<f64, GradientError> {
        self.checked(weights, sequences, target)?;
        let GradientSpace { reverse, loss, .. } = space;
        let outputs = reverse.forward(&self.decoder, weights, &sequences.batch);
        Ok(self.head(weights, sequences, target, outputs, loss, None))
    }

    /// [`LanguageModel::loss`], whose gradient is added to `gradient`, flat in the layout's order. The watcher sees every dense layer but the head.
    ///
    /// Products and sums are `f32`, but for the sums of norms, biases and losses, which are `f64`. The logits of at most 128 positions exist at
    /// once; the activations of all positions do if they are few enough, else the inputs of the layers do, and every layer is computed twice.
    ///
    /// # Errors
    /// As [`LanguageModel::loss`].
    ///
    /// # Panics
    /// If there are not as many weights, and numbers in the gradient, as the layout says.
    pub(crate) fn add_gradient(
        &self,
        weights: &[f32],
        sequences: &Sequences,
        target: Target<'_>,
        watcher: Option<&Watcher<'_>>,
        space: &mut GradientSpace,
        gradient: &mut [f32],
    ) -> Result<f64, GradientError> {
        assert_eq!(gradient.len(), self.layout.dimension(), "one gradient per weight");
        self.checked(weights, sequences, target)?;
        let GradientSpace { reverse, loss, outputs: slopes } = space;
        let pass = Pass { weights, batch: &sequences.batch, keep: sequences.keep, watcher, mirror: None };
        let outputs = self.decoder.forward_kept(pass, reverse);
        slopes.clear();
        slopes.resize(outputs.len(), 0.0);
        let sum = self.head(weights, sequences, target, outputs, loss, Some((slopes, gradient)));
        self.decoder.add_gradient(pass, slopes, reverse, gradient);
        Ok(sum)
    }

    /// Which rows are reflected in passes over these sequences, by the weights that the axes are to suit.
    pub(crate) fn reflection_plan(&self, weights: &[f32], sequences: &Sequences) -> Plan {
        self.decoder.reflection_plan(weights, &sequences.batch)
    }

    /// Whether so many positions can be passed through with reflections: what is kept of their activations is then everything, and has to be no more
    /// than [`LanguageModel::add_gradient`] keeps.
    pub(crate) fn can_reflect(&self, positions: usize) -> bool {
        self.keep(positions) == Keep::Everything
    }

    /// Bytes of the buffers of [`LanguageModel::reflected_loss`].
    pub(crate) fn reflected_bytes(&self, positions: usize, longest: usize, threads: usize) -> usize {
        let reverse = ReverseSpace::bytes(&self.decoder, positions, longest, threads, Keep::Everything);
        reverse + self.decoder.loss_bytes() + 4 * self.dimension()
    }

    /// Leaves the coordinates of weights, or the weights of coordinates, in `own.rows`.
    pub(crate) fn reflect(&self, rows: Rows<'_>, sequences: &Sequences, plan: &Plan, space: &mut GradientSpace, own: &mut ReflectedSpace) {
        assert_eq!(rows.values.len(), self.layout.dimension(), "as many weights as the layout says");
        self.decoder.forward_reflected((rows.values, rows.given), &sequences.batch, plan, &mut space.reverse, own);
    }

    /// [`LanguageModel::loss`] in coordinates; their gradient is written where it is wanted.
    ///
    /// # Errors
    /// As [`LanguageModel::loss`].
    ///
    /// # Panics
    /// As [`LanguageModel::add_gradient`].
    pub(crate) fn reflected_loss(
        &self,
        coordinates: &[f32],
        sequences: &Sequences,
        target: Target<'_>,
        plan: &Plan,
        (space, own): (&mut GradientSpace, &mut ReflectedSpace),
        gradient: Option<&mut [f32]>,
    ) -> Result<f64, GradientError> {
        self.checked(coordinates, sequences, target)?;
        let GradientSpace { reverse, loss, outputs: slopes } = space;
        let batch = &sequences.batch;
        let outputs = self.decoder.forward_reflected((coordinates, Given::Coordinates), batch, plan, reverse, own);
        let Some(gradient) = gradient else { return Ok(self.head(&own.rows, sequences, target, outputs, loss, None)) };
        assert_eq!(gradient.len(), self.layout.dimension(), "one gradient per weight");
        gradient.fill(0.0);
        slopes.clear();
        slopes.resize(outputs.len(), 0.0);
        let sum = self.head(&own.rows, sequences, target, outputs, loss, Some((slopes, gradient)));
        self.mirror_gradient(coordinates, batch, plan, own, (slopes, reverse), gradient);
        Ok(sum)
    }

    /// Makes the gradient of a function of weights that of the coordinates, which [`LanguageModel::reflect`] has just made these weights of, with the
    /// same buffers.
    pub(crate) fn pull_back(
        &self,
        coordinates: &[f32],
        sequences: &Sequences,
        plan: &Plan,
        (space, own): (&mut GradientSpace, &ReflectedSpace),
        gradient: &mut [f32],
    ) {
        assert_eq!(gradient.len(), self.layout.dimension(), "one gradient per weight");
        let GradientSpace { reverse, outputs: slopes, .. } = space;
        let batch = &sequences.batch;
        // Nothing but the means has slopes.
        slopes.clear();
        slopes.resize(self.decoder.head_inputs() * batch.padded(), 0.0);
        self.mirror_gradient(coordinates, batch, plan, own, (slopes, reverse), gradient);
    }

    /// Makes a gradient of weights that of the coordinates they come from, and adds what the slopes of what the head reads give.
    fn mirror_gradient(
        &self,
        coordinates: &[f32],
        batch: &Batch,
        plan: &Plan,
        own: &ReflectedSpace,
        (slopes, reverse): (&mut [f32], &mut ReverseSpace),
        gradient: &mut [f32],
    ) {
        let mirror = own.mirror(plan, coordinates, batch);
        let pass = Pass { weights: &own.rows, batch, keep: Keep::Everything, watcher: None, mirror: Some(&mirror) };
        self.decoder.add_gradient(pass, slopes, reverse, gradient);
    }

    /// The loss, tile by tile; with gradients, that of the head's weights is added and that of what it reads written where positions count.
    fn head(
        &self,
        weights: &[f32],
        sequences: &Sequences,
        target: Target<'_>,
        outputs: &[f32],
        space: &mut LossSpace,
        mut gradients: Option<(&mut Vec<f32>, &mut [f32])>,
    ) -> f64 {
        let (decoder, width) = (&self.decoder, self.decoder.head_inputs());
        let counted = &sequences.counted;
        let (labels, draws);
        let target = match target {
            Target::Labels(all) => {
                labels = counted.iter().map(|&position| all[position]).collect::<Vec<_>>();
                HeadTarget::Labels(&labels)
            }
            Target::Drawn(all) => {
                draws = counted.iter().map(|&position| all[position]).collect::<Vec<_>>();
                HeadTarget::Drawn(&draws)
            }
            Target::Center(center) => HeadTarget::Center(center),
        };
        let mut sum = 0.0;
        for (index, (positions, columns)) in head_blocks(counted).enumerate() {
            let tile: Range<usize> = index * BLOCK..index * BLOCK + positions.len();
            space.inputs.resize(width * columns, 0.0);
            sequences.batch.gather(outputs, width, positions, columns, &mut space.inputs);
            let own = gradients.as_mut().map(|(_, gradient)| &mut **gradient);
            sum += decoder.tile_loss(weights, tile.clone(), &sequences.weights[tile], target, space, own);
            if let Some((slopes, _)) = &mut gradients {
                sequences.batch.scatter(&space.slopes, width, positions, columns, slopes);
            }
        }
        sum
    }

    fn checked(&self, weights: &[f32], sequences: &Sequences, target: Target<'_>) -> Result<(), GradientError> {
        assert_eq!(weights.len(), self.layout.dimension(), "as many weights as the layout says");
        let positions = sequences.positions;
        match target {
            Target::Labels(labels) => self.check_labels(labels, positions),
            Target::Drawn(draws) => fits("the list of draws", draws.len(), positions),
            Target::Center(_) => Ok(()),
        }
    }

    /// Refuses labels that are not in the vocabulary, or not one per position.
    pub(crate) fn check_labels(&self, labels: &[u32], positions: usize) -> Result<(), GradientError> {
        fits("the list of labels", labels.len(), positions)?;
        let vocabulary = self.vocabulary();
        match labels.iter().position(|&label| label as usize >= vocabulary) {
            Some(position) => Err(TokenError::Vocabulary { id: labels[position], position, vocabulary }.into()),
            None => Ok(()),
        }
    }
}

/// Refuses a list that has not one entry per position, or whatever it should have one for.
pub(crate) fn fits(what: &'static str, found: usize, expected: usize) -> Result<(), GradientError> {
    if found == expected { Ok(()) } else { Err(GradientError::Length { what, found, expected }) }
}

#[cfg(test)]
impl Sequences {
    /// The same, with another choice of what is kept.
    pub(super) fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }
}
