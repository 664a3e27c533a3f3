//! Flags of `scan`: those of `estimate`, and what is varied.

use std::path::PathBuf;

use basin_volume_engine::error::Error;
use basin_volume_engine::scan::{Scan, ScanKind};
use basin_volume_engine::spread::ShardChoice;
use basin_volume_models::components::Kind;
use clap::{Args, ValueEnum};

use super::cost::same_words;
use super::{CostFlags, EstimatorChoice, EstimatorFlags, MachineFlags, RayFlags, ShowFlags};

/// What is varied from point to point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScanChoice {
    /// Nothing: the distribution of the log-volumes of rays. 1000 samples.
    Histogram,
    /// Nothing but the model: several of one shape beside each other, as `estimate A B` does.
    Models,
    /// The cutoff, 1e-6 to 1e2: also the slope of the log-volume, the learning coefficient.
    Cutoff,
    /// The step of the training: every checkpoint in the folder MODEL, or the revisions stepN of the hub.
    Checkpoints,
    /// The exponent of the preconditioner's map, 0 to 1.
    Exponent,
    /// The eps of the preconditioner's map, 1e-9 to 1.
    Epsilon,
    /// The standard deviation of the prior, a quarter to four times that of the model.
    Sigma,
    /// The number of rays, 10 to 1000: each the beginning of one run.
    Samples,
    /// Which part of the network moves: every head, layer or multilayer perceptron (--of), all of them together, and the whole model.
    Components,
}

same_words!(ScanChoice, ScanKind; Histogram, Models, Cutoff, Checkpoints, Exponent, Epsilon, Sigma, Samples, Components);
same_words!(PartChoice, Kind; Heads, Layers, Mlps);

/// Which parts a scan of components compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartChoice {
    /// Heads of the attention.
    Heads,
    /// Layers; blocks of a network of images.
    Layers,
    /// The multilayer perceptron of every layer.
    Mlps,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// What is varied.
    #[arg(value_name = "SCAN", value_enum)]
    pub kind: Option<ScanChoice>,
    /// The models, each as for `estimate`, with NAME= before it for a name of its own in tables and figures: `poisoned=runs/poisoned`.
    #[arg(value_name = "[NAME=]MODEL")]
    pub targets: Vec<String>,
    /// The values, increasing, separated by commas; of sigma also multiples of the model's own, such as 0.5x. [default: the grids of the
    /// paper; the steps that there are]
    #[arg(long, value_name = "VALUES", value_delimiter = ',')]
    pub grid: Vec<String>,
    /// The parts that a scan of components compares. [default: heads, or layers of a network without any]
    #[arg(long, value_enum)]
    pub of: Option<PartChoice>,
    /// Estimators, separated by commas or repeated. [default: radial]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub estimator: Vec<EstimatorChoice>,
    /// As for `estimate`; may be repeated. With `:shifted` behind it its Gaussian is shifted, as by --proposal shifted for all of them:
    /// `none,fisher,fisher:shifted`. [default: that of `estimate`; for exponent and epsilon none,adam2]
    #[arg(long, value_name = "none|adam1|adam2|CURVATURE|FILE", value_delimiter = ',')]
    pub preconditioner: Vec<String>,
    /// Compute only a share of the samples of all points, i of n (i from 0 to n-1), into a folder of its own; join the folders with `merge`. `auto`
    /// asks Slurm, torchrun or MPI which of how many tasks this is, and the last one joins them.
    #[arg(long, value_name = "i/n|auto")]
    pub shard: Option<ShardChoice>,
    /// Folder of the scan; the same command again continues it. [default: runs/scan-SCAN-HASH under the current folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Take the scan from a TOML file, whose keys are the names of these flags beside `scan` and `targets`; flags on the command line count more.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Write the scan as a TOML file to standard output, and compute nothing.
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub show: ShowFlags,
    #[command(flatten)]
    pub cost: CostFlags,
    #[command(flatten)]
    pub rays: RayFlags,
    #[command(flatten)]
    pub settings: EstimatorFlags,
    #[command(flatten)]
    pub machine: MachineFlags,
}

impl ScanArgs {
    /// What was typed, over what a file says.
    ///
    /// # Errors
    /// When a setting is not of the form NAME=VALUE.
    pub fn over(&self, file: Scan) -> Result<Scan, Error> {
        let mut scan = file;
        scan.scan = self.kind.map(Into::into).or(scan.scan);
        for (typed, to) in
            [(&self.targets, &mut scan.targets), (&self.grid, &mut scan.grid), (&self.preconditioner, &mut scan.preconditioner)]
        {
            if !typed.is_empty() {
                to.clone_from(typed);
            }
        }
        scan.of = self.of.map(Into::into).or(scan.of);
        if !self.estimator.is_empty() {
            scan.estimator = self.estimator.iter().map(|choice| choice.name()).collect();
        }
        scan.shard = self.shard.unwrap_or(scan.shard);
        if self.out.is_some() {
            scan.out.clone_from(&self.out);
        }
        self.cost.data.apply(&mut scan.data);
        self.cost.apply(&mut scan.cost);
        self.rays.apply(&mut scan.ask);
        self.settings.apply(&mut scan.ask)?;
        self.machine.apply(&mut scan.machine);
        Ok(scan)
    }
}
