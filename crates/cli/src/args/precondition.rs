//! Flags of `precondition`, and those that say what a curvature is and how it becomes a map.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use basin_volume_models::curvature::kinds;
use clap::{Args, ValueEnum};

use super::{ProblemArgs, SigmaChoice, worker_threads};

/// Flags of `precondition`.
#[derive(Debug, Args)]
pub struct PreconditionArgs {
    #[command(flatten)]
    pub problem: ProblemArgs,
    /// What to compute.
    #[arg(long, value_enum)]
    pub kind: CurvatureChoice,
    /// The .safetensors file to write; an existing file is replaced.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Draws of labels per position, or probes of the Hessian's diagonal. [default: 1; 32 for hessian]
    #[arg(long, value_name = "N")]
    pub probes: Option<NonZeroUsize>,
    /// Number of eigenvectors of low-rank. [default: 16, or as many as there are weights]
    #[arg(long, value_name = "K")]
    pub rank: Option<NonZeroUsize>,
    /// Steps of learned: a radius search and a gradient each. [default: 200]
    #[arg(long, value_name = "N")]
    pub steps: Option<NonZeroUsize>,
    /// The cutoff that learned is for, in nats. [default: 0.01]
    #[arg(long, value_name = "EPS")]
    pub cutoff: Option<f64>,
    /// The Gaussian prior's standard deviation that learned is for, as for `estimate`.
    #[arg(long, value_name = "VALUE|rms|weight-decay")]
    pub sigma: Option<SigmaChoice>,
    /// Seed of labels, probes, the first vector and the rays of learned.
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// Worker threads. [default: all cores]
    #[arg(long, value_name = "T", value_parser = worker_threads)]
    pub threads: Option<NonZeroUsize>,
    /// Print a summary as JSON alone on standard output.
    #[arg(long)]
    pub json: bool,
}

/// A curvature that can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CurvatureChoice {
    /// Diagonal of the Fisher matrix, labels drawn from the model.
    #[value(alias = "fisher-diagonal")]
    Fisher,
    /// Mean squared gradient of the loss on the labels of the data.
    SquaredGradient,
    /// Diagonal of the Hessian of the cost, by random probes.
    #[value(alias = "hessian-diagonal")]
    Hessian,
    /// Kronecker factors per linear layer (K-FAC).
    Kronecker,
    /// Leading eigenvectors and a diagonal for the rest.
    LowRank,
    /// A diagonal map learned for the mean log-volume of the rays, from the Fisher diagonal on.
    Learned,
}

impl CurvatureChoice {
    /// The names on the command line.
    pub fn names() -> Vec<String> {
        Self::value_variants().iter().map(|choice| choice.name()).collect()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is called in files.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Fisher => kinds::FISHER_DIAGONAL,
            Self::SquaredGradient => kinds::SQUARED_GRADIENT,
            Self::Hessian => kinds::HESSIAN_DIAGONAL,
            Self::Kronecker => kinds::KRONECKER,
            Self::LowRank => kinds::LOW_RANK,
            Self::Learned => kinds::LEARNED,
        }
    }
}

/// How much is added to the curvature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DampingChoice {
    Auto,
    Match,
    Value(f64),
}

impl FromStr for DampingChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "match" => return Ok(Self::Match),
            _ => {}
        }
        match text.parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(Self::Value(value)),
            _ => Err("expected a finite number > 0, `auto` or `match`".to_owned()),
        }
    }
}
