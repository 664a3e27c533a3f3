//! What was typed. Turning it into what it means is the commands' work.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use basin_volume_engine::error::Error;
use basin_volume_engine::request::{Ask, Estimate, TimeLimit, default_estimator, default_time_limit};
use basin_volume_engine::scan::Scan;
use basin_volume_engine::spread::ShardChoice;
use basin_volume_report::Detail;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

mod ask;
mod cost;
mod precondition;
mod scan;
mod train;

pub use ask::{EstimatorFlags, MachineFlags, RayFlags};
pub use cost::{CostFlags, DataFlags};
pub use precondition::PreconditionArgs;
pub use scan::ScanArgs;
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
    Estimate(Box<EstimateArgs>),
    /// Estimate the volume at every point of a grid, of several models: a table and figures.
    Scan(Box<ScanArgs>),
    /// Evaluate the cost along one ray: a table and a figure.
    Profile(Box<ProfileArgs>),
    /// Compute the curvature of the cost at the trained weights and save it, for preconditioners.
    Precondition(Box<PreconditionArgs>),
    /// Join the shards of a run into a new run folder.
    Merge(MergeArgs),
    /// Show the result of a run folder again, and draw its figures again.
    Report(ReportArgs),
    /// Describe a model, and with --data what it would be measured on: parameters, prior scales, hashes.
    Inspect(Box<InspectArgs>),
    /// Write a language model's logits to a .safetensors file, to compare them with another program's.
    Logits(LogitsArgs),
}

impl Command {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Train { .. } => "train",
            Self::Data { .. } => "data",
            Self::Estimate(_) => "estimate",
            Self::Scan(_) => "scan",
            Self::Profile(_) => "profile",
            Self::Precondition(_) => "precondition",
            Self::Merge(_) => "merge",
            Self::Report(_) => "report",
            Self::Inspect(_) => "inspect",
            Self::Logits(_) => "logits",
        }
    }
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
    /// The tasks whose data sets can be asked for by name, with `--data NAME`.
    List,
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

/// What is shown below the flags of `estimate`.
const EXAMPLES: &str = "Examples:
  basin-volume estimate digits
      the small network that comes with the program: every number within a minute
  basin-volume estimate EleutherAI/pythia-14m --data val.jsonl --preconditioner none,fisher
      rays: comparable between models with the same prior, a bound by themselves
  basin-volume estimate DIR --data DATA --estimator annealed --set-kind star
      the paper's local volume itself, by chains, for small networks";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EstimateArgs {
    /// `digits` or `digits-mlp` (trained on first use), a checkpoint folder, a .gguf file, or a model of the Hugging Face hub: owner/name or
    /// owner/name@revision. Several of one shape are compared: along the same directions, under one prior, with the differences from the first; NAME=
    /// before one is its name in tables.
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
    #[command(flatten)]
    pub cost: CostFlags,
    #[command(flatten)]
    pub rays: RayFlags,
    /// What is estimated, and how: rays from the center, the quadratic cost by its spectrum, annealed chains, or all of
    /// these in one table; or the local learning coefficient, which is no volume.
    /// [default: radial, and all for `digits`]
    #[arg(long, value_enum)]
    pub estimator: Option<EstimatorChoice>,
    /// With --estimator all: leave out what is likely to take longer than this, such as 90s, 30min or 2h. [default: 1h, and 1min for `digits`]
    /// With one estimator: stop after this, as Ctrl-C does; the same command goes on. [default: never]
    #[arg(long, value_name = "TIME")]
    pub time_limit: Option<TimeLimit>,
    #[command(flatten)]
    pub settings: EstimatorFlags,
    /// `none`, `adam1`, `adam2` (the checkpoint's Adam moments), a curvature (`fisher`, `squared-gradient`, `hessian`, `kronecker`,
    /// `low-rank`, `learned`: computed with default settings and kept in the run folder), or a .safetensors file (of `precondition`; or `diagonal` [D],
    /// `matrix` [D, D], or one tensor per parameter; or a Gaussian of w - c: `variance` [D], `covariance` [D, D] or `precision` [D] or [D, D],
    /// and `mean` [D] for --proposal shifted); several separated by commas. [default: none; with adam2 for `digits` and `digits-mlp`, and with cheap curvatures for --estimator all]
    #[arg(long, value_name = "none|adam1|adam2|CURVATURE|FILE", value_delimiter = ',', help_heading = ask::RAYS)]
    pub preconditioner: Vec<String>,
    /// Move the Gaussian prior's mean to the weights of this model of the same shape, such as the one that MODEL was fine-tuned from: its description
    /// length is then that of the fine-tuning, and --sigma rms that of the difference.
    #[arg(long, value_name = "BASE", alias = "center", help_heading = ask::QUESTION)]
    pub prior_mean: Option<String>,
    /// With several --data: look at all of them inside the set of these data, for the dependence given what the network is anyway.
    #[arg(long, value_name = "DATA", help_heading = ask::RAYS)]
    pub reference: Option<String>,
    /// The cost on --reference counts so many times, so that its set is larger than those inside it. [default: 0.8]
    #[arg(long, value_name = "X", help_heading = ask::RAYS)]
    pub reference_scale: Option<f64>,
    #[command(flatten)]
    pub machine: MachineFlags,
    /// Compute only the indices that are i modulo n (i from 0 to n-1); join the shards with `merge`. `auto` asks Slurm, torchrun or MPI which of
    /// how many tasks this is: each computes its part in DIR/shards of --out, and the last one joins them in DIR.
    #[arg(long, value_name = "i/n|auto", default_value = "0/1")]
    pub shard: ShardChoice,
    /// Scan each ray at this many more points for earlier crossings and returns under the cutoff.
    #[arg(long, value_name = "POINTS", help_heading = ask::RAYS)]
    pub profile: Option<u32>,
    /// Also write the spectrum of the Fisher matrix, eigenvalues (nodes of a quadrature rule) with their weights, to a .json or .csv file.
    /// Spectral estimator only.
    #[arg(long, value_name = "FILE", help_heading = ask::SPECTRUM)]
    pub spectrum_out: Option<PathBuf>,
    /// Add a sweep of the ladder to a complete run of annealed chains, or a round to one of a learning coefficient.
    #[arg(long = "continue", help_heading = ask::CHAINS)]
    pub extend: bool,
    /// Run folder; the same command again continues it. [default: runs/MODEL-HASH under the current folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub show: ShowFlags,
}

impl EstimateArgs {
    /// The model, the first of several.
    pub fn model(&self) -> &str {
        self.models.first().map_or("", String::as_str)
    }

    /// Several models as a scan, which varies nothing else.
    ///
    /// # Errors
    /// For what is about a single run.
    pub fn comparison(&self) -> Result<Scan, Error> {
        let estimate = Estimate { time_limit: self.time_limit, ..self.request()? };
        Scan::of_models(&self.models, estimate, self.estimator.map(EstimatorChoice::name), self.cost.request())
    }

    /// What was typed, as plain data.
    ///
    /// # Errors
    /// When a setting is not of the form NAME=VALUE.
    pub fn request(&self) -> Result<Estimate, Error> {
        let mut ask = Ask { profile: self.profile, ..Ask::default() };
        self.rays.apply(&mut ask);
        self.settings.apply(&mut ask)?;
        Ok(Estimate {
            ask,
            prior_mean: self.prior_mean.clone(),
            reference: self.reference.clone(),
            reference_scale: self.reference_scale,
            estimator: self.estimator.map_or_else(|| default_estimator(self.model()).to_owned(), EstimatorChoice::name),
            time_limit: Some(self.time_limit.unwrap_or_else(|| default_time_limit(self.model()))),
            preconditioner: self.preconditioner.clone(),
            spectrum_out: self.spectrum_out.clone(),
            extend: self.extend,
            shard: self.shard,
            out: self.out.clone(),
            machine: self.machine.machine(),
        })
    }
}

/// How a result is shown.
#[derive(Debug, Args)]
pub struct ShowFlags {
    /// Show every table and every reason, not only the numbers and what they mean.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print the result as JSON alone on standard output: an object, or an array for several runs.
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
}

impl ShowFlags {
    /// How much is shown as text.
    pub fn detail(&self) -> Detail {
        if self.verbose { Detail::Full } else { Detail::Short }
    }
}

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// As for `estimate`.
    #[arg(value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub cost: CostFlags,
    #[command(flatten)]
    pub rays: RayFlags,
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
    #[command(flatten)]
    pub machine: MachineFlags,
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
    #[command(flatten)]
    pub show: ShowFlags,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A run folder, a folder of run folders (one per preconditioner), or the folder of a scan.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Also write a page that needs nothing but itself: settings and provenance, diagnostics in words, figures, tables that sort.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub show: ShowFlags,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// As for `estimate`.
    #[arg(value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub cost: CostFlags,
    #[command(flatten)]
    pub machine: MachineFlags,
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
    pub data: DataFlags,
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
    /// The local learning coefficient, by chains at one temperature: no volume.
    Llc,
    /// Every estimator of a volume, each in its own folder, and a table of all.
    All,
}

impl EstimatorChoice {
    /// The name of the estimator.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
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
