//! What `train lm` was asked for.

use std::path::PathBuf;

use clap::Args;

/// Flags of `train lm`; the defaults are those of the library.
#[derive(Debug, Args)]
pub struct TrainLmArgs {
    /// Text to train on: a .txt, .jsonl, .csv or .parquet file, or a folder of those.
    #[arg(long, value_name = "FILE|DIR")]
    pub text: PathBuf,
    /// Field or column that holds the text (.txt has none).
    #[arg(long, value_name = "KEY", default_value = basin_volume_data::text::DEFAULT_TEXT_KEY)]
    pub text_key: String,
    /// Folder of the new checkpoint; must not exist yet.
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
