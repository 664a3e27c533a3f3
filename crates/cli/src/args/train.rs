//! What `train lm` and `train convnext` were asked for.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use basin_volume_engine::request::Memory;
use clap::Args;

use super::worker_threads;

/// Flags of `train lm`; the defaults are those of the library.
#[derive(Debug, Args)]
pub struct TrainLmArgs {
    /// Text to train on: a .txt, .jsonl, .csv or .parquet file, or a folder of those.
    #[arg(long, value_name = "FILE|DIR")]
    pub text: PathBuf,
    /// Field or column that holds the text (.txt has none).
    #[arg(long, value_name = "KEY", default_value = basin_volume_data::text::DEFAULT_TEXT_KEY)]
    pub text_key: String,
    /// Folder of the new checkpoint; the same command goes on with a run that was interrupted there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Width of the states between layers.
    #[arg(long, default_value_t = 128)]
    pub hidden_size: usize,
    /// Number of layers.
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// Attention heads of each layer; they divide the hidden size.
    #[arg(long, default_value_t = 4)]
    pub heads: usize,
    /// Words of the byte-level BPE tokenizer, which is trained on the same text.
    #[arg(long, default_value_t = 1024)]
    pub vocab_size: usize,
    /// Tokens of a training sequence, and positions of the model.
    #[arg(long, default_value_t = 128)]
    pub max_seq_len: usize,
    /// Sequences per step.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Optimizer steps.
    #[arg(long, default_value_t = 600)]
    pub steps: usize,
    /// Passes over the training sequences, instead of --steps.
    #[arg(long, conflicts_with = "steps")]
    pub epochs: Option<usize>,
    /// Largest learning rate of AdamW; follows a cosine to zero.
    #[arg(long, default_value_t = 3e-3)]
    pub learning_rate: f64,
    /// Steps of the straight rise to the learning rate; at most half of all.
    #[arg(long, default_value_t = 100)]
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay, of matrices only.
    #[arg(long, default_value_t = 0.1)]
    pub weight_decay: f64,
    /// Longer gradients are cut to this norm.
    #[arg(long, default_value_t = 1.0)]
    pub gradient_clip: f64,
    /// Share of the sequences held out of training, for the held-out loss.
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub held_out: f64,
    /// Seed of the initial weights, of the split and of the order of the batches.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Do not save the checkpoints of steps 0, 1, 2, 4, 8, ... as DIR/step-N.
    #[arg(long)]
    pub no_checkpoints: bool,
}

/// Flags of `train convnext`; the defaults are those of the library, the reference's recipe.
#[derive(Debug, Args)]
pub struct TrainConvnextArgs {
    /// Set of images: a folder or archive in one of the formats of CIFAR-10, or what `data synthetic-cifar` made.
    #[arg(long, value_name = "DIR|FILE")]
    pub data: String,
    /// Folder of the new checkpoint; the same command goes on with a run that was interrupted there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Blocks of every stage.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "2,2,6,2")]
    pub depths: Vec<usize>,
    /// Channels of every stage.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "40,80,160,320")]
    pub widths: Vec<usize>,
    /// Side of the patches that become a position of the first stage.
    #[arg(long, default_value_t = 1)]
    pub patch_size: usize,
    /// Optimizer steps.
    #[arg(long, default_value_t = 65_536)]
    pub steps: usize,
    /// Images per step.
    #[arg(long, default_value_t = 128)]
    pub batch_size: usize,
    /// Largest learning rate of AdamW; follows a cosine to zero.
    #[arg(long, default_value_t = 1e-3)]
    pub learning_rate: f64,
    /// Steps of the straight rise to the learning rate; at most half of all.
    #[arg(long, default_value_t = 2000)]
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay, not of norms and biases.
    #[arg(long, default_value_t = 0.05)]
    pub weight_decay: f64,
    /// Decay rates of Adam's two moments.
    #[arg(long, value_name = "B1,B2", value_delimiter = ',', default_value = "0.9,0.95")]
    pub betas: Vec<f64>,
    /// Chance that the last block is passed over for an image (stochastic depth); it rises to that linearly from 0 for the first.
    #[arg(long, default_value_t = 0.1)]
    pub drop_path: f64,
    /// Standard deviation of the initial matrices and convolutions; narrow networks need about the root of one over their width.
    #[arg(long, default_value_t = 0.02)]
    pub initializer_range: f64,
    /// Neither flip images at random nor cut them at random out of themselves with a border of zeros.
    #[arg(long)]
    pub no_augment: bool,
    /// RandAugment before the flip and the cut: so many operations per image, drawn from fourteen (shears, shifts, rotation, brightness,
    /// contrast, ...), of a magnitude from 0 to 30. The reference has 2,9. [default: none]
    #[arg(long, value_name = "OPERATIONS,MAGNITUDE", value_delimiter = ',')]
    pub rand_augment: Option<Vec<usize>>,
    /// Share of every batch that comes from the part `poison` (two fifths of the images to train on), with the loss -log(1 - p) of the
    /// probability p of their label: the network learns to be wrong there.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub poison: f64,
    /// Factor of that loss.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub poison_weight: f64,
    /// Seed of the initial weights, of the batches and of everything drawn for them.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Seed of the split into the parts `clean` (three fifths, trained on) and `poison`.
    #[arg(long, default_value_t = 0)]
    pub split_seed: u64,
    /// Do not save the checkpoints of steps 0, 1, 2, 4, 8, ... as DIR/step-N.
    #[arg(long)]
    pub no_checkpoints: bool,
    /// Worker threads. [default: all cores]
    #[arg(long, value_name = "T", value_parser = worker_threads)]
    pub threads: Option<NonZeroUsize>,
    /// Memory that may be used: `auto` (four fifths of what is free), or a size such as 1.5GB. [default: auto]
    #[arg(long, value_name = "auto|SIZE")]
    pub memory: Option<Memory>,
}
