//! What was typed. Turning it into what it means is the commands' work.

mod train;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use basin_volume::run::shard::Shard;
use basin_volume::spec::Proposal;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

mod precondition;
mod problem;
mod scan;

pub use precondition::{CurvatureChoice, DampingChoice, PreconditionArgs};
pub use problem::{DataArgs, Device, ProblemArgs, given};

pub use scan::{Flag, ScanArgs, ScanKind, known_names};
pub use train::{TrainConvnextArgs, TrainLmArgs};

/// How much of weight space behaves like this network?
///
/// Given a trained network, data and a KL cutoff, estimates the log prior probability (the local volume) of the weights that behave the same.
#[derive(Debug, Parser)]
#[command(name = "basin-volume", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a network and save it as a checkpoint folder.
    Train {
        #[command(subcommand)]
        recipe: Recipe,
    },
    /// Make a data set.
    Data {
        #[command(subcommand)]
        set: DataSet,
    },
    /// Estimate the local volume of a trained network.
    Estimate(EstimateArgs),
    /// Estimate the volume at every point of a grid, of several models: a table and figures.
    Scan(Box<ScanArgs>),
    /// Evaluate the cost along one ray: a table and a figure.
    Profile(ProfileArgs),
    /// Compute the curvature of the cost at the trained weights and save it, for preconditioners.
    Precondition(PreconditionArgs),
    /// Join the shards of a run into a new run folder.
    Merge(MergeArgs),
    /// Show the result of a run folder again, and draw its figures again.
    Report(ReportArgs),
    /// Describe a model, and with --data what it would be measured on: parameters, prior scales, hashes.
    Inspect(InspectArgs),
    /// Write a language model's logits to a .safetensors file, to compare them with another program's.
    Logits(LogitsArgs),
}

#[derive(Debug, Subcommand)]
pub enum Recipe {
    /// The multilayer perceptron on scikit-learn's 8x8 digits.
    Digits(TrainDigitsArgs),
    /// A ConvNeXt V2 on CIFAR-10 or a set of the same form, with poisoned images on request.
    Convnext(TrainConvnextArgs),
    /// A small GPT-NeoX language model, with its own tokenizer, on any text.
    Lm(TrainLmArgs),
}

#[derive(Debug, Subcommand)]
pub enum DataSet {
    /// Textured shapes in ten classes, in the binary format of CIFAR-10.
    SyntheticCifar(SyntheticCifarArgs),
}

#[derive(Debug, Args)]
pub struct SyntheticCifarArgs {
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Images to train on.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub train: usize,
    /// Images to test on.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub test: usize,
    /// Seed of everything that is random about them.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct TrainDigitsArgs {
    /// Folder of the new checkpoint; must not exist yet.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Units of each hidden layer.
    #[arg(long, default_value_t = 512)]
    pub width: usize,
    /// Number of hidden layers.
    #[arg(long, default_value_t = 5)]
    pub depth: usize,
    /// The penalty l2/2 ||w||^2 is added to the loss.
    #[arg(long, default_value_t = 5e-4)]
    pub l2: f64,
    /// Passes over the training data.
    #[arg(long, default_value_t = 25)]
    pub epochs: usize,
    /// Training inputs per step.
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
    /// Learning rate of AdamW at the start; follows a cosine to zero.
    #[arg(long, default_value_t = 0.005)]
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay.
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Seed of the initial weights and the order of the batches.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Seed of the split into training and test data.
    #[arg(long, default_value_t = 0)]
    pub split_seed: u64,
    /// How many of the 1797 digits are for training.
    #[arg(long, default_value_t = basin_volume_data::digits::TRAIN_ROWS)]
    pub train_size: usize,
    /// Also save the checkpoints of steps 1, 2, 4, 8, ... as DIR/step-N.
    #[arg(long)]
    pub checkpoints: bool,
}

/// What decides a ray and its volume.
#[derive(Debug, Args)]
pub struct RayArgs {
    /// The cost (mean KL divergence, nats) at which behaviour counts as changed.
    #[arg(long, value_name = "EPS", default_value_t = 1e-2)]
    pub cutoff: f64,
    /// Add l2-reg/2 ||w - c||^2 to the cost.
    #[arg(long, value_name = "L", default_value_t = 0.0)]
    pub l2_reg: f64,
    /// Standard deviation of the Gaussian prior: a number, `rms` (root mean square of the moving weights) or `weight-decay`
    /// (1/sqrt(l2 x train size) of the checkpoint's own training). [default: weight-decay for `digits`, else rms]
    #[arg(long, value_name = "VALUE|rms|weight-decay")]
    pub sigma: Option<SigmaChoice>,
    /// The density that the volume is measured under.
    #[arg(long, value_enum, default_value_t = PriorKind::Gaussian)]
    pub prior: PriorKind,
    /// Power of the curvature s in the preconditioner 1/(|s|^exponent + eps), the map of Adam's moments and plain files. [default: 0.3 for
    /// `digits`, else 0.5]
    #[arg(long, value_name = "X", conflicts_with = "damping")]
    pub exponent: Option<f64>,
    /// eps in the preconditioner 1/(|s|^exponent + eps). [default: 2e-3 for `digits`, else 1e-5]
    #[arg(long, value_name = "Y", conflicts_with = "damping")]
    pub eps: Option<f64>,
    /// Precondition by (s + damping)^(-1/2) instead: a number added to the curvature; `auto`, which is 1/(beta sigma^2) with beta from the
    /// saddle point of the quadratic cost; or `match`, with the beta at which draws of the proposal have the cost of the cutoff (about
    /// thirty evaluations more; for networks and --proposal shifted). [default: auto for curvature files and computed curvatures]
    #[arg(long, value_name = "auto|match|VALUE")]
    pub damping: Option<DampingChoice>,
    /// Where the Gaussian lies that directions are drawn from: around the center, where only its shape matters, or shifted to the mean
    /// -Sigma c/sigma^2 of the prior tilted by the cost. Shifted needs --prior gaussian and a covariance Sigma: a damped curvature (Sigma =
    /// (beta F + 1/sigma^2)^-1), a file of moments, or `none`, which is the prior itself. [default: centered]
    #[arg(long, value_enum)]
    pub proposal: Option<ProposalChoice>,
    /// Seed of the random directions.
    #[arg(long, value_name = "K", default_value_t = 42)]
    pub seed: u64,
    /// Accepted error of one ray's log-volume due to its radius. [default: 1, or 1e-5 per parameter if that is less]
    #[arg(long, value_name = "NATS")]
    pub radius_tolerance: Option<f64>,
}

#[derive(Debug, Args)]
pub struct EstimateArgs {
    #[command(flatten)]
    pub problem: ProblemArgs,
    #[command(flatten)]
    pub rays: RayArgs,
    /// What is estimated, and how: rays from the center, the quadratic cost by its spectrum, annealed chains, or all of them in one table.
    #[arg(long, value_enum, default_value_t = EstimatorChoice::Radial)]
    pub estimator: EstimatorChoice,
    /// Another setting of the estimator, by its name in manifest.json, such as max_evaluations=40; may be repeated. With --estimator all the
    /// name says which estimator is meant: radial.max_evaluations=40.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Number of samples over all shards: rays per preconditioner, probes of the spectral estimator (draws where it takes the Gram matrix), sweeps
    /// of the annealed one. With --estimator all, rays. [default: 100 rays, 6 probes or 4 draws, 1 sweep]
    #[arg(long, value_name = "N")]
    pub samples: Option<u64>,
    /// `none`, `adam1`, `adam2` (the checkpoint's Adam moments), a curvature (`fisher`, `squared-gradient`, `hessian`, `kronecker`,
    /// `low-rank`, `learned`: computed with default settings and kept in the run folder), or a .safetensors file (of `precondition`; or `diagonal` [D],
    /// `matrix` [D, D], or one tensor per parameter; or a Gaussian of w - c: `variance` [D], `covariance` [D, D] or `precision` [D] or [D, D],
    /// and `mean` [D] for --proposal shifted); several separated by commas. [default: none,adam2 for `digits`, else none]
    #[arg(long, value_name = "none|adam1|adam2|CURVATURE|FILE", value_delimiter = ',')]
    pub preconditioner: Vec<String>,
    /// Worker threads. [default: all cores]
    #[arg(long, value_name = "T", value_parser = worker_threads)]
    pub threads: Option<NonZeroUsize>,
    /// Compute only the indices that are i modulo n (i from 0 to n-1); join the shards with `merge`.
    #[arg(long, value_name = "i/n", default_value = "0/1")]
    pub shard: Shard,
    /// Scan each ray at this many more points for earlier crossings and returns under the cutoff.
    #[arg(long, value_name = "POINTS", default_value_t = 0)]
    pub profile: u32,
    /// Record the cost of every sequence at the radius (`costs_by_part` in samples.jsonl), at the price of one more evaluation per ray.
    /// Language models only.
    #[arg(long)]
    pub per_sequence: bool,
    /// Also write the spectrum of the Fisher matrix, eigenvalues (nodes of a quadrature rule) with their weights, to a .json or .csv file.
    /// Spectral estimator only.
    #[arg(long, value_name = "FILE")]
    pub spectrum_out: Option<PathBuf>,
    /// What the annealed chains measure: the basin that they reach, or the star of weights that see the center along a straight line.
    /// [default: basin]
    #[arg(long, value_enum)]
    pub set_kind: Option<SetChoice>,
    /// Add a sweep of the ladder to a complete run of annealed chains.
    #[arg(long = "continue")]
    pub extend: bool,
    /// Run folder; the same command again continues it. [default: runs/MODEL-HASH under the current folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the result as JSON alone on standard output: an object, or an array for several preconditioners.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(flatten)]
    pub problem: ProblemArgs,
    #[command(flatten)]
    pub rays: RayArgs,
    /// Index of the direction (that of the sample in samples.jsonl).
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub index: u64,
    /// Number of points on the ray.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..))]
    pub points: u32,
    /// End of the ray, in units of its radius.
    #[arg(long, value_name = "X", default_value_t = 2.0)]
    pub extent: f64,
    /// `none`, `adam1`, `adam2`, a curvature or a .safetensors file, as for `estimate`.
    #[arg(long, value_name = "none|adam1|adam2|CURVATURE|FILE", default_value = "none")]
    pub preconditioner: String,
    /// Save the direction v, one tensor per parameter, as a .safetensors file.
    #[arg(long, value_name = "FILE")]
    pub save_direction: Option<PathBuf>,
    /// Folder for profile.json and the figure. [default: none written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Worker threads. [default: all cores]
    #[arg(long, value_name = "T", value_parser = worker_threads)]
    pub threads: Option<NonZeroUsize>,
    /// Print the table as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Run folders of the shards, folders of run folders (one per preconditioner) as `estimate` makes them, or folders of scans.
    #[arg(value_name = "DIR", required = true)]
    pub folders: Vec<PathBuf>,
    /// The new run folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the result as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A run folder, a folder of run folders (one per preconditioner), or the folder of a scan.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Also write a page that needs nothing but itself: settings and provenance, diagnostics in words, figures, tables that sort.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print the result as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub problem: ProblemArgs,
    /// Print JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("input").required(true).args(["tokens", "data"])))]
pub struct LogitsArgs {
    /// A language model: a checkpoint folder, a .gguf file, or a model of the hub, owner/name or owner/name@revision.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Token ids, [[1, 2, 3], [4, 5]]: a sequence each.
    #[arg(long, value_name = "FILE.json")]
    pub tokens: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    /// The file to write: per sequence i `logits.i`, F32 [tokens, vocabulary], and `tokens.i`, I64. An existing file is replaced.
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EstimatorChoice {
    /// Rays from the center: the star-shaped neighbourhood.
    Radial,
    /// The ellipsoid of the quadratic cost, by the spectrum of the Fisher matrix: a guide.
    Spectral,
    /// Annealed chains: the basin, or the star.
    Annealed,
    /// Every estimator, each in its own folder, and a table of all.
    All,
}

impl EstimatorChoice {
    /// The name of the estimator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Radial => "radial",
            Self::Spectral => "spectral",
            Self::Annealed => "annealed",
            Self::All => "all",
        }
    }
}

/// Which set of weights annealed chains measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SetChoice {
    /// The weights under the cutoff that chains from the center reach.
    Basin,
    /// The weights whose straight line to the center stays under the cutoff.
    Star,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PriorKind {
    /// N(0, sigma^2 I).
    Gaussian,
    /// Flat: the result is the log of a volume, not of a probability.
    Lebesgue,
    /// Uniform on the sphere ||w|| = ||c||.
    Sphere,
}

/// Where the Gaussian of the directions lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProposalChoice {
    /// Around the center.
    #[value(alias = "centred")]
    Centered,
    /// Around the mean of the tilted prior, or that of the file.
    Shifted,
}

impl From<ProposalChoice> for Proposal {
    fn from(choice: ProposalChoice) -> Self {
        match choice {
            ProposalChoice::Centered => Self::Centered,
            ProposalChoice::Shifted => Self::Shifted,
        }
    }
}

/// How sigma is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SigmaChoice {
    Value(f64),
    Rms,
    WeightDecay,
}

/// More threads than any machine has a use for here.
const MOST_THREADS: usize = 4096;

/// A number of worker threads.
fn worker_threads(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(threads) if threads.get() <= MOST_THREADS => Ok(threads),
        _ => Err(format!("expected a number from 1 to {MOST_THREADS}")),
    }
}

impl RayArgs {
    /// The flags given that say how curvatures become maps.
    pub fn map_flags(&self) -> Vec<&'static str> {
        given(&[("--exponent", self.exponent.is_some()), ("--eps", self.eps.is_some()), ("--damping", self.damping.is_some())])
    }
}

impl FromStr for SigmaChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rms" => Ok(Self::Rms),
            "weight-decay" => Ok(Self::WeightDecay),
            _ => match text.parse::<f64>() {
                Ok(value) if value > 0.0 && value.is_finite() => Ok(Self::Value(value)),
                _ => Err("expected a number > 0, `rms` or `weight-decay`".to_owned()),
            },
        }
    }
}
